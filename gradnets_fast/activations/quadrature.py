"""Gauss–Legendre rules on [0, 1], by which potentials of cascades are integrated: ∫_0^u φ ≈ u Σ_n w_n φ(t_n u).

Used by the compiled kernels, through gradnets_fast/ops.  The reference computes its own rules by another method, so
that an error here shows in the tests.
"""

from __future__ import annotations

import math

PANELS = 8
"""Equal panels of [0, u] for deep cascades."""

NODES = 16
"""Nodes in each panel."""

Rule = tuple[tuple[float, float], ...]
"""(node, weight) pairs."""


def legendre_nodes(count: int) -> Rule:
    """Return the (node, weight) pairs of Gauss–Legendre quadrature on [−1, 1], ascending.

    The nodes are the roots of the Legendre polynomial P_n, by Newton's method; weight = 2 / ((1 − t²) P_n'(t)²).

    >>> [(round(t, 6), round(w, 6)) for t, w in legendre_nodes(2)]
    [(-0.57735, 1.0), (0.57735, 1.0)]
    """
    pairs = []
    for k in range(count):
        t = -math.cos(math.pi * (k + 0.75) / (count + 0.5))
        for _ in range(100):
            value, slope = _legendre(count, t)
            step = value / slope
            t -= step
            if abs(step) < 1e-16:
                break
        _, slope = _legendre(count, t)
        pairs.append((t, 2.0 / ((1.0 - t * t) * slope * slope)))
    return tuple(pairs)


def _legendre(n: int, t: float) -> tuple[float, float]:
    """P_n(t) and P_n'(t), by the three-term recurrence; |t| < 1."""
    before, value = 1.0, t
    for k in range(2, n + 1):
        before, value = value, ((2 * k - 1) * t * value - (k - 1) * before) / k
    return value, n * (t * value - before) / (t * t - 1.0)


def rule(panels: int, nodes: int = NODES) -> Rule:
    """Return the rule with so many nodes in each of `panels` equal panels of [0, 1]."""
    halves = [((t + 1.0) / 2.0, w / 2.0) for t, w in legendre_nodes(nodes)]
    return tuple(((panel + t) / panels, w / panels) for panel in range(panels) for t, w in halves)


_REACHES = {
    "float32": (
        *((0.28125, 1, 4), (0.625, 1, 6), (1.0625, 1, 8), (1.375, 1, 10), (1.75, 1, 12), (2.125, 1, 14), (2.5, 1, 16)),
        *((3.0, 1, 18), (3.5, 1, 20), (4.25, 1, 24), (5.25, 1, 28), (6.25, 1, 32), (8.5, 2, 24), (12.5, 3, 24)),
    ),
    "float64": (
        *((0.25, 1, 8), (0.5, 1, 12), (0.75, 1, 16), (1.0, 1, 20), (1.375, 1, 24), (1.75, 1, 28), (2.0, 1, 32)),
        *((2.5, 1, 40), (3.5, 1, 48), (4.5, 2, 36), (6.0, 2, 48)),
    ),
}
"""(reach, panels, nodes in each), found by experiment; the counts of nodes are even."""


def rules_by_reach(dtype: str) -> tuple[tuple[float, Rule], ...]:
    """Return (reach, rule) pairs, ascending: where |u|·pace <= reach the rule is exact to the dtype's rounding.

    The pace of a cascade is the greatest slope |dz_l/du| of a layer's argument over `Basis.strip`; the convergence is
    geometric, at a rate that this ratio decides.  The last rule serves all others; between kinks,
    one of 16 nodes on each eighth.
    """
    return (*((reach, rule(*sizes)) for reach, *sizes in _REACHES[dtype]), (math.inf, PANELLED_RULE))


PANELLED_RULE = rule(PANELS)
SINGLE_PANEL_RULE = rule(1)
