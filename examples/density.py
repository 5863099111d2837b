"""
The density of points, and new points
=====================================

A strongly convex potential F whose gradient f carries the points to a standard normal distribution q tells their
density, log p(x) = log q(f(x)) + log det J(x), exactly; and its inverse carries normal points back to new ones of p.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast.flows import ConvexPotentialFlow


def moons(count: int) -> Tensor:
    """Points of two half circles that interlock, (count, 2)."""
    angle, lower = math.pi * torch.rand(count), torch.randint(2, (count,))
    side = 1 - 2 * lower
    points = torch.stack([angle.cos() * side + lower - 0.5, angle.sin() * side + lower / 2 - 0.25], 1)
    return 1.5 * points + 0.1 * torch.randn(count, 2)


# %%
# Two maps one after the other.  The first starts as the map between Gaussians of the points' mean and covariance, the
# second as the identity, so that the flow starts as a normal distribution.

torch.manual_seed(0)
first, second = (gradnets_fast.mGradNetC(num_layers=4, in_dim=2, embed_dim=32, linear="psd") for _ in range(2))
x = moons(2000)
gradnets_fast.init_gaussian_map_(first, x.mean(0), torch.cov(x.T))
gradnets_fast.init_identity_(second)
flow = ConvexPotentialFlow([first, second])

# %%
# Training maximises the likelihood of the points.

steps = 600
optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(steps):
    loss = -flow.log_prob(moons(300)).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
    optimizer.step()
    schedule.step()

# %%
# The mean of −log p over new points, beside that of the normal distribution of the same mean and covariance.

test = moons(5000)
normal = torch.distributions.MultivariateNormal(test.mean(0), torch.cov(test.T))
with torch.no_grad():
    results = {
        "−log p, normal distribution": -float(normal.log_prob(test).mean()),
        "−log p, convex potential flow": -float(flow.log_prob(test).mean()),
    }
for name, value in results.items():
    print(f"{name:40}{value:.3f}")

# %%
# The learned density, and points drawn from it: the inverse maps are found by Newton's method.

line = torch.linspace(-2.8, 2.8, 150)
with torch.no_grad():
    density = flow.log_prob(torch.cartesian_prod(line, line)).exp().reshape(150, 150).T
new = flow.sample((2000,))
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharex=True, sharey=True)
panels[0].scatter(*x.T, s=3, linewidths=0, color="#1b6ca8")
panels[1].contourf(line, line, density, levels=20, cmap="Blues")
panels[2].scatter(*new.T, s=3, linewidths=0, color="#d1495b")
for axes, title in zip(panels, ("points", "their density, learned", "new points")):
    axes.set(title=title, aspect="equal", xlim=(-2.8, 2.8), ylim=(-2.8, 2.8))
plt.show()
