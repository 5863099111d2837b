"""Modules whose hidden values are coupled within a row: what one of them needs of a tile, and its statistics.

Of module m and one row, v_j = w_j·x + b_j, with a_j = w_j·g for a cotangent g:

    softmax       z = τ v, π = softmax(z), ω = softmax(−z):  F = (p LSE(z) + q LSE(−z))/τ,  ∇F = (p π − q ω) W
    transformed   T = Σ_j Ψ(v_j), σ = Ψ':                    F = w ρ(T),                    ∇F = w ρ'(T) σ(v) W

A module's statistics of a row are LSE(z) and LSE(−z), or T.  One pass over all tiles of hidden units finds them, with
exponentials relative to the largest z so far; with them, π and ω or σ follow tile by tile.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import common, transforms


class Form(NamedTuple):
    """What is constant of modules.

    basis: Ψ' of a transformed sum, "" for softmax.  transform: ρ.  two_signs: whether there is a q.  combined: whether
    the potential is LSE(κ F_m + c_m)/κ, not the sum of the F_m.  arithmetic: as in `common`.
    """

    basis: tl.constexpr
    transform: tl.constexpr
    two_signs: tl.constexpr
    combined: tl.constexpr
    arithmetic: tl.constexpr


class Products(NamedTuple):
    """What is constant of the matrix products.  even: whether h is a multiple of the tile's units."""

    D: tl.constexpr
    BD: tl.constexpr
    precision: tl.constexpr
    arithmetic: tl.constexpr
    even: tl.constexpr


class Network(NamedTuple):
    """Pointers to W (count, h, D), b (count, h), τ, p (or w), q (count,), κ () and c (count,), or None."""

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
    """One module: pointers to its W (h, D) and b (h,), and its numbers τ, p (or w) and q."""

    W: tl.tensor
    b: tl.tensor
    temperature: tl.tensor
    positive: tl.tensor
    negative: tl.tensor
    h: tl.tensor


class Statistics(NamedTuple):
    """Of one module and each row: LSE(z) and LSE(−z), or T and T; and what `along` each of their gradients comes."""

    first: tl.tensor
    second: tl.tensor
    along_first: tl.tensor
    along_second: tl.tensor


@triton.jit
def _number(pointer, m, otherwise: tl.constexpr):
    if pointer is None:
        return tl.full((), otherwise, tl.float32)
    else:
        return tl.load(pointer + m).to(tl.float32)


@triton.jit
def module(network, m, D: tl.constexpr):
    """The m-th module."""
    first_unit = tl.cast(m, tl.int64) * network.h
    return Module(
        network.W + first_unit * D,
        network.b + first_unit,
        _number(network.temperature, m, 1.0),
        _number(network.positive, m, 1.0),
        _number(network.negative, m, 0.0),
        network.h,
    )


@triton.jit
def weights(one, start, products, BH: tl.constexpr):
    """W at the units of a tile, (BH, BD), and b, (BH,)."""
    units = start + tl.arange(0, BH)
    W_tile = common.load_rows(one.W, start, one.h, products.D, products.D, BH, products.BD)
    return W_tile, tl.load(one.b + units, mask=units < one.h, other=0.0).to(tl.float32)


@triton.jit
def times(a, b, total, products):
    """total + a b."""
    return common.dot(a, b, total, products.precision, products.arithmetic)


@triton.jit
def inside(tile, start, h, OUTSIDE: tl.constexpr, products):
    """A tile (BM, BH), OUTSIDE where there is no hidden unit."""
    if products.even:
        return tile
    else:
        units = start + tl.arange(0, tile.shape[1])
        return tl.where((units < h)[None, :], tile, OUTSIDE)


@triton.jit
def _add_along(total, hidden, a, W_tile, products, ALONG: tl.constexpr):
    """total + hidden W ("rows"), or + Σ_j hidden_j a_j ("cotangents")."""
    if ALONG == "rows":
        return times(hidden.to(W_tile.dtype), W_tile, total, products)
    elif ALONG == "cotangents":
        return total + tl.sum(hidden * a, 1)
    else:
        return total


@triton.jit
def scaled(total, factor):
    """total ⊙ factor, (BM,) or (BM, BD)."""
    if len(total.shape) == 2:
        return total * factor[:, None]
    else:
        return total * factor


@triton.jit
def _add_exponentials(top, total, along, z, a, W_tile, products, ALONG: tl.constexpr):
    """Adds a tile's e^z to `total`, relative to e^top, and what comes along with it."""
    highest = tl.maximum(top, tl.max(z, 1))
    shrink = tl.exp(top - highest)
    e = tl.exp(z - highest[:, None])
    along = _add_along(scaled(along, shrink), e, a, W_tile, products, ALONG)
    return highest, total * shrink + tl.sum(e, 1), along


@triton.jit
def _log(top, total):
    """log(total e^top).  A row of NaN has no top of its own."""
    return top + tl.log(total)


@triton.jit
def zeros(BM: tl.constexpr, BD: tl.constexpr, ALONG: tl.constexpr):
    if ALONG == "rows":
        return tl.zeros((BM, BD), tl.float32)
    else:
        return tl.zeros((BM,), tl.float32)


