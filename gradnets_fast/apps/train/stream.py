"""Samples from shards that together exceed memory: shuffled, divided among ranks, resumable at any step.

The rows of all shards, in order, are divided among a fixed number of *streams*, as the rows of a batch are.  A stream
cuts its rows into *blocks*, permutes them anew each epoch, fills *windows* with consecutive blocks, and permutes the
rows of a window.  Each batch takes the next rows of every stream.  So the batches do not depend on the number of ranks,
each of which reads some of the streams; and the number of the step alone tells where every stream is.

Reading ahead and cutting windows into batches are grain's.  The order is numpy's: grain shuffles by seed + epoch, so
that one seed's second epoch is the next seed's first.
"""

from __future__ import annotations

import glob
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import check_choice, check_positive, message
from .columns import FITS
from .shards import FORMATS, Shard, import_extra, open_shard

_WINDOW_BYTES = 2**25
_BLOCKS_IN_WINDOW = 4


def shards_of(source: Path | str) -> list[Path]:
    """The shards that a folder holds or a glob pattern matches: its .parquet and .npz files, by name.

    Equivalent to:
        sorted(path for path in Path(source).iterdir() if path.suffix in (".parquet", ".npz"))

    Args:
        source: a folder, whose subfolders and hidden files are left out; a pattern such as `data/**/*.parquet`; or one
            file.

    Raises:
        ValueError: where there is none.
    """
    folder = Path(source).is_dir()
    pattern = str(Path(glob.escape(str(source))) / "*") if folder else str(source)
    paths = [Path(source)] if Path(source).is_file() else map(Path, glob.glob(pattern, recursive=True))
    shards = sorted(path for path in paths if path.suffix.lower() in FORMATS and path.is_file())
    if not shards:
        fix = "check the path" if folder else "check the path, and quote the pattern"
        raise ValueError(message("stream", str(source), "files ending in " + " or ".join(FORMATS), "none", fix))
    return shards


