"""Drawn calls of the operators by an extension under GCC's sanitizers: address and undefined behaviour, or threads.

The extension is built by CMake with GRADNETS_SANITIZE, for one instruction set, in build/address or build/thread, which
takes minutes once.  It is loaded in place of the installed one by a process into which the sanitizer was loaded first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .kinds import Block, Kind, Outcome
from .results import ROOT

_SANITIZERS = {"address": ("address,undefined", "libasan.so"), "thread": ("thread", "libtsan.so")}
_CALLS = """
import importlib.util, sys
sys.path.insert(0, {root!r})
spec = importlib.util.spec_from_file_location("gradnets_fast._C", {extension!r})
sys.modules["gradnets_fast._C"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import torch
torch.set_num_threads({threads})
from gradnets_fast.ops import _cpp
assert _cpp.extension() is module
from tests.fuzz.__main__ import tried
case = tried({number}, {count})
print("calls tried" if case is None else case.program())
"""
_PER_CASE = 25
"""Calls of a case, whose process takes seconds before the first of them."""


def build(name: str) -> Path:
    """The extension under a sanitizer, built anew where a file of it has changed."""
    import pybind11

    folder, python = ROOT / "build" / name, [f"-DPython_EXECUTABLE={sys.executable}"]
    options = [
        f"-DGRADNETS_SANITIZE={_SANITIZERS[name][0]}",
        "-DGRADNETS_ISAS=baseline",
        "-DGRADNETS_POISON_WORKSPACE=ON",
    ]
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    found = [*python, f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options]
    for words in (["-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *found], ["--build", str(folder)]):
        subprocess.run(["cmake", *words], check=True, stdout=subprocess.DEVNULL, env=tools)
    return next(folder.glob("_C*.so"))


def _library(name: str) -> str:
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def _block(name: str) -> Block:
    def run(numbers: Sequence[int]) -> list[Outcome]:
        return [_outcome(name, build(name), number) for number in numbers]

    return run


def _outcome(name: str, extension: Path, number: int) -> Outcome:
    text = _CALLS.format(
        root=str(ROOT), extension=str(extension), number=number, count=_PER_CASE, threads=1 + (name == "thread")
    )
    variables = {
        **{key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        # With the library of C++, whose exceptions the sanitizer looks for when it begins.
        "LD_PRELOAD": f"{_library(_SANITIZERS[name][1])} {_library('libstdc++.so')}",
        # Python and PyTorch keep memory to their end, and PyTorch's OpenMP is not under the sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode == 0 and done.stdout.startswith("calls tried"):
        return Outcome(number, f"{_PER_CASE} calls, none of them wrong")
    return Outcome(number, "failed", (done.stdout + done.stderr)[-4000:])


def _lacking(name: str) -> str | None:
    """Why the extension cannot be built under a sanitizer here, or None."""
    lacking = [tool for tool in ("g++", "cmake") if shutil.which(tool) is None]
    if lacking or not Path(_library(_SANITIZERS[name][1])).is_file():
        return f"needs {', '.join(lacking) or _SANITIZERS[name][1]}"
    return None


KINDS = (
    Kind("native code, addresses", f"{_PER_CASE} drawn calls of the operators by an extension under the address and "
         "undefined-behaviour sanitizers, scratch memory full of NaN, baseline instructions: no report, right results",
         400, _block("address"), needs=lambda: _lacking("address")),
)  # fmt: skip
