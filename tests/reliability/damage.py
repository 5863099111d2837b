"""Files that the package reads, changed: each is read rightly, as others read it, or refused in one line.

A block of them is read in one process with little memory, whose alarm goes off when a file takes long; what it was
reading when it died is what killed it.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import pickle
import random
import resource
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gradnets_fast.apps.train.checkpoint import Checkpoint, load_checkpoint, load_settings, save_checkpoint
from gradnets_fast.apps.train.data import load_samples
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.shards import open_shard
from gradnets_fast.apps.train.training import Trainer
from gradnets_fast.apps.train.transport import load_points
from gradnets_fast.errors import is_message

from . import mutation
from .children import Child, limit_memory
from .kinds import Block, Kind, Outcome
from .mutation import Mutate, bytes_anywhere, either, zipped

_MEMORY, _SECONDS, _BLOCK = 2**29, 20, 50
_REFUSALS = (OSError, TypeError, ValueError, MemoryError, ArithmeticError)
"""What the command line has one line for."""


@dataclass(frozen=True)
class Format:
    """A sort of file.

    Attributes:
        suffix: of its name, or the whole name.
        samples: whole files of it.
        mutate: changes one.
        check: reads a file, and raises AssertionError where what is read is wrong; what it raises else is judged.
    """

    suffix: str
    samples: Callable[[], Sequence[bytes]]
    mutate: Mutate
    check: Callable[[Path], object]


def refused(error: BaseException) -> bool:
    """Whether an error is the package's own, in one line."""
    text = str(error)
    return isinstance(error, _REFUSALS) and is_message(text) and "\n" not in text


def _block(form: Format) -> Block:
    def run(numbers: Sequence[int]) -> list[Outcome]:
        """The outcomes of the numbers in turn, in as many processes as are needed for all of them."""
        found: list[Outcome] = []
        while len(found) < len(numbers):
            left = numbers[len(found) :]
            child = Child(functools.partial(_read_all, form, left))
            try:
                ended, text = child.wait(_SECONDS * len(left)), ""
            except AssertionError as error:
                text = str(error)
            lines = child.printed().splitlines()
            found += [Outcome(left[i], *json.loads(line)) for i, line in enumerate(lines[: len(left)])]
            if len(lines) < len(left):
                found.append(Outcome(left[len(lines)], "failed", text or f"the process died of it: {ended}"))
        return found

    return run


def changed(form: Format, number: int) -> bytes:
    """The file of a number."""
    draw = random.Random(f"{form.suffix} {number}")
    return form.mutate(draw.choice(form.samples()), draw)


def _read_all(form: Format, numbers: Sequence[int]) -> int:
    form.samples()
    limit_memory(_MEMORY)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        path = Path(folder, form.suffix if form.suffix[0] != "." else f"data{form.suffix}")
        for number in numbers:
            path.write_bytes(changed(form, number))
            print(json.dumps(_outcome(form, path)), flush=True)
    return 0


def _outcome(form: Format, path: Path) -> tuple[str, str]:
    """The word for what reading a file came to, and what is wrong with that."""
    signal.signal(signal.SIGALRM, _too_long)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    signal.alarm(_SECONDS)
    try:
        form.check(path)
        word = "read rightly"
    except AssertionError as error:
        return "failed", f"read wrongly: {error}"[:2000]
    except Exception as error:
        if not refused(error):
            import traceback

            return "failed", traceback.format_exc()[-3000:]
        word = "refused"
    finally:
        signal.alarm(0)
    grown, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began
    if grown > 200_000:
        return "failed", f"{word}, and took {grown} kB"
    return (word, "") if seconds < 10 else ("failed", f"{word}, and took {seconds} s")


def _too_long(number: int, frame: object) -> None:
    raise RuntimeError(f"no end within {_SECONDS} s")


def _numbers() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((60, 2)).astype(np.float32)
    return x, np.tanh(x)


