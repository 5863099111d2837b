"""`gradient_of`: the fused gradient of an energy that someone has, on the same parameters.

A torch.nn.Sequential is known by its class, an input convex network by the names of its parts; each way to read an
energy, a `Reading`, is compared with autograd before it is taken.
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
from torch.nn.parameter import is_lazy

from ..activations import TABLE
from ..errors import check_parameters, message
from ..functional import Deep, Structure
from ..nn import GradNet
from ..nn.base import LinearMap
from ..nn.hooks import compute_parameters_of_parts
from .activation import names_of
from .parametrized import named_tensors
from .verification import Behaviour, MismatchError, behaviour, probe, verified

_WHERE = "gradient_of"
POSITIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda weight: weight,
    "softplus": F.softplus,
    "square": torch.square,
    "softplus over fan-in": lambda weight: F.softplus(weight) / weight.shape[-1],
}
"""Maps by which an input convex network makes its weights nonnegative; "as they are" if it clamps them."""
_WIDE = (1.0, 8.0)
"""Scales of the points of a comparison: near 0 many activations resemble each other."""


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


class Scaling(LinearMap):
    """x ↦ μ x, the gradient of ½ μ |x|²."""

    def __init__(self, mu: float | Tensor, like: Tensor) -> None:
        self.mu, self.like = mu, like

    def forward(self, x: Tensor) -> Tensor:
        return self.mu * x

    __call__ = forward

    def added_to(self, f: Tensor, x: Tensor) -> Tensor:
        return f + self.mu * x

    def matrix(self) -> Tensor:
        d = self.like.shape[-1]
        return self.mu * torch.eye(d, dtype=self.like.dtype, device=self.like.device)

    def trace(self) -> Tensor:
        return self.mu * self.like.new_full((), self.like.shape[-1])

    def potential(self, x: Tensor) -> Tensor:
        return self.mu / 2 * x.square().sum(-1)


class EnergyGradient(GradNet):
    """The gradient of an energy module, by kernels, on the module's own parameters.

    Attributes:
        energy: the module; its optimiser, hooks and state_dict go on working.
        reading: how its parameters are read.
    """

    family = Deep

    def __init__(self, energy: nn.Module, reading: Reading) -> None:
        super().__init__()
        self.energy, self.reading = energy, reading
        widths = tuple(
            self._of(layer.biases[0] if layer.biases else layer.A or layer.V).shape[0] for layer in reading.layers
        )
        rank = self._of(reading.layers[0].Q).shape[1] if reading.layers[0].Q else 0
        skip = len(reading.layers) > 1 and bool(reading.layers[1].A)
        self.structure = Structure(widths, skip, rank)
        self.basis = tuple(layer.basis for layer in reading.layers)
        nonnegative = reading.positive in ("softplus", "square", "softplus over fan-in")
        self.monotone = nonnegative and all(TABLE[name].convex and TABLE[name].nondecreasing for name in self.basis)

    @property
    def in_dim(self) -> int:
        """The dimension d of the points."""
        first = self.reading.layers[0]
        return self._of(first.A).shape[1]

    @property
    def linear(self) -> Scaling | None:  # type: ignore[override]
        """The part μ x, if the energy has a term ½ μ |x|²."""
        if not self.reading.convexity:
            return None
        mu = _found(self.energy, self.reading.convexity)
        if isinstance(mu, Tensor):
            mu = mu.reshape(())
        elif not mu:
            return None
        return Scaling(mu, self._of(self.reading.layers[0].A))

    def potential(self, x: Tensor) -> Tensor:
        """Return the energy at points x (…, d), (…,)."""
        return super().potential(x) + self._constant()

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy (…,) and its gradient (…, d) at points x (…, d)."""
        F, f = super().value_and_gradient(x)
        return F + self._constant(), f

    def _constant(self) -> Tensor | float:
        return sum((self._of(path).sum() for path in self.reading.constants), 0.0)

    def _of(self, path: str) -> Tensor:
        tensor: Tensor = _found(self.energy, path)
        return tensor

    def _effective(self) -> Deep:
        compute_parameters_of_parts(self)
        reading, direction = self.reading, self.reading.direction
        positive = POSITIVE[reading.positive]
        parts, below = [], 1.0
        for layer, width in zip(reading.layers, self.structure.widths):
            # σ(β u)/β of a layer is σ of β u where what it passes on is β times as large.
            beta = _found(self.energy, layer.beta) if layer.beta else 1.0
            if layer.A:
                parts.append(_times(self._of(layer.A), beta))
            if layer.V:
                parts.append(_times(positive(self._of(layer.V)), beta / below))
            if layer.Q:
                parts.append(_times(self._of(layer.Q).permute(1, 2, 0), beta**0.5))
            biases = [self._of(path) for path in layer.biases] or [parts[0].new_zeros(width)]
            parts.append(_times(sum(biases[1:], biases[0]), beta))
            below = beta
        parts.append(_times(positive(self._of(reading.c)), 1 / below))
        theta = torch.cat([part.reshape(-1) for part in parts])
        return Deep(theta, self._of(direction).reshape(-1) if direction else None, self.basis, self.structure)

    def extra_repr(self) -> str:
        return f"{self.reading.label}, widths={self.structure.widths}, activation={list(self.basis)}"


