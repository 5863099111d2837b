"""The ridge family: f(x) = φ(x Wᵀ) W + bias, φ a cascade of scalar functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .activations import KINKS, STRAIGHT, antiderivative, derivative, value
from .spline import spline, spline_mean, spline_slope

__all__ = ["cascade", "cascade_slope", "ridge", "ridge_divergence", "ridge_jacobian", "ridge_jvp", "ridge_potential"]

QUADRATURE_PANELS = 8
SPLINE = ("spline",)
"""In place of basis functions: one layer of a learned linear spline for each hidden unit."""

_LEGENDRE = (
    (0.09501250983763744, 0.1894506104550685),
    (0.2816035507792589, 0.1826034150449236),
    (0.45801677765722737, 0.16915651939500254),
    (0.6178762444026438, 0.14959598881657674),
    (0.755404408355003, 0.12462897125553387),
    (0.8656312023878318, 0.09515851168249279),
    (0.9445750230732326, 0.06225352393864789),
    (0.9894009349916499, 0.027152459411754094),
)
"""The positive nodes of Gauss–Legendre quadrature with 16 nodes on [−1, 1], and their weights, from its tables."""


def quadrature_rule(panels: int) -> tuple[tuple[float, float], ...]:
    """(node, weight) pairs on [0, 1]: Gauss–Legendre with 16 nodes in each of `panels` equal panels."""
    nodes = [*((-t, w) for t, w in reversed(_LEGENDRE)), *_LEGENDRE]
    return tuple(((p + (t + 1) / 2) / panels, w / 2 / panels) for p in range(panels) for t, w in nodes)


PANELLED_RULE = quadrature_rule(QUADRATURE_PANELS)
SINGLE_PANEL_RULE = quadrature_rule(1)
MIDDLE = ((0.5, 1.0),)
"""The rule of one node, exact for linear functions."""
MOST_PANELS = 64
"""Between kinks of a cascade, at most."""
HALVINGS, STEPS = 5, 6
"""Of an eighth of [0, u], in which z_l is nearly linear then, and towards a kink in it."""
MOST_TRACED = 24
"""Intervals where it cannot be asked whether any is left, of functions that are not piecewise linear."""


def cascade(u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str], heads: bool = False) -> Tensor:
    """φ(u): z_0 = β_0 u + s_0, z_l = β_l u + s_l + Σ_k C_{l−1,k} b_k(z_{l−1}), φ = Σ_k C_{L−1,k} b_k(z_{L−1}).

    Shapes: u (…, h); scale β, shift s (L, h); coef C (L, K, h); basis: K names; or "spline" for φ(u) = s(β_0 u + s_0),
    s the spline of the values C_0 at K knots.  Of heads φ(u) = Σ_l Σ_k C_{lk} b_k(β_l u + s_l).
    """
    if heads:
        return sum_of_heads(lambda b, s, C: cascade(u, b, s, C, basis), scale, shift, coef)
    z = scale[0] * u + shift[0]
    if tuple(basis) == SPLINE:
        return spline(z, coef[0])
    for layer in range(1, scale.shape[0]):
        z = scale[layer] * u + shift[layer] + _mix(value, coef[layer - 1], basis, z)
    return _mix(value, coef[-1], basis, z)


def sum_of_heads(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], scale: Tensor, shift: Tensor, coef: Tensor
) -> Tensor:
    """Σ_l function(β, s, C of layer l, as those of one layer)."""
    total = function(scale[:1], shift[:1], coef[:1])
    for layer in range(1, scale.shape[0]):
        total = total + function(scale[layer : layer + 1], shift[layer : layer + 1], coef[layer : layer + 1])
    return total


def cascade_slope(
    u: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    basis: Sequence[str],
    heads: bool = False,
    derivative: Callable[[str, Tensor], Tensor] = derivative,
) -> Tensor:
    """φ'(u): z_0' = β_0, z_l' = β_l + Σ_k C_{l−1,k} b_k'(z_{l−1}) z_{l−1}', φ' = Σ_k C_{L−1,k} b_k'(z_{L−1}) z_{L−1}'.

    Shapes: as `cascade`.  derivative: (name, z) -> b'(z).
    """
    if heads:
        return sum_of_heads(lambda b, s, C: cascade_slope(u, b, s, C, basis, derivative=derivative), scale, shift, coef)
    z, slope = scale[0] * u + shift[0], scale[0]
    if tuple(basis) == SPLINE:
        return spline_slope(z, coef[0]) * slope
    for layer in range(1, scale.shape[0]):
        below = coef[layer - 1]
        slope = scale[layer] + _mix(derivative, below, basis, z) * slope
        z = scale[layer] * u + shift[layer] + _mix(value, below, basis, z)
    return _mix(derivative, coef[-1], basis, z) * slope


def _mix(function: Callable[[str, Tensor], Tensor], coef: Tensor, basis: Sequence[str], z: Tensor) -> Tensor:
    """Σ_k C_k b_k(z), or that of b_k'; coef C (K, h)."""
    mixed = coef[0] * function(basis[0], z)
    for k in range(1, len(basis)):
        mixed = mixed + coef[k] * function(basis[k], z)
    return mixed


