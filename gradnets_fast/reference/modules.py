"""The families of modules: f(x) = Σ_m (gradient of a convex or smooth potential of W_m x + b_m) + bias.

With sharpness κ > 0 () and offset c (M,) the potentials F_m are not summed, but combined by log-sum-exp, the soft
maximum F(x) = LSE_m(κ F_m + c_m)/κ.  Log-sum-exp is convex and nondecreasing in each argument, so that convex F_m make
a convex F.  With G_m = ∇F_m, H_m = ∇²F_m and s = softmax_m(κ F_m + c_m):

    f = Σ_m s_m G_m        J = Σ_m s_m [H_m + κ (G_m − f)(G_m − f)ᵀ]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .activations import antiderivative, derivative, sech_squared, sigmoid, value
from .ridge import gram

__all__ = [
    "TRANSFORM_VALUES",
    "softmax_modules",
    "softmax_modules_divergence",
    "softmax_modules_jacobian",
    "softmax_modules_jvp",
    "softmax_modules_potential",
    "transformed_modules",
    "transformed_modules_divergence",
    "transformed_modules_jacobian",
    "transformed_modules_jvp",
    "transformed_modules_potential",
]


def softmax_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """f = Σ_m W_mᵀ[p_m softmax(z_m) − q_m softmax(−z_m)] + bias, z_m = τ_m (W_m x + b_m).

    Shapes: x (…, d); W (M, h, d); b (M, h); temperature τ > 0, positive p, negative q (M,); bias (d,).
    """
    if sharpness is not None:
        assert offset is not None
        combined = soft_maximum_value(_SOFTMAX, x, (W, b, temperature, positive, negative), sharpness, offset)
        return (combined if bias is None else combined + bias).to(x.dtype)
    f = torch.zeros_like(x)
    for m in range(W.shape[0]):
        z = temperature[m] * (x @ W[m].T + b[m])
        s = positive[m] * torch.softmax(z, -1)
        if negative is not None:
            s = s - negative[m] * torch.softmax(-z, -1)
        f = f + s.to(W.dtype) @ W[m]
    return (f if bias is None else f + bias).to(x.dtype)


def softmax_modules_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """J(x) v = Σ_m Σ_± τ_m p_m W_mᵀ[π ⊙ (a − π·a)], a = W_m v, with (p, π) = (p, softmax(z)), (q, softmax(−z))."""
    if sharpness is not None:
        assert offset is not None
        return soft_maximum_jvp(_SOFTMAX, x, v, (W, b, temperature, positive, negative), sharpness, offset)
    tangent = torch.zeros_like(x)
    for W_m, weight, pi in _softmax_terms(x, W, b, temperature, positive, negative):
        a = v @ W_m.T
        centred = a - (pi * a).sum(-1, keepdim=True)
        tangent = tangent + (weight * pi * centred).to(W.dtype) @ W_m
    return tangent.to(x.dtype)


def softmax_modules_divergence(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """tr J(x) = Σ_m Σ_± τ_m p_m [Σ_j π_j |w_mj|² − |W_mᵀπ|²], terms as in `softmax_modules_jvp`; returns (…,)."""
    if sharpness is not None:
        assert offset is not None
        return soft_maximum_divergence(_SOFTMAX, x, (W, b, temperature, positive, negative), sharpness, offset)
    trace = torch.zeros_like(x[..., 0])
    for W_m, weight, pi in _softmax_terms(x, W, b, temperature, positive, negative):
        mean = pi.to(W.dtype) @ W_m
        trace = trace + weight * ((pi * W_m.square().sum(-1)).sum(-1) - mean.square().sum(-1))
    return trace.to(x.dtype)


def softmax_modules_jacobian(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """J(x) = Σ_m Σ_± τ_m p_m W_mᵀ(diag π − ππᵀ)W_m, terms as in `softmax_modules_jvp`; returns (…, d, d)."""
    if sharpness is not None:
        assert offset is not None
        return soft_maximum_jacobian(_SOFTMAX, x, (W, b, temperature, positive, negative), sharpness, offset)
    jacobian = x.new_zeros(*x.shape, x.shape[-1])
    for W_m, weight, pi in _softmax_terms(x, W, b, temperature, positive, negative):
        mean = pi.to(W.dtype) @ W_m
        jacobian = jacobian + weight * (gram(W_m, pi) - _outer(mean))
    return jacobian.to(x.dtype)


def _softmax_terms(
    x: Tensor, W: Tensor, b: Tensor, temperature: Tensor, positive: Tensor, negative: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(W_m, τ_m p_m, softmax(z_m)) and (W_m, τ_m q_m, softmax(−z_m)) of each module: the terms of the Jacobian."""
    for m in range(W.shape[0]):
        z = temperature[m] * (x @ W[m].T + b[m])
        yield W[m], temperature[m] * positive[m], torch.softmax(z, -1)
        if negative is not None:
            yield W[m], temperature[m] * negative[m], torch.softmax(-z, -1)


