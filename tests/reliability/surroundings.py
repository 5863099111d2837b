"""What a machine does to a run: a disk without room, folders that nobody may write to, clocks that jump, no memory."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .children import Child, Disk, Ended, can_mount, check_refused, limit_files, limit_memory, obey_permissions
from .kinds import Kind, one_by_one
from .runs import Run, check_same, check_whole, finish
from .writers import WRITERS

Prepare = Callable[[], object]


@contextlib.contextmanager
def _little_room(draw: random.Random, folder: Path) -> Iterator[tuple[Prepare, Prepare]]:
    """What a process does first to have little room for files in a folder, and what gives it room again."""
    folder.mkdir()
    if can_mount() and draw.random() < 0.6:
        with Disk(folder, 4096 * draw.randint(1, 40), draw.choice([2, 4, 6, 100])) as disk:
            yield (lambda: None), disk.grow
    else:
        size = draw.choice([0, draw.randrange(4000), draw.randrange(200_000)])
        yield (lambda: limit_files(size)), (lambda: None)


def _full(number: int, folder: Path) -> str:
    """Write where there is no room: what was there stays, nothing else is left, and the error says which file."""
    draw = random.Random(f"full {number}")
    return _full_run(draw, folder) if draw.random() < 0.5 else _full_file(draw, folder)


def _full_run(draw: random.Random, folder: Path) -> str:
    run, out = Run.drawn(draw), folder / "out"
    with _little_room(draw, out) as (prepare, grow):
        ended = run.started(out, "--save-every", 0, prepare=prepare)[0].wait()
        check_whole(out)
        if ended.status:
            check_refused(ended, "no room")
        grow()
        finish(run, out)
    return "refused, then the same result" if ended.status else "the same result"


def _full_file(draw: random.Random, folder: Path) -> str:
    name, out = draw.choice([*WRITERS]), folder / "out"
    write = WRITERS[name]
    with _little_room(draw, out) as (prepare, grow):
        before = b"what was there"
        target = out / name
        with contextlib.suppress(OSError):
            target.write_bytes(before)
        before = target.read_bytes() if target.exists() else b""

        def body() -> int:
            prepare()
            try:
                write(target)
            except OSError as error:
                print(error)
                return 3
            return 0

        ended = Child(body).wait()
        found = target.read_bytes() if target.exists() else b""
        if ended.status:
            assert ended.status == 3, ended
            assert found == before, f"the file that was there has changed: {ended}"
        left = sorted({path.name for path in out.iterdir()} - {name})
        assert not left, f"left: {left}"
        grow()
        assert Child(lambda: write(target) or 0).wait().status == 0
        if not ended.status:
            assert found == target.read_bytes(), "half a file"
    return "refused, the earlier file unharmed" if ended.status else "written whole"


def _read_only(number: int, folder: Path) -> str:
    """Take permissions from a folder or a file, before or during a run; the process is not above them."""
    draw = random.Random(f"read-only {number}")
    run, out = Run.drawn(draw), folder / "out"
    out.mkdir()
    scene = draw.choice([_closed_before, _closed_during, _closed_file, _closed_file, _closed_to_writers])
    try:
        return scene(draw, run, out)
    finally:
        _open(folder)


def _open(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def _closed_before(draw: random.Random, run: Run, out: Path) -> str:
    closed, mode = draw.choice([out, out.parent]), draw.choice([0o555, 0o444, 0o000])
    closed.chmod(mode)
    ended = run.started(out, prepare=obey_permissions)[0].wait()
    if closed == out or mode != 0o555:  # a folder is written to without a change of the one above it
        check_refused(ended, f"{closed.name} has mode {mode:o}")
    _open(out.parent)
    finish(run, out)
    return "refused, then the same result" if ended.status else "the same result"


def _closed_during(draw: random.Random, run: Run, out: Path) -> str:
    child = run.started(out, "--save-every", 0, prepare=obey_permissions)[0]
    time.sleep(draw.uniform(0, run.undisturbed()[1]))
    out.chmod(0o555)
    ended = child.wait()
    if ended.status:
        check_refused(ended, "the folder was closed")
    out.chmod(0o755)
    check_whole(out)
    finish(run, out)
    return "refused, then the same result" if ended.status else "the same result"


def _closed_file(draw: random.Random, run: Run, out: Path) -> str:
    assert run.started(out)[0].wait().status == 0
    path = out / draw.choice(["checkpoint.safetensors", "settings.json", ".lock"])
    path.touch()
    path.chmod(0o000)
    ended = run.resumed(out, prepare=obey_permissions)[0].wait()
    check_refused(ended, f"{path.name} cannot be read")
    path.chmod(0o644)
    check_same(run, out)
    return "refused, then the same result"


def _closed_to_writers(draw: random.Random, run: Run, out: Path) -> str:
    name = draw.choice([*WRITERS])
    target, write = out / name, WRITERS[name]
    target.write_bytes(b"what was there")
    out.chmod(draw.choice([0o555, 0o000]))

    def body() -> int:
        obey_permissions()
        try:
            write(target)
        except OSError:
            return 3
        return 0

    ended = Child(body).wait()
    assert ended.status == 3, ended
    out.chmod(0o755)
    assert target.read_bytes() == b"what was there"
    assert [path.name for path in out.iterdir()] == [name]
    return "refused, the earlier file unharmed"


_YEARS = (0.0, 1.0, 86_400.0, 1.0e9, 1.8e9, 2.5e9, 4.1e9)
"""Seconds since 1970: the far past, about now, and the next century."""


def _clock(number: int, folder: Path) -> str:
    """Have the time of day jump during a run, and the times of files between two parts of one."""
    draw = random.Random(f"clock {number}")
    return _clock_of_data(draw, folder) if draw.random() < 0.3 else _clock_of_run(draw, folder)


def _jumping(seed: int) -> None:
    draw = random.Random(seed)
    time.time = lambda: draw.choice(_YEARS) + draw.random()
    time.time_ns = lambda: int(1e9 * time.time())


def _clock_of_run(draw: random.Random, folder: Path) -> str:
    run, out, seed = Run.drawn(draw), folder / "out", draw.randrange(1000)
    child = run.started(out, "--save-every", 0, prepare=lambda: _jumping(seed))[0]
    time.sleep(draw.uniform(0, run.undisturbed()[1]))
    child.kill()
    if out.is_dir():
        for path in out.iterdir():
            os.utime(path, (draw.choice(_YEARS), draw.choice(_YEARS)))
    finish(run, out, lambda: _jumping(seed + 1))
    return "the same result"


def _clock_of_data(draw: random.Random, folder: Path) -> str:
    """Other data with the old file's size and times: what a run began with is told by content, and so are caches."""
    path, when = folder / f"data{draw.choice(['.npz', '.parquet', '.npy'])}", draw.choice(_YEARS)
    out = folder / "out"
    words = ["train", "--data", path, "--steps", 20, "--batch-size", 20, "--out", out]
    _write_data(path, 1.0, when)
    size = path.stat().st_size
    from .children import command

    assert (ended := command(words).wait()).status == 0, ended
    os.utime(path, (0, draw.choice(_YEARS)))
    assert (ended := command(["train", "--resume", "--out", out]).wait()).status == 0, ended
    _write_data(path, -1.0, when)
    assert path.stat().st_size == size
    check_refused(command(["train", "--resume", "--out", out]).wait(), "other data of the same size and date")

    def read_twice() -> int:
        from gradnets_fast.apps.train.shards import open_file

        shard = open_file(path, "gradient")
        first = shard.read(0, 20)
        _write_data(path, 1.0, when, group=50)
        try:
            second = shard.read(0, 20)
        except ValueError:
            return 0  # it is not the file that the reader began with
        return int((first == second).all() or not (second == -first).all())

    assert (ended := Child(read_twice).wait()).status == 0, ended
    return "told apart"


