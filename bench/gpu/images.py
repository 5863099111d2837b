"""Convolutional networks on a GPU: one launch each way, pieces between library convolutions, and eager PyTorch.

python -m bench.gpu --part images
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import gradnets_fast as gf
from gradnets_fast.apps.bench import runner
from gradnets_fast.apps.bench.measurement import interleaved
from gradnets_fast.kernels import conv_strip_launch

ROUNDS, SECONDS = 20, 20.0
SHAPES = (
    ((1, 481, 321), (64, 13)),
    ((1, 481, 321), (64, 5)),
    ((16, 40, 40), (64, 13)),
    ((64, 128, 128), (32, 7)),
    ((1, 1024, 1024), (64, 5)),
)
"""Images, rows and columns; filters and their side."""

DTYPES = {"bfloat16": 2.0**-7, "float32": 2.0**-10}
"""The dtypes, and the rounding of products: of float32 in convolutions PyTorch's own setting is TF32."""

JOBS = ("forward", "step")


@dataclass(frozen=True)
class Run:
    """A single convolution of images of one channel, with tanh."""

    images: int
    rows: int
    columns: int
    filters: int
    side: int
    dtype: str

    @property
    def label(self) -> str:
        """The case in words."""
        size = f"{self.images} images of {self.rows} × {self.columns}"
        return f"{self.filters} filters of {self.side} × {self.side}, {size}, {self.dtype}"


def cases() -> list[Run]:
    """All cases."""
    return [Run(*images, *filters, dtype) for dtype, (images, filters) in product(DTYPES, SHAPES)]


def _eager(x: Tensor, K: Tensor, b: Tensor) -> Tensor:
    padding = K.shape[-1] // 2
    return F.conv_transpose2d((F.conv2d(x, K, padding=padding) + b.view(-1, 1, 1)).tanh(), K, padding=padding)


def _ours(x: Tensor, K: Tensor, b: Tensor) -> Tensor:
    return gf.conv_ridge(x, K, None, b, None, basis="tanh")


@contextmanager
def _in_pieces() -> Iterator[None]:
    kept = conv_strip_launch.QUANTITIES
    conv_strip_launch.QUANTITIES = ()
    try:
        yield
    finally:
        conv_strip_launch.QUANTITIES = kept


def _pieces(x: Tensor, K: Tensor, b: Tensor) -> Tensor:
    return _ours(x, K, b)


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "one launch": _ours,
    "pieces": _pieces,
    "eager": _eager,
}


def _made(name: str, job: str, tensors: list[Tensor], g: Tensor) -> list[Tensor]:
    """f, or the gradients of <g, f>, by a contender."""
    run = CONTENDERS[name]
    if name == "pieces":
        with _in_pieces():
            return _results(run, job, tensors, g)
    return _results(run, job, tensors, g)


def _results(
    run: Callable[[Tensor, Tensor, Tensor], Tensor], job: str, tensors: list[Tensor], g: Tensor
) -> list[Tensor]:
    x, K, b = tensors
    if job == "forward":
        with torch.no_grad():
            return [run(x, K, b)]
    return list(torch.autograd.grad(run(x, K, b), tensors, g))


def measured(case: Run, place: torch.device, rounds: int = ROUNDS) -> dict[str, Any]:
    """The fault if there is one, and else the median milliseconds of each contender, forward and step."""
    tensors, g = _drawn(case, place)
    row: dict[str, Any] = {**asdict(case), "fault": None, "milliseconds": {}}
    clock = runner.clock_of(place)
    for job in JOBS:
        exact = _made("eager", job, [t.detach().double().requires_grad_() for t in tensors], g.double())
        errors = {name: _error(_made(name, job, tensors, g), exact) for name in CONTENDERS}
        allowed = 2 * errors["eager"] + 10 * DTYPES[case.dtype]
        wrong = [name for name in ("one launch", "pieces") if not errors[name] <= allowed]
        if wrong:
            return row | {"fault": f"{job}: errors {errors}, {allowed:.2g} is allowed"}
        jobs = {name: lambda name=name, job=job: _made(name, job, tensors, g) for name in CONTENDERS}
        samples = interleaved({name: clock.sampler(of) for name, of in jobs.items()}, rounds, SECONDS)
        row["milliseconds"][job] = {name: 1e3 * statistics.median(of) for name, of in samples.items()}
    return row


def _drawn(case: Run, place: torch.device) -> tuple[list[Tensor], Tensor]:
    """x, K and b, and a cotangent."""
    dtype, generator = getattr(torch, case.dtype), torch.Generator().manual_seed(0)
    x, g = (torch.randn(case.images, 1, case.rows, case.columns, generator=generator) for _ in range(2))
    K = torch.randn(case.filters, 1, case.side, case.side, generator=generator) / case.side
    b = torch.randn(case.filters, generator=generator)
    return [t.to(place, dtype).requires_grad_() for t in (x, K, b)], g.to(place, dtype)


def _error(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest error, each as a part of the largest number of its tensor."""
    return max(float((a - e).abs().max() / e.abs().max()) for a, e in zip(got, exact))


def line(row: dict[str, Any]) -> str:
    """A row in a line."""
    label = Run(**{name: row[name] for name in Run.__annotations__}).label
    if row["fault"] is not None:
        return f"FAILED {label}: {row['fault']}"
    parts = [f"{job} " + ", ".join(f"{n} {t:.3f} ms" for n, t in of.items()) for job, of in row["milliseconds"].items()]
    return f"{label}: {'; '.join(parts)}"
