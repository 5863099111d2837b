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
def tanh(x):
    """The hyperbolic jvp, from e^{−2|x|} − 1 because e^{−2|x|} alone loses the neighbourhood of 0."""
    e = expm1(-2.0 * tl.abs(x))
    return copysign(e / (2.0 + e), x)


@triton.jit
def approximate_tanh(x, ARITHMETIC: tl.constexpr):
    """The hyperbolic jvp to 2⁻¹⁰ relative, in one instruction of the special-function unit."""
    if ARITHMETIC == "fast":
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tanh(x)


@triton.jit
def sech_squared(x):
    """1 − tanh² x = 4e/(1 + e)², e = e^{−2|x|}, because the difference loses the tail."""
    e = tl.exp(-2.0 * tl.abs(x))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


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
    """The inverse jvp: odd polynomial for |x| <= tan(π/8), two argument reductions beyond."""
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
