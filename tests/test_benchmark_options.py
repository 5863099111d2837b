"""Cases of one's own: operators and networks that the options of `gradnets-fast bench` choose."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from typer.testing import CliRunner

from covering import slow_but
from gradnets_fast import functional
from gradnets_fast.activations import TABLE, TRANSFORMS
from gradnets_fast.apps import draws
from gradnets_fast.apps.bench import chosen, runner
from gradnets_fast.apps.bench.cases import Case
from gradnets_fast.apps.bench.chosen import Choice
from gradnets_fast.apps.bench.contenders import CONTENDERS
from gradnets_fast.apps.bench.measurement import Plan
from gradnets_fast.apps.bench.operators import OperatorCase
from gradnets_fast.apps.bench.verification import chosen_rows, exact, judged, results, yardstick
from gradnets_fast.apps.cli import app
from gradnets_fast.backend import BACKENDS

CPU = torch.device("cpu")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are computed sooner by one."""
    with runner.threads(1):
        yield


@pytest.fixture(name="small_probe")
def _small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine can do at best is measured at sizes that take no time."""
    monkeypatch.setattr("gradnets_fast.apps.bench.machine._CPU_SIZES", (64, 2**10, 2**15))


def invoke(*arguments: object, columns: int = 100) -> tuple[int, str, str]:
    words = ["bench", *map(str, arguments)]
    with mock.patch.object(sys, "argv", ["gradnets-fast", *words]):
        result = CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def operators(**options: Any) -> list[Case]:
    return chosen.cases(Choice(operator=chosen.OPERATORS, **options), CPU)


def faults(case: Case, names: tuple[str, ...]) -> dict[str, str | None]:
    problem, rows = case.problem(), chosen_rows(case.batch)
    truth, eager = exact(problem, rows), yardstick(problem, rows)
    assert judged(problem, eager, None, truth).fault is None
    built = {name: CONTENDERS[name](problem) for name in names}
    return {
        name: judged(problem, results(contender, problem, rows), eager, truth).fault
        for name, contender in built.items()
        if contender is not None
    }


def test_no_operator_has_more_hidden_numbers_than_others_by_default() -> None:
    """A convolution has a hidden unit for each sample."""
    assert {case.hidden for case in operators()} == {16384 * 256}


IN_EACH_DTYPE = [operators(shape=("97x3x17",), layers=2, modules=2, dtype=(dtype,)) for dtype in DTYPES]
IN_TURN = [in_each[k % len(DTYPES)] for k, in_each in enumerate(zip(*IN_EACH_DTYPE))]


@pytest.mark.parametrize(
    "case",
    slow_but([*IN_TURN, *(wide := operators(shape=("40x33x41",)))], [*chain(*IN_EACH_DTYPE), *wide]),
    ids=lambda case: case.label,
)
def test_every_operator_is_right_by_every_rule(case: OperatorCase) -> None:
    assert faults(case, ("eager", "cpp", "reference")) == {"eager": None, "cpp": None, "reference": None}


def test_every_operator_of_the_package_can_be_chosen() -> None:
    assert tuple(functional.__all__) == chosen.OPERATORS
    assert [case.operator for case in operators() if isinstance(case, OperatorCase)] == functional.__all__


@pytest.mark.parametrize("name", TABLE)
def test_every_activation_can_be_chosen(name: str) -> None:
    for operator in ("ridge", "ridge_jvp", "ridge_potential", "transformed_modules", "transformed_modules_jvp"):
        (case,) = chosen.cases(Choice((operator,), shape=("60x4x9",), activation=name), CPU)
        assert faults(case, ("eager", "cpp")) == {"eager": None, "cpp": None}, operator


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_can_be_chosen(name: str) -> None:
    """With few hidden units: the error of an exponential is that of its argument times the argument's size."""
    for operator in (o for o in chosen.OPERATORS if draws.family(o) == "transformed_modules"):
        (case,) = chosen.cases(Choice((operator,), shape=("60x4x2",), activation="softplus", transform=name), CPU)
        assert faults(case, ("eager", "cpp")) == {"eager": None, "cpp": None}, operator


@pytest.mark.parametrize("name", chosen.NETWORKS)
def test_every_network_can_be_chosen(name: str) -> None:
    options = {} if name.endswith(("M", "DeepGradNet")) else {"activation": "tanh+softplus"}
    (case,) = chosen.cases(Choice((), (name,), ("80x3x7",), **options), CPU)
    authors = {"authors": None} if name.endswith("C") else {}
    assert faults(case, ("eager", "authors", "cpp")) == {"eager": None, **authors, "cpp": None}
    assert case.label.startswith(name)


