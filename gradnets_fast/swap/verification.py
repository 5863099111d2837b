"""Comparison of a module's values at random points before and after it takes on our class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_POINTS = 32
TOLERANCES = {torch.bfloat16: 2.0**-4, torch.float16: 2.0**-6, torch.float32: 2.0**-15, torch.float64: 2.0**-26}
"""Relative differences that count as rounding.

In float32 and float64 they are many units in the last place, which is still far below the error of a wrong form; in
float64 they exceed the error of torch's softplus, which is linear beyond 20.
"""


class MismatchError(Exception):
    """A value differs from before; the message says how."""


def probe(module: nn.Module, d: int, scales: Sequence[float]) -> list[Tensor]:
    """Random points (32, d) of each scale, from a fixed seed, on the device of the module's parameters."""
    weight, generator = next(module.parameters()), torch.Generator().manual_seed(0)
    return [(scale * torch.randn(_POINTS, d, generator=generator)).to(weight) for scale in scales]


@torch.no_grad()
def values(module: nn.Module, batches: Sequence[Tensor]) -> list[Any]:
    """The result of a module's forward for each batch; hooks, which may count calls, do not run."""
    return [module.forward(points) for points in batches]


def is_pair(value: object) -> bool:
    """Whether a result can be (f, log-determinant)."""
    return type(value) is tuple and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


@torch.no_grad()
def verified(module: Any, batches: Sequence[Tensor], before: Sequence[Any]) -> float:
    """The largest difference between f and `before`, over the largest value; `module` has our class by now.

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
    if not difference <= TOLERANCES[then.dtype]:  # true of NaN too
        raise MismatchError(f"differs by {difference:.1e} of the largest value")
    return difference


def _compare_logarithms(now: Tensor, then: Tensor, jacobian: Tensor) -> None:
    """Compare log-determinants where rounding leaves them a digit: an error ε|J| of J makes up to d cond(J) ε."""
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
