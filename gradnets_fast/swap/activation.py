"""Recognition of a module's activations among the functions of the activation table, by their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..activations import TABLE
from .verification import TOLERANCES

_NEAR = 24.0
Function = Callable[[Tensor], Tensor]


def names_of(activations: Sequence[Function], like: Tensor) -> list[str]:
    """The names of the basis functions that equal all the activations on a grid; dtype and device are those of `like`.

    The grid goes on to 2⁶⁰ where the dtype does; what overflows beyond 24 tells nothing there.

    >>> names_of([torch.tanh, torch.nn.Tanh()], torch.empty(0)), names_of([torch.nn.Hardswish()], torch.empty(0))
    (['tanh'], [])
    """
    plain: Any = {"dtype": torch.float64, "device": "cpu"}
    highest = min(60.0, math.log2(torch.finfo(like.dtype).max / 2))
    far = torch.logspace(math.log2(_NEAR), highest, 64, 2.0, **plain)
    grid = torch.cat([-far.flip(0), torch.linspace(-_NEAR, _NEAR, 193, **plain), far]).to(like)
    with torch.no_grad():
        values = torch.stack([activation(grid.clone()) for activation in activations])
        told = values.isfinite() | (grid.abs() <= _NEAR)
        return [name for name in TABLE if _equal(values, _basis(name, grid), told)]


def _basis(name: str, z: Tensor) -> Tensor:
    one, zero = z.new_ones(1, 1), z.new_zeros(1)
    # Whichever backend the user asks for at the moment may not take the grid.
    return functional.ridge(z[:, None], one, None, zero, None, basis=name, backend="reference")[:, 0]


def _equal(values: Tensor, basis: Tensor, told: Tensor) -> bool:
    difference = (values - basis).abs().where(told, 0.0)
    return bool((difference <= TOLERANCES[basis.dtype] * basis.abs().clamp_min(1.0)).all())
