"""What one look finds."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = OK, NOTE, WARNING, FAILURE = ("ok", "note", "warning", "failure")
"""As it should be; worth knowing; slower or riskier than it could be; broken."""


@dataclass(frozen=True)
class Check:
    """A finding.

    Attributes:
        name: of what was looked at.
        status: one of STATUSES.
        finding: what is there.
        advice: a command or setting that mends it; empty if nothing is to be done.
    """

    name: str
    status: str
    finding: str
    advice: str = ""


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers that a version begins with, to compare.

    >>> numbers("2.13.0+cpu"), numbers("3.6.0rc1"), numbers("23")
    ((2, 13, 0), (3, 6), (23,))
    """
    found = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def joined(names: list[str], last: str = "and") -> str:
    """Names as a sentence lists them.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
