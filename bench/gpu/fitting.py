"""Steps of `fit` on a GPU, one launch of a CUDA graph each, beside a loop of PyTorch: the same losses, and times.

python -m bench.gpu --part fit
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import gradnets_fast as gf
from gradnets_fast.apps.bench import runner
from gradnets_fast.apps.bench.measurement import interleaved
from gradnets_fast.nn import GradNet

STEPS, RATE = 100, 1e-3
ROUNDS, SECONDS = 20, 20.0
TOLERANCE = 1e-3
"""How far the losses of the two may be apart, as a part of the first loss."""
NETWORKS: dict[str, Callable[[int, int], GradNet]] = {
    "mGradNetC, 4 layers": lambda d, h: gf.mGradNetC(4, d, h),
    "mGradNetM, 4 modules": lambda d, h: gf.mGradNetM(4, d, h),
    "mDeepGradNet, 3 layers": lambda d, h: gf.mDeepGradNet(d, (h, h, h)),
    "mGradNetC, 4 layers, linear part": lambda d, h: gf.mGradNetC(4, d, h, linear="psd"),
}
SIZES = ((1000, 2, 7), (1000, 8, 64), (65536, 32, 128))


@dataclass(frozen=True)
class Run:
    """STEPS steps of one network on one batch of `count` points."""

    network: str
    count: int
    d: int
    h: int

    @property
    def label(self) -> str:
        """The case in words."""
        return f"step of {self.network}, {self.count} points, d = {self.d}, h = {self.h}"


def cases() -> list[Run]:
    """All cases, the smallest first."""
    return [Run(network, *size) for size, network in product(SIZES, NETWORKS)]


def contenders(case: Run, place: torch.device) -> dict[str, Callable[[], tuple[str, Tensor]]]:
    """For each name a run from the same parameters: the way that it went, and its losses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETWORKS[case.network](case.d, case.h).to(place)
        x = torch.randn(case.count, case.d).to(place)
    start, target = [p.detach().clone() for p in net.parameters()], x.tanh()

    def begin() -> None:
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), start):
                parameter.copy_(value)

    def ours() -> tuple[str, Tensor]:
        begin()
        plan: dict[str, Any] = {"steps": STEPS, "batch_size": len(x), "learning_rate": RATE, "schedule": "constant"}
        result = gf.fit(net, x, target, **plan, progress=False)
        return result.way, result.losses

    def loop() -> tuple[str, Tensor]:
        begin()
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
        losses = x.new_empty(STEPS)
        for step in range(STEPS):
            loss = mse_loss(net(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[step] = loss.detach()
        return "loop", losses.cpu()

    return {"fit": ours, "PyTorch's loop": loop}


def measured(case: Run, place: torch.device, rounds: int = ROUNDS) -> dict[str, Any]:
    """The fault if there is one, and else the median microseconds of a step of each contender."""
    jobs = contenders(case, place)
    (way, ours), (_, theirs) = (job() for job in jobs.values())
    apart = float((ours - theirs).abs().max() / theirs[0])
    row = {**asdict(case), "way": way, "apart": apart, "fault": None}
    if place.type == "cuda" and way != "graph":
        return row | {"fault": f"the steps were made by {way}"}
    if not apart <= TOLERANCE:
        return row | {"fault": f"the losses are {apart:.2g} of the first one apart, {TOLERANCE} is allowed"}
    clock = runner.clock_of(place)
    samples = interleaved({name: clock.sampler(job) for name, job in jobs.items()}, rounds, SECONDS)
    return row | {"microseconds": {name: 1e6 * statistics.median(of) / STEPS for name, of in samples.items()}}


def line(row: dict[str, Any]) -> str:
    """A row in a line."""
    label = Run(row["network"], row["count"], row["d"], row["h"]).label
    if row["fault"] is not None:
        return f"FAILED {label}: {row['fault']}"
    return f"{label}: " + ", ".join(f"{name} {of:.0f} µs" for name, of in row["microseconds"].items())
