"""The tiles that are tried for each entry of kernels/table.json."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from . import configuration

DEPTHS = (1, 4)
"""Depths of the table, each chosen with a cascade of as many layers of one basis function."""

SIGNS = (1, 2)
"""What stands for the depth of modules: 2 where there are the softmaxes of z and of −z, else 1."""

SKIPS = (1, 2)
"""What stands for the depth of deep networks: 2 where they have skips, residual layers or squares, else 1."""

_DEPTHS_OF = {"jacobian": DEPTHS[1:], "modules": SIGNS, "deep": SKIPS}
"""Kernels that have other depths than DEPTHS, by the beginning of their names."""

_MATRIX = {"half": (32, 64, 128, 256), "tf32": (32, 64, 128), "tf32x3": (32, 64, 128), "ieee": (32, 64)}
_ROW = {"half": (32, 64, 128), "tf32": (32, 64, 128), "tf32x3": (32, 64, 128), "ieee": (32, 64)}
_DEEP_SIZES = {"half": (32, 64, 128), "tf32": (32, 64, 128), "tf32x3": (32, 64), "ieee": (32,)}
WIDTHS = {
    "narrow.forward": {"half": (2, 4), "ieee": (2, 4, 8)},
    "narrow.backward": {"half": (2, 4), "ieee": (2, 4, 8)},
    "forward": _MATRIX,
    "backward": _MATRIX,
    "numbers": _MATRIX,
    "derivatives": _MATRIX,
    "jacobian": _ROW,
    "jacobian_backward": _ROW,
    "modules.forward": _MATRIX,
    "modules.backward": _MATRIX,
    "deep.forward": _DEEP_SIZES,
    "deep.backward": _DEEP_SIZES,
}
"""kernel → kind → the d of its entries; of deep networks the largest of 2d and all widths."""

Case = tuple[int, str, str, int, int]


def _options(kernel: str, *sizes: tuple[int, ...]) -> list[dict[str, int]]:
    return [dict(zip((*configuration.TILES[kernel], "num_warps", "num_stages"), size)) for size in sizes]


def _staged(tiles: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Tiles and warps with the numbers of stages that are tried: with two, a turn waits for copies that it issued last.

    Three copy a whole turn ahead, for more shared memory.
    """
    return tuple((*tile, stages) for tile in tiles for stages in (3, 2))


_VALUE_FORWARD = (
    *_staged(
        (
            *((128, 64, 4), (128, 64, 8), (64, 64, 4), (128, 32, 4)),
            *((128, 32, 8), (64, 32, 4), (64, 32, 8), (32, 32, 4)),
        )
    ),
    (32, 32, 4, 1),
)
_VALUE_BACKWARD = (
    *_staged(
        (
            *((64, 64, 64, 64, 4), (64, 64, 32, 64, 4), (128, 64, 32, 128, 8), (128, 64, 64, 128, 8)),
            *((64, 32, 32, 64, 4), (64, 32, 16, 64, 4), (64, 32, 32, 64, 8), (64, 32, 16, 32, 4)),
        )
    ),
    *((32, 32, 16, 64, 8, 1), (32, 32, 16, 32, 4, 1)),
)
_FORWARD = (
    *((128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 8, 2)),
    *((32, 32, 4, 2), (32, 32, 4, 1)),
)
_BACKWARD = (
    *((128, 64, 64, 64, 8, 2), (64, 64, 32, 64, 4, 2), (64, 32, 32, 64, 4, 2), (64, 32, 32, 64, 8, 2)),
    *((64, 32, 16, 64, 4, 2), (64, 32, 16, 32, 4, 2), (32, 32, 16, 64, 8, 1), (32, 32, 16, 32, 4, 1)),
)
_NARROW = ((64, 32, 4, 1), (32, 32, 4, 1), (16, 32, 4, 1), (8, 32, 4, 1))
_NARROW_BACKWARD = (
    *((32, 32, 32, 32, 4, 1), (32, 32, 16, 32, 4, 1), (16, 32, 16, 32, 4, 1), (16, 32, 8, 32, 4, 1)),
    *((8, 32, 4, 32, 4, 1), (8, 32, 4, 32, 8, 1)),
)
_DEEP = ((128, 8, 1), (64, 8, 1), (32, 8, 1), (16, 8, 1))
_DEEP_BACKWARD = ((64, 64, 8, 1), (32, 64, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1), (16, 16, 8, 1), (16, 32, 4, 1))
_ROWS = ((64, 4, 2), (32, 4, 2), (32, 8, 2), (16, 4, 1), (16, 8, 1))

CANDIDATES = {
    "narrow.forward": _options("narrow.forward", *_NARROW),
    "narrow.backward": _options("narrow.backward", *_NARROW_BACKWARD),
    "forward": _options("forward", *_VALUE_FORWARD),
    "backward": _options("backward", *_VALUE_BACKWARD),
    "numbers": _options("numbers", *_FORWARD[2:]),
    "derivatives": _options("derivatives", *_BACKWARD[1:]),
    "jacobian": _options("jacobian", *_ROWS),
    "jacobian_backward": _options("jacobian_backward", *_ROWS),
    "modules.forward": _options("modules.forward", *_FORWARD),
    "modules.backward": _options("modules.backward", *_BACKWARD[1:]),
    "deep.forward": _options("deep.forward", *_DEEP),
    "deep.backward": _options("deep.backward", *_DEEP_BACKWARD),
}
"""The best guess first; more rows a program read the weights less often, more registers allow fewer programs.

Of tiles with several numbers of stages the most come first.  Smaller tiles than these read so much that the wide route
is faster.
"""


def cases() -> Iterator[Case]:
    """(architecture, kernel, kind, d, depth) of every entry of the table."""
    for kernel, kinds in WIDTHS.items():
        depths = _DEPTHS_OF.get(kernel.partition(".")[0].partition("_")[0], DEPTHS)
        for (kind, widths), architecture in product(kinds.items(), configuration.ARCHITECTURES):
            yield from ((architecture, kernel, kind, d, depth) for d, depth in product(widths, depths))
