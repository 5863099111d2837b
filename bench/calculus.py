"""Determinants, a Monge–Ampère step and inverse maps beside plain PyTorch: `python -m bench.calculus`.

Contenders run in turns, after a check that they give the same numbers; milliseconds are medians.

- matrices: log det A and its gradient A⁻¹ of symmetric positive definite matrices, against torch.linalg.cholesky with
  torch.cholesky_inverse; and log det A alone, against torch.linalg.slogdet.
- Monge–Ampère step: the loss |log det J(x) − log p(x) + log q(f(x))| of standard normal densities and its gradient in
  all parameters, against vmap(jacrev) of the network in plain PyTorch with torch.linalg.slogdet.
- few units: log det J and its gradient, of fewer hidden units than coordinates, against the Jacobian and torch.linalg.
- inverse: f(x) = y to 1e-6, against Newton's method by vmap(jacrev) and torch.linalg.solve.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

import gradnets_fast as gf
from bench.environment import RESULTS, environment
from gradnets_fast import convex
from gradnets_fast.apps.bench.measurement import WallClock, interleaved
from gradnets_fast.apps.files import write_json
from gradnets_fast.nn import GradNet

MATRICES = ((4096, 4), (4096, 8), (4096, 16), (1000, 32), (4096, 32), (1000, 64), (256, 128))
DIMENSIONS = (2, 8, 32, 64)
ARCHITECTURES: dict[str, Callable[[int], GradNet]] = {
    "mGradNetC, 4 layers of 32": lambda d: gf.mGradNetC(4, d, 32, linear="psd"),
    "mGradNetM, 4 modules of 32": lambda d: gf.mGradNetM(4, d, 32, linear="psd"),
}
FEW_UNITS = ((64, 16), (128, 16), (128, 64))
BATCH, POINTS, INVERTED = 1000, 10_000, 16
Job = Callable[[], list[Tensor]]


def measured(what: str, jobs: dict[str, Job], rounds: int, tolerance: float) -> dict[str, Any]:
    """Median milliseconds of each job and the others' over the first's, after a check that all results are equal."""
    expected, *others = (job() for job in jobs.values())
    for other in others:
        for mine, theirs in zip(expected, other):
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))
    samples = interleaved({name: WallClock().sampler(job) for name, job in jobs.items()}, rounds, 60.0)
    medians = {name: 1e3 * statistics.median(values) for name, values in samples.items()}
    first, *rest = medians
    gains = {name: statistics.median(b / a for a, b in zip(samples[first], samples[name])) for name in rest}
    shown = ", ".join(f"{name} {medians[name]:.2f} ms" for name in medians)
    print(f"{what}: {shown}; {', '.join(f'{gain:.1f}×' for gain in gains.values())}", flush=True)
    return {"what": what, "milliseconds": medians, "gain": gains}


def matrices(rounds: int) -> list[dict[str, Any]]:
    """The rows of matrices."""
    rows = []
    for count, d in MATRICES:
        G = torch.randn(count, d, d) / d**0.5
        A = G @ G.mT + torch.eye(d)
        leaf = A.clone().requires_grad_()

        def ours(leaf: Tensor = leaf) -> list[Tensor]:
            logarithm = gf.symmetric_slogdet(leaf)[1]
            return [logarithm.detach(), *torch.autograd.grad(logarithm.sum(), leaf)]

        def theirs(A: Tensor = A) -> list[Tensor]:
            L = torch.linalg.cholesky(A)
            return [2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1), torch.cholesky_inverse(L)]

        both: dict[str, Job] = {"gradnets_fast": ours, "torch.linalg": theirs}
        rows.append(measured(f"log det A and A⁻¹, {count} of {d} × {d}", both, rounds, 1e-4))
        alone: dict[str, Job] = {
            "gradnets_fast": lambda A=A: [gf.symmetric_slogdet(A)[1]],
            "torch.linalg": lambda A=A: [torch.linalg.slogdet(A)[1]],
        }
        rows.append(measured(f"log det A, {count} of {d} × {d}", alone, rounds, 1e-4))
    return rows


def step(net: GradNet, x: Tensor, logarithm: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The loss and its gradients in the parameters."""
    # log p(x) − log q(f(x)) of standard normal densities.
    difference = (net(x).square().sum(-1) - x.square().sum(-1)) / 2
    loss = (logarithm(x) - difference).abs().mean()
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return [loss.detach(), *gradients]


