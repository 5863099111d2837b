"""The ridge family by matrix products: f and its gradients, a launch each, hidden values in registers only.

Batch rows are counted in 64 bits.  D = d is padded to BD columns, a power of two; padded columns are 0 on both sides
of each product.  Padded neurons of the last tile are masked out where their 0 weights would meet an infinite x.
"""

import triton
import triton.language as tl

from . import cascade, common


@triton.jit
def inside(hidden, neurons, h, EVEN: tl.constexpr):
    """Hidden values (BM, BH), 0 where there is no neuron."""
    if EVEN:
        return hidden
    else:
        return tl.where((neurons < h)[None, :], hidden, 0.0)


@triton.jit(do_not_specialize=["B"])
def forward(
    x,
    W,
    scale,
    shift,
    coef,
    bias,
    out,
    B,
    h,
    x_stride,
    D: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
):
    """f(x) = φ(x Wᵀ) W + bias: one program for BM rows, over all tiles of BH neurons."""
    first = tl.program_id(0).to(tl.int64) * BM
    points = common.load_rows(x, first, B, x_stride, D, BM, BD)  # (BM, BD)
    f = tl.zeros((BM, BD), tl.float32)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
        u = common.dot(points, tl.trans(W_tile), tl.zeros((BM, BH), tl.float32), PRECISION, ARITHMETIC)
        phi = cascade.value(
            u,
            cascade.load(scale, neurons, h, LAYERS, 0),
            cascade.load(shift, neurons, h, LAYERS, 0),
            cascade.load(coef, neurons, h, LAYERS * len(BASIS), 0),
            BASIS,
            LAYERS,
            ARITHMETIC,
        )
        phi = inside(phi, neurons, h, EVEN).to(W_tile.dtype)
        f = common.dot(phi, W_tile, f, PRECISION, ARITHMETIC)
    if bias is not None:
        columns = tl.arange(0, BD)
        f += tl.load(bias + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]
    common.store_rows(out, f, first, B, D, BM, BD)


@triton.jit
def _weights_program(
    g,
    x,
    W,
    scale,
    shift,
    coef,
    dW,
    dneurons,
    partials,
    counters,
    B,
    h,
    x_stride,
    g_stride,
    tile,
    split,
    splits,
    rows_per_split,
    D: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
):
    """dW = φ(u)ᵀ g + (φ'(u) ⊙ a)ᵀ x and the per-neuron gradients: BH neurons, one part of the batch."""
    K: tl.constexpr = len(BASIS)
    COUNT: tl.constexpr = LAYERS * (OF_SCALE + OF_SHIFT + K * OF_COEF)
    start = tile * BH
    neurons = start + tl.arange(0, BH)
    W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
    betas = cascade.load(scale, neurons, h, LAYERS, 1)
    shifts = cascade.load(shift, neurons, h, LAYERS, 1)
    coefs = cascade.load(coef, neurons, h, LAYERS * K, 1)
    total = tl.zeros((BH, BD), tl.float32)
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((BH,), tl.float32),)
    begin = split.to(tl.int64) * rows_per_split
    for offset in range(0, tl.minimum(B - begin, rows_per_split), BM):
        first = begin + offset
        points = common.load_rows(x, first, B, x_stride, D, BM, BD)  # (BM, BD)
        cotangents = common.load_rows(g, first, B, g_stride, D, BM, BD)  # (BM, BD)
        zeros = tl.zeros((BH, BM), tl.float32)
        u = common.dot(W_tile, tl.trans(points), zeros, PRECISION, ARITHMETIC)
        a = common.dot(W_tile, tl.trans(cotangents), zeros, PRECISION, ARITHMETIC)
        phi, slope_a, sums = cascade.value_and_gradients(
            u,
            a,
            betas,
            shifts,
            coefs,
            sums,
            BASIS,
            LAYERS,
            ARITHMETIC,
            1,
            True,
            OF_SCALE,
            OF_SHIFT,
            OF_COEF,
        )
        if dW is not None:
            total = common.dot(phi.to(x.dtype.element_ty), cotangents, total, PRECISION, ARITHMETIC)
            total = common.dot(slope_a.to(x.dtype.element_ty), points, total, PRECISION, ARITHMETIC)
    # Every program leaves its part; the last one of the tile to arrive adds them up in the order of the batch.
    OF_W: tl.constexpr = BH * BD if dW is not None else 0
    SIZE: tl.constexpr = OF_W + COUNT * BH
    tile_parts = partials + tile.to(tl.int64) * splits * SIZE
    part = tile_parts + split.to(tl.int64) * SIZE
    lines = tl.arange(0, BH)
    block = lines[:, None] * BD + tl.arange(0, BD)[None, :]
    if dW is not None:
        tl.store(part + block, total)
    for i in tl.static_range(COUNT):
        tl.store(part + OF_W + i * BH + lines, sums[i])
    if common.is_last(counters + tile, splits):
        if dW is not None:
            common.store_rows(dW, common.sum_of_parts(tile_parts + block, splits, SIZE), start, h, D, BH, BD)
        for i in tl.static_range(COUNT):
            sum_i = common.sum_of_parts(tile_parts + OF_W + i * BH + lines, splits, SIZE)
            tl.store(dneurons + i * h + neurons, sum_i, mask=neurons < h)


