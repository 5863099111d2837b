"""Densities by convex potential flows, coupling flows and Gaussian mixtures: `gradnets-fast reproduce density`.

- convex potential flow: two maps mGradNetC, 4 layers, from the map to a normal distribution of the training points.
- affine coupling flow: zuko's, of four couplings, whose hidden layers are as wide as give no fewer parameters.
- Gaussian mixture: scikit-learn's, of 1 to 24 components with full covariances.

A flow is trained by maximum likelihood, Adam with a cosine, batches of 300; its learning rate, the step whose
parameters are kept, and the number of components are those with the least loss of the validation points.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast
from gradnets_fast.flows import ConvexPotentialFlow

from .drawing import INK, packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .measures import parameters
from .runner import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH, EVERY, COMPONENTS = 300, 20, 24
SIDE, REACH = 80, 2.6
"""Points of the drawn grid, each way, and how far it reaches."""
FLOW, COUPLING, MIXTURE = "convex potential flow", "affine coupling flow", "Gaussian mixture"
LogDensity = Callable[[Tensor], Tensor]
"""x (n, d) -> log p(x), (n,)."""


def moons(count: int) -> Tensor:
    """Two half circles with noise of 0.1, of about mean 0 and variance 1."""
    angle, side = math.pi * torch.rand(count), (torch.rand(count) < 0.5).float()
    x = torch.stack([angle.cos() + side - 0.5, (1 - 2 * side) * angle.sin() + side / 2 - 0.25], 1)
    return (x + 0.1 * torch.randn(count, 2)) * torch.tensor([1.15, 2.0])


def ring_of_eight(count: int) -> Tensor:
    """Eight normal distributions of standard deviation 0.15 about a circle, of about mean 0 and variance 1."""
    angle = math.pi / 4 * torch.randint(8, (count,))
    return 1.4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * torch.randn(count, 2)


def cells(count: int) -> Tensor:
    """Ten sizes and shapes of the cells' nuclei of 569 tumours (Wisconsin), whatever the count, standardised."""
    from sklearn.datasets import load_breast_cancer

    x = torch.tensor(load_breast_cancer().data[:, :10]).float()
    return ((x - x.mean(0)) / x.std(0))[torch.randperm(len(x))]


SETS: dict[str, tuple[int, Callable[[int], Tensor]]] = {
    "two moons": (2, moons),
    "ring of eight Gaussians": (2, ring_of_eight),
    "breast cancer, 10 measurements": (10, cells),
}
"""Points by name: their dimension, and what draws them."""


def cases(settings: Settings) -> list[Case]:
    """Each set with each contender, for each seed."""
    everything = product(settings["sets"], (FLOW, COUPLING, MIXTURE), range(settings["seeds"]))
    return [{"set": name, "network": contender, "seed": seed} for name, contender, seed in everything]


def run(case: Case, settings: Settings) -> Row:
    """Fits a contender to three fifths of the points; a fifth chooses, and a fifth is the test."""
    d, draw = SETS[case["set"]]
    x = draw(settings["points"])
    a, b = 3 * len(x) // 5, 4 * len(x) // 5
    train, valid, test = x[:a], x[a:b], x[b:]
    if case["network"] == MIXTURE:
        log_p, found = mixture(train, valid, case["seed"], settings["components"])
    elif case["network"] == FLOW:
        log_p, found = chosen(lambda: convex_flow(train), train, valid, settings)
    else:
        least = parameters(convex_flow(train))
        log_p, found = chosen(lambda: CouplingFlow(d, least), train, valid, settings)
    with torch.no_grad():
        row = {"d": d, "nats": float(-log_p(test).mean()), **found}
        if d == 2 and case["seed"] == 0:
            row["density"] = packed(log_p(grid()).exp())
    return row


def grid() -> Tensor:
    """The drawn points, (SIDE², 2)."""
    line = torch.linspace(-REACH, REACH, SIDE)
    return torch.cartesian_prod(line, line)


def convex_flow(train: Tensor) -> ConvexPotentialFlow:
    """A flow that starts as a normal distribution."""
    first, second = (gradnets_fast.mGradNetC(4, train.shape[1], 32, linear="psd") for _ in range(2))
    gradnets_fast.init_gaussian_map_(first, train.mean(0), torch.cov(train.T))
    gradnets_fast.init_identity_(second)
    return ConvexPotentialFlow([first, second])


