"""Times: medians and quantiles of samples that are taken in turns."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

SAMPLE_SECONDS = 2e-3
MINIMUM_ROUNDS = 3
SETTLED_SECONDS, MORE_ROUNDS = 1.0, 10
"""Short cases get more rounds, until this time has passed or there are this many times as many."""
_LONG_SECONDS, _CALIBRATION_CALLS = 0.05, 10
_QUANTILES = (0.5, 0.1, 0.9)

Job = Callable[[], object]
Sampler = Callable[[], float]
"""Takes one sample: seconds per call."""


class Clock(Protocol):
    """Times jobs on one kind of device."""

    def sampler(self, job: Job, active: Callable[[], AbstractContextManager[None]]) -> Sampler:
        """Takes samples of a job within `active`, after a warm-up."""
        ...


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


class WallClock:
    """Times jobs that are done when they return."""

    def sampler(self, job: Job, active: Callable[[], AbstractContextManager[None]]) -> Sampler:
        """Samples of as many calls as the clock needs, which a first few show."""
        with active():
            calls = calls_per_sample(job)

        def take() -> float:
            with active():
                return sample(job, calls)

        return take


def interleaved(
    samplers: Mapping[str, Sampler], rounds: int, seconds: float, now: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Samples of every job, taken in turns, in another order each round.

    The rounds end at `rounds`, or after `seconds` if there are MINIMUM_ROUNDS by then; before SETTLED_SECONDS have
    passed, there are up to MORE_ROUNDS times as many.
    """
    names = list(samplers)
    order = random.Random(0)
    start = now()
    samples: dict[str, list[float]] = {name: [] for name in names}
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
