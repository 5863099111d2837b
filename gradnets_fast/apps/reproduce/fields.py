"""Gradient fields learned from their values: `gradnets-fast reproduce fields`.

Two fields in the plane and PolyMax, the maximum of three quadratics, each learned by gradient networks, by a plain
network, by the gradient of an energy with autograd (an input-convex one where the field is that of a convex function),
and by the best linear map.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast

from ..train.fields import make_field
from ..train.losses import decibel, mean_squared_error, nearest_module_loss
from ..train.ranks import Ranks
from .drawing import MARK, OTHER, OURS
from .experiment import Case, Experiment, Row, Settings
from .measures import asymmetry, jacobians, negativity, parameters
from .peers import ByAutograd, ConvexEnergy, Map, least_squares, mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINEAR = "linear, least squares"
PUBLISHED = {
    ("convex2d", "mGradNetC"): "-49.05 ± 0.96",
    ("convex2d", "mGradNetM"): "-48.65 ± 4.87",
    ("nonconvex2d", "GradNetC"): "-42.17 ± 3.98",
    ("nonconvex2d", "GradNetM"): "-39.53 ± 3.45",
    ("polymax", "mGradNetC"): "-10.64",
    ("polymax", "mGradNetM"): "-11.30",
}
"""Errors in dB of arXiv 2404.07361; those of PolyMax with about 261 000 parameters and without a linear part."""
MODULES = "mGradNetM, soft maximum"
CONSTANT = {"mGradNetM", "GradNetM"}
"""Networks in the plane that keep their learning rate, 0.005; that of the others falls from 0.01 to 0."""


def network(field: str, name: str, d: int) -> nn.Module:
    """A network by its name in the table: in the plane about 100 parameters, for PolyMax in 256 dimensions 200,000."""
    if field == "polymax":
        of_polymax: dict[str, Any] = {
            MODULES: lambda: gradnets_fast.mGradNetM(
                3, d, d, activation="identity", transform="identity", combine="logsumexp"
            ),
            "mGradNetC": lambda: gradnets_fast.mGradNetC(4, d, 2 * d, activation="tanh", linear="psd"),
            "MLP": lambda: mlp((d, 3 * d // 2, d)),
            "input-convex, autograd": lambda: ByAutograd(ConvexEnergy(d, (d, d))),
        }
        made: nn.Module = of_polymax[name]()
        return made
    in_the_plane: dict[str, Any] = {
        "mGradNetC": lambda: gradnets_fast.mGradNetC(4, 2, 7, activation="tanh"),
        "mGradNetM": lambda: gradnets_fast.mGradNetM(4, 2, 7),
        "GradNetC": lambda: gradnets_fast.GradNetC(4, 2, 7, activation="tanh"),
        "GradNetM": lambda: gradnets_fast.GradNetM(4, 2, 7),
        "MLP": lambda: mlp((2, 7, 7, 2)),
        "input-convex, autograd": lambda: ByAutograd(ConvexEnergy(2, (7, 7))),
        "energy, autograd": lambda: ByAutograd(mlp((2, 8, 8, 1))),
    }
    made = in_the_plane[name]()
    return made


def cases(settings: Settings) -> list[Case]:
    """Each field with each network that suits it, for each seed."""
    names = {
        "convex2d": ("mGradNetC", "mGradNetM", "MLP", "input-convex, autograd", LINEAR),
        "nonconvex2d": ("GradNetC", "GradNetM", "MLP", "energy, autograd", LINEAR),
        "polymax": (MODULES, "mGradNetC", "MLP", "input-convex, autograd", LINEAR),
    }
    seeds = {field: range(settings["polymax_seeds" if field == "polymax" else "seeds"]) for field in names}
    return [
        {"field": field, "network": name, "seed": seed}
        for field in names
        for name in names[field]
        for seed in seeds[field]
    ]


def run(case: Case, settings: Settings) -> Row:
    """Trains a network, and measures its error on other points, and of some Jacobians how far from symmetric and from
    positive semidefinite they are."""
    plane = case["field"] != "polymax"
    field = make_field(case["field"], None if plane else settings["polymax_d"])
    of_seed = torch.Generator().manual_seed(case["seed"])
    x, test = field.sample(settings["points"], of_seed), field.test_points()
    g, target = field.gradient(x), field.gradient(test)
    if not plane:
        x, test = x - 0.5, test - 0.5
    found = _learned(case, settings, x, g)
    with torch.no_grad():
        error = decibel(float(mean_squared_error(found(test), target)))
    J = jacobians(found, test[:: max(1, len(test) // 50)])
    count = parameters(found) or (field.dim + 1) * field.dim // 2 + field.dim
    return {"error_db": error, "parameters": count, "asymmetry": asymmetry(J), "negativity": negativity(J)}


def _learned(case: Case, settings: Settings, x: Tensor, g: Tensor) -> Map:
    """The map that a contender learns from points and the field there."""
    field, name = case["field"], case["network"]
    if name == LINEAR:
        return least_squares(x, g, monotone=field != "nonconvex2d")
    net = network(field, name, x.shape[1])
    if name == MODULES:
        assert isinstance(net, gradnets_fast.mGradNetM)
        _fit_nearest(net, x, g, settings)
        return net
    plane = "plane" if field != "polymax" else "polymax"
    how: dict[str, Any] = {"learning_rate": 1e-2 if plane == "plane" else 3e-3}
    if name in CONSTANT:
        how = {"learning_rate": 5e-3, "schedule": "constant"}
    sizes = {"steps": settings[f"{plane}_steps"], "batch_size": settings[f"{plane}_batch"]}
    gradnets_fast.fit(net, x, gradients=g, seed=case["seed"], progress=False, **sizes, **how)
    return net


def _fit_nearest(net: gradnets_fast.mGradNetM, x: Tensor, g: Tensor, settings: Settings) -> None:
    """Adam on the loss that has each module of a soft maximum fit the points whose gradients it is nearest to."""
    steps, ranks = settings["polymax_steps"], Ranks()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (settings["polymax_batch"],))
        loss, _error = nearest_module_loss(net, x[rows], g[rows], ranks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def by_network(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of all seeds, by field and network."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["field"], row["network"]), []).append(row)
    return found


def spread(rows: Sequence[Row]) -> str:
    """Mean and standard deviation of the error over the seeds, in dB."""
    errors = [row["error_db"] for row in rows]
    return f"{statistics.mean(errors):.2f}" + (f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else "")


def table(rows: Sequence[Row]) -> str:
    """Errors in dB beside the published ones, and the worst Jacobian of any seed."""
    lines = [
        "| field | map | parameters | error, dB | published, dB | asymmetry | negative eigenvalue |",
        "|---|---|---|---|---|---|---|",
    ]
    for (field, name), of in by_network(rows).items():
        worst = [f"{max(row[key] for row in of):.1e}" for key in ("asymmetry", "negativity")]
        worst[1] = "" if field == "nonconvex2d" else worst[1]
        published = PUBLISHED.get((field, name.partition(",")[0]), "")
        cells = [field, name, str(of[0]["parameters"]), spread(of), published, *worst]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """For each field the errors of the seeds, and the published mean."""
    from matplotlib.figure import Figure

    found = by_network(rows)
    names = list(dict.fromkeys(field for field, _ in found))
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axis, field in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        of_field = {name: of for (where, name), of in found.items() if where == field}
        for y, (name, of) in enumerate(of_field.items()):
            colour = OURS if "GradNet" in name else OTHER
            axis.scatter([row["error_db"] for row in of], [y] * len(of), color=colour, s=28)
            published = PUBLISHED.get((field, name.partition(",")[0]))
            if published is not None:
                axis.scatter(float(published.partition(" ")[0]), y, color=MARK, marker="|", s=260, linewidths=2)
        axis.set_yticks(range(len(of_field)), list(of_field))
        axis.set_ylim(len(of_field) - 0.5, -0.5)
        axis.set(title=field, xlabel="error, dB (left is better)")
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("each seed; the paper's mean is the orange line", fontsize="medium")
    return {"fields": figure}


EXPERIMENT = Experiment(
    name="fields",
    title="Gradient fields learned by gradient networks, plain networks, energies by autograd and linear maps.",
    source="Chaudhari, Pranav, Moura, Gradient Networks, arXiv 2404.07361: the fields, and the errors called published",
    settings={
        "seeds": 3,
        "polymax_seeds": 1,
        "points": 100_000,
        "plane_steps": 20_000,
        "plane_batch": 1000,
        "polymax_d": 256,
        "polymax_steps": 10_000,
        "polymax_batch": 100,
    },
    quick={"seeds": 1, "polymax_seeds": 1, "points": 10_000, "plane_steps": 200, "polymax_d": 12, "polymax_steps": 200},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