@functools.lru_cache(maxsize=1)
def _arrays() -> list[bytes]:
    x, g = _numbers()
    whole = np.hstack([x, g])
    return [_saved(np.save, array) for array in (whole, np.asfortranarray(whole), whole.astype("<f8"), whole[:0])]


def _saved(save: Callable[..., object], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


@functools.lru_cache(maxsize=1)
def _archives() -> list[bytes]:
    x, g = _numbers()
    return [
        *(_saved(save, x=x, g=g) for save in (np.savez, np.savez_compressed)),
        _saved(np.savez, x=x.astype("<f8"), g=np.asfortranarray(g), F=x[:, 0]),
    ]


@functools.lru_cache(maxsize=1)
def _tables() -> list[bytes]:
    x, g = _numbers()
    columns = {f"{name}{i}": a[:, i] for name, a in (("x", x), ("g", g)) for i in range(2)}
    found = []
    for options in (
        {"compression": "none", "write_page_checksum": True},
        {"compression": "snappy", "row_group_size": 20, "write_page_checksum": True},
        {"compression": "zstd", "use_dictionary": False, "row_group_size": 7, "write_page_checksum": True},
    ):
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file, **options)
        found.append(file.getvalue())
    return found


@functools.lru_cache(maxsize=1)
def _texts() -> list[bytes]:
    x, g = _numbers()
    rows = [",".join(map(repr, row)) for row in np.hstack([x, g])[:20].tolist()]
    return [
        "\n".join(["x0,x1,g0,g1", *rows]).encode(),
        "\n".join(["g1,x0,name,g0,x1", *(r + ",0" for r in rows)]).encode(),
    ]


def _check_samples(path: Path) -> None:
    """As the loader of single files, the reader of shards and the loader of points read it, and as its own library."""
    ways: list[Callable[[], np.ndarray]] = [lambda: _joined(load_samples(path))]
    if path.suffix in (".npz", ".parquet"):
        ways.append(lambda: _shard(path))
    errors = []
    for way in ways:
        try:
            found = way()
        except Exception as error:
            if not refused(error):
                raise
            errors.append(error)
            continue
        try:
            expected = _independent(path)
        except zipfile.BadZipFile as error:
            # A part of an array that is stored as it is has no checksum: a shard's reader cannot know.
            if "CRC" in str(error) and way is not ways[0]:
                continue
            raise
        assert found.shape == expected.shape, (found.shape, expected.shape)
        assert np.array_equal(found, expected), "other numbers than its own library reads"
    try:
        load_points(path)
    except Exception as error:
        if not refused(error):
            raise
    if errors:
        raise errors[0]


def _joined(samples: Any) -> np.ndarray:
    return np.hstack([samples.x.numpy(), samples.g.numpy()])


def _shard(path: Path) -> np.ndarray:
    shard = open_shard(path)
    if shard.rows > 2**16:  # a stream reads a part at a time
        return shard.read(0, 1)
    return shard.read(0, shard.rows)


def _independent(path: Path) -> np.ndarray:
    """The samples as NumPy and PyArrow read them by themselves, rounded to float32."""
    if path.suffix == ".npy":
        found = np.load(path, allow_pickle=False)
    elif path.suffix == ".npz":
        # Not by numpy.load, which takes an archive with something before it for a pickle.
        with zipfile.ZipFile(path) as archive:
            members = [archive.open(f"{name}.npy") for name in "xg"]
            found = np.hstack([np.lib.format.read_array(member, allow_pickle=False) for member in members])
    else:
        reader = importlib.import_module("pyarrow.csv").read_csv if path.suffix == ".csv" else pq.read_table
        table = reader(path)
        dim = sum(name[:1] == "x" and name[1:].isdecimal() for name in table.column_names)
        names = [f"{a}{i}" for a in "xg" for i in range(dim)]
        found = np.stack([table.column(name).to_numpy().astype(np.float64) for name in names], 1)
    return found.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _checkpoints() -> list[bytes]:
    found = []
    for settings in _settings():
        trainer = Trainer(settings)
        for _ in range(5):
            trainer.advance()
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), trainer.checkpoint())
            found.append(Path(folder, "checkpoint.safetensors").read_bytes())
    return found


