"""How long Python takes for what a GPU is to do, by parts: `python -m bench.launch_cost`, where there is no GPU.

The operator `ridge` and a training step of mGradNetC by the Triton kernels, on CPU tensors that count as those of a
GPU, with a driver that does nothing (bench/stand_in.py).  Counted are the checks of arguments, the way to the kernels,
the allocation of results on the CPU, autograd, and Triton's launcher; not counted are the NVIDIA driver's own part of a
launch, and the two questions for the current device and stream.  Times are of the processor, so that what else runs
on the machine counts less; a part is what the median of a job is less without it.  A step is f, the mean
squared error, its gradients in all parameters, and torch.optim.Adam(fused=True).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import gradnets_fast as gf
from bench.environment import RESULTS, environment
from bench.stand_in import CAPABILITY, gpu
from gradnets_fast.apps.bench.measurement import Job, interleaved
from gradnets_fast.apps.files import write_json
from gradnets_fast.kernels import launching
from gradnets_fast.ops import OPERATORS
from gradnets_fast.ops.families import cascade_settings

LAYERS, SIZE = 4, (1000, 2, 64)
CALLS = 50
"""Calls in a row that are one sample."""

_PARAMETERS = ("W", "scale", "shift", "coef", "bias")


@contextmanager
def no_launches() -> Iterator[None]:
    """Within, a launch ends where Triton would begin with it."""
    launching.try_first(lambda *_: True)
    try:
        yield
    finally:
        launching.try_first(None)


def operator_jobs(net: gf.mGradNetC, x: Tensor, g: Tensor) -> dict[str, Job]:
    """`ridge` and its gradients in the parameters: whole, and by the calls that they consist of."""
    network: Any = net._effective()
    leaves = [getattr(network, name).detach().requires_grad_() for name in _PARAMETERS]
    held = (x, *(t.detach() for t in leaves))
    settings, kernels = cascade_settings(network.basis), OPERATORS["ridge"]["value"].triton.kernels
    needs = (False, *(True for _ in leaves))

    def forward() -> Tensor:
        return gf.ridge(x, *leaves, network.basis)

    def without_graph() -> Tensor:
        with torch.no_grad():
            return forward()

    return {
        "forward": forward,
        "forward without graph": without_graph,
        "forward kernels": lambda: kernels.forward(held, settings),
        "both": lambda: torch.autograd.grad(forward(), leaves, g),
        "backward kernels": lambda: kernels.backward(g, held, settings, needs),
    }


def step_jobs(net: gf.mGradNetC, x: Tensor, g: Tensor) -> dict[str, Job]:
    """A training step, and its beginnings."""
    optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def gradients() -> None:
        optimizer.zero_grad()
        mse_loss(net(x), g).backward()

    def step() -> None:
        gradients()
        optimizer.step()

    return {
        "effective": net._effective,
        "network": lambda: net(x),
        "loss": lambda: mse_loss(net(x), g),
        "gradients": gradients,
        "step": step,
    }


def sample(job: Job) -> float:
    """The processor's seconds per call, of CALLS calls in a row."""
    start = time.process_time()
    for _ in range(CALLS):
        job()
    return (time.process_time() - start) / CALLS


def measured(rounds: int) -> dict[str, list[float]]:
    """Samples of each job, in µs; "… , no launch" are those of one whose launches end where Triton begins."""
    batch, d, h = SIZE
    net, x, g = gf.mGradNetC(LAYERS, d, h), torch.randn(batch, d), torch.randn(batch, d)
    jobs = operator_jobs(net, x, g) | step_jobs(net, x, g)
    with gf.use_backend("triton"):
        for job in jobs.values():
            sample(job)
        samplers = {name: _sampler(job) for name, job in jobs.items()}
        launchless = ("forward", "both", "forward kernels", "backward kernels")
        samplers |= {f"{name}, no launch": _launchless(jobs[name]) for name in launchless}
        samples = interleaved(samplers, rounds, 120.0)
    return {name: sorted(1e6 * s for s in seconds) for name, seconds in samples.items()}


def _sampler(job: Job) -> Callable[[], float]:
    return lambda: sample(job)


def _launchless(job: Job) -> Callable[[], float]:
    def take() -> float:
        with no_launches():
            job()  # which learns that launches go elsewhere now
            return sample(job)

    return take


def parts_of(us: dict[str, float]) -> dict[str, dict[str, float]]:
    """The parts of a forward pass, a backward pass and a step, in µs."""
    backward, no_launch = us["both"] - us["forward"], us["both, no launch"] - us["forward, no launch"]
    return {
        "forward": {
            "checks of the arguments, and the way to the kernels": us["forward without graph"] - us["forward kernels"],
            "sizes, memory, arguments": us["forward kernels, no launch"],
            "Triton's launcher": us["forward kernels"] - us["forward kernels, no launch"],
            "recording for autograd": us["forward"] - us["forward without graph"],
        },
        "backward": {
            "autograd": no_launch - us["backward kernels, no launch"],
            "sizes, memory, arguments": us["backward kernels, no launch"],
            "Triton's launcher": backward - no_launch,
        },
        "step": {
            "effective parameters": us["effective"],
            "forward": us["network"] - us["effective"],
            "loss": us["loss"] - us["network"],
            "gradients of all, backward among them": us["gradients"] - us["loss"],
            "torch.optim.Adam": us["step"] - us["gradients"],
        },
    }


def content(rounds: int) -> dict[str, Any]:
    """What the result file has."""
    torch.set_num_threads(1)
    with gpu():
        samples = measured(rounds)
    medians = {name: statistics.median(us) for name, us in samples.items()}
    fastest = {name: us[len(us) // 10] for name, us in samples.items()}
    setting = {"layers": LAYERS, "batch, d, h": SIZE, "dtype": "float32", "capability": CAPABILITY, "calls": CALLS}
    machine = {"processors": os.cpu_count(), "load_average": os.getloadavg()[0], "rounds": rounds}
    found = {"microseconds": totals_of(medians), "fastest_tenth": totals_of(fastest), "parts": parts_of(medians)}
    return setting | machine | found | {"medians": medians}


def totals_of(us: dict[str, float]) -> dict[str, float]:
    """A forward pass, a backward pass, and steps without and with the optimizer, in µs."""
    backward = us["both"] - us["forward"]
    return {"forward": us["forward"], "backward": backward, "gradients": us["gradients"], "step": us["step"]}


def main(words: list[str] | None = None) -> None:
    """Measures, and writes bench/results/launch_cost.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.launch_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="samples of each job, at least (default: 60)")
    parser.add_argument("--out", type=Path, default=RESULTS / "launch_cost.json", help="the result file")
    arguments = parser.parse_args(words)
    where = environment()
    found = content(arguments.rounds)
    write_json(arguments.out, {"environment": where, **found})
    for name, total in found["microseconds"].items():
        parts = ", ".join(f"{part} {us:.0f}" for part, us in found["parts"].get(name, {}).items())
        print(f"{name}: {total:.0f} µs, the fastest tenth {found['fastest_tenth'][name]:.0f}: {parts or 'no parts'}")


if __name__ == "__main__":
    main()
