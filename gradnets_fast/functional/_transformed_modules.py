"""Sums of transformed modules: f(x) = Σ_m a_m ρ'(F_m) W_mᵀσ(z_m) + bias.

`TransformedModules` holds the arguments of a call; the modules of gradnets_fast/nn make it themselves, the public
functions of this file for their callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..ops import OPERATORS, Backends
from ..ops.families import TRANSFORMED_MODULES, Family
from ._checks import checked_soft_maximum, checked_transformed
from ._network import Network

__all__ = [
    "TransformedModules",
    "transformed_modules",
    "transformed_modules_divergence",
    "transformed_modules_jacobian",
    "transformed_modules_jvp",
    "transformed_modules_potential",
]


@dataclass
class TransformedModules(Network):
    """A network of the family; the fields are the arguments of `transformed_modules`."""

    W: Tensor
    b: Tensor
    weight: Tensor
    bias: Tensor | None = None
    basis: str = "tanh"
    transform: str = "half_square"
    sharpness: Tensor | None = None
    offset: Tensor | None = None

    family: ClassVar[Family] = TRANSFORMED_MODULES
    operators: ClassVar[dict[str, Backends]] = OPERATORS["transformed_modules"]

    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.W, self.b, self.weight

    def names(self) -> tuple[str | Sequence[str], str]:
        return self.basis, self.transform

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, TransformedModules]:
        x, W = checked_transformed(where, x, self.W, self.b, self.weight, self.bias, self.basis, self.transform)
        offset = checked_soft_maximum(where, self.sharpness, self.offset, x, W)
        return x, replace(self, W=W, offset=offset)


def transformed_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
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
        sharpness: κ > 0, ().  With it the modules' potentials F_m are not summed, but combined by log-sum-exp:
            F(x) = log(Σ_m exp(κ F_m + c_m))/κ + bias·x, so that f(x) = Σ_m s_m ∇F_m + bias, s = softmax_m(κ F_m + c_m).
            F is convex when every F_m is.
        offset: c, (M,), with sharpness; None for 0.
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
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.value(x, backend)


def transformed_modules_potential(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Potential of `transformed_modules`: F(x) = Σ_m a_m ρ(Σ_j Ψ(z_mj)) + bias·x.

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        weight[0] * log_cosh(x @ W[0].T + b[0]).sum(-1) ** 2 / 2 + x @ bias

    Args:
        x, W, b, weight, bias, basis, transform, sharpness, offset, backend: as in `transformed_modules`.

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
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.potential(x, backend)


def transformed_modules_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Jacobian-vector product of `transformed_modules`: J(x) v, J as in `transformed_modules_jacobian`.

    J v = Σ_m a_m [ρ''(F_m) (∇F_m·v) ∇F_m + ρ'(F_m) W_mᵀ(σ'(z_m) ⊙ W_m v)], F_m = Σ_j Ψ(z_mj), ∇F_m = W_mᵀσ(z_m).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z, u = x @ W[0].T + b[0], v @ W[0].T
        F, s = log_cosh(z).sum(-1, keepdim=True), torch.tanh(z)
        weight[0] * ((s * u).sum(-1, keepdim=True) * s + F * (1 - s**2) * u) @ W[0]

    Args:
        x: points, (…, d).
        v: directions, (…, d), of x's shape.
        W, b, weight, bias, basis, transform, sharpness, offset, backend: as in
            `transformed_modules`; J does not depend on bias.

    Returns:
        J(x) v, (…, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862; arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([2.0]), torch.ones(1, 1, 1)
    >>> v = torch.ones(1)
    >>> transformed_modules_jvp(x, v, W, torch.zeros(1, 1), torch.ones(1), basis="identity").item()  # (x³/2)'
    6.0
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.jvp(x, v, backend)


def transformed_modules_divergence(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Divergence of `transformed_modules`, the Laplacian of its potential: tr J(x), exact, in O(M h d) a point.

    tr J = Σ_m a_m [ρ''(F_m) |∇F_m|² + ρ'(F_m) Σ_j σ'(z_mj) |w_mj|²], F_m = Σ_j Ψ(z_mj), ∇F_m = W_mᵀσ(z_m).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z = x @ W[0].T + b[0]
        F, s = log_cosh(z).sum(-1), torch.tanh(z)
        weight[0] * ((s @ W[0]).square().sum(-1) + F * ((1 - s**2) @ W[0].square().sum(-1)))

    Args:
        x, W, b, weight, bias, basis, transform, sharpness, offset, backend: as in
            `transformed_modules`; J does not depend on bias.

    Returns:
        tr J(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862; arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([2.0]), torch.ones(1, 1, 1)
    >>> transformed_modules_divergence(x, W, torch.zeros(1, 1), torch.ones(1), basis="identity").item()  # (x³/2)'
    6.0
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.divergence(x, backend)


def transformed_modules_jacobian(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    basis: str = "tanh",
    transform: str = "half_square",
    *,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Jacobian of `transformed_modules`: Σ_m a_m [ρ''(F_m) ∇F_m∇F_mᵀ + ρ'(F_m) W_mᵀ diag(σ'(z_m)) W_m], symmetric.

    Here F_m = Σ_j Ψ(z_mj) and ∇F_m = W_mᵀσ(z_m).

    Equivalent to, for one module of tanh with ρ(t) = t²/2:
        z = x @ W[0].T + b[0]
        F, s = log_cosh(z).sum(-1), torch.tanh(z)
        g = s @ W[0]
        weight[0] * (g[..., None] * g[..., None, :] + F[..., None, None] * (W[0].T * (1 - s**2)[..., None, :] @ W[0]))

    Args:
        x, W, b, weight, bias, basis, transform, sharpness, offset, backend: as in
            `transformed_modules`; J does not depend on bias.

    Returns:
        J(x), (…, d, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: arXiv 2301.10862; arXiv 2404.07361.

    >>> import torch
    >>> x, W = torch.tensor([2.0]), torch.ones(1, 1, 1)
    >>> transformed_modules_jacobian(x, W, torch.zeros(1, 1), torch.ones(1), basis="identity").tolist()  # (x³/2)'
    [[6.0]]
    """
    network = TransformedModules(W, b, weight, bias, basis, transform, sharpness, offset)
    return network.jacobian(x, backend)
