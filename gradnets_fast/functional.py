"""The operators as plain functions of tensors: checks, choice of the backend, call.

Every function takes leading dimensions freely, (…, d) → (…, d), any strides, and an empty batch.  Under
autocast the points and the weight matrix are cast to autocast's dtype, as torch.nn.functional.linear does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend as _backend
from . import reference
from .errors import check_basis, check_like, check_points, check_tensor, check_transform, check_weight

__all__ = [
    "ridge",
    "ridge_potential",
    "softmax_modules",
    "softmax_modules_potential",
    "transformed_modules",
    "transformed_modules_potential",
]


def ridge(
    x: Tensor,
    W: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    backend: str | None = None,
) -> Tensor:
    """Gradient network whose hidden units are functions of their own projection only: f(x) = φ(x Wᵀ) W + bias.

    φ is a cascade: z_0 = β_0 u + s_0, z_l = β_l u + s_l + Σ_k C_{l−1,k} b_k(z_{l−1}), φ = Σ_k C_{L−1,k} b_k(z_{L−1}).

    Equivalent to, for one layer and one basis function:
        (coef[0, 0] * torch.tanh(scale[0] * (x @ W.T) + shift[0])) @ W + bias

    Args:
        x: points, (…, d).
        W: one row per hidden unit, (h, d).
        scale: β, (L, h).
        shift: s, (L, h).
        coef: C, (L, K, h).
        bias: added to the result, (d,).
        basis: K names of `gradnets_fast.activations.TABLE`, or one name when K = 1.
        backend: "reference", "cpp" or "triton"; by default the fastest that can.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError: an argument's type, dtype, device or shape, before any work.
        BackendUnavailableError: a backend was named that cannot run the call.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361, GradNet-C.

    >>> import torch
    >>> x, W = torch.ones(5, 2), torch.eye(2)
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> y = ridge(x, W, scale=one, shift=zero, coef=one[None], basis="tanh")
    >>> torch.allclose(y, torch.tanh(x))
    True
    """
    x, W, names = _checked_ridge("ridge", x, W, scale, shift, coef, bias, basis)
    if _backend.select("ridge", x, backend) == "reference":
        return reference.ridge(x, W, scale, shift, coef, bias, names)
    from .ops.ridge import ridge as operator

    return operator(x, W, scale, shift, coef, bias, config=",".join(names))


def ridge_potential(
    x: Tensor,
    W: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    bias: Tensor | None = None,
    basis: str | Sequence[str] = "tanh",
    *,
    backend: str | None = None,
) -> Tensor:
    """Potential of `ridge`: the F with ∇F = f and F(0) = 0, namely F(x) = Σ_j ∫_0^{u_j} φ_j(t) dt + bias·x.

    One layer has the closed form Σ_k C_k (Φ_k(βu + s) − Φ_k(s))/β; deeper cascades use Gauss–Legendre quadrature with
    16 nodes in each of 8 equal panels of [0, u_j]: at rounding level while |β u_j| <= 16 for an analytic basis.

    Equivalent to, for one layer of tanh with β = C = 1:
        (log_cosh(x @ W.T + shift[0]) - log_cosh(shift[0])).sum(-1) + x @ bias

    Args:
        x, W, scale, shift, coef, bias, basis, backend: as in `ridge`.

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
    x, W, names = _checked_ridge("ridge_potential", x, W, scale, shift, coef, bias, basis)
    _backend.select("ridge_potential", x, backend)
    return reference.ridge_potential(x, W, scale, shift, coef, bias, names)


