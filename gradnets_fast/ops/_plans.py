"""Plans: what a call leads to that is the same for every call of tensors of the same sizes.

A key has all that the launch depends on, besides what PyTorch and Triton are asked at each launch (the current device
and stream, whether a graph is being recorded, Triton's own switches): how kernels compute, and of each tensor what
`signature` says.  A plan holds no tensor, so that none of a CUDA graph's memory outlives it.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch

from .families import Tensors

_MOST = 1024
_ALIGNMENT = 15
"""Bits of an address that are 0 where it is a multiple of the 16 bytes that compiled kernels tell apart."""

T = TypeVar("T")


def signature(tensors: Tensors) -> tuple[Any, ...]:
    """Return all of the tensors but their numbers and where they are: what launches are compiled and laid out by.

    Whatever the public functions check of tensors follows from it, and from the operator's settings.
    """
    return tuple(
        [
            None
            if t is None
            else (t.dtype, t.shape, t.stride(), t.data_ptr() & _ALIGNMENT == 0, t.get_device(), t.is_neg())
            for t in tensors
        ]
    )


class Plans(Generic[T]):
    """The plans of one operator and direction, which any thread may look up and add to.

    There are `_MOST` at most: batches of ever new sizes, after which all begin anew, would fill the memory.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[T, object]] = {}

    def get(self, mode: object, key: tuple[Any, ...]) -> T | None:
        """Return the plan for a key and this very object; None if there is none."""
        found = self._known.get((id(mode), key))
        return None if found is None else found[0]

    def keep(self, mode: object, key: tuple[Any, ...], plan: T) -> None:
        """Remember a plan; the object that it is for lives as long, so that its address is no other's."""
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[id(mode), key] = plan, mode


class Known:
    """Calls that have been checked, by their settings and signatures: `_MOST` at most, like plans."""

    def __init__(self) -> None:
        self._calls: set[Any] = set()

    def __contains__(self, call: object) -> bool:
        return call in self._calls

    def add(self, call: object) -> None:
        """Remember a call."""
        if len(self._calls) >= _MOST:
            self._calls.clear()
        self._calls.add(call)


def is_current(device: int) -> bool:
    """Return whether launches go to this GPU by themselves, or it is -1, the CPU."""
    return device < 0 or torch._C._cuda_getDevice() == device
