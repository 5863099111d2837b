"""Times: medians and quantiles of samples that are taken in turns."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .contenders import Contender

CPU = torch.device("cpu")
SAMPLE_SECONDS = 2e-3
MINIMUM_ROUNDS = 3
SETTLED_SECONDS, MORE_ROUNDS = 1.0, 10
"""Short cases get more rounds, until this time has passed or there are this many times as many."""
_LONG_SECONDS, _CALIBRATION_CALLS = 0.05, 10
_QUANTILES = (0.5, 0.1, 0.9)

Job = Callable[[], object]
Sampler = Callable[[], float]
"""Takes one sample: seconds per call."""
JobsSampler = Callable[[], dict[str, float]]
"""Takes one sample of one or more jobs at once: seconds per call, by job."""

T = TypeVar("T")


class Clock(Protocol):
    """Times jobs on one kind of device."""

    def sampler(self, job: Job) -> Sampler:
        """Takes samples of a job, after a warm-up."""
        ...

    def samplers(self, contender: Contender, g: Tensor, jobs: Sequence[str]) -> dict[str, JobsSampler]:
        """Takes samples of a contender's jobs, some of `work.JOBS`; g: the gradient of the result."""
        ...


@dataclass(frozen=True)
class Spread:
    """Median and the 10 % and 90 % quantiles."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(samples: list[float]) -> Spread:
        """The quantiles of some samples."""
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


class WallClock:
    """Times jobs that are done when they return."""

    def sampler(self, job: Job, active: Callable[[], AbstractContextManager[None]] = nullcontext) -> Sampler:
        """Samples within `active` of as many calls as the clock needs, which a first few show."""
        with active():
            calls = calls_per_sample(job)

        def take() -> float:
            with active():
                return sample(job, calls)

        return take

    def samplers(self, contender: Contender, g: Tensor, jobs: Sequence[str]) -> dict[str, JobsSampler]:
        """A sampler for each job."""
        calls: dict[str, Job] = {"forward": contender.forward, "step": partial(contender.step, g)}
        return {job: self._named(job, self.sampler(calls[job], contender.active)) for job in jobs}

    @staticmethod
    def _named(name: str, sampler: Sampler) -> JobsSampler:
        return lambda: {name: sampler()}


@dataclass(frozen=True)
class Plan:
    """How cases are measured.

    Attributes:
        rounds: samples of each contender and job, at least; short cases get more.
        seconds: a case stops earlier than that once it has three rounds and used this time.
        memory_from: batch × hidden (× pixels) from which on the extra memory of a step is measured; None for never.
        device: where.
    """

    rounds: int
    seconds: float
    memory_from: int | None = None
    device: torch.device = CPU


def interleaved(
    samplers: Mapping[str, Callable[[], T]],
    rounds: int,
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, list[T]]:
    """Samples of every sampler, taken in turns, in another order each round.

    The rounds end at `rounds`, or after `seconds` if there are MINIMUM_ROUNDS by then; before SETTLED_SECONDS have
    passed, there are up to MORE_ROUNDS times as many.
    """
    names = list(samplers)
    order = random.Random(0)
    start = now()
    samples: dict[str, list[T]] = {name: [] for name in names}
    with without_collection():
        for number in range(MORE_ROUNDS * rounds):
            passed = now() - start
            if number >= MINIMUM_ROUNDS and (passed > seconds or (number >= rounds and passed > SETTLED_SECONDS)):
                break
            for name in order.sample(names, len(names)):
                samples[name].append(samplers[name]())
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
