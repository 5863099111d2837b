"""Which kernels run a shape, and with which tiles: read from a committed table, with no tuning at run time.

The table is keyed on the architecture, the kind of product, d and the depth of φ; never on the batch.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("table.json")
KINDS = ("half", "tf32", "tf32x3", "ieee")
"""Kinds of products: of 16-bit numbers; of float32 rounded to TF32, split into three products of TF32, or as it is."""

ARCHITECTURES = (80, 90, 100)
"""Compute capabilities that the table has tiles for: another one takes those of the nearest below."""

SHARED_KB = {80: 99, 90: 227, 100: 227}
"""Shared memory of a program that the table's tiles may take: on 8.x and 12.x that of the smallest chip."""

INTERPRETER = 0
"""What stands for the architecture in Triton's interpreter."""

MOST_NARROW = {"half": 4, "tf32": 4, "tf32x3": 8, "ieee": 8}
"""Up to this d products are sums of d outer products, which beats padding d to the 16 of a matrix unit."""

_THREEFOLD = (80, 90, 100, 103)
"""Compute capabilities whose matrix units do three products of TF32 faster than their other units do one of float32.

Peak rates of the data sheets, TFLOP/s, TF32 / 3 against float32: 8.0 52 and 19.5; 9.0 165 and 67; 10.0 370 and 75; but
8.6 12 and 36, 8.9 28 and 83, and 12.0 like them.
"""

_FORWARD = ("BM", "BH")
_BACKWARD = ("BM", "BH", "BM_WEIGHTS", "BH_WEIGHTS")
TILES = {
    "narrow.forward": _FORWARD,
    "narrow.backward": _BACKWARD,
    "forward": _FORWARD,
    "backward": _BACKWARD,
    "numbers": _FORWARD,
    "derivatives": _BACKWARD,
    "jacobian": ("BH",),
    "jacobian_backward": ("BH",),
    "modules.forward": _FORWARD,
    "modules.backward": _BACKWARD,
    "deep.forward": ("BM",),
    "deep.backward": ("BM", "BN"),
}
"""Kernel of the table → the names of its tile sizes.

"numbers" computes potentials and divergences, "derivatives" the gradients of those and of J(x) v.
"""

_SMALL = {"BM": 64, "BH": 32, "BM_WEIGHTS": 64, "BH_WEIGHTS": 32, "BN": 32}
_WIDEST_INTERPRETED = 256
_MOST = 2**12
"""More than any d, depth or tile of a table."""
_WIDE = {"forward": {"BM": 32, "BH": 64, "num_warps": 4}, "backward": {"BM": 8, "BH": 32, "num_warps": 4}}

Options = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """How a shape is run."""

    name: str
    why: str


def padded(d: int) -> int:
    """The next power of two, at least the 16 of a matrix unit.

    >>> padded(2), padded(16), padded(17)
    (16, 16, 32)
    """
    return max(16, 1 << (d - 1).bit_length())


def depth(layers: int, terms: int) -> int:
    """A measure of the values that φ keeps for its gradients: b_k(z_l) and Σ_k C_{l,k} b_k'(z_l) for each layer l.

    >>> depth(1, 1), depth(4, 1), depth(4, 2)
    (1, 4, 6)
    """
    return (layers * (terms + 1) + 1) // 2


def tabulated(capability: int) -> int:
    """The architecture of the table whose tiles a GPU of this compute capability takes.

    >>> tabulated(89), tabulated(90), tabulated(121)
    (80, 90, 80)
    """
    if capability >= 120:  # consumer chips: the shared memory of 8.6, and no tcgen05
        return 80
    return max(a for a in ARCHITECTURES if a <= max(capability, ARCHITECTURES[0]))


def float32_kind(capability: int) -> str:
    """How products of full float32 precision are computed.

    >>> float32_kind(90), float32_kind(86), float32_kind(INTERPRETER)
    ('tf32x3', 'ieee', 'ieee')
    """
    return "tf32x3" if capability in _THREEFOLD else "ieee"


