"""Determinants of batches of matrices on a GPU beside torch.linalg: errors, and times.

python -m bench.gpu --part determinants
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

import gradnets_fast as gf
from gradnets_fast.apps.bench import runner
from gradnets_fast.apps.bench.measurement import interleaved

SIZES = (2, 4, 8, 16, 32, 64)
BATCHES = (1000, 16384)
ROUNDS, SECONDS = 30, 20.0
_FLOOR_ULPS = 64.0
"""What an error may be beyond twice that of torch.linalg, in units in the last place of the largest result."""

Results = list[Tensor]


@dataclass(frozen=True)
class Matrices:
    """A batch of symmetric positive definite matrices, `count` of d × d, of condition numbers of about 100."""

    count: int
    d: int
    dtype: str

    @property
    def label(self) -> str:
        """The case in words."""
        return f"log det A and its gradient, {self.count} of {self.d} × {self.d}, {self.dtype}"

    def drawn(self, place: torch.device) -> Tensor:
        """The matrices, which the sizes alone determine."""
        generator = torch.Generator().manual_seed(self.d)
        G = torch.randn(self.count, self.d, self.d, dtype=torch.float64, generator=generator) / self.d**0.5
        A = G @ G.mT + torch.eye(self.d, dtype=torch.float64) / 25
        return A.to(place, getattr(torch, self.dtype))


def cases() -> list[Matrices]:
    """All cases, float32 first."""
    return [Matrices(count, d, dtype) for dtype, count, d in product(("float32", "float64"), BATCHES, SIZES)]


def by_slogdet(slogdet: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor], Results]:
    """The logarithms and their gradient by autograd."""

    def both(A: Tensor) -> Results:
        leaf = A.requires_grad_()
        logarithm = slogdet(leaf)[1]
        return [logarithm.detach(), *torch.autograd.grad(logarithm.sum(), leaf)]

    return both


def by_cholesky(A: Tensor) -> Results:
    """The same by torch.linalg's factorisation, which must be told that the matrices are positive definite."""
    factor = torch.linalg.cholesky_ex(A.detach()).L
    return [2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), torch.cholesky_inverse(factor)]


CONTENDERS: dict[str, Callable[[Tensor], Results]] = {
    "gradnets_fast": by_slogdet(gf.symmetric_slogdet),
    "torch.linalg.slogdet": by_slogdet(torch.linalg.slogdet),
    "torch.linalg.cholesky": by_cholesky,
}


def measured(case: Matrices, place: torch.device, rounds: int = ROUNDS) -> dict[str, Any]:
    """Errors against float64, the fault if ours are too large, and else the median milliseconds of each contender."""
    A = case.drawn(place)
    truth = CONTENDERS["torch.linalg.slogdet"](A.double())
    errors = {name: [_error(*pair) for pair in zip(job(A), truth)] for name, job in CONTENDERS.items()}
    floor = _FLOOR_ULPS * torch.finfo(A.dtype).eps
    allowed = [2 * error + floor for error in errors["torch.linalg.cholesky"]]
    row = {
        **asdict(case),
        "errors": errors,
        "kernel": gf.explain("symmetric_slogdet", A.detach()).kernel,
        "fault": None,
    }
    if not all(mine <= most for mine, most in zip(errors["gradnets_fast"], allowed)):
        return row | {"fault": f"errors {errors['gradnets_fast']}, and {allowed} are allowed"}
    clock = runner.clock_of(place)
    jobs = {name: clock.sampler(lambda job=job: job(A)) for name, job in CONTENDERS.items()}  # type: ignore[misc]
    samples = interleaved(jobs, rounds, SECONDS)
    return row | {"milliseconds": {name: 1e3 * statistics.median(of) for name, of in samples.items()}}


def _error(found: Tensor, truth: Tensor) -> float:
    """The largest error, over the largest number."""
    return float((found.double() - truth).abs().max() / truth.abs().max())


def line(row: dict[str, Any]) -> str:
    """A row in a line."""
    label = Matrices(row["count"], row["d"], row["dtype"]).label
    if row["fault"] is not None:
        return f"FAILED {label}: {row['fault']}"
    return f"{label}: " + ", ".join(f"{name} {of:.3f} ms" for name, of in row["milliseconds"].items())
