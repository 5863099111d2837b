"""The processes of one run, as torchrun starts them: each takes its rows of every batch.

`cli/train_command.py` joins them; the rest of this folder takes the `Ranks` that it gets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ...errors import message

_TIMEOUT = timedelta(minutes=10)
"""Timeout of a collective; generous, because a process may read a slow disk."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process's place in a run of one or several; the default is a run of one process.

    Attributes:
        rank: this process's number, from 0.
        size: the number of processes.
        restarts: how often torchrun has started the processes anew.
    """

    rank: int = 0
    size: int = 1
    restarts: int = 0

    def own_rows(self, rows: Tensor) -> Tensor:
        """This process's part of a batch, which is divided into `size` parts that differ by one row at most."""
        return rows.tensor_split(self.size)[self.rank]

    def from_first(self, function: Callable[[], Value]) -> Value:
        """Call `function` in process 0 alone; return its result, or raise its exception, in all processes."""
        if self.size == 1:
            return function()
        told: list[Any] = [None, None]
        if self.rank == 0:
            try:
                told[0] = function()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, src=0)
        if told[1] is not None:
            told[1].of_first = True
            raise told[1]
        value: Value = told[0]
        return value

    def mean(self, value: Tensor, count: int) -> Tensor:
        """The mean over the rows of all processes, given the mean `value` over this one's `count` rows; detached."""
        if self.size == 1:
            return value.detach()
        total = torch.stack([value.detach() * count, value.new_tensor(count)])
        dist.all_reduce(total)
        return total[0] / total[1]


def device_of(name: str) -> torch.device:
    """The device of this name; under torchrun, "cuda" means this process's own GPU."""
    device = torch.device(name)
    local = os.environ.get("LOCAL_RANK")
    if device.type == "cpu" or device.index is not None or local is None:
        return device
    return torch.device(device.type, int(local))


_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables that torchrun and other launchers for PyTorch set."""


@contextmanager
def processes(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun or another launcher has started, if any, to work on devices of that name.

    Raises:
        ValueError: there are several, and all would work on the same GPU.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1" or not all(name in os.environ for name in _LAUNCHED):
        yield Ranks(restarts=_restarts())
        return
    on_gpu = device.startswith("cuda")
    if on_gpu and (device != "cuda" or "LOCAL_RANK" not in os.environ):
        fix = "pass --device cuda, and start with torchrun, which sets LOCAL_RANK"
        raise ValueError(message("train", "device", "a GPU for each process", device, fix))
    own = device_of(device) if on_gpu else None
    if own is not None:
        torch.cuda.set_device(own)
    # One store may serve all starts, so each start has a prefix of its own.
    store, rank, count = next(rendezvous("env://"))
    prefixed = dist.PrefixStore(f"start{_restarts()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(store=prefixed, rank=rank, world_size=count, timeout=_TIMEOUT, device_id=own)
    yield Ranks(rank, count, _restarts())
    # After an error the others may wait in the middle of an exchange: then this process just ends.
    dist.destroy_process_group()
    # All files are written; PyTorch's threads have been seen to abort a process whose interpreter ends beside them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
