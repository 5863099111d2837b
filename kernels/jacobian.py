"""J(x) = Wᵀ diag(φ'(W x)) W and the gradients of Σ_B <g, J(x)>: row by row, with products on matrix units.

With q_j = w_j·g w_j of one row:  dx = (φ'' ⊙ q) W;  dW = φ' ⊙ W (g + gᵀ) + (φ'' ⊙ q) xᵀ;  the vectors' gradients are
those of Σ q ⊙ φ'.  g + gᵀ is never formed: in 16 bits its rounding errors would be larger than those of all the rest.
"""

import triton
import triton.language as tl

from . import cascade, common, parts
from .cascade import Cascade, Wanted
from .ridge import Products


@triton.jit
def _point(x, row, stride, D: tl.constexpr, BD: tl.constexpr):
    """One row of points, (1, BD) in float32."""
    lanes = tl.arange(0, BD)
    return tl.load(x + row * stride + lanes, mask=lanes < D, other=0.0).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["B"])
def forward(
    x,
    W,
    scale,
    shift,
    coef,
    out,
    B,
    h,
    x_stride,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    BH: tl.constexpr,
):
    """J(x), (B, D, D), exactly symmetric: a program for every row."""
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    row = tl.program_id(0).to(tl.int64)
    point = _point(x, row, x_stride, D, BD)
    total = tl.zeros((BD, BD), tl.float32)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
        weights = W_tile.to(tl.float32)
        u = tl.sum(weights * point, 1)[:, None]
        slope = cascade.slope(u, cascade.in_memory(cascade.pointers(scale, shift, coef), neurons, h, 1), phi)
        weighted = tl.where((neurons < h)[:, None], slope * weights, 0.0).to(W_tile.dtype)
        total = common.dot(tl.trans(weighted), W_tile, total, PRECISION, ARITHMETIC)
    symmetric = 0.5 * (total + tl.trans(total))
    common.store_rows(out + row * D * D, symmetric, tl.zeros((), tl.int64), D, D, BD, BD)


@triton.jit
def _row(x, g, row, stride, W_tile, products):
    """Of one row: x (1, BD), g (BD, BD), W g (BH, BD), u and q (BH, 1)."""
    D: tl.constexpr = products.D
    point = _point(x, row, stride, D, products.BD)
    matrix = common.load_rows(g + row * D * D, tl.zeros((), tl.int64), D, D, D, products.BD, products.BD)
    product = common.dot(W_tile, matrix, tl.zeros(W_tile.shape, tl.float32), products.precision, products.arithmetic)
    weights = W_tile.to(tl.float32)
    return point, matrix, product, tl.sum(weights * point, 1)[:, None], tl.sum(weights * product, 1)[:, None]


@triton.jit(do_not_specialize=["B", "weight_programs", "splits", "rows_per_split"])
def backward(
    x,
    g,
    W,
    scale,
    shift,
    coef,
    dx,
    dW,
    dneurons,
    partials,
    counters,
    B,
    h,
    x_stride,
    weight_programs,
    splits,
    rows_per_split,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
    BH: tl.constexpr,
):
    """The gradients of Σ_B <g, J(x)> that are not None; first the programs for parameters, then one for each row."""
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    wanted: tl.constexpr = Wanted(OF_SCALE, OF_SHIFT, OF_COEF)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, True)
    vectors_at = cascade.pointers(scale, shift, coef)
    program = tl.program_id(0)
    if program < weight_programs:
        if dW is not None or dneurons is not None:
            COUNT: tl.constexpr = LAYERS * (OF_SCALE + OF_SHIFT + len(BASIS) * OF_COEF)
            tile, split = program // splits, program % splits
            W_tile = common.load_rows(W, tile * BH, h, D, D, BH, BD)  # (BH, BD)
            vectors = cascade.load(vectors_at, tile * BH + tl.arange(0, BH), h, phi, 1)
            total = tl.zeros((BH, BD), tl.float32)
            sums = ()
            for _ in tl.static_range(COUNT):
                sums = sums + (tl.zeros((BH,), tl.float32),)
            begin = split.to(tl.int64) * rows_per_split
            for offset in range(0, tl.minimum(B - begin, rows_per_split)):
                point, matrix, product, u, q = _row(x, g, begin + offset, x_stride, W_tile, products)
                slope, curved, sums = cascade.slope_and_gradients(u, q, vectors, sums, phi, wanted, 1)
                product = common.dot(W_tile, tl.trans(matrix), product, PRECISION, ARITHMETIC)
                total += slope * product + curved * point
            parts.matrix_and_vectors(total, sums, dW, dneurons, partials, counters, h, tile, split, splits, D, BH, BD)
    elif dx is not None:
        row = (program - weight_programs).to(tl.int64)
        of_x = tl.zeros((BD,), tl.float32)
        for start in range(0, h, BH):
            neurons = start + tl.arange(0, BH)
            W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
            _, _, _, u, q = _row(x, g, row, x_stride, W_tile, products)
            _, curvature = cascade.slope_and_curvature(u, cascade.in_memory(vectors_at, neurons, h, 1), phi)
            hidden = tl.where((neurons < h)[:, None], curvature * q, 0.0)
            of_x += tl.sum(hidden * W_tile.to(tl.float32), 0)
        lanes = tl.arange(0, BD)
        tl.store(dx + row * D + lanes, of_x, mask=lanes < D)
