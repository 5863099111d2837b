"""Modules of convolutions, whose points are images: those that people write, and the two published regularisers.

    f(x) = Kᵀσ(K∗x + b) + bias,        K∗x = K_m∗ ⋯ (K_1∗x),

the filters being those of layers torch.nn.Conv1d, 2d or 3d.  Such a module has more methods than `forward`, and f may
be another one, of R beside it.  So the module's class stays, as a base of the one that it takes on, and each method
that is proven to be f or R is replaced by ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from inspect import getattr_static
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activations import TABLE
from ..functional import ConvRidge, composed
from ..nn import GradNet
from ..nn.hooks import compute_parameters_of_parts
from .forms import CONVOLUTIONAL, Form, adapter_of
from .parametrized import class_of, named_tensors
from .readings import found_at, guesses
from .regularizers import clipped_network, spline_network

METHODS = ("grad", "forward", "g", "potential")
"""Names under which a module may have f or R."""
SCALES = (16.0, 4.0, 1 / 4, 1 / 64)
"""Of the points of a comparison, small ones last: profiles that are learned are steep, or bend near 0 alone."""
_RESERVED = ("adapter", "family", "linear", "mesh", "monotone", "operator_name", "replaced")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_COEFFICIENTS = "coefficients_vect"

Adapter = Callable[[nn.Module], ConvRidge]
_CLASSES: dict[tuple[type[nn.Module], tuple[tuple[str, str], ...]], type[nn.Module]] = {}


class OfImages(GradNet):
    """A module of convolutions with its own class as a further base, run by `conv_ridge`.

    Attributes:
        adapter: module -> the operator's arguments.
        replaced: methods of the module's class, each with the method of `GradNet` that takes its place.
    """

    family = ConvRidge
    linear = None
    adapter: Adapter
    replaced: tuple[tuple[str, str], ...]

    def _effective(self) -> ConvRidge:
        compute_parameters_of_parts(self)
        return self.adapter(self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        _, user_class = type(self).__bases__
        return _blank, (user_class, self.replaced), self.__dict__.copy()


def _blank(user_class: type[nn.Module], replaced: tuple[tuple[str, str], ...]) -> nn.Module:
    """A module without attributes, for copies and pickles: our classes are made when needed, and have no place."""
    cls = class_with(user_class, replaced)
    return cls.__new__(cls)


def class_with(user_class: type[nn.Module], replaced: tuple[tuple[str, str], ...]) -> type[nn.Module]:
    """The subclass of a user's class in which the replaced methods are ours, and what else it has is as it was."""
    if (user_class, replaced) in _CLASSES:
        return _CLASSES[user_class, replaced]
    public = [name for name in vars(GradNet) if not name.startswith("_") and name not in _RESERVED]
    own = {name: getattr_static(user_class, name) for name in public if getattr(user_class, name, None) is not None}
    if user_class.forward is nn.Module.forward:
        del own["forward"]
    own |= {name: _instead_of(getattr(user_class, name), getattr(GradNet, ours)) for name, ours in replaced}
    cls = type(f"{user_class.__name__}OfImages", (OfImages, user_class), {**own, "replaced": replaced})
    return _CLASSES.setdefault((user_class, replaced), cls)


def _instead_of(method: Callable[..., Any], ours: Callable[..., Tensor]) -> Callable[..., Any]:
    """Our method under a user's name; a call with more than the points is left to the user's own."""

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        alone = len(arguments) == 1 and not options
        return ours(self, *arguments) if alone else method(self, *arguments, **options)

    return call


@dataclass(frozen=True)
class Reading:
    """One network that a module may be.

    Attributes:
        label: what it is, in words.
        adapter: module -> the operator's arguments.
        monotone: whether R is convex for all parameters.
    """

    label: str
    adapter: Adapter
    monotone: bool

    def form(self, module: nn.Module, methods: dict[str, str]) -> Form:
        """The form of a module whose methods are replaced by methods of `GradNet`."""
        cls = class_with(class_of(module), tuple(methods.items()))
        attributes = {"adapter": self.adapter, "monotone": self.monotone}
        return Form(f"{self.label}: {', '.join(methods)}", 0, cls, attributes)


