"""Runs of `gradnets-fast train`: small ones of every sort, what they give undisturbed, and what they leave."""

from __future__ import annotations

import functools
import json
import random
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradnets_fast.apps.train.checkpoint import CHECKPOINT_FILE, load_checkpoint
from gradnets_fast.apps.train.settings import Settings

from .children import LIMIT, Child, Ended, check_refused, command

_QUICK = ("--steps", 60, "--samples", 2000, "--batch-size", 200)
RUNS: dict[str, tuple[object, ...]] = {
    "kernels": _QUICK,
    "wide": (*_QUICK, "--embed-dim", 300, "--arch", "gradnet-c"),
    "autograd": (*_QUICK, "--clip", 1.0, "--activation", "tanh+identity"),
    "modules": (*_QUICK, "--arch", "mgradnet-m", "--layers", 3, "--combine", "logsumexp"),
    "float16": (*_QUICK, "--amp", "float16"),
    "both": (*_QUICK, "--fit", "both"),
    "file": ("--data", "DATA/samples.npz", "--steps", 60, "--batch-size", 100),
    "streamed": ("--data", "DATA/shards", "--steps", 40, "--batch-size", 64, "--streams", 2),
    "large": ("--steps", 6, "--samples", 200_000, "--batch-size", 5000, "--embed-dim", 64),
    "transport": ("--task", "transport", "--dim", 3, "--arch", "mgradnet-m", "--layers", 2, "--steps", 25,
                  "--samples", 1000, "--batch-size", 100),
}  # fmt: skip
"""The sorts of runs by name; DATA is a folder of samples."""
Content = dict[str, Any]


@functools.lru_cache(maxsize=1)
def samples() -> Path:
    """A folder with a file of samples and with shards, the same ones in each process."""
    folder = Path(tempfile.mkdtemp(prefix="reliability-data-"))
    draw = np.random.default_rng(0)
    x = draw.standard_normal((600, 3)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, g=np.tanh(x))
    (folder / "shards").mkdir()
    for i in range(4):
        part = slice(150 * i, 150 * (i + 1))
        columns = {f"{name}{j}": a[part, j] for name, a in (("x", x), ("g", np.tanh(x))) for j in range(3)}
        if i % 2:
            pq.write_table(pa.table(columns), folder / "shards" / f"{i}.parquet", row_group_size=40)
        else:
            np.savez(folder / "shards" / f"{i}.npz", x=x[part], g=np.tanh(x[part]))
    return folder


@dataclass(frozen=True)
class Run:
    """A sort of run, its seed and the number of its processes."""

    name: str
    seed: int
    processes: int = 1

    @staticmethod
    def drawn(draw: random.Random, processes: int = 1) -> Run:
        names = [name for name in RUNS if name != "large" and (processes == 1 or name != "transport")]
        return Run(draw.choice(names), draw.randrange(2), processes)

    def words(self, data: Path | None = None) -> list[object]:
        """Those of the command that starts it."""
        folder = str(data or samples())
        words = [str(word).replace("DATA", folder) for word in RUNS[self.name]]
        return ["train", *words, "--seed", self.seed]

    def started(self, out: Path, *words: object, **options: Any) -> list[Child]:
        """Its processes, with a folder and further words."""
        return processes([*self.words(), "--out", out, *words], self.processes, **options)

    def resumed(self, out: Path, *words: object, **options: Any) -> list[Child]:
        """Processes that go on with what is in a folder."""
        return processes(["train", "--resume", "--out", out, *words], self.processes, **options)

    def undisturbed(self) -> tuple[Content, float]:
        """What it leaves when nothing happens to it, and the seconds that takes with checkpoints after each step."""
        return _undisturbed(self)

    def _left(self) -> tuple[Content, float]:
        with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
            began = time.monotonic()
            for child in self.started(Path(folder), "--save-every", 0):
                assert (ended := child.wait()).status == 0, ended
            return content(Path(folder)), time.monotonic() - began


_undisturbed = functools.lru_cache(maxsize=None)(Run._left)


def processes(words: list[object], count: int, **options: Any) -> list[Child]:
    """The command in so many processes that share the work, as torchrun starts them."""
    if count == 1:
        return [command(words, **options)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"GLOO_SOCKET_IFNAME": "lo"}
    return [
        command(words, variables={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank in range(count)
    ]


def content(folder: Path) -> Content:
    """What a finished run has left, as far as it is the same each time: the bytes of all tensors among it."""
    checkpoint = load_checkpoint(folder)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    evaluation = {name: value for name, value in report["evaluation"].items() if "milliseconds" not in name}
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG"), "no figure"
    parts = {"model": checkpoint.model, "optimizer": checkpoint.optimizer}
    tensors = {f"{part}.{name}": t.numpy().tobytes() for part, each in parts.items() for name, t in each.items()}
    return {
        "step": checkpoint.step,
        "tensors": tensors,
        "history": checkpoint.history,
        "extra": checkpoint.extra,
        "reported": report["history"],
        "evaluation": evaluation,
    }


def check_whole(folder: Path) -> None:
    """Raise AssertionError where a file of a run is there and not whole."""
    if (folder / CHECKPOINT_FILE).exists():
        load_checkpoint(folder)
    for name in ("settings.json", "report.json"):
        if (folder / name).exists():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            if name == "settings.json":
                Settings.from_json(found)


def finish(run: Run, out: Path, prepare: Callable[[], object] = lambda: None) -> None:
    """Go on with a run whatever became of it, and check that it gives what it gives undisturbed."""
    check_whole(out) if out.is_dir() else None
    ended = [child.wait() for child in run.resumed(out, prepare=prepare)]
    if any(each.status for each in ended):
        # It was stopped before there was anything to go on with, and says so.
        check_refused(ended[0], "nothing to go on with")
        assert "start without --resume" in ended[0].err, ended[0]
        assert not (out / CHECKPOINT_FILE).exists(), ended[0]
        ended = [child.wait() for child in run.started(out, "--overwrite", prepare=prepare)]
    for each in ended:
        assert each.status == 0, each
    check_same(run, out)


def check_same(run: Run, out: Path) -> None:
    """Raise AssertionError unless a folder has what the run leaves undisturbed, bit for bit, and nothing else."""
    expected, found = run.undisturbed()[0], content(out)
    for name, value in expected.items():
        assert found[name] == value, f"{run}: {name} differs from that of a run that nothing happened to"
    left = sorted({path.name for path in out.iterdir()} - _FILES)
    assert not left, f"{run} has left {left}"


_FILES = {".lock", "checkpoint.safetensors", "figure.png", "report.json", "settings.json"}


def wait_until(child: Child, text: str, limit: float = LIMIT) -> Ended | None:
    """Wait until a process has printed something; how it ended if it did so before."""
    until = time.monotonic() + limit
    while text not in child.printed():
        if child.over():
            return child.wait()
        assert time.monotonic() < until, f"{text!r} was not printed within {limit} s"
        time.sleep(0.001)
    return None
