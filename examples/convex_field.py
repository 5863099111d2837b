"""
A convex potential from its gradient
====================================

The samples are x and ∇F(x) of F(x) = log(1 + e^{a·x} + e^{b·x}) in the plane.  A monotone gradient network learns the
field from them; it is then the gradient of a convex function, exactly and everywhere, and can say which.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import gradnets_fast

DIRECTIONS = torch.tensor([[3.0, 1.0], [-1.0, 2.0]])


def exponents(x: Tensor) -> Tensor:
    """0, a·x and b·x, (n, 3), of points (n, 2)."""
    return torch.cat([torch.zeros(len(x), 1), x @ DIRECTIONS.T], 1)


def potential(x: Tensor) -> Tensor:
    """F(x), (n,)."""
    return exponents(x).logsumexp(1)


def field(x: Tensor) -> Tensor:
    """∇F(x), (n, 2)."""
    return exponents(x).softmax(1)[:, 1:] @ DIRECTIONS


# %%
# Training is what it is for every other module.

torch.manual_seed(0)
net = gradnets_fast.mGradNetM(num_modules=2, in_dim=2, embed_dim=8, activation="softmax")
steps = 800
optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(steps):
    x = 4 * torch.rand(500, 2) - 2
    loss = (net(x) - field(x)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %%
# What the network knows besides the field: the potential, which a field tells up to a constant, and the Jacobian, which
# is symmetric and positive semidefinite.

x = 4 * torch.rand(5000, 2) - 2
with torch.no_grad():
    f, jacobian = net(x), net.jacobian(x)
    difference = net.potential(x) - potential(x)
results = {
    "relative error of the field": float((f - field(x)).norm() / field(x).norm()),
    "spread of the potential's difference": float(difference.std()),
    "asymmetry of the Jacobian": float((jacobian - jacobian.mT).abs().max()),
    "smallest eigenvalue of the Jacobian": float(torch.linalg.eigvalsh(jacobian).min()),
}
for name, value in results.items():
    print(f"{name:40}{value:.2e}")

# %%
# The level lines of both potentials, and the learned gradient.

line, coarse = torch.linspace(-2, 2, 100), torch.linspace(-1.8, 1.8, 11)
grid, arrows = torch.cartesian_prod(line, line), torch.cartesian_prod(coarse, coarse)
with torch.no_grad():
    learned, f = net.potential(grid), net(arrows)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
for axes, title, F in ((left, "F", potential(grid)), (right, "the network's, and its gradient", learned)):
    axes.contourf(line, line, (F - F.min()).reshape(100, 100).T, levels=20, cmap="Blues_r")
    axes.set(title=title, aspect="equal")
right.quiver(*arrows.T, *f.T, color="#222222", width=0.005)
plt.show()