Readings = Iterator[Reading | str]


@dataclass(frozen=True)
class Structure:
    """The convolutions of a module.

    Attributes:
        shapes: of the filters, the first ones first.
        readings: yields what the module may be, the likeliest first; or why it is none.
    """

    shapes: tuple[torch.Size, ...]
    readings: Callable[[], Readings]

    def points(self, count: int) -> list[tuple[int, ...]]:
        """Shapes of images on which to compare, of two sizes: of one alone, a mean over pixels would pass as a sum."""
        largest = [max(sizes) for sizes in zip(*(shape[2:] for shape in self.shapes))]
        sizes = [[k + 5 + dim + 2 * (i % 2) for dim, k in enumerate(largest)] for i in range(len(SCALES))]
        return [(count, self.shapes[0][1], *size) for size in sizes]


def structure_of(module: nn.Module) -> Structure | None:
    """The convolutions of a module, if they are all that it has parameters for, or those of a published format."""
    registered = adapter_of(module)
    if registered is not None and registered.operator == CONVOLUTIONAL:
        given, adapter = registered.arguments(module), partial(_registered, arguments=registered.arguments)
        shapes = tuple(K.shape for K in (*given.get("stages", ()), given["K"]))
        return Structure(shapes, partial(iter, [Reading("Adapted", adapter, registered.monotone)]))
    if isinstance(module, (GradNet, *_CONVOLUTIONS)) or class_of(module).__module__.startswith("torch."):
        return None
    layers = {path: part for path, part in module.named_modules() if isinstance(part, _CONVOLUTIONS)}
    if not layers or any(isinstance(part, GradNet) for part in module.modules()):
        return None
    if any(map(is_lazy, module.parameters())):
        return None
    shapes = tuple(layer.weight.shape for layer in layers.values())
    if any(len(K) != len(before) or K[1] != before[0] for before, K in pairwise(shapes)):
        return None
    *_, last = layers
    filters = [layer.weight for layer in layers.values()]
    tensors = {name: tensor for name, tensor in named_tensors(module) if not any(tensor is K for K in filters)}
    rest = {name: tensor for name, tensor in tensors.items() if name not in {f"{path}.weight" for path in layers}}
    find = _format(module, tuple(layers), rest)
    if find is None:
        biases = [name for name in rest if name != f"{last}.bias"]
        if len(biases) > 1 or any(rest[name].numel() != shapes[0][1] for name in biases):
            return None
        find = partial(_plain, module, tuple(layers), *biases)
    reasons = [reason for path, layer in layers.items() for reason in _hindrances(path, layer)]
    reserved = [name for name in _RESERVED if hasattr(module, name)]
    reasons += [f"its {name} has a name that gradient networks use: rename it" for name in reserved]
    return Structure(shapes, partial(iter, reasons) if reasons else find)


def _registered(module: nn.Module, *, arguments: Callable[[nn.Module], dict[str, Any]]) -> ConvRidge:
    given = dict(arguments(module))
    return composed([*given.pop("stages", ()), given.pop("K")], **given)


def _hindrances(path: str, layer: Any) -> Iterator[str]:
    """What a convolution has that the operator has not."""
    same = tuple((k - 1) / 2 for k in layer.kernel_size)
    for name, expected in (("stride", 1), ("dilation", 1), ("groups", 1)):
        got = getattr(layer, name)
        if set(got if isinstance(got, tuple) else (got,)) != {expected}:
            yield f"{path} has {name} {got}: expected {expected}"
    if layer.padding not in ("same", same):
        yield f"{path} has padding {layer.padding}: expected that which leaves an image its size, padding='same'"
    if layer.padding_mode not in ("zeros", "circular"):
        yield f"{path} has padding_mode {layer.padding_mode!r}: expected 'zeros' or 'circular'"


