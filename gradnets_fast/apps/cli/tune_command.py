"""The command `gradnets-fast tune`, over `apps/tuning.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import one_line_errors, plain_console


def tune(
    device: Annotated[str, typer.Option(help="An NVIDIA GPU.")] = "cuda",
    kernel: Annotated[str, typer.Option(help="Only this kernel of the table. (default: all)")] = "",
    out: Annotated[Path | None, typer.Option(help="File to write. (default: where the kernels look for it)")] = None,
) -> None:
    """Measure the tiles of the Triton kernels on this GPU, and keep the fastest; they serve from the next start on."""
    from .. import tuning

    console = plain_console()
    with one_line_errors():
        path = tuning.tune(tuning.parsed(device), kernel, out, lambda line: console.print(line, highlight=False))
    console.print(f"  {path}", highlight=False, soft_wrap=True)