def _write_data(path: Path, sign: float, when: float, group: int = 30) -> None:
    """Samples in place of the file's earlier ones, all of one size and one date."""
    x = np.arange(1, 401, dtype=np.float32).reshape(200, 2)
    if path.suffix == ".npz":
        np.savez(path, x=sign * x, g=sign * x)
    elif path.suffix == ".npy":
        np.save(path, sign * np.hstack([x, x]))
    else:
        columns: dict[str, Any] = {f"{name}{i}": sign * x[:, i] for name in "xg" for i in range(2)}
        pq.write_table(pa.table(columns), path, row_group_size=group, use_dictionary=False, compression="none",
                       write_statistics=False)  # fmt: skip
    os.utime(path, (when, when))


def _memory(number: int, folder: Path) -> str:
    """Give a run a random amount of memory."""
    draw = random.Random(f"memory {number}")
    run, out = Run("large", draw.randrange(2)) if draw.random() < 0.5 else Run.drawn(draw), folder / "out"
    more = int(2 ** draw.uniform(16, 27))
    ended: Ended = run.started(out, "--save-every", 0, prepare=lambda: limit_memory(more))[0].wait()
    if ended.status:
        check_refused(ended, f"{more} bytes")
    if out.is_dir():
        check_whole(out)
    finish(run, out)
    return "refused, then the same result" if ended.status else "the same result"


KINDS = (
    Kind("a full disk", "`train`, and each writer of a file, where a file system of some kilobytes or a limit of a "
         "file's size fails a write at a random byte: one line, the earlier file as it was, nothing half written, and "
         "the same result once there is room", 50, one_by_one(_full)),
    Kind("read-only folders", "folders and files whose permissions are taken away, before a run or during it: one "
         "line, files unharmed, and the same result afterwards", 50, one_by_one(_read_only)),
    Kind("clock jumps", "the time of day jumps between 1970 and the next century, and so do the times of files; data "
         "of the same size and date are replaced: the same result, and other data are told apart", 50,
         one_by_one(_clock)),
    Kind("out of memory", "`train` with 64 KiB to 128 MiB of addresses more than it starts with (`RLIMIT_AS`): one "
         "line or success, and the same result afterwards", 50, one_by_one(_memory)),
)  # fmt: skip
