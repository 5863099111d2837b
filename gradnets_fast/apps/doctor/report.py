"""The report, for people and for programs."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TextIO

from ... import __version__
from .check import FAILURE, NOTE, OK, STATUSES, WARNING, Check
from .examination import Group

_COLOURS = {OK: "32", NOTE: "36", WARNING: "33", FAILURE: "31"}
_STATUS, _NAME, _MARGIN = 9, 24, 2


def written(found: Iterable[tuple[Group, Iterable[Check]]], file: TextIO) -> list[Check]:
    """Writes each check when it is made; returns all."""
    width = shutil.get_terminal_size().columns if file.isatty() else None
    coloured = file.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    print(f"gradnets_fast {__version__}", file=file)
    checks = []
    for group, of_group in found:
        print(f"\n{_bold(group.title) if coloured else group.title}", file=file, flush=True)
        for check in of_group:
            checks.append(check)
            print(text(check, width, coloured), file=file, flush=True)
    print(f"\n{summary(checks)}", file=file)
    return checks


def text(check: Check, width: int | None, coloured: bool = False) -> str:
    """A check in columns.

    width: of the terminal; None writes each finding in one line.
    """
    before = " " * (_MARGIN + _STATUS + _NAME)
    status = check.status.ljust(_STATUS)
    if coloured:
        status = f"\x1b[{_COLOURS[check.status]}m{status}\x1b[0m"
    first, *others = _lines(check.finding, width, len(before))
    # A name that is too long for its column keeps a space before the finding.
    lines = [f"{' ' * _MARGIN}{status}{check.name.ljust(_NAME - 1)} {first}", *(before + line for line in others)]
    if check.advice:
        lines += [before + line for line in _lines(f"→ {check.advice}", width, len(before))]
    return "\n".join(lines)


def _lines(sentence: str, width: int | None, indented: int) -> list[str]:
    if width is None:
        return [sentence]
    # Paths and commands stay whole, to be copied.
    room = max(24, width - indented)
    return textwrap.wrap(sentence, room, break_long_words=False, break_on_hyphens=False) or [""]


def _bold(title: str) -> str:
    return f"\x1b[1m{title}\x1b[0m"


def summary(checks: list[Check]) -> str:
    """One sentence of them all.

    >>> summary([Check("a", OK, ""), Check("b", WARNING, ""), Check("c", WARNING, "")])
    '3 checks: 2 warnings'
    """
    counts = {status: sum(check.status == status for check in checks) for status in (FAILURE, WARNING)}
    bad = [f"{count} {status}{'s' * (count > 1)}" for status, count in counts.items() if count]
    return f"{len(checks)} checks: {', '.join(bad) or 'all well'}"


def to_json(found: Iterable[tuple[Group, Iterable[Check]]]) -> tuple[dict[str, object], list[Check]]:
    """The same for programs, and the checks."""
    listed = [(group, check) for group, of_group in found for check in of_group]
    checks = [check for _, check in listed]
    content: dict[str, object] = {
        "gradnets_fast": __version__,
        "status": worst(checks),
        "checks": [{"group": group.title, **vars(check)} for group, check in listed],
    }
    return content, checks


def worst(checks: list[Check]) -> str:
    """The gravest status."""
    return max((check.status for check in checks), key=STATUSES.index, default=OK)


def report(found: Iterable[tuple[Group, Iterable[Check]]], as_json: bool) -> int:
    """Writes to standard output; returns the exit code: 1 if something is broken, else 0."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that a terminal lacks is no reason to stop
    try:
        if as_json:
            content, checks = to_json(found)
            print(json.dumps(content, indent=2, ensure_ascii=False))
        else:
            checks = written(found, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, such as head; Python would complain when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return int(worst(checks) == FAILURE)
