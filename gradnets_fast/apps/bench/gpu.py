"""Times, memory and rates on an NVIDIA GPU."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..environment import queried
from .measurement import Job, JobsSampler, Sampler

if TYPE_CHECKING:
    from .contenders import Contender

_SLEEP_CYCLES = 4_000_000
"""Two milliseconds, in which Python enqueues a step: its own time is not to be counted between two launches."""

TANH_PER_CLOCK = 16
"""Evaluations of tanh that the special-function units of one multiprocessor begin in a clock."""


class EventClock:
    """Times work on the GPU, and that alone."""

    def __init__(self, device: torch.device) -> None:
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self._flushed = torch.empty(size, dtype=torch.int8, device=device)

    def milliseconds(self, *stages: Callable[[], object]) -> list[float]:
        """What each of some stages takes that follow one another, from cold caches, all enqueued before the first
        begins."""
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(stages) + 1)]
        self._flushed.zero_()
        torch.cuda._sleep(_SLEEP_CYCLES)
        events[0].record()
        for stage, event in zip(stages, events[1:]):
            stage()
            event.record()
        events[-1].synchronize()
        return [a.elapsed_time(b) for a, b in pairwise(events)]

    def sampler(self, job: Job) -> Sampler:
        """Samples of one call each."""
        job()
        return lambda: 1e-3 * self.milliseconds(job)[0]

    def samplers(self, contender: Contender, g: Tensor, jobs: Sequence[str]) -> dict[str, JobsSampler]:
        """A sampler of the forward pass without a graph, and one of the step and the backward pass in it."""
        leaves, held = [*contender.points, *contender.parameters], []

        def forward() -> dict[str, float]:
            with contender.active():
                return {"forward": 1e-3 * self.milliseconds(contender.forward)[0]}

        def step() -> dict[str, float]:
            # Not a backward pass over a graph that is kept: compiled ones reuse its memory, and refuse.
            with contender.active():
                first, second = self.milliseconds(
                    lambda: held.append(contender.call(*contender.points)),
                    lambda: torch.autograd.grad(held.pop(), leaves, g, allow_unused=True),
                )
            return {"backward": 1e-3 * second, "step": 1e-3 * (first + second)}

        both = {"forward": forward, "step": step}
        return {job: both[job] for job in jobs}


def peak_bytes(job: Job, device: torch.device) -> int:
    """Memory that a job takes at its peak beyond what is allocated before it."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    job()
    return torch.cuda.max_memory_allocated(device) - before


def free(device: torch.device) -> None:
    """Gives cached memory back to a GPU."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def special_function_rate(device: torch.device) -> float | None:
    """Evaluations of tanh a second that the special-function units of a GPU begin at its highest clock.

    None where nvidia-smi is not there, or does not know the clock.
    """
    try:
        hertz = 1e6 * float(queried("clocks.max.sm", device).split()[0])
    except (OSError, subprocess.SubprocessError, LookupError, ValueError):
        return None
    return TANH_PER_CLOCK * torch.cuda.get_device_properties(device).multi_processor_count * hertz
