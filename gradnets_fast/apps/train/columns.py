"""Checks of samples that every format shares: names, shapes, and numbers that float32 holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import message

FITS = {"gradient": "g", "potential": "F", "both": "gF"}
"""What a network may be fitted to, and the targets of that which a file has beside its points x (n, d): gradients
g (n, d), and values F (n,) of the potential.  In memory the targets of a point follow it, in this order."""


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


def dim_of(width: int, fit: str) -> int:
    """The dimension d of points that with their targets have this many numbers; 0 if no points have."""
    dim, rest = divmod(width - ("F" in FITS[fit]), 1 + ("g" in FITS[fit]))
    return 0 if rest or dim < 1 else dim


def table_columns(path: Path, present: Sequence[str], fit: str) -> list[str]:
    """The columns x0 … x{d−1}, g0 … g{d−1} and F that a table needs; raise ValueError unless each is there once."""
    dim = sum(1 for name in set(present) if name.startswith("x") and name[1:].isdecimal())
    arrays = ("x", *FITS[fit])
    if dim == 0:
        expected = ", ".join("F" if array == "F" else f"{array}0, …" for array in arrays)
        fix = "name coordinates x0, x1, …, gradients g0, g1, … and values of the potential F"
        raise ValueError(message("data", str(path), f"columns {expected}", _list(present), fix))
    names = [name for array in arrays for name in (["F"] if array == "F" else [f"{array}{i}" for i in range(dim)])]
    for name in names:
        if name not in present:
            needed = " and ".join("F" if array == "F" else f"{array}0 … {array}{dim - 1}" for array in arrays)
            fix = f"add it: there are {dim} columns x…, so for --fit {fit} {needed} are needed"
            raise ValueError(message("data", str(path), f"a column {name}", _list(present), fix))
        if present.count(name) > 1:
            fix = "rename or remove the others"
            raise ValueError(message("data", str(path), f"one column {name}", present.count(name), fix))
    return names


def array_columns(dim: int, fit: str) -> list[str]:
    """The names of the columns of arrays x and g, both (n, d), and F, (n,), for messages."""
    names = [f"{array}[:, {i}]" for array in ("x", *FITS[fit]) if array != "F" for i in range(dim)]
    return [*names, "F"] if "F" in FITS[fit] else names


def check_members(path: Path, present: Iterable[str], fit: str) -> None:
    """Raise ValueError unless the arrays that are needed are among those of an NPZ file, each once."""
    present, texts = list(present), {"x": "points", "g": "gradients", "F": "values"}
    names = ["x", *FITS[fit]]
    fix = f"save it as numpy.savez(file, {', '.join(f'{name}={texts[name]}' for name in names)})"
    if not set(names) <= set(present):
        expected = f"arrays {', '.join(names[:-1])} and {names[-1]}"
        raise ValueError(message("data", str(path), expected, _list(present), fix))
    for name in names:
        if present.count(name) > 1:
            raise ValueError(message("data", str(path), f"one array {name}", present.count(name), fix))


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")
    return shown if len(shown) <= 300 else f"{shown[:300]} …"


def check_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Raise ValueError unless x and g, if there is one, are numbers of one shape (n, d), and F of shape (n,)."""
    x, g = shapes["x"], shapes.get("g")
    if len(x) != 2 or x[0] < 0 or x[1] < 1 or g not in (None, x):
        expected, got = ("x", f"{x}") if g is None else ("x and g of one", f"{x} and {g}")
        fix = "give each point one target gradient of its dimension" if g is not None else "give points as rows"
        raise ValueError(message("data", str(path), f"{expected} shape (n, d)", got, fix))
    if shapes.get("F", x[:1]) != x[:1]:
        expected, fix = f"F of shape {x[:1]}, as x is {x}", "give each point one value of the potential"
        raise ValueError(message("data", str(path), expected, f"{shapes['F']}", fix))
    for name, dtype in dtypes.items():
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
