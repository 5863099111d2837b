"""A linear spline with T uniform knots on [−1, 1], beyond which it goes on with its first and last slope.

With δ = 2/(T − 1) the cell of z is i = ⌊(z + 1)/δ⌋, of 0 … T − 2, and the place in it t = (z + 1)/δ − i:

    s(z) = c_i + t (c_{i+1} − c_i),    s'(z) = (c_{i+1} − c_i)/δ.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["spline", "spline_mean", "spline_slope"]


def _cells(z: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells of z (…, h), the places in them, and the values (T, h) of each unit at their ends."""
    knots, units = values.shape
    s = (z + 1) * ((knots - 1) / 2)
    cell = s.detach().nan_to_num(nan=0.0).floor().clamp(0, knots - 2).long()
    unit = torch.arange(units, device=z.device).expand_as(cell)
    return cell, s - cell, values[cell, unit], values[cell + 1, unit]


def spline(z: Tensor, values: Tensor) -> Tensor:
    """s(z); z (…, h), values c (T, h)."""
    _, place, low, high = _cells(z, values)
    return low + place * (high - low)


def spline_slope(z: Tensor, values: Tensor) -> Tensor:
    """s'(z); at a knot the slope behind it."""
    _, place, low, high = _cells(z, values)
    return (high - low) * ((values.shape[0] - 1) / 2) + 0 * place


def spline_mean(start: Tensor, end: Tensor, values: Tensor) -> Tensor:
    """The mean of s from `start` to `end`, (…, h), by each cell's part and the value in its middle: nothing cancels."""
    scale, last = (values.shape[0] - 1) / 2, values.shape[0] - 2
    at, to = _cells(start.expand_as(end), values)[0], _cells(end, values)[0]
    first, behind = (start + 1) * scale, (end + 1) * scale
    whole = torch.where(at == to, 1.0, behind - first)
    mean = torch.zeros_like(end)
    for k in range(last + 1):
        edges = {"min": k if k > 0 else None, "max": k + 1 if k < last else None}
        low, high = (first, behind) if last == 0 else (first.clamp(**edges), behind.clamp(**edges))
        part = torch.where(at == to, (at == k).to(end), (high - low) / whole)
        mean = mean + part * (values[k] + ((low + high) / 2 - k) * (values[k + 1] - values[k]))
    return mean
