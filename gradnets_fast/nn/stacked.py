"""The parameters of a network's modules: one tensor for all modules in memory, one for each module in a state_dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import index as as_index
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import message
from ..functional import PLAIN_TYPES
from ..functional._ranks import is_distributed
from .base import init_uniform
from .hooks import Part

NAMES = ("beta", "W", "b", "act.a", "act.b")
"""A module's parameters in the authors' code, in their order."""


def attribute_of(name: str) -> str:
    """The attribute of `StackedModules` with all modules' parameter of this name.

    >>> attribute_of("W"), attribute_of("act.a")
    ('W', 'act_a')
    """
    return name.replace(".", "_")


class StackedModules(Part):
    """The parameters of M modules: W (M, h, d), b (M, h), and of softmax modules beta (M, 1), act_a and act_b (M,).

    A state_dict has them by the names and shapes of the authors' code, "0.W" (h, d), "0.act.a" (), …, as views of the
    parameters; `load_state_dict` takes these names, and the attributes' too.  What a parametrization, a hook or pruning
    has put in a parameter's place keeps its own name.  A distributed parameter is gathered for the state_dict.

    `modules[i]` has module i's parameters as views, so that in-place changes reach the network.

    >>> modules = StackedModules(2, 3, 5)
    >>> list(modules.state_dict())
    ['0.W', '0.b', '1.W', '1.b']
    >>> with torch.no_grad():
    ...     _ = modules[1].b.fill_(7.0)
    >>> modules.b[1].tolist()
    [7.0, 7.0, 7.0, 7.0, 7.0]
    """

    def __init__(
        self, count: int, in_dim: int, embed_dim: int, *, softmax: bool = False, weighted: bool = False, **factory: Any
    ) -> None:
        super().__init__()
        self.count = count
        shapes: dict[str, tuple[int, ...]] = {"beta": (1,)} if softmax else {}
        shapes |= {"W": (embed_dim, in_dim), "b": (embed_dim,)}
        shapes |= {"act_a": (), "act_b": ()} if weighted else {}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(count, *shape, **factory)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as `reset_modules` does."""
        reset_modules(self)

    @property
    def act(self) -> Weights:
        """The learned weights of all modules, (M,)."""
        return Weights(self.act_a, self.act_b)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ModuleView]:
        return (ModuleView(self, i) for i in range(self.count))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [ModuleView(self, i) for i in range(self.count)[index]]
        return ModuleView(self, range(self.count)[as_index(index)])

    def __getattr__(self, name: str) -> Any:
        # torch.distributed.checkpoint follows the path that a name in a state_dict is.
        if name.isdecimal() and int(name) < self.count:
            return self[int(name)]
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        own: dict[str, Any] = {}
        super()._save_to_state_dict(own, "", keep_vars)
        stacked = {name: _gathered(own.pop(attribute_of(name))) for name in NAMES if attribute_of(name) in own}
        for i in range(self.count):
            for name, tensor in stacked.items():
                destination[f"{prefix}{i}.{name}"] = _part(tensor, i)
        destination.update({prefix + name: value for name, value in own.items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        parts_of: dict[str, list[str]] = {}
        for name in NAMES:
            parameter, key = self._parameters.get(attribute_of(name)), prefix + attribute_of(name)
            if parameter is None:
                continue
            parts_of[key] = [f"{prefix}{i}.{name}" for i in range(self.count)]
            given = {part: state_dict.pop(part) for part in parts_of[key] if part in state_dict}
            if not given:
                continue
            missing_keys += [part for part in parts_of[key] if part not in given]
            copies = not (local_metadata.get("assign_to_params_buffers") or parameter.is_meta)
            faults = _faults(given, parameter, key, copies)
            error_msgs += faults
            state_dict[key] = parameter if faults else _stacked([given.get(part) for part in parts_of[key]], parameter)
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        missing_keys[:] = [part for key in missing_keys for part in parts_of.get(key, [key])]

    def extra_repr(self) -> str:
        return str(self.count)


class Weights(NamedTuple):
    """The learned weights of softmax(z) and softmax(−z)."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class ModuleView:
    """A module's parameters by their names in the authors' code: W, b, beta, act.a and act.b, as far as it has them."""

    modules: StackedModules
    index: int

    def __getattr__(self, name: str) -> Any:
        if name == "act" and hasattr(self.modules, "act_a"):
            return Weights(*(weight[self.index] for weight in self.modules.act))
        if name in NAMES and hasattr(self.modules, name):
            return getattr(self.modules, name)[self.index]
        expected = "beta, W, b or act, of those that the network has"
        fix = "a module is a view of the network's mmgn_modules: ask that"
        raise AttributeError(message("mmgn_modules[i]", "attribute", expected, name, fix))


def reset_modules(modules: Any) -> None:
    """Draws W and b uniformly from (−k, k), k = sqrt(1/in_dim), beta from [0, 1), and sets the weights to ½.

    Module after module, be they views or modules with parameters of their own.
    """
    if isinstance(modules, StackedModules) and type(modules.W) not in PLAIN_TYPES:
        modules = [modules]  # what indexing makes of a distributed tensor may be a copy
    for module in modules:
        in_dim = module.W.shape[-1]
        init_uniform(module.W, in_dim)
        init_uniform(module.b, in_dim)
        if hasattr(module, "beta"):
            nn.init.uniform_(module.beta)
        if hasattr(module, "act") and hasattr(module.act, "a"):
            nn.init.constant_(module.act.a, 0.5)
            nn.init.constant_(module.act.b, 0.5)


def _gathered(tensor: Any) -> Any:
    """A distributed tensor whole on each rank, still as a distributed one; others as they are."""
    if not is_distributed(tensor):
        return tensor
    from torch.distributed.tensor import Replicate

    return tensor.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim)


def _part(tensor: Tensor, i: int) -> Tensor:
    """tensor[i] in the same memory, as a storage of its own where that can be, for safetensors refuses parts of one."""
    part = tensor[i]
    is_plain = type(part) is Tensor and not part.requires_grad and part.device.type in ("cpu", "cuda")
    return torch.from_dlpack(part) if is_plain else part  # type: ignore[attr-defined]


def _faults(given: dict[str, Any], parameter: Tensor, key: str, copies: bool) -> list[str]:
    """What is wrong with modules' parts of a parameter, in words; copies: whether they are to be copied into memory."""
    where, shape = "load_state_dict", tuple(parameter.shape[1:])
    found = []
    for name, part in given.items():
        got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
        if not isinstance(part, Tensor) or part.shape != shape:
            fix = "make the network with the sizes of the checkpoint"
            found.append(message(where, name, f"a tensor of shape {shape}", got, fix))
    if len(given) < len(parameter) and (not copies or is_distributed(parameter)):
        fix = "load a part of them by copying, without assign=True, into a network in memory"
        found.append(message(where, key, f"all {len(parameter)} modules' parts", f"{len(given)} of them", fix))
    return found


def _stacked(parts: list[Tensor | None], parameter: Any) -> Any:
    """The modules' parts, and the parameter's own where there is none, in one tensor, distributed as the parameter."""
    device = next(part.device for part in parts if part is not None)
    own = parameter.detach()
    stacked: Any = torch.stack([own[i].to(device) if part is None else part.detach() for i, part in enumerate(parts)])
    if not is_distributed(parameter):
        return stacked
    if not is_distributed(stacked):
        from torch.distributed.tensor import DTensor

        mesh = parameter.device_mesh
        stacked = DTensor.from_local(stacked.to(mesh.device_type), mesh, run_check=False)
    return stacked.redistribute(placements=parameter.placements)
