"""φ and its gradients on matrices (rows, h) in memory, for rows of x too long for a tile: a library multiplies by W."""

import triton
import triton.language as tl

from . import cascade, common
from .cascade import Cascade, Needs


@triton.jit
def _load(pointer, rows, units, count, h):
    """The tile (BM, BH) of a contiguous (count, h) matrix, as float32."""
    inside = (rows[:, None] < count) & (units[None, :] < h)
    return tl.load(pointer + rows.to(tl.int64)[:, None] * h + units[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, tile, rows, units, count, h):
    inside = (rows[:, None] < count) & (units[None, :] < h)
    tl.store(pointer + rows.to(tl.int64)[:, None] * h + units[None, :], tile, mask=inside)


@triton.jit(do_not_specialize=["count"])
def forward(
    u,
    scale,
    shift,
    coef,
    count,
    h,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """u ← φ(u), in place; u (count, h)."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    units = tl.program_id(1) * BH + tl.arange(0, BH)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    vectors = cascade.in_memory(cascade.pointers(scale, shift, coef), units, h, 0)
    _store(u, cascade.value(_load(u, rows, units, count, h), vectors, phi), rows, units, count, h)


@triton.jit(do_not_specialize=["count", "rows_per_split"])
def backward(
    u,
    a,
    scale,
    shift,
    coef,
    dvectors,
    count,
    h,
    rows_per_split,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    NEEDS_SCALE: tl.constexpr,
    NEEDS_SHIFT: tl.constexpr,
    NEEDS_COEF: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """u ← φ(u), a ← φ'(u) ⊙ a, in place; u, a (count, h).

    Part s of the rows adds its gradients in β, s and C to dvectors[s], (COUNT, h).
    """
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    COUNT: tl.constexpr = LAYERS * (NEEDS_SCALE + NEEDS_SHIFT + len(BASIS) * NEEDS_COEF)
    split = tl.program_id(0)
    units = tl.program_id(1) * BH + tl.arange(0, BH)
    vectors = cascade.load(cascade.pointers(scale, shift, coef), units, h, phi, 0)
    sums = common.zeros(COUNT, (BH,))
    for offset in range(0, tl.minimum(count - split * rows_per_split, rows_per_split), BM):
        rows = split * rows_per_split + offset + tl.arange(0, BM)
        of_u, of_a, sums = cascade.value_and_gradients(
            *(_load(u, rows, units, count, h), _load(a, rows, units, count, h)),
            *(vectors, sums, phi, Needs(NEEDS_SCALE, NEEDS_SHIFT, NEEDS_COEF), 0, True),
        )
        _store(u, of_u, rows, units, count, h)
        _store(a, of_a, rows, units, count, h)
    for i in tl.static_range(COUNT):
        at = dvectors + (split * COUNT + i) * h + units
        # Several warps hold the vector: none may store before all have loaded.
        held = tl.load(at, mask=units < h)
        tl.debug_barrier()
        tl.store(at, held + sums[i], mask=units < h)
