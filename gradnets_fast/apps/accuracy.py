"""The rule by which a result passes: at most twice the error of eager PyTorch in the same dtype, plus a floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR_ULPS = 8.0
FLOAT64_FLOOR_ULPS = 64.0
"""In float64 eager PyTorch is as exact as the oracle, so that its error reads 0 and the floor stands for it."""


@dataclass(frozen=True)
class Verdict:
    """What became of a comparison.

    Attributes:
        fault: what is wrong first; None if nothing is.
        relative_error: the largest error, in units of the largest exact value.
        of_allowed: the largest error, as a part of what is allowed.
    """

    fault: str | None
    relative_error: float
    of_allowed: float


def allowed(eager_error: float, largest: float, eps: float) -> float:
    """The largest error that passes beside eager's, where values reach `largest`: the rule of the package's tests.

    >>> allowed(0.25, 2.0, 2.0**-7)
    0.625
    """
    ulps = FLOAT64_FLOOR_ULPS if eps == torch.finfo(torch.float64).eps else FLOOR_ULPS
    return 2 * eager_error + ulps * eps * largest


def half_the_digits(eps: float) -> float:
    """The relative error by which plain PyTorch itself counts as wrong."""
    return math.sqrt(eps)


def judged(
    names: Sequence[str],
    got: Sequence[Tensor],
    eager: Sequence[Tensor] | None,
    exact: Sequence[Tensor],
    eps: float,
    most: float = math.inf,
) -> Verdict:
    """Holds each tensor's largest error to twice eager's in that tensor, plus a floor.

    The floor is in units of the largest exact value of all tensors: a sum over the batch may cancel to much less than
    its terms.

    Args:
        names: of the tensors.
        got: the results; there may be fewer of them than exact ones.
        eager: those of plain PyTorch; None where the results are its own, and at most `most`.
        exact: those in float64.
        eps: of the dtype, or of the numbers that products round their factors to.
        most: the largest relative error that counts as plain PyTorch's.
    """
    largest = max(t.abs().max().item() for t in exact)
    fault, relative, of_allowed = None, 0.0, 0.0
    for position, (name, mine, truth) in enumerate(zip(names, got, exact)):
        if mine.shape != truth.shape:
            return Verdict(f"{name}: shape {tuple(mine.shape)}, not {tuple(truth.shape)}", math.inf, math.inf)
        error, limit = _error(mine, truth), most * largest
        if eager is not None:
            limit = allowed(min(_error(eager[position], truth), limit), largest, eps)
        if limit == math.inf:
            fault = fault or f"{name}: eager's own error is infinite, which allows anything"
        elif not error <= limit:
            fault = fault or f"{name}: error {error:.2g}, at most {limit:.2g} allowed"
        relative = max(relative, error / largest)
        of_allowed = max(of_allowed, error / limit) if math.isfinite(error) else of_allowed
    return Verdict(fault, relative, of_allowed)


def _error(tensor: Tensor, exact: Tensor) -> float:
    return (tensor.double() - exact).abs().max().nan_to_num(math.inf, math.inf).item()


def evaluated(function: Callable[..., Tensor], tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The result of a function of tensors that are copied as leaves, and the gradients of <g, result> for each."""
    return step(function, [t.detach().requires_grad_() for t in tensors], g)


def step(function: Callable[..., Tensor], leaves: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """What `evaluated` gives, of leaves that require gradients."""
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, g, materialize_grads=True)]
