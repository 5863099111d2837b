"""A family's operators besides f itself: J v, the potential, the divergence and the Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import reference
from . import _cpp, _triton
from .operator import Operator, register

_KINDS = {"jvp": "derivative", "potential": "potential", "divergence": "divergence", "jacobian": "jacobian"}
_SHAPES = {"jvp": "row", "potential": "number", "divergence": "number", "jacobian": "matrix"}


def register_scalars(
    family: str, parameters: tuple[str, ...], settings: Callable[[str], tuple[Any, ...]]
) -> dict[str, dict[str, Operator]]:
    """The operators of `family` by the suffix of their name and by backend; without bias, on which only the potential
    depends, linearly.

    parameters: the names of the tensors but points, directions and bias.  settings: config -> the last arguments of
    the family's functions in `gradnets_fast.reference`.
    """
    return {suffix: _register(family, suffix, parameters, settings) for suffix in _KINDS}


def _register(
    family: str, suffix: str, parameters: tuple[str, ...], settings: Callable[[str], tuple[Any, ...]]
) -> dict[str, Operator]:
    name = f"{family}_{suffix}"
    function = getattr(reference, name)
    rows = ("x", "v") if suffix == "jvp" else ("x",)

    def by_reference(*arguments: Any) -> Tensor:
        *tensors, config = arguments
        result: Tensor = function(*tensors, None, *settings(config))
        return result

    def hidden_width(*tensors: Tensor | None) -> int:
        return hidden_values(family, *tensors[len(rows) :]) * (_last(tensors[0]) if suffix == "jacobian" else 1)

    kernels: dict[str, Any] = {"cpp": _cpp.ScalarKernels(family, _KINDS[suffix])}
    if name in _triton.OPERATORS:
        kernels["triton"] = _triton.ScalarKernels(suffix, by_reference)
    return {
        backend: register(
            Operator(
                name=name,
                backend=backend,
                arguments=(*rows, *parameters),
                reference=by_reference,
                forward=found.forward,
                attempt=found.forward,
                backward=found.backward,
                hidden_width=hidden_width,
                rows=len(rows),
                shape=_SHAPES[suffix],
            )
        )
        for backend, found in kernels.items()
    }


def hidden_values(family: str, W: Tensor | None, *parameters: Tensor | None) -> int:
    """How many hidden values one row has."""
    assert W is not None
    if family != "ridge":
        return math.prod(W.shape[:-1])
    shift = parameters[1]
    assert shift is not None
    return shift.numel()


def _last(x: Tensor | None) -> int:
    assert x is not None
    return x.shape[-1]
