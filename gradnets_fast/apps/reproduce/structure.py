"""Planted structure, found again: `gradnets-fast reproduce structure`.

- sparse: the field Σ_k w_k tanh(<w_k, x>) of three directions in ten dimensions, from noisy values at 500 points, by
  RidgeGradNet of 64 hidden units; alone, and with the group lasso's proximal map after each step and `pruned` after
  training.  Its penalty is the largest whose error on points held out is within 5 % of the smallest; the units that
  are left are then trained on without it, for the penalty has made them too small.
- low rank: a cascade of two directions in twenty dimensions, from 500 noisy values, by GradNetC and by LowRank of two
  directions with GradNetC inside, of as many hidden units.

Errors are relative root mean squares on 10,000 other points.  A direction's error is the largest of the sines of the
principal angles between the planted directions and the r strongest of the mean of JᵀJ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast.nn import GradNet
from gradnets_fast.structure import LowRank, group_soft_threshold_, pruned

from .drawing import MARK, OTHER, OURS
from .experiment import Case, Experiment, Row, Settings
from .measures import milliseconds, parameters
from .potential import percent
from .runner import mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST, NOISE, RATE = 10_000, 0.02, 1e-2
LABELS = {"sparse": "3 ridge functions, d = 10", "low rank": "2 directions, d = 20"}


def cases(settings: Settings) -> list[Case]:
    """Each kind of structure for each seed, with the networks that look for it and that do not."""
    return [{"planted": kind, "seed": seed} for kind, seed in product(LABELS, range(settings["seeds"]))]


def run(case: Case, settings: Settings) -> Row:
    """Plants a structure, trains the networks, and measures them; "networks" has what was found of each."""
    return sparse(settings) if case["planted"] == "sparse" else low_rank(settings)


def trained(net: GradNet, x: Tensor, target: Tensor, steps: int, penalty: float = 0.0) -> GradNet:
    """Steps of Adam on the squared error, each followed by the penalty's proximal map."""
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate = RATE * (1 - step / steps)
        optimizer.zero_grad()
        gradnets_fast.squared_error(net, x, target).backward()
        optimizer.step()
        if penalty:
            group_soft_threshold_(net, rate * penalty)
    return net


def sparse(settings: Settings) -> Row:
    """Planted ridge functions."""
    points, steps = settings["points"], settings["steps"]
    planted: Tensor = torch.linalg.qr(torch.randn(10, 3)).Q.T * torch.tensor([[1.0], [1.5], [2.0]])

    def field(x: Tensor) -> Tensor:
        return (x @ planted.T).tanh() @ planted

    x, held, test = torch.randn(points, 10), torch.randn(points, 10), torch.randn(TEST, 10)
    target, of_held = (field(at) + NOISE * torch.randn(points, 10) for at in (x, held))
    start = gradnets_fast.RidgeGradNet(10, settings["hidden"]).state_dict()

    def fresh() -> GradNet:
        net = gradnets_fast.RidgeGradNet(10, settings["hidden"])
        net.load_state_dict(start)
        return net

    found = {penalty: pruned(trained(fresh(), x, target, steps, penalty)) for penalty in settings["penalties"]}
    errors = {penalty: relative_error(net, held, of_held) for penalty, net in found.items()}
    chosen = max(penalty for penalty, error in errors.items() if error <= 1.05 * min(errors.values()))
    nets = {
        "RidgeGradNet": trained(fresh(), x, target, steps),
        "group lasso, pruned": trained(found[chosen], x, target, steps),
    }
    return {"networks": measured(nets, test, field(test), planted), "penalty": chosen}


def low_rank(settings: Settings) -> Row:
    """Planted directions."""
    planted: Tensor = torch.linalg.qr(torch.randn(20, 2)).Q.T
    inner = gradnets_fast.GradNetC(2, 2, 16)
    with torch.no_grad():
        inner.W.mul_(4)

    def field(x: Tensor) -> Tensor:
        f: Tensor = inner(x @ planted.T).detach()
        return f @ planted

    x, test = torch.randn(settings["points"], 20), torch.randn(TEST, 20)
    target = field(x)
    target = target + NOISE * target.square().mean().sqrt() * torch.randn(target.shape)
    hidden = settings["hidden"]
    nets: dict[str, GradNet] = {
        "GradNetC": gradnets_fast.GradNetC(2, 20, hidden),
        "LowRank, 2 directions": LowRank(gradnets_fast.GradNetC(2, 2, hidden), 20),
    }
    for net in nets.values():
        trained(net, x, target, settings["steps"])
    return {"networks": measured(nets, test, field(test), planted)}


