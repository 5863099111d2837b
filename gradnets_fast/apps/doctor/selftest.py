"""Every operator on every backend, beside float64: the rule of the package's tests, at small shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ... import functional
from ...backend import BACKENDS, ENVIRONMENT_VARIABLE, why_not
from ..bench import draws, operators, verification
from ..bench.cases import Case, Problem
from ..bench.contenders import by_backend
from .check import FAILURE, NOTE, OK, Check
from .examination import ISSUE, Request, described

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Size:
    """Shapes and settings of every operator's case.

    Attributes:
        shape: (batch, d, h).
        depth: layers, or modules.
        basis: of a cascade.
        transformed: basis and transform of transformed modules.
    """

    shape: tuple[int, int, int]
    depth: int
    basis: tuple[str, ...]
    transformed: tuple[str, str]

    def case(self, operator: str, dtype: str) -> Case:
        """That of an operator."""
        family = draws.family(operator)
        basis = {"ridge": self.basis, "transformed_modules": self.transformed[:1]}.get(family, ())
        transform = self.transformed[1] if family == "transformed_modules" else ""
        batch, d, h = self.shape
        return operators.named(operator, self.depth, basis, transform, dtype)(batch=batch, d=d, h=h)


SIZES = (
    Size((33, 5, 17), 2, ("tanh", "softplus"), ("softplus", "log")),
    Size((4, 3, 8), 1, ("silu",), ("tanh", "half_square")),
)
"""One beyond a small batch, with a remainder to every vector and tile; and one that is small."""


def _self_test(request: Request) -> Iterator[Check]:
    for device in request.devices():
        try:
            torch.zeros(1, device=device)
        except (AssertionError, RuntimeError) as error:
            # The checks of GPUs have said it; every case would say it again.
            yield Check("all backends", NOTE, f"not run: {device} cannot be used ({described(error)})")
            return
    for backend in BACKENDS:
        yield from of_backend(backend, request.devices())


def of_backend(backend: str, devices: list[torch.device]) -> Iterator[Check]:
    """A check for each dtype that it takes, on the first of the devices where it runs."""
    refusals = {device: why_not(backend, device, torch.float32) for device in devices}
    device = next((device for device, refusal in refusals.items() if refusal is None), None)
    if device is None:
        yield Check(f"all of {backend}", NOTE, f"not run: {refusals[devices[-1]]}")
        return
    for dtype in DTYPES:
        if why_not(backend, device, getattr(torch, dtype)) is None:
            yield _of_dtype(backend, dtype, device)


@dataclass
class _Tally:
    """What cases have come to."""

    cases: int = 0
    largest: float = 0.0
    worst: str = ""
    faults: list[str] = field(default_factory=list)

    def add(self, case: Case, error: float, fault: str | None) -> None:
        self.cases += 1
        if not error <= self.largest:
            self.largest, self.worst = error, case.label
        if fault is not None:
            self.faults.append(f"{case.label}: {fault}")

    def error(self) -> str:
        """The largest error, in units of the largest exact value."""
        return f"largest relative error {self.largest:.1e} in {self.worst}" if self.worst else "no error at all"


def _of_dtype(backend: str, dtype: str, device: torch.device) -> Check:
    tally, interpreted = _Tally(), backend == "triton" and device.type == "cpu"
    # The interpreter takes a minute for what the kernels do in no time.
    for case in cases(dtype, SIZES[-1:] if interpreted else SIZES):
        try:
            tally.add(case, *_error_and_fault(case, backend, device))
        except Exception as error:
            tally.add(case, float("inf"), described(error))
    name, where = f"{backend} {dtype}", "" if device.type == "cpu" else f" on {device}"
    if backend == "triton":
        where += " in Triton's interpreter" if interpreted else ", compiled where the cache had none"
    if not tally.faults:
        finding = f"{tally.cases} cases right{where}; {tally.error()}"
        return Check(name, OK, finding)
    more = f", and {len(tally.faults) - 1} more" if len(tally.faults) > 1 else ""
    finding = f"{len(tally.faults)} of {tally.cases} cases wrong{where}: {tally.faults[0]}{more}"
    meanwhile = "" if backend == "reference" else f"; meanwhile: export {ENVIRONMENT_VARIABLE}=reference"
    return Check(name, FAILURE, finding, ISSUE + meanwhile)


def cases(dtype: str, sizes: Sequence[Size]) -> Iterator[Case]:
    """Every operator at each size."""
    for size in sizes:
        for operator in functional.__all__:
            yield size.case(operator, dtype)


@lru_cache(maxsize=None)
def _expected(case: Case, device: torch.device) -> tuple[Problem, Tensor, list[Tensor], list[Tensor]]:
    """The tensors of a case, all its rows, and what float64 and eager PyTorch make of them."""
    with _one_thread():
        problem = case.problem(device)
        rows = torch.arange(len(problem.g), device=device)
        return problem, rows, verification.exact(problem, rows), verification.yardstick(problem, rows)


def _error_and_fault(case: Case, backend: str, device: torch.device) -> tuple[float, str | None]:
    problem, rows, exact, eager = _expected(case, device)
    with nullcontext() if backend == "cpp" else _one_thread():
        got = verification.results(by_backend(backend, problem), problem, rows)
    names = [*"xv"[: len(problem.points)], *problem.parameters]
    fault = verification.fault(got, eager, exact, problem.eps, names)
    return verification.relative_error(got, exact), fault


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch's operators take longer to wake threads than for tensors so small, on a busy machine a hundred times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


CHECKS = (_self_test,)
