"""Which modules have the structure of a gradient network, and what each of them may turn into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import functional
from ..errors import check_choice, message
from ..nn import GradNet, GradNetC, GradNetM, mGradNetC, mGradNetM
from ..nn.activation import WEIGHTED_SOFTMAX, WEIGHTED_TANH

Arguments = Callable[[nn.Module], dict[str, Any]]
OPERATORS = tuple(name for name in functional.__all__ if f"{name}_jvp" in functional.__all__)


@dataclass(frozen=True)
class Form:
    """What a module becomes: the class and the attributes of it, and of the modules in it by their names.

    in_dim: d of the whole network.
    """

    in_dim: int
    cls: type[nn.Module]
    attributes: Mapping[str, Any]
    parts: Mapping[str, Form] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The class's name, with what tells two forms of one class apart."""
        reuses = self.attributes.get("reuse_penultimate_activation", False)
        return f"{self.cls.__name__}(reuse_penultimate_activation=True)" if reuses else self.cls.__name__


class Adapted(GradNet):
    """A user's own module, run by an operator with the arguments that its adapter says."""

    adapter: Arguments

    def _operator_arguments(self) -> dict[str, Any]:
        return self.adapter(self)


@dataclass(frozen=True)
class Adapter:
    """An operator's name, its arguments as a function of a module, and whether its potential is convex."""

    operator: str
    arguments: Arguments
    monotone: bool


_ADAPTERS: dict[type[nn.Module], Adapter] = {}


def register_adapter(cls: type[nn.Module], operator: str, arguments: Arguments, *, monotone: bool = False) -> None:
    """Has `accelerate` run modules of a class by an operator of `gradnets_fast.functional`.

    Args:
        cls: the class; subclasses are not meant, for their forward may differ.
        operator: "ridge", "softmax_modules" or "transformed_modules".
        arguments: module -> the operator's arguments besides x.  A function of a file, if the model is to be pickled.
        monotone: whether the potential is convex for every value of the parameters.

    Raises:
        TypeError, ValueError: cls is no class of modules, or the operator is not one of these.

    >>> import torch
    >>> class Layer(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.W, self.b = torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(5))
    ...     def forward(self, x):
    ...         return torch.tanh(x @ self.W.T + self.b) @ self.W
    >>> register_adapter(Layer, "ridge", lambda m: dict(W=m.W, scale=None, shift=m.b, coef=None, basis="tanh"))
    >>> from gradnets_fast import accelerate
    >>> len(accelerate(torch.nn.Sequential(Layer(), Layer())).swapped)
    2
    """
    where = "register_adapter"
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(message(where, "cls", "a class of torch.nn.Module", repr(cls), "pass the class, not a module"))
    check_choice(where, "operator", operator, OPERATORS)
    _ADAPTERS[cls] = Adapter(operator, arguments, monotone)


def forms(module: nn.Module) -> list[Form | str] | None:
    """What a module may be turned into, the likeliest first, or why not; None if it has no such structure."""
    adapter = _ADAPTERS.get(type(module))
    if adapter is not None:
        return list(_adapted(module, adapter))
    if _has(module, "W", "bias", "beta", "alpha", "nonlinearity"):
        return list(_cascades(module))
    if _has(module, "mmgn_modules", "alpha", "bias"):
        return list(_modular(module))
    return None


def _adapted(module: nn.Module, adapter: Adapter) -> Iterator[Form]:
    attributes = {"operator_name": adapter.operator, "adapter": adapter.arguments, "monotone": adapter.monotone}
    yield Form(adapter.arguments(module)["W"].shape[-1], Adapted, attributes | {"linear": None})


def _has(module: nn.Module, *names: str) -> bool:
    own = module._parameters.keys() | module._modules.keys()
    return not isinstance(module, GradNet) and own.issuperset(names)


def _cascades(module: Any) -> Iterator[Form | str]:
    h, d = module.W.shape
    layers = len(module.nonlinearity)
    activation = _activation(module.nonlinearity[0], WEIGHTED_TANH)
    for cls in _likeliest_first(module, mGradNetC, GradNetC):
        # The authors' GradNet_C ends with the last activation but one.
        for reuse in (False, True)[: 1 if cls is mGradNetC or layers < 2 else 2]:
            yield _form(module, cls, layers, d, h, activation, reuse_penultimate_activation=reuse)


def _modular(module: Any) -> Iterator[Form | str]:
    modules = module.mmgn_modules
    h, d = modules[0].W.shape
    activation = _activation(modules[0].act, WEIGHTED_SOFTMAX)
    for cls in _likeliest_first(module, mGradNetM, GradNetM):
        yield _form(module, cls, len(modules), d, h, activation)


def _likeliest_first(module: nn.Module, monotone: type[GradNet], other: type[GradNet]) -> tuple[type[GradNet], ...]:
    return (monotone, other) if type(module).__name__.lower().startswith("m") else (other, monotone)


def _activation(module: nn.Module, weighted: str) -> Any:
    """What our constructors take for an activation: the learnable ones have weights a and b."""
    return weighted if set(module._parameters) == {"a", "b"} else module


def _form(module: nn.Module, cls: type[GradNet], *sizes: Any, **settings: Any) -> Form | str:
    """The form of a network of ours, if its parameters have the module's names and shapes."""
    try:
        ours = cls(*sizes, **settings, device="meta")
    except (TypeError, ValueError) as error:
        return str(error)  # such as a falling activation, which a monotone network cannot have
    if _shapes(ours) != _shapes(module):
        different = sorted(name for name, _ in _shapes(ours).items() ^ _shapes(module).items())
        return f"{cls.__name__} has other parameters: {', '.join(dict.fromkeys(different))}"
    return _form_of(ours, module, sizes[1])


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _form_of(ours: nn.Module, theirs: nn.Module, in_dim: int) -> Form:
    own = {name: value for name, value in vars(ours).items() if name not in vars(_PLAIN)}
    parts = {name: _form_of(part, theirs.get_submodule(name), in_dim) for name, part in ours.named_children()}
    return Form(in_dim, type(ours), own, parts)


_PLAIN = nn.Module()
