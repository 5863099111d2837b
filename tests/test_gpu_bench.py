"""python -m bench.gpu: what needs no GPU of it, and its checks in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import tables
from bench.gpu import checks, parts, prebuilt, suite
from bench.gpu.calls import operators, prepared
from bench.gpu.checks import Check, Finding
from bench.gpu.workers import Budget, WorkerError
from covering import slow_but
from gradnets_fast import functional
from gradnets_fast.apps.accuracy import FLOOR_ULPS
from gradnets_fast.apps.bench import results
from gradnets_fast.apps.bench.cases import Case
from gradnets_fast.apps.bench.gpu import TANH_PER_CLOCK
from gradnets_fast.apps.bench.machine import rates
from gradnets_fast.apps.bench.precision import PRECISIONS
from gradnets_fast.apps.bench.presets import compilers, gpu_cases
from gradnets_fast.apps.bench.work import bounds
from gradnets_fast.kernels import hot

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
FEW = 2**14
_GFLOPS = {"mm_bfloat16_gflops": 800e3, "mm_tf32_gflops": 400e3, "mm_gflops": 50e3}
_REST = {"copy_gb_per_s": 3e3, "tanh_g_per_s": 1e3, "special_g_per_s": 1.755 * 132 * TANH_PER_CLOCK}
H100 = {name: dict.fromkeys(("median", "low", "high"), rate) for name, rate in (_GFLOPS | _REST).items()}


def case_of(**fields: Any) -> Case:
    """The first case of the preset with these fields and layers or modules."""
    depth = fields.pop("depth", 1)
    named = [c for c in gpu_cases() if c.tensors.depth == depth and c.tensors.family == fields.get("family", "ridge")]
    fields.pop("family", None)
    return next(c for c in named if all(getattr(c, name) == value for name, value in fields.items()))


@pytest.mark.parametrize(
    ("d", "depth", "forward", "backward", "scarce"),
    [
        (8, 1, 0.29, 0.29, ("special functions", "special functions")),
        (64, 1, 0.34, 0.86, ("products", "products")),
        (32, 1, 0.29, 0.43, ("special functions", "products")),
        (32, 4, 1.16, 1.16, ("special functions", "special functions")),
    ],
)
def test_bounds(d: int, depth: int, forward: float, backward: float, scarce: tuple[str, str]) -> None:
    case = case_of(d=d, h=1024, dtype="bfloat16", depth=depth)
    problem = case.problem(batch=FEW)
    work = problem.work
    times = [bounds(work, job, rates(H100, "bfloat16")) for job in ("forward", "backward")]
    scale = case.batch / FEW
    assert [scale * max(t.values()) for t in times] == pytest.approx([forward, backward], rel=0.03)
    assert tuple(max(t, key=t.__getitem__) for t in times) == scarce
    points, weights = 2 * FEW * d, sum(t.nbytes for t in problem.parameters.values())
    assert work["minimum_bytes"]["backward"] == 3 * points + 2 * weights
    assert work["flops"]["backward"] == 10 * FEW * d * 1024


def test_float32_may_be_three_products_of_tf32_but_ieee_may_not() -> None:
    assert rates(H100, "float32")["products"] == pytest.approx(400e12 / 3)
    assert rates(H100, "ieee")["products"] == 50e12


def test_the_most_telling_cases_come_first_and_none_is_missing() -> None:
    listed = gpu_cases()
    assert len({case.label for case in listed}) == len(listed) == 4 * 2 * 2 * 7 + 2 * 2 * 2 + 4 * 2 * 4
    first = [(c.dtype, c.tensors.depth, c.d, c.h) for c in listed[:6]]
    assert first == [("bfloat16", layers, d, 1024) for layers in (1, 4) for d in (32, 64, 128)]
    assert all(case.tensors.family != "ridge" for case in listed[6:10])
    assert {case.batch for case in listed if case.d >= 256} == {2**17}
    assert {case.h for case in listed} == {64, 256, 1024, 4096}
    compiled = [case for case in listed if compilers(case)]
    assert {name for case in compiled for name in compilers(case)} == {"compile", "compile, max-autotune"}
    assert all(compilers(case) for case in listed[:6])
    assert len(compiled) < 20


def test_the_budget_learns_what_work_costs() -> None:
    now = [100.0]
    budget = Budget(60.0, lambda: now[0])
    both = ("case", "compile", "compile, max-autotune")
    assert budget.affordable(both) == ["case", "compile"]
    budget.spent("compile, max-autotune", 20.0)
    assert budget.affordable(both) == list(both)
    budget.spent("compile, max-autotune", 10.0)
    assert budget.longest["compile, max-autotune"] == 20.0
    now[0] += 50.0
    assert budget.affordable(both) == ["case"]
    assert budget.within(180.0) == budget.limit(180.0) == 40.0
    budget.spent("case", 11.0)
    assert budget.affordable(both) == []
    now[0] += 20.0
    assert budget.within(180.0) == 30.0
    with pytest.raises(subprocess.TimeoutExpired, match="not begun"):
        budget.limit(180.0)


ENVIRONMENT = {
    "device": "Imaginary 1",
    "driver": "1.2",
    "torch": "2.11",
    "triton": "3.6",
    "commit": "abc",
    "command": "c",
}


def _times(milliseconds: float, *jobs: str) -> dict[str, Any]:
    scale = {"forward": 1.0, "backward": 2.5, "step": 3.5}
    spreads = {job: dict.fromkeys(("median", "low", "high"), scale[job] * milliseconds) for job in jobs or scale}
    return {"status": "timed", "reason": None, "milliseconds": spreads}


def _row(case: Case, **contenders: Any) -> dict[str, Any]:
    few, scale = case.problem(batch=FEW).work, case.batch / FEW
    work = {key: {job: scale * amount for job, amount in of_jobs.items()} for key, of_jobs in few.items()}
    return {**case.facts(), **work, "contenders": contenders}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of result files of a GPU that there is not."""
    case, wide = (case_of(d=64, h=1024, dtype=dtype, depth=depth) for dtype, depth in (("bfloat16", 1), ("tf32", 4)))
    without, wrong = _times(8.0, "forward") | {"missing": "out of memory"}, {"status": "wrong", "reason": "f"}
    rows = [
        _row(case, ours=_times(0.5), eager=_times(2.0), compile=_times(1.5), **{"compile, max-autotune": _times(1.0)})
        | {"predicted": {"forward": 0.4, "backward": 1.0, "step": 1.4}},
        _row(wide, ours=_times(2.0), eager=without),
        _row(case_of(d=64, h=4096, dtype="bfloat16"), ours=_times(3.0), eager=_times(9.0)),
        _row(case_of(d=32, h=1024, dtype="bfloat16"), ours=wrong, eager=_times(9.0)),
        {**{key: value for key, value in _row(case).items() if key != "flops"}, "skipped": "the process ended"},
    ]
    path = tmp_path_factory.mktemp("results")
    (path / "imaginary-1").mkdir()
    content = results.content(rows, H100, {"environment": ENVIRONMENT, "preset": "gpu", "rounds": 30, "not_run": []})
    (path / "imaginary-1" / "measurements.json").write_text(json.dumps(content))
    return path


