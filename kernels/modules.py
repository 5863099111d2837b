"""One module of a network of modules: its statistics of a row, its potential, its gradient, and what dW is made of.

For module m and one row, with v_j = w_j·x + b_j and a_j = w_j·g for a cotangent g:

    softmax       z = τ v, π = softmax(z), ω = softmax(−z):  F = (p LSE(z) + q LSE(−z))/τ,  ∇F = (p π − q ω) W
    transformed   T = Σ_j Ψ(v_j), σ = Ψ':                    F = w ρ(T),                    ∇F = w ρ'(T) σ(v) W

A module's hidden units are coupled within a row by its statistics, LSE(z) and LSE(−z), or T.  One pass over all tiles
of hidden units finds them, with exponentials relative to the largest z so far; then π and ω, or σ, follow tile by tile.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import common


class Form(NamedTuple):
    """The constants of modules.

    basis: Ψ' of a transformed sum, "" for softmax.  transform: ρ.  two_signs: whether there is a q.  combined: whether
    the potential is LSE(κ F_m + c_m)/κ, not the sum of the F_m.  arithmetic: as in `common`.
    """

    basis: tl.constexpr
    transform: tl.constexpr
    two_signs: tl.constexpr
    combined: tl.constexpr
    arithmetic: tl.constexpr


class Network(NamedTuple):
    """Pointers to W (count, h, D), b (count, h), τ, p (or w) and q (count,), κ () and c (count,); None where absent."""

    W: tl.tensor
    b: tl.tensor
    temperature: tl.tensor
    positive: tl.tensor
    negative: tl.tensor
    sharpness: tl.tensor
    offset: tl.tensor
    h: tl.tensor
    count: tl.tensor


class Module(NamedTuple):
    """One module: pointers to its W (h, D) and b (h,), and its scalars τ, p (or w) and q."""

    W: tl.tensor
    b: tl.tensor
    temperature: tl.tensor
    positive: tl.tensor
    negative: tl.tensor
    h: tl.tensor


class Statistics(NamedTuple):
    """Of one module and each row (BM,): max z and max −z, or T and T; totals; what `statistics` sums along with each.

    total: Σ_j e^{z_j − max z}.  It stands apart from the maximum, beside which its logarithm would lose digits.
    Of softmax modules, positive belongs to p and negative to q; without q they are the same.  Of transformed sums total
    is what T lacks of the exact sum, for a soft maximum, and else 0.
    """

    positive: tl.tensor
    negative: tl.tensor
    total_positive: tl.tensor
    total_negative: tl.tensor
    along_positive: tl.tensor
    along_negative: tl.tensor


@triton.jit
def _scalar(pointer, m, otherwise: tl.constexpr):
    """The m-th scalar, or `otherwise` where there is none."""
    if pointer is None:
        return tl.full((), otherwise, tl.float32)
    else:
        return tl.load(pointer + m).to(tl.float32)


@triton.jit
def load_module(network, m, D: tl.constexpr):
    """The m-th module, its scalars loaded."""
    first_unit = tl.cast(m, tl.int64) * network.h
    return Module(
        network.W + first_unit * D,
        network.b + first_unit,
        _scalar(network.temperature, m, 1.0),
        _scalar(network.positive, m, 1.0),
        _scalar(network.negative, m, 0.0),
        network.h,
    )


@triton.jit
def weights(module, start, products, BH: tl.constexpr):
    """W (BH, BD) and b (BH,) of a tile of hidden units."""
    units = start + tl.arange(0, BH)
    W_tile = common.load_rows(module.W, start, module.h, products.D, products.D, BH, products.BD)
    return W_tile, tl.load(module.b + units, mask=units < module.h, other=0.0).to(tl.float32)


@triton.jit
def _add_along(total, hidden, a, W_tile, products, ALONG: tl.constexpr):
    """total + hidden W (ALONG "rows"), total + Σ_j hidden_j a_j ("cotangents"), or total ("")."""
    if ALONG == "rows":
        return common.times(hidden.to(W_tile.dtype), W_tile, total, products)
    elif ALONG == "cotangents":
        return total + tl.sum(common.product(hidden, a), 1)
    else:
        return total


@triton.jit
def scaled(total, factor):
    """total ⊙ factor, (BM,) or (BM, BD)."""
    if len(total.shape) == 2:
        return common.product(total, factor[:, None])
    else:
        return common.product(total, factor)


@triton.jit
def shrinkage(top, highest):
    """e^{top − highest}, for highest >= top; 1 where both are the same infinity."""
    return tl.where(top == highest, 1.0, tl.exp((top - highest).to(tl.float32)))


@triton.jit
def origin(highest):
    """What exponents are relative to: the largest one, or 0 where that is infinite."""
    return tl.where(tl.abs(highest) == float("inf"), 0.0, highest)


@triton.jit
def _add_exponentials(top, total, along, z, a, W_tile, products, ALONG: tl.constexpr):
    """Add a tile to the running sums Σ_j e^{z_j − top} and, along with it, Σ_j e^{z_j − top} w_j or a_j.

    top is the largest z so far; the sums are rescaled where it grows.
    """
    highest = tl.maximum(top, tl.max(z, 1))
    shrink = shrinkage(top, highest)
    e = tl.exp(z - origin(highest)[:, None])
    along = _add_along(scaled(along, shrink), e, a, W_tile, products, ALONG)
    return highest, total * shrink + tl.sum(e, 1), along


@triton.jit
def log_sum_exp(top, total):
    """log(total e^top).  A row of NaN has no top of its own."""
    return top + tl.log(total)


@triton.jit
def zeros(BM: tl.constexpr, BD: tl.constexpr, ALONG: tl.constexpr):
    """Zeros of the shape of what is summed along: (BM, BD) for "rows", else (BM,)."""
    if ALONG == "rows":
        return tl.zeros((BM, BD), tl.float32)
    else:
        return tl.zeros((BM,), tl.float32)


@triton.jit
def _exact_sums(tile):
    """The sums of a tile's rows, in float64, to twice the digits of float32.

    Adding and subtracting M rounds all numbers of a row to multiples of a unit so large that their sum is exact.
    """
    size = tl.sum(tl.abs(tile), 1)
    power = (size.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    # Numbers out of all proportion, and NaN, are added up as they are.
    M = tl.where(size < 1e30, 6.0 * power, 0.0)[:, None]
    high = (tile + M) - M
    return tl.sum(high, 1).to(tl.float64) + tl.sum(tile - high, 1).to(tl.float64)


@triton.jit
def statistics(points, cotangents, module, form, products, ALONG: tl.constexpr, BH: tl.constexpr):
    """The statistics of rows, points (BM, BD), and sums along with them, by ALONG.

    "rows" π W and ω W, or σ W, (BM, BD);  "cotangents" π·a and ω·a, or σ·a, (BM,);  "" nothing.
    """
    BM: tl.constexpr = points.shape[0]
    empty = tl.zeros((BM, BH), tl.float32)
    top = tl.full((BM,), float("-inf"), tl.float32)
    top_2 = top
    total = tl.zeros((BM,), tl.float32)
    total_2 = total
    along = zeros(BM, products.BD, ALONG)
    along_2 = along
    exact = tl.zeros((BM,), tl.float64)
    for start in range(0, module.h, BH):
        W_tile, b = weights(module, start, products, BH)
        v = common.times(points, tl.trans(W_tile), empty, products) + b[None, :]
        a = v
        if ALONG == "cotangents":
            a = common.times(cotangents, tl.trans(W_tile), empty, products)
            a = common.inside(a, start, module.h, 0.0, products)
        if form.basis == "":
            z = common.product(module.temperature, v)
            near = common.inside(z, start, module.h, float("-inf"), products)
            top, total, along = _add_exponentials(top, total, along, near, a, W_tile, products, ALONG)
            if form.two_signs:
                near = common.inside(-z, start, module.h, float("-inf"), products)
                top_2, total_2, along_2 = _add_exponentials(top_2, total_2, along_2, near, a, W_tile, products, ALONG)
        else:
            summand = activations.antiderivative(v, form.basis, form.arithmetic)
            summand = common.inside(summand, start, module.h, 0.0, products)
            if form.combined:
                exact += _exact_sums(summand)
            else:
                total += tl.sum(summand, 1)
            if ALONG != "":
                sigma = common.inside(activations.value(v, form.basis, form.arithmetic), start, module.h, 0.0, products)
                along = _add_along(along, sigma, a, W_tile, products, ALONG)
    if form.basis != "":
        lost = total_2
        if form.combined:
            total = exact.to(tl.float32)
            lost = (exact - origin(total).to(tl.float64)).to(tl.float32)
            lost = tl.where(tl.abs(total) == float("inf"), 0.0, lost)
        return Statistics(total, total, lost, lost, along, along)
    elif form.two_signs:
        return Statistics(
            *(top, top_2, total, total_2, scaled(along, 1.0 / total), scaled(along_2, 1.0 / total_2)),
        )
    else:
        mean = scaled(along, 1.0 / total)
        return Statistics(top, top, total, total, mean, mean)


@triton.jit
def potential(found, module, form):
    """F, (BM,)."""
    if form.basis != "":
        return module.positive * activations.transform_value(found.positive, form.transform)
    else:
        F = module.positive * log_sum_exp(found.positive, found.total_positive)
        if form.two_signs:
            F += module.negative * log_sum_exp(found.negative, found.total_negative)
        return F / module.temperature


@triton.jit
def exact_potential(found, module, form):
    """F in float64, (BM,): an absolute error of κF is a relative one of a module's share in the soft maximum."""
    if form.transform == "identity" or form.transform == "half_square":
        total = found.positive.to(tl.float64) + found.total_positive.to(tl.float64)
        return module.positive.to(tl.float64) * activations.transform_value(total, form.transform)
    elif form.basis != "":
        first, _ = activations.transform_first_second(found.positive, form.transform)
        rho = activations.transform_value(found.positive, form.transform).to(tl.float64)
        return module.positive.to(tl.float64) * (rho + (first * found.total_positive).to(tl.float64))
    else:
        F = module.positive.to(tl.float64) * _exact_log_sum_exp(found.positive, found.total_positive)
        if form.two_signs:
            F += module.negative.to(tl.float64) * _exact_log_sum_exp(found.negative, found.total_negative)
        return F / module.temperature.to(tl.float64)


