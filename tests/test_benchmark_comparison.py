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


@pytest.fixture
def compare(tmp_path: Path) -> Callable[[Result, Result], tuple[int, str]]:
    """The exit code and the text of --compare with --against."""

    def run(before: Result, after: Result) -> tuple[int, str]:
        for name, result in (("old", before), ("new", after)):
            (tmp_path / f"{name}.json").write_text(json.dumps(result))
        code, text, error = invoke("--compare", tmp_path / "old.json", "--against", tmp_path / "new.json")
        assert not error
        return code, text

    return run


Compare = Callable[[Result, Result], tuple[int, str]]


def test_a_run_beside_itself_is_unchanged(measured: Result, compare: Compare) -> None:
    code, text = compare(measured, measured)
    assert code == 0
    assert "0 slower, 0 faster, 4 unchanged within noise" in text
    assert "differ" not in text


def test_a_regression_is_flagged(measured: Result, compare: Compare) -> None:
    code, text = compare(measured, scaled(measured, 1.5, "cpp", label=FIRST, jobs=("step",)))
    assert code == 3
    assert "1 slower, 0 faster, 3 unchanged" in text
    (line,) = [line for line in text.splitlines() if FIRST in line]
    assert "step" in line
    assert "−33%" in line
    assert SECOND not in text


def test_an_improvement_is_listed_and_no_failure(measured: Result, compare: Compare) -> None:
    code, text = compare(measured, scaled(measured, 0.5, "cpp", label=SECOND))
    assert code == 0
    assert "0 slower, 2 faster, 2 unchanged" in text
    assert text.count("+100%") == 2


def test_a_machine_that_is_slower_altogether_is_no_regression(measured: Result, compare: Compare) -> None:
    code, text = compare(measured, scaled(measured, 3.0, "cpp", "eager"))
    assert code == 0
    assert "4 unchanged" in text


def test_a_slower_yardstick_does_not_hide_a_regression(measured: Result, compare: Compare) -> None:
    both = scaled(scaled(measured, 3.0, "cpp", "eager"), 1.5, "cpp")
    assert compare(measured, both)[0] == 3


def test_an_eager_pytorch_that_something_held_up_is_no_regression(measured: Result, compare: Compare) -> None:
    """The ratio fell, but not because of us; of two machines the ratio is all there is."""
    held_up = scaled(measured, 5.0, "eager", jobs=("forward",))
    code, text = compare(held_up, measured)
    assert code == 0
    assert "4 unchanged" in text
    elsewhere = copy.deepcopy(measured)
    elsewhere["environment"]["processor"] = "another"
    code, text = compare(held_up, elsewhere)
    assert code == 3
    assert "2 slower" in text


def test_few_rounds_prove_less(measured: Result, compare: Compare) -> None:
    slower = scaled(measured, 1.25, "cpp")
    assert compare(measured, slower)[0] == 3
    for row in slower["rows"]:
        row["rounds"] = 3
    code, text = compare(measured, slower)
    assert code == 0
    assert "typical noise of a ratio: ±32%" in text


def test_noise_is_not_flagged(measured: Result, compare: Compare) -> None:
    assert compare(measured, scaled(measured, 1.04, "cpp"))[0] == 0
    noisy = copy.deepcopy(measured)
    for spread in spreads(noisy, "cpp"):
        spread.update(low=0.6 * spread["median"], high=1.7 * spread["median"])
    assert compare(measured, scaled(measured, 1.3, "cpp"))[0] == 3
    assert compare(noisy, scaled(measured, 1.3, "cpp"))[0] == 0
    assert compare(measured, scaled(noisy, 1.3, "cpp"))[0] == 0
    assert compare(noisy, scaled(noisy, 4.0, "cpp"))[0] == 3


def test_cases_of_one_file_alone_are_named(measured: Result, compare: Compare) -> None:
    first, second = ({**measured, "rows": [row]} for row in measured["rows"])
    code, text = compare(first, second)
    assert code == 0
    assert f"only in the old file: {FIRST}" in text
    assert f"only in the new file: {SECOND}" in text
    assert "0 slower, 0 faster, 0 unchanged" in text


