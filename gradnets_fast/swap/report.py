"""What `accelerate` did, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One module that has the structure of a gradient network.

    Attributes:
        path: its name in the model, "" for the model itself.
        was: its class as it came.
        now: the class that it has become, or None if it was left alone.
        reason: why it was left alone, or "".
        error: the largest difference of f before and after at the probe points, over the largest value of f.
    """

    path: str
    was: str
    now: str | None
    reason: str = ""
    error: float | None = None

    def __str__(self) -> str:
        name = self.path or "(the model)"
        if self.now is None:
            return f"skipped  {name}: {self.was}: {self.reason}"
        return f"swapped  {name}: {self.was} -> {self.now}, largest difference {self.error:.1e}"


@dataclass(frozen=True)
class Report:
    """The modules of a model that have the structure of a gradient network, in the model's order."""

    entries: tuple[Entry, ...]

    @property
    def swapped(self) -> tuple[Entry, ...]:
        """Those that run by kernels now."""
        return tuple(entry for entry in self.entries if entry.now is not None)

    @property
    def skipped(self) -> tuple[Entry, ...]:
        """Those left alone, with the reason."""
        return tuple(entry for entry in self.entries if entry.now is None)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __str__(self) -> str:
        if not self.entries:
            return "gradnets_fast: no module has the structure of a gradient network; see register_adapter"
        return "\n".join(map(str, self.entries))
