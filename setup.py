"""Builds gradnets_fast._C with CMake, and maps the folder kernels/ to the import name gradnets_fast.kernels.

What release/extension.py says of a build without gradnets_fast._C is carried out here.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
sys.path.insert(0, str(ROOT))

from release import archive, cuda, extension, sbom  # noqa: E402

EDITABLE = ROOT / "build" / "editable"
EPOCH = os.environ.get("SOURCE_DATE_EPOCH")
"""Builds of one source in one environment, under one such date, are the same bytes."""


class CMakeBuild(build_ext):
    """Runs CMake where setuptools would run a compiler."""

    def run(self) -> None:
        super().run()
        if not Path(self.get_ext_fullpath(extension.NAME)).exists():  # else the build has failed
            print(extension.NOTICE, file=sys.stderr)
            self.distribution.ext_modules = []

    def build_extension(self, ext: Extension) -> None:
        reason = extension.untried()
        if reason is not None:
            raise CompileError(reason)
        try:
            subprocess.run(self._configuration(Path(self.get_ext_fullpath(ext.name)).resolve().parent), check=True)
            subprocess.run(["cmake", "--build", str(self._folder), "--target", "_C"], check=True)
        except ImportError as error:
            raise CompileError(str(error)) from error
        except OSError as error:
            raise CompileError(f"CMake does not start: {error}") from error
        except subprocess.CalledProcessError as error:
            raise CompileError("CMake has failed, for the reason above") from error

    def _configuration(self, output: Path) -> list[str]:
        """The command that prepares a build of the extension into a folder."""
        import pybind11  # which a build without the extension does not need

        build = self._folder
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
        return [*configure, "--fresh"] if (build / "CMakeCache.txt").exists() else configure

    @property
    def _folder(self) -> Path:
        """Where CMake builds: for an editable installation a lasting folder, whose kernels tests link."""
        return EDITABLE if self.editable_mode else Path(self.build_temp).resolve()

    def facts(self) -> dict[str, Any]:
        """What CMake found, for the bill of materials: see CMakeLists.txt."""
        found: dict[str, Any] = json.loads((self._folder / "facts.json").read_text(encoding="utf-8"))
        return found


class PythonFiles(build_py):
    """With the kernels compiled ahead of time, where they are asked for, and no extension of an earlier build."""

    def run(self) -> None:
        super().run()
        name = self.get_finalized_command("build_ext").get_ext_filename(extension.NAME)
        Path(ROOT if self.editable_mode else self.build_lib, name).unlink(missing_ok=True)
        if not self.editable_mode:
            cuda.add(Path(self.build_lib) / cuda.PLACE)
        elif cuda.wanted():
            cuda.add(cuda.CHECKOUT)


class Metadata(egg_info):
    """With the local part of a version that has such kernels."""

    def finalize_options(self) -> None:
        # Here, because the configuration in a source archive would override an option.
        self.tag_build = cuda.tag() or self.tag_build
        super().finalize_options()


class Wheel(bdist_wheel):
    """With a bill of materials among the metadata; for every platform, if the extension was not built."""

    def run(self) -> None:
        if not self.skip_build:
            self.run_command("build")
            self.skip_build = True
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def write_wheelfile(self, wheelfile_base: str, *arguments: Any, **keywords: Any) -> None:
        super().write_wheelfile(wheelfile_base, *arguments, **keywords)
        if Path(wheelfile_base).parent != Path(self.bdist_dir):
            return  # an editable installation, whose files are those of the checkout
        bill = sbom.document(
            self.distribution.get_name(),
            self.distribution.get_version(),
            self.distribution.metadata.license_expression,
            self._facts(),
            self._compiled(),
            int(EPOCH or time.time()),
        )
        path = Path(wheelfile_base) / sbom.FOLDER / f"{self.distribution.get_name()}.cdx.json"
        path.parent.mkdir()
        path.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        built = self.distribution.has_ext_modules()
        facts: dict[str, Any] = self.get_finalized_command("build_ext").facts() if built else extension.NO_FACTS
        return {**facts, "tools": facts["tools"] | cuda.tools(Path(self.bdist_dir))}

    def _compiled(self) -> dict[str, Path]:
        root = Path(self.bdist_dir)
        paths = [*root.rglob("*.so"), *root.rglob(cuda.FILE)]
        return {path.relative_to(root).as_posix(): path for path in sorted(paths)}


class SourceArchive(sdist):
    """The same bytes each time, where SOURCE_DATE_EPOCH says which date to give."""

    def make_archive(self, *arguments: Any, **keywords: Any) -> str:
        path: str = super().make_archive(*arguments, **keywords)
        if EPOCH is not None:
            archive.normalise(Path(path), int(EPOCH))
        return path


setup(
    packages=["gradnets_fast.kernels", *find_packages(include=["gradnets_fast", "gradnets_fast.*"])],
    package_dir={"gradnets_fast.kernels": "kernels"},
    ext_modules=(
        [] if extension.left_out() else [Extension(extension.NAME, sources=[], optional=not extension.required())]
    ),
    cmdclass={
        "bdist_wheel": Wheel,
        "build_ext": CMakeBuild,
        "build_py": PythonFiles,
        "egg_info": Metadata,
        "sdist": SourceArchive,
    },
    setup_requires=[*extension.requirements(), *cuda.requirements()],
)