def _found(energy: nn.Module, path: str) -> Any:
    """What an energy has at a path of attributes; a plain parameter without the search that nn.Module makes for it."""
    owner: Any = energy
    *parts, name = path.split(".")
    for part in parts:
        owner = owner._modules[part]
    parameter = owner._parameters.get(name)
    return getattr(owner, name) if parameter is None else parameter


def _times(tensor: Tensor, factor: float) -> Tensor:
    """The product, without an operation where there is nothing to do."""
    return tensor if factor == 1.0 else tensor * factor


def gradient_of(energy: nn.Module) -> EnergyGradient:
    """The gradient of an energy as a network of this package: fused, differentiable twice, on the same parameters.

    The energy is a torch.nn.Sequential of Linear layers and activations that ends in one output; or an input convex
    network in one of two usual forms: with lists `Wzs` and `Wxs`, z ← σ(P(W_i) z + X_i x + b) and
    F = P(W_L) z + X_L x, P the identity, softplus, the square or softplus over the fan-in; or with `quadratic_layers`,
    `convex_layers`, `final_layer` and `strong_convexity`; or a module that holds one of these and returns what it does.
    Classes have any name.  It is compared with autograd here: values, gradients and the parameters' gradients, at its
    parameters, at perturbed ones and at ones of other signs, with other values of its floating buffers, in both modes.

    Parameters, buffers, `strong_convexity` and the beta of a torch.nn.Softplus are read at each call.  Which layers
    there are, which functions their activations compute, and all other numbers that forward uses are read once, here:
    after a change of those, call it again.  A Dropout with p > 0 is refused in either mode.

    Equivalent to:
        lambda x: torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]

    Args:
        energy: the module, (…, d) → (…, 1) or (…,); with spectral_norm in evaluation mode.

    Returns:
        A network with all methods of `GradNet`: forward is the gradient, `potential` the energy.  Its parameters are
        the energy's own, so that an optimiser of either trains both.

    Raises:
        TypeError, ValueError: the energy is none of these; the message names the layer and the reason.
        BackendUnavailableError: inside of `use_backend` with a backend that cannot run it.

    Source: Amos, Xu, Kolter, "Input Convex Neural Networks", 2017; Korotin et al., "Wasserstein-2 Generative Networks",
    2021, for the quadratic layers.

    >>> import torch
    >>> energy = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> net, x = gradient_of(energy), torch.randn(5, 2, requires_grad=True)
    >>> torch.allclose(net(x), torch.autograd.grad(energy(x).sum(), x)[0], atol=1e-6)
    True
    """
    if not isinstance(energy, nn.Module):
        fix = "pass the module that computes the energy"
        raise TypeError(message(_WHERE, "energy", "a torch.nn.Module", type(energy).__name__, fix))
    _check_tensors(energy)
    reasons: list[str] = []
    before: Behaviour | None = None
    for reading in _readings(energy):
        _check_shapes(energy, reading)
        net = EnergyGradient(energy, reading)
        before = before or _behaviour(energy, net.in_dim)
        try:
            verified(net, before)
            return net
        except MismatchError as mismatch:
            reasons.append(f"read as {reading.label}: it {mismatch}")
    expected = f"the energy that its structure says, with activations of the table ({', '.join(TABLE)})"
    got = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} other readings" if reasons[3:] else "")
    fix = "rewrite it so, its activations at their default settings or as modules of torch.nn, or use autograd"
    raise ValueError(message(_WHERE, "energy", expected, got, fix))


