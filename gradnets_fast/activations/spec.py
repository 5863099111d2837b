"""THE definition of every basis function: antiderivative, value, three derivatives, and flags.

Everything else that knows a basis function (the C++ header, the Triton module, the monotonicity checks, the Lipschitz
bounds, the modules of torch that networks accept) is printed or read from this table.  Formulas keep relative accuracy
in both tails; where the textbook form cancels, a comment says what was done.  At kinks the derivative is torch's.

>>> TABLE["tanh"].nondecreasing, TABLE["tanh"].derivative_range
(True, (0.0, 1.0))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from .expression import (
    ARITHMETIC,
    Expression,
    absolute,
    approximate_tanh,
    arctangent,
    constant,
    copysign,
    cosine,
    erf,
    erfc,
    exp,
    expm1,
    log,
    log1p,
    minimum,
    polynomial,
    sech_squared,
    sine,
    tanh,
    where,
    x,
)

SMOOTH = 99
"""`continuous_derivatives` of an analytic function."""


@dataclass(frozen=True)
class Basis:
    """A parameter-free scalar function b with its antiderivative Φ and three derivatives.

    Attributes:
        name: the name that users write.
        antiderivative: Φ with Φ' = b; every Φ here is nonnegative wherever b is nondecreasing.
        value, first, second, third: b, b', b'', b'''.
        derivative_range: (inf b', sup b') over the reals, for Lipschitz and monotonicity bounds.
        second_range: (inf b'', sup b'') likewise; infinite where b' jumps.
        continuous_derivatives: how many derivatives of b are continuous (`SMOOTH`: all).
        kink: where the others jump, at this number or its negative.
        strip: b is analytic within this distance of the real line, or converges under quadrature as if that were all;
            where it has kinks, each of its pieces is.
        convex: whether b' is nondecreasing.
        fast: b, b', b'' in fewer GPU instructions, for 16-bit points: to 2⁻¹⁰ of the largest value; None where the
            others are fast enough.
        torch_module: the class in torch.nn that computes b; "" where there is none.
        torch_settings: the settings at which it does.
    """

    name: str
    antiderivative: Expression
    value: Expression
    first: Expression
    second: Expression
    third: Expression
    derivative_range: tuple[float, float]
    continuous_derivatives: int = SMOOTH
    kink: float = 0.0
    strip: float = 0.0
    fast: tuple[Expression, Expression, Expression] | None = None
    torch_module: str = ""
    torch_settings: Mapping[str, object] = field(default_factory=dict)
    convex: bool = False
    second_range: tuple[float, float] = (-math.inf, math.inf)

    @property
    def nondecreasing(self) -> bool:
        """Whether b' >= 0 everywhere, so that Φ is convex."""
        return self.derivative_range[0] >= 0.0

    @property
    def smooth(self) -> bool:
        """Whether b is analytic, so that a quadrature rule integrates it to rounding level."""
        return self.continuous_derivatives >= SMOOTH

    @property
    def straight(self) -> bool:
        """Whether b is piecewise linear."""
        return self.second is _ZERO

    @property
    def steepest(self) -> float:
        """sup |b'|."""
        return max(map(abs, self.derivative_range))

    @property
    def algebraic(self) -> bool:
        """Whether b takes arithmetic alone, no exponential or the like."""
        return self.value.operations() <= ARITHMETIC


def _bernoulli(count: int) -> list[Fraction]:
    """B_0 … B_count, by the defining recurrence."""
    numbers = [Fraction(1)]
    for m in range(1, count + 1):
        numbers.append(-sum((math.comb(m + 1, k) * numbers[k] for k in range(m)), Fraction(0)) / (m + 1))
    return numbers


_B = _bernoulli(44)
_ABS = absolute(x)
_LN2 = math.log(2.0)
_ZERO = constant(0.0)


def _sign(e: Expression) -> Expression:
    return where(e < 0.0, -1.0, where(e > 0.0, 1.0, 0.0))


def _identity() -> Basis:
    return Basis(
        *("identity", 0.5 * (x * x), x, constant(1.0), _ZERO, _ZERO, (1.0, 1.0)),
        torch_module="Identity",
        convex=True,
        strip=math.inf,
        second_range=(0.0, 0.0),
    )


