"""Launches of the ridge kernels: tensors in, tensors out; nothing of size batch × h in memory.

Called by `gradnets_fast.ops`; calls the kernels of `entry`, and those of `wide` with a library's products around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import configuration, entry, reduction, wide
from .launching import Launcher, current_stream, launch
from .mode import FORMS, Mode

_PROGRAMS = 512
"""Programs that sum the gradients of the weights: enough for the largest GPU, and fixed, so that sums are too."""

_CLOCKS_OF_PAIR, _NUMBERS_IN_CLOCK = 0.5, 8
"""What a program takes for a pair of a row and a hidden unit, and how many partial sums it adds up in a clock.

Estimates from the code: few programs are faster at pairs; 8192 sums, loaded at once, take 500 clocks to come from the
second-level cache, and the first of them some hundreds more.
"""

_PARTIAL_BYTES = 64 << 20
_BIAS_ROWS, _BIAS_PROGRAMS = 1024, 64
_CHUNK_BYTES = 16 << 20
"""Bytes of x Wᵀ for one piece of the batch on the wide route: two such tensors stay in the second-level cache."""

_LARGEST_STRIDE = 1 << 22
"""Offsets within a tile are counted in 32 bits."""


@dataclass(frozen=True)
class Parameters:
    """Contiguous tensors; None stands for ones."""

    W: Tensor
    scale: Tensor | None
    shift: Tensor
    coef: Tensor | None

    def __iter__(self) -> Iterable[Tensor | None]:  # type: ignore[override]
        return iter((self.W, self.scale, self.shift, self.coef))


@dataclass
class Gradients:
    """Memory for the gradients that are needed, None for the others.

    vectors: those of (scale, shift, coef) that `needs` marks, one after the other.
    """

    x: Tensor | None
    W: Tensor | None
    vectors: Tensor | None
    needs: tuple[bool, bool, bool]
    bias: Tensor | None = None
    v: Tensor | None = None

    def needed(self, h: int) -> Needed:
        """What is needed of a network with h hidden units."""
        x, v, W, bias = (memory is not None for memory in (self.x, self.v, self.W, self.bias))
        return Needed(x, v, W, self.needs, self.count(h), bias)

    def flags(self) -> dict[str, bool]:
        """`needs` as kernels take it."""
        return flags(self.needs)

    def count(self, h: int) -> int:
        """How many vectors of length h `vectors` holds."""
        return 0 if self.vectors is None else self.vectors.numel() // h


def flags(needs: tuple[bool, ...]) -> dict[str, bool]:
    """Which gradients of (scale, shift, coef) are needed, as kernels take it."""
    return dict(zip(("NEEDS_SCALE", "NEEDS_SHIFT", "NEEDS_COEF"), needs))


class Needed(NamedTuple):
    """Which gradients are needed, those of (scale, shift, coef) by `vectors`; count: their vectors of length h."""

    x: bool
    v: bool = False
    W: bool = False
    vectors: tuple[bool, ...] = (False, False, False)
    count: int = 0
    bias: bool = False


def rows_of(x: Tensor) -> Tensor:
    """x (…, d) as a matrix whose rows are contiguous; a copy only where its strides ask for one."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 and 0 <= rows.stride(0) <= _LARGEST_STRIDE else rows.contiguous()


def forward(
    mode: Mode, quantity: str, x: Tensor, parameters: Parameters, bias: Tensor | None = None, rule: Tensor | None = None
) -> Tensor:
    """f(x) ("value"), the potential without bias, the divergence or the Jacobian, for at least one row."""
    rows, W = rows_of(x), parameters.W
    plan = forward_plan(mode, quantity, x, W.shape, rows.stride(0))
    if plan is not None:
        return plan(rows, (*parameters, bias, rule))
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _wide_forward(mode, rows, parameters, bias, out.view(-1, W.shape[1]))
    return out


