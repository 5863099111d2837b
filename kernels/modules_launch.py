"""Launches of the kernels of modules: tensors in, tensors out; nothing of size batch × h in memory.

Called by `gradnets_fast.ops`; calls the kernels of `modules_entry`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from . import configuration, launch, launching, modules_entry
from .mode import ModulesMode, padded_columns

_SUM_ROWS, _SUM_PROGRAMS = 1024, 64


@dataclass(frozen=True)
class Network:
    """Contiguous tensors W (M, h, d), b (M, h), temperature, positive (or weight), negative (M,), sharpness () and
    offset (M,); None where there is none."""

    W: Tensor
    b: Tensor
    temperature: Tensor | None
    positive: Tensor
    negative: Tensor | None = None
    sharpness: Tensor | None = None
    offset: Tensor | None = None

    def pointers(self) -> tuple[Tensor | None, ...]:
        return (self.W, self.b, self.temperature, self.positive, self.negative, self.sharpness, self.offset)

    def columns(self) -> list[int]:
        """The sizes of positive, temperature, negative, offset and sharpness, in the order of their gradients."""
        count = self.W.shape[0]
        present = (True, self.temperature is not None, self.negative is not None, self.offset is not None)
        return [*(count * there for there in present), int(self.sharpness is not None)]


@dataclass
class Gradients:
    """Memory for the gradients that are needed, None for the others.

    b is there if W is.  scalars: the gradients of τ, p, q, … in the order of `Network.columns`.
    """

    x: Tensor | None = None
    W: Tensor | None = None
    b: Tensor | None = None
    scalars: Tensor | None = None
    bias: Tensor | None = None


def forward(mode: ModulesMode, quantity: str, x: Tensor, network: Network, bias: Tensor | None = None) -> Tensor:
    """f(x) ("value") or the potential without bias, for at least one row."""
    (count, h, d), rows = network.W.shape, launch.rows_of(x)
    out = torch.empty(x.shape if quantity == "value" else x.shape[:-1], dtype=x.dtype, device=x.device)
    constants = mode.forward(quantity, d, h, network.negative is not None)
    launching.launch_by_plan(
        modules_entry.forward,
        (triton.cdiv(len(rows), constants["BM"]),),
        (rows, *network.pointers(), bias, out, len(rows), h, count, rows.stride(0)),
        constants,
    )
    return out


def backward(
    mode: ModulesMode,
    quantity: str,
    x: Tensor,
    g: Tensor | None,
    weight: Tensor | None,
    network: Network,
    into: Gradients,
) -> None:
    """The gradients of <g, f> ("value") or of Σ_B weight F ("potential"), for at least one row."""
    (count, h, d), x = network.W.shape, launch.rows_of(x)
    g = None if g is None else launch.rows_of(g)
    columns = sum(network.columns())
    constants = mode.backward(quantity, d, h, network.negative is not None, columns)
    blocks = triton.cdiv(h, constants["BH_WEIGHTS"]) if into.b is not None else 0
    size = constants["BH_WEIGHTS"] * (1 + (0 if into.W is None else configuration.padded(d)))
    step = max(constants["BM"], constants["BM_WEIGHTS"])
    sums = launch.layout_of(len(x), step, count * blocks, size, constants["BH_WEIGHTS"], of_parts=1)
    rows_per_split = sums.rows if blocks else triton.cdiv(len(x), step) * step
    scalar_splits = 0 if into.scalars is None else min(triton.cdiv(len(x), _SUM_ROWS), _SUM_PROGRAMS)
    bias_splits = 0 if into.bias is None else min(triton.cdiv(len(x), _SUM_ROWS), _SUM_PROGRAMS)
    rows = triton.cdiv(len(x), constants["BM"])

    def memory(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    try:
        launching.launch_by_plan(
            modules_entry.backward,
            (rows + bias_splits + scalar_splits + sums.programs,),
            (
                *(x, g, weight, *network.pointers(), into.x, into.W, into.b, into.scalars, into.bias),
                memory(count * (4 if network.negative is None else 8), len(x)),
                None if into.scalars is None else memory(len(x), columns),
                memory(sums.partials),
                *(memory(scalar_splits * padded_columns(columns)), memory(bias_splits * configuration.padded(d))),
                launch.counters(x.device, sums.counters),
                *(len(x), h, count, x.stride(0), 0 if g is None else g.stride(0)),
                *(rows, blocks, sums.splits, rows_per_split),
                *(scalar_splits, _rows_per_split(len(x), scalar_splits, constants["BM"])),
                *(bias_splits, _rows_per_split(len(x), bias_splits, constants["BM"])),
            ),
            constants,
        )
    except BaseException:
        launch.forget_counters()
        raise


def _rows_per_split(rows: int, splits: int, step: int) -> int:
    """How many rows each of `splits` programs adds up, a multiple of `step`."""
    return triton.cdiv(triton.cdiv(rows, max(splits, 1)), step) * step