def _tanh() -> Basis:
    value = tanh(x)
    first = sech_squared(x)
    e = exp(-2.0 * _ABS)
    # log cosh near 0 from cosh − 1 = q²/(2(1+q)), q = e^|x| − 1, because |x| + log1p(e) − log 2 cancels there.
    q = expm1(minimum(_ABS, 1.0))
    log_cosh = where(_ABS < 1.0, log1p(minimum(q * q / (2.0 * (1.0 + q)), 1.0)), _ABS + log1p(e) - _LN2)
    t = approximate_tanh(x)
    slope = 1.0 - t * t
    fast = (t, slope, -2.0 * t * slope)
    third = first * (4.0 * (value * value) - 2.0 * first)
    steepest = 4.0 / (3.0 * math.sqrt(3.0))
    return Basis(
        *("tanh", log_cosh, value, first, -2.0 * value * first, third, (0.0, 1.0)),
        fast=fast,
        torch_module="Tanh",
        strip=math.pi / 2.0,
        second_range=(-steepest, steepest),
    )


_E = exp(-_ABS)
# One division for all three.
_LARGER = 1.0 / (1.0 + _E)
_SMALLER = _E * _LARGER
_SIGMOID = where(x < 0.0, _SMALLER, _LARGER)
_SIGMOID_COMPLEMENT = where(x < 0.0, _LARGER, _SMALLER)
_SIGMOID_FIRST = _SMALLER * _LARGER
# 1 − 2σ = −tanh(x/2), from expm1 because the difference cancels near 0.
_EM = expm1(-_ABS)
_TANH_OF_HALF = _EM / (2.0 + _EM)
_SIGMOID_SECOND = _SIGMOID_FIRST * copysign(_TANH_OF_HALF, -x)
_SIGMOID_THIRD = _SIGMOID_FIRST * (1.5 * (_TANH_OF_HALF * _TANH_OF_HALF) - 0.5)
_SOFTPLUS = where(x > 0.0, x, 0.0) + log1p(_E)
_HALF_TANH = 0.5 * approximate_tanh(0.5 * x)
_FAST_SIGMOID = 0.5 + _HALF_TANH
_FAST_SIGMOID_FIRST = 0.25 - _HALF_TANH * _HALF_TANH
_FAST_SIGMOID_SECOND = -2.0 * _HALF_TANH * _FAST_SIGMOID_FIRST


def _sigmoid() -> Basis:
    fast = (_FAST_SIGMOID, _FAST_SIGMOID_FIRST, _FAST_SIGMOID_SECOND)
    return Basis(
        "sigmoid",
        _SOFTPLUS,
        _SIGMOID,
        _SIGMOID_FIRST,
        _SIGMOID_SECOND,
        _SIGMOID_THIRD,
        (0.0, 0.25),
        fast=fast,
        torch_module="Sigmoid",
        strip=math.pi,
        second_range=(-1.0 / (6.0 * math.sqrt(3.0)), 1.0 / (6.0 * math.sqrt(3.0))),
    )


def _minus_dilogarithm_left() -> Expression:
    """−Li₂(−e^{−|x|}), from the Bernoulli series in log1p(e^{−|x|})."""
    u = log1p(_E)
    odd = [float(_B[2 * k] / math.factorial(2 * k + 1)) for k in range(1, 11)]
    return u * (1.0 + 0.25 * u) + u * u * u * polynomial(u * u, odd, _LN2**2)


_DILOGARITHM_LEFT = _minus_dilogarithm_left()
# ∫_{−∞}^x softplus = −Li₂(−e^x), beyond 0 by the inversion formula.
_MINUS_DILOGARITHM = where(x > 0.0, 0.5 * (x * x) + (math.pi**2 / 6.0 - _DILOGARITHM_LEFT), _DILOGARITHM_LEFT)


def _softplus() -> Basis:
    fast = (where(x > 0.0, x, 0.0) + log(1.0 + _E), _FAST_SIGMOID, _FAST_SIGMOID_FIRST)
    return Basis(
        "softplus",
        _MINUS_DILOGARITHM,
        _SOFTPLUS,
        _SIGMOID,
        _SIGMOID_FIRST,
        _SIGMOID_SECOND,
        (0.0, 1.0),
        fast=fast,
        torch_module="Softplus",
        torch_settings={"beta": 1.0},
        convex=True,
        strip=math.pi,
        second_range=(0.0, 0.25),
    )


def _relu() -> Basis:
    # The comparison is false for NaN, which thus stays.
    value = where(x <= 0.0, 0.0, x)
    step = where(x > 0.0, 1.0, 0.0)
    return Basis(
        "relu",
        0.5 * (value * value),
        value,
        step,
        _ZERO,
        _ZERO,
        (0.0, 1.0),
        0,
        0.0,
        math.inf,
        torch_module="ReLU",
        convex=True,
    )