def test_what_follows_from_times(folder: Path) -> None:
    first, second, *_ = json.loads((folder / "imaginary-1" / "measurements.json").read_text())["rows"]
    ours = first["contenders"]["ours"]
    assert ours["gflops"]["forward"] == pytest.approx(4 * 2**20 * 64 * 1024 / 0.5e6)
    assert ours["of_bound"]["forward"] == pytest.approx(first["bound"]["forward"]["milliseconds"] / 0.5)
    assert first["gain"]["ours"] == {"forward": 4.0, "backward": 4.0, "step": 4.0}
    assert first["gain"]["compile, max-autotune"]["step"] == 2.0
    assert second["gain"] == {"ours": {"forward": 4.0}}


def test_the_table_and_the_figure_of_a_gpu(folder: Path) -> None:
    text = tables.gpus(folder)
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 4
    assert "| 2.00 ms / 5.00 ms / 7.00 ms | 500 µs / 1.25 ms / 1.75 ms | 4.0× | 2.0× |" in lines[2]
    assert lines[2].endswith("| 400 µs / 1.00 ms / 1.40 ms | 1.25× |")
    assert lines[3].endswith("| – | – |")
    assert "| 8.00 ms / out of memory / out of memory |" in lines[3]
    assert "| 4.0× / – / – | – |" in lines[3]
    assert "Imaginary 1, driver 1.2, torch 2.11, triton 3.6, commit abc, by `c`" in text
    assert tables.gpus(folder / "imaginary-1") == ""
    path = folder / "imaginary-1" / "measurements.json"
    tables.save_figure(json.loads(path.read_text()), path.with_suffix(".png"))
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_the_table_of_first_steps(folder: Path) -> None:
    seconds = {way: {"median": 0.1 * (k + 1), "low": 0.1, "high": 0.9} for k, way in enumerate(prebuilt.WAYS)}
    content = {"environment": ENVIRONMENT, "first_steps": [{"case": ("net", 2, 256, False), "seconds": seconds}]}
    (folder / "imaginary-1" / "prebuilt.json").write_text(json.dumps(content))
    text = tables.gpus(folder)
    assert "| first step of a process | ahead of time | compiled | compiled earlier |" in text
    assert "| net, d = 2, h = 256, float32 | 100 ms | 200 ms | 300 ms |" in text
    assert "(bench/results/imaginary-1/prebuilt.json)" in text


