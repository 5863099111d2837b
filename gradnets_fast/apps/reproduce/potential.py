"""What is learned of a potential from its gradients, its values, or both: `gradnets-fast reproduce potential`.

GradNetC (mGradNetC for the convex field), 4 layers of 32, by `gradnets_fast.fit` on few points.  Errors on a grid of
100 × 100 points: the root mean square of |f − ∇F|, and of the potential's error about its mean, which gradients leave
open, each over that of the function itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import gradnets_fast

from ..train.fields import make_field
from .drawing import SERIES
from .experiment import Case, Experiment, Row, Settings
from .runner import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHTS = {"gradients": (1.0, 0.0), "values": (0.0, 1.0), "both": (1.0, 1.0)}
"""What is fitted, with the weights of gradients and values, which are divided by their variances."""
_TICKS = (0.01, 0.03, 0.1, 0.3, 1.0)
NETWORKS = {"convex2d": gradnets_fast.mGradNetC, "nonconvex2d": gradnets_fast.GradNetC}


def cases(settings: Settings) -> list[Case]:
    """Each field from each number of points, from each kind of data, for each seed."""
    everything = product(NETWORKS, settings["points"], WEIGHTS, range(settings["seeds"]))
    return [{"field": field, "points": count, "fitted": fitted, "seed": s} for field, count, fitted, s in everything]


def size(t: Tensor) -> Tensor:
    """The root of the mean square about the mean over points."""
    return (t - t.mean(0)).square().mean().sqrt()


def run(case: Case, settings: Settings) -> Row:
    """Fits a network, and measures the errors of its gradient and its potential on the grid."""
    field = make_field(case["field"])
    x = field.sample(case["points"], torch.Generator().manual_seed(case["seed"]))
    g, F = field.gradient(x), field.potential(x)
    net = NETWORKS[case["field"]](4, 2, 32)
    of_gradients, of_values = WEIGHTS[case["fitted"]]
    gradnets_fast.fit(
        net,
        x,
        gradients=g if of_gradients else None,
        values=F if of_values else None,
        weights=(float(1 / size(g) ** 2), float(1 / size(F) ** 2)),
        steps=settings["steps"],
        progress=False,
    )
    grid = field.test_points()
    with torch.no_grad():
        F_net, f = net.value_and_gradient(grid)
    g, F = field.gradient(grid), field.potential(grid)
    return {
        "gradient": float((f - g).square().mean().sqrt() / size(g)),
        "potential": float(size(F_net - F) / size(F)),
    }


def table(rows: Sequence[Row]) -> str:
    """Relative errors of gradient / potential, means of the seeds."""
    lines = [f"| field | points | {' | '.join(WEIGHTS)} |", "|---|---|" + "---|" * len(WEIGHTS)]
    for field, count in dict.fromkeys((row["field"], row["points"]) for row in rows):
        cells = []
        for fitted in WEIGHTS:
            of = [row for row in rows if (row["field"], row["points"], row["fitted"]) == (field, count, fitted)]
            pair = (percent(mean(of, quantity)) for quantity in ("gradient", "potential"))
            cells.append(" / ".join(pair) if of else "")
        lines.append(f"| {field} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def percent(part: float) -> str:
    """A part with two digits.

    >>> percent(0.345), percent(0.0345)
    ('34 %', '3.5 %')
    """
    return f"{100 * part:.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The errors of gradient and potential by the number of points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    for line, field in zip(figure.subplots(2, 2, sharex=True, sharey=True), NETWORKS):
        for axis, quantity in zip(line, ("gradient", "potential")):
            for colour, fitted in zip(SERIES, WEIGHTS):
                of = [row for row in rows if (row["field"], row["fitted"]) == (field, fitted)]
                counts = sorted({row["points"] for row in of})
                errors = [mean([row for row in of if row["points"] == count], quantity) for count in counts]
                axis.plot(counts, errors, color=colour, marker="o", label=f"from {fitted}")
            axis.set(xscale="log", yscale="log", title=f"{field}: {quantity}", ylabel="relative error")
            axis.set_xticks(settings["points"], [str(count) for count in settings["points"]])
            axis.set_yticks(_TICKS, [percent(tick) for tick in _TICKS])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    for axis in figure.axes[2:]:
        axis.set_xlabel("points")
    figure.axes[0].legend(frameon=False)
    return {"potential": figure}


EXPERIMENT = Experiment(
    name="potential",
    title="A potential learned from few gradients, from values, and from both.",
    source="the fields of Chaudhari, Pranav, Moura, Gradient Networks, arXiv 2404.07361; the question is our own",
    settings={"seeds": 3, "points": [20, 50, 200], "steps": 1000},
    quick={"seeds": 1, "points": [20, 200], "steps": 100},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
