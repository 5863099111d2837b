"""
A score, a density and samples
==============================

A gradient network f = ∇E models a density p(x) ∝ exp(−E(x)) whose normaliser is not needed: its score ∇log p is −f.
Exact score matching learns it from points alone, because tr J is exact and cheap; denoising needs f only, and learns
the density of the noisy points.  Langevin's dynamics draws samples, and the energy, which a score that is no gradient
lacks, corrects them.
"""

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import gradnets_fast
from gradnets_fast.score import denoising_score_loss, langevin, score_matching_loss

WIDTH, SIGMA = 0.4, 0.2
CENTRES = 1.5 * torch.tensor([[math.cos(k * math.pi / 3), math.sin(k * math.pi / 3)] for k in range(6)])


def mixture(width: float) -> MixtureSameFamily:
    """Six normal distributions about a circle, of this standard deviation."""
    return MixtureSameFamily(Categorical(torch.ones(6)), Independent(Normal(CENTRES, width), 1))


# %%
# The linear part is positive definite and all else in f is bounded, so that exp(−E) has an integral.

torch.manual_seed(0)
clean, noisy = mixture(WIDTH), mixture(math.hypot(WIDTH, SIGMA))


def learned(loss_of: Callable[..., Tensor]) -> gradnets_fast.GradNetC:
    """A network that has learned one of the losses."""
    net = gradnets_fast.GradNetC(num_layers=3, in_dim=2, embed_dim=64, activation="tanh", linear="psd")
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 800)
        optimizer.zero_grad()
        loss_of(net, clean.sample((500,))).backward()
        optimizer.step()
    return net


by_matching = learned(score_matching_loss)
by_denoising = learned(lambda net, x: denoising_score_loss(net, x, SIGMA))

# %%
# Both densities, and so their scores, are known here.


def exact_score(density: MixtureSameFamily, x: Tensor) -> Tensor:
    """∇log p, (n, 2)."""
    return torch.func.grad(lambda x: density.log_prob(x).sum())(x)


results = {}
for way, net, density in (("matching", by_matching, clean), ("denoising", by_denoising, noisy)):
    x = density.sample((5000,))
    exact = exact_score(density, x)
    results[f"relative error of the score by {way}"] = float((-net(x).detach() - exact).norm() / exact.norm())
found = langevin(by_matching, 1.5 * torch.randn(2000, 2), steps=300, step=0.02, metropolis=True)
results["share of steps rejected"] = 1 - float(found.accepted.mean())
results["error of the samples' covariance"] = float(
    (torch.cov(found.x.T) - torch.cov(clean.sample((50_000,)).T)).norm()
)
print("\n".join(f"{name:45}{value:.3f}" for name, value in results.items()))

# %%
# The density exact and from the potential, normalised on the grid, with the score and the samples.

line, coarse = torch.linspace(-3, 3, 150), torch.linspace(-2.7, 2.7, 13)
grid, arrows = torch.cartesian_prod(line, line), torch.cartesian_prod(coarse, coarse)
with torch.no_grad():
    densities = {"exact": clean.log_prob(grid), "learned, with its score": -by_matching.potential(grid)}
    at = -by_matching(arrows)
figure, panels = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained", sharex=True, sharey=True)
for axes, (title, log_p) in zip(panels, densities.items()):
    axes.contourf(line, line, log_p.softmax(0).reshape(150, 150).T, levels=20, cmap="Blues")
    axes.set(title=title, aspect="equal")
panels[1].quiver(*arrows.T, *at.T, color="#222222", width=0.004)
panels[2].scatter(*found.x.T, s=3, linewidths=0, color="#1b6b93")
panels[2].set(title="samples", aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
plt.show()
