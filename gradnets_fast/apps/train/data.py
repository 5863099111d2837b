"""Samples of a gradient field from a user's file: CSV, Parquet, NPZ or NPY.

`problem.py` loads whole files with it; `shards.py` takes its checks of names, shapes and values.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import message

FORMATS = (".csv", ".parquet", ".npz", ".npy")


@dataclass(frozen=True)
class Samples:
    """Points x and target gradients g, both (n, d), float32, and where they came from."""

    x: Tensor
    g: Tensor
    source: str


def load_samples(path: Path) -> Samples:
    """Read points and target gradients.

    CSV and Parquet: columns x0 … x{d−1} and g0 … g{d−1}, in any order, others ignored.  NPZ: arrays x and g, (n, d).
    NPY: one array (n, 2d), x before g.

    Raises:
        FileNotFoundError, ValueError: naming the file and the column, array or row at fault.
    """
    suffix = path.suffix.lower()
    where = str(path)
    if suffix not in FORMATS:
        fix = "convert the file"
        raise ValueError(message("data", where, "a file ending in " + ", ".join(FORMATS), repr(path.suffix), fix))
    if not path.is_file():
        raise FileNotFoundError(message("data", where, "an existing file", "none", "check the path"))
    try:
        x, g, names = _read(path, suffix)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    for values, columns in ((x, names[0]), (g, names[1])):
        if not len(values):
            raise ValueError(message("data", where, "at least one row", "none", "give some samples"))
        check_finite(where, values, columns)
    return Samples(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(g.astype(np.float32)), where)


def _read(path: Path, suffix: str) -> tuple[np.ndarray, np.ndarray, tuple[list[str], list[str]]]:
    if suffix in (".csv", ".parquet"):
        return _read_table(path, suffix)
    x, g = _read_numpy(path, suffix)
    check_arrays(path, (x.shape, g.shape), (x.dtype, g.dtype))
    return x, g, array_columns(x.shape[1])


def _read_numpy(path: Path, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        # Given a path, numpy leaves a truncated file open.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if suffix == ".npz":
                arrays = {name: loaded[name] for name in loaded.files}
    except ValueError as error:
        raise ValueError(
            message("data", str(path), f"a numeric {suffix[1:]} file", str(error), "write it again")
        ) from error
    if suffix == ".npy":
        if loaded.ndim != 2 or loaded.shape[1] % 2 or not loaded.shape[1]:
            fix = "join the points and the gradients along the last axis"
            raise ValueError(message("data", str(path), "an array (n, 2d)", f"shape {loaded.shape}", fix))
        return loaded[:, : loaded.shape[1] // 2], loaded[:, loaded.shape[1] // 2 :]
    check_members(path, arrays)
    return arrays["x"], arrays["g"]


def _read_table(path: Path, suffix: str) -> tuple[np.ndarray, np.ndarray, tuple[list[str], list[str]]]:
    import polars as pl

    try:
        table = pl.read_csv(path, infer_schema_length=None) if suffix == ".csv" else pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise unreadable(path, error) from error
    names = table_columns(path, table.columns)
    dim = len(names[0])
    for name in (*names[0], *names[1]):
        if len(table) and not table[name].dtype.is_numeric():
            row, value = _first_non_number(table[name].cast(pl.String).to_list())
            fix = "correct or delete that row"
            raise ValueError(message("data", f"{path}: column {name}, row {row}", "a number", repr(value), fix))
    filled = table.select([*names[0], *names[1]]).cast(pl.Float64).fill_null(float("nan"))
    values = filled.to_numpy()
    return values[:, :dim], values[:, dim:], names


def _first_non_number(values: list[str | None]) -> tuple[int, str | None]:
    for row, value in enumerate(values, start=1):
        try:
            float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return row, value
    return 1, values[0] if values else None


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that a reader cannot make sense of, in one line."""
    cause = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(message("data", str(path), f"a readable {path.suffix[1:]} file", cause, "write it again"))


def table_columns(path: Path, present: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns x0 … x{d−1} and g0 … g{d−1} of a table; raise ValueError if one is missing."""
    dim = sum(1 for name in present if name.startswith("x") and name[1:].isdigit())
    names = [f"x{i}" for i in range(dim)], [f"g{i}" for i in range(dim)]
    if dim == 0:
        fix = "rename the coordinates x0, x1, … and the target gradient g0, g1, …"
        raise ValueError(message("data", str(path), "columns x0, …, g0, …", ", ".join(present), fix))
    for name in (*names[0], *names[1]):
        if name not in present:
            fix = f"add it: there are {dim} columns x…, so x0 … x{dim - 1} and g0 … g{dim - 1} are needed"
            raise ValueError(message("data", str(path), f"a column {name}", ", ".join(present), fix))
    return names


def array_columns(dim: int) -> tuple[list[str], list[str]]:
    """The names of the columns of arrays x and g, both (n, d), for messages."""
    return [f"x[:, {i}]" for i in range(dim)], [f"g[:, {i}]" for i in range(dim)]


def check_members(path: Path, present: Iterable[str]) -> None:
    """Raise ValueError unless arrays x and g are among those of an NPZ file."""
    if not {"x", "g"} <= set(present):
        fix = "save it as numpy.savez(file, x=points, g=gradients)"
        raise ValueError(message("data", str(path), "arrays x and g", ", ".join(present) or "none", fix))


def check_arrays(
    path: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]], dtypes: tuple[np.dtype[Any], np.dtype[Any]]
) -> None:
    """Raise ValueError unless x and g are numbers of one shape (n, d)."""
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not shapes[0][1]:
        fix = "give each point one target gradient of its dimension"
        raise ValueError(message("data", str(path), "x and g of one shape (n, d)", f"{shapes[0]} and {shapes[1]}", fix))
    for name, dtype in zip("xg", dtypes):
        if dtype.kind not in "fiu":
            raise ValueError(message("data", f"{path}: {name}", "numbers", f"dtype {dtype}", "save numbers"))


def check_finite(where: str, values: np.ndarray, names: Sequence[str], first: int = 0) -> None:
    """Raise ValueError naming the file, column and row of the first number that is not finite.

    Args:
        where: the file.
        values: (n, number of columns).
        names: what messages call the columns.
        first: the number of rows of the file before these.
    """
    finite = np.isfinite(values)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        got = "no value or NaN" if np.isnan(values[row, column]) else str(values[row, column])
        argument = f"{where}: column {names[column]}, row {first + row + 1}"
        raise ValueError(message("data", argument, "a finite number", got, "correct or delete that row"))
