"""Sums over a batch that many programs share: each leaves its part, and the last to arrive adds them up in order.

So a sum has the same bits at every run, needs no memory of zeros, and no second launch.
"""

import triton
import triton.language as tl

from . import common


@triton.jit
def is_last(counter, count):
    """Whether this program is the last of `count` to come here: all that they stored before is then visible to it.

    The counter is 0 before the first and after the last.
    """
    # All threads' stores come before the one thread's atomic.
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == count - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def total_of(pointers, count, stride):
    """Σ over i < count of what lies at pointers + i·stride, in this order."""
    total = tl.load(pointers, cache_modifier=".cg")
    for i in range(1, count):
        total += tl.load(pointers + i * stride, cache_modifier=".cg")
    return total


@triton.jit
def columns(
    pointer,
    out,
    partials,
    counter,
    count,
    stride,
    split,
    splits,
    rows_per_split,
    D: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """out = Σ over the rows of a (count, D) matrix: one part of them."""
    lanes = tl.arange(0, BD)
    total = tl.zeros((BD,), tl.float32)
    begin = split.to(tl.int64) * rows_per_split
    for offset in range(0, tl.minimum(count - begin, rows_per_split), BM):
        total += tl.sum(common.load_rows(pointer, begin + offset, count, stride, D, BM, BD).to(tl.float32), 0)
    tl.store(partials + split * BD + lanes, total)
    if is_last(counter, splits):
        tl.store(out + lanes, total_of(partials + lanes, splits, BD), mask=lanes < D)


@triton.jit
def matrix_and_vectors(
    matrix,
    vectors,
    dW,
    dneurons,
    partials,
    counters,
    h,
    tile,
    split,
    splits,
    D: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
):
    """dW (h, D) and dneurons (len(vectors), h) at the neurons of a tile, from one part of the batch.

    Shapes: matrix (BH, BD), unless dW is None; each of vectors (BH,).
    """
    OF_W: tl.constexpr = BH * BD if dW is not None else 0
    COUNT: tl.constexpr = len(vectors)
    SIZE: tl.constexpr = OF_W + COUNT * BH
    tile_parts = partials + tile.to(tl.int64) * splits * SIZE
    part = tile_parts + split.to(tl.int64) * SIZE
    lines = tl.arange(0, BH)
    block = lines[:, None] * BD + tl.arange(0, BD)[None, :]
    if dW is not None:
        tl.store(part + block, matrix)
    for i in tl.static_range(COUNT):
        tl.store(part + OF_W + i * BH + lines, vectors[i])
    if is_last(counters + tile, splits):
        start = tile * BH
        if dW is not None:
            common.store_rows(dW, total_of(tile_parts + block, splits, SIZE), start, h, D, BH, BD)
        for i in tl.static_range(COUNT):
            vector = total_of(tile_parts + OF_W + i * BH + lines, splits, SIZE)
            tl.store(dneurons + i * h + start + lines, vector, mask=start + lines < h)
