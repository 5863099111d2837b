"""`gradient_of`: the fused gradient of an energy that someone has, on the same parameters.

Each way to read an energy, a `Reading`, is compared with autograd before it is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activations import TABLE
from ..errors import check_flag, check_parameters, message
from ..functional import Deep, Structure
from ..nn import GradNet
from ..nn.base import LinearMap
from ..nn.hooks import compute_parameters_of_parts
from .readings import POSITIVE, WHERE, Reading, check_shapes, found_at, readings_of
from .verification import Behaviour, MismatchError, behaviour, probe, verified

_WIDE = (1.0, 8.0)
"""Scales of the points of a comparison: near 0 many activations resemble each other."""


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
        keep: as in `DeepGradNet`.
    """

    family = Deep

    def __init__(self, energy: nn.Module, reading: Reading, keep: bool = False) -> None:
        super().__init__()
        self.energy, self.reading, self.keep = energy, reading, keep
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
        mu = found_at(self.energy, self.reading.convexity)
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
        tensor: Tensor = found_at(self.energy, path)
        return tensor

    def _effective(self) -> Deep:
        compute_parameters_of_parts(self)
        reading, direction = self.reading, self.reading.direction
        positive = POSITIVE[reading.positive]
        parts, below = [], 1.0
        for layer, width in zip(reading.layers, self.structure.widths):
            # σ(β u)/β of a layer is σ of β u where what it passes on is β times as large.
            beta = found_at(self.energy, layer.beta) if layer.beta else 1.0
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
        bias = self._of(direction).reshape(-1) if direction else None
        return Deep(theta, bias, self.basis, self.structure, self.keep)

    def extra_repr(self) -> str:
        return f"{self.reading.label}, widths={self.structure.widths}, activation={list(self.basis)}"


def _times(tensor: Tensor, factor: float) -> Tensor:
    """The product, without an operation where there is nothing to do."""
    return tensor if factor == 1.0 else tensor * factor


def gradient_of(energy: nn.Module, *, keep: bool = False) -> EnergyGradient:
    """The gradient of an energy as a network of this package: fused, differentiable twice, on the same parameters.

    The energy is a torch.nn.Sequential of Linear layers and activations that ends in one output; or an input convex
    network in one of two usual forms: with lists `Wzs` and `Wxs`, z ← σ(P(W_i) z + X_i x + b) and
    F = P(W_L) z + X_L x, P the identity, softplus, the square or softplus over the fan-in; or with `quadratic_layers`,
    `convex_layers`, `final_layer` and `strong_convexity`; or a module that holds one of these and returns what it does.
    Classes have any name.  It is compared with autograd here: values, gradients and the parameters' gradients, at its
    parameters, at perturbed ones and at ones of other signs, with other values of its buffers, in both modes.

    Parameters, masks of pruning, vectors of spectral_norm, `strong_convexity` and the beta of a torch.nn.Softplus are
    read at each call; other buffers that forward uses, unless of integers, are refused.  Which layers there are, which
    functions their activations compute, and all other numbers that forward uses are read once, here: after a change of
    those, call it again.  A Dropout with p > 0 is refused in either mode.

    Equivalent to:
        lambda x: torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]

    Args:
        energy: the module, (…, d) → (…, 1) or (…,); with spectral_norm in evaluation mode.
        keep: as in `DeepGradNet`: training may be a little quicker, and takes more memory.

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
        raise TypeError(message(WHERE, "energy", "a torch.nn.Module", type(energy).__name__, fix))
    check_flag(WHERE, "keep", keep)
    _check_tensors(energy)
    reasons: list[str] = []
    before: Behaviour | None = None
    for reading in readings_of(energy):
        check_shapes(energy, reading)
        net = EnergyGradient(energy, reading, keep)
        before = before or _behaviour(energy, net.in_dim)
        try:
            verified(net, before)
            return net
        except MismatchError as mismatch:
            reasons.append(f"read as {reading.label}: it {mismatch}")
    expected = f"the energy that its structure says, with activations of the table ({', '.join(TABLE)})"
    got = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} other readings" if reasons[3:] else "")
    fix = "rewrite it so, its activations at their default settings or as modules of torch.nn, or use autograd"
    raise ValueError(message(WHERE, "energy", expected, got, fix))


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
        raise ValueError(message(WHERE, f"energy.{name}", "a tensor that has values and gradients", got, fix))
    check_parameters(WHERE, ((f"energy.{name}", parameter) for name, parameter in energy.named_parameters()))


def _behaviour(energy: nn.Module, d: int) -> Behaviour:
    """What an energy and autograd compute."""
    truth = _ByAutograd(energy)
    try:
        return behaviour(truth, probe(truth, d, _WIDE), "potential")
    except MismatchError as mismatch:
        expected = "a function of the points and of its parameters and buffers alone"
        raise ValueError(
            message(WHERE, "energy", expected, f"one that {mismatch}", "or use autograd for it as it is")
        ) from mismatch
    except Exception as error:  # as may a user's forward
        got = f"one that fails on them: {type(error).__name__}: {' '.join(str(error).split())}"
        fix = "see that energy(points) and its gradient by autograd work first"
        raise ValueError(message(WHERE, "energy", f"a module that takes points (…, {d})", got, fix)) from error


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
