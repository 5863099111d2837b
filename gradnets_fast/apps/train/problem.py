"""The data of a run: where its batches come from, and what it is tested on."""

from __future__ import annotations

import zlib
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import message
from ...fitting._steps import Batch
from ..memory import check_memory
from .data import Samples, load_samples
from .fields import Field, make_field
from .losses import parts_of
from .ranks import Ranks, device_of
from .settings import Settings, resolved_streams
from .shards import open_shard
from .stream import SampleStream, shards_of

_TEST_FRACTION = 0.1
"""The part of a file of samples that is kept for the test."""
_TEST_ROWS = 10_000
"""Rows of the last shard that are read for the test."""


class Source(Protocol):
    """Training points with their targets, batch by batch."""

    @property
    def dim(self) -> int:
        """The dimension d of the points."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch, over all processes."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the points."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's rows of a step's batch, which seed and step alone determine; steps come one after another."""

    def state(self, step: int) -> dict[str, Any]:
        """The state that `restore` takes, equal in all processes and ready for JSON."""

    def restore(self, state: Any, step: int) -> None:
        """Go on at a step, where `state` was taken; raise ValueError if it was taken elsewhere or of other data."""


class InMemory:
    """A source whose points are all in the memory of every process."""

    def __init__(self, x: Tensor, g: Tensor, settings: Settings, ranks: Ranks) -> None:
        self.x, self.g = x, g
        self.batch_size = min(settings.batch_size, len(x))
        self._seed, self._ranks = settings.seed, ranks
        self._order: tuple[int, Tensor] | None = None
        self._from_file = settings.data is not None
        self._checksum: int | None = None

    @property
    def dim(self) -> int:
        """The dimension d of the points."""
        return self.x.shape[1]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the points; the last points, too few for a batch, are left out."""
        return len(self.x) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's rows of a step's batch, in any order of steps."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            seed = (self._seed * 1_000_003 + epoch + 1) % 2**63
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
            self._order = (epoch, order.to(self.x.device))
        rows = self._ranks.own_rows(self._order[1][index * self.batch_size : (index + 1) * self.batch_size])
        return self.x[rows], self.g[rows]

    def state(self, step: int) -> dict[str, Any]:
        """A checksum of data from a file; a field's data follow from the settings, and the order from the step."""
        if not self._from_file:
            return {}
        if self._checksum is None:
            x, g = (t.cpu().numpy().tobytes() for t in (self.x, self.g))
            self._checksum = zlib.crc32(g, zlib.crc32(x))
        return {"checksum": self._checksum}

    def restore(self, state: Any, step: int) -> None:
        """Raise ValueError if `state` comes from other data; None, of an earlier version, tells nothing."""
        if state is not None and state != self.state(step):
            fix = "put back the file that the run began with, or start anew with --overwrite"
            raise ValueError(message("train", "data", "the samples of that run", "others", fix))


class Streamed:
    """A source that reads shards as it goes; each process reads its own part of them."""

    def __init__(self, shards: list[Path], settings: Settings, ranks: Ranks) -> None:
        streams = resolved_streams(settings.streams, ranks.size)
        if streams % ranks.size:
            fix = "start as many processes as divide it, or another run with --streams"
            raise ValueError(message("train", "streams", f"a multiple of the {ranks.size} processes", streams, fix))
        if settings.batch_size < streams:
            expected, fix = f"a row for each of {streams} streams", "raise --batch-size, or lower --streams"
            raise ValueError(message("train", "batch_size", expected, settings.batch_size, fix))
        self._stream = SampleStream(
            shards,
            settings.batch_size,
            seed=settings.seed,
            rank=ranks.rank,
            world_size=ranks.size,
            streams=streams,
            fit=settings.fit,
        )
        self._device = device_of(settings.device)
        self.dim, self.batch_size = self._stream.dim, self._stream.batch_size
        self.steps_per_epoch = self._stream.steps_per_epoch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's rows of the next batch; after an error, of the same batch once more."""
        assert step == self._stream.step, "batches come in order"
        x, g = next(self._stream)
        return x.to(self._device), g.to(self._device)

    def state(self, step: int) -> dict[str, Any]:
        """The identity of the data, and how far they are read."""
        return self._stream.state_dict()

    def restore(self, state: Any, step: int) -> None:
        """Go on where `state` was taken, in as many processes as there are now."""
        if not isinstance(state, dict) or state.get("step") != step:
            got = state.get("step") if isinstance(state, dict) else state
            fix = "put back a copy of the checkpoint, or start anew with --overwrite"
            raise ValueError(message("train", "checkpoint: data", f"the state of the shards at step {step}", got, fix))
        self._stream.load_state_dict(state)


