"""Sparse signals from few measurements, of the experiment `optimise`: proximal operators, learned and hand-made.

The iteration is x ↦ prox(x − Aᵀ(Ax − b)), with ‖A‖ = 1.  A learned operator that is proved to be the proximal one of
some convex function makes it converge, whatever was learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import gradnets_fast
from gradnets_fast import convex

from .contest import Residual, relative, sized, trained
from .experiment import Case, Row, Settings
from .measures import parameters

METHODS = ("learned operator", "operator by an MLP", "ISTA", "FISTA", "ISTA, group thresholds")
MOST = 1000
"""Iterations that stand for the limit."""
Operator = Callable[[Tensor], Tensor]


class Sparse:
    """b = A x + noise of signals x in which a few blocks of neighbouring coordinates are not 0."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.m, self.n, self.block = settings["measurements"], settings["lasso_d"], settings["block"]
        A = torch.randn(self.m, self.n, generator=torch.Generator().manual_seed(seed))
        self.A: Tensor = A / torch.linalg.matrix_norm(A, 2)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """x, (count, n), and b, (count, m)."""
        active = torch.rand(count, self.n // self.block, 1) < 0.2
        x = (active * torch.randn(count, self.n // self.block, self.block)).flatten(1)
        b = x @ self.A.T
        return x, b + 0.02 * torch.randn_like(b)

    def descend(self, x: Tensor, b: Tensor) -> Tensor:
        """A step of gradient descent on ½|Ax − b|², of length 1 = 1/‖A‖²."""
        return x - (x @ self.A.T - b) @ self.A


def soft(x: Tensor, threshold: float) -> Tensor:
    """The proximal operator of threshold·|x|₁."""
    return nn.functional.softshrink(x, threshold)


def group_soft(x: Tensor, threshold: float, block: int) -> Tensor:
    """The proximal operator of threshold·Σ|x_block|."""
    blocks = x.unflatten(-1, (-1, block))
    norms = blocks.norm(dim=-1, keepdim=True)
    shrunk: Tensor = blocks * (1 - threshold / norms.clamp(min=threshold))
    return shrunk.flatten(-2)


class Proximal(nn.Module):
    """x − g(x) with a monotone network g that begins, up to small weights, as the clipping of each coordinate.

    By Moreau's identity it is the proximal operator of a convex function if g is one, that is, if g is a monotone
    gradient map whose Lipschitz constant is at most 1; it begins as the soft threshold.
    """

    def __init__(self, n: int, threshold: float) -> None:
        super().__init__()
        self.g = gradnets_fast.mGradNetC(1, n, 3 * n, "hardtanh")  # Wᵀ α hardtanh(β W x)
        t = torch.full((3 * n,), threshold)
        with torch.no_grad():
            self.g.W.copy_(torch.cat([torch.eye(n), 0.1 * torch.randn(2 * n, n)]) / 1.2)
            self.g.alpha[0].copy_(t.expm1().log())  # α = softplus(alpha) = t, and β = 1/t
            self.g.beta[0].copy_(1 / t + (-(-1 / t).expm1()).log())
            for bias in self.g.bias:
                bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        f: Tensor = x - self.g(x)
        return f


def iterated(operator: Operator, problem: Sparse, b: Tensor, fast: bool, count: int = MOST) -> list[Tensor]:
    """The sequence of x ↦ operator(x − Aᵀ(Ax − b)) from 0, with FISTA's extrapolation if `fast`."""
    x = y = torch.zeros(len(b), problem.n)
    sequence, t = [x], 1.0
    for _ in range(count):
        x = operator(problem.descend(y, b))
        larger = (1 + math.sqrt(1 + 4 * t * t)) / 2
        y = x + (t - 1) / larger * (x - sequence[-1]) if fast else x
        t = larger
        sequence.append(x)
    return sequence


def lasso(case: Case, settings: Settings) -> Row:
    """Signals from few measurements, by iterations whose operator is learned or a soft threshold."""
    problem, method, row = Sparse(settings, case["seed"]), case["network"], Row()
    n = settings["lasso_d"]
    operators: list[Operator]
    if method in METHODS[:2]:
        net: Any = Proximal(n, settings["threshold"])
        if method == "operator by an MLP":
            budget = parameters(net)
            net = sized(lambda width: Residual(n, width), budget)

        def loss() -> Tensor:
            exact, b = problem.sample(settings["unrolled_batch"])
            x = torch.zeros_like(exact)
            with torch.no_grad():  # towards the fixed point, which a backward pass need not see whole
                for _ in range(settings["warm"]):
                    x = net(problem.descend(x, b))
            for _ in range(settings["unrolled"]):
                x = net(problem.descend(x, b))
            error = (x - exact).square().sum(-1).mean()
            if method == "learned operator":
                error = error + 10 * (convex.lipschitz_bound(net.g) - 0.999).clamp(min=0).square()
            return error

        row["step_ms"] = trained(net, loss, settings["unrolled_steps"], settings["unrolled_rate"])
        row["parameters"] = parameters(net)
        operators = [net] * 2
        if method == "learned operator":
            # What training has left above 1 is divided away: a multiple of a gradient map is one.
            bound = float(convex.lipschitz_bound(net.g).detach())
            row["bound"] = min(bound, 1.0)
            operators = [lambda x: x - net.g(x) / max(bound, 1.0)] * 2
    else:
        operators = [_by_hand(method, problem, settings, count) for count in (settings["iterations"], MOST)]
    torch.manual_seed(10_000 + case["seed"])
    exact, b = problem.sample(settings["problems"])
    with torch.no_grad():
        few, many = (iterated(operator, problem, b, method == "FISTA") for operator in operators)
    row["curve"] = [relative(x, exact) for x in few[: settings["iterations"] + 1]]
    row["limit"] = relative(many[-1], exact)
    row["moves"] = relative(many[-1], many[-2])
    return row


def _by_hand(method: str, problem: Sparse, settings: Settings, count: int) -> Operator:
    """The soft threshold, of those tried, that is best after so many iterations on signals of the same kind."""
    exact, b = problem.sample(settings["problems"])

    def made(threshold: float) -> Operator:
        if method == "ISTA, group thresholds":
            return lambda x: group_soft(x, threshold, settings["block"])
        return lambda x: soft(x, threshold)

    errors = {}
    for threshold in torch.logspace(-4, 0, 17).tolist():
        sequence = iterated(made(threshold), problem, b, method == "FISTA", count)
        errors[threshold] = relative(sequence[-1], exact)
    return made(min(errors, key=lambda threshold: errors[threshold]))
