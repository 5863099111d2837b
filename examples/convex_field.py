"""Learn a gradient field whose potential is convex, and look at what the network knows besides the field.

The samples are x and ∇F(x) of F(x) = log(1 + e^{a·x} + e^{b·x}) in the plane.  A monotone gradient network learns the
field from them; it is then the gradient of a convex function, exactly and everywhere, and can say which.
"""

from __future__ import annotations

import torch
from torch import Tensor

import gradnets_fast

DIRECTIONS = torch.tensor([[3.0, 1.0], [-1.0, 2.0]])


def potential(x: Tensor) -> Tensor:
    """F(x), (n,), of points (n, 2)."""
    exponents = torch.cat([torch.zeros(len(x), 1), x @ DIRECTIONS.T], 1)
    return exponents.logsumexp(1)


def field(x: Tensor) -> Tensor:
    """∇F(x), (n, 2)."""
    exponents = torch.cat([torch.zeros(len(x), 1), x @ DIRECTIONS.T], 1)
    return exponents.softmax(1)[:, 1:] @ DIRECTIONS


def main(steps: int = 800) -> dict[str, float]:
    """Trains the network and returns what the last lines print."""
    torch.manual_seed(0)
    net = gradnets_fast.mGradNetM(num_modules=2, in_dim=2, embed_dim=8, activation="softmax")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = 4 * torch.rand(500, 2) - 2
        loss = (net(x) - field(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    x = 4 * torch.rand(5000, 2) - 2
    with torch.no_grad():
        f, target, jacobian = net(x), field(x), net.jacobian(x)
        difference = net.potential(x) - potential(x)  # a potential is known up to a constant
    return {
        "relative error of the field": float((f - target).norm() / target.norm()),
        "spread of the potential's difference": float(difference.std()),
        "asymmetry of the Jacobian": float((jacobian - jacobian.mT).abs().max()),
        "smallest eigenvalue of the Jacobian": float(torch.linalg.eigvalsh(jacobian).min()),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:40}{value:.2e}")
