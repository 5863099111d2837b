"""Scores of Gaussian mixtures, learned by denoising and by exact score matching, and samples drawn with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import gradnets_fast
from gradnets_fast.score import denoising_score_loss, langevin, score_matching_loss

from .contest import grouped, markdown, of_seeds, relative, sized, trained
from .experiment import Case, Experiment, Row, Settings
from .measures import parameters
from .peers import mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXACT, UNCONSTRAINED = "exact score", "MLP"
SHOWN = 500
"""Samples that a result keeps for the figure."""


class Unconstrained(nn.Module):
    """A perceptron for minus the score, with the divergence by d backward passes."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.layers = mlp((d, width, width, d), nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = self.layers(x)
        return f

    def divergence(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        columns = [torch.autograd.grad(f_i.sum(), x, create_graph=True)[0] for f_i in self(x).unbind(-1)]
        return torch.stack(columns, -1).diagonal(dim1=-2, dim2=-1).sum(-1)


class Exact(nn.Module):
    """Minus the score of a density that is known."""

    def __init__(self, density: MixtureSameFamily) -> None:
        super().__init__()
        self.density = density

    def potential(self, x: Tensor) -> Tensor:
        E: Tensor = -self.density.log_prob(x)
        return E

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.potential(x).sum(), x)[0]


NETWORKS: dict[str, Any] = {
    "GradNetM, 8 modules": lambda d, h: gradnets_fast.GradNetM(8, d, h, "weighted_softmax", linear="psd"),
    "GradNetC, 3 layers": lambda d, h: gradnets_fast.GradNetC(3, d, h, "tanh", linear="psd"),
    "DeepGradNet, 2 layers": lambda d, h: gradnets_fast.DeepGradNet(d, (h, h), "tanh", linear="psd"),
    UNCONSTRAINED: Unconstrained,
}
"""By name: (d, width) -> a network that learns f, minus the score.  Of the first three all but the linear part of f is
bounded, and that is positive definite, so that exp(−E) has an integral and no chain runs away."""


def mixture(d: int, width: float) -> MixtureSameFamily:
    """Six normal distributions of this standard deviation: about a circle in the plane, else in random directions."""
    angles = 2 * math.pi * torch.arange(6) / 6
    directions = torch.randn(6, d, generator=torch.Generator().manual_seed(d))
    centres = torch.stack([angles.cos(), angles.sin()], 1) if d == 2 else nn.functional.normalize(directions)
    return MixtureSameFamily(Categorical(torch.ones(6)), Independent(Normal(1.5 * centres, width), 1))


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 200) -> float:
    """The root of the mean over directions of the squared Wasserstein-2 distance of as many projections of both."""
    unit = nn.functional.normalize(torch.randn(directions, x.shape[1], generator=torch.Generator().manual_seed(0)))
    projected = [(points @ unit.T).sort(0).values for points in (x, y)]
    return float((projected[0] - projected[1]).square().mean().sqrt())


def curl(net: nn.Module, x: Tensor) -> float:
    """The norm of the Jacobian's antisymmetric part over that of the Jacobian."""
    J = torch.func.vmap(torch.func.jacrev(net))(x).detach()
    return float((J - J.mT).norm() / (2 * J.norm()))


def cases(settings: Settings) -> Sequence[Case]:
    """Every network, in every dimension, with both losses."""
    return [
        {"d": d, "loss": loss, "network": network, "seed": seed}
        for d in settings["dimensions"]
        for loss in ("exact", "denoising")
        for network in (*NETWORKS, EXACT)
        for seed in range(settings["seeds"])
    ]


