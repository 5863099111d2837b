"""A learned transport map, measured: its error where the optimal map is known, its cost, its inverse, exact plans."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...backend import use_backend
from ...convex import inverse
from ...interop.transport import measure_transport
from .evaluation import sample_jacobians, time_steps
from .training import Trainer
from .transport import TransportProblem

EXACT_POINTS = 2000
"""Of so many points of each end POT's exact plan is computed."""


@dataclass(frozen=True)
class TransportEvaluation:
    """The measurements of one run.

    Attributes:
        map_mse: the mean over points and coordinates of the squared error of the map; None if that is not known.
        cost: the mean of |x − f(x)|² over the test points.
        inverse_error: of f⁻¹(f(x)), the largest distance to x, relative to the largest |x|.
        unconverged: of how many of these points the inverse was not found.
        smallest_eigenvalue: the smallest one of the Jacobians at some test points.
        exact: the comparison with exact optimal transport, `TransportReport`'s attributes; None if there is none.
        why_not: why there is none.
    """

    map_mse: float | None
    cost: float
    inverse_error: float
    unconverged: int
    smallest_eigenvalue: float
    parameters: int
    backend: str
    milliseconds_per_step: float | None
    reference_milliseconds_per_step: float | None
    exact: dict[str, Any] | None
    why_not: str | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def evaluate_transport(trainer: Trainer) -> TransportEvaluation:
    """Measure a trained map."""
    problem, net, backend = trainer.problem, trainer.module, trainer.backend
    assert isinstance(problem, TransportProblem)
    x = problem.test_x
    with torch.no_grad(), use_backend(backend):
        moved = net(x)
        back = inverse(net, moved)
    known = len(problem.test_g) > 0
    ours, reference = time_steps(trainer, backend) if trainer.ranks.size == 1 else (None, None)
    exact, why_not = _exact(problem, trainer)
    return TransportEvaluation(
        map_mse=(moved - problem.test_g).square().mean().item() if known else None,
        cost=(moved - x).square().sum(-1).mean().item(),
        inverse_error=((back.x - x).norm(dim=-1).max() / x.norm(dim=-1).max()).item(),
        unconverged=int((~back.converged).sum()),
        smallest_eigenvalue=torch.linalg.eigvalsh(sample_jacobians(net, x, backend)).min().item(),
        parameters=sum(p.numel() for p in net.parameters()),
        backend=backend,
        milliseconds_per_step=ours,
        reference_milliseconds_per_step=reference,
        exact=exact,
        why_not=why_not,
    )


def _exact(problem: TransportProblem, trainer: Trainer) -> tuple[dict[str, Any] | None, str | None]:
    """The comparison with POT's exact plans, or why there is none."""
    x, y = problem.test_x, problem.test_y
    if len(problem.test_g):
        return None, "the optimal map is known"
    if max(len(x), len(y)) > EXACT_POINTS:
        return None, f"more than {EXACT_POINTS} test points"
    try:
        report = measure_transport(trainer.module, x, y)
    except ImportError:
        return None, "POT is not installed: pip install POT"
    return asdict(report) | {"gap": report.gap, "cost_ratio": report.cost_ratio}, None
