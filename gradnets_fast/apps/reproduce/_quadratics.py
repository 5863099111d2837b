"""Random quadratics, of the experiment `optimise`: steps that are learned, with a certificate, and hand-made ones.

A step is x − f(Qx − b) with a learned gradient map f.  In the norm of Q an error is multiplied by I − Q^½ J Q^½, so
that bounds µ ≤ Q^½ J Q^½ ≤ L, of f with its weights times Q^½, certify the rate max(|1 − µ|, |1 − L|) for the problem
at hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import convex

from .contest import Residual, sized, trained
from .experiment import Case, Row, Settings
from .measures import parameters

METHODS = (
    "learned step",
    "step by an MLP",
    "gradient descent",
    "mean inverse",
    "heavy ball",
    "conjugate gradients",
)
Iteration = Callable[[Tensor, int], Tensor]


class Quadratics:
    """½xᵀQx − bᵀx with the eigenvectors of one basis and eigenvalues that vary about those of a given condition."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.d, self.condition = settings["quadratic_d"], settings["condition"]
        generator = torch.Generator().manual_seed(seed)
        self.basis: Tensor = torch.linalg.qr(torch.randn(self.d, self.d, generator=generator)).Q

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Q, (count, d, d), and the minimisers, (count, d)."""
        spectrum = torch.logspace(-math.log10(self.condition), 0, self.d)
        values = spectrum * torch.exp(0.6 * torch.randn(count, self.d))
        return (self.basis * values.unsqueeze(1)) @ self.basis.T, torch.randn(count, self.d)


def by_steps(f: Callable[[Tensor], Tensor], Q: Tensor, best: Tensor) -> Iteration:
    """x − (f(g) − f(0)) with the gradient g = Q (x − best); f(0) is taken off, so that the minimiser stays."""
    rest = f(torch.zeros_like(best[:1]))
    return lambda x, k: x - (f(times(Q, x - best)) - rest)


def times(Q: Tensor, x: Tensor) -> Tensor:
    """Q x of each problem."""
    return (Q @ x.unsqueeze(-1)).squeeze(-1)


def energy(Q: Tensor, x: Tensor) -> Tensor:
    """xᵀQx of each problem."""
    return (x * times(Q, x)).sum(-1)


def by_hand(method: str, Q: Tensor, best: Tensor, problems: Quadratics) -> Iteration:
    """The step of a method that is told the largest and the least eigenvalue of each Q, or the mean of all Q."""
    values = torch.linalg.eigvalsh(Q)
    least, most = values[:, :1], values[:, -1:]
    if method == "gradient descent":
        return lambda x, k: x - 2 / (least + most) * times(Q, x - best)
    if method == "mean inverse":
        known, _ = problems.sample(1000)
        P = torch.linalg.inv(known.mean(0))
        most = torch.linalg.matrix_norm(known @ P, 2).max()  # so that the step is short enough for all of these
        return lambda x, k: x - 1.9 / most * times(Q, x - best) @ P
    roots = (least.sqrt(), most.sqrt())
    rate: Tensor = (2 / (roots[0] + roots[1])) ** 2
    momentum = ((roots[1] - roots[0]) / (roots[1] + roots[0])) ** 2
    memory: dict[str, Tensor] = {}

    def heavy_ball(x: Tensor, k: int) -> Tensor:
        before = memory.get("x", x)
        memory["x"] = x
        moved: Tensor = x - rate * times(Q, x - best) + momentum * (x - before)
        return moved

    def conjugate(x: Tensor, k: int) -> Tensor:
        r = memory.get("r", times(Q, best - x))
        p = memory.get("p", r)
        step = (r.square().sum(-1) / energy(Q, p).clamp(min=1e-30)).unsqueeze(-1)
        left = r - step * times(Q, p)
        memory["r"] = left
        memory["p"] = left + (left.square().sum(-1) / r.square().sum(-1).clamp(min=1e-30)).unsqueeze(-1) * p
        return x + step * p

    return heavy_ball if method == "heavy ball" else conjugate


def bounds(net: Any, Q: Tensor) -> tuple[Tensor, Tensor]:
    """µ and L of each problem, (count, 1): f(Q^½ ·) Q^½ is the network with its weights times Q^½."""
    ends = []
    for matrix in Q:
        values, vectors = torch.linalg.eigh(matrix)
        root = vectors * values.sqrt() @ vectors.T
        seen = copy.deepcopy(net)
        with torch.no_grad():
            seen.W.copy_(net.W @ root)
            seen.linear.V.copy_(net.linear.V @ root)
            ends.append((float(convex.strong_convexity_bound(seen)), float(convex.lipschitz_bound(seen))))
    least, most = torch.tensor(ends).split(1, dim=1)
    return least, most


def quadratic(case: Case, settings: Settings) -> Row:
    """Steps on quadratics of the family: those that training saw, in kind, and how fast the error falls."""
    problems, method, d = Quadratics(settings, case["seed"]), case["network"], settings["quadratic_d"]
    row: Row = {}
    net: Any = None
    if method in METHODS[:2]:
        net = gradnets_fast.mGradNetC(2, d, 24, "tanh", linear="psd")
        gradnets_fast.init_identity_(net)
        if method == "step by an MLP":
            budget = parameters(net)
            net = sized(lambda width: Residual(d, width), budget)

        def loss() -> Tensor:
            Q, best = problems.sample(settings["unrolled_batch"])
            step, x = by_steps(net, Q, best), torch.zeros_like(best)
            total = torch.zeros(())
            for k in range(settings["unrolled"]):
                x = step(x, k)
                total = total + (energy(Q, x - best) / energy(Q, best)).clamp(min=1e-12).log().mean()
            mean: Tensor = total / settings["unrolled"]
            return mean

        row["step_ms"] = trained(net, loss, settings["unrolled_steps"], settings["unrolled_rate"])
        row["parameters"] = parameters(net)
    torch.manual_seed(10_000 + case["seed"])
    Q, best = problems.sample(settings["problems"])
    rate = None
    with torch.no_grad():
        step = by_hand(method, Q, best, problems) if net is None else by_steps(net, Q, best)
        if method == "learned step":
            least, most = bounds(net, Q)
            share = (1.98 / most).clamp(max=1)  # a multiple of f is a gradient map too, and of this one L < 2
            rate = torch.maximum((1 - share * least).abs(), (1 - share * most).abs()).squeeze(1)
            step = by_steps(lambda g: share * net(g), Q, best)
            row["rate"], row["certified"] = float(rate.median()), float((rate < 1).float().mean())
        x, errors = torch.zeros_like(best), [energy(Q, best).sqrt()]
        for k in range(settings["iterations"]):
            x = step(x, k)
            errors.append(energy(Q, x - best).clamp(min=0).sqrt())
    falls = [(error / errors[0]).nan_to_num(torch.inf) for error in errors]  # NaN where numbers have left their range
    row["curve"], row["diverged"] = [float(fall.median()) for fall in falls], float((falls[-1] > 1).float().mean())
    if rate is not None:
        above = [error > 1e-3 * errors[0] for error in errors]  # below, rounding shows
        ratios = [(after / before / rate)[far] for before, after, far in zip(errors, errors[1:], above[1:])]
        row["of_the_rate"] = float(torch.cat(ratios).max())
    return row
