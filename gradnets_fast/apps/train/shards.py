"""Shards: Parquet and NPZ files of samples, of which any run of rows can be read by itself.

A run is read through a buffer of some megabytes.  A Parquet file is decoded from the start of a row group, and a
compressed NPZ file from its own; of the uncompressed one that `numpy.savez` writes, only the run itself is read.
"""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from ...errors import message
from .data import array_columns, check_arrays, check_finite, check_members, table_columns, unreadable

FORMATS = (".parquet", ".npz")
_BATCH_ROWS, _BATCH_BYTES = 2**14, 2**23
_BUFFER_BYTES = 2**16
_FOOTERS = 16
"""Footers of Parquet files that are kept: parsing that of a file with many blocks takes as long as reading a block."""


def import_extra(name: str) -> ModuleType:
    """Import a module of the optional extra `stream`.

    Raises:
        ImportError: it is missing; the message has the command that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        fix = "pip install 'gradnets_fast[stream]'"
        raise ImportError(message("stream", name.split(".")[0], "an installed package", str(error), fix)) from error


class Shard(ABC):
    """One file of samples.

    Attributes:
        path: the file.
        dim: the dimension d of the points.
        rows: the number of samples.
        groups: rows of each part at whose start decoding can begin: a Parquet row group, or a whole NPZ file.
    """

    def __init__(self, path: Path, dim: int, groups: list[int], names: tuple[list[str], list[str]]) -> None:
        self.path, self.dim, self.groups = path, dim, groups
        self.rows = sum(groups)
        self._names = [*names[0], *names[1]]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The samples start … stop − 1, x before g: (stop − start, 2d), float32.

        Raises:
            FileNotFoundError, ValueError: where the file is gone, damaged or another than it was; and naming file,
                column and row where a number is not finite.
        """
        values = np.empty((stop - start, 2 * self.dim), np.float32)
        # Readers open a file several times; if it is replaced in between, their result or error fits neither file.
        while not self._read_from_one_file(start, stop, values):
            pass
        check_finite(str(self.path), values, self._names, start)
        return values

    def _read_from_one_file(self, start: int, stop: int, out: np.ndarray) -> bool:
        before = self._identity()
        try:
            # A number too large for float32 becomes inf, which the check of the values reports.
            with np.errstate(over="ignore"):
                self._read(start, stop, out)
        except (OSError, ValueError):
            if self._identity() == before:
                raise
            return False
        return self._identity() == before

    def _identity(self) -> tuple[int, ...]:
        with _readable(self.path):
            status = self.path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    @abstractmethod
    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write the samples start … stop − 1 to `out`."""

    def _check_unchanged(self, rows: int, dim: int) -> None:
        if (rows, dim) != (self.rows, self.dim):
            expected, got = f"{self.rows} rows, d = {self.dim}, as at the start", f"{rows} rows, d = {dim}"
            raise ValueError(message("stream", str(self.path), expected, got, "leave the files alone during a run"))


def open_shard(path: Path) -> Shard:
    """Read the metadata of a Parquet or NPZ file.

    Raises:
        FileNotFoundError, ValueError: where it is missing, damaged, or has other columns or arrays than the loader of
            single files asks for.
        ImportError: for a Parquet file without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        fix = "convert the file"
        raise ValueError(message("stream", str(path), "a file ending in " + " or ".join(FORMATS), repr(suffix), fix))
    return _ParquetShard.open(path) if suffix == ".parquet" else _NpzShard.open(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn a reader's exception into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        fix = "restore the file, or check the path"
        raise FileNotFoundError(message("stream", str(path), "an existing file", "none", fix)) from error
    except (OSError, EOFError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error) from error


class _ParquetShard(Shard):
    @classmethod
    def open(cls, path: Path) -> _ParquetShard:
        types = import_extra("pyarrow").types
        with _readable(path):
            footer = import_extra("pyarrow.parquet").read_metadata(path)
            schema = footer.schema.to_arrow_schema()
        names = table_columns(path, schema.names)
        for name in (*names[0], *names[1]):
            column_type = schema.field(name).type
            if not (types.is_floating(column_type) or types.is_integer(column_type)):
                fix = "save it as float32"
                raise ValueError(message("stream", f"{path}: column {name}", "floats or integers", column_type, fix))
        return cls(path, len(names[0]), _groups(footer), names)

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        with _readable(self.path):
            status = self.path.stat()
            footer = _footer(self.path, status.st_mtime_ns, status.st_size)
        self._check_unchanged(footer.num_rows, self.dim)
        groups = _groups(footer)
        ends = np.cumsum(groups)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        position = int(ends[first]) - groups[first]
        with _readable(self.path):
            for batch in self._batches(footer, range(first, last + 1)):
                low, high = max(start, position), min(stop, position + batch.num_rows)
                if low < high:
                    part = batch.slice(low - position, high - low)
                    for i, name in enumerate(self._names):
                        out[low - start : high - start, i] = part.column(name).to_numpy(zero_copy_only=False)
                position += batch.num_rows
                if position >= stop:
                    return
            raise EOFError(f"no row {position + 1}")

    def _batches(self, footer: Any, groups: range) -> Iterator[Any]:
        """The rows of some row groups, decoded little by little."""
        parquet = import_extra("pyarrow.parquet")
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (8 * self.dim)))
        options = {"buffer_size": _BUFFER_BYTES, "page_checksum_verification": True}
        with parquet.ParquetFile(self.path, metadata=footer, **options) as file:
            yield from file.iter_batches(rows, row_groups=list(groups), columns=self._names, use_threads=False)


