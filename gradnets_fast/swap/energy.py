"""`gradient_of`: the fused gradient of an energy that someone has, on the same parameters.

An energy is recognised by the structure and the shapes of its parameters; each way to read it, a `Reading`, is compared
with autograd before it is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import TABLE
from ..errors import message
from ..functional import Deep, Structure
from ..nn import GradNet
from ..nn.base import LinearMap
from ..nn.hooks import compute_parameters_of_parts
from .activation import names_of
from .parametrized import named_tensors
from .verification import MismatchError, behaviour, probe, verified

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
        basis: σ; beta: its inverse temperature, σ(β u)/β.
    """

    V: str
    A: str
    Q: str
    biases: tuple[str, ...]
    basis: str
    beta: float = 1.0


@dataclass(frozen=True)
class Reading:
    """One way to read an energy.

    Attributes:
        label: what it is, in words.
        layers: the layers, the first first.
        c, constants, direction: the last layer's weights (1, h_L), its biases, and its weights of the points (1, d).
        positive: a name of `POSITIVE`, for V and c.
        convexity: μ of an energy with ½ μ |x|².
    """

    label: str
    layers: tuple[Layer, ...]
    c: str
    constants: tuple[str, ...] = ()
    direction: str = ""
    positive: str = "as they are"
    convexity: float = 0.0


class Scaling(LinearMap):
    """x ↦ μ x, the gradient of ½ μ |x|²."""

    def __init__(self, mu: float, like: Tensor) -> None:
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
        return self.like.new_tensor(self.mu * self.like.shape[-1])

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
        return Scaling(self.reading.convexity, self._of(self.reading.layers[0].A))

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
        owner: Any = self.energy
        *parts, name = path.split(".")
        for part in parts:
            owner = owner._modules[part]
        # A plain parameter without the search that nn.Module makes for it.
        found: Tensor | None = owner._parameters.get(name)
        return getattr(owner, name) if found is None else found

    def _effective(self) -> Deep:
        compute_parameters_of_parts(self)
        reading, direction = self.reading, self.reading.direction
        positive = POSITIVE[reading.positive]
        parts, below = [], 1.0
        for layer in reading.layers:
            # σ(β u)/β of a layer is σ of β u where what it passes on is β times as large.
            if layer.A:
                parts.append(_times(self._of(layer.A), layer.beta))
            if layer.V:
                parts.append(_times(positive(self._of(layer.V)), layer.beta / below))
            if layer.Q:
                parts.append(_times(self._of(layer.Q).permute(1, 2, 0), layer.beta**0.5))
            parts.append(_times(self._bias(layer), layer.beta))
            below = layer.beta
        parts.append(_times(positive(self._of(reading.c)), 1 / below))
        theta = torch.cat([part.reshape(-1) for part in parts])
        return Deep(theta, self._of(direction).reshape(-1) if direction else None, self.basis, self.structure)

    def _bias(self, layer: Layer) -> Tensor:
        if not layer.biases:
            weight = self._of(layer.A or layer.V)
            return weight.new_zeros(weight.shape[0])
        first, *others = map(self._of, layer.biases)
        return sum(others, first)

    def extra_repr(self) -> str:
        return f"{self.reading.label}, widths={self.structure.widths}, activation={list(self.basis)}"


def _times(tensor: Tensor, factor: float) -> Tensor:
    """The product, without an operation where there is nothing to do."""
    return tensor if factor == 1.0 else tensor * factor


