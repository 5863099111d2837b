"""Runs that stop and go on, what they leave in their folder, and damaged checkpoints."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradnets_fast.apps.cli import train_command
from gradnets_fast.apps.train.checkpoint import adam_forms, check_tensors, load_checkpoint, save_checkpoint
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer
from training_runs import QUICK, fails, invoke

QUADRATICS = Settings(
    arch="mgradnet-m",
    field="polymax",
    dim=12,
    layers=3,
    embed_dim=12,
    activation="identity",
    transform="identity",
    combine="logsumexp",
    loss="nearest",
    batch_size=200,
    samples=20_000,
    steps=1500,
    lr=1e-2,
    schedule="cosine",
)


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """An earlier version wrote nothing but the network, Adam's moments and the history."""
    trainer = Trainer(Settings(steps=20, samples=500, batch_size=100))
    for _ in range(7):
        trainer.advance()
    save_checkpoint(tmp_path, trainer.checkpoint())
    file = tmp_path / "checkpoint.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    del metadata["extra"]
    save_file(tensors, file, metadata)
    resumed = Trainer(trainer.settings)
    resumed.resume(load_checkpoint(tmp_path))
    assert resumed.advance() == trainer.advance()


MODULES = Settings(arch="mgradnet-m", activation="weighted_softmax", layers=3, steps=20, samples=500, batch_size=100)


