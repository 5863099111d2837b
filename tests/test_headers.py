"""Headers of csrc by themselves, as editors read them: each includes what it needs and opens its namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pybind11
import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_each_header_compiles_alone() -> None:
    headers = sorted(CSRC.glob("*.h"))
    assert headers
    assert COMPILER is not None
    python = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    # -w: a header that is compiled by itself is not included once, as its #pragma says.
    command = [COMPILER, "-std=c++17", "-fsyntax-only", "-w", *python, "-x", "c++", *map(str, headers)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
