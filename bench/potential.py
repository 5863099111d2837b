"""How many times as long as f the potential of a cascade takes, and its training step: `python -m bench.potential`.

A step is the gradients of the sum in all parameters.  Contenders run in turns, after a check against plain PyTorch;
milliseconds are medians, and the ratio is that of neighbouring runs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import gradnets_fast as gf
from bench.environment import RESULTS, environment
from gradnets_fast.apps.bench.measurement import WallClock, interleaved
from gradnets_fast.apps.files import write_json
from gradnets_fast.nn import GradNet

CASES = (
    *((gf.mGradNetC, "tanh", layers, 32, 128) for layers in (2, 4, 8)),
    *((gf.mGradNetC, activation, 4, 32, 128) for activation in ("softplus", "relu", "elu")),
    (gf.mGradNetC, "tanh", 4, 2, 64),
    (gf.GradNetC, "tanh", 4, 32, 128),
)
"""The architecture, its activation, layers, d and h."""

BATCH = 1000
Method = Callable[[Tensor], Tensor]


def value(net: GradNet, method: Method, x: Tensor) -> list[Tensor]:
    """The method's result."""
    with torch.no_grad():
        return [method(x)]


def step(net: GradNet, method: Method, x: Tensor) -> list[Tensor]:
    """The gradients of its sum."""
    return list(torch.autograd.grad(method(x).sum(), list(net.parameters()), materialize_grads=True))


def row(net: GradNet, x: Tensor, what: str, rounds: int) -> dict[str, Any]:
    """The times of F and f, and of their steps."""
    found: dict[str, Any] = {"what": what, "milliseconds": {}, "ratio": {}}
    for name, job in (("", value), (" step", step)):
        with gf.use_backend("reference"):
            expected = job(net, net.potential, x)
        for mine, theirs in zip(job(net, net.potential, x), expected):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        jobs = {"f" + name: lambda job=job: job(net, net, x), "F" + name: lambda job=job: job(net, net.potential, x)}
        samples = interleaved({key: WallClock().sampler(run) for key, run in jobs.items()}, rounds, 60.0)
        f, F = samples.values()
        found["milliseconds"] |= {key: 1e3 * statistics.median(times) for key, times in samples.items()}
        found["ratio"]["F" + name] = statistics.median(b / a for a, b in zip(f, F))
    print(f"{what}: {', '.join(f'{key} {ratio:.1f} of f' for key, ratio in found['ratio'].items())}", flush=True)
    return found


def main() -> None:
    """Measures, and writes bench/results/potential.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.potential", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="samples of each contender")
    rounds = parser.parse_args().rounds
    where = environment()
    torch.manual_seed(0)
    rows = []
    for make, activation, layers, d, h in CASES:
        net, x = make(layers, d, h, activation=activation), torch.randn(BATCH, d)
        what = f"{make.__name__}, {activation}, {layers} layers of {h}, d = {d}, batch {BATCH}"
        rows.append(row(net, x, what, rounds))
    write_json(RESULTS / "potential.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