@triton.jit
def bias_program(
    g,
    dbias,
    partials,
    counter,
    B,
    g_stride,
    split,
    splits,
    rows_per_split,
    D: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """dbias = Σ_B g: one part of the batch."""
    columns = tl.arange(0, BD)
    total = tl.zeros((BD,), tl.float32)
    begin = split.to(tl.int64) * rows_per_split
    for offset in range(0, tl.minimum(B - begin, rows_per_split), BM):
        total += tl.sum(common.load_rows(g, begin + offset, B, g_stride, D, BM, BD).to(tl.float32), 0)
    tl.store(partials + split * BD + columns, total)
    if common.is_last(counter, splits):
        total = common.sum_of_parts(partials + columns, splits, BD)
        tl.store(dbias + columns, total, mask=columns < D)


@triton.jit
def _points_program(
    g,
    x,
    W,
    scale,
    shift,
    coef,
    dx,
    B,
    h,
    x_stride,
    g_stride,
    number,
    D: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
):
    """dx = (φ'(u) ⊙ a) W: BM rows, over all tiles of BH neurons."""
    first = number.to(tl.int64) * BM
    points = common.load_rows(x, first, B, x_stride, D, BM, BD)  # (BM, BD)
    cotangents = common.load_rows(g, first, B, g_stride, D, BM, BD)  # (BM, BD)
    total = tl.zeros((BM, BD), tl.float32)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
        zeros = tl.zeros((BM, BH), tl.float32)
        u = common.dot(points, tl.trans(W_tile), zeros, PRECISION, ARITHMETIC)
        a = common.dot(cotangents, tl.trans(W_tile), zeros, PRECISION, ARITHMETIC)
        _, slope = cascade.value_and_slope(
            u,
            cascade.load(scale, neurons, h, LAYERS, 0),
            cascade.load(shift, neurons, h, LAYERS, 0),
            cascade.load(coef, neurons, h, LAYERS * len(BASIS), 0),
            BASIS,
            LAYERS,
            ARITHMETIC,
        )
        hidden = inside(slope * a, neurons, h, EVEN).to(W_tile.dtype)
        total = common.dot(hidden, W_tile, total, PRECISION, ARITHMETIC)
    common.store_rows(dx, total, first, B, D, BM, BD)


@triton.jit(do_not_specialize=["B", "weight_programs", "splits", "rows_per_split", "bias_splits", "bias_rows"])
def backward(
    g,
    x,
    W,
    scale,
    shift,
    coef,
    dx,
    dW,
    dneurons,
    dbias,
    partials,
    bias_partials,
    counters,
    B,
    h,
    x_stride,
    g_stride,
    weight_programs,
    splits,
    rows_per_split,
    bias_splits,
    bias_rows,
    D: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BM_WEIGHTS: tl.constexpr,
    BH_WEIGHTS: tl.constexpr,
    BD: tl.constexpr,
):
    """The gradients of <g, f> that are not None: first the programs for parameters, which run longest, then for x."""
    program = tl.program_id(0)
    PARAMETERS: tl.constexpr = dW is not None or dneurons is not None
    if program < weight_programs:
        if PARAMETERS:
            _weights_program(
                *(g, x, W, scale, shift, coef, dW, dneurons, partials, counters, B, h, x_stride, g_stride),
                *(program // splits, program % splits, splits, rows_per_split),
                *(D, BASIS, LAYERS, ARITHMETIC, PRECISION, OF_SCALE, OF_SHIFT, OF_COEF, BM_WEIGHTS, BH_WEIGHTS, BD),
            )
    elif program < weight_programs + bias_splits:
        if dbias is not None:
            bias_program(
                *(g, dbias, bias_partials, counters + weight_programs // splits, B, g_stride),
                *(program - weight_programs, bias_splits, bias_rows, D, BM, BD),
            )
    elif dx is not None:
        _points_program(
            *(g, x, W, scale, shift, coef, dx, B, h, x_stride, g_stride, program - weight_programs - bias_splits),
            *(D, BASIS, LAYERS, ARITHMETIC, PRECISION, EVEN, BM, BH, BD),
        )
