"""The command `gradnets-fast doctor`: the options of `apps/doctor`, by typer."""

from __future__ import annotations

from typing import Annotated

import typer

from ..doctor import command
from .errors import one_line_errors


def doctor(
    device: Annotated[str | None, typer.Option(help=command.DEVICE)] = None,
    json: Annotated[bool, typer.Option("--json", help=command.JSON)] = False,
) -> None:
    with one_line_errors():
        code = command.run(device, json)
    raise typer.Exit(code)


doctor.__doc__ = f"{command.SUMMARY}\n\n{command.DETAILS}"
