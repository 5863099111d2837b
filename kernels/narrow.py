"""The ridge family for a few coordinates: products as sums of D outer products, without padding to matrix units.

Sums over rows or neurons run elementwise over tiles (BM rows, BH neurons) and are added up across the tile once, at
the end of a program.
"""

import triton
import triton.language as tl

from . import cascade, common, ridge


@triton.jit
def _columns(pointer, first, count, stride, AXIS: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr):
    """The D columns of rows `first` … of a (count, D) matrix, 0 beyond: float32 vectors, expanded along AXIS."""
    rows = tl.arange(0, SIZE)
    base = pointer + first * stride + rows * stride
    columns = ()
    for c in tl.static_range(D):
        column = tl.load(base + c, mask=rows < count - first, other=0.0).to(tl.float32)
        columns = columns + (tl.expand_dims(column, AXIS),)
    return columns


@triton.jit
def _product(left, right, D: tl.constexpr):
    """Σ_c left_c right_c."""
    total = left[0] * right[0]
    for c in tl.static_range(1, D):
        total += left[c] * right[c]
    return total


@triton.jit
def _zeros(COUNT: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.zeros((BM, BH), tl.float32),)
    return tiles


@triton.jit
def _add_products(totals, hidden, factors, D: tl.constexpr):
    """(totals_c + hidden · factors_c)_c."""
    result = ()
    for c in tl.static_range(D):
        result = result + (totals[c] + hidden * factors[c],)
    return result


@triton.jit
def _store_columns(pointer, totals, bias, first, count, D: tl.constexpr, BM: tl.constexpr):
    """Stores Σ over neurons of each of D tiles, plus bias, as rows `first` … of a contiguous (count, D) matrix."""
    rows = tl.arange(0, BM)
    for c in tl.static_range(D):
        column = tl.sum(totals[c], 1)
        if bias is not None:
            column += tl.load(bias + c).to(tl.float32)
        tl.store(pointer + first * D + rows * D + c, column, mask=rows < count - first)


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
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """f(x) = φ(x Wᵀ) W + bias: one program for BM rows, over all tiles of BH neurons."""
    first = tl.program_id(0).to(tl.int64) * BM
    points = _columns(x, first, B, x_stride, 1, D, BM)  # D × (BM, 1)
    totals = _zeros(D, BM, BH)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
        phi = cascade.value(
            _product(points, weights, D),
            cascade.load(scale, neurons, h, LAYERS, 0),
            cascade.load(shift, neurons, h, LAYERS, 0),
            cascade.load(coef, neurons, h, LAYERS * len(BASIS), 0),
            BASIS,
            LAYERS,
            ARITHMETIC,
        )
        totals = _add_products(totals, ridge.inside(phi, neurons, h, EVEN), weights, D)
    _store_columns(out, totals, bias, first, B, D, BM)


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
    EVEN: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """dx = (φ'(u) ⊙ a) W: BM rows, over all tiles of BH neurons."""
    first = number.to(tl.int64) * BM
    points = _columns(x, first, B, x_stride, 1, D, BM)  # D × (BM, 1)
    cotangents = _columns(g, first, B, g_stride, 1, D, BM)  # D × (BM, 1)
    totals = _zeros(D, BM, BH)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
        _, slope = cascade.value_and_slope(
            _product(points, weights, D),
            cascade.load(scale, neurons, h, LAYERS, 0),
            cascade.load(shift, neurons, h, LAYERS, 0),
            cascade.load(coef, neurons, h, LAYERS * len(BASIS), 0),
            BASIS,
            LAYERS,
            ARITHMETIC,
        )
        hidden = ridge.inside(slope * _product(cotangents, weights, D), neurons, h, EVEN)
        totals = _add_products(totals, hidden, weights, D)
    _store_columns(dx, totals, None, first, B, D, BM)


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
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """dW = φ(u)ᵀ g + (φ'(u) ⊙ a)ᵀ x and the per-neuron gradients: BH neurons, one part of the batch."""
    COUNT: tl.constexpr = LAYERS * (OF_SCALE + OF_SHIFT + len(BASIS) * OF_COEF)
    OF_W: tl.constexpr = D if dW is not None else 0
    start = tile * BH
    neurons = start + tl.arange(0, BH)
    weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
    betas = cascade.load(scale, neurons, h, LAYERS, 0)
    shifts = cascade.load(shift, neurons, h, LAYERS, 0)
    coefs = cascade.load(coef, neurons, h, LAYERS * len(BASIS), 0)
    totals = _zeros(OF_W, BM, BH)
    sums = _zeros(COUNT, BM, BH)
    begin = split.to(tl.int64) * rows_per_split
    for offset in range(0, tl.minimum(B - begin, rows_per_split), BM):
        points = _columns(x, begin + offset, B, x_stride, 1, D, BM)  # D × (BM, 1)
        cotangents = _columns(g, begin + offset, B, g_stride, 1, D, BM)  # D × (BM, 1)
        phi, slope_a, sums = cascade.value_and_gradients(
            _product(points, weights, D),
            _product(cotangents, weights, D),
            betas,
            shifts,
            coefs,
            sums,
            BASIS,
            LAYERS,
            ARITHMETIC,
            0,
            False,
            OF_SCALE,
            OF_SHIFT,
            OF_COEF,
        )
        totals = _add_products(totals, phi, cotangents, OF_W)
        totals = _add_products(totals, slope_a, points, OF_W)
    sums = totals + sums
    lines = tl.arange(0, BH)
    SIZE: tl.constexpr = (OF_W + COUNT) * BH
    tile_parts = partials + tile.to(tl.int64) * splits * SIZE
    for i in tl.static_range(OF_W + COUNT):
        tl.store(tile_parts + split.to(tl.int64) * SIZE + i * BH + lines, tl.sum(sums[i], 0))
    if common.is_last(counters + tile, splits):
        for i in tl.static_range(OF_W + COUNT):
            total = common.sum_of_parts(tile_parts + i * BH + lines, splits, SIZE)
            if i < OF_W:
                tl.store(dW + neurons * D + i, total, mask=neurons < h)
            else:
                tl.store(dneurons + (i - OF_W) * h + neurons, total, mask=neurons < h)


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
    """The gradients of <g, f> that are not None: the roles of `ridge.backward`."""
    program = tl.program_id(0)
    PARAMETERS: tl.constexpr = dW is not None or dneurons is not None
    if program < weight_programs:
        if PARAMETERS:
            _weights_program(
                *(g, x, W, scale, shift, coef, dW, dneurons, partials, counters, B, h, x_stride, g_stride),
                *(program // splits, program % splits, splits, rows_per_split),
                *(D, BASIS, LAYERS, ARITHMETIC, OF_SCALE, OF_SHIFT, OF_COEF, BM_WEIGHTS, BH_WEIGHTS),
            )
    elif program < weight_programs + bias_splits:
        if dbias is not None:
            ridge.bias_program(
                *(g, dbias, bias_partials, counters + weight_programs // splits, B, g_stride),
                *(program - weight_programs, bias_splits, bias_rows, D, BM, BD),
            )
    elif dx is not None:
        _points_program(
            *(g, x, W, scale, shift, coef, dx, B, h, x_stride, g_stride, program - weight_programs - bias_splits),
            *(D, BASIS, LAYERS, ARITHMETIC, EVEN, BM, BH),
        )
