"""Launches of kernels that were compiled ahead of time, in place of Triton's compiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _cpp
from ._kernels import capability_of, kernel_module

ENVIRONMENT_VARIABLE = "GRADNETS_FAST_PREBUILT"

_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
}
_LETTERS = {("*", True): "P", ("*", False): "p", ("i", True): "I", ("i", False): "i"}


@dataclass
class _Kernel:
    """One of the archive's kernels on one device, loaded when it is first launched."""

    kernel: Any
    device: int
    driver: Any = None

    def load(self) -> None:
        """Hands the code to the driver.

        Raises:
            RuntimeError: it refuses.
        """
        kernel = self.kernel
        pairs = zip(kernel.signature, kernel.multiples)
        letters = "".join("-" if of is None else _LETTERS[of[0], multiple] for of, multiple in pairs)
        image = kernel_module("prebuilt").installed().image(kernel)
        self.driver = _cpp.extension().DriverKernel(
            image, kernel.symbol, letters, kernel.threads, kernel.shared, self.device
        )

    def launch(self, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> bool:
        """Whether it ran: not where an argument is no multiple of what it was compiled for."""
        x, y = grid if len(grid) == 2 else (*grid, 1)
        ran: bool = self.driver.launch(x, y, torch.cuda.current_stream(self.device).cuda_stream, arguments)
        return ran


_REFUSALS = (
    *("INVALID_IMAGE", "NO_BINARY_FOR_GPU", "INVALID_PTX", "UNSUPPORTED_PTX_VERSION"),
    *("JIT_COMPILER_NOT_FOUND", "JIT_COMPILATION_DISABLED", "INVALID_SOURCE", "NVIDIA driver"),
)
"""Parts of what the driver says of code that it will never take."""

_known: dict[Any, list[_Kernel]] = {}
_failures: dict[int, str] = {}


def launched(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]
) -> bool | Callable[[int, tuple[Any, ...]], None]:
    """Runs a kernel that was compiled ahead of time; False if none serves these arguments, else what runs it again."""
    if not arguments[0].is_cuda or why_not(arguments[0].get_device()) is not None:
        return False
    device = arguments[0].get_device()
    types = tuple(a.dtype if isinstance(a, Tensor) else a is None for a in arguments)
    key = (id(kernel), device, types, *constants.items())
    found = _known.get(key)
    if found is None:
        found = _known[key] = _serving(kernel, device, arguments, constants)
    for candidate in found:
        if candidate.driver is None and not _loads(candidate):
            return False
        if candidate.launch(grid, arguments):
            return _again(candidate, kernel, grid, constants)
    return False


def _again(
    candidate: _Kernel, kernel: Any, grid: tuple[int, ...], constants: dict[str, Any]
) -> Callable[[int, tuple[Any, ...]], None]:
    """What launches a kernel that has run, on a stream, with arguments of the same types and alignment."""
    (x, y), run = (*grid, 1)[:2], candidate.driver.launch

    def again(stream: int, arguments: tuple[Any, ...]) -> None:
        if not run(x, y, stream, arguments):  # it asks for the alignment itself
            kernel_module("launching").launch(kernel, grid, arguments, constants)

    return again


def _loads(candidate: _Kernel) -> bool:
    try:
        candidate.load()
    except kernel_module("prebuilt").PrebuiltError as error:
        _failures[candidate.device] = f"their file cannot be read, {error}"
    except RuntimeError as error:
        # Another failure, such as memory that is short, may have passed by the next call.
        if any(name in str(error) for name in _REFUSALS):
            _failures[candidate.device] = f"the driver does not take them, {error}"
    return candidate.driver is not None


def _serving(kernel: Any, device: int, arguments: tuple[Any, ...], constants: Mapping[str, Any]) -> list[_Kernel]:
    signature = tuple(_type(argument) for argument in arguments)
    archive, where = kernel_module("prebuilt").installed(), capability_of(device)
    return [_Kernel(found, device) for found in archive.serving(name_of(kernel), constants, signature, where)]


def name_of(kernel: Any) -> str:
    """File and function of a kernel."""
    return f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"


def _type(argument: Any) -> str | None:
    if isinstance(argument, Tensor):
        return _TYPES.get(argument.dtype, "")
    return None if argument is None else "i32"


def why_not(device: int) -> str | None:
    """Why no kernel of a GPU runs that was compiled ahead of time; None if some do."""
    return _failures.get(device) or _why_not_installed()


@lru_cache(maxsize=1)
def _why_not_installed() -> str | None:
    if os.environ.get(ENVIRONMENT_VARIABLE, "") == "0":
        return f"{ENVIRONMENT_VARIABLE} is 0"
    usable, text = kernel_module("prebuilt").status()
    return _cpp.why_unavailable() if usable else str(text)


def forget() -> None:
    """Has the file and the environment variable read anew."""
    _known.clear()
    _failures.clear()
    _why_not_installed.cache_clear()
    kernel_module("prebuilt").installed.cache_clear()
    kernel_module("launching").forget()


def describe(device: int, kernels: Mapping[str, tuple[str, dict[str, Any]]]) -> str:
    """Which passes run without compilation, for people; kernels: what each launches, and constants that it has."""
    reason = why_not(device)
    if reason is not None:
        return f"compiled at the first call (no kernels compiled ahead of time: {reason})"
    archive = kernel_module("prebuilt").installed()
    able = {name: archive.covers(kernel, part, capability_of(device)) for name, (kernel, part) in kernels.items()}
    ready = [name for name, found in able.items() if found]
    return f"compiled ahead of time: {', '.join(ready)}" if ready else "compiled at the first call"