def with_ones(
    scale: Tensor | None, shift: Tensor, coef: Tensor | None, basis: Sequence[str], W: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """scale (L, h), shift (L, h) and coef (L, K, h), with ones in place of None; shift may be (h,) where L = 1."""
    shift = shift.reshape(-1, W.shape[0])
    scale = torch.ones_like(shift) if scale is None else scale
    return scale, shift, shift.new_ones(shift.shape[0], len(basis), W.shape[0]) if coef is None else coef


def ridge(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    heads: bool = False,
) -> Tensor:
    """f(x) = φ(x Wᵀ) W + bias; x (…, d), W (h, d), bias (d,); None for a scale or coefficient stands for ones."""
    f = cascade(x @ W.T, *with_ones(scale, shift, coef, basis, W), basis, heads).to(W.dtype) @ W
    return (f if bias is None else f + bias).to(x.dtype)


def ridge_jvp(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    heads: bool = False,
) -> Tensor:
    """J(x) v = (φ'(x Wᵀ) ⊙ v Wᵀ) W; v (…, d) like x."""
    slope = cascade_slope(x @ W.T, *with_ones(scale, shift, coef, basis, W), basis, heads)
    return ((slope * (v @ W.T)).to(W.dtype) @ W).to(x.dtype)


def ridge_divergence(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    heads: bool = False,
) -> Tensor:
    """tr J(x) = Σ_j φ_j'(u_j) |w_j|²; returns (…,)."""
    slope = cascade_slope(x @ W.T, *with_ones(scale, shift, coef, basis, W), basis, heads)
    return (slope * W.square().sum(-1)).sum(-1).to(x.dtype)


def ridge_jacobian(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    heads: bool = False,
) -> Tensor:
    """J(x) = Wᵀ diag(φ'(x Wᵀ)) W; returns (…, d, d)."""
    slope = cascade_slope(x @ W.T, *with_ones(scale, shift, coef, basis, W), basis, heads)
    return gram(W, slope).to(x.dtype)


def gram(W: Tensor, weight: Tensor) -> Tensor:
    """Wᵀ diag(weight) W; W (h, d), weight (…, h); returns (…, d, d)."""
    return (W.T * weight.unsqueeze(-2)).to(W.dtype) @ W


def ridge_potential(
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: Sequence[str],
    heads: bool = False,
) -> Tensor:
    """F(x) = Σ_j ∫_0^{u_j} φ_j(t) dt + bias·x, so F(0) = 0 and ∇F = f; returns (…,)."""
    F = cascade_integral(x @ W.T, *with_ones(scale, shift, coef, basis, W), basis, heads).sum(-1)
    return (F if bias is None else F + x @ bias.to(x.dtype)).to(x.dtype)


def cascade_integral(
    u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str], heads: bool = False
) -> Tensor:
    """∫_0^u φ(t) dt, (…, h); shapes as `cascade`."""
    if heads:
        return sum_of_heads(lambda b, s, C: cascade_integral(u, b, s, C, basis), scale, shift, coef)
    parameters = (scale, shift, coef, basis)
    anchor = u.detach()
    value = _closed_form
    if scale.shape[0] > 1:
        value = _between_kinks if any(map(KINKS.__getitem__, basis)) else _quadrature
    # The integral from the anchor to u is 0, but its derivatives in u are φ, φ', … to rounding, whatever the error of
    # the value: so ∇F = f even where a kink defeats the quadrature.
    beyond = (u - anchor) * sum(w * cascade(anchor + t * (u - anchor), *parameters) for t, w in SINGLE_PANEL_RULE)
    return value(anchor, *parameters) + beyond


def _closed_form(u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str]) -> Tensor:
    """Σ_k C_k (Φ_k(βu + s) − Φ_k(s))/β.

    The quotient cancels as βu → 0: there one quadrature panel serves where b_k has no kink between the ends, exact in
    the limit; across a kink the quotient cancels less than the panel would miss.
    """
    step = scale[0] * u
    if tuple(basis) == SPLINE:
        return u * spline_mean(shift[0], step + shift[0], coef[0])
    total = torch.zeros_like(u)
    for k, name in enumerate(basis):
        short = step.abs() < 2.0**-6
        for kink in KINKS[name]:
            short = short & ((step + shift[0] < kink) == (shift[0] < kink))
        short = short | (step.abs() < torch.finfo(u.dtype).tiny)
        safe = torch.where(short, torch.ones_like(step), scale[0].expand_as(step))
        rise = antiderivative(name, step + shift[0]) - antiderivative(name, shift[0])
        near = _quadrature(u, scale, shift, coef[:, k : k + 1], (name,), SINGLE_PANEL_RULE)
        total = total + torch.where(short, near, coef[0, k] * rise / safe)
    return total


