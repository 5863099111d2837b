"""Compiles kernels to machine code without a GPU, and says what they take of one."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from . import configuration
from .mode import Constants

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_WARP = 32
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")
"""The constants of a launch that the compiler takes, not the kernel."""


@dataclass(frozen=True)
class Launch:
    """A kernel as one kind of call launches it.

    Attributes:
        kernel: file and function, such as "entry.forward".
        constants: the constant arguments and launch options.
        types: name → type of the other arguments, such as "*fp32" and "i32"; None for one that is absent.
        multiples: the names of arguments that are multiples of 16.
    """

    kernel: str
    constants: Constants
    types: dict[str, str | None]
    multiples: frozenset[str]

    @property
    def function(self) -> Any:
        """What Triton compiles."""
        return function(self.kernel)


def function(kernel: str) -> Any:
    """A kernel by file and function."""
    file, _, name = kernel.partition(".")
    return getattr(importlib.import_module(f".{file}", __package__), name)


_STORED = ("x", "g", "v", "W", "out", "dx", "dv", "dW", "u", "a", "theta", "dtheta", "memory", "K", "dK")
_INTEGERS = (
    *(
        "B",
        "h",
        "pixels",
        "per_program",
        "x_stride",
        "g_stride",
        "v_stride",
        "weight_programs",
        "splits",
        "rows_per_split",
    ),
    *("bias_splits", "bias_rows", "count", "row_programs", "tiles", "scalar_splits", "scalar_rows"),
    *("weight_stride", "programs", "n1", "n2", "filter_rows", "rows"),
)


def typed(kernel: str, constants: Constants, kind: str, absent: Sequence[str], multiples: Sequence[str]) -> Launch:
    """A launch with the types that arguments have for products of a kind, 16-bit numbers being bfloat16.

    absent: pointers that are None.  multiples: the integers that are multiples of 16, as all pointers are.
    """
    arguments = [name for name in function(kernel).arg_names if name not in constants]
    types = {name: None if name in absent else _type(name, kind) for name in arguments}
    pointers = (name for name, of in types.items() if of is not None and of[0] == "*")
    return Launch(kernel, constants, types, frozenset((*pointers, *(name for name in multiples if types.get(name)))))


def _type(name: str, kind: str) -> str:
    if name in _STORED:
        return "*bf16" if kind == "half" else "*fp32"
    if name in _INTEGERS:
        return "i32"
    return "*i32" if name == "counters" else "*fp32"


def compiled(launch: Launch, architecture: int, more: Constants | None = None) -> Any:
    """The compiled kernel of Triton; more: options of its compiler."""
    options = _options(launch) | (more or {})
    return triton.compile(_source(launch), target=GPUTarget("cuda", architecture, _WARP), options=options)


def _options(launch: Launch) -> Constants:
    return {name: launch.constants[name] for name in OPTIONS if name in launch.constants}


def _source(launch: Launch) -> ASTSource:
    signature: dict[str, str] = {}
    values: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, name in enumerate(launch.function.arg_names):
        kind = launch.types.get(name)
        if kind is None:
            signature[name], values[(position,)] = "constexpr", launch.constants.get(name)
            continue
        signature[name] = kind
        if name in launch.multiples:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.function, signature, values, attributes)


def translated(launch: Launch, architecture: int) -> tuple[str, str]:
    """A launch in Triton's own language, from which the compiler makes machine code: function by function, and in one.

    In the second text no function, variable, comment or place in a file has a name, so that kernels which differ in
    these alone give the same; it takes a quarter of a second, where machine code takes up to minutes.
    """
    backend = make_backend(GPUTarget("cuda", architecture, _WARP))
    options = backend.parse_options(_options(launch))
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source, stages = _source(launch), {}
    functions = (backend.get_codegen_implementation(options), backend.get_module_map())
    module = source.make_ir(backend.target, options, *functions, context)
    backend.add_stages(stages, options, source.language)
    separate = module.str_nodebug()
    together = stages["ttir"](module, {}).str_nodebug()
    numbers: dict[str, str] = {}
    return separate, _VALUE.sub(lambda found: numbers.setdefault(found[0], f"%{len(numbers)}"), together)


_VALUE = re.compile(r"%[A-Za-z_0-9$.-]+")


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

    @staticmethod
    def of(kernel: Any) -> Resources:
        """What a compiled kernel takes."""
        registers, stack, instructions = usage(kernel.asm["cubin"])
        return Resources(registers, stack, kernel.metadata.shared, instructions)

    def fits(self, architecture: int) -> bool:
        """Whether nothing spills and the shared memory is there."""
        return self.stack == 0 and self.shared <= 1024 * configuration.SHARED_KB[architecture]


def usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers and bytes of stack per thread of the one kernel in machine code, and its instructions.

    A stack that nothing is stored in, which the assembler leaves here and there, is none.
    """
    text = told(cubin, "cuobjdump", "--dump-resource-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    instructions = _INSTRUCTION.findall(told(cubin, "nvdisasm", "-c"))
    return int(found[1]), int(found[2]) if "STL" in instructions else 0, len(instructions)


_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\w+)", re.MULTILINE)


def told(cubin: bytes, program: str, *arguments: str) -> str:
    """What a program that comes with Triton says of machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_TOOLS / program, *arguments, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def toolkit() -> str:
    """The version of the CUDA tools that make machine code of the newest architecture."""
    program = min(_TOOLS.glob("ptxas*"), key=lambda path: path.name != "ptxas-blackwell")
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    assert found is not None, text
    return found[1]