def _outer(g: Tensor) -> Tensor:
    """g gᵀ, (…, d) → (…, d, d)."""
    return g.unsqueeze(-1) * g.unsqueeze(-2)


def softmax_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """F = Σ_m [p_m LSE(z_m) + q_m LSE(−z_m)]/τ_m + bias·x, with ∇F = softmax_modules; returns (…,)."""
    if sharpness is not None:
        assert offset is not None
        combined = soft_maximum_potential(_SOFTMAX, x, (W, b, temperature, positive, negative), sharpness, offset)
        return (combined if bias is None else combined + x @ bias.to(x.dtype)).to(x.dtype)
    potential = torch.zeros_like(x[..., 0])
    for m in range(W.shape[0]):
        z = temperature[m] * (x @ W[m].T + b[m])
        term = positive[m] * torch.logsumexp(z, -1)
        if negative is not None:
            term = term + negative[m] * torch.logsumexp(-z, -1)
        potential = potential + term / temperature[m]
    return (potential if bias is None else potential + x @ bias.to(x.dtype)).to(x.dtype)


Scalar = Callable[[Tensor], Tensor]

TRANSFORM_VALUES: dict[str, tuple[Scalar, Scalar, Scalar]] = {
    "identity": (lambda t: t, torch.ones_like, torch.zeros_like),
    "half_square": (lambda t: t * t / 2, lambda t: t, torch.ones_like),
    "softplus": (lambda t: F.softplus(t, threshold=40.0), torch.sigmoid, lambda t: sigmoid(t) * sigmoid(-t)),
    "logcosh": (lambda t: antiderivative("tanh", t), torch.tanh, sech_squared),
    "exp": (torch.exp, torch.exp, torch.exp),
    "log": (torch.log, torch.reciprocal, lambda t: -t.reciprocal().square()),
}
"""ρ, ρ' and ρ''."""


def transformed_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    basis: str,
    transform: str,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """f = Σ_m a_m ρ'(F_m) W_mᵀσ(z_m) + bias, z_m = W_m x + b_m, F_m = Σ_j Ψ(z_mj), Ψ' = σ.

    Shapes: x (…, d); W (M, h, d); b (M, h); weight a (M,); bias (d,); basis σ and transform ρ by name.
    """
    if sharpness is not None:
        assert offset is not None
        combined = soft_maximum_value(_transformed(basis, transform), x, (W, b, weight), sharpness, offset)
        return (combined if bias is None else combined + bias).to(x.dtype)
    f = torch.zeros_like(x)
    for m in range(W.shape[0]):
        z = x @ W[m].T + b[m]
        slope = TRANSFORM_VALUES[transform][1](antiderivative(basis, z).sum(-1, keepdim=True))
        f = f + (weight[m] * slope * value(basis, z)).to(W.dtype) @ W[m]
    return (f if bias is None else f + bias).to(x.dtype)


def transformed_modules_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    basis: str,
    transform: str,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """J(x) v = Σ_m a_m W_mᵀ[ρ''(F_m) (σ·W_m v) σ + ρ'(F_m) σ' ⊙ W_m v], σ = σ(z_m)."""
    if sharpness is not None:
        assert offset is not None
        return soft_maximum_jvp(_transformed(basis, transform), x, v, (W, b, weight), sharpness, offset)
    tangent = torch.zeros_like(x)
    for m, z, first, second in _transformed_terms(x, W, b, weight, basis, transform):
        s, a = value(basis, z), v @ W[m].T
        hidden = second * (s * a).sum(-1, keepdim=True) * s + first * derivative(basis, z) * a
        tangent = tangent + hidden.to(W.dtype) @ W[m]
    return tangent.to(x.dtype)


