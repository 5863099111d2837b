"""The time that a ridge kernel is predicted to take, from its machine code, beside the roofline.

A program of a kernel takes, of each unit, D clocks for each of its warps, and a warp alone takes S clocks from the
first instruction to the last.  With N warps on a scheduler the prediction is

    D + (S − D) / N     clocks for a warp,     D that of the scarcest unit:

the scarcest unit always works for somebody, and what a warp waits besides is shared by those that can run meanwhile.
It is the pessimistic one of the bounds of N customers in a closed network of servers (Zahorjan et al., "Balanced job
bound analysis of queueing networks", 1982), and gives D where N is large and S where N is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.model import pipes, sass, warp
from bench.model.chips import CHIPS, SCHEDULERS, SPECIAL_LANES, Chip, programs
from gradnets_fast.apps.bench.work import products
from gradnets_fast.kernels import configuration
from gradnets_fast.kernels.compiler import Resources

BATCH, HIDDEN = 1 << 20, 1024
"""The size that times are predicted for."""

UNIT = 4096
"""Hidden values, of one hidden unit at one point, that clocks are given for."""

POINTS, WEIGHTS = "points_program", "weights_program"
KERNELS = {
    "narrow.forward": (POINTS,),
    "forward": (POINTS,),
    "narrow.backward": (POINTS, WEIGHTS),
    "backward": (POINTS, WEIGHTS),
}
"""The kernels that the model knows, and their programs that meet every hidden value."""

_FACTORS = {("forward", POINTS): 2, ("backward", POINTS): 3, ("backward", WEIGHTS): 4}
"""Matrix products of d multiply-adds for each hidden value."""

_TENSOR_ROWS = 128
"""Rows of a product from tensor memory: of fewer, the matrix unit does as many at a time."""


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel and the tiles that it was compiled for.

    Attributes:
        kernel: its name in the table.
        architecture, kind, d, layers: what it computes.
        tiles: its tile sizes and launch options.
        cubin: machine code.
        resources: what it takes.
        tensor_columns: of tensor memory that a program takes.
    """

    kernel: str
    architecture: int
    kind: str
    d: int
    layers: int
    tiles: Mapping[str, int]
    cubin: bytes
    resources: Resources
    tensor_columns: int = 0

    @property
    def chip(self) -> Chip:
        """What the architecture can do."""
        return CHIPS[self.architecture]

    @property
    def size(self) -> int:
        """Bytes of a number in x and W."""
        return 2 if self.kind == "half" else 4

    @property
    def job(self) -> str:
        """forward or backward."""
        return self.kernel.rpartition(".")[2]


@dataclass(frozen=True)
class Program:
    """What one program of a kernel is predicted to take, in clocks of a multiprocessor for UNIT hidden values.

    Attributes:
        name: of the function.
        instructions: of a warp in a turn of the loop.
        pipes: of each unit.
        alone: what one warp takes alone, over all turns.
        predicted: with the warps that are resident.
        waited: clocks of one warp in one turn in which it stands still, by what for.
        prefetched: how many turns ahead its loop copies; None if it copies nothing.
    """

    name: str
    instructions: int
    pipes: dict[str, float]
    alone: float
    predicted: float
    waited: dict[str, int]
    prefetched: float | None


@dataclass(frozen=True)
class Prediction:
    """What a kernel is predicted to take.

    Attributes:
        programs: one for each of the kernel's programs.
        warps: resident on a scheduler.
        bound: clocks for UNIT hidden values that the roofline asks for.
        by: what the roofline asks for them: "products", "special functions" or "memory".
    """

    programs: tuple[Program, ...]
    warps: float
    bound: float
    by: str

    @property
    def clocks(self) -> float:
        """Predicted, for UNIT hidden values."""
        return sum(program.predicted for program in self.programs)

    @property
    def of_bound(self) -> float:
        """The bound over the prediction."""
        return self.bound / self.clocks

    @property
    def ceiling(self) -> float:
        """The bound over what the scarcest unit takes: with perfect overlap."""
        return self.bound / sum(max(program.pipes.values()) for program in self.programs)


