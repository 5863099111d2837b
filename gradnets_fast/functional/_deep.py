"""The deep family: f(x) = ∇F(x) + bias, F the energy <c, a_L> of several layers.

Every function makes a `Network` of its arguments and calls the method of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..errors import as_int
from ..ops.families import Structure
from ._network import Deep

__all__ = ["deep", "deep_divergence", "deep_jacobian", "deep_jvp", "deep_potential"]


def _network(
    theta: Tensor,
    bias: Tensor | None,
    widths: Sequence[int],
    basis: str | Sequence[str],
    input_skip: bool,
    rank: int,
    residual: bool,
    keep: bool = False,
) -> Deep:
    """Return the network; what is no sequence is left for the checks to name."""
    names = tuple(basis) if isinstance(basis, list) else basis
    each = tuple(map(as_int, widths)) if isinstance(widths, Iterable) and not isinstance(widths, str) else widths
    return Deep(theta, bias, names, Structure(each, input_skip, as_int(rank), residual), keep)


def deep(
    x: Tensor,
    theta: Tensor,
    bias: Tensor | None = None,
    *,
    widths: Sequence[int],
    basis: str | Sequence[str] = "tanh",
    input_skip: bool = False,
    rank: int = 0,
    residual: bool = False,
    keep: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Gradient of a deep energy: f = ∇F + bias, F = <c, a_L>, a_l = σ_l(V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l).

    Equivalent to, for two layers without rank and residual:
        A, b1, V, b2, c = theta.split([h1 * d, h1, h2 * h1, h2, h2])
        x = x.detach().requires_grad_()
        a = torch.tanh(x @ A.view(h1, d).T + b1)
        F = torch.tanh(a @ V.view(h2, h1).T + b2) @ c
        torch.autograd.grad(F.sum(), x)[0] + bias

    Args:
        x: points, (…, d).
        theta: all parameters, (n,): for each layer A (h, d), V (h, h_{l−1}), Q (rank, h, d) and b (h), row by row, then
            c (h_L).  The first layer has A and no V; the others have V, and A with `input_skip`.
        bias: added to f, (d,).
        widths: h_l, the hidden units of each layer.
        basis: σ, a name of the activation table, or one for each layer.  F is convex where V and c are nonnegative, and
            σ convex and nondecreasing.
        input_skip: every layer sees the points, not only the first.
        rank: how many squares of linear functions of x each hidden unit adds.
        residual: a_{l−1} is added to a_l; the widths are equal.
        keep: the C++ kernels leave u_l and p_l, 2 Σ h_l values for each point, for the backward pass: `DeepGradNet`
            says what that saves.  The other backends do without.
        backend: "reference", "cpp" or "triton"; by default the fastest that can.

    All tensors have the device and dtype of x: float64, float32, bfloat16 or float16; beside a 16-bit x the bias may be
    float32.  Under autocast x and theta are cast.

    Returns:
        f(x), (…, d), in the dtype of x.  Differentiable twice in every tensor.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: the chain rule; Griewank and Walther, "Evaluating Derivatives", 2008, for its order.

    >>> import torch
    >>> theta = torch.tensor([1.0, 2.0, 0.0, 3.0])  # A (1, 2), b (1), c (1)
    >>> deep(torch.zeros(2), theta, widths=(1,)).tolist()  # Aᵀ(tanh'(0)·3)
    [3.0, 6.0]
    """
    return _network(theta, bias, widths, basis, input_skip, rank, residual, keep).value(x, backend)


