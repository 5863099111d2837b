"""What all callers of kernels/ share: its files, which import triton, once they are needed; and the kind of a GPU."""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType

import torch


@lru_cache(maxsize=None)
def kernel_module(name: str) -> ModuleType:
    """A file of kernels/."""
    return importlib.import_module(f"..kernels.{name}", __package__)


@lru_cache(maxsize=None)
def capability_of(device: int) -> int:
    """10 · major + minor."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