def _elu() -> Basis:
    negative = minimum(x, 0.0)
    # e^x − 1 − x = x²/2 + x³/6 + … near 0, where the closed form cancels.
    series = [1.0 / math.factorial(k + 2) for k in range(18)]
    near = minimum(-negative, 1.0)
    tail = where(
        negative > -1.0,
        near * near * polynomial(-near, series, 1.0),
        expm1(negative) - negative,
    )
    return Basis(
        "elu",
        where(x > 0.0, 0.5 * (x * x), tail),
        where(x > 0.0, x, expm1(negative)),
        where(x > 0.0, 1.0, exp(negative)),
        where(x < 0.0, exp(negative), 0.0),
        where(x < 0.0, exp(negative), 0.0),
        (0.0, 1.0),
        1,
        strip=1.0,
        torch_module="ELU",
        torch_settings={"alpha": 1.0},
        convex=True,
        second_range=(0.0, 1.0),
    )


def _silu() -> Basis:
    first = _SIGMOID * (1.0 + x * _SIGMOID_COMPLEMENT)
    second = _SIGMOID_FIRST * (2.0 + x * copysign(_TANH_OF_HALF, -x))
    third = 3.0 * _SIGMOID_SECOND + x * _SIGMOID_THIRD
    # Φ = x·softplus(x) + Li₂(−e^x) + π²/12 cancels near 0: there Φ = x²/4 + ∫ t·tanh(t/2)/2 dt by its series.
    series = [float((4**n - 1) * _B[2 * n] / (math.factorial(2 * n) * (2 * n + 1))) for n in range(1, 22)]
    near = copysign(minimum(_ABS, 1.0), x)
    small = x * x * (0.25 + near * polynomial(near * near, series, 1.0))
    # x·softplus − x²/2 as one product for x > 0, where the difference of the two overflows.
    constant_part = math.pi**2 / 12.0 - _DILOGARITHM_LEFT
    large = x * (where(x > 0.0, 0.5 * x, 0.0) + log1p(_E)) + where(x > 0.0, -constant_part, constant_part)
    # sup of the derivative where x·tanh(x/2) = 2; by symmetry the infimum is 1 − sup.
    top = 2.399357280520548
    sigma = 1.0 / (1.0 + math.exp(-top))
    supremum = sigma * (1.0 + top * (1.0 - sigma))
    fast = (
        x * _FAST_SIGMOID,
        _FAST_SIGMOID + x * _FAST_SIGMOID_FIRST,
        2.0 * _FAST_SIGMOID_FIRST + x * _FAST_SIGMOID_SECOND,
    )
    return Basis(
        "silu",
        where(_ABS < 1.0, small, large),
        x * _SIGMOID,
        first,
        second,
        third,
        (1.0 - supremum, supremum),
        fast=fast,
        torch_module="SiLU",
        strip=math.pi,
        second_range=(-0.0369143732, 0.5),  # the infimum near 3.436, rounded down
    )


def _gelu() -> Basis:
    normal_cdf = 0.5 * erfc(-math.sqrt(0.5) * x)
    # Beyond 40 the density is 0, and below −40 N too; times x², infinite for the largest numbers, they would be NaN.
    squared = minimum(_ABS, 40.0) * minimum(_ABS, 40.0)
    normal_pdf = exp(-0.5 * squared) * (1.0 / math.sqrt(2.0 * math.pi))
    floored = -minimum(-x, 40.0)
    bounded = copysign(minimum(_ABS, 40.0), x)
    # Φ = ½[(x²−1)N(x) + x n(x)] + ¼; near 0 the odd part (x²−1)(N−½) + x n = x³(2/3 − …)/√(2π) by its series.
    pdf = [(-0.5) ** k / math.factorial(k) for k in range(20)]
    series = [pdf[k - 1] / (2 * k - 1) - pdf[k] / (2 * k + 1) + pdf[k] for k in range(1, 20)]
    near = copysign(minimum(_ABS, 1.0), x)
    odd = polynomial(near * near, [0.5 / math.sqrt(2.0 * math.pi) * c for c in series], 1.0)
    small = x * x * (0.25 + near * odd)
    large = 0.5 * ((floored * floored - 1.0) * normal_cdf + floored * normal_pdf) + 0.25
    supremum = 0.5 * math.erfc(-1.0) + math.sqrt(2.0) * math.exp(-1.0) / math.sqrt(2.0 * math.pi)
    return Basis(
        "gelu",
        where(_ABS < 1.0, small, large),
        x * normal_cdf,
        normal_cdf + x * normal_pdf,
        normal_pdf * (2.0 - squared),
        normal_pdf * (bounded * (squared - 4.0)),
        (1.0 - supremum, supremum),
        torch_module="GELU",
        torch_settings={"approximate": "none"},
        strip=1.5,
        second_range=(-2.0 * math.exp(-2.0) / math.sqrt(2.0 * math.pi), 2.0 / math.sqrt(2.0 * math.pi)),
    )


