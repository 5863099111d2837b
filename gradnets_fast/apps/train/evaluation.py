"""A trained network's error, its Jacobian, and the time of a step beside the reference backend's."""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...backend import use_backend
from ...fitting._steps import AutogradStep, KernelStep
from .losses import decibel, mean_squared_error
from .training import Trainer

JACOBIAN_POINTS = 200
TIMED_ROUNDS = 30
_WARMUP_ROUNDS = 3
_POTENTIALS = 1000


@dataclass(frozen=True)
class Evaluation:
    """The measurements of one run.

    Attributes:
        error_db: 10·log10 of the mean squared error norm on the test points; None where their gradients are not known.
        relative_error: root mean squared error over root mean squared target; None likewise.
        value_error: the same of the potential, both about their means, for gradients leave a constant open; None where
            the values at the test points are not known.
        value_offset: the mean of the potential's error, about which that is.
        asymmetry: largest |J − Jᵀ| over largest |J|, on some test points.
        smallest_eigenvalue: the smallest one of the symmetrised Jacobians at those points.
        largest_eigenvalue: the largest one.
        parameters: the number of trained scalars.
        backend: the backend that trained them.
        milliseconds_per_step: median of a whole step as training makes it on that backend; None if several
            processes share a step.
        reference_milliseconds_per_step: the same on the reference backend, interleaved; None with values too.
    """

    error_db: float | None
    relative_error: float | None
    value_error: float | None
    value_offset: float | None
    asymmetry: float
    smallest_eigenvalue: float
    largest_eigenvalue: float
    parameters: int
    backend: str
    milliseconds_per_step: float | None
    reference_milliseconds_per_step: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def evaluate(trainer: Trainer) -> Evaluation:
    """Measure a trained network."""
    problem, module = trainer.problem, trainer.module
    backend = trainer.backend
    error_db, relative_error = _gradient_error(trainer)
    value_error, value_offset = _value_error(trainer)
    jacobian = sample_jacobians(module, problem.test_x, backend)
    asymmetry = (jacobian - jacobian.mT).abs().max().item() / max(jacobian.abs().max().item(), 1e-30)
    symmetric = (jacobian + jacobian.mT) / 2
    eigenvalues = torch.linalg.eigvalsh(symmetric) if symmetric.isfinite().all() else symmetric.new_tensor(torch.nan)
    ours, reference = time_steps(trainer, backend) if trainer.ranks.size == 1 else (None, None)
    return Evaluation(
        error_db=error_db,
        relative_error=relative_error,
        value_error=value_error,
        value_offset=value_offset,
        asymmetry=asymmetry,
        smallest_eigenvalue=eigenvalues.min().item(),
        largest_eigenvalue=eigenvalues.max().item(),
        parameters=sum(p.numel() for p in module.parameters()),
        backend=backend,
        milliseconds_per_step=ours,
        reference_milliseconds_per_step=reference,
    )


def _gradient_error(trainer: Trainer) -> tuple[float | None, float | None]:
    """`error_db` and `relative_error`."""
    problem = trainer.problem
    if not len(problem.test_g):
        return None, None
    with torch.no_grad(), use_backend(trainer.backend):
        error = mean_squared_error(trainer.module(problem.test_x), problem.test_g).item()
    size = problem.test_g.square().sum(-1).mean().item()
    return decibel(error), (error / size) ** 0.5 if size else math.inf


def _value_error(trainer: Trainer) -> tuple[float | None, float | None]:
    """`value_error` and `value_offset`."""
    problem = trainer.problem
    if problem.test_values is None:
        return None, None
    with torch.no_grad(), use_backend(trainer.backend):
        # Without kernels the potential of a cascade holds many times its points' hidden units.
        F = torch.cat([trainer.module.potential(x) for x in problem.test_x.split(_POTENTIALS)])
    values = problem.test_values.double()
    error, size = F.double() - values, values.std(correction=0).item()
    return error.std(correction=0).item() / size if size else math.inf, error.mean().item()


def sample_jacobians(module: torch.nn.Module, points: Tensor, backend: str) -> Tensor:
    """Jacobians in float64 at JACOBIAN_POINTS of the points (fewer in high dimensions), (n, d, d)."""
    dim = points.shape[1]
    count = max(1, min(JACOBIAN_POINTS, points.shape[0], 2**22 // (dim * dim)))
    chosen = points[torch.linspace(0, points.shape[0] - 1, count).long().to(points.device)].double()
    exact = copy.deepcopy(module).double()
    for parameter in exact.parameters():
        parameter.requires_grad_(False)
    with use_backend(backend):
        jacobian: Tensor = torch.func.vmap(torch.func.jacrev(exact))(chosen)
    return jacobian


def time_steps(trainer: Trainer, backend: str) -> tuple[float, float | None]:
    """Median milliseconds of a training step on `backend` and on the reference, interleaved, on copies.

    None for the reference where potentials are fitted: its quadrature may hold far more than training needs.
    """
    batch, error = trainer.problem.source.batch(trainer.step), torch.empty(1, device=trainer.problem.test_x.device)
    contenders: list[tuple[str, AutogradStep | KernelStep, list[float]]] = []
    for name in (backend, "reference") if trainer.settings.fit == "gradient" else (backend,):
        with use_backend(name):
            contenders.append((name, trainer.step_of(copy.deepcopy(trainer.module)), []))
    for round_number in range(_WARMUP_ROUNDS + TIMED_ROUNDS):
        for name, step, times in contenders:
            with use_backend(name):
                start = time.perf_counter()
                step(batch, error, 1e-12)
                error.item()
                if round_number >= _WARMUP_ROUNDS:
                    times.append(1e3 * (time.perf_counter() - start))
    ours, *reference = (statistics.median(times) for _, _, times in contenders)
    return ours, reference[0] if reference else None
