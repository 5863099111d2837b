"""The command of this package."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bench.gpu
from bench import largest_batch
from bench.environment import RESULTS
from bench.gpu import device as gpu
from bench.gpu import parts, prebuilt, suite
from bench.gpu.cases import Budget, cases
from bench.gpu.workers import serve
from gradnets_fast.apps.files import write_json

PARTS = ("checks", "measure", "prebuilt", "memory", "tables")
_FILES = {"checks": "checks.json", "measure": "measurements.json", "prebuilt": "prebuilt.json"}


def run(part: str, arguments: argparse.Namespace) -> bool:
    """One part of a run, with its file; whether nothing was wrong.

    Raises:
        RuntimeError: there is no GPU for it.
    """
    if part == "tables":
        from bench import tables

        if not list(RESULTS.glob("*/measurements.json")):
            _say(f"no measurements of a GPU in {RESULTS}: the README stays as it is")
            return True
        tables.write()
        _say(tables.gpus())
        return True
    place = gpu.found(part, arguments.small)
    if part == "memory":
        where = gpu.environment(place, _command(), arguments.commit)
        folder = gpu.folder(place, arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        memory = torch.cuda.get_device_properties(place).total_memory
        largest_batch.search(str(place), memory, folder / "largest_batch.json", where, _say)
        return True
    write = _writer(place, arguments, _FILES[part])
    if part == "prebuilt":
        return prebuilt.run(place, write, _say)
    budget = Budget(60 * arguments.minutes)
    if part == "measure":
        listed = [case for case in cases() if arguments.case in case.label]
        return parts.run_measurements(listed, arguments.workers, budget, write, _say)
    checked = [check for check in suite.listed(place, arguments.small) if arguments.case in check.label]
    count = arguments.workers if place.type == "cuda" else 1
    passed = parts.run_checks(checked, count, budget, write, _say)
    return passed if place.type == "cpu" else parts.sanitized(suite.watched(place), budget, write, _say) and passed


def _writer(place: torch.device, arguments: argparse.Namespace, name: str) -> Callable[[dict[str, Any]], None]:
    """Adds to a result file; nothing is kept of the interpreter."""
    content: dict[str, Any] = {"environment": gpu.environment(place, _command(), arguments.commit)}
    folder = gpu.folder(place, arguments.out)

    def write(more: dict[str, Any]) -> None:
        content.update(more)
        if place.type == "cuda":
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / name, content)

    return write


def _command() -> str:
    return " ".join(["python -m bench.gpu", *map(shlex.quote, sys.argv[1:])])


def _say(text: str) -> None:
    print(text, flush=True)


def main(words: list[str] | None = None) -> int:
    """Runs the parts; returns the exit code: 1 if something is wrong or cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=bench.gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="(default: all)")
    parser.add_argument("--small", action="store_true", help="few checks, on small shapes")
    parser.add_argument("--minutes", type=float, default=8.0, help="for checks, and for measurements (default: 8)")
    parser.add_argument("--case", default="", help="only checks and cases whose label contains this")
    parser.add_argument("--workers", type=int, default=8, help="processes side by side (default: 8)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="(default: bench/results)")
    parser.add_argument("--commit", help="for the files, where the checkout has no history")
    parser.add_argument("--worker", choices=PARTS[:2], help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.worker:
        place = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else gpu.CPU
        serve(lambda task: parts.answered(arguments.worker, task, place), parts.healthy)
        return 0
    try:
        # Not all(): a check that fails keeps no later part from running.
        return 0 if min([run(part, arguments) for part in ([arguments.part] if arguments.part else PARTS)]) else 1
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
