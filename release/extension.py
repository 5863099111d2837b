"""The variable GRADNETS_FAST_EXTENSION, which says whether a build must have the C++ extension.

Where it is not set, a build on Linux has the extension if it can be compiled.  A build without it, as on other systems,
is one of pure Python: everything runs in plain PyTorch.  GRADNETS_FAST_EXTENSION=1 compiles on every system, and fails
where that fails; GRADNETS_FAST_EXTENSION=0 leaves the extension out.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from . import cuda

VARIABLE = "GRADNETS_FAST_EXTENSION"
NAME = "gradnets_fast._C"

NOTICE = f"""
gradnets_fast: built without its C++ extension, for the reason above: everything runs in plain PyTorch, which is slower.
With {VARIABLE}=1 the build fails instead.
"""

NO_FACTS: dict[str, Any] = {"processor": "any", "bundled": {}, "tools": {}}
"""What the bill of materials of a build without the extension starts from."""


def left_out() -> bool:
    """Whether the extension is not to be built.

    Raises:
        SystemExit: the variable is neither 1 nor 0, or kernels are wanted that only the extension can launch.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"setup: {VARIABLE}: expected 1, 0, or nothing, got {value!r}; unset it to build what can be")
    if value == "0" and cuda.wanted():
        raise SystemExit(f"setup: {VARIABLE}: expected 1 or nothing beside {cuda.VARIABLE}, got 0; unset one of them")
    return value == "0"


def required() -> bool:
    """Whether a build without it fails."""
    return os.environ.get(VARIABLE) == "1" or bool(cuda.wanted())


def untried() -> str | None:
    """Why it is not compiled unless it is required; None if it is."""
    if required() or sys.platform == "linux":
        return None
    return f"it is written for GCC on Linux, and on {sys.platform} nobody has tried it"


def requirements() -> list[str]:
    """The further requirements of a build that compiles it."""
    return [] if left_out() or untried() else ["pybind11>=2.13", "cmake>=3.24", "ninja"]
