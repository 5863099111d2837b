"""Σ over a batch, by many programs: each saves its partial sum, and the last to arrive adds them up in order.

So a sum has the same bits at every run, and needs neither memory of zeros nor a second launch.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import common


class Into(NamedTuple):
    """Where the gradients of W (h, D) go, and those of vectors of length h, one after the other.

    None where none are needed.
    """

    W: tl.tensor
    vectors: tl.tensor


class Part(NamedTuple):
    """One program's part of a tile's reduction: part `split` of `splits`, with `rows` rows of the batch.

    partials: memory for all programs' partial sums.  counters: one for each tile, to count arrivals.
    """

    partials: tl.tensor
    counters: tl.tensor
    tile: tl.tensor
    split: tl.tensor
    splits: tl.tensor
    rows: tl.tensor


@triton.jit
def is_last(counter, count):
    """Whether this program is the last of `count` to arrive; all that the others stored before is then visible to it.

    The counter is 0 before the first arrival, and again after the last.
    """
    # All threads' stores come before the one thread's atomic.
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == count - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def arrive(counter):
    """Count this program in: all that it has stored is visible to whoever awaits it."""
    # All threads' stores come before the one thread's atomic.
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait_for(counter, count):
    """Wait until `count` programs have arrived: all that they stored before is then visible.

    The last poll must be an acquire: it drops what this multiprocessor's first-level cache holds of their memory.
    """
    arrived = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    while arrived < count:
        arrived = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def leave(arrivals, splits, exits, count):
    """Count this program out; the last of `count` resets the `splits` counters that others waited for to 0."""
    if is_last(exits, count):
        for split in range(splits):
            tl.store(arrivals + split, 0)


@triton.jit
def total_of(pointers, count, stride):
    """Σ_{i < count} of the numbers at pointers + i·stride, in this order."""
    total = tl.load(pointers, cache_modifier=".cg")
    for i in range(1, count):
        total += tl.load(pointers + i * stride, cache_modifier=".cg")
    return total


@triton.jit
def columns(pointer, out, partials, counter, count, stride, split, splits, rows_per_split, products, BM: tl.constexpr):
    """out (D,) = Σ over the rows of a (count, D) matrix, of which this program adds up part `split` of `splits`."""
    BD: tl.constexpr = products.BD
    lanes = tl.arange(0, BD)
    total = tl.zeros((BD,), tl.float32)
    begin = split.to(tl.int64) * rows_per_split
    for offset in range(0, tl.minimum(count - begin, rows_per_split), BM):
        rows = common.load_rows(pointer, begin + offset, count, stride, products.D, BM, BD)  # (BM, BD)
        total += tl.sum(rows.to(tl.float32), 0)
    tl.store(partials + split * BD + lanes, total)
    if is_last(counter, splits):
        tl.store(out + lanes, total_of(partials + lanes, splits, BD), mask=lanes < products.D)


@triton.jit
def matrix_and_vectors(matrix, vectors, into, part, h, D: tl.constexpr, BH: tl.constexpr, BD: tl.constexpr):
    """The gradients `into` (h, D) and (len(vectors), h) at the units of a tile, from one part of the batch.

    Shapes: matrix (BH, BD), unless into.W is None; each of vectors (BH,).
    """
    MATRIX: tl.constexpr = BH * BD if into.W is not None else 0
    COUNT: tl.constexpr = len(vectors)
    SIZE: tl.constexpr = MATRIX + COUNT * BH
    partials = part.partials + part.tile.to(tl.int64) * part.splits * SIZE
    own = partials + part.split.to(tl.int64) * SIZE
    lines = tl.arange(0, BH)
    block = lines[:, None] * BD + tl.arange(0, BD)[None, :]
    if into.W is not None:
        tl.store(own + block, matrix)
    for i in tl.static_range(COUNT):
        tl.store(own + MATRIX + i * BH + lines, vectors[i])
    if is_last(part.counters + part.tile, part.splits):
        start = part.tile * BH
        if into.W is not None:
            common.store_rows(into.W, total_of(partials + block, part.splits, SIZE), start, h, D, BH, BD)
        for i in tl.static_range(COUNT):
            vector = total_of(partials + MATRIX + i * BH + lines, part.splits, SIZE)
            tl.store(into.vectors + i * h + start + lines, vector, mask=start + lines < h)