class SampleStream(Iterator["tuple[Tensor, Tensor]"]):
    """Endless batches of points and their targets from shards, of which only some windows are in memory.

    Equivalent to, for one rank, apart from the order:
        x, g = all the samples, shuffled anew each epoch
        for step in range(len(x) // batch_size):
            yield x[step * batch_size :][:batch_size], g[step * batch_size :][:batch_size]

    For example:
        stream = SampleStream(shards_of("data"), 65_536, rank=rank, world_size=world_size)
        for x, g in stream:
            ...
            state = stream.state_dict()

    The ranks' rows of a batch, joined in the order of the ranks, are the batch of a single rank, to the bit; they are
    as many on each rank if `streams` divides `batch_size`.  In each epoch every row comes once, apart from the
    `rows % batch_size` rows that fill no batch, which are others each time.

    A rank holds, for each of its streams / world_size streams, up to three windows of 8 · d bytes a row: one in use,
    one that a thread has read ahead, and for a moment the next; and what the thread reads with, a quarter of a window
    and, for Parquet, up to 2 MiB for each column of long row groups.  A window may have a quarter more rows than asked
    for.  By default a single rank takes about 1 GB.

    A Parquet row group or a compressed NPZ file with more rows than a quarter of a window is decoded anew for each such
    part: write row groups of at most 1 048 576 / d rows for the default window (`row_group_size` in pyarrow), and NPZ
    files with `numpy.savez`.

    Attributes:
        dim: the dimension d of the points.
        rows: the number of samples of all shards.
        batch_size: the number of rows of a batch over all ranks.
        steps_per_epoch: rows // batch_size.
        step: the number of batches that came before the next one.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        streams: int = 8,
        window: int | None = None,
        fit: str = "gradient",
    ) -> None:
        """Read the shards' metadata, no samples.

        Args:
            shards: Parquet files with columns x0 …, g0 … and F, or NPZ files with arrays x and g, (n, d), and F, (n,).
            batch_size: rows of a batch over all ranks.
            seed: the seed that determines the order.
            rank, world_size: the part of each batch that this rank gets.
            streams: the number of streams that the rows are divided into; a multiple of every world size that a run may
                have.
            window: rows of a window; more mix better, and take more memory.  By default those of 32 MiB, so
                4 194 304 / d.
            fit: what the targets are: "gradient" g, (n, d), "potential" F, (n, 1), or "both", (n, d + 1).

        Raises:
            FileNotFoundError, ValueError, TypeError, ImportError.
        """
        check_choice("stream", "fit", fit, list(FITS))
        for name, value in (("batch_size", batch_size), ("world_size", world_size), ("streams", streams)):
            check_positive("stream", name, value)
        if not 0 <= seed < 2**63:
            raise ValueError(message("stream", "seed", "0 <= seed < 2^63", seed, "for example seed=0"))
        if not 0 <= rank < world_size:
            fix = "number the ranks from 0"
            raise ValueError(message("stream", "rank", f"0 <= rank < world_size = {world_size}", rank, fix))
        if streams % world_size:
            fix = f"pass streams={-(-streams // world_size) * world_size}"
            raise ValueError(message("stream", "streams", f"a multiple of world_size = {world_size}", streams, fix))
        if batch_size < streams:
            fix = "raise the batch size, or pass fewer streams"
            raise ValueError(message("stream", "batch_size", f"a row for each of {streams} streams", batch_size, fix))
        if not shards:
            raise ValueError(message("stream", "shards", "at least one file", "none", "pass shards_of(folder)"))
        self._grain = _import_grain()
        with ThreadPoolExecutor() as pool:
            opened = list(pool.map(open_shard, shards, repeat(fit)))
        _check_dims(opened)
        self.dim, self.rows = opened[0].dim, sum(shard.rows for shard in opened)
        if batch_size > self.rows:
            fix = "lower the batch size, or give more samples"
            raise ValueError(message("stream", "batch_size", f"at most the {self.rows} rows", batch_size, fix))
        if window is None:
            window = max(1, _WINDOW_BYTES // (4 * opened[0].width))
        check_positive("stream", "window", window)
        self.batch_size, self.steps_per_epoch, self.step = batch_size, self.rows // batch_size, 0
        self._identity: dict[str, int | str] = {
            "shards": _digest(opened),
            "seed": seed,
            "batch_size": batch_size,
            "streams": streams,
            "window": window,
        }
        mine = range(rank * streams // world_size, (rank + 1) * streams // world_size)
        pieces, blocks = _divide(opened, batch_size, streams, max(1, window // _BLOCKS_IN_WINDOW))
        self._streams = [
            _Stream(opened, blocks[i], pieces[i], pieces[i] * self.steps_per_epoch, window, seed, i) for i in mine
        ]
        self._pieces: list[Any] | None = None

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch's rows of this rank: points (n, d) and targets, such as gradients (n, d), float32, on the CPU.

        After an error, such as that of a missing file, the next call tries the same batch again.

        Raises:
            FileNotFoundError, ValueError: where a shard is gone, damaged or changed; and naming file, column and row
                where float32 does not hold a number.
        """
        if self._pieces is None:
            self._pieces = [stream.pieces(self._grain, self.step) for stream in self._streams]
            for piece in self._pieces:
                piece.start_prefetch()
        try:
            rows = [next(piece) for piece in self._pieces]
        except BaseException:
            self.close()
            raise
        self.step += 1
        x, g = (np.concatenate([part[:, half] for part in rows]) for half in np.s_[: self.dim, self.dim :])
        return torch.from_numpy(x), torch.from_numpy(g)

    def state_dict(self) -> dict[str, int | str]:
        """The position of the stream, ready for JSON and equal on every rank; any number of ranks can go on from it."""
        return {"step": self.step, **self._identity}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Go on from a state: the next batch is the one that an unbroken run would have had.

        Raises:
            ValueError: the state comes from other shards, or another seed, batch size, number of streams or window.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                fix = "resume with the data and options of that run"
                raise ValueError(message("stream", f"state: {name}", value, state.get(name), fix))
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise ValueError(message("stream", "state: step", "an integer >= 0", step, "pass what state_dict gave"))
        self.close()
        self.step = step

    def close(self) -> None:
        """Free the windows and end the threads, as dropping the object does; the next batch starts them again."""
        for piece in self._pieces or ():
            piece.close()
        self._pieces = None


class _Plan(NamedTuple):
    """The order of an epoch: the blocks of each window, and the first of the epoch's rows in it.

    Window w has the blocks order[edges[w] : edges[w + 1]], and the rows from firsts[w] to firsts[w + 1].
    """

    epoch: int
    order: np.ndarray
    edges: np.ndarray
    firsts: np.ndarray


