"""The ridge family for a few coordinates: products as sums of D outer products, without padding to matrix units.

Sums over rows or hidden units run elementwise over tiles (BM rows, BH hidden units), and are added up across the tile
once, at the end of a program.
"""

import triton
import triton.language as tl

from . import cascade, common, reduction


@triton.jit
def _columns(pointer, first, count, stride, AXIS: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr):
    """The D columns of rows `first` … of a (count, D) matrix, as float32 vectors (SIZE,), expanded along AXIS.

    They are 0 beyond the last row.
    """
    rows = tl.arange(0, SIZE)
    base = pointer + first * stride + rows * stride
    columns = ()
    for c in tl.static_range(D):
        column = tl.load(base + c, mask=rows < count - first, other=0.0).to(tl.float32)
        columns = columns + (tl.expand_dims(column, AXIS),)
    return columns


@triton.jit
def _product(left, right, D: tl.constexpr):
    """Σ_c left_c right_c, of two tuples of D tiles."""
    total = left[0] * right[0]
    for c in tl.static_range(1, D):
        total += left[c] * right[c]
    return total


@triton.jit
def _add_products(totals, hidden, factors, D: tl.constexpr):
    """(totals_c + hidden · factors_c)_c."""
    result = ()
    for c in tl.static_range(D):
        result = result + (totals[c] + hidden * factors[c],)
    return result


@triton.jit
def points_program(
    batch,
    W,
    vectors_at,
    bias,
    out,
    h,
    block,
    phi,
    products,
    FORM: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """φ(u) W + bias ("value"), or (φ'(u) ⊙ a) W: BM rows, over all tiles of BH hidden units.

    u = x Wᵀ, a = g Wᵀ.  FORM "jvp" has, besides, the NaN of a point in each number of its row, as in `ridge`.
    """
    D: tl.constexpr = products.D
    first = block.to(tl.int64) * BM
    points = _columns(batch.x, first, batch.count, batch.x_stride, 1, D, BM)  # D × (BM, 1)
    cotangents = points
    if FORM != "value":
        cotangents = _columns(batch.g, first, batch.count, batch.g_stride, 1, D, BM)  # D × (BM, 1)
    totals = common.zeros(D, (BM, BH))
    for start in range(0, h, BH):
        units = start + tl.arange(0, BH)
        weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
        vectors = cascade.in_memory(vectors_at, units, h, 0)
        u = _product(points, weights, D)
        if FORM == "value":
            hidden = cascade.value(u, vectors, phi)
        else:
            hidden = cascade.slope(u, vectors, phi) * _product(cotangents, weights, D)
        totals = _add_products(totals, common.inside(hidden, start, h, 0.0, products), weights, D)
    rows = tl.arange(0, BM)
    for c in tl.static_range(D):
        column = tl.sum(totals[c], 1)
        if bias is not None:
            column += tl.load(bias + c).to(tl.float32)
        if FORM == "jvp":
            column += _undefined(points, D)
        tl.store(out + first * D + rows * D + c, column, mask=rows < batch.count - first)


@triton.jit
def _undefined(points, D: tl.constexpr):
    """NaN for a row with a NaN, else 0."""
    total = points[0] != points[0]
    for c in tl.static_range(1, D):
        total = total | (points[c] != points[c])
    return tl.sum(tl.where(total, float("nan"), 0.0), 1)


@triton.jit
def weights_program(batch, W, vectors_at, into, part, h, phi, needs, products, BM: tl.constexpr, BH: tl.constexpr):
    """dW = φ(u)ᵀ g + (φ'(u) ⊙ a)ᵀ x and the gradients in β, s and C: BH hidden units, one part of the batch."""
    D: tl.constexpr = products.D
    COUNT: tl.constexpr = phi.layers * (needs.scale + needs.shift + len(phi.basis) * needs.coef)
    W_COLUMNS: tl.constexpr = D if into.W is not None else 0
    start = part.tile * BH
    weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
    vectors = cascade.load(vectors_at, start + tl.arange(0, BH), h, phi, 0)
    totals = common.zeros(W_COLUMNS, (BM, BH))
    sums = common.zeros(COUNT, (BM, BH))
    begin = part.split.to(tl.int64) * part.rows
    for offset in range(0, tl.minimum(batch.count - begin, part.rows), BM):
        first = begin + offset
        points = _columns(batch.x, first, batch.count, batch.x_stride, 1, D, BM)  # D × (BM, 1)
        cotangents = _columns(batch.g, first, batch.count, batch.g_stride, 1, D, BM)  # D × (BM, 1)
        u, a = _product(points, weights, D), _product(cotangents, weights, D)
        phi_u, slope_a, sums = cascade.value_and_gradients(u, a, vectors, sums, phi, needs, 0, False)
        totals = _add_products(totals, phi_u, cotangents, W_COLUMNS)
        totals = _add_products(totals, slope_a, points, W_COLUMNS)
    collected = ()
    for i in tl.static_range(COUNT):
        collected = collected + (tl.sum(sums[i], 0),)
    _save(totals, collected, into, part, h, D, BH)


@triton.jit
def _save(totals, sums, into, part, h, D: tl.constexpr, BH: tl.constexpr):
    """Save this program's sums, and add up all programs' if it is the last: `reduction.matrix_and_vectors` for columns.

    totals: the D columns of dW, or none, and sums: the vectors' gradients; tiles (BM, BH), and vectors (BH,).
    """
    W_COLUMNS: tl.constexpr = len(totals)
    vectors = ()
    for c in tl.static_range(W_COLUMNS):
        vectors = vectors + (tl.sum(totals[c], 0),)
    vectors = vectors + sums
    COUNT: tl.constexpr = len(vectors)
    SIZE: tl.constexpr = COUNT * BH
    own = reduction.memory_of(part, SIZE) + part.split.to(tl.int64) * SIZE
    for i in tl.static_range(COUNT):
        tl.store(own + i * BH + tl.arange(0, BH), vectors[i])
    found, count = reduction.left_to_add(part, SIZE)
    if count > 0:
        start = part.tile * BH
        for first in range(0, SIZE, reduction.WIDTH):
            lanes = first + tl.arange(0, reduction.WIDTH)
            total = reduction.total_of(found + lanes, lanes < SIZE, count, SIZE)
            if W_COLUMNS > 0:
                unit = start + lanes % BH
                inside = (lanes < W_COLUMNS * BH) & (unit < h)
                tl.store(into.W + unit * D + lanes // BH, total, mask=inside)
            if COUNT > W_COLUMNS:
                of_vectors = lanes - W_COLUMNS * BH
                reduction.store_vectors(into.vectors, total, of_vectors, start, h, COUNT - W_COLUMNS, BH)
