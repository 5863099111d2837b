"""What the package writes, as functions of a path; each writes about a hundred kilobytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from gradnets_fast import nn
from gradnets_fast.apps.files import write_json
from gradnets_fast.apps.train.checkpoint import Checkpoint, save_checkpoint
from gradnets_fast.export import to_c


def _checkpoint(path: Path) -> None:
    tensors = {"W": torch.arange(20_000.0)}
    save_checkpoint(path.parent, Checkpoint(3, tensors, {}, [(1, 0.5)], {}))


def _results(path: Path) -> None:
    write_json(path, {"rows": [{"label": f"case {i}", "error": 1 / 3} for i in range(2000)]})


def _tiles(path: Path) -> None:
    entries = [{"d": d, "depth": 1, "options": {"BM": 32, "BH": 32, "num_warps": 4}} for d in range(1000)]
    write_json(path, {"tables": {"90": {"forward": {"ieee": entries}}}, "device": "a GPU"})


def _c(path: Path) -> None:
    torch.manual_seed(0)
    to_c(nn.mGradNetC(2, 8, 400), path, name="map")


def _archive(path: Path) -> None:
    from gradnets_fast.kernels import prebuild

    image = torch.arange(30_000, dtype=torch.int32).mul(2_654_435_761).numpy().tobytes()
    prebuild._write(path, {"format": 1, "kernels": []}, {"sm_80/0.cubin": image})


WRITERS: dict[str, Callable[[Path], None]] = {
    "checkpoint.safetensors": _checkpoint,
    "results.json": _results,
    "table.json": _tiles,
    "map.c": _c,
    "prebuilt.zip": _archive,
}
"""By the names of their files."""
