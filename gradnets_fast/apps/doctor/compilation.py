"""Checks of what Triton's kernels need: Triton, a C compiler, caches; and of kernels compiled ahead of time."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...ops import _cpp, _prebuilt, _triton
from ...ops._kernels import cache_folder, kernel_module
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, has_kernels
from .software import HOME

_LEAST_SPACE = 256 * 2**20
_SOURCE = "#include <Python.h>\nint answer(void) { return PY_VERSION_HEX != 0; }\n"
"""A program that includes Python's header, as does the one that Triton compiles when it first starts."""


def _triton_itself(request: Request) -> Iterator[Check]:
    needed = request.needs_kernels()
    reason = _triton._why_not_installed()
    if reason is None:
        yield Check("triton", OK, importlib.import_module("triton").__version__)
        return
    advice = "pip install --upgrade 'gradnets_fast[triton]'" if needed or "later" in reason else ""
    effect = "GPU tensors take the reference" if needed else "only a GPU would need it"
    yield Check("triton", WARNING if needed else NOTE, f"{reason.partition('; install')[0]}; {effect}", advice)


def _kernels(request: Request) -> Iterator[Check]:
    if not has_kernels():
        finding = "not part of the package, which is a checkout that is not installed"
        broken = FAILURE if request.needs_kernels() else NOTE
        yield Check("kernels", broken, finding, f"pip install -e {HOME.parent}")


def _compiler(request: Request) -> Iterator[Check]:
    name, broken = "C compiler", FAILURE if request.needs_kernels() else NOTE
    command = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if command is None:
        finding = "no gcc or clang on PATH, and CC is not set: Triton cannot start on a GPU"
        yield Check(name, broken, finding, "install gcc, for example: apt install gcc; or set CC")
        return
    fault = _fault_of(command)
    if fault is None:
        yield Check(name, OK, f"{command} compiles what Triton needs")
    else:
        headers = "install Python's headers, for example: apt install python3-dev"
        advice = headers if "Python.h" in fault else "set CC to one that works, or: unset CC"
        yield Check(name, broken, f"{command} does not compile what Triton needs: {fault}", advice)


def _fault_of(command: str) -> str | None:
    """Why a compiler cannot make a module of Python; None if it can."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "probe.c"), Path(folder, "probe.so")
        source.write_text(_SOURCE, encoding="utf-8")
        options = ["-O3", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", "-o", str(library), str(source)]
        try:
            # Triton too takes CC for the name of one program.
            run = subprocess.run([command, *options], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if run.returncode == 0:
        return None
    errors = [line for line in run.stderr.splitlines() if "error" in line]
    return errors[0] if errors else f"exit code {run.returncode}"


def _cache(request: Request) -> Iterator[Check]:
    broken = FAILURE if request.needs_kernels() else WARNING
    advice = "export TRITON_CACHE_DIR=… with a folder of your own"
    yield writable("Triton's cache", cache_folder(), broken, advice)


def _table(request: Request) -> Iterator[Check]:
    if not has_kernels():
        return
    name, configuration = "tuned table", kernel_module("configuration")
    file = configuration.tuned_table()
    if not file.is_file():
        advice = "export GRADNETS_FAST_TABLE=… with a file in a folder of your own"
        folder = writable(name, file.parent, WARNING, advice)
        finding = f"none, so that the package's tiles are used; it would be {file}"
        yield folder if folder.status != OK else Check(name, OK, finding)
        return
    try:
        configuration.table()
    except ValueError as error:
        yield Check(name, FAILURE, " ".join(str(error).split()), f"rm {file}, or run gradnets-fast tune again")
    else:
        yield Check(name, OK, f"{file}, whose tiles go before the package's")


def writable(name: str, folder: Path, broken: str, advice: str) -> Check:
    """Whether files that code is loaded from can be written in a folder, or in one that would be made there.

    It writes one to see.  broken: the status if it cannot.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"{nearest} is a file")
        with tempfile.NamedTemporaryFile(dir=nearest) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return Check(name, broken, f"{folder} cannot be written: {error.strerror or error}", advice)
    if hasattr(os, "ST_NOEXEC") and os.statvfs(nearest).f_flag & os.ST_NOEXEC:
        return Check(name, broken, f"{folder} is mounted noexec: no code can be loaded from it", advice)
    free = shutil.disk_usage(nearest).free
    finding = f"{folder} can be written; {free / 2**30:.1f} GiB are free"
    if free < _LEAST_SPACE:
        return Check(name, WARNING, finding, f"free some there, or {advice}")
    return Check(name, OK, finding)


def _ahead_of_time(request: Request) -> Iterator[Check]:
    if not has_kernels():
        return
    usable, text = kernel_module("prebuilt").status()
    name = "ahead-of-time kernels"
    if not usable and "reinstall" in text:  # a file that is there and refused names what to do
        yield Check(name, WARNING, text, "pip install --force-reinstall --no-deps gradnets_fast")
    elif not usable:
        yield Check(name, NOTE, f"{text}: each kernel is compiled when it first runs on a GPU")
    else:
        reason = _cpp.why_unavailable() or _triton._why_not_installed() or _prebuilt.why_not(0)
        yield Check(name, NOTE, f"{text}; not used: {reason}") if reason else Check(name, OK, text)


CHECKS = (_triton_itself, _kernels, _compiler, _cache, _table, _ahead_of_time)
