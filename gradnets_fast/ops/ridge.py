"""The ridge family as an operator."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from . import _cpp
from .operator import Operator, register


def _reference(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor | None, config: str
) -> Tensor:
    return reference.ridge(x, W, scale, shift, coef, bias, config.split(","))


def _hidden_width(x: Tensor, W: Tensor, scale: Tensor, *_: Tensor | None) -> int:
    return W.shape[0] * scale.shape[0]


ridge = register(
    Operator(
        name="ridge",
        arguments=("x", "W", "scale", "shift", "coef", "bias?"),
        reference=_reference,
        forward=_cpp.ridge_forward,
        attempt=_cpp.ridge_attempt,
        backward=_cpp.ridge_backward,
        hidden_width=_hidden_width,
    )
)