def run(case: Case, settings: Settings) -> Row:
    """Learn a score, draw samples with it, and compare both with the density's own."""
    d, sigma = case["d"], settings["sigma"] if case["loss"] == "denoising" else 0.0
    clean, density = (mixture(d, math.hypot(settings["width"], noise)) for noise in (0.0, sigma))

    def loss() -> Tensor:
        x = clean.sample((settings["batch"],))
        return denoising_score_loss(net, x, sigma) if sigma else score_matching_loss(net, x)

    row: Row = {"parameters": None, "step_ms": None}
    net: Any = Exact(density)
    if case["network"] != EXACT:
        net = sized(lambda width: NETWORKS[case["network"]](d, width), settings["parameters"])
        row = {"parameters": parameters(net), "step_ms": trained(net, loss, settings["steps"], settings["rate"])}

    x = density.sample((settings["test"],))
    with torch.no_grad():
        row["error"] = relative(net(x), Exact(density)(x))
    if case["network"] != EXACT:
        row["curl"] = curl(net, x[:200])

    start = 1.5 * torch.randn_like(x)
    for name, metropolis in (("langevin", False), ("metropolis", True)):
        if metropolis and case["network"] == UNCONSTRAINED:
            continue  # without an energy there is no rule to accept a step by
        found = langevin(net, start, settings["chain"], settings["step"], metropolis)
        row[name] = sliced_wasserstein(found.x, density.sample((len(x),)))
        if d == 2 and not (sigma or metropolis or case["seed"]):
            row["samples"] = [round(value, 2) for value in found.x[:SHOWN].flatten().tolist()]
    row["floor"] = sliced_wasserstein(x, density.sample((len(x),)))
    return row


def table(rows: Sequence[Row]) -> str:
    """A line for each dimension, loss and network."""
    columns = {"error": "error of the score", "curl": "curl", "langevin": "samples", "metropolis": "with Metropolis"}
    lines = []
    for (d, loss, network), of in grouped(rows, "d", "loss", "network").items():
        numbers = [of_seeds([row.get(key) for row in of]) for key in columns]
        if network == EXACT:
            numbers[:2] = ["0", "0"]
        elif network != UNCONSTRAINED:
            numbers[1] = "0" if max(row["curl"] for row in of) < 1e-5 else numbers[1]
        size, step = str(of[0]["parameters"] or "–"), of_seeds([row["step_ms"] for row in of][:1])
        lines.append([str(d), loss, network, size, step, *numbers, of_seeds([row["floor"] for row in of][:1])])
    header = ["d", "loss", "network", "parameters", "a step, ms", *columns.values(), "fresh samples"]
    return markdown(header, lines) + (
        "\n\nError of the score: relative, at points of the density.  Curl: norm of the Jacobian's antisymmetric part "
        "over that of the Jacobian.  Samples: sliced Wasserstein-2 distance of Langevin samples to fresh points of the "
        "density; the last column is that between two sets of fresh points.  Mean of the seeds (least – largest)."
    )


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """Samples in the plane, drawn with each score that was learned by exact score matching."""
    shown = [row for row in rows if "samples" in row]
    if not shown:
        return {}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.3 * len(shown), 2.7), layout="constrained")
    line = torch.linspace(-3.2, 3.2, 120)
    p = mixture(2, settings["width"]).log_prob(torch.cartesian_prod(line, line)).exp().view(120, 120)
    for axes, row in zip(figure.subplots(1, len(shown), sharex=True, sharey=True).flat, shown):
        axes.contour(line, line, p.T, levels=6, colors="#8d99ae", linewidths=0.7)
        axes.scatter(row["samples"][::2], row["samples"][1::2], s=4, linewidths=0, color="#1b6b93")
        axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xticks=[], yticks=[])
        axes.set_title(row["network"], fontsize="small")
    return {"score": figure}


EXPERIMENT = Experiment(
    name="score",
    title="Scores of Gaussian mixtures by networks that are gradients, and by one that need not be, with samples.",
    source="Hyvärinen, JMLR 6 (2005), equation 4; Vincent, Neural Computation 23 (2011), equation 11",
    settings={
        "dimensions": [2, 8],
        "width": 0.4,
        "sigma": 0.2,
        "parameters": 1200,
        "batch": 250,
        "steps": 1000,
        "rate": 1e-2,
        "test": 2000,
        "chain": 300,
        "step": 0.02,
        "seeds": 3,
    },
    quick={"dimensions": [2], "parameters": 600, "batch": 200, "steps": 60, "test": 500, "chain": 50, "seeds": 1},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
