"""The module family as operators."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from . import _cpp
from .operator import Operator, register


def _softmax_reference(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    config: str,
) -> Tensor:
    return reference.softmax_modules(x, W, b, temperature, positive, negative, bias)


def _transformed_reference(x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, config: str) -> Tensor:
    return reference.transformed_modules(x, W, b, weight, bias, *config.split(","))


def _softmax_jvp_reference(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    config: str,
) -> Tensor:
    return reference.softmax_modules_jvp(x, v, W, b, temperature, positive, negative, None)


def _transformed_jvp_reference(x: Tensor, v: Tensor, W: Tensor, b: Tensor, weight: Tensor, config: str) -> Tensor:
    return reference.transformed_modules_jvp(x, v, W, b, weight, None, *config.split(","))


def _hidden_width(x: Tensor, W: Tensor, *_: Tensor | None) -> int:
    return W.shape[0] * W.shape[1]


def _jvp_hidden_width(x: Tensor, v: Tensor, W: Tensor, *_: Tensor | None) -> int:
    return _hidden_width(x, W)


softmax_modules_jvp = register(
    Operator(
        name="softmax_modules_jvp",
        arguments=("x", "v", "W", "b", "temperature", "positive", "negative?"),
        reference=_softmax_jvp_reference,
        forward=_cpp.softmax_modules_jvp_forward,
        attempt=_cpp.softmax_modules_jvp_forward,
        backward=_cpp.softmax_modules_jvp_backward,
        hidden_width=_jvp_hidden_width,
        rows=2,
    )
)

transformed_modules_jvp = register(
    Operator(
        name="transformed_modules_jvp",
        arguments=("x", "v", "W", "b", "weight"),
        reference=_transformed_jvp_reference,
        forward=_cpp.transformed_modules_jvp_forward,
        attempt=_cpp.transformed_modules_jvp_forward,
        backward=_cpp.transformed_modules_jvp_backward,
        hidden_width=_jvp_hidden_width,
        rows=2,
    )
)


softmax_modules = register(
    Operator(
        name="softmax_modules",
        arguments=("x", "W", "b", "temperature", "positive", "negative?", "bias?"),
        reference=_softmax_reference,
        forward=_cpp.softmax_modules_forward,
        attempt=_cpp.softmax_modules_attempt,
        backward=_cpp.softmax_modules_backward,
        hidden_width=_hidden_width,
        tangent=softmax_modules_jvp,
    )
)

transformed_modules = register(
    Operator(
        name="transformed_modules",
        arguments=("x", "W", "b", "weight", "bias?"),
        reference=_transformed_reference,
        forward=_cpp.transformed_modules_forward,
        attempt=_cpp.transformed_modules_attempt,
        backward=_cpp.transformed_modules_backward,
        hidden_width=_hidden_width,
        tangent=transformed_modules_jvp,
    )
)
