"""Deblur signals with a convex regulariser R whose gradient is a network, learned from examples.

The measurement is y = A x + noise, where the blur A takes means of five neighbours.  A monotone gradient network ∇R is
trained so that x − ∇R(x) removes noise from piecewise constant signals.  Then R serves for any A: ½|A x − y|² + λ R(x)
is convex, and gradient descent finds its minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

import gradnets_fast

LENGTH = 32


def signals(count: int) -> Tensor:
    """Piecewise constant signals with two jumps each, (count, LENGTH)."""
    jumps = torch.randint(1, LENGTH, (count, 2, 1))
    return (torch.randn(count, 2, 1) * (torch.arange(LENGTH) >= jumps)).sum(1)


def denoiser(steps: int) -> gradnets_fast.mGradNetC:
    """∇R, trained so that x − ∇R(x) is the clean signal where x is a noisy one."""
    net = gradnets_fast.mGradNetC(num_layers=1, in_dim=LENGTH, embed_dim=64, activation="tanh")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        clean = signals(256)
        noisy = clean + 0.2 * torch.randn_like(clean)
        loss = (noisy - net(noisy) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def main(steps: int = 1000, weight: float = 0.1) -> dict[str, float]:
    """Trains the regulariser, deblurs new signals with λ = weight, and returns mean squared errors."""
    torch.manual_seed(0)
    net, clean = denoiser(steps), signals(200)
    A = torch.ones(LENGTH, LENGTH).tril(2).triu(-2) / 5
    y = clean @ A.T + 0.05 * torch.randn_like(clean)
    D = torch.eye(LENGTH).diff(dim=0)  # |D x|² is the usual quadratic regulariser
    quadratics = [torch.linalg.solve(A.T @ A + w * D.T @ D, A.T @ y.T).T for w in (0.003, 0.01, 0.03, 0.1, 0.3)]
    with torch.no_grad():
        L = float(torch.linalg.matrix_norm(net.jacobian(signals(200)), 2).max())  # how fast ∇R changes
        x = y.clone()
        for _ in range(300):
            x -= ((x @ A.T - y) @ A + weight * net(x)) / (1 + weight * L)
    measured, learned, *others = (float((signal - clean).square().mean()) for signal in (y, x, *quadratics))
    return {"as measured": measured, "best quadratic regulariser": min(others), "learned regulariser": learned}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name:40}{value:.2e}")
