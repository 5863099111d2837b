"""lock.txt and release/lock.txt: what CI installs, pinned and hashed; and on which Pythons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MACHINES_CHOICE = {"torch", "torchvision"}
LOCKS = ("lock.txt", "release/lock.txt")


PYTHONS = {
    "Makefile": r"\(3, (\d+)\) <= v <= \(3, (\d+)\)",
    "README.md": r"CPython 3\.(\d+) to 3\.(\d+)",
    "docs/install.md": r"CPython 3\.(\d+) to 3\.(\d+)",
    "docs/release.md": r"Python 3\.(\d+) to 3\.(\d+)",
    ".github/workflows/ci.yml": r'python: \["3\.(\d+)", "3\.(\d+)"\]',
}
"""Where the oldest and the newest Python are named, and how."""


def _entries(lock: str) -> list[str]:
    """Each package with its hashes, as one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    return text.splitlines()


def _requirements(lock: str) -> list[Requirement]:
    return [Requirement(entry.split("--hash")[0]) for entry in _entries(lock)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_and_hashed(lock: str) -> None:
    entries = _entries(lock)
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ;[^-]*)?( +--hash=sha256:[0-9a-f]{64})+", entry.strip()), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_no_gpu_package_and_no_index_is_named(lock: str) -> None:
    for requirement in _requirements(lock):
        assert requirement.name not in MACHINES_CHOICE
        assert not requirement.name.startswith(("nvidia", "cuda"))
    assert not re.search(r"://|--index|--find-links", (ROOT / lock).read_text(encoding="utf-8"))


def _needed(name: str, extras: set[str], done: set[tuple[str, str]]) -> Iterator[Requirement]:
    """All that a package with extras requires here, at any depth."""
    for requirement in map(Requirement, requires(name) or []):
        wanted = {
            extra for extra in extras or {""} if (m := requirement.marker) is None or m.evaluate({"extra": extra})
        }
        if not wanted:
            continue
        yield requirement
        for extra in requirement.extras or {""}:
            key = canonicalize_name(requirement.name), extra
            if key not in done:
                done.add(key)
                yield from _needed(requirement.name, {extra}, done)


def test_the_lock_has_all_that_the_suite_and_the_lints_need() -> None:
    locked = {
        canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
        for requirement in _requirements("lock.txt")
        if requirement.marker is None or requirement.marker.evaluate()
    }
    needed = list(_needed("gradnets_fast", {"dev", "triton"}, set()))
    assert {"scipy", "triton", "ruff", "torchmetrics"} <= {canonicalize_name(r.name) for r in needed}
    for requirement in needed:
        name = canonicalize_name(requirement.name)
        # A build of PyTorch for GPUs has requirements of its own.
        if name in {"gradnets-fast", *MACHINES_CHOICE} or name.startswith(("nvidia", "cuda")):
            continue
        assert requirement.specifier.contains(locked[name], prereleases=True), requirement


def test_no_python_is_allowed_that_is_not_built_and_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, beyond = map(int, re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"', text, re.MULTILINE).groups())  # type: ignore[union-attr]
    wheels = re.search(r'^build = "cp31\{([\d,]+)\}-', text, re.MULTILINE)
    assert wheels is not None
    assert [10 + int(digit) for digit in wheels[1].split(",")] == list(range(oldest, beyond))
    for name, pattern in PYTHONS.items():
        found = re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"))
        assert found == [(str(oldest), str(beyond - 1))], name
