"""Checks and measures the Triton kernels on the NVIDIA GPU that is there.

python -m bench.gpu                      # everything, within eight minutes; writes bench/results/<gpu>/
python -m bench.gpu --part checks        # or measure, or tables, which needs no GPU
TRITON_INTERPRET=1 python -m bench.gpu --part checks --small   # what can be tried without one

It runs from a checkout with PyTorch, Triton and `pip install --no-build-isolation --no-deps -e .`
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from bench.gpu import checks, measure
from bench.gpu import device as gpu
from bench.gpu.cases import cases
from gradnets_fast.tasks.checkpoint import write_json

PARTS = ("checks", "measure", "tables")


def run_checks(device: torch.device, small: bool, command: str) -> bool:
    """Writes checks.json after each check; whether all passed."""
    content: dict[str, Any] = {"environment": gpu.environment(device, command), "checks": []}
    path = Path(gpu.folder(device)) / "checks.json"

    def report(outcome: checks.Outcome) -> None:
        content["checks"].append(outcome)
        if device != gpu.CPU:
            write_json(path, content)
        if not outcome["passed"]:
            print("FAILED", outcome, flush=True)

    passed = checks.run(device, small, report)
    found = content["checks"]
    print(f"{sum(bool(c['passed']) for c in found)} of {len(found)} checks passed")
    return passed


def run_measure(device: torch.device, arguments: argparse.Namespace, command: str) -> bool:
    """Writes measurements.json after each case."""
    content: dict[str, Any] = {"environment": gpu.environment(device, command), "rows": []}
    path = Path(gpu.folder(device)) / "measurements.json"
    listed = [case for case in cases() if arguments.case in case.label]

    def report(part: dict[str, Any]) -> None:
        if "contenders" in part:
            content["rows"].append(part)
            print(line(part), flush=True)
        else:
            content.update(part)
        write_json(path, content)

    measure.run(device, listed, arguments.minutes, arguments.compiled, report)
    print(f"{len(content['rows'])} of {len(listed)} cases measured; {path}")
    return all("failed" not in row["contenders"]["ours"] for row in content["rows"])


def line(row: dict[str, Any]) -> str:
    """One case in a line."""
    ours = row["contenders"]["ours"]
    if "failed" in ours:
        return f"{row['label']}: {ours['failed']}"
    parts = [f"{job} {ours[job]['milliseconds']:.3f} ms ({ours[job]['of_bound']:.0%})" for job in measure.JOBS]
    parts += [f"{name} {gain['step']:.2f}x" for name, gain in row["gain"].items() if "step" in gain]
    return f"{row['label']}: {', '.join(parts)}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="(default: all)")
    parser.add_argument("--small", action="store_true", help="checks on small shapes")
    parser.add_argument("--minutes", type=float, default=5.0, help="no case begins later (default: 5)")
    parser.add_argument("--compiled", type=int, default=6, help="how many cases beside torch.compile (default: 6)")
    parser.add_argument("--case", default="", help="only the cases whose label contains this")
    arguments = parser.parse_args()
    command = " ".join(["python -m bench.gpu", *map(shlex.quote, sys.argv[1:])])
    passed = True
    if arguments.part != "tables":
        device = gpu.found()
        if arguments.part in (None, "checks"):
            passed = run_checks(device, arguments.small, command)
        if arguments.part in (None, "measure"):
            if device == gpu.CPU:
                sys.exit("bench.gpu: measure: expected an NVIDIA GPU, got Triton's interpreter; run --part checks")
            passed = run_measure(device, arguments, command) and passed
    if arguments.part in (None, "tables"):
        from bench import tables

        tables.write()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
