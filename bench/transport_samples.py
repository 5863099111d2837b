"""Learns the transport of a ring to two Gaussians from samples: `python -m bench.transport_samples`.

It is what `gradnets-fast train --task transport --data ring.npy --target pair.npy --arch mgradnet-m --embed-dim 32`
does, with 5000 and 4000 points and 400 steps of 500.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.environment import RESULTS, ROOT, environment
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.figure import save_figure
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer
from gradnets_fast.apps.train.transport_evaluation import evaluate_transport

STEPS, BATCH = 400, 500


def ring(count: int) -> Tensor:
    """Points near a circle of radius 2."""
    angle = 2 * math.pi * torch.rand(count)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(count, 2)


def pair(count: int) -> Tensor:
    """Points of two Gaussians side by side."""
    side = (torch.rand(count, 1) < 0.5).float()
    return 0.5 * torch.randn(count, 2) + side * torch.tensor([3.0, 0.0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes bench/results/transport_samples.json and docs/transport.png."""
    parser = argparse.ArgumentParser(prog="python -m bench.transport_samples", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, help="a folder for the result file and the picture")
    options = parser.parse_args(arguments)
    where = environment()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("ring.npy", "pair.npy")]
        for path, points in zip(paths, (ring(5000), pair(4000))):
            np.save(path, points.numpy())
        source, target = map(str, paths)
        sizes = {"embed_dim": 32, "steps": options.steps, "batch_size": BATCH}
        trainer = Trainer(Settings("mgradnet-m", None, source, task="transport", target=target, **sizes))  # type: ignore[arg-type]
    began = time.perf_counter()
    while trainer.step < options.steps:
        trainer.advance()
    seconds = time.perf_counter() - began
    evaluation = evaluate_transport(trainer)
    print(evaluation)
    result = {"environment": where, "training_s": seconds, "evaluation": evaluation.to_json()}
    write_json((options.out or RESULTS) / "transport_samples.json", result)
    save_figure(trainer, evaluation, (options.out or ROOT / "docs") / "transport.png")


if __name__ == "__main__":
    main()