@triton.jit
def _exact_log_sum_exp(top, total):
    """`log_sum_exp` in float64; the logarithm is small beside the top where the top is large."""
    return top.to(tl.float64) + tl.log(total).to(tl.float64)


@triton.jit
def gradient(found, module, form):
    """∇F (BM, BD) from sums along "rows", or g·∇F (BM,) from those along "cotangents"."""
    if form.basis != "":
        first, _ = activations.transform_first_second(found.positive, form.transform)
        return scaled(found.along_positive, module.positive * first)
    elif form.two_signs:
        return module.positive * found.along_positive - module.negative * found.along_negative
    else:
        return common.product(module.positive, found.along_positive)


class Factors(NamedTuple):
    """The numbers of a row from which `hidden` computes what multiplies g and x in dW; `factors` has the formulas."""

    positive: tl.tensor
    value_positive: tl.tensor
    shift_positive: tl.tensor
    centre_positive: tl.tensor
    negative: tl.tensor
    value_negative: tl.tensor
    shift_negative: tl.tensor
    centre_negative: tl.tensor


@triton.jit
def factors(found, module, of_gradient, of_potential, form, OF_POTENTIAL: tl.constexpr):
    """What `hidden` needs for the gradients of r <g, ∇F> + t F, with found.along_… = π·a and ω·a, or σ·a.

    r = of_gradient and t = of_potential are numbers of a row, and constants of the differentiation; t is 0 unless
    OF_POTENTIAL.
    """
    if form.basis != "":
        first, second = activations.transform_first_second(found.positive, form.transform)
        value = of_gradient * module.positive * first
        shift = module.positive * (of_gradient * second * found.along_positive + of_potential * first)
        return Factors(value, value, shift, shift, value, value, shift, shift)
    else:
        pushed = of_potential
        if OF_POTENTIAL:
            pushed = of_potential / module.temperature
        positive = module.positive / found.total_positive
        value = of_gradient * positive
        shift = pushed * positive
        negative = module.negative / found.total_negative
        value_2 = of_gradient * negative
        shift_2 = -pushed * negative
        return Factors(
            *(found.positive, value, shift, found.along_positive),
            *(found.negative, value_2, shift_2, found.along_negative),
        )


