"""The files of kernels/, which import triton: loaded when they are first needed."""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType


@lru_cache(maxsize=None)
def kernel_module(name: str) -> ModuleType:
    """A file of kernels/."""
    return importlib.import_module(f"..kernels.{name}", __package__)