class CouplingFlow(nn.Module):
    """zuko's affine coupling flow with at least so many parameters."""

    def __init__(self, d: int, least: int) -> None:
        super().__init__()
        from zuko.flows import NICE

        width = 8
        while parameters(flow := NICE(d, transforms=4, hidden_features=(width, width))) < least:
            width += 1
        self.flow: Any = flow

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (n,)."""
        found: Tensor = self.flow().log_prob(x)
        return found


def trained(flow: Any, train: Tensor, valid: Tensor, steps: int, rate: float) -> tuple[float, Any, float]:
    """The least loss of the validation points, the flow that has it, and the milliseconds of a step."""
    optimizer = torch.optim.Adam(flow.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept, spent = math.inf, flow, 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        batch = train[torch.randint(len(train), (BATCH,))]
        optimizer.zero_grad()
        (-flow.log_prob(batch).mean()).backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        spent += time.perf_counter() - began
        if step % EVERY == 0:
            with torch.no_grad():
                loss = float(-flow.log_prob(valid).mean())
            if loss < best:
                best, kept = loss, copy.deepcopy(flow)
    return best, kept, 1e3 * spent / steps


def chosen(make: Callable[[], Any], train: Tensor, valid: Tensor, settings: Settings) -> tuple[LogDensity, Row]:
    """The flow of the best learning rate."""
    runs = [(*trained(make(), train, valid, settings["steps"], rate), rate) for rate in settings["rates"]]
    _, flow, milliseconds, rate = min(runs, key=lambda run: run[0])
    return flow.log_prob, {"parameters": parameters(flow), "rate": rate, "step_ms": milliseconds}


def mixture(train: Tensor, valid: Tensor, seed: int, components: int) -> tuple[LogDensity, Row]:
    """The mixture of the best number of components."""
    from sklearn.mixture import GaussianMixture

    began = time.perf_counter()
    fits = [GaussianMixture(k, random_state=seed, reg_covar=1e-4).fit(train.numpy()) for k in range(1, components + 1)]
    best: Any = max(fits, key=lambda fit: fit.score(valid.numpy()))
    milliseconds = 1e3 * (time.perf_counter() - began) / len(fits)
    d = train.shape[1]
    count = best.n_components * (1 + d + d * (d + 1) // 2) - 1
    found = {"parameters": count, "components": best.n_components, "fit_ms": milliseconds}
    return lambda x: torch.from_numpy(best.score_samples(x.numpy())).float(), found


def table(rows: Sequence[Row]) -> str:
    """−log p of test points: the mean of the seeds and each of them, and what a step or a fit takes."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    lines = [f"| −log p of test points | d | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for name in dict.fromkeys(row["set"] for row in rows):
        cells = []
        for contender in names:
            of = [row for row in rows if (row["set"], row["network"]) == (name, contender)]
            nats = ", ".join(f"{row['nats']:.2f}" for row in of)
            took, what = ("fit_ms", "a fit") if contender == MIXTURE else ("step_ms", "a step")
            spent = statistics.median(row[took] for row in of)
            about = f"{of[0]['parameters']} parameters, {what} {spent:.1f} ms"
            cells.append(f"**{mean(of, 'nats'):.2f}** ({nats}); {about}")
        lines.append(f"| {name} | {SETS[name][0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """Samples of the sets of two dimensions, and the densities."""
    from matplotlib.figure import Figure

    drawn = [row for row in rows if "density" in row]
    names = list(dict.fromkeys(row["set"] for row in drawn))
    figure = Figure(figsize=(11, 2.8 * len(names)), layout="constrained")
    around = (-REACH, REACH, -REACH, REACH)
    for axes, name in zip(figure.subplots(len(names), 4, squeeze=False), names):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            points = SETS[name][1](2000)
        axes[0].scatter(*points.T, s=1, color=INK)
        axes[0].set_title(f"{name}: samples", fontsize="medium")
        for axis, row in zip(axes[1:], (row for row in drawn if row["set"] == name)):
            density = unpacked(row["density"]).view(SIDE, SIDE).T
            axis.imshow(density.numpy(), origin="lower", extent=around, cmap="viridis", vmin=0)
            axis.set_title(row["network"], fontsize="medium")
        for axis in axes:
            axis.set(xlim=around[:2], ylim=around[:2], aspect="equal", xticks=[], yticks=[])
    return {"density": figure}


EXPERIMENT = Experiment(
    name="density",
    title="Densities by convex potential flows, affine coupling flows and Gaussian mixtures.",
    source="Huang, Chen, Tsirigotis, Courville, Convex Potential Flows, arXiv 2012.05942, for the flow",
    settings={
        "sets": list(SETS),
        "points": 10_000,
        "seeds": 3,
        "steps": 1000,
        "rates": [3e-3, 1e-2, 3e-2],
        "components": COMPONENTS,
    },
    quick={"seeds": 1, "points": 1000, "steps": 20, "rates": [1e-2], "components": 4, "sets": list(SETS)[:2]},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
    extra="density",
)
