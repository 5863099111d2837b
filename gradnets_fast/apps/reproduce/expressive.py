"""Which architecture for what: `gradnets-fast reproduce expressive`.

Every family of networks of points, in two sizes, on five gradient fields: the Müller–Brown potential from 100 points,
the Hamiltonian of two bodies, minus the score of a Gaussian mixture, and two of convex functions; beside energies of
the same size by autograd.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast

from ..train.fields import make_field
from . import energies
from .contest import grouped, markdown, of_seeds, relative, significant, sized
from .experiment import Case, Experiment, Row, Settings
from .measures import parameters
from .peers import ByAutograd, ConvexEnergy, mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Field:
    """A gradient field to learn.

    Attributes:
        sample: (count, generator) -> points (count, d).
        gradient: points -> the field there, (count, d).
        convex: whether it is that of a convex function.
        points: how many of them are for training, or None for the experiment's number.
    """

    sample: Callable[[int, torch.Generator], Tensor]
    gradient: Callable[[Tensor], Tensor]
    convex: bool = False
    points: int | None = None


def gradient_of_energy(energy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of a function of points, (n, d) -> (n,), by autograd."""

    def gradient(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(energy(leaf).sum(), leaf)[0]

    return gradient


def two_bodies(y: Tensor) -> Tensor:
    """½|p₁|² + ½|p₂|² − 1/|q₁ − q₂| of y = (q₁, q₂, p₁, p₂) in the plane."""
    q, p = y.chunk(2, -1)
    H: Tensor = p.square().sum(-1) / 2 - 1 / (q[..., :2] - q[..., 2:]).norm(dim=-1)
    return H


def of_orbits(count: int, generator: torch.Generator) -> Tensor:
    """States of two bodies about their centre of mass, within 5 % of circular orbits."""
    radius, turn = 0.7 + 1.4 * torch.rand(count, 1, generator=generator), torch.rand(count, 1, generator=generator)
    angle = 2 * math.pi * turn
    outward, along = torch.cat([angle.cos(), angle.sin()], 1), torch.cat([-angle.sin(), angle.cos()], 1)
    q, p = radius * outward, along / (2 * radius.sqrt())
    y = torch.cat([q, -q, p, -p], 1)
    return y * (1 + 0.05 * torch.randn(count, 8, generator=generator))


CENTRES = 1.5 * torch.tensor([[math.cos(k * math.pi / 3), math.sin(k * math.pi / 3)] for k in range(6)])
WIDTH = 0.4


def of_mixture(count: int, generator: torch.Generator) -> Tensor:
    """Points of six Gaussians about a circle."""
    chosen = torch.randint(6, (count,), generator=generator)
    return CENTRES[chosen] + WIDTH * torch.randn(count, 2, generator=generator)


def mixture_energy(x: Tensor) -> Tensor:
    """−log p up to a constant."""
    return -torch.logsumexp(-(x.unsqueeze(1) - CENTRES).square().sum(-1) / (2 * WIDTH**2), 1)


def fields() -> dict[str, Field]:
    """All fields, by their names in the table."""
    convex2d, polymax = make_field("convex2d"), make_field("polymax", 16)
    return {
        "Müller–Brown": Field(energies.sample, energies.gradient, points=100),
        "two bodies": Field(of_orbits, gradient_of_energy(two_bodies)),
        "score": Field(of_mixture, gradient_of_energy(mixture_energy)),
        "convex2d": Field(convex2d.sample, convex2d.gradient, convex=True),
        "PolyMax": Field(polymax.sample, polymax.gradient, convex=True),
    }


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "RidgeGradNet, sin": lambda d, h: gradnets_fast.RidgeGradNet(d, h, "sin"),  # of tanh it would be monotone
    "GradNetC, 3 layers": lambda d, h: gradnets_fast.GradNetC(3, d, h, "tanh"),
    "GradNetM, 8 modules": lambda d, h: gradnets_fast.GradNetM(8, d, h, "weighted_softmax", linear="symmetric"),
    "DeepGradNet, 3 layers": lambda d, h: gradnets_fast.DeepGradNet(d, (h, h, h), "silu"),
    "energy by autograd, 3 layers": lambda d, h: ByAutograd(mlp((d, h, h, h, 1), nn.SiLU)),
}
MONOTONE: dict[str, Callable[[int, int], nn.Module]] = {
    "mRidgeGradNet": lambda d, h: gradnets_fast.mRidgeGradNet(d, h, "tanh", linear="psd"),
    "mGradNetC, 3 layers": lambda d, h: gradnets_fast.mGradNetC(3, d, h, "tanh", linear="psd"),
    "mGradNetM, 8 modules": lambda d, h: gradnets_fast.mGradNetM(8, d, h, "softmax", linear="psd"),
    "mDeepGradNet, 2 layers": lambda d, h: gradnets_fast.mDeepGradNet(d, (h, h), linear="psd"),
    "input-convex by autograd, 2 layers": lambda d, h: ByAutograd(ConvexEnergy(d, (h, h))),
}
"""By name: (d, width) -> a network; these for fields of convex functions, and those above for the others."""
UNIT_SCALE = {"RidgeGradNet, sin", "mRidgeGradNet", "mGradNetC, 3 layers"}
"""Networks whose default start grows with the width, and which begin with a Jacobian of size 1 here."""


