"""Steps of `gradnets-fast train` by kernels and by autograd, in turns: `python -m bench.train_steps`.

A sample is a run of STEPS steps of two trainers of the same settings: minibatches, the learning rate's schedule, the
step and the history of losses, which are compared first.  Both run the C++ kernels; one of them leaves the step to
autograd and torch.optim.Adam.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.environment import RESULTS, environment
from gradnets_fast import nn
from gradnets_fast.apps.bench.measurement import interleaved, sample
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer

STEPS, BATCHES = 400, (100, 1000)


class ByAutograd(Trainer):
    """A trainer that leaves every step to autograd."""

    def why_not_kernels(self, module: nn.GradNet) -> str | None:
        """The reason is the comparison."""
        return "autograd is measured"


def run_of(trainer: Trainer) -> Callable[[], None]:
    """The next STEPS steps."""

    def run() -> None:
        for _ in range(STEPS):
            trainer.advance()

    return run


def measured(batch: int, rounds: int) -> dict[str, Any]:
    """Steps a second of both, and the gain, the median of the ratios of a turn."""
    settings = Settings(batch_size=batch, backend="cpp", steps=STEPS * (rounds + 2))
    trainers = {"kernels": Trainer(settings), "autograd": ByAutograd(settings)}
    if why := trainers["kernels"].why_not_kernels(trainers["kernels"].module):
        raise AssertionError(why)
    jobs = {name: run_of(trainer) for name, trainer in trainers.items()}
    for job in jobs.values():
        job()
    ours, theirs = (torch.tensor(trainer.history) for trainer in trainers.values())
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)
    samples = interleaved({name: lambda job=job: sample(job, 1) for name, job in jobs.items()}, rounds, 20.0)
    rates = {name: STEPS / statistics.median(seconds) for name, seconds in samples.items()}
    gain = statistics.median(b / a for a, b in zip(samples["kernels"], samples["autograd"]))
    shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    print(f"batch {batch}: steps a second by {shown}; {gain:.2f}×", flush=True)
    return {"batch": batch, "steps_per_second": rates, "gain": gain}


def main() -> None:
    """Measures, and writes train_steps.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_steps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="samples of each contender")
    parser.add_argument("--out", type=Path, default=RESULTS, help="a folder for the result file")
    options = parser.parse_args()
    where = environment()
    rows = [measured(batch, options.rounds) for batch in BATCHES]
    write_json(options.out / "train_steps.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
