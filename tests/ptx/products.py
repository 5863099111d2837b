"""Matrix products of a warp, and those of four warps that run on while the program goes on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .instructions import TYPES, Bound, Mask, halves, rounded_tf32, rule, widened
from .memory import COPIED, STORED, Array
from .program import Instruction

if TYPE_CHECKING:
    from .machine import Core

_U4, _F4, _F8 = TYPES["u32"], TYPES["f32"], TYPES["f64"]
_ROW, _COLUMN = np.arange(32) >> 2, np.arange(32) & 3


def _left(registers: list[Array], kind: str) -> Array:
    """The (16, k) matrix of each warp that its threads hold in registers."""
    warps = len(registers[0]) // 32
    matrix = np.zeros((warps, 16, 8 if kind == "tf32" else 16))
    for i, register in enumerate(registers):
        rows, right = _ROW + 8 * (i & 1), i >> 1
        if kind == "tf32":
            matrix[:, rows, _COLUMN + 4 * right] = rounded_tf32(register).reshape(warps, 32)
            continue
        for half, part in enumerate(halves(register, kind)):
            matrix[:, rows, 2 * _COLUMN + half + 8 * right] = part.reshape(warps, 32)
    return matrix


def _right(registers: list[Array], kind: str) -> Array:
    """The (k, 8) matrix of each warp."""
    warps = len(registers[0]) // 32
    matrix = np.zeros((warps, 8 if kind == "tf32" else 16, 8))
    for i, register in enumerate(registers):
        if kind == "tf32":
            matrix[:, _COLUMN + 4 * i, _ROW] = rounded_tf32(register).reshape(warps, 32)
            continue
        for half, part in enumerate(halves(register, kind)):
            matrix[:, 2 * _COLUMN + half + 8 * i, _ROW] = part.reshape(warps, 32)
    return matrix


@rule("mma")
def _product(core: Core, one: Instruction) -> Bound:
    """D = A B + C of a warp; sums are exact here up to one rounding."""
    kind = one.name[-2]
    outs, a, b, c = ([core.whole(name, _U4) for name in core.listed(text)] for text in one.operands)

    def run(mask: Mask) -> None:
        core.whole_warps(mask, one.line)
        product = _left(a, kind) @ _right(b, kind)
        for i, (out, start) in enumerate(zip(outs, c, strict=True)):
            part = product[:, _ROW + 8 * (i >> 1), 2 * _COLUMN + (i & 1)].reshape(-1)
            np.copyto(out.view(_F4), start.view(_F4) + part, where=mask, casting="same_kind")

    return run


@dataclass
class Operand:
    """A matrix in shared memory: of each group of four warps the bytes where its elements begin, and their words."""

    at: Array
    found: Array


@dataclass
class Product:
    """A product under way.

    Attributes:
        instruction: what it is.
        mask: the threads.
        operands: its matrices in shared memory, the right one last.
        left: its left matrix, if it came from registers.
        group: the number of its group.
    """

    instruction: Instruction
    mask: Mask
    operands: list[Operand]
    left: Array | None
    group: int


def _described(core: Core, descriptor: Array, rows: int, k: int, size: int, transposed: bool) -> Operand:
    """The (rows, k) matrix that a descriptor names, for each group of four warps.

    Blocks of 8 rows of `span` bytes, whose 16-byte parts are permuted by the row; `lead` bytes from one block to the
    next along the rows, `stride` to the next 8 of them.
    """
    d = descriptor[::128].astype(np.int64)[:, None, None]
    start, lead, stride = ((d >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    mode = d >> 62 & 3
    span = np.choose(mode, [16, 128, 64, 32])
    row, column = np.arange(rows)[:, None], np.arange(k)
    if transposed:
        per = span // size
        at = start + row // per * lead + column // 8 * stride + column % 8 * span + row % per * size
    else:
        byte = column * size
        at = start + row // 8 * stride + row % 8 * span + byte // span * lead + byte % span
    at = at ^ ((at >> 7 & np.choose(mode, [0, 7, 3, 1])) << 4)
    at = at + core.place[::128, None, None] * core.shared.size
    return Operand(at, at // core.shared.grain)


@rule("wgmma")
def _asynchronous(core: Core, one: Instruction) -> Bound:
    if one.name[1] == "fence":
        return lambda mask: None
    if one.name[1] == "commit_group":
        return lambda mask: core.close_products()
    if one.name[1] == "wait_group":
        left = int(one.operands[0], 0)
        return lambda mask: core.finish_products(left)
    shape = re.fullmatch(r"m64n(\d+)k(\d+)", one.name[4])
    assert shape is not None
    n, k, size = int(shape[1]), int(shape[2]), 4 if one.name[-1] == "tf32" else 2
    held = one.operands[1].startswith("{")
    numbers = [int(text, 0) for text in one.operands[4:]]
    transposed = [bool(flag) for flag in (numbers[2:] if len(numbers) > 2 else [0, 0])]
    registers = [core.whole(name, _U4) for name in core.listed(one.operands[1])] if held else []
    descriptors = [core.whole(text, TYPES["u64"]) for text in (one.operands[2:3] if held else one.operands[1:3])]

    def run(mask: Mask) -> None:
        core.whole_warps(mask, one.line)
        sizes = [n] if held else [64, n]
        flags = transposed[-len(sizes) :]
        of = [_described(core, d, rows, k, size, flag) for d, rows, flag in zip(descriptors, sizes, flags)]
        matrix = _left(registers, one.name[-1]).reshape(-1, 64, k) if held else None
        for operand in of:
            _note_read(core, operand, mask, one.line)
        core.products.append(Product(one, mask, of, matrix, core.product_groups))

    return run


def _note_read(core: Core, operand: Operand, mask: Mask, line: int) -> None:
    """All threads of a group read its matrix, from now until the product is waited for."""
    groups = np.arange(len(operand.found)) if mask is True else np.flatnonzero(mask[::128])
    found = operand.found[groups].reshape(len(groups), -1)
    lanes = 128 * groups
    who = core.who(lanes, line).repeated(found.shape[1])
    core.shared.note_read(found.ravel(), who)
    fresh = core.shared.write[found.ravel()] // core.shared.warps == who.epoch
    if fresh.any():
        core.findings.add("an asynchronous product reads what was stored since the last barrier", f"line {line}")
    for how, word in ((STORED, "stored"), (COPIED, "copied")):
        if (core.shared.unfenced[found] == how).any():
            core.findings.add(f"an asynchronous product reads what was {word} without a fence since", f"line {line}")
    np.add.at(core.shared.held, found.ravel(), 1)


def finish(core: Core, product: Product) -> None:
    """The result of a product, from what is in shared memory now."""
    one, kind = product.instruction, product.instruction.name[-1]
    view = core.shared.bytes.view("u4" if kind == "tf32" else "u2")
    matrices = []
    for operand in product.operands:
        bits = view[operand.at // view.itemsize]
        matrices.append(rounded_tf32(bits) if kind == "tf32" else widened(bits, kind))
        groups = slice(None) if product.mask is True else product.mask[::128]
        np.subtract.at(core.shared.held, operand.found[groups].ravel(), 1)
    left = product.left if product.left is not None else matrices[0]
    total = (left.astype(_F8) @ matrices[-1].astype(_F8).swapaxes(1, 2)).reshape(-1, 16, matrices[-1].shape[1])
    keep = core.whole(one.operands[3], TYPES["pred"])
    for j, name in enumerate(core.listed(one.operands[0])):
        out = core.registers[name].view(_F4)
        part = total[:, _ROW + 8 * ((j >> 1) & 1), 8 * (j >> 2) + 2 * _COLUMN + (j & 1)].reshape(-1)
        np.copyto(out, np.where(keep, out, 0) + part, where=product.mask, casting="same_kind")
