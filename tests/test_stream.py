"""Streams of samples: each row once an epoch, mixed, the same for any number of ranks, resumable, in little memory."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from covering import quick_in_turn
from gradnets_fast.apps.train.shards import Shard
from gradnets_fast.apps.train.stream import SampleStream
from gradnets_fast.errors import is_message
from shard_files import Batch, assert_same, fails, tagged, take, write, write_shards


def tags(batches: Sequence[Batch]) -> np.ndarray:
    return torch.cat([x[:, 0] for x, _ in batches]).numpy().astype(int)


def joined(streams: Sequence[SampleStream]) -> Batch:
    parts = [next(stream) for stream in streams]
    return torch.cat([x for x, _ in parts]), torch.cat([g for _, g in parts])


SIZES = (700, 0, 1300, 55, 2999)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """5054 rows in Parquet and NPZ files, of row groups of 333."""
    return write_shards(tmp_path, SIZES, (".parquet", ".npz"), group=333)


LAYOUTS = [
    (SIZES, 333, 100, 8, 200),
    (SIZES, 1, 101, 7, 64),
    (SIZES, 10_000, 1000, 8, None),
    (SIZES, 50, 5054, 3, 70),
    ([20, 30, 1], 7, 5, 1, 1),
    ([70, 30, 1], 7, 5, 2, 7),
    ([9] * 60, 4, 50, 5, 100),
    ([3], 3, 3, 3, 50),
    ([5000, 1, 1, 1], 5000, 13, 12, 300),
]
"""Rows of each shard, rows of a group, batch size, streams, window."""


@quick_in_turn("layout, suffix", [".npz", ".parquet"], LAYOUTS)
def test_every_row_comes_once_an_epoch(
    tmp_path: Path, layout: tuple[Sequence[int], int, int, int, int | None], suffix: str
) -> None:
    sizes, group, batch_size, streams, window = layout
    paths = write_shards(tmp_path, sizes, [suffix], group)
    stream = SampleStream(paths, batch_size, streams=streams, window=window)
    assert (stream.dim, stream.rows, stream.batch_size) == (2, sum(sizes), batch_size)
    assert stream.steps_per_epoch == sum(sizes) // batch_size
    for _ in range(2):
        batches = take(stream, stream.steps_per_epoch)
        for x, g in batches:
            assert x.shape == g.shape == (batch_size, 2)
            assert x.dtype == g.dtype == torch.float32
            assert torch.equal(g, -2 * x)
            assert torch.equal(x[:, 1], x[:, 0] + 0.25)
        seen = tags(batches)
        assert len(np.unique(seen)) == len(seen) == sum(sizes) // batch_size * batch_size
        assert seen.max() < sum(sizes)


def test_the_rows_left_out_change(shards: list[Path]) -> None:
    stream = SampleStream(shards, 900, window=200)
    left = [set(range(5054)) - set(tags(take(stream, 5))) for _ in range(4)]
    assert [len(rows) for rows in left] == [554] * 4
    assert len(set.intersection(*left)) < 20


def test_the_order_depends_on_epoch_and_seed(shards: list[Path]) -> None:
    def epochs(seed: int) -> list[np.ndarray]:
        stream = SampleStream(shards, 100, window=200, seed=seed)
        return [tags(take(stream, 50)) for _ in range(2)]

    (first, second), (other, _), (again, _) = epochs(0), epochs(1), epochs(0)
    assert np.array_equal(first, again)
    for a, b in ((first, second), (first, other), (second, other)):
        assert (a == b).mean() < 0.02


def test_rows_are_mixed_within_and_across_blocks(tmp_path: Path) -> None:
    """One stream has blocks of 250 rows and windows of 1000: neither permuting blocks nor rows alone passes."""
    path = write(tmp_path / "a.parquet", *tagged(0, 50_000), group=250)
    order = tags(take(SampleStream([path], 500, streams=1, window=1000), 100))
    times = np.arange(len(order))
    assert abs(np.corrcoef(order, times)[0, 1]) < 0.2
    assert abs(np.corrcoef(order[:1000], times[:1000])[0, 1]) < 0.2
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01
    blocks = [len(np.unique(window // 250)) for window in order.reshape(-1, 1000)]
    assert np.mean(blocks) == 4
    changes = np.mean(np.diff(order // 250) != 0)
    assert changes == pytest.approx(3 / 4, abs=0.02)
    within = order[order // 250 == order[0] // 250] % 250
    assert abs(np.corrcoef(within, np.arange(250))[0, 1]) < 0.2


def test_no_permutation_comes_twice(tmp_path: Path) -> None:
    """Streams of one block each, windows and epochs all have permutations of their own."""
    path = write(tmp_path / "a.npz", *tagged(0, 8000))
    streams = SampleStream([path], 8000, window=4000)
    orders = [order for _ in range(2) for order in tags(take(streams, 1)).reshape(8, 1000) % 1000]
    windows = SampleStream([path], 8000, seed=1, streams=1, window=1000)
    orders += [order for _ in range(2) for order in tags(take(windows, 1)).reshape(8, 1000) % 250]
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(order % 250 == other % 250) < 0.05


def test_a_batch_has_rows_of_every_part_of_the_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", *tagged(0, 8000))
    for x, _ in take(SampleStream([path], 80, window=100), 100):
        assert np.array_equal(np.bincount(x[:, 0].numpy().astype(int) // 1000), [10] * 8)


@pytest.mark.parametrize("batch_size", [100, 101])
def test_any_number_of_ranks_has_the_same_batches(shards: list[Path], batch_size: int) -> None:
    whole = take(SampleStream(shards, batch_size, window=200), 55)
    for world_size in (2, 4, 8):
        ranks = [
            SampleStream(shards, batch_size, window=200, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        assert_same([joined(ranks) for _ in range(55)], whole)


def test_a_rank_reads_its_part_of_the_data_only(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    begins = dict(zip(shards, np.cumsum([0, *SIZES]).tolist()))
    read: set[int] = set()
    original = Shard.read

    def recording(self: Shard, start: int, stop: int) -> np.ndarray:
        read.update(range(begins[self.path] + start, begins[self.path] + stop))
        return original(self, start, stop)

    monkeypatch.setattr(Shard, "read", recording)
    stream = SampleStream(shards, 96, window=200, rank=1, world_size=4)
    take(stream, stream.steps_per_epoch)
    stream.close()
    assert min(read) == 5054 // 4
    assert max(read) == 5054 // 2 - 1


@quick_in_turn("step, world_sizes", [(1, 1), (1, 4), (4, 2)], [0, 17, 49, 50, 123])
def test_resumed_runs_see_the_batches_of_an_unbroken_one(
    shards: list[Path], step: int, world_sizes: tuple[int, int]
) -> None:
    def start(world_size: int) -> list[SampleStream]:
        return [SampleStream(shards, 100, window=200, rank=rank, world_size=world_size) for rank in range(world_size)]

    before, after = map(start, world_sizes)
    for _ in range(step):
        joined(before)
    states = [json.loads(json.dumps(stream.state_dict())) for stream in before]
    assert all(state == states[0] for state in states)
    for stream in after:
        next(stream)
        stream.load_state_dict(states[0])
        assert stream.step == step
    assert_same([joined(after) for _ in range(55)], [joined(before) for _ in range(55)])


def test_resuming_reads_no_more_than_the_windows_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_shards(tmp_path, [20_000, 20_000], [".parquet", ".npz"])
    stream = SampleStream(paths, 100, window=100)
    state = {**stream.state_dict(), "step": 399}
    read: list[int] = []
    original = Shard.read

    def counting(self: Shard, start: int, stop: int) -> np.ndarray:
        read.append(stop - start)
        return original(self, start, stop)

    monkeypatch.setattr(Shard, "read", counting)
    stream.load_state_dict(state)
    next(stream)
    stream.close()
    assert 8 * 50 <= sum(read) <= 8 * 3 * 125


def test_batches_share_no_memory(shards: list[Path]) -> None:
    kept = take(SampleStream(shards, 100, window=1000), 30)
    stream = SampleStream(shards, 100, window=1000)
    for x, g in kept:
        got = next(stream)
        assert_same([got], [(x, g)])
        for tensor in got:
            tensor.fill_(float("nan"))


MEMORY = """
import resource, sys
import pyarrow.parquet
from gradnets_fast.apps.train.stream import SampleStream, shards_of

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

