"""Every launch of a kernel: by what was compiled ahead of time if that serves, else by Triton's compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Grid = tuple[int, ...]
Launch = Callable[[Any, Grid, tuple[Any, ...], dict[str, Any]], bool]

_first: Launch | None = None


def try_first(launcher: Launch | None) -> None:
    """Have `launcher` asked before Triton from now on: (kernel, grid, arguments, constants) -> whether it ran."""
    global _first
    _first = launcher


def launch(kernel: Any, grid: Grid, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
    """Run a kernel's programs.  constants: its constant arguments and launch options."""
    if _first is None or not _first(kernel, grid, arguments, constants):
        kernel[grid](*arguments, **constants)
