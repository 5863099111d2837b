"""What is measured on a GPU, in order of importance, and the bounds that times are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
"""tf32: float32 whose products PyTorch is told to compute in TF32; fp32: as PyTorch is by default."""

_BATCH, _WIDE_BATCH, _WIDE = 2**20, 2**17, 256
_TANH_PER_CLOCK = 16
"""Evaluations of tanh that the special-function units of one multiprocessor begin in a clock."""


@dataclass(frozen=True)
class Case:
    """One network at one size: mRidgeGradNet for one layer, else mGradNetC."""

    d: int
    h: int
    layers: int
    dtype: str
    batch: int

    @property
    def label(self) -> str:
        """For people and for --case."""
        return f"{self.dtype} L={self.layers} B={self.batch} d={self.d} h={self.h}"


def cases() -> list[Case]:
    """All cases, the most telling first."""
    return sorted(_all(), key=_rank)


def _all() -> Iterator[Case]:
    for dtype, layers, h, d in product(DTYPES, (1, 4), (1024, 4096), (2, 8, 32, 64, 128, 256, 1024)):
        yield Case(d, h, layers, dtype, _WIDE_BATCH if d >= _WIDE else _BATCH)


def _rank(case: Case) -> tuple[int, int, int, int]:
    middle = case.d in (32, 64, 128)
    return case.h // 1024 + list(DTYPES).index(case.dtype), 0 if middle else 1, case.layers, case.d


def flops(case: Case) -> dict[str, float]:
    """Algorithmic operations of the matrix products: two forward, five backward, which computes the first again."""
    one = 2.0 * case.batch * case.h * case.d
    return {"forward": 2 * one, "backward": 5 * one, "step": 7 * one}


def minimum_bytes(case: Case) -> dict[str, float]:
    """What must be read and written: x and f; backward x, g and dx; the weights and their gradient."""
    size = DTYPES[case.dtype].itemsize
    rows, weights = case.batch * case.d * size, case.h * case.d * size
    passes = {"forward": 2.0 * rows + weights, "backward": 3.0 * rows + 2 * weights}
    return passes | {"step": passes["forward"] + passes["backward"]}


@dataclass(frozen=True)
class Rates:
    """Of the GPU, measured in the same run.

    Attributes:
        matmul: floating-point operations a second of torch.mm, by dtype of DTYPES.
        copy: bytes read and written a second.
        tanh: evaluations a second that the special-function units begin, from clock and multiprocessors.
    """

    matmul: dict[str, float]
    copy: float
    tanh: float


def tanh_rate(multiprocessors: int, hertz: float) -> float:
    """What `Rates` has.

    >>> tanh_rate(132, 1.98e9) / 1e12
    4.18176
    """
    return _TANH_PER_CLOCK * multiprocessors * hertz


def bound(case: Case, rates: Rates) -> dict[str, float]:
    """Seconds that each job takes at least: by matrix products, by memory, or by evaluating each layer's tanh once."""
    evaluations = float(case.batch * case.h * case.layers)
    passes = {"forward": 1, "backward": 1, "step": 2}
    return {
        job: max(
            operations / rates.matmul[case.dtype],
            minimum_bytes(case)[job] / rates.copy,
            passes[job] * evaluations / rates.tanh,
        )
        for job, operations in flops(case).items()
    }
