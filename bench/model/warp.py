"""How long one warp takes alone: its instructions in order, each after what it waits for.

Machine code says by itself what an instruction waits for: a fixed number of clocks after the one before (its stall),
and any of six barriers, which open when a load, a special function or the like is done.  Copies to shared memory and
products of warp groups are waited for by instructions of their own, which name how many groups may still be under way.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.model import pipes
from bench.model.chips import WAIT, Chip
from bench.model.sass import Instruction, Section

_TURNS = 4
"""Of a loop that are followed, of which the last counts."""

_LOADS = {"LDG", "ATOMG", "ATOM", "LD"}


@dataclass
class Warp:
    """A warp on its way through its instructions, alone on its scheduler.

    Attributes:
        chip: the architecture.
        tensor: clocks of each product from tensor memory.
        far: whether loads come from the memory, not from the second-level cache.
        now: the clock.
        waited: clocks that it stood still, by what for: "loads", "matrix", "barrier", "result".
    """

    chip: Chip
    tensor: float = 0.0
    far: bool = False
    now: float = 0.0
    waited: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._open: dict[int, tuple[float, str]] = {}
        self._busy: dict[str, float] = {}
        self._copies: deque[float] = deque()
        self._copying = 0.0
        self._products: deque[float] = deque()

    def run(self, instructions: Sequence[Instruction]) -> None:
        """Goes through them once."""
        for instruction in instructions:
            self._step(instruction)

    def _step(self, instruction: Instruction) -> None:
        for barrier in instruction.waits:
            until, why = self._open.get(barrier, (0.0, "result"))
            self._wait(until, why)
        taken = pipes.clocks(instruction, self.chip)
        if instruction.family == pipes.MATRIX[2]:
            taken["matrix"] = self.tensor
        if not instruction.off:
            self._special(instruction)
        start = self.now
        asynchronous = instruction.family in (pipes.MATRIX[0], pipes.MATRIX[2])
        for pipe, amount in taken.items():
            if pipe in ("issue", "cache") or (asynchronous and pipe == "shared"):
                continue
            begin = max(start, self._busy.get(pipe, 0.0))
            if not asynchronous:
                self._wait(begin, "result")
            self._busy[pipe] = begin + amount
        self._answer(instruction)
        self.now += max(1, instruction.stall)

    def _wait(self, until: float, why: str) -> None:
        if until > self.now:
            self.waited[why] += round(until - self.now)
            self.now = until

    def _special(self, instruction: Instruction) -> None:
        """Waits that have instructions of their own."""
        name = instruction.name
        if instruction.family == "LDGSTS":
            self._copying = max(self._copying, self.now + self._load)
        elif instruction.family == "LDGDEPBAR":
            self._copies.append(self._copying)
        elif name.startswith("DEPBAR"):
            self._until(self._copies, pending(instruction), "loads")
        elif name.startswith("WARPGROUP.DEPBAR"):
            self._until(self._products, pending(instruction), "matrix")
        elif instruction.family == "SYNCS" and "PHASECHK" in name:
            self._until(self._products, 0, "matrix")
        elif instruction.family == "BAR":
            self._wait(self.now + WAIT["barrier"], "barrier")
        elif instruction.family in ("MEMBAR", "FENCE", "ERRBAR"):
            self._wait(self.now + WAIT["fence"], "barrier")

    @property
    def _load(self) -> float:
        return self.chip.memory_wait if self.far else self.chip.cache_wait

    def _until(self, groups: deque[float], pending: int, why: str) -> None:
        while len(groups) > pending:
            self._wait(groups.popleft(), why)

    def _answer(self, instruction: Instruction) -> None:
        """Notes when the result is there."""
        family = instruction.family
        if family == pipes.MATRIX[0] and "gsb0" in instruction.operands:
            self._products.append(self._busy["matrix"] + self.chip.matrix_wait)
        elif family == "UTCBAR":
            self._products.append(self._busy.get("matrix", self.now) + self.chip.matrix_wait)
        if instruction.sets is not None:
            why = "loads" if family in _LOADS else "result"
            self._open[instruction.sets] = (self.now + self._latency(family), why)
        if instruction.frees is not None:
            self._open[instruction.frees] = (self.now + WAIT["other"], "result")

    def _latency(self, family: str) -> float:
        if family in _LOADS:
            return self._load
        if family == pipes.MATRIX[1]:
            return self.chip.matrix_wait
        if family in ("LDS", "LDSM", "ATOMS"):
            return WAIT["shared"]
        return WAIT["special" if family == "MUFU" else "shuffle" if family == "SHFL" else "other"]


def pending(instruction: Instruction) -> int:
    """How many groups a wait leaves under way.

    >>> pending(Instruction(0, "DEPBAR.LE", "SB0, 0x2")), pending(Instruction(0, "WARPGROUP.DEPBAR.LE", "gsb0, 0x0"))
    (2, 0)
    """
    found = re.search(r", (0x[0-9a-f]+)", instruction.operands)
    return int(found[1], 16) if found else 0


@dataclass(frozen=True)
class Alone:
    """What one warp takes alone, in clocks.

    Attributes:
        before, turn, after: of a program's section before its loop, of a turn of that, and of the section after it.
        waited: clocks of a turn in which it stood still, by what for.
    """

    before: float
    turn: float
    after: float
    waited: dict[str, int]


def alone(section: Section, chip: Chip, tensor: float = 0.0) -> Alone:
    """One warp through a program; tensor: clocks of each of its products from tensor memory."""
    warp = Warp(chip, tensor, far=True)
    warp.run(section.before)
    before, warp.far = warp.now, False
    marks = []
    for _ in range(_TURNS):
        marks.append(warp.now)
        warp.waited.clear()
        warp.run(section.loop)
    waited, end = dict(warp.waited), warp.now
    warp.run(section.after)
    return Alone(before, end - marks[-1], warp.now - end, waited)


def prefetched(section: Section) -> float | None:
    """How many turns ahead a loop's copies are issued; None if it has none, 0 if nothing is prefetched.

    The fewest groups that a wait leaves under way, over the groups of a turn.
    """
    groups = sum(i.family == "LDGDEPBAR" for i in section.loop)
    left = [pending(i) for i in section.loop if i.name.startswith("DEPBAR") and "SB" in i.operands]
    return min(left) / groups if groups and left else None


def shared(least: float, alone: float, warps: float) -> float:
    """Clocks of a scheduler for a warp, where `warps` share it: D + (S − D) / N, never less than D.

    >>> shared(100.0, 500.0, 4.0), shared(100.0, 80.0, 4.0)
    (200.0, 100.0)
    """
    return least + max(0.0, alone - least) / max(1.0, warps)
