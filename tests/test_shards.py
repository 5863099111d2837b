"""What shards a stream takes: formats, types and layouts, and the errors of those that it cannot read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gradnets_fast.apps.train import shards
from gradnets_fast.apps.train.data import load_samples
from gradnets_fast.apps.train.shards import Shard, open_shard
from gradnets_fast.apps.train.stream import SampleStream, shards_of
from gradnets_fast.errors import is_message
from shard_files import assert_same, columns, fails, tagged, take, write


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", ">f4"])
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_numbers_of_any_type(tmp_path: Path, suffix: str, dtype: str) -> None:
    x = np.arange(200).reshape(100, 2).astype(dtype)
    if suffix == ".parquet":
        x = x.astype(x.dtype.newbyteorder("="))
    stream = SampleStream([write(tmp_path / f"a{suffix}", x, x[:, ::-1])], 100)
    got, gradients = next(stream)
    rows = got[:, 0].argsort()
    assert torch.equal(got[rows], torch.arange(200.0).reshape(100, 2))
    assert torch.equal(gradients, got.flip(1))


def test_npz_files_of_every_layout(tmp_path: Path) -> None:
    x, g = tagged(0, 1000, dim=3)
    paths = [tmp_path / f"{name}.npz" for name in ("rows", "columns", "compressed", "compressed-columns")]
    np.savez(paths[0], x=x, g=g, more=np.ones(5))
    np.savez(paths[1], x=np.asfortranarray(x), g=np.asfortranarray(g))
    np.savez_compressed(paths[2], g=g, x=x)
    np.savez_compressed(paths[3], x=np.asfortranarray(x), g=g)
    expected, *others = (take(SampleStream([path], 50, window=60), 25) for path in paths)
    for got in others:
        assert_same(got, expected)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_values_of_the_potential_are_streamed(tmp_path: Path, suffix: str) -> None:
    (x, g), path = tagged(0, 300), tmp_path / f"a{suffix}"
    values = 3 * x[:, 0] + 1
    if suffix == ".npz":
        np.savez(path, x=x, g=g, F=values)
    else:
        pq.write_table(pa.table({**columns(x, g), "F": values}), path, row_group_size=70)
    points, both = next(SampleStream([path], 300, window=40, fit="both"))
    assert torch.equal(both, torch.cat([-2 * points, 3 * points[:, :1] + 1], 1))
    points, values_alone = next(SampleStream([path], 300, window=40, fit="potential"))
    assert torch.equal(values_alone, 3 * points[:, :1] + 1)
    if suffix == ".npz":
        np.savez(path, x=x, F=values[:, None])
        fails(["F of shape (300,)", "got (300, 1)"], lambda: open_shard(path, "potential"))


def test_columns_come_in_any_order(tmp_path: Path) -> None:
    path, (x, g) = tmp_path / "a.parquet", tagged(0, 300, dim=11)
    table = pa.table({name: columns(x, g)[name] for name in reversed(columns(x, g))})
    pq.write_table(table.append_column("label", pa.array(["a"] * 300)), path, row_group_size=70)
    got, gradients = next(SampleStream([path], 300, window=40))
    rows = got[:, 0].argsort()
    loaded = load_samples(path)
    assert torch.equal(got[rows], loaded.x)
    assert torch.equal(gradients[rows], loaded.g)


def test_shards_come_by_name_whatever_the_file_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for path in paths:
        path.touch()
    monkeypatch.setattr("glob.glob", lambda *_, **__: list(map(str, reversed(paths))))
    assert shards_of(tmp_path) == paths


def test_shards_of_folders_patterns_and_files(tmp_path: Path) -> None:
    folder = tmp_path / "a [1]"
    inner = folder / "inner.parquet"
    inner.mkdir(parents=True)
    for name in ("b.npz", "a.parquet", ".hidden.npz", "c.csv", "inner.parquet/d.PARQUET"):
        (folder / name).touch()
    assert shards_of(folder) == shards_of(str(folder)) == [folder / "a.parquet", folder / "b.npz"]
    assert shards_of(folder / "b.npz") == [folder / "b.npz"]
    assert shards_of(tmp_path / "a*" / "*.npz") == [folder / "b.npz"]
    assert shards_of(f"{tmp_path}/**/*") == [folder / "a.parquet", folder / "b.npz", inner / "d.PARQUET"]


@pytest.mark.parametrize("source", ["", "*.csv", "missing", "*.parquet"])
def test_no_shards(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"expected files ending in \.parquet or \.npz, got none") as error:
        shards_of(tmp_path / source)
    assert is_message(str(error.value))


X, G = tagged(0, 100)
BROKEN: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    "dimension": ("b.parquet", lambda path: write(path, *tagged(0, 10, dim=3)), ["d = 2", "got d = 3"]),
    "column": ("b.parquet", lambda path: pq.write_table(pa.table({"x0": [1], "g0": [1], "x1": [1]}), path), ["g1"]),
    "columns": ("b.parquet", lambda path: pq.write_table(pa.table({"a": [1.0]}), path), ["columns x0", "got a"]),
    "text": ("b.parquet", lambda path: pq.write_table(pa.table({"x0": ["a"], "g0": [1.0]}), path), ["x0", "string"]),
    "array": ("b.npz", lambda path: np.savez(path, x=X), ["arrays x and g", "got x"]),
    "shapes": ("b.npz", lambda path: np.savez(path, x=X, g=G[1:]), ["(100, 2) and (99, 2)"]),
    "no columns": ("b.npz", lambda path: np.savez(path, x=X[:, :0], g=G[:, :0]), ["(100, 0)"]),
    "text array": ("b.npz", lambda path: np.savez(path, x=X.astype(str), g=G), ["b.npz: x", "numbers"]),
    "objects": ("b.npz", lambda path: np.savez(path, x=X.astype(object), g=G), ["b.npz: x", "numbers"]),
    "empty parquet": ("b.parquet", lambda path: path.touch(), ["a readable parquet file"]),
    "empty npz": ("b.npz", lambda path: path.touch(), ["a readable npz file"]),
    "format": ("b.csv", lambda path: path.touch(), [".parquet or .npz"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_shards_are_found_before_the_first_batch(tmp_path: Path, name: str) -> None:
    file, make, words = BROKEN[name]
    good = write(tmp_path / "a.npz", X, G)
    make(tmp_path / file)
    fails([file, *words], lambda: SampleStream([good, tmp_path / file], 10))


def test_a_missing_shard(tmp_path: Path) -> None:
    for name in ("b.parquet", "b.npz"):
        fails([name, "an existing file"], lambda name=name: SampleStream([tmp_path / name], 10), FileNotFoundError)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_truncated_shards(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"b{suffix}", X, G)
    path.write_bytes(path.read_bytes()[:-30])
    fails([path.name, f"a readable {suffix[1:]} file"], lambda: SampleStream([path], 10))
    fails([path.name, f"a readable {suffix[1:]} file"], lambda: load_samples(path))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_shards_damaged_within(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"b{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, x=X, g=G)
    else:
        pq.write_table(pa.table(columns(X, G)), path, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    stream = SampleStream([path], 10)
    data[200] ^= 1
    path.write_bytes(data)
    fails([path.name, f"a readable {suffix[1:]} file"], lambda: take(stream, 10))


@pytest.mark.parametrize(("suffix", "column"), [(".parquet", "column g1"), (".npz", "column g[:, 1]")])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e-300])
def test_numbers_that_float32_does_not_hold(tmp_path: Path, suffix: str, column: str, value: float) -> None:
    g = G.astype(np.float64)
    g[76, 1] = value
    path = write(tmp_path / f"b{suffix}", X, g, group=30)
    words = ["a number that float32 holds" if np.isfinite(value) else "a finite number"]
    words.append("NaN" if np.isnan(value) else str(value))
    fails([f"{path}: {column}, row 77", *words], lambda: take(SampleStream([path], 20, window=40), 5))


def test_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    table = pa.table({**columns(X, G), "x0": pa.array([*range(40), None, *range(59)], pa.int64())})
    pq.write_table(table, path, row_group_size=30)
    fails(["column x0, row 41", "no value"], lambda: take(SampleStream([path], 20, window=40), 5))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_shards_that_change_during_a_run(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"b{suffix}", X, G)
    stream = SampleStream([path], 10, window=10)
    next(stream)
    write(tmp_path / f"other{suffix}", *tagged(0, 99)).replace(path)
    fails([path.name, "100 rows, d = 2, as at the start", "99 rows"], lambda: take(stream, 10))


def replaced_within_a_read(patch: pytest.MonkeyPatch, path: Path, x: np.ndarray, g: np.ndarray) -> Shard:
    """A file that another takes the place of after a reader has looked into it, and before it reads on."""
    shard, other = open_shard(path), write(path.with_stem("other"), x, g, group=30)
    owner, name = (zipfile.ZipFile, "getinfo") if path.suffix == ".npz" else (shards, "_footer")
    real = getattr(owner, name)

    def looks(*arguments: Any) -> Any:
        found = real(*arguments)
        if other.exists() and arguments[1] != "x.npy":
            other.replace(path)
        return found

    patch.setattr(owner, name, looks)
    return shard


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_shards_that_change_during_a_read(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = replaced_within_a_read(monkeypatch, write(tmp_path / f"b{suffix}", X, G), *tagged(0, 99))
    fails([shard.path.name, "100 rows, d = 2, as at the start", "99 rows"], lambda: shard.read(0, 50))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_read_is_of_one_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = tagged(1000, 100)
    shard = replaced_within_a_read(monkeypatch, write(tmp_path / f"b{suffix}", X, G), x, g)
    assert np.array_equal(shard.read(20, 95), np.hstack([x, g])[20:95])
