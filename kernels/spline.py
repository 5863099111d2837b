"""A linear spline for each channel in place of basis functions, on float32 tiles (channels, pixels).

With T uniform knots on [−1, 1] the place of u is r = (βu + shift + 1)(T − 1)/2 in units of cells, its cell i = ⌊r⌋, of
0 … T − 2, and t = r − i:

    φ(u) = c_i + t (c_{i+1} − c_i),    φ'(u) = β (c_{i+1} − c_i)(T − 1)/2,    φ'' = 0.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import common


class Spline(NamedTuple):
    """β and shift (channels, 1) in registers; pointers to the values at the first knot (channels, 1).

    The values at the next knot lie `step` numbers further.  KNOTS beside it is T.
    """

    scale: tl.tensor
    shift: tl.tensor
    table: tl.tensor
    step: tl.tensor


@triton.jit
def _cell(r, KNOTS: tl.constexpr):
    """The cell of a place r, a number of NaN too."""
    return tl.where(r > 0.0, common.minimum(r, KNOTS - 2.0), 0.0).to(tl.int32)


@triton.jit
def _at(of, knot):
    return tl.load(of.table + knot * of.step).to(tl.float32)


@triton.jit
def _cells(u, of, KNOTS: tl.constexpr):
    """Of each u its cell, the place in it, the value at its start, and what is added up to its end."""
    r = (of.scale * u + of.shift + 1.0) * ((KNOTS - 1) / 2)
    cell = _cell(r, KNOTS)
    low = _at(of, cell)
    return cell, r - cell.to(tl.float32), low, _at(of, cell + 1) - low


@triton.jit
def value(u, of, KNOTS: tl.constexpr):
    """φ(u)."""
    _, place, low, rise = _cells(u, of, KNOTS)
    return low + place * rise


@triton.jit
def slope(u, of, KNOTS: tl.constexpr):
    """φ'(u), NaN where u is."""
    _, place, _, rise = _cells(u, of, KNOTS)
    return tl.where(place == place, rise * (of.scale * ((KNOTS - 1) / 2)), place)


@triton.jit
def _add_to_knots(sums, cell, low, high):
    """`sums` (channels, ≥ T) + Σ over the pixels of `low` at the starts of their cells and `high` at their ends."""
    knots = tl.arange(0, sums.shape[1])[None, :]
    first = tl.min(tl.min(cell, 1), 0)
    last = tl.max(tl.max(cell, 1), 0)
    for knot in range(first, last + 2):
        part = tl.sum(tl.where(cell == knot, low, tl.where(cell == knot - 1, high, 0.0)), 1)
        sums += tl.where(knots == knot, part[:, None], 0.0)
    return sums


@triton.jit
def value_and_gradients(u, a, of, sums, KNOTS: tl.constexpr):
    """φ(u), a·φ'(u), and `sums` + the gradients of Σ a·φ in β, shift and c.

    Shapes of sums: (channels,), (channels,) and (channels, ≥ T).
    """
    cell, place, low, rise = _cells(u, of, KNOTS)
    inner = a * (rise * ((KNOTS - 1) / 2))
    high = common.product(a, place)
    sums = (
        sums[0] + tl.sum(inner * u, 1),
        sums[1] + tl.sum(inner, 1),
        _add_to_knots(sums[2], cell, a - high, high),
    )
    return low + place * rise, inner * of.scale, sums


@triton.jit
def slope_and_gradients(u, q, of, sums, KNOTS: tl.constexpr):
    """φ'(u), q·φ''(u), which is 0 or NaN, and `sums` + the gradients of Σ q·φ' in β, shift and c."""
    cell, place, _, rise = _cells(u, of, KNOTS)
    per_unit: tl.constexpr = (KNOTS - 1) / 2
    high = q * (of.scale * per_unit)
    in_scale = tl.sum(q * (rise * per_unit), 1)
    zero = tl.where(place == place, 0.0, place)
    sums = (sums[0] + in_scale, sums[1], _add_to_knots(sums[2], cell, -high, high))
    return rise * (of.scale * per_unit) + zero, zero, sums


@triton.jit
def slope_of_value(u, of, KNOTS: tl.constexpr):
    """φ'(u) as `value_and_gradients` has it: a number, even where u is NaN."""
    _, _, _, rise = _cells(u, of, KNOTS)
    return rise * (of.scale * ((KNOTS - 1) / 2))


@triton.jit
def _piece(first, end, cell, KNOTS: tl.constexpr):
    """Of the way from `first` to `end` the middle of its piece in a cell, relative to the cell, and the piece's part.

    Also the middle as a part of the way.  The first and the last cell have no outer edge.
    """
    number = cell + 0.0
    lower = tl.where(cell > 0, number, float("-inf"))
    upper = tl.where(cell < KNOTS - 2, number + 1.0, float("inf"))
    here = tl.minimum(tl.maximum(first, lower), upper)
    there = tl.minimum(tl.maximum(end, lower), upper)
    at, to = _cell(first, KNOTS), _cell(end, KNOTS)
    alone = at == to
    whole = tl.where(alone, 1.0, end - first)
    length = tl.where(alone, tl.where(to == cell, 1.0, 0.0), (there - here) / whole)
    start = tl.where(alone, 0.0, (here - first) / whole)
    return 0.5 * (here + there) - number, length, start + 0.5 * length


@triton.jit
def integral(u, of, KNOTS: tl.constexpr):
    """∫_0^u φ(t) dt: u times the sum over the cells of the part of [0, u] in each and the value in its middle."""
    per_unit: tl.constexpr = (KNOTS - 1) / 2
    first = (of.shift + 1.0) * per_unit
    end = (of.scale * u + of.shift + 1.0) * per_unit
    mean = tl.zeros(u.shape, tl.float32)
    for cell in range(KNOTS - 1):
        low = _at(of, cell)
        middle, length, _ = _piece(first, end, cell, KNOTS)
        mean += length * (low + middle * (_at(of, cell + 1) - low))
    return u * mean


@triton.jit
def integral_gradients(u, weight, of, sums, KNOTS: tl.constexpr):
    """`sums` + the gradients of Σ weight·∫_0^u φ(t) dt in β, shift and c."""
    per_unit: tl.constexpr = (KNOTS - 1) / 2
    first = (of.shift + 1.0) * per_unit
    end = (of.scale * u + of.shift + 1.0) * per_unit
    knots = tl.arange(0, sums[2].shape[1])[None, :]
    in_scale = tl.zeros(u.shape, tl.float32)
    in_shift = tl.zeros(u.shape, tl.float32)
    of_knots = sums[2]
    for cell in range(KNOTS - 1):
        middle, length, along = _piece(first, end, cell, KNOTS)
        part = weight * u * length
        slope = part * ((_at(of, cell + 1) - _at(of, cell)) * per_unit)
        in_shift += slope
        in_scale += slope * (u * along)
        high = common.product(part, middle)
        low_sum = tl.sum(part - high, 1)
        high_sum = tl.sum(high, 1)
        of_knots += tl.where(knots == cell, low_sum[:, None], tl.where(knots == cell + 1, high_sum[:, None], 0.0))
    return sums[0] + tl.sum(in_scale, 1), sums[1] + tl.sum(in_shift, 1), of_knots
