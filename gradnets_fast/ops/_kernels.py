"""What all callers of kernels/ share: its files, which import triton, once they are needed; GPUs; Triton's cache."""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from pathlib import Path
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


def cache_folder() -> Path:
    """The folder where Triton keeps what it has compiled."""
    home = Path(os.environ.get("TRITON_HOME") or Path.home()) / ".triton" / "cache"
    return Path(os.environ.get("TRITON_CACHE_DIR") or home)
