"""Global and shared memory that notices faulty accesses.

Global memory orders accesses by what happens before what: within a program by its barriers, between programs by atomic
operations that release and acquire.  Shared memory holds every pair of warps to a barrier between their accesses.
Accesses are arrays, one number for each thread.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_INSIDE, _FILLED = 1, 2
_GUARD = 256


class FaultError(Exception):
    """What a launch must not do, and after which it cannot go on."""


@dataclass
class Findings:
    """What is wrong, and how often; what says where comes with the first of a kind."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Note a finding."""
        self.counts[kind] += count
        self.first.setdefault(kind, where)


@dataclass(frozen=True)
class Accessors:
    """Which threads access memory: for each its program, the warp there, and how many barriers the program has passed.

    line: of the instruction.
    """

    program: Array
    warp: Array
    epoch: Array
    line: int

    def repeated(self, count: int) -> Accessors:
        """The same for accesses of several words."""
        program, warp, epoch = (np.repeat(a, count) for a in (self.program, self.warp, self.epoch))
        return Accessors(program, warp, epoch, self.line)


def words(at: Array, size: int, grain: int) -> Array:
    """The words of `grain` bytes in accesses of `size` bytes each."""
    count = max(1, size // grain)
    return (at[:, None] // grain + np.arange(count)).ravel()


class Global:
    """All tensors of a launch, one after the other, with gaps between them, and who accessed what."""

    def __init__(self, sizes: list[int], grain: int, programs: int, warps: int, findings: Findings) -> None:
        self.bases = np.cumsum([_GUARD, *(-(-size // _GUARD) * _GUARD + _GUARD for size in sizes)])
        self.bytes = np.zeros(int(self.bases[-1]), np.uint8)
        self.grain, self.warps, self.findings = grain, warps, findings
        count = len(self.bytes) // grain
        self.state = np.zeros(count, np.uint8)
        self.writer = np.full(count, -1, np.int32)
        self.written, self.writing_warp = np.zeros(count, np.int32), np.zeros(count, np.int32)
        self.reads = np.zeros((programs * warps, count), np.int32)
        self.row_program = np.repeat(np.arange(programs), warps)
        self.row_warp = np.tile(np.arange(warps), programs)
        self.known = np.zeros((programs, programs), np.int64)
        self.promised: dict[int, Array] = {}
        self.released: dict[int, Array] = {}

    def permit(self, tensor: int, elements: Array, size: int, filled: Array | None) -> None:
        """Let the elements of a tensor, at these bytes of its memory, be accessed; filled: those that were written."""
        at = words(self.bases[tensor] + elements, size, self.grain)
        self.state[at] = _INSIDE
        full = at if filled is None else at[np.repeat(filled, max(1, size // self.grain))]
        self.state[full] |= _FILLED

    def _found(self, address: Array, size: int, who: Accessors, what: str) -> Array:
        """The words of accesses, which must be in tensors and aligned."""
        at = address.astype(np.int64)
        if at.size and (at.min() < 0 or at.max() + size > len(self.bytes)):
            raise FaultError(f"line {who.line}: {what} out of bounds, far from every tensor")
        found = words(at, size, self.grain)
        if not self.state[found].all():
            wrong = int(np.flatnonzero(self.state[found] == 0)[0]) // max(1, size // self.grain)
            tensor = int(np.searchsorted(self.bases, at[wrong], "right")) - 1
            place = f"{at[wrong] - self.bases[max(tensor, 0)]} bytes from the beginning of tensor {tensor}"
            raise FaultError(f"line {who.line}: {what} out of bounds: program {who.program[wrong]}, {place}")
        if (at % size).any():
            raise FaultError(f"line {who.line}: misaligned {what} of {size} bytes")
        return found

    def load(self, address: Array, width: int, count: int, who: Accessors) -> list[Array]:
        """Numbers of `width` bytes, `count` of them for each thread."""
        found = self._found(address, width * count, who, "load")
        each = who.repeated(len(found) // max(1, len(address)))
        if not (self.state[found] & _FILLED).all():
            self.findings.add("read of memory that nobody has written", f"line {who.line}")
        self._race_with_write(found, each, "read")
        self.reads[each.program * self.warps + each.warp, found] = each.epoch + 1
        view = self.bytes.view(f"u{width}")
        at = address.astype(np.int64) // width
        return [view[at + i] for i in range(count)]

    def store(self, address: Array, values: list[Array], who: Accessors) -> None:
        """Store numbers, several for each thread."""
        width = values[0].itemsize
        found = self._found(address, width * len(values), who, "store")
        each = who.repeated(len(found) // max(1, len(address)))
        self._race_with_write(found, each, "write")
        self._race_with_reads(found, each)
        self.writer[found], self.written[found], self.writing_warp[found] = each.program, each.epoch, each.warp
        lost = (self.writer[found] != each.program) | (self.writing_warp[found] != each.warp)
        view, at = self.bytes.view(f"u{width}"), address.astype(np.int64) // width
        for i, value in enumerate(values):
            view[at + i] = value
        if lost.any() and any((view[at + i] != value).any() for i, value in enumerate(values)):
            self.findings.add("race in global memory: two threads store other numbers at once", f"line {who.line}")
        self.state[found] |= _FILLED
        for word in self.released.keys() & set(found.tolist()) if self.released else ():
            del self.released[word]

    def _race_with_write(self, found: Array, who: Accessors, what: str) -> None:
        writer = self.writer[found]
        unordered = self.written[found] >= self.known[who.program, np.maximum(writer, 0)]
        bad = (writer >= 0) & (writer != who.program) & unordered
        bad |= (writer == who.program) & (self.written[found] == who.epoch) & (self.writing_warp[found] != who.warp)
        self._report(bad, found, who, f"{what} after write", writer)

    def _race_with_reads(self, found: Array, who: Accessors) -> None:
        reads = self.reads[:, found]
        if not reads.any():
            return
        own = self.row_program[:, None] == who.program
        limit = np.where(own, who.epoch, self.known[who.program].T[self.row_program])
        limit[own & (self.row_warp[:, None] == who.warp)] = END_OF_TIME
        bad = reads > limit
        self._report(np.any(bad, axis=0), found, who, "write after read", self.row_program[bad.argmax(0)])

    def _report(self, bad: Array, found: Array, who: Accessors, what: str, other: Array) -> None:
        if bad.any():
            first = int(bad.argmax())
            tensor = int(np.searchsorted(self.bases, found[first] * self.grain, "right")) - 1
            pair = f"programs {other[first]} and {who.program[first]}"
            where = f"line {who.line}, tensor {tensor}, {pair}"
            self.findings.add(f"race in global memory: {what}", where, int(bad.sum()))

    def atomic(self, address: Array, operation: str, values: Array | None, order: str, who: Accessors) -> Array:
        """What was there before each thread's operation; `values` None is a load."""
        width = 4
        found = self._found(address, width, who, "atomic operation")
        view, at, old = self.bytes.view(np.uint32), address.astype(np.int64) // width, np.zeros(len(address), np.uint32)
        per = max(1, width // self.grain)
        self._race_with_write(found, who.repeated(per), "atomic operation")
        for i in range(len(address)):
            word, program, epoch = int(found[per * i]), int(who.program[i]), int(who.epoch[i])
            old[i] = view[at[i]]
            if "acq" in order and word in self.released:
                promised = self.promised.setdefault(program, np.zeros(len(self.known), np.int64))
                np.maximum(promised, self.released[word], out=promised)
            if values is None:
                continue
            view[at[i]] = values[i] if operation == "exch" else old[i] + values[i]
            self.reads[program * self.warps + who.warp[i], word] = epoch
            if "rel" in order and "relaxed" not in order:
                mine = self.known[program].copy()
                mine[program] = epoch
                self.released[word] = np.maximum(self.released.get(word, mine), mine)
        return old

    def barrier(self, program: int) -> None:
        """What one thread of a program has acquired counts for all of them."""
        if program in self.promised:
            np.maximum(self.known[program], self.promised.pop(program), out=self.known[program])


END_OF_TIME = np.iinfo(np.int64).max
STORED, COPIED = 1, 2
"""How a word was written that no fence has shown to asynchronous products since."""


class Shared:
    """The shared memory of several programs side by side."""

    def __init__(self, places: int, size: int, grain: int, warps: int, findings: Findings) -> None:
        self.size = -(-max(size, 16) // 16) * 16
        self.grain, self.warps, self.findings = grain, warps, findings
        self.bytes = np.zeros(places * self.size, np.uint8)
        count = len(self.bytes) // grain
        self.write = np.full(count, -1, np.int64)
        self.reads = np.full((warps, count), -1, np.int64)
        self.filled, self.in_flight = np.zeros(count, bool), np.zeros(count, bool)
        self.unfenced = np.zeros(count, np.uint8)
        self.held = np.zeros(count, np.int32)

    def clear(self) -> None:
        """Forget everything, for other programs."""
        self.bytes[:] = 0
        self.write[:] = self.reads[:] = -1
        self.filled[:] = self.in_flight[:] = False
        self.unfenced[:] = 0
        self.held[:] = 0

    def _found(self, address: Array, place: Array, size: int, line: int) -> Array:
        at = address.astype(np.int64)
        if at.size and at.max() + size > self.size:
            raise FaultError(f"line {line}: access out of bounds of shared memory: byte {at.max()} of {self.size}")
        if (at % size).any():
            raise FaultError(f"line {line}: misaligned access of {size} bytes to shared memory")
        return at + place * self.size

    def load(self, address: Array, place: Array, width: int, count: int, who: Accessors) -> list[Array]:
        """Numbers of `width` bytes, `count` of them for each thread; place: which of the programs side by side."""
        at = self._found(address, place, width * count, who.line)
        found = words(at, width * count, self.grain)
        self.note_read(found, who.repeated(len(found) // max(1, len(at))))
        view = self.bytes.view(f"u{width}")
        return [view[at // width + i] for i in range(count)]

    def note_read(self, found: Array, who: Accessors) -> None:
        """Check reads of words, and remember them."""
        if self.in_flight[found].any():
            self.findings.add("read of shared memory before the copy into it was waited for", f"line {who.line}")
        if not self.filled[found].all():
            self.findings.add("read of shared memory that nobody has written", f"line {who.line}")
        self._race(found, who, "read after write")
        self.reads[who.warp, found] = who.epoch

    def store(self, address: Array, place: Array, values: list[Array], who: Accessors) -> None:
        """Store numbers, several for each thread."""
        width, each = values[0].itemsize, len(values)
        at = self._found(address, place, width * each, who.line)
        found = words(at, width * each, self.grain)
        lost = self.note_write(found, who.repeated(len(found) // max(1, len(at))))
        view, at = self.bytes.view(f"u{width}"), at // width
        for i, value in enumerate(values):
            view[at + i] = value
        if lost and any((view[at + i] != value).any() for i, value in enumerate(values)):
            self.findings.add("race in shared memory: two threads store other numbers at once", f"line {who.line}")
        self.filled[found] = True

    def note_write(self, found: Array, who: Accessors) -> bool:
        """Check writes to words, and remember them; returns whether several warps write one word at once."""
        if self.held[found].any():
            self.findings.add("shared memory is refilled while an asynchronous product reads it", f"line {who.line}")
        self._race(found, who, "write after write")
        others = (self.reads[:, found] == who.epoch) & (np.arange(self.warps)[:, None] != who.warp)
        if others.any():
            where = f"line {who.line}, program {who.program[int(others.any(0).argmax())]}"
            self.findings.add("race in shared memory: write after read", where, int(others.sum()))
        stamp = who.epoch * self.warps + who.warp
        self.write[found] = stamp
        self.unfenced[found] = STORED
        return bool((self.write[found] != stamp).any())

    def _race(self, found: Array, who: Accessors, what: str) -> None:
        write = self.write[found]
        bad = (write // self.warps == who.epoch) & (write % self.warps != who.warp)
        if bad.any():
            where = f"line {who.line}, program {who.program[int(bad.argmax())]}"
            self.findings.add(f"race in shared memory: {what}", where, int(bad.sum()))
