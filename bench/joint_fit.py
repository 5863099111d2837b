"""What fitting gradients and values together gains on few points: `python -m bench.joint_fit`.

GradNetC (mGradNetC for the convex field), 4 layers of 32, 1000 steps of `gradnets_fast.fit` on all points: on their
gradients, on the values of the potential, or on both.  Errors on a grid of 100 × 100 points: the root mean square of
|f − ∇F|, and of the potential's error about its mean, which gradients leave open, each over that of the function
itself.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gradnets_fast as gf
from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.fields import make_field
from gradnets_fast.nn import GradNet

COUNTS = (20, 50, 200)
FIELDS = ("convex2d", "nonconvex2d")
TARGETS = {"gradients": (1.0, 0.0), "values": (0.0, 1.0), "both": (1.0, 1.0)}
"""What is fitted, with the weights of gradients and values, which are divided by their variances."""


def size(t: Tensor) -> Tensor:
    """The root of the mean square about the mean over points."""
    return (t - t.mean(0)).square().mean().sqrt()


def errors(name: str, count: int, target: str, seed: int, steps: int) -> tuple[float, float]:
    """The relative errors of gradient and potential on the grid."""
    field = make_field(name)
    x = field.sample(count, torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    net: GradNet = (gf.mGradNetC if name == "convex2d" else gf.GradNetC)(4, 2, 32)
    g, F = field.gradient(x), field.potential(x)
    use = TARGETS[target]
    gf.fit(
        *(net, x, g if use[0] else None, F if use[1] else None),
        weights=(float(1 / size(g) ** 2), float(1 / size(F) ** 2)),
        steps=steps,
        progress=False,
    )
    grid = field.test_points()
    with torch.no_grad():
        F_net, f = net.value_and_gradient(grid)
    g, F = field.gradient(grid), field.potential(grid)
    return float((f - g).square().mean().sqrt() / size(g)), float(size(F_net - F) / size(F))


def row(name: str, count: int, seeds: int, steps: int) -> dict[str, Any]:
    """The errors of each seed at one number of points."""
    found = {}
    for target in TARGETS:
        pairs = [errors(name, count, target, seed, steps) for seed in range(seeds)]
        gradient, potential = ([pair[i] for pair in pairs] for i in (0, 1))
        found[target] = {"gradient": gradient, "potential": potential}
        means = f"{statistics.mean(gradient):.4f} gradient, {statistics.mean(potential):.4f} potential"
        print(f"{name}, {count} points, {target}: {means}", flush=True)
    return {"field": name, "points": count, "errors": found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes bench/results/joint_fit.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.joint_fit", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder for the result file")
    options = parser.parse_args(arguments)
    where = environment()
    rows = [row(name, count, options.seeds, options.steps) for name in FIELDS for count in COUNTS]
    write_json(options.out / "joint_fit.json", {"environment": where, "steps": options.steps, "rows": rows})


if __name__ == "__main__":
    main()
