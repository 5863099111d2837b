"""A potential energy surface from few forces: `gradnets-fast reproduce energies`.

The Müller–Brown potential, a surface of three wells, is learned from its gradient at 100 points, which are uniform
where the potential, divided by 100, is below ½; all of them are in every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast

from .comparison import KERNELS, Task, Training, compared, of_contender, same_energy, squared_error, table
from .drawing import packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .peers import mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS, TEST_POINTS, HIGHEST = 100, 4000, 0.5
LOW, HIGH = torch.tensor([-1.5, -0.5]), torch.tensor([1.2, 2.0])
HEIGHT = torch.tensor([-2.0, -1.0, -1.7, 0.15])
XX, XY, YY = torch.tensor([[-1, -1, -6.5, 0.7], [0, 0, 11, 0.6], [-10, -10, -6.5, 0.7]])
CENTRES = torch.tensor([[1, 0, -0.5, -1], [0, 0.5, 1.5, 1]])
MODULES = "GradNetM, 16 modules of 64"
SIDE = 80
"""Points of the drawn grid, each way."""


def potential(x: Tensor) -> Tensor:
    """U = Σ_k A_k exp(a_k Δx² + b_k Δx Δy + c_k Δy²) at points (…, 2), (…,)."""
    dx, dy = (x.unsqueeze(-1) - CENTRES).unbind(-2)
    U: Tensor = (HEIGHT * torch.exp(XX * dx.square() + XY * dx * dy + YY * dy.square())).sum(-1)
    return U


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

    def shown(self, net: Any) -> Row:
        """The learned potential on the drawn grid, up to a constant."""
        with torch.no_grad():
            return {
                "potential": packed(net.potential(self.scaled(torch.cartesian_prod(*grid()))) * self.unit * self.width)
            }

    def errors(self, net: Any) -> dict[str, float]:
        """‖f − ∇U‖/‖∇U‖ at the points of the test."""
        f, target = net(self.scaled(self.test)).detach() * self.unit, gradient(self.test)
        return {"relative error of the gradient": ((f - target).norm() / target.norm()).item()}


def cases(settings: Settings) -> list[Case]:
    """One for each seed, of data and networks."""
    return [{"seed": seed} for seed in range(settings["seeds"])]


def make(seed: int) -> Task:
    """The networks and the data of a seed."""
    data = Data(seed)
    torch.manual_seed(seed)
    contenders = same_energy(mlp((2, 64, 64, 64, 1), nn.SiLU))
    contenders[MODULES] = gradnets_fast.GradNetM(16, 2, 64, "weighted_softmax", linear="symmetric")
    return Task(contenders, squared_error, lambda: (data.points, data.targets), data.errors, data.shown)


def run(case: Case, settings: Settings) -> Row:
    """Trains the networks by turns."""
    return compared(lambda: make(case["seed"]), Training(settings["steps"], 1e-2))


def grid() -> tuple[Tensor, Tensor]:
    """The lines of the drawn grid."""
    x, y = (torch.linspace(*ends, SIDE) for ends in zip(LOW.tolist(), HIGH.tolist()))
    return x, y


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The surface with the training points of the first seed, and what two networks make of them."""
    from matplotlib.figure import Figure

    x, y = grid()
    truth = potential(torch.cartesian_prod(x, y))
    known, data = truth < HIGHEST, Data(rows[0]["seed"])
    panels = {"100 points and their gradients": truth}
    for title, name in ((MODULES, MODULES), ("deep, three layers of 64", KERNELS)):
        U = unpacked(of_contender(rows[:1], name)[0]["potential"])
        panels[title] = U + (truth - U)[known].mean()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    levels = torch.linspace(-1.5, HIGHEST, 17).tolist()
    for axes, (title, U) in zip(figure.subplots(1, 3), panels.items()):
        axes.contourf(x, y, U.where(known, torch.nan).view(SIDE, SIDE).T, levels, cmap="viridis", extend="both")
        axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    places, slopes = data.points * data.width + data.mean, -data.targets
    figure.axes[0].quiver(*places.T, *slopes.T, color="white", width=0.004)
    return {"energies": figure}


EXPERIMENT = Experiment(
    name="energies",
    title="The Müller–Brown potential from 100 gradients: a deep energy by autograd and by kernels, and GradNetM.",
    source="Müller and Brown, Location of saddle points and minimum energy paths by a constrained simplex optimization "
    "procedure, Theoretica Chimica Acta 53 (1979)",
    settings={"seeds": 3, "steps": 3000},
    quick={"seeds": 1, "steps": 20},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
