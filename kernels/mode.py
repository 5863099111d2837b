"""How to compute, and the constant arguments of the kernels that follow from it.

Called by what launches kernels and by what compiles them ahead of time; imports no torch, which the latter may lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import configuration

FORMS = {"value": "slope", "jvp": "second", "potential": "value", "divergence": "trace", "jacobian": ""}
"""Quantity → `ridge.points_program`'s form of its dx; "" where another program computes it."""

Constants = dict[str, Any]

_WARPS_OF_HEADS = {
    "numbers": {"half": 8, "tf32": 8, "tf32x3": 8, "ieee": 16},
    "derivatives": dict.fromkeys(configuration.KINDS, 8),
}
"""Kernel → kind → the least number of warps of networks with heads, whose sums take more registers than four have.

On 10.0 "numbers" are as in the table, for what ptxas makes of more warps there spills.
"""

_TILES_OF_HEADS = {
    (100, "half", 64): {"BM": 32, "BH": 32, "BM_WEIGHTS": 16, "BH_WEIGHTS": 64},
    (100, "half", 128): {"maxnreg": 255},
    (100, "tf32x3", 32): {"BM": 16, "BH": 32, "BM_WEIGHTS": 16, "BH_WEIGHTS": 64},
}
"""Architecture, kind and padded d → what "derivatives" of heads have in place of the table's, which spill there.

Without a limit of registers the assembler spills some of d = 128 to run two programs at a time.
"""

ONE_STAGE = {"num_stages": 1}
"""For divergences' gradients and Jacobians, which use a tile of W or x in registers beside products from shared memory.

With more stages Triton (3.7.1 and 3.9.0) gives such a tile one buffer for all of them on compute capability 9.0, and
loads the next tile into it while the product, which is asynchronous there, may still read.
"""


def _arithmetic(architecture: int, kind: str) -> Constants:
    """The constants that say how single numbers are computed."""
    fast = "fast_interpreted" if architecture == configuration.INTERPRETER else "fast"
    return {"ARITHMETIC": fast if kind == "half" else "accurate", "enable_fp_fusion": True}


def _matrix_products(kind: str, d: int) -> Constants:
    return {"D": d, "BD": configuration.padded(d), "PRECISION": "ieee" if kind == "half" else kind}


@dataclass(frozen=True)
class Mode:
    """How to compute networks of the ridge family.

    Attributes:
        architecture: of the table; `configuration.INTERPRETER` for CPU tensors.
        kind: of the products, one of `configuration.KINDS`.
        basis: names of the basis functions.
        layers: of the cascade.
        smooth: for each basis function whether it is, for potentials.
        heads: whether the layers are in parallel.
    """

    architecture: int
    kind: str
    basis: tuple[str, ...]
    layers: int
    smooth: tuple[bool, ...] = ()
    heads: bool = False

    def constants(self) -> Constants:
        """Constants common to all kernels of the family."""
        cascade = {"BASIS": self.basis, "LAYERS": self.layers, "HEADS": self.heads}
        return cascade | _arithmetic(self.architecture, self.kind)

    def products(self, d: int) -> Constants:
        """Constants of kernels with matrix products."""
        return self.constants() | _matrix_products(self.kind, d)

    def forward(self, quantity: str, d: int, h: int) -> Constants:
        """Constants of `entry.forward`, tiles included."""
        narrow = quantity == "value" and self.route("forward", d) == "narrow"
        of_value = "narrow.forward" if narrow else "forward"
        tiles = {"BM": 1} | self.tiles({"value": of_value, "jacobian": "jacobian"}.get(quantity, "numbers"), d)
        tiles |= ONE_STAGE if quantity == "jacobian" else {}
        return self._of_entry(quantity, narrow, d, h, tiles) | tiles

    def backward(self, quantity: str, d: int, h: int, needs: Mapping[str, bool], form: str) -> Constants:
        """Constants of `entry.backward`, tiles included; needs: NEEDS_SCALE, NEEDS_SHIFT and NEEDS_COEF."""
        narrow = quantity == "value" and self.route("backward", d) == "narrow"
        tiles = self._backward_tiles(quantity, narrow, d)
        return self._of_entry(quantity, narrow, d, h, tiles) | {**needs, "FORM": form} | tiles

    def _of_entry(self, quantity: str, narrow: bool, d: int, h: int, tiles: Constants) -> Constants:
        smooth = self.smooth if quantity == "potential" else ()
        even = {"SMOOTH": smooth, "EVEN": h % tiles["BH"] == 0}
        plain = {"PRECISION": "ieee"} if narrow else {}  # its products are no matrix products
        return self.products(d) | plain | even | {"NARROW": narrow, "QUANTITY": quantity}

    def _backward_tiles(self, quantity: str, narrow: bool, d: int) -> Constants:
        if quantity == "jacobian":
            tiles = self.tiles("jacobian_backward", d)
            return {"BM": 1, "BM_WEIGHTS": 1, "BH_WEIGHTS": tiles["BH"]} | tiles | ONE_STAGE
        tiles = self.tiles("narrow.backward" if narrow else "backward" if quantity == "value" else "derivatives", d)
        return tiles | ONE_STAGE if quantity == "divergence" else tiles

    def tiles(self, kernel: str, d: int) -> Constants:
        """Tile sizes and launch options of a kernel."""
        found = self.options(kernel, d)
        assert found is not None
        return found

    def options(self, kernel: str, d: int) -> Constants | None:
        """Tile sizes and launch options of a kernel; None where the table has no tiles for d."""
        depth = configuration.depth(self.layers, len(self.basis))
        found = configuration.options(kernel, self.architecture, self.kind, d, depth)
        fits = kernel == "numbers" and self.architecture == 100
        if found is None or not self.heads or fits or self.architecture == configuration.INTERPRETER:
            return found
        needed = _WARPS_OF_HEADS.get(kernel, {}).get(self.kind, 1)
        place = (self.architecture, self.kind, configuration.padded(d))
        instead = _TILES_OF_HEADS.get(place, {}) if kernel == "derivatives" else {}
        return found | {"num_warps": max(found["num_warps"], needed)} | instead

    def route(self, kernel: str, d: int) -> str:
        """How "forward" or "backward" is run: "narrow", "fused" or "wide"."""
        depth = configuration.depth(self.layers, len(self.basis))
        return configuration.route(kernel, self.architecture, self.kind, d, depth).name