def test_what_is_compiled_ahead_of_time_is_compared() -> None:
    assert set(prebuilt.NETWORKS) == set(hot.NETWORKS)
    listed = list(prebuilt.cases())
    assert {d for _, d, _, _ in listed} == {*hot.WIDTHS, 512}
    assert {half for *_, half in listed} == {True, False}
    f, *gradients = prebuilt.step(*listed[0][:3], False, CPU)
    assert f.shape == (prebuilt.ROWS, listed[0][1])
    assert all(torch.isfinite(t).all() for t in (f, *gradients))


def test_differences_of_kernels_compiled_ahead_of_time_are_judged() -> None:
    found, said = prebuilt.nothing()["results"], []
    same = {"equal": True, "difference": 0.0, "allowed": 1e-4, "ran": 4, "not run": []}
    for case, answer in {
        "same": same,
        "near": same | {"equal": False, "difference": 1e-5, "not run": ["entry.forward"]},
        "far": same | {"equal": False, "difference": 1e-3},
        "lost": WorkerError("the process ended"),
    }.items():
        prebuilt.add(found, case, answer, said.append)
    assert (found["equal"], found["within rounding"], found["ran"]) == (1, 1, 12)
    assert found["not run"] == ["near: entry.forward"]
    assert [wrong["case"] for wrong in found["wrong"]] == ["far", "lost"]
    assert said == ["WRONG far: differs by 0.001", "FAILED lost: the process ended"]


def test_checks_cover_every_operator_that_has_kernels() -> None:
    able = operators(CPU)
    assert able[0] == "ridge"
    assert set(functional.__all__) - set(able) == {
        name for name in functional.__all__ if name.startswith(("conv", "deep"))
    }
    assert {"ridge_jvp", "ridge_potential", "ridge_divergence", "ridge_jacobian"} <= set(able)
    for small in (True, False):
        listed = suite.listed(CPU, small)
        assert {check.operator for check in listed} == set(able)
        assert len({check.label for check in listed}) == len(listed)
        assert {kind for check in listed for kind in check.kinds} <= {*checks.ON_CPU, "large", "compiled"}
    assert {check.precision for check in suite.listed(CPU, small=False)} == set(PRECISIONS) - {"float64"}
    assert all(batch * h > 2**31 for batch, _, h in suite.LARGE)
    assert len(suite.watched(CPU)) == 10


