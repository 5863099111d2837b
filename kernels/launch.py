"""Launches of the ridge kernels: tensors in, tensors out; nothing of size batch × h in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import configuration, narrow, ridge, wide

_PROGRAMS = 512
"""Programs that share the gradients of the weights: enough for the largest GPU, and fixed, so that sums are too."""

_PARTIAL_BYTES = 64 << 20
_BIAS_ROWS, _BIAS_PROGRAMS = 1024, 64
_CHUNK_BYTES = 16 << 20
"""Hidden values of one piece of the batch on the wide route: two such tensors stay in the second-level cache."""

_LARGEST_STRIDE = 1 << 22
"""Offsets within a tile are counted in 32 bits."""


@dataclass(frozen=True)
class Mode:
    """How to compute.

    Attributes:
        architecture: of the table; `configuration.INTERPRETER` for CPU tensors.
        kind: of the products, one of `configuration.KINDS`.
        basis: names of the basis functions.
        layers: of the cascade.
        route: narrow, fused or wide.
    """

    architecture: int
    kind: str
    basis: tuple[str, ...]
    layers: int
    route: str

    def constants(self) -> dict[str, Any]:
        """The constant arguments that every kernel has."""
        fast = "fast_interpreted" if self.architecture == configuration.INTERPRETER else "fast"
        arithmetic = fast if self.kind == "half" else "accurate"
        return {"BASIS": self.basis, "LAYERS": self.layers, "ARITHMETIC": arithmetic, "enable_fp_fusion": True}

    def tiles(self, kernel: str, d: int) -> dict[str, int]:
        """Tile sizes and launch options of a kernel of the route."""
        module = {"narrow": "narrow", "fused": "ridge"}[self.route]
        depth = configuration.depth(self.layers, len(self.basis))
        found = configuration.options(f"{module}.{kernel}", self.architecture, self.kind, d, depth)
        assert found is not None
        return found

    def products(self, d: int, h: int, neurons: int) -> dict[str, Any]:
        """The constant arguments that depend on the shape, for tiles of `neurons`."""
        constants: dict[str, Any] = {"D": d, "EVEN": h % neurons == 0}
        if self.route == "fused":
            precision = self.kind if self.kind != "half" else "ieee"
            constants |= {"PRECISION": precision, "BD": configuration.padded(d)}
        return constants


def rows_of(x: Tensor) -> Tensor:
    """x (…, d) as a matrix whose rows are contiguous; a copy only where its strides ask for one."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 and 0 <= rows.stride(0) <= _LARGEST_STRIDE else rows.contiguous()


_modules = {"narrow": narrow, "fused": ridge}


