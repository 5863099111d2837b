"""Times: medians and quantiles of interleaved samples, and the machine's own rates in the same minutes."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from .cases import Case

SAMPLE_SECONDS = 2e-3
MINIMUM_ROUNDS = 3
SETTLED_SECONDS, MORE_ROUNDS = 1.0, 10
"""Short cases get more rounds, until this time has passed or there are this many times as many."""
_LONG_SECONDS, _CALIBRATION_CALLS = 0.05, 10
_QUANTILES = (0.5, 0.1, 0.9)
_MATRIX, _COPIED, _TANH = 2048, 2**25, 2**22

Job = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and the 10 % and 90 % quantiles."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(samples: list[float]) -> Spread:
        """That of some samples."""
        points = torch.tensor(_QUANTILES, dtype=torch.float64)
        return Spread(*torch.tensor(samples, dtype=torch.float64).quantile(points).tolist())


def sample(job: Job, calls: int) -> float:
    """Seconds per call, of `calls` calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        job()
    return (time.perf_counter() - start) / calls


def calls_per_sample(job: Job) -> int:
    """How many calls make a sample long enough for the clock."""
    seconds = sample(job, 1)
    # A first call can be slow for reasons of its own; a job that is long anyway is not called again.
    if seconds < _LONG_SECONDS:
        seconds = min(sample(job, 1) for _ in range(_CALIBRATION_CALLS))
    return max(1, math.ceil(SAMPLE_SECONDS / seconds))


def interleaved(jobs: Mapping[str, Job], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples of every job, taken in turns, in another order each round.

    The rounds end at `rounds`, or after `seconds` if there are MINIMUM_ROUNDS by then; before SETTLED_SECONDS have
    passed, there are up to MORE_ROUNDS times as many.
    """
    names = list(jobs)
    order = random.Random(0)
    start = time.perf_counter()
    with without_collection():
        calls = {name: calls_per_sample(job) for name, job in jobs.items()}
        samples: dict[str, list[float]] = {name: [] for name in names}
        for number in range(MORE_ROUNDS * rounds):
            passed = time.perf_counter() - start
            if number >= MINIMUM_ROUNDS and (passed > seconds or (number >= rounds and passed > SETTLED_SECONDS)):
                break
            for name in order.sample(names, len(names)):
                samples[name].append(sample(jobs[name], calls[name]))
    return samples


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection within, as in timeit."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def flops(case: Case, modules: int) -> dict[str, float]:
    """Algorithmic floating-point operations of the matrix products.

    f takes two products, 4·B·h·d; its backward, which recomputes the first, five.
    """
    product = 2.0 * case.batch * case.h * case.d * modules
    return {"forward": 2 * product, "step": 7 * product}


def minimum_bytes(case: Case, parameters: int) -> dict[str, float]:
    """What must be read and written: x and f; in a step also g and dx; the parameters, and their gradients."""
    points, size = case.batch * case.d, case.dtype.itemsize
    return {"forward": size * (2.0 * points + parameters), "step": size * (4.0 * points + 2 * parameters)}


@dataclass
class Machine:
    """Rates of the machine, sampled between the cases: the bounds that times are compared with.

    Attributes:
        mm: GFLOP/s of torch.mm of two square float32 matrices.
        copy: GB/s of Tensor.copy_, bytes read and written.
        tanh: 10⁹ elements/s of torch.tanh.
    """

    mm: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    tanh: list[float] = field(default_factory=list)

    def probe(self) -> None:
        """Takes one sample of each, after a warm-up."""
        a, b = torch.randn(2, _MATRIX, _MATRIX).unbind()
        source, target = torch.ones(2, _COPIED).unbind()
        z, out = torch.randn(2, _TANH).unbind()
        product = torch.empty_like(a)
        probes: tuple[tuple[Job, list[float], float], ...] = (
            (lambda: torch.mm(a, b, out=product), self.mm, 2.0 * _MATRIX**3),
            (lambda: target.copy_(source), self.copy, 8.0 * _COPIED),
            (lambda: torch.tanh(z, out=out), self.tanh, float(_TANH)),
        )
        for job, rates, work in probes:
            job()
            rates.append(1e-9 * work / sample(job, 1))

    def to_json(self) -> dict[str, dict[str, float]]:
        """Medians and quantiles."""
        names = {"mm_gflops": self.mm, "copy_gb_per_s": self.copy, "tanh_g_per_s": self.tanh}
        return {name: vars(Spread.of(rates)) for name, rates in names.items()}
