"""The elementwise middle of the ridge family in memory, for rows too long to hold: a library multiplies around it."""

import triton
import triton.language as tl

from . import cascade
from .cascade import Cascade, Wanted


@triton.jit
def _load(pointer, rows, neurons, count, h):
    """The tile (BM, BH) of a contiguous (count, h) matrix, as float32."""
    inside = (rows[:, None] < count) & (neurons[None, :] < h)
    return tl.load(pointer + rows.to(tl.int64)[:, None] * h + neurons[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, tile, rows, neurons, count, h):
    inside = (rows[:, None] < count) & (neurons[None, :] < h)
    tl.store(pointer + rows.to(tl.int64)[:, None] * h + neurons[None, :], tile, mask=inside)


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
    ARITHMETIC: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """u ← φ(u), in place; u (count, h)."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    neurons = tl.program_id(1) * BH + tl.arange(0, BH)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    vectors = cascade.in_memory(cascade.pointers(scale, shift, coef), neurons, h, 0)
    _store(u, cascade.value(_load(u, rows, neurons, count, h), vectors, phi), rows, neurons, count, h)


@triton.jit(do_not_specialize=["count", "rows_per_split"])
def backward(
    u,
    a,
    scale,
    shift,
    coef,
    dneurons,
    count,
    h,
    rows_per_split,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """u ← φ(u), a ← φ'(u) ⊙ a, in place; u, a (count, h).

    Part s of the rows adds its per-neuron gradients to dneurons[s], (COUNT, h).
    """
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    COUNT: tl.constexpr = LAYERS * (OF_SCALE + OF_SHIFT + len(BASIS) * OF_COEF)
    split = tl.program_id(0)
    neurons = tl.program_id(1) * BH + tl.arange(0, BH)
    vectors = cascade.load(cascade.pointers(scale, shift, coef), neurons, h, phi, 0)
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((BH,), tl.float32),)
    for offset in range(0, tl.minimum(count - split * rows_per_split, rows_per_split), BM):
        rows = split * rows_per_split + offset + tl.arange(0, BM)
        of_u, of_a, sums = cascade.value_and_gradients(
            *(_load(u, rows, neurons, count, h), _load(a, rows, neurons, count, h)),
            *(vectors, sums, phi, Wanted(OF_SCALE, OF_SHIFT, OF_COEF), 0, True),
        )
        _store(u, of_u, rows, neurons, count, h)
        _store(a, of_a, rows, neurons, count, h)
    for i in tl.static_range(COUNT):
        at = dneurons + (split * COUNT + i) * h + neurons
        tl.store(at, tl.load(at, mask=neurons < h) + sums[i], mask=neurons < h)