def deep_potential(
    x: Tensor,
    theta: Tensor,
    bias: Tensor | None = None,
    *,
    widths: Sequence[int],
    basis: str | Sequence[str] = "tanh",
    input_skip: bool = False,
    rank: int = 0,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Potential of `deep`: the energy F(x) = <c, a_L> + bias·x.

    Equivalent to, for one layer:
        A, b, c = theta.split([h * d, h, h])
        torch.tanh(x @ A.view(h, d).T + b) @ c + x @ bias

    Args:
        x: points, (…, d).
        theta, bias, widths, basis, input_skip, rank, residual, backend: as in `deep`.

    Returns:
        F(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: as `deep`.

    >>> import torch
    >>> theta = torch.tensor([1.0, 2.0, 0.0, 3.0])  # A (1, 2), b (1), c (1)
    >>> round(deep_potential(torch.tensor([1.0, 0.0]), theta, widths=(1,)).item(), 4)  # 3 tanh(1)
    2.2848
    """
    return _network(theta, bias, widths, basis, input_skip, rank, residual).potential(x, backend)


def deep_jvp(
    x: Tensor,
    v: Tensor,
    theta: Tensor,
    bias: Tensor | None = None,
    *,
    widths: Sequence[int],
    basis: str | Sequence[str] = "tanh",
    input_skip: bool = False,
    rank: int = 0,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Jacobian-vector product of `deep`: J(x) v, by one pass up the layers and one down; J is symmetric.

    Equivalent to:
        torch.func.jvp(lambda x: deep(x, theta, widths=widths), (x,), (v,))[1]

    Args:
        x: points, (…, d).
        v: directions, (…, d), of x's shape.
        theta, bias, widths, basis, input_skip, rank, residual, backend: as in `deep`.

    Returns:
        J(x) v, (…, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: as `deep`.

    >>> import torch
    >>> theta = torch.tensor([1.0, 2.0, 0.0, 3.0])  # A (1, 2), b (1), c (1)
    >>> x, v = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    >>> [round(value, 4) for value in deep_jvp(x, v, theta, widths=(1,)).tolist()]  # Aᵀ tanh''(1)·3·(A v)
    [-3.8382, -7.6764]
    """
    return _network(theta, bias, widths, basis, input_skip, rank, residual).jvp(x, v, backend)


def deep_divergence(
    x: Tensor,
    theta: Tensor,
    bias: Tensor | None = None,
    *,
    widths: Sequence[int],
    basis: str | Sequence[str] = "tanh",
    input_skip: bool = False,
    rank: int = 0,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Divergence of `deep`, tr J(x), the Laplacian of F: Σ_l Σ_j σ''_j p_j |∂u_j/∂x|² + 2 Σ_r s_j |Q_rj|².

    Equivalent to:
        deep_jacobian(x, theta, widths=widths).diagonal(dim1=-2, dim2=-1).sum(-1)

    Args:
        x: points, (…, d).
        theta, bias, widths, basis, input_skip, rank, residual, backend: as in `deep`.

    Returns:
        tr J(x), (…,), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward
    Laplacian", 2023.

    >>> import torch
    >>> theta = torch.tensor([1.0, 2.0, 0.0, 3.0])  # A (1, 2), b (1), c (1)
    >>> round(deep_divergence(torch.tensor([1.0, 0.0]), theta, widths=(1,)).item(), 4)  # tanh''(1)·3·|A|²
    -9.5955
    """
    return _network(theta, bias, widths, basis, input_skip, rank, residual).divergence(x, backend)


def deep_jacobian(
    x: Tensor,
    theta: Tensor,
    bias: Tensor | None = None,
    *,
    widths: Sequence[int],
    basis: str | Sequence[str] = "tanh",
    input_skip: bool = False,
    rank: int = 0,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Jacobian of `deep`, the Hessian of F: Σ_l U_lᵀ diag(σ''(u_l) ⊙ p_l) U_l + 2 Σ_r Q_rᵀ diag(s_l) Q_r, U = ∂u/∂x.

    Symmetric by construction; positive semidefinite to rounding where F is convex.

    Equivalent to:
        torch.func.vmap(torch.func.hessian(lambda x: deep_potential(x, theta, widths=widths)))(x)

    Args:
        x: points, (…, d).
        theta, bias, widths, basis, input_skip, rank, residual, backend: as in `deep`.

    Returns:
        J(x), (…, d, d), in the dtype of x.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as `ridge`.

    Source: as `deep`.

    >>> import torch
    >>> theta = torch.tensor([1.0, 2.0, 0.0, 3.0])  # A (1, 2), b (1), c (1)
    >>> deep_jacobian(torch.zeros(2), theta, widths=(1,)).tolist()  # tanh''(0) = 0
    [[0.0, 0.0], [0.0, 0.0]]
    """
    return _network(theta, bias, widths, basis, input_skip, rank, residual).jacobian(x, backend)
