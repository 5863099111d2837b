"""The kernels of deep networks that are launched: one for each pass.

QUANTITY is f ("value"), the potential F without bias, or "value_and_potential", f and F without bias.
"""

import triton
import triton.language as tl

from . import deep, deep_backward, reduction
from .common import Batch, Products
from .deep import Structure


@triton.jit
def _nothing(tile):
    """0, of which the compiler does not know that it is the same for every tile.

    Added to pointers, it keeps the addresses of all layers' weights from being computed before the loop over tiles, and
    from taking registers throughout.
    """
    return tl.multiple_of(tl.minimum(tl.cast(tile, tl.int32), 0), 16)


@triton.jit(do_not_specialize=["B", "tiles"])
def forward(
    x,
    theta,
    bias,
    out,
    memory,
    counters,
    B,
    x_stride,
    tiles,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    WIDEST: tl.constexpr,
    OFFSETS: tl.constexpr,
    INPUT_SKIP: tl.constexpr,
    RANK: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    QUANTITY: tl.constexpr,
    BM: tl.constexpr,
):
    """out = f(x) + bias, F(x), or both, (B, D + 1): programs take one tile of BM rows after the other.

    Shapes: x (B, D), theta as the operator `deep` has it, bias (D,), memory (programs, LAYERS, BM, WIDEST).
    """
    net: tl.constexpr = Structure(BASIS, WIDTHS, PADDED, WIDEST, OFFSETS, INPUT_SKIP, RANK, RESIDUAL)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, True)
    batch = Batch(x, None, None, None, B, x_stride, None, None)
    own = memory + tl.program_id(0).to(tl.int64) * (len(WIDTHS) * BM * WIDEST)
    tile = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
    while tile < tiles:
        here = _nothing(tile)
        deep.forward_tile(batch, theta + here, bias, out, own + here, tile, net, products, QUANTITY, BM)
        tile = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
    # Each program has asked once in vain; the last of them leaves the counter as it was.
    if tile == tiles + tl.num_programs(0) - 1:
        tl.atomic_xchg(counters, 0, sem="relaxed", scope="gpu")


@triton.jit(do_not_specialize=["B", "tiles", "programs"])
def backward(
    x,
    v,
    weight,
    theta,
    dx,
    dtheta,
    dbias,
    memory,
    sums,
    counters,
    B,
    x_stride,
    v_stride,
    weight_stride,
    tiles,
    programs,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    WIDEST: tl.constexpr,
    OFFSETS: tl.constexpr,
    INPUT_SKIP: tl.constexpr,
    RANK: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    QUANTITY: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PARTS: tl.constexpr,
    TOTALS: tl.constexpr,
):
    """dx, dtheta and dbias of Σ_B <v, f(x)> + weight F(x), unless they are None; without those two dx may be J(x) v.

    Shapes: x, v (B, D), weight (B,), memory (programs, LAYERS, 4, BM, WIDEST), sums (programs, COUNT).

    The first `programs` programs to start take the tiles in turn, each always the same ones, so that sums have the same
    bits at every run.  Those after them wait until all sums are there, and add up TOTALS numbers each: whom they wait
    for has started before them, and waits for nobody.
    """
    net: tl.constexpr = Structure(BASIS, WIDTHS, PADDED, WIDEST, OFFSETS, INPUT_SKIP, RANK, RESIDUAL)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, True)
    LAYERS: tl.constexpr = len(WIDTHS)
    SUMMED: tl.constexpr = dtheta is not None or dbias is not None
    PARAMETERS: tl.constexpr = OFFSETS[4 * LAYERS] + WIDTHS[LAYERS - 1] if dtheta is not None else 0
    COUNT: tl.constexpr = PARAMETERS + (D if dbias is not None else 0)
    batch = Batch(x, None, v, weight, B, x_stride, weight_stride, v_stride)
    program = tl.program_id(0)
    in_all = tl.num_programs(0)
    if SUMMED:
        program = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
        if program == in_all - 1:
            tl.atomic_xchg(counters, 0, sem="relaxed", scope="gpu")
    if program < programs:
        own = memory + program.to(tl.int64) * (4 * LAYERS * BM * WIDEST)
        own_sums = sums
        if SUMMED:
            own_sums = sums + program.to(tl.int64) * COUNT
        for tile in range(program, tiles, programs):
            here = _nothing(tile)
            again = (tl.cast(tile, tl.int32) > program).to(tl.int32)
            deep_backward.backward_tile(
                *(batch, theta + here, dx, own + here, own_sums + here, tile, again, net, products, QUANTITY),
                *(dtheta is not None, dbias is not None, BM, BN),
            )
        if SUMMED:
            reduction.arrive(counters + 2)
    elif SUMMED:
        reduction.wait_for(counters + 2, programs)
        deep_backward.total_program(sums, dtheta, dbias, program - programs, programs, PARAMETERS, COUNT, PARTS, TOTALS)
    if SUMMED:
        reduction.leave(counters + 2, 1, counters + 1, in_all)