@dataclass
class Problem:
    """Training data, test points with target gradients, the mean of the training points, and the field if known.

    Where gradients or values at the test points are not known, test_g is (0, d), and test_values is None.
    """

    source: Source
    test_x: Tensor
    test_g: Tensor
    mean: Tensor
    field: Field | None
    label: str
    _: KW_ONLY
    test_values: Tensor | None = None


def make_problem(settings: Settings, ranks: Ranks | None = None) -> Problem:
    """The training and test data that the settings name."""
    ranks = ranks or Ranks()
    if settings.batch_size < ranks.size:
        fix = "enlarge --batch-size, or start fewer processes"
        raise ValueError(message("train", "batch_size", f"at least {ranks.size}", settings.batch_size, fix))
    if settings.data is not None:
        path = Path(settings.data)
        if path.is_dir() or (any(sign in settings.data for sign in "*?[") and not path.exists()):
            return _of_shards(settings, ranks)
        return _split(load_samples(Path(settings.data), settings.fit), settings, ranks)
    assert settings.field is not None
    field = make_field(settings.field, settings.dim)
    # Points and gradients, and at least as much in the making.
    check_memory("train", "samples", 16 * field.dim * settings.samples, "lower --samples")
    x, test_x = field.sample(settings.samples, torch.Generator().manual_seed(settings.seed)), field.test_points()
    test = Batch(test_x, field.gradient(test_x), field.potential(test_x))
    label = field.name if field.dim == 2 else f"{field.name}, d = {field.dim}"
    return _problem(x, _targets(field, x, settings.fit), test, settings, ranks, label, field)


def _targets(field: Field, x: Tensor, fit: str) -> Tensor:
    if fit == "gradient":
        return field.gradient(x)
    values = field.potential(x).unsqueeze(1)
    return values if fit == "potential" else torch.cat([field.gradient(x), values], 1)


def _of_shards(settings: Settings, ranks: Ranks) -> Problem:
    """A problem that trains on all shards but the last, whose first rows are for the test."""
    assert settings.data is not None
    *shards, last = shards_of(settings.data)
    if not shards:
        fix = "split it: the last shard is for the test; or pass the file itself to --data"
        raise ValueError(message("train", settings.data, "at least 2 shards", 1, fix))
    source = Streamed(shards, settings, ranks)
    _check_dim(settings, source.dim, settings.data)
    held_out = open_shard(last, settings.fit)
    if held_out.dim != source.dim:
        raise ValueError(message("train", str(last), f"d = {source.dim}, as the others", held_out.dim, "remove it"))
    rows = torch.from_numpy(held_out.read(0, min(held_out.rows, _TEST_ROWS))).to(device_of(settings.device))
    test = parts_of(rows[:, : source.dim], rows[:, source.dim :], settings.fit)
    return _tested(source, test, test.x.mean(0), None, _label(settings.data))


def _split(samples: Samples, settings: Settings, ranks: Ranks) -> Problem:
    count, dim = samples.x.shape
    _check_dim(settings, dim, samples.source)
    if count < 2:
        raise ValueError(
            message("train", samples.source, "at least 2 rows, to test on some", count, "give more samples")
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    test = max(1, int(count * _TEST_FRACTION))
    x, g = samples.x[order], samples.g[order]
    name = _label(samples.source)
    return _problem(x[test:], g[test:], parts_of(x[:test], g[:test], settings.fit), settings, ranks, name)


def _label(source: str) -> str:
    """The name of the data, in characters that can be drawn."""
    return (Path(source).name or source).encode("utf-8", "replace").decode()


def _check_dim(settings: Settings, dim: int, source: str) -> None:
    if settings.dim not in (None, dim):
        raise ValueError(message("train", "dim", f"{dim}, as in {source}", settings.dim, "leave --dim out"))


def _problem(
    x: Tensor, g: Tensor, test: Batch, settings: Settings, ranks: Ranks, label: str, field: Field | None = None
) -> Problem:
    device = device_of(settings.device)
    x, g = x.to(device), g.to(device)
    return _tested(InMemory(x, g, settings, ranks), test.each(lambda t: t.to(device)), x.mean(0), field, label)


def _tested(source: Source, test: Batch, mean: Tensor, field: Field | None, label: str) -> Problem:
    x, g, values = test.each(Tensor.contiguous)
    return Problem(source, x, x[:0] if g is None else g, mean, field, label, test_values=values)
