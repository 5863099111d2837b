"""Whether a module computes at random points what it did before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_POINTS = 32
TOLERANCES = {torch.bfloat16: 2.0**-4, torch.float16: 2.0**-6, torch.float32: 2.0**-15, torch.float64: 2.0**-26}
"""Relative differences that count as rounding.

Of float32 and float64, where rounding errors are far from what a wrong form does, many units in the last place; of
float64 more than torch's softplus errs, which is linear beyond 20.
"""


class MismatchError(Exception):
    """Why a value is another one than before."""


def probe(module: nn.Module, d: int, scales: Sequence[float]) -> list[Tensor]:
    """Random points of each scale, (32, d), from a generator of their own, where the module's parameters are."""
    weight, generator = next(module.parameters()), torch.Generator().manual_seed(0)
    return [(scale * torch.randn(_POINTS, d, generator=generator)).to(weight) for scale in scales]


@torch.no_grad()
def values(module: nn.Module, batches: Sequence[Tensor]) -> list[Any]:
    """What a module's forward returns for each batch, without hooks, which may count calls."""
    return [module.forward(points) for points in batches]


def is_pair(value: object) -> bool:
    """Whether it may be (f, log-determinant)."""
    return type(value) is tuple and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


@torch.no_grad()
def verified(module: Any, batches: Sequence[Tensor], before: Sequence[Any]) -> float:
    """The largest difference of f and `before`, over the largest value; `module` is a network of ours now.

    Raises:
        MismatchError: a difference is more than rounding.
    """
    largest = 0.0
    for points, now, then in zip(batches, values(module, batches), before):
        if is_pair(then):
            (now, logarithm), (then, expected) = now, then
            _compare_logarithms(logarithm, expected, module.jacobian(points))
        largest = max(largest, _compared(now, then))
    return largest


def _compared(now: Tensor, then: Tensor) -> float:
    _require_alike("f", now, then)
    largest = then.double().abs().max().clamp_min(torch.finfo(then.dtype).tiny)
    difference = float((now.double() - then.double()).abs().max() / largest)
    if not difference <= TOLERANCES[then.dtype]:  # nor if it is NaN
        raise MismatchError(f"differs by {difference:.1e} of the largest value")
    return difference


def _compare_logarithms(now: Tensor, then: Tensor, jacobian: Tensor) -> None:
    """Compares log-determinants where rounding leaves them a digit: an error ε|J| of J makes up to d cond(J) ε."""
    _require_alike("the log-determinant", now, then)
    singular = torch.linalg.svdvals(jacobian.double())
    # A 16th of the tolerance is far from what rounds in J still, and leaves more points to compare.
    rounding = TOLERANCES[then.dtype] / 16 * jacobian.shape[-1] * singular[:, 0] / singular[:, -1]
    told = rounding < 1.0
    if not told.any():
        raise MismatchError("cannot be told from others: its Jacobian is singular at all points, to rounding")
    now, then = now[told].double(), then[told].double()
    if not torch.equal(now.isnan(), then.isnan()):
        raise MismatchError("has NaN for other log-determinants")
    difference = (now - then).abs().nan_to_num(nan=0.0)
    if (difference > rounding[told].maximum(TOLERANCES[jacobian.dtype] * then.abs().nan_to_num())).any():
        raise MismatchError(f"has log-determinants that differ by up to {float(difference.max()):.1e}")


def _require_alike(name: str, now: Tensor, then: Tensor) -> None:
    if now.shape != then.shape or now.dtype != then.dtype:
        raise MismatchError(f"gives {name} the shape {tuple(now.shape)}, not {tuple(then.shape)}")