def tuned_table() -> Path:
    """Where `gradnets-fast tune` leaves what it measured, which goes before the committed table."""
    named = os.environ.get("GRADNETS_FAST_TABLE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "gradnets_fast" / "table.json"


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """architecture → kernel → kind → list of {d, depth, options}."""
    merged: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    path = tuned_table()
    try:
        present = path.is_file()
    except OSError:  # a folder that this user may not look into holds no table of theirs
        present = False
    if present:
        _merge(merged, path)
    return merged


def _merge(table: dict[str, Any], path: Path) -> None:
    """Puts the entries of a tuned table in place of those of the same d and depth."""
    try:
        tuned = json.loads(path.read_text(encoding="utf-8"))["tables"]
        for architecture, kernels in tuned.items():
            for kernel, kinds in kernels.items():
                for kind, entries in kinds.items():
                    _check_entries(architecture, kernel, kind, entries)
                    known = table.setdefault(architecture, {}).setdefault(kernel, {}).setdefault(kind, [])
                    places = [(entry["d"], entry["depth"]) for entry in entries]
                    known[:] = [*entries, *(e for e in known if (e["d"], e["depth"]) not in places)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"tuned table: {path}: expected what gradnets-fast tune writes, got {error!r}; run that again, or remove it"
        ) from error


def _check_entries(architecture: str, kernel: str, kind: str, entries: list[Any]) -> None:
    """Raises ValueError unless a kernel can be compiled with all of them: what tiles are is not asked again later."""
    if not architecture.isdecimal() or kernel not in TILES or kind not in KINDS:
        raise ValueError(f"tiles of {architecture}, {kernel}, {kind}"[:200])
    names = {*TILES[kernel], "num_warps", "num_stages"}
    for entry in entries:
        tiles = entry["options"]
        fits = all(type(entry[name]) is int and 0 < entry[name] <= _MOST for name in ("d", "depth"))
        fits &= tiles is None or (tiles.keys() == names and all(_is_option(name, n) for name, n in tiles.items()))
        if not fits:
            raise ValueError(f"an entry of {kernel}: {entry}"[:200])


def _is_option(name: str, number: object) -> bool:
    """Whether a number can be that of a tile, which is a power of two, or of warps or stages."""
    if type(number) is not int or not 0 < number <= (_MOST if name.startswith("B") else 32):
        return False
    return name == "num_stages" or number & (number - 1) == 0


@lru_cache(maxsize=None)
def options(kernel: str, architecture: int, kind: str, d: int, depth: int) -> Options | None:
    """The tiles and launch options of a kernel; None where d is more than any tile of the table holds."""
    if architecture == INTERPRETER:
        small = {name: _SMALL[name] for name in TILES[kernel]}
        return None if d > _WIDEST_INTERPRETED else small | {"num_warps": 1, "num_stages": 1}
    if kernel.startswith("narrow") and kind != "half":
        kind = "ieee"  # its products are no matrix products
    entries = [e for e in table()[str(architecture)].get(kernel, {}).get(kind, []) if e["d"] >= d]
    narrowest = min((entry["d"] for entry in entries), default=0)
    able = [entry for entry in entries if entry["d"] == narrowest]
    deep_enough = [entry for entry in able if entry["depth"] >= depth]
    chosen = min(deep_enough, key=_depth) if deep_enough else max(able, key=_depth, default=None)
    if chosen is not None and chosen["options"] is not None:
        tiles: Options = chosen["options"]
        return tiles
    # The library's products serve f better; for the rest IEEE products are as precise, and beat doing without.
    instead = kind == "tf32x3" and kernel not in ("forward", "backward")
    found = options(kernel, architecture, "ieee", d, depth) if instead else None
    return found and {**found, "PRECISION": "ieee"}


def _depth(entry: dict[str, Any]) -> int:
    value: int = entry["depth"]
    return value


def wide_options(kernel: str) -> Options:
    """The tiles of the elementwise kernels, which wait for memory alone."""
    return _WIDE[kernel]


def pixel_options(layers: int, quantity: str, heads: bool = False) -> Options:
    """The tiles of the elementwise kernels of convolutional networks.

    Each of the threads has two pixels of a channel or more, which it adds up first: if the first sum were one with
    another thread, each would add the other's product to its own unrounded, and they would not agree.
    """
    is_closed = (layers == 1 or heads) and quantity == "potential"  # which takes more registers than four warps have
    return {"BC": 4 if layers == 1 or is_closed else 2, "BP": 256, "num_warps": 8 if is_closed else 4}


def why_no_strip(kind: str, inputs: int, k1: int, k2: int) -> str | None:
    """Why no program of `conv_strip` holds what filters (C_in, k1, k2) reach; None if one does.

    >>> why_no_strip("half", 8, 5, 5), why_no_strip("half", 8, 17, 17)
    (None, 'filters of 8 × 17 × 17: 17 rows of 256 taps are more than a program holds')
    """
    taps = _taps(inputs, k2)
    if k1 <= _MOST_ROWS and k2 <= _MOST_ROWS and taps <= _MOST_TAPS[kind] and k1 * taps <= _MOST_SUMS:
        return None
    return f"filters of {inputs} × {k1} × {k2}: {k1} rows of {taps} taps are more than a program holds"


_MOST_ROWS, _MOST_SUMS = 16, 384
_MOST_TAPS = {"half": 64, "tf32": 64, "tf32x3": 32, "ieee": 64}
"""Of a program of `conv_strip`; products of three take three times the registers, and "ieee" is the interpreter's."""


def _taps(inputs: int, k2: int) -> int:
    """The taps of a row of filters as `conv_strip` has them, padded to the 16 of a matrix unit."""
    return max(16, _power(inputs) * _power(k2))


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def strip_options(kind: str, depth: int, h: int, filters: tuple[int, int, int], n2: int) -> Options:
    """The tiles of the kernels of `conv_strip`: W hidden units of a row, BC channels, and KX and TAPS of the filters.

    BC_WEIGHTS: channels of a program for parameters, which keeps k1 · TAPS sums of each in registers.

    depth: of φ, and 2 or more of splines.  filters: C_in, k1 and k2.  n2: columns of an image.

    >>> strip_options("half", 1, 64, (8, 5, 5), 321)["W"], strip_options("half", 4, 64, (1, 13, 13), 321)["TAPS"]
    (32, 16)
    """
    inputs, k1, k2 = filters
    taps = _taps(inputs, k2)
    channels = min(64 if depth == 1 else 32, max(16, _power(h)))
    weights = 16 if k1 * taps > 64 else min(channels, 32)
    is_simple = taps <= 32 and kind == "half" and depth == 1
    width = 64 if is_simple and n2 + k2 - 1 > 32 else 32
    tiles = {"W": width, "BC": channels, "BC_WEIGHTS": weights, "KX": _power(k2), "TAPS": taps}
    # Without a limit of registers the assembler spills some to run two programs at a time.
    return tiles | {"num_warps": 4 if is_simple and taps == 16 else 8, "num_stages": 1, "maxnreg": 240}


def matrix_options(d: int, size: int) -> Options:
    """How many d × d matrices of numbers of `size` bytes a program of `cholesky` takes, and its launch options.

    N rows and columns, with a column or a part of it in a lane, which takes 32 registers at most.

    >>> matrix_options(5, 4)["N"], matrix_options(5, 4)["BM"]
    (8, 4)
    """
    N = 1 << (d - 1).bit_length()
    tile = N**2 * size
    return {"BM": max(1, 1024 // tile), "N": N, "num_warps": max(1, tile // 4096), "enable_fp_fusion": False}


@lru_cache(maxsize=None)
def route(kernel: str, architecture: int, kind: str, d: int, depth: int) -> Route:
    """How "forward" or "backward" is run.

    narrow: products on the arithmetic units; fused: on matrix units; wide: by a library, in pieces of the batch.
    """
    if d <= MOST_NARROW[kind]:
        return Route("narrow", f"d = {d}: outer products cost less than padding d to 16")
    if options(kernel, architecture, kind, d, depth):
        return Route("fused", f"d = {d}: the rows of a tile fit in a program")
    return Route(
        "wide", f"d = {d}: no tile holds such rows; a library multiplies pieces of the batch that fit in cache"
    )