@triton.jit
def statistics(points, cotangents, one, form, products, ALONG: tl.constexpr, BH: tl.constexpr):
    """The statistics of rows (BM, BD), and along: π W and ω W, or σ W ("rows"); π·a and ω·a, or σ·a ("cotangents")."""
    BM: tl.constexpr = points.shape[0]
    empty = tl.zeros((BM, BH), tl.float32)
    top = tl.full((BM,), float("-inf"), tl.float32)
    top_2 = top
    total = tl.zeros((BM,), tl.float32)
    total_2 = total
    along = zeros(BM, products.BD, ALONG)
    along_2 = along
    for start in range(0, one.h, BH):
        W_tile, b = weights(one, start, products, BH)
        v = times(points, tl.trans(W_tile), empty, products) + b[None, :]
        a = v
        if ALONG == "cotangents":
            a = inside(times(cotangents, tl.trans(W_tile), empty, products), start, one.h, 0.0, products)
        if form.basis == "":
            z = one.temperature * v
            near = inside(z, start, one.h, float("-inf"), products)
            top, total, along = _add_exponentials(top, total, along, near, a, W_tile, products, ALONG)
            if form.two_signs:
                near = inside(-z, start, one.h, float("-inf"), products)
                top_2, total_2, along_2 = _add_exponentials(top_2, total_2, along_2, near, a, W_tile, products, ALONG)
        else:
            summand = activations.antiderivative(v, form.basis, form.arithmetic)
            total += tl.sum(inside(summand, start, one.h, 0.0, products), 1)
            if ALONG != "":
                sigma = inside(activations.value(v, form.basis, form.arithmetic), start, one.h, 0.0, products)
                along = _add_along(along, sigma, a, W_tile, products, ALONG)
    if form.basis != "":
        return Statistics(total, total, along, along)
    elif form.two_signs:
        return Statistics(
            *(_log(top, total), _log(top_2, total_2), scaled(along, 1.0 / total), scaled(along_2, 1.0 / total_2))
        )
    else:
        lse = _log(top, total)
        mean = scaled(along, 1.0 / total)
        return Statistics(lse, lse, mean, mean)


@triton.jit
def potential(found, one, form):
    """F, (BM,)."""
    if form.basis != "":
        return one.positive * transforms.value(found.first, form.transform)
    elif form.two_signs:
        return (one.positive * found.first + one.negative * found.second) / one.temperature
    else:
        return one.positive * found.first / one.temperature


@triton.jit
def gradient(found, one, form):
    """∇F (BM, BD), or g·∇F (BM,), by what came along."""
    if form.basis != "":
        first, _ = transforms.first_second(found.first, form.transform)
        return scaled(found.along_first, one.positive * first)
    elif form.two_signs:
        return one.positive * found.along_first - one.negative * found.along_second
    else:
        return one.positive * found.along_first


class Factors(NamedTuple):
    """Numbers of a row that give its hidden values for the backward pass; see `hidden`."""

    first: tl.tensor
    value_first: tl.tensor
    shift_first: tl.tensor
    second: tl.tensor
    value_second: tl.tensor
    shift_second: tl.tensor


@triton.jit
def factors(found, one, of_gradient, of_potential, form, OF_POTENTIAL: tl.constexpr):
    """What `hidden` needs for the gradients of r <g, ∇F> + t F, with found.along_… = π·a and ω·a, or σ·a.

    r = of_gradient and t = of_potential are numbers of a row, of which neither is differentiated; t is 0 unless
    OF_POTENTIAL.
    """
    if form.basis != "":
        first, second = transforms.first_second(found.first, form.transform)
        value = of_gradient * one.positive * first
        shift = one.positive * (of_gradient * second * found.along_first + of_potential * first)
        return Factors(value, value, shift, value, value, shift)
    else:
        pushed = of_potential
        if OF_POTENTIAL:
            pushed = of_potential / one.temperature
        value = of_gradient * one.positive
        shift = one.positive * (pushed - of_gradient * found.along_first)
        value_2 = of_gradient * one.negative
        shift_2 = -one.negative * (pushed + of_gradient * found.along_second)
        return Factors(found.first, value, shift, found.second, value_2, shift_2)


@triton.jit
def hidden(v, a, temperature, by, form):
    """What multiplies g and x in dW: r ∂F/∂v, and the derivative of r <g, ∇F> + t F by z = τ v, or by v.

    softmax       r (p π − q ω)   r p π (a − π·a) + r q ω (a − ω·a) + t (p π − q ω)/τ
    transformed   r w ρ' σ        r w ρ' a σ' + w (r ρ'' σ·a + t ρ') σ
    """
    if form.basis != "":
        sigma, slope = activations.value_first(v, form.basis, form.arithmetic)
        return by.value_first * sigma, by.value_first * a * slope + by.shift_first * sigma
    else:
        z = temperature * v
        pi = tl.exp(z - by.first)
        value = by.value_first * pi
        of_z = value * a + by.shift_first * pi
        if form.two_signs:
            omega = tl.exp(-z - by.second)
            value_2 = by.value_second * omega
            of_z += value_2 * a + by.shift_second * omega
            value -= value_2
        return value, of_z


@triton.jit
def expanded(by, AXIS: tl.constexpr):
    """The factors of rows along the other axis of a tile than AXIS."""
    return Factors(
        tl.expand_dims(by.first, AXIS),
        tl.expand_dims(by.value_first, AXIS),
        tl.expand_dims(by.shift_first, AXIS),
        tl.expand_dims(by.second, AXIS),
        tl.expand_dims(by.value_second, AXIS),
        tl.expand_dims(by.shift_second, AXIS),
    )
