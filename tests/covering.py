"""Cases that cover all pairs, in place of all combinations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import pytest


def with_each_in_turn(values: Sequence[Any], *others: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Every combination of the others with one of the values, in turn, which comes last.

    Each value meets each element of each of the others, where the rest have combinations enough: a fault of two
    dimensions together shows, and one of three in most cases.

    >>> with_each_in_turn("ab", (1, 2), (3, 4))
    [(1, 3, 'a'), (1, 4, 'b'), (2, 3, 'b'), (2, 4, 'a')]
    """
    found = []
    for places in product(*(range(len(other)) for other in others)):
        chosen = (other[place] for other, place in zip(others, places))
        found.append((*chosen, values[sum(places) % len(values)]))
    return found


def few_of(
    cases: Sequence[tuple[Any, ...]], together: int = 1, as_seen: Callable[[Any], tuple[Any, ...]] = tuple
) -> list[tuple[Any, ...]]:
    """Cases with each value of each argument, or each pair: every next one has the most that are still to come.

    as_seen: the values that count, of a case, where they are others than its arguments.

    >>> few_of([(1, 3, "a"), (1, 4, "b"), (2, 3, "b"), (2, 4, "a")])
    [(1, 3, 'a'), (1, 4, 'b'), (2, 3, 'b')]
    """
    labelled = [set(combinations(enumerate(map(label, as_seen(case))), together)) for case in cases]
    missing, chosen = set().union(*labelled), []
    while missing:
        best = max(range(len(cases)), key=lambda i: len(labelled[i] & missing))
        missing -= labelled[best]
        chosen.append(cases[best])
    return chosen


def slow_but(quick: Sequence[Any], cases: Sequence[Any]) -> list[Any]:
    """The cases as those of a parametrized test, of which all but the quick ones are marked slow."""
    arguments = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [c if c in quick else pytest.param(*a, marks=pytest.mark.slow) for c, a in zip(cases, arguments)]


def slow_but_few(cases: Sequence[tuple[Any, ...]], together: int = 1) -> list[Any]:
    """The cases as those of a parametrized test, of which all but `few_of` them are marked slow."""
    return slow_but(few_of(cases, together), cases)


def in_turn(names: str, values: Sequence[Any], *others: Sequence[Any], few: int | None = None) -> pytest.MarkDecorator:
    """`with_each_in_turn` as cases of a test whose arguments have these names, that of the values last.

    few: `make test` runs no more of them than have each value (1), or each pair of values (2).
    """
    cases = with_each_in_turn(values, *others)
    return pytest.mark.parametrize(names, cases if few is None else slow_but_few(cases, few), ids=label)


def quick_in_turn(names: str, values: Sequence[Any], *others: Sequence[Any]) -> pytest.MarkDecorator:
    """All combinations as cases of a test whose arguments have these names; `make test` runs `with_each_in_turn`."""
    cases = slow_but(with_each_in_turn(values, *others), list(product(*others, values)))
    return pytest.mark.parametrize(names, cases, ids=label)


def label(value: Any) -> str:
    """How a value is called in a test's name."""
    return str(getattr(value, "name", value))
