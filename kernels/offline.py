"""Compiles the kernels to machine code without a GPU, and says what they take of one."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import tokenize
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import _activations_gen as activations
from . import (
    cascade,
    common,
    configuration,
    entry,
    integral,
    jacobian,
    modules,
    modules_entry,
    modules_launch,
    modules_programs,
    narrow,
    parts,
    ridge,
    transforms,
)
from .launch import FORMS, Mode

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_WARP = 32
_STORED = ("x", "g", "v", "W", "out", "dx", "dv", "dW")
_INTEGERS = (
    *("B", "h", "x_stride", "g_stride", "v_stride", "weight_programs", "splits", "rows_per_split"),
    *("bias_splits", "bias_rows", "count", "row_programs", "tiles", "number_splits", "number_rows"),
)
_MULTIPLES_OF_16 = ("h", "x_stride", "g_stride", "v_stride")


@dataclass(frozen=True)
class Variant:
    """A kernel as one kind of call launches it.

    Attributes:
        kernel: its name in the table.
        function: what is compiled.
        constants: the constant arguments that the call sets.
        absent: the pointers that are None.
        depth: of the table's entry, for modules; else it has one for every depth.
    """

    kernel: str
    function: Any
    constants: dict[str, Any]
    absent: tuple[str, ...]
    depth: int | None = None


def _forward(kernel: str, task: str, absent: tuple[str, ...]) -> Variant:
    return Variant(kernel, entry.forward, {"NARROW": kernel.startswith("narrow"), "TASK": task}, absent)


def _backward(kernel: str, task: str, absent: tuple[str, ...]) -> Variant:
    constants = {"NARROW": kernel.startswith("narrow"), "TASK": task, "FORM": FORMS[task]}
    return Variant(kernel, entry.backward, constants, absent)


def _modules(kernel: str, task: str, absent: tuple[str, ...], basis: str = "", transform: str = "") -> Variant:
    names = {"TASK": task, "BASIS": basis, "TRANSFORM": transform}
    function = {"forward": modules_entry.forward, "backward": modules_entry.backward}[kernel]
    return Variant(f"modules.{kernel}", function, names, absent, 1 if "negative" in absent else 2)


_VALUE = ("v", "weight", "rule", "dv")
_SQUARE = ("tanh", "half_square")
_COLUMNS = 18
"""Numbers of four modules with two signs, combined."""

VARIANTS = {
    "narrow.forward": _forward("narrow.forward", "value", ("rule",)),
    "narrow.backward": _backward("narrow.backward", "value", _VALUE),
    "forward": _forward("forward", "value", ("rule",)),
    "backward": _backward("backward", "value", _VALUE),
    "potential": _forward("numbers", "potential", ("bias",)),
    "divergence": _forward("numbers", "divergence", ("bias", "rule")),
    "derivative.backward": _backward("derivatives", "derivative", ("weight", "rule", "dbias")),
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
}


def variants(kernel: str, depth: int) -> list[str]:
    """The names of the variants that an entry of the table serves."""
    return [name for name, v in VARIANTS.items() if v.kernel == kernel and v.depth in (None, depth)]


@dataclass(frozen=True)
class Resources:
    """What one kernel takes.

    Attributes:
        registers: per thread.
        stack: bytes per thread; above 0 registers spill into memory.
        shared: bytes of shared memory per program.
        instructions: of machine code.
    """

    registers: int
    stack: int
    shared: int
    instructions: int

    def fits(self, architecture: int) -> bool:
        """Whether nothing spills and the shared memory is there."""
        return self.stack == 0 and self.shared <= 1024 * configuration.SHARED_KB[architecture]


def resources(
    variant: str, mode: Mode, d: int, tiles: dict[str, int], *, even: bool = True, absent: tuple[str, ...] = ()
) -> Resources:
    """Compiles one of VARIANTS for a mode and tiles.

    even: whether h is a multiple of the tiles' neurons.  absent: more pointers that are None.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        compiled = compile(variant, mode, d, tiles, even, absent)
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.MULTILINE))
    return Resources(int(found[1]), int(found[2]), compiled.metadata.shared, instructions)


def compile(variant: str, mode: Mode, d: int, tiles: dict[str, int], even: bool, absent: tuple[str, ...]) -> Any:
    """The compiled kernel of Triton."""
    found = VARIANTS[variant]
    tiles = dict(tiles)
    launch = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
    rows = {"BM": 1, "BM_WEIGHTS": 1, "BH_WEIGHTS": tiles["BH"]}
    constants = _constants(found, mode, d, absent) | rows | tiles | {"EVEN": even} | found.constants
    constants |= dict.fromkeys(found.absent + absent)
    signature: dict[str, str] = {}
    values: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, name in enumerate(found.function.arg_names):
        if name in constants:
            signature[name], values[(position,)] = "constexpr", constants[name]
            continue
        signature[name] = _type(name, mode.kind)
        if signature[name].startswith("*") or name in _MULTIPLES_OF_16:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(found.function, signature, values, attributes)
    target = GPUTarget("cuda", mode.architecture, _WARP)
    return triton.compile(source, target=target, options={**launch, "enable_fp_fusion": True})


def _constants(variant: Variant, mode: Mode, d: int, absent: tuple[str, ...]) -> dict[str, Any]:
    if variant.kernel in _OF_MODULES:
        columns = {"COLUMNS": _COLUMNS, "BC": modules_launch.padded(_COLUMNS)}
        return modules_launch.Mode(mode.architecture, mode.kind).constants(d) | columns
    wanted = {"OF_SCALE": "scale" not in absent, "OF_SHIFT": True, "OF_COEF": "coef" not in absent}
    return mode.products(d) | wanted | {"SMOOTH": (True,) * len(mode.basis)}


_OF_MODULES = ("modules.forward", "modules.backward")
_SOURCES = {
    False: (activations, cascade, common, entry, integral, jacobian, narrow, parts, ridge),
    True: (activations, common, modules, modules_entry, modules_programs, parts, transforms),
}
"""The code of the table's kernels, by whether they are those of modules."""


@lru_cache(maxsize=None)
def sources(kernel: str) -> str:
    """A digest of the code that decides what a kernel of the table takes, without comments and docstrings."""
    digest = hashlib.sha256()
    for module in _SOURCES[kernel in _OF_MODULES]:
        with Path(module.__file__).open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER) or token.string[:1] in "\"'":
                    digest.update(b"" if token.string.startswith('"""') else token.string.encode() + b" ")
    return digest.hexdigest()[:16]


def _type(name: str, kind: str) -> str:
    if name in _STORED:
        return "*bf16" if kind == "half" else "*fp32"
    if name in _INTEGERS:
        return "i32"
    return "*i32" if name == "counters" else "*fp32"


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout
