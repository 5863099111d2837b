"""Shards for tests, and what their errors must look like."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from gradnets_fast.apps.train.stream import SampleStream
from gradnets_fast.errors import is_message

if sys.version_info < (3, 11):
    pytest.skip("grain, which reads ahead for streams, needs Python 3.11", allow_module_level=True)

Batch = tuple[Tensor, Tensor]


def columns(x: np.ndarray, g: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}{i}": array[:, i] for name, array in (("x", x), ("g", g)) for i in range(x.shape[1])}


def write(path: Path, x: np.ndarray, g: np.ndarray, group: int = 1000) -> Path:
    if path.suffix == ".npz":
        np.savez(path, x=x, g=g)
    else:
        pq.write_table(pa.table(columns(x, g)), path, row_group_size=group)
    return path


def tagged(first: int, count: int, dim: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Points whose first coordinate numbers the rows, and gradients that belong to no other point."""
    x = np.arange(first, first + count, dtype=np.float32)[:, None] + np.arange(dim, dtype=np.float32) / 4
    return x, -2 * x


def write_shards(folder: Path, sizes: Sequence[int], suffixes: Sequence[str], group: int = 1000) -> list[Path]:
    begins = np.cumsum([0, *sizes])
    return [
        write(folder / f"part-{i:02}{suffixes[i % len(suffixes)]}", *tagged(int(begins[i]), size), group)
        for i, size in enumerate(sizes)
    ]


def take(stream: SampleStream, count: int) -> list[Batch]:
    return [next(stream) for _ in range(count)]


def assert_same(got: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(got) == len(expected)
    for (x, g), (expected_x, expected_g) in zip(got, expected):
        assert torch.equal(x, expected_x)
        assert torch.equal(g, expected_g)


def fails(words: Sequence[str], call: Callable[[], object], kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert is_message(text), text
    assert "\n" not in text
    for word in words:
        assert word in text, text
