"""The outer functions ρ of transformed ridge sums ρ(Σ_j Ψ(w_j·x + b_j)), with three derivatives.

Compiled code is printed from this table, as from `spec.TABLE`.  It evaluates ρ once for each row and module: C++ in
double by the C library, whatever the argument, so that the domains that `expression` promises do not bind here.

>>> TRANSFORMS["half_square"].keeps_convexity_on_nonnegative
True
"""

from __future__ import annotations

from dataclasses import dataclass

from .expression import Expression, constant, exp, log, x
from .spec import TABLE

_ONE = constant(1.0)


@dataclass(frozen=True)
class Transform:
    """A scalar function ρ.

    Attributes:
        name: the name that users write.
        formula: ρ(t), for people.
        value: ρ(t); the expressions call t x.
        first, second, third: k ρ', k² ρ'' and k³ ρ''', with k = unit.
        unit: k(t), by which σ is divided wherever it meets a derivative of ρ: 1, or where those derivatives leave the
            range of numbers, what keeps both within it.
        keeps_convexity_on_nonnegative: ρ is convex and nondecreasing on [0, ∞), the range of a sum of
            the (nonnegative) antiderivatives of nondecreasing basis functions.
        why_not: if it does not, why.
    """

    name: str
    formula: str
    value: Expression
    first: Expression
    second: Expression
    third: Expression
    unit: Expression = _ONE
    keeps_convexity_on_nonnegative: bool = True
    why_not: str = ""

    def derivatives(self) -> tuple[Expression, Expression, Expression]:
        """Return ρ', ρ'' and ρ''' themselves."""
        if self.unit is _ONE:
            return self.first, self.second, self.third
        square = self.unit * self.unit
        return self.first / self.unit, self.second / square, self.third / (square * self.unit)


_ZERO = constant(0.0)
_SIGMOID = TABLE["sigmoid"]
_TANH = TABLE["tanh"]

TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform("identity", "t", x, _ONE, _ZERO, _ZERO),
        Transform("half_square", "t²/2", 0.5 * (x * x), x, _ONE, _ZERO),
        Transform("softplus", "log(1 + eᵗ)", _SIGMOID.antiderivative, _SIGMOID.value, _SIGMOID.first, _SIGMOID.second),
        Transform("logcosh", "log cosh t", _TANH.antiderivative, _TANH.value, _TANH.first, _TANH.second),
        Transform("exp", "eᵗ", exp(x), exp(x), exp(x), exp(x)),
        Transform(
            "log",
            "log t",
            log(x),
            _ONE,
            constant(-1.0),
            constant(2.0),
            unit=x,
            keeps_convexity_on_nonnegative=False,
            why_not="log is concave, so that its composition with a convex potential need not be convex",
        ),
    )
}
"""Every transform by name.  The order is the numbering that compiled code uses."""
