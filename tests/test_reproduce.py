"""`gradnets-fast reproduce`: every experiment runs, leaves its table and figures, and goes on after an interruption."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gradnets_fast.apps.cli import app
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.reproduce import EXPERIMENTS, Experiment, runner
from gradnets_fast.apps.reproduce.experiment import EXTRAS

QUICKEST = {"fields"}
"""Experiments that `make test` runs."""
CONTENDER = "network"
"""The entry of a case that names who is compared."""


def reproduce(*words: object) -> Result:
    return CliRunner().invoke(app, ["reproduce", *map(str, words)], catch_exceptions=False, env={"COLUMNS": "200"})


def without_times(folder: Path) -> list[Any]:
    """The cases of a result file but for what is measured in time."""
    cases = json.loads((folder / runner.RESULTS_FILE).read_text("utf-8"))["cases"]
    return [(one["case"], {k: v for k, v in one["row"].items() if not k.endswith(("ms", "seconds"))}) for one in cases]


@pytest.mark.parametrize(
    "name", [name if name in QUICKEST else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS]
)
def test_an_experiment_runs(name: str, tmp_path: Path) -> None:
    result = reproduce(name, "--quick", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    experiment = EXPERIMENTS[name]
    settings = experiment.chosen(quick=True, seeds=None)
    text = (tmp_path / "table.md").read_text("utf-8")
    for said in (experiment.title, experiment.source, f"gradnets-fast reproduce {name} --quick"):
        assert said in text
    for case in experiment.cases(settings):
        assert str(case.get(CONTENDER, "")) in text
    assert "|---" in text
    content = runner.read(tmp_path / runner.RESULTS_FILE)
    drawn = experiment.figures(runner.rows_of(content), settings)
    for figure in drawn:
        assert (tmp_path / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"


def small(count: int = 3, fails_at: int | None = None) -> Experiment:
    """An experiment of a moment, interrupted in a case."""
    import torch
    from matplotlib.figure import Figure

    def run(case: Any, settings: Any) -> dict[str, Any]:
        if case["seed"] == fails_at:
            raise KeyboardInterrupt
        return {"error": float(torch.rand(())), "none": float("inf")}

    return Experiment(
        name="small",
        title="Random numbers.",
        source="nowhere",
        settings={"seeds": count, "sizes": (1, 2)},
        quick={},
        cases=lambda settings: [{"network": "dice", "seed": seed} for seed in range(settings["seeds"])],
        run=run,
        table=lambda rows: "\n".join(f"| {row['network']} | {row['error']} | {row['none']} |" for row in rows),
        figures=lambda rows, settings: {"dice": Figure(figsize=(1, 1))},
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an experiment into the registry."""
    return lambda experiment: monkeypatch.setitem(EXPERIMENTS, "small", experiment)


def test_an_interrupted_run_says_how_it_goes_on_and_goes_on_to_the_same_result(known: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    known(small())
    assert reproduce("small", "--out", whole).exit_code == 0
    known(small(fails_at=2))
    stopped = reproduce("small", "--out", parts)
    assert stopped.exit_code == 130
    assert f"stopped after 2 of 3 cases; go on with: gradnets-fast reproduce small --out {parts}" in stopped.output
    assert not (parts / "table.md").exists()
    known(small())
    resumed = reproduce("small", "--out", parts)
    assert resumed.exit_code == 0
    assert "[3/3] network dice, seed 2" in resumed.output
    assert "[1/3]" not in resumed.output
    assert without_times(parts) == without_times(whole)
    tables = [(folder / "table.md").read_text("utf-8").split("Source")[0] for folder in (whole, parts)]
    assert tables[0] == tables[1]
    assert "| inf |" in tables[0]


def test_a_finished_run_is_shown_again_without_being_run(known: Any, tmp_path: Path) -> None:
    known(small())
    reproduce("small", "--out", tmp_path)
    before = (tmp_path / runner.RESULTS_FILE).read_bytes()
    known(small(fails_at=0))
    again = reproduce("small", "--out", tmp_path)
    assert again.exit_code == 0
    assert "| dice |" in again.output
    assert (tmp_path / runner.RESULTS_FILE).read_bytes() == before


def test_other_settings_and_other_experiments_are_refused(
    known: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known(small())
    reproduce("small", "--out", tmp_path)
    refused = reproduce("small", "--out", tmp_path, "--seeds", 2)
    assert refused.exit_code == 2
    assert "expected the settings of the run there (seeds 3), got seeds 2; choose another folder" in refused.stderr
    known(replace(small(), name="other"))
    refused = reproduce("small", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "expected a run of small, as is there, got other" in refused.stderr


def test_numbers_that_are_not_finite_come_back_in_their_places(tmp_path: Path) -> None:
    content = {"experiment": "small", "environment": {}, "settings": {}, "cases": []}
    rows = [{"case": {"seed": 0}, "row": {"errors": {"5": math.inf}, "more": [1.0, math.nan]}, "seconds": 1.0}]
    write_json(tmp_path / "results.json", content | {"cases": rows})
    (row,) = runner.rows_of(runner.read(tmp_path / "results.json"))
    assert row["errors"] == {"5": math.inf}
    assert math.isnan(row["more"][1])


_FINE = '{"experiment": "small", "environment": {}, "settings": {}, "cases": [], '


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", '{"experiment": "small", "cases": [{}]}'),
        *(_FINE + '"not_finite": {"cases.3": "inf"}}', _FINE + '"resumed": [5]}'),
    ],
)
def test_a_damaged_result_file_is_named(text: str, known: Any, tmp_path: Path) -> None:
    known(small())
    (tmp_path / runner.RESULTS_FILE).write_text(text, encoding="utf-8")
    refused = reproduce("small", "--out", tmp_path)
    assert refused.exit_code == 2
    assert f"{runner.RESULTS_FILE}: expected the result file of a run, got " in refused.stderr
    assert (tmp_path / runner.RESULTS_FILE).read_text("utf-8") == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chess"], "NAME: expected one of fields"),
        (["small", "--seeds", "0"], "seeds: expected a positive integer, got 0"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, known: Any, tmp_path: Path) -> None:
    known(small())
    refused = reproduce(*words, "--out", tmp_path)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_seeds_are_refused_where_there_are_none(known: Any, tmp_path: Path) -> None:
    known(replace(small(), settings={"count": 1}))
    refused = reproduce("small", "--out", tmp_path, "--seeds", 2)
    assert refused.exit_code == 2
    assert "leave --seeds out" in refused.stderr


def test_a_missing_extra_is_named_before_anything_runs(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "images", ("a_module_that_is_not_there",))
    known(replace(small(), extra="images"))
    refused = reproduce("small", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "no a_module_that_is_not_there; pip install 'gradnets_fast[images]'" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_name_all_are_listed() -> None:
    listed = reproduce()
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == list(EXPERIMENTS)
    assert all(experiment.title in listed.output for experiment in EXPERIMENTS.values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_entry_is_complete(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    assert experiment.title.endswith(".")
    assert set(experiment.quick) <= set(experiment.settings), "--quick changes settings that there are"
    cases = [json.dumps(case) for case in experiment.cases(experiment.settings)]
    assert len(set(cases)) == len(cases)
    assert len(experiment.cases(experiment.chosen(True, None))) <= len(cases)
    assert experiment.extra is None or experiment.extra in EXTRAS


def test_extras_are_those_of_the_package() -> None:
    declared = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text("utf-8")
    for name in EXTRAS:
        assert f"\n{name} = [" in declared, name
