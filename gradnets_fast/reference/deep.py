"""The gradient of a multi-layer energy F(x) = <c, a_L>: a_l = σ_l(u_l), plus a_{l−1} where layers are residual, with

    u_l = V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l.

With p_L = c, s_l = σ_l'(u_l) ⊙ p_l and p_{l−1} = V_lᵀ s_l, plus p_l where layers are residual:

    f = ∇F = Σ_l [A_lᵀ s_l + 2 Σ_r Q_lrᵀ((Q_lr x) ⊙ s_l)]

and with U_l = ∂u_l/∂x:    J = Σ_l [U_lᵀ diag(σ_l''(u_l) ⊙ p_l) U_l + 2 Σ_r Q_lrᵀ diag(s_l) Q_lr].

theta holds for each layer A (h, d), V (h, h_{l−1}), Q (rank, h, d) and b (h), row by row and one after the other, and
then c (h_L).  The first layer has A and no V; the others have V, and A with an input skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .activations import derivative, second_derivative, value

__all__ = ["deep", "deep_divergence", "deep_jacobian", "deep_jvp", "deep_potential"]


@dataclass
class _Layer:
    """One layer's parameters, and its u, y_r = Q_r x, a and p at the points; residual: whether a of the one below is
    added."""

    name: str
    residual: bool
    A: Tensor | None
    V: Tensor | None
    Q: Tensor
    b: Tensor
    u: Tensor
    y: Tensor
    a: Tensor
    p: Tensor

    @property
    def s(self) -> Tensor:
        return derivative(self.name, self.u) * self.p

    @property
    def curvature(self) -> Tensor:
        return second_derivative(self.name, self.u) * self.p


def _layers(
    x: Tensor,
    theta: Tensor,
    *,
    basis: Sequence[str],
    widths: Sequence[int],
    input_skip: bool = False,
    rank: int = 0,
    residual: bool = False,
) -> tuple[list[_Layer], Tensor]:
    """The layers after both passes, and c, of the settings of a network: the module's docstring says what they mean."""
    d, at, before = x.shape[-1], 0, 0
    layers: list[_Layer] = []

    def take(*shape: int) -> Tensor:
        nonlocal at
        count = torch.Size(shape).numel()
        at += count
        return theta[at - count : at].reshape(shape)

    for i, (name, h) in enumerate(zip(basis, widths)):
        A = take(h, d) if i == 0 or input_skip else None
        V = take(h, before) if i else None
        Q, b, before = take(rank, h, d), take(h), h
        y = (x @ Q.flatten(0, 1).T).unflatten(-1, (rank, h))
        u = b + y.square().sum(-2)
        if A is not None:
            u = u + x @ A.T
        if V is not None:
            u = u + layers[-1].a @ V.T
        adds, a = residual and i > 0, value(name, u)
        layers.append(_Layer(name, adds, A, V, Q, b, u, y, a + layers[-1].a if adds else a, u))
    c = take(before)
    p = c
    for layer in reversed(layers):
        layer.p = p
        if layer.V is not None:
            p = layer.s @ layer.V + (p if layer.residual else 0)
    return layers, c


def deep(x: Tensor, theta: Tensor, bias: Tensor | None, **settings: Any) -> Tensor:
    """f = ∇F + bias.  Shapes: x (…, d) → (…, d); bias (d,)."""
    layers, _ = _layers(x, theta, **settings)
    f = torch.zeros_like(x)
    for layer in layers:
        if layer.A is not None:
            f = f + layer.s @ layer.A
        f = f + 2 * (layer.y * layer.s.unsqueeze(-2)).flatten(-2) @ layer.Q.flatten(0, 1)
    return (f if bias is None else f + bias).to(x.dtype)


def deep_potential(x: Tensor, theta: Tensor, bias: Tensor | None, **settings: Any) -> Tensor:
    """F = <c, a_L> + bias·x, (…,)."""
    layers, c = _layers(x, theta, **settings)
    F = layers[-1].a @ c
    return F if bias is None else (F + x @ bias.to(x.dtype)).to(x.dtype)


