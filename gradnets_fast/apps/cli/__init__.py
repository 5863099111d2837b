"""The command line over the applications: a file for each command reads its options and runs it.

Every foreseen failure becomes one line on standard error and exit code 2.  `__main__.py` calls `run`.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ... import __version__
from .bench_command import bench
from .doctor_command import doctor
from .reproduce_command import reproduce
from .train_command import train
from .tune_command import tune
from .warmup_command import warmup

COMMANDS = (train, bench, reproduce, doctor, warmup, tune)
app = typer.Typer(name="gradnets-fast", add_completion=False, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"gradnets_fast {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Gradient networks with fused kernels."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def run() -> int:
    """Run the command line on this process's arguments; return the exit code."""
    try:
        return app(standalone_mode=False) or 0
    except Exception as error:
        # typer's usage errors format themselves, while their class has moved between its versions; others are our bugs.
        if not hasattr(error, "format_message"):
            raise
        text = " ".join(error.format_message().split())
        command = getattr(getattr(error, "ctx", None), "info_name", None)
        command = f"gradnets-fast {command}" if command in [c.__name__ for c in COMMANDS] else "gradnets-fast"
        print(f"gradnets-fast: {text} (see {command} --help)", file=sys.stderr)
        return 2


for _command in COMMANDS:
    app.command()(_command)