def _groups(footer: Any) -> list[int]:
    return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]


@lru_cache(maxsize=_FOOTERS)
def _footer(path: Path, modified: int, size: int) -> Any:
    """The metadata of a Parquet file; a replaced file differs in its time of change or its size."""
    return import_extra("pyarrow.parquet").read_metadata(path)


class _NpzShard(Shard):
    @classmethod
    def open(cls, path: Path) -> _NpzShard:
        with _readable(path), zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
        check_members(path, members)
        with _readable(path), _member(path, "x") as x, _member(path, "g") as g:
            (x_shape, _, x_dtype), (g_shape, _, g_dtype) = _header(x), _header(g)
        check_arrays(path, (x_shape, g_shape), (x_dtype, g_dtype))
        return cls(path, x_shape[1], [x_shape[0]], array_columns(x_shape[1]))

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        for name, half in zip("xg", np.split(out, 2, axis=1)):
            with _readable(self.path), _member(self.path, name) as file:
                (rows, dim), by_columns, dtype = _header(file)
                if (rows, dim) == (self.rows, self.dim):
                    _read_rows(file, half, start, rows if by_columns else None, dtype)
            self._check_unchanged(rows, dim)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """An array of an NPZ file, opened at the start of its header."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name + ".npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            with archive.open(entry) as member:
                yield member
            return
    # Python seeks in an archive's member by reading up to the place; in the file itself it does not.
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(entry.header_offset + 30 + int(lengths.sum()))
        yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns are contiguous rather than rows, and dtype of the array that begins here."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return read(file)


def _read_rows(file: IO[bytes], out: np.ndarray, start: int, column_length: int | None, dtype: np.dtype[Any]) -> None:
    """Fill `out` with rows from `start` on of the array that begins here.

    column_length: the length of a column, if the array is stored by columns; None if by rows.
    """
    origin, (count, dim) = file.tell(), out.shape

    def numbers(position: int, size: int) -> np.ndarray:
        file.seek(origin + position * dtype.itemsize)
        data = file.read(size * dtype.itemsize)
        if len(data) < size * dtype.itemsize:
            raise EOFError("the file ends within an array")
        return np.frombuffer(data, dtype)

    if column_length is None:
        out[:] = numbers(start * dim, count * dim).reshape(count, dim)
    else:
        for i in range(dim):
            out[:, i] = numbers(i * column_length + start, count)
