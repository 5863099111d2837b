"""The command's work, and its options read by the standard library alone, for where typer cannot be imported."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from .examination import Request, examine
from .report import report

SUMMARY = "Say what is installed, whether it works, and what to do where it does not."
DETAILS = "Exit code: 0 if nothing is broken, 1 if something is, 2 for an option that cannot be read."
DEVICE = "Test the backends on this alone: cpu, cuda or cuda:1. (default: the CPU, and the first GPU)"
JSON = "Write JSON: the same checks, with group, name, status, finding and advice."


def run(device: str | None, as_json: bool, lacking: str | None = None) -> int:
    """Examine everything and write the report; return the exit code.

    lacking: why the other commands cannot start.

    Raises:
        ValueError: the device is neither a CPU nor an NVIDIA GPU by its name.
    """
    if device is not None and not re.fullmatch(r"(cpu|cuda)(:\d+)?", device):
        expected, fix = "cpu, cuda or cuda with a number", "for example --device cuda:1"
        raise ValueError(f"doctor: device: expected {expected}, got {device}; {fix}")
    return report(examine(Request(device, lacking)), as_json)


def main(arguments: Sequence[str], lacking: str) -> int:
    """Read the options and run; return the exit code."""
    parser = argparse.ArgumentParser("gradnets-fast doctor", description=SUMMARY, epilog=DETAILS, allow_abbrev=False)
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--json", action="store_true", help=JSON)
    options = parser.parse_args(arguments)
    try:
        return run(options.device, options.json, lacking)
    except ValueError as error:
        parser.exit(2, f"gradnets-fast: {error}\n")
