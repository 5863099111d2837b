"""Two result files compared: what became slower or faster, beyond the noise of both runs."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...errors import message
from .contenders import is_ours
from .measurement import MINIMUM_ROUNDS
from .readable import Row, duration, percent, times, two_digits

SMALLEST_CHANGE = 0.05
"""The logarithm of a ratio below which nothing counts as a change, however little the samples scatter."""

_FOR_FEW_ROUNDS = 6.0
"""The quantiles of n samples are widened by this over n − 1: those of three or four say little."""

_ENVIRONMENT = ("processor", "device", "driver", "threads", "instruction_set", "torch", "triton", "python", "commit")
_MACHINE = ("processor", "device", "threads")
"""Where these differ, times cannot be compared; ratios can."""


@dataclass(frozen=True)
class Change:
    """How one contender did a job of one case, before and after.

    Attributes:
        before, after: eager PyTorch's median over the contender's, in each run.
        milliseconds: the contender's medians.
        noise, own_noise: how much the logarithms of the ratio and of the contender's time may differ by chance.
        same_machine: whether times, too, can be compared.
    """

    label: str
    contender: str
    job: str
    before: float
    after: float
    milliseconds: tuple[float, float]
    noise: float
    own_noise: float
    same_machine: bool

    @property
    def slower(self) -> bool:
        """Whether it lost speed beyond the noise."""
        return self._changed(1)

    @property
    def faster(self) -> bool:
        """Whether it gained speed beyond the noise."""
        return self._changed(-1)

    def _changed(self, sign: int) -> bool:
        # On one machine both must have changed: a busy one stretches the times but not the ratio, and an eager PyTorch
        # that something held up alters the ratio but not the times.
        ratio = sign * math.log(self.before / self.after) > self.noise
        old, new = self.milliseconds
        return ratio and (not self.same_machine or sign * math.log(new / old) > self.own_noise)


@dataclass
class Comparison:
    """What two runs have in common, and what not.

    Attributes:
        changes: of what both have timed.
        lost: what the first run timed and the second, which has the case, did not, with the reason.
        only_before, only_after: labels of cases that one run alone has.
        environment: what differs between the two, with both values.
    """

    changes: list[Change] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    only_before: list[str] = field(default_factory=list)
    only_after: list[str] = field(default_factory=list)
    environment: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def regressed(self) -> bool:
        """Whether anything became slower beyond the noise, or is no longer timed."""
        return bool(self.lost) or any(change.slower for change in self.changes)


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
    fault = _fault(content)
    if fault is not None:
        raise ValueError(message("bench", argument, "a result file of gradnets-fast bench", fault, fix))
    return content


def _fault(content: Any) -> str | None:
    """Why this is no result file; None if it is one."""
    if not isinstance(content, dict):
        return f"a JSON {type(content).__name__}"
    if not isinstance(content.get("environment"), dict) or not isinstance(content.get("rows"), list):
        return "an object without environment and rows"
    for number, row in enumerate(content["rows"]):
        try:
            right = isinstance(row["label"], str) and isinstance(row.get("rounds", 0), int)
            right = right and all(map(_is_timed_or_not, row["contenders"].values()))
        except (AttributeError, KeyError, TypeError):
            right = False
        if not right:
            return f"a row {number} without label, rounds, or contenders with medians and quantiles of each job"
    return None


def _is_timed_or_not(outcome: dict[str, Any]) -> bool:
    if "milliseconds" not in outcome:
        return bool(outcome["status"] != "timed")
    times = [spread[key] for spread in outcome["milliseconds"].values() for key in ("median", "low", "high")]
    return bool(times) and all(type(t) in (int, float) and 0 < t < math.inf for t in times)


def compared(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    """What changed from one run to another."""
    where, there = before["environment"], after["environment"]
    same_machine = all(where.get(key) == there.get(key) for key in _MACHINE)
    rows, others = ({row["label"]: row for row in result["rows"]} for result in (before, after))
    found = Comparison(
        only_before=[label for label in rows if label not in others],
        only_after=[label for label in others if label not in rows],
        environment={k: (where.get(k), there.get(k)) for k in _ENVIRONMENT if where.get(k) != there.get(k)},
    )
    for label, row in rows.items():
        if label in others:
            _compare_row(found, row, others[label], same_machine)
    return found


def _compare_row(found: Comparison, row: Row, other: Row, same_machine: bool) -> None:
    eager = [r["contenders"].get("eager", {}).get("milliseconds", {}) for r in (row, other)]
    for name, old in row["contenders"].items():
        if not is_ours(name) or "milliseconds" not in old:
            continue
        new = other["contenders"].get(name)
        if new is None and "skipped" not in other:
            continue  # not asked for this time
        now = new or {}
        times = now.get("milliseconds", {})
        lost = [job for job in old["milliseconds"] if job not in times]
        if lost:
            reason = other.get("skipped") or now.get("reason") or now.get("missing") or "no reason given"
            which = "" if len(lost) == len(old["milliseconds"]) else f" {', '.join(lost)}"
            found.lost.append(f"{row['label']}: {name}{which}: {reason}")
        rounds = min(r.get("rounds", MINIMUM_ROUNDS) for r in (row, other))
        for job in times:
            if all(job in of for of in (old["milliseconds"], *eager)):
                spreads = [of[job] for of in (old["milliseconds"], times, *eager)]
                found.changes.append(_change(row["label"], name, job, spreads, rounds, same_machine))


def _change(
    label: str, name: str, job: str, spreads: list[dict[str, float]], rounds: int, same_machine: bool
) -> Change:
    """spreads: the contender's before and after, then eager PyTorch's."""
    old, new, eager_old, eager_new = (spread["median"] for spread in spreads)
    # Half the distance of the 10 % and 90 % quantiles' logarithms.
    widths = [math.log(spread["high"] / spread["low"]) / 2 for spread in spreads]
    few = 1 + _FOR_FEW_ROUNDS / max(1, rounds - 1)
    noise, own_noise = (max(SMALLEST_CHANGE, few * math.hypot(*w)) for w in (widths, widths[:2]))
    return Change(label, name, job, eager_old / old, eager_new / new, (old, new), noise, own_noise, same_machine)


def shown(comparison: Comparison) -> RenderableType:
    """The comparison, for the terminal."""
    slower = [change for change in comparison.changes if change.slower]
    faster = [change for change in comparison.changes if change.faster]
    unchanged = len(comparison.changes) - len(slower) - len(faster)
    tables = [
        _table(title, changes) for title, changes in (("slower beyond noise", slower), ("faster", faster)) if changes
    ]
    lines = [f"no longer timed: {line}" for line in comparison.lost]
    lines.append(f"{len(slower)} slower, {len(faster)} faster, {unchanged} unchanged within noise")
    if comparison.changes:
        typical = statistics.median(change.noise for change in comparison.changes)
        lines.append(f"typical noise of a ratio: {_noise(typical)}")
    for title, labels in (("the old", comparison.only_before), ("the new", comparison.only_after)):
        if labels:
            lines.append(f"only in {title} file: {'; '.join(labels)}")
    for key, (old, new) in comparison.environment.items():
        lines.append(f"environments differ: {key.replace('_', ' ')} was {old}, is {new}")
    return Group(*tables, Text("\n".join(lines)))


def _table(title: str, changes: list[Change]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("case")
    for heading in ("job", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("/eager", "now", "change", "noise", "median", "now"):
        table.add_column(heading, justify="right", no_wrap=True)
    for c in changes:
        medians = map(duration, c.milliseconds)
        change = f"{'+' if c.after > c.before else '−'}{percent(abs(c.after / c.before - 1))}"
        noise = f"±{percent(math.expm1(c.noise))}"
        table.add_row(c.label, c.job, c.contender, times(c.before), times(c.after), change, noise, *medians)
    return table


def _noise(logarithm: float) -> str:
    """What a ratio may move by without meaning anything.

    >>> _noise(0.1), _noise(2.0)
    ('±11%', 'a factor of 7.4: too busy a machine to tell')
    """
    if logarithm < math.log(2):
        return f"±{percent(math.expm1(logarithm))}"
    return f"a factor of {two_digits(math.exp(logarithm))}: too busy a machine to tell"
