"""Learns the optimal transport of a Gaussian to the standard normal distribution: the gradient of a convex function.

    python -m bench.deep.transport

The loss is that of the Monge–Ampère equation, the mean of |log det J − log p(x) + log q(f(x))|, at batches of 1000.
The covariance Σ has the Wishart distribution of d + 1 degrees of freedom; the map Σ^(−½) x is known, and linear.
Source: Brenier, "Polar factorization and monotone rearrangement of vector-valued functions", 1991.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradnets_fast
from bench.deep.autograd import ByAutograd
from bench.deep.comparison import Task, Training, compared, options

DIMENSIONS, BATCH, TEST_POINTS, HIDDEN = (2, 8, 16), 1000, 10_000, 32


class ConvexEnergy(nn.Module):
    """The energy of an mDeepGradNet, in plain PyTorch, of its parameters."""

    def __init__(self, net: gradnets_fast.mDeepGradNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """F(x), (…,)."""
        net = self.net
        a = F.softplus(F.linear(x, net.A[0], net.b[0]))
        for V, A, b in zip(net.V, net.A[1:], net.b[1:]):
            a = F.softplus(F.linear(a, F.softplus(V)) + F.linear(x, A, b))
        return a @ F.softplus(net.c) + F.linear(x, net.linear.V).square().sum(-1) / 2


def loss(net: Any, x: Tensor, log_p: Tensor) -> Tensor:
    """The mean of |log det J − log p(x) + log q(f(x))|."""
    f, J = net.gradient_and_jacobian(x) if isinstance(net, ByAutograd) else (net(x), net.jacobian(x))
    return (torch.linalg.slogdet(J).logabsdet - log_p - f.square().sum(-1) / 2).abs().mean()


def make(d: int, seed: int) -> Task:
    """The networks, the Gaussian and the points of a seed."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(d + 1, d, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    root, inverse = (((vectors * values**power) @ vectors.T).float() for power in (0.5, -0.5))

    def sample(count: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(count, d, generator=generator)
        # Both densities without (2π)^(−d/2), which they have in common.
        return z @ root, -z.square().sum(-1) / 2 - values.log().sum().float() / 2

    test, _ = sample(TEST_POINTS)

    def errors(net: Any) -> dict[str, float]:
        return {"mean squared error of the map": (net(test) - test @ inverse).square().mean().item()}

    torch.manual_seed(seed)
    net = gradnets_fast.mDeepGradNet(d, (HIDDEN, HIDDEN))
    contenders = {
        "autograd": ByAutograd(ConvexEnergy(copy.deepcopy(net))),
        "ours": net,
        "mGradNetC, 4 layers of 32": gradnets_fast.mGradNetC(4, d, HIDDEN, "tanh", linear="psd"),
        "mGradNetM, 4 modules of 32": gradnets_fast.mGradNetM(4, d, HIDDEN, "softmax", linear="psd"),
    }
    return Task(contenders, loss, lambda: sample(BATCH), errors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes transport.json."""
    chosen = options("transport", __doc__, 1000, arguments)
    training = Training(chosen.steps, 1e-2, falls=False, clip=2.0)
    rows = [{"d": d} | compared(partial(make, d), training, chosen.seeds)[0] for d in DIMENSIONS]
    chosen.write("transport", rows)


if __name__ == "__main__":
    main()
