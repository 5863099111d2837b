"""Derivatives of a ridge network beside closed forms in a line of PyTorch: `python -m bench.derivatives`.

f(x) = Wᵀ tanh(Wx), float32.  Forward: the quantity alone; step: the quantity and the gradients of x and W.  The closed
forms of the Jacobian Wᵀ diag(s) W with s = 1 − tanh²(Wx) are a batched product, an einsum, and one product of s with
the outer products w_j w_jᵀ; the fastest is what counts.  Contenders run in turns, after a check that they agree.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

import gradnets_fast as gf
from bench.calculus import Job, measured
from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_json

SIZES = tuple((B, d, h) for B in (1000, 16384) for d in (2, 8, 32, 64, 256) for h in (64, 256, 1024))
MOST_VALUES = 2**27
"""Of the largest tensor that a closed form makes, at most; larger sizes are left out."""
Form = Callable[[Tensor, Tensor], Tensor]


def slopes(x: Tensor, W: Tensor) -> Tensor:
    """s = 1 − tanh²(Wx), (B, h)."""
    return 1 - torch.tanh(x @ W.T).square()


def by_outer_products(x: Tensor, W: Tensor) -> Tensor:
    """The Jacobian, by one product."""
    outer = W.unsqueeze(2) * W.unsqueeze(1)
    return (slopes(x, W) @ outer.flatten(1)).view(len(x), W.shape[1], W.shape[1])


def potential(x: Tensor, W: Tensor) -> Tensor:
    """Σ log cosh(Wx)."""
    u = x @ W.T
    return (softplus(2 * u) - u - math.log(2)).sum(1)


def ours(operator: Callable[..., Tensor], *directions: Tensor) -> Form:
    """An operator of the package for f."""

    def form(x: Tensor, W: Tensor) -> Tensor:
        return operator(x, *directions, W, None, torch.zeros(1, len(W)), None, None, "tanh")

    return form


def contenders(v: Tensor) -> dict[str, dict[str, Form]]:
    """Ours first, then the closed forms, of each quantity."""
    return {
        "divergence": {
            "gradnets_fast": ours(gf.ridge_divergence),
            "closed form": lambda x, W: slopes(x, W) @ W.square().sum(1),
        },
        "jvp": {
            "gradnets_fast": ours(gf.ridge_jvp, v),
            "closed form": lambda x, W: (slopes(x, W) * (v @ W.T)) @ W,
        },
        "potential": {"gradnets_fast": ours(gf.ridge_potential), "closed form": potential},
        "jacobian": {
            "gradnets_fast": ours(gf.ridge_jacobian),
            "bmm": lambda x, W: (W.T * slopes(x, W).unsqueeze(1)) @ W,
            "einsum": lambda x, W: torch.einsum("bh,hi,hj->bij", slopes(x, W), W, W),
            "outer products": by_outer_products,
        },
    }


def step(form: Form, x: Tensor, W: Tensor, g: Tensor) -> list[Tensor]:
    """The quantity and the gradients of x and W."""
    result = form(x, W)
    return [result.detach(), *torch.autograd.grad(result, [x, W], g)]


def rows_of(size: tuple[int, int, int], rounds: int) -> list[dict[str, Any]]:
    """Forward and step of each quantity at one size."""
    B, d, h = size
    x, v = torch.randn(2, B, d)
    W = torch.randn(h, d) / math.sqrt(d)
    rows = []
    for quantity, forms in contenders(v).items():
        if quantity == "jacobian":
            forms = {
                name: form for name, form in forms.items() if name not in ("bmm", "einsum") or B * d * h <= MOST_VALUES
            }
            if B * d * d > MOST_VALUES:
                continue
        forward: dict[str, Job] = {name: lambda form=form: [form(x, W)] for name, form in forms.items()}  # type: ignore[misc]
        points, weights = (t.clone().requires_grad_() for t in (x, W))
        g = torch.randn_like(next(iter(forms.values()))(x, W))
        both: dict[str, Job] = {name: partial(step, form, points, weights, g) for name, form in forms.items()}
        for what, jobs in (("forward", forward), ("step", both)):
            row = measured(f"{quantity} {what}, B = {B}, d = {d}, h = {h}", jobs, rounds, 1e-3)
            rows.append(
                {**row, "quantity": quantity, "pass": what, "size": [B, d, h], "best": min(row["gain"].values())}
            )
    return rows


def main() -> None:
    """Measures, and writes bench/results/derivatives.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.derivatives", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each contender")
    rounds = parser.parse_args().rounds
    where = environment()
    torch.manual_seed(0)
    rows = [row for size in SIZES for row in rows_of(size, rounds)]
    write_json(RESULTS / "derivatives.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