def monge_ampere(rounds: int) -> list[dict[str, Any]]:
    """The rows of training steps."""
    rows = []
    for label, make in ARCHITECTURES.items():
        for d in DIMENSIONS:
            net, x = make(d), torch.randn(BATCH, d)
            with torch.no_grad():
                net.linear.V.copy_(torch.eye(d))  # type: ignore[union-attr]

            def by_jacobian(x: Tensor, net: GradNet = net) -> Tensor:
                result: Tensor = torch.linalg.slogdet(net.jacobian(x))[1]
                return result

            def eager(net: GradNet = net, x: Tensor = x) -> list[Tensor]:
                with gf.use_backend("reference"):
                    return step(net, x, lambda x: torch.linalg.slogdet(vmap(jacrev(net))(x))[1])

            jobs: dict[str, Job] = {
                "gradnets_fast": partial(step, net, x, net.logdet),
                "jacobian + torch.linalg": partial(step, net, x, by_jacobian),
                "vmap(jacrev) + torch.linalg": eager,
            }
            rows.append(measured(f"Monge–Ampère step, {label}, d = {d}, batch {BATCH}", jobs, rounds, 1e-3))
    return rows


def few_units(rounds: int) -> list[dict[str, Any]]:
    """The rows of log det J and its gradient in all parameters, of networks with few hidden units."""
    rows = []
    for d, h in FEW_UNITS:
        net, x = gf.mGradNetC(4, d, h, linear="psd"), torch.randn(BATCH, d)
        with torch.no_grad():
            net.linear.V.copy_(torch.eye(d))  # type: ignore[union-attr]

        def step(logarithm: Callable[[Tensor], Tensor], net: GradNet = net, x: Tensor = x) -> list[Tensor]:
            found = logarithm(x)
            # J does not depend on the bias of f.
            return [found.detach(), *torch.autograd.grad(found.sum(), list(net.parameters()), materialize_grads=True)]

        def by_jacobian(x: Tensor, net: GradNet = net) -> Tensor:
            result: Tensor = torch.linalg.slogdet(net.jacobian(x))[1]
            return result

        jobs: dict[str, Job] = {
            "gradnets_fast": partial(step, net.logdet),
            "jacobian + torch.linalg": partial(step, by_jacobian),
        }
        rows.append(measured(f"log det J and its gradient, mGradNetC, 4 layers of {h}, d = {d}", jobs, rounds, 1e-3))
    return rows


def inverses(rounds: int) -> list[dict[str, Any]]:
    """The row of inverse maps."""
    net = gf.mGradNetC(4, INVERTED, 32, linear="psd")
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(INVERTED))  # type: ignore[union-attr]
        y = net(torch.randn(POINTS, INVERTED))

    def ours() -> list[Tensor]:
        with torch.no_grad():
            return [convex.inverse(net, y, tolerance=1e-6, strict=True).x]

    def theirs() -> list[Tensor]:
        with gf.use_backend("reference"), torch.no_grad():
            x = y.clone()
            while True:
                r = net(x) - y
                if (r.norm(dim=1) <= 1e-6 * y.norm(dim=1)).all():
                    return [x]
                J = vmap(jacrev(net), chunk_size=1000)(x)
                x = x - torch.linalg.solve(J, r.unsqueeze(-1)).squeeze(-1)

    what = f"inverse of {POINTS} points to 1e-6, mGradNetC, 4 layers of 32, d = {INVERTED}"
    return [measured(what, {"gradnets_fast": ours, "Newton by vmap(jacrev)": theirs}, rounds, 1e-4)]


def main() -> None:
    """Measures, and writes bench/results/calculus.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.calculus", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each contender")
    rounds = parser.parse_args().rounds
    where = environment()
    torch.manual_seed(0)
    rows = [*matrices(rounds), *monge_ampere(rounds), *few_units(rounds), *inverses(rounds)]
    write_json(RESULTS / "calculus.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