def deep_jvp(x: Tensor, v: Tensor, theta: Tensor, bias: Tensor | None, **settings: Any) -> Tensor:
    """J v = Σ_l [A_lᵀ e_l + 2 Σ_r Q_rᵀ(y_r ⊙ e_l + (Q_r v) ⊙ s_l)], (…, d).

    On the way up τ_l = V_l t_{l−1} + A_l v + 2 Σ_r y_r ⊙ (Q_r v) and t_l = σ' ⊙ τ_l; on the way down
    e_l = σ'' ⊙ τ_l ⊙ p_l + σ' ⊙ r_l and r_{l−1} = V_lᵀ e_l, from r_L = 0.
    """
    layers, _ = _layers(x, theta, **settings)
    tangents = _tangents(v, layers)
    product, r = torch.zeros_like(v), torch.zeros_like(layers[-1].u)
    for layer, (tau, of_squares) in zip(reversed(layers), reversed(tangents)):
        e = layer.curvature * tau + derivative(layer.name, layer.u) * r
        if layer.A is not None:
            product = product + e @ layer.A
        squares = layer.y * e.unsqueeze(-2) + of_squares * layer.s.unsqueeze(-2)
        product = product + 2 * squares.flatten(-2) @ layer.Q.flatten(0, 1)
        if layer.V is not None:
            r = e @ layer.V + (r if layer.residual else 0)
    return product.to(x.dtype)


def _tangents(v: Tensor, layers: Sequence[_Layer], extra: int = 0) -> list[tuple[Tensor, Tensor]]:
    """τ_l and Q_r v of each layer for directions v; `extra` dimensions of v lie between the rows and d."""
    found: list[tuple[Tensor, Tensor]] = []
    t = v

    def among(tensor: Tensor, dimensions: int) -> Tensor:
        for _ in range(extra):
            tensor = tensor.unsqueeze(-1 - dimensions)
        return tensor

    for layer in layers:
        rank, h = layer.Q.shape[:2]
        of_squares = (v @ layer.Q.flatten(0, 1).T).unflatten(-1, (rank, h))
        tau = 2 * (among(layer.y, 2) * of_squares).sum(-2)
        if layer.A is not None:
            tau = tau + v @ layer.A.T
        if layer.V is not None:
            tau = tau + t @ layer.V.T
        found.append((tau, of_squares))
        slope = among(derivative(layer.name, layer.u), 1)
        t = slope * tau + (t if layer.residual else 0)
    return found


def deep_divergence(x: Tensor, theta: Tensor, bias: Tensor | None, **settings: Any) -> Tensor:
    """tr J = Σ_l [Σ_j σ''_j p_j |row j of U_l|² + 2 Σ_{r,j} s_j |row j of Q_r|²], the Laplacian of F, (…,)."""
    layers, _ = _layers(x, theta, **settings)
    trace = torch.zeros_like(x[..., 0])
    for layer, (tau, of_squares) in zip(layers, _tangents(_directions(x), layers, 1)):
        trace = trace + (layer.curvature * tau.square().sum(-2)).sum(-1)
        trace = trace + 2 * (layer.s * of_squares.square().sum((-3, -2))).sum(-1)
    return trace.to(x.dtype)


def deep_jacobian(x: Tensor, theta: Tensor, bias: Tensor | None, **settings: Any) -> Tensor:
    """J = Σ_l [U_lᵀ diag(σ''(u_l) ⊙ p_l) U_l + 2 Σ_r Q_rᵀ diag(s_l) Q_r], (…, d, d)."""
    layers, _ = _layers(x, theta, **settings)
    J = torch.zeros_like(_directions(x))
    for layer, (tau, of_squares) in zip(layers, _tangents(_directions(x), layers, 1)):
        J = J + (tau * layer.curvature.unsqueeze(-2)) @ tau.mT
        squares = (of_squares * layer.s[..., None, None, :]).flatten(-2)
        J = J + 2 * squares @ of_squares.flatten(-2).mT
    return J.to(x.dtype)


def _directions(x: Tensor) -> Tensor:
    """The unit vectors for each row of x, (…, d, d)."""
    d = x.shape[-1]
    return torch.eye(d, dtype=x.dtype, device=x.device).expand(*x.shape[:-1], d, d)
