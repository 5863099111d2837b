"""The outer functions ρ of transformed ridge sums ρ(Σ_j Ψ(w_j·x + b_j)).

>>> TRANSFORMS["half_square"].keeps_convexity_on_nonnegative
True
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Transform:
    """A scalar function ρ.

    Attributes:
        name: the name that users write.
        formula: ρ(t), for people.
        keeps_convexity_on_nonnegative: ρ is convex and nondecreasing on [0, ∞), the range of a sum of
            the (nonnegative) antiderivatives of nondecreasing basis functions.
        why_not: if it does not, why.
    """

    name: str
    formula: str
    keeps_convexity_on_nonnegative: bool
    why_not: str = ""


TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform("identity", "t", True),
        Transform("half_square", "t²/2", True),
        Transform("softplus", "log(1 + eᵗ)", True),
        Transform("logcosh", "log cosh t", True),
        Transform("exp", "eᵗ", True),
        Transform(
            "log", "log t", False, "log is concave, so that its composition with a convex potential need not be convex"
        ),
    )
}
"""Every transform by name.  The order is the numbering that compiled code uses."""
