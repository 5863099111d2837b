"""A GPU where there is none: CPU tensors count as those of one of compute capability 9.0, whose driver does nothing.

All else is what runs on a GPU: the package's way from a call to a launch, Triton's compiler, which makes the machine
code, and its launcher, which packs the arguments.  What a launch would have written stays as it was allocated.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradnets_fast.errors import message

CAPABILITY, KIND = 90, "tf32x3"
"""The compute capability, and how products of float32 are computed where nobody has asked for TF32."""

_LIBRARY = "libcuda.so.1"


def idle_driver(folder: Path) -> None:
    """Compiles idle_driver.c, and has this process find it where it looks for the NVIDIA driver.

    Raises:
        RuntimeError: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        fix = "install GCC, for example by apt-get install gcc"
        raise RuntimeError(message("bench.stand_in", "C compiler", "cc or gcc on the PATH", "neither", fix))
    library, source = folder / _LIBRARY, Path(__file__).with_name("idle_driver.c")
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{_LIBRARY}"]
    subprocess.run([compiler, *options, "-o", library, source], check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)  # where Triton's own C code, which it compiles, is linked


@contextmanager
def gpu() -> Iterator[None]:
    """Within, the backend "triton" takes CPU tensors as if they were on a GPU.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, there is no C compiler, or a GPU is there.
    """
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET"):
        fix = "unset TRITON_INTERPRET, and run it where there is no GPU"
        got = "a GPU" if torch.cuda.is_available() else "Triton's interpreter"
        raise RuntimeError(message("bench.stand_in", "device", "no GPU, and Triton's compiler", got, fix))
    with tempfile.TemporaryDirectory() as folder:
        idle_driver(Path(folder))
        with _replaced():
            yield


@contextmanager
def _replaced() -> Iterator[None]:
    """Has Triton launch by the idle driver, and the package's callers of it choose what they would on the GPU."""
    import triton

    from gradnets_fast.ops import _triton, _triton_cholesky, _triton_conv, _triton_deep, _triton_modules

    def products_of(x: Tensor) -> str:
        if x.dtype != torch.float32:
            return "half"
        precision = _triton._float32_precision()
        return precision if precision != "none" else KIND

    names: dict[str, Callable[..., Any]] = {
        "why_not": lambda device, dtype, tiles=True: None,
        "architecture_of": lambda device: CAPABILITY,
        "products_of": products_of,
    }
    callers = (_triton, _triton_modules, _triton_deep, _triton_cholesky, _triton_conv)
    kept = [(module, name, vars(module)[name]) for module in callers for name in names if name in vars(module)]
    caches = [module._mode_of for module in callers if hasattr(module, "_mode_of")]
    triton.runtime.driver.set_active(_driver())
    for module, name, _ in kept:
        setattr(module, name, names[name])
    try:
        for cache in caches:
            cache.cache_clear()
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
        for cache in caches:
            cache.cache_clear()


def _driver() -> Any:
    """Triton's own driver for NVIDIA GPUs, with what it asks PyTorch about the GPU answered."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver

    class Driver(CudaDriver):
        def __init__(self) -> None:
            super().__init__()
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 0
            self.get_device_capability = lambda device: divmod(CAPABILITY, 10)

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", CAPABILITY, 32)

    return Driver()
