"""Hamiltonians learned from their gradients: `gradnets-fast reproduce hamiltonian`.

A mass on a spring and a pendulum, observed with noise, and two bodies that attract each other, on near-circular orbits
without noise.  Each network learns ∇H; what it learned then moves the first points of other orbits by Hamilton's
equations, with the implicit midpoint rule, which is symplectic, and with torchdiffeq's dopri5.  The energy error is the
mean square of H − H(start) along the way, H being the true one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast
from gradnets_fast.interop import HamiltonianFlow

from .comparison import KERNELS, Task, Training, compared, of_contender, same_energy, squared_error, table
from .drawing import INK, SERIES, packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .peers import mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP, ITERATIONS = 0.1, 8
"""The midpoint rule's step of time, and the steps of its fixed-point iteration."""
SHOWN = (KERNELS, "energies of q and of p", "MLP")
"""Whose orbits are drawn."""


@dataclass(frozen=True)
class System:
    """A Hamiltonian, and how it is observed.

    Attributes:
        d: the dimension of y = (q, p).
        energy: y (…, d) -> H (…,).
        starts: (count, generator) -> first points of orbits, (count, d).
        noise: the standard deviation of the observed points.
        orbits: how many, of which the last fifth, or half where there are few, are for the test.
        training: how many of them are for training.
        times: points of an orbit, and until when it lasts.
        batch: points of a step of training.
    """

    d: int
    energy: Callable[[Tensor], Tensor]
    starts: Callable[[int, torch.Generator], Tensor]
    noise: float
    orbits: int
    training: int
    times: tuple[int, float]
    batch: int

    def gradient(self, y: Tensor) -> Tensor:
        """∇H(y), (…, d)."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            return torch.autograd.grad(self.energy(leaf).sum(), leaf)[0]


def two_bodies(y: Tensor) -> Tensor:
    """H of y = (q₁, q₂, p₁, p₂) in the plane: ½|p₁|² + ½|p₂|² − 1/|q₁ − q₂|."""
    q, p = y.chunk(2, -1)
    H: Tensor = p.square().sum(-1) / 2 - 1 / (q[..., :2] - q[..., 2:]).norm(dim=-1)
    return H


def near_circles(count: int, generator: torch.Generator) -> Tensor:
    """Two bodies about their centre of mass whose velocities are those of circles to 5 %, (count, 8)."""
    drawn = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    radius, angle = 0.7 + 1.4 * drawn[0], 2 * math.pi * drawn[1]
    outward, along = torch.cat([angle.cos(), angle.sin()], 1), torch.cat([-angle.sin(), angle.cos()], 1)
    noise = 1 + 0.05 * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    q, p = radius * outward, noise * along / (2 * radius.sqrt())
    return torch.cat([q, -q, p, -p], 1)


def ring(least: float, most: float) -> Callable[[int, torch.Generator], Tensor]:
    """Draws points of the plane at these distances from 0."""

    def draw(count: int, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(2, count, generator=generator, dtype=torch.float64)
        radius, angle = least + (most - least) * drawn[0], 2 * math.pi * drawn[1]
        return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    return draw


SYSTEMS = {
    "mass on a spring": System(
        2, lambda y: y.square().sum(-1), ring(0.1, 1.0), noise=0.1, orbits=50, training=25, times=(30, 3.0), batch=750
    ),
    "pendulum": System(
        2,
        lambda y: 3 * (1 - y[..., 0].cos()) + y[..., 1].square(),
        ring(1.3, 2.3),
        noise=0.1,
        orbits=50,
        training=25,
        times=(45, 3.0),
        batch=1125,
    ),
    "two bodies": System(8, two_bodies, near_circles, noise=0.0, orbits=400, training=320, times=(50, 20.0), batch=200),
}


class OfPositionsAndMomenta(nn.Module):
    """∇(V(q) + T(p)), of two gradient networks."""

    def __init__(self, V: nn.Module, T: nn.Module) -> None:
        super().__init__()
        self.V, self.T = V, T

    def forward(self, y: Tensor) -> Tensor:
        """At y = (q, p), (…, d)."""
        q, p = y.chunk(2, -1)
        return torch.cat([self.V(q), self.T(p)], -1)


def networks(d: int) -> dict[str, nn.Module]:
    """Contenders of about as many parameters: 4,400 in the plane, 9,000 in eight dimensions."""
    if d == 2:
        widths, each, cascade, activation = (64, 64), (44, 44), 316, nn.Tanh
    else:
        widths, each, cascade, activation = (64, 64, 64), (44, 44, 44), 448, nn.SiLU  # type: ignore[assignment]
    name = {nn.Tanh: "tanh", nn.SiLU: "silu"}[activation]
    made = same_energy(mlp((d, *widths, 1), activation))
    made["energies of q and of p"] = OfPositionsAndMomenta(
        *(gradnets_fast.DeepGradNet(d // 2, each, activation=name) for _ in range(2))
    )
    made["GradNetC, 4 layers"] = gradnets_fast.GradNetC(4, d, cascade, "tanh")
    if d != 2:
        made["GradNetM, 16 modules of 64"] = gradnets_fast.GradNetM(16, d, 64, "weighted_softmax")
    made["MLP"] = mlp((d, *widths, d), activation)
    return made


def observed(system: System, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points with noise, (orbits, times, d), the gradients of H where they really were, and the first points."""
    from torchdiffeq import odeint

    generator = torch.Generator().manual_seed(seed)
    count, last = system.times
    start = system.starts(system.orbits, generator)
    times = torch.linspace(0, last, count, dtype=torch.float64)
    field: Any = system.gradient
    y = odeint(HamiltonianFlow(field), start, times, rtol=1e-9, atol=1e-9).transpose(0, 1)
    noise = system.noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return (y + noise).float(), system.gradient(y).float(), start.float()


