"""Device functions that triton.language lacks, for float32 blocks.

They run in Triton's interpreter as well: inline assembly, which it lacks, stands behind a constant condition.

ARITHMETIC is "accurate", "fast" (for 16-bit points), or "fast_interpreted", which is "fast" without the assembly.

`Batch` and `Products` are what every kernel hands its programs: the rows, and how they are multiplied.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Batch(NamedTuple):
    """Pointers to points x, cotangents g and directions v (count, D), and to weights (count,).

    What a quantity does not take is None.  A Jacobian's cotangents g are (count, D, D).  The strides are those of rows.
    """

    x: tl.tensor
    g: tl.tensor
    v: tl.tensor
    weight: tl.tensor
    count: tl.tensor
    x_stride: tl.tensor
    g_stride: tl.tensor
    v_stride: tl.tensor


class Products(NamedTuple):
    """The constants of matrix products.

    D, BD: columns of a row, and those of its tile.  precision: of `tl.dot`.  arithmetic: ARITHMETIC.
    even: whether h is a multiple of the hidden units of a tile.
    """

    D: tl.constexpr
    BD: tl.constexpr
    precision: tl.constexpr
    arithmetic: tl.constexpr
    even: tl.constexpr


@triton.jit
def minimum(a, limit):
    """min(a, limit); a NaN in `a` stays."""
    return tl.where(a > limit, limit, a)


@triton.jit
def product(a, b):
    """a·b, rounded.

    Of `a * b` in a sum a compiler makes one fused operation, which adds the product unrounded: then equal numbers no
    longer cancel, and threads that compute the same sum in another order differ.
    """
    return tl.fma(a, b, tl.zeros((), tl.float32))


@triton.jit
def copysign(magnitude, sign):
    """|magnitude|, negated where sign < 0."""
    return tl.where(sign < 0.0, -tl.abs(magnitude), tl.abs(magnitude))


@triton.jit
def expm1(x):
    """e^x − 1 for x <= 1: Taylor polynomial where |x| < ½, 2⁻²⁵ relative; the difference elsewhere."""
    series = 1.0 / 720.0 + x * (1.0 / 5040.0 + x * (1.0 / 40320.0 + x * (1.0 / 362880.0)))
    series = 1.0 / 2.0 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * series)))
    return tl.where(tl.abs(x) < 0.5, x + x * x * series, tl.exp(x) - 1.0)


@triton.jit
def _sigmoid_of_double(x):
    """1/(1 + e^{−2|x|}): one reciprocal for `tanh` and `sech_squared` of the same x, and as one for the compiler."""
    return 1.0 / (1.0 + tl.exp(-2.0 * tl.abs(x)))


@triton.jit
def tanh(x):
    """The hyperbolic tangent (1 − e)/(1 + e), e = e^{−2|x|}; from e − 1, because e alone loses what is near 0."""
    return copysign(expm1(-2.0 * tl.abs(x)) * _sigmoid_of_double(x), x)


@triton.jit
def approximate_tanh(x, ARITHMETIC: tl.constexpr):
    """The hyperbolic tangent to 2⁻¹⁰ relative, in one instruction of the special-function unit."""
    if ARITHMETIC == "fast":
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tanh(x)


@triton.jit
def sech_squared(x):
    """1 − tanh² x = 4e/(1 + e)², e = e^{−2|x|}, because the difference loses the tail."""
    r = _sigmoid_of_double(x)
    return 4.0 * tl.exp(-2.0 * tl.abs(x)) * (r * r)


@triton.jit
def log1p(x):
    """log(1 + x) for 0 <= x <= 1: 2 artanh(s), s = x/(2 + x) <= ⅓, by its series to s¹⁵."""
    s = x / (2.0 + x)
    s2 = s * s
    series = 1.0 / 9.0 + s2 * (1.0 / 11.0 + s2 * (1.0 / 13.0 + s2 * (1.0 / 15.0)))
    series = 1.0 / 3.0 + s2 * (1.0 / 5.0 + s2 * (1.0 / 7.0 + s2 * series))
    return 2.0 * (s + s * s2 * series)


@triton.jit
def erfc(x):
    """1 − erf(x) with relative accuracy in the right tail.

    For |x| >= ½: e^{−x²}·p(t)·t, t = 1/(1 + |x|/2), p the degree-9 Chebyshev fit of e^{x²}·erfc(x)/t on ½ <= x <= 12;
    nearer to 0: 1 − erf(x), which does not cancel there.
    """
    a = minimum(tl.abs(x), 12.0)
    t = 1.0 / (1.0 + 0.5 * a)
    p = -0.03729354962706566
    p = 0.0973365381360054 + t * p
    p = 0.004938728176057339 + t * p
    p = -0.20919057726860046 + t * p
    p = 0.10997771471738815 + t * p
    p = 0.036854568868875504 + t * p
    p = 0.1879054605960846 + t * p
    p = 0.245110884308815 + t * p
    p = 0.2822359502315521 + t * p
    p = 0.28208988904953003 + t * p
    # x² in two parts: the rounding error of x² would be multiplied by x² in the exponential.
    high = (a * 4096.0) - (a * 4096.0 - a)
    low = a - high
    right = tl.exp(-high * high) * tl.exp(-low * (high + a)) * t * p
    far = tl.where(x < 0.0, 2.0 - right, right)
    return tl.where(a < 0.5, 1.0 - tl.erf(x), far)


@triton.jit
def atan(x):
    """The inverse tangent: odd polynomial for |x| <= tan(π/8), two argument reductions beyond."""
    a = tl.abs(x)
    far = a > 2.414213562373095
    middle = a > 0.4142135623730950
    # The reduced argument: −1/a, (a − 1)/(a + 1) or a.
    r = tl.where(far, -1.0 / tl.where(far, a, 1.0), tl.where(middle, (a - 1.0) / (a + 1.0), a))
    offset = tl.where(far, 1.5707963267948966, tl.where(middle, 0.7853981633974483, 0.0))
    r2 = r * r
    series = -0.06448940932750702
    series = 0.10742699354887009 + r2 * series
    series = -0.1426384449005127 + r2 * series
    series = 0.19999536871910095 + r2 * series
    series = -0.3333333134651184 + r2 * series
    return copysign(offset + (r + r * r2 * series), x)


_INTERPRETED = tl.constexpr(not isinstance(tl.sum, triton.runtime.JITFunction))
"""Whether kernels run in Triton's interpreter, by what it made of its own functions when it was imported."""

