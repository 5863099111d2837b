"""
A score and a density from a denoiser
=====================================

Points x are seen as y = x + σ·noise.  The best guess of x is D(y) = E[x | y] = y + σ²∇log p(y), p being the density of
y: the gradient of ``F(y) = |y|²/2 + σ² log p(y)``, which is convex, because the Jacobian of D is a covariance, that of
x given y, over σ².  So the denoiser is a monotone gradient network f = ∇F, and its potential tells the density:
``log p(y) = (F(y) − |y|²/2)/σ²`` up to a constant.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import gradnets_fast

SIGMA = 0.4
angles = 2 * math.pi * torch.arange(6) / 6
CENTRES = 1.5 * torch.stack([angles.cos(), angles.sin()], 1)


def mixture(width: float) -> MixtureSameFamily:
    """Six normal distributions about a circle, of this standard deviation."""
    return MixtureSameFamily(Categorical(torch.ones(6)), Independent(Normal(CENTRES, width), 1))


# %%
# The network removes noise; nothing else is asked of it.

torch.manual_seed(0)
net = gradnets_fast.mGradNetM(num_modules=4, in_dim=2, embed_dim=16, activation="softmax", linear="psd")
clean, noisy_density = mixture(0.15), mixture(math.hypot(0.15, SIGMA))
steps = 1500
optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(steps):
    x = clean.sample((1000,))
    loss = (net(x + SIGMA * torch.randn_like(x)) - x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %%
# The score and the log-density of the noisy points are known here; the latter is compared up to a constant.


def log_density(y: Tensor) -> Tensor:
    """log p(y) up to a constant, (n,), by the network."""
    return (net.potential(y) - y.square().sum(1) / 2) / SIGMA**2


y = noisy_density.sample((5000,)).requires_grad_()
(score,) = torch.autograd.grad(noisy_density.log_prob(y).sum(), y)
with torch.no_grad():
    y = y.detach()
    learned = (net(y) - y) / SIGMA**2
    difference = log_density(y) - noisy_density.log_prob(y)
results = {
    "relative error of the score": float((learned - score).norm() / score.norm()),
    "spread of the log-density's difference": float(difference.std()),
}
for name, value in results.items():
    print(f"{name:40}{value:.3f}")

# %%
# The density of the noisy points, exact and from the potential, normalised on the grid, with the learned score.

line, coarse = torch.linspace(-3, 3, 150), torch.linspace(-2.7, 2.7, 13)
grid, arrows = torch.cartesian_prod(line, line), torch.cartesian_prod(coarse, coarse)
with torch.no_grad():
    exact, found = noisy_density.log_prob(grid).softmax(0), log_density(grid).softmax(0)
    at = (net(arrows) - arrows) / SIGMA**2
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
for axes, title, p in ((left, "density of y, exact", exact), (right, "by the network, and its score", found)):
    axes.contourf(line, line, p.reshape(150, 150).T, levels=20, cmap="Blues")
    axes.set(title=title, aspect="equal")
right.quiver(*arrows.T, *at.T, color="#222222", width=0.004)
plt.show()
