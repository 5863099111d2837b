"""J(x) = Wᵀ diag(φ'(W x)) W and the gradients of Σ_B <g, J(x)>: row by row, with products on matrix units.

With q_j = w_jᵀ g w_j of one row:  dx = (φ'' ⊙ q) W;  dW = φ' ⊙ W (g + gᵀ) + (φ'' ⊙ q) xᵀ;  the gradients in β, s and C
are those of Σ_j q_j φ'_j.  g + gᵀ is never formed: in 16 bits it would round more than all the rest.
"""

import triton
import triton.language as tl

from . import cascade, common, reduction


@triton.jit
def _point(batch, row, products):
    """One row of points, (1, BD) in float32."""
    lanes = tl.arange(0, products.BD)
    at = batch.x + row * batch.x_stride + lanes
    return tl.load(at, mask=lanes < products.D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _weights(W, start, h, products, BH: tl.constexpr):
    """The rows of W of one tile of hidden units, (BH, BD)."""
    return common.load_rows(W, start, h, products.D, products.D, BH, products.BD)


@triton.jit
def value_program(batch, W, vectors_at, out, h, row, phi, products, BH: tl.constexpr):
    """J(x) of one row, (D, D), exactly symmetric."""
    D: tl.constexpr = products.D
    row = row.to(tl.int64)
    point = _point(batch, row, products)
    total = tl.zeros((products.BD, products.BD), tl.float32)
    for start in range(0, h, BH):
        units = start + tl.arange(0, BH)
        W_tile = _weights(W, start, h, products, BH)
        weights = W_tile.to(tl.float32)
        u = tl.sum(common.product(weights, point), 1)[:, None]
        slope = cascade.slope(u, cascade.in_memory(vectors_at, units, h, 1), phi)
        weighted = tl.where((units < h)[:, None], slope * weights, 0.0).to(W_tile.dtype)
        total = common.times(tl.trans(weighted), W_tile, total, products)
    symmetric = 0.5 * (total + tl.trans(total))
    common.store_rows(out + row * D * D, symmetric, 0, D, D, products.BD, products.BD)


@triton.jit
def _row(batch, row, W_tile, products):
    """One row's x (1, BD), g (BD, BD), W g (BH, BD), u = W x and q (BH, 1)."""
    D: tl.constexpr = products.D
    point = _point(batch, row, products)
    g = common.load_rows(batch.g + row * D * D, 0, D, D, D, products.BD, products.BD)
    product = common.times(W_tile, g, tl.zeros(W_tile.shape, tl.float32), products)
    weights = W_tile.to(tl.float32)
    u = tl.sum(common.product(weights, point), 1)
    q = tl.sum(common.product(weights, product), 1)
    return point, g, product, u[:, None], q[:, None]


@triton.jit
def weights_program(batch, W, vectors_at, into, part, h, phi, needs, products, BH: tl.constexpr):
    """dW and the gradients in β, s and C of BH hidden units, from one part of the batch."""
    COUNT: tl.constexpr = phi.layers * (needs.scale + needs.shift + len(phi.basis) * needs.coef)
    start = part.tile * BH
    W_tile = _weights(W, start, h, products, BH)
    vectors = cascade.load(vectors_at, start + tl.arange(0, BH), h, phi, 1)
    total = tl.zeros((BH, products.BD), tl.float32)
    sums = common.zeros(COUNT, (BH,))
    begin = part.split.to(tl.int64) * part.rows
    for offset in range(0, tl.minimum(batch.count - begin, part.rows)):
        point, g, product, u, q = _row(batch, begin + offset, W_tile, products)
        slope, second, sums = cascade.slope_and_gradients(u, q, vectors, sums, phi, needs, 1)
        product = common.times(W_tile, tl.trans(g), product, products)
        total += slope * product + second * point
    reduction.matrix_and_vectors(total, sums, into, part, h, products.D, BH, products.BD)


@triton.jit
def points_program(batch, W, vectors_at, dx, h, row, phi, products, BH: tl.constexpr):
    """dx = (φ'' ⊙ q) W of one row."""
    row = row.to(tl.int64)
    of_x = tl.zeros((products.BD,), tl.float32)
    for start in range(0, h, BH):
        units = start + tl.arange(0, BH)
        W_tile = _weights(W, start, h, products, BH)
        _, _, _, u, q = _row(batch, row, W_tile, products)
        _, second = cascade.slope_and_second(u, cascade.in_memory(vectors_at, units, h, 1), phi)
        hidden = tl.where((units < h)[:, None], second * q, 0.0)
        of_x += tl.sum(common.product(hidden, W_tile.to(tl.float32)), 0)
    lanes = tl.arange(0, products.BD)
    tl.store(dx + row * products.D + lanes, of_x, mask=lanes < products.D)