def test_a_result_that_is_no_longer_timed_is_a_regression(measured: Result, compare: Compare) -> None:
    wrong = copy.deepcopy(measured)
    wrong["rows"][0]["contenders"]["cpp"] = {"status": "wrong", "reason": "f: error 1, at most 0.1 allowed"}
    code, text = compare(measured, wrong)
    assert code == 3
    assert f"no longer timed: {FIRST}: cpp: f: error 1, at most 0.1 allowed" in " ".join(text.split())
    skipped = copy.deepcopy(measured)
    skipped["rows"][0] |= {"contenders": {}, "skipped": "no extension"}
    assert compare(measured, skipped)[0] == 3
    assert compare(wrong, measured)[0] == 0


def test_a_contender_that_was_not_asked_for_is_no_regression(measured: Result, compare: Compare) -> None:
    other = copy.deepcopy(measured)
    for row in other["rows"]:
        row["contenders"]["reference"] = row["contenders"].pop("cpp")
    code, text = compare(measured, other)
    assert code == 0
    assert "0 unchanged" in text


def test_other_environments_are_named(measured: Result, compare: Compare) -> None:
    other = copy.deepcopy(measured)
    other["environment"] |= {"threads": 64, "torch": "9.9"}
    code, text = compare(measured, other)
    assert code == 0
    assert "environments differ: threads was 1, is 64" in text
    assert "environments differ: torch was" in text
    assert "processor" not in text


def test_the_committed_result_file_can_be_compared() -> None:
    path = Path(__file__).resolve().parents[1] / "bench" / "results" / "cpu.json"
    old = comparison.load(path, "compare")
    found = comparison.compared(old, old)
    timed = [row for row in old["rows"] if "ours" in row["gain"]]
    assert len(found.changes) >= len(JOBS) * len(timed) > 0
    assert not found.regressed


def test_compare_after_measuring(measured: Result, tmp_path: Path) -> None:
    old = tmp_path / "cpu.json"  # which the run overwrites, after it has read it
    old.write_text(json.dumps(scaled(measured, 1e-9, "cpp")))
    code, text, error = invoke(*OPTIONS, "--threads", 1, "--rounds", 30, "--compare", old, "--out", tmp_path)
    assert code == 3, error
    assert "4 slower, 0 faster, 0 unchanged" in text
    assert json.loads(old.read_text())["rounds"] == 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", ["valid JSON"]),
        ("[]", ["a JSON list"]),
        ("{}", ["without environment and rows"]),
        ('{"environment": {}, "rows": [1]}', ["a row 0 without label"]),
        ('{"environment": {}, "rows": [{"label": "a", "contenders": {}, "rounds": "3"}]}', ["a row 0 without label"]),
        ('{"environment": {}, "rows": [{"label": "a", "contenders": {"ours": 1}}]}', ["rounds, or contenders"]),
        ('{"environment": {}, "rows": [{"label": "a", "contenders": {"ours": {}}}]}', ["medians and quantiles"]),
        (
            '{"environment": {}, "rows": [{"label": "a", "contenders": {"ours": {"milliseconds": {"forward": 1}}}}]}',
            ["medians and quantiles"],
        ),
    ],
)
@pytest.mark.parametrize("option", ["compare", "against"])
def test_what_is_no_result_file_is_refused_before_any_measuring(
    option: str, content: str, words: list[str], measured: Result, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(measured))
    bad.write_text(content)
    files = ["--compare", bad] if option == "compare" else ["--compare", good, "--against", bad]
    code, text, error = invoke(*files, "--out", tmp_path / "out")
    assert code == 2
    assert not text
    assert error.startswith(f"gradnets-fast: bench: {option} {bad}: expected ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "new.json"], ["against: expected --compare", "add --compare OLD.json"]),
        (["--compare", "none.json"], ["compare none.json: expected a file that can be read"]),
    ],
)
def test_files_that_are_missing(arguments: list[str], words: list[str]) -> None:
    code, _, error = invoke(*arguments)
    assert code == 2
    for word in words:
        assert word in error


def test_comparing_two_files_measures_nothing(measured: Result, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(measured))
    code, _, error = invoke("--compare", path, "--against", path, "--operator", "ridge")
    assert code == 2
    assert "against: expected no cases to measure, got --operator" in error
