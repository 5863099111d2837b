"""A tiny expression language, in which the activation table is written and from which code is printed.

An `Expression` is an immutable node; equal subtrees are the same object, so that printers emit each
shared subexpression once.  The functions below are the whole vocabulary.  Their domains are part of
their meaning, because the printers' implementations promise accuracy only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Union

Operand = Union["Expression", float]

ARITHMETIC = frozenset(
    {
        "x",
        "constant",
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "lt",
        "gt",
        "le",
        "abs",
        "copysign",
        "min",
        "where",
        "polynomial",
    }
)
"""The operations that take a few instructions; the others are exponentials and the like."""


class Expression:
    """One node: an operation, its operands and, for constants and polynomials, its numbers."""

    __slots__ = ("__weakref__", "numbers", "op", "operands")

    def __init__(self, op: str, operands: tuple[Expression, ...], numbers: tuple[float, ...]) -> None:
        self.op = op
        self.operands = operands
        self.numbers = numbers

    def operations(self) -> frozenset[str]:
        """The names of the operations in it, constants and x among them."""
        return frozenset({self.op}).union(*(operand.operations() for operand in self.operands))

    def __add__(self, other: Operand) -> Expression:
        return _node("add", self, other)

    def __radd__(self, other: Operand) -> Expression:
        return _node("add", other, self)

    def __sub__(self, other: Operand) -> Expression:
        return _node("sub", self, other)

    def __rsub__(self, other: Operand) -> Expression:
        return _node("sub", other, self)

    def __mul__(self, other: Operand) -> Expression:
        return _node("mul", self, other)

    def __rmul__(self, other: Operand) -> Expression:
        return _node("mul", other, self)

    def __truediv__(self, other: Operand) -> Expression:
        return _node("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return _node("div", other, self)

    def __neg__(self) -> Expression:
        return _node("neg", self)

    def __lt__(self, other: Operand) -> Expression:
        return _node("lt", self, other)

    def __gt__(self, other: Operand) -> Expression:
        return _node("gt", self, other)

    def __le__(self, other: Operand) -> Expression:
        return _node("le", self, other)


@lru_cache(maxsize=None)
def _intern(op: str, operands: tuple[Expression, ...], numbers: tuple[float, ...]) -> Expression:
    return Expression(op, operands, numbers)


def constant(value: float) -> Expression:
    """A number."""
    return _intern("constant", (), (float(value),))


def _node(op: str, *operands: Operand) -> Expression:
    nodes = tuple(o if isinstance(o, Expression) else constant(o) for o in operands)
    return _intern(op, nodes, ())


x = _intern("x", (), ())
"""The argument of the function being defined."""


def absolute(a: Operand) -> Expression:
    """|a|."""
    return _node("abs", a)


def copysign(magnitude: Operand, sign: Operand) -> Expression:
    """|magnitude| with the sign of `sign`."""
    return _node("copysign", magnitude, sign)


def minimum(a: Operand, b: Operand) -> Expression:
    """The smaller one; NaN in `a` stays NaN."""
    return _node("min", a, b)


def where(condition: Expression, a: Operand, b: Operand) -> Expression:
    """`a` where the condition holds, else `b`; both are evaluated."""
    return _node("where", condition, a, b)


def exp(a: Operand) -> Expression:
    """e^a, for a <= 64."""
    return _node("exp", a)


def expm1(a: Operand) -> Expression:
    """e^a − 1 in full relative accuracy, for a <= 1."""
    return _node("expm1", a)


def tanh(a: Operand) -> Expression:
    """The hyperbolic tangent.  Printers share most of it with `sech_squared` of the same operand."""
    return _node("tanh", a)


def sech_squared(a: Operand) -> Expression:
    """1 − tanh² a in full relative accuracy, for any a."""
    return _node("sech_squared", a)


def approximate_tanh(a: Operand) -> Expression:
    """The hyperbolic tangent to 2⁻¹⁰ relative: what a GPU computes in one instruction."""
    return _node("approximate_tanh", a)


def log(a: Operand) -> Expression:
    """The natural logarithm, for a >= 1."""
    return _node("log", a)


def log1p(a: Operand) -> Expression:
    """log(1 + a) in full relative accuracy, for 0 <= a <= 1."""
    return _node("log1p", a)


def erf(a: Operand) -> Expression:
    """The error function."""
    return _node("erf", a)


def erfc(a: Operand) -> Expression:
    """1 − erf(a) in full relative accuracy."""
    return _node("erfc", a)


def sine(a: Operand) -> Expression:
    """sin a, a in radians."""
    return _node("sin", a)


def cosine(a: Operand) -> Expression:
    """cos a, a in radians."""
    return _node("cos", a)


def arctangent(a: Operand) -> Expression:
    """The inverse tangent, in radians."""
    return _node("atan", a)


def polynomial(a: Expression, coefficients: Sequence[float], bound: float) -> Expression:
    """Σ_k coefficients[k]·a^k for |a| <= bound; float32 code drops the terms that cannot matter there."""
    return _intern("polynomial", (a,), (float(bound), *map(float, coefficients)))


def terms_for(coefficients: Sequence[float], bound: float, epsilon: float) -> int:
    """How many leading terms of a polynomial reach relative error `epsilon` for |a| <= bound.

    >>> terms_for([1.0, 0.5, 1e-9], bound=1.0, epsilon=1e-8)
    2
    """
    needed = len(coefficients)
    while needed > 1 and abs(coefficients[needed - 1]) * bound ** (needed - 1) < epsilon * abs(coefficients[0]):
        needed -= 1
    return needed
