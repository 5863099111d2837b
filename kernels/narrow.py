"""The ridge family for a few coordinates: products as sums of D outer products, without padding to matrix units.

Sums over rows or neurons run elementwise over tiles (BM rows, BH neurons) and are added up across the tile once, at
the end of a program.
"""

import triton
import triton.language as tl

from . import cascade, parts, ridge


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
def points_program(
    batch,
    W,
    vectors_at,
    bias,
    out,
    h,
    number,
    phi,
    products,
    FORM: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """hidden(x) W + bias, hidden being φ(u) ("value") or φ'(u) ⊙ a: BM rows, over all tiles of BH neurons."""
    D: tl.constexpr = products.D
    first = number.to(tl.int64) * BM
    points = _columns(batch.x, first, batch.count, batch.x_stride, 1, D, BM)  # D × (BM, 1)
    cotangents = points
    if FORM != "value":
        cotangents = _columns(batch.g, first, batch.count, batch.g_stride, 1, D, BM)  # D × (BM, 1)
    totals = _zeros(D, BM, BH)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
        vectors = cascade.in_memory(vectors_at, neurons, h, 0)
        u = _product(points, weights, D)
        if FORM == "value":
            hidden = cascade.value(u, vectors, phi)
        else:
            hidden = cascade.slope(u, vectors, phi) * _product(cotangents, weights, D)
        totals = _add_products(totals, ridge.inside(hidden, neurons, h, products.even), weights, D)
    rows = tl.arange(0, BM)
    for c in tl.static_range(D):
        column = tl.sum(totals[c], 1)
        if bias is not None:
            column += tl.load(bias + c).to(tl.float32)
        if FORM == "tangent":
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
def weights_program(batch, W, vectors_at, into, share, h, phi, wanted, products, BM: tl.constexpr, BH: tl.constexpr):
    """dW = φ(u)ᵀ g + (φ'(u) ⊙ a)ᵀ x and the vectors' gradients: BH neurons, one part of the batch."""
    D: tl.constexpr = products.D
    COUNT: tl.constexpr = phi.layers * (wanted.scale + wanted.shift + len(phi.basis) * wanted.coef)
    OF_W: tl.constexpr = D if into.W is not None else 0
    start = share.tile * BH
    weights = _columns(W, start, h, D, 0, D, BH)  # D × (1, BH)
    vectors = cascade.load(vectors_at, start + tl.arange(0, BH), h, phi, 0)
    totals = _zeros(OF_W, BM, BH)
    sums = _zeros(COUNT, BM, BH)
    begin = share.split.to(tl.int64) * share.rows
    for offset in range(0, tl.minimum(batch.count - begin, share.rows), BM):
        first = begin + offset
        points = _columns(batch.x, first, batch.count, batch.x_stride, 1, D, BM)  # D × (BM, 1)
        cotangents = _columns(batch.g, first, batch.count, batch.g_stride, 1, D, BM)  # D × (BM, 1)
        u, a = _product(points, weights, D), _product(cotangents, weights, D)
        phi_u, slope_a, sums = cascade.value_and_gradients(u, a, vectors, sums, phi, wanted, 0, False)
        totals = _add_products(totals, phi_u, cotangents, OF_W)
        totals = _add_products(totals, slope_a, points, OF_W)
    collected = ()
    for i in tl.static_range(COUNT):
        collected = collected + (tl.sum(sums[i], 0),)
    _leave(totals, collected, into, share, h, D, BH)


@triton.jit
def _leave(totals, sums, into, share, h, D: tl.constexpr, BH: tl.constexpr):
    """What `parts.matrix_and_vectors` does, with each column of dW a vector like the others."""
    OF_W: tl.constexpr = len(totals)
    vectors = ()
    for c in tl.static_range(OF_W):
        vectors = vectors + (tl.sum(totals[c], 0),)
    vectors = vectors + sums
    COUNT: tl.constexpr = len(vectors)
    lanes = tl.arange(0, BH)
    neurons = share.tile * BH + lanes
    tile_parts = share.partials + share.tile.to(tl.int64) * share.splits * COUNT * BH
    for i in tl.static_range(COUNT):
        tl.store(tile_parts + share.split.to(tl.int64) * COUNT * BH + i * BH + lanes, vectors[i])
    if parts.is_last(share.counters + share.tile, share.splits):
        for i in tl.static_range(COUNT):
            vector = parts.total_of(tile_parts + i * BH + lanes, share.splits, COUNT * BH)
            if i < OF_W:
                tl.store(into.W + neurons * D + i, vector, mask=neurons < h)
            else:
                tl.store(into.neurons + (i - OF_W) * h + neurons, vector, mask=neurons < h)
