"""Checks launches: runs each in several schedules, which must agree to the last bit and do nothing forbidden."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compiling import Compiled
from .machine import Machine, Schedule
from .memory import Array, FaultError, Findings, Global
from .program import Program, parsed

TOGETHER = Schedule("all programs in step", 1, 0, False)
ALONE = Schedule("one program after the other", 1, 1, False)
MIXED = Schedule("pairs on two cores, started in a random order", 2, 2, True)
SCHEDULES = (TOGETHER, ALONE, MIXED)

program_of = lru_cache(maxsize=4)(parsed)
"""A kernel's PTX as blocks."""


@dataclass
class Checker:
    """Runs launches, in place of a GPU.

    Attributes:
        schedules: in which each launch is run; the first one's results count.
        findings: what was wrong.
        launches: how many there were; blocks: of them all.
        kernels: their names.
        kept: the launches themselves, as they were before they ran.
    """

    schedules: tuple[Schedule, ...] = SCHEDULES
    seed: int = 0
    findings: Findings = field(default_factory=Findings)
    launches: int = 0
    kernels: set[str] = field(default_factory=set)
    kept: list[Launch] = field(default_factory=list)
    _fresh: dict[int, tuple[Tensor, Array]] = field(default_factory=dict)

    @contextmanager
    def poisoned(self) -> Iterator[None]:
        """torch.empty gives memory that counts as written by nobody, and holds NaN."""
        kept = torch.empty, torch.empty_like
        torch.empty = lambda *a, **k: self._poison(kept[0](*a, **k))
        torch.empty_like = lambda *a, **k: self._poison(kept[1](*a, **k))
        try:
            yield
        finally:
            torch.empty, torch.empty_like = kept
            self._fresh.clear()

    def _poison(self, tensor: Tensor) -> Tensor:
        if tensor.numel():
            memory = bytes_of(tensor)
            memory[:] = 0xFF
            self._fresh[tensor.untyped_storage().data_ptr()] = tensor, np.zeros(len(memory), bool)
        return tensor

    def run(self, compiled: Compiled, grid: tuple[int, ...], arguments: list[Any]) -> None:
        """Run a launch, whose tensors hold the results then."""
        self.launches += 1
        self.kernels.add(compiled.name)
        launch = Launch(compiled, grid, arguments, self._fresh)
        self.kept.append(launch)
        first: Array | None = None
        for number, schedule in enumerate(self.schedules[: 1 if np.prod(grid) == 1 else None]):
            findings = Findings()
            try:
                memory = launch.run(schedule, self.seed + number, findings)
            except FaultError as fault:
                memory = None
                findings.add(str(fault).partition(": ")[2] or str(fault), str(fault))
            for kind, count in findings.counts.items():
                where = f"{compiled.name}, {schedule.name}: {findings.first[kind]}"
                self.findings.add(kind, launch.named(where), count)
            if memory is None:
                break
            if first is None:
                launch.keep(memory)
                first = launch.results(memory)
            elif not np.array_equal(first, launch.results(memory)):
                where = f"{compiled.name}, {schedule.name}: {int((first != launch.results(memory)).sum())} bytes"
                self.findings.add("other bits in another schedule", where)


