"""A network measured as a transport map, with POT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import check_tensor, message
from ._optional import require

_MAX_ITERATIONS = 10_000_000
"""Limit of the network simplex; POT's own stops short of the optimum at some thousand points."""


@dataclass(frozen=True)
class TransportReport:
    """A map T measured on samples x and y, all costs being means of squared distances.

    Attributes:
        samples: the numbers of points x and y.
        target_distance: the 2-Wasserstein distance between T(x) and y.  The best to expect is the distance between two
            samples of one distribution, which is not 0.
        map_cost: the mean of |x − T(x)|².
        optimal_cost: the cost of the best pairing of the points x with the points T(x).
        target_cost: the cost of the best transport of x to y.
    """

    samples: tuple[int, int]
    target_distance: float
    map_cost: float
    optimal_cost: float
    target_cost: float

    @property
    def gap(self) -> float:
        """1 − optimal_cost/map_cost, up to rounding between 0 and 1: 0 for the gradient of a convex potential."""
        return 1 - self.optimal_cost / self.map_cost if self.map_cost else 0.0

    @property
    def cost_ratio(self) -> float:
        """map_cost/target_cost: 1 for an optimal map to the distribution of y, up to sampling; NaN if x is y."""
        return self.map_cost / self.target_cost if self.target_cost else float("nan")

    def __str__(self) -> str:
        return (
            f"transport of {self.samples[0]} points to {self.samples[1]}\n"
            f"  W2(T(x), y)         {self.target_distance:.4g}\n"
            f"  mean |x - T(x)|^2   {self.map_cost:.4g}\n"
            f"  best for x to T(x)  {self.optimal_cost:.4g}, gap {self.gap:.2g}\n"
            f"  best for x to y     {self.target_cost:.4g}, ratio {self.cost_ratio:.4g}"
        )


def measure_transport(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> TransportReport:
    """Measure T = net as a transport map from the samples x to the samples y, with exact optimal transport.

    Equivalent to, in part:
        cost = torch.cdist(x, net(x)).square().numpy()
        optimal_cost = ot.emd2([], [], cost)

    Args:
        net: T, (n, d) → (n, d).
        x: (n, d).
        y: (m, d); n·m distances are held in memory.

    Returns: a `TransportReport`.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix; ImportError without POT.

    Source: Brenier, "Polar factorization and monotone rearrangement of vector-valued functions", 1991: a map is optimal
    for the squared distance between x and T(x) exactly if it is the gradient of a convex potential.

    For example:
        print(measure_transport(mGradNetC(4, in_dim=2, embed_dim=7), x, y))
    """
    ot = require("measure_transport", "ot")
    _check_samples(x, y)
    with torch.no_grad():
        moved = net(x)
    _check_finite("net", moved)
    x, moved, y = (points.detach().double().cpu() for points in (x, moved, y))
    return TransportReport(
        samples=(x.shape[0], y.shape[0]),
        target_distance=_optimal_cost(ot, moved, y) ** 0.5,
        map_cost=(x - moved).square().sum(-1).mean().item(),
        optimal_cost=_optimal_cost(ot, x, moved),
        target_cost=_optimal_cost(ot, x, y),
    )


def _check_samples(x: Tensor, y: Tensor) -> None:
    """Raise unless x (n, d) and y (m, d) are points of one dimension."""
    for name, points in (("x", x), ("y", y)):
        check_tensor("measure_transport", name, points)
        if points.dim() != 2 or not points.shape[0]:
            fix = "pass one row for each point, and at least one"
            got = f"shape {tuple(points.shape)}"
            raise ValueError(message("measure_transport", name, "shape (points, coordinates)", got, fix))
        _check_finite(name, points)
    if x.shape[1] != y.shape[1]:
        fix = "pass samples of one dimension"
        got = f"shape {tuple(y.shape)}"
        raise ValueError(message("measure_transport", "y", f"{x.shape[1]} coordinates, like x", got, fix))


def _check_finite(argument: str, points: Tensor) -> None:
    """Raise ValueError on NaN and infinity, for which POT would still return a number."""
    rows = int((~points.isfinite()).any(-1).sum())
    if rows:
        fix = "leave those points out, or train with a lower rate"
        raise ValueError(message("measure_transport", argument, "finite points", f"{rows} that are not", fix))


def _optimal_cost(ot: Any, source: Tensor, target: Tensor) -> float:
    """The least mean squared distance over which the points of `source` can be moved to those of `target`."""
    # Matrix products would make short distances the differences of long ones.
    cost = torch.cdist(source, target, compute_mode="donot_use_mm_for_euclid_dist").square()
    return float(ot.emd2([], [], cost.numpy(), numItermax=_MAX_ITERATIONS))
