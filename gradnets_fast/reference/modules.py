"""The module family: f(x) = Σ_m (gradient of a convex or smooth potential of W_m x + b_m) + bias."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .activations import antiderivative, value


def softmax_modules(
    x: Tensor, W: Tensor, b: Tensor, temperature: Tensor, positive: Tensor, negative: Tensor | None, bias: Tensor | None
) -> Tensor:
    """f = Σ_m W_mᵀ[p_m softmax(z_m) − q_m softmax(−z_m)] + bias, z_m = τ_m (W_m x + b_m).

    Shapes: x (…, d); W (M, h, d); b (M, h); temperature τ > 0, positive p, negative q (M,); bias (d,).
    """
    f = torch.zeros_like(x)
    for m in range(W.shape[0]):
        z = temperature[m] * (x @ W[m].T + b[m])
        s = positive[m] * torch.softmax(z, -1)
        if negative is not None:
            s = s - negative[m] * torch.softmax(-z, -1)
        f = f + s.to(W.dtype) @ W[m]
    return (f if bias is None else f + bias).to(x.dtype)


def softmax_modules_potential(
    x: Tensor, W: Tensor, b: Tensor, temperature: Tensor, positive: Tensor, negative: Tensor | None, bias: Tensor | None
) -> Tensor:
    """F = Σ_m [p_m LSE(z_m) + q_m LSE(−z_m)]/τ_m + bias·x, with ∇F = softmax_modules; returns (…,)."""
    potential = torch.zeros_like(x[..., 0])
    for m in range(W.shape[0]):
        z = temperature[m] * (x @ W[m].T + b[m])
        term = positive[m] * torch.logsumexp(z, -1)
        if negative is not None:
            term = term + negative[m] * torch.logsumexp(-z, -1)
        potential = potential + term / temperature[m]
    return (potential if bias is None else potential + x @ bias.to(x.dtype)).to(x.dtype)


def _log_cosh(t: Tensor) -> Tensor:
    return antiderivative("tanh", t)


TRANSFORM_VALUES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda t: t, torch.ones_like),
    "half_square": (lambda t: t * t / 2, lambda t: t),
    "softplus": (lambda t: F.softplus(t, threshold=40.0), torch.sigmoid),
    "logcosh": (_log_cosh, torch.tanh),
    "exp": (torch.exp, torch.exp),
    "log": (torch.log, torch.reciprocal),
}
"""ρ and ρ'."""


def transformed_modules(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, basis: str, transform: str
) -> Tensor:
    """f = Σ_m a_m ρ'(F_m) W_mᵀσ(z_m) + bias, z_m = W_m x + b_m, F_m = Σ_j Ψ(z_mj), Ψ' = σ.

    Shapes: x (…, d); W (M, h, d); b (M, h); weight a (M,); bias (d,); basis σ and transform ρ by name.
    """
    f = torch.zeros_like(x)
    for m in range(W.shape[0]):
        z = x @ W[m].T + b[m]
        slope = TRANSFORM_VALUES[transform][1](antiderivative(basis, z).sum(-1, keepdim=True))
        f = f + (weight[m] * slope * value(basis, z)).to(W.dtype) @ W[m]
    return (f if bias is None else f + bias).to(x.dtype)


def transformed_modules_potential(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, basis: str, transform: str
) -> Tensor:
    """F = Σ_m a_m ρ(F_m) + bias·x, with ∇F = transformed_modules; returns (…,)."""
    potential = torch.zeros_like(x[..., 0])
    for m in range(W.shape[0]):
        z = x @ W[m].T + b[m]
        potential = potential + weight[m] * TRANSFORM_VALUES[transform][0](antiderivative(basis, z).sum(-1))
    return (potential if bias is None else potential + x @ bias.to(x.dtype)).to(x.dtype)
