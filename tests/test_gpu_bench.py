"""python -m bench.gpu: what needs no GPU of it, and its checks in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import tables
from bench.gpu import checks, measure, parts, prebuilt, suite
from bench.gpu.cases import COMPILERS, JOBS, Budget, Case, Rates, bound, bounds, cases, flops, minimum_bytes, tanh_rate
from bench.gpu.checks import Check, Finding
from bench.gpu.networks import NETWORKS, Parameters
from bench.gpu.operators import PRECISIONS, operators, prepared
from bench.gpu.workers import Answer, Worker, WorkerError, share
from gradnets_fast.apps.bench.verification import FLOOR_ULPS
from gradnets_fast.kernels import hot

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
H100 = Rates(
    {"bf16": 800e12, "tf32": 400e12, "fp32": 50e12, "fp32-default": 400e12 / 3}, 3.0e12, tanh_rate(132, 1.755e9)
)


def test_operations_and_bytes() -> None:
    case = Case(64, 1024, 1, "bf16", 2**20)
    assert flops(case)["forward"] == 4 * 2**20 * 64 * 1024
    assert flops(case)["backward"] == 10 * 2**20 * 64 * 1024
    assert flops(case)["step"] == 14 * 2**20 * 64 * 1024
    points, weights = 2 * 2**20 * 64, 2 * 64 * 1024
    assert minimum_bytes(case) == {
        "forward": 2 * points + weights,
        "backward": 3 * points + 2 * weights,
        "step": 5 * points + 3 * weights,
    }
    assert minimum_bytes(dataclasses.replace(case, dtype="tf32"))["forward"] == 2 * (2 * points + weights)


@pytest.mark.parametrize(
    ("d", "layers", "forward", "backward", "scarce"),
    [
        (8, 1, 0.29, 0.29, ("tanh", "tanh")),
        (64, 1, 0.34, 0.86, ("products", "products")),
        (32, 1, 0.29, 0.43, ("tanh", "products")),
        (32, 4, 1.16, 1.16, ("tanh", "tanh")),
        (1024, 1, 5.5, 13.7, ("products", "products")),
    ],
)
def test_bounds(d: int, layers: int, forward: float, backward: float, scarce: tuple[str, str]) -> None:
    case = Case(d, 1024, layers, "bf16", 2**20)
    least = bound(case, H100)
    assert 1e3 * least["forward"] == pytest.approx(forward, rel=0.02)
    assert 1e3 * least["backward"] == pytest.approx(backward, rel=0.02)
    assert least["step"] == least["forward"] + least["backward"]
    needs = bounds(case, H100)
    assert tuple(max(needs[job], key=needs[job].__getitem__) for job in JOBS[:2]) == scarce


def test_memory_can_be_scarce_too() -> None:
    slow = dataclasses.replace(H100, copy=1e9)
    case = Case(2, 1024, 1, "bf16", 2**20)
    assert bound(case, slow)["forward"] == minimum_bytes(case)["forward"] / 1e9


def test_float32_may_be_three_products_of_tf32() -> None:
    measured = {"matmul": {"bf16": 8.0, "tf32": 6.0, "fp32": 1.0}, "copy": 1.0, "tanh": 1.0}
    assert Rates.of(measured).matmul["fp32-default"] == 2.0
    measured["matmul"] = {"bf16": 8.0, "tf32": 2.0, "fp32": 1.0}
    assert Rates.of(measured).matmul["fp32-default"] == 1.0


def test_the_most_telling_cases_come_first_and_none_is_missing() -> None:
    listed = cases()
    assert len({case.label for case in listed}) == len(listed) == 4 * 2 * 2 * 7 + 4 * 2 * 4
    first = [(c.dtype, c.layers, c.d, c.h) for c in listed[:6]]
    assert first == [("bf16", layers, d, 1024) for layers in (1, 4) for d in (32, 64, 128)]
    assert all(case.network != "cascade" for case in listed[6:10])
    assert all(case.hidden == 1024 for case in listed[:88])
    assert {case.batch for case in listed if case.d < 256} == {2**20}
    assert {case.batch for case in listed if case.d >= 256} == {2**17}
    compiled = [case for case in listed if case.compilers]
    assert {name for case in compiled for name in case.compilers} == set(COMPILERS)
    assert all(case.compilers for case in listed[:6])
    assert len(compiled) < 20


def test_the_budget_learns_what_work_costs() -> None:
    now = [100.0]
    budget = Budget(60.0, lambda: now[0])
    plain, both = Case(8, 1024, 1, "bf16", 2**20), Case(64, 1024, 1, "bf16", 2**20)
    assert budget.affordable(plain) == ()
    assert budget.affordable(both) == ("compile",)
    budget.spent("compile, max-autotune", 20.0)
    assert budget.affordable(both) == tuple(COMPILERS)
    budget.spent("compile, max-autotune", 10.0)
    assert budget.longest["compile, max-autotune"] == 20.0
    now[0] += 50.0
    assert budget.affordable(both) == ()
    budget.spent("case", 11.0)
    assert budget.affordable(plain) is None


def _times(milliseconds: float) -> dict[str, Any]:
    scale = {"forward": 1.0, "backward": 2.5, "step": 3.5}
    return {job: {"milliseconds": scale[job] * milliseconds, "spread": [0.0, 0.0], "samples": 5} for job in JOBS}


def _row(case: Case, **contenders: Any) -> dict[str, Any]:
    row = {**dataclasses.asdict(case), "label": case.label, "contenders": contenders}
    return measure.derived(row, case, H100)


ENVIRONMENT = {
    "device": "Imaginary 1",
    "driver": "1.2",
    "torch": "2.11",
    "triton": "3.6",
    "commit": "abc",
    "command": "c",
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of result files of a GPU that there is not."""
    case = Case(64, 1024, 1, "bf16", 2**20)
    wide = Case(128, 1024, 4, "tf32", 2**20)
    without = {"error": 0.1, "missing": measure.OUT_OF_MEMORY, "forward": {"milliseconds": 8.0}}
    rows = [
        _row(case, ours=_times(0.5), eager=_times(2.0), compile=_times(1.5), **{"compile, max-autotune": _times(1.0)}),
        _row(wide, ours=_times(2.0), eager=without, authors={"failed": measure.OUT_OF_MEMORY}, compile=None),
        _row(dataclasses.replace(case, h=4096), ours=_times(3.0), eager=_times(9.0)),
        _row(dataclasses.replace(case, d=32), ours={"failed": "wrong: f"}, eager=_times(9.0)),
    ]
    (tmp_path / "imaginary-1").mkdir()
    content = {"environment": ENVIRONMENT, "rows": rows, "not_run": []}
    (tmp_path / "imaginary-1" / "measurements.json").write_text(json.dumps(content))
    return tmp_path


