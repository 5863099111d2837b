"""Reproduces the published errors on the two-dimensional fields: `make table-2d`.

Four layers or modules of seven hidden units, Adam, 200 epochs of 100 000 points in batches of 1000, five seeds, error
on a 100×100 grid (Chaudhari, Pranav, Moura, arXiv 2404.07361).  Each trial is what
`gradnets-fast train --field FIELD --arch ARCH --layers 4 --embed-dim 7 --epochs 200 --seed SEED` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from dataclasses import dataclass

import torch

from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.losses import decibel, mean_squared_error
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer


@dataclass(frozen=True)
class Row:
    """One published figure, in dB: mean and standard deviation over five trials."""

    arch: str
    field: str
    published: float
    spread: float


ROWS = (
    Row("mgradnet-c", "convex2d", -49.05, 0.96),
    Row("mgradnet-m", "convex2d", -48.65, 4.87),
    Row("gradnet-c", "nonconvex2d", -42.17, 3.98),
    Row("gradnet-m", "nonconvex2d", -39.53, 3.45),
)


def trained(settings: Settings) -> tuple[Trainer, float]:
    """A finished training run, and its error in dB."""
    trainer = Trainer(settings)
    while trainer.step < settings.steps:
        trainer.advance()
    with torch.no_grad():
        error = mean_squared_error(trainer.module(trainer.problem.test_x), trainer.problem.test_g).item()
    return trainer, decibel(error)


def main() -> None:
    """Trains, prints the table, and writes bench/results/published_2d.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.published_2d", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    where = environment()
    results = []
    print("| network | field | settings | ours, dB | published, dB |\n|---|---|---|---|---|")
    for row in ROWS:
        settings = Settings(arch=row.arch, field=row.field, steps=100 * options.epochs)
        errors = [trained(dataclasses.replace(settings, seed=seed))[1] for seed in range(options.seeds)]
        spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
        ours = f"{statistics.mean(errors):.2f} ± {spread:.2f}"
        published = f"{row.published:.2f} ± {row.spread:.2f}"
        schedule = f"lr {settings.learning_rate:g}, {settings.schedule}"
        print(f"| {row.arch} | {row.field} | {schedule} | {ours} | {published} |", flush=True)
        results.append(
            {
                "arch": row.arch,
                "field": row.field,
                "lr": settings.lr,
                "schedule": settings.schedule,
                "epochs": options.epochs,
                "errors_db": errors,
                "mean_db": statistics.mean(errors),
                "spread_db": spread,
                "published_db": row.published,
                "published_spread_db": row.spread,
            }
        )
    write_json(RESULTS / "published_2d.json", {"environment": where, "rows": results})


if __name__ == "__main__":
    main()
