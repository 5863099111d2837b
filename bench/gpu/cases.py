"""What is measured on a GPU, in order of importance, and the bounds that times are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from bench.gpu.networks import NETWORKS, Network
from bench.gpu.operators import PRECISIONS
from gradnets_fast.apps.bench.gpu import tanh_rate as tanh_rate

DTYPES = ("bf16", "tf32", "fp32", "fp32-default")
JOBS = ("forward", "backward", "step")
COMPILERS = {"compile": "default", "compile, max-autotune": "max-autotune-no-cudagraphs"}
"""Contenders that torch.compile makes, and its mode."""

_BATCH, _WIDE_BATCH, _WIDE = 2**20, 2**17, 256
_MODULES, _MODULE_HIDDEN = 4, 256


@dataclass(frozen=True)
class Case:
    """A network at one size: a cascade of tanh, where one layer is Wᵀ tanh(Wx + b) + bias and more have scales and
    coefficients too, or as many modules as `layers` says, of `h` hidden units each."""

    d: int
    h: int
    layers: int
    dtype: str
    batch: int
    network: str = "cascade"

    @property
    def kind(self) -> Network:
        """What `network` names."""
        return NETWORKS[self.network]

    @property
    def hidden(self) -> int:
        """Hidden units: rows of W in all modules."""
        return self.h * (self.layers if self.kind.modules else 1)

    @property
    def label(self) -> str:
        """For people and for --case."""
        layers = f"{self.network} M={self.layers}" if self.kind.modules else f"L={self.layers}"
        return f"{self.dtype} {layers} B={self.batch} d={self.d} h={self.h}"

    @property
    def compilers(self) -> tuple[str, ...]:
        """The names of COMPILERS that it is compared with: compiling takes longer than all else, so only a few are."""
        if self.kind.modules:
            return ("compile",) if self.dtype == "bf16" and self.d == 64 else ()
        if self.h != 1024 or self.dtype not in ("bf16", "tf32") or self.d not in (2, 32, 64, 128, 256):
            return ()
        if self.dtype == "tf32":
            return ("compile",) if self.d == 64 else ()
        return tuple(COMPILERS) if self.d == 64 else ("compile",)


def cases() -> list[Case]:
    """All cases, the most telling first."""
    return sorted(_all(), key=_rank)


def _all() -> Iterator[Case]:
    for dtype, layers, h, d in product(DTYPES, (1, 4), (1024, 4096), (2, 8, 32, 64, 128, 256, 1024)):
        yield Case(d, h, layers, dtype, _WIDE_BATCH if d >= _WIDE else _BATCH)
    modular = [name for name, network in NETWORKS.items() if network.modules]
    for name, dtype, d in product(modular, ("bf16", "fp32-default"), (8, 32, 64, 128)):
        yield Case(d, _MODULE_HIDDEN, _MODULES, dtype, _BATCH, name)


def _rank(case: Case) -> tuple[int, int, int, int, int]:
    telling = case.dtype == "bf16" and case.d == 64
    middle = case.dtype == "bf16" and case.h == 1024 and case.d in (32, 64, 128)
    group = 0 if middle else 1 if telling and case.kind.modules else 2
    return group, case.hidden, DTYPES.index(case.dtype), case.layers, case.d


@dataclass
class Budget:
    """What there is time for, going by what took longest so far.

    Attributes:
        seconds: in all.
        now: the clock.
        longest: seconds that a kind of work took at most; to begin with, a guess.
    """

    seconds: float
    now: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._end = self.now() + self.seconds
        self.longest = {"case": 4.0, "compile": 15.0, "compile, max-autotune": 60.0}
        self._seen: set[str] = set()

    def left(self) -> float:
        """Seconds until the end."""
        return self._end - self.now()

    def allows(self, *work: str) -> bool:
        """Whether such work would end in time."""
        return sum(self.longest[kind] for kind in work) <= self.left()

    def spent(self, kind: str, seconds: float) -> None:
        """Learns how long some work took."""
        self.longest[kind] = max(seconds, self.longest[kind] if kind in self._seen else 0.0)
        self._seen.add(kind)

    def affordable(self, case: Case) -> tuple[str, ...] | None:
        """The compilers there is time for, or None if there is none for the case at all."""
        if not self.allows("case"):
            return None
        chosen: list[str] = []
        for name in case.compilers:
            if self.allows("case", *chosen, name):
                chosen.append(name)
        return tuple(chosen)


def flops(case: Case) -> dict[str, float]:
    """Algorithmic operations of the matrix products: two forward, five backward, which computes the first again."""
    one = 2.0 * case.batch * case.hidden * case.d
    return {"forward": 2 * one, "backward": 5 * one, "step": 7 * one}


def minimum_bytes(case: Case) -> dict[str, float]:
    """What must be read and written: x and f; backward x, g and dx; the weights and their gradient."""
    size = PRECISIONS[case.dtype].dtype.itemsize
    rows, weights = case.batch * case.d * size, case.hidden * case.d * size
    passes = {"forward": 2.0 * rows + weights, "backward": 3.0 * rows + 2 * weights}
    return passes | {"step": passes["forward"] + passes["backward"]}


@dataclass(frozen=True)
class Rates:
    """Of the GPU, measured in the same run.

    Attributes:
        matmul: floating-point operations a second of torch.mm, by dtype.
        copy: bytes read and written a second.
        tanh: evaluations a second that the special-function units begin, from clock and multiprocessors.
    """

    matmul: dict[str, float]
    copy: float
    tanh: float

    @staticmethod
    def of(measured: dict[str, Any]) -> Rates:
        """Rates from torch.mm's and copy_'s, with what float32's precision costs at best: three products of TF32."""
        matmul = measured["matmul"]
        best = max(matmul["fp32"], matmul["tf32"] / 3)
        return Rates({**matmul, "fp32-default": best}, measured["copy"], measured["tanh"])


def bounds(case: Case, rates: Rates) -> dict[str, dict[str, float]]:
    """Seconds that each resource needs for a pass: products, memory, and each layer's tanh or exponentials once."""
    tanh = float(case.batch * case.h * case.layers * case.kind.evaluations)
    return {
        job: {
            "products": flops(case)[job] / rates.matmul[case.dtype],
            "memory": minimum_bytes(case)[job] / rates.copy,
            "tanh": tanh / rates.tanh,
        }
        for job in JOBS[:2]
    }


def bound(case: Case, rates: Rates) -> dict[str, float]:
    """Seconds that each job takes at least: the scarcest resource of each pass."""
    passes = {job: max(needs.values()) for job, needs in bounds(case, rates).items()}
    return passes | {"step": sum(passes.values())}
