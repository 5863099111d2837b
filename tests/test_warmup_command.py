"""gradnets-fast warmup: networks of one's own, and those of training runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gradnets_fast.apps.cli import app, warmup_command
from gradnets_fast.apps.train.settings import PRECISIONS, Settings
from gradnets_fast.nn.base import METHODS
from gradnets_fast.nn.registry import ARCHITECTURES

SMALL = ("--device", "cpu", "--embed-dim", 3, "--layers", 2)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def sizes(text: str) -> list[int]:
    """The batch sizes of the table's rows, whose two times must be there."""
    return [int(size) for size in re.findall(r"│\s*(\d+) │\s*\d+\.\d{3} s │\s*\d+\.\d{3} s │", text)]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_run(arch: str) -> None:
    code, out, _ = invoke("warmup", "--arch", arch, "--dim", 3, *SMALL, "--batch-size", 5, "--batch-size", 40)
    assert code == 0
    assert sizes(out) == [5, 40]
    assert "d = 3, h = 3: forward, with gradients, on cpu" in out
    assert out.splitlines()[-1] == "nothing to compile: the extension's kernels are machine code already"


def test_every_method_is_run_and_named() -> None:
    code, out, _ = invoke("warmup", *SMALL, *(word for method in METHODS for word in ("--method", method)))
    assert code == 0
    assert sizes(out) == [Settings.batch_size]
    assert "forward, jvp, potential, divergence, jacobian, value_and_gradient and slogdet, with gradients" in out


@pytest.mark.parametrize(("dtype", "kernels"), list(zip(PRECISIONS, ("f32", "bf16", "f16"))))
def test_the_kernels_are_those_under_autocast(dtype: str, kernels: str) -> None:
    code, out, _ = invoke("warmup", *SMALL, "--batch-size", 4, "--dtype", dtype)
    assert code == 0
    assert f"backend cpp: csrc, {kernels}, " in out


WITHOUT_COMPILATION = [
    ("reference", "PyTorch's own operators run"),
    ("triton", "Triton's interpreter compiles nothing"),
]


@pytest.mark.parametrize(("backend", "why"), WITHOUT_COMPILATION)
def test_a_backend_that_compiles_nothing_says_so(backend: str, why: str) -> None:
    code, out, _ = invoke("warmup", *SMALL, "--batch-size", 4, "--backend", backend)
    assert code == 0
    assert f"backend {backend}: " in out
    assert out.splitlines()[-1] == f"nothing to compile: {why}"


def test_on_a_gpu_it_names_triton_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    text = warmup_command._kept("triton", torch.device("cuda"))
    assert text == f"compiled kernels are kept for later processes in {tmp_path}"


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    sizes = ("--embed-dim", 5, "--layers", 2, "--batch-size", 17, "--samples", 100, "--steps", 1)
    assert invoke("train", "--arch", "mgradnet-m", *sizes, "--amp", "bfloat16", "--device", "cpu", "--out", out)[0] == 0
    return out


def test_a_training_run_s_network_and_options_are_taken(trained: Path) -> None:
    code, out, _ = invoke("warmup", "--out", trained)
    assert code == 0
    assert "mGradNetM, d = 2, h = 5: forward" in out
    assert "csrc, bf16" in out
    assert sizes(out) == [17]


def test_options_of_the_run_may_be_changed_and_those_of_the_network_not(trained: Path) -> None:
    code, out, _ = invoke("warmup", "--out", trained, "--dtype", "float32", "--backend", "reference", "--batch-size", 3)
    assert code == 0
    assert "backend reference" in out
    assert sizes(out) == [3]
    code, _, errors = invoke("warmup", "--out", trained, "--layers", 3, "--dim", 4)
    assert code == 2
    assert errors.startswith("gradnets-fast: warmup: dim, layers: expected nothing beside --out")


def test_a_folder_that_is_none_of_a_run_is_refused(trained: Path, tmp_path: Path) -> None:
    code, _, errors = invoke("warmup", "--out", tmp_path)
    assert code == 2
    assert "expected a folder with settings.json, got none; name the folder" in errors
    (tmp_path / "settings.json").write_text(json.dumps({"unknown": 1}))
    code, _, errors = invoke("warmup", "--out", tmp_path)
    assert code == 2
    assert errors.startswith("gradnets-fast: warmup: settings: expected the names of this version, got unknown")
    (tmp_path / "settings.json").write_bytes((trained / "settings.json").read_bytes())
    code, _, errors = invoke("warmup", "--out", tmp_path)
    assert code == 2
    assert errors.startswith("gradnets-fast: warmup: checkpoint")


REFUSED: list[tuple[tuple[object, ...], str]] = [
    (("--arch", "resnet"), "arch: expected one of gradnet-c"),
    (("--dim", 0), "dim: expected a positive integer, got 0"),
    (("--layers", 0), "layers: expected a positive integer, got 0"),
    (("--batch-size", 0), "batch_sizes: expected a positive integer, got 0"),
    (("--batch-size", 10**12), "batch_size: expected a size that fits into the "),
    (("--embed-dim", 10**12), "embed_dim, layers: expected a size that fits into the "),
    (("--device", "meta"), "device: expected a usable device, got meta"),
    (("--method", "backward"), "methods: expected one of forward"),
    (("--dtype", "int8"), "dtype: expected one of float32, bfloat16, float16, got 'int8'"),
    (("--device", "nowhere"), "device: expected a usable device, got nowhere"),
    (("--arch", "ridge", "--combine", "logsumexp"), "combine: expected nothing for ridge"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(options: tuple[object, ...], message: str) -> None:
    code, out, errors = invoke("warmup", *options)
    assert code == 2
    assert out == ""
    assert errors.startswith(f"gradnets-fast: warmup: {message}")
    assert len(errors.splitlines()) == 1


def test_a_backend_that_cannot_run_it_is_refused() -> None:
    code, out, errors = invoke("warmup", *SMALL, "--backend", "fastest")
    assert (code, out) == (2, "")
    assert "backend: expected one of reference, cpp, triton, got 'fastest'" in errors
