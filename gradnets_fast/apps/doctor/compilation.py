"""Checks of what Triton's kernels need: Triton, its cache, tiles; and of kernels compiled ahead of time."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...ops import _cpp, _prebuilt, _triton
from ...ops._kernels import cache_folder, kernel_module
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, has_kernels
from .software import HOME

_REINSTALL = "pip install --force-reinstall --no-deps gradnets_fast"


def _triton_itself(request: Request) -> Iterator[Check]:
    needed, reason = request.needs_kernels(), _triton._why_not_installed()
    if reason is None:
        yield Check("triton", OK, importlib.import_module("triton").__version__)
    else:
        advice = "pip install --upgrade 'gradnets_fast[triton]'" if needed or "later" in reason else ""
        effect = "GPU tensors take the reference" if needed else "only a GPU would need it"
        yield Check("triton", WARNING if needed else NOTE, f"{reason.partition('; install')[0]}; {effect}", advice)
    if not has_kernels():
        finding = "not part of the package, which is a checkout that is not installed"
        yield Check("kernels", FAILURE if needed else NOTE, finding, f"pip install -e {HOME.parent}")


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
        yield Check(name, OK, f"none, so that the package's tiles are used; it would be {file}")
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
    return Check(name, OK, f"{folder} can be written; {shutil.disk_usage(nearest).free / 2**30:.1f} GiB are free")


def _ahead_of_time(request: Request) -> Iterator[Check]:
    if not has_kernels():
        return
    name, (usable, text) = "ahead-of-time kernels", kernel_module("prebuilt").status()
    if usable:
        reason = _cpp.why_unavailable() or _triton._why_not_installed() or _prebuilt.why_not(0)
        yield Check(name, NOTE, f"{text}; not used: {reason}") if reason else Check(name, OK, text)
    elif "reinstall" in text:  # a file that is there and refused names what to do
        yield Check(name, WARNING, text, _REINSTALL)
    else:
        yield Check(name, NOTE, f"{text}: each kernel is compiled when it first runs on a GPU")


CHECKS = (_triton_itself, _cache, _table, _ahead_of_time)