def midpoint(field: Any, start: Tensor, steps: int) -> Tensor:
    """The points of Hamilton's equations by the implicit midpoint rule, (steps + 1, …, d)."""
    flow, points = HamiltonianFlow(field), [start]
    for _ in range(steps):
        y = points[-1]
        ahead = y + STEP * flow(0.0, y)
        for _ in range(ITERATIONS):
            ahead = y + STEP * flow(0.0, (y + ahead) / 2)
        points.append(ahead)
    return torch.stack(points)


def make(name: str, seed: int, time: float) -> Task:
    """The networks and the data of a seed."""
    from torchdiffeq import odeint

    system = SYSTEMS[name]
    y, targets, start = observed(system, seed)
    x, g = (t[: system.training].reshape(-1, system.d) for t in (y, targets))
    test, test_g, start = y[system.training :], targets[system.training :], start[system.training :]
    generator = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(x), (system.batch,), generator=generator)
        return x[chosen], g[chosen]

    def energy_error(points: Tensor) -> float:
        H = system.energy(points.double())
        return float((H - H[0]).square().mean())

    @torch.no_grad()
    def errors(net: Any) -> dict[str, float]:
        times = torch.arange(0, time + STEP / 2, STEP)
        moved = odeint(HamiltonianFlow(net), start, times, method="dopri5", rtol=1e-6, atol=1e-6)
        return {
            "mean squared error of ∇H": squared_error(net, test, test_g).item(),
            "energy error, midpoint": energy_error(midpoint(net, start, round(time / STEP))),
            "energy error, dopri5": energy_error(moved),
        }

    @torch.no_grad()
    def shown(net: Any) -> Row:
        orbit = midpoint(net, start[:1], round(time / STEP))[:, 0]
        return {"orbit": packed(orbit, torch.float32)}

    torch.manual_seed(seed)
    return Task(networks(system.d), squared_error, batch, errors, shown)


def cases(settings: Settings) -> list[Case]:
    """Each system, for each seed."""
    return [{"system": name, "seed": seed} for name, seed in product(SYSTEMS, range(settings["seeds"]))]


def run(case: Case, settings: Settings) -> Row:
    """Trains the networks by turns, and lets them move orbits."""
    steps = settings["two_body_steps" if SYSTEMS[case["system"]].d == 8 else "steps"]
    training = Training(steps, 5e-3)
    row = compared(lambda: make(case["system"], case["seed"], settings["time"]), training)
    system = SYSTEMS[case["system"]]
    _, _, start = observed(system, case["seed"])
    start = start[system.training : system.training + 1].double()
    exact = midpoint(system.gradient, start, round(settings["time"] / STEP))[:, 0]
    return {**row, "exact": packed(exact, torch.float32)}


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """One orbit of the test by the midpoint rule, in phase space or, of two bodies, of the first one's position."""
    from matplotlib.figure import Figure

    firsts = {name: next(row for row in rows if row["system"] == name) for name in SYSTEMS}
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(firsts), gridspec_kw={"height_ratios": [2, 1]})
    for (upper, lower), (name, row) in zip(axes.T, firsts.items()):
        system = SYSTEMS[name]
        orbits = {"exact": unpacked(row["exact"])}
        orbits |= {of: unpacked(of_contender([row], of)[0]["orbit"]) for of in SHOWN}
        errors = {of: system.energy(y.double()) - system.energy(y[:1].double()) for of, y in orbits.items()}
        for colour, (of, y) in zip((INK, *SERIES), orbits.items()):
            upper.plot(y[:, 0], y[:, 1], color=colour, linewidth=2.5 if of == "exact" else 1, label=of)
            lower.plot(STEP * torch.arange(len(y)), errors[of], color=colour, linewidth=1)
        # A plain network may leave the picture: the others are to be seen.
        far = 1.3 * float(orbits["exact"][:, :2].abs().max())
        high = 4 * max(float(error.abs().max()) for of, error in errors.items() if of != "MLP")
        upper.set(
            title=name, xlabel="x of the first body" if system.d == 8 else "q", xlim=(-far, far), ylim=(-far, far)
        )
        upper.set_ylabel("y of the first body" if system.d == 8 else "p")
        upper.set_aspect("equal")
        lower.set(xlabel="time", ylabel="H − H(start)", ylim=(-high, high))
        for axis in (upper, lower):
            axis.grid(alpha=0.3)
    lines = axes[0, 0].get_lines()
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return {"hamiltonian": figure}


EXPERIMENT = Experiment(
    name="hamiltonian",
    title="Hamiltonians from their gradients: gradient networks, a Hamiltonian network by autograd, a plain network.",
    source="Greydanus, Dzamba, Yosinski, Hamiltonian Neural Networks, arXiv 1906.01563: the systems and their noise",
    settings={"seeds": 3, "steps": 2000, "two_body_steps": 10_000, "time": 50.0},
    quick={"seeds": 1, "steps": 20, "two_body_steps": 20, "time": 3.0},
    cases=cases,
    run=run,
    table=lambda rows: table(rows, "system"),
    figures=figures,
    extra="reproduce",
)