def gradient_of(energy: nn.Module) -> EnergyGradient:
    """The gradient of an energy as a network of this package: fused, differentiable twice, on the same parameters.

    The energy is a torch.nn.Sequential of Linear layers and activations that ends in one output, or a module that holds
    one; or an input convex network in one of two usual forms: with lists `Wzs` and `Wxs`, z ← σ(P(W_i) z + X_i x + b)
    and F = P(W_L) z + X_L x, P the identity, softplus, the square or softplus over the fan-in; or with
    `quadratic_layers`, `convex_layers`, `final_layer` and `strong_convexity`.  It is known by structure and parameters,
    and compared with autograd here: values, gradients and the parameters' gradients, at perturbed parameters too.

    Equivalent to:
        lambda x: torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]

    Args:
        energy: the module, (…, d) → (…, 1) or (…,).

    Returns:
        A network with all methods of `GradNet`: forward is the gradient, `potential` the energy.  Its parameters are
        the energy's own, so that an optimiser of either trains both.

    Raises:
        TypeError, ValueError: the energy is none of these; the message names the layer and the reason.

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
    reasons: list[str] = []
    for reading in _readings(energy):
        try:
            return _verified(EnergyGradient(energy, reading))
        except MismatchError as mismatch:
            reasons.append(f"read as {reading.label}: it {mismatch}")
    fix = "rewrite it as one of these, or use autograd"
    expected = "the energy that its structure says" if reasons else "a Sequential or an input convex network"
    got = "; ".join(dict.fromkeys(reasons[:3])) or f"{type(energy).__name__} with other parameters"
    raise ValueError(message(_WHERE, "energy", expected, got, fix))


def _readings(energy: nn.Module) -> Iterator[Reading]:
    parts = energy._modules
    if {"quadratic_layers", "convex_layers", "final_layer"} <= parts.keys():
        yield from _quadratic(energy)
    elif {"Wzs", "Wxs"} <= parts.keys():
        yield from _two_lists(energy)
    else:
        yield _sequential(energy)


def _verified(net: EnergyGradient) -> EnergyGradient:
    truth = _ByAutograd(net.energy)
    verified(net, behaviour(truth, probe(truth, net.in_dim, _WIDE), "potential"))
    return net


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
        F: Tensor = self.energy(x)
        if F.numel() != x.shape[:-1].numel():
            raise MismatchError(f"returns shape {tuple(F.shape)} for points {tuple(x.shape)}, not one number for each")
        return F.reshape(x.shape[:-1])


def _refused(layer: str, reason: str) -> ValueError:
    fix = f"use activations of the table ({', '.join(TABLE)}) between Linear layers, or autograd"
    return ValueError(message(_WHERE, "energy", "Linear layers and activations", f"{layer}: {reason}", fix))


def _sequential(energy: nn.Module) -> Reading:
    """Linear layers with activations between them; the last has one output."""
    path, stack = _stack_of(energy)
    steps = list(_flattened(stack, path))
    if not steps or not isinstance(steps[-1][1], nn.Linear) or steps[-1][1].out_features != 1:
        last = f"{steps[-1][0]} ({type(steps[-1][1]).__name__})" if steps else type(energy).__name__
        raise _refused(last, "the energy does not end in a Linear layer with one output")
    layers: list[Layer] = []
    open_layer: Layer | None = None
    for name, step in steps[:-1]:
        if isinstance(step, nn.Linear):
            layers += [open_layer] if open_layer is not None else []
            weight, biases = f"{name}.weight", (f"{name}.bias",) if step.bias is not None else ()
            first = not layers
            open_layer = Layer("" if first else weight, weight if first else "", "", biases, "identity")
        elif open_layer is None or open_layer.basis != "identity":
            raise _refused(name, f"{type(step).__name__} does not follow a Linear layer")
        else:
            basis, beta = _activation(name, step)
            open_layer = replace(open_layer, basis=basis, beta=beta)
    if open_layer is None:
        raise _refused(steps[-1][0], "there is no hidden layer, and the gradient is constant")
    last, linear = steps[-1]
    constants = (f"{last}.bias",) if linear.bias is not None else ()
    return Reading("Sequential", (*layers, open_layer), f"{last}.weight", constants)


def _stack_of(energy: nn.Module) -> tuple[str, nn.Sequential]:
    """The Sequential that has all parameters of the energy, and its path."""
    everything = {id(parameter) for parameter in energy.parameters()}
    for path, module in energy.named_modules():
        if isinstance(module, nn.Sequential) and {id(parameter) for parameter in module.parameters()} == everything:
            return path, module
    fix = "pass the Sequential itself, or an input convex network with the usual names"
    got = f"{type(energy).__name__} with parameters {', '.join(name for name, _ in list(named_tensors(energy))[:5])}"
    raise TypeError(message(_WHERE, "energy", "a Sequential, or a module that holds one", got, fix))


def _flattened(stack: nn.Sequential, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, module in stack._modules.items():  # named_children leaves out one that is there twice
        here = f"{path}.{name}".lstrip(".")
        if module is None:
            continue
        if isinstance(module, nn.Sequential):
            yield from _flattened(module, here)
        elif not isinstance(module, nn.Identity):
            yield here, module


def _activation(layer: str, module: nn.Module) -> tuple[str, float]:
    """The basis function that a module computes, and its inverse temperature."""
    if next(module.parameters(), None) is not None:
        raise _refused(layer, f"{type(module).__name__} has parameters")
    beta = float(module.beta) if isinstance(module, nn.Softplus) else 1.0
    try:
        names = names_of([lambda z: beta * module(z / beta)], torch.empty(0, dtype=torch.float64, device="cpu"))
    except Exception as error:
        raise _refused(layer, f"{type(module).__name__} fails on a vector: {error}") from error
    if not names:
        raise _refused(layer, f"{type(module).__name__} is no activation of the table at its settings")
    return names[0], beta


def _guesses(energy: nn.Module) -> Sequence[str]:
    """Basis functions that the activations may be: those that an attribute says, or else all, the usual ones first."""
    usual = ["softplus", "elu", "relu", *TABLE]
    for value in (*vars(energy).values(), *energy.children()):
        if isinstance(value, str) and value.replace("celu", "elu") in TABLE:
            return [value.replace("celu", "elu")]
    return list(dict.fromkeys(usual))


def _quadratic(energy: Any) -> Iterator[Reading]:
    """Layers of squares and linear functions of x; the first without an activation."""
    count = len(energy.quadratic_layers)
    mu = float(getattr(energy, "strong_convexity", 0.0))

    def layer(i: int, basis: str) -> Layer:
        own = f"quadratic_layers.{i}"
        biases = [f"{own}.bias"] if energy.quadratic_layers[i].bias is not None else []
        convex = ""
        if i:
            convex = f"convex_layers.{i - 1}.weight"
            if getattr(energy.convex_layers[i - 1], "bias", None) is not None:
                biases.append(f"convex_layers.{i - 1}.bias")
        return Layer(convex, f"{own}.weight", f"{own}.quadratic_decomposed", tuple(biases), basis)

    constants = ("final_layer.bias",) if getattr(energy.final_layer, "bias", None) is not None else ()
    for basis in _guesses(energy):
        layers = tuple(layer(i, basis if i else "identity") for i in range(count))
        label = f"quadratic layers with {basis}"
        yield Reading(label, layers, "final_layer.weight", constants, convexity=mu)


def _two_lists(energy: Any) -> Iterator[Reading]:
    """z = σ(W₀ x + b), z ← σ(P(W_i) z + X_i x + b), F = P(W_L) z + X_L x; W₀ is the first of `Wzs` or of `Wxs`."""
    z, x = [f"Wzs.{i}" for i in range(len(energy.Wzs))], [f"Wxs.{i}" for i in range(len(energy.Wxs))]
    first, z, x = (z[0], z[1:], x) if len(z) > len(x) else (x[0], z, x[1:])
    if len(z) != len(x) or not z:
        got = f"{len(energy.Wzs)} and {len(energy.Wxs)}"
        raise ValueError(message(_WHERE, "energy", "one more of Wzs than Wxs, or of Wxs", got, "use autograd"))
    holders = dict(energy.named_modules())

    def weight(path: str) -> str:
        return f"{path}.weight" if path in holders else path

    def biases(*paths: str) -> tuple[str, ...]:
        return tuple(f"{path}.bias" for path in paths if getattr(holders.get(path), "bias", None) is not None)

    for basis in _guesses(energy):
        layers = [Layer("", weight(first), "", biases(first), basis)]
        layers += [Layer(weight(a), weight(b), "", biases(a, b), basis) for a, b in zip(z[:-1], x[:-1])]
        for positive in POSITIVE:
            label = f"Wzs and Wxs with {basis}, weights {positive}"
            yield Reading(label, tuple(layers), weight(z[-1]), biases(z[-1], x[-1]), weight(x[-1]), positive)
