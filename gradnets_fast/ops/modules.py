"""The module family as operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.modules import family
from . import _cpp
from ._triton_modules import ModuleKernels
from .operator import Operator, register
from .scalars import GATE, gated, hidden_values, register_scalars


def _hidden_width(x: Tensor, *parameters: Tensor | None) -> int:
    return hidden_values("modules", *parameters)


def _operators(
    name: str,
    parameters: tuple[str, ...],
    settings: Callable[[str], tuple[Any, ...]],
    cpp: dict[str, Any],
    tangents: dict[str, Operator],
) -> dict[str, Operator]:
    def operator(backend: str, gate: tuple[str, ...], kernels: dict[str, Any]) -> Operator:
        return register(
            Operator(
                name=name,
                backend=backend,
                arguments=("x", *parameters, *gate, "bias?"),
                reference=gated(getattr(reference, name), gate, settings),
                hidden_width=_hidden_width,
                tangent=tangents[backend],
                **kernels,
            )
        )

    triton = ModuleKernels(name, "", gated(getattr(reference, name), GATE, settings))
    kernels = {"forward": triton.forward, "attempt": triton.forward, "backward": triton.backward}
    return {"cpp": operator("cpp", (), cpp), "triton": operator("triton", GATE, kernels)}


def _pair(
    name: str, parameters: tuple[str, ...], settings: Callable[[str], tuple[Any, ...]], tangent: Operator
) -> Operator:
    def by_reference(*arguments: Any) -> Tensor:
        *tensors, config = arguments
        value, potential = family(name, settings(config)).pair(*tensors)
        return torch.cat([value, potential.to(value.dtype).unsqueeze(-1)], -1)

    kernels = _cpp.PairKernels(name)
    return register(
        Operator(
            name=f"{name}_pair",
            backend="cpp",
            arguments=("x", *parameters),
            reference=by_reference,
            forward=kernels.forward,
            attempt=kernels.forward,
            backward=kernels.backward,
            hidden_width=_hidden_width,
            shape="pair",
            tangent=tangent,
        )
    )


def _no_settings(config: str) -> tuple[Any, ...]:
    return ()


def _names(config: str) -> tuple[Any, ...]:
    return tuple(config.split(","))


_SOFTMAX = ("W", "b", "temperature", "positive", "negative?")
_TRANSFORMED = ("W", "b", "weight")

SOFTMAX_SCALARS = register_scalars("softmax_modules", _SOFTMAX, _no_settings)
TRANSFORMED_SCALARS = register_scalars("transformed_modules", _TRANSFORMED, _names)

SOFTMAX_PAIR = _pair("softmax_modules", _SOFTMAX, _no_settings, SOFTMAX_SCALARS["jvp"]["cpp"])
"""f and its potential at once, (…, d + 1), without bias; of the cpp backend."""
TRANSFORMED_PAIR = _pair("transformed_modules", _TRANSFORMED, _names, TRANSFORMED_SCALARS["jvp"]["cpp"])

SOFTMAX_MODULES = _operators(
    "softmax_modules",
    _SOFTMAX,
    _no_settings,
    {
        "forward": _cpp.softmax_modules_forward,
        "attempt": _cpp.softmax_modules_attempt,
        "backward": _cpp.softmax_modules_backward,
    },
    SOFTMAX_SCALARS["jvp"],
)
"""The operator by backend."""

TRANSFORMED_MODULES = _operators(
    "transformed_modules",
    _TRANSFORMED,
    _names,
    {
        "forward": _cpp.transformed_modules_forward,
        "attempt": _cpp.transformed_modules_attempt,
        "backward": _cpp.transformed_modules_backward,
    },
    TRANSFORMED_SCALARS["jvp"],
)
"""The operator by backend."""
