"""Several processes: networks divided among ranks, and training under torchrun, all on the CPU with gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from distributed_checks import CHECKPOINTED, CHECKS, NETWORKS
from gradnets_fast.apps.train.checkpoint import load_checkpoint
from training_runs import invoke

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent


def torchrun(processes: int, *arguments: object, restarts: int = 0) -> list[str]:
    options = ["--nproc-per-node", str(processes), "--max-restarts", str(restarts), "--standalone"]
    return [sys.executable, "-m", "torch.distributed.run", *options, *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore"}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_agree(processes: int, tmp_path: Path) -> None:
    """Together, for PyTorch's start takes longer than all the checks."""
    command = torchrun(processes, TESTS / "distributed_checks.py", tmp_path)
    run = subprocess.run(command, env=environment(), timeout=300, check=False, capture_output=True, text=True)
    expected = {name: "" for name, (sizes, _) in CHECKS.items() if processes in sizes}
    assert len(expected) >= 6
    for rank in range(processes):
        file = tmp_path / f"{rank}.json"
        results = json.loads(file.read_text()) if file.exists() else run.stderr[-3000:]
        assert results == expected, f"rank {rank}"
    if processes == 4:
        for name in CHECKPOINTED:
            _one_process_reads(name, tmp_path)


def _one_process_reads(name: str, folder: Path) -> None:
    state = {"model": NETWORKS[name]().state_dict()}
    with pytest.warns(UserWarning, match="in a single process"):
        dcp.load(state, checkpoint_id=folder / name, no_dist=True)
    torch.testing.assert_close(state["model"], torch.load(folder / f"{name}.pt"), rtol=1e-9, atol=1e-11)


TRAIN = ["--arch", "mgradnet-c", "--steps", 40, "--samples", 2000, "--batch-size", 201]
DEEP = ["--arch", "mgradnet-m", "--layers", 2, "--embed-dim", 3, "--combine", "logsumexp", "--loss", "nearest"]


def train(processes: int, out: Path, *options: object) -> dict[str, Any]:
    """The report of a run; that of one process runs in this one, as starting another takes longer."""
    if processes == 1:
        code, said, error = invoke(*options, "--out", out)
    else:
        command = torchrun(processes, "-m", "gradnets_fast", "train", *options, "--out", out)
        run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=False)
        code, said, error = run.returncode, run.stdout, run.stderr
    assert code == 0, error
    assert said.count("training mGradNet") == 1, said
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.mark.parametrize("options", [TRAIN, [*DEEP, *TRAIN[2:]]], ids=["squared", "nearest"])
def test_two_processes_train_as_one_does(options: list[object], tmp_path: Path) -> None:
    alone, both = (train(n, tmp_path / str(n), *options) for n in (1, 2))
    np.testing.assert_allclose(both["history"], alone["history"], rtol=2e-4)
    first, second = (load_file(tmp_path / str(n) / "checkpoint.safetensors") for n in (1, 2))
    torch.testing.assert_close(second, first, rtol=2e-3, atol=1e-4)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="grain, which reads ahead for streams, needs Python 3.11")
@pytest.mark.parametrize("processes", [2, 4])
def test_shards_are_trained_on_alike_by_any_number_of_processes(processes: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(4):
        x = generator.random((500, 3), dtype=np.float32)
        np.savez(tmp_path / f"part{i}.npz", x=x, g=2 * x)
    options = ["--data", tmp_path, "--steps", 30, "--batch-size", 100]
    alone, several = (train(n, tmp_path / f"run{n}", *options) for n in (1, processes))
    np.testing.assert_allclose(several["history"], alone["history"], rtol=2e-4)
    # A run of several processes goes on in one.
    longer = json.loads((tmp_path / f"run{processes}" / "settings.json").read_text()) | {"steps": 35}
    (tmp_path / f"run{processes}" / "settings.json").write_text(json.dumps(longer))
    resumed = train(1, tmp_path / f"run{processes}", "--resume")
    assert resumed["history"][: len(several["history"])] == several["history"]
    assert resumed["history"][-1][0] == 35


def test_a_killed_worker_is_restarted_and_nothing_is_lost(tmp_path: Path) -> None:
    options = ["--arch", "mgradnet-c", "--steps", 1500, "--samples", 2000, "--batch-size", 500, "--save-every", 0.1]
    whole = train(2, tmp_path / "whole", *options)
    out = tmp_path / "killed"
    command = torchrun(2, "-m", "gradnets_fast", "train", *options, "--out", out, restarts=1)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        victim = _worker(run.pid, rank=1)
        saved = _wait_for_checkpoint(out, step=200)
        os.kill(victim, signal.SIGKILL)
        output, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors
    assert "resumed at step " in output
    resumed = int(output.split("resumed at step ")[1].split()[0])
    assert saved <= resumed < 1500
    report = json.loads((out / "report.json").read_text())
    assert report["history"] == whole["history"]
    first, second = (load_checkpoint(folder) for folder in (tmp_path / "whole", out))
    assert first.step == second.step == 1500
    for part in ("model", "optimizer"):
        a, b = getattr(first, part), getattr(second, part)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def _worker(parent: int, rank: int) -> int:
    """The process of a rank, once it runs."""
    for _ in range(600):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in variables:
                return int(child)
        time.sleep(0.1)
    raise AssertionError("torchrun started no workers")


def _wait_for_checkpoint(folder: Path, step: int) -> int:
    """The step of the first checkpoint from `step` on."""
    for _ in range(600):
        if (folder / "checkpoint.safetensors").is_file():
            saved = load_checkpoint(folder).step
            if saved >= step:
                return saved
        time.sleep(0.1)
    raise AssertionError("no checkpoint came")


def test_an_error_of_all_is_said_once(tmp_path: Path) -> None:
    command = torchrun(2, "-m", "gradnets_fast", "train", "--resume", "--out", tmp_path)
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode
    said = [line for line in run.stderr.splitlines() if line.startswith("gradnets-fast: ")]
    assert len(said) == 1, run.stderr
    assert "start without --resume" in said[0]


def test_a_restart_does_not_go_on_with_another_run(tmp_path: Path) -> None:
    """What lies in --out may be of other settings; then a restarted run begins anew."""
    train(1, tmp_path, *TRAIN, "--seed", 3)
    variables = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for seed, resumed in ((4, False), (4, True)):
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "gradnets_fast",
                "train",
                *map(str, [*TRAIN, "--seed", seed, "--overwrite", "--out", tmp_path]),
            ],
            env={**environment(), **variables, "TORCHELASTIC_RESTART_COUNT": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert ("resumed at step 40" in run.stdout) == resumed
