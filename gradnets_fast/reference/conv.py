"""The convolutional ridge family: f(x) = Kᵀφ(K∗x) + bias, φ a cascade of scalar functions for each channel.

K∗x has the size of x, by zeros or x's other end beyond the border, and Kᵀ is the exact adjoint of x ↦ K∗x.

Shapes: x (…, C_in, n_1, …, n_s) with s = 1, 2 or 3; K (C, C_in, k_1, …, k_s); scale, shift (L, C); coef (L, K, C), with
K names in basis; bias (C_in,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .ridge import cascade, cascade_integral, cascade_slope, with_ones

__all__ = ["conv_ridge", "conv_ridge_divergence", "conv_ridge_jvp", "conv_ridge_potential", "conv_trace_divergence"]

_CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _correlated(x: Tensor, K: Tensor, before: Sequence[int], padding: str) -> Tensor:
    """z_c(p) = Σ_{i,t} K[c,i,t] x_i(p + t − before), (B, C, n_1, …, n_s), of x (B, C_in, n_1, …, n_s)."""
    after = [k - 1 - b for k, b in zip(K.shape[2:], before)]
    if padding == "circular":
        for dim, (b, a) in enumerate(zip(before, after), start=2):
            n = x.shape[dim]
            x = torch.cat([x.narrow(dim, n - b, b), x, x.narrow(dim, 0, a)], dim)
    else:
        x = F.pad(x, [size for pair in zip(reversed(before), reversed(after)) for size in pair])
    convolved: Tensor = _CONVOLUTIONS[K.dim() - 2](x, K)
    return convolved


def projected(x: Tensor, K: Tensor, padding: str) -> Tensor:
    """K∗x with channels last, (B, n_1, …, n_s, C); B counts all leading dimensions of x."""
    images = x.reshape(-1, *x.shape[1 - K.dim() :])
    return _correlated(images, K, [(k - 1) // 2 for k in K.shape[2:]], padding).movedim(1, -1)


def _adjoint(z: Tensor, K: Tensor, padding: str, x: Tensor) -> Tensor:
    """Kᵀz, in the shape and dtype of x: y_i(q) = Σ_{c,t} K[c,i,t] z_c(q − t + before), z (B, n_1, …, n_s, C).

    With flipped filters it is a correlation too, which has as much before a pixel as that of K∗x has after it.
    """
    flipped = K.flip(list(range(2, K.dim()))).transpose(0, 1)
    y = _correlated(z.to(K.dtype).movedim(-1, 1), flipped, [k // 2 for k in K.shape[2:]], padding)
    return y.reshape(x.shape).to(x.dtype)


def conv_ridge(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    padding: str,
    heads: bool = False,
) -> Tensor:
    """f(x) = Kᵀφ(K∗x) + bias, in the shape of x; None for a scale or coefficient stands for ones."""
    hidden = cascade(projected(x, K, padding), *with_ones(scale, shift, coef, basis, K), basis, heads)
    f = _adjoint(hidden, K, padding, x)
    return f if bias is None else (f + bias.view(-1, *[1] * (K.dim() - 2))).to(x.dtype)


def conv_ridge_jvp(
    x: Tensor,
    v: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    padding: str,
    heads: bool = False,
) -> Tensor:
    """J(x) v = Kᵀ(φ'(K∗x) ⊙ K∗v), in the shape of x and v."""
    slope = cascade_slope(projected(x, K, padding), *with_ones(scale, shift, coef, basis, K), basis, heads)
    return _adjoint(slope * projected(v, K, padding), K, padding, x)


def conv_ridge_potential(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    padding: str,
    heads: bool = False,
) -> Tensor:
    """F(x) = Σ_c Σ_p ∫_0^{(K∗x)_c(p)} φ_c(t) dt + Σ_i bias_i Σ_p x_i(p), (…,), so F(0) = 0 and ∇F = f."""
    integral = cascade_integral(projected(x, K, padding), *with_ones(scale, shift, coef, basis, K), basis, heads)
    total = integral.flatten(1).sum(-1).reshape(x.shape[: 1 - K.dim()])
    if bias is not None:
        total = total + x.flatten(2 - K.dim()).sum(-1) @ bias.to(x.dtype)
    return total.to(x.dtype)


def conv_ridge_divergence(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    padding: str,
    heads: bool = False,
) -> Tensor:
    """tr J(x) = Σ_c Σ_p φ_c'((K∗x)_c(p)) n_c(p), (…,), n_c(p) = Σ_{i,t} K[c,i,t]² over the taps t inside the image."""
    inside = torch.ones((1, *x.shape[2 - K.dim() :]), dtype=x.dtype, device=x.device)
    norms = projected(inside, K.square().sum(1, keepdim=True), padding).movedim(-1, 1).squeeze(0)
    return conv_trace_divergence(x, K, scale, shift, coef, norms, bias, basis, padding, heads)


def conv_trace_divergence(
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    norms: Tensor,
    bias: Tensor | None,
    basis: Sequence[str],
    padding: str,
    heads: bool = False,
) -> Tensor:
    """Σ_c Σ_p φ_c'((K∗x)_c(p)) n_c(p), (…,), the norms n (C, m_1, …), m_i <= n_i, being repeated in the middle."""
    slope = cascade_slope(projected(x, K, padding), *with_ones(scale, shift, coef, basis, K), basis, heads)
    for i, n in enumerate(x.shape[2 - K.dim() :], start=1):
        middle, at = (norms.shape[i] - 1) // 2, torch.arange(n, device=norms.device)
        behind = at - (n - norms.shape[i] + middle)
        norms = norms.index_select(i, at.clamp(max=middle) + behind.clamp(min=0))
    return (slope * norms.movedim(0, -1)).flatten(1).sum(-1).reshape(x.shape[: 1 - K.dim()]).to(x.dtype)
