"""The ridge family by matrix products: the programs of a launch, which keep φ(x Wᵀ) (BM, BH) in registers only.

    f(x) = φ(x Wᵀ) W + bias,   J(x) = Wᵀ diag(φ'(W x)) W,   F(x) = Σ_j ∫_0^{u_j} φ_j + <bias, x>,   u = W x

The gradients are those of a scalar S of the batch, and one pair of programs serves every QUANTITY, because their dx and
dW have the same form: "value" S = <g, f(x)>; "jvp" <g, J(x) v>; "potential" Σ_B weight F(x); "divergence"
Σ_B weight tr J(x).  Wherever they occur, u = x Wᵀ, a = g Wᵀ, p = v Wᵀ.

Rows of the batch are counted in 64 bits.  D = d is padded to BD columns, a power of two; padded columns are 0 on both
sides of each product.  Padded hidden units are masked out where their zero weights would meet an infinite x.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import cascade, common, integral, reduction


class Rule(NamedTuple):
    """The quadrature of potentials.  table: `rule` of `integral`.  smooth: for each basis function, whether it is."""

    table: tl.tensor
    smooth: tl.constexpr


@triton.jit
def _hidden(points, cotangents, directions, W_tile, vectors, phi, products, FORM: tl.constexpr):
    """What multiplies W in dx (or f), by FORM, (BM, BH); and φ'(u) ⊙ a, which multiplies it in dv.

    "value" φ(u); "slope" φ'(u) ⊙ a; "second" φ''(u) ⊙ a ⊙ p; "trace" φ''(u) ⊙ |w|².
    """
    zeros = tl.zeros((points.shape[0], W_tile.shape[0]), tl.float32)
    u = common.times(points, tl.trans(W_tile), zeros, products)
    if FORM == "value":
        return cascade.value(u, vectors, phi), zeros
    elif FORM == "slope":
        return cascade.slope(u, vectors, phi) * common.times(cotangents, tl.trans(W_tile), zeros, products), zeros
    else:
        slope, second = cascade.slope_and_second(u, vectors, phi)
        if FORM == "trace":
            return second * squared_norms(W_tile)[None, :], zeros
        else:
            a = common.times(cotangents, tl.trans(W_tile), zeros, products)
            p = common.times(directions, tl.trans(W_tile), zeros, products)
            return second * a * p, slope * a


@triton.jit
def squared_norms(W_tile):
    """|w|² of each hidden unit, (BH,)."""
    weights = W_tile.to(tl.float32)
    return tl.sum(common.product(weights, weights), 1)


@triton.jit
def points_program(
    batch,
    W,
    vectors_at,
    bias,
    out,
    out_v,
    h,
    block,
    phi,
    products,
    FORM: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """hidden(x) W + bias: BM rows, over all tiles of BH hidden units; out_v, unless None, gets (φ'(u) ⊙ a) W.

    Rows are multiplied by their weights where there are any.  FORM: as in `_hidden`; "jvp" is "slope" with the NaN
    of a point in each block of its row, though a piecewise linear φ has a slope even there.
    """
    D: tl.constexpr = products.D
    BD: tl.constexpr = products.BD
    KIND: tl.constexpr = "slope" if FORM == "jvp" else FORM
    first = block.to(tl.int64) * BM
    points = common.load_rows(batch.x, first, batch.count, batch.x_stride, D, BM, BD)  # (BM, BD)
    cotangents = points
    directions = points
    if KIND == "slope" or KIND == "second":
        cotangents = common.load_rows(batch.g, first, batch.count, batch.g_stride, D, BM, BD)  # (BM, BD)
    if KIND == "second":
        directions = common.load_rows(batch.v, first, batch.count, batch.v_stride, D, BM, BD)  # (BM, BD)
    total = tl.zeros((BM, BD), tl.float32)
    total_v = tl.zeros((BM, BD), tl.float32)
    for start in range(0, h, BH):
        units = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
        vectors = cascade.in_memory(vectors_at, units, h, 0)
        hidden, slope_a = _hidden(points, cotangents, directions, W_tile, vectors, phi, products, KIND)
        hidden = common.inside(hidden, start, h, 0.0, products)
        total = common.times(hidden.to(W_tile.dtype), W_tile, total, products)
        if out_v is not None:
            slope_a = common.inside(slope_a, start, h, 0.0, products)
            total_v = common.times(slope_a.to(W_tile.dtype), W_tile, total_v, products)
    if bias is not None:
        lanes = tl.arange(0, BD)
        total += tl.load(bias + lanes, mask=lanes < D, other=0.0).to(tl.float32)[None, :]
    if batch.weight is not None:
        rows = first + tl.arange(0, BM)
        total *= tl.load(batch.weight + rows, mask=rows < batch.count, other=0.0).to(tl.float32)[:, None]
    if FORM == "jvp":
        undefined = tl.max((points != points).to(tl.int32), 1) > 0
        total = tl.where(undefined[:, None], float("nan"), total)
    common.store_rows(out, total, first, batch.count, D, BM, BD)
    if out_v is not None:
        common.store_rows(out_v, total_v, first, batch.count, D, BM, BD)


@triton.jit
def _add_rows(
    total,
    gains,
    sums,
    points,
    batch,
    first,
    W_tile,
    vectors,
    rule,
    phi,
    needs,
    products,
    NEEDS_W: tl.constexpr,
    QUANTITY: tl.constexpr,
):
    """Accumulate one block of BM rows, points (BM, BD).

    dW goes into total (BH, BD); the factor of 2W in it, which only the divergence has, into gains (BH,); the gradients
    in β, s and C into sums.
    """
    BH: tl.constexpr = W_tile.shape[0]
    BM: tl.constexpr = points.shape[0]
    zeros = tl.zeros((BH, BM), tl.float32)
    u = common.times(W_tile, tl.trans(points), zeros, products)
    if QUANTITY == "value" or QUANTITY == "jvp":
        cotangents = common.load_rows(batch.g, first, batch.count, batch.g_stride, products.D, BM, products.BD)
        a = common.times(W_tile, tl.trans(cotangents), zeros, products)
    else:
        rows = first + tl.arange(0, BM)
        weight = tl.load(batch.weight + rows, mask=rows < batch.count, other=0.0).to(tl.float32)[None, :]
    if QUANTITY == "value":
        phi_u, with_points, sums = cascade.value_and_gradients(u, a, vectors, sums, phi, needs, 1, True)
        if NEEDS_W:
            total = common.times(phi_u.to(points.dtype), cotangents, total, products)
    elif QUANTITY == "potential":
        with_points = cascade.value(u, vectors, phi) * weight
        if len(sums) > 0:
            sums = integral.gradients(u, weight, vectors, sums, rule.table, phi, needs, rule.smooth, 1)
    elif QUANTITY == "divergence":
        q = squared_norms(W_tile)[:, None] * weight
        slope, with_points, sums = cascade.slope_and_gradients(u, q, vectors, sums, phi, needs, 1)
        gains += tl.sum(common.product(slope, weight), 1)
    else:
        directions = common.load_rows(batch.v, first, batch.count, batch.v_stride, products.D, BM, products.BD)
        p = common.times(W_tile, tl.trans(directions), zeros, products)
        slope, with_points, sums = cascade.slope_and_gradients(u, a * p, vectors, sums, phi, needs, 1)
        if NEEDS_W:
            total = common.times((slope * p).to(points.dtype), cotangents, total, products)
            total = common.times((slope * a).to(points.dtype), directions, total, products)
    if NEEDS_W:
        total = common.times(with_points.to(points.dtype), points, total, products)
    return total, gains, sums


@triton.jit
def weights_program(
    batch,
    W,
    vectors_at,
    into,
    part,
    h,
    rule,
    phi,
    needs,
    products,
    QUANTITY: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """dW and the gradients in β, s and C of S: BH hidden units, one part of the batch.

    "value"       dW = φ(u)ᵀ g + (φ'(u) ⊙ a)ᵀ x
    "jvp"         dW = (φ'(u) ⊙ p)ᵀ g + (φ'(u) ⊙ a)ᵀ v + (φ''(u) ⊙ p ⊙ a)ᵀ x
    "potential"   dW = (φ(u) ⊙ weight)ᵀ x
    "divergence"  dW = (φ''(u) ⊙ |w|² ⊙ weight)ᵀ x + 2 (Σ_B φ'(u) weight) ⊙ W
    """
    COUNT: tl.constexpr = phi.layers * (needs.scale + needs.shift + len(phi.basis) * needs.coef)
    NEEDS_W: tl.constexpr = into.W is not None
    start = part.tile * BH
    W_tile = common.load_rows(W, start, h, products.D, products.D, BH, products.BD)  # (BH, BD)
    vectors = cascade.load(vectors_at, start + tl.arange(0, BH), h, phi, 1)
    total = tl.zeros((BH, products.BD), tl.float32)
    gains = tl.zeros((BH,), tl.float32)
    sums = common.zeros(COUNT, (BH,))
    begin = part.split.to(tl.int64) * part.rows
    for offset in range(0, tl.minimum(batch.count - begin, part.rows), BM):
        first = begin + offset
        points = common.load_rows(batch.x, first, batch.count, batch.x_stride, products.D, BM, products.BD)  # (BM, BD)
        total, gains, sums = _add_rows(
            *(total, gains, sums, points, batch, first, W_tile, vectors, rule, phi, needs, products, NEEDS_W, QUANTITY)
        )
    if QUANTITY == "divergence":
        total += 2.0 * gains[:, None] * W_tile.to(tl.float32)
    reduction.matrix_and_vectors(total, sums, into, part, h, products.D, BH, products.BD)


@triton.jit
def scalar_program(
    batch, W, vectors_at, out, h, block, rule, phi, products, QUANTITY: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr
):
    """F(x) = Σ_j ∫_0^{u_j} φ_j without bias, or tr J(x) = Σ_j φ_j'(u_j) |w_j|²: BM rows, over all tiles of BH."""
    first = block.to(tl.int64) * BM
    points = common.load_rows(batch.x, first, batch.count, batch.x_stride, products.D, BM, products.BD)  # (BM, BD)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, h, BH):
        units = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, products.D, products.D, BH, products.BD)  # (BH, BD)
        vectors = cascade.in_memory(vectors_at, units, h, 0)
        u = common.times(points, tl.trans(W_tile), tl.zeros((BM, BH), tl.float32), products)
        if QUANTITY == "potential":
            hidden = integral.value(u, vectors, rule.table, phi, rule.smooth)
        else:
            hidden = cascade.slope(u, vectors, phi) * squared_norms(W_tile)[None, :]
        total += tl.sum(common.inside(hidden, start, h, 0.0, products), 1)
    rows = tl.arange(0, BM)
    tl.store(out + first + rows, total, mask=rows < batch.count - first)
