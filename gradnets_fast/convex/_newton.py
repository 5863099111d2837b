"""Newton's method for A(x) = t, A the gradient of a convex function, each sample with a step length of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ._equation import Equation, Inputs, dot, norm

_SHORTEST_STEP = 2.0**-20

Progress = Callable[[int, int, float], None]
"""Called after each step with its number, how many samples are not solved yet, and the largest residual of these."""


class Outcome(NamedTuple):
    """Where the method ended: x (B, …); for each sample, (B,), whether it converged, in how many steps, |A(x) − t|."""

    x: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


@torch.no_grad()
def newton(
    equation: Equation,
    t: Tensor,
    start: Tensor | None,
    tolerance: float,
    max_iter: int,
    progress: Progress | None,
) -> Outcome:
    """Solve A(x) = t for each sample from `start`, all (B, …), or from t or 0, whichever is nearer to a solution.

    A sample has converged when |A(x) − t| is below the tolerance times the larger of |t| and |A(start) − t|, or when
    Newton's step, which is about the error of x, is below it times |x|.  Only the others take part in a step.
    """
    inputs = [tensor.detach() for tensor in equation.inputs]
    x = t.clone() if start is None else start.clone()
    r = equation.apply(inputs, x) - t
    if start is None:
        from_zero = equation.apply(inputs, torch.zeros_like(t)) - t
        is_nearer = norm(r) <= norm(from_zero)  # not so of NaN
        x, r = torch.where(is_nearer, x, 0.0), torch.where(is_nearer, r, from_zero)
    best, scale = norm(r), torch.maximum(norm(t), norm(r))
    converged, iterations = norm(r) <= tolerance * scale, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    # Not so of NaN, which no step mends.
    rows = (~converged & norm(r).isfinite()).flatten().nonzero().squeeze(1)
    for step_number in range(1, max_iter + 1):
        if not len(rows):
            break
        own, from_x, from_r = equation.rows(inputs, rows), x[rows], r[rows]
        # A loose direction far from the solution, and an ever better one near it, keep the convergence fast.
        loose = (norm(from_r) / scale[rows].clamp(min=torch.finfo(r.dtype).tiny)).sqrt().clamp(max=0.1)
        step = equation.solve(own, from_x, from_r, loose)
        residual = partial(_residual, equation, own, t[rows])
        accepted, to_x, to_r = _shortened(residual, from_x, from_r, step, best[rows])
        x[rows], r[rows], best[rows] = to_x, to_r, torch.minimum(best[rows], norm(to_r))
        iterations[rows] += 1
        done = (norm(to_r) <= tolerance * scale[rows]) | (norm(step) <= tolerance * norm(to_x))
        converged[rows] = done
        rows = rows[(accepted & ~done).flatten()]
        if progress is not None:
            progress(step_number, len(rows), float(norm(r[rows]).max()) if len(rows) else 0.0)
    return Outcome(x, converged.flatten(), iterations, norm(r).flatten())


def _residual(equation: Equation, inputs: Inputs, t: Tensor, x: Tensor) -> Tensor:
    return equation.apply(inputs, x) - t


def _shortened(
    residual: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, step: Tensor, best: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which samples were moved, and each one's x − λ·step with the first good λ = 1, ½, ¼, …, with its residual.

    λ is good if the minimised function still falls there along the step; being convex, it is then lower than at x.  The
    residual's length would not do, as a kink of f can make any step lengthen it.  Near the solution a Newton step may
    end slightly past the minimum: so λ is good too if it halves the shortest residual that any step began with, which
    can happen only finitely often.
    """
    moving, length = norm(step) > 0, torch.ones_like(best)
    while True:
        moved = x - length * step
        new = residual(moved)
        good = (dot(step, new) >= 0) | (norm(new) <= best / 2)
        pending = moving & ~good & (length > _SHORTEST_STEP)
        if not pending.any():
            accepted = moving & good
            return accepted, torch.where(accepted, moved, x), torch.where(accepted, new, r)
        length = torch.where(pending, length / 2, length)
