"""The kernels that were compiled ahead of time, where this installation has them: which of them serves a launch."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import configuration, sources

FORMAT = 1
MANIFEST = "manifest.json"
PATH = Path(__file__).with_name("prebuilt.zip")
_LARGEST_MANIFEST = 2**26
_TARGET = re.compile(r"sm_\d{2,4}[af]?|ptx")

Signature = tuple[str | None, ...]
"""The arguments' types, such as "*fp32" and "i32"; None for one that is absent."""

_Key = tuple[str, frozenset[tuple[str, Any]], Signature]


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel.

    Attributes:
        target: "sm_90a" and the like for machine code, or "ptx".
        symbol: its name in the image.
        image: the file in the archive.
        signature: the types of its arguments.
        multiples: for each argument, whether it must be a multiple of 16.
        threads, shared: of a program: how many, and bytes of shared memory.
    """

    target: str
    symbol: str
    image: str
    signature: Signature
    multiples: tuple[bool, ...]
    threads: int
    shared: int


@dataclass(frozen=True)
class Archive:
    """The file's kernels by what they compute."""

    path: Path
    triton: str
    toolkit: str
    kernels: dict[_Key, list[Kernel]]

    def serving(self, kernel: str, constants: dict[str, Any], signature: Signature, capability: int) -> list[Kernel]:
        """The kernels for a launch on a GPU, the most specific first.

        The caller sees to what their arguments must be multiples of.
        """
        found = self.kernels.get((kernel, frozenset(constants.items()), signature), [])
        able = [candidate for candidate in found if runs_on(candidate.target, capability)]
        return [candidate for candidate in able if candidate.target != "ptx"] or able

    def covers(self, kernel: str, constants: dict[str, Any], capability: int) -> bool:
        """Whether a GPU has one with at least these constants."""
        asked = set(constants.items())
        return any(
            name == kernel and asked <= known and any(runs_on(candidate.target, capability) for candidate in found)
            for (name, known, _), found in self.kernels.items()
        )

    def image(self, kernel: Kernel) -> bytes:
        """The code of a kernel; PrebuiltError if the file does not have it whole."""
        with _readable(self.path), zipfile.ZipFile(self.path) as file:
            return file.read(kernel.image)

    def targets(self) -> dict[str, int]:
        """How many kernels there are for each target."""
        names = [kernel.target for kernels in self.kernels.values() for kernel in kernels]
        return {name: names.count(name) for name in sorted(set(names))}


def runs_on(target: str, capability: int) -> bool:
    """Whether a GPU runs code for a target with tiles that are its own.

    >>> runs_on("sm_80", 86), runs_on("sm_90a", 90), runs_on("ptx", 120), runs_on("sm_100a", 103)
    (True, True, True, False)
    """
    if target == "ptx":
        return capability >= 80 and configuration.tabulated(capability) == 80
    number = int(target.removeprefix("sm_").rstrip("af"))
    # Machine code runs on later chips of the same generation, that of an "a" target on its own alone.
    return number == capability if target[-1] == "a" else number <= capability < 10 * (number // 10 + 1)


class PrebuiltError(RuntimeError):
    """The file cannot be used."""


def read(path: Path) -> Archive:
    """The kernels of a file.

    Raises:
        PrebuiltError: there is none, or one that is broken, of another format, or compiled from other kernels than
        these.
    """
    if not path.is_file():
        raise PrebuiltError("this installation has none")
    with _readable(path):
        with zipfile.ZipFile(path) as file:
            size = file.getinfo(MANIFEST).file_size
            if size > _LARGEST_MANIFEST:
                raise ValueError(f"a manifest of {size} bytes")
            manifest, images = json.loads(file.read(MANIFEST)), {*file.namelist()}
        if manifest["format"] != FORMAT:
            raise PrebuiltError(f"{path}: expected format {FORMAT}, got {manifest['format']}; reinstall the package")
        kernels: dict[_Key, list[Kernel]] = {}
        for entry in manifest["kernels"]:
            _check_sources(path, entry)
            kernels.setdefault(_key(entry), []).append(_kernel(entry, images))
        archive = Archive(path, str(manifest["triton"]), str(manifest["toolkit"]), kernels)
    for found in kernels.values():
        found.sort(key=lambda kernel: (kernel.target == "ptx", -sum(kernel.multiples)))
    return archive


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file makes Python's readers of archives and JSON raise into a PrebuiltError."""
    try:
        yield
    except (PrebuiltError, MemoryError):
        raise
    except Exception as error:
        got = " ".join(repr(error).split())[:300]
        raise PrebuiltError(f"{path}: expected what the build writes, got {got}; reinstall the package") from error


def _check_sources(path: Path, entry: dict[str, Any]) -> None:
    kernel = entry["kernel"]
    if entry["sources"] != sources.digest(kernel, sources.names_in(entry["constants"])):
        fix = "reinstall the package, or remove the file"
        raise PrebuiltError(f"{path}: compiled from other kernels ({kernel}) than those installed; {fix}")


def _key(entry: dict[str, Any]) -> _Key:
    constants = {name: tuple(v) if isinstance(v, list) else v for name, v in entry["constants"].items()}
    return entry["kernel"], frozenset(constants.items()), tuple(entry["types"].values())


def _kernel(entry: dict[str, Any], images: set[str]) -> Kernel:
    if not all(isinstance(entry[name], str) for name in ("target", "symbol", "image")) or entry["image"] not in images:
        raise ValueError(f"a kernel {entry['symbol']!r} for {entry['target']!r} in {entry['image']!r}")
    if not all(type(entry[name]) is int and 0 <= entry[name] < 2**31 for name in ("threads", "shared")):
        raise ValueError(f"{entry['threads']!r} threads and {entry['shared']!r} bytes of shared memory")
    if not _TARGET.fullmatch(entry["target"]):
        raise ValueError(f"a target {entry['target']!r}")
    return Kernel(
        entry["target"],
        entry["symbol"],
        entry["image"],
        tuple(entry["types"].values()),
        tuple(name in entry["multiples"] for name in entry["types"]),
        entry["threads"],
        entry["shared"],
    )


@lru_cache(maxsize=1)
def installed() -> Archive | PrebuiltError:
    """The kernels of this installation, or why there are none."""
    try:
        return read(PATH)
    except PrebuiltError as error:
        return error


def status() -> tuple[bool, str]:
    """Whether this installation has kernels compiled ahead of time that can be used, and which, or why not."""
    found = installed()
    if isinstance(found, PrebuiltError):
        return False, str(found)
    counts = ", ".join(f"{count} for {target}" for target, count in found.targets().items())
    return True, f"{counts} (Triton {found.triton}, CUDA {found.toolkit})"
