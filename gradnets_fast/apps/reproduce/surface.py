"""The signed distance of a surface from its points and normals: `gradnets-fast reproduce surface`.

The surface is a torus with 20 000 points.  The loss is the mean of |F| and of |∇F − n| on the surface, and of
(|∇F| − 1)² near it and in a box: value and gradient in one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import gradnets_fast

from .comparison import KERNELS, Task, Training, compared, of_contender, same_energy, table
from .drawing import packed, unpacked
from .experiment import Case, Experiment, Row, Settings
from .peers import WithConstant, mlp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RING, TUBE = 0.6, 0.25
POINTS, BATCH, NEAR, EIKONAL = 20_000, 2048, 0.1, 0.1
"""Points of the surface, and of a batch; how far beside it is near; the weight of (|∇F| − 1)²."""
TEST_POINTS = 20_000
MODULES = "GradNetM, 16 modules of 64"
SIDE = 80
"""Points of the drawn grid, each way."""


def distance(x: Tensor) -> Tensor:
    """The signed distance of points (…, 3), (…,): negative inside."""
    from_ring = torch.stack([x[..., :2].norm(dim=-1) - RING, x[..., 2]], -1)
    found: Tensor = from_ring.norm(dim=-1) - TUBE
    return found


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
    whole: Tensor = fit + EIKONAL * eikonal
    return whole


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


def cases(settings: Settings) -> list[Case]:
    """One for each seed, of points and networks."""
    return [{"seed": seed} for seed in range(settings["seeds"])]


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
    contenders = same_energy(mlp((3, 64, 64, 64, 1), partial(nn.Softplus, beta=100)))
    modules = gradnets_fast.GradNetM(16, 3, 64, "weighted_softmax", linear="symmetric")
    contenders[MODULES] = WithConstant(modules)
    return Task(contenders, loss, batch, errors, shown)


def run(case: Case, settings: Settings) -> Row:
    """Trains the networks by turns."""
    return compared(lambda: make(case["seed"]), Training(settings["steps"], 5e-3))


def section() -> Tensor:
    """The drawn grid, in the plane y = 0, (SIDE, SIDE, 3)."""
    line = torch.linspace(-1, 1, SIDE)
    z, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, torch.zeros_like(x), z], -1)


def shown(net: Any) -> Row:
    """The learned distance on the drawn grid."""
    with torch.no_grad():
        return {"distance": packed(net.potential(section()))}


def figures(rows: Sequence[Row], settings: Settings) -> Mapping[str, Figure]:
    """The distance in the plane y = 0: exact, and as two networks learned it from the first seed."""
    from matplotlib.figure import Figure

    line, panels = torch.linspace(-1, 1, SIDE), {"exact": distance(section())}
    for title, name in ((MODULES, MODULES), ("deep, three layers of 64", KERNELS)):
        panels[title] = unpacked(of_contender(rows[:1], name)[0]["distance"])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    levels = torch.linspace(-0.3, 0.6, 19).tolist()
    for axes, (title, F) in zip(figure.subplots(1, 3), panels.items()):
        axes.contourf(line, line, F, levels, cmap="RdBu", extend="both")
        axes.contour(line, line, F, [0.0], colors="black", linewidths=1.5)
        axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    return {"surface": figure}


EXPERIMENT = Experiment(
    name="surface",
    title="The signed distance of a torus by the eikonal loss: a deep energy by autograd and by kernels, and GradNetM.",
    source="Gropp, Yariv, Haim, Atzmon, Lipman, Implicit Geometric Regularization for Learning Shapes, 2020",
    settings={"seeds": 3, "steps": 1000},
    quick={"seeds": 1, "steps": 20},
    cases=cases,
    run=run,
    table=table,
    figures=figures,
)