def _between_kinks(u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str]) -> Tensor:
    """∫_0^u φ(t) dt of functions with kinks, by a rule on each of the intervals without a kink.

    The ends move with the parameters, but not the value with the ends, as φ is continuous: they have no derivative.
    """
    rule = MIDDLE if STRAIGHT.issuperset(basis) else SINGLE_PANEL_RULE
    nodes, weights = u.new_tensor(rule).T
    nodes = nodes.view(-1, *(1,) * u.dim())
    total = torch.zeros_like(u)
    for start, width in _panels(u.detach(), scale.detach(), shift.detach(), coef.detach(), basis):
        values = cascade((start + nodes * width) * u, scale, shift, coef, basis)
        total = total + width * torch.tensordot(weights.to(values), values, 1)
    return u * total


def _panels(
    u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(start, width) of intervals that make up [0, 1], on each of which t ↦ φ(tu) is analytic, each of u's shape.

    Piecewise linear φ is linear there; others have at most an eighth of [0, 1].  There are MOST_PANELS, of which the
    last takes what is left, or fewer where it can be asked whether anything is left.  A graph of those of others that
    does not ask has MOST_TRACED.
    """
    parameters = (u, scale, shift, coef, basis)
    straight = STRAIGHT.issuperset(basis)
    t = torch.zeros_like(scale[0] * u)
    fixed = not _has_values(t)
    most = MOST_TRACED if fixed and not straight else MOST_PANELS
    for panel in range(most):
        end = torch.ones_like(t)
        if panel < most - 1:
            eighth = (torch.floor(8 * t) + 1) / 8
            end = torch.minimum(t + _reach(t, *parameters) if straight else _cut(t, eighth, *parameters), end)
        yield t, end - t
        t = end
        if not fixed and bool((t >= 1).all()):
            return


def _cut(t: Tensor, end: Tensor, u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str]) -> Tensor:
    """The first point between t and `end` at which a z_l is beyond a kink, or `end`.

    By halving, until z_l is nearly linear between the ends, then by steps of 15/16 of `_reach`, most of which stay
    before the kink (one that is too long is made a halving), and a whole one.  What comes and goes between t and `end`
    is not seen.
    """
    parameters = (u, scale, shift, coef, basis)
    before = _sides(t, *parameters)
    low, high = t, end
    for step in range(HALVINGS + STEPS):
        middle = (low + high) / 2
        if step >= HALVINGS:
            near = low + 0.9375 * _reach(low, *parameters)
            middle = torch.where(near < high, near, middle)
        is_beyond = _sides(middle, *parameters) != before
        low, high = torch.where(is_beyond, low, middle), torch.where(is_beyond, middle, high)
    cut = torch.minimum(low + _reach(low, *parameters), high)
    return torch.where(_sides(end, *parameters) != before, cut, end)


def _sides(t: Tensor, u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str]) -> Tensor:
    """On which side of each kink each z_l of tu is: the digits, 0 or 1, of a number in base 3, modulo 2⁶⁴."""
    sides, mixed = torch.zeros_like(t, dtype=torch.int64), torch.zeros_like(t)
    for layer in range(scale.shape[0]):
        z = scale[layer] * (t * u) + shift[layer] + mixed
        for kink in _kinks(basis):
            sides = 3 * sides + (z > kink)
        mixed = _mix(value, coef[layer], basis, z)
    return sides


def _kinks(basis: Sequence[str]) -> list[float]:
    return sorted({kink for name in basis for kink in KINKS[name]})


def _has_values(t: Tensor) -> bool:
    """Return whether a tensor's values can be looked at now, and stand for no others."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._is_tracing():
        return False
    if type(t) is not Tensor or t.is_meta:
        return False
    return not (t.is_cuda and torch.cuda.is_current_stream_capturing())


def _reach(t: Tensor, u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Sequence[str]) -> Tensor:
    """How far it is from t to beyond the nearest kink, were all z_l linear; 1 if that is more, or there is none.

    The nearest (kink − z_l)/(dz_l/dt) of all layers and kinks, and a few roundings of z_l.
    """
    few = 4 * torch.finfo(t.dtype).eps
    reach, mixed, passed = torch.ones_like(t), torch.zeros_like(t), torch.zeros_like(t)
    for layer in range(scale.shape[0]):
        z = scale[layer] * (t * u) + shift[layer] + mixed
        slope = scale[layer] * u + passed
        beyond = few * (z.abs() + shift[layer].abs() + mixed.abs())
        for kink in _kinks(basis):
            distance = torch.where(slope < 0, z - kink, kink - z)
            time = (distance + beyond) / slope.abs()
            reach = torch.where((distance >= 0) & (time < reach), time, reach)
        mixed, passed = _mix(value, coef[layer], basis, z), _mix(derivative, coef[layer], basis, z) * slope
    return reach + few


def _quadrature(
    u: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    basis: Sequence[str],
    rule: Sequence[tuple[float, float]] = PANELLED_RULE,
) -> Tensor:
    """∫_0^u φ(t) dt by a rule on [0, 1], such as Gauss–Legendre nodes in equal panels of [0, u].

    For tanh the error is at rounding level while a panel spans |βu| <= 2, and about 1e-6 relative where it spans 8.
    """
    total = torch.zeros_like(u)
    for t, weight in rule:
        total = total + weight * cascade(t * u, scale, shift, coef, basis)
    return u * total
