"""The command's work, and its options read by the standard library alone, for where typer cannot be imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .examination import Request, examine, why_no_torch
from .report import report

SUMMARY = "Say what is installed, whether it works, and what to do where it does not."
DETAILS = "Exit code: 0 if nothing is broken, 1 if something is, 2 for an option that cannot be read."
DEVICE = "Test the backends on this alone: cpu, cuda or cuda:1. (default: the CPU, and the first GPU)"
JSON = "Write JSON: the same checks, with group, name, status, finding and advice."


def run(device: str | None, as_json: bool) -> int:
    """Examines everything and writes the report; returns the exit code.

    Raises:
        ValueError: a device of no name that is known here.
    """
    return report(examine(Request(checked(device))), as_json)


def checked(device: str | None) -> str | None:
    """The device, if it is a CPU or an NVIDIA GPU by its name."""
    if device is None or why_no_torch() is not None:
        return device
    import torch

    from ...errors import message

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ValueError(
            message("doctor", "device", "cpu, cuda or cuda with a number", device, "for example --device cuda:1")
        )
    return device


def main(arguments: Sequence[str]) -> int:
    """Reads the options and runs; returns the exit code."""
    parser = argparse.ArgumentParser("gradnets-fast doctor", description=SUMMARY, epilog=DETAILS, allow_abbrev=False)
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--json", action="store_true", help=JSON)
    options = parser.parse_args(arguments)
    try:
        return run(options.device, options.json)
    except ValueError as error:
        parser.exit(2, f"gradnets-fast: {error}\n")