def _check_tensors(energy: nn.Module) -> None:
    for name, tensor in (*energy.named_parameters(), *energy.named_buffers()):
        if is_lazy(tensor):
            got, fix = "one that a lazy module has not made yet", "call the energy on points once, which makes it"
        elif tensor.is_meta:
            got, fix = "one on the meta device", "call energy.to_empty(device='cpu'), and load its weights"
        elif tensor.is_inference():
            got, fix = "one made in torch.inference_mode()", "make the energy, or copy.deepcopy it, outside of that"
        else:
            continue
        raise ValueError(message(_WHERE, f"energy.{name}", "a tensor that has values and gradients", got, fix))
    check_parameters(_WHERE, ((f"energy.{name}", parameter) for name, parameter in energy.named_parameters()))


def _check_shapes(energy: nn.Module, reading: Reading) -> None:
    """Raise unless every tensor of a reading is there and has the shape that the others ask for."""

    def shape_of(path: str, dimensions: int) -> tuple[int, ...]:
        owner = path.rpartition(".")[0]
        try:
            tensor = _found(energy, path)
        except (AttributeError, KeyError):
            tensor = None
        if not isinstance(tensor, Tensor) or tensor.dim() != dimensions:
            without = f"a {type(energy.get_submodule(owner)).__name__} without it"
            got = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else without
            fix = "put a torch.nn.Linear or its like there, or use autograd"
            raise TypeError(message(_WHERE, f"energy.{path}", f"a tensor of {dimensions} dimensions", got, fix))
        return tuple(tensor.shape)

    first = reading.layers[0]
    (_, d), below, shapes = shape_of(first.A, 2), 0, dict[str, tuple[int, ...]]()
    for layer in reading.layers:
        h, _ = shape_of(layer.A or layer.V, 2)
        shapes |= {layer.A: (h, d), layer.V: (h, below), **dict.fromkeys(layer.biases, (h,))}
        shapes |= {layer.Q: (d, shape_of(first.Q, 3)[1], h)} if layer.Q else {}
        below = h
    shapes |= {reading.c: (1, below), reading.direction: (1, d)}
    for path, shape in shapes.items():
        if path and shape_of(path, len(shape)) != shape:
            got, fix = f"shape {shape_of(path, len(shape))}", "give it the size of its neighbours"
            raise ValueError(message(_WHERE, f"energy.{path}", f"shape {shape}", got, fix))


def _behaviour(energy: nn.Module, d: int) -> Behaviour:
    """What an energy and autograd compute."""
    truth = _ByAutograd(energy)
    try:
        return behaviour(truth, probe(truth, d, _WIDE), "potential")
    except MismatchError as mismatch:
        expected = "a function of the points and of its parameters and buffers alone"
        raise ValueError(
            message(_WHERE, "energy", expected, f"one that {mismatch}", "use autograd for it as it is")
        ) from mismatch
    except Exception as error:  # as may a user's forward
        got = f"one that fails on them: {type(error).__name__}: {' '.join(str(error).split())}"
        fix = "see that energy(points) and its gradient by autograd work first"
        raise ValueError(message(_WHERE, "energy", f"a module that takes points (…, {d})", got, fix)) from error


def _readings(energy: nn.Module) -> Iterable[Reading]:
    """The ways to read the part of an energy that has all its parameters and a structure that is known."""
    everything = {id(parameter) for parameter in energy.parameters()}
    names = ", ".join(name for name, _ in list(named_tensors(energy))[:5])
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
    raise TypeError(message(_WHERE, "energy", expected, got, fix))


