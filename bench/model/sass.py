"""Machine code as `nvdisasm -c -gi -hex` prints it: instructions with their waits, sources and loops."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

import gradnets_fast.kernels
from gradnets_fast.kernels import compiler

KERNELS = Path(gradnets_fast.kernels.__path__[0])

_SOURCE = re.compile(r'//## File "([^"]+)", line (\d+)(?: inlined at "([^"]+)", line (\d+))?')
_LABEL = re.compile(r"^(\.L\w+):")
_INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*);\s*/\* 0x([0-9a-f]{16}) \*/"
)
_SECOND = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
_TARGET = re.compile(r"`\((\.L\w+)\)")

_STALL, _WRITES, _READS, _WAITS = (41, 15), (46, 7), (49, 7), (52, 63)
"""Where the upper 64 bits of an instruction have its control fields, and their masks."""
_NO_BARRIER = 7
_ENDS = ("EXIT", "RET")
_ATOMIC = ("ATOMG", "ATOM", "RED", "REDG")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp.

    Attributes:
        address: in bytes.
        name: with its modifiers, such as "MUFU.TANH".
        operands: as printed.
        off: whether its predicate is never true.
        stall: clocks until the warp's next instruction.
        sets: the one of six barriers that opens when the result is there; None if none does.
        frees: the barrier that opens when its operands have been read.
        waits: the barriers that it waits for.
        frames: (file, line) of the source, from the innermost function out.
    """

    address: int
    name: str
    operands: str = ""
    off: bool = False
    stall: int = 1
    sets: int | None = None
    frees: int | None = None
    waits: tuple[int, ...] = ()
    frames: tuple[tuple[str, int], ...] = ()

    @property
    def file(self) -> str:
        """The name of the file of the innermost function."""
        return Path(self.frames[0][0]).name if self.frames else ""

    @property
    def family(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """What follows the name, dot by dot."""
        return tuple(self.name.split(".")[1:])


@dataclass(frozen=True)
class Loop:
    """A branch back: the addresses of its first and last instruction.

    One across the end of a program is none: it returns from code that was moved out of the way, such as a wait.
    """

    first: int
    last: int

    def holds(self, instruction: Instruction) -> bool:
        """Whether an instruction is inside."""
        return self.first <= instruction.address <= self.last


def disassembled(cubin: bytes) -> str:
    """The listing of a compiled kernel."""
    text: str = compiler.told(cubin, "nvdisasm", "-c", "-gi", "-hex")
    return text


def parsed(text: str) -> tuple[list[Instruction], list[Loop]]:
    """The instructions of a listing, and its loops."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    branches: list[tuple[int, str]] = []
    sources: list[tuple[str, int]] = []
    fresh = True
    pending: re.Match[str] | None = None
    for line in text.splitlines():
        if source := _SOURCE.search(line):
            if fresh:
                sources, fresh = [(source[1], int(source[2]))], False
            if source[3]:
                sources.append((source[3], int(source[4])))
        elif label := _LABEL.match(line):
            waiting.append(label[1])
        elif instruction := _INSTRUCTION.match(line):
            pending, fresh = instruction, True
        elif pending and (second := _SECOND.match(line)):
            made = _instruction(pending, int(second[1], 16), tuple(sources))
            labels |= dict.fromkeys(waiting, made.address)
            waiting, pending = [], None
            found.append(made)
            if made.family == "BRA" and (target := _TARGET.search(made.operands)):
                branches.append((made.address, target[1]))
    loops = [Loop(labels[to], at) for at, to in branches if labels.get(to, at) < at]
    ends = [i for i in found if i.family in _ENDS]
    return found, [loop for loop in loops if not any(map(loop.holds, ends))]


def _instruction(match: re.Match[str], control: int, frames: tuple[tuple[str, int], ...]) -> Instruction:
    def field(place: tuple[int, int]) -> int:
        return control >> place[0] & place[1]

    def barrier(place: tuple[int, int]) -> int | None:
        number = field(place)
        return None if number == _NO_BARRIER else number

    waits = field(_WAITS)
    return Instruction(
        address=int(match[1], 16),
        name=match[3],
        operands=match[4].strip(),
        off=match[2] in ("!PT", "!UPT"),
        stall=field(_STALL),
        sets=barrier(_WRITES),
        frees=barrier(_READS),
        waits=tuple(i for i in range(6) if waits >> i & 1),
        frames=frames,
    )


@lru_cache(maxsize=None)
def _functions(file: str) -> list[tuple[str, int, int]]:
    """The functions of a file of kernels: name, first and last line."""
    path = KERNELS / Path(file).name
    if not path.is_file():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(n.name, n.lineno, n.end_lineno or n.lineno) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]


def program_of(instruction: Instruction) -> str | None:
    """The program that an instruction belongs to: the function that the kernel itself calls; None for the kernel's own.

    Of all files with kernels those of this checkout are read, wherever the machine code was compiled.
    """
    if len(instruction.frames) < 2:
        return None
    file, line = instruction.frames[-2]
    return next((name for name, first, last in _functions(file) if first <= line <= last), None)


@dataclass(frozen=True)
class Section:
    """One program of a kernel: what runs before its main loop, in one turn of it, and after it."""

    before: tuple[Instruction, ...]
    loop: tuple[Instruction, ...]
    after: tuple[Instruction, ...]


def sections(instructions: Sequence[Instruction], loops: Sequence[Loop]) -> Mapping[str, Section]:
    """The programs of a kernel by name, each with the longest of its loops.

    What follows an atomic operation after the loop is left out: there the last program adds up the sums of all.
    """
    own: dict[str, list[Instruction]] = {}
    for instruction in instructions:
        name = program_of(instruction)
        if name is not None:
            own.setdefault(name, []).append(instruction)
    return {name: found for name, mine in own.items() if (found := _section(instructions, mine, loops))}


def longest(instructions: Sequence[Instruction], loops: Sequence[Loop]) -> Section | None:
    """A kernel of one program, with the longest of its loops; None if it has none."""
    return _section(instructions, instructions, loops)


def _section(instructions: Sequence[Instruction], mine: Sequence[Instruction], loops: Sequence[Loop]) -> Section | None:
    counted = {loop: sum(map(loop.holds, mine)) for loop in loops}
    main = max(counted, key=lambda loop: (counted[loop], loop.first - loop.last), default=None)
    if main is None or not counted[main]:
        return None
    before = [i for i in mine if i.address < main.first]
    after = list(takewhile(lambda i: i.family not in _ATOMIC, (i for i in mine if i.address > main.last)))
    return Section(tuple(before), tuple(filter(main.holds, instructions)), tuple(after))
