"""The synthetic gradient fields of the literature, all on the unit cube."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import check_choice, check_positive, message
from ..memory import check_memory


@dataclass(frozen=True)
class Field:
    """A gradient field on [0, 1]^dim.

    Attributes:
        name: its name on the command line.
        dim: d.
        gradient: x (n, d) → ∇F(x) (n, d).
        potential: x (n, d) → F(x) (n,).
        formula: the potential, for people.
    """

    name: str
    dim: int
    gradient: Callable[[Tensor], Tensor]
    potential: Callable[[Tensor], Tensor]
    formula: str

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` points, uniform on the cube, (count, d), float32."""
        return torch.rand(count, self.dim, generator=generator)

    def test_points(self) -> Tensor:
        """A 100×100 grid in two dimensions, else 10 000 uniform points from a generator of its own."""
        if self.dim == 2:
            line = torch.linspace(0, 1, 100)
            return torch.cartesian_prod(line, line)
        return self.sample(10_000, torch.Generator().manual_seed(20_240_407))


def _convex2d(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return torch.stack([4 * a**3 + a + b / 2, a / 2 + 3 * b - b**2], -1)


def _convex2d_potential(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return a**4 + a**2 / 2 + a * b / 2 + 3 * b**2 / 2 - b**3 / 3


def _nonconvex2d(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    pi = math.pi
    first = (pi / 2) * torch.cos(2 * pi * a) * torch.cos(pi * b) + b / 2
    second = -(pi / 4) * torch.sin(2 * pi * a) * torch.sin(pi * b) + a / 2 - b
    return torch.stack([first, second], -1)


def _nonconvex2d_potential(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return torch.sin(2 * math.pi * a) * torch.cos(math.pi * b) / 4 + a * b / 2 - b**2 / 2


def _polymax(dim: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Gradient and value of max(xᵀSx, xᵀPx, xᵀQx)/2 at x − ½, over the mean gradient norm of 20 000 uniform points."""
    index = torch.arange(dim)
    slope = (index[:, None] + index[None, :]) / (2 * dim - 2)
    decay = 1 / (math.log(dim) * (1 + (index[:, None] - index[None, :]).abs()))
    matrices = torch.stack([2 + torch.sin(4 * math.pi * slope), 1 + 2 * slope, 3 - 2 * slope]) * decay

    def gradient(x: Tensor) -> Tensor:
        centred = x - 0.5
        images = centred @ matrices.to(x)
        largest = (images * centred).sum(-1).argmax(0)
        return images[largest, torch.arange(x.shape[0])]

    norm = gradient(torch.rand(20_000, dim, generator=torch.Generator().manual_seed(0))).norm(dim=1).mean().item()
    return lambda x: gradient(x) / norm, lambda x: (gradient(x) * (x - 0.5)).sum(-1) / (2 * norm)


def _make_convex2d(dim: int) -> Field:
    return Field("convex2d", 2, _convex2d, _convex2d_potential, "x⁴ + x²/2 + xy/2 + 3y²/2 − y³/3")


def _make_nonconvex2d(dim: int) -> Field:
    return Field("nonconvex2d", 2, _nonconvex2d, _nonconvex2d_potential, "sin(2πx)cos(πy)/4 + xy/2 − y²/2")


def _make_polymax(dim: int) -> Field:
    return Field("polymax", dim, *_polymax(dim), "max(xᵀSx, xᵀPx, xᵀQx)/2 about ½, mean gradient norm 1")


FIELDS: dict[str, tuple[Callable[[int], Field], int]] = {
    "convex2d": (_make_convex2d, 2),
    "nonconvex2d": (_make_nonconvex2d, 2),
    "polymax": (_make_polymax, 256),
}
"""Fields by name: the function that makes one in dimension d, and the default d."""


def make_field(name: str, dim: int | None = None) -> Field:
    """The field called `name`, in `dim` dimensions where it is defined for several.

    >>> make_field("convex2d").gradient(torch.zeros(1, 2)).tolist()
    [[0.0, 0.0]]
    """
    check_choice("train", "field", name, list(FIELDS))
    make, default = FIELDS[name]
    if dim is None:
        return make(default)
    check_positive("train", "dim", dim)
    if name != "polymax" and dim != default:
        raise ValueError(message("train", "dim", f"{default} for {name}", dim, "leave --dim out"))
    if name == "polymax" and dim < 2:
        raise ValueError(message("train", "dim", "at least 2 for polymax", dim, "for example --dim 256"))
    # Three matrices in the making, and points that the norm is taken at, with an image under each.
    check_memory("train", "dim", 4 * (6 * dim * dim + 4 * 20_000 * dim), "lower --dim")
    return make(dim)
