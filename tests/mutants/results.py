"""What the suite said of each fault: bench/results/mutants.json, and the table docs/mutants.md that is made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .faults import ROOT, Fault
from .workplace import Outcome

RESULTS = ROOT / "bench" / "results" / "mutants.json"
TABLE = ROOT / "docs" / "mutants.md"

_HEAD = """# Seeded faults

What the suite catches, shown by faults that were put into the code on purpose: `tests/mutants/faults.toml` lists them,
`make mutants` seeds them one at a time in a copy of the checkout, runs the test files that should fail until the first
failure, and writes [bench/results/mutants.json](../bench/results/mutants.json) and this table.  "Before" is the suite
of version 0.1 as it was before it was made shorter, on the code of that time.  Seconds are of the processor, the start
of PyTorch included.

{count} faults: before, {before} of {known} were caught; now, {now} of {run}.  Measured on {processor}, commit {commit}.

| fault | what goes wrong | before | now | by | s |
|---|---|---|---|---|---|
"""


class Results:
    """The results of all faults by their names; each has what it was `before`, where that is known, and `now`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._environment: dict[str, Any] = found.get("environment", {})
        self._faults: dict[str, dict[str, Any]] = found.get("faults", {})

    def keep(self, faults: Sequence[Fault]) -> None:
        """Forgets results of faults that are no longer listed, and takes on the list's order and words."""
        self._faults = {
            fault.id: {**self._faults.get(fault.id, {}), "what": fault.what, "file": fault.file} for fault in faults
        }

    def has(self, fault: Fault) -> bool:
        """Whether there is a result of this very change under these tests."""
        return bool(self._now(fault).get("key") == fault.key)

    def caught(self, fault: Fault) -> bool:
        """Whether a test failed."""
        return self.has(fault) and bool(self._now(fault)["outcome"] == "caught")

    def add(self, fault: Fault, outcome: Outcome, environment: dict[str, Any]) -> None:
        """Writes a result down."""
        self._faults[fault.id]["now"] = {"key": fault.key, **vars(outcome)}
        self._environment = environment
        content = {"environment": self._environment, "faults": self._faults}
        self._path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def line(self, fault: Fault) -> str:
        """A result in a line."""
        now = self._now(fault)
        return f"{now['outcome']:7} {now['seconds']:7.1f} s  {fault.id}: {now['by']}"

    def table(self) -> str:
        """The table as Markdown."""
        rows = self._faults.items()
        before = [entry["before"]["outcome"] for _, entry in rows if "before" in entry]
        now = [entry["now"]["outcome"] for _, entry in rows if "now" in entry]
        machine = {"processor": "", "commit": ""} | {
            name: str(self._environment.get(name, "")) for name in ("processor", "commit")
        }
        counts = {"before": before.count("caught"), "known": len(before), "now": now.count("caught"), "run": len(now)}
        return _HEAD.format(count=len(rows), **counts, **machine) + "".join(_row(name, entry) for name, entry in rows)

    def _now(self, fault: Fault) -> dict[str, Any]:
        found: dict[str, Any] = self._faults.get(fault.id, {}).get("now", {})
        return found


def _row(name: str, entry: dict[str, Any]) -> str:
    before, now = (entry.get(when, {}) for when in ("before", "now"))
    test = now.get("by", "").partition("[")[0].removeprefix("tests/")
    cells = (name, entry["what"], before.get("outcome", ""), now.get("outcome", ""), f"`{test}`" if test else "")
    return "| " + " | ".join([*cells, str(now.get("seconds", ""))]) + " |\n"
