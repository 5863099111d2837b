"""Convolutional ridge networks in one launch: strips of an image, one row of hidden units after the other.

    f(x) = Kᵀφ(K∗x) + bias,   u_c(p) = Σ_{i,t} K[c,i,t] x_i(p + t − o),   f_i(q) = Σ_{c,t} K[c,i,t] φ_c(q − t + o)

with taps t = (t_1, t_2), o = ((k_1 − 1)//2, (k_2 − 1)//2), and zeros or the image's other end beyond its border.  A
program has W hidden units of a row and a block of their channels in registers: u is Σ_{t_1} of matrix products of the
filters' rows (BC, TAPS) with patches of the image (TAPS, W), and what Kᵀ makes of φ(u) likewise (TAPS, W) for each
t_1, whose rows are moved by their t_2 and added up into the k_1 rows of the image that the hidden row reaches.
The first of these is complete then: it is stored, and the others move up.  Nothing of size C × pixels is in memory.

A row of a patch is a tap (i, t_2), padded to KX in t_2 and to TAPS in all; padded filters are 0.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import cascade, common, conv, reduction, spline
from .cascade import Cascade, Needs
from .common import Products
from .ridge import Rule


class Shape(NamedTuple):
    """The constants of the filters.

    inputs: C_in.  k1, k2: their size.  kx: k2 padded.  taps: rows of a patch.  width: its columns.
    circular: whether the image's other end lies beyond its border.
    """

    inputs: tl.constexpr
    k1: tl.constexpr
    k2: tl.constexpr
    kx: tl.constexpr
    taps: tl.constexpr
    width: tl.constexpr
    circular: tl.constexpr


class Images(NamedTuple):
    """Pointers to points x, cotangents g and directions v, (count, C_in, n1, n2); None for what a quantity lacks."""

    x: tl.tensor
    g: tl.tensor
    v: tl.tensor
    count: tl.tensor


class Network(NamedTuple):
    """Pointers to K (h, C_in, k1, k2) and to the vectors, as `cascade.pointers` has them, h, and the image's size.

    filter_rows: k1, whose value a compiler does not know: it would unroll the loops, and run out of registers.
    """

    K: tl.tensor
    vectors: tl.tensor
    h: tl.tensor
    n1: tl.tensor
    n2: tl.tensor
    filter_rows: tl.tensor


@triton.jit
def _patch(image, row, columns, net, shape):
    """x_i(row, columns + t_2 − o_2) of an image (C_in, n1, n2), (TAPS, W): 0 in padded taps and beyond a border."""
    taps = tl.arange(0, shape.taps)[:, None]
    i = taps // shape.kx
    t = taps % shape.kx
    inside = (i < shape.inputs) & (t < shape.k2)
    at = columns[None, :] + t - (shape.k2 - 1) // 2
    row = tl.zeros((1, 1), tl.int32) + row
    if shape.circular:
        row = ((row % net.n1) + net.n1) % net.n1
        at = ((at % net.n2) + net.n2) % net.n2
    else:
        inside = inside & (at >= 0) & (at < net.n2) & (row >= 0) & (row < net.n1)
    return tl.load(image + (i * net.n1 + row) * net.n2 + at, mask=inside, other=0.0)


@triton.jit
def _filters(units, t1, net, shape):
    """Where K[units, i, t_1, t_2] lie, (BC, TAPS), and which of them there are."""
    return _filter(units[:, None], tl.arange(0, shape.taps)[None, :], t1, net, shape)


@triton.jit
def _filter(units, taps, t1, net, shape):
    """Where K[units, i, t_1, t_2] lie, and which of them there are; taps: rows (i, t_2) of a patch."""
    i = taps // shape.kx
    t = taps % shape.kx
    SIZE: tl.constexpr = shape.k1 * shape.k2
    at = units * (shape.inputs * SIZE) + i * SIZE + t1 * shape.k2 + t
    return at, (units < net.h) & (i < shape.inputs) & (t < shape.k2)


@triton.jit
def _projected(image, units, row, columns, net, shape, products):
    """K∗x of channels `units` at the columns of a row, (BC, W)."""
    u = tl.zeros((units.shape[0], shape.width), tl.float32)
    for t1 in range(net.filter_rows):
        at, inside = _filters(units, t1, net, shape)
        K = tl.load(net.K + at, mask=inside, other=0.0)  # (BC, TAPS)
        patch = _patch(image, row + t1 - (shape.k1 - 1) // 2, columns, net, shape)  # (TAPS, W)
        u = common.times(K, patch, u, products)
    return u


@triton.jit
def _inside(units, row, columns, net, shape):
    """Which hidden units (BC, W) there are: circular images have them beyond their border too."""
    inside = (units < net.h)[:, None]
    if shape.circular:
        return inside & (columns == columns)[None, :]
    else:
        row = tl.zeros((1, 1), tl.int32) + row
        return inside & ((columns >= 0) & (columns < net.n2))[None, :] & (row >= 0) & (row < net.n1)


@triton.jit
def _turned(tiles, last):
    """The tiles from the second on, and `last`."""
    result = ()
    for i in tl.static_range(1, len(tiles)):
        result = result + (tiles[i],)
    return result + (last,)


@triton.jit
def _spread(sums, hidden, units, net, shape, products):
    """`sums` + what Kᵀ makes of hidden units (BC, W): row t_1 of the image in the t_1-th sum (channels, W).

    Its first column is that of the hidden units plus o_2 − (k2 − 1), less than which they do not reach in whole.
    """
    t = tl.arange(0, shape.taps)[:, None] % shape.kx
    source = tl.arange(0, shape.width)[None, :] + (shape.k2 - 1) - t
    source = tl.maximum(tl.minimum(source, shape.width - 1), 0)
    zeros = tl.zeros((shape.taps, shape.width), tl.float32)
    for t1 in range(net.filter_rows):
        at, inside = _filters(units, t1, net, shape)
        K = tl.load(net.K + at, mask=inside, other=0.0)  # (BC, TAPS)
        of_taps = common.times(tl.trans(K), hidden.to(K.dtype), zeros, products)
        # Where a padded tap meets an infinite unit it is NaN.
        of_taps = tl.where(t < shape.k2, tl.gather(of_taps, source, 1), 0.0)
        of_taps = tl.reshape(of_taps, (shape.taps // shape.kx, shape.kx, shape.width))
        sums = _turned(sums, sums[0] + tl.sum(of_taps, 1))  # all the way round
    return sums


@triton.jit
def _store(out, bias, total, row, first, net, shape):
    """A row of an image (C_in, n1, n2) from column `first` on, of total (channels, W)."""
    i = tl.arange(0, total.shape[0])[:, None]
    column = tl.arange(0, shape.width)[None, :]
    inside = (i < shape.inputs) & (column < shape.width - (shape.k2 - 1)) & (first + column < net.n2)
    if bias is not None:
        total += tl.load(bias + i, mask=i < shape.inputs, other=0.0).to(tl.float32)
    tl.store(out + (i * net.n1 + row) * net.n2 + first + column, total, mask=inside)


@triton.jit
def _hidden(images, offset, units, row, columns, net, shape, phi, products, KNOTS: tl.constexpr, FORM: tl.constexpr):
    """What Kᵀ is applied to in f or dx, by FORM, (BC, W); and φ'(u)·a, to which it is in dv.

    "value" φ(u); "jvp" and "slope" φ'(u)·a; "second" φ''(u)·a·p.
    """
    u = _projected(images.x + offset, units, row, columns, net, shape, products)
    hidden = u
    slope_a = u
    if FORM != "value":
        a = _projected(images.g + offset, units, row, columns, net, shape, products)
    if KNOTS > 0:
        line = conv.splines_at(net.vectors, units, net.h, phi.scaled)
        if FORM == "value":
            hidden = spline.value(u, line, KNOTS)
        elif FORM == "slope":
            hidden = spline.slope_of_value(u, line, KNOTS) * a
        else:
            slope_a = spline.slope(u, line, KNOTS) * a
            hidden = tl.where(u == u, 0.0, u) if FORM == "second" else slope_a
    else:
        vectors = cascade.in_memory(net.vectors, units, net.h, 1)
        if FORM == "value":
            hidden = cascade.value(u, vectors, phi)
        elif FORM == "second":
            p = _projected(images.v + offset, units, row, columns, net, shape, products)
            slope, second = cascade.slope_and_second(u, vectors, phi)
            slope_a = slope * a
            hidden = second * a * p
        else:
            hidden = cascade.slope(u, vectors, phi) * a
    if FORM == "jvp":
        # A piecewise linear φ has a slope even at NaN.
        hidden = tl.where(u == u, hidden, u)
    inside = _inside(units, row, columns, net, shape)
    return tl.where(inside, hidden, 0.0), tl.where(inside, slope_a, 0.0)


@triton.jit
def points_program(
    images,
    bias,
    out,
    out_v,
    program,
    rows,
    net,
    shape,
    phi,
    products,
    KNOTS: tl.constexpr,
    FORM: tl.constexpr,
    BC: tl.constexpr,
):
    """Kᵀ of `_hidden` in out, and of its φ'(u)·a in out_v unless that is None: `rows` rows of a strip of an image."""
    REACH: tl.constexpr = shape.width - (shape.k2 - 1)
    strips = tl.cdiv(net.n2, REACH)
    bands = tl.cdiv(net.n1, rows)
    first = (program % strips) * REACH
    begin = ((program // strips) % bands) * rows
    end = tl.minimum(begin + rows, net.n1)
    offset = (program // strips // bands).to(tl.int64) * (shape.inputs * net.n1 * net.n2)
    columns = first + (shape.k2 - 1) // 2 - (shape.k2 - 1) + tl.arange(0, shape.width)
    ABOVE: tl.constexpr = (shape.k1 - 1) // 2
    sums = common.zeros(shape.k1, (shape.taps // shape.kx, shape.width))
    sums_v = common.zeros(shape.k1 if out_v is not None else 0, (shape.taps // shape.kx, shape.width))
    for row in range(begin + ABOVE - (shape.k1 - 1), end + ABOVE):
        for start in range(0, net.h, BC):
            units = start + tl.arange(0, BC)
            hidden, slope_a = _hidden(images, offset, units, row, columns, net, shape, phi, products, KNOTS, FORM)
            sums = _spread(sums, hidden, units, net, shape, products)
            if out_v is not None:
                sums_v = _spread(sums_v, slope_a, units, net, shape, products)
        done = row - ABOVE
        if done >= begin:
            _store(out + offset, bias, sums[0], done, first, net, shape)
            if out_v is not None:
                _store(out_v + offset, None, sums_v[0], done, first, net, shape)
        sums = _turned(sums, tl.zeros(sums[0].shape, tl.float32))
        if out_v is not None:
            sums_v = _turned(sums_v, tl.zeros(sums[0].shape, tl.float32))


@triton.jit
def _add_products(totals, hidden, image, row, columns, net, shape, products):
    """`totals` + the products of hidden units (BC, W) with the image's patches, (BC, TAPS) for each t_1."""
    for t1 in range(net.filter_rows):
        patch = _patch(image, row + t1 - (shape.k1 - 1) // 2, columns, net, shape)  # (TAPS, W)
        totals = _turned(totals, common.times(hidden.to(patch.dtype), tl.trans(patch), totals[0], products))
    return totals


@triton.jit
def weights_program(
    images,
    dK,
    dvectors,
    dbias,
    part,
    net,
    shape,
    phi,
    needs,
    products,
    KNOTS: tl.constexpr,
    BT: tl.constexpr,
    QUANTITY: tl.constexpr,
    BC: tl.constexpr,
):
    """dK and the gradients in β, s and C: BC channels, part.rows blocks of W hidden units, image by image.

    They sum g for dbias besides, unless that is None.
    """
    inputs = tl.arange(0, shape.taps // shape.kx)
    of_bias = tl.zeros((shape.taps // shape.kx, shape.width), tl.float32)
    units = part.tile * BC + tl.arange(0, BC)
    totals = common.zeros(shape.k1 if dK is not None else 0, (BC, shape.taps))
    if KNOTS > 0:
        vectors = conv.splines_at(net.vectors, units, net.h, phi.scaled)
        sums = common.zeros(2, (BC,)) + (tl.zeros((BC, BT), tl.float32),)
    else:
        vectors = cascade.load(net.vectors, units, net.h, phi, 1)
        sums = common.zeros(phi.layers * (needs.scale + needs.shift + len(phi.basis) * needs.coef), (BC,))
    blocks = tl.cdiv(net.n2, shape.width)
    begin = part.split.to(tl.int64) * part.rows
    count = tl.cast(images.count, tl.int64) * net.n1 * blocks
    for block in range(begin, tl.minimum(begin + part.rows, count)):
        columns = (block % blocks).to(tl.int32) * shape.width + tl.arange(0, shape.width)
        row = ((block // blocks) % net.n1).to(tl.int32)
        offset = (block // blocks // net.n1) * (shape.inputs * net.n1 * net.n2)
        x, g = images.x + offset, images.g + offset
        if dbias is not None:
            at = (inputs[:, None] * net.n1 + row) * net.n2 + columns[None, :]
            there = (inputs < shape.inputs)[:, None] & (columns < net.n2)[None, :]
            of_bias += tl.load(g + at, mask=there, other=0.0).to(tl.float32)
        inside = (units < net.h)[:, None] & (columns < net.n2)[None, :]
        u = tl.where(inside, _projected(x, units, row, columns, net, shape, products), 0.0)
        a = tl.where(inside, _projected(g, units, row, columns, net, shape, products), 0.0)
        p = u
        if QUANTITY == "jvp":
            p = tl.where(inside, _projected(images.v + offset, units, row, columns, net, shape, products), 0.0)
        if KNOTS > 0:
            u, a, p, sums = conv.weighted_line(u, a, p, 0.0, vectors, sums, KNOTS, QUANTITY)
        else:
            u, a, p, sums = conv.weighted(u, a, p, 0.0, vectors, sums, Rule(None, None), phi, needs, QUANTITY)
        if dK is not None:
            u, a, p = tl.where(inside, u, 0.0), tl.where(inside, a, 0.0), tl.where(inside, p, 0.0)
            if QUANTITY == "value":
                totals = _add_products(totals, u, g, row, columns, net, shape, products)
                totals = _add_products(totals, a, x, row, columns, net, shape, products)
            else:
                totals = _add_products(totals, u, x, row, columns, net, shape, products)
                totals = _add_products(totals, a, images.v + offset, row, columns, net, shape, products)
                totals = _add_products(totals, p, g, row, columns, net, shape, products)
    _reduce(dK, dvectors, dbias, totals, sums, tl.sum(of_bias, 1), part, net, shape, needs, KNOTS, BC)


@triton.jit
def _reduce(dK, dvectors, dbias, totals, sums, of_bias, part, net, shape, needs, KNOTS: tl.constexpr, BC: tl.constexpr):
    """Saves this program's sums; the last program of its channels adds up those of all, in order."""
    MATRIX: tl.constexpr = BC * shape.taps
    vectors, table = sums, ()
    if KNOTS > 0:
        vectors, table = _of_spline(sums, needs)
    COUNT: tl.constexpr = len(vectors)
    BT: tl.constexpr = table[0].shape[1] if len(table) > 0 else 1
    VECTORS: tl.constexpr = len(totals) * MATRIX
    TABLE: tl.constexpr = VECTORS + COUNT * BC
    BIAS: tl.constexpr = TABLE + len(table) * BC * BT
    CHANNELS: tl.constexpr = shape.taps // shape.kx
    SIZE: tl.constexpr = BIAS + (CHANNELS if dbias is not None else 0)
    own = reduction.memory_of(part, SIZE) + part.split.to(tl.int64) * SIZE
    lines = tl.arange(0, BC)
    for t1 in tl.static_range(len(totals)):
        tl.store(own + t1 * MATRIX + lines[:, None] * shape.taps + tl.arange(0, shape.taps)[None, :], totals[t1])
    for i in tl.static_range(COUNT):
        tl.store(own + VECTORS + i * BC + lines, vectors[i])
    if len(table) > 0:
        tl.store(own + TABLE + lines[:, None] * BT + tl.arange(0, BT)[None, :], table[0])
    if dbias is not None:
        tl.store(own + BIAS + tl.arange(0, CHANNELS), of_bias)
    found, count = reduction.left_to_add(part, SIZE)
    if count > 0:
        start = part.tile * BC
        for first in range(0, SIZE, reduction.WIDTH):
            lanes = first + tl.arange(0, reduction.WIDTH)
            total = reduction.total_of(found + lanes, lanes < SIZE, count, SIZE)
            if len(totals) > 0:
                unit, taps = start + lanes % MATRIX // shape.taps, lanes % shape.taps
                at, inside = _filter(unit, taps, lanes // MATRIX, net, shape)
                tl.store(dK + at, total, mask=inside & (lanes < VECTORS))
            if COUNT > 0:
                reduction.store_vectors(dvectors, total, lanes - VECTORS, start, net.h, COUNT, BC)
            if len(table) > 0:
                unit, knot = start + (lanes - TABLE) // BT, (lanes - TABLE) % BT
                inside = (lanes >= TABLE) & (lanes < BIAS) & (unit < net.h) & (knot < KNOTS)
                tl.store(dvectors + (COUNT + knot) * net.h + unit, total, mask=inside)
            if dbias is not None:
                # Of the first channels: those of others are the same.
                channel = lanes - BIAS
                inside = (channel >= 0) & (channel < shape.inputs) & (part.tile + channel * 0 == 0)
                tl.store(dbias + channel, total, mask=inside)


@triton.jit
def _of_spline(sums, needs):
    """Of the sums of a spline those that are wanted: vectors (BC,), and a table (BC, ≥ T) or none."""
    vectors = ()
    table = ()
    if needs.scale:
        vectors = vectors + (sums[0],)
    if needs.shift:
        vectors = vectors + (sums[1],)
    if needs.coef:
        table = (sums[2],)
    return vectors, table


@triton.jit(do_not_specialize=["count", "filter_rows", "rows"])
def forward(
    x,
    v,
    K,
    scale,
    shift,
    coef,
    bias,
    out,
    count,
    h,
    n1,
    n2,
    filter_rows,
    rows,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    KNOTS: tl.constexpr,
    FILTERS: tl.constexpr,
    QUANTITY: tl.constexpr,
    BC: tl.constexpr,
):
    """out = f(x) = Kᵀφ(K∗x) + bias ("value") or J(x) v = Kᵀ(φ'(K∗x)·(K∗v)) ("jvp").

    One program takes some rows of a strip.  Shapes: x, v, out (count, C_in, n1, n2), K (h, C_in, k1, k2), scale and
    shift (LAYERS, h), coef (LAYERS, K, h), or (1, KNOTS, h) of a spline, bias (C_in,).  FILTERS: a `Shape`.
    """
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    shape: tl.constexpr = Shape(*FILTERS)
    products: tl.constexpr = Products(shape.inputs, shape.taps, PRECISION, ARITHMETIC, False)
    net = Network(K, cascade.pointers(scale, shift, coef), h, n1, n2, filter_rows)
    images = Images(x, v, None, count)
    points_program(images, bias, out, None, tl.program_id(0), rows, net, shape, phi, products, KNOTS, QUANTITY, BC)


@triton.jit(do_not_specialize=["count", "filter_rows", "rows", "weight_programs", "splits", "per_program"])
def backward(
    x,
    g,
    v,
    K,
    scale,
    shift,
    coef,
    dx,
    dv,
    dK,
    dvectors,
    dbias,
    partials,
    counters,
    count,
    h,
    n1,
    n2,
    filter_rows,
    rows,
    weight_programs,
    splits,
    per_program,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    NEEDS_SCALE: tl.constexpr,
    NEEDS_SHIFT: tl.constexpr,
    NEEDS_COEF: tl.constexpr,
    KNOTS: tl.constexpr,
    BT: tl.constexpr,
    FILTERS: tl.constexpr,
    QUANTITY: tl.constexpr,
    BC: tl.constexpr,
    BC_WEIGHTS: tl.constexpr,
):
    """dx, dv, dK, dvectors (those of scale, shift and coef, one after the other) and dbias, unless they are None.

    They are the gradients of <g, f(x)> ("value") or <g, J(x) v> ("jvp").  Shapes: g, dx and dv as x, dK as K, and those
    of `forward`.  First come the programs for parameters, which run longest.
    """
    program = tl.program_id(0)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    needs: tl.constexpr = Needs(NEEDS_SCALE, NEEDS_SHIFT, NEEDS_COEF)
    shape: tl.constexpr = Shape(*FILTERS)
    products: tl.constexpr = Products(shape.inputs, shape.taps, PRECISION, ARITHMETIC, False)
    net = Network(K, cascade.pointers(scale, shift, coef), h, n1, n2, filter_rows)
    images = Images(x, g, v, count)
    if program < weight_programs:
        if dK is not None or dvectors is not None:
            arrived = counters + reduction.OTHERS
            part = reduction.Part(partials, arrived, program // splits, program % splits, splits, per_program)
            weights_program(
                *(images, dK, dvectors, dbias, part, net, shape, phi, needs, products),
                *(KNOTS, BT, QUANTITY, BC_WEIGHTS),
            )
    else:
        strip = program - weight_programs
        if dx is not None:
            FORM: tl.constexpr = "second" if QUANTITY == "jvp" else "slope"
            points_program(images, None, dx, dv, strip, rows, net, shape, phi, products, KNOTS, FORM, BC)
        elif dv is not None:
            points_program(images, None, dv, None, strip, rows, net, shape, phi, products, KNOTS, "slope", BC)
