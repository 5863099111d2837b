"""Modules with the structure of a gradient network, and the forms that each of them may take.

`in_place.py` tries the forms in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional
from ..activations import TABLE
from ..errors import check_choice, message
from ..nn import GradNet, GradNetC, GradNetM, mGradNetC, mGradNetM
from ..nn.activation import WEIGHTED_SOFTMAX, WEIGHTED_TANH
from .activation import names_of
from .networks import AND_LOG_DETERMINANT, BY_MODULES, CMGN, MMGN, Adapted, Arguments, Matrix, PositiveGradNetC
from .parametrized import class_of, named_tensors

CONVOLUTIONAL = functional.ConvRidge.family.name
_WIDE = (1.0, 16.0)
"""Scales of points for a form whose activation is a guess: near 0 many functions resemble the identity."""


@dataclass(frozen=True)
class Form:
    """A class and attributes that a module may take on, with those of its parts by name.

    Attributes:
        label: the name in reports.
        in_dim: the dimension d of the whole network.
        scales: the scales of the points where values are compared.
    """

    label: str
    in_dim: int
    cls: type[nn.Module]
    attributes: Mapping[str, Any]
    parts: Mapping[str, Form] = field(default_factory=dict)
    scales: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Adapter:
    """What `register_adapter` was given for a class."""

    operator: str
    arguments: Arguments
    matrix: Matrix | None
    monotone: bool


_ADAPTERS: dict[type[nn.Module], Adapter] = {}


def register_adapter(
    cls: type[nn.Module],
    operator: str,
    arguments: Arguments,
    *,
    linear: Matrix | None = None,
    monotone: bool = False,
) -> None:
    """Make `accelerate` run modules of a class by an operator of `gradnets_fast.functional`.

    A module's forward may return f, or the pair of f and the log-determinant of its Jacobian (torch.logdet, or
    logabsdet of torch.linalg.slogdet).

    Args:
        cls: the class itself; subclasses, whose forward may differ, need a call of their own.
        operator: "ridge", "softmax_modules", "transformed_modules" or "conv_ridge".  With "conv_ridge" the class stays
            as a base of ours, and of its methods `forward`, `grad`, `g` and `potential` those are replaced that are
            proven to be f or its potential.
        arguments: module -> the operator's arguments besides x; to those of "conv_ridge" a list `stages` of filters
            may be added, of the convolutions before K.  It must be defined at a file's top level if the model
            is to be pickled.  The module has taken on our class when it is called: its parameters and modules are
            there, its class's methods are not, and its `linear` is the linear part below; a layer of that name is
            `module._modules["linear"]`.
        linear: module -> V (k, d), for a term VᵀV x of f; under the same conditions.
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
    check_choice(where, "operator", operator, tuple(functional.NETWORKS))
    if linear is not None and operator == CONVOLUTIONAL:
        fix = "leave it out: images have no such matrix"
        raise ValueError(message(where, "linear", f"None for {CONVOLUTIONAL}", repr(linear), fix))
    _ADAPTERS[cls] = Adapter(operator, arguments, linear, monotone)


def forms(module: nn.Module) -> list[Form | str] | None:
    """The forms that a module may take, the likeliest first, or why not; None if it has no such structure."""
    adapter = adapter_of(module)
    if adapter is not None:
        return None if adapter.operator == CONVOLUTIONAL else [_adapted(module, adapter)]
    for names, candidates in _STRUCTURES.items():
        missing = _missing(module, names)
        if not missing:
            return list(candidates(module))
        if all(isinstance(vars(module).get(name), Tensor) for name in missing):
            fix = "use torch.nn.utils.parametrizations instead of a hook"
            return [f"its {', '.join(missing)} is no parameter, but what a hook computes: {fix}"]
    return None


def adapter_of(module: nn.Module) -> Adapter | None:
    """What `register_adapter` was given for a module's class."""
    return _ADAPTERS.get(class_of(module))


def with_log_determinant(form: Form) -> Iterator[Form]:
    """The form with each log-determinant, that of the authors' code first, which counts if values cannot tell."""
    monotone = form.attributes.get("monotone", getattr(form.cls, "monotone", False))
    for name in ("logdet", "logabsdet") if monotone else ("logabsdet", "logdet"):
        attributes = {**form.attributes, "log_determinant": name}
        yield replace(form, label=f"{form.label} and {name}", cls=AND_LOG_DETERMINANT[form.cls], attributes=attributes)


def _missing(module: nn.Module, names: tuple[str, ...]) -> list[str]:
    """The names that are none of a module's parameters and parts; all of them if the module is ours."""
    own = {name.partition(".")[0] for name, _ in named_tensors(module)} | module._modules.keys()
    return [name for name in names if isinstance(module, GradNet) or name not in own]


def _adapted(module: nn.Module, adapter: Adapter) -> Form:
    attributes = {
        "family": functional.NETWORKS[adapter.operator],
        "adapter": adapter.arguments,
        "matrix": adapter.matrix,
        "monotone": adapter.monotone,
    }
    return Form("Adapted", adapter.arguments(module)["W"].shape[-1], Adapted, attributes)