def cases(settings: Settings) -> Sequence[Case]:
    """Every network in every size, on every field that it is for."""
    return [
        {"network": name, "budget": budget, "field": field, "seed": seed}
        for field, of in fields().items()
        for name in (MONOTONE if of.convex else NETWORKS)
        for budget in settings["budgets"]
        for seed in range(settings["seeds"])
    ]


def run(case: Case, settings: Settings) -> Row:
    """Learn the field at points of a seed; the error at others."""
    field = fields()[case["field"]]
    generator = torch.Generator().manual_seed(case["seed"])
    x, test = (field.sample(n, generator) for n in (field.points or settings["points"], settings["test"]))
    g, target = field.gradient(x), field.gradient(test)
    centre, width, unit = x.mean(0), x.std(), g.std()
    make = {**NETWORKS, **MONOTONE}[case["network"]]
    net: Any = sized(lambda h: make(x.shape[1], h), case["budget"])
    if case["network"] in UNIT_SCALE:
        gradnets_fast.init_unit_scale_(net)
    start = time.perf_counter()
    gradnets_fast.fit(
        net,
        (x - centre) / width,
        gradients=g / unit,
        steps=settings["steps"],
        batch_size=min(settings["batch"], len(x)),
        learning_rate=settings["rate"],
        seed=case["seed"],
        progress=False,
    )
    spent = 1e3 * (time.perf_counter() - start) / settings["steps"]
    with torch.no_grad():
        error = relative(net((test - centre) / width) * unit, target)
    return {"error": error, "parameters": parameters(net), "step_ms": spent}


def table(rows: Sequence[Row]) -> str:
    """A table for both kinds of fields."""
    kinds = [[row for row in rows if (row["network"] in MONOTONE) == convex] for convex in (False, True)]
    return "\n\n".join(_table(of_kind) for of_kind in kinds if of_kind) + (
        "\n\nRelative errors of the gradient at other points in percent, mean of the seeds (least – largest), the "
        "least of a field and size in bold, and the milliseconds of a step of training, the least of the seeds.  The "
        "last network of each table is an energy as one writes it with autograd."
    )


def _table(rows: Sequence[Row]) -> str:
    """A line for each network and size, a column for each field."""
    names = list(dict.fromkeys(row["field"] for row in rows))
    found = grouped(rows, "network", "budget", "field")
    means = {key: sum(row["error"] for row in of) / len(of) for key, of in found.items()}
    lines = []
    order = [*NETWORKS, *MONOTONE]
    for network, budget in sorted(grouped(rows, "network", "budget"), key=lambda pair: (pair[1], order.index(pair[0]))):
        of_fields = [found.get((network, budget, field), []) for field in names]
        errors = [of_seeds([100 * row["error"] for row in of]) for of in of_fields]
        least = [min(mean for (_, size, at), mean in means.items() if (size, at) == (budget, field)) for field in names]
        bold = [
            f"**{text}**" if of and means[network, budget, field] == mean else text
            for text, of, field, mean in zip(errors, of_fields, names, least)
        ]
        steps = [significant(min(row["step_ms"] for row in of)) if of else "–" for of in of_fields]
        lines.append([network, str(budget), *bold, " / ".join(steps)])
    return markdown(["network", "parameters, about", *names, "ms a step"], lines)


_COLOURS = ("#8d99ae", "#e0a458", "#1b6b93", "#2a9d6f", "#c1440e")


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """Errors over the time of a step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    names = list(dict.fromkeys(row["field"] for row in rows))
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    colours = dict(zip((*NETWORKS, *MONOTONE), _COLOURS * 2))
    for axes, field in zip(figure.subplots(1, len(names)), names):
        for (network, budget), of in grouped([r for r in rows if r["field"] == field], "network", "budget").items():
            error, step = sum(row["error"] for row in of) / len(of), min(row["step_ms"] for row in of)
            marker = "s" if network in MONOTONE else "o"
            size = 30 if budget == min(settings["budgets"]) else 90
            label = network if budget == max(settings["budgets"]) else None
            axes.scatter(step, 100 * error, color=colours[network], marker=marker, s=size, label=label)
        axes.set(title=field, xlabel="ms a step", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            least, most = axis.get_view_interval()
            digits = (1, 2, 5) if most > 6 * least else (1, 1.5, 2, 3, 5, 7)
            ticks = [digit * 10.0**power for power in (-1, 0, 1) for digit in digits]
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    figure.axes[0].set_ylabel("relative error, %")
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=5, fontsize="small", frameon=False)
    return {"expressive": figure}


EXPERIMENT = Experiment(
    name="expressive",
    title="Every family of networks of points, in two sizes, on five fields, beside energies by autograd.",
    source="Müller, Brown, Theoretica Chimica Acta 53 (1979); arXiv 1906.01563, of two bodies; arXiv 2404.07361",
    settings={
        "budgets": [500, 2000],
        "points": 10_000,
        "test": 4000,
        "batch": 100,
        "steps": 2000,
        "rate": 1e-2,
        "seeds": 3,
    },
    quick={"budgets": [300, 600], "points": 1000, "test": 500, "steps": 30, "seeds": 1},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