stream = SampleStream(shards_of(sys.argv[1]), 4096, streams=2, window=8192)
before, rows = peak(), 0
for _ in range(stream.steps_per_epoch):
    rows += len(next(stream)[0])
print(rows, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, suffix: str) -> None:
    """168 MB of samples, in windows that take 3 · 2 · 8192 · 1.25 · 64 bytes = 4 MB; the libraries take some 15 MB."""
    rows, dim = 2**16, 8
    values = np.random.default_rng(0).standard_normal((rows, 2 * dim), np.float32)
    path = write(tmp_path / f"a{suffix}", values[:, :dim], values[:, dim:], group=2048)
    for i in range(39):
        (tmp_path / f"b{i}{suffix}").hardlink_to(path)
    assert 40 * path.stat().st_size > 160e6
    result = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=True)
    streamed, grown = map(int, result.stdout.split())
    assert streamed == 40 * rows
    assert grown < 45e6


def prefetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def assert_none_is_left() -> None:
    """Now or soon: threads that are told to end do so when the machine lets them."""
    deadline = time.monotonic() + 10
    while prefetching():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("end", ["drop", "close", "error"])
def test_threads_end_with_the_stream(shards: list[Path], end: str) -> None:
    gc.collect()
    stream: SampleStream | None = SampleStream(shards, 100, window=200)
    assert_none_is_left()  # of earlier tests, nor of a stream that nobody has read
    assert stream is not None
    next(stream)
    assert len(prefetching()) == 8
    if end == "drop":
        stream = None
    elif end == "close":
        stream.close()
    else:
        for path in shards:
            path.unlink()
        with pytest.raises(FileNotFoundError):
            take(stream, 50)
    assert_none_is_left()