def test_what_follows_from_times(results: Path) -> None:
    first, second, *_ = json.loads((results / "imaginary-1" / "measurements.json").read_text())["rows"]
    ours = first["contenders"]["ours"]
    assert ours["forward"]["tflops"] == pytest.approx(4 * 2**20 * 64 * 1024 / 0.5e-3 / 1e12)
    assert ours["forward"]["of_bound"] == pytest.approx(first["bound_milliseconds"]["forward"] / 0.5)
    assert first["gain"]["eager"] == {"forward": 4.0, "backward": 4.0, "step": 4.0}
    assert first["gain"]["compile, max-autotune"]["step"] == 2.0
    assert second["gain"] == {"eager": {"forward": 4.0}, "authors": {}}


def test_the_table_of_a_gpu(results: Path) -> None:
    text = tables.gpus(results)
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 4
    assert "| 2.00 ms / 5.00 ms / 7.00 ms | 500 µs / 1.25 ms / 1.75 ms | 4.0× | 2.0× |" in lines[2]
    assert "| 8.00 ms / out of memory / out of memory |" in lines[3]
    assert "| 4.0× / – / – | – |" in lines[3]
    assert "Imaginary 1, driver 1.2, torch 2.11, triton 3.6, commit abc, by `c`" in text
    assert tables.gpus(results / "imaginary-1") == ""


def test_the_table_of_first_steps(results: Path) -> None:
    seconds = {way: {"median": 0.1 * (k + 1), "low": 0.1, "high": 0.9} for k, way in enumerate(prebuilt.WAYS)}
    content = {"environment": ENVIRONMENT, "first_steps": [{"case": ("net", 2, 256, False), "seconds": seconds}]}
    (results / "imaginary-1" / "prebuilt.json").write_text(json.dumps(content))
    text = tables.gpus(results)
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


