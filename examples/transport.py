"""Learn the optimal transport map between two Gaussians from samples of the first and the density of the second.

By Brenier's theorem the map that carries p to q at the least mean squared distance is the gradient of a convex
function, so that a monotone gradient network f which carries p to q is that map.  By the change of variables f carries
p to q if it maximises the mean of log q(f(x)) + log det J(x) over x from p.
"""

from __future__ import annotations

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


def main(steps: int = 600, d: int = 4) -> dict[str, float]:
    """Trains the network and returns what the last lines print."""
    torch.manual_seed(0)
    p, q = gaussian(d), gaussian(d)
    net = gradnets_fast.mGradNetC(num_layers=2, in_dim=d, embed_dim=16, activation="tanh", linear="psd")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = p.sample((500,))
        loss = -(q.log_prob(net(x)) + net.jacobian(x).logdet()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x = p.sample((5000,))
    with torch.no_grad():
        error = (net(x) - exact_map(p, q, x)).norm() / exact_map(p, q, x).norm()
        divergence = (p.log_prob(x) - q.log_prob(net(x)) - net.jacobian(x).logdet()).mean()
    return {"relative error of the map": float(error), "Kullback–Leibler divergence": float(divergence)}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:40}{value:.2e}")
