"""Fields, data files, and the command line with its failures."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import gradnets_fast as gf
from covering import slow_but
from gradnets_fast import nn
from gradnets_fast.apps.cli import app
from gradnets_fast.apps.files import write_atomically
from gradnets_fast.apps.train.data import load_samples
from gradnets_fast.apps.train.fields import FIELDS, make_field
from gradnets_fast.apps.train.problem import make_problem
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer
from gradnets_fast.fitting._steps import AutogradStep, KernelStep
from gradnets_fast.functional import ConvRidge
from gradnets_fast.nn.registry import ARCHITECTURES
from training_runs import QUICK, fails, invoke

POTENTIALS = {
    "convex2d": lambda a, b: a**4 + a**2 / 2 + a * b / 2 + 3 * b**2 / 2 - b**3 / 3,
    "nonconvex2d": lambda a, b: torch.sin(2 * torch.pi * a) * torch.cos(torch.pi * b) / 4 + a * b / 2 - b**2 / 2,
}


@pytest.mark.parametrize("name", list(FIELDS))
def test_fields_are_gradients_of_their_potentials(name: str) -> None:
    field = make_field(name, 5 if name == "polymax" else None)
    x = torch.rand(50, field.dim, dtype=torch.float64, requires_grad=True)
    potential = field.potential(x)
    (gradient,) = torch.autograd.grad(potential.sum(), x)
    torch.testing.assert_close(field.gradient(x.detach()), gradient)
    if name in POTENTIALS:
        torch.testing.assert_close(potential, POTENTIALS[name](*x.unbind(-1)))


@pytest.mark.parametrize(("dim", "published"), slow_but([(256, -11.71)], [(256, -11.71), (1024, -11.25)]))
def test_polymax_is_the_published_field(dim: int, published: float) -> None:
    """A least-squares symmetric positive semidefinite linear map gets the published error."""
    field = make_field("polymax", dim)
    x = field.sample(12 * dim, torch.Generator().manual_seed(1))
    g, centred = field.gradient(x), x - 0.5
    A = torch.linalg.lstsq(centred, g).solution
    values, vectors = torch.linalg.eigh((A + A.T) / 2)
    A = vectors @ torch.diag(values.clamp(min=0)) @ vectors.T
    test = field.sample(5000, torch.Generator().manual_seed(2))
    error = ((test - 0.5) @ A - field.gradient(test)).square().sum(1).mean().log10().item() * 10
    assert error == pytest.approx(published, abs=0.35)
    assert g.norm(dim=1).mean().item() == pytest.approx(1.0, abs=0.02)


def test_every_network_has_a_name_for_options() -> None:
    public = [getattr(nn, name) for name in nn.__all__]
    of_points = {cls for cls in public if issubclass(cls, nn.GradNet) and cls.family is not ConvRidge}
    assert {architecture.network for architecture in ARCHITECTURES.values()} == of_points


@pytest.mark.parametrize("arch", slow_but(["mgradnet-c", "gradnet-m"], list(ARCHITECTURES)))
def test_train_writes_everything_and_learns(arch: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    code, text, error = invoke("--arch", arch, "--field", "convex2d", "--out", out, "--steps", 300, "--samples", 3000)
    assert code == 0, error
    names = {"settings.json", "checkpoint.safetensors", "report.json", "figure.png"}
    assert {p.name for p in out.iterdir()} == names | {".lock"}
    report = json.loads((out / "report.json").read_text())
    evaluation = report["evaluation"]
    assert evaluation["error_db"] < 0
    assert f"{evaluation['error_db']:.2f} dB" in text
    assert evaluation["asymmetry"] < 1e-12
    if arch.startswith("m"):
        assert evaluation["smallest_eigenvalue"] >= -1e-12
    assert evaluation["backend"] == "cpp"
    assert evaluation["reference_milliseconds_per_step"] > 0
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG"
    losses = [loss for _, loss in report["history"]]
    assert losses[-1] < losses[0] / 2
    umask = os.umask(0)
    os.umask(umask)
    for path in out.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_shards_without_the_extra_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((300, 2), np.float32)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", x=x, g=x)
    monkeypatch.setitem(sys.modules, "grain", None)
    fails("--data", tmp_path, "--out", tmp_path / "run", words=["grain", "pip install 'gradnets_fast[stream]'"])


def test_several_processes_want_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    fails("--device", "cuda:0", words=["device", "a GPU for each process", "cuda:0", "LOCAL_RANK"])


def test_a_scheduler_that_numbers_its_jobs_starts_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert invoke(*QUICK, "--out", tmp_path)[0] == 0


def samples(count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((count, 2))
    return x, np.stack([x[:, 0] * 2, x[:, 1] * 3], axis=1)


def write_samples(path: Path, x: np.ndarray, g: np.ndarray, values: np.ndarray | None = None) -> Path:
    table = pa.table({"g1": g[:, 1], "x0": x[:, 0], "note": ["a"] * len(x), "x1": x[:, 1], "g0": g[:, 0]})
    if values is not None:
        table = table.append_column("F", pa.array(values))
    if path.suffix == ".csv":
        pacsv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".npz":
        np.savez(path, x=x, g=g, **({} if values is None else {"F": values}))
    else:
        np.save(path, np.concatenate([x, g] if values is None else [x, g, values[:, None]], axis=1))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".npy"])
def test_data_files(suffix: str, tmp_path: Path) -> None:
    x, g = samples()
    path = write_samples(tmp_path / f"data{suffix}", x, g)
    loaded = load_samples(path)
    torch.testing.assert_close(loaded.x, torch.from_numpy(x).float())
    torch.testing.assert_close(loaded.g, torch.from_numpy(g).float())
    code, text, error = invoke("--data", path, "--arch", "ridge", *QUICK[:2], "--out", tmp_path / "out")
    assert code == 0, error
    assert path.name in text
    assert (tmp_path / "out" / "figure.png").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".npy"])
@pytest.mark.parametrize("fit", ["potential", "both"])
def test_values_are_read_from_every_format_and_fitted(suffix: str, fit: str, tmp_path: Path) -> None:
    x, g = samples()
    values = x[:, 0] ** 2 + 1.5 * x[:, 1] ** 2
    path = write_samples(tmp_path / f"data{suffix}", x, g, values)
    if fit == "potential" and suffix == ".npy":
        np.save(path, np.concatenate([x, values[:, None]], axis=1))
    loaded = load_samples(path, fit)
    expected = values[:, None] if fit == "potential" else np.concatenate([g, values[:, None]], axis=1)
    torch.testing.assert_close(loaded.x, torch.from_numpy(x).float())
    torch.testing.assert_close(loaded.g, torch.from_numpy(expected).float())
    if suffix == ".csv":
        options = ["--fit", fit, "--arch", "mridge", "--lr", 0.05, "--steps", 200, "--out", tmp_path / "out"]
        code, text, error = invoke("--data", path, *options)
        assert code == 0, error
        assert "test error of the potential" in text
        evaluation = strict_json((tmp_path / "out" / "report.json").read_text())["evaluation"]
        assert evaluation["value_error"] < 0.3
        assert (evaluation["error_db"] is None) == (fit == "potential")
        assert (tmp_path / "out" / "figure.png").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".npy"])
def test_a_file_without_values_is_refused_before_work_begins(suffix: str, tmp_path: Path) -> None:
    path = write_samples(tmp_path / f"data{suffix}", *samples())
    words = {".npz": ["arrays x, g and F", "got x, g", "F=values"], ".npy": ["(n, 2d + 1)", "(50, 4)"]}
    found = words.get(suffix, ["a column F", "--fit both"])
    fails("--data", path, "--fit", "both", "--out", tmp_path / "out", words=[path.name, *found])
    assert not (tmp_path / "out").exists()


def test_the_loss_of_values_is_that_of_fit() -> None:
    """Over one batch of all points; `fit` takes the mean over the points' coordinates too."""
    settings = Settings(fit="both", gradient_weight=0.5, value_weight=3.0, samples=50, batch_size=50, steps=5, layers=2)
    trainer = Trainer(settings)
    net, x, targets = copy.deepcopy(trainer.module), trainer.problem.source.x, trainer.problem.source.g
    for _ in range(settings.steps):
        trainer.advance()
    plan = {"steps": settings.steps, "learning_rate": settings.learning_rate, "progress": False}
    result = gf.fit(net, x, targets[:, :2], targets[:, 2], weights=(0.5 * 2, 3.0), **plan)
    torch.testing.assert_close(torch.tensor(trainer.history)[:, 1], result.losses, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(trainer.module.parameters(), net.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def strict_json(text: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def test_a_report_is_json_whatever_was_measured(tmp_path: Path) -> None:
    """No error is relative to targets that are all 0."""
    x, g = samples()
    path = write_samples(tmp_path / "data.npz", x, 0 * g)
    code, _, error = invoke("--data", path, *QUICK[:2], "--out", tmp_path / "out")
    assert code == 0, error
    report = strict_json((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["relative_error"] is None
    assert report["not_finite"] == {"evaluation.relative_error": "inf"}


def test_a_cosine_begins_at_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(Settings(schedule="cosine", steps=4, samples=100, batch_size=10, lr=0.5))
    rates: list[float] = []

    def note(batch: object, error: torch.Tensor, rate: float) -> None:
        rates.append(rate)
        error.zero_()

    monkeypatch.setattr(trainer, "_one_step", note)
    while trainer.step < 4:
        trainer.advance()
    np.testing.assert_allclose(rates, 0.25 * (1 + np.cos(np.pi * np.arange(4) / 4)))


@pytest.mark.parametrize("arch", slow_but(["gradnet-c", "mgradnet-m"], ["gradnet-c", "mgradnet-m", "ridge", "mridge"]))
def test_a_run_without_autograd_is_that_of_autograd(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on from its checkpoints."""
    settings = Settings(arch=arch, steps=40, samples=900, batch_size=200, backend="cpp")
    kernels, autograd, changed = (Trainer(settings) for _ in range(3))
    monkeypatch.setattr(autograd, "why_not_kernels", lambda _: "the test says so")
    for trainer in (kernels, autograd):
        for _ in range(20):
            trainer.advance()
    changed.resume(copy.deepcopy(autograd.checkpoint()))
    for trainer in (kernels, autograd, changed):
        for _ in range(20):
            trainer.advance()
    assert type(autograd._one_step) is AutogradStep
    theirs = autograd.checkpoint()
    for trainer in (kernels, changed):
        assert type(trainer._one_step) is KernelStep
        np.testing.assert_allclose(trainer.history, autograd.history, rtol=1e-4)
        ours = trainer.checkpoint()
        for of in ("model", "optimizer"):
            torch.testing.assert_close(getattr(ours, of), getattr(theirs, of), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"clip": 1.0}, {"amp": "bfloat16"}, {"linear": "psd"}, {"backend": "reference"}, {"activation": "weighted_tanh"}],
    ids=lambda options: next(iter(options)),
)
def test_what_has_no_kernels_is_trained_by_autograd(options: dict[str, Any]) -> None:
    trainer = Trainer(Settings(steps=20, samples=900, batch_size=200, **options))
    while trainer.step < trainer.settings.steps:
        trainer.advance()
    assert type(trainer._one_step) is AutogradStep
    assert trainer.history[-1][1] < trainer.history[0][1]


def test_a_network_is_tested_on_points_that_it_never_saw(tmp_path: Path) -> None:
    x, g = samples()
    problem = make_problem(Settings(field=None, data=str(write_samples(tmp_path / "data.npz", x, g))))
    seen, kept = ({tuple(point) for point in points.tolist()} for points in (problem.source.x, problem.test_x))
    assert kept
    assert not seen & kept
    assert len(seen | kept) == len(x)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".npy"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e39, -1e-46])
def test_a_number_that_float32_does_not_hold_is_named_by_column_and_row(
    suffix: str, bad: float, tmp_path: Path
) -> None:
    x, g = samples()
    g[7, 1] = bad
    path = write_samples(tmp_path / f"data{suffix}", x, g)
    column = "g1" if suffix in (".csv", ".parquet") else "g[:, 1]"
    expected = "a number that float32 holds" if np.isfinite(bad) else "a finite number"
    words = [f"column {column}, row 8: expected {expected}", "NaN" if np.isnan(bad) else str(bad)]
    fails("--data", path, "--out", tmp_path / "out", words=words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz", ".npy"])
def test_the_ends_of_float32_are_held(suffix: str, tmp_path: Path) -> None:
    x, g = samples()
    g[:4, 0] = [torch.finfo(torch.float32).max, 1e-44, 0, -0.0]
    assert torch.equal(load_samples(write_samples(tmp_path / f"data{suffix}", x, g)).g, torch.from_numpy(g).float())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.csv", "x0,x1,g0\n1,2,3\n", ["a column g1"]),
        ("data.csv", "a,b\n1,2\n", ["columns x0", "a, b"]),
        ("data.csv", "x0,g0\n1,2\noops,3\n", ["column x0, row 2", "'oops'"]),
        ("data.csv", "x0,g0\n1,2\n3,\n", ["column g0, row 2", "no value"]),
        ("data.csv", "x0,g0\n", ["at least one row"]),
        ("data.csv", "", ["a readable csv file"]),
        ("data.parquet", "not parquet", ["a readable parquet file"]),
        ("data.npy", "not numpy", ["npy file"]),
        ("data.npz", "not numpy", ["npz file"]),
        ("data.txt", "1 2", [".csv, .parquet, .npz, .npy", "'.txt'"]),
        ("missing.csv", None, ["an existing file", "none"]),
    ],
)
def test_bad_data_files(name: str, content: str | None, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    fails("--data", path, "--out", tmp_path / "out", words=[name, *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((4, 2))}, ["arrays x and g", "got x"]),
        ({"x": np.zeros((4, 2)), "g": np.zeros((3, 2))}, ["one shape", "(3, 2)"]),
        ({"x": np.array([["a"]]), "g": np.array([["b"]])}, ["numbers", "<U1"]),
        ({"x": np.zeros(4), "g": np.zeros(4)}, ["(n, d)"]),
    ],
)
def test_bad_archives(arrays: dict[str, np.ndarray], words: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    fails("--data", tmp_path / "data.npz", "--out", tmp_path / "out", words=words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--field", "helix"], ["field", "convex2d, nonconvex2d, polymax", "'helix'"]),
        (["--arch", "mlp"], ["arch", "gradnet-c, mgradnet-c", "'mlp'"]),
        (["--activation", "mish"], ["activation", "tanh", "'mish'"]),
        (["--activation", "sin"], ["nondecreasing"]),
        (["--backend", "cuda"], ["reference, cpp, triton"]),
        (["--device", "cuda"], ["device", "--device cpu"]),
        (["--device", "toaster"], ["device", "toaster"]),
        (["--dim", "3"], ["dim", "2 for convex2d", "got 3"]),
        (["--field", "polymax", "--dim", "1"], ["dim", "at least 2"]),
        (["--combine", "logsumexp"], ["combine", "mgradnet-m", "logsumexp"]),
        (["--transform", "softplus"], ["transform", "mgradnet-c", "softplus"]),
        (["--arch", "mgradnet-m", "--combine", "maximum"], ["combine", "sum, logsumexp", "'maximum'"]),
        (["--arch", "mgradnet-m", "--loss", "nearest"], ["loss", "squared", "--combine logsumexp"]),
        (["--loss", "absolute"], ["loss", "squared, nearest", "'absolute'"]),
        (["--fit", "values"], ["fit", "gradient, potential, both", "'values'"]),
        (["--fit", "both", "--task", "transport"], ["fit", "gradient for a transport", "both"]),
        (["--fit", "both", "--value-weight", "0"], ["value_weight", "a finite number above 0"]),
        (["--fit", "potential", "--value-weight", "2"], ["value_weight", "--fit both"]),
        (["--gradient-weight", "2"], ["gradient_weight", "--fit both"]),
        (["--steps", "0"], ["steps", "got 0"]),
        (["--epochs", "-1"], ["epochs", "got -1"]),
        (["--steps", "5", "--epochs", "5"], ["one of them", "both"]),
        (["--field", "convex2d", "--data", "x.csv"], ["field, data", "both"]),
        (["--lr", "nan"], ["lr", "nan"]),
        (["--batch-size", "0"], ["batch_size", "got 0"]),
        (["--seed", "-1"], ["seed", "got -1"]),
        (["--seed", str(2**63)], ["seed", "2^63"]),
        (["--schedule", "linear"], ["schedule", "constant, cosine"]),
        (["--linear", "symmetric"], ["linear", "psd"]),
        (["--device", "meta"], ["device", "a usable device", "meta"]),
        (["--device", "cuda:99"], ["device", "a usable device", "cuda:99"]),
        (["--save-every", "nan"], ["save_every", "0 or more", "nan"]),
        (["--save-every", "-1"], ["save_every", "0 or more", "-1"]),
        (["--layers", str(10**9)], ["embed_dim, layers", "GB left", "GB; lower"]),
        (["--layers", str(10**9), "--arch", "gradnet-m"], ["embed_dim, layers", "GB left"]),
        (["--embed-dim", str(10**30)], ["embed_dim, layers", "GB left"]),
        (["--samples", str(10**30)], ["samples", "GB left", "lower --samples"]),
        (["--field", "polymax", "--dim", str(10**7)], ["dim", "GB left", "lower --dim"]),
        (["--lr", "1e30", "--steps", "20", "--activation", "identity"], ["loss at step", "finite", "lower --lr"]),
    ],
)
def test_bad_options(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    fails(*arguments, "--out", tmp_path / "out", words=words)
    if "loss at step" not in words:
        assert not (tmp_path / "out").exists()


def test_unwritable_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    fails(*QUICK, "--out", tmp_path / "file" / "out", words=["a folder that can be written", "--out"])
    fails(*QUICK, "--out", "/proc/gradnets", words=["a folder that can be written"])


def test_unforeseen_failures_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("gradnets_fast.apps.cli.train_command.evaluate", broken)
    with pytest.raises(ValueError, match="a bug"):
        invoke(*QUICK, "--out", tmp_path)


def test_atomic_writing_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half(temporary: Path) -> None:
        temporary.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    """The run has a pseudo-terminal; the report's file names survive at 80 columns."""
    import pty

    controller, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-m", "gradnets_fast", "train", *QUICK, "--out", str(tmp_path / "o")]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    chunks = []
    try:
        while chunk := os.read(controller, 65536):
            chunks.append(chunk)
    except OSError:
        pass  # the other end has closed
    assert process.wait(timeout=120) == 0
    text = b"".join(chunks).decode()
    assert "━" in text
    assert "40/40" in text
    assert "test error" in text


def test_version_and_help() -> None:
    run = CliRunner().invoke(app, ["--version"])
    assert run.stdout.startswith("gradnets_fast ")
    assert "--field" in CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "120"}).stdout


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--batch-size", "many"], ["--colour", "red"], ["extra"]])
def test_usage_errors_are_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "gradnets_fast", "train", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("gradnets-fast: ")
    assert run.stderr.count("\n") == 1
    assert arguments[0] in run.stderr


def test_missing_extras_are_named() -> None:
    script = "import sys; sys.modules['typer'] = None; from gradnets_fast.__main__ import main; main()"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "pip install 'gradnets_fast[train]'" in run.stderr
