"""Training steps of deep networks by mse_loss, with kept layers, and by `squared_error`: `python -m bench.one_pass`.

A step is f, the mean of (f − target)² and the gradients in all parameters, float32, tanh.  Contenders run in turns,
after a check that they give the same numbers; milliseconds are medians, a gain is the median of the ratios of a turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import gradnets_fast as gf
from bench.calculus import Job, measured
from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_json

SIZES = (
    (200, 8, (200, 200)),
    (1000, 2, (64, 64)),
    (16384, 2, (64, 64)),
    (16384, 3, (64, 64, 64)),
    (16384, 64, (128, 128)),
    (16384, 3, (256, 256, 256, 256)),
    (16384, 64, (256, 256, 256)),
    (4096, 256, (512, 512)),
)
Loss = Callable[[torch.nn.Module, Tensor, Tensor], Tensor]


def step(net: gf.DeepGradNet, loss: Loss, x: Tensor, target: Tensor) -> list[Tensor]:
    """The loss and its gradients in the parameters."""
    value = loss(net, x, target)
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()))]


def row(size: tuple[int, int, tuple[int, ...]], rounds: int) -> dict[str, Any]:
    """The row of one network and batch."""
    batch, d, widths = size
    plain = gf.DeepGradNet(d, widths, "tanh")
    kept = gf.DeepGradNet(d, widths, "tanh", keep=True)
    kept.load_state_dict(plain.state_dict())
    x = torch.randn(batch, d)
    target = x.tanh()

    def usual(net: torch.nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return mse_loss(net(x), target)

    jobs: dict[str, Job] = {
        "squared_error": lambda: step(plain, gf.squared_error, x, target),
        "keep=True": lambda: step(kept, usual, x, target),
        "mse_loss": lambda: step(plain, usual, x, target),
    }
    found = measured(f"batch {batch}, d = {d}, widths {widths}", jobs, rounds, 1e-3)
    return {**found, "batch": batch, "d": d, "widths": widths, "kept_values": 2 * sum(widths) * batch}


def main() -> None:
    """Measures, and writes bench/results/one_pass.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.one_pass", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each contender")
    rounds = parser.parse_args().rounds
    where = environment()
    torch.manual_seed(0)
    write_json(RESULTS / "one_pass.json", {"environment": where, "rows": [row(size, rounds) for size in SIZES]})


if __name__ == "__main__":
    main()
