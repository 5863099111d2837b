"""Deep networks: f, F or both of a tile of rows, up through all layers and back down.

    u_l = V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l,   a_l = σ_l(u_l), plus a_{l−1} where layers are residual
    p_L = c,   s_l = σ_l'(u_l) ⊙ p_l,   p_{l−1} = V_lᵀ s_l, plus p_l where layers are residual
    F = <c, a_L>,   f = ∇F = Σ_l [A_lᵀ s_l + 2 Σ_r Q_lrᵀ(Q_lr x ⊙ s_l)]

What the way down needs of the way up, a program keeps in a memory of its own, which it uses again for its next tile:
programs × BM × widths numbers, whatever the batch.  Tiles of the widths h_l and of d are padded to powers of two; the
padding of weights is 0, and so is that of u_l, where 0 times an infinite point would be none.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import common


class Structure(NamedTuple):
    """The constants of a network.

    basis: σ_l by name.  widths: h_l.  padded: h_l as tiles have it.  widest: the largest of those.  offsets: where in
    theta A, V, Q and b of each layer begin, four numbers for a layer, and then c.  input_skip: whether all layers have
    an A.  rank: how many Q_lr a layer has.  residual: as above.
    """

    basis: tl.constexpr
    widths: tl.constexpr
    padded: tl.constexpr
    widest: tl.constexpr
    offsets: tl.constexpr
    input_skip: tl.constexpr
    rank: tl.constexpr
    residual: tl.constexpr


@triton.jit
def weights(theta, OFFSET: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """The (ROWS, COLUMNS) matrix that begins at OFFSET, as a (BR, BC) tile."""
    return common.load_rows(theta + OFFSET, 0, ROWS, COLUMNS, COLUMNS, BR, BC)


@triton.jit
def vector(theta, OFFSET: tl.constexpr, SIZE: tl.constexpr, BH: tl.constexpr):
    """The numbers of b or c, (1, BH) in float32."""
    lanes = tl.arange(0, BH)
    return tl.load(theta + OFFSET + lanes, mask=lanes < SIZE, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _within(tile, SIZE: tl.constexpr):
    """A tile (BM, BH) with 0 in the columns beyond SIZE."""
    BH: tl.constexpr = tile.shape[1]
    if SIZE == BH:
        return tile
    else:
        return tl.where((tl.arange(0, BH) < SIZE)[None, :], tile, 0.0)


@triton.jit
def keep(memory, SLOT: tl.constexpr, tile, net):
    """Save a tile (BM, BH) in this program's memory."""
    BM: tl.constexpr = tile.shape[0]
    BH: tl.constexpr = tile.shape[1]
    tl.store(_place(memory, SLOT, net, BM) + _within_tile(BM, BH, BH), tile)


@triton.jit
def kept(memory, SLOT: tl.constexpr, net, BM: tl.constexpr, BH: tl.constexpr):
    """A tile that `keep` has saved, in float32."""
    return tl.load(_place(memory, SLOT, net, BM) + _within_tile(BM, BH, BH)).to(tl.float32)


@triton.jit
def kept_columns(memory, SLOT: tl.constexpr, first, net, BM: tl.constexpr, BH: tl.constexpr, BN: tl.constexpr):
    """BN columns of a tile (BM, BH) that `keep` has saved, from `first` on, as products take them."""
    return tl.load(_place(memory, SLOT, net, BM) + first + _within_tile(BM, BH, BN))


@triton.jit
def _place(memory, SLOT: tl.constexpr, net, BM: tl.constexpr):
    return memory + SLOT * BM * net.widest