def transformed_modules_divergence(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    basis: str,
    transform: str,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """tr J(x) = Σ_m a_m [ρ''(F_m) |∇F_m|² + ρ'(F_m) Σ_j σ'(z_mj) |w_mj|²], ∇F_m = W_mᵀσ(z_m); returns (…,)."""
    if sharpness is not None:
        assert offset is not None
        return soft_maximum_divergence(_transformed(basis, transform), x, (W, b, weight), sharpness, offset)
    trace = torch.zeros_like(x[..., 0])
    for m, z, first, second in _transformed_terms(x, W, b, weight, basis, transform):
        gradient = value(basis, z).to(W.dtype) @ W[m]
        curvature = (derivative(basis, z) * W[m].square().sum(-1)).sum(-1)
        trace = trace + second.squeeze(-1) * gradient.square().sum(-1) + first.squeeze(-1) * curvature
    return trace.to(x.dtype)


def transformed_modules_jacobian(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    basis: str,
    transform: str,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """J(x) = Σ_m a_m [ρ''(F_m) ∇F_m∇F_mᵀ + ρ'(F_m) W_mᵀ diag(σ'(z_m)) W_m]; returns (…, d, d)."""
    if sharpness is not None:
        assert offset is not None
        return soft_maximum_jacobian(_transformed(basis, transform), x, (W, b, weight), sharpness, offset)
    jacobian = x.new_zeros(*x.shape, x.shape[-1])
    for m, z, first, second in _transformed_terms(x, W, b, weight, basis, transform):
        gradient = value(basis, z).to(W.dtype) @ W[m]
        curvature = gram(W[m], first * derivative(basis, z))
        jacobian = jacobian + second.unsqueeze(-1) * _outer(gradient) + curvature
    return jacobian.to(x.dtype)


def _transformed_terms(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, basis: str, transform: str
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(m, z_m, a_m ρ'(F_m), a_m ρ''(F_m)) of each module; the last two (…, 1)."""
    _, first, second = TRANSFORM_VALUES[transform]
    for m in range(W.shape[0]):
        z = x @ W[m].T + b[m]
        total = antiderivative(basis, z).sum(-1, keepdim=True)
        yield m, z, weight[m] * first(total), weight[m] * second(total)


def transformed_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    basis: str,
    transform: str,
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """F = Σ_m a_m ρ(F_m) + bias·x, with ∇F = transformed_modules; returns (…,)."""
    if sharpness is not None:
        assert offset is not None
        combined = soft_maximum_potential(_transformed(basis, transform), x, (W, b, weight), sharpness, offset)
        return (combined if bias is None else combined + x @ bias.to(x.dtype)).to(x.dtype)
    potential = torch.zeros_like(x[..., 0])
    for m in range(W.shape[0]):
        z = x @ W[m].T + b[m]
        potential = potential + weight[m] * TRANSFORM_VALUES[transform][0](antiderivative(basis, z).sum(-1))
    return (potential if bias is None else potential + x @ bias.to(x.dtype)).to(x.dtype)


def value_and_potential(family: str, x: Tensor, **arguments: Any) -> Tensor:
    """(f(x), F(x)) without bias, (…, d + 1); family: "softmax_modules" or "transformed_modules", with its arguments."""
    value, potential = (softmax_modules, softmax_modules_potential)
    if family == "transformed_modules":
        value, potential = (transformed_modules, transformed_modules_potential)  # type: ignore[assignment]
    wide = _widened({"x": x, **arguments})
    f, F = value(x, bias=None, **arguments), potential(bias=None, **wide)
    return torch.cat([f, F.to(f.dtype).unsqueeze(-1)], -1)


def _widened(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with tensors in float32 at least."""
    return {name: _wide(a) if isinstance(a, Tensor) else a for name, a in arguments.items()}


def _wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


Parameters = Sequence["Tensor | None"]


@dataclass(frozen=True)
class ModuleFunctions:
    """The functions of one module, of (x, [v], *parameters) without bias: (f, F) at once, F, J v, tr J and J.

    F is in float32 at least: an absolute error of κF is a relative one of s.
    """

    value_and_potential: Callable[..., tuple[Tensor, Tensor]]
    potential: Callable[..., Tensor]
    jvp: Callable[..., Tensor]
    divergence: Callable[..., Tensor]
    jacobian: Callable[..., Tensor]


def soft_maximum_value(
    module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> Tensor:
    """f(x), (…, d); parameters: of all modules, (M, …)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    return (s.unsqueeze(-1) * G).sum(-2).to(x.dtype)


def soft_maximum_potential(
    module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> Tensor:
    """F(x), (…,)."""
    potentials = torch.stack([module.potential(x, *one) for one in _each_module(parameters)], -1)
    return ((sharpness * potentials + offset).logsumexp(-1) / sharpness).to(x.dtype)


def soft_maximum_jvp(
    module: ModuleFunctions, x: Tensor, v: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> Tensor:
    """J(x) v, (…, d)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    along = (G * v.unsqueeze(-2)).sum(-1)
    turned = s * (along - (s * along).sum(-1, keepdim=True)) * sharpness
    curved = torch.stack([module.jvp(x, v, *one) for one in _each_module(parameters)], -2)
    return (s.unsqueeze(-1) * curved + turned.unsqueeze(-1) * G).sum(-2).to(x.dtype)


def soft_maximum_divergence(
    module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> Tensor:
    """tr J(x), (…,)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    apart = G - (s.unsqueeze(-1) * G).sum(-2, keepdim=True)
    curved = torch.stack([module.divergence(x, *one) for one in _each_module(parameters)], -1)
    return (s * (curved + sharpness * apart.square().sum(-1))).sum(-1).to(x.dtype)


def soft_maximum_jacobian(
    module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> Tensor:
    """J(x), (…, d, d)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    apart = G - (s.unsqueeze(-1) * G).sum(-2, keepdim=True)
    total = sharpness * ((s.unsqueeze(-1) * apart).mT @ apart.to(s.dtype))
    for m, one in enumerate(_each_module(parameters)):
        total = total + s[..., m, None, None] * module.jacobian(x, *one)
    return total.to(x.dtype)


SOFT_MAXIMUM: dict[str, Callable[..., Tensor]] = {
    "value": soft_maximum_value,
    "potential": soft_maximum_potential,
    "jvp": soft_maximum_jvp,
    "divergence": soft_maximum_divergence,
    "jacobian": soft_maximum_jacobian,
}
"""Each quantity as a function of (module, x, [v], parameters, sharpness, offset)."""


def _each_module(parameters: Parameters) -> list[list[Tensor | None]]:
    """The parameters of each module, (1, …)."""
    first = parameters[0]
    assert first is not None
    return [[None if t is None else t[m : m + 1] for t in parameters] for m in range(len(first))]


def _shares_and_gradients(
    module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """s, (…, M), and G, (…, M, d)."""
    gradients, potentials = zip(*(module.value_and_potential(x, *one) for one in _each_module(parameters)))
    s, G = (sharpness * torch.stack(potentials, -1) + offset).softmax(-1), torch.stack(gradients, -2)
    return s.to(torch.promote_types(G.dtype, torch.float32)), G


def _module_functions(
    value: Callable[..., Tensor],
    potential: Callable[..., Tensor],
    *others: Callable[..., Tensor],
    settings: tuple[str, ...],
) -> ModuleFunctions:
    """The functions of one module, of (x, [v], *parameters); others: J v, tr J, J."""

    def of_one(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *tensors: function(*tensors, None, *settings)

    def wide_potential(*tensors: Tensor | None) -> Tensor:
        return of_one(potential)(*map(_wide, tensors))

    def both(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        return of_one(value)(*tensors), wide_potential(*tensors)

    return ModuleFunctions(both, wide_potential, *map(of_one, others))


_SOFTMAX = _module_functions(
    softmax_modules,
    softmax_modules_potential,
    *(softmax_modules_jvp, softmax_modules_divergence, softmax_modules_jacobian),
    settings=(),
)


def _transformed(basis: str, transform: str) -> ModuleFunctions:
    return _module_functions(
        transformed_modules,
        transformed_modules_potential,
        *(transformed_modules_jvp, transformed_modules_divergence, transformed_modules_jacobian),
        settings=(basis, transform),
    )
