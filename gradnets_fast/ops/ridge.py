"""The ridge family as operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import _cpp, _triton
from .operator import Operator, register
from .scalars import hidden_values, register_scalars

SCALARS = register_scalars("ridge", ("W", "scale", "shift", "coef"), lambda config: (config.split(","),))


def _reference(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None, config: str
) -> Tensor:
    names = config.split(",")
    shift = shift.reshape(-1, W.shape[0])
    scale = torch.ones_like(shift) if scale is None else scale
    coef = shift.new_ones(shift.shape[0], len(names), W.shape[0]) if coef is None else coef
    return reference.ridge(x, W, scale, shift, coef, bias, names)


def _hidden_width(x: Tensor, *parameters: Tensor | None) -> int:
    return hidden_values("ridge", *parameters)


_KERNELS: dict[str, dict[str, Any]] = {
    "cpp": {"forward": _cpp.ridge_forward, "attempt": _cpp.ridge_attempt, "backward": _cpp.ridge_backward},
    "triton": {
        "forward": _triton.ridge_forward,
        "attempt": _triton.ridge_forward,
        "backward": _triton.ridge_backward,
    },
}

RIDGE = {
    backend: register(
        Operator(
            name="ridge",
            backend=backend,
            arguments=("x", "W", "scale?", "shift", "coef?", "bias?"),
            reference=_reference,
            hidden_width=_hidden_width,
            tangent=SCALARS["jvp"][backend],
            **kernels,
        )
    )
    for backend, kernels in _KERNELS.items()
}
"""The operator by backend."""
