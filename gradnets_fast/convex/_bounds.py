"""Bounds of a network's Jacobian over all points: A ⪯ J(x) ⪯ B, from its parameters and the tables' derivative ranges.

The slope φ' of each hidden unit lies in an interval, by interval arithmetic through the layers of a cascade.  So, with
W the weights and M the linear part's matrix,

    Wᵀ diag(inf φ') W + M ⪯ J(x) ⪯ Wᵀ diag(sup φ') W + M,

and the eigenvalues of both ends bound those of J.  Where no bound is known it is ∞: sound, if of no use.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ..activations import TABLE
from ..errors import check_positive, check_tensor, message
from ..functional import ConvRidge, Deep, Network, Ridge, SoftmaxModules, TransformedModules
from ..nn import GradNet
from ..nn.filter_norm import WAVES, norm_of, reach_of
from ..ops.families import SPLINE

Interval = tuple[Tensor, Tensor]


def lipschitz_bound(net: GradNet) -> Tensor:
    """Upper bound of the gradient map's Lipschitz constant: sup_x ‖J(x)‖ <= bound, over all points.

    Equivalent to, for one layer of tanh with β = C = 1:
        torch.linalg.matrix_norm(net.W, 2) ** 2

    Args:
        net: a gradient network.

    Returns:
        The bound, (), differentiable in the parameters: ∞ where none is known, which is so of transforms other than the
        identity, of deep networks with quadratic skips, and of deep networks whose activations have kinks.

    Raises:
        TypeError: net is no gradient network.

    Source: arXiv 2404.07361, J = Wᵀ diag(φ') W; Jacobians of softmax have norms of at most ½ (Gao, Pavel, arXiv
    1704.00805).

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(2, 3, 8), torch.randn(1000, 3)
    >>> bool(torch.linalg.matrix_norm(net.jacobian(x), 2).max() <= lipschitz_bound(net))
    True
    """
    lower, upper = jacobian_bounds("lipschitz_bound", net)
    return torch.maximum(lower.abs(), upper.abs())


def strong_convexity_bound(net: GradNet) -> Tensor:
    """Lower bound of the potential's modulus of strong convexity: λ_min(J(x)) >= bound, over all points.

    Equivalent to, for a monotone network with the linear part VᵀV whose slopes have the infimum 0:
        torch.linalg.eigvalsh(net.linear.matrix())[0]

    Args:
        net: a gradient network.

    Returns:
        The bound, (), differentiable in the parameters; below 0 where the potential need not be convex, −∞ where none
        is known.

    Raises:
        TypeError: net is no gradient network.

    Source: as `lipschitz_bound`.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.mGradNetC(2, 3, 8, linear="psd")
    >>> bool(strong_convexity_bound(net) >= torch.linalg.eigvalsh(net.linear.matrix())[0] - 1e-6)
    True
    """
    return jacobian_bounds("strong_convexity_bound", net)[0]


@torch.no_grad()
def lipschitz_estimate(net: GradNet, x: Tensor, iterations: int = 50) -> Tensor:
    """Estimate of sup_x ‖J(x)‖ from below: the largest norm of the Jacobians at some points, by power iteration.

    Equivalent to, after enough iterations:
        torch.linalg.matrix_norm(net.jacobian(x), 2).max()

    Args:
        net: a gradient network.
        x: points, (…, d), or images.
        iterations: products J v; each multiplies the error by the ratio of the two largest eigenvalues.

    Returns:
        The estimate, ().  It is no bound: other points may have larger Jacobians.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Golub, Van Loan, "Matrix Computations", 4th edition, section 7.3.

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(2, 3, 8), torch.randn(100, 3)
    >>> bool(lipschitz_estimate(net, x) <= gradnets_fast.convex.lipschitz_bound(net))
    True
    """
    _check_network("lipschitz_estimate", net)
    check_tensor("lipschitz_estimate", "x", x)
    check_positive("lipschitz_estimate", "iterations", iterations)
    dims = net.point_dimensions
    points = x.reshape(-1, *x.shape[x.dim() - dims :])
    # A fixed vector, which has parts along all eigenvectors unless their coordinates conspire.
    numbers = torch.arange(1, points[:1].numel() + 1, device=x.device, dtype=torch.float64)
    v = torch.cos(numbers).add(1.5).to(x.dtype).reshape(1, *points.shape[1:]).expand_as(points)
    size = points.new_zeros(len(points))
    for _ in range(iterations):
        v = v / v.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny).view(-1, *[1] * dims)
        v = net.jvp(points, v)
        size = v.flatten(1).norm(dim=1)
    return size.max()


def jacobian_bounds(where: str, net: GradNet) -> Interval:
    """Return bounds of the smallest and the largest eigenvalue of J over all points, () each."""
    _check_network(where, net)
    network = net._current()
    lower, upper = _ends(network)
    if net.monotone:
        lower = _at_least_zero(lower)
    if net.linear is not None:
        M = net.linear.matrix()
        lower, upper = _plus(lower, M), _plus(upper, M)
    least = lower if not lower.dim() else torch.linalg.eigvalsh(lower)[0]
    largest = upper if not upper.dim() else torch.linalg.eigvalsh(upper)[-1]
    return least, largest


def _check_network(where: str, net: Any) -> None:
    if not isinstance(net, GradNet):
        fix = "pass a network of this package, or gradnets_fast.accelerate(model)"
        raise TypeError(message(where, "net", "a gradient network", type(net).__name__, fix))


def _at_least_zero(end: Tensor) -> Tensor:
    """Return a lower end of a monotone network: a multiple of I, or a matrix that is positive semidefinite already."""
    return end.clamp(min=0) if not end.dim() else end


def _plus(end: Tensor, M: Tensor) -> Tensor:
    """Return an end, a matrix or a number that stands for a multiple of I, plus M."""
    if end.dim():
        return end + M
    if not bool(end.isfinite()):
        return end
    return torch.diag_embed(end.expand(len(M))) + M


@singledispatch
def _ends(network: Network) -> Interval:
    """Return A and B with A ⪯ J(x) ⪯ B, (d, d), or numbers () that stand for multiples of I."""
    return _number(network, -math.inf), _number(network, math.inf)


def _number(network: Network, value: float) -> Tensor:
    return torch.as_tensor(value, dtype=network.W.dtype, device=network.W.device)


@_ends.register
def _of_ridge(network: Ridge) -> Interval:
    W = network.W
    return tuple(W.T @ (slope.unsqueeze(-1) * W) for slope in _slopes(network))  # type: ignore[return-value]


@_ends.register
def _of_convolutions(network: ConvRidge) -> Interval:
    """φ' of each channel goes into the last filters: ‖diag(φ')^½ K‖² bounds the positive part, and so the negative."""
    stages = getattr(network, "stages", ())

    def largest(slope: Tensor) -> Tensor:
        K = network.W * slope.clamp(min=0).sqrt().view(-1, *[1] * (network.W.dim() - 1))
        filters = [*stages, K]
        # Zeros cut off what each stage makes, so that only the norms of the stages one by one bound the composition's.
        each = [filters] if network.padding == "circular" else [[one] for one in filters]
        return torch.stack([_largest_on_waves(some) for some in each]).prod()

    lower, upper = _slopes(network)
    return -largest(-lower), largest(upper)


def _largest_on_waves(filters: list[Tensor]) -> Tensor:
    """Return a bound of ‖K‖² for these convolutions in turn, on signals of any size.

    Between the frequencies of a grid of n, |K|², a trigonometric polynomial of degree r, is at most 1/cos(πr/n) times
    as large as on it (Ehlich and Zeller, "Schwankung von Polynomen zwischen Gitterpunkten", 1964).
    """
    least = WAVES[filters[0].dim() - 2]
    between = math.prod(1 / math.cos(math.pi * r / max(least, 2 * r + 1)) for r in reach_of(filters))
    return norm_of(filters).square() * between


@_ends.register
def _of_softmax(network: SoftmaxModules) -> Interval:
    """Each module's Jacobian is τ Wᵀ[p S₁ + q S₂]W with 0 ⪯ S ⪯ ½, S having the constants in its kernel."""
    if network.sharpness is not None:
        return _number(network, -math.inf), _number(network, math.inf)
    positive = network.positive
    negative = torch.zeros_like(positive) if network.negative is None else network.negative
    W = network.W - network.W.mean(1, keepdim=True)

    def gram(weight: Tensor) -> Tensor:
        return torch.einsum("m,mjd,mje->de", network.temperature * weight / 2, W, W)

    return -gram((-positive).clamp(min=0) + (-negative).clamp(min=0)), gram(positive.relu() + negative.relu())


