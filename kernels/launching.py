"""Every launch of a kernel: by what was compiled ahead of time if that serves, else by Triton's compiler."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from triton import knobs

Grid = tuple[int, ...]
Arguments = tuple[Any, ...]
Again = Callable[[int, Arguments], object]
"""Launches what was launched before, on a stream, with arguments of the same types and alignment."""

Launch = Callable[[Any, Grid, Arguments, dict[str, Any]], "bool | Again"]
"""(kernel, grid, arguments, constants) → False if it did not run; True, or what makes the same launch again."""

_first: Launch | None = None
_changes = 0
"""How often what launches go by has changed."""

_SWITCHES = (
    *("runtime.debug", "runtime.add_stages_inspection_hook"),
    *("compilation.instrumentation_mode", "compilation.fpsan_homomorphic_casts"),
)
"""What Triton asks at each launch, because it compiles by it."""


def _known(switch: str) -> bool:
    group, name = switch.split(".")
    return hasattr(getattr(knobs, group), name)


_switches: Callable[[Any], Any] = attrgetter(*filter(_known, _SWITCHES))


def try_first(launcher: Launch | None) -> None:
    """Have `launcher` asked before Triton from now on."""
    global _first
    if launcher is not _first:
        _first = launcher
        forget()


def forget() -> None:
    """Have every launch look for its kernel anew."""
    global _changes
    _changes += 1
    _launchers.clear()


def launch(kernel: Any, grid: Grid, arguments: Arguments, constants: dict[str, Any]) -> Again | None:
    """Run a kernel's programs; return what would run them again in less time, if there is such a thing.

    constants: its constant arguments and launch options.
    """
    ran = False if _first is None else _first(kernel, grid, arguments, constants)
    if ran:
        return None if ran is True else ran
    compiled = kernel[grid](*arguments, **constants)
    if compiled is None:  # by Triton's interpreter
        return None
    runner = compiled[(*grid, 1, 1)[:3]]
    rest = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])

    def again(stream: int, arguments: Arguments) -> None:
        runner(*arguments, *rest, stream=stream)

    return again


_MOST_LAUNCHERS = 4096
_launchers: dict[Any, Launcher] = {}


def launch_by_plan(kernel: Any, grid: Grid, arguments: Arguments, constants: dict[str, Any]) -> None:
    """Do as `launch`, in less time where arguments of these types, alignments, numbers and constants have been before.

    The first argument is a tensor, on whose device the others are.
    """
    kinds = [(a.dtype, a.data_ptr() & 15 == 0) if isinstance(a, torch.Tensor) else a for a in arguments]
    device = arguments[0].get_device()
    key = (id(kernel), device, grid, *kinds, *constants.items())
    found = _launchers.get(key)
    if found is None:
        if len(_launchers) >= _MOST_LAUNCHERS:
            _launchers.clear()
        found = _launchers[key] = Launcher(kernel, grid, constants)
    found(current_stream(device), arguments)


def current_stream(device: int) -> int:
    """The address of a GPU's current stream; 0 of the CPU, which is -1."""
    stream: int = 0 if device < 0 else torch._C._cuda_getCurrentRawStream(device)  # type: ignore[attr-defined]
    return stream


class Launcher:
    """Launches of a kernel whose arguments differ in their addresses alone, and these not in their alignment.

    Triton looks at every argument and constant to find what it has compiled for such, and the file of kernels that were
    compiled ahead of time is asked in the same way: once, as long as nothing changes that they go by.
    """

    def __init__(self, kernel: Any, grid: Grid, constants: dict[str, Any]) -> None:
        self._kernel, self._grid, self._constants = kernel, grid, constants
        self._again: tuple[Again, int, Any] | None = None

    def __call__(self, stream: int, arguments: Arguments) -> None:
        """Run the kernel's programs on the current stream of its GPU, which is `stream`."""
        found = self._again
        if found is not None and found[1] == _changes and found[2] == _switches(knobs):
            found[0](stream, arguments)
            return
        by = _changes, _switches(knobs)
        again = launch(self._kernel, self._grid, arguments, self._constants)
        self._again = None if again is None else (again, *by)
