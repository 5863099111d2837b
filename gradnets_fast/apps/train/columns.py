"""Checks of samples that every format shares: names, shapes, and numbers that float32 holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import message


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a foreign or damaged file into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        fix = "restore the file, or check the path"
        raise FileNotFoundError(message("data", str(path), "an existing file", "none", fix)) from error
    except MemoryError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    """The error for a file that a reader cannot make sense of, in one line."""
    cause = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(message("data", str(path), f"a readable {path.suffix[1:]} file", cause, "write it again"))


def table_columns(path: Path, present: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns x0 … x{d−1} and g0 … g{d−1} of a table; raise ValueError unless each is there once."""
    dim = sum(1 for name in set(present) if name.startswith("x") and name[1:].isdecimal())
    names = [f"x{i}" for i in range(dim)], [f"g{i}" for i in range(dim)]
    if dim == 0:
        fix = "rename the coordinates x0, x1, … and the target gradient g0, g1, …"
        raise ValueError(message("data", str(path), "columns x0, …, g0, …", _list(present), fix))
    for name in (*names[0], *names[1]):
        if name not in present:
            fix = f"add it: there are {dim} columns x…, so x0 … x{dim - 1} and g0 … g{dim - 1} are needed"
            raise ValueError(message("data", str(path), f"a column {name}", _list(present), fix))
        if present.count(name) > 1:
            fix = "rename or remove the others"
            raise ValueError(message("data", str(path), f"one column {name}", present.count(name), fix))
    return names


def array_columns(dim: int) -> tuple[list[str], list[str]]:
    """The names of the columns of arrays x and g, both (n, d), for messages."""
    return [f"x[:, {i}]" for i in range(dim)], [f"g[:, {i}]" for i in range(dim)]


def check_members(path: Path, present: Iterable[str]) -> None:
    """Raise ValueError unless arrays x and g are among those of an NPZ file, each once."""
    present = list(present)
    if not {"x", "g"} <= set(present):
        fix = "save it as numpy.savez(file, x=points, g=gradients)"
        raise ValueError(message("data", str(path), "arrays x and g", _list(present), fix))
    for name in "xg":
        if present.count(name) > 1:
            fix = "save it as numpy.savez(file, x=points, g=gradients)"
            raise ValueError(message("data", str(path), f"one array {name}", present.count(name), fix))


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return shown if len(shown) <= 300 else f"{shown[:300]} …"


def check_arrays(
    path: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]], dtypes: tuple[np.dtype[Any], np.dtype[Any]]
) -> None:
    """Raise ValueError unless x and g are numbers of one shape (n, d)."""
    if len(shapes[0]) != 2 or shapes[0] != shapes[1] or shapes[0][0] < 0 or shapes[0][1] < 1:
        fix = "give each point one target gradient of its dimension"
        raise ValueError(message("data", str(path), "x and g of one shape (n, d)", f"{shapes[0]} and {shapes[1]}", fix))
    for name, dtype in zip("xg", dtypes):
        check_numbers(f"{path}: {name}", dtype)


def check_numbers(where: str, dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless a dtype is one of floats or integers."""
    if dtype.kind not in "fiu":
        raise ValueError(message("data", where, "numbers", f"dtype {dtype}", "save numbers"))


def store(out: np.ndarray, values: np.ndarray, where: str, names: Sequence[str], first: int, column: int = 0) -> None:
    """Round numbers to float32, and raise ValueError naming file, column and row of the first that it does not hold.

    Args:
        out, values: (n, number of columns), `out` in float32.
        where: the file.
        names: what messages call the columns of the file.
        first, column: the number of rows of the file before these, and of columns.
    """
    with np.errstate(over="ignore", under="ignore"):
        out[...] = values
    wrong = ~np.isfinite(out)
    if values.dtype.kind == "f" and values.dtype.itemsize > 4:
        wrong |= (out == 0) & (values != 0)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        value, argument = values[place], f"{where}: column {names[column + place[1]]}, row {first + place[0] + 1}"
        if np.isfinite(value):
            fix = "scale the data" if out[place] else "scale the data, or write 0"
            raise ValueError(message("data", argument, "a number that float32 holds", str(value), fix))
        got = "no value or NaN" if np.isnan(value) else str(value)
        raise ValueError(message("data", argument, "a finite number", got, "correct or delete that row"))
