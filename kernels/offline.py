"""What the kernels take of a GPU with the tiles of the table, as the compiler says without one.

Called by `bench.tiles`, which chooses the table's tiles, and by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import sources
from .compiler import Launch, Resources, compiled, typed
from .mode import FORMS, ONE_STAGE, TOTALS, Constants, DeepMode, Mode, ModulesMode, padded_columns


@dataclass(frozen=True)
class Variant:
    """A kernel as one kind of call launches it.

    Attributes:
        kernel: its name in the table.
        entry: file and function of what is compiled.
        constants: the constant arguments that the call sets.
        absent: the pointers that are None.
        depth: the depth of the table's entries that it belongs to; None if to all.
    """

    kernel: str
    entry: str
    constants: Constants
    absent: tuple[str, ...]
    depth: int | None = None


def _forward(kernel: str, quantity: str, absent: tuple[str, ...]) -> Variant:
    constants = {"NARROW": kernel.startswith("narrow"), "QUANTITY": quantity}
    return Variant(kernel, "entry.forward", constants | _stages(quantity, "jacobian"), absent)


def _backward(kernel: str, quantity: str, absent: tuple[str, ...]) -> Variant:
    constants = {"NARROW": kernel.startswith("narrow"), "QUANTITY": quantity, "FORM": FORMS[quantity]}
    return Variant(kernel, "entry.backward", constants | _stages(quantity, "divergence", "jacobian"), absent)


def _stages(quantity: str, *of_one: str) -> Constants:
    return ONE_STAGE if quantity in of_one else {}


def _modules(kernel: str, quantity: str, absent: tuple[str, ...], basis: str = "", transform: str = "") -> Variant:
    names = {"QUANTITY": quantity, "BASIS": basis, "TRANSFORM": transform}
    return Variant(f"modules.{kernel}", f"modules_entry.{kernel}", names, absent, 1 if "negative" in absent else 2)


def _deep(kernel: str, quantity: str, absent: tuple[str, ...], skips: bool = False) -> Variant:
    structure = {"BASIS": BASIS * _LAYERS, "INPUT_SKIP": skips, "RANK": 2 * skips, "RESIDUAL": skips}
    return Variant(
        f"deep.{kernel}", f"deep_entry.{kernel}", structure | {"QUANTITY": quantity}, absent, 2 if skips else 1
    )


BASIS = ("tanh",)
"""The basis functions of the ridge networks that the table's entries are compiled for."""

_LAYERS = 3
"""Of the deep networks that the table's entries are compiled for."""

_VALUE = ("v", "weight", "rule", "dv")
_SQUARE = ("tanh", "half_square")
_COLUMNS = 18
"""How many scalars four modules with two signs and a soft maximum have."""

VARIANTS = {
    "narrow.forward": _forward("narrow.forward", "value", ("rule",)),
    "narrow.backward": _backward("narrow.backward", "value", _VALUE),
    "forward": _forward("forward", "value", ("rule",)),
    "backward": _backward("backward", "value", _VALUE),
    "potential": _forward("numbers", "potential", ("bias",)),
    "divergence": _forward("numbers", "divergence", ("bias", "rule")),
    "jvp.backward": _backward("derivatives", "jvp", ("weight", "rule", "dbias")),
    "potential.backward": _backward("derivatives", "potential", ("g", "v", "dv", "dbias")),
    "divergence.backward": _backward("derivatives", "divergence", ("g", "v", "dv", "rule", "dbias")),
    "jacobian": _forward("jacobian", "jacobian", ("bias", "rule")),
    "jacobian.backward": _backward("jacobian_backward", "jacobian", (*_VALUE, "dbias")),
    "softmax.forward": _modules("forward", "value", ("negative",)),
    "softmax.backward": _modules("backward", "value", ("negative", "weight")),
    "transformed.forward": _modules("forward", "value", ("negative", "temperature"), *_SQUARE),
    "transformed.backward": _modules("backward", "value", ("negative", "temperature", "weight"), *_SQUARE),
    "weighted_softmax.forward": _modules("forward", "value", ()),
    "weighted_softmax.backward": _modules("backward", "value", ("weight",)),
    "weighted_softmax.potential": _modules("forward", "potential", ("bias",)),
    "weighted_softmax.potential.backward": _modules("backward", "potential", ("g", "dbias")),
    "deep.forward": _deep("forward", "value", ()),
    "deep.skips.forward": _deep("forward", "value_and_potential", ("bias",), skips=True),
    "deep.backward": _deep("backward", "value", ("weight",)),
    "deep.skips.backward": _deep("backward", "value_and_potential", ("dbias",), skips=True),
}


def variants(kernel: str, depth: int) -> list[str]:
    """The names of the variants that an entry of the table serves."""
    return [name for name, v in VARIANTS.items() if v.kernel == kernel and v.depth in (None, depth)]


def resources(
    variant: str, mode: Mode, d: int, tiles: dict[str, int], *, even: bool = True, absent: tuple[str, ...] = ()
) -> Resources:
    """Compiles one of VARIANTS for a mode and tiles.

    even: whether h is a multiple of the tiles' units.  absent: more pointers that are None.
    """
    return Resources.of(compiled(launch(variant, mode, d, tiles, even, absent), mode.architecture))


def launch(variant: str, mode: Mode, d: int, tiles: dict[str, int], even: bool, absent: tuple[str, ...]) -> Launch:
    """The launch of one of VARIANTS."""
    found = VARIANTS[variant]
    rows = {"BM": 1, "BM_WEIGHTS": 1, "BH_WEIGHTS": tiles.get("BH", 1)}
    constants = _constants(found, mode, d, absent) | rows | tiles | {"EVEN": even} | found.constants
    return typed(found.entry, constants, mode.kind, (*found.absent, *absent), _MULTIPLES)


def _constants(variant: Variant, mode: Mode, d: int, absent: tuple[str, ...]) -> Constants:
    if variant.kernel in _OF_MODULES:
        columns = {"COLUMNS": _COLUMNS, "BC": padded_columns(_COLUMNS)}
        return ModulesMode(mode.architecture, mode.kind).constants(d) | columns
    if variant.entry.startswith("deep"):
        c = variant.constants
        structure = ((d,) * _LAYERS, c["INPUT_SKIP"], c["RANK"], c["RESIDUAL"])
        return DeepMode(mode.architecture, mode.kind, c["BASIS"], *structure).constants(d // 2) | TOTALS
    needs = {"NEEDS_SCALE": "scale" not in absent, "NEEDS_SHIFT": True, "NEEDS_COEF": "coef" not in absent}
    return mode.products(d) | needs | {"SMOOTH": (True,) * len(mode.basis)}


_MULTIPLES = ("h", "x_stride", "g_stride", "v_stride")
_OF_MODULES = ("modules.forward", "modules.backward")


def digest(kernel: str, depth: int) -> str:
    """The digest of the code that decides what an entry of the table takes: that of all its variants."""
    found = [VARIANTS[name] for name in variants(kernel, depth)]
    names = frozenset().union(BASIS, *(sources.names_in(variant.constants) for variant in found))
    return sources.digest(found[0].entry, names)
