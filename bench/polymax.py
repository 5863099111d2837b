"""Fits PolyMax in 256 dimensions within the published budget, 10 000 steps of Adam with batches of 100: `make polymax`.

Three quadratics under log-sum-exp, of which each module finds its own by `--loss nearest`.  A trial is what
`gradnets-fast train --field polymax --arch mgradnet-m --layers 3 --embed-dim 256 --activation identity
--transform identity --combine logsumexp --loss nearest --batch-size 100 --steps 10000 --lr 3e-3 --schedule cosine
--seed SEED` does.
Published: Chaudhari, Pranav, Moura, arXiv 2404.07361.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

from bench.environment import RESULTS, environment
from bench.published_2d import trained
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.losses import decibel, mean_squared_error
from gradnets_fast.apps.train.problem import InMemory, Problem, make_problem
from gradnets_fast.apps.train.settings import Settings

SETTINGS = Settings(
    arch="mgradnet-m",
    field="polymax",
    layers=3,
    embed_dim=256,
    activation="identity",
    transform="identity",
    combine="logsumexp",
    loss="nearest",
    batch_size=100,
    steps=10_000,
    lr=3e-3,
    schedule="cosine",
)
PUBLISHED = {"mGradNet-C, published": -10.64, "mGradNet-M, published": -11.30}
"""Errors in dB, with about 261 000 parameters each."""


def linear_error(problem: Problem) -> float:
    """The error in dB of the least-squares symmetric positive semidefinite linear map."""
    assert isinstance(problem.source, InMemory)
    mean = problem.mean
    A = torch.linalg.lstsq(problem.source.x - mean, problem.source.g).solution
    values, vectors = torch.linalg.eigh((A + A.T) / 2)
    A = vectors @ torch.diag(values.clamp(min=0)) @ vectors.T
    return decibel(mean_squared_error((problem.test_x - mean) @ A, problem.test_g).item())


def main() -> None:
    """Trains, and writes bench/results/polymax.json after each trial."""
    parser = argparse.ArgumentParser(prog="python -m bench.polymax", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    options = parser.parse_args()
    settings = dataclasses.replace(SETTINGS, steps=options.steps)
    where = environment()
    linear = linear_error(make_problem(settings))
    errors: list[float] = []
    for seed in range(options.seeds):
        trainer, error = trained(dataclasses.replace(settings, seed=seed))
        errors.append(error)
        print(f"seed {seed}: {error:.2f} dB, linear {linear:.2f} dB", flush=True)
        content = {
            "environment": where,
            "settings": settings.to_json(),
            "parameters": sum(p.numel() for p in trainer.module.parameters()),
            "errors_db": errors,
            "linear_db": linear,
            "published": PUBLISHED,
        }
        write_json(RESULTS / "polymax.json", content)


if __name__ == "__main__":
    main()
