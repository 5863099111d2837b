"""`gradnets-fast bench`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bench.chosen import NETWORKS
from .errors import help_of, one_line_errors, plain_console

_PRESET = (
    "quick (small networks), full (all, and torch.compile), registry (every activation), gpu (large operators). "
    "(default: quick)"
)
_OPERATOR = (
    "Operator of gradnets_fast.functional, such as ridge or softmax_modules_jvp; several: repeat, or join by commas."
)
_DTYPES = ("float32", "tf32 and ieee (on a GPU)", "bfloat16", "float16", "float64")
_COMPILE = "Time torch.compile too, which takes a while. (default: not for the presets quick and registry)"
_MEMORY = "Measure the peak memory of a step. (default: of large cases; none of quick and registry)"
_BASIS = "A name of the activation table, or several joined by +. (default: tanh, of GradNetM softmax)"


def _own(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Cases of your own")


def _run(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="The run")


def _compare(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Comparison")


def bench(
    context: typer.Context,
    preset: Annotated[str | None, typer.Option(help=_PRESET)] = None,
    case: Annotated[str, typer.Option(help="Only the cases whose label contains this.")] = "",
    only_list: Annotated[bool, typer.Option("--list", help="Print the cases' labels, and stop.")] = False,
    operator: Annotated[list[str] | None, _own(_OPERATOR)] = None,
    network: Annotated[list[str] | None, _own(help_of("Network", NETWORKS))] = None,
    shape: Annotated[
        list[str] | None,
        _own("BxdxH: points, their dimension, hidden units; several. (default: 16384x32x256; signals: 64x1024x64)"),
    ] = None,
    layers: Annotated[int | None, _own("Of the operator ridge (default: 1) or GradNetC (default: 4).")] = None,
    modules: Annotated[int | None, _own("Of operators of modules (default: 1) or GradNetM (default: 4).")] = None,
    activation: Annotated[str | None, _own(_BASIS, "--activation", "--basis")] = None,
    transform: Annotated[str | None, _own("Of transformed_modules (default: half_square) or GradNetM.")] = None,
    dtype: Annotated[list[str] | None, _own(help_of("Several", _DTYPES) + " (default: float32)")] = None,
    backend: Annotated[
        list[str] | None, _own("reference, cpp or triton; several, each a contender. (default: the fastest)")
    ] = None,
    device: Annotated[str, _run("cpu, cuda or cuda:0.")] = "cpu",
    compiled: Annotated[bool | None, _run(_COMPILE, "--compile/--no-compile")] = None,
    memory: Annotated[bool | None, _run(_MEMORY, "--memory/--no-memory")] = None,
    rounds: Annotated[int | None, _run("Samples of each contender. (default: the preset's, or 30)")] = None,
    threads: Annotated[int | None, _run("(default: torch's)")] = None,
    out: Annotated[Path, _run("Folder for the results: JSON, CSV, PNG.")] = Path("runs/bench"),
    overwrite: Annotated[bool, _run("Replace an earlier result in --out.", "--overwrite")] = False,
    compare: Annotated[Path | None, _compare("JSON file of an earlier run to compare with.")] = None,
    against: Annotated[Path | None, _compare("JSON file to compare in place of measuring anew.")] = None,
) -> None:
    """Time forward and step beside eager PyTorch, torch.compile and the authors' structure.

    Cases are those of a preset, or the operators and networks that options choose.

    No result is timed that is wrong beside float64.

    Exit codes: 0; 1 if a result of ours is wrong; 2 for a wrong option;

    3 if --compare finds anything slower beyond noise, or no longer timed;

    130 after Ctrl-C, which keeps what was measured.
    """
    from ..bench import command

    several = {"operator": operator, "network": network, "shape": shape, "dtype": dtype, "backend": backend}
    options = context.params | {name: _split(values) for name, values in several.items()}
    typed = f"gradnets-fast {shlex.join(sys.argv[1:])}"
    with one_line_errors():
        code = command.bench(plain_console(), command.request(typed, **options))
    raise typer.Exit(code)


def _split(values: list[str] | None) -> tuple[str, ...]:
    """What was given, whether repeated or joined by commas."""
    return tuple(part.strip() for value in values or [] for part in value.split(","))