def forward(
    mode: Mode, x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None
) -> Tensor:
    """f(x) for at least one row; all but x contiguous."""
    (h, d), rows = W.shape, rows_of(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if mode.route == "wide":
        _wide_forward(mode, rows, W, scale, shift, coef, bias, out.view(-1, d))
        return out
    tiles = mode.tiles("forward", d)
    grid = (triton.cdiv(rows.shape[0], tiles["BM"]),)
    _modules[mode.route].forward[grid](
        *(rows, W, scale, shift, coef, bias, out, rows.shape[0], h, rows.stride(0)),
        **mode.constants(),
        **mode.products(d, h, tiles["BH"]),
        **tiles,
    )
    return out


@dataclass
class Gradients:
    """Memory for the gradients that are wanted; of (scale, shift, coef) those that are, one after the other."""

    x: Tensor | None
    W: Tensor | None
    neurons: Tensor | None
    of: tuple[bool, bool, bool]
    bias: Tensor | None

    def flags(self) -> dict[str, bool]:
        return dict(zip(("OF_SCALE", "OF_SHIFT", "OF_COEF"), self.of))


def backward(
    mode: Mode,
    g: Tensor,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    into: Gradients,
) -> None:
    """The gradients of <g, f> for at least one row; all but g and x contiguous."""
    (h, d), points, cotangents = W.shape, rows_of(x), rows_of(g)
    if mode.route == "wide":
        _wide_backward(mode, cotangents, points, W, scale, shift, coef, into)
        return
    tiles = mode.tiles("backward", d)
    batch, count = points.shape[0], 0 if into.neurons is None else into.neurons.numel() // h
    numbers = count + (0 if into.W is None else _columns(mode, d))
    blocks = triton.cdiv(h, tiles["BH_WEIGHTS"]) if numbers else 0
    size = tiles["BH_WEIGHTS"] * numbers
    splits, rows_per_split = _split(batch, tiles["BM_WEIGHTS"], blocks, size)
    bias_splits = 0 if into.bias is None else min(triton.cdiv(batch, _BIAS_ROWS), _BIAS_PROGRAMS)
    bias_rows = triton.cdiv(triton.cdiv(batch, max(bias_splits, 1)), tiles["BM"]) * tiles["BM"]
    partials = torch.empty(blocks * splits * size, dtype=torch.float32, device=x.device)
    bias_partials = torch.empty(bias_splits * configuration.padded(d), dtype=torch.float32, device=x.device)
    programs = blocks * splits + bias_splits + (0 if into.x is None else triton.cdiv(batch, tiles["BM"]))
    constants = {**mode.constants(), **mode.products(d, h, tiles["BH"]), "BD": configuration.padded(d), **into.flags()}
    _modules[mode.route].backward[(programs,)](
        *(cotangents, points, W, scale, shift, coef, into.x, into.W, into.neurons, into.bias, partials, bias_partials),
        *(_counters(x.device, blocks + 1), batch, h, points.stride(0), cotangents.stride(0)),
        *(blocks * splits, splits, rows_per_split, bias_splits, bias_rows),
        **constants,
        **tiles,
    )


def _columns(mode: Mode, d: int) -> int:
    return configuration.padded(d) if mode.route == "fused" else d


def _split(batch: int, rows: int, blocks: int, size: int) -> tuple[int, int]:
    """Into how many parts of how many rows the batch is split: by shapes alone, so that sums are reproducible."""
    if blocks == 0:
        return 1, rows
    most = min(max(1, _PROGRAMS // blocks), max(1, _PARTIAL_BYTES // (4 * blocks * size)))
    splits = min(most, triton.cdiv(batch, 4 * rows))
    rows_per_split = triton.cdiv(triton.cdiv(batch, splits), rows) * rows
    return triton.cdiv(batch, rows_per_split), rows_per_split


_zeroed: dict[tuple[torch.device, int], Tensor] = {}


def _counters(device: torch.device, count: int) -> Tensor:
    """Zeros, which every launch leaves as zeros: one set per stream, because its launches come one after the other."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    if stream and torch.cuda.is_current_stream_capturing():
        # A graph owns its memory, and may be gone before the next launch.
        return torch.zeros(count, dtype=torch.int32, device=device)
    counters = _zeroed.get((device, stream))
    if counters is None or counters.numel() < count:
        counters = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
        _zeroed[device, stream] = counters
    return counters


def _chunks(batch: int, h: int, element: int) -> range:
    rows = max(256, _CHUNK_BYTES // (h * element) // 128 * 128)
    return range(0, batch, rows)


def _wide_forward(
    mode: Mode,
    rows: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    h, tiles, chunks = W.shape[0], configuration.wide_options("forward"), _chunks(len(rows), *_width(W))
    with torch.autocast(rows.device.type, enabled=False):
        for start in chunks:
            u = rows[start : start + chunks.step] @ W.T
            grid = (triton.cdiv(len(u), tiles["BM"]), triton.cdiv(h, tiles["BH"]))
            wide.forward[grid](u, scale, shift, coef, len(u), h, **mode.constants(), **tiles)
            torch.mm(u, W, out=out[start : start + chunks.step])
        if bias is not None:
            out += bias


def _width(W: Tensor) -> tuple[int, int]:
    return W.shape[0], W.element_size()


def _wide_backward(
    mode: Mode,
    g: Tensor,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    into: Gradients,
) -> None:
    h, tiles, chunks = W.shape[0], configuration.wide_options("backward"), _chunks(len(x), *_width(W))
    longest = min(chunks.step, len(x))
    rows_per_split = triton.cdiv(triton.cdiv(longest, 16), tiles["BM"]) * tiles["BM"]
    splits = triton.cdiv(longest, rows_per_split)
    count = 0 if into.neurons is None else into.neurons.numel() // h
    sums = torch.zeros(splits, count, h, dtype=torch.float32, device=x.device)
    dW = None if into.W is None else torch.zeros(W.shape, dtype=torch.float32, device=x.device)
    with torch.autocast(x.device.type, enabled=False):
        for start in chunks:
            part = slice(start, start + chunks.step)
            u, a = x[part] @ W.T, g[part] @ W.T
            grid = (triton.cdiv(len(u), rows_per_split), triton.cdiv(h, tiles["BH"]))
            wide.backward[grid](
                *(u, a, scale, shift, coef, sums, len(u), h, rows_per_split),
                **mode.constants(),
                **into.flags(),
                **tiles,
            )
            if into.x is not None:
                torch.mm(a, W, out=into.x.view(-1, W.shape[1])[part])
            if dW is not None:
                dW += u.T @ g[part]
                dW += a.T @ x[part]
        if into.W is not None and dW is not None:
            into.W.copy_(dW)
        if into.neurons is not None:
            into.neurons.view(count, h).copy_(sums.sum(0))
        if into.bias is not None:
            into.bias.copy_(g.sum(0, dtype=torch.float32))