def _sin() -> Basis:
    half = sine(0.5 * x)
    derivatives = (cosine(x), -sine(x), -cosine(x))
    return Basis(
        *("sin", 2.0 * (half * half), sine(x), *derivatives, (-1.0, 1.0)),
        strip=1.5,
        second_range=(-1.0, 1.0),
    )


def _arctan() -> Basis:
    # With t = min(|x|, 1/|x|) in place of x, because x² overflows: 1/(1+x²) = t²/(1+t²) beyond 1.
    far = _ABS > 1.0
    outside = where(far, _ABS, 1.0)
    t = where(far, 1.0 / outside, _ABS)
    denominator = 1.0 + t * t
    half_log = log(outside) + 0.5 * log1p(t * t)
    first = where(far, t * t, 1.0) / denominator
    second = -2.0 * first * copysign(t / denominator, x)
    third = first * first * (8.0 * (where(far, 1.0, t * t) / denominator) - 2.0)
    steepest = 0.375 * math.sqrt(3.0)
    return Basis(
        *("arctan", x * arctangent(x) - half_log, arctangent(x), first, second, third, (0.0, 1.0)),
        strip=1.0,
        second_range=(-steepest, steepest),
    )


def _softsign() -> Basis:
    d = 1.0 + _ABS
    # |x| − log1p|x| = |x|s − 2(atanh s − s), s = |x|/(2+|x|), near 0, where the difference cancels.
    near = minimum(_ABS, 1.0)
    s = near / (2.0 + near)
    tail = s * s * s * polynomial(s * s, [2.0 / (2 * k + 3) for k in range(16)], 1.0 / 9.0)
    antiderivative = where(_ABS < 1.0, near * s - tail, _ABS - log(d))
    second = -2.0 * _sign(x) / (d * d * d)
    third = 6.0 * absolute(_sign(x)) / (d * d * d * d)
    return Basis(
        *("softsign", antiderivative, x / d, 1.0 / (d * d), second, third, (0.0, 1.0), 1, 0.0, 0.5),
        torch_module="Softsign",
        second_range=(-2.0, 2.0),
    )


def _erf() -> Basis:
    peak = 2.0 / math.sqrt(math.pi)
    first = peak * exp(-(x * x))
    antiderivative = x * erf(x) + 0.5 * peak * expm1(-(x * x))
    bounded = minimum(_ABS, 40.0)
    third = first * (4.0 * (bounded * bounded) - 2.0)
    steepest = peak * math.sqrt(2.0 / math.e)
    return Basis(
        *("erf", antiderivative, erf(x), first, -2.0 * first * x, third, (0.0, peak)),
        strip=1.5,
        second_range=(-steepest, steepest),
    )


def _softshrink() -> Basis:
    value = where(_ABS <= 0.5, 0.0, x - copysign(constant(0.5), x))
    step = where(_ABS <= 0.5, 0.0, 1.0)
    return Basis(
        *("softshrink", 0.5 * (value * value), value, step, _ZERO, _ZERO, (0.0, 1.0), 0, 0.5, math.inf),
        torch_module="Softshrink",
        torch_settings={"lambd": 0.5},
    )


def _hardtanh() -> Basis:
    # The comparisons are false for NaN, which thus stays.
    value = where(x > 1.0, 1.0, where(x < -1.0, -1.0, x))
    antiderivative = where(_ABS > 1.0, _ABS - 0.5, 0.5 * (x * x))
    step = where(_ABS < 1.0, 1.0, 0.0)
    return Basis(
        *("hardtanh", antiderivative, value, step, _ZERO, _ZERO, (0.0, 1.0), 0, 1.0, math.inf),
        torch_module="Hardtanh",
        torch_settings={"min_val": -1.0, "max_val": 1.0},
    )


def _hardsigmoid() -> Basis:
    above = x + 3.0
    value = where(x > 3.0, 1.0, where(x < -3.0, 0.0, (1.0 / 6.0) * above))
    antiderivative = where(x > 3.0, x, where(x < -3.0, 0.0, (1.0 / 12.0) * (above * above)))
    step = where(_ABS < 3.0, 1.0 / 6.0, 0.0)
    return Basis(
        *("hardsigmoid", antiderivative, value, step, _ZERO, _ZERO, (0.0, 1.0 / 6.0), 0, 3.0, math.inf),
        torch_module="Hardsigmoid",
    )


TABLE: dict[str, Basis] = {
    basis.name: basis
    for basis in (
        _identity(),
        _tanh(),
        _sigmoid(),
        _softplus(),
        _relu(),
        _elu(),
        _silu(),
        _gelu(),
        _sin(),
        _arctan(),
        _softsign(),
        _erf(),
        _softshrink(),
        _hardtanh(),
        _hardsigmoid(),
    )
}
"""Every basis function by name.  The order is the numbering that compiled code uses."""
