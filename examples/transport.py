"""
Optimal transport between Gaussians
===================================

By Brenier's theorem the map that carries p to q at the least mean squared distance is the gradient of a convex
function, so that a monotone gradient network f which carries p to q is that map.  By the change of variables f carries
p to q if it maximises the mean of log q(f(x)) + log det J(x) over x from p.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import gradnets_fast


def gaussian(d: int) -> MultivariateNormal:
    """A Gaussian with a random mean and covariance."""
    factor = torch.randn(d, d)
    return MultivariateNormal(torch.randn(d), factor @ factor.T / d + torch.eye(d) / 2)


def root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.sqrt() @ vectors.T


def exact_map(p: MultivariateNormal, q: MultivariateNormal, x: Tensor) -> Tensor:
    """The optimal map in closed form: m_q + A (x − m_p), A = S⁻¹ (S Σ_q S)^½ S⁻¹ with S = Σ_p^½."""
    S = root(p.covariance_matrix)
    A = S.inverse() @ root(S @ q.covariance_matrix @ S) @ S.inverse()
    return q.mean + (x - p.mean) @ A


# %%
# The linear part, VᵀV x, makes the potential strongly convex: every Jacobian has a logarithm of its determinant.

torch.manual_seed(0)
p, q = gaussian(4), gaussian(4)
net = gradnets_fast.mGradNetC(num_layers=2, in_dim=4, embed_dim=16, activation="tanh", linear="psd")
steps = 600
optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(steps):
    x = p.sample((500,))
    loss = -(q.log_prob(net(x)) + net.logdet(x)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %%
# Between Gaussians the optimal map is known.

x = p.sample((5000,))
with torch.no_grad():
    moved, exact = net(x), exact_map(p, q, x)
    divergence = (p.log_prob(x) - q.log_prob(moved) - net.logdet(x)).mean()
results = {
    "relative error of the map": float((moved - exact).norm() / exact.norm()),
    "Kullback–Leibler divergence": float(divergence),
}
for name, value in results.items():
    print(f"{name:40}{value:.2e}")

# %%
# Two of the four coordinates of the points, of where the network carries them, and of points drawn from q.

figure, panels = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained", sharex=True, sharey=True)
for axes, title, points in zip(panels, ("x from p", "f(x)", "points of q"), (x, moved, q.sample((5000,)))):
    axes.scatter(*points[:1500, :2].T, s=4, linewidths=0, color="#1b6ca8")
    axes.set(title=title, aspect="equal")
plt.show()
