"""`gradnets-fast bench`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..bench.chosen import NETWORKS, Choice
from .errors import help_of, one_line_errors

_PRESET = (
    "quick (small networks), full (all, and torch.compile), registry (every activation), gpu (large operators). "
    "(default: quick)"
)
_OPERATOR = (
    "Operator of gradnets_fast.functional, such as ridge or softmax_modules_jvp; several: repeat, or join by commas."
)
_DTYPES = ("float32", "tf32 and ieee (on a GPU)", "bfloat16", "float16", "float64")
_YOUR_OWN, _RUN, _COMPARE = "Cases of your own", "The run", "Comparison"


def bench(
    preset: Annotated[str | None, typer.Option(help=_PRESET)] = None,
    case: Annotated[str, typer.Option(help="Only the cases whose label contains this.")] = "",
    list_cases: Annotated[bool, typer.Option("--list", help="Print the cases' labels, and stop.")] = False,
    operator: Annotated[list[str] | None, typer.Option(help=_OPERATOR, rich_help_panel=_YOUR_OWN)] = None,
    network: Annotated[
        list[str] | None, typer.Option(help=help_of("Network", NETWORKS), rich_help_panel=_YOUR_OWN)
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="BxdxH: points, their dimension, hidden units; several. (default: 16384x32x256)",
            rich_help_panel=_YOUR_OWN,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="Of the operator ridge (default: 1) or GradNetC (default: 4).", rich_help_panel=_YOUR_OWN),
    ] = None,
    modules: Annotated[
        int | None,
        typer.Option(help="Of operators of modules (default: 1) or GradNetM (default: 4).", rich_help_panel=_YOUR_OWN),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            "--activation",
            "--basis",
            help="A name of the activation table, or several joined by +. (default: tanh, of GradNetM softmax)",
            rich_help_panel=_YOUR_OWN,
        ),
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(help="Of transformed_modules (default: half_square) or GradNetM.", rich_help_panel=_YOUR_OWN),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help=help_of("Several", _DTYPES) + " (default: float32)", rich_help_panel=_YOUR_OWN),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="reference, cpp or triton; several, each a contender. (default: the fastest)",
            rich_help_panel=_YOUR_OWN,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:0.", rich_help_panel=_RUN)] = "cpu",
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Time torch.compile too, which takes a while. (default: not for the presets quick and registry)",
            rich_help_panel=_RUN,
        ),
    ] = None,
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory",
            help="Measure the peak memory of a step. (default: of large cases; none of quick and registry)",
            rich_help_panel=_RUN,
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Samples of each contender. (default: the preset's, or 30)", rich_help_panel=_RUN)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="(default: torch's)", rich_help_panel=_RUN)] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results: JSON, CSV, PNG.", rich_help_panel=_RUN)] = Path(
        "runs/bench"
    ),
    compare: Annotated[
        Path | None, typer.Option(help="JSON file of an earlier run to compare with.", rich_help_panel=_COMPARE)
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="JSON file to compare in place of measuring anew.", rich_help_panel=_COMPARE),
    ] = None,
) -> None:
    """Time forward and step beside eager PyTorch, torch.compile and the authors' structure.

    Cases are those of a preset, or the operators and networks that options choose.

    No result is timed that is wrong beside float64.

    Exit codes: 0; 1 if a result of ours is wrong; 2 for a wrong option;

    3 if --compare finds anything slower beyond noise, or no longer timed;

    130 after Ctrl-C, which keeps what was measured.
    """
    from ..bench import command

    request = command.Request(
        out=out,
        command=f"gradnets-fast {shlex.join(sys.argv[1:])}",
        device=device,
        preset=preset,
        choice=Choice(
            _split(operator), _split(network), _split(shape), layers, modules, activation, transform, _split(dtype)
        ),
        backends=_split(backend),
        compile=compiled,
        memory=memory,
        rounds=rounds,
        threads=threads,
        case=case,
        only_list=list_cases,
        compare=compare,
        against=against,
    )
    with one_line_errors():
        code = command.bench(Console(), request)
    raise typer.Exit(code)


def _split(values: list[str] | None) -> tuple[str, ...]:
    """What was given, whether repeated or joined by commas."""
    return tuple(part.strip() for value in values or [] for part in value.split(","))
