"""Faults put into a kernel's PTX on purpose, to see that the checker finds them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from .checking import MIXED, TOGETHER, Launch
from .memory import FaultError, Findings

KINDS = {
    "a barrier less": (r"\bbar\.sync\s+0;", ";"),
    "relaxed in place of acq_rel": (r"\b(atom\.global\.gpu)\.acq_rel", r"\1.relaxed"),
    "relaxed in place of release": (r"\b(red\.global\.gpu)\.release", r"\1.relaxed"),
    "relaxed in place of acquire": (r"\b(ld\.global\.gpu)\.acquire", r"\1.relaxed"),
    "a copy not waited for": (r"(cp\.async\.wait_group)\s+\w+", r"\1 15"),
    "a product not waited for": (r"(wgmma\.wait_group\.sync\.aligned)\s+\w+", r"\1 7"),
    "a fence less": (r"fence\.proxy\.async\S*;", ";"),
    "a load without its mask": (r"@!?%p\d+ (ld\.global)", r"\1"),
    "a store without its mask": (r"@!?%p\d+ (st\.global)", r"\1"),
}
"""Kind → what is replaced, and by what."""


def mutants(text: str, kind: str) -> Iterator[tuple[int, str]]:
    """For each place the line, and the PTX with a fault of the kind there alone."""
    pattern, instead = KINDS[kind]
    for found in re.finditer(pattern, text):
        changed = found.expand(instead)
        yield text.count("\n", 0, found.start()) + 1, text[: found.start()] + changed + text[found.end() :]


def finding(launch: Launch, text: str) -> str | None:
    """What the checker finds first in a launch with other PTX."""
    right = launch.results(launch.run(TOGETHER, 0, Findings()))
    for schedule in (TOGETHER, MIXED):
        findings = Findings()
        try:
            memory = launch.run(schedule, 1, findings, text)
        except FaultError as fault:
            return str(fault)
        if findings.counts:
            kind = next(iter(findings.counts))
            return f"{kind} ({findings.first[kind]})"
        if not np.array_equal(launch.results(memory), right):
            return "other numbers"
    return None