@_ends.register
def _of_transformed(network: TransformedModules) -> Interval:
    if network.transform != "identity" or network.sharpness is not None:
        return _number(network, -math.inf), _number(network, math.inf)
    W = network.W.flatten(0, 1)
    least, largest = _scaled(network.weight, TABLE[network.basis].derivative_range)
    ends = (bound.unsqueeze(-1).expand(network.W.shape[:2]).reshape(-1, 1) for bound in (least, largest))
    return tuple(W.T @ (bound * W) for bound in ends)  # type: ignore[return-value]


@_ends.register
def _of_deep(network: Deep) -> Interval:
    """J = Σ_l U_lᵀ diag(σ''(u_l) ⊙ p_l) U_l, with intervals of σ' and σ'' and norms of U_l = ∂u_l/∂x."""
    structure = network.structure
    layers, c = _layers(network)
    if structure.rank:
        return _number(network, -math.inf), _number(network, math.inf)
    norms: list[Tensor] = []
    inner = _number(network, 0.0)  # of ∂a/∂x
    for (A, V, _), basis in zip(layers, network.basis):
        norm = _number(network, 0.0) if A is None else torch.linalg.matrix_norm(A, 2)
        norm = norm if V is None else norm + torch.linalg.matrix_norm(V, 2) * inner
        norms.append(norm)
        inner = norm * max(map(abs, TABLE[basis].derivative_range)) + (inner if structure.residual else 0.0)
    lower = upper = _number(network, 0.0)
    p = (c, c)
    for (_, V, _), basis, norm in reversed(list(zip(layers, network.basis, norms))):
        least, largest = _product(p, TABLE[basis].second_range)
        lower = lower + norm.square() * least.amin().clamp(max=0)
        upper = upper + norm.square() * largest.amax().clamp(min=0)
        s = _product(p, TABLE[basis].derivative_range)
        if V is not None:
            before = V.relu().T @ s[0] - (-V).relu().T @ s[1], V.relu().T @ s[1] - (-V).relu().T @ s[0]
            p = (before[0] + p[0], before[1] + p[1]) if structure.residual else before
    return lower, upper


