"""Poisson's equation by the Laplacian of a network: `gradnets-fast reproduce poisson`.

ΔF = g inside a square and F = u on its boundary; the solution u = eˣ sin πy + ½ sin 2πx cos πy is known, so that the
error is.  The loss is the mean square of the residuals at random points, weighted on the boundary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import gradnets_fast

from .comparison import KERNELS, Task, Training, compared, of_contender, same_energy, table
from .drawing import packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .peers import WithConstant, mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSIDE, ON_BOUNDARY, WEIGHT = 1000, 200, 500.0
CASCADE = "GradNetC, 3 layers of 128, sin"
SIDE = 80
"""Points of the drawn grid, each way."""


def solution(x: Tensor) -> Tensor:
    """u at points (…, 2), (…,)."""
    x, y = x.unbind(-1)
    return x.exp() * (math.pi * y).sin() + 0.5 * (2 * math.pi * x).sin() * (math.pi * y).cos()


def laplacian(x: Tensor) -> Tensor:
    """Δu = (1 − π²) eˣ sin πy − 5π²/2 sin 2πx cos πy, (…,)."""
    x, y = x.unbind(-1)
    first = (1 - math.pi**2) * x.exp() * (math.pi * y).sin()
    return first - 2.5 * math.pi**2 * (2 * math.pi * x).sin() * (math.pi * y).cos()


def loss(net: Any, inside: Tensor, g: Tensor, boundary: Tensor, u: Tensor) -> Tensor:
    """Mean squares of ΔF − g inside and F − u on the boundary."""
    residual, difference = net.divergence(inside) - g, net.potential(boundary) - u
    whole: Tensor = residual.square().mean() + WEIGHT * difference.square().mean()
    return whole


def errors(net: Any) -> dict[str, float]:
    """‖F − u‖/‖u‖ on a grid."""
    grid = square(101)
    with torch.no_grad():
        difference = net.potential(grid) - solution(grid)
    return {"relative L2 error": (difference.norm() / solution(grid).norm()).item()}


def square(side: int) -> Tensor:
    """A grid on the square, (side², 2)."""
    line = torch.linspace(0, 1, side)
    return torch.cartesian_prod(line, line)


def shown(net: Any) -> Row:
    """The error on the drawn grid."""
    with torch.no_grad():
        return {"difference": packed(net.potential(square(SIDE)) - solution(square(SIDE)))}


def cases(settings: Settings) -> list[Case]:
    """One for each seed, of random points and networks."""
    return [{"seed": seed} for seed in range(settings["seeds"])]


def make(seed: int) -> Task:
    """The networks and the random points of a seed."""
    generator, sides = torch.Generator().manual_seed(seed), torch.arange(ON_BOUNDARY)

    def batch() -> tuple[Tensor, ...]:
        inside, boundary = (torch.rand(count, 2, generator=generator) for count in (INSIDE, ON_BOUNDARY))
        boundary[sides, sides % 2] = (sides // 2 % 2).float()
        return inside, laplacian(inside), boundary, solution(boundary)

    torch.manual_seed(seed)
    contenders = same_energy(mlp((2, 64, 64, 1)))
    contenders[CASCADE] = WithConstant(gradnets_fast.GradNetC(3, 2, 128, "sin"))
    return Task(contenders, loss, batch, errors, shown)


def run(case: Case, settings: Settings) -> Row:
    """Trains the networks by turns."""
    return compared(lambda: make(case["seed"]), Training(settings["steps"], 1e-2))


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The solution, and the errors of two networks of the first seed."""
    from matplotlib.figure import Figure

    wrong = {name: unpacked(of_contender(rows[:1], name)[0]["difference"]) for name in (KERNELS, CASCADE)}
    largest = float(max(difference.abs().max() for difference in wrong.values()))
    panels: dict[str, tuple[Any, ...]] = {"the solution u": (solution(square(SIDE)), "viridis", None, None)}
    titles = ("error, deep, two layers of 64", "error, GradNetC of sines")
    panels |= {title: (of, "RdBu", -largest, largest) for title, of in zip(titles, wrong.values())}
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, (title, (values, colours, low, high)) in zip(figure.subplots(1, 3), panels.items()):
        at = {"origin": "lower", "extent": (0, 1, 0, 1), "cmap": colours, "vmin": low, "vmax": high}
        figure.colorbar(axes.imshow(values.view(SIDE, SIDE).T.numpy(), **at), ax=axes)
        axes.set(title=title, xticks=[], yticks=[])
    return {"poisson": figure}


EXPERIMENT = Experiment(
    name="poisson",
    title="Poisson's equation by the Laplacian of a network: a deep energy by autograd and by kernels, and GradNetC.",
    source="Raissi, Perdikaris, Karniadakis, Physics-informed neural networks, Journal of Computational Physics 378 "
    "(2019), for the method",
    settings={"seeds": 3, "steps": 2000},
    quick={"seeds": 1, "steps": 20},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
