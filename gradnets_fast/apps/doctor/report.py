"""The report, for people and for programs."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import TextIO

from ... import __version__
from .examination import FAILURE, NOTE, OK, STATUSES, WARNING, Check

_COLOURS = {OK: "green", NOTE: "cyan", WARNING: "yellow", FAILURE: "red"}
_NAME, _FINDING = 11, 35
"""Columns where a check's name and finding begin."""

Found = Iterable[tuple[str, Iterable[Check]]]
"""Titles of groups, and their checks."""


def report(found: Found, as_json: bool) -> int:
    """Write to standard output; return the exit code: 1 if something is broken, else 0."""
    try:
        status = write_json(found, sys.stdout) if as_json else write_text(found, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python would complain when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return int(status == FAILURE)


def write_json(found: Found, file: TextIO) -> str:
    """Write all checks for programs; return the gravest status."""
    checks = [{"group": title, **vars(check)} for title, of_group in found for check in of_group]
    status = _worst(check["status"] for check in checks)
    content = {"gradnets_fast": __version__, "status": status, "checks": checks}
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), file=file)
    return status


def write_text(found: Found, file: TextIO) -> str:
    """Write each check when it is made; return the gravest status."""
    say, width = _printer(file)
    say(f"gradnets_fast {__version__}", "", 0)
    statuses = []
    for title, of_group in found:
        say(f"\n{title}", "bold", len(title) + 1)
        for check in of_group:
            statuses.append(check.status)
            say(in_columns(check, width), _COLOURS[check.status], _NAME)
    bad = [f"{statuses.count(s)} {s}{'s' * (statuses.count(s) > 1)}" for s in (FAILURE, WARNING) if s in statuses]
    say(f"\n{len(statuses)} checks: {', '.join(bad) or 'all well'}", "", 0)
    return _worst(statuses)


def _worst(statuses: Iterable[str]) -> str:
    return max(statuses, key=STATUSES.index, default=OK)


def _printer(file: TextIO) -> tuple[Callable[[str, str, int], None], int | None]:
    """A function (text, style, count) that prints a text, its first characters in rich's style; a terminal's width."""
    try:
        from rich.console import Console
        from rich.text import Text
    except Exception:  # whatever a broken installation raises
        return lambda text, style, count: print(text, file=file, flush=True), None
    console = Console(file=file)

    def say(text: str, style: str, count: int) -> None:
        styled = Text(text)
        styled.stylize(style, 0, count)
        console.print(styled, soft_wrap=True)
        file.flush()

    return say, console.width if console.is_terminal else None


def in_columns(check: Check, width: int | None) -> str:
    """A check as text; width: of the terminal, None to write each finding in one line."""
    # A name that is too long for its column keeps a space before the finding.
    lines = [f"  {check.status:{_NAME - 2}}{check.name:{_FINDING - _NAME - 1}} "]
    for sentence in (check.finding, f"→ {check.advice}" if check.advice else ""):
        # Paths and commands stay whole, to be copied.
        room = len(sentence) + 1 if width is None else max(24, width - _FINDING)
        lines += textwrap.wrap(sentence, room, break_long_words=False, break_on_hyphens=False)
    return lines[0] + f"\n{' ' * _FINDING}".join(lines[1:])