def test_the_figure_of_a_gpu(results: Path) -> None:
    folder = results / "imaginary-1"
    tables.figure(json.loads((folder / "measurements.json").read_text()), folder / "measurements.png")
    assert (folder / "measurements.png").read_bytes()[:4] == b"\x89PNG"


def test_checks_cover_every_operator_that_has_kernels() -> None:
    able = operators(CPU)
    assert able[0] == "ridge"
    assert {"ridge_jvp", "ridge_potential", "ridge_divergence", "ridge_jacobian"} <= set(able)
    for small in (True, False):
        listed = suite.listed(CPU, small)
        assert {check.operator for check in listed} == set(able)
        assert len({check.label for check in listed}) == len(listed)
        assert {kind for check in listed for kind in check.kinds} <= {*checks.ON_CPU, "large", "compiled"}
    listed = suite.listed(CPU, small=False)
    assert {check.precision for check in listed} == set(PRECISIONS)
    assert all(batch * h > 2**31 for batch, _, h in suite.LARGE)


def _call(operator: str = "ridge", **changes: Any) -> checks.Call:
    return dataclasses.replace(prepared(operator, "tanh-1", "fp32-default", (9, 3, 5), CPU), **changes)


@pytest.mark.parametrize("kind", [*checks.ON_CPU, "compiled"])
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


def test_precision_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with PRECISIONS["tf32"].active():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before == "highest"
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        assert torch.backends.cuda.matmul.fp32_precision == "none"


def test_what_a_check_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.KINDS, "accuracy", lambda call: 1 / 0)
    check = Check("ridge", "tanh-1", "bf16", (5, 3, 4), ("accuracy", "repeats"))
    answer = parts.answered("checks", json.loads(json.dumps(dataclasses.asdict(check))), CPU)
    assert answer["label"] == "ridge tanh-1 bf16 5x3x4 accuracy,repeats"
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


def test_a_worker_that_dies_or_hangs_spoils_one_task() -> None:
    answers: dict[int, Answer | WorkerError] = {}
    workers = [Worker([sys.executable, "-c", ECHO]) for _ in range(2)]
    tasks = [{"n": n} for n in range(8)]
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


def test_a_worker_that_is_no_longer_fit_is_replaced_before_the_next_task() -> None:
    worker = Worker([sys.executable, "-c", SERVE])
    assert [worker.ask({}, 10.0) for _ in range(5)] == [{"count": n} for n in (1, 2, 1, 2, 1)]
    worker.close()


def test_no_task_begins_when_time_is_up() -> None:
    answered = threading.Event()
    tasks = [{"n": n} for n in (0, 1, 2)]
    worker = Worker([sys.executable, "-c", ECHO])
    left = share(tasks, [worker], lambda: 5.0, lambda: not answered.is_set(), lambda *_: answered.set())
    assert left == tasks[1:]


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("network", NETWORKS)
def test_contenders_compute_the_same(network: str, layers: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.Judge, "_peak", lambda *_: 0)
    case = Case(3, 20, layers, dtype, 70, network)
    with PRECISIONS[dtype].active():
        whole = measure.problem(case, CPU)
        judge = measure.Judge(whole, PRECISIONS[dtype].eps)
        listed = measure.contenders(case, ())
        assert ("authors" in listed) == (network == "cascade" and layers > 1)
        for function in listed.values():
            outcome = judge.outcome(measure.contender(function, whole))
            assert "failed" not in outcome
            assert outcome["error"] < 0.02
        wrong = judge.outcome(measure.contender(lambda p, x: 1.5 * case.kind.eager(p, x), whole))
        assert wrong["failed"].startswith("wrong: ")