def _call(operator: str = "ridge", **changes: Any) -> checks.Call:
    return dataclasses.replace(prepared(operator, "tanh-1", "float32", (9, 3, 5), CPU), **changes)


@pytest.mark.parametrize("kind", slow_but(checks.ON_CPU, [*checks.ON_CPU, "compiled"]))
@pytest.mark.parametrize("operator", ["ridge", "ridge_potential", "ridge_jvp"])
def test_checks_pass_in_the_interpreter(kind: str, operator: str) -> None:
    assert checks.KINDS[kind](_call(operator)).fault is None


def test_pieces_of_a_batch_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_HIDDEN_AT_ONCE", 4 * 5)
    call = _call()
    for a, b in zip(checks.in_pieces(call.exact, call, True), call.truth()):
        torch.testing.assert_close(a, b)
    assert checks.large(call).fault is None


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda f: lambda x, *rest: f(x, *rest) * 1.001, ("accuracy", "strides", "large")),
        (lambda f: lambda x, *rest: f(x, *rest) + 1e-3 * (x - x.detach()), ("accuracy", "strides", "large")),
        (lambda f: lambda x, *rest: f(x, *rest) + torch.nan, ("accuracy", "strides", "repeats", "large")),
        (lambda f: lambda x, *rest: f(x, *rest) + 1e-7 * torch.rand_like(x), ("repeats",)),
        (lambda f: lambda x, *rest: f(x if x.is_contiguous() else x.flip(0), *rest), ("strides",)),
    ],
    ids=["value", "gradient", "nan", "noise", "layout"],
)
def test_checks_fail(change: Callable[[Any], Any], kinds: tuple[str, ...]) -> None:
    right = _call()
    wrong = dataclasses.replace(right, ours=change(right.ours))
    faults = {kind for kind in (*checks.ON_CPU, "large") if checks.KINDS[kind](wrong).fault is not None}
    assert set(kinds) <= faults
    if "repeats" not in kinds:
        assert "repeats" not in faults


def test_the_floor_is_that_of_the_products() -> None:
    call = _call()
    truth = call.truth()
    largest = max(t.abs().max().item() for t in truth)
    off = [t + 7 * 2.0**-10 * largest for t in truth]
    assert checks.judged(call, off, truth, truth).fault is not None
    tf32 = dataclasses.replace(call, precision=PRECISIONS["tf32"])
    found = checks.judged(tf32, off, truth, truth)
    assert found == Finding(None, {"worst": pytest.approx(7 / FLOOR_ULPS)})
    overflowed = checks.judged(call, truth, [t * torch.inf for t in truth], truth)
    assert overflowed.fault == "result: eager's own error is infinite, which allows anything"


def test_what_a_check_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.KINDS, "accuracy", lambda call: 1 / 0)
    check = Check("ridge", "tanh-1", "bfloat16", (5, 3, 4), ("accuracy", "repeats"))
    answer = parts.answered("checks", json.loads(json.dumps(dataclasses.asdict(check))), CPU)
    assert answer["label"] == "ridge tanh-1 bfloat16 5x3x4 accuracy,repeats"
    assert answer["findings"]["accuracy"]["fault"] == "ZeroDivisionError: division by zero"
    assert answer["findings"]["repeats"]["fault"] is None
    said: list[str] = []
    content: dict[str, Any] = {"passed": 0, "failed": 0, "checks": []}
    parts.add(content, answer, said.append)
    assert (content["passed"], content["failed"]) == (1, 1)
    assert said == [f"FAILED {check.label}: accuracy: ZeroDivisionError: division by zero"]
