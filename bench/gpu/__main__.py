"""The command of this package."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bench.gpu
from bench.environment import RESULTS
from bench.gpu import device as gpu
from bench.gpu import parts, rehearsal, suite
from bench.gpu.workers import Budget, serve
from gradnets_fast.apps.files import write_json

FILES = {
    "checks": "checks.json",
    "measure": "measurements.json",
    "fit": "fit.json",
    "memory": "largest_batch.json",
    "images": "images.json",
    "determinants": "determinants.json",
    "prebuilt": "prebuilt.json",
}
"""The parts that need a GPU, the most important first, and their files."""

PARTS = (*FILES, "tables")


def run(part: str, arguments: argparse.Namespace) -> bool:
    """One part of a run, with its file; whether nothing was wrong.

    Raises:
        RuntimeError: there is no GPU for it.
    """
    if part == "tables":
        return _tables(arguments.out)
    place = gpu.found(part, arguments.small)
    environment = gpu.environment(place, shlex.join(["python", "-m", "bench.gpu", *sys.argv[1:]]), arguments.commit)
    write = partial(_write, place, gpu.folder(place, arguments.out) / FILES[part], {"environment": environment})
    budget, count = Budget(60 * arguments.minutes), arguments.workers if place.type == "cuda" else 1
    if part == "measure":
        listed = [case for case in parts.gpu_cases() if arguments.case in case.label]
        return parts.run_measurements(listed, count, budget, write, _say)
    if part == "prebuilt":
        return parts.run_prebuilt(place, count, budget, write, _say)
    if part == "memory":
        return parts.run_memory(place, budget, write, _say)
    if part == "determinants":
        return parts.run_determinants(budget, write, _say)
    if part == "fit":
        return parts.run_fit(budget, write, _say)
    if part == "images":
        return parts.run_images(budget, write, _say)
    checked = [check for check in suite.listed(place, arguments.small) if arguments.case in check.label]
    passed = parts.run_checks(checked, count, budget, write, _say)
    if place.type == "cpu" and not rehearsal.is_on():
        return passed
    return parts.sanitized(suite.watched(place), budget, write, _say) and passed


def _tables(folder: Path) -> bool:
    from bench import tables

    if not list(folder.glob("*/measurements.json")):
        _say(f"no measurements of a GPU in {folder}: the documents stay as they are")
        return True
    if folder == RESULTS:
        tables.write()
    _say(tables.gpus(folder))
    return True


def _write(place: torch.device, file: Path, content: dict[str, Any], more: dict[str, Any]) -> None:
    """Adds to a result file; of the interpreter's a rehearsal alone keeps them."""
    content |= more
    if place.type == "cuda" or rehearsal.is_on():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)


def _say(text: str) -> None:
    print(text, flush=True)


def attempted(part: str, arguments: argparse.Namespace) -> bool:
    """`run`, but False with a line on standard error for whatever it raises: no part ends the others."""
    try:
        return run(part, arguments)
    except (Exception, SystemExit) as error:
        text = str(error)
        who = "" if text.startswith("bench.gpu: ") else f"bench.gpu: {part}: {type(error).__name__}: "
        print(f"{who}{text}", file=sys.stderr, flush=True)
        return False


def main(words: list[str] | None = None) -> int:
    """Runs the parts; returns the exit code: 1 if something is wrong or cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=bench.gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="one or more (default: all)")
    parser.add_argument("--small", action="store_true", help="few checks, on small shapes")
    parser.add_argument("--minutes", type=float, default=8.0, help="for each part (default: 8)")
    parser.add_argument("--case", default="", help="only checks and cases whose label contains this")
    parser.add_argument("--workers", type=int, default=8, help="processes side by side (default: 8)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="(default: bench/results)")
    parser.add_argument("--commit", help="for the files, where the checkout has no history")
    parser.add_argument("--worker", choices=parts.ROLES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    rehearsal.shrink()
    if arguments.worker:
        place = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else gpu.CPU
        role = arguments.worker
        serve(lambda task: rehearsal.unbroken(role) and parts.answered(role, task, place), parts.healthy)
        return 0
    passed = [attempted(part, arguments) for part in arguments.part]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
