"""Launches of the project's kernels as PTX: Triton's compiler up to its last text, for a GPU that is not there.

CPU tensors count as those of a GPU, so that the package's own callers choose tiles, lay out memory and launch; what
they launch comes to a function of ours by `launching.try_first`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend

from gradnets_fast.kernels import compiler, configuration, launching
from gradnets_fast.ops import _triton, _triton_cholesky, _triton_conv, _triton_deep, _triton_modules

_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
}
_INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True)
class Compiled:
    """A kernel's PTX.

    Attributes:
        name: file and function.
        text: the PTX.
        middle: Triton's own text for GPUs, from which it was made.
        shared: bytes of shared memory of a program.
        threads: of a program.
        names: of the arguments.
    """

    name: str
    text: str
    middle: str
    shared: int
    threads: int
    names: tuple[str, ...]


def compiled(launch: compiler.Launch, architecture: int) -> Compiled:
    """The PTX of a launch, without the machine code that Triton's compiler would have made of it."""
    backend = make_backend(GPUTarget("cuda", architecture, 32))
    options = backend.parse_options(compiler._options(launch))
    context, source = ir.context(), compiler._source(launch)
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = (backend.get_codegen_implementation(options), backend.get_module_map())
    module: Any = source.make_ir(backend.target, options, *functions, context)
    stages: dict[str, Callable[[Any, dict[str, Any]], Any]] = {}
    metadata: dict[str, Any] = {"target": backend.target, **options.__dict__}
    backend.add_stages(stages, options, source.language)
    middle = ""
    for stage in ("ttir", "ttgir", "llir", "ptx"):
        module = stages[stage](module, metadata)
        middle = str(module) if stage == "ttgir" else middle
    names = tuple(name for name, of in launch.types.items() if of is not None)
    threads = 32 * metadata["num_warps"] * metadata.get("num_ctas", 1)
    return Compiled(launch.kernel, str(module), middle, metadata["shared"], threads, names)


def specialised(
    kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]
) -> tuple[compiler.Launch, list[Any]]:
    """A launch as Triton specialises it for its arguments, and those that the machine code takes."""
    types: dict[str, str | None] = {}
    constants, multiples, taken = dict(constants), set(), []
    plain = {p.name for p in kernel.params if p.do_not_specialize}
    names = [name for name in kernel.arg_names if name not in constants]
    for name, value in zip(names, arguments, strict=True):
        if value is None or (isinstance(value, int) and value == 1 and name not in plain):
            types[name], constants[name] = None, value
            continue
        pointer = isinstance(value, Tensor)
        types[name] = _TYPES[value.dtype] if pointer else "i32" if value in _INT32 else "i64"
        if (value.data_ptr() if pointer else value) % 16 == 0 and name not in plain:
            multiples.add(name)
        taken.append(value)
    file = kernel.__module__.rpartition(".")[2]
    return compiler.Launch(f"{file}.{kernel.__name__}", constants, types, frozenset(multiples)), taken


Run = Callable[[Compiled, tuple[int, ...], list[Any]], None]


@contextmanager
def launches_to(run: Run, architecture: int, kind: str, cache: dict[str, Compiled]) -> Iterator[None]:
    """Has the Triton backend take CPU tensors as if they were on a GPU, and launch by `run`.

    kind: of the products of float32 tensors, as in `configuration.KINDS`.
    """

    def launch(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> bool:
        found, taken = specialised(kernel, arguments, constants)
        key = repr((architecture, found.kernel, sorted(found.constants.items()), found.types, sorted(found.multiples)))
        if key not in cache:
            cache[key] = compiled(found, architecture)
        run(cache[key], grid, taken)
        return True

    replaced = {
        "why_not": lambda device, dtype, tiles=True: None,
        "architecture_of": lambda device: architecture,
        "products_of": lambda x: kind if x.dtype == torch.float32 else "half",
        "products_of_convolutions": lambda x: kind if x.dtype == torch.float32 else "half",
    }
    callers = (_triton, _triton_modules, _triton_deep, _triton_cholesky, _triton_conv)
    kept = [(module, name, getattr(module, name)) for module in callers for name in replaced if hasattr(module, name)]
    modes = [module._mode_of for module in callers if hasattr(module, "_mode_of")]
    for module, name, _ in kept:
        setattr(module, name, replaced[name])
    launching.try_first(launch)
    try:
        for mode in modes:
            mode.cache_clear()
        yield
    finally:
        launching.try_first(None)
        for module, name, value in kept:
            setattr(module, name, value)
        for mode in modes:
            mode.cache_clear()


ARCHITECTURES = configuration.ARCHITECTURES