@dataclass(frozen=True)
class ForwardPlan:
    """A launch of `entry.forward` as far as sizes, strides and dtypes determine it.

    shape: of the result.  numbers: the arguments that are no tensors.
    """

    shape: torch.Size
    numbers: tuple[int, ...]
    launcher: Launcher

    def __call__(self, x: Tensor, others: tuple[Tensor | None, ...]) -> Tensor:
        """The result at points that are contiguous rows; others: W, scale, shift, coef, bias and rule, contiguous."""
        out = torch.empty(self.shape, dtype=x.dtype, device=x.device)
        self.launcher(current_stream(x.get_device()), (x, *others, out, *self.numbers))
        return out


def forward_plan(mode: Mode, quantity: str, x: Tensor, size: torch.Size, stride: int) -> ForwardPlan | None:
    """The plan for points like x, `stride` numbers from row to row, and W (h, d) of this size; None if it is "wide"."""
    h, d = size
    if quantity == "value" and mode.route("forward", d) == "wide":
        return None
    constants, rows = mode.forward(quantity, d, h), x.numel() // d
    launcher = Launcher(entry.forward, (triton.cdiv(rows, constants["BM"]),), constants)
    return ForwardPlan(x.shape[:-1] + _LAST[quantity](d), (rows, h, stride), launcher)


_LAST: dict[str, Callable[[int], tuple[int, ...]]] = {
    "value": lambda d: (d,),
    "jacobian": lambda d: (d, d),
    "potential": lambda d: (),
    "divergence": lambda d: (),
}
"""The shape of a row's result, by quantity."""


