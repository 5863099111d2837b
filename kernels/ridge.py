"""The ridge family by matrix products: the programs of a launch, with hidden values in registers only.

Batch rows are counted in 64 bits.  D = d is padded to BD columns, a power of two; padded columns are 0 on both sides
of each product.  Padded neurons of the last tile are masked out where their 0 weights would meet an infinite x.

Several scalars S of a batch have the same kind of gradient, so that one pair of programs serves them, by TASK:
"value" <g, f(x)>; "derivative" <g, J(x) v>; "potential" Σ_B weight F(x); "divergence" Σ_B weight tr J(x).
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import cascade, common, integral, parts


class Batch(NamedTuple):
    """Rows: x, cotangents g and directions v (count, D), weights (count,); None where the task has none."""

    x: tl.tensor
    g: tl.tensor
    v: tl.tensor
    weight: tl.tensor
    count: tl.tensor
    x_stride: tl.tensor
    g_stride: tl.tensor
    v_stride: tl.tensor


class Products(NamedTuple):
    """What is constant of the matrix products.  even: whether h is a multiple of the tile's neurons."""

    D: tl.constexpr
    BD: tl.constexpr
    precision: tl.constexpr
    arithmetic: tl.constexpr
    even: tl.constexpr


class Rule(NamedTuple):
    """Of quadrature, for potentials alone: `rule` and SMOOTH of `integral`."""

    numbers: tl.tensor
    smooth: tl.constexpr


@triton.jit
def inside(hidden, neurons, h, EVEN: tl.constexpr):
    """Hidden values (BM, BH), 0 where there is no neuron."""
    if EVEN:
        return hidden
    else:
        return tl.where((neurons < h)[None, :], hidden, 0.0)


@triton.jit
def _times(a, b, total, products):
    """total + a b."""
    return common.dot(a, b, total, products.precision, products.arithmetic)


@triton.jit
def _hidden(points, cotangents, directions, W_tile, vectors, phi, products, FORM: tl.constexpr):
    """The values (BM, BH) that multiply W, by FORM, and φ'(u) ⊙ a for the directions' gradient.

    "value" φ(u); "slope" φ'(u) ⊙ a; "curvature" φ''(u) ⊙ a ⊙ p; "trace" φ''(u) ⊙ |w|²;
    u = x Wᵀ, a = g Wᵀ, p = v Wᵀ.
    """
    zeros = tl.zeros((points.shape[0], W_tile.shape[0]), tl.float32)
    u = _times(points, tl.trans(W_tile), zeros, products)
    if FORM == "value":
        return cascade.value(u, vectors, phi), zeros
    elif FORM == "slope":
        return cascade.slope(u, vectors, phi) * _times(cotangents, tl.trans(W_tile), zeros, products), zeros
    else:
        slope, curvature = cascade.slope_and_curvature(u, vectors, phi)
        if FORM == "trace":
            return curvature * squared_norms(W_tile)[None, :], zeros
        else:
            a = _times(cotangents, tl.trans(W_tile), zeros, products)
            p = _times(directions, tl.trans(W_tile), zeros, products)
            return curvature * a * p, slope * a


@triton.jit
def squared_norms(W_tile):
    """|w|² of each neuron, (BH,)."""
    weights = W_tile.to(tl.float32)
    return tl.sum(weights * weights, 1)


