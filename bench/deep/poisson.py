"""Solves Poisson's equation on a square, ΔF = g inside and F = u on the boundary, by the Laplacian of a network.

    python -m bench.deep.poisson

The solution u = eˣ sin πy + ½ sin 2πx cos πy is known, so that the error is.  The loss is the mean square of the
residuals at random points, weighted on the boundary.
Source of the method: Raissi, Perdikaris, Karniadakis, "Physics-informed neural networks", Journal of Computational
Physics 378 (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import gradnets_fast
from bench.deep.autograd import WithConstant
from bench.deep.comparison import Task, Training, compared, layers, options, same_energy

INSIDE, ON_BOUNDARY, WEIGHT = 1000, 200, 500.0
EARLIER = "GradNetC, 3 layers of 128, sin"


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
    return residual.square().mean() + WEIGHT * difference.square().mean()


def errors(net: Any) -> dict[str, float]:
    """‖F − u‖/‖u‖ on a grid."""
    line = torch.linspace(0, 1, 101)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        difference = net.potential(grid) - solution(grid)
    return {"relative L2 error": (difference.norm() / solution(grid).norm()).item()}


def make(seed: int) -> Task:
    """The networks and the random points of a seed."""
    generator, sides = torch.Generator().manual_seed(seed), torch.arange(ON_BOUNDARY)

    def batch() -> tuple[Tensor, ...]:
        inside, boundary = (torch.rand(count, 2, generator=generator) for count in (INSIDE, ON_BOUNDARY))
        boundary[sides, sides % 2] = (sides // 2 % 2).float()
        return inside, laplacian(inside), boundary, solution(boundary)

    torch.manual_seed(seed)
    contenders = same_energy(layers(2, (64, 64), nn.Tanh))
    contenders[EARLIER] = WithConstant(gradnets_fast.GradNetC(3, 2, 128, "sin"))
    return Task(contenders, loss, batch, errors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes poisson.json."""
    chosen = options("poisson", __doc__, 2000, arguments)
    row, _ = compared(make, Training(chosen.steps, 1e-2), chosen.seeds)
    chosen.write("poisson", [row])


if __name__ == "__main__":
    main()
