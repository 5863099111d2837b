"""What the cases came to: bench/results/reliability.json, and the table docs/reliability.md that is made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gradnets_fast.apps.files import write_json

from .kinds import Kind, Outcome

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "reliability.json"
TABLE = ROOT / "docs" / "reliability.md"
SOAK = RESULTS.with_name("soak.json")

_HEAD = """# Reliability

What was tried to break the package, how often, and what came of it. `make reliability` tries all of it and writes
[bench/results/reliability.json](../bench/results/reliability.json) and this page; it goes on where it was stopped, and
begins anew what was tried of another commit. Each case follows from its number, so that
`python -m tests.reliability --only NAME --first NUMBER --count 1` tries one again.

{count} cases of {kinds} kinds, {failures} failures. "Wanted" is how many cases `make reliability` tries: where fewer
were tried, no more is claimed.

| kind | what is done, and what has to hold | wanted | tried | failures | outcomes | commit | torch, Python | s |
|---|---|---|---|---|---|---|---|---|
"""
_FOOT = """
A case that starts the command line is a process forked from one that has loaded the package, so that an instant drawn
at random is one of the run and not of its imports. "The same result" compares every byte of the network, of Adam's
moments and of the history, and the measurements in the report, with those of a run that nothing happened to.

What is not tried: the loss of power, which no program can cause (files are synchronised before they take their place,
so that an earlier one or the new one is there); wall clocks of other processes; GPUs.
"""


class Results:
    """The outcomes of all kinds by their names, each of one commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._kinds: dict[str, dict[str, Any]] = found.get("kinds", {})

    def begin(self, kind: Kind, environment: dict[str, Any]) -> None:
        """Take on a kind's words, and forget what was tried of other code, or of code that no commit has."""
        entry = self._kinds.get(kind.name, {})
        earlier = entry.get("environment", {}).get("commit")
        if earlier != environment["commit"] or str(earlier).endswith("-modified"):
            entry = {"tried": [], "outcomes": {}, "failures": {}, "seconds": 0.0, "environment": environment}
        self._kinds[kind.name] = {**entry, "what": kind.what, "wanted": kind.count}

    def keep(self, kinds: Sequence[Kind]) -> None:
        """Forget kinds that are no more, and take on the order of these."""
        self._kinds = {kind.name: self._kinds[kind.name] for kind in kinds if kind.name in self._kinds}
        write_json(self._path, {"kinds": self._kinds})

    def left(self, kind: Kind, numbers: Iterable[int]) -> list[int]:
        """Those of the numbers that have not been tried."""
        tried = {n for first, last in self._kinds[kind.name]["tried"] for n in range(first, last + 1)}
        return [number for number in numbers if number not in tried]

    def add(self, kind: Kind, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Write a block's outcomes down."""
        entry = self._kinds[kind.name]
        for outcome in outcomes:
            entry["tried"] = _with(entry["tried"], outcome.number)
            if outcome.failure:
                entry["failures"][str(outcome.number)] = outcome.failure
            else:
                entry["outcomes"][outcome.word] = entry["outcomes"].get(outcome.word, 0) + 1
        entry["seconds"] = round(entry["seconds"] + seconds, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {"kinds": self._kinds})

    def failures(self, kind: Kind) -> dict[str, str]:
        """What failed of a kind, by the cases' numbers."""
        found: dict[str, str] = self._kinds.get(kind.name, {}).get("failures", {})
        return found

    def table(self) -> str:
        """The page as Markdown."""
        rows = self._kinds.values()
        count, failures = sum(_count(row) for row in rows), sum(len(row["failures"]) for row in rows)
        head = _HEAD.format(count=f"{count:,}", kinds=len(rows), failures=failures)
        return head + "".join(_row(name, row) for name, row in self._kinds.items()) + _FOOT + _soak()


def _soak() -> str:
    """What the last soak came to, for the page."""
    if not SOAK.exists():
        return ""
    found = json.loads(SOAK.read_text(encoding="utf-8"))
    where, rows = found["environment"], found["processes"]
    rounds, wrong = (sum(row[name] for row in rows) for name in ("rounds", "wrong"))
    slopes = " and ".join(f"{row['MiB_a_minute']:.2f}" for row in rows)
    return (
        "\n## Soak\n\nTraining, inference, potentials, Jacobians and second derivatives of four networks, in "
        f"{len(rows)} processes of {found['threads']} threads each, for {found['minutes']:g} minutes at full load "
        f"(`{where['command']}`, commit {where['commit']}): {rounds:,} rounds, {wrong} of them with other bits than "
        f"the first; memory grew by {slopes} MiB a minute after the first quarter "
        "([result file](../bench/results/soak.json)).\n"
    )


def _with(ranges: list[list[int]], number: int) -> list[list[int]]:
    """Ranges, first and last numbers, with one number more."""
    numbers = sorted({*(n for first, last in ranges for n in range(first, last + 1)), number})
    found: list[list[int]] = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return found


def _count(row: dict[str, Any]) -> int:
    return sum(last - first + 1 for first, last in row["tried"])


def _row(name: str, row: dict[str, Any]) -> str:
    where, outcomes = row["environment"], Counter(row["outcomes"])
    words = "; ".join(f"{word}: {count:,}" for word, count in outcomes.most_common())
    versions = f"{where['torch']}, {where['python']}"
    numbers = (f"{row['wanted']:,}", f"{_count(row):,}", f"{len(row['failures'])}", words)
    cells = (name, row["what"], *numbers, where["commit"], versions, f"{row['seconds']:.0f}")
    return "| " + " | ".join(cells) + " |\n"