def _cascades(module: Any) -> Iterator[Form | str]:
    h, d = module.W.shape
    layers = len(module.nonlinearity)
    activation = _activation(module.nonlinearity[0], WEIGHTED_TANH)
    for cls in _likeliest_first(module, mGradNetC, GradNetC):
        form = _form(module, cls, layers, d, h, activation)
        if isinstance(form, str) and cls is mGradNetC:  # its activation may fall
            form = _form(module, PositiveGradNetC, layers, d, h, activation)
        yield form
        # The authors' GradNet_C ends with the last activation but one.
        if cls is GradNetC and layers > 1:
            yield _form(module, cls, layers, d, h, activation, reuse_penultimate_activation=True)


def _modular(module: Any) -> Iterator[Form | str]:
    modules = module.mmgn_modules
    h, d = modules[0].W.shape
    activation = _activation(modules[0].act, WEIGHTED_SOFTMAX)
    for cls in _likeliest_first(module, mGradNetM, GradNetM):
        yield _form(module, cls, len(modules), d, h, activation)


def _cascades_2023(module: Any) -> Iterator[Form | str]:
    (d, h), k = module.W.shape, module.V.shape[-1]
    shapes = {"W": (d, h), "V": (d, k), "bL": (d,), **{f"biases.{i}": (h,) for i in range(len(module.biases))}}
    yield from _of_2023(module, CMGN, d, shapes, [getattr(module, "activation", None)])


def _modular_2023(module: Any) -> Iterator[Form | str]:
    (h, d), k = module.W_k[0].weight.shape, module.V.weight.shape[0]
    shapes = {"a": (d,), "V.weight": (k, d)}
    for i in range(len(module.W_k)):
        shapes |= {f"W_k.{i}.weight": (h, d), f"W_k.{i}.bias": (h,)}
    activations = list(getattr(module, "activations", [])) or [getattr(module, "activation", None)]
    yield from _of_2023(module, MMGN, d, shapes, activations)


_STRUCTURES: dict[tuple[str, ...], Callable[[Any], Iterator[Form | str]]] = {
    ("W", "bias", "beta", "alpha", "nonlinearity"): _cascades,
    ("mmgn_modules", "alpha", "bias"): _modular,
    ("W", "biases", "bL", "V"): _cascades_2023,
    ("W_k", "V", "a"): _modular_2023,
}
"""Structures by the names of their parameters and modules: the function that yields a module's forms."""


def _likeliest_first(module: nn.Module, monotone: type[GradNet], other: type[GradNet]) -> tuple[type[GradNet], ...]:
    return (monotone, other) if class_of(module).__name__.lower().startswith("m") else (other, monotone)


def _activation(module: nn.Module, weighted: str) -> Any:
    """The activation for our constructors.

    A name if it is learnable, with weights a and b, or if a user's class equals that function; else the module itself.
    """
    if {name for name, _ in named_tensors(module)} == {"a", "b"}:
        return weighted
    own_class = not type(module).__module__.startswith("torch.")
    names = names_of([module], torch.empty(0, dtype=torch.float64, device="cpu")) if own_class else []
    return names[0] if names else module


def _form(module: nn.Module, cls: type[GradNet], *sizes: Any, **settings: Any) -> Form | str:
    """The form of a network of ours, if its parameters have the module's names and shapes."""
    try:
        ours = cls(*sizes, **settings, device="meta")
    except (TypeError, ValueError) as error:
        return str(error)
    options = ", ".join(f"{name}={value}" for name, value in settings.items())
    label = f"{cls.__name__}({options})" if options else cls.__name__
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    return _difference(module, cls, shapes) or _form_of(ours, module, sizes[1], label)


def _of_2023(
    module: nn.Module, cls: type[GradNet], in_dim: int, shapes: dict[str, Any], activations: list[Any]
) -> Iterator[Form | str]:
    """The forms of a network of 2023, one for each basis function that its activations may be."""
    difference = _difference(module, cls, shapes)
    if difference:
        yield difference
        return
    told = all(map(callable, activations))
    names = names_of(activations, next(module.parameters())) if told else [n for n in TABLE if TABLE[n].nondecreasing]
    for name in names:
        attributes = {"basis": name, "monotone": TABLE[name].nondecreasing}
        yield Form(f"{cls.__name__}({name})", in_dim, cls, attributes, scales=(1.0,) if told else _WIDE)
    if not names:
        yield f"{cls.__name__}: its activation is none of {', '.join(TABLE)}"


def _difference(module: nn.Module, cls: type[GradNet], shapes: dict[str, Any]) -> str:
    """The difference between a module's parameters and those of the class, in words; "" if there is none."""
    names = sorted({name for name, _ in shapes.items() ^ _shapes(module).items()})
    return f"{cls.__name__} has other parameters: {', '.join(names)}" if names else ""


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(module)}


def _form_of(ours: nn.Module, theirs: nn.Module, in_dim: int, label: str) -> Form:
    own = {name: value for name, value in vars(ours).items() if name not in vars(_PLAIN)}
    if type(ours) in BY_MODULES:
        return Form(label, in_dim, BY_MODULES[type(ours)], own)
    parts = {name: _form_of(part, theirs.get_submodule(name), in_dim, name) for name, part in ours.named_children()}
    return Form(label, in_dim, type(ours), own, parts)


_PLAIN = nn.Module()
