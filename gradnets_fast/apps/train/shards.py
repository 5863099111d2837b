"""Shards: Parquet, NPZ and NPY files of samples, of which any run of rows can be read by itself.

A run is read through a buffer of some megabytes.  A Parquet file is decoded from the start of a row group, and a
compressed NPZ file from its own; of the uncompressed one that `numpy.savez` writes, only the run itself is read.
"""

from __future__ import annotations

import io
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from ...errors import message
from .columns import (
    FITS,
    array_columns,
    check_arrays,
    check_members,
    check_numbers,
    dim_of,
    readable,
    store,
    table_columns,
    unreadable,
)

FORMATS = (".parquet", ".npz")
_BATCH_ROWS, _BATCH_BYTES = 2**14, 2**23
_BUFFER_BYTES, _HEADER_BYTES = 2**16, 2**14
_MOST_ROWS, _MOST_BYTES = 2**12, 2**11
"""Rows of Parquet, and bytes of arrays, for each byte of a file: at least twice what compression reaches."""
_FOOTERS = 16
"""Footers of Parquet files that are kept: parsing that of a file with many blocks takes as long as reading a block."""


def import_extra(name: str) -> ModuleType:
    """Import a module of the optional extras `train` and `stream`.

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
        width: the numbers of a sample, d of its point and those of its targets.
        rows: the number of samples.
        groups: rows of each part at whose start decoding can begin: a Parquet row group, or a whole NPZ file.
    """

    def __init__(self, path: Path, fit: str, groups: list[int], names: list[str]) -> None:
        self.path, self.groups, self.width = path, groups, len(names)
        self.dim, self.rows = dim_of(self.width, fit), sum(groups)
        self._names, self._targets = names, FITS[fit]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The samples start … stop − 1, points before targets: (stop − start, width), float32.

        Raises:
            FileNotFoundError, ValueError: where the file is gone, damaged or another than it was; and naming file,
                column and row where float32 does not hold a number.
        """
        values = np.empty((stop - start, self.width), np.float32)
        # Readers open a file several times; if it is replaced in between, their result or error fits neither file.
        while not self._read_from_one_file(start, stop, values):
            pass
        return values

    def _read_from_one_file(self, start: int, stop: int, out: np.ndarray) -> bool:
        before = self._identity()
        try:
            self._read(start, stop, out)
        except (OSError, ValueError):
            if self._identity() == before:
                raise
            return False
        return self._identity() == before

    def _identity(self) -> tuple[int, ...]:
        with readable(self.path):
            status = self.path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    @abstractmethod
    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write the samples start … stop − 1 to `out`."""

    def _store(self, out: np.ndarray, values: np.ndarray, first: int, column: int) -> None:
        """Write values, (n, k), to a part of `out` that begins at this row of the file and this column."""
        store(out, values, str(self.path), self._names, first, column)

    def _check_unchanged(self, rows: int, dim: int = 0, *more: int) -> None:
        if (rows, dim, *more) != (self.rows, self.dim):
            expected, got = f"{self.rows} rows, d = {self.dim}, as at the start", f"{rows} rows, d = {dim}"
            raise ValueError(message("data", str(self.path), expected, got, "leave the files alone during a run"))