def bound(chip: Chip, kind: str, d: int, layers: int, job: str) -> tuple[float, str]:
    """The roofline's clocks for UNIT hidden values, and what asks for them: the least that any program could take.

    >>> bound(CHIPS[90], "half", 64, 1, "forward"), bound(CHIPS[90], "half", 64, 4, "backward")
    ((256.0, 'products'), (1024.0, 'special functions'))
    """
    counts = products("value", d)
    factors = counts["forward"] if job == "forward" else counts["step"] - counts["forward"]
    rows = (2 if job == "forward" else 3) * d * (2 if kind == "half" else 4)
    needs = {
        "products": UNIT * factors * d / chip.matrix[kind],
        "special functions": UNIT * layers / SPECIAL_LANES,
        "memory": UNIT * rows / HIDDEN / chip.memory_bytes_a_clock,
    }
    by = max(needs, key=needs.__getitem__)
    return needs[by], by


def predicted(kernel: Kernel) -> Prediction | None:
    """What a kernel of KERNELS is predicted to take; None where its machine code does not show its programs."""
    warps, chip = kernel.tiles["num_warps"], kernel.chip
    resident = programs(
        kernel.architecture, kernel.resources.registers, kernel.resources.shared, warps, kernel.tensor_columns
    )
    found = sass.sections(*sass.parsed(sass.disassembled(kernel.cubin)))
    names = KERNELS[kernel.kernel]
    if resident == 0 or not all(name in found for name in names):
        return None
    a_scheduler = max(1.0, resident * warps / SCHEDULERS)
    made = tuple(_program(kernel, name, found[name], a_scheduler) for name in names)
    return Prediction(made, a_scheduler, *bound(chip, kernel.kind, kernel.d, kernel.layers, kernel.job))


def _program(kernel: Kernel, name: str, section: sass.Section, a_scheduler: float) -> Program:
    values, turns = _shape(kernel, name)
    chip, share = kernel.chip, kernel.tiles["num_warps"] / SCHEDULERS
    tensor = _tensor(kernel, name, section, values)
    parts = ((section.before, 1.0), (section.loop, turns), (section.after, 1.0))
    needs = dict.fromkeys(pipes.PIPES, 0.0)
    for instructions, times in parts:
        for pipe, amount in pipes.total(instructions, chip).items():
            needs[pipe] += times * amount
    needs["matrix"] += turns * tensor * pipes.families(section.loop)[pipes.MATRIX[2]]
    needs["memory"] = _memory(kernel, name) / chip.memory_bytes_a_clock * turns * values / share
    single = warp.alone(section, chip, tensor)
    least, most = max(needs.values()), single.before + turns * single.turn + single.after
    scale = share * UNIT / (turns * values)
    return Program(
        name,
        len(section.loop),
        {pipe: scale * amount for pipe, amount in needs.items()},
        scale * most,
        scale * warp.shared(least, most, a_scheduler),
        single.waited,
        warp.prefetched(section),
    )


def _shape(kernel: Kernel, name: str) -> tuple[int, float]:
    """Hidden values of a turn of the loop, and turns of a program."""
    tiles = kernel.tiles
    if name == POINTS:
        return tiles["BM"] * tiles["BH"], HIDDEN / tiles["BH"]
    splits = max(1, _PARTS // (HIDDEN // tiles["BH_WEIGHTS"]))
    return tiles["BM_WEIGHTS"] * tiles["BH_WEIGHTS"], BATCH / splits / tiles["BM_WEIGHTS"]


_PARTS = 512
"""Programs that sum the parameters' gradients: `launch` has as many."""


def _memory(kernel: Kernel, name: str) -> float:
    """Bytes from and to the memory for each hidden value: x and g are read, and f or dx written, once by each sort."""
    tensors = 3 if kernel.job == "backward" and name == POINTS else 2
    return tensors * kernel.d * kernel.size / HIDDEN


def _tensor(kernel: Kernel, name: str, section: sass.Section, values: int) -> float:
    """Clocks of each product from tensor memory in the loop, whose instructions do not tell their size."""
    count = pipes.families(section.loop)[pipes.MATRIX[2]]
    if not count:
        return 0.0
    rows = kernel.tiles["BM" if name == POINTS else "BH_WEIGHTS"]
    work: int = values * configuration.padded(kernel.d) * _FACTORS[kernel.job, name]
    rate = kernel.chip.matrix[kernel.kind] * min(1.0, rows / _TENSOR_ROWS)
    return work / rate / count


def of_compiled(
    kernel: str, architecture: int, kind: str, d: int, layers: int, tiles: Mapping[str, int], compiled: Any
) -> Prediction | None:
    """The prediction for what `gradnets_fast.kernels.compiler.compiled` made."""
    columns = getattr(compiled.metadata, "tmem_size", 0) or 0
    resources = Resources.of(compiled)
    made = Kernel(kernel, architecture, kind, d, layers, tiles, compiled.asm["cubin"], resources, columns)
    return predicted(made)
