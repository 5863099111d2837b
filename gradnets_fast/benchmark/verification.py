"""No time without a right result: every contender against float64, at the size and in the calls that are timed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contenders import Contender, Problem

ROWS = 512
FLOOR_ULPS = 8.0


def chosen_rows(batch: int) -> Tensor:
    """At most ROWS rows, evenly spaced, with the first and the last."""
    return torch.linspace(0, batch - 1, min(batch, ROWS)).round().long()


def exact(problem: Problem, rows: Tensor) -> list[Tensor]:
    """f and the gradients of <g, f> at these rows for x, and for every parameter with g = 0 at others, in float64."""
    names = [name for name, _ in problem.net.named_parameters()]
    leaves = [t.detach().double().requires_grad_() for t in (problem.x[rows], *problem.net.parameters())]
    f = problem.case.reference(dict(zip(names, leaves[1:])), leaves[0])
    return [f.detach(), *torch.autograd.grad(f, leaves, problem.g[rows].double(), materialize_grads=True)]


def results(contender: Contender, problem: Problem, rows: Tensor) -> list[Tensor]:
    """The same of a contender, from calls on the whole batch; f without a graph comes last."""
    # A cotangent that is 0 elsewhere makes the parameters' gradients of the whole batch those of these rows.
    g = torch.zeros_like(contender.x).index_copy_(0, rows, problem.g[rows].to(contender.x.dtype))
    f, *gradients = contender.step(g)
    assert f is not None
    leaves = (contender.x, *contender.parameters)
    dx, *parameters = (torch.zeros_like(t) if d is None else d for t, d in zip(leaves, gradients))
    return [f.detach()[rows], dx[rows], *parameters, contender.forward()[rows]]


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
    return 2 * eager_error + FLOOR_ULPS * eps * largest


def fault(
    got: Sequence[Tensor], eager: Sequence[Tensor], truth: Sequence[Tensor], eps: float | None = None
) -> str | None:
    """What is wrong with a result; None if nothing is.

    Each tensor's largest error is at most twice eager's in that tensor plus FLOOR_ULPS units in the last place of the
    largest exact value of all tensors, as in the package's tests: a sum over the batch may cancel to much less than its
    terms.  Eager itself, with got is eager, is held to half the digits.  eps: that of the dtype, or of what products
    round their factors to.
    """
    truth = [*truth, truth[0]]
    eps = torch.finfo(eager[0].dtype).eps if eps is None else eps
    largest = max(t.abs().max().item() for t in truth)
    coarse = eps**0.5 * largest
    for position, (mine, theirs, t) in enumerate(zip(got, eager, truth)):
        error, eager_error = ((tensor.double() - t).abs().max().item() for tensor in (mine, theirs))
        bound = coarse if got is eager else allowed(min(eager_error, coarse), largest, eps)
        if mine.shape != t.shape or not error <= bound:
            what = "f" if position in (0, len(truth) - 1) else "dx" if position == 1 else f"parameter {position - 2}"
            return f"{what}: error {error:.2g}, at most {bound:.2g} allowed"
    return None
