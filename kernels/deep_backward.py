"""Deep networks: the gradients of S = Σ_B <v, f(x)> + weight F(x) for a tile of rows, f and F as in `deep`.

    τ_l = V_l t_{l−1} + A_l v + 2 Σ_r y_r ⊙ z_r,   t_l = σ' ⊙ τ_l (+ t_{l−1}),   y_r = Q_lr x,   z_r = Q_lr v
    p_L = c,   r_L = weight c,   s_l = σ' ⊙ p_l,   e_l = σ'' ⊙ τ_l ⊙ p_l + σ' ⊙ r_l
    p_{l−1} = V_lᵀ s_l (+ p_l),   r_{l−1} = V_lᵀ e_l (+ r_l)

    dx = Σ_l [A_lᵀ e_l + 2 Σ_r Q_lrᵀ(y_r ⊙ e_l + z_r ⊙ s_l)]
    dV_l = e_l a_{l−1}ᵀ + s_l t_{l−1}ᵀ,   dA_l = e_l xᵀ + s_l vᵀ,   db_l = e_l,   dc = t_L + weight a_L
    dQ_lr = 2 (y_r ⊙ e_l + z_r ⊙ s_l) xᵀ + 2 (y_r ⊙ s_l) vᵀ

"value" has v alone, whose dx is J(x) v; "potential" has the weight alone, without t, p and s; "value_and_potential" has
both.  A program adds the gradients of its tiles to sums of its own, which `total_program` adds up.
"""

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import common, deep


@triton.jit
def _add_product(at, LINES: tl.constexpr, COLUMNS: tl.constexpr, line, column, e, s, x, v, again, products, DIRECTED):
    """Add eᵀ x + sᵀ v to the lines from `line` and the columns from `column` on of a (LINES, COLUMNS) matrix of sums.

    Shapes: e, s (BM, BN), x, v (BM, BK).  again: 0 for a program's first tile, whose sums begin at 0, else 1.
    """
    lines = line + tl.arange(0, e.shape[1])[:, None]
    columns = column + tl.arange(0, x.shape[1])[None, :]
    at += lines * COLUMNS + columns
    total = tl.load(at, mask=(lines < LINES * again) & (columns < COLUMNS), other=0.0)
    total = common.times(tl.trans(e), x, total, products)
    if DIRECTED:
        total = common.times(tl.trans(s), v, total, products)
    # Where several threads hold a number, one stores it, when all have read it.
    tl.debug_barrier()
    tl.store(at, total, mask=(lines < LINES) & (columns < COLUMNS))


@triton.jit
def _add_sums(at, SIZE: tl.constexpr, first, tile, again):
    """Add Σ_B of a tile (BM, BN), which is 0 beyond the batch, to the numbers from `first` on of SIZE."""
    lanes = first + tl.arange(0, tile.shape[1])
    total = tl.load(at + lanes, mask=lanes < SIZE * again, other=0.0) + tl.sum(tile, 0)
    tl.debug_barrier()
    tl.store(at + lanes, total, mask=lanes < SIZE)


