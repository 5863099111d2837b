"""What the kernels gain over a whole training run, with the same losses: `make training-gain`.

`gradnets-fast train` with `--backend reference`, which is plain PyTorch, and with the fastest backend, by turns; the
time is that of the training, without loading and the evaluation after it.  The loss curves are compared in dB at each
point of the history.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environment import RESULTS, environment
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.losses import decibel

ROUNDS = 3
BACKENDS = {"reference": ["--backend", "reference"], "fastest": []}


@dataclass(frozen=True)
class Run:
    """A training run: what the table calls it, and its options."""

    label: str
    options: str


RUNS = (
    Run("mGradNetC, 4 layers, d = 2, h = 7", "--steps 4000 --embed-dim 7 --batch-size 1000"),
    Run("mGradNetC, 4 layers, d = 2, h = 64", "--steps 150 --embed-dim 64 --batch-size 65536 --samples 655360"),
    Run(
        "mGradNetC, 4 layers, d = 64, h = 1024",
        "--field polymax --dim 64 --steps 30 --embed-dim 1024 --batch-size 16384 --samples 163840 --lr 1e-3",
    ),
    Run(
        "mGradNetM, 4 modules, d = 2, h = 64",
        "--arch mgradnet-m --steps 150 --embed-dim 64 --batch-size 65536 --samples 655360",
    ),
)


def trained(options: list[str], folder: Path) -> dict[str, Any]:
    """The report of a run."""
    command = [sys.executable, "-m", "gradnets_fast", "train", *options, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def measured(run: Run, rounds: int) -> dict[str, Any]:
    """Seconds of each run, their medians' ratio, and the largest difference of the loss curves."""
    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    curves: dict[str, list[float]] = {}
    backends: dict[str, str] = {}
    for _ in range(rounds):
        for name, choice in BACKENDS.items():
            with tempfile.TemporaryDirectory() as folder:
                report = trained([*run.options.split(), *choice], Path(folder))
            seconds[name].append(report["training"]["seconds"])
            curves[name] = [decibel(loss) for _, loss in report["history"]]
            backends[name] = report["evaluation"]["backend"]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "label": run.label,
        "options": run.options,
        "steps": report["training"]["steps"],
        "backend": backends["fastest"],
        "seconds": seconds,
        "median_seconds": median,
        "gain": median["reference"] / median["fastest"],
        "first_db": curves["fastest"][0],
        "last_db": curves["fastest"][-1],
        "largest_difference_db": max(abs(a - b) for a, b in zip(*curves.values())),
    }


def main() -> None:
    """Trains, prints a line for each run, and writes bench/results/training_gain.json after each."""
    parser = argparse.ArgumentParser(prog="python -m bench.training_gain", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    where, rows = environment(), []
    for run in RUNS:
        rows.append(measured(run, options.rounds))
        print(f"{run.label}: {rows[-1]['median_seconds']}, {rows[-1]['gain']:.2f} times", flush=True)
        write_json(RESULTS / "training_gain.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