@functools.lru_cache(maxsize=1)
def _settings() -> list[Settings]:
    small = {"steps": 20, "samples": 300, "batch_size": 100}
    return [Settings(**small), Settings(arch="mgradnet-m", layers=2, amp="float16", **small)]


def _check_checkpoint(path: Path) -> None:
    """What is loaded is what the file says, by its format; and a run that takes it goes on from there."""
    checkpoint = load_checkpoint(path.parent)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert checkpoint.step == int(header["__metadata__"]["step"])
    history = [(number, float(loss)) for number, loss in json.loads(header["__metadata__"]["history"])]
    assert checkpoint.history == history
    for name, t in checkpoint.model.items():
        first, last = header[f"model.{name}"]["data_offsets"]
        assert t.numpy().tobytes() == data[8 + length + first : 8 + length + last], name
    resumed = 0
    for settings in _settings():
        trainer = Trainer(settings)
        try:
            trainer.resume(checkpoint)
        except Exception as error:
            if not refused(error):
                raise
            continue
        resumed += 1
        again: Checkpoint = trainer.checkpoint()
        assert again.step == checkpoint.step
        assert again.history == checkpoint.history
        for name, t in again.model.items():
            assert torch.equal(t, checkpoint.model[name]), name
    if not resumed:
        raise ValueError("checkpoint: it: expected a run's, got none of these; refused when resumed")


def _check_settings(path: Path) -> None:
    """Settings that are taken are written again as they were."""
    found = load_settings(path.parent)
    settings = Settings.from_json(found)
    written = settings.to_json()
    for name, value in found.items():
        assert written[name] == value or found[name] is None, (name, value, written[name])


_KERNELS = ("configuration", "prebuilt", "sources")


def _kernel_module(name: str) -> Any:
    return importlib.import_module(f"gradnets_fast.kernels.{name}")


@functools.lru_cache(maxsize=1)
def _tiles() -> list[bytes]:
    committed = json.loads(_kernel_module("configuration").TABLE.read_text(encoding="utf-8"))
    few = {a: {k: {kind: entries[:2] for kind, entries in kinds.items()} for k, kinds in [*kernels.items()][:3]}
           for a, kernels in committed.items()}  # fmt: skip
    return [json.dumps({"tables": few, "device": "a GPU"}).encode(), b'{"tables": {}}']


def _check_tiles(path: Path) -> None:
    """Every shape gets tiles that a kernel can be compiled with."""
    import os

    configuration = _kernel_module("configuration")
    os.environ["GRADNETS_FAST_TABLE"] = str(path)
    configuration.table.cache_clear()
    configuration.options.cache_clear()
    for architecture in configuration.ARCHITECTURES:
        for kernel in configuration.TILES:
            for kind in configuration.KINDS:
                for d in (1, 2, 3, 16, 100):
                    found = configuration.options(kernel, architecture, kind, d, 3)
                    assert found is None or _are_tiles(found), (kernel, kind, d, found)


def _are_tiles(options: dict[str, Any]) -> bool:
    sizes = [value for name, value in options.items() if name[:2] in ("BM", "BH", "BN")]
    others = [options[name] for name in ("num_warps", "num_stages") if name in options]
    return all(type(n) is int and 0 < n <= 2**14 and n & (n - 1) == 0 for n in [*sizes, *others[:1]]) and all(
        type(n) is int and 0 < n < 100 for n in others
    )


