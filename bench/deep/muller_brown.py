"""Learns the Müller–Brown potential, a surface of three wells, from its gradient at 100 points.

    python -m bench.deep.muller_brown

The points are uniform where the potential, divided by 100, is below ½; all of them are in every step.
Source: Müller and Brown, "Location of saddle points and minimum energy paths by a constrained simplex optimization
procedure", Theoretica Chimica Acta 53 (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import gradnets_fast
from bench.deep.comparison import Task, Training, compared, layers, options, same_energy, squared_error
from gradnets_fast.apps.files import write_atomically

POINTS, TEST_POINTS, HIGHEST = 100, 4000, 0.5
LOW, HIGH = torch.tensor([-1.5, -0.5]), torch.tensor([1.2, 2.0])
HEIGHT = torch.tensor([-2.0, -1.0, -1.7, 0.15])
XX, XY, YY = torch.tensor([[-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]])
CENTRES = torch.tensor([[1, 0, -0.5, -1], [0, 0.5, 1.5, 1]])
EARLIER = "GradNetM, 16 modules of 64"


def potential(x: Tensor) -> Tensor:
    """U = Σ_k A_k exp(a_k Δx² + b_k Δx Δy + c_k Δy²) at points (…, 2), (…,)."""
    dx, dy = (x.unsqueeze(-1) - CENTRES).unbind(-2)
    return (HEIGHT * torch.exp(XX * dx.square() + XY * dx * dy + YY * dy.square())).sum(-1)


def gradient(x: Tensor) -> Tensor:
    """∇U, (…, 2)."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(potential(leaf).sum(), leaf)[0]


def sample(count: int, generator: torch.Generator) -> Tensor:
    """Points of the region below `HIGHEST`, (count, 2)."""
    x = LOW + (HIGH - LOW) * torch.rand(10 * count, 2, generator=generator)
    return x[potential(x) < HIGHEST][:count]


class Data:
    """Points, (x − mean)/width, and gradients, in units of their own width; and points of the test."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x, self.test = sample(POINTS, generator), sample(TEST_POINTS, generator)
        self.mean, self.width, self.unit = x.mean(0), x.std(), gradient(x).std()
        self.points, self.targets = self.scaled(x), gradient(x) / self.unit

    def scaled(self, x: Tensor) -> Tensor:
        """Points as networks take them."""
        return (x - self.mean) / self.width

    def errors(self, net: Any) -> dict[str, float]:
        """‖f − ∇U‖/‖∇U‖ at the points of the test."""
        f, target = net(self.scaled(self.test)).detach() * self.unit, gradient(self.test)
        return {"relative error of the gradient": ((f - target).norm() / target.norm()).item()}


def make(seed: int) -> Task:
    """The networks and the data of a seed."""
    data = Data(seed)
    torch.manual_seed(seed)
    contenders = same_energy(layers(2, (64, 64, 64), nn.SiLU))
    contenders[EARLIER] = gradnets_fast.GradNetM(16, 2, 64, "weighted_softmax", linear="symmetric")
    return Task(contenders, squared_error, lambda: (data.points, data.targets), data.errors)


def draw(task: Task, data: Data, path: Path) -> None:
    """Draws the surface with the training points, and what two networks make of them."""
    x, y = (torch.linspace(*ends, 200) for ends in zip(LOW.tolist(), HIGH.tolist()))
    grid = torch.cartesian_prod(x, y)
    truth = potential(grid)
    known, panels = truth < HIGHEST, {"100 points and their gradients": truth}
    for title, name in ((EARLIER, EARLIER), ("deep, three layers of 64", "ours")):
        with torch.no_grad():
            U = task.contenders[name].potential(data.scaled(grid)) * data.unit * data.width
        panels[title] = U + (truth - U)[known].mean()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    levels = torch.linspace(-1.5, HIGHEST, 17).tolist()
    for axes, (title, U) in zip(figure.subplots(1, 3), panels.items()):
        axes.contourf(x, y, U.where(known, torch.nan).view(200, 200).T, levels, cmap="viridis", extend="both")
        axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    places, slopes = data.points * data.width + data.mean, -data.targets
    figure.axes[0].quiver(*places.T, *slopes.T, color="white", width=0.004)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=90))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes muller_brown.json and muller_brown.png."""
    chosen = options("muller_brown", __doc__, 3000, arguments)
    row, task = compared(make, Training(chosen.steps, 1e-2), chosen.seeds)
    chosen.write("muller_brown", [row])
    draw(task, Data(chosen.seeds - 1), chosen.pictures / "muller_brown.png")


if __name__ == "__main__":
    main()
