"""The variable GRADNETS_FAST_CUDA, which adds kernels compiled ahead of time, those of kernels/hot.py, to a wheel.

GRADNETS_FAST_CUDA=1 compiles them, which takes some minutes, and neither a GPU nor torch; a path takes the file that an
earlier build, for another Python or processor, has left: the code is the GPU's alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# From the checkout, where setup.py looks first, for the package does not exist yet.
from kernels import prebuilt
from kernels.prebuilt import Archive

ROOT = Path(__file__).resolve().parents[1]

VARIABLE = "GRADNETS_FAST_CUDA"
TRITON = "triton==3.9.0"
"""The version for which the tiles of kernels/table.json are known not to spill."""

OLDEST_PYTHON = (3, 11)
"""The oldest Python that this Triton is published for."""

LARGEST = 30_000_000
FILE = "prebuilt.zip"
PLACE = Path("gradnets_fast", "kernels", FILE)
"""The file's path within a folder that has the package's files."""

CHECKOUT = ROOT / "kernels" / FILE
"""The path where an editable installation finds the file."""


def wanted() -> str:
    """The variable's value; "" if nothing is to be added."""
    value = os.environ.get(VARIABLE, "")
    return "" if value == "0" else value


def requirements() -> list[str]:
    """The further requirements of the build.

    Raises:
        SystemExit: this Python has no such Triton.
    """
    if wanted() != "1":
        return []
    if sys.version_info < OLDEST_PYTHON:
        expected = f"Python {'.'.join(map(str, OLDEST_PYTHON))} or later, for {TRITON}"
        fix = "compile with another Python: python -m kernels.prebuild, whose file serves all"
        raise SystemExit(f"setup: {VARIABLE}: expected {expected}, got {sys.version.split()[0]}; {fix}")
    return [TRITON]


def tag() -> str:
    """The local part of the version, such as "+cu13", which names the CUDA of the code; "" without code."""
    if not wanted() or "sdist" in sys.argv:  # a source archive has no kernels, whatever is built from it
        return ""
    if wanted() != "1":
        return _of(_read(_given()).toolkit)
    if find_spec("triton") is None:
        return ""  # while a build is asked for its requirements, they are not there yet
    from kernels.compiler import toolkit

    return _of(toolkit())


def _of(toolkit: str) -> str:
    return f"+cu{toolkit.partition('.')[0]}"


def tools(folder: Path) -> dict[str, str]:
    """The programs that compiled the kernels in a folder that has the package's files, with their versions."""
    path = folder / PLACE
    if not path.is_file():
        return {}
    archive = _read(path)
    return {"Triton": archive.triton, "CUDA tools of Triton": archive.toolkit}


def _given() -> Path:
    path = Path(wanted())
    if not path.is_absolute():  # builds run in folders of their own
        raise SystemExit(f"setup: {VARIABLE}: expected 1, 0, or an absolute path, got {path}")
    return path


def _read(path: Path) -> Archive:
    try:
        return prebuilt.read(path)
    except prebuilt.PrebuiltError as error:
        expected = "1, 0, or a file that python -m gradnets_fast.kernels.prebuild has written from these kernels"
        raise SystemExit(f"setup: {VARIABLE}: expected {expected}, got {path}: {error}") from error


def add(path: Path) -> None:
    """Write the file, if one is wanted; else remove what an earlier build has left.

    Raises:
        SystemExit: Triton is missing, or the file is larger than LARGEST or made from other kernels than these.
    """
    if wanted() == "1":
        _compile(path.resolve())
    elif wanted():
        content = _given().read_bytes()
        path.write_bytes(content)
    else:
        path.unlink(missing_ok=True)
        return
    _read(path)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"setup: {path}: expected at most {LARGEST} bytes, got {path.stat().st_size}; shorten hot.py")


def _compile(path: Path) -> None:
    if find_spec("triton") is None:
        raise SystemExit(f"setup: {VARIABLE}: expected {TRITON} to be installed, and it is not; install it")
    command = [sys.executable, "-m", "kernels.prebuild", "--out", str(path)]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(code)