@torch.no_grad()
def measured(nets: dict[str, GradNet], x: Tensor, exact: Tensor, planted: Tensor) -> dict[str, dict[str, Any]]:
    """Error, angle to what was planted, size and time of f of each network."""
    spent = milliseconds({name: lambda net=net: net(x) for name, net in nets.items()})  # type: ignore[misc]
    return {
        name: {
            "error": relative_error(net, x, exact),
            "angle": angle(net, x, planted),
            "units": int(getattr(net, "embed_dim", 0)) or int(getattr(getattr(net, "net", None), "embed_dim", 0)),
            "parameters": parameters(net),
            "ms": spent[name],
        }
        for name, net in nets.items()
    }


@torch.no_grad()
def relative_error(net: GradNet, x: Tensor, target: Tensor) -> float:
    """The root of the mean squared error over that of the target."""
    return float((net(x) - target).norm() / target.norm())


def angle(net: GradNet, x: Tensor, planted: Tensor) -> float:
    """The largest sine of the principal angles between the planted directions (r, d) and the strongest of J."""
    with torch.no_grad():
        J = net.jacobian(x[:1000])
    strongest = torch.linalg.eigh((J.mT @ J).mean(0)).eigenvectors[:, -len(planted) :]
    within = torch.linalg.svdvals(torch.linalg.qr(planted.T).Q.T @ strongest)
    return float((1 - within.min().clamp(max=1) ** 2).sqrt())


def by_network(rows: Sequence[Row]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What was found of each network in all seeds, by what was planted."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        for name, one in row["networks"].items():
            found.setdefault((row["planted"], name), []).append(one)
    return found


def table(rows: Sequence[Row]) -> str:
    """What was found, its error and time, beside a network that does not look for it."""
    lines = [
        "| planted | network | hidden units | parameters | error | sine of the angle to what was planted | f |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, name), of in by_network(rows).items():
        units = ", ".join(str(one["units"]) for one in of)
        count = ", ".join(dict.fromkeys(str(one["parameters"]) for one in of))
        cells = [percent(mean(of, "error")), f"{mean(of, 'angle'):.3f}", f"{mean(of, 'ms'):.2f} ms"]
        lines.append(f"| {LABELS[kind]} | {name} | {units} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """Each seed's errors and hidden units."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    found = by_network(rows)
    for axis, quantity in zip(figure.subplots(1, 2, sharey=True), ("error", "units")):
        for y, ((_, name), of) in enumerate(found.items()):
            colour = OURS if "," in name else OTHER
            axis.scatter([one[quantity] for one in of], [y] * len(of), color=colour, s=28)
        axis.set_xlabel({"error": "relative error", "units": "hidden units"}[quantity])
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[1].plot([3, 3], [-0.5, 1.5], color=MARK, linewidth=1)
    figure.axes[1].annotate("planted", (3, 1.5), xytext=(6, -3), textcoords="offset points", color=MARK)
    for axis in figure.axes:
        axis.set_xlim(left=0)
    figure.axes[0].xaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
    figure.axes[0].set_yticks(range(len(found)), [f"{kind}: {name}" for kind, name in found])
    figure.axes[0].set_ylim(len(found) - 0.5, -0.5)
    return {"structure": figure}


EXPERIMENT = Experiment(
    name="structure",
    title="Planted sparse and low-rank potentials, found by networks that look for them and by ones that do not.",
    source="the question of sparse and low-rank weights is the first one of the outlook of arXiv 2404.07361",
    settings={"seeds": 3, "points": 500, "hidden": 64, "steps": 1500, "penalties": [3e-3, 1e-2, 3e-2, 1e-1]},
    quick={"seeds": 1, "steps": 150, "penalties": [1e-2, 1e-1]},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