@triton.jit
def _within_tile(BM: tl.constexpr, STRIDE: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.arange(0, BM)[:, None] * STRIDE + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def rows(pointer, first, count, stride, products, BM: tl.constexpr):
    """A tile (BM, BD) of points, cotangents or directions."""
    return common.load_rows(pointer, first, count, stride, products.D, BM, products.BD)


@triton.jit
def squares(theta, r, line, l: tl.constexpr, net, products, BH: tl.constexpr):
    """The lines from `line` on of Q_lr, (BH, BD)."""
    H: tl.constexpr = net.widths[l]
    OFFSET: tl.constexpr = net.offsets[4 * l + 2]
    at = theta + OFFSET + r * (H * products.D)
    return common.load_rows(at, line, H, products.D, products.D, BH, products.BD)


@triton.jit
def preactivations(batch, first, a, t, theta, l: tl.constexpr, net, products, DIRECTED: tl.constexpr, BM: tl.constexpr):
    """u_l and, if DIRECTED, τ_l = V_l t_{l−1} + A_l v + 2 Σ_r (Q_lr x) ⊙ (Q_lr v), (BM, BH).

    a, t: a_{l−1} and its derivative along v, (BM, BH of the layer below).
    """
    H: tl.constexpr = net.widths[l]
    BH: tl.constexpr = net.padded[l]
    empty = tl.zeros((BM, BH), tl.float32)
    u = empty + vector(theta, net.offsets[4 * l + 3], H, BH)
    tau = empty
    if l == 0 or net.input_skip or net.rank > 0:
        points = rows(batch.x, first, batch.count, batch.x_stride, products, BM)
        directions = points
        if DIRECTED:
            directions = rows(batch.v, first, batch.count, batch.v_stride, products, BM)
    if l == 0 or net.input_skip:
        A = tl.trans(weights(theta, net.offsets[4 * l], H, products.D, BH, products.BD))
        u = common.times(points, A, u, products)
        if DIRECTED:
            tau = common.times(directions, A, tau, products)
    if l > 0:
        V = tl.trans(weights(theta, net.offsets[4 * l + 1], H, net.widths[l - 1], BH, net.padded[l - 1]))
        u = common.times(a.to(V.dtype), V, u, products)
        if DIRECTED:
            tau = common.times(t.to(V.dtype), V, tau, products)
    if net.rank > 0:
        for r in range(net.rank):
            Q = tl.trans(squares(theta, r, 0, l, net, products, BH))
            y = common.times(points, Q, empty, products)
            u += y * y
            if DIRECTED:
                tau += 2.0 * y * common.times(directions, Q, empty, products)
    return _within(u, H), _within(tau, H)


@triton.jit
def to_points(
    total, e, s, batch, first, theta, l: tl.constexpr, net, products, DIRECTED: tl.constexpr, BM: tl.constexpr
):
    """total + e A_l + 2 Σ_r (y_r ⊙ e + z_r ⊙ s) Q_lr, (BM, BD), with y_r = Q_lr x and, unless DIRECTED is false,
    z_r = Q_lr v."""
    H: tl.constexpr = net.widths[l]
    BH: tl.constexpr = net.padded[l]
    if l == 0 or net.input_skip:
        A = weights(theta, net.offsets[4 * l], H, products.D, BH, products.BD)
        total = common.times(e.to(A.dtype), A, total, products)
    if net.rank > 0:
        empty = tl.zeros((BM, BH), tl.float32)
        points = rows(batch.x, first, batch.count, batch.x_stride, products, BM)
        directions = points
        if DIRECTED:
            directions = rows(batch.v, first, batch.count, batch.v_stride, products, BM)
        for r in range(net.rank):
            Q = squares(theta, r, 0, l, net, products, BH)
            hidden = e * common.times(points, tl.trans(Q), empty, products)
            if DIRECTED:
                hidden += s * common.times(directions, tl.trans(Q), empty, products)
            total = common.times((2.0 * hidden).to(Q.dtype), Q, total, products)
    return total


@triton.jit
def below(p, s, theta, l: tl.constexpr, net, products):
    """V_lᵀ s, plus p where layers are residual: (BM, BH of the layer below)."""
    UNDER: tl.constexpr = net.widths[l - 1]
    BELOW: tl.constexpr = net.padded[l - 1]
    BM: tl.constexpr = s.shape[0]
    V = weights(theta, net.offsets[4 * l + 1], net.widths[l], UNDER, net.padded[l], BELOW)
    total = tl.zeros((BM, BELOW), tl.float32)
    if net.residual:
        total += p
    return _within(common.times(s.to(V.dtype), V, total, products), UNDER)


@triton.jit
def forward_tile(batch, theta, bias, out, memory, block, net, products, QUANTITY: tl.constexpr, BM: tl.constexpr):
    """f + bias ("value"), F ("potential"), or f and F in rows of D + 1 ("value_and_potential"), of BM rows."""
    LAYERS: tl.constexpr = len(net.widths)
    D: tl.constexpr = products.D
    STRIDE: tl.constexpr = 1 if QUANTITY == "potential" else D if QUANTITY == "value" else D + 1
    TOP: tl.constexpr = net.padded[LAYERS - 1]
    first = tl.cast(block, tl.int64) * BM
    lines = tl.arange(0, BM)
    here = lines < batch.count - first
    # Other threads may still read what the tile before has left in memory.
    tl.debug_barrier()
    a = tl.zeros((BM, 16), tl.float32)
    for l in tl.static_range(LAYERS):
        u, _ = preactivations(batch, first, a, a, theta, l, net, products, False, BM)
        if QUANTITY == "potential":
            value = activations.value(u, tl.constexpr(net.basis[l]), products.arithmetic)
        else:
            value, slope = activations.value_first(u, tl.constexpr(net.basis[l]), products.arithmetic)
            if l < LAYERS - 1:
                keep(memory, l, slope, net)
        a = value + a if net.residual and l > 0 else value
    c = vector(theta, net.offsets[4 * LAYERS], net.widths[LAYERS - 1], TOP)
    at = out + first * STRIDE + lines * STRIDE
    if QUANTITY != "value":
        tl.store(at + (STRIDE - 1), tl.sum(common.product(a, c), 1), mask=here)
    if QUANTITY != "potential":
        tl.debug_barrier()
        p = tl.zeros((BM, TOP), tl.float32) + c
        total = tl.zeros((BM, products.BD), tl.float32)
        for l in tl.static_range(LAYERS - 1, -1, -1):
            if l < LAYERS - 1:
                slope = kept(memory, l, net, BM, net.padded[l])
            s = slope * p
            total = to_points(total, s, s, batch, first, theta, l, net, products, False, BM)
            if l > 0:
                p = below(p, s, theta, l, net, products)
        columns = tl.arange(0, products.BD)
        if bias is not None:
            total += tl.load(bias + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]
        tl.store(at[:, None] + columns[None, :], total, mask=here[:, None] & (columns < D)[None, :])