_NEAR_ANGLE = tl.constexpr(3000.0)
"""Up to here the multiples of π/2's first three parts are exact."""


@triton.jit
def reduced_angle(x):
    """r and n, or n mod 4, with x = n·π/2 + r and |r| <= π/4; NaN for an infinite x.

    A tile that has far numbers is rare, and all threads of a program agree that it has.
    """
    is_far = (tl.abs(x) > _NEAR_ANGLE) & (tl.abs(x) < float("inf"))
    if tl.max(is_far.to(tl.int32), None) == 0:
        r, turns = _reduced_near_angle(x)
    elif _INTERPRETED:
        near, near_turns = _reduced_near_angle(x)
        far, far_turns = _reduced_far_angle(x)
        r, turns = tl.where(is_far, far, near), tl.where(is_far, far_turns, near_turns)
    else:
        # One number after the other, for a tile of what this takes does not fit into registers.
        r, turns = tl.map_elementwise(_reduced_one_angle, x)
    return r, turns


@triton.jit
def _reduced_one_angle(x):
    """`reduced_angle` of one number."""
    if (tl.abs(x) > _NEAR_ANGLE) & (tl.abs(x) < float("inf")):
        r, turns = _reduced_far_angle(x)
    else:
        r, turns = _reduced_near_angle(x)
    return r, turns


@triton.jit
def _reduced_near_angle(x):
    """`reduced_angle` of |x| <= _NEAR_ANGLE, by π/2 in four parts; NaN for an infinite x."""
    # Adding 1.5·2²³ rounds to the nearest integer, and leaves it in the lowest bits.
    shifted = x * 0.6366197723675814 + 12582912.0
    n = shifted - 12582912.0
    r = (x - n * 1.570556640625) - n * 0.0002396702766418457
    r = (r - n * 1.5890691429376602e-08) - n * 2.5633440682570896e-12
    return r, shifted.to(tl.int32, bitcast=True)


@triton.jit
def _word(place, FIRST: tl.constexpr, SECOND: tl.constexpr, THIRD: tl.constexpr, FOURTH: tl.constexpr):
    """One of four numbers of 32 bits, by place, in 64 bits."""
    return tl.where(place < 2, tl.where(place < 1, FIRST, SECOND), tl.where(place < 3, THIRD, FOURTH)).to(tl.uint64)


