"""Checks of the environment variables that decide what the package does."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from ... import backend
from ...ops import _prebuilt
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, joined

_PREFIX = "GRADNETS_FAST_"
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
VARIABLES = {
    backend.ENVIRONMENT_VARIABLE: "each call runs on the fastest backend that can",
    "GRADNETS_FAST_CPU_ISA": "the best instruction set of the processor",
    _prebuilt.ENVIRONMENT_VARIABLE: "kernels compiled ahead of time are used where there are any",
    "GRADNETS_FAST_TABLE": "the tuned table lies in the user's cache folder",
    "XDG_CACHE_HOME": "the user's cache folder is ~/.cache",
    "TRITON_INTERPRET": "Triton's kernels run on NVIDIA GPUs",
    "TRITON_CACHE_DIR": "Triton's cache is in its home folder",
    "TRITON_HOME": "Triton's home folder is ~/.triton",
    "CC": "Triton takes gcc or clang",
}
"""By name, what happens while a variable is not set."""
_AT_BUILD = ("GRADNETS_FAST_CMAKE_ARGS", "GRADNETS_FAST_CUDA")
KNOWN = (*VARIABLES, *_AT_BUILD, *_LAUNCHED, "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
"""All that the package and its build read."""


def _variables(request: Request) -> Iterator[Check]:
    for name, unset in VARIABLES.items():
        value = os.environ.get(name, "")
        if not value:
            yield Check(name, OK, f"not set: {unset}")
        elif name == backend.ENVIRONMENT_VARIABLE:
            yield of_backend(name, value, request)
        elif name == "TRITON_INTERPRET":
            yield of_interpreter(name, value, request)
        else:
            yield Check(name, OK, f"{value}: looked at below, under {'Processor' if 'CPU' in name else 'Triton'}")


def of_backend(name: str, value: str, request: Request) -> Check:
    """Whether the backend that a variable names can run."""
    if value not in backend.BACKENDS:
        advice = f"set it to {joined(list(backend.BACKENDS), 'or')}, or: unset {name}"
        return Check(name, FAILURE, f"{value}: no backend, so that every call raises", advice)
    device = request.devices()[-1]
    refusal = backend.why_not(value, device, torch.float32)
    if refusal is None:
        return Check(name, NOTE, f"{value}: every call runs on it, or raises")
    finding = f"{value}: every call must run on it, and those on {device.type} raise: {refusal}"
    return Check(name, WARNING, finding, f"unset {name}")


def of_interpreter(name: str, value: str, request: Request) -> Check:
    """Whether Triton's interpreter is meant to run."""
    advice, effect = f"unset {name}", f"{value}: Triton's kernels run in its interpreter, on CPU tensors"
    if value.lower() not in ("1", "true", "yes", "on", "y"):
        return Check(name, WARNING, f"{value}: Triton takes this for off; only 1 is meant to be set", advice)
    if request.needs_kernels():
        return Check(name, WARNING, f"{effect}, and not on the GPU", advice)
    return Check(name, NOTE, f"{effect}, where they are asked for: slow, to try them")


def _launcher(request: Request) -> Iterator[Check]:
    given = [name for name in _LAUNCHED if name in os.environ]
    if given and len(given) < len(_LAUNCHED):
        missing = joined([name for name in _LAUNCHED if name not in given])
        finding = f"{joined(given)} without {missing}: gradnets-fast train is one process"
        advice = f"start with torchrun, which sets all; or: unset {' '.join(given)}"
        yield Check("of launchers", NOTE, finding, advice)


def _unknown(request: Request) -> Iterator[Check]:
    known = joined([name for name in KNOWN if name.startswith(_PREFIX)])
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in KNOWN:
            yield Check(name, WARNING, f"{os.environ[name]}: nothing reads it", f"correct the name: there are {known}")


CHECKS = (_variables, _launcher, _unknown)