@functools.lru_cache(maxsize=1)
def _prebuilt() -> list[bytes]:
    """An archive as the build writes it, of kernels that are those of these sources, and machine code that is none."""
    prebuild, hot = (importlib.import_module(f"gradnets_fast.kernels.{name}") for name in ("prebuild", "hot"))
    sources = _kernel_module("sources")
    entries, images = [], {}
    for number, launch in enumerate(list(hot.launches(80))[:6]):
        name = f"sm_80/{number}.cubin"
        images[name] = b"machine code " * 100
        entries.append({
            "kernel": launch.kernel, "constants": launch.constants, "types": launch.types,
            "multiples": sorted(launch.multiples), "target": "sm_80", "symbol": "f", "threads": 128, "shared": 4096,
            "registers": 64, "stack": 0, "parameters": ["u64"], "image": name,
            "sources": sources.digest(launch.kernel, sources.names_in(launch.constants)),
        })  # fmt: skip
    manifest = {"format": _kernel_module("prebuilt").FORMAT, "triton": "3.9.0", "toolkit": "13.0", "kernels": entries}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prebuilt.zip")
        prebuild._write(path, manifest, images)
        return [path.read_bytes()]


def _check_prebuilt(path: Path) -> None:
    """The archive and its images are what the build wrote, or there is none."""
    module = _kernel_module("prebuilt")
    try:
        archive = module.read(path)
        images = [archive.image(kernel) for found in archive.kernels.values() for kernel in found]
        counts = archive.targets()
    except module.PrebuiltError as error:
        known = is_message(str(error)) or "compiled from other kernels" in str(error)
        text = "prebuilt: it: expected what the build writes, got another; refused"
        raise ValueError(text if known else str(error)) from error
    for kernel in (kernel for found in archive.kernels.values() for kernel in found):
        for number in (kernel.threads, kernel.shared):
            assert type(number) is int, kernel
        for text in (kernel.target, kernel.symbol, kernel.image):
            assert type(text) is str, kernel
    assert sum(counts.values()) == len(images)
    pickle.dumps(archive)


_FORMATS = {
    "damaged .npy": Format(".npy", _arrays, either(mutation.npy, bytes_anywhere), _check_samples),
    "damaged .npz": Format(".npz", _archives, either(zipped(mutation.npy), bytes_anywhere), _check_samples),
    "damaged .parquet": Format(".parquet", _tables, bytes_anywhere, _check_samples),
    "damaged .csv": Format(".csv", _texts, mutation.csv, _check_samples),
    "damaged checkpoints": Format(
        "checkpoint.safetensors", _checkpoints, either(mutation.safetensors, bytes_anywhere), _check_checkpoint
    ),
    "damaged settings": Format(
        "settings.json",
        lambda: [json.dumps(settings.to_json()).encode() for settings in _settings()],
        either(mutation.json_text, mutation.json_text, bytes_anywhere),
        _check_settings,
    ),
    "damaged tables of tiles": Format(
        "table.json", _tiles, either(mutation.json_text, mutation.json_text, bytes_anywhere), _check_tiles
    ),
    "damaged archives of kernels": Format(
        "prebuilt.zip", _prebuilt, either(zipped(mutation.json_or_bytes), bytes_anywhere), _check_prebuilt
    ),
}
_WHAT = {
    ".npy": "samples in an array whose header, dtype, shape or bytes are changed",
    ".npz": "samples in an archive whose members, methods of compression, headers or bytes are changed (of an array "
    "that is stored as it is, a shard's reader has no checksum of a part: numbers in it may be others)",
    ".parquet": "samples in a table whose bytes are changed",
    ".csv": "samples in a text whose cells, lines, separators or bytes are changed",
    "checkpoint.safetensors": "checkpoints whose header, metadata, JSON texts or bytes are changed",
    "settings.json": "settings of a run, changed",
    "table.json": "the table that `gradnets-fast tune` writes, changed: no shape gets tiles that do not compile",
    "prebuilt.zip": "the archive of kernels compiled ahead of time, its manifest and its images changed",
}
_COUNT = 2000

KINDS = tuple(
    Kind(name, f"{_WHAT[form.suffix]}: read as its own library reads it, or refused in one line, within 512 MiB and "
         f"{_SECONDS} s", _COUNT, _block(form), _BLOCK)
    for name, form in _FORMATS.items()
)  # fmt: skip
