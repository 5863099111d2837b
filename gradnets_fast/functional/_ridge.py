"""The ridge family: f(x) = φ(x Wᵀ) W + bias.

Every function makes a `Network` of its arguments and calls the method of its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._network import Ridge

__all__ = ["ridge", "ridge_divergence", "ridge_jacobian", "ridge_jvp", "ridge_potential"]


def ridge(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Gradient network whose hidden units are functions of their own projection only: f(x) = φ(x Wᵀ) W + bias.

    φ is a cascade: z_0 = β_0 u + s_0, z_l = β_l u + s_l + Σ_k C_{l−1,k} b_k(z_{l−1}), φ = Σ_k C_{L−1,k} b_k(z_{L−1}).

    Equivalent to, for one layer and one basis function:
        (coef[0, 0] * torch.tanh(scale[0] * (x @ W.T) + shift[0])) @ W + bias

    Args:
        x: points, (…, d).
        W: one row per hidden unit, (h, d).
        scale: β, (L, h), or None for ones.
        shift: s, (L, h); for one layer also (h,).
        coef: C, (L, K, h), or None for ones.
        bias: added to the result, (d,).
        basis: K names of `gradnets_fast.activations.TABLE`, or one name when K = 1; or "spline", of one layer: φ_j is
            linear between T uniform knots on [−1, 1], where its values are coef[0, :, j], coef being (1, T, h), and
            goes on beyond them with the first and the last slope.
        heads: the L layers are heads in parallel instead: φ = Σ_l Σ_k C_{lk} b_k(β_l u + s_l).
        backend: "reference", "cpp" or "triton"; by default the fastest that can.

    All tensors have the device and dtype of x: float64, float32, bfloat16 or float16; beside a 16-bit x, the vectors
    (scale, shift, coef, bias) may be float32.  Under autocast x and W are cast.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError: an argument's type, layout or dtype.  ValueError: its shape or device, or an unknown name.
        BackendUnavailableError: a backend was named that cannot run the call.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361, GradNet-C.

    >>> import torch
    >>> x, W = torch.ones(5, 2), torch.eye(2)
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> y = ridge(x, W, scale=one, shift=zero, coef=one[None], basis="tanh")
    >>> torch.allclose(y, torch.tanh(x))
    True
    """
    return Ridge(W, scale, shift, coef, bias, basis, heads).value(x, backend)


def ridge_potential(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Potential of `ridge`: the F with ∇F = f and F(0) = 0, namely F(x) = Σ_j ∫_0^{u_j} φ_j(t) dt + bias·x.

    One layer has the closed form Σ_k C_k (Φ_k(βu + s) − Φ_k(s))/β.  Deeper cascades use Gauss–Legendre quadrature with
    up to 16 nodes in each of 8 equal panels of [0, u_j], and on a CPU with fewer where they do: at rounding level while
    |β u_j| <= 16 for an analytic basis.  Functions with kinks add up the intervals of [0, u_j] between kinks, up to 64
    of them, with 16 nodes in each, or one where all are piecewise linear.

    Equivalent to, for one layer of tanh with β = C = 1:
        (log_cosh(x @ W.T + shift[0]) - log_cosh(shift[0])).sum(-1) + x @ bias

    Args:
        x: points, (…, d).
        W: one row per hidden unit, (h, d).
        scale, shift, coef: the cascade's β (L, h), s (L, h) and C (L, K, h), as in `ridge`.
        bias: (d,); adds bias·x.
        basis, heads, backend: as in `ridge`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, the potential whose gradient a GradNet is.

    >>> import torch
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> float(ridge_potential(torch.tensor([3.0, 4.0]), torch.eye(2), one, zero, one[None], basis="identity"))
    12.5
    """
    return Ridge(W, scale, shift, coef, bias, basis, heads).potential(x, backend)


def ridge_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Jacobian-vector product of `ridge`: J(x) v = Wᵀ(φ'(u) ⊙ W v), u = W x.

    J is symmetric, so that this is the vector-Jacobian product too.

    Equivalent to, for one layer of tanh:
        (1 - torch.tanh(scale[0] * (x @ W.T) + shift[0]) ** 2) * coef[0, 0] * scale[0] * (v @ W.T) @ W

    Args:
        x: points, (…, d).
        v: directions, (…, d), of x's shape and dtype.
        W: one row per hidden unit, (h, d).
        scale, shift, coef: the cascade's β (L, h), s (L, h) and C (L, K, h), as in `ridge`.
        bias: (d,), on which J does not depend.
        basis, heads, backend: as in `ridge`.

    Returns:
        J(x) v, (…, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-C.

    >>> import torch
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> ridge_jvp(torch.zeros(2), torch.tensor([3.0, 4.0]), torch.eye(2), one, zero, 2 * one[None]).tolist()
    [6.0, 8.0]
    """
    return Ridge(W, scale, shift, coef, bias, basis, heads).jvp(x, v, backend)


def ridge_divergence(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Divergence of `ridge`, the Laplacian of its potential: tr J(x) = Σ_j φ_j'(u_j) |w_j|², exact, in O(h d) a point.

    Equivalent to, for one layer of tanh:
        slope = (1 - torch.tanh(scale[0] * (x @ W.T) + shift[0]) ** 2) * coef[0, 0] * scale[0]
        slope @ W.square().sum(-1)

    Args:
        x: points, (…, d).
        W: one row per hidden unit, (h, d).
        scale, shift, coef: the cascade's β (L, h), s (L, h) and C (L, K, h), as in `ridge`.
        bias: (d,), on which J does not depend.
        basis, heads, backend: as in `ridge`.

    Returns:
        tr J(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-C.

    >>> import torch
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> ridge_divergence(torch.zeros(5, 2), torch.eye(2), one, zero, one[None]).tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    return Ridge(W, scale, shift, coef, bias, basis, heads).divergence(x, backend)


def ridge_jacobian(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    heads: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Jacobian of `ridge`: J(x) = Wᵀ diag(φ'(u)) W, symmetric, and positive semidefinite where φ' >= 0.

    Equivalent to, for one layer of tanh:
        slope = (1 - torch.tanh(scale[0] * (x @ W.T) + shift[0]) ** 2) * coef[0, 0] * scale[0]
        W.T * slope.unsqueeze(-2) @ W

    Args:
        x: points, (…, d).
        W: one row per hidden unit, (h, d).
        scale, shift, coef: the cascade's β (L, h), s (L, h) and C (L, K, h), as in `ridge`.
        bias: (d,), on which J does not depend.
        basis, heads, backend: as in `ridge`.

    Returns:
        J(x), (…, d, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-C.

    >>> import torch
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> ridge_jacobian(torch.zeros(2), torch.eye(2), one, zero, one[None]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return Ridge(W, scale, shift, coef, bias, basis, heads).jacobian(x, backend)