def test_a_closed_stream_goes_on_where_it_was(shards: list[Path]) -> None:
    expected = take(SampleStream(shards, 100, window=200), 80)
    stream = SampleStream(shards, 100, window=200)
    got = take(stream, 33)
    stream.close()
    assert_same(got + take(stream, 47), expected)


def test_after_an_error_the_same_batch_comes(shards: list[Path]) -> None:
    expected = take(SampleStream(shards, 100, window=200), 50)
    stream, hidden = SampleStream(shards, 100, window=200), shards[-1].with_suffix(".hidden")
    got = take(stream, 3)
    shards[-1].rename(hidden)
    with pytest.raises(FileNotFoundError, match=r"part-04\.parquet: expected an existing file"):
        got.extend(stream)
    hidden.rename(shards[-1])
    assert_same(got + take(stream, 50 - len(got)), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 5055}, ["batch_size", "at most the 5054 rows", "got 5055"]),
        ({"batch_size": 7}, ["batch_size", "a row for each of 8 streams"]),
        ({"batch_size": 0}, ["batch_size", "a positive integer"]),
        ({"world_size": 3}, ["streams", "a multiple of world_size = 3", "pass streams=9"]),
        ({"world_size": 16}, ["streams", "a multiple of world_size = 16", "pass streams=16"]),
        ({"world_size": 4, "rank": 4}, ["rank", "0 <= rank < world_size = 4"]),
        ({"rank": -1}, ["rank"]),
        ({"streams": 0}, ["streams", "a positive integer"]),
        ({"window": 0}, ["window", "a positive integer"]),
        ({"seed": -1}, ["seed"]),
    ],
)
def test_wrong_options(shards: list[Path], options: dict[str, int], words: list[str]) -> None:
    fails(words, lambda: SampleStream(shards, **{"batch_size": 100, **options}))


def test_no_shard() -> None:
    fails(["shards", "at least one file"], lambda: SampleStream([], 10))


def test_resuming_with_other_data_or_options(shards: list[Path], tmp_path: Path) -> None:
    state = SampleStream(shards, 100, window=200).state_dict()
    changes: dict[str, dict[str, int]] = {
        "seed": {"seed": 1},
        "batch_size": {"batch_size": 101},
        "streams": {"streams": 4},
        "window": {"window": 201},
    }
    for name, change in changes.items():
        other = SampleStream(shards, **{"batch_size": 100, "window": 200, **change})
        fails([f"state: {name}", str(state[name])], lambda other=other: other.load_state_dict(state))
    same = SampleStream(shards, 100, window=200)
    for step in (-1, "3", None):
        fails(["state: step"], lambda step=step: same.load_state_dict({**state, "step": step}))
    fails(["state: shards"], lambda: same.load_state_dict({}))
    assert same.step == 0

    def fails_with(paths: list[Path]) -> None:
        fails(["state: shards"], lambda: SampleStream(paths, 100, window=200).load_state_dict(state))

    fails_with(shards[::-1])
    fails_with([*shards[:-1], write(tmp_path / "other.parquet", *tagged(0, 2999), group=333)])
    fails_with([*shards[:-1], write(shards[-1], *tagged(0, 2999), group=300)])
    fails_with([*shards[:-1], write(shards[-1], *tagged(0, 2998), group=333)])


def run(script: str, *arguments: Path) -> str:
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert not result.stderr
    return result.stdout


def test_importing_needs_nothing_optional_and_using_says_what_is_missing(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from gradnets_fast.apps.train.stream import SampleStream
assert not {"grain", "pyarrow", "absl"} & set(sys.modules)
for name in ("pyarrow", "grain"):
    sys.modules[name] = None
    try:
        SampleStream([Path(sys.argv[1])], 10)
    except ImportError as error:
        print(error)
    del sys.modules[name]
next(SampleStream([Path(sys.argv[1])], 10))
"""
    lines = run(script, write(tmp_path / "a.parquet", *tagged(0, 100))).splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("pyarrow", "grain")):
        assert is_message(line)
        assert line.startswith(f"stream: {name}: ")
        assert line.endswith("pip install 'gradnets_fast[stream]'")
