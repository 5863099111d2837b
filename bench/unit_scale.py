"""Training from init_unit_scale_ beside the default start, narrow and wide: `python -m bench.unit_scale`.

The gradient of x⁴ + x²/2 + xy/2 + 3y²/2 − y³/3 for monotone networks, of sin(2πx)cos(πy)/4 + xy/2 − y²/2 for GradNetC,
on the unit square; Adam with a cosine, batches of 300; the loss is that of 2000 other points.  Either start has the
best of three learning rates, by the mean of its last losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradnets_fast as gf
from bench.environment import RESULTS, ROOT, environment
from bench.initialisers import MEASUREMENTS, Task, squared, trained
from gradnets_fast.apps.files import write_atomically, write_json
from gradnets_fast.apps.train.fields import make_field

WIDTHS, RATES = (64, 1024), (1e-3, 1e-2, 1e-1)
NETWORKS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {
    "mGradNetC": ("convex2d", lambda h: gf.mGradNetC(4, 2, h)),
    "mRidgeGradNet": ("convex2d", lambda h: gf.mRidgeGradNet(2, h)),
    "mGradNetM": ("convex2d", lambda h: gf.mGradNetM(4, 2, h)),
    "GradNetC": ("nonconvex2d", lambda h: gf.GradNetC(4, 2, h)),
}


def drawn(field: str, count: int) -> tuple[Tensor, Tensor]:
    """Points of the unit square with gradients."""
    x = torch.rand(count, 2)
    return x, make_field(field).gradient(x)


def start(net: Any, draw: Callable[[int], tuple[Tensor, ...]]) -> None:
    """Unit scale."""
    gf.init_unit_scale_(net)


def row(name: str, h: int, steps: int, seeds: int) -> dict[str, Any]:
    """A network's curves at a width, from both starts, each with its best learning rate."""
    field, make = NETWORKS[name]
    task = Task(partial(make, h), start, squared, partial(drawn, field))
    found: dict[str, Any] = {"network": name, "h": h, "field": field, "steps": steps}
    for kind in ("default", "unit"):
        runs = {
            rate: [trained(task, seed, steps, kind == "unit", rate)["losses"] for seed in range(seeds)]
            for rate in RATES
        }
        last = {rate: sum(losses[-1] for losses in each) / seeds for rate, each in runs.items()}
        rate = min(last, key=lambda rate: last[rate])
        found[kind] = {"rate": rate, "losses": runs[rate], "last_by_rate": last}
        print(f"{name}, h = {h}, {kind}: {last}", flush=True)
    return found


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """The curves of all seeds: a column for each network, a row for each width."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(len(WIDTHS), len(NETWORKS), sharex=True)
    for each in rows:
        axis = axes[WIDTHS.index(each["h"])][list(NETWORKS).index(each["network"])]
        steps = [i * each["steps"] // MEASUREMENTS for i in range(MEASUREMENTS + 1)]
        for kind, colour in (("default", "#8a8a8a"), ("unit", "#c1440e")):
            label = f"{'default' if kind == 'default' else 'init_unit_scale_'}, {each[kind]['rate']:g}"
            for i, losses in enumerate(each[kind]["losses"]):
                axis.plot(steps, losses, color=colour, linewidth=1.2, label=label if i == 0 else None)
        axis.set_yscale("log")
        axis.set_title(f"{each['network']}, h = {each['h']}", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    for line in axes:
        line[0].set_ylabel("mean of |f − g|²")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=100, format="png"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes bench/results/unit_scale.json and docs/unit_scale.png."""
    parser = argparse.ArgumentParser(prog="python -m bench.unit_scale", description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help=f"a multiple of {MEASUREMENTS}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for the result file and the picture")
    options = parser.parse_args(arguments)
    where = environment()
    rows = [row(name, h, options.steps, options.seeds) for name in NETWORKS for h in WIDTHS]
    write_json((options.out or RESULTS) / "unit_scale.json", {"environment": where, "rows": rows})
    picture(rows, (options.out or ROOT / "docs") / "unit_scale.png")


if __name__ == "__main__":
    main()
