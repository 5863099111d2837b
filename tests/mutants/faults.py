"""The list of seeded faults, faults.toml: what each changes, and which tests should fail for it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("faults.toml")


@dataclass(frozen=True)
class Fault:
    """One wrong change of one file.

    Attributes:
        id: its area and what it is of.
        what: a sentence that says what goes wrong.
        file: the path in the checkout.
        old, new: the text, which occurs once in the file, and what takes its place; in C++ an expression, or
            statements that end with a semicolon.
        tests: test files that should fail, the likeliest first.
    """

    id: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        """What a result belongs to: the same for the same change under the same tests."""
        parts = (self.file, self.old, self.new, *self.tests)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @property
    def native(self) -> bool:
        """Whether it is one of C++."""
        return self.file.startswith("csrc/")

    def switched(self, on: str) -> str:
        """C++ that does what `new` does where the condition holds, and what `old` does elsewhere."""
        if self.old.endswith(";"):
            return f"{{ if ({on}) {{ {self.new} }} else {{ {self.old} }} }}"
        return f"({on} ? ({self.new}) : ({self.old}))"

    def complaint(self, root: Path) -> str | None:
        """Why it cannot be seeded in a checkout; None if it can."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} is not there"
        count = path.read_text(encoding="utf-8").count(self.old)
        if count != 1:
            return f"expected its text once in {self.file}, got {count} times: {self.old!r}"
        missing = [test for test in self.tests if not (root / test.partition("::")[0]).is_file()]
        return f"no such tests: {', '.join(missing)}" if missing else None

    def seed(self, root: Path) -> None:
        """Makes the change."""
        path = root / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")


def faults(path: Path = LIST) -> list[Fault]:
    """The faults of a list, whose names are all different."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    found = [Fault(**{n: tuple(v) if isinstance(v, list) else v for n, v in entry.items()}) for entry in entries]
    names = [fault.id for fault in found]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{path.name}: expected different names, got twice: {', '.join(sorted(repeated))}")
    return found
