"""Learns the optimal transport of a Gaussian to the standard normal one: `python -m bench.transport`.

Each run is what `gradnets-fast train --task transport --dim D --arch ARCH --embed-dim 32 --steps 300 --samples 300000
--seed SEED` does: batches of 1000 points, each met once, under the Monge–Ampère loss, from the identity.  The error is
the mean, over points and coordinates, of the squared error of the map.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer

ARCHITECTURES = ("mgradnet-c", "mgradnet-m")


def trained(settings: Settings) -> tuple[float, float]:
    """The error of a run's map, and the seconds that the training took."""
    trainer = Trainer(settings)
    began = time.perf_counter()
    while trainer.step < settings.steps:
        trainer.advance()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        difference = trainer.module(trainer.problem.test_x) - trainer.problem.test_g
    return difference.square().mean().item(), seconds


def row(arch: str, dim: int, seeds: int, steps: int) -> dict[str, Any]:
    """One network in one dimension, over the seeds."""
    common: dict[str, Any] = {"task": "transport", "field": None, "arch": arch, "dim": dim, "embed_dim": 32}
    runs = [trained(Settings(**common, steps=steps, samples=1000 * steps, seed=seed)) for seed in range(seeds)]
    errors = [error for error, _ in runs]
    print(f"{arch}, d = {dim}: {statistics.mean(errors):.2e}  ({', '.join(f'{e:.1e}' for e in errors)})", flush=True)
    seconds = [spent for _, spent in runs]
    return {"arch": arch, "d": dim, "steps": steps, "errors": errors, "mean": statistics.mean(errors), "s": seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes bench/results/transport.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.transport", description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8, 32, 4, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder for the result file")
    options = parser.parse_args(arguments)
    where = environment()
    rows: list[dict[str, Any]] = []
    for dim, arch in itertools.product(options.dims, ARCHITECTURES):
        rows.append(row(arch, dim, options.seeds, options.steps))
        write_json(options.out / "transport.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
