"""Runs a launch: its programs side by side on cores that take turns at random.

The threads of the programs on a core advance together, block by block, those first that are furthest behind; so that
threads which part meet again.  Cores change turns where programs meet each other: at atomic operations and barriers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import accesses, products
from .instructions import TYPES, Bound, Mask, bind
from .memory import COPIED, Accessors, Array, FaultError, Findings, Global, Shared
from .program import END, Instruction, Program

_PATIENCE = 8
"""How often all programs may ask in vain, one after the other, before they count as waiting for ever."""

_EAGER = 0.8
"""How often programs that have asked in vain let others go first."""


@dataclass(frozen=True)
class Schedule:
    """How programs are run.

    Attributes:
        name: for people.
        cores: how many cores there are.
        places: how many programs a core runs side by side; 0 for all.
        shuffled: whether programs start in a random order.
    """

    name: str
    cores: int
    places: int
    shuffled: bool


class Core:
    """Registers and shared memory of some programs that run side by side."""

    def __init__(self, machine: Machine, places: int) -> None:
        self.machine, self.memory, self.findings = machine, machine.memory, machine.findings
        code, threads = machine.program, machine.threads
        self.places, self.threads = places, threads
        self.lanes = np.arange(places * threads)
        self.place, self.warp = self.lanes // threads, self.lanes % threads // 32
        self.numbers, self.epochs = np.zeros(places, np.int64), np.zeros(places, np.int64)
        self.registers = {name: np.zeros(len(self.lanes), TYPES[kind]) for name, kind in code.registers.items()}
        self.special = {f"%ctaid.{axis}": np.zeros(len(self.lanes), np.uint32) for axis in "xyz"}
        self.special |= {"%tid.x": (self.lanes % threads).astype(np.uint32)}
        self.shared = Shared(places, machine.shared, code.grain, threads // 32, self.findings)
        self.local = np.zeros((len(self.lanes), -(-max(code.local, 8) // 8) * 8), np.uint8)
        self.carry = np.zeros(len(self.lanes), np.uint64)
        self.groups = np.zeros(len(self.lanes), np.int64)
        self.copies: list[accesses.Copy] = []
        self.products: list[products.Product] = []
        self.product_groups = 0
        self.at = np.full(len(self.lanes), END)
        self.asked = np.zeros(places, bool)
        self.answers: dict[int, tuple[int, int]] = {}
        self._bound: dict[int, tuple[list[Bound], Callable[[], Array] | None]] = {}

    def start(self, programs: list[int]) -> None:
        """Run other programs."""
        self.at[:] = np.where(self.place < len(programs), 0, END)
        self.numbers[: len(programs)] = programs
        self.epochs[:], self.groups[:], self.product_groups = 0, 0, 0
        self.asked[:] = False
        self.answers.clear()
        self.shared.clear()
        left = self.numbers[self.place]
        for axis, size in zip("xyz", self.machine.grid):
            self.special[f"%ctaid.{axis}"][:] = left % size
            left = left // size

    @property
    def finished(self) -> bool:
        """Whether no thread has anything left to do."""
        return bool((self.at >= END).all())

    @property
    def stuck(self) -> bool:
        """Whether all programs that are not finished have asked in vain."""
        return not self.finished and bool((self.asked | (self._first() >= END)).all())

    def _first(self) -> Array:
        """For each program where its threads are that are furthest behind."""
        first: Array = self.at.reshape(self.places, -1).min(1)
        return first

    def step(self) -> None:
        """Run the next block of the threads that are furthest behind, of programs that do not only ask again."""
        first = self._first()
        live = first < END
        eager = live & ~self.asked if self.machine.random.random() < _EAGER else live
        block = int(first[eager if eager.any() else live].min())
        mask: Mask = (self.at == block) & np.repeat(first == block, self.threads)
        mask = True if mask.all() else mask
        code = self.machine.program.blocks[block]
        if block not in self._bound:
            self._bound[block] = [bind(self, one) for one in code.instructions], self._branch(code.branch)
        instructions, goes = self._bound[block]
        for run in instructions:
            run(mask)
        if goes is None:
            np.copyto(self.at, code.following, where=mask)
        else:
            np.copyto(self.at, np.where(goes(), code.target, code.following), where=mask)
        if self.finished:
            self.copies.clear()
            self.products.clear()

    def _branch(self, branch: Instruction | None) -> Callable[[], Array] | None:
        """For which threads a branch counts."""
        if branch is None:
            return None
        if not branch.predicate:
            always = np.ones(1, bool)
            return lambda: always
        register = self.registers[branch.predicate]
        return (lambda: ~register) if branch.negated else (lambda: register)

    # What instructions ask for.

    def operand(self, text: str, dtype: np.dtype) -> Array:
        """A register's numbers of a type, or a constant."""
        if text in self.registers or text in self.special:
            found = self.registers[text] if text in self.registers else self.special[text]
            return found if found.dtype == dtype else found.view(dtype)[:: max(1, found.itemsize // dtype.itemsize)]
        return dtype.type(self._constant(text, dtype))

    def _constant(self, text: str, dtype: np.dtype) -> object:
        if text.startswith(("0f", "0d")):
            size = 4 if text[1] == "f" else 8
            bits = np.array([int(text[2:], 16)], f"u{size}")
            return bits[0] if dtype.kind == "u" else bits.view(f"f{size}")[0]
        if text.startswith("%nctaid."):
            return self.machine.grid["xyz".index(text[-1])]
        if text == "%ntid.x":
            return self.threads
        if text == "global_smem" or text.startswith("__local_depot"):
            return 0
        if text in self.machine.constants:
            return self.machine.constants[text]
        value = int(text.rstrip("U"), 0)
        return np.array([value & (2**64 - 1)], np.uint64).view(dtype)[0] if dtype.kind in "iu" else dtype.type(value)

    def whole(self, text: str, dtype: np.dtype) -> Array:
        """An operand as one number for each thread."""
        found = self.operand(text, dtype)
        return found if isinstance(found, np.ndarray) and found.ndim else np.full(len(self.lanes), found, dtype)

    def listed(self, text: str) -> list[str]:
        """The names in braces, or the one without."""
        return [part.strip() for part in text.strip("{} ").split(",")]

    def address(self, text: str) -> Callable[[], Array]:
        """Where an operand in brackets points to."""
        base, _, offset = text.strip("[] ").replace("+-", "+ -").partition("+")
        register = base.strip()
        shift = int(offset, 0) if offset.strip() else 0
        numbers = self.registers.get(register)
        if numbers is None:
            fixed = np.full(len(self.lanes), int(self._constant(register, np.dtype("u8"))) + shift)  # type: ignore[call-overload]
            return lambda: fixed
        return (
            (lambda: numbers + numbers.dtype.type(shift))
            if shift >= 0
            else (lambda: numbers - numbers.dtype.type(-shift))
        )

    def parameter(self, name: str) -> int:
        """A parameter of the launch."""
        return self.machine.parameters[name]

    def active(self, mask: Mask) -> Array:
        """The threads of a mask."""
        return self.lanes if mask is True else np.flatnonzero(mask)

    def who(self, lanes: Array, line: int) -> Accessors:
        """Threads that access memory."""
        place = self.place[lanes]
        return Accessors(self.numbers[place], self.warp[lanes], self.epochs[place], line)

    def whole_warps(self, mask: Mask, line: int) -> None:
        """Instructions of a warp need all its threads."""
        if mask is not True and len(set(mask.reshape(-1, 32).sum(1)) - {0, 32}):
            raise FaultError(f"line {line}: only some threads of a warp reach an instruction of all")

    def ask(self, lanes: Array, addresses: Array, values: Array) -> None:
        """Programs look whether something has changed that they wait for, by one thread each."""
        for lane, address, value in zip(lanes.tolist(), addresses.tolist(), values.tolist()):
            place = lane // self.threads
            self.asked[place] = self.answers.get(place) == (address, value)
            self.answers[place] = address, value

    def fence(self, mask: Mask) -> None:
        """What threads have stored so far may be read by asynchronous products."""
        warps = np.unique(self.place[self.active(mask)] * self.shared.warps + self.warp[self.active(mask)])
        place = np.arange(len(self.shared.write)) * self.shared.grain // self.shared.size
        stored = place * self.shared.warps + self.shared.write % self.shared.warps
        self.shared.unfenced[np.isin(stored, warps)] = 0

    def barrier(self, mask: Mask, line: int) -> None:
        """All threads of each program wait for each other."""
        here = np.ones(self.places, bool)
        if mask is not True:
            counts = mask.reshape(self.places, -1).sum(1)
            here = counts == self.threads
            if (~here & (counts > 0)).any():
                raise FaultError(f"line {line}: only some threads of a program reach a barrier")
        self.epochs[here] += 1
        for number in self.numbers[here]:
            self.memory.barrier(int(number))

    def land(self, mask: Mask, left: int, line: int) -> None:
        """Wait for a thread's copies, but for those of its last groups."""
        waiting = np.zeros(len(self.lanes), bool)
        waiting[self.active(mask)] = True
        kept = []
        for copy in self.copies:
            done = waiting[copy.lanes] & (copy.group < self.groups[copy.lanes] - left)
            if not done.any():
                kept.append(copy)
                continue
            each = len(copy.found) // len(copy.lanes)
            found = copy.found[np.repeat(done, each)]
            self.shared.in_flight[found] = False
            self.shared.filled[found] = True
            self.shared.unfenced[found] = COPIED
            who = self.who(copy.lanes[done], copy.line)
            self.shared.write[found] = np.repeat(who.epoch * self.shared.warps + who.warp, each)
            at = copy.at[done][:, None] // 4 + np.arange(copy.data.shape[1])
            self.shared.bytes.view(np.uint32)[at] = copy.data[done]
            if not done.all():
                rest = ~done
                kept.append(
                    accesses.Copy(
                        *(copy.lanes[rest], copy.group[rest], copy.found[np.repeat(rest, each)]),
                        *(copy.at[rest], copy.data[rest], copy.line),
                    )
                )
        self.copies = kept

    def close_products(self) -> None:
        """The asynchronous products so far are one group."""
        self.product_groups += 1

    def finish_products(self, left: int) -> None:
        """Wait for asynchronous products, but for those of the last groups."""
        for product in [p for p in self.products if p.group < self.product_groups - left]:
            products.finish(self, product)
            self.products.remove(product)


class Machine:
    """A kernel and the memory of one launch."""

    def __init__(
        self,
        program: Program,
        parameters: dict[str, int],
        constants: dict[str, int],
        grid: tuple[int, ...],
        threads: int,
        shared: int,
        memory: Global,
        findings: Findings,
        seed: int,
    ) -> None:
        self.program, self.parameters, self.constants = program, parameters, constants
        self.grid = (*grid, 1, 1)[:3]
        self.threads, self.shared, self.memory, self.findings = threads, shared, memory, findings
        self.random = np.random.default_rng(seed)
        self.cores: list[Core] = []
        self.idle = 0

    def changed(self) -> None:
        """Something has changed for which programs may wait."""
        self.idle = 0
        for core in self.cores:
            core.asked[:] = False

    def run(self, schedule: Schedule) -> None:
        """Run all programs."""
        count = int(np.prod(self.grid))
        waiting = [int(n) for n in (self.random.permutation(count) if schedule.shuffled else np.arange(count))]
        self.cores = [Core(self, schedule.places or count) for _ in range(schedule.cores)]
        with np.errstate(all="ignore"):
            while waiting or not all(core.finished for core in self.cores):
                busy = [core for core in self.cores if waiting or not core.finished]
                able = [core for core in busy if not core.stuck]
                if not able:
                    if self.idle > _PATIENCE:
                        raise FaultError("programs wait for ever: for one that starts later, or for each other")
                    idle = self.idle + 1
                    self.changed()
                    self.idle = idle
                    continue
                core = able[int(self.random.integers(len(able)))]
                if core.finished:
                    core.start([waiting.pop(0) for _ in range(min(core.places, len(waiting)))])
                    self.idle = 0
                core.step()


__all__ = ["Bound", "Core", "Machine", "Schedule"]