@triton.jit
def hidden(v, a, temperature, by, form):
    """What multiplies g and x in dW: r ∂F/∂v, and the derivative of r <g, ∇F> + t F in z = τ v, or in v.

    softmax       r (p π − q ω)   r p π (a − π·a) + r q ω (a − ω·a) + t (p π − q ω)/τ
    transformed   r w ρ' σ        r w ρ' a σ' + w (r ρ'' σ·a + t ρ') σ
    """
    if form.basis != "":
        sigma, slope = activations.value_first(v, form.basis, form.arithmetic)
        return by.value_positive * sigma, by.value_positive * a * slope + by.shift_positive * sigma
    else:
        # Differences first: of a saturated softmax they are exactly 0.
        z = common.product(temperature, v)
        e = tl.exp(z - by.positive)
        value = by.value_positive * e
        of_z = value * (a - by.centre_positive) + by.shift_positive * e
        if form.two_signs:
            e = tl.exp(-z - by.negative)
            value_2 = by.value_negative * e
            of_z += value_2 * (a - by.centre_negative) + by.shift_negative * e
            value -= value_2
        return value, of_z


@triton.jit
def expanded(by, AXIS: tl.constexpr):
    """The factors of rows, expanded along AXIS of a tile."""
    return Factors(
        tl.expand_dims(by.positive, AXIS),
        tl.expand_dims(by.value_positive, AXIS),
        tl.expand_dims(by.shift_positive, AXIS),
        tl.expand_dims(by.centre_positive, AXIS),
        tl.expand_dims(by.negative, AXIS),
        tl.expand_dims(by.value_negative, AXIS),
        tl.expand_dims(by.shift_negative, AXIS),
        tl.expand_dims(by.centre_negative, AXIS),
    )
