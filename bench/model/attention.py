"""The model beside public measurements of a kernel of the same build: attention, forward.

That too multiplies, applies an exponential to each number of a tile in registers, and multiplies again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.model import pipes, sass, warp
from bench.model.chips import CHIPS, LANES, SCHEDULERS, programs
from gradnets_fast.kernels.compiler import Resources

_LENGTH = 16384


@triton.jit
def attention(q, k, v, out, scale, n, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """softmax(q kᵀ scale) v for BM rows of one head, with exponentials of base 2; q, k, v and out (heads, n, D)."""
    head = tl.program_id(1).to(tl.int64) * n * D
    lanes = tl.arange(0, D)[None, :]
    rows = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None] * D + lanes
    queries = tl.load(q + head + rows)
    highest = tl.full((BM,), -float("inf"), tl.float32)
    norm = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM, D), tl.float32)
    for start in range(0, n, BN):
        at = head + (start + tl.arange(0, BN))[:, None] * D + lanes
        scores = tl.dot(queries, tl.trans(tl.load(k + at)))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.math.exp2(scores * scale - higher[:, None])
        shrink = tl.math.exp2(highest - higher)
        norm = norm * shrink + tl.sum(weights, 1)
        total = tl.dot(weights.to(tl.float16), tl.load(v + at), total * shrink[:, None])
        highest = higher
    tl.store(out + head + rows, (total / norm[:, None]).to(tl.float16))


@dataclass(frozen=True)
class Measured:
    """What others have measured of Triton's attention, forward, in float16 without a mask.

    Attributes:
        architecture, d: of the GPU, and of a head.
        teraflops: of its two products, a second, at sequences of 16384.
        source: who says so.
    """

    architecture: int
    d: int
    teraflops: float
    source: str


PUBLISHED = (
    Measured(90, 128, 476.8, "https://github.com/pytorch/benchmark/pull/2391"),
    Measured(90, 128, 487.0, "https://github.com/facebookexperimental/triton/pull/206"),
)
"""On H100, tuned among tiles like `_TILES`."""

_TILES = tuple(product((64, 128), (32, 64, 128), (4, 8), (3,)))


def teraflops(architecture: int, d: int) -> dict[str, Any] | None:
    """The best that is predicted of any tiles, and those; None if none fits."""
    found = [(rate, tiles) for tiles in _TILES if (rate := _rate(architecture, d, *tiles)) is not None]
    if not found:
        return None
    rate, tiles = max(found)
    return {"predicted_teraflops": rate, "tiles": tiles}


def _rate(architecture: int, d: int, rows: int, columns: int, warps: int, stages: int) -> float | None:
    names = attention.arg_names
    types = dict(zip(names, (*("*fp16",) * 4, "fp32", "i32", *("constexpr",) * 3)))
    values = {(names.index(name),): value for name, value in (("D", d), ("BM", rows), ("BN", columns))}
    multiples = {(names.index(name),): [["tt.divisibility", 16]] for name in ("q", "k", "v", "out", "n")}
    source = ASTSource(attention, types, values, multiples)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", architecture, LANES), options=options)
    needs, chip = Resources.of(made), CHIPS[architecture]
    resident = programs(architecture, needs.registers, needs.shared, warps)
    section = sass.longest(*sass.parsed(sass.disassembled(made.asm["cubin"])))
    if needs.stack or not resident or section is None:
        return None
    least = max(pipes.total(section.loop, chip).values())
    clocks = warp.shared(least, warp.alone(section, chip).turn, resident * warps / SCHEDULERS) * warps / SCHEDULERS
    return 4e-3 * rows * columns * d / clocks * chip.multiprocessors * chip.gigahertz


def rows() -> list[dict[str, Any]]:
    """Each public measurement with what the model says of it."""
    predictions = {(m.architecture, m.d): teraflops(m.architecture, m.d) for m in PUBLISHED}
    return [asdict(m) | (predictions[m.architecture, m.d] or {}) for m in PUBLISHED]