def test_labels_are_unique() -> None:
    cases = operators(shape=("8x2x3", "9x2x3", "8x2x3"), dtype=("float32", "bfloat16"))
    assert len({case.label for case in cases}) == len(cases) == 2 * 2 * len(chosen.OPERATORS)


@pytest.mark.parametrize("operator", chosen.OPERATORS)
def test_work_counts_operations_that_a_product_by_product_evaluation_needs(operator: str) -> None:
    """As torch counts them of eager PyTorch, which does no less: it makes both triangles, and keeps hidden values."""
    from torch.utils.flop_counter import FlopCounterMode

    (case,) = chosen.cases(Choice((operator,), shape=("32x6x16",)), CPU)
    problem = case.problem()
    counts = {}
    for job, gradients in (("forward", False), ("step", True)):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradients):
            result = problem.eager(*problem.points)
            if gradients:
                leaves = [*problem.points, *problem.parameters.values()]
                torch.autograd.grad(result, leaves, problem.g, allow_unused=True)
        counts[job] = counter.get_total_flops()
    product = 2 * 32 * 6 * 16
    assert problem.work["flops"]["forward"] <= counts["forward"] + product
    # The backward pass of the kernels takes the first products again.
    assert problem.work["flops"]["step"] <= counts["step"] + counts["forward"] + product
    assert problem.work["flops"]["step"] > problem.work["flops"]["forward"]


def test_each_backend_is_a_contender() -> None:
    """Also in Triton's interpreter, which stands in for a GPU."""
    (case,) = chosen.cases(Choice(("ridge",), shape=("9x3x5",)), CPU)
    names = ("eager", *BACKENDS)
    row = runner.run_case(case, {name: CONTENDERS[name] for name in names}, Plan(1, 0.1))
    assert list(row["contenders"]) == list(names)
    for name in BACKENDS:
        assert row["contenders"][name]["status"] == "timed"
        assert row["contenders"][name]["backend"] == name


@pytest.mark.slow
@pytest.mark.usefixtures("small_probe")
def test_a_run_of_operators(tmp_path: Path) -> None:
    shapes = ["--shape", "300x3x5", "--shape", "200x4x6"]
    options = ["--no-compile", "--rounds", 3, "--threads", 1, "--out", tmp_path]
    code, text, error = invoke("--operator", "ridge,ridge_potential", "--backend", "cpp,reference", *shapes, *options)
    assert code == 0, error
    result = json.loads((tmp_path / "cpu.json").read_text())
    assert result["preset"] is None
    command = f"gradnets-fast bench --operator ridge,ridge_potential --backend cpp,reference {' '.join(shapes)} --no"
    assert result["environment"]["command"].startswith(command)
    assert len(result["rows"]) == 4
    for row in result["rows"]:
        assert list(row["contenders"]) == ["eager", "cpp", "reference"]
        for outcome in row["contenders"].values():
            median = outcome["milliseconds"]["step"]["median"]
            assert outcome["gb_per_s"]["step"] == pytest.approx(1e-6 * row["minimum_bytes"]["step"] / median)
    assert len(list(csv.DictReader((tmp_path / "cpu.csv").read_text().splitlines()))) == 4 * 3 * 2
    assert (tmp_path / "cpu.png").is_file()
    assert text.count("ridge, 1 layer, tanh, float32, batch, d, h = ") == 2
    rows = [line for line in text.splitlines() if line.split()[:1] in (["cpp"], ["reference"])]
    assert len(rows) == 4 * 2 * 2
    assert max(len(line.rstrip()) for line in text.splitlines() if str(tmp_path) not in line) <= 100


@pytest.mark.slow
@pytest.mark.usefixtures("small_probe")
def test_torch_compile_and_memory(tmp_path: Path) -> None:
    code, text, error = invoke("--operator", "ridge", "--shape", "64x3x5", "--rounds", 1, "--memory", "--out", tmp_path)
    assert code == 0, error
    (row,) = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert list(row["contenders"]) == ["eager", "compile", "cpp"]
    for outcome in row["contenders"].values():
        assert outcome["status"] == "timed"
        assert outcome["memory_bytes"] >= 0
    assert "/compile" in text
    assert "extra MB" in text


