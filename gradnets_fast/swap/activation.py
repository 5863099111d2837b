"""Recognition of a module's activations among the functions of the activation table, by their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import functional
from ..activations import TABLE
from .verification import TOLERANCES

Function = Callable[[Tensor], Tensor]


def names_of(activations: Sequence[Function], like: Tensor) -> list[str]:
    """The names of the basis functions that equal all the activations on a grid; dtype and device are those of `like`.

    >>> names_of([torch.tanh, torch.nn.Tanh()], torch.empty(0)), names_of([torch.nn.Hardtanh()], torch.empty(0))
    (['tanh'], [])
    """
    grid = torch.linspace(-24.0, 24.0, 193, dtype=torch.float32, device="cpu").to(like)
    with torch.no_grad():
        values = torch.stack([activation(grid) for activation in activations])
        return [name for name in TABLE if _equal(values, _basis(name, grid))]


def _basis(name: str, z: Tensor) -> Tensor:
    one, zero = z.new_ones(1, 1), z.new_zeros(1)
    return functional.ridge(z[:, None], one, None, zero, None, basis=name)[:, 0]


def _equal(values: Tensor, basis: Tensor) -> bool:
    return bool(((values - basis).abs() <= TOLERANCES[basis.dtype] * basis.abs().clamp_min(1.0)).all())
