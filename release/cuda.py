"""What GRADNETS_FAST_CUDA adds to a wheel: the kernels of kernels/hot.py, compiled ahead of time.

GRADNETS_FAST_CUDA=1 compiles them, which takes some minutes, and neither a GPU nor torch; a path takes the file that an
earlier build, for another Python or processor, has left: the code is the GPU's alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "GRADNETS_FAST_CUDA"
TRITON = "triton==3.9.0"
"""The version for which the tiles of kernels/table.json are known not to spill."""

LARGEST = 30_000_000
FILE = "prebuilt.zip"
_PLACE = Path("gradnets_fast", "kernels", FILE)


def wanted() -> str:
    """The variable's value; "" if nothing is to be added."""
    value = os.environ.get(VARIABLE, "")
    return "" if value == "0" else value


def requirements() -> list[str]:
    """What the build needs besides."""
    return [TRITON] if wanted() == "1" else []


def tag() -> str:
    """The local part of the version: which CUDA the code is of, such as "+cu13"."""
    if not wanted() or "sdist" in sys.argv:  # a source archive has no kernels, whatever is built from it
        return ""
    toolkit = _toolkit_of_triton() if wanted() == "1" else _manifest(Path(wanted()))["toolkit"]
    # While a build is asked for its requirements, they are not there yet.
    return "" if toolkit is None else f"+cu{toolkit.split('.')[0]}"


def tools(folder: Path) -> dict[str, str]:
    """What compiled the kernels in a folder that has the package's files, and its versions."""
    path = folder / _PLACE
    if not path.is_file():
        return {}
    manifest = _manifest(path)
    return {"Triton": manifest["triton"], "CUDA tools of Triton": manifest["toolkit"]}


def _toolkit_of_triton() -> str | None:
    found = find_spec("triton")
    if found is None or found.origin is None:
        return None
    tools = Path(found.origin).parent / "backends" / "nvidia" / "bin"
    program = min(tools.glob("ptxas*"), key=lambda path: path.name != "ptxas-blackwell")
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release (\d+\.\d+)", text)
    assert match is not None, text
    return match[1]


def _manifest(path: Path) -> dict[str, str]:
    if not path.is_absolute():  # builds run in folders of their own
        raise SystemExit(f"setup: {VARIABLE}: expected 1, 0, or an absolute path, got {path}")
    try:
        with zipfile.ZipFile(path) as file:
            manifest: dict[str, str] = json.loads(file.read("manifest.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        expected = "1, 0, or a file that python -m gradnets_fast.kernels.prebuild has written"
        raise SystemExit(f"setup: {VARIABLE}: expected {expected}, got {path} ({error})") from error
    return manifest


def forget(build: Path) -> None:
    """Removes the file that an earlier build has left there."""
    (build / _PLACE).unlink(missing_ok=True)


def add(build: Path) -> None:
    """Puts the file into the folder of a build that has the package's Python files.

    Raises:
        SystemExit: Triton is missing; the file is larger than LARGEST, or of other kernels than these.
    """
    if not wanted():
        return
    path = build.resolve() / _PLACE
    if wanted() == "1":
        if _toolkit_of_triton() is None:
            raise SystemExit(f"setup: {VARIABLE}: expected {TRITON} to be installed, and it is not; install it")
        _run(build, "-m", "gradnets_fast.kernels.prebuild", "--out", str(path))
    else:
        shutil.copyfile(wanted(), path)
    _run(build, "-c", _READ, str(path))
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"setup: {path}: expected at most {LARGEST} bytes, got {path.stat().st_size}; shorten hot.py")


_READ = """
import sys
from pathlib import Path
from gradnets_fast.kernels import prebuilt
try:
    prebuilt.read(Path(sys.argv[1]))
except prebuilt.PrebuiltError as error:
    sys.exit(f"setup: {error}")
"""


def _run(build: Path, *arguments: str) -> None:
    # There, so that the checkout, which Python looks into first, is not taken for the package.
    code = subprocess.run([sys.executable, *arguments], cwd=build, check=False).returncode
    if code:
        raise SystemExit(code)
