"""Log-determinants of Jacobians by products J v alone, for points of many dimensions: stochastic Lanczos quadrature.

For z of independent signs, E zᵀ log(J) z = tr log J = log det J.  Lanczos' method makes of J and z a tridiagonal matrix
T of as many rows as it takes products, and zᵀ log(J) z ≈ |z|² Σ_k (first component of the k-th eigenvector)² log θ_k
over the eigenvalues θ of T, which is Gauss' quadrature.  The gradient is E <J⁻¹z, ∂J z>.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import check_positive, check_tensor, message
from ..nn import GradNet
from ._equation import conjugate_gradients


class Estimate(NamedTuple):
    """A mean over random vectors, and how far it may be from what it estimates.

    Attributes:
        value: the mean, (…,).
        standard_error: the root of its variance, (…,), as the vectors' spread shows it.

    >>> import torch
    >>> Estimate(torch.tensor(1.0), torch.tensor(0.1)).standard_error
    tensor(0.1000)
    """

    value: Tensor
    standard_error: Tensor


def logdet_estimate(
    net: GradNet,
    x: Tensor,
    *,
    probes: int = 16,
    steps: int = 30,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Estimate log det J(x) by products of J with random vectors, without J: for points of many dimensions.

    Equivalent to, in expectation and after enough steps:
        net.logdet(x)

    Args:
        net: a network whose Jacobian is positive definite, such as a monotone one with linear="psd".
        x: points, (…, d), or images.
        probes: random vectors for each point; the standard error falls with the root of their number.
        steps: products J v for each, at most; the error of the quadrature falls exponentially with their number over
            the root of J's condition number.
        tolerance: of the linear systems of the gradient, relative.
        generator: of the random vectors.

    Returns:
        An `Estimate`: the value, (…,), whose gradients in x and the parameters are unbiased estimates of those of
        log det J up to the tolerance; and its standard error.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Ubaru, Chen, Saad, "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature", SIAM Journal on Matrix
    Analysis and Applications, 2017.

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(2, 200, 100, linear="psd"), torch.zeros(3, 200)
    >>> with torch.no_grad():
    ...     _ = net.linear.V.copy_(torch.eye(200))
    >>> estimate = logdet_estimate(net, x, probes=64, generator=torch.Generator().manual_seed(0))
    >>> bool(((estimate.value - net.logdet(x)).abs() < 5 * estimate.standard_error).all())
    True
    """
    where = "logdet_estimate"
    if not isinstance(net, GradNet):
        fix = 'pass for example mGradNetC(…, linear="psd")'
        raise TypeError(message(where, "net", "a gradient network", type(net).__name__, fix))
    check_tensor(where, "x", x)
    if x.dtype not in (torch.float32, torch.float64):
        fix = "convert the network and the points with .float()"
        raise TypeError(message(where, "x", "float32 or float64", str(x.dtype), fix))
    check_positive(where, "steps", steps)
    if probes < 2:
        fix = "pass for example probes=16"
        raise ValueError(message(where, "probes", "at least 2, for a standard error", probes, fix))
    leading = x.shape[: x.dim() - net.point_dimensions]
    points = x.reshape(1, -1, *x.shape[len(leading) :]).expand(probes, -1, *x.shape[len(leading) :]).flatten(0, 1)
    signs = torch.randint(0, 2, points.shape, generator=generator, device=x.device)
    z = (2 * signs - 1).to(x.dtype)
    with torch.no_grad():
        each = _quadrature(net, points, z, steps).unflatten(0, (probes, -1))
        value = each.mean(0)
        error = each.std(0) / probes**0.5
    if torch.is_grad_enabled():
        with torch.no_grad():
            w = conjugate_gradients(lambda v: net.jvp(points, v), z, tolerance)
        along = (net.jvp(points, z) * w).flatten(1).sum(1).unflatten(0, (probes, -1)).mean(0)
        value = value + (along - along.detach())
    return Estimate(value.reshape(leading), error.reshape(leading))


def _quadrature(net: GradNet, x: Tensor, z: Tensor, steps: int) -> Tensor:
    """Return zᵀ log(J(x)) z for each row, (B,), by Gauss' quadrature with as many nodes as there are steps."""
    count, d = len(x), x[:1].numel()
    steps = min(steps, d)
    size = z.flatten(1).norm(dim=1)
    basis = [z / size.view(-1, *[1] * (z.dim() - 1))]
    T = x.new_zeros(count, steps, steps)
    for k in range(steps):
        w = net.jvp(x, basis[k]).flatten(1)
        known = torch.stack([q.flatten(1) for q in basis], 1)  # (B, k + 1, d)
        T[:, k, k] = (known[:, k] * w).sum(-1)
        # Twice, because once leaves the rounding errors of what was large.
        for _ in range(2):
            w = w - (known.mT @ (known @ w.unsqueeze(-1))).squeeze(-1)
        norm = w.norm(dim=1)
        if k + 1 < steps:
            # An invariant subspace ends the recursion of a row.
            is_over = norm <= torch.finfo(x.dtype).eps * 10 * T[:, k, k].abs()
            T[:, k, k + 1] = T[:, k + 1, k] = torch.where(is_over, 0.0, norm)
            unit = w / norm.clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)
            basis.append(torch.where(is_over.unsqueeze(-1), 0.0, unit).view_as(z))
    # Where it has ended the diagonal is 0; of 1 the logarithm is 0, and the weight of what is not coupled too.
    diagonal = T.diagonal(dim1=-2, dim2=-1)
    diagonal[diagonal == 0] = 1.0
    nodes, vectors = torch.linalg.eigh(T)
    found: Tensor = size.square() * (vectors[:, 0].square() * nodes.log()).sum(-1)
    return found
