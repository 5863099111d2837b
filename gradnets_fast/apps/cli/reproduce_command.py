"""`gradnets-fast reproduce`."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ...errors import check_choice, check_positive
from ..files import locked, prepare_folder
from .errors import one_line_errors, plain_console

_INTERRUPTED = 130
_NAME = "The experiment. (default: list them)"
_OUT = "Folder for results.json, table.md and figures. (default: reproduce/NAME, of quick runs reproduce/NAME-quick)"


def reproduce(
    name: Annotated[str | None, typer.Argument(help=_NAME, show_default=False)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything: less than a minute on two cores.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help=_OUT)] = None,
    seeds: Annotated[int | None, typer.Option(help="How many. (default: the experiment's)")] = None,
) -> None:
    """Run an experiment: a table, figures, and a result file with settings and machine.

    Each case is kept when it is done: after Ctrl-C, which exits with 130, the same command goes on.
    """
    from ..reproduce import EXPERIMENTS

    console = plain_console()
    with one_line_errors():
        if name is None:
            width = max(map(len, EXPERIMENTS))
            for experiment in EXPERIMENTS.values():
                console.print(f"{experiment.name:{width}}  {experiment.title}", highlight=False, soft_wrap=True)
            return
        check_choice("reproduce", "NAME", name, list(EXPERIMENTS))
        if seeds is not None:
            check_positive("reproduce", "seeds", seeds)
        options = " --quick" * quick + (f" --seeds {seeds}" if seeds is not None else "")
        folder = out or Path("reproduce", f"{name}-quick" if quick else name)
        code = _reproduce(console, name, quick, seeds, folder, f"gradnets-fast reproduce {name}{options}")
    raise typer.Exit(code)


def _reproduce(console: Console, name: str, quick: bool, seeds: int | None, out: Path, command: str) -> int:
    from ..reproduce import EXPERIMENTS, report, runner

    experiment = EXPERIMENTS[name]
    experiment.check_installed()
    settings = experiment.chosen(quick, seeds)
    prepare_folder(out, "reproduce")
    with locked(out, "reproduce"), runner.stoppable():
        run = runner.Run(experiment, settings, out, command)
        total = len(experiment.cases(settings))
        try:
            for case in run.left():
                label = runner.shown(case)
                with _busy(console, f"[{len(run.rows) + 1}/{total}] {label} …"):
                    seconds = run.do(case)
                text = f"[{len(run.rows)}/{total}] {label}: {seconds:.1f} s"
                console.print(text, highlight=False, soft_wrap=True)
            paths = report.write(run, out)
        except KeyboardInterrupt:
            stopped = (
                f"stopped after {len(run.rows)} of {total} cases; go on with: {command} --out {shlex.quote(str(out))}"
            )
            console.print(stopped, highlight=False, soft_wrap=True)
            return _INTERRUPTED
        console.print(f"\n{experiment.table(run.rows)}\n", highlight=False, soft_wrap=True)
        for path in (run.file, *paths):
            console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def _busy(console: Console, text: str) -> AbstractContextManager[object]:
    """Shows on a terminal what is running."""
    return console.status(Text(text)) if console.is_terminal else nullcontext()
