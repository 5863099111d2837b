"""What a distribution says it needs, read without any other package."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata

from .check import numbers

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[^]]*)\])?\s*\(?(?P<bounds>[^;)]*)\)?\s*(?:;(?P<marker>.*))?"
)
_CLAUSE = re.compile(r"(\w+)\s*(==|!=|>=|<=|<|>)\s*[\"']([^\"']*)[\"']")
_ORDERS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


@dataclass(frozen=True)
class Requirement:
    """A distribution and the bounds of its version."""

    name: str
    bounds: str = ""

    def __str__(self) -> str:
        return self.name + self.bounds

    def installed(self) -> str | None:
        """The version that is there."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return None

    def allows(self, version: str) -> bool:
        """Whether a version is within the bounds.

        >>> Requirement("rich", ">=13,<15").allows("14.1"), Requirement("numpy", ">=1.24").allows("1.9.0")
        (True, False)
        """
        bounds = [re.match(r"(==|!=|>=|<=|<|>)\s*(\S+)", bound.strip()) for bound in self.bounds.split(",")]
        return all(_ORDERS[b[1]](*_padded(numbers(version), numbers(b[2]))) for b in bounds if b is not None)


def requirements(distribution: str) -> dict[str, list[Requirement]]:
    """Those of each extra that apply here, those of any installation under ""; nothing if it is not installed."""
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return {}
    extras = found.metadata.get_all("Provides-Extra") or []
    return {extra: parsed(found.requires or [], extra, distribution) for extra in ("", *extras)}


def parsed(lines: list[str], extra: str, distribution: str) -> list[Requirement]:
    """What an extra adds; extras of the distribution's own that it names are followed.

    >>> lines = ["rich>=13; extra == 'train'", "torch>=2.6", "me[train]; extra == 'all'", "x; python_version < '3'"]
    >>> [str(requirement) for requirement in parsed(lines, "all", "me")]
    ['rich>=13']
    """
    found: list[Requirement] = []
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is None or not _applies(match["marker"] or "", extra):
            continue
        if _normal(match["name"]) == _normal(distribution):
            for other in (match["extras"] or "").split(","):
                found += [r for r in parsed(lines, other.strip(), distribution) if r not in found]
        else:
            found.append(Requirement(match["name"], match["bounds"].strip()))
    return found


def _applies(marker: str, extra: str) -> bool:
    """Of clauses that are joined by "and", as build tools write them."""
    clauses = _CLAUSE.findall(marker)
    if (extra != "") != any(name == "extra" for name, _, _ in clauses):
        return False
    return all(_holds(name, order, value, extra) for name, order, value in clauses)


def _holds(name: str, order: str, value: str, extra: str) -> bool:
    if name == "python_version":
        return bool(_ORDERS[order](*_padded(sys.version_info[:2], numbers(value))))
    here = {"extra": extra, "platform_system": platform.system(), "sys_platform": sys.platform}
    # A condition that is not known does not hide a requirement.
    return name not in here or bool(_ORDERS[order](here[name], value))


def _padded(*versions: tuple[int, ...]) -> list[tuple[int, ...]]:
    longest = max(map(len, versions))
    return [version + (0,) * (longest - len(version)) for version in versions]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
