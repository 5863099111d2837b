"""What `gradnets-fast bench` does, between its options and its exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ...backend import BACKENDS
from ...errors import check_choice, check_positive, message
from ..environment import environment
from ..files import clear, locked, prepare_folder, write_json
from ..readable import times
from . import chosen, comparison, report, results
from .cases import Case
from .chosen import Choice
from .contenders import CONTENDERS, Builder, check_backend, fastest_backend, is_ours
from .measurement import Plan
from .presets import PRESETS, select
from .runner import run, threads

WRONG, SLOWER, INTERRUPTED = 1, 3, 130
"""Exit codes."""

_WIDEST = 1000
_DEFAULT_PRESET = "quick"
_CHOSEN = Plan(30, 10.0, memory_from=2**18)
"""How cases of one's own are measured; of less than a megabyte of hidden units a process's peak says nothing."""


@dataclass(frozen=True)
class Request:
    """What the command was asked for; see its help.  command: what was typed."""

    command: str
    choice: Choice
    out: Path
    overwrite: bool
    device: str
    preset: str | None
    backend: tuple[str, ...]
    compiled: bool | None
    memory: bool | None
    rounds: int | None
    threads: int | None
    case: str
    only_list: bool
    compare: Path | None
    against: Path | None

    def chooses(self) -> list[str]:
        """The options given that choose cases."""
        return [*self.choice.given(), *["--backend"] * bool(self.backend)]


def request(command: str, **options: Any) -> Request:
    """A request of all options by their names."""
    choice = Choice(**{field.name: options.pop(field.name) for field in fields(Choice)})
    return Request(command, choice, **options)


def bench(console: Console, request: Request) -> int:
    """Measures, shows the tables and writes the files, or compares two; returns the exit code.

    Raises:
        TypeError, ValueError, RuntimeError, OSError: an option, before anything is measured.
    """
    old = None if request.compare is None else comparison.load(request.compare, "compare")
    if request.against is not None:
        return _compare_files(console, request, old)
    device = _checked_device(request.device)
    cases, plan = _cases(request, device), _plan(request, device)
    if request.only_list:
        for case, _ in cases:
            console.print(case.label, highlight=False, markup=False, soft_wrap=True)
        return 0
    prepare_folder(request.out, "bench")
    with locked(request.out, "bench"):
        clear(request.out, [f"{_name(device)}.{kind}" for kind in results.KINDS], request.overwrite, "bench")
        with threads(request.threads):
            result = _measured(console, request, cases, plan)
        if result is None:
            return INTERRUPTED
        wrong = _show(console, result, request.out, _name(device))
    slower = old is not None and _show_comparison(console, old, result)
    return WRONG if wrong else SLOWER if slower else 0


def _compare_files(console: Console, request: Request, old: dict[str, Any] | None) -> int:
    given = [*request.chooses(), *(["--preset"] if request.preset is not None else [])]
    if old is None:
        fix = "add --compare OLD.json"
        raise ValueError(message("bench", "against", "--compare with it", "none", fix))
    if given:
        fix = "leave one out: --against compares two files and measures nothing"
        raise ValueError(message("bench", "against", "no cases to measure", given[0], fix))
    assert request.against is not None
    return SLOWER if _show_comparison(console, old, comparison.load(request.against, "against")) else 0


def _checked_device(name: str) -> torch.device:
    fix = "leave --device out for the CPU, or name a GPU as cuda or cuda:0"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(message("bench", "device", "cpu or cuda", repr(name), fix)) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(message("bench", "device", "cpu or cuda", repr(name), fix))
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        fix = "leave --device out for the CPU, or install a driver and a PyTorch that is built for it"
        got = f"{name!r}, and PyTorch {torch.__version__} sees no GPU"
        raise RuntimeError(message("bench", "device", "a GPU that PyTorch sees", got, fix))
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise RuntimeError(message("bench", "device", f"one of {count} GPUs, from cuda:0 on", repr(name), fix))
    return torch.device("cuda", index)


def _name(device: torch.device) -> str:
    """The result files' name without its ending."""
    return f"cuda-{device.index}" if device.index else device.type


