"""No time without a right result: every contender against float64, at the size and in the calls that are timed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import accuracy
from ..accuracy import Verdict
from .cases import Problem
from .contenders import Contender, of_function

ROWS = 512


def chosen_rows(batch: int) -> Tensor:
    """At most ROWS rows, evenly spaced, with the first and the last."""
    return torch.linspace(0, batch - 1, min(batch, ROWS)).round().long()


def exact(problem: Problem, rows: Tensor) -> list[Tensor]:
    """The result f at these rows, and the gradients of <g, f>, for parameters with g = 0 at others, in float64."""
    few = problem.part(rows)
    names, count = list(problem.parameters), len(problem.points)

    def function(*tensors: Tensor) -> Tensor:
        return problem.exact(dict(zip(names, tensors[count:])), *tensors[:count])

    tensors = [t.detach().double() for t in (*few.points, *few.parameters.values())]
    return accuracy.evaluated(function, tensors, few.g.double())


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


def judged(problem: Problem, got: Sequence[Tensor], eager: Sequence[Tensor] | None, truth: Sequence[Tensor]) -> Verdict:
    """A contender's `results`, or f alone, by the rule of `accuracy`; eager: None for those of eager PyTorch itself."""
    points = ("x", "v")[: len(problem.points)]
    names = ["f", *(f"gradient of {name}" for name in (*points, *problem.parameters)), "f without a graph"]
    return accuracy.judged(names, got, eager, [*truth, truth[0]], problem.eps, accuracy.half_the_digits(problem.eps))
