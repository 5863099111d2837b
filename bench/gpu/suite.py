"""Which checks there are, the most telling first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bench.gpu.calls import operators, variants
from bench.gpu.checks import ON_CPU, ON_GPU, Check
from gradnets_fast.apps.draws import quantity

Size = tuple[int, int, int]

_PRECISIONS = ("bfloat16", "tf32", "ieee", "float32", "float16")
_SOME = ("bfloat16", "float32")

ROUTES: tuple[Size, ...] = ((97, 3, 65), (333, 64, 256), (150, 300, 257))
"""(batch, d, h): narrow rows, rows that fit into a tile, and wider ones."""

OTHERS: tuple[Size, ...] = (
    *((1, 1, 1), (97, 2, 130), (513, 4, 33), (513, 5, 33), (1000, 8, 129)),
    *((33, 9, 64), (1000, 16, 200), (515, 33, 67), (257, 130, 333), (129, 256, 129)),
    (33, 1024, 100),
)
"""Sizes just past tiles and their multiples, and widths where the route changes."""

LONG: tuple[Size, ...] = ((100_003, 3, 1000), (70_001, 64, 1024), (70_001, 32, 1000))
"""Sizes where many programs share the sums over the batch."""

LARGE: tuple[Size, ...] = (((1 << 21) + 3, 2, 1024), ((1 << 21) + 3, 32, 1024), ((1 << 19) + 3, 300, 4096))
"""B·h > 2³¹."""

INTERPRETED: tuple[Size, ...] = ((33, 3, 35), (41, 20, 35), (17, 260, 20))
WATCHED: tuple[Size, ...] = ((97, 3, 65), (70, 20, 65))
"""Sizes for programs that slow kernels down a hundredfold."""


def listed(place: torch.device, small: bool) -> list[Check]:
    """The checks of a device; small: a few for the interpreter, or to try this program."""
    kinds: tuple[str, ...] = ON_GPU if place.type == "cuda" else ON_CPU
    if place.type == "cuda" and torch.cuda.device_count() > 1:
        kinds += ("device",)
    values, derived = _values_and_derived(place)
    return list(dict.fromkeys((_small if small else _all)(values, derived, kinds)))


def _values_and_derived(place: torch.device) -> tuple[list[str], list[str]]:
    names = operators(place)
    return [n for n in names if quantity(n) == "value"], [n for n in names if quantity(n) != "value"]


def _all(values: list[str], derived: list[str], kinds: tuple[str, ...]) -> Iterator[Check]:
    yield from _product(values, slice(0, 2), ROUTES, kinds)
    yield from _product(values, slice(0, 1), ROUTES, ("compiled",), _SOME)
    yield from _product(values, slice(0, 2), LONG, ("large", "repeats"), _SOME)
    yield from _product(values, slice(0, 1), LARGE, ("large",), _SOME)
    yield from _product(derived, slice(0, 1), ROUTES, kinds)
    yield from _product(values, slice(None), (*OTHERS, *ROUTES), kinds)
    yield from _product(derived, slice(1, None), ROUTES, kinds)
    yield from _product(derived, slice(0, 1), OTHERS, ("accuracy",))


def _small(values: list[str], derived: list[str], kinds: tuple[str, ...]) -> Iterator[Check]:
    yield from _product(values, slice(0, 2), INTERPRETED, kinds, ("bfloat16", "tf32", "float32"))
    yield from _product(derived, slice(0, 1), ((9, 3, 17), (5, 260, 9)), kinds, _SOME)


def watched(place: torch.device) -> list[Check]:
    """The few that compute-sanitizer watches: every f by both routes, and what derives from them by one."""
    values, derived = _values_and_derived(place)
    of_ridge = [name for name in derived if name.startswith("ridge_")]
    found = _product(values, slice(0, 1), WATCHED, ("plain",), _SOME[:1])
    return [*found, *_product(of_ridge, slice(0, 1), WATCHED[:1], ("plain",), _SOME[1:])]


def rehearsed() -> list[Check]:
    """One check of every kind, and every operator by one: for a rehearsal in the interpreter."""
    values, derived = _values_and_derived(torch.device("cpu"))
    kinds = (*ON_GPU, "device", "large", "compiled")
    first = Check(values[0], variants(values[0])[0], "float32", (9, 3, 5), kinds)
    others = _product([*values, *derived], slice(0, 1), ((5, 3, 4),), ("plain", "accuracy"), _SOME[1:])
    return [first, *others]


def _product(
    names: Sequence[str],
    which: slice,
    sizes: Sequence[Size],
    kinds: tuple[str, ...],
    precisions: Sequence[str] = _PRECISIONS,
) -> Iterator[Check]:
    """Checks of every operator at every size, in every precision; which: of each operator's variants."""
    for size in sizes:
        for name in names:
            for variant in variants(name)[which]:
                for precision in precisions:
                    yield Check(name, variant, precision, size, kinds)
