"""Checks of Python, of the package and its installation, and of the packages that it needs."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from ... import __version__
from .examination import FAILURE, NOTE, OK, REINSTALL, WARNING, Check, Request, joined, why_no_torch

NAME = "gradnets_fast"
HOME = Path(__file__).resolve().parents[2]
_LOWEST_TORCH = "2.6"
_NOT_LISTED = ("test", "dev", "triton")
"""Extras of a checkout, and the one that the group Triton examines."""


def _python(request: Request) -> Iterator[Check]:
    yield Check("python", OK, f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}")
    finding, linux = f"{platform.platform()}, {platform.machine()}", sys.platform == "linux"
    yield Check("platform", OK if linux else NOTE, finding if linux else f"{finding}: the Triton kernels need Linux")


def _package(request: Request) -> Iterator[Check]:
    finding, homes = f"{__version__}, imported from {HOME}", installed_homes()
    others = [str(home) for home in homes if home != HOME and (home / "__init__.py").is_file()]
    if others:
        finding += f", which hides the one installed in {joined(others)}"
        advice = f"run from another folder and without PYTHONPATH, or install this one: pip install -e {HOME.parent}"
        yield Check(NAME, WARNING, finding, advice)
    elif HOME not in homes:
        finding += ", which is not installed: without kernels, unless they were built there"
        yield Check(NAME, NOTE, finding, f"pip install {HOME.parent}")
    elif homes[HOME].partition("+")[0] != __version__:  # +cu13 and the like say what else the wheel brings
        yield Check(NAME, WARNING, f"{finding}, installed as {homes[HOME]}", REINSTALL)
    else:
        yield Check(NAME, OK, finding)


def installed_homes() -> dict[Path, str]:
    """The folders of the package that installed distributions name, and their versions."""
    found: dict[Path, str] = {}
    for distribution in metadata.distributions(name=NAME):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        editable = origin.get("dir_info", {}).get("editable")
        root = Path(unquote(urlparse(origin["url"]).path)) if editable else Path(str(distribution.locate_file("")))
        found.setdefault((root / NAME).resolve(), distribution.version)
    return found


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


def _extras(request: Request) -> Iterator[Check]:
    try:
        requirement = importlib.import_module("packaging.requirements").Requirement
        found = metadata.distribution(NAME)
    except ImportError as error:
        absent = "the package" if isinstance(error, metadata.PackageNotFoundError) else "packaging"
        yield Check("extras", NOTE, f"not examined, as {absent} is not installed")
        return
    lines = [requirement(line) for line in found.requires or []]
    for extra in found.metadata.get_all("Provides-Extra") or []:
        if extra not in _NOT_LISTED:
            yield of_extra(extra, needed_by(extra, lines))


def needed_by(extra: str, lines: list[Any]) -> list[Any]:
    """The requirements that an extra adds here, including the requirements of other extras that it names."""
    found = []
    for line in lines:
        if line.marker is not None and line.marker.evaluate({"extra": extra}) > line.marker.evaluate({"extra": ""}):
            own = line.name.replace("-", "_") == NAME
            found += [r for other in sorted(line.extras) for r in needed_by(other, lines)] if own else [line]
    return found


def of_extra(extra: str, needed: list[Any]) -> Check:
    """Whether what an extra needs is installed, and new enough."""
    versions = {r: next((d.version for d in metadata.distributions(name=r.name)), "") for r in needed}
    missing = [r.name for r, version in versions.items() if not version]
    old = [f"{r.name}{r.specifier} is needed" for r, v in versions.items() if v and not r.specifier.contains(v, True)]
    there = ", ".join(f"{r.name} {version}" for r, version in versions.items() if version)
    advice, name = f"pip install '{NAME}[{extra}]'", f"extra {extra}"
    if old:
        return Check(name, WARNING, f"{'; '.join(old)}; there are {there}", advice)
    if missing:
        return Check(name, NOTE, f"{joined(missing)} not installed", advice)
    return Check(name, OK, there)


def _command_line(request: Request) -> Iterator[Check]:
    if request.lacking is None:
        yield Check("command line", OK, "gradnets-fast runs")
    elif why_no_torch() is None:  # which is a check of its own
        finding = f"the other commands do not run: {request.lacking}"
        yield Check("command line", NOTE, finding, f"pip install '{NAME}[train]'")


CHECKS = (_python, _package, _torch, _extras, _command_line)
