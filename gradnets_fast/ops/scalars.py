"""A family's operators besides f itself: J v, the potential, the divergence and the Jacobian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import reference
from . import _cpp, _triton, _triton_modules
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
    rows = ("x", "v") if suffix == "jvp" else ("x",)

    def hidden_width(*tensors: Tensor | None) -> int:
        return hidden_values(family, *tensors[len(rows) :]) * (_last(tensors[0]) if suffix == "jacobian" else 1)

    operators = {}
    for backend in ("cpp", "triton"):
        gate = GATE if backend == "triton" and family != "ridge" else ()
        by_reference = gated(getattr(reference, name), gate, settings, (None,))
        kernels = _kernels(backend, family, suffix, by_reference)
        operators[backend] = register(
            Operator(
                name=name,
                backend=backend,
                arguments=(*rows, *parameters, *gate),
                reference=by_reference,
                forward=kernels.forward,
                attempt=kernels.forward,
                backward=kernels.backward,
                hidden_width=hidden_width,
                rows=len(rows),
                shape=_SHAPES[suffix],
                quantity=suffix,
            )
        )
    return operators


def _kernels(backend: str, family: str, suffix: str, by_reference: Callable[..., Tensor]) -> Any:
    if backend == "cpp":
        return _cpp.ScalarKernels(family, _KINDS[suffix])
    if family == "ridge":
        return _triton.ScalarKernels(suffix, by_reference)
    return _triton_modules.ModuleKernels(family, suffix, by_reference)


GATE = ("sharpness?", "offset?")
"""What combines modules by a soft maximum: last of the parameters of operators that have kernels for it."""


def gated(
    function: Callable[..., Tensor],
    gate: tuple[str, ...],
    settings: Callable[[str], tuple[Any, ...]],
    bias: tuple[None, ...] = (),
) -> Callable[..., Tensor]:
    """A function of `gradnets_fast.reference` as (*tensors, config) -> result, with its keywords `gate` before the
    bias among the tensors; bias: (None,) if that is not among them."""

    def call(*arguments: Any) -> Tensor:
        *tensors, config = arguments
        last = len(tensors) - (0 if bias else 1)
        first = last - len(gate)
        keywords = {name.rstrip("?"): t for name, t in zip(gate, tensors[first:last])}
        return function(*tensors[:first], *tensors[last:], *bias, *settings(config), **keywords)

    return call


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