@triton.jit
def points_program(
    batch,
    W,
    vectors_at,
    bias,
    out,
    out_v,
    h,
    number,
    phi,
    products,
    FORM: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """hidden(x) W + bias: BM rows, over all tiles of BH neurons; out_v, unless None, gets (φ'(u) ⊙ a) W.

    Rows are multiplied by their weights where there are any.  FORM: as in `_hidden`; "tangent" is "slope" with the NaN
    of a point in each number of its row, though a piecewise linear φ has a slope even there.
    """
    D: tl.constexpr = products.D
    BD: tl.constexpr = products.BD
    KIND: tl.constexpr = "slope" if FORM == "tangent" else FORM
    first = number.to(tl.int64) * BM
    points = common.load_rows(batch.x, first, batch.count, batch.x_stride, D, BM, BD)  # (BM, BD)
    cotangents = points
    directions = points
    if KIND == "slope" or KIND == "curvature":
        cotangents = common.load_rows(batch.g, first, batch.count, batch.g_stride, D, BM, BD)  # (BM, BD)
    if KIND == "curvature":
        directions = common.load_rows(batch.v, first, batch.count, batch.v_stride, D, BM, BD)  # (BM, BD)
    total = tl.zeros((BM, BD), tl.float32)
    total_v = tl.zeros((BM, BD), tl.float32)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, D, D, BH, BD)  # (BH, BD)
        vectors = cascade.in_memory(vectors_at, neurons, h, 0)
        hidden, slope_a = _hidden(points, cotangents, directions, W_tile, vectors, phi, products, KIND)
        hidden = inside(hidden, neurons, h, products.even)
        total = _times(hidden.to(W_tile.dtype), W_tile, total, products)
        if out_v is not None:
            slope_a = inside(slope_a, neurons, h, products.even)
            total_v = _times(slope_a.to(W_tile.dtype), W_tile, total_v, products)
    if bias is not None:
        lanes = tl.arange(0, BD)
        total += tl.load(bias + lanes, mask=lanes < D, other=0.0).to(tl.float32)[None, :]
    if batch.weight is not None:
        rows = first + tl.arange(0, BM)
        total *= tl.load(batch.weight + rows, mask=rows < batch.count, other=0.0).to(tl.float32)[:, None]
    if FORM == "tangent":
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
    wanted,
    products,
    OF_W: tl.constexpr,
    TASK: tl.constexpr,
):
    """BM rows' parts of dW added to `total` (BH, BD), of what multiplies 2W in it to `gains` (BH,), and to `sums`."""
    BH: tl.constexpr = W_tile.shape[0]
    BM: tl.constexpr = points.shape[0]
    zeros = tl.zeros((BH, BM), tl.float32)
    u = _times(W_tile, tl.trans(points), zeros, products)
    if TASK == "value" or TASK == "derivative":
        cotangents = common.load_rows(batch.g, first, batch.count, batch.g_stride, products.D, BM, products.BD)
        a = _times(W_tile, tl.trans(cotangents), zeros, products)
    else:
        rows = first + tl.arange(0, BM)
        weight = tl.load(batch.weight + rows, mask=rows < batch.count, other=0.0).to(tl.float32)[None, :]
    if TASK == "value":
        phi_u, with_points, sums = cascade.value_and_gradients(u, a, vectors, sums, phi, wanted, 1, True)
        if OF_W:
            total = _times(phi_u.to(points.dtype), cotangents, total, products)
    elif TASK == "potential":
        with_points = cascade.value(u, vectors, phi) * weight
        if len(sums) > 0:
            sums = integral.gradients(u, weight, vectors, sums, rule.numbers, phi, wanted, rule.smooth, 1)
    elif TASK == "divergence":
        q = squared_norms(W_tile)[:, None] * weight
        slope, with_points, sums = cascade.slope_and_gradients(u, q, vectors, sums, phi, wanted, 1)
        gains += tl.sum(slope * weight, 1)
    else:
        directions = common.load_rows(batch.v, first, batch.count, batch.v_stride, products.D, BM, products.BD)
        p = _times(W_tile, tl.trans(directions), zeros, products)
        slope, with_points, sums = cascade.slope_and_gradients(u, a * p, vectors, sums, phi, wanted, 1)
        if OF_W:
            total = _times((slope * p).to(points.dtype), cotangents, total, products)
            total = _times((slope * a).to(points.dtype), directions, total, products)
    if OF_W:
        total = _times(with_points.to(points.dtype), points, total, products)
    return total, gains, sums


@triton.jit
def weights_program(
    batch,
    W,
    vectors_at,
    into,
    share,
    h,
    rule,
    phi,
    wanted,
    products,
    TASK: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """The gradients of S in W and in the vectors: BH neurons, one part of the batch.

    "value": dW = φ(u)ᵀ g + (φ'(u) ⊙ a)ᵀ x;  "potential": (φ(u) ⊙ weight)ᵀ x;
    "derivative": (φ' ⊙ p)ᵀ g + (φ' ⊙ a)ᵀ v + (φ'' ⊙ p ⊙ a)ᵀ x;
    "divergence": (φ'' ⊙ |w|² ⊙ weight)ᵀ x + 2 (Σ_B φ' weight) ⊙ W.
    """
    COUNT: tl.constexpr = phi.layers * (wanted.scale + wanted.shift + len(phi.basis) * wanted.coef)
    OF_W: tl.constexpr = into.W is not None
    start = share.tile * BH
    W_tile = common.load_rows(W, start, h, products.D, products.D, BH, products.BD)  # (BH, BD)
    vectors = cascade.load(vectors_at, start + tl.arange(0, BH), h, phi, 1)
    total = tl.zeros((BH, products.BD), tl.float32)
    gains = tl.zeros((BH,), tl.float32)
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((BH,), tl.float32),)
    begin = share.split.to(tl.int64) * share.rows
    for offset in range(0, tl.minimum(batch.count - begin, share.rows), BM):
        first = begin + offset
        points = common.load_rows(batch.x, first, batch.count, batch.x_stride, products.D, BM, products.BD)  # (BM, BD)
        total, gains, sums = _add_rows(
            *(total, gains, sums, points, batch, first, W_tile, vectors, rule, phi, wanted, products, OF_W, TASK)
        )
    if TASK == "divergence":
        total += 2.0 * gains[:, None] * W_tile.to(tl.float32)
    parts.matrix_and_vectors(total, sums, into, share, h, products.D, BH, products.BD)


@triton.jit
def numbers_program(
    batch, W, vectors_at, out, h, number, rule, phi, products, TASK: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr
):
    """F(x) = Σ_j ∫_0^{u_j} φ_j, or tr J(x) = Σ_j φ_j'(u_j) |w_j|², without bias: BM rows, over all tiles of BH."""
    first = number.to(tl.int64) * BM
    points = common.load_rows(batch.x, first, batch.count, batch.x_stride, products.D, BM, products.BD)  # (BM, BD)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, h, BH):
        neurons = start + tl.arange(0, BH)
        W_tile = common.load_rows(W, start, h, products.D, products.D, BH, products.BD)  # (BH, BD)
        vectors = cascade.in_memory(vectors_at, neurons, h, 0)
        u = _times(points, tl.trans(W_tile), tl.zeros((BM, BH), tl.float32), products)
        if TASK == "potential":
            hidden = integral.value(u, vectors, rule.numbers, phi, rule.smooth)
        else:
            hidden = cascade.slope(u, vectors, phi) * squared_norms(W_tile)[None, :]
        total += tl.sum(inside(hidden, neurons, h, products.even), 1)
    rows = tl.arange(0, BM)
    tl.store(out + first + rows, total, mask=rows < batch.count - first)
