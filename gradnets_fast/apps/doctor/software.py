"""Checks of Python, of the package, of torch, and of the command line."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ... import __version__
from .examination import FAILURE, NOTE, OK, REINSTALL, WARNING, Check, Request, why_no_torch

NAME = "gradnets_fast"
HOME = Path(__file__).resolve().parents[2]
_LOWEST_TORCH = "2.6"


def _python(request: Request) -> Iterator[Check]:
    yield Check("python", OK, f"{platform.python_version()}, {sys.executable}, on {platform.platform()}")


def _package(request: Request) -> Iterator[Check]:
    finding, installed = f"{__version__}, imported from {HOME}", installed_version()
    if installed is None:
        finding += ", which is not installed: without kernels, unless they were built there"
        yield Check(NAME, NOTE, finding, f"pip install {HOME.parent}")
    elif installed.partition("+")[0] != __version__:  # +cu13 and the like say what else the wheel brings
        yield Check(NAME, WARNING, f"{finding}, installed as {installed}", REINSTALL)
    else:
        yield Check(NAME, OK, finding)


def installed_version() -> str | None:
    """The version that pip has installed; None if it has none."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return None


def _torch(request: Request) -> Iterator[Check]:
    reason = why_no_torch()
    if reason is not None:
        missing = reason.startswith("ModuleNotFoundError") and "'torch'" in reason
        advice = "pip install torch" if missing else "install it anew: pip install --force-reinstall torch"
        yield Check("torch", FAILURE, f"cannot be imported: {reason}", advice)
        return
    import torch

    cuda, hip = torch.version.cuda, torch.version.hip
    finding = f"{torch.__version__}, built for {f'ROCm {hip}' if hip else f'CUDA {cuda}' if cuda else 'the CPU'}"
    if torch.__version__ < _LOWEST_TORCH:  # as versions, not as text
        finding += f"; {_LOWEST_TORCH} or later is needed"
        yield Check("torch", FAILURE, finding, f"pip install 'torch>={_LOWEST_TORCH}'")
    else:
        yield Check("torch", OK, finding)


def _command_line(request: Request) -> Iterator[Check]:
    if request.lacking is None:
        yield Check("command line", OK, "gradnets-fast runs")
    elif why_no_torch() is None:  # which is a check of its own
        finding = f"the other commands do not run: {request.lacking}"
        yield Check("command line", NOTE, finding, f"pip install '{NAME}[train]'")


CHECKS = (_python, _package, _torch, _command_line)
