"""No time without a right result: every contender against float64, at the size and in the calls that are timed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cases import Problem
from .contenders import Contender, of_function

ROWS = 512
FLOOR_ULPS = 8.0
FLOAT64_FLOOR_ULPS = 64.0
"""In float64 eager PyTorch is as exact as the oracle, so that its error reads 0 and the floor stands for it."""


def chosen_rows(batch: int) -> Tensor:
    """At most ROWS rows, evenly spaced, with the first and the last."""
    return torch.linspace(0, batch - 1, min(batch, ROWS)).round().long()


def exact(problem: Problem, rows: Tensor) -> list[Tensor]:
    """The result f at these rows, and the gradients of <g, f>, for parameters with g = 0 at others, in float64."""
    few = problem.part(rows)
    points, parameters = ([t.detach().double().requires_grad_() for t in own] for own in _leaves(few))
    f = problem.exact(dict(zip(problem.parameters, parameters)), *points)
    gradients = torch.autograd.grad(f, [*points, *parameters], few.g.double(), materialize_grads=True)
    return [f.detach(), *gradients]


def _leaves(problem: Problem) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return problem.points, tuple(problem.parameters.values())


def yardstick(problem: Problem, rows: Tensor) -> list[Tensor]:
    """What `results` gives, by eager PyTorch of these rows alone: it is there where a whole batch lacks memory."""
    few = problem.part(rows)
    return results(of_function(few.eager, few), few, torch.arange(len(rows), device=few.g.device))


def results(contender: Contender, problem: Problem, rows: Tensor) -> list[Tensor]:
    """What `exact` gives, by a contender's calls on the whole batch; f without a graph comes last."""
    count = len(contender.points)
    with contender.active():
        # A cotangent that is 0 elsewhere makes the parameters' gradients of the whole batch those of these rows.
        g = problem.g.to(contender.points[0].dtype)
        f, *gradients = contender.step(torch.zeros_like(g).index_copy_(0, rows, g[rows]))
        assert f is not None
        leaves = (*contender.points, *contender.parameters)
        found = [torch.zeros_like(t) if d is None else d for t, d in zip(leaves, gradients)]
        of_points = [d[rows] for d in found[:count]]
        return [f.detach()[rows], *of_points, *found[count:], contender.forward()[rows]]


def value(contender: Contender, rows: Tensor) -> Tensor:
    """The result f at these rows, without a graph."""
    with contender.active():
        return contender.forward()[rows]


def relative_error(got: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest error, in units of the largest exact value."""
    truth = [*truth, truth[0]]
    largest = max(t.abs().max().item() for t in truth)
    return max((mine.double() - t).abs().max().nan_to_num(torch.inf).item() for mine, t in zip(got, truth)) / largest


def allowed(eager_error: float, largest: float, eps: float) -> float:
    """The largest error that passes beside eager's, where values reach `largest`: the rule of the package's tests.

    >>> allowed(0.25, 2.0, 2.0**-7)
    0.625
    """
    ulps = FLOAT64_FLOOR_ULPS if eps == torch.finfo(torch.float64).eps else FLOOR_ULPS
    return 2 * eager_error + ulps * eps * largest


def fault(
    got: Sequence[Tensor],
    eager: Sequence[Tensor],
    truth: Sequence[Tensor],
    eps: float | None = None,
    names: Sequence[str] = (),
) -> str | None:
    """What is wrong with a result; None if nothing is.

    Each tensor's largest error is at most twice eager's in that tensor plus some units in the last place of the largest
    exact value of all tensors, as in the package's tests: a sum over the batch may cancel to much less than its terms.
    Eager itself, with got is eager, is held to half the digits.  eps: that of the dtype, or of what products round
    their factors to.  names: of the tensors whose gradients these are, for the message.
    """
    truth = [*truth, truth[0]]
    eps = torch.finfo(eager[0].dtype).eps if eps is None else eps
    largest = max(t.abs().max().item() for t in truth)
    coarse = eps**0.5 * largest
    for position, (mine, theirs, t) in enumerate(zip(got, eager, truth)):
        if mine.shape != t.shape:
            return f"{_what(position, len(truth), names)}: shape {tuple(mine.shape)}, not {tuple(t.shape)}"
        error, eager_error = ((tensor.double() - t).abs().max().item() for tensor in (mine, theirs))
        bound = coarse if got is eager else allowed(min(eager_error, coarse), largest, eps)
        if not error <= bound:
            return f"{_what(position, len(truth), names)}: error {error:.2g}, at most {bound:.2g} allowed"
    return None


def _what(position: int, count: int, names: Sequence[str]) -> str:
    if position in (0, count - 1):
        return "f"
    return f"gradient of {names[position - 1] if len(names) == count - 2 else position - 1}"
