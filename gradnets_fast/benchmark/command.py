"""What `gradnets-fast bench` does, between its options and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement

from ..errors import check_choice, check_positive, message
from ..tasks.checkpoint import prepare_folder, write_json
from . import report
from .cases import PRESETS, select
from .contenders import CONTENDERS
from .environment import environment
from .runner import run, threads

_WIDEST = 1000


def bench(
    console: Console, *, device: str, preset: str, rounds: int | None, thread_count: int | None, case: str, out: Path
) -> int:
    """Runs a preset, shows the tables and writes the files; returns the exit code: 1 if a result of ours is wrong.

    Raises:
        TypeError, ValueError, OSError: an option, before anything is measured.
    """
    if device != "cpu":
        fix = "this version benchmarks only the CPU; leave --device out"
        raise ValueError(message("bench", "device", "cpu", repr(device), fix))
    check_choice("bench", "preset", preset, list(PRESETS))
    chosen = PRESETS[preset]
    rounds = chosen.rounds if rounds is None else rounds
    check_positive("bench", "rounds", rounds)
    if thread_count is not None:
        check_positive("bench", "threads", thread_count)
    cases = select(preset, case)
    prepare_folder(out, "bench")
    with threads(thread_count):
        command = _command(preset, rounds, thread_count, case, out)
        header = {"environment": environment(command), "preset": preset, "rounds": rounds}
        builders = {name: CONTENDERS[name] for name in chosen.contenders}
        result = report.content([], {}, header)
        options: dict[str, Any] = {"rounds": rounds, "seconds": chosen.seconds, "with_memory": chosen.memory}
        say = _progress(console, len(cases))
        try:
            for rows, machine in run(cases, builders, **options):
                result = report.content(rows, machine, header)
                # At once, so that an interrupted run leaves what it has measured.
                write_json(out / f"{device}.json", result)
                say(result["rows"])
        except KeyboardInterrupt:
            done = len(result["rows"])
            kept = f"; they are in {out / device}.json" if done else ""
            console.print(f"stopped after {done} of {len(cases)} cases{kept}", highlight=False, soft_wrap=True)
            return 130
    return _finish(console, result, out, device)


def _command(preset: str, rounds: int, thread_count: int | None, case: str, out: Path) -> str:
    words = ["gradnets-fast bench", "--preset", preset, "--rounds", str(rounds)]
    words += [] if thread_count is None else ["--threads", str(thread_count)]
    words += ["--case", repr(case)] if case else []
    return " ".join([*words, "--out", str(out)])


def _progress(console: Console, total: int) -> Callable[[list[dict[str, Any]]], None]:
    def say(rows: list[dict[str, Any]]) -> None:
        row = rows[-1]
        gain = row["gain"].get("ours")
        shown = (
            "skipped" if "skipped" in row else "wrong" if gain is None else " / ".join(map(report.times, gain.values()))
        )
        text = f"[{len(rows)}/{total}] {row['label']}: {shown}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    console.print("gain over eager PyTorch, forward / step", highlight=False)
    return say


def _finish(console: Console, result: dict[str, Any], out: Path, device: str) -> int:
    paths = report.write(result, out, device)
    console.print()
    tables = list(report.tables(result))
    # A narrower terminal may wrap lines, but no number is cut.
    unbounded = console.options.update(max_width=_WIDEST)
    console.width = max(console.width, *(Measurement.get(console, unbounded, t).maximum for t in tables[:-1]), 0)
    for table in tables:
        console.print(table)
    for path in paths:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    wrong = report.wrong(result)
    for line in wrong:
        console.print(f"wrong result, not timed: {line}", style="bold red", highlight=False, soft_wrap=True)
    return 1 if wrong else 0
