"""The report of `accelerate`, for people and programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_WIDTH, _LEAST = 120, 40
"""The width of a printed report, and the least width of a reason after a long name."""


@dataclass(frozen=True)
class Entry:
    """One module that has the structure of a gradient network.

    Attributes:
        path: the module's name in the model, "" for the model itself.
        was: its class before.
        now: its form now, the class and what else tells forms apart; None if it was left alone.
        reason: why it was left alone, a line for each form that it might have taken; or "".
        error: the largest difference of f before and after at the probe points, over the largest value of f.
    """

    path: str
    was: str
    now: str | None
    reason: str = ""
    error: float | None = None

    def __str__(self) -> str:
        return _table([self])


@dataclass(frozen=True, repr=False)
class Report:
    """What `accelerate` did: the modules that have the structure of a gradient network, in the model's order.

    Prints as a table; iterates over its entries.

    Attributes:
        entries: an entry for each such module: `path`, `was`, `now`, `reason` and `error`.
        swapped: the entries of modules that kernels run now.
        skipped: the entries of modules that were left alone, each with the reason.

    >>> import gradnets_fast, torch
    >>> report = gradnets_fast.accelerate(torch.nn.Linear(2, 2))
    >>> len(report), report.swapped, report.skipped
    (0, (), ())
    """

    entries: tuple[Entry, ...]

    @property
    def swapped(self) -> tuple[Entry, ...]:
        """The modules that run by kernels now."""
        return tuple(entry for entry in self.entries if entry.now is not None)

    @property
    def skipped(self) -> tuple[Entry, ...]:
        """The modules left alone, with the reason."""
        return tuple(entry for entry in self.entries if entry.now is None)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __str__(self) -> str:
        if not self.entries:
            return "gradnets_fast: no module has the structure of a gradient network; see register_adapter"
        return f"gradnets_fast runs {len(self.swapped)} of {len(self)} gradient networks\n{_table(self.entries)}"

    __repr__ = __str__


def _table(entries: Iterable[Entry]) -> str:
    """A line for each entry, in aligned columns, with the reasons below."""
    rows = [_row(entry) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*(cells for cells, _ in rows))]
    lines = []
    for cells, reasons in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
        indent = " " * (widths[0] + widths[1] + 4)
        width = max(_WIDTH, len(indent) + _LEAST)
        for reason in reasons:
            lines += textwrap.wrap(reason, width, initial_indent=indent, subsequent_indent=indent + "  ")
    return "\n".join(lines)


def _row(entry: Entry) -> tuple[list[str], list[str]]:
    name = entry.path or "(the model)"
    if entry.now is None:
        return ["skipped", name, entry.was, ""], entry.reason.splitlines()
    return ["swapped", name, f"{entry.was} -> {entry.now}", f"largest difference {entry.error:.1e}"], []