class _ByAutograd(nn.Module):
    """The gradient of an energy by autograd, with the parameters' names of `EnergyGradient`."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            points = x if x.requires_grad else x.detach().requires_grad_()
            (f,) = torch.autograd.grad(self.potential(points).sum(), points, create_graph=True)
            return f

    def potential(self, x: Tensor) -> Tensor:
        F: Any = self.energy(x)
        if not isinstance(F, Tensor):
            raise MismatchError(f"returns a {type(F).__name__}, not a tensor")
        if F.numel() != x.shape[:-1].numel():
            raise MismatchError(f"returns shape {tuple(F.shape)} for points {tuple(x.shape)}, not one number for each")
        values: Tensor = F.reshape(x.shape[:-1])
        return values


def _refused(layer: str, reason: str) -> ValueError:
    fix = f"use activations of the table ({', '.join(TABLE)}) between Linear layers, or autograd"
    return ValueError(message(_WHERE, "energy", "Linear layers and activations", f"{layer}: {reason}", fix))


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


def _guesses(module: nn.Module, root: str) -> list[tuple[str, str]]:
    """The basis functions that activations may be, with where β is: those that parts or attributes say first."""
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
        raise TypeError(message(_WHERE, f"energy.{root}{name}", expected, type(parts).__name__, fix))
    return [f"{root}{name}.{key}" for key in (parts._modules or range(len(parts)))]


def _quadratic(energy: nn.Module, module: nn.Module, root: str) -> Iterator[Reading]:
    """Layers of squares and linear functions of x; the first without an activation."""
    quadratic, convex = (_list_of(module, root, name) for name in ("quadratic_layers", "convex_layers"))
    if len(quadratic) != len(convex) + 1:
        got, fix = f"{len(quadratic)} and {len(convex)}", "use autograd"
        raise ValueError(message(_WHERE, "energy", "one more of quadratic_layers than convex_layers", got, fix))
    mu, path, last = getattr(module, "strong_convexity", None), f"{root}strong_convexity", f"{root}final_layer"
    if mu is not None and not (isinstance(mu, Real) or (isinstance(mu, Tensor) and mu.numel() == 1)):
        fix = "set it to 0.0 if there is no such term"
        raise TypeError(message(_WHERE, f"energy.{path}", "a number, a tensor of one element or None", repr(mu), fix))

    def layer(own: str, below: str, basis: str, beta: str) -> Layer:
        weight = f"{below}.weight" if below else ""
        return Layer(weight, f"{own}.weight", f"{own}.quadratic_decomposed", _biases(energy, own, below), basis, beta)

    for basis, beta in _guesses(module, root):
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
        raise ValueError(message(_WHERE, "energy", "one more of Wzs than Wxs, or of Wxs", got, "use autograd"))
    first, z, x = (z[0], z[1:], x) if len(z) > len(x) else (x[0], z, x[1:])
    layers_of = dict(energy.named_modules(remove_duplicate=False))

    def weight(path: str) -> str:
        return f"{path}.weight" if path in layers_of else path

    for basis, beta in _guesses(module, root):
        layers = [Layer("", weight(first), "", _biases(energy, first), basis, beta)]
        layers += [Layer(weight(a), weight(b), "", _biases(energy, a, b), basis, beta) for a, b in zip(z[:-1], x[:-1])]
        constants = _biases(energy, z[-1], x[-1])
        for positive in POSITIVE:
            label = f"Wzs and Wxs with {basis}, weights {positive}"
            yield Reading(label, tuple(layers), weight(z[-1]), constants, weight(x[-1]), positive)


def _has(*names: str) -> Callable[[nn.Module], bool]:
    return lambda module: module._modules.keys() >= set(names)


_STRUCTURES: list[tuple[Callable[[nn.Module], bool], Callable[[nn.Module, nn.Module, str], Iterator[Reading]]]] = [
    (_has("quadratic_layers", "convex_layers", "final_layer"), _quadratic),
    (_has("Wzs", "Wxs"), _two_lists),
    (lambda module: isinstance(module, nn.Sequential), _sequential),
]
"""How a module with a structure is known, and what yields its readings, given the energy, it, and its path."""