def bytes_of(tensor: Tensor) -> Array:
    """All bytes of the memory that a tensor is in."""
    return torch.empty_strided((0,), (1,), dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()


class Launch:
    """A launch, to be run several times from the same numbers."""

    def __init__(
        self,
        compiled: Compiled,
        grid: tuple[int, ...],
        arguments: list[Any],
        fresh: dict[int, tuple[Tensor, Array]],
    ) -> None:
        self.compiled, self._grid, self._fresh = compiled, grid, fresh
        self._arguments = arguments
        tensors = [a for a in arguments if isinstance(a, Tensor) and a.numel()]
        pointers = dict.fromkeys(t.untyped_storage().data_ptr() for t in tensors)
        self._places = {pointer: i for i, pointer in enumerate(pointers)}
        self._tensors = tensors
        self._memory = {self._place(t): bytes_of(t).copy() for t in tensors}
        self._filled = {p: fresh[pointer][1].copy() for pointer, p in self._places.items() if pointer in fresh}

    def _place(self, tensor: Tensor) -> int:
        return self._places[tensor.untyped_storage().data_ptr()]

    def run(self, schedule: Schedule, seed: int, findings: Findings, text: str | None = None) -> Global:
        """The memory after all programs have run; text: in place of the kernel's PTX."""
        program = program_of(text or self.compiled.text)
        tables = list(program.constants.values())
        sizes = [len(self._memory[i]) for i in range(len(self._memory))] + [len(table) for table in tables]
        grain = min([t.element_size() for t in self._tensors] + [4])
        programs = int(np.prod(self._grid))
        memory = Global(sizes, grain, programs, self.compiled.threads // 32, findings)
        for place, numbers in self._memory.items():
            begin = memory.bases[place]
            memory.bytes[begin : begin + len(numbers)] = numbers
        for tensor in self._tensors:
            place, at = self._place(tensor), _elements(tensor)
            filled = self._filled[place][at] if place in self._filled else None
            memory.permit(place, at, tensor.element_size(), filled)
        constants = {}
        for i, (name, table) in enumerate(program.constants.items(), len(self._memory)):
            begin = constants[name] = int(memory.bases[i])
            memory.bytes[begin : begin + len(table)] = np.frombuffer(table, np.uint8)
            memory.permit(i, np.arange(0, len(table) // 4 * 4, 4), 4, None)
        machine = Machine(
            *(program, self._parameters(memory, program), constants, self._grid, self.compiled.threads),
            *(self.compiled.shared, memory, findings, seed),
        )
        machine.run(schedule)
        return memory

    def _parameters(self, memory: Global, program: Program) -> dict[str, int]:
        values = []
        for argument in self._arguments:
            if isinstance(argument, Tensor):
                inside = argument.storage_offset() * argument.element_size()
                values.append(int(memory.bases[self._place(argument)]) + inside if argument.numel() else 0)
            else:
                values.append(int(argument) & (2**64 - 1))
        names = list(program.parameters)
        values += [0] * (len(names) - len(values))  # Triton's own scratch memory, of which the kernels take none
        return dict(zip(names, values, strict=True))

    def results(self, memory: Global) -> Array:
        """All bytes but those of what programs keep for themselves, whose tiles depend on the schedule."""
        found = memory.bytes.copy()
        for name, argument in zip(self.compiled.names, self._arguments):
            if name == "memory" and argument.numel():
                place = self._place(argument)
                found[memory.bases[place] : memory.bases[place] + len(self._memory[place])] = 0
        return found

    def keep(self, memory: Global) -> None:
        """Put the results into the tensors."""
        for tensor in self._tensors:
            place, at = self._place(tensor), _elements(tensor)
            begin, pointer = int(memory.bases[place]), tensor.untyped_storage().data_ptr()
            if pointer in self._fresh:
                state = memory.state[(begin + at) // memory.grain]
                self._fresh[pointer][1][at] = state > 1
        for pointer, place in self._places.items():
            tensor = next(t for t in self._tensors if t.untyped_storage().data_ptr() == pointer)
            begin = int(memory.bases[place])
            whole = bytes_of(tensor)
            whole[:] = memory.bytes[begin : begin + len(whole)]

    def named(self, text: str) -> str:
        """A finding with the shape of the tensor that it speaks of."""
        for tensor in self._tensors:
            text = text.replace(f"tensor {self._place(tensor)}", f"tensor {tuple(tensor.shape)} {tensor.dtype}")
        return text


def _elements(tensor: Tensor) -> Array:
    """Where in its memory each element begins, in bytes."""
    at = np.array([tensor.storage_offset()])
    for n, stride in zip(map(int, tensor.shape), map(int, tensor.stride())):
        at = (at[:, None] + np.arange(n if stride else 1) * stride).ravel()
    return at * tensor.element_size()
