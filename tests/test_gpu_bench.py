"""python -m bench.gpu: what needs no GPU of it, and its checks in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import gradnets_fast
from bench import largest_batch, tables
from bench.gpu import __main__ as command
from bench.gpu import checks, determinants, fitting, images, parts, prebuilt, rehearsal, suite
from bench.gpu.calls import operators, prepared
from bench.gpu.checks import Check, Finding
from bench.gpu.workers import Answer, Budget, Worker, WorkerError, pool, share
from covering import slow_but
from gradnets_fast import functional
from gradnets_fast.apps import environment
from gradnets_fast.apps.accuracy import FLOOR_ULPS
from gradnets_fast.apps.bench import results
from gradnets_fast.apps.bench.cases import Case
from gradnets_fast.apps.bench.gpu import TANH_PER_CLOCK, special_function_rate
from gradnets_fast.apps.bench.machine import rates
from gradnets_fast.apps.bench.measurement import Plan
from gradnets_fast.apps.bench.precision import PRECISIONS
from gradnets_fast.apps.bench.presets import compilers, gpu_cases
from gradnets_fast.apps.bench.work import bounds
from gradnets_fast.kernels import hot

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
_FEW = 2**14
_GFLOPS = {"mm_bfloat16_gflops": 800e3, "mm_tf32_gflops": 400e3, "mm_gflops": 50e3}
_REST = {"copy_gb_per_s": 3e3, "tanh_g_per_s": 1e3, "special_g_per_s": 1.755 * 132 * TANH_PER_CLOCK}
H100 = {name: dict.fromkeys(("median", "low", "high"), rate) for name, rate in (_GFLOPS | _REST).items()}


def _case(**fields: Any) -> Case:
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
    case = _case(d=d, h=1024, dtype="bfloat16", depth=depth)
    problem = case.problem(batch=_FEW)
    work = problem.work
    times = [bounds(work, job, rates(H100, "bfloat16")) for job in ("forward", "backward")]
    scale = case.batch / _FEW
    assert [scale * max(t.values()) for t in times] == pytest.approx([forward, backward], rel=0.03)
    assert tuple(max(t, key=t.__getitem__) for t in times) == scarce
    points, weights = 2 * _FEW * d, sum(t.nbytes for t in problem.parameters.values())
    assert work["minimum_bytes"]["backward"] == 3 * points + 2 * weights
    assert work["flops"]["backward"] == 10 * _FEW * d * 1024


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
    few, scale = case.problem(batch=_FEW).work, case.batch / _FEW
    work = {key: {job: scale * amount for job, amount in of_jobs.items()} for key, of_jobs in few.items()}
    return {**case.facts(), **work, "contenders": contenders}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of result files of a GPU that there is not."""
    case, wide = (_case(d=64, h=1024, dtype=dtype, depth=depth) for dtype, depth in (("bfloat16", 1), ("tf32", 4)))
    without, wrong = _times(8.0, "forward") | {"missing": "out of memory"}, {"status": "wrong", "reason": "f"}
    rows = [
        _row(case, ours=_times(0.5), eager=_times(2.0), compile=_times(1.5), **{"compile, max-autotune": _times(1.0)})
        | {"predicted": {"forward": 0.4, "backward": 1.0, "step": 1.4}},
        _row(wide, ours=_times(2.0), eager=without),
        _row(_case(d=64, h=4096, dtype="bfloat16"), ours=_times(3.0), eager=_times(9.0)),
        _row(_case(d=32, h=1024, dtype="bfloat16"), ours=wrong, eager=_times(9.0)),
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


ECHO = """
import json, sys
for line in sys.stdin:
    task = json.loads(line)
    if task["n"] == 3:
        sys.exit("three is too much")
    while task["n"] == 5:
        pass
    print(json.dumps({"n": task["n"]}), flush=True)
"""


@pytest.mark.slow
def test_a_worker_that_dies_or_hangs_spoils_one_task() -> None:
    answers: dict[int, Answer | WorkerError] = {}
    tasks = [{"n": n} for n in range(8)]
    with pool([sys.executable, "-c", ECHO], 2) as workers:
        assert not share(
            tasks, workers, lambda: 5.0, lambda: True, lambda task, answer: answers.update({task["n"]: answer})
        )
    assert sorted(answers) == list(range(8))
    assert "code 1: three is too much" in str(answers[3])
    assert "code -9" in str(answers[5])
    assert all(answers[n] == {"n": n} for n in (0, 1, 2, 4, 6, 7))


SERVE = """
from bench.gpu.workers import serve
tasks = []
serve(lambda task: tasks.append(task) or print("noise") or {"count": len(tasks)}, lambda: len(tasks) < 2)
"""


@pytest.mark.slow
def test_a_worker_that_is_no_longer_fit_is_replaced_before_the_next_task() -> None:
    with pool([sys.executable, "-c", SERVE], 1) as (worker,):
        assert [worker.ask({}, 60.0) for _ in range(5)] == [{"count": n} for n in (1, 2, 1, 2, 1)]


def test_no_task_begins_when_time_is_up() -> None:
    answered = threading.Event()
    tasks = [{"n": n} for n in (0, 1, 2)]
    with pool([sys.executable, "-c", ECHO], 1) as workers:
        left = share(tasks, workers, lambda: 5.0, lambda: not answered.is_set(), lambda *_: answered.set())
    assert left == tasks[1:]


SLEEPS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"


def test_a_program_that_watches_ends_in_time_with_what_it_started() -> None:
    start = time.monotonic()
    found = parts.watch([sys.executable, "-c", SLEEPS], [{}], 0.5)
    assert found == {"code": None, "summary": "not through after 0 seconds"}
    assert time.monotonic() - start < 30


class Here(Worker):
    """A worker in this process, which has no word for one of the cases, and no compiler."""

    def ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        if "x2x" in task.get("case", "") or "compile" in task.get("contenders", ()):
            raise WorkerError("the process ended with code -6")
        answer = parts.answered(str(self.command[-1]), json.loads(json.dumps(task)), CPU)
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Three small cases, which workers in this process measure."""

    @contextmanager
    def here(line: list[str], count: int, *_: object) -> Iterator[list[Worker]]:
        workers = [Here(line) for _ in range(count)]
        yield workers
        for worker in workers:
            worker.close()

    modules = _case(d=8, h=256, dtype="float32", depth=4, family="softmax_modules")
    sizes = {"batch": 9, "h": 16}
    listed = [
        dataclasses.replace(_case(d=64, h=1024, dtype="bfloat16", depth=4), d=3, **sizes),
        dataclasses.replace(_case(d=2, h=1024, dtype="float32"), **sizes),
        dataclasses.replace(modules, d=3, **sizes),
    ]
    monkeypatch.setattr(parts, "pool", here)
    monkeypatch.setattr(parts, "gpu_cases", lambda: listed)
    monkeypatch.setattr(parts, "compilers", lambda case: ("compile",) if case is listed[0] else ())
    monkeypatch.setattr(parts, "_plan", lambda place: Plan(1, 0.1, None, place))
    monkeypatch.setattr(parts, "_PROBES", 1)
    monkeypatch.setattr("gradnets_fast.apps.bench.machine._CPU_SIZES", (64, 2**10, 2**15))
    return listed


def test_a_run_of_measurements(without_gpu: list[Case]) -> None:
    written: list[dict[str, Any]] = []
    said: list[str] = []
    assert not parts.run_measurements(
        without_gpu, 1, Budget(60.0), lambda c: written.append(json.loads(json.dumps(c))), said.append
    )
    assert [len(content["rows"]) for content in written] == [1, 2, 3, 3]
    assert [len(content["not_run"]) for content in written] == [2, 1, 0, 0]
    first, lost, last = written[-1]["rows"]
    assert list(first["contenders"]) == ["ours", "eager", "authors"]
    assert first["compilers"] == "the process ended with code -6"
    assert list(last["contenders"]) == ["ours", "eager"]
    for outcome in (*first["contenders"].values(), *last["contenders"].values()):
        assert outcome["status"] == "timed"
        assert 0 < outcome["milliseconds"]["step"]["low"] <= outcome["milliseconds"]["step"]["median"]
    assert first["gain"].keys() == {"ours", "authors"}
    assert first["kernel"]
    assert first["predicted"] == {}  # where no GPU measures
    assert lost["skipped"] == "the process ended with code -6"
    assert said[1].endswith("FAILED the process ended with code -6")
    assert "of eager by ours" in said[0]
    assert said[-1] == "3 cases measured, 0 were not run"


def test_measurements_name_what_there_was_no_time_for(without_gpu: list[Case]) -> None:
    written: list[dict[str, Any]] = []
    assert parts.run_measurements(without_gpu, 1, Budget(0.0), written.append, lambda _: None)
    assert written[-1]["not_run"] == [case.label for case in without_gpu]
    assert written[-1]["rows"] == []


def test_every_variant_of_the_measurements_can_be_drawn() -> None:
    variants = {(case.operator, case.tensors): case for case in gpu_cases()}
    assert any(tensors.combined for _, tensors in variants)
    for case in variants.values():
        problem = dataclasses.replace(case, batch=3, d=2, h=4).problem("cpu")
        assert problem.exact(problem.parameters, *problem.points).shape[0] == 3


def test_determinants_are_judged_before_they_are_timed(
    without_gpu: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len({case.label for case in determinants.cases()}) == 24
    monkeypatch.setattr(determinants, "cases", lambda: [determinants.Matrices(9, 3, "float32")])
    monkeypatch.setattr(determinants, "SECONDS", 0.1)
    written: list[dict[str, Any]] = []
    said: list[str] = []
    assert parts.run_determinants(Budget(60.0), written.append, said.append)
    (row,) = written[-1]["rows"]
    assert row["milliseconds"].keys() == row["errors"].keys() == determinants.CONTENDERS.keys()
    assert min(row["milliseconds"].values()) > 0
    right = determinants.CONTENDERS["gradnets_fast"]
    monkeypatch.setitem(determinants.CONTENDERS, "gradnets_fast", lambda A: [t * 1.001 for t in right(A)])
    assert not parts.run_determinants(Budget(60.0), written.append, said.append)
    assert said[0].startswith("log det A and its gradient, 9 of 3 × 3, float32: gradnets_fast ")
    assert said[1].startswith("FAILED log det A and its gradient, 9 of 3 × 3, float32: errors [")


def test_steps_of_fit_are_judged_before_they_are_timed(
    without_gpu: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len({case.label for case in fitting.cases()}) == 12
    monkeypatch.setattr(fitting, "cases", lambda: [fitting.Run("mGradNetC, 4 layers", 20, 2, 7)])
    monkeypatch.setattr(fitting, "SECONDS", 0.1)
    monkeypatch.setattr(fitting, "STEPS", 5)
    with gradnets_fast.use_backend("cpp"):
        row = fitting.measured(fitting.cases()[0], torch.device("cpu"), rounds=2)
        assert row["microseconds"].keys() == {"fit", "PyTorch's loop"}
        assert fitting.line(row).startswith("step of mGradNetC, 4 layers, 20 points, d = 2, h = 7: fit ")
        monkeypatch.setattr(fitting, "mse_loss", lambda f, g: (f - g).abs().mean())
        assert "of the first one apart" in fitting.line(fitting.measured(fitting.cases()[0], torch.device("cpu")))


def test_convolutional_networks_are_judged_before_they_are_timed(
    without_gpu: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SECONDS", 0.1)
    case = images.Run(2, 6, 5, 4, 3, "float32")
    with gradnets_fast.use_backend("cpp"):
        row = images.measured(case, torch.device("cpu"), rounds=2)
        assert list(row["milliseconds"]) == list(images.JOBS)
        assert all(list(of) == ["one launch", "pieces", "eager"] for of in row["milliseconds"].values())
        assert images.line(row).startswith("4 filters of 3 × 3, 2 images of 6 × 5, float32: forward one launch ")
        monkeypatch.setitem(images.CONTENDERS, "pieces", lambda x, K, b: 1.1 * images.CONTENDERS["eager"](x, K, b))
        assert images.line(images.measured(case, torch.device("cpu"))).startswith("FAILED 4 filters of 3 × 3")


def test_a_part_that_fails_keeps_no_other_from_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(part: str, arguments: Namespace) -> bool:
        if part == "measure":
            raise subprocess.CalledProcessError(1, "nvidia-smi")
        print(part)
        return True

    monkeypatch.setattr(command, "run", run)
    assert command.main([]) == 1
    out, error = capsys.readouterr()
    assert out.split() == ["checks", "fit", "memory", "images", "determinants", "prebuilt", "tables"]
    assert error.startswith("bench.gpu: measure: CalledProcessError: ")


def test_a_network_whose_trial_breaks_keeps_no_other_from_being_tried() -> None:
    first, second, *_ = largest_batch.NETWORKS
    written: list[dict[str, Any]] = []
    said: list[str] = []

    def fits(network: str, contender: str, batch: int) -> bool:
        if network == first:
            raise WorkerError("the process ended with code -11")
        return batch <= (500 if network == second and contender == "eager" else 2000)

    networks = len(largest_batch.NETWORKS)
    assert not largest_batch.search(fits, 7, lambda: True, written.append, said.append)
    assert said[0] == f"FAILED {first}: WorkerError: the process ended with code -11"
    assert said[1].startswith(f"FAILED {second}: ZeroDivisionError")  # not even the smallest batch fits by eager
    assert len(written) == networks
    assert set(written[-1]["failed"]) == {first, second}
    assert [row["gain"] for row in written[-1]["rows"]] == [1.0] * (networks - 2)


def test_times_are_kept_where_the_machine_s_rates_cannot_be_measured(
    without_gpu: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Here.ask

    def without_rates(worker: Here, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        if "dtypes" in task:
            raise WorkerError("the process ended with code 1")
        return ask(worker, task, seconds)

    monkeypatch.setattr(Here, "ask", without_rates)
    written: list[dict[str, Any]] = []
    said: list[str] = []
    parts.run_measurements(without_gpu, 1, Budget(60.0), written.append, said.append)
    assert said[:2] == ["FAILED rates of the machine: the process ended with code 1"] * 2
    assert len(written[-1]["rows"]) == 3
    assert written[-1]["machine"] == {}
    assert written[-1]["rows"][0]["contenders"]["ours"]["milliseconds"]["forward"]["median"] > 0
    assert "forward " in said[2]
    assert "%" not in said[2]


def test_without_an_answer_of_nvidia_smi_special_functions_bound_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> str:
        raise FileNotFoundError("nvidia-smi")

    for answer in (absent, lambda *_: "[N/A]", lambda *_: ""):
        monkeypatch.setattr("gradnets_fast.apps.bench.gpu.queried", answer)
        assert special_function_rate(CPU) is None
    monkeypatch.setattr("gradnets_fast.apps.environment.queried", absent)
    assert environment._driver(CPU) is None
    few = {name: rate for name, rate in H100.items() if name != "special_g_per_s"}
    case = _case(d=64, h=1024, dtype="bfloat16")
    needs = bounds(case.problem(batch=_FEW).work, "forward", rates(few, "bfloat16"))
    assert needs["special functions"] == 0
    assert needs["products"] > 0


def test_a_first_step_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "_FIRST", "import sys; sys.exit(4)")
    said: list[str] = []
    rows = list(prebuilt.first_steps(CPU, lambda seconds: seconds, said.append))
    assert ["returned non-zero exit status 4" in row["fault"] for row in rows] == [True, True]
    assert len(said) == 2
    assert tables.first_steps({"first_steps": rows, "environment": ENVIRONMENT}, "x").startswith("| first step")


def test_a_rehearsal_knows_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "interpreter").mkdir()
    assert rehearsal.faults(tmp_path, {"fit": "fit.json"}) == ["fit: no fit.json"]
    (tmp_path / "interpreter" / "fit.json").write_text(json.dumps({"rows": [], "not_run": ["a case"]}))
    assert rehearsal.faults(tmp_path, {"fit": "fit.json"}) == ["fit: not run: ['a case']"]


@pytest.mark.slow
def test_a_part_that_breaks_in_the_rehearsal_leaves_its_file_and_the_next_one_runs(tmp_path: Path) -> None:
    assert rehearsal._broken(tmp_path) == []


@pytest.mark.slow
def test_without_a_gpu_the_command_says_so(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    # Neither safetensors nor what the command line needs is there on a machine with torch and Triton alone.
    absent = "import sys; sys.modules |= dict.fromkeys(('safetensors', 'rich', 'typer', 'matplotlib')); "
    script = f"{absent}from bench.gpu.__main__ import main; sys.exit(main(['--part', 'measure']))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 1
    assert run.stderr.startswith("bench.gpu: device: expected an NVIDIA GPU, got none; ")
    assert run.stderr.count("\n") == 1
