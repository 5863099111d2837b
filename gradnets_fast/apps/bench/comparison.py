"""Two result files compared: what became slower or faster, beyond the noise of both runs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...errors import message
from ..readable import Row, duration, percent, times, two_digits
from .contenders import is_ours
from .measurement import MINIMUM_ROUNDS
from .report import table_of

SMALLEST_CHANGE = 0.05
"""The logarithm of a ratio below which nothing counts as a change, however little the samples scatter."""

_FOR_FEW_ROUNDS = 6.0
"""The quantiles of n samples are widened by this over n − 1: those of three or four say little."""

_MACHINE = ("processor", "device", "threads")
"""Where these differ, times cannot be compared; ratios can."""
_ENVIRONMENT = (*_MACHINE, "driver", "instruction_set", "torch", "triton", "python", "commit")


@dataclass(frozen=True)
class Change:
    """How one contender did a job of one case, before and after.

    Attributes:
        before, after: eager PyTorch's median over the contender's, in each run.
        milliseconds: the contender's medians.
        noise: how much the logarithm of the ratio may differ by chance.
        sign: 1 if it lost speed beyond the noise, −1 if it gained some, else 0.
    """

    label: str
    contender: str
    job: str
    before: float
    after: float
    milliseconds: tuple[float, float]
    noise: float
    sign: int


@dataclass
class Comparison:
    """What two runs have in common, and what not.

    Attributes:
        changes: of what both have timed.
        lost: what the first run timed and the second, which has the case, did not, with the reason.
        only_before, only_after: labels of cases that one run alone has.
        environment: what differs between the two, with both values.
    """

    only_before: list[str]
    only_after: list[str]
    environment: dict[str, tuple[Any, Any]]
    changes: list[Change] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def regressed(self) -> bool:
        """Whether anything became slower beyond the noise, or is no longer timed."""
        return bool(self.lost) or any(change.sign > 0 for change in self.changes)


def load(path: Path, option: str) -> dict[str, Any]:
    """Reads a result file; option: the one that named it, for the message.

    Raises:
        OSError, ValueError: it cannot be read, or is no result file.
    """
    argument, fix = f"{option} {path}", "pass the JSON file of an earlier run"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(message("bench", argument, "a file that can be read", error.strerror, fix)) from error
    except ValueError as error:
        raise ValueError(message("bench", argument, "valid JSON", str(error), fix)) from error
    try:
        compared(content, content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        got = f"one that cannot be compared with itself ({type(error).__name__}: {error})"
        raise ValueError(message("bench", argument, "a result file of gradnets-fast bench", got, fix)) from error
    return content


def compared(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    """What changed from one run to another."""
    where, there = before["environment"], after["environment"]
    differing = {k: (where.get(k), there.get(k)) for k in _ENVIRONMENT if where.get(k) != there.get(k)}
    rows, others = ({row["label"]: row for row in result["rows"]} for result in (before, after))
    only_before, only_after = ([label for label in a if label not in b] for a, b in ((rows, others), (others, rows)))
    found = Comparison(only_before, only_after, differing)
    for label, row in rows.items():
        if label in others:
            _compare_row(found, row, others[label], same_machine=not differing.keys() & set(_MACHINE))
    return found


def _compare_row(found: Comparison, row: Row, other: Row, same_machine: bool) -> None:
    eager = [r["contenders"].get("eager", {}).get("milliseconds", {}) for r in (row, other)]
    rounds = min(r.get("rounds", MINIMUM_ROUNDS) for r in (row, other))
    few = 1 + _FOR_FEW_ROUNDS / max(1, rounds - 1)
    for name, old in row["contenders"].items():
        if not is_ours(name) or old["status"] != "timed":
            continue
        new = other["contenders"].get(name)
        if new is None and "skipped" not in other:
            continue  # not asked for this time
        now = new or {}
        before, after = old["milliseconds"], now.get("milliseconds", {})
        lost = [job for job in before if job not in after]
        if lost:
            reason = other.get("skipped") or now.get("reason") or now.get("missing") or "no reason given"
            which = "" if len(lost) == len(before) else f" {', '.join(lost)}"
            found.lost.append(f"{row['label']}: {name}{which}: {reason}")
        for job in after:
            if all(job in of for of in (before, *eager)):
                spreads = [of[job] for of in (before, after, *eager)]
                found.changes.append(_change((row["label"], name, job), spreads, few, same_machine))


def _change(what: tuple[str, str, str], spreads: list[dict[str, float]], few: float, same_machine: bool) -> Change:
    """A change of (case, contender, job); spreads: the contender's before and after, then eager PyTorch's.

    few: by what the quantiles of so few rounds are widened.
    """
    old, new, eager_old, eager_new = (spread["median"] for spread in spreads)
    # Half the distance of the 10 % and 90 % quantiles' logarithms.
    widths = [math.log(spread["high"] / spread["low"]) / 2 for spread in spreads]
    noise, own_noise = (max(SMALLEST_CHANGE, few * math.hypot(*w)) for w in (widths, widths[:2]))
    loss, longer = math.log(eager_old / old) - math.log(eager_new / new), math.log(new / old)
    sign = int(math.copysign(1, loss)) if abs(loss) > noise else 0
    # On one machine both must have changed: a busy one stretches the times but not the ratio, and an eager PyTorch
    # that something held up alters the ratio but not the times.
    if same_machine and sign * longer <= own_noise:
        sign = 0
    return Change(*what, eager_old / old, eager_new / new, (old, new), noise, sign)


def shown(comparison: Comparison) -> RenderableType:
    """The comparison, for the terminal."""
    of_sign = {sign: [change for change in comparison.changes if change.sign == sign] for sign in (1, -1, 0)}
    titles = {1: "slower beyond noise", -1: "faster"}
    tables = [_table(title, of_sign[sign]) for sign, title in titles.items() if of_sign[sign]]
    return Group(*tables, Text("\n".join(_lines(comparison, *map(len, of_sign.values())))))


def _lines(comparison: Comparison, slower: int, faster: int, unchanged: int) -> Iterator[str]:
    yield from (f"no longer timed: {line}" for line in comparison.lost)
    yield f"{slower} slower, {faster} faster, {unchanged} unchanged within noise"
    if comparison.changes:
        yield f"typical noise of a ratio: {_noise(statistics.median(change.noise for change in comparison.changes))}"
    for title, labels in (("the old", comparison.only_before), ("the new", comparison.only_after)):
        if labels:
            yield f"only in {title} file: {'; '.join(labels)}"
    for key, (old, new) in comparison.environment.items():
        yield f"environments differ: {key.replace('_', ' ')} was {old}, is {new}"


def _table(title: str, changes: list[Change]) -> Table:
    table = table_of(("case", "job", "contender"), ("/eager", "now", "change", "noise", "median", "now"), title)
    table.columns[0].no_wrap = False
    for c in changes:
        change = f"{'+' if c.after > c.before else '−'}{percent(abs(c.after / c.before - 1))}"
        noise = f"±{percent(math.expm1(c.noise))}"
        ratios, medians = map(times, (c.before, c.after)), map(duration, c.milliseconds)
        table.add_row(c.label, c.job, c.contender, *ratios, change, noise, *medians)
    return table


def _noise(logarithm: float) -> str:
    """What a ratio may move by without meaning anything.

    >>> _noise(0.1), _noise(2.0)
    ('±11%', 'a factor of 7.4: too busy a machine to tell')
    """
    if logarithm < math.log(2):
        return f"±{percent(math.expm1(logarithm))}"
    return f"a factor of {two_digits(math.exp(logarithm))}: too busy a machine to tell"
