"""Instructions that access memory or wait: loads, stores, atomic operations, copies, barriers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .instructions import TYPES, Bound, Mask, rule
from .memory import Array, words
from .program import Instruction, UnsupportedError

if TYPE_CHECKING:
    from .machine import Core

_U2, _U4 = TYPES["u16"], TYPES["u32"]


@dataclass
class Copy:
    """An asynchronous copy into shared memory that is under way, of many threads.

    Attributes:
        lanes: the threads.
        group: for each the number of its group.
        found: the words of shared memory, those of one thread after the other.
        at: where in shared memory, in bytes.
        data: for each thread the bytes.
        line: of the instruction.
    """

    lanes: Array
    group: Array
    found: Array
    at: Array
    data: Array
    line: int


def _numbers(one: Instruction) -> tuple[int, int]:
    """Bytes and count of what a load or store moves."""
    count = next((int(word[1:]) for word in one.name if word in ("v2", "v4", "v8")), 1)
    return TYPES[one.name[-1]].itemsize, count


@rule("ld")
def _load(core: Core, one: Instruction) -> Bound:
    space, dtype = one.name[1], TYPES[one.name[-1]]
    targets = core.listed(one.operands[0])
    registers = [core.registers[name] for name in targets]
    outs = [r.view(f"{dtype.kind}{r.itemsize}" if dtype.kind in "iu" else r.dtype) for r in registers]
    width, count = _numbers(one)
    if space == "param":
        value = np.array([core.parameter(one.operands[1].strip("[] "))], np.uint64).view(dtype)[0]
        return lambda mask: np.copyto(outs[0], outs[0].dtype.type(value), where=mask)
    address = core.address(one.operands[1])
    polls = "acquire" in one.name or ("relaxed" in one.name and space == "global")

    def run(mask: Mask) -> None:
        lanes = core.active(mask)
        who = core.who(lanes, one.line)
        if polls:
            order = "acquire" if "acquire" in one.name else "relaxed"
            found = [core.memory.atomic(address()[lanes], "add", None, order, who)]
            core.ask(lanes, address()[lanes], found[0])
        elif space == "global":
            found = core.memory.load(address()[lanes], width, count, who)
        elif space == "local":
            at = address()[lanes].astype(np.int64)
            found = [core.local.view(f"u{width}")[lanes, at // width + i] for i in range(count)]
        else:
            found = core.shared.load(address()[lanes], core.place[lanes], width, count, who)
        for out, value in zip(outs, found, strict=True):
            out[lanes] = value.view(dtype) if dtype.kind == "i" else value

    return run


@rule("st")
def _store(core: Core, one: Instruction) -> Bound:
    space, (width, _) = one.name[1], _numbers(one)
    address = core.address(one.operands[0])
    values = [core.whole(text, np.dtype(f"u{width}")) for text in core.listed(one.operands[1])]

    def run(mask: Mask) -> None:
        lanes = core.active(mask)
        numbers = [value[lanes] for value in values]
        if space == "global":
            core.memory.store(address()[lanes], numbers, core.who(lanes, one.line))
        elif space == "local":
            at = address()[lanes].astype(np.int64)
            for i, value in enumerate(numbers):
                core.local.view(f"u{width}")[lanes, at // width + i] = value
        else:
            core.shared.store(address()[lanes], core.place[lanes], numbers, core.who(lanes, one.line))

    return run


@rule("atom", "red")
def _atomic(core: Core, one: Instruction) -> Bound:
    order = next((word for word in one.name if word in ("acq_rel", "acquire", "release", "relaxed")), "relaxed")
    operation = next(word for word in one.name if word in ("add", "exch"))
    if one.name[-1] not in ("u32", "s32", "b32"):
        raise UnsupportedError(f"line {one.line}: an atomic operation of {one.name[-1]}")
    out = core.registers[one.operands[0]] if one.name[0] == "atom" else None
    place, value = one.operands[-2:]
    address, values = core.address(place), core.whole(value, _U4)

    def run(mask: Mask) -> None:
        lanes = core.machine.random.permutation(core.active(mask))
        who = core.who(lanes, one.line)
        old = core.memory.atomic(address()[lanes], operation, values[lanes], order, who)
        core.machine.changed()
        if out is not None:
            out[lanes] = old

    return run


@rule("cp")
def _copy(core: Core, one: Instruction) -> Bound:
    """cp.async and what it is waited for with."""
    if one.name[2] == "commit_group":
        return lambda mask: np.copyto(core.groups, core.groups + 1, where=mask)
    if one.name[2] in ("wait_group", "wait_all"):
        left = int(one.operands[0], 0) if one.operands else 0
        return lambda mask: core.land(mask, left, one.line)
    target, source = core.address(one.operands[0]), core.address(one.operands[1])
    size = int(one.operands[2], 0)
    taken = core.whole(one.operands[3] if len(one.operands) > 3 else str(size), _U4)

    def run(mask: Mask) -> None:
        lanes = core.active(mask)
        who = core.who(lanes, one.line)
        at, data = target()[lanes], np.zeros((len(lanes), size // 4), _U4)
        full = taken[lanes] > 0
        if (taken[lanes][full] != size).any():
            raise UnsupportedError(f"line {one.line}: copies of a part")
        found = core.memory.load(source()[lanes[full]], 4, size // 4, core.who(lanes[full], one.line))
        data[full] = np.stack(found, 1)
        begin = core.shared._found(at, core.place[lanes], size, one.line)
        where = words(begin, size, core.shared.grain)
        core.shared.note_write(where, who.repeated(len(where) // max(1, len(lanes))))
        core.shared.in_flight[where] = True
        core.copies.append(Copy(lanes, core.groups[lanes], where, begin, data, one.line))

    return run


@rule("fence")
def _fence(core: Core, one: Instruction) -> Bound:
    if one.name[1:3] != ("proxy", "async"):
        return lambda mask: None
    return lambda mask: core.fence(mask)


@rule("bar", "barrier")
def _barrier(core: Core, one: Instruction) -> Bound:
    if "warp" in one.name:
        return lambda mask: None
    if one.operands != ("0",):
        raise UnsupportedError(f"line {one.line}: a barrier of some threads")
    return lambda mask: core.barrier(mask, one.line)


@rule("ldmatrix")
def _load_matrix(core: Core, one: Instruction) -> Bound:
    outs = [core.registers[name] for name in core.listed(one.operands[0])]
    address, transposed = core.address(one.operands[1]), "trans" in one.name
    lane = np.arange(32)
    row, column = lane // 4, 2 * (lane % 4)

    def run(mask: Mask) -> None:
        core.whole_warps(mask, one.line)
        warps = core.active(mask).reshape(-1, 32)
        for i, out in enumerate(outs):
            rows = warps[:, 8 * i : 8 * i + 8]
            lanes = rows.ravel()
            parts = core.shared.load(address()[lanes], core.place[lanes], 2, 8, core.who(lanes, one.line))
            matrix = np.stack(parts, 1).reshape(-1, 8, 8).astype(_U4)
            if transposed:
                matrix = matrix.transpose(0, 2, 1)
            out[warps] = matrix[:, row, column] | (matrix[:, row, column + 1] << np.uint32(16))

    return run


@rule("stmatrix")
def _store_matrix(core: Core, one: Instruction) -> Bound:
    address, transposed = core.address(one.operands[0]), "trans" in one.name
    values = [core.registers[name] for name in core.listed(one.operands[1])]
    lane = np.arange(32)
    row, column = lane // 4, 2 * (lane % 4)

    def run(mask: Mask) -> None:
        core.whole_warps(mask, one.line)
        warps = core.active(mask).reshape(-1, 32)
        for i, value in enumerate(values):
            matrix = np.zeros((len(warps), 8, 8), _U2)
            matrix[:, row, column] = (value[warps] & np.uint32(0xFFFF)).astype(_U2)
            matrix[:, row, column + 1] = (value[warps] >> np.uint32(16)).astype(_U2)
            matrix = matrix.transpose(0, 2, 1) if transposed else matrix
            lanes = warps[:, 8 * i : 8 * i + 8].ravel()
            numbers = [matrix.reshape(-1, 8)[:, k].copy() for k in range(8)]
            core.shared.store(address()[lanes], core.place[lanes], numbers, core.who(lanes, one.line))

    return run