def _layers(network: Deep) -> tuple[list[tuple[Tensor | None, Tensor | None, Tensor]], Tensor]:
    """Return each layer's A (h, d), V (h, h_before) and b (h,) as far as it has them, and c (h,)."""
    structure, theta = network.structure, network.W
    d = _inputs(structure, len(theta))
    layers: list[tuple[Tensor | None, Tensor | None, Tensor]] = []
    at, before = 0, 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        part = theta[at : at + math.prod(shape)].view(shape)
        at += math.prod(shape)
        return part

    for i, h in enumerate(structure.widths):
        A = take(h, d) if i == 0 or structure.input_skip else None
        V = take(h, before) if i else None
        if structure.rank:
            take(structure.rank, h, d)
        layers.append((A, V, take(h)))
        before = h
    return layers, take(before)


def _inputs(structure: Any, count: int) -> int:
    """Return d of a network with so many parameters, of which d's are a multiple."""
    without, with_one = structure.parameters(0), structure.parameters(1)
    return int((count - without) // (with_one - without))


def _slopes(network: Ridge | ConvRidge) -> Interval:
    """Return the infimum and supremum of each hidden unit's φ', (h,), or bounds of them."""
    shift = network.shift.reshape(-1, len(network.W))
    scale = torch.ones_like(shift) if network.scale is None else network.scale.reshape(shift.shape)
    names = (network.basis,) if isinstance(network.basis, str) else tuple(network.basis)
    if names == SPLINE:
        assert network.coef is not None
        rises = network.coef[0].diff(dim=0) * ((len(network.coef[0]) - 1) / 2)
        return _ordered(rises.amin(0) * scale[0], rises.amax(0) * scale[0])
    coef = shift.new_ones(len(shift), len(names), 1) if network.coef is None else network.coef
    ranges = [TABLE[name].derivative_range for name in names]
    zero = torch.zeros_like(shift[0])
    inner, total = (zero, zero), (zero, zero)
    for layer, beta in enumerate(scale):
        slope = (inner[0] + beta, inner[1] + beta)
        parts = [_times(coef[layer, k], _product(slope, ranges[k])) for k in range(len(names))]
        inner = sum((part[0] for part in parts), zero), sum((part[1] for part in parts), zero)
        if network.heads:
            total, inner = (total[0] + inner[0], total[1] + inner[1]), (zero, zero)
    return total if network.heads else inner


def _ordered(a: Tensor, b: Tensor) -> Interval:
    return torch.minimum(a, b), torch.maximum(a, b)


def _times(weight: Tensor, interval: Interval) -> Interval:
    return _ordered(weight * interval[0], weight * interval[1])


def _scaled(weight: Tensor, interval: tuple[float, float]) -> Interval:
    return _ordered(weight * interval[0], weight * interval[1])


def _product(interval: Interval, other: tuple[float, float]) -> Interval:
    """Return the interval of products; 0 times an infinite end is 0."""
    corners = [
        torch.where(end == 0, 0.0, end * bound) if math.isinf(bound) else end * bound
        for end in interval
        for bound in other
    ]
    stacked = torch.stack(corners)
    return stacked.amin(0), stacked.amax(0)
