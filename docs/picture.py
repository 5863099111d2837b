"""Draws docs/gradient_map.png: a distribution, a convex potential that a network learned, and where it carries points.

The network is trained as in examples/transport.py: f carries the samples to a standard Gaussian.

    python docs/picture.py
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import gradnets_fast

PICTURE = Path(__file__).with_name("gradient_map.png")


def sample(count: int) -> tuple[Tensor, Tensor]:
    """Points of a distribution with three arms, (count, 2), and the arm of each."""
    arm = torch.randint(3, (count,))
    along, across = 0.75 * torch.randn(count).abs(), 0.2 * torch.randn(count)
    angle = 2 * math.pi * arm / 3 + 0.9 * along
    radial = torch.stack([angle.cos(), angle.sin()], 1)
    tangential = torch.stack([-angle.sin(), angle.cos()], 1)
    return along[:, None] * radial + across[:, None] * tangential, arm


def trained(steps: int) -> gradnets_fast.mGradNetC:
    """A network whose gradient carries the samples to a standard Gaussian."""
    net = gradnets_fast.mGradNetC(num_layers=4, in_dim=2, embed_dim=64, activation="tanh", linear="psd")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, _ = sample(1000)
        loss = (net(x).square().sum(1) / 2 - net.jacobian(x).logdet()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def main(path: Path = PICTURE, steps: int = 5000) -> None:
    """Trains a network, draws it, and writes the picture to `path`."""
    torch.manual_seed(0)
    net = trained(steps)
    x, arm = sample(3000)
    line = torch.linspace(-2, 2, 200)
    coarse = torch.linspace(-1.8, 1.8, 15)
    grid, arrows = torch.cartesian_prod(line, line), torch.cartesian_prod(coarse, coarse)
    with torch.no_grad():
        moved, F, f = net(x), net.potential(grid).reshape(200, 200).T, net(arrows)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    colours = [["#1b6ca8", "#d1495b", "#edae49"][k] for k in arm]
    left.scatter(*x.T, c=colours, s=3, linewidths=0)
    left.set_title("points x")
    middle.contourf(line, line, F, levels=24, cmap="Blues_r")
    middle.quiver(*arrows.T, *f.T, color="#222222", width=0.004)
    middle.set_title("a convex potential F, and its gradient f")
    right.scatter(*moved.T, c=colours, s=3, linewidths=0)
    right.set_title("points f(x)")
    for axes, extent in ((left, 2), (middle, 2), (right, 3.5)):
        axes.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=[], yticks=[], aspect="equal")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
