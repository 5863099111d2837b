"""Hooks that compute a parameter before a module's forward: of torch.nn.utils.weight_norm, spectral_norm and prune.

PyTorch runs them where a module is called.  A network's methods besides forward are not, nor are its parts, whose
parameters it reads: there the network runs them.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class Part(nn.Module):
    """A part of a network, which reads its parameters without calling it.

    Attributes:
        any_has_hooks: whether any part in the process has had hooks: only then do networks look for them.
    """

    any_has_hooks: ClassVar[bool] = False

    def register_forward_pre_hook(self, *arguments: Any, **options: Any) -> Any:
        """Register a hook as `torch.nn.Module` does."""
        Part.any_has_hooks = True
        return super().register_forward_pre_hook(*arguments, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        Part.any_has_hooks |= bool(self._forward_pre_hooks)


def compute_parameters(module: nn.Module) -> None:
    """Run the hooks that compute parameters, which are those that can be removed from a module again."""
    for hook in tuple(module._forward_pre_hooks.values()):
        if hasattr(hook, "remove"):
            hook(module, ())


def compute_parameters_of_parts(network: nn.Module) -> None:
    """Run such hooks of all modules in a network."""
    for part in network.modules():
        if part is not network and part._forward_pre_hooks:
            compute_parameters(part)