def by_modules(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with Adam's moments of each module, as an earlier version wrote them."""
    written = {}
    for name, tensor in tensors.items():
        before, _, after = name.partition("mmgn_modules.")
        if before != "optimizer." or not after:
            written[name] = tensor
            continue
        parameter, _, key = after.rpartition(".")
        for i in range(MODULES.layers):
            part = tensor if key == "step" else tensor[i]
            written[f"{before}mmgn_modules.{i}.{parameter.replace('_', '.')}.{key}"] = part.clone()
    return written


def test_a_checkpoint_with_moments_of_each_module_is_resumed(tmp_path: Path) -> None:
    trainer = Trainer(MODULES)
    for _ in range(7):
        trainer.advance()
    save_checkpoint(tmp_path, trainer.checkpoint())
    file = tmp_path / "checkpoint.safetensors"
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    earlier = by_modules(load_file(file))
    assert {"optimizer.mmgn_modules.2.act.a.exp_avg", "optimizer.mmgn_modules.0.W.step"} <= earlier.keys()
    save_file(earlier, file, metadata)
    resumed = Trainer(MODULES)
    resumed.resume(load_checkpoint(tmp_path))
    while trainer.step < MODULES.steps:
        assert resumed.advance() == trainer.advance()
    damages: dict[str, tuple[Tensor, str]] = {
        "1.W.step": (torch.tensor(6.0), "mmgn_modules.W.step differs from module to module"),
        "1.b.exp_avg": (torch.zeros(3), "expects each tensor to be equal size"),
        "4.beta.exp_avg": (torch.zeros(1), "KeyError: 3"),
    }
    for name, (tensor, words) in damages.items():
        save_file(earlier | {f"optimizer.mmgn_modules.{name}": tensor}, file, metadata)
        with pytest.raises(ValueError, match=rf"an undamaged checkpoint, got .*{words}"):
            load_checkpoint(tmp_path)


@pytest.fixture(name="finished", scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is through."""
    out = tmp_path_factory.mktemp("finished")
    assert invoke(*QUICK, "--out", out)[0] == 0
    return out


@pytest.fixture(name="run")
def _run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_start_that_fails_leaves_no_earlier_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(train_command, "save_checkpoint", full)
    code, _, error = invoke(*QUICK, "--seed", 5, "--out", run, "--overwrite")
    assert (code, "No space left" in error) == (2, True)
    fails("--resume", "--out", run, words=["checkpoint", "a file", "none"])


def test_a_run_does_not_go_on_with_other_samples(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((300, 2), np.float32)
    np.savez(tmp_path / "data.npz", x=x, g=x)
    options = ["--data", tmp_path / "data.npz", "--steps", 4, "--batch-size", 50, "--out", tmp_path / "run"]
    assert invoke(*options)[0] == 0
    assert invoke("--resume", "--out", tmp_path / "run")[0] == 0
    np.savez(tmp_path / "data.npz", x=x, g=2 * x)
    fails("--resume", "--out", tmp_path / "run", words=["data", "the samples of that run"])


def test_modules_find_the_pieces_of_a_maximum(tmp_path: Path) -> None:
    """A linear map gets -12.6 dB, and modules under the squared loss no more."""
    trainer = Trainer(QUADRATICS)
    for _ in trainer.run(lambda *_: None, 1e9, tmp_path):
        pass
    with torch.no_grad():
        problem = trainer.problem
        error = (trainer.module(problem.test_x) - problem.test_g).square().sum(-1).mean().log10().item() * 10
    assert error < -19
    finished = Trainer(QUADRATICS)
    finished.resume(load_checkpoint(tmp_path))
    for _ in finished.run(lambda *_: None, 1e9, tmp_path):
        pass
    for a, b in zip(trainer.module.parameters(), finished.module.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(arch="mgradnet-c", steps=60, samples=1000, batch_size=300, backend="cpp"),
        Settings(arch="mgradnet-c", steps=60, samples=1000, batch_size=300, backend="reference"),
        dataclasses.replace(QUADRATICS, steps=60, samples=1000),
    ],
    ids=["cpp", "reference", "nearest"],
)
def test_resume_continues_bit_for_bit(settings: Settings, tmp_path: Path) -> None:
    whole = Trainer(settings)
    for _ in whole.run(lambda *_: None, 1e9, tmp_path):
        pass
    first = Trainer(settings)
    for step in first.run(lambda *_: None, 1e9, tmp_path):
        if step == 23:
            break
    save_checkpoint(tmp_path, first.checkpoint())
    second = Trainer(settings)
    second.resume(load_checkpoint(tmp_path))
    assert second.step == 23
    for _ in second.run(lambda *_: None, 1e9, tmp_path):
        pass
    assert second.history == whole.history
    for (name, a), b in zip(whole.module.named_parameters(), second.module.parameters()):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_interrupt_saves_and_resume_finishes(tmp_path: Path) -> None:
    process = started(tmp_path)
    try:
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "--resume" in out
    assert "Traceback" not in error
    checkpoint = load_checkpoint(tmp_path)
    assert 0 < checkpoint.step < 1_000_000
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["steps"] = checkpoint.step + 5
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    code, text, error = invoke("--resume", "--out", tmp_path)
    assert code == 0, error
    assert f"resumed at step {checkpoint.step}" in text
    assert load_checkpoint(tmp_path).step == checkpoint.step + 5


def test_resume_of_nothing_and_of_damage(run: Path, tmp_path: Path) -> None:
    fails("--resume", "--out", tmp_path / "nothing", words=["settings", "start without --resume"])
    path = run / "checkpoint.safetensors"
    good = path.read_bytes()
    for damaged in (good[: len(good) // 2], b"", b"\xff" * 40, good[:300] + b"{" + good[301:]):
        path.write_bytes(damaged)
        fails("--resume", "--out", run, words=["undamaged checkpoint", "put back a copy"])
        assert path.read_bytes() == damaged
    path.unlink()
    fails("--resume", "--out", run, words=["checkpoint", "none"])
    path.write_bytes(good)
    settings = json.loads((run / "settings.json").read_text())
    for change, words in (({"embed_dim": 9}, ["the parameters of these settings"]), ({"colour": 1}, ["colour"])):
        (run / "settings.json").write_text(json.dumps({**settings, **change}))
        fails("--resume", "--out", run, words=words)
    (run / "settings.json").write_text("{")
    fails("--resume", "--out", run, words=["valid JSON"])


def test_a_new_run_replaces_an_older_one_only_when_told_to_and_then_at_once(run: Path) -> None:
    assert load_checkpoint(run).step == 40
    options = [*QUICK, "--lr", "1e30", "--activation", "identity", "--out", run]
    before = {path: path.read_bytes() for path in run.iterdir()}
    names = "checkpoint.safetensors, report.json, figure.png, settings.json"
    fails(*options, words=["a folder without an earlier run", names, "--overwrite", "--resume"])
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    fails(*options, "--overwrite", words=["loss at step"])
    assert not (run / "report.json").exists()
    assert load_checkpoint(run).step == 0
    assert json.loads((run / "settings.json").read_text())["lr"] == 1e30


def test_checkpoint_is_plain_safetensors(finished: Path) -> None:
    tensors = load_file(finished / "checkpoint.safetensors")
    assert tensors["model.W"].shape == (7, 2)
    assert {"optimizer.W.exp_avg", "optimizer.W.exp_avg_sq", "optimizer.W.step"} <= set(tensors)


def test_options_beside_resume_are_those_of_the_run_or_refused(tmp_path: Path) -> None:
    run = ["--epochs", 4, "--samples", 1000, "--batch-size", 200, "--lr", "1e-3", "--out", tmp_path]
    assert invoke(*run)[0] == 0
    assert invoke(*run, "--resume", "--save-every", 5)[0] == 0
    fails("--resume", "--steps", 50, "--lr", 1, "--out", tmp_path, words=["expected steps 20, lr 0.001, got"])
    fails("--resume", "--epochs", 5, "--out", tmp_path, words=["steps: expected steps 20, got steps 25"])
    fails("--resume", "--field", "nonconvex2d", "--out", tmp_path, words=["field: expected field convex2d"])
    fails("--resume", "--overwrite", "--out", tmp_path, words=["resume, overwrite: expected one of them"])


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A long run that is in its first steps."""
    command = [sys.executable, "-m", "gradnets_fast", "train", "--steps", "1000000", "--out", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "training mGradNetC" in process.stdout.readline()
    return process


@pytest.mark.slow
def test_a_folder_is_of_one_run_at_a_time_and_free_when_that_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        try:
            for options in (["--overwrite", *QUICK], ["--resume"]):
                fails(*options, "--out", tmp_path, words=["a folder that no other run is using", "wait for that run"])
            assert first.poll() is None
        finally:
            first.kill()
    code, _, error = invoke(*QUICK, "--out", tmp_path, "--overwrite")
    assert code == 0, error


@dataclasses.dataclass
class Left:
    """What a run has left, as a damage changes it."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    settings: dict[str, Any]

    def scale(self, **values: Any) -> None:
        self.extra(scaler={**json.loads(self.metadata["extra"])["scaler"], **values})

    def extra(self, **parts: Any) -> None:
        self.metadata["extra"] = json.dumps({**json.loads(self.metadata["extra"]), **parts})

    def write(self, folder: Path) -> None:
        (folder / "settings.json").write_text(json.dumps(self.settings))
        save_file(self.tensors, folder / "checkpoint.safetensors", self.metadata)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Left], object]:
    return lambda left: left.tensors.update({name: change(left.tensors[name])})


def without(words: str) -> Callable[[Left], object]:
    return lambda left: [left.tensors.pop(name) for name in list(left.tensors) if words in name]


M, V, STEP = (f"optimizer.W.{part}" for part in ("exp_avg", "exp_avg_sq", "step"))
DAMAGES: dict[str, tuple[Callable[[Left], object], str]] = {
    "weights of another shape": (put("model.W", lambda t: t[:3].clone()), "parameters: W: "),
    "weights of another dtype": (put("model.W", Tensor.double), "torch.float64"),
    "weights that are not finite": (put("model.W", lambda t: t / 0), "parameters: W: expected a finite number, got "),
    "no weights": (without("model.W"), "parameters of these settings"),
    "other weights": (lambda left: left.tensors.update({"model.X": torch.zeros(2)}), "beside them X"),
    "tensors of nothing": (lambda left: left.tensors.update({"X": torch.zeros(2)}), "KeyError"),
    "a shorter moment": (put(M, lambda t: t[:2].clone()), "optimizer: W.exp_avg: "),
    "a moment of integers": (put(M, lambda t: t.int()), "torch.int32"),
    "a moment of half precision": (put(V, lambda t: t.half()), "torch.float16"),
    "a NaN moment": (put(M, lambda t: t * torch.nan), "a finite number, got nan"),
    "a negative second moment": (put(V, lambda t: -1 - t), "0 to inf, got -1"),
    "a missing moment": (without(V), "all but W.exp_avg_sq"),
    "no optimizer": (without("optimizer."), "the optimizer of these settings"),
    "a step of Adam before the first": (put(STEP, lambda t: -t), "W.step: expected "),
    "a step of Adam after the last": (put(STEP, lambda t: t + 9), "W.step: expected "),
    "a step of Adam that is a vector": (put(STEP, lambda t: t.repeat(3)), "W.step: expected "),
    "a negative step": (lambda left: left.metadata.update(step="-1"), "steps of the history"),
    "a later step": (lambda left: left.metadata.update(step="41"), "expected 0 to the 40 of the settings, got 41"),
    "an absurd step": (lambda left: left.metadata.update(step="9" * 30), "step: expected 0 to the 40"),
    "an earlier step": (lambda left: left.metadata.update(step="7"), "steps of the history"),
    "no step": (lambda left: left.metadata.pop("step"), "KeyError"),
    "a history that is no list": (lambda left: left.metadata.update(history="3"), "TypeError"),
    "a history that falls": (lambda left: left.metadata.update(history="[[2, 1.0], [1, 1.0]]"), "steps of the history"),
    "a fractional step": (lambda left: left.metadata.update(history="[[1.5, 1.0]]"), "no integer"),
    "a NaN loss": (lambda left: left.metadata.update(history="[[1, NaN]]"), "a loss of the history"),
    "a huge loss": (lambda left: left.metadata.update(history=f"[[1, 1{400 * '0'}]]"), "OverflowError"),
    "a deep history": (lambda left: left.metadata.update(history=100_000 * "["), "RecursionError"),
    "an extra that is no object": (lambda left: left.metadata.update(extra="[]"), "extra is no JSON object"),
    "data of another run": (lambda left: left.extra(data={"checksum": 1}), "data: expected the samples of that run"),
    "no scaler": (lambda left: left.extra(scaler={}), "scaler: expected a state such as"),
    "a scaler that is a list": (lambda left: left.extra(scaler=[]), "scaler: expected a state such as"),
    "an infinite scale": (lambda left: left.scale(scale=float("inf")), "scaler: expected a state such as"),
    "a scale of 0": (lambda left: left.scale(scale=0.0), "scaler: expected a state such as"),
    "a negative tracker": (lambda left: left.scale(_growth_tracker=-1), "scaler: expected a state such as"),
    "another growth": (lambda left: left.scale(growth_factor=1e9), "scaler: expected a state such as"),
    "no settings": (lambda left: left.settings.clear(), "settings: expected all settings of a run, got none of "),
    "fewer settings": (lambda left: left.settings.pop("lr"), "all settings of a run, got none of lr"),
    "a step count in words": (lambda left: left.settings.update(steps="40"), "steps: expected int, got '40'"),
    "a fractional width": (lambda left: left.settings.update(embed_dim=7.0), "embed_dim: expected int, got 7.0"),
    "a width of true": (lambda left: left.settings.update(embed_dim=True), "embed_dim: expected int, got True"),
    "a list of activations": (lambda left: left.settings.update(activation=["tanh"]), "str | None, got ['tanh']"),
    "an infinite rate": (lambda left: left.settings.update(lr=float("inf")), "lr: expected a positive number"),
    "a rate beyond floats": (lambda left: left.settings.update(lr=10**400), "lr: expected a positive number"),
}  # fmt: skip


@pytest.fixture(name="left", scope="module")
def _left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    out = tmp_path_factory.mktemp("run")
    assert invoke(*QUICK, "--amp", "float16", "--out", out)[0] == 0
    file = out / "checkpoint.safetensors"
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    return Left(load_file(file), metadata, json.loads((out / "settings.json").read_text()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_run_cannot_have_left_is_refused(damage: str, left: Left, tmp_path: Path) -> None:
    """Fused Adam, for one, reads and writes as many moments as there are weights, whatever the shapes."""
    change, words = DAMAGES[damage]
    changed = Left(dict(left.tensors), dict(left.metadata), dict(left.settings))
    change(changed)
    changed.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fails("--resume", "--out", tmp_path, words=[words])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"} == before


def test_undamaged_it_is_resumed(left: Left, tmp_path: Path) -> None:
    left.write(tmp_path)
    code, text, error = invoke("--resume", "--out", tmp_path)
    assert code == 0, error
    assert "resumed at step 40" in text


def test_steps_that_a_scaler_skipped_are_no_damage(left: Left, tmp_path: Path) -> None:
    steps = {name: value - 3 for name, value in left.tensors.items() if name.endswith(".step")}
    Left(left.tensors | steps, left.metadata, left.settings).write(tmp_path)
    assert invoke("--resume", "--out", tmp_path)[0] == 0


def test_a_count_that_float32_cannot_raise_is_no_damage() -> None:
    """Adam counts in float32, which adds nothing to 2^24."""
    count = torch.tensor(2.0**24)
    assert count + 1 == count
    W = torch.zeros(2, 3)
    moments = {"W.step": count, "W.exp_avg": W, "W.exp_avg_sq": W}
    check_tensors("optimizer", moments, adam_forms({"W": W}, 10**9, skips=False))


def test_what_a_killed_run_was_writing_goes_with_the_next(run: Path) -> None:
    remains = [run / name for name in (".checkpoint-123.part.safetensors", ".figure-123.part.png", ".probe-x1.part")]
    others = [run / name for name in (".mine", ".mine.partial", ".notes.part")]
    for path in (*remains, *others):
        path.write_bytes(b"half")
    (run / ".folder-1.part").mkdir()
    assert invoke("--resume", "--out", run)[0] == 0
    assert not any(path.exists() for path in remains)
    assert all(path.read_bytes() == b"half" for path in others)
