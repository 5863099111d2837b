"""Samples of a gradient field or its potential from a user's file: CSV, Parquet, NPZ or NPY.

`problem.py` loads whole files with it.  All formats but CSV are read as shards.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import message
from ..memory import check_memory
from .columns import FITS, dim_of, readable, store, table_columns, unreadable
from .shards import check_sum, import_extra, open_file

FORMATS = (".csv", ".parquet", ".npz", ".npy")
_NO_NUMBER = re.compile(r"CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'$", re.DOTALL)


@dataclass(frozen=True)
class Samples:
    """Points x (n, d) and their targets g, (n, d) gradients by default, float32, and where they came from."""

    x: Tensor
    g: Tensor
    source: str


def load_samples(path: Path, fit: str = "gradient") -> Samples:
    """Read points and what is fitted: their target gradients, values of the potential, or both.

    CSV and Parquet: columns x0 … x{d−1}, g0 … g{d−1} and F, in any order, others ignored.  NPZ: arrays x and g, (n, d),
    and F, (n,).  NPY: one array (n, 2d), (n, d + 1) or (n, 2d + 1): x, then g, then F.

    Raises:
        FileNotFoundError, ValueError: naming the file and the column, array or row at fault.
        MemoryError: the samples exceed the memory that is left.
    """
    suffix = path.suffix.lower()
    where = str(path)
    if suffix not in FORMATS:
        fix = "convert the file"
        raise ValueError(message("data", where, "a file ending in " + ", ".join(FORMATS), repr(path.suffix), fix))
    if not path.is_file():
        raise FileNotFoundError(message("data", where, "an existing file", "none", "check the path"))
    values = _read_csv(path, fit) if suffix == ".csv" else _read_shard(path, fit)
    if not len(values):
        raise ValueError(message("data", where, "at least one row", "none", "give some samples"))
    parts = np.split(values, [dim_of(values.shape[1], fit)], axis=1)
    x, g = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
    return Samples(x, g, where)


def _read_shard(path: Path, fit: str) -> np.ndarray:
    shard = open_file(path, fit)
    # The values, their parts, and what a reader holds of them.
    check_memory("data", str(path), 3 * 4 * shard.width * shard.rows, "split it into shards, which are streamed")
    if path.suffix.lower() == ".npz":
        with readable(path):
            check_sum(path, ["x", *FITS[fit]])
    return shard.read(0, shard.rows) if shard.rows else np.empty((0, shard.width), np.float32)


def _read_csv(path: Path, fit: str) -> np.ndarray:
    """The samples, as a shard reads them."""
    arrow, reader = import_extra("pyarrow"), import_extra("pyarrow.csv")
    check_memory("data", str(path), path.stat().st_size, "convert it to Parquet shards, which are streamed")
    with readable(path), path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
        if not header:
            raise EOFError("no names of columns in the first line")
    names = table_columns(path, header, fit)
    types = dict.fromkeys(names, arrow.float64())
    try:
        with path.open("rb") as file:
            table = reader.read_csv(
                file,
                read_options=reader.ReadOptions(use_threads=False),  # whose errors have no rows
                convert_options=reader.ConvertOptions(include_columns=names, column_types=types),
            )
    except (arrow.ArrowException, OSError, ValueError) as error:
        found = _NO_NUMBER.search(str(error))
        if found is None:
            raise unreadable(path, error) from error
        argument = f"{path}: column {header[int(found[1])]}, row {int(found[2]) - 1}"
        fix = "correct or delete that row"
        raise ValueError(message("data", argument, "a number", repr(found[3]), fix)) from error
    out = np.empty((len(table), len(names)), np.float32)
    values = np.stack([table.column(name).to_numpy() for name in names], axis=1) if len(table) else out
    store(out, values, str(path), names, 0)
    return out
