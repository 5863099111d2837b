"""Chooses the tiles of kernels/table.json without a GPU: the largest candidates that spill nothing.

python -m bench.tiles                  # writes kernels/table.json; a quarter of an hour on two cores
python -m bench.tiles --architecture 90 --kernel ridge.forward   # prints what the candidates take
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from gradnets_fast.kernels import configuration
from gradnets_fast.kernels.launch import Mode
from gradnets_fast.kernels.offline import Resources, resources

DEPTHS = {1: 1, 4: 4, 8: 8}
"""Depth of the table → layers of the cascade, of one basis function, that it is chosen with."""

WIDTHS = {
    "ridge": {"half": (16, 32, 64, 128, 256), "tf32": (16, 32, 64, 128), "ieee": (16, 32, 64)},
    "narrow": {"half": (1, 2, 4), "ieee": (1, 2, 4, 8)},
}

Case = tuple[int, str, str, int, int]


def _forward(*sizes: tuple[int, int, int, int]) -> list[dict[str, int]]:
    return [dict(zip(("BM", "BH", "num_warps", "num_stages"), size)) for size in sizes]


def _backward(*sizes: tuple[int, int, int, int, int, int]) -> list[dict[str, int]]:
    names = ("BM", "BH", "BM_WEIGHTS", "BH_WEIGHTS", "num_warps", "num_stages")
    return [dict(zip(names, size)) for size in sizes]


CANDIDATES = {
    "ridge.forward": _forward(
        *((128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)),
        *((32, 32, 4, 1), (16, 32, 4, 1), (16, 16, 4, 1)),
    ),
    "ridge.backward": _backward(
        *((128, 64, 64, 64, 8, 2), (128, 64, 32, 64, 8, 2), (64, 64, 32, 64, 4, 2), (64, 32, 32, 64, 4, 2)),
        *((64, 32, 16, 64, 4, 2), (32, 32, 16, 64, 8, 1), (32, 32, 32, 32, 4, 1), (32, 32, 16, 32, 4, 1)),
        *((16, 32, 16, 32, 8, 1), (16, 16, 16, 16, 4, 1)),
    ),
    "narrow.forward": _forward((64, 32, 4, 1), (32, 32, 4, 1), (16, 32, 4, 1), (8, 32, 4, 1)),
    "narrow.backward": _backward(
        *((32, 32, 32, 32, 4, 1), (32, 32, 16, 32, 4, 1), (16, 32, 8, 32, 4, 1), (8, 32, 4, 32, 4, 1)),
        (8, 32, 4, 32, 8, 1),
    ),
}
"""The best guess first; more rows a program read the weights less often, more registers allow fewer programs."""


def cases() -> Iterator[Case]:
    """(architecture, kernel, kind, d, depth) of every entry of the table."""
    for architecture in configuration.ARCHITECTURES:
        for kernel in CANDIDATES:
            for kind, widths in WIDTHS[kernel.split(".")[0]].items():
                yield from ((architecture, kernel, kind, d, depth) for d in widths for depth in DEPTHS)


def measured(case: Case, tiles: dict[str, int]) -> Resources:
    """What the kernel of one entry takes with these tiles."""
    architecture, kernel, kind, d, depth = case
    route = "narrow" if kernel.startswith("narrow") else "fused"
    return resources(kernel, Mode(architecture, kind, ("tanh",), DEPTHS[depth], route), d, tiles)


def first_that_fits(case: Case) -> dict[str, int] | None:
    """The options of one entry; None if every candidate spills."""
    for tiles in CANDIDATES[case[1]]:
        if measured(case, tiles).fits(case[0]):
            return tiles
    return None


def _write() -> None:
    listed = list(cases())
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(first_that_fits, listed))
    table: dict[str, Any] = {}
    for (architecture, kernel, kind, d, depth), options in zip(listed, found):
        if options is None:
            print(f"{architecture} {kernel} {kind} d={d} depth={depth}: every candidate spills")
            continue
        entries = table.setdefault(str(architecture), {}).setdefault(kernel, {}).setdefault(kind, [])
        entries.append({"d": d, "depth": depth, "options": options})
    configuration.TABLE.write_text(_lines(table), encoding="utf-8")


def _lines(table: dict[str, Any]) -> str:
    """JSON with an entry a line."""
    text = json.dumps(table, indent=1)
    return re.sub(r'\{\s+"d".*?\}\s+\}', lambda entry: " ".join(entry[0].split()), text, flags=re.DOTALL) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", type=int)
    parser.add_argument("--kernel", choices=CANDIDATES)
    arguments = parser.parse_args()
    if arguments.architecture is None:
        _write()
        return
    for case in cases():
        if case[0] == arguments.architecture and arguments.kernel in (None, case[1]):
            for tiles in CANDIDATES[case[1]]:
                print(*case, *tiles.values(), measured(case, tiles), flush=True)


if __name__ == "__main__":
    main()