def _cases(request: Request, device: torch.device) -> list[tuple[Case, Mapping[str, Builder]]]:
    """The cases, each with its contenders."""
    given = request.chooses()
    if request.preset is not None:
        check_choice("bench", "preset", request.preset, list(PRESETS))
        if given:
            fix = "leave one out: a preset has its own cases"
            got = f"--preset {request.preset} and {', '.join(given)}"
            raise ValueError(message("bench", "preset", "a preset or cases of your own", got, fix))
    for backend in request.backend:
        check_choice("bench", "backend", backend, BACKENDS)
    if not given:
        preset = PRESETS[request.preset or _DEFAULT_PRESET]
        names = _with_compile(preset.contenders, request.compiled)
        return [(case, _builders(names)) for case in select(list(preset.cases()), request.case)]
    if not request.choice.given():
        fix = "add --operator or --network, for example --operator ridge"
        raise ValueError(message("bench", "backend", "a case of your own to run on it", "none", fix))
    found = []
    for case in select(chosen.cases(request.choice, device), request.case):
        for backend in request.backend:
            check_backend(backend, case.precision.dtype, device)
        backends = dict.fromkeys(request.backend) or [fastest_backend(case, device)]
        names = _with_compile(("eager", "compile", "authors", *backends), request.compiled)
        found.append((case, _builders(names)))
    return found


def _with_compile(names: tuple[str, ...], asked: bool | None) -> tuple[str, ...]:
    if asked is None:
        return names
    others = tuple(name for name in names if name != "compile")
    return (others[0], "compile", *others[1:]) if asked else others


def _builders(names: tuple[str, ...]) -> Mapping[str, Builder]:
    return {name: CONTENDERS[name] for name in names}


def _plan(request: Request, device: torch.device) -> Plan:
    if request.threads is not None:
        check_positive("bench", "threads", request.threads)
    if request.rounds is not None:
        check_positive("bench", "rounds", request.rounds)
    plan = _CHOSEN if request.chooses() else PRESETS[request.preset or _DEFAULT_PRESET].plan
    plan = replace(plan, device=device, rounds=request.rounds or plan.rounds)
    return plan if request.memory is None else replace(plan, memory_from=1 if request.memory else None)


def _measured(
    console: Console, request: Request, cases: list[tuple[Case, Mapping[str, Builder]]], plan: Plan
) -> dict[str, Any] | None:
    """The result file, which is written after each case; None if the run was interrupted."""
    header = {
        "environment": environment(request.command, plan.device),
        "preset": None if request.chooses() else request.preset or _DEFAULT_PRESET,
        "rounds": plan.rounds,
    }
    file = request.out / f"{_name(plan.device)}.json"
    result = results.content([], {}, header)
    say = _progress(console, len(cases))
    try:
        for rows, machine in run(cases, plan):
            result = results.content(rows, machine, header)
            # At once, so that an interrupted run leaves what it has measured.
            write_json(file, result)
            say(result["rows"])
    except KeyboardInterrupt:
        done = len(result["rows"])
        kept = f"; they are in {file}" if done else ""
        console.print(f"stopped after {done} of {len(cases)} cases{kept}", highlight=False, soft_wrap=True)
        return None
    return result


def _progress(console: Console, total: int) -> Callable[[list[dict[str, Any]]], None]:
    def say(rows: list[dict[str, Any]]) -> None:
        row = rows[-1]
        gains = [(name, gain) for name, gain in row["gain"].items() if is_ours(name)]
        parts = [f"{name} {' / '.join(map(times, gain.values()))}" for name, gain in gains]
        shown = "skipped" if "skipped" in row else ", ".join(parts) or "wrong or without eager PyTorch"
        text = f"[{len(rows)}/{total}] {row['label']}: {shown}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    console.print("gain over eager PyTorch, forward / step", highlight=False)
    return say


def _show(console: Console, result: dict[str, Any], out: Path, name: str) -> bool:
    """Writes the files and shows the tables; returns whether a result of ours is wrong."""
    paths = results.write(result, out, name)
    console.print()
    shown = list(report.tables(result))
    # A narrower terminal may wrap lines, but no number is cut.
    unbounded = console.options.update(max_width=_WIDEST)
    widths = (Measurement.get(console, unbounded, table).maximum for table in shown if isinstance(table, Table))
    console.width = max(console.width, *widths, 0)
    for table in shown:
        console.print(table)
    for path in paths:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    wrong = results.wrong(result)
    for line in wrong:
        console.print(f"wrong result, not timed: {line}", style="bold red", highlight=False, soft_wrap=True)
    return bool(wrong)


def _show_comparison(console: Console, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Shows what changed; returns whether anything became slower beyond the noise."""
    found = comparison.compared(old, new)
    console.print()
    console.print(comparison.shown(found), highlight=False)
    return found.regressed
