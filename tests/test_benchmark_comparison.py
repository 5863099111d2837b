"""`gradnets-fast bench --compare`: what counts as slower, and what does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_benchmark_options import invoke

from gradnets_fast.apps.bench import comparison
from gradnets_fast.apps.bench.work import JOBS

Result = dict[str, Any]
OPTIONS = ("--operator", "ridge", "--shape", "300x3x5", "--shape", "200x4x6", "--no-compile", "--rounds", 3)
FIRST, SECOND = "ridge, 1 layer tanh 300x3x5", "ridge, 1 layer tanh 200x4x6"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of a real run, its quantiles those of a quiet machine, whatever this one does."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:  # what the machine can do at best: measured at sizes that take seconds
        patch.setattr("gradnets_fast.apps.bench.machine._CPU_SIZES", (64, 2**10, 2**15))
        code, _, error = invoke(*OPTIONS, "--threads", 1, "--out", folder)
    assert code == 0, error
    result: Result = json.loads((folder / "cpu.json").read_text())
    for spread in spreads(result, "eager", "cpp"):
        spread.update(low=0.97 * spread["median"], high=1.04 * spread["median"])
    for row in result["rows"]:
        row["rounds"] = 30
    return result


def spreads(result: Result, *contenders: str, label: str = "", jobs: tuple[str, ...] = JOBS) -> list[dict[str, float]]:
    rows = [row for row in result["rows"] if label in row["label"]]
    return [row["contenders"][name]["milliseconds"][job] for row in rows for name in contenders for job in jobs]


def scaled(result: Result, factor: float, *contenders: str, **which: Any) -> Result:
    """A copy in which some times are `factor` times as long."""
    other = copy.deepcopy(result)
    for spread in spreads(other, *contenders, **which):
        spread.update({key: factor * value for key, value in spread.items()})
    return other


def changed(result: Result, **environment: Any) -> Result:
    other = copy.deepcopy(result)
    other["environment"] |= environment
    return other


def noisy(result: Result) -> Result:
    other = copy.deepcopy(result)
    for spread in spreads(other, "cpp"):
        spread.update(low=0.6 * spread["median"], high=1.7 * spread["median"])
    return other


def with_rows(result: Result, **entries: Any) -> Result:
    return {**result, "rows": [row | entries for row in result["rows"]]}


def without_cpp(result: Result, **outcome: Any) -> Result:
    other = copy.deepcopy(result)
    other["rows"][0]["contenders"]["cpp"] = outcome
    return other


WRONG = {"status": "wrong", "reason": "f: error 1, at most 0.1 allowed"}
Pair = Callable[[Result], tuple[Result, Result]]
COMPARED: dict[str, tuple[Pair, int, list[str]]] = {
    "itself": (lambda r: (r, r), 0, ["0 slower, 0 faster, 4 unchanged within noise"]),
    "a regression": (
        lambda r: (r, scaled(r, 1.5, "cpp", label=FIRST, jobs=("step",))),
        *(3, ["1 slower, 0 faster, 3 unchanged", f"{FIRST} step", "−33%"]),
    ),
    "an improvement": (
        lambda r: (r, scaled(r, 0.5, "cpp", label=SECOND)),
        *(0, ["0 slower, 2 faster, 2 unchanged", f"{SECOND} forward", f"{SECOND} step", "+100%"]),
    ),
    "a slower machine": (lambda r: (r, scaled(r, 3.0, "cpp", "eager")), 0, ["4 unchanged"]),
    "a slower yardstick too": (lambda r: (r, scaled(scaled(r, 3.0, "cpp", "eager"), 1.5, "cpp")), 3, ["4 slower"]),
    # The ratio fell, but not because of us; of two machines the ratio is all there is.
    "an eager PyTorch held up": (lambda r: (scaled(r, 5.0, "eager", jobs=("forward",)), r), 0, ["4 unchanged"]),
    "the same on two machines": (
        lambda r: (scaled(r, 5.0, "eager", jobs=("forward",)), changed(r, processor="another")),
        *(3, ["2 slower", "environments differ: processor was"]),
    ),
    "enough rounds": (lambda r: (r, scaled(r, 1.25, "cpp")), 3, ["4 slower"]),
    "too few rounds": (
        lambda r: (r, with_rows(scaled(r, 1.25, "cpp"), rounds=3)),
        *(0, ["4 unchanged", "typical noise of a ratio: ±32%"]),
    ),
    "a little": (lambda r: (r, scaled(r, 1.04, "cpp")), 0, ["4 unchanged"]),
    "beyond quiet noise": (lambda r: (r, scaled(r, 1.3, "cpp")), 3, ["4 slower"]),
    "within noise before": (lambda r: (noisy(r), scaled(r, 1.3, "cpp")), 0, ["4 unchanged"]),
    "within noise after": (lambda r: (r, scaled(noisy(r), 1.3, "cpp")), 0, ["4 unchanged"]),
    "beyond loud noise": (lambda r: (noisy(r), scaled(noisy(r), 4.0, "cpp")), 3, ["4 slower"]),
    "cases of one file alone": (
        lambda r: ({**r, "rows": r["rows"][:1]}, {**r, "rows": r["rows"][1:]}),
        *(0, [f"only in the old file: {FIRST}", f"only in the new file: {SECOND}", "0 slower, 0 faster, 0 unchanged"]),
    ),
    "a wrong result": (
        lambda r: (r, without_cpp(r, **WRONG)),
        3,
        [f"no longer timed: {FIRST}: cpp: {WRONG['reason']}"],
    ),
    "a right result again": (lambda r: (without_cpp(r, **WRONG), r), 0, ["2 unchanged"]),
    "a skipped case": (
        lambda r: (r, with_rows(r, contenders={}, skipped="no extension")),
        *(3, [f"no longer timed: {SECOND}: cpp: no extension"]),
    ),
    "other versions": (
        lambda r: (r, changed(r, threads=64, torch="9.9")),
        *(0, ["environments differ: threads was 1, is 64", "environments differ: torch was"]),
    ),
}
"""Runs before and after, the exit code, and what the text says."""


@pytest.mark.parametrize("name", COMPARED)
def test_what_counts_as_slower(name: str, measured: Result, tmp_path: Path) -> None:
    pair, code, words = COMPARED[name]
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    for path, result in zip((old, new), pair(measured)):
        path.write_text(json.dumps(result))
    found, text, error = invoke("--compare", old, "--against", new)
    assert not error
    assert found == code
    plain = " ".join(text.split())
    for word in words:
        assert word in plain
    assert ("differ" in plain) == any("differ" in word for word in words)


def test_a_contender_that_was_not_asked_for_is_no_regression(measured: Result) -> None:
    other = copy.deepcopy(measured)
    for row in other["rows"]:
        row["contenders"]["reference"] = row["contenders"].pop("cpp")
    found = comparison.compared(measured, other)
    assert (found.changes, found.regressed) == ([], False)


def test_the_committed_result_file_can_be_compared() -> None:
    path = Path(__file__).resolve().parents[1] / "bench" / "results" / "cpu.json"
    old = comparison.load(path, "compare")
    found = comparison.compared(old, old)
    timed = [row for row in old["rows"] if "ours" in row["gain"]]
    assert len(found.changes) >= len(JOBS) * len(timed) > 0
    assert not found.regressed


@pytest.mark.slow
def test_compare_after_measuring(measured: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.apps.bench.machine._CPU_SIZES", (64, 2**10, 2**15))
    old = tmp_path / "cpu.json"  # which the run overwrites if told to, after it has read it
    old.write_text(json.dumps(scaled(measured, 1e-9, "cpp")))
    options = [*OPTIONS, "--threads", 1, "--rounds", 30, "--compare", old, "--out", tmp_path]
    before = old.read_bytes()
    code, _, error = invoke(*options)
    assert (code, old.read_bytes()) == (2, before)
    assert "expected a folder without an earlier run, got cpu.json; add --overwrite to replace it" in error
    code, text, error = invoke(*options, "--overwrite")
    assert code == 3, error
    assert "4 slower, 0 faster, 0 unchanged" in text
    assert json.loads(old.read_text())["rounds"] == 30


NO_RESULTS = {
    "not json": "valid JSON",
    "[]": "a result file",
    "{}": "'environment'",
    '{"environment": {}, "rows": [1]}': "TypeError",
    '{"environment": {}, "rows": [{"label": "a", "contenders": {}, "rounds": "3"}]}': "TypeError",
    '{"environment": {}, "rows": [{"label": "a", "contenders": {"ours": 1}}]}': "TypeError",
    '{"environment": {}, "rows": [{"label": "a", "contenders": {"ours": {}}}]}': "'status'",
    '{"environment": {}, "rows": [{"label": "a", "contenders": {"ours": {"status": "timed"}}}]}': "'milliseconds'",
}


@pytest.mark.parametrize("content", NO_RESULTS)
@pytest.mark.parametrize("option", ["compare", "against"])
def test_what_is_no_result_file_is_refused_before_any_measuring(
    option: str, content: str, measured: Result, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(measured))
    bad.write_text(content)
    files = ["--compare", bad] if option == "compare" else ["--compare", good, "--against", bad]
    code, text, error = invoke(*files, "--out", tmp_path / "out")
    assert (code, text) == (2, "")
    assert error.startswith(f"gradnets-fast: bench: {option} {bad}: expected ")
    assert error.count("\n") == 1
    assert NO_RESULTS[content] in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "new.json"], ["against: expected --compare", "add --compare OLD.json"]),
        (["--compare", "none.json"], ["compare none.json: expected a file that can be read"]),
        (["--compare", "{0}", "--against", "{0}", "--operator", "ridge"], ["no cases to measure, got --operator"]),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], words: list[str], measured: Result, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(measured))
    code, _, error = invoke(*(word.format(path) for word in arguments))
    assert code == 2
    for word in words:
        assert word in error
