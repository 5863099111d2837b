"""
Poisson's equation by the Laplacian of a network
================================================

ΔF = g inside a square and F = u on its boundary.  The divergence of a gradient network is the Laplacian of its
potential, exact and by one call of kernels, whose gradients are kernels too, so that the equation itself is the loss.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import gradnets_fast


def solution(x: Tensor) -> Tensor:
    """u = eˣ sin πy + ½ sin 2πx cos πy, (n,), which the network is to find."""
    x, y = x.unbind(-1)
    return x.exp() * (math.pi * y).sin() + 0.5 * (2 * math.pi * x).sin() * (math.pi * y).cos()


def right_side(x: Tensor) -> Tensor:
    """g = Δu, (n,)."""
    x, y = x.unbind(-1)
    first = (1 - math.pi**2) * x.exp() * (math.pi * y).sin()
    return first - 2.5 * math.pi**2 * (2 * math.pi * x).sin() * (math.pi * y).cos()


# %%
# Random points inside and on the four sides, anew in each step.  The gradient's potential is known up to a constant,
# which is a parameter beside the network.

torch.manual_seed(0)
net = gradnets_fast.DeepGradNet(in_dim=2, widths=(64, 64), activation="tanh")
constant = torch.nn.Parameter(torch.zeros(()))
steps, sides = 1000, torch.arange(200)
optimizer = torch.optim.Adam([*net.parameters(), constant], lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
losses = []
for _ in range(steps):
    inside, boundary = torch.rand(1000, 2), torch.rand(200, 2)
    boundary[sides, sides % 2] = (sides // 2 % 2).float()
    residual = net.divergence(inside) - right_side(inside)
    difference = net.potential(boundary) + constant - solution(boundary)
    loss = residual.square().mean() + 500 * difference.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(float(loss.detach()))

# %%
# The error on a grid.

line = torch.linspace(0, 1, 101)
grid = torch.cartesian_prod(line, line)
with torch.no_grad():
    found = net.potential(grid) + constant
results = {"relative L2 error": float((found - solution(grid)).norm() / solution(grid).norm())}
for name, value in results.items():
    print(f"{name:40}{value:.2e}")

# %%
# The solution, the error, and how the loss fell.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
for axes, title, values in ((left, "F", found), (middle, "F − u", found - solution(grid))):
    drawn = axes.contourf(line, line, values.reshape(101, 101).T, levels=20, cmap="RdBu_r")
    figure.colorbar(drawn, ax=axes)
    axes.set(title=title, aspect="equal")
right.semilogy(losses, color="#1b6ca8", linewidth=0.8)
right.set(title="loss", xlabel="step")
plt.show()
