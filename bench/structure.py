"""Planted structure, found again: `python -m bench.structure` (minutes).

- sparse: the field Σ_k w_k tanh(<w_k, x>) of three directions in ten dimensions, from noisy values at 500 points, by
  RidgeGradNet of 64 hidden units; alone, and with the group lasso's proximal map after each step and `pruned` after
  training.  Its penalty is the largest of PENALTIES whose error on points held out is within 5 % of the smallest; the
  units that are left are then trained on without it, for the penalty has made them too small.
- low rank: a cascade of two directions in twenty dimensions, from 500 noisy values, by GradNetC and by LowRank of two
  directions with GradNetC inside, of as many hidden units.

Errors are relative root mean squares on 10,000 other points.  A direction's error is the largest of the sines of the
principal angles between the planted directions and the r strongest of the mean of JᵀJ.  Times are those of f at 10,000
points in one run with the larger network's, by turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gradnets_fast as gf
from bench.calculus import Job
from bench.environment import RESULTS, environment
from gradnets_fast.apps.bench.measurement import WallClock, interleaved
from gradnets_fast.apps.files import write_json
from gradnets_fast.nn import GradNet
from gradnets_fast.structure import LowRank, group_soft_threshold_, pruned

SEEDS, POINTS, TEST, NOISE = 3, 500, 10_000, 0.02
STEPS, RATE = 1500, 1e-2
PENALTIES = (3e-3, 1e-2, 3e-2, 1e-1)
HIDDEN = 64
Field = Callable[[Tensor], Tensor]


def trained(net: GradNet, x: Tensor, target: Tensor, penalty: float = 0.0) -> GradNet:
    """Steps of Adam on the squared error, each followed by the penalty's proximal map."""
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        gf.squared_error(net, x, target).backward()
        optimizer.step()
        if penalty:
            group_soft_threshold_(net, rate * penalty)
    return net


def relative_error(net: GradNet, x: Tensor, target: Tensor) -> float:
    """The root of the mean squared error over that of the target."""
    with torch.no_grad():
        return float((net(x) - target).norm() / target.norm())


def angle(net: GradNet, x: Tensor, planted: Tensor) -> float:
    """The largest sine of the principal angles between the planted directions (r, d) and the strongest of J."""
    with torch.no_grad():
        J = net.jacobian(x[:1000])
    strongest = torch.linalg.eigh((J.mT @ J).mean(0)).eigenvectors[:, -len(planted) :]
    within = torch.linalg.svdvals(torch.linalg.qr(planted.T).Q.T @ strongest)
    return float((1 - within.min().clamp(max=1) ** 2).sqrt())


def seconds(nets: dict[str, GradNet], x: Tensor) -> dict[str, float]:
    """Median milliseconds of f."""

    def job(net: GradNet) -> Job:
        return lambda: [net(x)]

    with torch.no_grad():
        samples = interleaved({name: WallClock().sampler(job(net)) for name, net in nets.items()}, 15, 20.0)
    return {name: 1e3 * statistics.median(values) for name, values in samples.items()}


def sparse(seed: int) -> dict[str, Any]:
    """One seed's planted ridge functions."""
    torch.manual_seed(seed)
    planted = torch.linalg.qr(torch.randn(10, 3)).Q.T * torch.tensor([[1.0], [1.5], [2.0]])

    def field(x: Tensor) -> Tensor:
        return (x @ planted.T).tanh() @ planted

    x, held, test = torch.randn(POINTS, 10), torch.randn(POINTS, 10), torch.randn(TEST, 10)
    target = field(x) + NOISE * torch.randn(POINTS, 10)
    of_held = field(held) + NOISE * torch.randn(POINTS, 10)
    start = gf.RidgeGradNet(10, HIDDEN).state_dict()

    def fresh() -> GradNet:
        net = gf.RidgeGradNet(10, HIDDEN)
        net.load_state_dict(start)
        return net

    found = {penalty: pruned(trained(fresh(), x, target, penalty)) for penalty in PENALTIES}
    errors = {penalty: relative_error(net, held, of_held) for penalty, net in found.items()}
    chosen = max(penalty for penalty, error in errors.items() if error <= 1.05 * min(errors.values()))
    nets = {"64 units": trained(fresh(), x, target), "group lasso, pruned": trained(found[chosen], x, target)}
    return _row(nets, test, field(test), planted) | {"penalty": chosen, "planted": 3}


def low_rank(seed: int) -> dict[str, Any]:
    """One seed's planted directions."""
    torch.manual_seed(seed)
    planted = torch.linalg.qr(torch.randn(20, 2)).Q.T
    inner = gf.GradNetC(2, 2, 16)
    with torch.no_grad():
        inner.W.mul_(4)

    def field(x: Tensor) -> Tensor:
        with torch.no_grad():
            return inner(x @ planted.T) @ planted

    x, test = torch.randn(POINTS, 20), torch.randn(TEST, 20)
    target = field(x)
    target = target + NOISE * target.square().mean().sqrt() * torch.randn(POINTS, 20)
    nets: dict[str, GradNet] = {
        "GradNetC": gf.GradNetC(2, 20, HIDDEN),
        "LowRank, 2 directions": LowRank(gf.GradNetC(2, 2, HIDDEN), 20),
    }
    return _row({name: trained(net, x, target) for name, net in nets.items()}, test, field(test), planted)


def _row(nets: dict[str, GradNet], x: Tensor, exact: Tensor, planted: Tensor) -> dict[str, Any]:
    spent = seconds(nets, x)
    return {
        "networks": {
            name: {
                "error": relative_error(net, x, exact),
                "angle": angle(net, x, planted),
                "units": getattr(net, "embed_dim", HIDDEN),
                "parameters": sum(p.numel() for p in net.parameters()),
                "milliseconds": spent[name],
            }
            for name, net in nets.items()
        }
    }


def main() -> None:
    """Trains, measures, and writes bench/results/structure.json."""
    where = environment()
    rows = []
    for name, experiment in (("sparse", sparse), ("low rank", low_rank)):
        for seed in range(SEEDS):
            rows.append({"planted as": name, "seed": seed, **experiment(seed)})
            print(rows[-1], flush=True)
    write_json(RESULTS / "structure.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
