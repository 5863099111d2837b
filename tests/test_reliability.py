"""Cases of `make reliability`: a sample of each kind, that a failure is found and kept, and the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradnets_fast.ops import _cpp
from reliability import __main__ as command
from reliability import sanitized
from reliability.children import Child, check_refused
from reliability.kinds import Kind, one_by_one
from reliability.results import RESULTS, TABLE, Results

ROOT = Path(__file__).resolve().parents[1]
needs_extension = pytest.mark.skipif(_cpp.why_unavailable() is not None, reason="needs the extension")


def tried(out: Path, *words: str) -> dict[str, dict[str, object]]:
    """What the command, in a process of its own, writes of a few cases."""
    run = [sys.executable, "-m", "tests.reliability", "--out", str(out), *words]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, object]] = json.loads(out.read_text(encoding="utf-8"))["kinds"]
    return found


@needs_extension
def test_a_few_cases(tmp_path: Path) -> None:
    names = ("killed", "a full disk", "clock jumps", "damaged")
    found = tried(tmp_path / "found.json", "--only", ",".join(names), "--first", "5", "--share", "0.02")
    assert {*names[:3], "damaged archives of kernels"} <= found.keys()
    for name, kind in found.items():
        assert kind["tried"] == [[5, 44 if "damaged" in name else 5]]
        assert not kind["failures"]


# Not those that compile the whole extension under a sanitizer, which takes longer than half of the suite.
@needs_extension
@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in command.KINDS if k not in sanitized.KINDS], ids=lambda kind: kind.name)
def test_a_sample(kind: Kind, tmp_path: Path) -> None:
    if why := kind.needs():
        pytest.skip(why)
    count = max(3, min(kind.count // 20, 2 * kind.block))
    found = tried(tmp_path / "found.json", "--only", kind.name, "--first", "100000", "--count", str(count))
    assert not found[kind.name]["failures"]


def test_failures_are_found_and_kept_and_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()

    def case(number: int, folder: Path) -> str:
        calls.append(number)
        assert not [*folder.iterdir()]
        if number == 3:
            raise AssertionError("three")
        return "right"

    kind, commits = Kind("numbers", "a number", 5, one_by_one(case)), iter(["a", "a", "b"])
    versions = {"torch": "2", "python": "3"}
    monkeypatch.setattr(command, "environment", lambda text: {**versions, "command": text, "commit": next(commits)})
    results = Results(tmp_path / "found.json")
    command.attempt(kind, results, 0, 4)
    assert results.failures(kind) == {"3": "three"}
    assert calls == [0, 1, 2, 3]
    again = Results(tmp_path / "found.json")
    command.attempt(kind, again, 0, 5)
    assert calls == [0, 1, 2, 3, 4]
    assert "| numbers | a number | 5 | 5 | 1 | right: 4 | a | 2, 3 |" in again.table()
    command.attempt(kind, again, 0, 1)  # of other code all is tried again
    assert calls[5:] == [0]


def test_what_is_not_one_line_is_no_refusal() -> None:
    def says(text: str, status: int) -> Child:
        return Child(lambda: (print(text, file=sys.stderr), status)[1])

    check_refused(says("gradnets-fast: no room", 2).wait())
    for text, status in (("gradnets-fast: no room", 1), ("Traceback", 2), ("gradnets-fast: no\nroom", 2)):
        with pytest.raises(AssertionError, match="expected one line"):
            check_refused(says(text, status).wait())
    with pytest.raises(AssertionError, match="no end within"):
        Child(lambda: __import__("time").sleep(60) or 0).wait(0.2)


def test_the_table_is_that_of_the_results() -> None:
    results = Results(RESULTS)
    assert TABLE.read_text(encoding="utf-8") == results.table()
