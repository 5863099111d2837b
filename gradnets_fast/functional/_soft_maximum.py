"""Modules combined by log-sum-exp on the cpp backend: composed of kernels that give a module's f and F at once.

Nothing of size batch × h is in memory, only (batch, M, d), and every derivative is that of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..ops.operator import Operator
from ..reference import soft_maximum
from ..reference.soft_maximum import Family, Parameters

Gate = dict[str, Tensor]
"""sharpness and offset, or nothing."""


def family_of(pair: Operator, scalars: Mapping[str, Mapping[str, Operator]]) -> Callable[..., Family]:
    """(*settings) -> the operators of a family as functions of one module; scalars: by suffix and backend."""

    def both(*tensors: Tensor | None, config: str) -> tuple[Tensor, Tensor]:
        result = pair(*tensors, config=config)
        return result[..., :-1], result[..., -1]

    def family(*settings: str) -> Family:
        config = ",".join(settings)

        def scalar(suffix: str) -> Callable[..., Tensor]:
            return lambda *tensors: scalars[suffix]["cpp"](*tensors, config=config)

        return Family(partial(both, config=config), *map(scalar, ("potential", "jvp", "divergence", "jacobian")))

    return family


def combined(
    family: Family, what: str, rows: tuple[Tensor, ...], parameters: Parameters, bias: Tensor | None, gate: Gate
) -> Tensor:
    """The function `what` of `gradnets_fast.reference.soft_maximum` at rows (x, [v]), with what a bias adds to it."""
    x = rows[0]
    # Gradients of the modules, rounded to 16 bits one by one, would cancel to less than their rounding errors.
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide = [None if t is None else t.to(dtype) for t in (*rows, *parameters, gate["sharpness"], gate["offset"])]
    points, of_modules, numbers = wide[: len(rows)], wide[len(rows) : -2], wide[-2:]
    function: Any = getattr(soft_maximum, what)
    result: Tensor = function(family, *points, of_modules, *numbers)
    if bias is not None and what == "value":
        result = result + bias
    elif bias is not None and what == "potential":
        result = result + x.to(dtype) @ bias.to(dtype)
    return result.to(x.dtype)


def gate_of(backend: str, gate: Gate) -> tuple[Tensor | None, ...]:
    """The arguments sharpness and offset of a backend's operators, where they have them."""
    return (gate.get("sharpness"), gate.get("offset")) if backend == "triton" else ()