class _Stream:
    """One stream: `used` rows of each epoch, read in windows and handed out as pieces of batches."""

    def __init__(
        self, shards: Sequence[Shard], blocks: np.ndarray, piece: int, used: int, window: int, seed: int, number: int
    ) -> None:
        self._shards, self._blocks, self._piece, self._used = shards, blocks, piece, used
        self._seed, self._number = seed, number
        self._windows = -(-used // window)
        self._last_plan: _Plan | None = None

    def pieces(self, grain: ModuleType, step: int) -> Any:
        """grain's iterator over this stream's rows of the batches from a step on."""
        epoch, row = divmod(step * self._piece, self._used)
        first = int(np.searchsorted(self._plan(epoch).firsts, row, side="right")) - 1
        skipped, first = row - int(self._plan(epoch).firsts[first]), first + epoch * self._windows

        def read(index: int) -> np.ndarray:
            return self._read(index)[skipped if index == first else 0 :]

        windows = grain.MapDataset.range(first, sys.maxsize).map(read)
        ahead = windows.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        return iter(grain.experimental.RebatchIterDataset(ahead, self._piece))

    def _read(self, index: int) -> np.ndarray:
        """The rows of a window, counted over all epochs, in their order."""
        epoch, window = divmod(index, self._windows)
        plan = self._plan(epoch)
        blocks = self._blocks[plan.order[plan.edges[window] : plan.edges[window + 1]]]
        count = int((blocks[:, 2] - blocks[:, 1]).sum())
        places = self._generator(epoch, window).permutation(count)
        rows, done = np.empty((count, self._shards[0].width), np.float32), 0
        for shard, start, stop in blocks.tolist():
            rows[places[done : done + stop - start]] = self._shards[shard].read(start, stop)
            done += stop - start
        return rows[: plan.firsts[window + 1] - plan.firsts[window]]

    def _plan(self, epoch: int) -> _Plan:
        """The order of an epoch.

        Windows begin at the first block past equal parts of the rows.  A part has at least half as many rows as a
        window may, and a block at most a quarter, so that no window is empty.
        """
        plan = self._last_plan
        if plan is None or plan.epoch != epoch:
            order = self._generator(epoch).permutation(len(self._blocks))
            sizes = (self._blocks[:, 2] - self._blocks[:, 1])[order]
            starts = np.cumsum(sizes) - sizes
            parts = -(-np.arange(self._windows + 1) * self._used // self._windows)
            edges = np.searchsorted(starts, parts)
            plan = _Plan(epoch, order, edges, np.append(starts[edges[:-1]], self._used))
            self._last_plan = plan
        return plan

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self._number, *place)))


def _divide(shards: Sequence[Shard], batch_size: int, streams: int, limit: int) -> tuple[list[int], list[np.ndarray]]:
    """The rows of a batch that each stream gives, and its blocks (shard, start, stop) of at most `limit` rows.

    A stream has as many rows as its part of all batches of an epoch needs, and its part of the rows that are left.
    """
    pieces = [batch_size // streams + (i < batch_size % streams) for i in range(streams)]
    begins = [0, *accumulate(shard.rows for shard in shards)]
    steps, rest = divmod(begins[-1], batch_size)
    bounds = [steps * edge + rest * edge // batch_size for edge in (0, *accumulate(pieces))]
    cuts = [begin + cut for begin, shard in zip(begins, shards) for cut in _cuts(shard.groups, limit)]
    edges = np.union1d(bounds, np.array(cuts, np.int64))
    numbers = np.searchsorted(begins[1:], edges[:-1], side="right")
    origins = np.array(begins)[numbers]
    blocks = np.stack([numbers, edges[:-1] - origins, edges[1:] - origins], axis=1)
    return pieces, [blocks[slice(*np.searchsorted(edges, pair))] for pair in pairwise(bounds)]


def _cuts(groups: Sequence[int], limit: int) -> list[int]:
    """Bounds of blocks of at most `limit` rows: small groups are joined, large ones divided evenly."""
    cuts, end = [0], 0
    for rows in groups:
        if end + rows > cuts[-1] + limit:
            parts = -(-rows // limit)
            cuts += [end + rows * i // parts for i in range(parts)]
        end += rows
    return [*cuts, end]


def _check_dims(shards: Sequence[Shard]) -> None:
    for shard in shards:
        if shard.dim != shards[0].dim:
            expected, fix = f"d = {shards[0].dim} as in {shards[0].path}", "give shards of one dimension"
            raise ValueError(message("stream", str(shard.path), expected, f"d = {shard.dim}", fix))


def _digest(shards: Sequence[Shard]) -> str:
    """A digest that identifies the data without reading them, from the name, dimension and groups of each shard."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(repr((shard.path.name, shard.dim, shard.groups)).encode())
    return digest.hexdigest()


def _import_grain() -> ModuleType:
    """grain, without its warning that jax's profiler is missing."""
    if "grain" not in sys.modules:
        logs = import_extra("absl.logging")
        level = logs.get_verbosity()
        logs.set_verbosity(logs.ERROR)
        try:
            return import_extra("grain")
        finally:
            logs.set_verbosity(level)
    return import_extra("grain")