def test_a_contender_without_memory_for_gradients_has_a_forward_pass() -> None:
    whole = measure.problem(Case(3, 20, 1, "fp32", 70), CPU)
    judge = measure.Judge(whole, 2.0**-23)

    def only_forward(p: Parameters, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError
        return NETWORKS["cascade"].eager(p, x)

    outcome = judge.outcome(measure.contender(only_forward, whole))
    assert outcome["missing"] == measure.OUT_OF_MEMORY
    assert "failed" not in outcome

    def nothing(p: Parameters, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    assert judge.outcome(measure.contender(nothing, whole)) == {"failed": measure.OUT_OF_MEMORY}


class WallClock:
    """In place of a GPU's."""

    def __init__(self, place: torch.device) -> None:
        assert place == CPU

    def milliseconds(self, *stages: Callable[[], object]) -> list[float]:
        times = [time.perf_counter()]
        for stage in stages:
            stage()
            times.append(time.perf_counter())
        return [1e3 * (b - a) for a, b in pairwise(times)]


class Here(Worker):
    """A worker in this process, which has no word for one of the cases."""

    def ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        if "case" in task and task["case"]["d"] == 2:
            raise WorkerError("the process ended with code -6")
        answer = parts.answered("measure", task, CPU)
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Clock", WallClock)
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    monkeypatch.setattr(measure, "_WARM_BATCH", 5)
    monkeypatch.setattr(measure.Judge, "_peak", lambda *_: 123)
    monkeypatch.setattr(measure, "measured_rates", lambda _: dataclasses.asdict(H100))
    monkeypatch.setattr(parts, "Worker", Here)


@pytest.mark.usefixtures("without_gpu")
def test_a_run_of_measurements() -> None:
    listed = [Case(3, 16, 4, "bf16", 9), Case(2, 16, 1, "bf16", 9), Case(3, 16, 1, "fp32-default", 9)]
    written: list[dict[str, Any]] = []
    said: list[str] = []
    assert not parts.run_measurements(
        listed, 1, Budget(60.0), lambda c: written.append(json.loads(json.dumps(c))), said.append
    )
    assert [len(content["rows"]) for content in written] == [1, 2, 3, 3]
    assert [len(content["not_run"]) for content in written] == [2, 1, 0, 0]
    first, lost, last = written[-1]["rows"]
    assert list(first["contenders"]) == ["ours", "eager", "authors"]
    assert list(last["contenders"]) == ["ours", "eager"]
    for outcome in (*first["contenders"].values(), *last["contenders"].values()):
        assert outcome["step_bytes"] == 123
        for job in JOBS:
            low, high = outcome[job]["spread"]
            assert 0 < low <= outcome[job]["milliseconds"] <= high
            assert outcome[job]["samples"] == 5
    assert first["gain"].keys() == {"eager", "authors"}
    assert lost["contenders"] == {"ours": {"failed": "the process ended with code -6"}}
    assert said[1].endswith("FAILED the process ended with code -6")
    assert "eager" in said[0]
    assert said[-1] == "3 cases measured, 0 were not run"


@pytest.mark.usefixtures("without_gpu")
def test_measurements_name_what_there_was_no_time_for() -> None:
    written: list[dict[str, Any]] = []
    listed = [Case(3, 16, 1, "bf16", 9)]
    assert parts.run_measurements(listed, 1, Budget(0.0), written.append, lambda _: None)
    assert written[-1]["not_run"] == [listed[0].label]
    assert written[-1]["rows"] == []


@pytest.mark.usefixtures("without_gpu")
def test_a_compiler_that_there_was_no_time_for_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "compilers", ("compile",))
    row = measure.measured(Case(3, 16, 1, "bf16", 9), CPU, (), H100)
    assert row["contenders"]["compile"] is None
    assert row["gain"].keys() == {"eager"}


@pytest.mark.usefixtures("without_gpu")
def test_memory_that_runs_out_while_samples_are_taken() -> None:
    outcomes: dict[str, Any] = {"ours": {}, "eager": {}}

    def sampler(fails: int) -> Callable[[], dict[str, float]]:
        left = [fails]

        def sample() -> dict[str, float]:
            left[0] -= 1
            if not left[0]:
                raise torch.OutOfMemoryError
            return {"step": 1.0}

        return sample

    samplers = {("ours", "step"): sampler(-1), ("eager", "step"): sampler(3)}
    found = list(measure._interleaved(samplers, outcomes))
    assert outcomes == {"ours": {}, "eager": {"missing": measure.OUT_OF_MEMORY}}
    assert found.count(("ours", "step", 1.0)) == 5


@pytest.mark.parametrize("part", ["checks", "measure", "memory"])
def test_without_a_gpu_the_command_says_so(part: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bench.gpu", "--part", part]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 1
    assert run.stderr.startswith("bench.gpu: device: expected an NVIDIA GPU, got none; ")
    assert run.stderr.count("\n") == 1