@pytest.mark.usefixtures("small_probe")
def test_a_case_that_eager_pytorch_cannot_compute_is_skipped(tmp_path: Path) -> None:
    options = ["--shape", "64x3x900", "--no-compile", "--no-memory", "--rounds", 1, "--out", tmp_path]
    code, text, error = invoke("--operator", "transformed_modules", "--transform", "exp", *options)
    assert code == 0, error
    assert "eager PyTorch, the yardstick, is wrong: " in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], 7),
        (["--preset", "full"], 24),
        (["--preset", "full", "--case", "linear part"], 2),
        (
            ["--operator", "ridge", "--operator", "ridge_jvp", "--shape", "8x2x3,9x2x3", "--dtype", "float32,bfloat16"],
            8,
        ),
        (["--network", "mGradNetC", "--layers", "2"], 1),
    ],
)
def test_list(arguments: list[str], lines: int, tmp_path: Path) -> None:
    code, text, error = invoke(*arguments, "--list", "--out", tmp_path / "out")
    assert code == 0, error
    assert len(text.splitlines()) == lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "tpu"], ["device", "cpu or cuda", "'tpu'"]),
        (["--device", "meta"], ["device", "cpu or cuda", "'meta'"]),
        (["--preset", "huge"], ["preset", "quick, small, full, registry", "'huge'"]),
        (["--rounds", "0"], ["rounds", "got 0"]),
        (["--threads", "-2"], ["threads", "got -2"]),
        (["--case", "helix"], ["case", "mRidgeGradNet 65536x2x64", "'helix'", "another preset"]),
        (["--preset", "quick", "--operator", "ridge"], ["preset", "--preset quick and --operator", "leave one out"]),
        (["--preset", "quick", "--backend", "cpp"], ["preset", "--preset quick and --backend"]),
        (["--backend", "cpp"], ["backend", "case of your own", "--operator ridge"]),
        (["--shape", "3x4x5"], ["operator", "--operator or --network with --shape"]),
        (["--operator", "ridgy"], ["operator", "ridge_jvp", "'ridgy'"]),
        (["--network", "GradNetX"], ["network", "mGradNetC", "'GradNetX'"]),
        (["--operator", "ridge", "--shape", "3x4"], ["shape", "BxdxH", "'3x4'", "--shape 16384x32x256"]),
        (["--operator", "ridge", "--shape", "3x0x4"], ["d of shape 3x0x4", "got 0"]),
        (["--operator", "ridge", "--layers", "0"], ["layers", "got 0"]),
        (
            ["--operator", "softmax_modules", "--layers", "2"],
            ["layers", "ridge, deep, GradNetC or DeepGradNet", "got softmax_modules"],
        ),
        (["--operator", "ridge", "--modules", "2"], ["modules", "modules or GradNetM", "got ridge"]),
        (["--operator", "softmax_modules", "--activation", "tanh"], ["activation", "got softmax_modules"]),
        (["--operator", "ridge", "--transform", "exp"], ["transform", "got ridge"]),
        (["--operator", "ridge", "--activation", "cube"], ["activation", "tanh", "'cube'"]),
        (["--operator", "transformed_modules", "--basis", "tanh+sin"], ["activation", "one basis function"]),
        (["--operator", "transformed_modules", "--transform", "cube"], ["transform", "half_square", "'cube'"]),
        (["--network", "mGradNetC", "--activation", "sin"], ["activation", "nondecreasing", "got sin"]),
        (["--operator", "ridge", "--dtype", "int8"], ["dtype", "bfloat16", "'int8'"]),
        (["--operator", "ridge", "--dtype", "tf32"], ["dtype", "'tf32'", "--device cuda"]),
        (["--operator", "ridge", "--backend", "cuda"], ["backend", "reference, cpp, triton", "'cuda'"]),
        (["--operator", "ridge", "--backend", "triton", "--dtype", "float64"], ["backend triton", "not torch.float64"]),
    ],
)
def test_bad_options(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    code, _, error = invoke(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert error.startswith("gradnets-fast: ")
    assert error.count("\n") == 1
    for word in ("expected ", "got ", "; ", *words):
        assert word in error, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_without_a_gpu_one_line_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, error = invoke("--device", name, "--out", tmp_path / "out")
    assert code == 2
    assert error.count("\n") == 1
    assert "device: expected a GPU that PyTorch sees" in error
    assert "sees no GPU" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_pytest_benchmark_times_the_same_cases() -> None:
    chosen_tests = "(ridge_divergence and cpp and not conv) or (mRidgeGradNet and 1x2x7 and ours)"
    command = [sys.executable, "-m", "pytest", "-q", "bench/test_cpu.py", "--benchmark-only", "-k", chosen_tests]
    # pytest-benchmark times nothing in a process that takes itself for a worker of pytest-xdist.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, env=variables)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout
    assert "benchmark 'ridge_divergence, 1 layer tanh 16384x32x256, step': 1 tests" in run.stdout
