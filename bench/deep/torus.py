"""Learns the signed distance of a torus from 20 000 points of its surface with their normals, by the eikonal loss.

    python -m bench.deep.torus

The loss is the mean of |F| and of |∇F − n| on the surface, and of (|∇F| − 1)² near it and in a box: value and gradient
in one call.
Source: Gropp, Yariv, Haim, Atzmon, Lipman, "Implicit Geometric Regularization for Learning Shapes", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import gradnets_fast
from bench.deep.autograd import WithConstant
from bench.deep.comparison import Task, Training, compared, layers, options, same_energy
from gradnets_fast.apps.files import write_atomically

RING, TUBE = 0.6, 0.25
POINTS, BATCH, NEAR, EIKONAL = 20_000, 2048, 0.1, 0.1
"""Points of the surface, and of a batch; how far beside it is near; the weight of (|∇F| − 1)²."""
TEST_POINTS = 20_000
EARLIER = "GradNetM, 16 modules of 64"


def distance(x: Tensor) -> Tensor:
    """The signed distance of points (…, 3), (…,): negative inside."""
    from_ring = torch.stack([x[..., :2].norm(dim=-1) - RING, x[..., 2]], -1)
    return from_ring.norm(dim=-1) - TUBE


def surface(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points uniform in area, and their outward normals, (count, 3) each."""
    about, around, height = 2 * math.pi * torch.rand(3, 3 * count, generator=generator)
    # The area at an angle around the tube is in proportion to the distance from the axis.
    kept = height / (2 * math.pi) * (RING + TUBE) < RING + TUBE * around.cos()
    about, around = about[kept][:count], around[kept][:count]
    ring = torch.stack([about.cos(), about.sin(), torch.zeros(count)], -1)
    normals = ring * around.cos().unsqueeze(-1)
    normals[:, 2] = around.sin()
    return RING * ring + TUBE * normals, normals


def loss(net: Any, on: Tensor, normals: Tensor, off: Tensor) -> Tensor:
    """The mean of |F| + |∇F − n| on the surface, and of (|∇F| − 1)² off it."""
    F, f = net.value_and_gradient(torch.cat([on, off]))
    fit = F[: len(on)].abs().mean() + (f[: len(on)] - normals).norm(dim=-1).mean()
    eikonal: Tensor = (f[len(on) :].norm(dim=-1) - 1).square().mean()
    return fit + EIKONAL * eikonal


@torch.no_grad()
def errors(net: Any) -> dict[str, float]:
    """Mean absolute errors of the distance, near the surface and in the box, and the mean angle to the normals."""
    generator = torch.Generator().manual_seed(0)
    on, normals = surface(TEST_POINTS, generator)
    near = on + normals * NEAR * (2 * torch.rand(TEST_POINTS, 1, generator=generator) - 1)
    box = 2 * torch.rand(TEST_POINTS, 3, generator=generator) - 1
    cosine = torch.nn.functional.cosine_similarity(net(on), normals).clamp(-1, 1)
    return {
        "mean error of the distance near the surface": (net.potential(near) - distance(near)).abs().mean().item(),
        "mean error of the distance in the box": (net.potential(box) - distance(box)).abs().mean().item(),
        "mean angle to the normals, degrees": cosine.acos().rad2deg().mean().item(),
    }


def make(seed: int) -> Task:
    """The networks and the points of a seed."""
    generator = torch.Generator().manual_seed(seed)
    points, normals = surface(POINTS, generator)

    def batch() -> tuple[Tensor, ...]:
        chosen = torch.randint(POINTS, (BATCH,), generator=generator)
        near = points[chosen[: BATCH // 2]] + NEAR * torch.randn(BATCH // 2, 3, generator=generator)
        box = 2 * torch.rand(BATCH // 2, 3, generator=generator) - 1
        return points[chosen], normals[chosen], torch.cat([near, box])

    torch.manual_seed(seed)
    contenders = same_energy(layers(3, (64, 64, 64), partial(nn.Softplus, beta=100)))
    earlier = gradnets_fast.GradNetM(16, 3, 64, "weighted_softmax", linear="symmetric")
    contenders[EARLIER] = WithConstant(earlier)
    return Task(contenders, loss, batch, errors)


def draw(task: Task, path: Path) -> None:
    """Draws the distance in the plane y = 0: exact, and as two networks learned it."""
    line = torch.linspace(-1, 1, 200)
    z, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, torch.zeros_like(x), z], -1)
    panels = {"exact": distance(points)}
    for title, name in ((EARLIER, EARLIER), ("deep, three layers of 64", "ours")):
        with torch.no_grad():
            panels[title] = task.contenders[name].potential(points)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    levels = torch.linspace(-0.3, 0.6, 19).tolist()
    for axes, (title, F) in zip(figure.subplots(1, 3), panels.items()):
        axes.contourf(line, line, F, levels, cmap="RdBu", extend="both")
        axes.contour(line, line, F, [0.0], colors="black", linewidths=1.5)
        axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=90))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes torus.json and torus.png."""
    chosen = options("torus", __doc__, 1000, arguments)
    row, task = compared(make, Training(chosen.steps, 5e-3), chosen.seeds)
    chosen.write("torus", [row])
    draw(task, chosen.pictures / "torus.png")


if __name__ == "__main__":
    main()
