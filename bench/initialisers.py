"""Training from each initialiser beside the default one: `python -m bench.initialisers`.

- init_identity_: two maps of a convex potential flow, maximum likelihood of two moons.
- init_gaussian_map_: one map, of moons that are far from the origin and narrow, from their mean and covariance.
- init_least_squares_: the gradient of x⁴ + x²/2 + xy/2 + 3y²/2 − y³/3, from 2000 of the points.

Adam at 1e-2 with a cosine, batches of 300; the loss is that of 2000 other points.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradnets_fast as gf
from bench.environment import RESULTS, ROOT, environment
from gradnets_fast.apps.files import write_atomically, write_json
from gradnets_fast.apps.reproduce import density
from gradnets_fast.apps.train.fields import make_field
from gradnets_fast.flows import ConvexPotentialFlow

BATCH, TEST, MEASUREMENTS = 300, 2000, 20
Draw = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Task:
    """What is trained: a network, its initialiser, the loss of a batch, and what draws one."""

    make: Callable[[], nn.Module]
    start: Callable[[Any, Draw], None]
    loss: Callable[..., Tensor]
    draw: Draw


def moons(count: int) -> tuple[Tensor]:
    """The points of `gradnets-fast reproduce density`."""
    return (density.moons(count),)


def far(count: int) -> tuple[Tensor]:
    """Moons far from the origin, stretched and sheared."""
    return (moons(count)[0] @ torch.tensor([[2.0, 1.0], [0.0, 0.2]]) + torch.tensor([5.0, -3.0]),)


def field(count: int) -> tuple[Tensor, Tensor]:
    """Points of the unit square with gradients."""
    convex = make_field("convex2d")
    x = torch.rand(count, convex.dim)
    return x, convex.gradient(x)


def flow(maps: int) -> ConvexPotentialFlow:
    """A flow of some cascades."""
    return ConvexPotentialFlow([gf.mGradNetC(4, 2, 32, linear="psd") for _ in range(maps)])


def each_identity(net: ConvexPotentialFlow, draw: Draw) -> None:
    """The identity for each map."""
    for each in net.nets:
        gf.init_identity_(each)  # type: ignore[arg-type]


def of_samples(net: ConvexPotentialFlow, draw: Draw) -> None:
    """The map of a Gaussian with the samples' mean and covariance."""
    (x,) = draw(2000)
    gf.init_gaussian_map_(net.nets[0], x.mean(0), torch.cov(x.T))  # type: ignore[arg-type]


def likelihood(net: ConvexPotentialFlow, x: Tensor) -> Tensor:
    """The mean of −log p(x)."""
    return -net.log_prob(x).mean()


def squared(net: nn.Module, x: Tensor, g: Tensor) -> Tensor:
    """The mean of |f − g|²."""
    return (net(x) - g).square().sum(-1).mean()


TASKS = {
    "init_identity_": Task(partial(flow, 2), each_identity, likelihood, moons),
    "init_gaussian_map_": Task(partial(flow, 1), of_samples, likelihood, far),
    "init_least_squares_": Task(
        lambda: gf.mGradNetC(4, 2, 64, linear="psd"),
        lambda net, draw: gf.init_least_squares_(net, *draw(2000)),
        squared,
        field,
    ),
}


def trained(task: Task, seed: int, steps: int, initialised: bool, rate: float = 1e-2) -> dict[str, Any]:
    """The losses at equally many steps apart, and the seconds that the initialiser took."""
    torch.manual_seed(seed)
    test, net = task.draw(TEST), task.make()
    began = time.perf_counter()
    if initialised:
        task.start(net, task.draw)
    seconds = time.perf_counter() - began
    optimizer = torch.optim.Adam(net.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps + 1):
        if step % (steps // MEASUREMENTS) == 0:
            with torch.no_grad():
                losses.append(float(task.loss(net, *test)))
        optimizer.zero_grad()
        task.loss(net, *task.draw(BATCH)).backward()
        optimizer.step()
        schedule.step()
    return {"losses": losses, "seconds": seconds}


def row(name: str, steps: int, seeds: int) -> dict[str, Any]:
    """One initialiser's curves, and after how many steps its loss is what the default one's is at the end."""
    task = TASKS[name]
    default, ours = ([trained(task, seed, steps, with_it) for seed in range(seeds)] for with_it in (False, True))
    every, reached = steps // MEASUREMENTS, []
    for before, after in zip(default, ours):
        last = before["losses"][-1]
        first = next((i for i, loss in enumerate(after["losses"]) if loss <= last), None)
        reached.append(None if first is None else first * every)
        print(f"{name}: {after['losses'][-1]:.4g} against {last:.4g}, which it has after {reached[-1]}", flush=True)
    return {"initialiser": name, "steps": steps, "default": default, "initialised": ours, "reached_after": reached}


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """The curves of all seeds."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axis, row in zip(figure.subplots(1, len(rows)), rows):
        steps = [i * row["steps"] // MEASUREMENTS for i in range(MEASUREMENTS + 1)]
        for kind, colour in (("default", "#8a8a8a"), ("initialised", "#c1440e")):
            for i, run in enumerate(row[kind]):
                label = (kind if kind == "default" else row["initialiser"]) if i == 0 else None
                axis.plot(steps, run["losses"], color=colour, linewidth=1.3, label=label)
        axis.set_xlabel("step")
        likelihoods = row["initialiser"] != "init_least_squares_"
        axis.set_ylabel("−log p, nats" if likelihoods else "mean of |f − g|²")
        axis.set_yscale("linear" if likelihoods else "log")
        if likelihoods:
            ends = [run["losses"][-1] for run in row["initialised"]]
            axis.set_ylim(min(ends) - 0.1, min(ends) + 3)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes bench/results/initialisers.json and docs/initialisers.png."""
    parser = argparse.ArgumentParser(prog="python -m bench.initialisers", description=__doc__)
    parser.add_argument("--steps", type=int, default=160, help=f"a multiple of {MEASUREMENTS}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for the result file and the picture")
    options = parser.parse_args(arguments)
    where = environment()
    rows = [row(name, options.steps, options.seeds) for name in TASKS]
    write_json((options.out or RESULTS) / "initialisers.json", {"environment": where, "rows": rows})
    picture(rows, (options.out or ROOT / "docs") / "initialisers.png")


if __name__ == "__main__":
    main()