def jvp(mode: Mode, x: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    """J(x) v for at least one row."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    into = Gradients(out, None, None, (False, False, False))
    backward(mode, "value", Batch(x, g=v), parameters, into, form="jvp")
    return out


@dataclass(frozen=True)
class Batch:
    """Points x, cotangents g and directions v (…, d), weights (…,); a Jacobian's cotangents are (…, d, d)."""

    x: Tensor
    g: Tensor | None = None
    v: Tensor | None = None
    weight: Tensor | None = None


def backward(
    mode: Mode,
    quantity: str,
    batch: Batch,
    parameters: Parameters,
    into: Gradients,
    rule: Tensor | None = None,
    form: str | None = None,
) -> None:
    """The gradients of the scalar that `quantity` names in `ridge`, for at least one row."""
    x = rows_of(batch.x)
    g, v = (t if t is None or quantity == "jacobian" else rows_of(t) for t in (batch.g, batch.v))
    h = parameters.W.shape[0]
    plan = backward_plan(mode, quantity, (x, g, v), parameters.W.shape, into.needed(h), form)
    if plan is None:
        assert g is not None
        _wide_backward(mode, g, x, parameters, into)
        return
    plan((x, g, v, batch.weight, *parameters, rule), (into.x, into.v, into.W, into.vectors, into.bias))


@dataclass(frozen=True)
class BackwardPlan:
    """A launch of `entry.backward` as far as sizes, strides, dtypes and the gradients that are needed determine it.

    Attributes:
        partials, bias_partials: how many numbers the programs' parts of sums are.
        counters: how many.
        numbers: the arguments that are no tensors.
    """

    partials: int
    bias_partials: int
    counters: int
    numbers: tuple[int, ...]
    launcher: Launcher

    def __call__(self, read: tuple[Tensor | None, ...], into: tuple[Tensor | None, ...]) -> None:
        """Compute gradients.

        read: x, g and v, rows that are contiguous, weight, W, scale, shift, coef and rule, contiguous.  into: memory
        for those of x, v, W, the vectors and the bias.
        """
        x = read[0]
        assert x is not None
        device = x.device
        stream = current_stream(x.get_device())
        partials = torch.empty(self.partials, dtype=torch.float32, device=device)
        of_bias = partials
        if self.bias_partials:
            of_bias = torch.empty(self.bias_partials, dtype=torch.float32, device=device)
        arrivals = counters(device, self.counters, stream)
        try:
            self.launcher(stream, (*read, *into, partials, of_bias, arrivals, *self.numbers))
        except BaseException:
            forget_counters()
            raise


def backward_plan(
    mode: Mode,
    quantity: str,
    points: tuple[Tensor, Tensor | None, Tensor | None],
    size: torch.Size,
    needed: Needed,
    form: str | None = None,
) -> BackwardPlan | None:
    """The plan for points x, g and v, matrices of contiguous rows, and W (h, d) of this size; None if it is "wide"."""
    (h, d), (x, g, v) = size, points
    route = mode.route("backward", d) if quantity == "value" else "fused"
    if route == "wide":
        return None
    chosen = form or ("slope" if not needed.x else FORMS[quantity])
    constants = mode.backward(quantity, d, h, flags(needed.vectors), chosen)
    columns = 0 if not needed.W else d if route == "narrow" else configuration.padded(d)
    of_tile = constants["BH_WEIGHTS"] * (columns + needed.count)
    blocks = triton.cdiv(h, constants["BH_WEIGHTS"]) if of_tile else 0
    sums = layout_of(len(x), constants["BM_WEIGHTS"], blocks, of_tile, constants["BH_WEIGHTS"])
    bias_splits = 0 if not needed.bias else min(triton.cdiv(len(x), _BIAS_ROWS), _BIAS_PROGRAMS)
    bias_rows = triton.cdiv(triton.cdiv(len(x), max(bias_splits, 1)), constants["BM"]) * constants["BM"]
    of_points = 0 if not (needed.x or needed.v) else triton.cdiv(len(x), constants["BM"])
    numbers = (
        *(len(x), h, x.stride(0), 0 if g is None else g.stride(0), 0 if v is None else v.stride(0)),
        *(sums.programs, sums.splits, sums.rows, bias_splits, bias_rows),
    )
    programs = sums.programs + bias_splits + of_points
    launcher = Launcher(entry.backward, (programs,), constants)
    bias_partials = bias_splits * configuration.padded(d)
    return BackwardPlan(sums.partials, bias_partials, sums.counters, numbers, launcher)


@dataclass(frozen=True)
class Layout:
    """How sums over the batch are divided among programs; `reduction` has what they do.

    Attributes:
        programs: of all tiles of hidden units.
        splits: programs of a tile, each for one part of the batch.
        rows: of the batch in each part.
        partials: how many numbers the sums of programs and of their groups are.
        counters: how many: `reduction.OTHERS`, and then those of the parts, and of the tiles and groups.
    """

    programs: int
    splits: int
    rows: int
    partials: int
    counters: int


def layout_of(batch: int, rows: int, blocks: int, size: int, units: int, of_parts: int = 0) -> Layout:
    """The layout for `size` sums in each of `blocks` tiles.

    Shapes alone decide, so that sums are reproducible.  rows: of a tile, whose multiple a part has.  units: of a tile.
    of_parts: counters for each part, which come before those of the tiles.
    """
    splits, rows = split(batch, rows, blocks, size, units)
    groups = triton.cdiv(splits, reduction.GROUP.value)
    arrivals = reduction.OTHERS.value + of_parts * splits + blocks * (1 + groups)
    return Layout(blocks * splits, splits, rows, blocks * (splits + groups) * size, arrivals)


def split(batch: int, rows: int, blocks: int, size: int, units: int) -> tuple[int, int]:
    """The number of parts that the batch is split into, and the rows of each; arguments as in `layout_of`.

    More parts are no faster than those of which a program takes as long as the last one takes to add up its groups.
    """
    if blocks == 0:
        return 1, rows
    most = max(1, int(sqrt(_CLOCKS_OF_PAIR * batch * units * reduction.GROUP.value * _NUMBERS_IN_CLOCK / size)))
    most = min(most, max(1, _PROGRAMS // blocks), max(1, _PARTIAL_BYTES // (4 * blocks * size)))
    splits = min(most, triton.cdiv(batch, 4 * rows))
    rows_per_split = triton.cdiv(triton.cdiv(batch, splits), rows) * rows
    return triton.cdiv(batch, rows_per_split), rows_per_split


_zeroed: dict[tuple[torch.device, int], Tensor] = {}


def counters(device: torch.device, count: int, stream: int | None = None) -> Tensor:
    """Zeros to count arrivals with, which every launch leaves as zeros.

    One set serves all launches of a stream, because they come one after the other.  stream: the device's current one,
    where it is known.
    """
    if stream is None:
        stream = current_stream(-1 if device.index is None else device.index)
    if stream and torch.cuda.is_current_stream_capturing():
        # A graph owns its memory, and may be gone before the next launch.
        return torch.zeros(count, dtype=torch.int32, device=device)
    known = _zeroed.get((device, stream))
    if known is None or known.numel() < count:
        known = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
        if not is_of_a_pool(known):
            _zeroed[device, stream] = known
    return known


def is_of_a_pool(tensor: Tensor) -> bool:
    """Whether a tensor's memory belongs to a CUDA graph, which may hand it out anew while the tensor is there.

    torch.compile's graphs do so after the calls that prepare them.
    """
    if tensor.device.type != "cuda":
        return False
    if torch.cuda.is_current_stream_capturing():
        return True
    if torch.cuda.get_allocator_backend() != "native":
        return False
    return pool_of(tensor.data_ptr(), torch.cuda.memory_snapshot()) != _SHARED_POOL


_SHARED_POOL = (0, 0)


def pool_of(address: int, segments: Iterable[Mapping[str, Any]]) -> tuple[int, int] | None:
    """The pool that owns an address, by the segments of `torch.cuda.memory_snapshot`.

    >>> pool_of(24, [{"address": 16, "total_size": 16, "segment_pool_id": (0, 1)}])
    (0, 1)
    """
    for segment in segments:
        if 0 <= address - segment["address"] < segment["total_size"]:
            first, second = segment["segment_pool_id"]
            return first, second
    return None


def forget_counters() -> None:
    """Drop all counters, after a launch that failed and may have left other numbers than zeros."""
    _zeroed.clear()


def _chunks(batch: int, W: Tensor) -> range:
    rows = max(256, _CHUNK_BYTES // (W.shape[0] * W.element_size()) // 128 * 128)
    return range(0, batch, rows)


def _wide_forward(mode: Mode, rows: Tensor, parameters: Parameters, bias: Tensor | None, out: Tensor) -> None:
    W, *vectors = parameters
    h, tiles, chunks = W.shape[0], configuration.wide_options("forward"), _chunks(len(rows), W)
    with torch.autocast(rows.device.type, enabled=False):
        for start in chunks:
            u = rows[start : start + chunks.step] @ W.T
            grid = (triton.cdiv(len(u), tiles["BM"]), triton.cdiv(h, tiles["BH"]))
            launch(wide.forward, grid, (u, *vectors, len(u), h), mode.constants() | tiles)
            torch.mm(u, W, out=out[start : start + chunks.step])
        if bias is not None:
            out += bias


def _wide_backward(mode: Mode, g: Tensor, x: Tensor, parameters: Parameters, into: Gradients) -> None:
    W, *vectors = parameters
    h, tiles, chunks = W.shape[0], configuration.wide_options("backward"), _chunks(len(x), W)
    longest = min(chunks.step, len(x))
    rows_per_split = triton.cdiv(triton.cdiv(longest, 16), tiles["BM"]) * tiles["BM"]
    splits = triton.cdiv(longest, rows_per_split)
    sums = torch.zeros(splits, into.count(h), h, dtype=torch.float32, device=x.device)
    dW = None if into.W is None else torch.zeros(W.shape, dtype=torch.float32, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        for start in chunks:
            part = slice(start, start + chunks.step)
            u, a = x[part] @ W.T, g[part] @ W.T
            grid = (triton.cdiv(len(u), rows_per_split), triton.cdiv(h, tiles["BH"]))
            arguments = (u, a, *vectors, sums, len(u), h, rows_per_split)
            launch(wide.backward, grid, arguments, mode.constants() | into.flags() | tiles)
            if into.x is not None:
                torch.mm(a, W, out=into.x.view(-1, W.shape[1])[part])
            if dW is not None:
                dW += u.T @ g[part]
                dW += a.T @ x[part]
        if into.W is not None and dW is not None:
            into.W.copy_(dW)
        if into.vectors is not None:
            into.vectors.view(-1, h).copy_(sums.sum(0))
        if into.bias is not None:
            into.bias.copy_(g.sum(0, dtype=torch.float32))
