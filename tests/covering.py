"""Cases that cover all pairs, in place of all combinations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
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


def in_turn(names: str, values: Sequence[Any], *others: Sequence[Any]) -> pytest.MarkDecorator:
    """`with_each_in_turn` as cases of a test whose arguments have these names, that of the values last."""
    return pytest.mark.parametrize(names, with_each_in_turn(values, *others), ids=label)


def label(value: Any) -> str:
    """How a value is called in a test's name."""
    return str(getattr(value, "name", value))
