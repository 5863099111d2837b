"""Compiles the ridge kernels to machine code without a GPU, and says what they take of one."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import configuration, narrow, ridge
from .launch import Mode

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_WARP = 32
_POINTERS = {"half": "*bf16", "tf32": "*fp32", "tf32x3": "*fp32", "ieee": "*fp32"}
_SHARED_KB = {80: 163, 86: 99, 90: 227, 100: 227}
_KERNELS = {
    "narrow.forward": narrow.forward,
    "narrow.backward": narrow.backward,
    "ridge.forward": ridge.forward,
    "ridge.backward": ridge.backward,
}
_STORED = ("x", "g", "W", "out", "dx", "dW")
_INTEGERS = (
    "B",
    "h",
    "x_stride",
    "g_stride",
    "weight_programs",
    "splits",
    "rows_per_split",
    "bias_splits",
    "bias_rows",
)
_MULTIPLES_OF_16 = ("h", "x_stride", "g_stride")


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
        return self.stack == 0 and self.shared <= 1024 * _SHARED_KB[architecture]


def resources(
    kernel: str, mode: Mode, d: int, tiles: dict[str, int], *, without: tuple[str, ...] = (), even: bool = True
) -> Resources:
    """Compiles `kernel`, one of "narrow.forward", …, "ridge.backward", for a mode and tiles.

    without: pointers that are None.  even: whether h is a multiple of the tiles' neurons.
    """
    function = _KERNELS[kernel]
    tiles = dict(tiles)
    launch = {name: tiles.pop(name) for name in ("num_warps", "num_stages")}
    constants = mode.constants() | mode.products(d, tiles["BH"], tiles["BH"]) | tiles | {"EVEN": even}
    constants |= {"OF_SCALE": "scale" not in without, "OF_SHIFT": True, "OF_COEF": "coef" not in without}
    constants |= {"BD": configuration.padded(d)} | dict.fromkeys(without)
    signature, values, attributes = {}, {}, {}
    for position, name in enumerate(function.arg_names):
        if name in constants:
            signature[name], values[(position,)] = "constexpr", constants[name]
            continue
        signature[name] = _type(name, mode.kind)
        if signature[name].startswith("*") or name in _MULTIPLES_OF_16:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, values, attributes)
    options = {**launch, "enable_fp_fusion": True}
    target = GPUTarget("cuda", mode.architecture, _WARP)
    compiled: Any = triton.compile(source, target=target, options=options)
    return _read(compiled)


def _type(name: str, kind: str) -> str:
    if name in _STORED:
        return _POINTERS[kind]
    if name in _INTEGERS:
        return "i32"
    return "*i32" if name == "counters" else "*fp32"


def _read(compiled: Any) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.MULTILINE))
    return Resources(int(found[1]), int(found[2]), compiled.metadata.shared, instructions)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout
