"""Splines that a network learns in place of a fixed activation, one for each hidden unit or one for all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from ..errors import check_positive, check_positive_number, message


@dataclass(frozen=True)
class Spline:
    """A learned linear spline for an activation: linear between uniform knots on [−radius, radius], and beyond them.

    Equivalent to, for u within the radius, of values c at the knots t:
        i = ((u - t[0]) / (t[1] - t[0])).floor().long()
        c[i] + (u - t[i]) * (c[i + 1] - c[i]) / (t[1] - t[0])

    Args:
        knots: T, how many there are.
        radius: r, the first and the last knot are −r and r; beyond them the first and the last slope go on.
        slopes: the least and the largest slope, None for no bound; a weakly convex potential has a negative least one.
            In a monotone network the least is 0 where None.  A slope beyond a bound is clamped to it, as published, and
            has no gradient there; the first slopes lie within.
        odd: the spline is odd; knots is an odd number.
        shared: all hidden units have the same spline.

    Shapes: the parameter `values` is (T, h), or (T, 1) if shared.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Goujon, Neumayer, Bohra, Ducotterd, Unser, "A Neural-Network-Based Convex Regularizer for Inverse Problems",
    IEEE Transactions on Computational Imaging, 2023.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.mRidgeGradNet(in_dim=2, embed_dim=8, activation=gradnets_fast.Spline(knots=11, radius=2.0))
    >>> net.act.values.shape, bool((net.act.slopes() >= 0).all())
    (torch.Size([11, 8]), True)
    """

    knots: int = 21
    radius: float = 1.0
    slopes: tuple[float | None, float | None] = (None, None)
    odd: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_positive(where, "knots", self.knots)
        if self.knots < 2 or (self.odd and self.knots % 2 == 0):
            expected = "an odd number of at least 3, one knot being 0" if self.odd else "at least 2"
            raise ValueError(message(where, "knots", expected, self.knots, "for example knots=21"))
        check_positive_number(where, "radius", self.radius)
        if not isinstance(self.slopes, tuple) or len(self.slopes) != 2:
            fix = "pass for example slopes=(0.0, 1.0)"
            raise TypeError(message(where, "slopes", "a tuple of two bounds", repr(self.slopes), fix))
        for bound in self.slopes:
            if bound is not None and (not isinstance(bound, Real) or math.isnan(bound)):
                raise TypeError(
                    message(where, "slopes", "numbers or None", repr(self.slopes), "for example (0.0, 1.0)")
                )
        least, largest = self.slopes
        if least is not None and largest is not None and least > largest:
            raise ValueError(message(where, "slopes", "the least before the largest", self.slopes, "exchange them"))

    def bounds(self, where: str, monotone: bool) -> tuple[float | None, float | None]:
        """Return the slopes' bounds in a network.

        Raises:
            ValueError: they contradict a monotone network.
        """
        least, largest = self.slopes
        if not monotone:
            return least, largest
        if (least is not None and least < 0) or (largest is not None and largest < 0):
            fix = "use bounds of at least 0, or the architecture without the leading m"
            raise ValueError(message(where, "activation", "slopes of at least 0", f"slopes={self.slopes}", fix))
        return least or 0.0, largest

    def first_slopes(self, monotone: bool) -> tuple[float, float]:
        """Return the bounds of the slopes that training begins with: what is allowed of [0, 1], or next to it."""
        least, largest = self.bounds(type(self).__name__, monotone)
        low, high = -math.inf if least is None else least, math.inf if largest is None else largest
        first, last = (min(max(end, low), high) for end in (0.0, 1.0))
        return (first, last) if first < last else (max(low, last - 1.0), min(high, first + 1.0))

    @property
    def step(self) -> float:
        """Return the distance of the knots."""
        return 2.0 * self.radius / (self.knots - 1)

    def projected(self, values: Tensor, bounds: tuple[float | None, float | None]) -> Tensor:
        """Return values whose slopes are within the bounds, and which are odd if they are to be.

        The differences of neighbours are clamped, and added up from the middle knot, whose value stays.
        """
        if bounds == (None, None) and not self.odd:
            return values
        rises = values.diff(dim=0)
        if bounds != (None, None):
            least, largest = (None if bound is None else bound * self.step for bound in bounds)
            rises = rises.clamp(least, largest)
        if self.odd:
            rises = (rises + rises.flip(0)) / 2
        sums = torch.cat([torch.zeros_like(rises[:1]), rises.cumsum(0)])
        middle = self.knots // 2
        centred = sums - sums[middle]
        return centred if self.odd else centred + values[middle]

    def label(self) -> str:
        """Return what it is called in a repr."""
        options = [f"knots={self.knots}", f"radius={self.radius:g}"]
        options += [f"slopes={self.slopes}"] if self.slopes != (None, None) else []
        options += [name for name in ("odd", "shared") if getattr(self, name)]
        return f"spline({', '.join(options)})"