@triton.jit
def _reduced_far_angle(x):
    """`reduced_angle` of 1 <= |x| < ∞, exact to 2⁻⁶⁰ quarter turns, in whole numbers.

    x = ±m 2^{e − 23} in whole numbers m < 2²⁴.  Of 2/π those bits matter whose multiples by x are below 4, and 96 of
    them suffice.  The words below are 25 zeros and its first 199 bits; the 96 begin at bit e.
    """
    bits = tl.abs(x).to(tl.uint32, bitcast=True)
    m = ((bits & 0x7FFFFF) | 0x800000).to(tl.uint64)
    e = (bits >> 23) - 127
    place, shift = e >> 5, (e & 31).to(tl.uint64)
    first = _word(place, 0x51, 0x7CC1B727, 0x220A94FE, 0x13ABE8FA)
    second = _word(place, 0x7CC1B727, 0x220A94FE, 0x13ABE8FA, 0x9A6EE06D)
    third = _word(place, 0x220A94FE, 0x13ABE8FA, 0x9A6EE06D, 0xB14ACC9E)
    fourth = _word(place, 0x13ABE8FA, 0x9A6EE06D, 0xB14ACC9E, 0x21C820FF)
    high = (((first << 32) | second) << shift) >> 32
    middle = (((second << 32) | third) << shift) >> 32
    low = (((third << 32) | fourth) << shift) >> 32
    # Quarter turns mod 4, in multiples of 2⁻⁶².
    quarters = ((m * high) << 32) + m * middle + ((m * low) >> 32)
    turns = ((quarters + 0x2000000000000000) >> 62).to(tl.int32)
    rest = (quarters << 2).to(tl.int64, bitcast=True).to(tl.float32)
    # π/2 · 2⁻⁶⁴ in two parts.
    r = tl.fma(rest, 8.515304187176306e-20, rest * -2.36959920011902e-27)
    return tl.where(x < 0.0, -r, r), tl.where(x < 0.0, -turns, turns)


@triton.jit
def _turned(x, QUARTERS: tl.constexpr):
    """sin(x + QUARTERS·π/2), by minimax polynomials on |r| <= π/4: 2⁻²⁸ in the sine, 2⁻³³ in the cosine."""
    r, turns = reduced_angle(x)
    turns += QUARTERS
    r2 = r * r
    sine = r + (r * r2) * (-0.166666545 + r2 * (0.00833215605 + r2 * -0.000195146316))
    cosine = (1.0 - 0.5 * r2) + (r2 * r2) * (0.0416666456 + r2 * (-0.00138873099 + r2 * 2.44324139e-05))
    # The sum has lost the sign of −0.
    sine = sine.to(tl.int32, bitcast=True) | (r.to(tl.int32, bitcast=True) & -0x80000000)
    magnitude = tl.where((turns & 1) == 0, sine, cosine.to(tl.int32, bitcast=True))
    return (magnitude ^ ((turns & 2) << 30)).to(tl.float32, bitcast=True)


@triton.jit
def sin(x):
    """sin x, x in radians."""
    return _turned(x, 0)


@triton.jit
def cos(x):
    """cos x, x in radians."""
    return _turned(x, 1)


@triton.jit
def load_rows(pointer, first, count, stride, D: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr):
    """Rows `first` … of a (count, D) matrix as a (ROWS, BD) tile, 0 beyond both edges."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BD)[None, :]
    inside = (rows < count - first) & (columns < D)
    return tl.load(pointer + tl.cast(first, tl.int64) * stride + rows * stride + columns, mask=inside, other=0.0)


@triton.jit
def store_rows(pointer, tile, first, count, D: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr):
    """Stores what of a (ROWS, BD) tile lies inside of a contiguous (count, D) matrix, from row `first` on."""
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BD)[None, :]
    inside = (rows < count - first) & (columns < D)
    tl.store(pointer + tl.cast(first, tl.int64) * D + rows * D + columns, tile, mask=inside)


@triton.jit
def times(a, b, total, products):
    """total + a b, in float32."""
    if products.arithmetic == "fast_interpreted":
        # The interpreter's products of bfloat16 are wrong.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    else:
        return tl.dot(a, b, total, input_precision=products.precision)


@triton.jit
def inside(tile, start, h, OUTSIDE: tl.constexpr, products):
    """A tile (BM, BH) of hidden units `start` …, with OUTSIDE in the columns beyond h."""
    if products.even:
        return tile
    else:
        units = start + tl.arange(0, tile.shape[1])
        return tl.where((units < h)[None, :], tile, OUTSIDE)


@triton.jit
def zeros(COUNT: tl.constexpr, SHAPE: tl.constexpr):
    """A tuple of COUNT tiles of zeros."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles = tiles + (tl.zeros(SHAPE, tl.float32),)
    return tiles