def open_shard(path: Path, fit: str = "gradient") -> Shard:
    """Read the metadata of a Parquet or NPZ file; fit: a name in FITS.

    Raises:
        FileNotFoundError, ValueError: where it is missing, damaged, or has other columns or arrays than the loader of
            single files asks for.
        ImportError: for a Parquet file without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        fix = "convert the file"
        raise ValueError(message("stream", str(path), "a file ending in " + " or ".join(FORMATS), repr(suffix), fix))
    return open_file(path, fit)


def open_file(path: Path, fit: str) -> Shard:
    """As `open_shard`, of an NPY file too: of one array, points before targets."""
    kinds: dict[str, type[_ParquetShard | _NpzShard | _NpyShard]]
    kinds = {".parquet": _ParquetShard, ".npz": _NpzShard, ".npy": _NpyShard}
    return kinds[path.suffix.lower()].open(path, fit)


def _check_room(path: Path, claimed: int, most: int) -> None:
    """Raise ValueError if a file says that it holds more than a file of its size can."""
    if claimed > most:
        raise unreadable(path, ValueError(f"{claimed} numbers or bytes in a file that has room for {most}"))


class _ParquetShard(Shard):
    @classmethod
    def open(cls, path: Path, fit: str) -> _ParquetShard:
        types = import_extra("pyarrow").types
        with readable(path):
            footer, size = import_extra("pyarrow.parquet").read_metadata(path), path.stat().st_size
            schema = footer.schema.to_arrow_schema()
        names = table_columns(path, schema.names, fit)
        for name in names:
            column_type = schema.field(name).type
            if not (types.is_floating(column_type) or types.is_integer(column_type)):
                fix = "save it as float32"
                got = str(column_type)[:100]
                raise ValueError(message("data", f"{path}: column {name}", "floats or integers", got, fix))
        groups = _groups(footer)
        if min(groups, default=0) < 0:
            raise unreadable(path, ValueError(f"a row group of {min(groups)} rows"))
        _check_room(path, sum(groups), _MOST_ROWS * size)
        return cls(path, fit, groups, names)

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        with readable(self.path):
            status = self.path.stat()
            footer = _footer(self.path, status.st_mtime_ns, status.st_size)
        self._check_unchanged(footer.num_rows, self.dim)
        groups = _groups(footer)
        ends = np.cumsum(groups)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        position = int(ends[first]) - groups[first]
        batches = self._batches(footer, range(first, last + 1))
        while position < stop:
            with readable(self.path):
                batch = next(batches, None)
                if batch is None:
                    raise EOFError(f"no row {position + 1}")
                low, high = max(start, position), min(stop, position + batch.num_rows)
                part = batch.slice(low - position, max(0, high - low))
                columns = [part.column(name).to_numpy(zero_copy_only=False) for name in self._names]
            for i, values in enumerate(columns):
                self._store(out[low - start : high - start, i : i + 1], values[:, None], low, i)
            position += batch.num_rows

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
    def open(cls, path: Path, fit: str) -> _NpzShard:
        with readable(path), zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        check_members(path, members, fit)
        shapes, dtypes = dict[str, tuple[int, ...]](), dict[str, np.dtype[Any]]()
        with readable(path):
            size = path.stat().st_size
            for name in ("x", *FITS[fit]):
                with _member(path, name) as file:
                    begin = file.tell()
                    shapes[name], _, dtypes[name] = _header(file)
                    ends = file.tell() - begin + math.prod(shapes[name]) * dtypes[name].itemsize
                if ends > (room := sizes[f"{name}.npy"]):
                    raise EOFError(f"{ends} bytes in a member that has room for {room}")
        check_arrays(path, shapes, dtypes)
        rows, dim = shapes["x"]
        _check_room(path, max(1, rows) * dim * dtypes["x"].itemsize, _MOST_BYTES * size)
        return cls(path, fit, [rows], array_columns(dim, fit))

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        first = 0
        for name in ("x", *self._targets):
            expected = (self.rows,) if name == "F" else (self.rows, self.dim)
            with readable(self.path), _member(self.path, name) as file:
                shape, by_columns, dtype = _header(file)
                full = (*expected, 1)[:2]
                values = _rows(file, start, stop, full, by_columns, dtype) if shape == expected else None
            self._check_unchanged(*shape, *((self.dim,) if name == "F" else ()))
            assert values is not None
            self._store(out[:, first : first + full[1]], values, start, first)
            first += full[1]


class _NpyShard(Shard):
    @classmethod
    def open(cls, path: Path, fit: str) -> _NpyShard:
        with readable(path), path.open("rb") as file:
            (shape, _, dtype), size = _header(file), path.stat().st_size
        dim = dim_of(shape[1], fit) if len(shape) == 2 and shape[0] >= 0 else 0
        if not dim:
            widths = {"g": "2d", "F": "d + 1", "gF": "2d + 1"}
            fix = f"join {', '.join(['x', *FITS[fit]])} along the last axis, for --fit {fit}"
            expected = f"an array (n, {widths[FITS[fit]]})"
            raise ValueError(message("data", str(path), expected, f"shape {shape}", fix))
        check_numbers(str(path), dtype)
        _check_room(path, max(1, shape[0]) * shape[1] * dtype.itemsize, _MOST_BYTES * size)
        return cls(path, fit, [shape[0]], array_columns(dim, fit))

    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        with readable(self.path), self.path.open("rb") as file:
            values = _rows(file, start, stop, *_header(file))
        self._store(out, values, start, 0)


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """An array of an NPZ file, opened at the start of its header."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(name + ".npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            with archive.open(entry) as member:
                yield member
            return
    with zipfile.ZipFile(path) as archive, archive.open(entry):
        pass  # which compares the member's own header with the directory
    # Python seeks in an archive's member by reading up to the place; in the file itself it does not.
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(entry.header_offset + 30 + int(lengths.sum()))
        yield file


def read_array(path: Path, member: str | None) -> np.ndarray:
    """The array of an NPY file, or a member of an NPZ file, whose checksum is compared.

    Raises:
        ValueError: it claims more than the file has room for.  Others: whatever NumPy and zipfile raise.
    """
    if member is not None:
        check_sum(path, [member])
    with path.open("rb") if member is None else _member(path, member) as file:
        shape, by_columns, dtype = _header(file)
        _check_room(path, math.prod(map(abs, shape)) * dtype.itemsize, _MOST_BYTES * path.stat().st_size)
        check_numbers(str(path), dtype)
        data = file.read(math.prod(shape) * dtype.itemsize) if min(shape, default=1) >= 0 else b""
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def check_sum(path: Path, names: Sequence[str]) -> None:
    """Raise BadZipFile unless these members of an NPZ file are as their checksums say."""
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as member:
                while member.read(2**20):
                    pass


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns are contiguous rather than rows, and dtype of the array that begins here."""
    begin = file.tell()
    head = io.BytesIO(file.read(_HEADER_BYTES))  # whatever length it claims
    major, _ = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(head)
    file.seek(begin + head.tell())
    return found


def _rows(
    file: IO[bytes], start: int, stop: int, shape: tuple[int, ...], by_columns: bool, dtype: np.dtype[Any]
) -> np.ndarray:
    """The rows start … stop − 1 of the array (n, k) that begins here, whose columns or rows are contiguous."""
    origin, (length, width), count = file.tell(), shape, stop - start

    def numbers(position: int, size: int) -> np.ndarray:
        file.seek(origin + position * dtype.itemsize)
        data = file.read(size * dtype.itemsize)
        if len(data) < size * dtype.itemsize:
            raise EOFError("the file ends within an array")
        return np.frombuffer(data, dtype)

    if not by_columns:
        return numbers(start * width, count * width).reshape(count, width)
    return np.stack([numbers(i * length + start, count) for i in range(width)], axis=1)