@dataclass(frozen=True)
class ModulesMode:
    """How to compute networks of modules.

    Attributes:
        architecture, kind: as in `Mode`.
        basis: Ψ' of transformed sums, "" for softmax modules.
        transform: ρ of transformed sums.
    """

    architecture: int
    kind: str
    basis: str = ""
    transform: str = ""

    def constants(self, d: int) -> Constants:
        """Constants common to both kernels of modules."""
        names = {"BASIS": self.basis, "TRANSFORM": self.transform}
        return _arithmetic(self.architecture, self.kind) | names | _matrix_products(self.kind, d)

    def forward(self, quantity: str, d: int, h: int, two_signs: bool) -> Constants:
        """Constants of `modules_entry.forward`, tiles included."""
        tiles = self.tiles("forward", d, two_signs)
        return self.constants(d) | {"EVEN": h % tiles["BH"] == 0, "QUANTITY": quantity} | tiles

    def backward(self, quantity: str, d: int, h: int, two_signs: bool, columns: int) -> Constants:
        """Constants of `modules_entry.backward`, tiles included; columns: how many scalars the modules have."""
        tiles = self.tiles("backward", d, two_signs)
        sums = {"COLUMNS": columns, "BC": padded_columns(columns)}
        return self.constants(d) | sums | {"EVEN": h % tiles["BH"] == 0, "QUANTITY": quantity} | tiles

    def options(self, kernel: str, d: int, two_signs: bool) -> Constants | None:
        """Tile sizes and launch options of "forward" or "backward"; None where the table has no tiles for d."""
        return configuration.options(f"modules.{kernel}", self.architecture, self.kind, d, 2 if two_signs else 1)

    def tiles(self, kernel: str, d: int, two_signs: bool) -> Constants:
        """Tile sizes and launch options of "forward" or "backward", where tiles hold rows of d numbers."""
        found = self.options(kernel, d, two_signs)
        assert found is not None
        return found


@dataclass(frozen=True)
class DeepMode:
    """How to compute deep networks.

    Attributes:
        architecture, kind: as in `Mode`.
        basis: the name of each layer's function.
        widths, input_skip, rank, residual: the structure, as the operator `deep` has it.
    """

    architecture: int
    kind: str
    basis: tuple[str, ...]
    widths: tuple[int, ...]
    input_skip: bool
    rank: int
    residual: bool

    def options(self, kernel: str, d: int) -> Constants | None:
        """Tile sizes and launch options of "forward" or "backward"; None where no program takes the whole network."""
        size = max(2 * d, *self.widths)
        if len(self.widths) > MOST_LAYERS or size > WIDEST:
            return None
        skips = self.input_skip or self.residual or self.rank > 0
        return configuration.options(f"deep.{kernel}", self.architecture, self.kind, size, 2 if skips else 1)

    def of(self, kernel: str, quantity: str, d: int) -> Constants:
        """Constants of `deep_entry.forward` or `deep_entry.backward`, tiles included."""
        tiles = self.options(kernel, d)
        assert tiles is not None
        return self.constants(d) | {"QUANTITY": quantity} | (TOTALS if kernel == "backward" else {}) | tiles

    def constants(self, d: int) -> Constants:
        """Constants common to both kernels."""
        padded = tuple(map(configuration.padded, self.widths))
        structure = {"BASIS": self.basis, "WIDTHS": self.widths, "PADDED": padded, "WIDEST": max(padded)}
        structure |= {"OFFSETS": self._offsets(d), "INPUT_SKIP": self.input_skip}
        structure |= {"RANK": self.rank, "RESIDUAL": self.residual}
        return _arithmetic(self.architecture, self.kind) | structure | _matrix_products(self.kind, d)

    def _offsets(self, d: int) -> tuple[int, ...]:
        """Where A, V, Q and b of each layer begin in theta, and then c."""
        offsets, at, before = [], 0, 0
        for i, h in enumerate(self.widths):
            for size in (h * d * (i == 0 or self.input_skip), h * before, self.rank * h * d, h):
                offsets.append(at)
                at += size
            before = h
        return (*offsets, at)


MOST_LAYERS, WIDEST = 8, 128
"""The deep networks that one program takes: its code has all layers one after the other.  WIDEST: of 2d and h_l."""

TOTALS = {"PARTS": 16, "TOTALS": 256}
"""How many programs' sums `deep_backward.total_program` adds at a time, and for how many parameters."""


def padded_columns(columns: int) -> int:
    """The smallest power of two that is no less than `columns`."""
    return 1 << (columns - 1).bit_length()