@triton.jit
def _add_layer(
    sums,
    batch,
    first,
    theta,
    memory,
    again,
    l: tl.constexpr,
    net,
    products,
    DIRECTED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Add dA_l, dV_l, dQ_l and db_l of a tile to this program's sums, BN hidden units at a time."""
    H: tl.constexpr = net.widths[l]
    BH: tl.constexpr = net.padded[l]
    D: tl.constexpr = products.D
    STEP: tl.constexpr = BN if BN < BH else BH
    if l == 0 or net.input_skip or net.rank > 0:
        x = deep.rows(batch.x, first, batch.count, batch.x_stride, products, BM)
        v = x
        if DIRECTED:
            v = deep.rows(batch.v, first, batch.count, batch.v_stride, products, BM)
    for line in range(0, BH, STEP):
        e = deep.kept_columns(memory, 4 * l + 3, line, net, BM, BH, STEP)
        s = e
        if DIRECTED:
            s = deep.kept_columns(memory, 4 * l + 2, line, net, BM, BH, STEP)
        _add_sums(sums + net.offsets[4 * l + 3], H, line, e.to(tl.float32), again)
        if l == 0 or net.input_skip:
            _add_product(sums + net.offsets[4 * l], H, D, line, 0, e, s, x, v, again, products, DIRECTED)
        if l > 0:
            UNDER: tl.constexpr = net.padded[l - 1]
            WIDTH: tl.constexpr = BN if BN < UNDER else UNDER
            at = sums + net.offsets[4 * l + 1]
            for column in range(0, UNDER, WIDTH):
                a = deep.kept_columns(memory, 4 * l - 4, column, net, BM, UNDER, WIDTH)
                t = a
                if DIRECTED:
                    t = deep.kept_columns(memory, 4 * l - 3, column, net, BM, UNDER, WIDTH)
                _add_product(at, H, net.widths[l - 1], line, column, e, s, a, t, again, products, DIRECTED)
        if net.rank > 0:
            empty = tl.zeros((BM, STEP), tl.float32)
            for r in range(net.rank):
                Q = tl.trans(deep.squares(theta, r, line, l, net, products, STEP))
                y = 2.0 * common.times(x, Q, empty, products)
                of_x = y * e.to(tl.float32)
                if DIRECTED:
                    of_x += 2.0 * common.times(v, Q, empty, products) * s.to(tl.float32)
                of_v = (y * s.to(tl.float32)).to(e.dtype)
                at = sums + net.offsets[4 * l + 2] + r * (H * D)
                _add_product(at, H, D, line, 0, of_x.to(e.dtype), of_v, x, v, again, products, DIRECTED)


@triton.jit
def backward_tile(
    batch,
    theta,
    dx,
    memory,
    sums,
    block,
    again,
    net,
    products,
    QUANTITY: tl.constexpr,
    OF_THETA: tl.constexpr,
    OF_BIAS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """dx of BM rows, unless it is None, and what they add to the sums for theta and the bias.

    In memory are, for each layer, a_l, t_l, σ'(u_l) and σ''(u_l) ⊙ τ_l, (BM, BH), and, on the way down, s_l and e_l in
    place of the latter two: the gradients of theta follow when nothing else takes registers.
    """
    LAYERS: tl.constexpr = len(net.widths)
    PARAMETERS: tl.constexpr = net.offsets[4 * LAYERS] + net.widths[LAYERS - 1] if OF_THETA else 0
    TOP: tl.constexpr = net.padded[LAYERS - 1]
    DIRECTED: tl.constexpr = QUANTITY != "potential"
    WEIGHTED: tl.constexpr = QUANTITY != "value"
    first = tl.cast(block, tl.int64) * BM
    lines = tl.arange(0, BM)
    here = lines < batch.count - first
    # Other threads may still use what the tile before has left in memory and in the sums.
    tl.debug_barrier()
    a = tl.zeros((BM, 16), tl.float32)
    t = a
    for l in tl.static_range(LAYERS):
        u, tau = deep.preactivations(batch, first, a, t, theta, l, net, products, DIRECTED, BM)
        if DIRECTED:
            value, slope, second = activations.value_first_second(u, tl.constexpr(net.basis[l]), products.arithmetic)
            bent = second * tau
            tau = common.product(tau, slope)
            t = tau + t if net.residual and l > 0 else tau
        else:
            value, slope = activations.value_first(u, tl.constexpr(net.basis[l]), products.arithmetic)
        a = value + a if net.residual and l > 0 else value
        if l < LAYERS - 1:
            deep.keep(memory, 4 * l + 2, slope, net)
            if DIRECTED:
                deep.keep(memory, 4 * l + 3, bent, net)
            if OF_THETA:
                deep.keep(memory, 4 * l, a, net)
                if DIRECTED:
                    deep.keep(memory, 4 * l + 1, t, net)
    c = deep.vector(theta, net.offsets[4 * LAYERS], net.widths[LAYERS - 1], TOP)
    p = tl.zeros((BM, TOP), tl.float32) + c
    r = tl.zeros((BM, TOP), tl.float32)
    of_c = t
    if WEIGHTED:
        weight = tl.load(batch.weight + (first + lines) * batch.g_stride, mask=here, other=0.0).to(tl.float32)[:, None]
        r += weight * c
        of_c = common.product(weight, a)
        if DIRECTED:
            of_c += t
    if OF_THETA:
        _add_sums(sums + net.offsets[4 * LAYERS], net.widths[LAYERS - 1], 0, of_c, again)
    if OF_BIAS:
        v = deep.rows(batch.v, first, batch.count, batch.v_stride, products, BM)
        _add_sums(sums + PARAMETERS, products.D, 0, v.to(tl.float32), again)
    tl.debug_barrier()
    total = tl.zeros((BM, products.BD), tl.float32)
    for l in tl.static_range(LAYERS - 1, -1, -1):
        if l < LAYERS - 1:
            slope = deep.kept(memory, 4 * l + 2, net, BM, net.padded[l])
            if DIRECTED:
                bent = deep.kept(memory, 4 * l + 3, net, BM, net.padded[l])
            tl.debug_barrier()
        e = slope * r
        s = e
        if DIRECTED:
            s = slope * p
            e += bent * p
        if OF_THETA:
            deep.keep(memory, 4 * l + 3, e, net)
            if DIRECTED:
                deep.keep(memory, 4 * l + 2, s, net)
        if dx is not None:
            total = deep.to_points(total, e, s, batch, first, theta, l, net, products, DIRECTED, BM)
        if l > 0:
            r = deep.below(r, e, theta, l, net, products)
            if DIRECTED:
                p = deep.below(p, s, theta, l, net, products)
    if dx is not None:
        common.store_rows(dx, total, first, batch.count, products.D, BM, products.BD)
    if OF_THETA:
        tl.debug_barrier()
        for l in tl.static_range(LAYERS):
            _add_layer(sums, batch, first, theta, memory, again, l, net, products, DIRECTED, BM, BN)


@triton.jit
def total_program(
    sums,
    dtheta,
    dbias,
    block,
    programs,
    PARAMETERS: tl.constexpr,
    COUNT: tl.constexpr,
    PARTS: tl.constexpr,
    BN: tl.constexpr,
):
    """dtheta (PARAMETERS,), and dbias (COUNT − PARAMETERS,) after it: BN of the totals of sums (programs, COUNT)."""
    places = block * BN + tl.arange(0, BN)
    total = tl.zeros((BN,), tl.float32)
    for start in range(0, programs, PARTS):
        program = start + tl.arange(0, PARTS)
        at = sums + program.to(tl.int64)[:, None] * COUNT + places[None, :]
        inside = (program < programs)[:, None] & (places < COUNT)[None, :]
        total += tl.sum(tl.load(at, mask=inside, other=0.0, cache_modifier=".cg"), 0)
    if dtheta is not None:
        tl.store(dtheta + places, total, mask=places < PARAMETERS)
    if dbias is not None:
        of_bias = places - PARAMETERS
        tl.store(dbias + of_bias, total, mask=(of_bias >= 0) & (places < COUNT))