def _format(module: nn.Module, layers: tuple[str, ...], rest: dict[str, Tensor]) -> Callable[[], Readings] | None:
    """What finds the forms of a published format, if the module has its parameters."""
    channels = len(found_at(module, f"{layers[-1]}.weight"))
    if rest.keys() == {"scaling", "beta"} and rest["scaling"].numel() == channels and rest["beta"].numel() == 1:
        return partial(_of_clips, module, layers)
    for name, tensor in rest.items():
        if name.rpartition(".")[2] == _COEFFICIENTS and tensor.numel() % channels == 0:
            return partial(_of_splines, module, layers, name)
    return None


def _filters(module: nn.Module, layers: tuple[str, ...]) -> list[Tensor]:
    return [found_at(module, f"{path}.weight") for path in layers]


def _plain(module: nn.Module, layers: tuple[str, ...], bias: str = "") -> Readings:
    """The forms of convolutions and one activation, that of the module's parts or attributes first."""
    padding = found_at(module, f"{layers[-1]}.padding_mode")
    for basis, beta in guesses(module, ""):
        adapter = partial(_network, layers=layers, bias=bias, basis=basis, beta=beta, padding=padding)
        yield Reading(f"conv_ridge({basis})", adapter, TABLE[basis].nondecreasing)


def _network(
    module: nn.Module, *, layers: tuple[str, ...], bias: str, basis: str, beta: str, padding: str
) -> ConvRidge:
    """Kᵀσ(β(K∗x + b))/β + bias; β is where `beta` says, 1 for ""."""
    filters, b = _filters(module, layers), found_at(module, f"{layers[-1]}.bias")
    shift = filters[-1].new_zeros(len(filters[-1])) if b is None else b
    scale = coef = None
    if beta and (factor := float(found_at(module, beta))) != 1.0:
        scale, coef = shift.new_full((1, len(shift)), factor), shift.new_full((1, 1, len(shift)), 1 / factor)
        shift = factor * shift
    return composed(filters, scale, shift, coef, found_at(module, bias).flatten() if bias else None, basis, padding)


def _of_clips(module: nn.Module, layers: tuple[str, ...]) -> Readings:
    """The forms of a regulariser of clips, whose weak convexity may be any number that the module has."""
    for w in dict.fromkeys([*_numbers(module), 0.0, 1.0]):
        for smooth in (False, True):
            label = f"ClippedRidgeRegularizer(weak_convexity={w:g}{', smooth=True' if smooth else ''})"
            yield Reading(label, partial(_clips, layers=layers, weak_convexity=w, smooth=smooth), w == 0.0)


def _clips(module: nn.Module, *, layers: tuple[str, ...], weak_convexity: float, smooth: bool) -> ConvRidge:
    s, beta = found_at(module, "scaling").flatten(), found_at(module, "beta").reshape(())
    return clipped_network(_filters(module, layers), s, beta, weak_convexity, smooth)


def _of_splines(module: nn.Module, layers: tuple[str, ...], name: str) -> Readings:
    """The forms of a regulariser of splines, whose radius, or distance of knots, may be any number that it has."""
    knots = found_at(module, name).numel() // len(found_at(module, f"{layers[-1]}.weight"))
    numbers = [*_numbers(module.get_submodule(name.rpartition(".")[0])), *_numbers(module)]
    radii = [r for r in dict.fromkeys([*numbers, *(step * (knots - 1) / 2 for step in numbers)]) if r > 0]
    for radius in radii:
        adapter = partial(_splines, layers=layers, name=name, radius=radius)
        yield Reading(f"SplineRidgeRegularizer(radius={radius:g})", adapter, True)
    if not radii:
        yield f"{name} has knots, but their radius is no number among the attributes beside it"


def _splines(module: nn.Module, *, layers: tuple[str, ...], name: str, radius: float) -> ConvRidge:
    filters = _filters(module, layers)
    return spline_network(filters, found_at(module, name).view(len(filters[-1]), -1), radius)


def _numbers(module: nn.Module) -> list[float]:
    """The numbers among a module's attributes and buffers."""
    values = [*vars(module).values(), *module._buffers.values()]
    single = [value.item() if isinstance(value, Tensor) and value.numel() == 1 else value for value in values]
    numbers = [float(value) for value in single if isinstance(value, Real) and not isinstance(value, bool)]
    return [value for value in numbers if math.isfinite(value)]
