"""The kernels that are compiled ahead of time: those of the most used networks, sizes and dtypes.

What is not here is compiled by Triton at its first call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from . import configuration
from .compiler import Launch, typed
from .mode import FORMS, Mode, ModulesMode

WIDTHS = (2, 3, 4, 8, 16, 32, 64, 128)
"""The d of the kernels with tiles; beyond the widest, the elementwise kernels of the wide route serve every d."""

WIDE = 1024
"""A d that stands for every d of the wide route."""

KINDS = {80: ("half", "tf32x3", "ieee"), 90: ("half", "tf32x3"), 100: ("half", "tf32x3")}
"""architecture → kinds of products: of bfloat16, and of float32 in full precision ("ieee" on 8.6, 8.9 and 12.x)."""


@dataclass(frozen=True)
class Ridge:
    """A network of the ridge family: `layers` layers with these basis functions.

    needs: which of the gradients of scale, shift and coefficients it trains with; it has no others.
    """

    layers: int
    basis: tuple[str, ...]
    needs: tuple[bool, bool, bool]

    def without(self) -> tuple[str, ...]:
        """The vectors that it does not have."""
        return tuple(name for name, has in zip(("scale", "shift", "coef"), self.needs) if not has)


@dataclass(frozen=True)
class Softmax:
    """A network of softmax modules without the second softmax, of −z.  modules: how many."""

    modules: int


_CASCADE, _MODULES = "mGradNetC, 4 layers, tanh", "mGradNetM, 4 modules, softmax"
NETWORKS = {
    "mRidgeGradNet, tanh": Ridge(1, ("tanh",), (False, True, False)),
    _CASCADE: Ridge(4, ("tanh",), (True, True, True)),
    _MODULES: Softmax(4),
}

LEFT_OUT: dict[tuple[int, str, str, str], tuple[tuple[int, ...], tuple[int, ...]]] = {
    (80, _CASCADE, "entry.backward", "ieee"): ((), (16, 32)),
    (80, _CASCADE, "entry.backward", "tf32x3"): ((), (32,)),
    (80, _CASCADE, "entry.forward", "half"): ((), (128,)),
    (80, _CASCADE, "entry.forward", "tf32x3"): ((), (64,)),
    (80, _MODULES, "modules_entry.backward", "half"): ((), (4, 32)),
    (80, _MODULES, "modules_entry.forward", "half"): ((), (3,)),
    (80, _MODULES, "modules_entry.forward", "ieee"): ((4,), ()),
    (90, _CASCADE, "entry.backward", "half"): ((), (128,)),
    (90, _CASCADE, "entry.backward", "tf32x3"): ((16,), (16, 32)),
    (90, _CASCADE, "entry.forward", "tf32x3"): ((), (128,)),
    (100, _CASCADE, "entry.backward", "half"): ((), (128,)),
    (100, _CASCADE, "entry.forward", "tf32x3"): ((), (32,)),
    (100, _MODULES, "modules_entry.backward", "half"): ((3, 16), (3, 4, 8, 16, 32, 128)),
    (100, _MODULES, "modules_entry.backward", "tf32x3"): ((2,), (3, 4, 8)),
    (100, _MODULES, "modules_entry.forward", "half"): ((), (2, 4, 8, 16, 32, 128)),
    (100, _MODULES, "modules_entry.forward", "tf32x3"): ((), (2,)),
}
"""(architecture, network, kernel, kind) → the d that are left out where tiles divide h, and where they do not.

These kernels spill with the tiles of the table, which were chosen for h that they divide and the widest d of an entry.
"""

_ABSENT = (("dx",), ())
"""Which outputs of a backward pass are absent: a first layer needs no dx; a later layer needs all."""


def launches(architecture: int) -> Iterator[Launch]:
    """All launches that are compiled for an architecture of the table."""
    for (name, kind, d, even), launch in wanted(architecture):
        if not left_out(architecture, name, launch.kernel, kind, d, even):
            yield launch


def wanted(architecture: int) -> Iterator[tuple[tuple[str, str, int, bool], Launch]]:
    """Each launch that networks make, those that are left out too; before it network, kind, d and even."""
    for (name, network), kind, d in product(NETWORKS.items(), KINDS[architecture], (*WIDTHS, WIDE)):
        of = _of_ridge if isinstance(network, Ridge) else _of_softmax
        for even in (True, False):
            for launch in of(network, architecture, kind, d, even):
                yield (name, kind, d, even), launch


def left_out(architecture: int, network: str, kernel: str, kind: str, d: int, even: bool) -> bool:
    """Whether LEFT_OUT has this kernel for d and an h that tiles divide (`even`) or do not."""
    return d in LEFT_OUT.get((architecture, network, kernel, kind), ((), ()))[not even]


def _multiples(d: int, even: bool) -> list[str]:
    """The integer arguments that are multiples of 16 where points are contiguous."""
    return ["h"] * even + ["x_stride", "g_stride"] * (d % 16 == 0) + ["v_stride"]


def _of_ridge(network: Ridge, architecture: int, kind: str, d: int, even: bool) -> Iterator[Launch]:
    mode, multiples = Mode(architecture, kind, network.basis, network.layers), _multiples(d, even)
    needs = dict(zip(("NEEDS_SCALE", "NEEDS_SHIFT", "NEEDS_COEF"), network.needs))
    without = network.without()
    if mode.route("forward", d) == "wide":
        yield typed("wide.forward", mode.constants() | configuration.wide_options("forward"), kind, without, multiples)
    else:
        h = _units(even, mode.forward("value", d, 1)["BH"])
        yield typed("entry.forward", mode.forward("value", d, h), kind, ("rule", *without), multiples)
    if mode.route("backward", d) == "wide":
        constants = mode.constants() | needs | configuration.wide_options("backward")
        yield typed("wide.backward", constants, kind, without, multiples)
        return
    for absent in _ABSENT:
        h = _units(even, mode.backward("value", d, 1, needs, "")["BH"])
        constants = mode.backward("value", d, h, needs, FORMS["value"])
        yield typed("entry.backward", constants, kind, ("v", "weight", "rule", "dv", *without, *absent), multiples)


def _of_softmax(network: Softmax, architecture: int, kind: str, d: int, even: bool) -> Iterator[Launch]:
    mode, multiples = ModulesMode(architecture, kind), _multiples(d, even)
    without = ("negative", "sharpness", "offset")
    if mode.options("forward", d, False) is None or mode.options("backward", d, False) is None:
        return
    h = _units(even, mode.tiles("forward", d, False)["BH"])
    yield typed("modules_entry.forward", mode.forward("value", d, h, False), kind, without, multiples)
    h = _units(even, mode.tiles("backward", d, False)["BH"])
    constants = mode.backward("value", d, h, False, 2 * network.modules)
    for absent in _ABSENT:
        yield typed("modules_entry.backward", constants, kind, (*without, "weight", *absent), multiples)


def _units(even: bool, tile: int) -> int:
    """A number of hidden units that is, or is not, a multiple of the tile's."""
    return tile if even else tile + 1
