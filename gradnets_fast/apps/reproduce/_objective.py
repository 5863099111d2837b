"""A convex function of which gradients are known at some points, learned and then minimised; of `optimise`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import gradnets_fast
from gradnets_fast import convex

from .contest import newton, relative, sized, trained
from .experiment import Case, Row, Settings
from .measures import parameters
from .peers import mlp

METHODS = ("mGradNetM", "mGradNetC", "mDeepGradNet", "MLP", "linear map")


def objective(x: Tensor, centres: Tensor) -> Tensor:
    """log Σ exp(<a_i, x>) + |x|²/10, which is convex."""
    return torch.logsumexp(x @ centres.T, -1) + x.square().sum(-1) / 10


def slope(x: Tensor, centres: Tensor) -> Tensor:
    """Its gradient."""
    return (x @ centres.T).softmax(-1) @ centres + x / 5


class Linear(nn.Module):
    """The symmetric linear map with an offset of least squares."""

    def __init__(self, x: Tensor, g: Tensor) -> None:
        super().__init__()
        A = torch.linalg.lstsq(x - x.mean(0), g - g.mean(0)).solution
        self.A, self.offset = (A + A.T) / 2, g.mean(0) - x.mean(0) @ (A + A.T) / 2

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = x @ self.A + self.offset
        return f


def potential(case: Case, settings: Settings) -> Row:
    """Learn an objective from slopes, minimise it less <y, x> for many y, and ask the objective how good that is."""
    d, seed, method = settings["potential_d"], case["seed"], case["network"]
    centres = 1.5 * torch.randn(8, d, generator=torch.Generator().manual_seed(seed))
    x = 2 * torch.randn(settings["samples"], d)
    g = slope(x, centres)
    makers: dict[str, Callable[[int], nn.Module]] = {
        "mGradNetM": lambda h: gradnets_fast.mGradNetM(4, d, h, "softmax", linear="psd"),
        "mGradNetC": lambda h: gradnets_fast.mGradNetC(3, d, h, "tanh", linear="psd"),
        "mDeepGradNet": lambda h: gradnets_fast.mDeepGradNet(d, (h, h), linear="psd"),
        "MLP": lambda h: mlp((d, h, h, d), nn.SiLU),
    }
    net: Any = Linear(x, g)
    row: Row = {}
    if method in makers:
        net = sized(makers[method], settings["parameters"])

        def loss() -> Tensor:
            chosen = torch.randint(len(x), (settings["batch"],))
            error: Tensor = net(x[chosen]) - g[chosen]
            return error.square().mean()

        row["step_ms"], row["parameters"] = trained(net, loss, settings["steps"], settings["rate"]), parameters(net)
    test, wanted = 2 * torch.randn(2000, d), 1.5 * torch.randn(settings["problems"], d)
    y = slope(wanted, centres)
    start = time.perf_counter()
    if isinstance(net, gradnets_fast.nn.GradNet):
        result = convex.inverse(net, y)
        found, solved = result.x.detach(), result.converged
    else:
        found = newton(net, y)
        with torch.no_grad():
            solved = (net(found) - y).norm(dim=1) < 1e-3 * y.norm(dim=1)
    row["solve_ms"] = 1e3 * (time.perf_counter() - start)

    def value(x: Tensor) -> Tensor:
        return objective(x, centres) - (x * y).sum(-1)

    with torch.no_grad():
        row["error"] = relative(net(test), slope(test, centres))
        found, wanted, y = found[solved], wanted[solved], y[solved]
        row["solved"], row["distance"] = float(solved.float().mean()), relative(found, wanted)
        row["gap"] = float((value(found) - value(wanted)).mean())
        row["above"] = float((value(torch.zeros_like(wanted)) - value(wanted)).mean())
    return row
