"""Builds gradnets_fast._C with CMake, and maps the folder kernels/ to the import name gradnets_fast.kernels."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs CMake where setuptools would run a compiler."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *shlex.split(os.environ.get("GRADNETS_FAST_CMAKE_ARGS", "")),
        ]
        # A build folder left by another environment names a compiler driver and Python that may be gone.
        if (build / "CMakeCache.txt").exists():
            configure.append("--fresh")
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)


setup(
    packages=["gradnets_fast.kernels", *find_packages(include=["gradnets_fast", "gradnets_fast.*"])],
    package_dir={"gradnets_fast.kernels": "kernels"},
    ext_modules=[Extension("gradnets_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
