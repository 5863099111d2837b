"""What the model knows of each architecture: the one table of its assumptions.

Sources, all public:

- NVIDIA's data sheets and architecture papers of A100, H100 (SXM) and B200 (HGX), for multiprocessors, clocks, matrix
  rates and memory; rates in multiply-adds a clock are peak TFLOP/s over multiprocessors and boost clock;
- the CUDA C++ Programming Guide, for registers, shared memory, warps and programs of a multiprocessor, and for results
  a clock of the arithmetic, special-function and shuffle instructions, and of shared memory;
- Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture through Microbenchmarking" (arXiv
  2402.13499), for latencies on 8.0 and 9.0, and for what `mma.sync` reaches of the matrix rate of 9.0; rounded;
- "assumed" below: nobody's numbers but ours, which a measurement should replace first.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

SCHEDULERS, LANES = 4, 32
"""Of a multiprocessor; of a warp."""

SPECIAL_LANES = 16
"""Results a clock of the special-function units of a multiprocessor; tanh at that rate is assumed, as ptxas does."""

INTEGER_LANES = 64
"""Results a clock of comparisons, selections, logic, shifts and conversions."""

SHARED_BYTES = 128
"""A clock, of a multiprocessor's shared memory; loads, stores and shuffles share its lanes."""

REGISTERS, WARPS, PROGRAMS, TENSOR_COLUMNS = 65536, 64, 32, 512
"""The most of a multiprocessor.  TENSOR_COLUMNS: of tensor memory, on 10.0."""

PROGRAM_SHARED = 1024
"""Bytes of shared memory that the system takes of each program."""

WAIT = MappingProxyType({"barrier": 25, "fence": 20, "special": 20, "shared": 29, "shuffle": 24, "other": 24})
"""Clocks until a result is there, or a barrier open to warps that arrive together.  barrier, fence, other: assumed."""


@dataclass(frozen=True)
class Chip:
    """One architecture, by the chip that stands for it.

    Attributes:
        name: of the chip.
        multiprocessors, gigahertz: how many, and their boost clock.
        matrix: kind of product → multiply-adds a clock of a multiprocessor.
        by_warps: the part of `matrix` that products of single warps (`mma.sync`) reach.
        float_lanes: results a clock of float32 additions and multiply-adds.
        cache_bytes: of the second-level cache a clock and multiprocessor; assumed.
        memory_bytes: of the memory a second.
        cache_wait, memory_wait: clocks until a word of the second-level cache or of the memory is there.
        matrix_wait: clocks that products take besides their rate, until the result is there; assumed.
        shared: bytes of a multiprocessor that programs share.
    """

    name: str
    multiprocessors: int
    gigahertz: float
    matrix: dict[str, float]
    by_warps: float
    float_lanes: int
    cache_bytes: float
    memory_bytes: float
    cache_wait: int
    memory_wait: int
    matrix_wait: int
    shared: int

    @property
    def memory_bytes_a_clock(self) -> float:
        """Of the memory, a clock and multiprocessor."""
        return self.memory_bytes / (self.multiprocessors * self.gigahertz * 1e9)

    def milliseconds(self, clocks: float) -> float:
        """Of clocks of one multiprocessor, when all share the work."""
        return 1e-6 * clocks / (self.multiprocessors * self.gigahertz)


CHIPS = {
    80: Chip(
        name="A100 SXM 80 GB",
        multiprocessors=108,
        gigahertz=1.41,
        matrix={"half": 1024, "tf32": 512, "tf32x3": 512 / 3, "ieee": 64},
        by_warps=1.0,
        float_lanes=64,
        cache_bytes=32.0,
        memory_bytes=2.039e12,
        cache_wait=260,
        memory_wait=470,
        matrix_wait=33,
        shared=164 << 10,
    ),
    90: Chip(
        name="H100 SXM",
        multiprocessors=132,
        gigahertz=1.83,
        matrix={"half": 2048, "tf32": 1024, "tf32x3": 1024 / 3, "ieee": 128},
        by_warps=0.63,
        float_lanes=128,
        cache_bytes=24.5,
        memory_bytes=3.35e12,
        cache_wait=260,
        memory_wait=480,
        matrix_wait=60,
        shared=228 << 10,
    ),
    100: Chip(
        name="B200",
        multiprocessors=148,
        gigahertz=1.85,
        matrix={"half": 4096, "tf32": 2048, "tf32x3": 2048 / 3, "ieee": 128},
        by_warps=0.3,
        float_lanes=128,
        cache_bytes=24.5,
        memory_bytes=8.0e12,
        cache_wait=300,
        memory_wait=600,
        matrix_wait=100,
        shared=228 << 10,
    ),
}
"""Architecture → its chip.  On 10.0 by_warps and all waits are assumed."""


def programs(architecture: int, registers: int, shared: int, warps: int, tensor_columns: int = 0) -> int:
    """How many programs are resident on a multiprocessor; registers: of a thread; shared: bytes of a program.

    >>> programs(90, 128, 33536, 4), programs(90, 239, 35840, 4), programs(90, 64, 0, 4)
    (4, 2, 8)
    """
    of_warp = -(-registers // 8) * 8 * LANES
    limits = [
        REGISTERS // of_warp // warps,
        CHIPS[architecture].shared // (shared + PROGRAM_SHARED),
        WARPS // warps,
        PROGRAMS,
    ]
    if tensor_columns:
        limits.append(TENSOR_COLUMNS // tensor_columns)
    return min(limits)
