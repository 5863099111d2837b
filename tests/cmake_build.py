"""Builds for tests, made once however many workers run them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, **environment: str) -> str:
    """The command's output; an AssertionError with all of it where the command fails."""
    tools = Path(sys.executable).parent
    variables = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of(source: Path, folder: Path) -> Path:
    """A checkout's files, in a folder that a build may write to."""
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__", "*.egg-info", "*.so")
    return shutil.copytree(source, folder, ignore=ignored)


@contextmanager
def shared_folder(name: str, factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A path that is all workers', for one at a time."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield base / name


def build(name: str, factory: pytest.TempPathFactory, *options: str) -> Path:
    """The folder of a build with these CMake options, warnings as errors and scratch memory full of NaN."""
    with shared_folder(name, factory) as folder:
        standard = ["-DGRADNETS_WERROR=ON", "-DGRADNETS_POISON_WORKSPACE=ON"]
        run("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *standard, *options)
        run("cmake", "--build", str(folder))
    return folder


def kernels() -> Path:
    """The build folder with the kernels of the present sources: the editable installation's, brought up to date.

    Minutes of compilation, which an installation by `make` has done; its options stay, or it would compile all anew.
    """
    folder = ROOT / "build" / "editable"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["-DGRADNETS_MODULE=OFF", "-DGRADNETS_WERROR=ON"]
        made = (folder / "CMakeCache.txt").exists()
        run("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *(() if made else options))
        sets = sorted(path.stem for path in (folder / "CMakeFiles").glob("kernels_*.dir"))
        run("cmake", "--build", str(folder), "--target", *sets)
    return folder


def poisoned_build(factory: pytest.TempPathFactory) -> Path:
    """The module and tests/sanitize.cpp as they are shipped, but for the scratch memory."""
    import pybind11

    python = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    return build("poisoned", factory, "-DGRADNETS_CHECK=ON", f"-DGRADNETS_KERNELS={kernels()}", *python)
