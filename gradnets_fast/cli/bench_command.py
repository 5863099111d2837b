"""`gradnets-fast bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .errors import one_line_errors


def bench(
    device: Annotated[str, typer.Option(help="cpu; others come with their kernels.")] = "cpu",
    preset: Annotated[
        str, typer.Option(help="quick (small cases), full (all, and torch.compile), registry (every activation).")
    ] = "quick",
    rounds: Annotated[int | None, typer.Option(help="Samples of each contender. (default: the preset's)")] = None,
    threads: Annotated[int | None, typer.Option(help="(default: torch's)")] = None,
    case: Annotated[str, typer.Option(help="Only the cases whose label contains this.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the results: JSON, CSV, PNG.")] = Path("runs/bench"),
) -> None:
    """Time forward and step beside eager PyTorch, torch.compile and the authors' structure."""
    from ..benchmark import command

    with one_line_errors():
        code = command.bench(
            Console(), device=device, preset=preset, rounds=rounds, thread_count=threads, case=case, out=out
        )
    raise typer.Exit(code)
