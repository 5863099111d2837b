"""Σ over a batch, by many programs: each saves its partial sum, and the last to arrive adds them up in order.

So a sum has the same bits at every run, and needs neither memory of zeros nor a second launch.

Programs come in groups of GROUP.  The last of a group to arrive adds up the group's sums, and the last of those the
groups' sums, so that of S programs none adds more than GROUP + S/GROUP sums; it loads several of them at once.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import common

GROUP = tl.constexpr(16)

OTHERS = tl.constexpr(4)
"""How many counters of a launch come before those of its tiles."""

WIDTH = tl.constexpr(512)
"""How many numbers of GROUP partial sums are loaded at once: 32 KiB, 64 registers of a thread of four warps."""


class Into(NamedTuple):
    """Where the gradients of W (h, D) go, and those of vectors of length h, one after the other.

    None where none are needed.
    """

    W: tl.tensor
    vectors: tl.tensor


class Part(NamedTuple):
    """One program's part of a tile's reduction: part `split` of `splits`, with `rows` rows of the batch.

    partials: for each tile, memory for the partial sums of its programs, and of their groups.  counters: for each tile
    one to count the groups that have arrived, and then one for each group, to count its programs.
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

    An acquire empties this multiprocessor's first-level cache, which other programs use: there is one, after the polls.
    """
    while tl.atomic_add(counter, 0, sem="relaxed", scope="gpu") < count:
        pass
    tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit
def leave(arrivals, splits, exits, count):
    """Count this program out; the last of `count` resets the `splits` counters that others waited for to 0."""
    if is_last(exits, count):
        lanes = tl.arange(0, WIDTH)
        for start in range(0, splits, WIDTH):
            tl.store(arrivals + start + lanes, 0, mask=start + lanes < splits)


@triton.jit
def total_of(pointers, there, count, stride):
    """Σ_{i < count} of the numbers at pointers + i·stride, GROUP at once; pointers: (N,).

    there: which of them there are, (N,).
    """
    total = tl.zeros(pointers.shape, tl.float32)
    for start in range(0, count, GROUP):
        parts = start + tl.arange(0, GROUP)
        at = pointers[None, :] + parts[:, None] * stride
        inside = there[None, :] & (parts < count)[:, None]
        total += tl.sum(tl.load(at, mask=inside, other=0.0, cache_modifier=".cg"), 0)
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
        total = total_of(partials + lanes, lanes < BD, splits, BD)
        tl.store(out + lanes, total, mask=lanes < products.D)


@triton.jit
def with_tiles_before(part, tiles, SIZE: tl.constexpr):
    """The part with memory and counters that come after those of so many tiles."""
    groups = tl.cdiv(part.splits, GROUP)
    partials = part.partials + tiles.to(tl.int64) * (part.splits + groups) * SIZE
    return Part(partials, part.counters + tiles * (1 + groups), part.tile, part.split, part.splits, part.rows)


@triton.jit
def memory_of(part, SIZE: tl.constexpr):
    """Where the partial sums of a tile's programs lie, SIZE numbers each, and those of its groups after them."""
    return with_tiles_before(part, part.tile, SIZE).partials


@triton.jit
def left_to_add(part, SIZE: tl.constexpr):
    """Where sums of SIZE numbers lie that this program has to add up, and how many; none unless it comes last.

    They are those of all programs of the tile, or of their groups if there are several.
    """
    partials = memory_of(part, SIZE)
    of_groups = partials + part.splits.to(tl.int64) * SIZE
    groups = tl.cdiv(part.splits, GROUP)
    group = part.split // GROUP
    members = tl.minimum(part.splits - group * GROUP, GROUP)
    arrived = with_tiles_before(part, part.tile, SIZE).counters
    count = group * 0
    if is_last(arrived + 1 + group, members):
        count = members
        if groups > 1:
            of_members = partials + (group * GROUP).to(tl.int64) * SIZE
            into = of_groups + group.to(tl.int64) * SIZE
            for start in range(0, SIZE, WIDTH):
                lanes = start + tl.arange(0, WIDTH)
                total = total_of(of_members + lanes, lanes < SIZE, members, SIZE)
                tl.store(into + lanes, total, mask=lanes < SIZE)
            count = tl.where(is_last(arrived, groups), groups, 0)
            partials = of_groups
    return partials, count


@triton.jit
def matrix_and_vectors(matrix, vectors, into, part, h, D: tl.constexpr, BH: tl.constexpr, BD: tl.constexpr):
    """The gradients `into` (h, D) and (len(vectors), h) at the units of a tile, from one part of the batch.

    Shapes: matrix (BH, BD), unless into.W is None; each of vectors (BH,).
    """
    MATRIX: tl.constexpr = BH * BD if into.W is not None else 0
    COUNT: tl.constexpr = len(vectors)
    SIZE: tl.constexpr = MATRIX + COUNT * BH
    own = memory_of(part, SIZE) + part.split.to(tl.int64) * SIZE
    lines = tl.arange(0, BH)
    if into.W is not None:
        tl.store(own + lines[:, None] * BD + tl.arange(0, BD)[None, :], matrix)
    for i in tl.static_range(COUNT):
        tl.store(own + MATRIX + i * BH + lines, vectors[i])
    sums, count = left_to_add(part, SIZE)
    if count > 0:
        start = part.tile * BH
        for first in range(0, SIZE, WIDTH):
            lanes = first + tl.arange(0, WIDTH)
            total = total_of(sums + lanes, lanes < SIZE, count, SIZE)
            if into.W is not None:
                unit, column = start + lanes // BD, lanes % BD
                inside = (lanes < MATRIX) & (unit < h) & (column < D)
                tl.store(into.W + unit.to(tl.int64) * D + column, total, mask=inside)
            if COUNT > 0:
                store_vectors(into.vectors, total, lanes - MATRIX, start, h, COUNT, BH)


@triton.jit
def store_vectors(into, total, lanes, start, h, COUNT: tl.constexpr, BH: tl.constexpr):
    """Stores those of `total` that belong to COUNT vectors `into` (COUNT, h), of the units `start` …, (BH,).

    lanes: the places of `total` among these COUNT · BH numbers; what lies outside belongs to none.
    """
    unit = start + lanes % BH
    inside = (lanes >= 0) & (lanes < COUNT * BH) & (unit < h)
    tl.store(into + (lanes // BH) * h + unit, total, mask=inside)