def softmax_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Sum of softmax modules: f(x) = Σ_m W_mᵀ[p_m softmax(z_m) − q_m softmax(−z_m)] + bias, z_m = τ_m (W_m x + b_m).

    Equivalent to, for one module:
        z = temperature[0] * (x @ W[0].T + b[0])
        (positive[0] * z.softmax(-1) - negative[0] * (-z).softmax(-1)) @ W[0] + bias

    Args:
        x: points, (…, d).
        W: (M, h, d).
        b: (M, h).
        temperature: τ > 0, (M,).
        positive: p, (M,).  Convex potential when p >= 0.
        negative: q, (M,), or None for q = 0.  Convex potential when q >= 0.
        bias: (d,).
        backend: as in `ridge`.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M with (weighted) softmax modules.

    >>> import torch
    >>> y = softmax_modules(torch.zeros(1, 2), torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    >>> y.tolist()
    [[0.5, 0.5]]
    """
    x, W = _checked_modules(
        "softmax_modules", x, W, b, bias, temperature=temperature, positive=positive, negative=negative
    )
    if _backend.select("softmax_modules", x, backend) == "reference":
        return reference.softmax_modules(x, W, b, temperature, positive, negative, bias)
    from .ops.modules import softmax_modules as operator

    return operator(x, W, b, temperature, positive, negative, bias, config="")


def softmax_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Potential of `softmax_modules`: F(x) = Σ_m [p_m LSE(z_m) + q_m LSE(−z_m)]/τ_m + bias·x.

    Equivalent to, for one module:
        z = temperature[0] * (x @ W[0].T + b[0])
        (positive[0] * z.logsumexp(-1) + negative[0] * (-z).logsumexp(-1)) / temperature[0] + x @ bias

    Args:
        x, W, b, temperature, positive, negative, bias, backend: as in `softmax_modules`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2404.07361, GradNet-M.

    >>> import torch
    >>> W = torch.eye(2)[None]
    >>> F = softmax_modules_potential(torch.zeros(2), W, torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    >>> round(F.item(), 4)  # log 2
    0.6931
    """
    where = "softmax_modules_potential"
    x, W = _checked_modules(where, x, W, b, bias, temperature=temperature, positive=positive, negative=negative)
    _backend.select(where, x, backend)
    return reference.softmax_modules_potential(x, W, b, temperature, positive, negative, bias)


def transformed_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    backend: str | None = None,
) -> Tensor:
    """Sum of transformed ridge sums: f(x) = Σ_m a_m ρ'(F_m) W_mᵀσ(z_m) + bias, z_m = W_m x + b_m, F_m = Σ_j Ψ(z_mj).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z = x @ W[0].T + b[0]
        (weight[0] * log_cosh(z).sum(-1, keepdim=True) * torch.tanh(z)) @ W[0] + bias

    Args:
        x: points, (…, d).
        W: (M, h, d).
        b: (M, h).
        weight: a, (M,).
        bias: (d,).
        basis: σ, a name of `gradnets_fast.activations.TABLE`; Ψ is its antiderivative there.
        transform: ρ, a name of `gradnets_fast.activations.TRANSFORMS`.
        backend: as in `ridge`.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862, M-MGN (tanh, half_square); arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([[1.0]]), torch.ones(1, 1, 1)
    >>> transformed_modules(x, W, torch.zeros(1, 1), torch.ones(1), basis="identity", transform="half_square").item()
    0.5
    """
    check_basis("transformed_modules", (basis,))
    check_transform("transformed_modules", transform)
    x, W = _checked_modules("transformed_modules", x, W, b, bias, weight=weight)
    if _backend.select("transformed_modules", x, backend) == "reference":
        return reference.transformed_modules(x, W, b, weight, bias, basis, transform)
    from .ops.modules import transformed_modules as operator

    return operator(x, W, b, weight, bias, config=f"{basis},{transform}")


def transformed_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    backend: str | None = None,
) -> Tensor:
    """Potential of `transformed_modules`: F(x) = Σ_m a_m ρ(Σ_j Ψ(z_mj)) + bias·x.

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        weight[0] * log_cosh(x @ W[0].T + b[0]).sum(-1) ** 2 / 2 + x @ bias

    Args:
        x, W, b, weight, bias, basis, transform, backend: as in `transformed_modules`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862.

    >>> import torch
    >>> W = torch.ones(1, 1, 1)
    >>> F = transformed_modules_potential(torch.tensor([2.0]), W, torch.zeros(1, 1), torch.ones(1), basis="identity")
    >>> F.item()  # (2²/2)²/2
    2.0
    """
    where = "transformed_modules_potential"
    check_basis(where, (basis,))
    check_transform(where, transform)
    x, W = _checked_modules(where, x, W, b, bias, weight=weight)
    _backend.select(where, x, backend)
    return reference.transformed_modules_potential(x, W, b, weight, bias, basis, transform)


def autocast(tensor: Tensor) -> Tensor:
    """The points or weights in autocast's dtype, where autocast is on for their device."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def _checked_ridge(
    where: str,
    x: Tensor,
    W: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    bias: Tensor | None,
    basis: str | Sequence[str],
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    check_basis(where, (basis,) if isinstance(basis, str) else basis)
    names = (basis,) if isinstance(basis, str) else tuple(basis)
    check_weight(where, W, "(h, d)")
    h, d = W.shape
    check_points(where, x, d)
    x, W = autocast(x), autocast(W)
    check_tensor(where, "scale", scale)
    layers = scale.shape[0] if scale.dim() == 2 and scale.shape[0] else 1
    check_like(where, "W", W, (h, d), "(h, d)", x)
    check_like(where, "scale", scale, (layers, h), "(L, h)", x)
    check_like(where, "shift", shift, (layers, h), "(L, h)", x)
    check_like(where, "coef", coef, (layers, len(names), h), "(L, K, h)", x)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    return x, W, names


def _checked_modules(
    where: str, x: Tensor, W: Tensor, b: Tensor, bias: Tensor | None, **per_module: Tensor | None
) -> tuple[Tensor, Tensor]:
    check_weight(where, W, "(M, h, d)")
    modules, h, d = W.shape
    check_points(where, x, d)
    x, W = autocast(x), autocast(W)
    check_like(where, "W", W, (modules, h, d), "(M, h, d)", x)
    check_like(where, "b", b, (modules, h), "(M, h)", x)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    for argument, tensor in per_module.items():
        check_like(where, argument, tensor, (modules,), "(M,)", x, optional=argument == "negative")
    return x, W
