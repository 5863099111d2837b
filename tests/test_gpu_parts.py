"""python -m bench.gpu: its workers and parts, which outlive each other, and its rehearsal."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gpu_bench import CPU, ENVIRONMENT, FEW, H100, case_of

import gradnets_fast
from bench import largest_batch, tables
from bench.gpu import __main__ as command
from bench.gpu import determinants, fitting, images, parts, prebuilt, rehearsal
from bench.gpu.workers import Answer, Budget, Worker, WorkerError, pool, share
from gradnets_fast.apps import environment
from gradnets_fast.apps.bench.cases import Case
from gradnets_fast.apps.bench.gpu import special_function_rate
from gradnets_fast.apps.bench.machine import rates
from gradnets_fast.apps.bench.measurement import Plan
from gradnets_fast.apps.bench.presets import gpu_cases
from gradnets_fast.apps.bench.work import bounds

ROOT = Path(__file__).resolve().parents[1]


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

    modules = case_of(d=8, h=256, dtype="float32", depth=4, family="softmax_modules")
    sizes = {"batch": 9, "h": 16}
    listed = [
        dataclasses.replace(case_of(d=64, h=1024, dtype="bfloat16", depth=4), d=3, **sizes),
        dataclasses.replace(case_of(d=2, h=1024, dtype="float32"), **sizes),
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
    case = case_of(d=64, h=1024, dtype="bfloat16")
    needs = bounds(case.problem(batch=FEW).work, "forward", rates(few, "bfloat16"))
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
