"""How long instructions occupy the units of a multiprocessor.

Everything is counted for one warp: of a unit that each scheduler has for itself, clocks that the warp keeps it; of one
that the four schedulers share, four times its clocks, so that all can be compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from bench.model.chips import INTEGER_LANES, LANES, SCHEDULERS, SHARED_BYTES, SPECIAL_LANES, Chip
from bench.model.sass import Instruction

PIPES = ("issue", "float", "integer", "special", "matrix", "shared", "cache")
"""issue: of instructions.  shared: shared memory, with shuffles.  cache: bytes from and to the second-level cache."""

_FLOAT = {"FFMA", "FADD", "FMUL", "FFMA2", "FADD2", "FMUL2", "IMAD", "HFMA2", "FSWZADD"}
_TWOFOLD = {"FFMA2", "FADD2", "FMUL2"}
_SPECIAL = {"MUFU", "POPC", "FLO", "I2F", "F2I", "I2FP"}
_INTEGER = {
    *(
        "FSEL",
        "FSETP",
        "FSET",
        "FMNMX",
        "FCHK",
        "LOP3",
        "PLOP3",
        "IADD3",
        "IADD",
        "IABS",
        "IMNMX",
        "ISETP",
        "SEL",
        "LEA",
    ),
    *("SHF", "PRMT", "SGXT", "BMSK", "F2FP", "F2F", "VIADD", "VIMNMX", "LOP", "SHL", "SHR", "FMNMX3", "VIADDMNMX"),
}
_GLOBAL = {"LDG", "STG", "LDGSTS", "RED", "ATOMG"}
_LOADS, _VECTORS = {"LDG", "LDS"}, "cascade.py"
"""Loads of a cascade's vectors are the same for all rows, and so for most lanes and warps: one pass for a warp."""
_SHARED = {"LDS", "STS", "SHFL", "LDSM", "STSM", "ATOMS"}
_WARP_GROUP, _OF_WARPS, _TENSOR_MEMORY = "HGMMA", "HMMA", "UTCHMMA"
MATRIX = (_WARP_GROUP, _OF_WARPS, _TENSOR_MEMORY)
_ROW_BYTES = 32
"""Of a matrix in shared memory that one product of a warp group reads of each row or column."""


def shape(instruction: Instruction) -> tuple[int, int, int] | None:
    """M, N and K of a product of a warp group or of a warp.

    >>> shape(Instruction(0, "HGMMA.64x32x16.F32.BF16")), shape(Instruction(0, "HMMA.16816.F32.BF16"))
    ((64, 32, 16), (16, 8, 16))
    """
    if instruction.family == _WARP_GROUP:
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", instruction.modifiers[0])
        return (int(found[1]), int(found[2]), int(found[3])) if found else None
    if instruction.family == _OF_WARPS:
        found = re.fullmatch(r"(16)(8)(\d+)", instruction.modifiers[0])
        return (int(found[1]), int(found[2]), int(found[3])) if found else None
    return None


def reads_shared(instruction: Instruction) -> bool:
    """Whether the left factor of a warp group's product comes from shared memory, as the right one does.

    >>> reads_shared(Instruction(0, "HGMMA.64x64x16.F32.BF16", "R24, gdesc[UR8], R24"))
    True
    >>> reads_shared(Instruction(0, "HGMMA.64x64x16.F32.BF16", "R24, R88, gdesc[UR8], R24"))
    False
    """
    operands = instruction.operands.split(", ")
    return len(operands) > 1 and operands[1].startswith("gdesc")


def moved(instruction: Instruction) -> int:
    """Bytes that a lane moves by a load or a store.

    >>> moved(Instruction(0, "LDG.E.128")), moved(Instruction(0, "LDS.U16")), moved(Instruction(0, "STS"))
    (16, 2, 4)
    """
    sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1, "M88": 4, "MT88": 4}
    found = next((sizes[word] for word in reversed(instruction.modifiers) if word in sizes), 4)
    if instruction.family in ("LDSM", "STSM"):
        last = instruction.name.rpartition(".")[2]
        return 4 * int(last) if last.isdigit() else 4
    return found


def multiply_adds(instruction: Instruction) -> int:
    """Of a warp's part of a product: a quarter of a warp group's."""
    size = shape(instruction)
    if size is None:
        return 0
    m, n, k = size
    return m * n * k // (SCHEDULERS if instruction.family == _WARP_GROUP else 1)


def matrix_clocks(instruction: Instruction, chip: Chip) -> float:
    """Clocks of a scheduler's matrix unit; 0 for products from tensor memory, which do not tell their size."""
    is_single = ".TF32" in instruction.name
    rate = chip.matrix["tf32" if is_single else "half"] / SCHEDULERS
    return multiply_adds(instruction) / (rate * (chip.by_warps if instruction.family == _OF_WARPS else 1.0))


def clocks(instruction: Instruction, chip: Chip) -> dict[str, float]:
    """What one instruction of a warp takes of each unit."""
    found = {"issue": 1.0}
    if instruction.off:
        return found
    family = instruction.family
    if family in _FLOAT:
        found["float"] = LANES * SCHEDULERS / chip.float_lanes * (2 if family in _TWOFOLD else 1)
    elif family in _INTEGER:
        found["integer"] = LANES * SCHEDULERS / INTEGER_LANES
    elif family in _SPECIAL:
        found["special"] = LANES * SCHEDULERS / SPECIAL_LANES
    elif family in MATRIX:
        found["matrix"] = matrix_clocks(instruction, chip)
        size = shape(instruction)
        if family == _WARP_GROUP and size is not None:
            # Each of the group's four warps has a quarter of the group's reads, and shared clocks count fourfold.
            found["shared"] = _ROW_BYTES * (size[1] + size[0] * reads_shared(instruction)) / SHARED_BYTES
    elif family in _SHARED or family in _GLOBAL:
        is_vector = family in _LOADS and instruction.file == _VECTORS
        found["shared"] = SCHEDULERS * (1.0 if is_vector else max(1.0, LANES * moved(instruction) / SHARED_BYTES))
        if family in _GLOBAL and not is_vector:
            found["cache"] = SCHEDULERS * LANES * moved(instruction) / chip.cache_bytes
    return found


def total(instructions: Iterable[Instruction], chip: Chip) -> dict[str, float]:
    """What instructions take of each unit together."""
    found = dict.fromkeys(PIPES, 0.0)
    for instruction in instructions:
        for pipe, amount in clocks(instruction, chip).items():
            found[pipe] += amount
    return found


def families(instructions: Iterable[Instruction]) -> Counter[str]:
    """How often each instruction occurs, by its name without modifiers."""
    return Counter(instruction.family for instruction in instructions)
