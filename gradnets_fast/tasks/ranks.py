"""The processes of one run, as torchrun starts them: each takes its rows of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; the default is a run of one process.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        restarts: how often torchrun has started them anew.
    """

    rank: int = 0
    size: int = 1
    restarts: int = 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch: the batch in `size` parts, equal to a row."""
        return rows.tensor_split(self.size)[self.rank]

    def mean(self, value: Tensor, count: int) -> Tensor:
        """The mean over all rows, where this process's `count` rows have the mean `value`; without a gradient."""
        if self.size == 1:
            return value.detach()
        total = torch.stack([value.detach() * count, value.new_tensor(count)])
        dist.all_reduce(total)
        return total[0] / total[1]


def device_of(name: str) -> torch.device:
    """The device of that name; of several GPUs under torchrun, this process's own."""
    device = torch.device(name)
    local = os.environ.get("LOCAL_RANK")
    if device.type == "cpu" or device.index is not None or local is None:
        return device
    return torch.device(device.type, int(local))


@contextmanager
def processes() -> Iterator[Ranks]:
    """Joins the processes that torchrun (or another launcher that sets RANK and WORLD_SIZE) has started, if any."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks()
        return
    dist.init_process_group()
    try:
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        yield Ranks(dist.get_rank(), dist.get_world_size(), restarts)
    finally:
        dist.destroy_process_group()
