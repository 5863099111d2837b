"""Learns the Hamiltonian of two bodies, which attract each other, from its gradient along near-circular orbits.

    python -m bench.deep.two_body

400 orbits of 50 points, of which 320 orbits are for training.  What was learned then moves the others' first points, by
Hamilton's equations: `gradnets_fast.interop.HamiltonianFlow` in torchdiffeq's solver.
Source of the system: Greydanus, Dzamba, Yosinski, "Hamiltonian Neural Networks", arXiv 1906.01563.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import gradnets_fast
from bench.deep.comparison import Task, Training, compared, layers, options, same_energy, squared_error
from gradnets_fast.interop import HamiltonianFlow

ORBITS, TRAINING_ORBITS, BATCH = 400, 320, 200
TIMES = torch.linspace(0, 20, 50, dtype=torch.float64)
EARLIER = "GradNetM, 16 modules of 64"


class TwoBodies(nn.Module):
    """∇H of y = (q₁, q₂, p₁, p₂) in the plane, H = ½|p₁|² + ½|p₂|² − 1/|q₁ − q₂|."""

    def potential(self, y: Tensor) -> Tensor:
        """H(y), (…,)."""
        q, p = y.chunk(2, -1)
        return p.square().sum(-1) / 2 - 1 / (q[..., :2] - q[..., 2:]).norm(dim=-1)

    def forward(self, y: Tensor) -> Tensor:
        """∇H(y), (…, 8)."""
        q, p = y.chunk(2, -1)
        between = q[..., :2] - q[..., 2:]
        pull = between / between.norm(dim=-1, keepdim=True) ** 3
        return torch.cat([pull, -pull, p], -1)


def orbits(seed: int) -> Tensor:
    """Orbits about the centre of mass whose velocities are those of circles to 5 %, (orbits, times, 8)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(2, ORBITS, 1, generator=generator, dtype=torch.float64)
    radius, angle = 0.7 + 1.4 * drawn[0], 2 * math.pi * drawn[1]
    outward, along = torch.cat([angle.cos(), angle.sin()], 1), torch.cat([-angle.sin(), angle.cos()], 1)
    noise = 1 + 0.05 * torch.randn(ORBITS, 1, generator=generator, dtype=torch.float64)
    q, p = radius * outward, noise * along / (2 * radius.sqrt())
    start = torch.cat([q, -q, p, -p], 1)
    trajectory: Tensor = odeint(HamiltonianFlow(TwoBodies()), start, TIMES, rtol=1e-9, atol=1e-9)
    return trajectory.transpose(0, 1)


def make(seed: int) -> Task:
    """The networks and the data of a seed."""
    truth, data = TwoBodies(), orbits(seed)
    x = data[:TRAINING_ORBITS].reshape(-1, 8)
    test = data[TRAINING_ORBITS:]
    points, targets, generator = x.float(), truth(x).float(), torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(points), (BATCH,), generator=generator)
        return points[chosen], targets[chosen]

    @torch.no_grad()
    def errors(net: Any) -> dict[str, float]:
        start = test[:, 0].float()
        options = {"method": "rk4", "options": {"step_size": 0.1}}
        moved = odeint(HamiltonianFlow(net), start, TIMES.float(), **options).double().transpose(0, 1)
        energy = truth.potential(moved) - truth.potential(test)
        return {
            "mean squared error of ∇H": squared_error(net, test.float(), truth(test)).item(),
            "mean squared error of the energy along orbits": energy.square().mean().item(),
            "mean squared error of the orbits": (moved - test).square().mean().item(),
        }

    torch.manual_seed(seed)
    contenders = same_energy(layers(8, (64, 64, 64), nn.SiLU))
    contenders[EARLIER] = gradnets_fast.GradNetM(16, 8, 64, "weighted_softmax")
    return Task(contenders, squared_error, batch, errors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes two_body.json."""
    chosen = options("two_body", __doc__, 3000, arguments)
    row, _ = compared(make, Training(chosen.steps, 5e-3), chosen.seeds)
    chosen.write("two_body", [row])


if __name__ == "__main__":
    main()
