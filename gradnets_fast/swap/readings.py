"""The ways to read an energy's parameters as those of a deep network.

A torch.nn.Sequential is known by its class, an input convex network by the names of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import TABLE
from ..errors import message
from .activation import names_of
from .parametrized import named_tensors

WHERE = "gradient_of"
POSITIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda weight: weight,
    "softplus": F.softplus,
    "square": torch.square,
    "softplus over fan-in": lambda weight: F.softplus(weight) / weight.shape[-1],
}
"""Maps by which an input convex network makes its weights nonnegative; "as they are" if it clamps them."""


@dataclass(frozen=True)
class Layer:
    """Where a layer's parameters are in the energy: paths of attributes, "" for none.

    Attributes:
        V, A, Q: of the hidden units below, of the points, and of their squares, (d, rank, h) as the energy holds it.
        biases: what is added.
        basis: σ; beta: where its inverse temperature is, σ(β u)/β, "" for 1.
    """

    V: str
    A: str
    Q: str
    biases: tuple[str, ...]
    basis: str
    beta: str = ""


@dataclass(frozen=True)
class Reading:
    """One way to read an energy.

    Attributes:
        label: what it is, in words.
        layers: the layers, the first first.
        c, constants, direction: the last layer's weights (1, h_L), its biases, and its weights of the points (1, d).
        positive: a name of `POSITIVE`, for V and c.
        convexity: where μ of an energy with ½ μ |x|² is.
    """

    label: str
    layers: tuple[Layer, ...]
    c: str
    constants: tuple[str, ...] = ()
    direction: str = ""
    positive: str = "as they are"
    convexity: str = ""


def found_at(energy: nn.Module, path: str) -> Any:
    """What an energy has at a path of attributes; a plain parameter without the search that nn.Module makes for it."""
    owner: Any = energy
    *parts, name = path.split(".")
    for part in parts:
        owner = owner._modules[part]
    parameter = owner._parameters.get(name)
    return getattr(owner, name) if parameter is None else parameter


def readings_of(energy: nn.Module) -> Iterable[Reading]:
    """The ways to read the part of an energy that has all its parameters and a structure that is known."""
    everything = {id(parameter) for parameter in energy.parameters()}
    names = ", ".join(name for name, _ in list(named_tensors(energy))[:5]) or "of no name"
    got, fix = f"{type(energy).__name__} with parameters {names}", "pass the Sequential itself, or use the usual names"
    for known, read in _STRUCTURES:
        for path, module in energy.named_modules():
            if not known(module):
                continue
            own = {id(parameter) for parameter in module.parameters()}
            if own == everything:
                return read(energy, module, f"{path}." if path else "")
            outside = ", ".join([name for name, p in energy.named_parameters() if id(p) not in own][:5])
            got = f"{type(energy).__name__} with {outside} outside of its {type(module).__name__} {path}"
            fix = f"pass energy.{path} if it is the energy"
    expected = "a Sequential or an input convex network of the usual names, or a module that holds one"
    raise TypeError(message(WHERE, "energy", expected, got, fix))


def check_shapes(energy: nn.Module, reading: Reading) -> None:
    """Raise unless every tensor of a reading is there and has the shape that the others ask for."""
    modules = dict(energy.named_modules(remove_duplicate=False))

    def shape_of(path: str, *dimensions: int) -> tuple[int, ...]:
        try:
            tensor = found_at(energy, path)
        except (AttributeError, KeyError):
            tensor = None
        if not isinstance(tensor, Tensor) or tensor.dim() not in dimensions or not tensor.numel():
            without = f"a {type(modules.get(path.rpartition('.')[0])).__name__} without it"
            got = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else without
            fix = "put a torch.nn.Linear or its like there, or use autograd"
            expected = f"a nonempty tensor of {dimensions[0]} dimensions"
            raise TypeError(message(WHERE, f"energy.{path}", expected, got, fix))
        return tuple(tensor.shape)

    def require(path: str, shape: tuple[int, ...], *others: tuple[int, ...]) -> None:
        if path and (got := shape_of(path, len(shape), *map(len, others))) not in (shape, *others):
            fix = "give it the size of its neighbours"
            raise ValueError(message(WHERE, f"energy.{path}", f"shape {shape}", f"shape {got}", fix))

    first, below = reading.layers[0], 0
    d = shape_of(first.A, 2)[1]
    for layer in reading.layers:
        h = shape_of(layer.A or layer.V, 2)[0]
        require(layer.A, (h, d))
        require(layer.V, (h, below))
        require(layer.Q, (d, shape_of(first.Q, 3)[1] if first.Q else 0, h))
        for bias in layer.biases:
            require(bias, (h,))
        below = h
    require(reading.c, (1, below), (below,))
    require(reading.direction, (1, d), (d,))


def _refused(layer: str, reason: str) -> ValueError:
    fix = f"use activations of the table ({', '.join(TABLE)}) between Linear layers, or autograd"
    return ValueError(message(WHERE, "energy", "Linear layers and activations", f"{layer}: {reason}", fix))


def _sequential(energy: nn.Module, stack: nn.Module, root: str) -> Iterator[Reading]:
    """Linear layers with activations between them; the last has one output."""
    steps = list(_flattened(stack, root))
    if not steps or not isinstance(steps[-1][1], nn.Linear) or steps[-1][1].out_features != 1:
        last = f"{steps[-1][0]} ({type(steps[-1][1]).__name__})" if steps else type(energy).__name__
        raise _refused(last, "the energy does not end in a Linear layer with one output")
    layers: list[Layer] = []
    open_layer: Layer | None = None
    for name, step in steps[:-1]:
        if isinstance(step, nn.Linear):
            layers += [open_layer] if open_layer is not None else []
            weight, first = f"{name}.weight", not layers
            open_layer = Layer("" if first else weight, weight if first else "", "", _biases(energy, name), "identity")
        elif open_layer is None or open_layer.basis != "identity":
            raise _refused(name, f"{type(step).__name__} does not follow a Linear layer")
        else:
            basis, beta = _activation(name, step)
            open_layer = replace(open_layer, basis=basis, beta=beta)
    last = steps[-1][0]
    if open_layer is None:
        raise _refused(last, "there is no hidden layer, and the gradient is constant")
    yield Reading("Sequential", (*layers, open_layer), f"{last}.weight", _biases(energy, last))


def _flattened(stack: nn.Module, root: str) -> Iterator[tuple[str, nn.Module]]:
    for name, module in stack._modules.items():  # named_children leaves out one that is there twice
        here = f"{root}{name}"
        if isinstance(module, nn.Sequential):
            yield from _flattened(module, f"{here}.")
        elif isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise _refused(here, f"{module} leaves out units at random in training")
        elif module is not None and not isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):
            yield here, module


def _biases(energy: nn.Module, *layers: str) -> tuple[str, ...]:
    """The biases that layers at these paths have."""
    modules = dict(energy.named_modules(remove_duplicate=False))
    return tuple(f"{path}.bias" for path in layers if getattr(modules.get(path), "bias", None) is not None)


def _activation(layer: str, module: nn.Module) -> tuple[str, str]:
    """The basis function that a module computes, and where its inverse temperature is."""
    if next(module.parameters(), None) is not None:
        raise _refused(layer, f"{type(module).__name__} has parameters")
    try:
        beta = float(module.beta) if isinstance(module, nn.Softplus) else 1.0
        names = names_of([lambda z: beta * module(z / beta)], torch.empty(0, dtype=torch.float64, device="cpu"))
    except Exception as error:
        raise _refused(layer, f"{type(module).__name__} fails on a vector: {error}") from error
    if not names or beta <= 0:
        raise _refused(layer, f"{' '.join(repr(module).split())} is no activation of the table")
    return names[0], f"{layer}.beta" if isinstance(module, nn.Softplus) else ""


def guesses(module: nn.Module, root: str) -> list[tuple[str, str]]:
    """Return the basis functions that activations may be, with where β is: those that parts or attributes say first."""
    told = []
    for path, part in module.named_modules():
        if path and next(part.children(), None) is None and next(part.parameters(), None) is None:
            with suppress(ValueError):
                told.append(_activation(f"{root}{path}", part))
    words = [value.lower().replace("celu", "elu") for value in vars(module).values() if isinstance(value, str)]
    usual = [*(word for word in words if word in TABLE), "softplus", "elu", "relu", *TABLE]
    return list(dict.fromkeys([*told, *((name, "") for name in usual)]))


def _list_of(module: nn.Module, root: str, name: str) -> list[str]:
    """The paths of what a list has."""
    parts = module._modules[name]
    if not isinstance(parts, (nn.ModuleList, nn.ParameterList, nn.Sequential)):
        fix = "put its layers into a torch.nn.ModuleList"
        expected = "a list of layers or parameters"
        raise TypeError(message(WHERE, f"energy.{root}{name}", expected, type(parts).__name__, fix))
    return [f"{root}{name}.{key}" for key in (parts._modules or range(len(parts)))]


def _quadratic(energy: nn.Module, module: nn.Module, root: str) -> Iterator[Reading]:
    """Layers of squares and linear functions of x; the first without an activation."""
    quadratic, convex = (_list_of(module, root, name) for name in ("quadratic_layers", "convex_layers"))
    if len(quadratic) != len(convex) + 1:
        got, fix = f"{len(quadratic)} and {len(convex)}", "use autograd"
        raise ValueError(message(WHERE, "energy", "one more of quadratic_layers than convex_layers", got, fix))
    mu, path, last = getattr(module, "strong_convexity", None), f"{root}strong_convexity", f"{root}final_layer"
    if mu is not None and not (isinstance(mu, Real) or (isinstance(mu, Tensor) and mu.numel() == 1)):
        fix = "set it to 0.0 if there is no such term"
        raise TypeError(message(WHERE, f"energy.{path}", "a number, a tensor of one element or None", repr(mu), fix))

    def layer(own: str, below: str, basis: str, beta: str) -> Layer:
        weight = f"{below}.weight" if below else ""
        return Layer(weight, f"{own}.weight", f"{own}.quadratic_decomposed", _biases(energy, own, below), basis, beta)

    for basis, beta in guesses(module, root):
        first, *others = zip(quadratic, ["", *convex])
        layers = (layer(*first, "identity", ""), *(layer(*paths, basis, beta) for paths in others))
        convexity = "" if mu is None else path
        label = f"quadratic layers with {basis}"
        yield Reading(label, layers, f"{last}.weight", _biases(energy, last), convexity=convexity)


def _two_lists(energy: nn.Module, module: nn.Module, root: str) -> Iterator[Reading]:
    """z = σ(W₀ x + b), z ← σ(P(W_i) z + X_i x + b), F = P(W_L) z + X_L x; W₀ is the first of `Wzs` or of `Wxs`."""
    z, x = (_list_of(module, root, name) for name in ("Wzs", "Wxs"))
    if abs(len(z) - len(x)) != 1 or not (z and x):
        got = f"{len(z)} and {len(x)}"
        raise ValueError(message(WHERE, "energy", "one more of Wzs than Wxs, or of Wxs", got, "use autograd"))
    first, z, x = (z[0], z[1:], x) if len(z) > len(x) else (x[0], z, x[1:])
    layers_of = dict(energy.named_modules(remove_duplicate=False))

    def weight(path: str) -> str:
        return f"{path}.weight" if path in layers_of else path

    for basis, beta in guesses(module, root):
        layers = [Layer("", weight(first), "", _biases(energy, first), basis, beta)]
        layers += [Layer(weight(a), weight(b), "", _biases(energy, a, b), basis, beta) for a, b in zip(z[:-1], x[:-1])]
        constants = _biases(energy, z[-1], x[-1])
        for positive in POSITIVE:
            label = f"Wzs and Wxs with {basis}, weights {positive}"
            yield Reading(label, tuple(layers), weight(z[-1]), constants, weight(x[-1]), positive)


def _has(*names: str) -> Callable[[nn.Module], bool]:
    return lambda module: set(names) <= set(module._modules.keys())


_STRUCTURES: list[tuple[Callable[[nn.Module], bool], Callable[[nn.Module, nn.Module, str], Iterator[Reading]]]] = [
    (_has("quadratic_layers", "convex_layers", "final_layer"), _quadratic),
    (_has("Wzs", "Wxs"), _two_lists),
    (lambda module: isinstance(module, nn.Sequential), _sequential),
]
"""How a module with a structure is known, and what yields its readings, given the energy, it, and its path."""
