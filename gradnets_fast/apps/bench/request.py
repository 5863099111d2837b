"""The options of `gradnets-fast bench`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .chosen import Choice


@dataclass(frozen=True)
class Request:
    """What the command was asked for; see its help."""

    out: Path
    device: str = "cpu"
    preset: str | None = None
    choice: Choice = field(default_factory=Choice)
    backends: tuple[str, ...] = ()
    compile: bool | None = None
    memory: bool | None = None
    rounds: int | None = None
    threads: int | None = None
    case: str = ""
    only_list: bool = False
    compare: Path | None = None
    against: Path | None = None

    def chooses(self) -> list[str]:
        """The options given that choose cases."""
        return [*self.choice.given(), *["--backend"] * bool(self.backends)]

    def command(self) -> str:
        """What to type for the same measurement.

        >>> Request(Path("runs"), choice=Choice(operators=("ridge",), layers=4), compile=False).command()
        'gradnets-fast bench --operator ridge --layers 4 --no-compile --out runs'
        """
        return " ".join(["gradnets-fast bench", *map(shlex.quote, self._words())])

    def _words(self) -> Iterator[str]:
        yield from self.choice.words()
        pairs = {
            "preset": self.preset,
            "backend": ",".join(self.backends) or None,
            "device": None if self.device == "cpu" else self.device,
            "rounds": self.rounds,
            "threads": self.threads,
            "case": self.case or None,
        }
        for name, value in pairs.items():
            if value is not None:
                yield from (f"--{name}", str(value))
        for name, wanted in (("compile", self.compile), ("memory", self.memory)):
            if wanted is not None:
                yield f"--{name}" if wanted else f"--no-{name}"
        yield from ("--out", str(self.out))
