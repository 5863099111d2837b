"""Files of samples that are damaged, foreign or made to do harm: one line each, before memory is asked for."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradnets_fast.apps.train.data import FORMATS, load_samples
from gradnets_fast.apps.train.shards import open_shard
from gradnets_fast.errors import is_message
from training_runs import fails

X = np.random.default_rng(0).random((50, 2))
HUGE = 2**40


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(shape: str, dtype: str = "<f8", length: int | None = None) -> bytes:
    """The start of an NPY file of a shape that nothing follows."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length) + text


def npz(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def twice(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # Python has a word about it
        for name in "xxg":
            archive.writestr(f"{name}.npy", npy(X))


def encrypted(path: Path) -> None:
    """Each member's bit of encryption is set, in its header and in the directory."""
    np.savez_compressed(path, x=X, g=X)
    data = bytearray(path.read_bytes())
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(sign)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(sign, at + 4)
    path.write_bytes(data)


def table(path: Path, **columns: object) -> None:
    pq.write_table(pa.table(columns), path)


def names_twice(path: Path) -> None:
    pq.write_table(pa.table([pa.array([1.0])] * 3, names=["x0", "x0", "g0"]), path)


def other_numbers(path: Path) -> None:
    """An array that is stored as it is, with a bit changed, which its checksum tells."""
    np.savez(path, x=X, g=X)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


ONE = [1.0]
FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "compressed": (".csv", lambda path: path.write_bytes(gzip.compress(b"x0,g0\n1,2\n")), "readable csv"),
    "two columns of a name": (".csv", lambda path: path.write_text("x0,x0,g0\n1,2,3\n"), "one column x0, got 2"),
    "a long row": (".csv", lambda path: path.write_text("x0,g0\n1,2\n1,2,3\n"), "readable csv"),
    "words": (".csv", lambda path: path.write_text("n,g0,x0\na,1,2\nb,three,4\n"), "g0, row 2: expected a number"),
    "truths": (".csv", lambda path: path.write_text("x0,g0\ntrue,1\n"), "x0, row 1: expected a number"),
    "a zero byte": (".csv", lambda path: path.write_bytes(b"x0,g0\n1,2\n\0,2\n"), "column x0, row 2"),
    "a wide name": (".csv", lambda path: path.write_text("y" * 10**6 + "\n1\n"), "readable csv"),
    "many names": (".csv", lambda path: path.write_text("y," * 10**5 + "y\n"), "and 99981 more"),
    "an array as an archive": (".npz", lambda path: path.write_bytes(npy(X)), "readable npz"),
    "an archive as an array": (".npy", lambda path: npz(path, x=npy(X), g=npy(X)), "readable npy"),
    "objects": (".npy", lambda path: path.write_bytes(npy(np.array([[{}, {}]]))), "numbers, got dtype object"),
    "objects in an archive": (".npz", lambda path: np.savez(path, x=np.array([[{}]]), g=X), "of one shape"),
    "complex numbers": (".npy", lambda path: np.save(path, X * 1j), "numbers, got dtype complex128"),
    "structures": (".npy", lambda path: np.save(path, np.zeros((2, 2), "f8,f8")), "numbers, got dtype"),
    "a number": (".npy", lambda path: np.save(path, 1.0), "an array (n, 2d), got shape ()"),
    "a cube": (".npz", lambda path: np.savez(path, x=np.zeros((2, 2, 2)), g=np.zeros((2, 2, 2))), "one shape (n, d)"),
    "members of no array": (".npz", lambda path: npz(path, x=b"text", g=b"text"), "readable npz"),
    "two members of a name": (".npz", twice, "one array x, got 2"),
    "encrypted": (".npz", encrypted, "readable npz"),
    "a bit changed": (".npz", other_numbers, "Bad CRC-32"),
    "a long header": (".npy", lambda path: path.write_bytes(header("(1, 2)", length=2**32 - 1)), "readable npy"),
    "a deep header": (".npy", lambda path: path.write_bytes(header("(" * 5000 + ")" * 5000)), "readable npy"),
    "rows that are not there": (".npy", lambda path: path.write_bytes(header(f"({HUGE}, 2)")), "has room for"),
    "columns that are not there": (".npy", lambda path: path.write_bytes(header(f"(0, {HUGE})")), "has room for"),
    "fewer rows than none": (".npy", lambda path: path.write_bytes(header("(-1, 2)")), "got shape (-1, 2)"),
    "members of rows that are not there": (
        ".npz", lambda path: npz(path, x=header(f"({HUGE}, 2)"), g=header(f"({HUGE}, 2)")), "has room for",
    ),
    "fewer than none, in two": (".npz", lambda path: npz(path, x=header("(-1, 2)"), g=header("(-1, 2)")), "(-1, 2)"),
    "columns of a name": (".parquet", names_twice, "one column x0, got 2"),
    "lists": (".parquet", lambda path: table(path, x0=[[1.0]], g0=ONE), "floats or integers, got list"),
    "records": (".parquet", lambda path: table(path, x0=[{"a": 1.0}], g0=ONE), "floats or integers, got struct"),
    "truths in columns": (".parquet", lambda path: table(path, x0=[True], g0=ONE), "floats or integers, got bool"),
    "nothing in columns": (".parquet", lambda path: table(path, x0=[None], g0=ONE), "column x0"),
    "an archive as a table": (".parquet", lambda path: npz(path, x=npy(X), g=npy(X)), "readable parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_is_one_line(name: str, tmp_path: Path) -> None:
    suffix, make, words = FILES[name]
    path = tmp_path / f"data{suffix}"
    make(path)
    tracemalloc.start()
    try:
        fails("--data", path, "--out", tmp_path / "out", words=[str(path), words])
        assert tracemalloc.get_traced_memory()[1] < 5e7
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["points.npy", "points.npz"])
def test_points_that_are_not_there_are_one_line(name: str, tmp_path: Path) -> None:
    for shape in (f"({HUGE}, 2)", "(-1, 2)", f"({2**62}, {2**62})"):
        path = tmp_path / name
        path.write_bytes(header(shape)) if name.endswith("npy") else npz(path, x=header(shape))
        words = [str(path), "a readable np" if shape[1] != "-" else "points (n, d)"]
        fails("--task", "transport", "--data", path, "--target", path, "--out", tmp_path / "out", words=words[:1])


def test_what_does_not_fit_into_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in FORMATS:
        write(path := tmp_path / f"data{suffix}", compress=True)
        monkeypatch.setattr("gradnets_fast.apps.memory.memory_left", lambda: 500)
        fails("--data", path, "--out", tmp_path / "out", words=[str(path), "GB left", "shards, which are streamed"])


def write(path: Path, compress: bool) -> None:
    columns = {"x0": X[:, 0], "x1": X[:, 1], "g0": X[:, 0], "g1": X[:, 1]}
    if path.suffix == ".csv":
        path.write_text("\n".join(["x0,x1,g0,g1", *(",".join(map(repr, row)) for row in np.hstack([X, X]).tolist())]))
    elif path.suffix == ".npy":
        np.save(path, np.asfortranarray(np.hstack([X, X])) if compress else np.hstack([X, X]))
    elif path.suffix == ".npz":
        (np.savez_compressed if compress else np.savez)(path, x=X, g=X)
    else:
        pq.write_table(pa.table(columns), path, row_group_size=20, compression="snappy" if compress else "none")


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A copy with a byte changed, bytes lost or put in, a number changed, or the end cut off."""
    at, some = draw.randrange(len(data)), draw.randbytes(draw.randrange(1, 20))
    number = struct.pack("<q", draw.choice([-1, 0, 10**9, 2**31, 2**62]))
    new, lost = draw.choice([(some[:1], 1), (b"", len(some)), (some, 0), (number, 8), (b"", len(data))])
    return data[:at] + new + data[at + lost :]


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_anywhere_is_one_line_or_none(suffix: str, compress: bool, tmp_path: Path) -> None:
    path, draw = tmp_path / f"data{suffix}", random.Random(f"{suffix} {compress}")
    write(path, compress)
    data, errors = path.read_bytes(), list[str]()
    for _ in range(150):
        path.write_bytes(damaged(data, draw))
        for read in (load_samples, lambda path: open_shard(path).read(0, 1)):
            try:
                read(path)
            except (ValueError, MemoryError) as error:
                errors.append(str(error))
    assert len(errors) > 30
    for text in errors:
        assert is_message(text), text
        assert "\n" not in text
