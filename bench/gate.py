"""What a kernel must not do however its programs run, read from what the compiler makes of it.

Two rules that tiles must satisfy besides taking no more than there is; `bench.tiles` passes over those that break them.
`make ptx` checks the same, and much more, by running the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_LOOPS = 4
"""How often a loop is followed: more than there are buffers in a ring."""


def complaint(middle: str, machine: str) -> str | None:
    """What is wrong with a kernel; None if nothing is.

    middle: Triton's text for GPUs.  machine: PTX.
    """
    return _waits_by_place(machine) or _refilled(middle)


def _waits_by_place(machine: str) -> str | None:
    """No program may wait for one that starts later: those that wait must draw their numbers as they start."""
    if re.search(r"\bld\.global\S*\.acquire", machine) and re.search(r"%ctaid", machine):
        return "programs wait for others by their place in the grid, of which some may start later"
    return None


@dataclass
class _Ring:
    """Buffers that are filled in turn.

    Attributes:
        size: how many there are.
        filled: how often one was filled.
        turn: which filling is read.
        read: the indices that this turn was read by.
    """

    size: int
    filled: int = 0
    turn: int = -1
    read: set[str] = field(default_factory=set)


def _refilled(middle: str) -> str | None:
    """No asynchronous product of compute capability 9.0 may read a buffer that is refilled before its wait."""
    rings: dict[str, _Ring] = {}
    of: dict[str, str] = {}
    under_way: list[list[tuple[str, int]]] = []
    for line in _followed(iter(middle.splitlines())):
        target, operation, operands = _parts(line)
        if operation == "ttg.local_alloc" and not operands:
            size = re.search(r"memdesc<(\d+)x", line)
            rings[target] = _Ring(int(size[1]) if size else 1)
        elif operation.startswith("ttg.memdesc_") and operands:
            of[target] = of.get(operands[0], operands[0])
            if operation == "ttg.memdesc_index" and operands[0] in rings and len(operands) > 1:
                _turn(rings[operands[0]], operands[1])
        elif operation in ("ttg.async_copy_global_to_local", "ttg.local_store") and len(operands) > 1:
            name = of.get(operands[1], operands[1])
            ring = rings.setdefault(name, _Ring(1))
            if any(read == name and ring.filled - turn >= ring.size for one in under_way for read, turn in one):
                return f"{name} is refilled while an asynchronous product may read it"
            ring.filled += 1
        elif operation == "ttng.warp_group_dot" and "isAsync = true" in line:
            read = [of.get(name, name) for name in operands[:2]]
            under_way.append([(name, max(rings[name].turn, 0)) for name in read if name in rings])
        elif operation == "ttng.warp_group_dot_wait":
            pending = re.search(r"pendings = (\d+)", line)
            under_way = under_way[len(under_way) - int(pending[1]) :] if pending and int(pending[1]) else []
    return None


def _turn(ring: _Ring, index: str) -> None:
    """Another turn begins when a ring is read by an index again."""
    if index in ring.read or ring.turn < 0:
        ring.turn, ring.read = ring.turn + 1, set()
    ring.read.add(index)


def _parts(line: str) -> tuple[str, str, list[str]]:
    """The result, the operation and the operands of a line."""
    found = re.match(r"\s*(?:(%[\w.$-]+)(?::\d+)?\s*=\s*)?([\w.]+)\s*([^:{]*)", line)
    return (found[1] or "", found[2], re.findall(r"%[\w.$-]+", found[3])) if found else ("", "", [])


def _followed(lines: Iterator[str], times: int = 1) -> Iterator[str]:
    """The lines in the order in which they run, loops several times."""
    inside: list[str] = []
    for line in lines:
        text = re.sub(r"\s*loc\(.*", "", line).rstrip()
        if text.lstrip().startswith("}") and not text.endswith("{"):
            break
        inside.append(text)
        if re.match(r"\s*(?:%\S+(?:\s*=)?\s*)?(?:\S+\s*=\s*)?scf\.(for|while)\b", text) and text.endswith("{"):
            inside.extend(_followed(lines, _LOOPS))
        elif text.endswith("{") and not text.lstrip().startswith("}"):
            inside.extend(_followed(lines))
    for _ in range(times):
        yield from inside
