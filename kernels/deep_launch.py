"""Launches of the kernels of deep networks: tensors in, tensors out; nothing of size batch × h in memory.

Called by `gradnets_fast.ops`; calls the kernels of `deep_entry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from . import deep_entry, launch, launching
from .mode import Constants, DeepMode

_WARPS = {"forward": 16, "backward": 8}
"""Warps that a multiprocessor may run at once.  Programs that find no place start late, and find less or nothing to do;
of a backward pass none does, because each has sums of its own and its tiles."""

_INTERPRETED = 2
"""Programs in Triton's interpreter: more than one, with several tiles each."""

_SUM_BYTES = 64 << 20


@dataclass(frozen=True)
class Batch:
    """Points x, directions or cotangents v (…, d), and weights (…,)."""

    x: Tensor
    v: Tensor | None = None
    weight: Tensor | None = None


@dataclass
class Gradients:
    """Memory for the gradients that are needed, None for the others."""

    x: Tensor | None = None
    theta: Tensor | None = None
    bias: Tensor | None = None

    def count(self) -> int:
        """How many numbers are sums over the batch."""
        return sum(0 if t is None else t.numel() for t in (self.theta, self.bias))


def forward(mode: DeepMode, quantity: str, x: Tensor, theta: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
    """f(x) ("value"), the potential without bias, or both, of the shape that is given, for at least one row."""
    points = launch.rows_of(x)
    constants = mode.of("forward", quantity, x.shape[-1])
    tiles = triton.cdiv(len(points), constants["BM"])
    programs = min(tiles, _programs(x.device, "forward", constants))
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    memory = _memory(x, programs, constants, 1)
    counters = launch.counters(x.device, 1)
    _launched(
        deep_entry.forward,
        programs,
        (points, theta, bias, out, memory, counters, len(points), points.stride(0), tiles),
        constants,
    )
    return out


def backward(mode: DeepMode, quantity: str, batch: Batch, theta: Tensor, into: Gradients) -> None:
    """The gradients of Σ_B <v, f> + weight F, of which `quantity` names the terms, for at least one row."""
    x = launch.rows_of(batch.x)
    v = None if batch.v is None else launch.rows_of(batch.v)
    weight = None if batch.weight is None else batch.weight.reshape(-1)
    if into.x is None and into.theta is None:
        assert into.bias is not None
        assert v is not None
        into.bias.copy_(v.sum(0, dtype=torch.float32))
        return
    constants, count = mode.of("backward", quantity, x.shape[1]), into.count()
    tiles = triton.cdiv(len(x), constants["BM"])
    most = max(1, _SUM_BYTES // (4 * max(count, 1)))
    programs = min(tiles, most, _programs(x.device, "backward", constants))
    arguments = (
        *(x, v, weight, theta, into.x, into.theta, into.bias, _memory(x, programs, constants, 4)),
        torch.empty(programs * count, dtype=torch.float32, device=x.device),
        *(launch.counters(x.device, 3), len(x), x.stride(0)),
        *(0 if v is None else v.stride(0), 0 if weight is None else weight.stride(0), tiles, programs),
    )
    _launched(deep_entry.backward, programs + triton.cdiv(count, constants["TOTALS"]), arguments, constants)


def _launched(kernel: object, programs: int, arguments: tuple[object, ...], constants: Constants) -> None:
    try:
        launching.launch_by_plan(kernel, (programs,), arguments, constants)
    except BaseException:
        launch.forget_counters()
        raise


def _programs(device: torch.device, kernel: str, constants: Constants) -> int:
    """How many programs there may be: shapes and the device alone decide, so that sums are reproducible."""
    if device.type == "cpu":
        return _INTERPRETED
    return _multiprocessors(device) * max(1, _WARPS[kernel] // constants["num_warps"])


@lru_cache(maxsize=None)
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _memory(x: Tensor, programs: int, constants: Constants, tiles: int) -> Tensor:
    """Memory in which programs keep so many tiles of each layer."""
    size = programs * len(constants["WIDTHS"]) * tiles * constants["BM"] * constants["WIDEST"]
    return torch.empty(size, dtype=x.dtype, device=x.device)
