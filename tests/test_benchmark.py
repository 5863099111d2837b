"""The benchmark: what it counts, what it refuses to time, and what it writes.  No times are asserted."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_benchmark_options import invoke as invoke_in_columns

from gradnets_fast.apps import readable
from gradnets_fast.apps.bench import chosen, memory, runner
from gradnets_fast.apps.bench.cases import Case, Problem, Target
from gradnets_fast.apps.bench.chosen import Choice
from gradnets_fast.apps.bench.contenders import CONTENDERS, Builder, Contender, eager, ours
from gradnets_fast.apps.bench.images import image_case
from gradnets_fast.apps.bench.machine import Machine
from gradnets_fast.apps.bench.measurement import Plan, Spread, WallClock, calls_per_sample, interleaved
from gradnets_fast.apps.bench.presets import CASES, PRESETS, Preset, registry_cases, splines
from gradnets_fast.apps.bench.verification import chosen_rows
from gradnets_fast.nn import registry

CPU = torch.device("cpu")
TINY = dataclasses.replace(
    *chosen.cases(Choice((), ("mGradNetC",), ("700x3x5",), layers=2), CPU), target=Target(2.0, 0.001)
)
WITHOUT_COMPILE = {name: CONTENDERS[name] for name in PRESETS["quick"].contenders}
SHORT = Plan(3, 1.0)


invoke = partial(invoke_in_columns, columns=120)


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = Preset(lambda: iter([TINY]), PRESETS["quick"].contenders, Plan(30, 60.0))  # in time on a busy machine too
    monkeypatch.setitem(PRESETS, "quick", preset)
    monkeypatch.setattr("gradnets_fast.apps.bench.machine._CPU_SIZES", (64, 2**10, 2**15))


@pytest.mark.usefixtures("tiny_preset")
def test_a_run_writes_what_it_shows(tmp_path: Path) -> None:
    code, text, error = invoke("--rounds", 4, "--threads", 1, "--out", tmp_path)
    assert code == 0, error
    assert "…" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"cpu.json", "cpu.csv", "cpu.png", ".lock"}
    result = json.loads((tmp_path / "cpu.json").read_text())
    assert result["environment"]["threads"] == 1
    assert "--rounds 4 --threads 1" in result["environment"]["command"]
    assert result["machine"]["mm_gflops"]["median"] > 0
    (row,) = result["rows"]
    assert 4 <= row["rounds"] <= 40
    assert row["target"] == {"forward": 2.0, "step": 0.001, "memory": None}
    assert row["flops"] == {"forward": 4 * 700 * 3 * 5, "step": 14 * 700 * 3 * 5}
    assert list(row["contenders"]) == ["eager", "authors", "ours"]
    for outcome in row["contenders"].values():
        assert outcome["status"] == "timed"
        assert outcome["relative_error"] < 1e-5
        spread = outcome["milliseconds"]["step"]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    medians = [row["contenders"][name]["milliseconds"]["step"]["median"] for name in ("eager", "ours")]
    assert row["gain"]["ours"]["step"] == pytest.approx(medians[0] / medians[1])
    assert row["gflops"]["step"] == pytest.approx(1e-6 * row["flops"]["step"] / medians[1])
    assert row["of_mm"]["step"] == pytest.approx(row["gflops"]["step"] / result["machine"]["mm_gflops"]["median"])
    least = row["bound"]["step"]["milliseconds"]
    assert least >= 1e-6 * row["flops"]["step"] / result["machine"]["mm_gflops"]["high"]
    assert row["contenders"]["eager"]["of_bound"]["step"] == pytest.approx(least / medians[0])
    assert row["contenders"]["ours"]["backend"] == "cpp"
    lines = list(csv.DictReader((tmp_path / "cpu.csv").read_text().splitlines()))
    assert len(lines) == 3 * 2
    assert float(lines[-1]["median_ms"]) == medians[1]
    assert lines[-1]["target"] == "0.001"
    assert lines[-1]["bound_by"] in ("products", "memory", "special functions")
    assert (tmp_path / "cpu.png").read_bytes()[:4] == b"\x89PNG"
    assert readable.duration(medians[1]) in text
    assert "batch, d, h = 700, 3, 5" in text
    for spread in (row["contenders"]["ours"]["milliseconds"][job] for job in ("forward", "step")):
        assert readable.quantiles(spread) in text
    assert max(map(len, text.splitlines())) <= 120 or str(tmp_path) in max(text.splitlines(), key=len)


def _wrong_after(calls: int, problem: Problem) -> Contender:
    """Right values, but each element off by a thousandth of the largest from that call on."""
    right = ours(problem)
    count = [0]

    def call(x: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        f = right.call(x)
        return f if count[0] <= calls else f + 1e-3 * f.detach().abs().max()

    return dataclasses.replace(right, call=call)


def _wrong_gradient(problem: Problem) -> Contender:
    right = ours(problem)
    return dataclasses.replace(right, call=lambda x: right.call(x) + 1e-3 * (x - x.detach()))


@pytest.mark.usefixtures("tiny_preset")
@pytest.mark.parametrize("builder", [partial(_wrong_after, 0), partial(_wrong_after, 1), _wrong_gradient])
def test_a_wrong_result_is_not_timed(builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.apps.bench.command.CONTENDERS", {**CONTENDERS, "ours": builder})
    code, text, _ = invoke("--rounds", 1, "--out", tmp_path)
    assert code == 1
    assert "wrong result, not timed: mGradNetC, 2 layers tanh 700x3x5: ours: " in " ".join(text.split())
    (row,) = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert row["contenders"]["ours"]["status"] == "wrong"
    assert "milliseconds" not in row["contenders"]["ours"]
    assert row["contenders"]["eager"]["status"] == "timed"
    assert row["gain"].keys() == {"authors"}


def test_a_contender_that_cannot_run_says_why() -> None:
    def missing(problem: Problem) -> Contender:
        def call(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no compiler found\nand much more")

        return dataclasses.replace(eager(problem), call=call)

    row = runner.run_case(TINY, {"eager": eager, "compile": missing, "ours": ours}, SHORT)
    outcome = row["contenders"]["compile"]
    assert outcome == {"status": "unavailable", "reason": "RuntimeError: no compiler found"}
    assert row["contenders"]["ours"]["status"] == "timed"


def test_a_case_that_the_kernels_refuse_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.apps.bench.contenders.why_not", lambda *_: "its dtypes are others")
    row = runner.run_case(TINY, WITHOUT_COMPILE, SHORT)
    assert "its dtypes are others" in row["skipped"]
    assert not any("milliseconds" in outcome for outcome in row["contenders"].values())


def test_the_registry_preset_has_every_registered_network() -> None:
    assert len(list(registry_cases())) == len(list(registry.cases()))
    labels = [case.label for preset in ("full", "registry") for case in PRESETS[preset].cases()]
    assert len(labels) == len(set(labels))


def test_rows_that_are_verified_span_the_batch() -> None:
    rows = chosen_rows(65536)
    assert (len(rows), rows[0], rows[-1]) == (512, 0, 65535)
    assert chosen_rows(3).tolist() == [0, 1, 2]
    assert chosen_rows(1).tolist() == [0]


def test_counts() -> None:
    case = next(case for case in CASES if "weighted_softmax" in case.label)
    problem = case.problem()
    count = sum(p.numel() for p in problem.parameters.values())
    hidden = 16384 * 256 * 4
    amounts = {key: (of_jobs["forward"], of_jobs["step"]) for key, of_jobs in problem.work.items()}
    assert amounts["flops"] == (4 * hidden * 64, 14 * hidden * 64)
    assert amounts["minimum_bytes"] == (4 * (2 * 16384 * 64 + count), 4 * (4 * 16384 * 64 + 2 * count))
    assert amounts["evaluations"] == (2 * hidden, 4 * hidden)
    half = next(case for case in CASES if case.dtype == "bfloat16").problem()
    points = 2 * 2 * half.points[0].numel()
    parameters = sum(p.numel() for p in half.parameters.values())
    assert half.work["minimum_bytes"]["forward"] == points + 2 * parameters


def test_rounds_interleave_the_jobs_and_end_in_time() -> None:
    calls: list[str] = []

    def sampler(name: str) -> float:
        calls.append(name)
        return 0.5

    def clock(seconds: float) -> Callable[[], float]:
        """Whose reading grows by so many seconds from round to round."""
        readings = itertools.count()
        return lambda: next(readings) * seconds

    samplers = {name: partial(sampler, name) for name in "ab"}
    samples = interleaved(samplers, 5, 60.0, clock(1e-6))
    assert samples == {"a": 50 * [0.5], "b": 50 * [0.5]}
    assert all(sorted(calls[k : k + 2]) == ["a", "b"] for k in range(0, 100, 2))
    assert {tuple(calls[k : k + 2]) for k in range(0, 100, 2)} == {("a", "b"), ("b", "a")}
    assert len(interleaved(samplers, 4, 60.0, clock(0.3))["a"]) == 4
    assert all(len(values) == 3 for values in interleaved(samplers, 50, 0.5, clock(0.3)).values())
    assert calls_per_sample(lambda: None) > 100
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, pytest.approx(1.2), pytest.approx(2.8))


MEMORY = [
    (next(case for case in CASES if case.label == "mGradNetC, 4 layers 65536x2x64"), "ours"),
    (*chosen.cases(Choice(("ridge_jvp",), shape=("16384x8x512",)), CPU), "cpp"),
    (image_case(2, (200, 300), (1, 64), 5, "tanh"), "ours"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), MEMORY, ids=["network", "operator", "images"])
def test_memory_of_a_step_comes_from_a_fresh_process(case: Case, name: str) -> None:
    """Eager keeps several arrays of all hidden numbers, the kernels none."""
    big = torch.ones(2**27)  # a process that this one starts must not inherit its size
    del big
    found = {name: memory.extra_bytes(case, name) for name in ("eager", name)}
    assert found["eager"] > 3 * case.hidden * 4
    assert found[name] < found["eager"] / 5


def test_unwritable_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, error = invoke("--out", tmp_path / "file" / "out")
    assert code == 2
    assert error.startswith("gradnets-fast: bench: out")


def test_an_interrupted_run_leaves_what_it_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Any:
        yield [report_row], machine.to_json()
        raise KeyboardInterrupt

    monkeypatch.setattr("gradnets_fast.apps.bench.machine._CPU_SIZES", (64, 2**10, 2**15))
    machine = Machine(torch.device("cpu"), ["float32"], WallClock())
    machine.probe()
    report_row = runner.run_case(TINY, {"eager": eager, "ours": ours}, Plan(1, 1.0))
    monkeypatch.setattr("gradnets_fast.apps.bench.command.run", lambda *_, **__: interrupted())
    code, text, _ = invoke("--out", tmp_path)
    assert code == 130
    assert "stopped after 1 of" in text
    assert [row["label"] for row in json.loads((tmp_path / "cpu.json").read_text())["rows"]] == [TINY.label]


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with runner.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_numbers_to_read() -> None:
    assert [readable.duration(t) for t in (0.000987, 0.0999, 9.996, 99.96, 999.6)] == [
        "0.99 µs",
        "99.9 µs",
        "10.0 ms",
        "100 ms",
        "1.00 s",
    ]
    assert math.isclose(float(readable.times(0.049)[:-1]), 0.05)


def test_a_case_of_images() -> None:
    case = image_case(2, (9, 8), (1, 3, 5), 3, "tanh", 2.0, 1.5)
    problem = case.problem()
    (x,) = problem.points
    torch.testing.assert_close(problem.ours(x), problem.eager(x))
    taps = 9 * (1 * 3 + 3 * 5)
    assert problem.work["flops"]["forward"] == 2 * 2 * (2 * 72) * taps
    assert case.label == "ConvGradNet 1→3→5, 3×3, tanh, 9×8 2x72x5"
    assert case.hidden == 2 * 72 * 5
    assert {case.target for case in PRESETS["imaging"].cases()} > {None}


def test_a_case_of_splines() -> None:
    """Its reference is the network, and no place in it counts as a special function."""
    problem = splines(50, 3, 7).problem()
    (x,) = problem.points
    torch.testing.assert_close(problem.ours(x), problem.eager(x))
    assert problem.work["evaluations"]["forward"] == 0
