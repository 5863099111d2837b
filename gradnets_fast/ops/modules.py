"""The module family as operators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from . import _cpp
from .operator import Operator, register
from .scalars import hidden_values, register_scalars

_SOFTMAX = ("W", "b", "temperature", "positive", "negative?")
_TRANSFORMED = ("W", "b", "weight")

SOFTMAX_SCALARS = register_scalars("softmax_modules", _SOFTMAX, lambda config: ())
TRANSFORMED_SCALARS = register_scalars("transformed_modules", _TRANSFORMED, lambda config: tuple(config.split(",")))


def _softmax_reference(*arguments: Any) -> Tensor:
    *tensors, _ = arguments
    return reference.softmax_modules(*tensors)


def _transformed_reference(*arguments: Any) -> Tensor:
    *tensors, config = arguments
    return reference.transformed_modules(*tensors, *config.split(","))


def _hidden_width(x: Tensor, *parameters: Tensor | None) -> int:
    return hidden_values("modules", *parameters)


softmax_modules = register(
    Operator(
        name="softmax_modules",
        arguments=("x", *_SOFTMAX, "bias?"),
        reference=_softmax_reference,
        forward=_cpp.softmax_modules_forward,
        attempt=_cpp.softmax_modules_attempt,
        backward=_cpp.softmax_modules_backward,
        hidden_width=_hidden_width,
        tangent=SOFTMAX_SCALARS["jvp"]["cpp"],
    )
)

transformed_modules = register(
    Operator(
        name="transformed_modules",
        arguments=("x", *_TRANSFORMED, "bias?"),
        reference=_transformed_reference,
        forward=_cpp.transformed_modules_forward,
        attempt=_cpp.transformed_modules_attempt,
        backward=_cpp.transformed_modules_backward,
        hidden_width=_hidden_width,
        tangent=TRANSFORMED_SCALARS["jvp"]["cpp"],
    )
)
