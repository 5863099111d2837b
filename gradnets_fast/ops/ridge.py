"""The ridge family as an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from . import _cpp
from .operator import Operator, register


def _reference(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None, config: str
) -> Tensor:
    names = config.split(",")
    shift = shift.reshape(-1, W.shape[0])
    scale = torch.ones_like(shift) if scale is None else scale
    coef = shift.new_ones(shift.shape[0], len(names), W.shape[0]) if coef is None else coef
    return reference.ridge(x, W, scale, shift, coef, bias, names)


def _hidden_width(x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, *_: Tensor | None) -> int:
    return shift.numel()


def _jvp_reference(x: Tensor, v: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, config: str) -> Tensor:
    return reference.ridge_jvp(x, v, W, scale, shift, coef, None, config.split(","))


def _jvp_hidden_width(x: Tensor, v: Tensor, *parameters: Tensor) -> int:
    return _hidden_width(x, *parameters)


ridge_jvp = register(
    Operator(
        name="ridge_jvp",
        arguments=("x", "v", "W", "scale", "shift", "coef"),
        reference=_jvp_reference,
        forward=_cpp.ridge_jvp_forward,
        attempt=_cpp.ridge_jvp_forward,
        backward=_cpp.ridge_jvp_backward,
        hidden_width=_jvp_hidden_width,
        rows=2,
    )
)


def _divergence_reference(x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, config: str) -> Tensor:
    return reference.ridge_divergence(x, W, scale, shift, coef, None, config.split(","))


def _potential_reference(x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, config: str) -> Tensor:
    return reference.ridge_potential(x, W, scale, shift, coef, None, config.split(","))


ridge_divergence = register(
    Operator(
        name="ridge_divergence",
        arguments=("x", "W", "scale", "shift", "coef"),
        reference=_divergence_reference,
        forward=_cpp.ridge_divergence_forward,
        attempt=_cpp.ridge_divergence_forward,
        backward=_cpp.ridge_divergence_backward,
        hidden_width=_hidden_width,
        per_row=True,
    )
)

ridge_potential = register(
    Operator(
        name="ridge_potential",
        arguments=("x", "W", "scale", "shift", "coef"),
        reference=_potential_reference,
        forward=_cpp.ridge_potential_forward,
        attempt=_cpp.ridge_potential_forward,
        backward=_cpp.ridge_potential_backward,
        hidden_width=_hidden_width,
        per_row=True,
    )
)
"""Without the bias's part, which is a plain product."""

ridge = register(
    Operator(
        name="ridge",
        arguments=("x", "W", "scale?", "shift", "coef?", "bias?"),
        reference=_reference,
        forward=_cpp.ridge_forward,
        attempt=_cpp.ridge_attempt,
        backward=_cpp.ridge_backward,
        hidden_width=_hidden_width,
        tangent=ridge_jvp,
    )
)
