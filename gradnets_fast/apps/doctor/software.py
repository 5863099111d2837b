"""Python, the package, and what it stands on."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from ... import __version__
from .check import FAILURE, NOTE, OK, WARNING, Check, joined, numbers
from .examination import Request, described, why_no_torch
from .requirements import Requirement, requirements

NAME = "gradnets_fast"
HOME = Path(__file__).resolve().parents[2]
LOWEST_PYTHON, LOWEST_TORCH = (3, 10), (2, 6)
_NOT_FOR_USERS = ("test", "dev")
"""Extras of a checkout."""


def _python(request: Request) -> Iterator[Check]:
    finding = f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    if sys.version_info < LOWEST_PYTHON:
        yield Check("python", FAILURE, finding, f"install Python {_dotted(LOWEST_PYTHON)} or later")
    else:
        yield Check("python", OK, finding)


def _platform(request: Request) -> Iterator[Check]:
    finding = f"{platform.platform()}, {platform.machine()}"
    linux = sys.platform == "linux"
    yield Check("platform", OK if linux else NOTE, finding if linux else f"{finding}: the Triton kernels need Linux")


def _package(request: Request) -> Iterator[Check]:
    finding = f"{__version__}, imported from {HOME}"
    homes = installed_homes()
    others = [home for home in homes if home != HOME and (home / "__init__.py").is_file()]
    if others:
        advice = "run from another folder and without PYTHONPATH, or install this one: pip install -e " + str(
            HOME.parent
        )
        yield Check(
            NAME, WARNING, f"{finding}, which hides the one installed in {joined(list(map(str, others)))}", advice
        )
    elif HOME not in homes:
        advice = f"pip install {HOME.parent}"
        yield Check(
            NAME, NOTE, f"{finding}, which is not installed: without kernels, unless they were built there", advice
        )
    elif homes[HOME].partition("+")[0] != __version__:  # +cu13 and the like say what else the wheel brings
        advice = "install it anew: pip install --force-reinstall --no-deps gradnets_fast"
        yield Check(NAME, WARNING, f"{finding}, installed as {homes[HOME]}", advice)
    else:
        yield Check(NAME, OK, finding)


def installed_homes() -> dict[Path, str]:
    """The folders of the package that installed distributions name, and their versions."""
    found: dict[Path, str] = {}
    for distribution in metadata.distributions(name=NAME):
        root = _editable_root(distribution)
        home = Path(str(distribution.locate_file(NAME))) if root is None else root / NAME
        found.setdefault(home.resolve(), distribution.version)
    return found


def _editable_root(distribution: metadata.Distribution) -> Path | None:
    text = distribution.read_text("direct_url.json")
    content = json.loads(text) if text else {}
    if not content.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(content["url"]).path))


def _torch(request: Request) -> Iterator[Check]:
    reason = why_no_torch()
    if reason is not None:
        missing = reason.startswith("ModuleNotFoundError") and "'torch'" in reason
        advice = "pip install torch" if missing else "install it anew: pip install --force-reinstall torch"
        yield Check("torch", FAILURE, f"cannot be imported: {reason}", advice)
        return
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    finding = f"{torch.__version__}, built {'for ROCm ' + torch.version.hip if torch.version.hip else built}"
    if numbers(torch.__version__) < LOWEST_TORCH:
        lowest = _dotted(LOWEST_TORCH)
        yield Check("torch", FAILURE, f"{finding}; {lowest} or later is needed", f"pip install 'torch>={lowest}'")
    else:
        yield Check("torch", OK, finding)


def _numpy(request: Request) -> Iterator[Check]:
    try:
        version = importlib.import_module("numpy").__version__
    except ModuleNotFoundError:
        yield Check(
            "numpy", NOTE, "not installed: only gradnets-fast train and bench, and Triton's interpreter, need it"
        )
        return
    except Exception as error:
        yield Check("numpy", WARNING, f"cannot be imported: {described(error)}", "pip install --force-reinstall numpy")
        return
    if why_no_torch() is None:
        import torch

        try:
            torch.zeros(1).numpy()
        except RuntimeError as error:
            advice = "pip install --upgrade torch numpy, so that they are of the same time"
            yield Check("numpy", WARNING, f"{version}, which torch cannot use: {described(error)}", advice)
            return
    yield Check("numpy", OK, version)


def _extras(request: Request) -> Iterator[Check]:
    known = requirements(NAME)
    if not known:
        yield Check("extras", NOTE, "unknown, as the package is not installed")
    for extra, needed in known.items():
        if extra in ("", *_NOT_FOR_USERS, "triton"):  # the group of Triton looks at that
            continue
        yield _extra(extra, needed)


def _extra(extra: str, needed: list[Requirement]) -> Check:
    found = {requirement: requirement.installed() for requirement in needed}
    missing = [requirement.name for requirement, version in found.items() if version is None]
    old = [
        f"{r} is needed, {version} is installed" for r, version in found.items() if version and not r.allows(version)
    ]
    advice, name = f"pip install '{NAME}[{extra}]'", f"extra {extra}"
    if old:
        return Check(name, WARNING, "; ".join(old), advice)
    if missing:
        return Check(name, NOTE, f"{joined(missing)} not installed", advice)
    return Check(name, OK, ", ".join(f"{requirement.name} {version}" for requirement, version in found.items()))


def _command_line(request: Request) -> Iterator[Check]:
    if why_no_torch() is not None:
        return  # a check of its own
    try:
        importlib.import_module("..cli", __package__)
    except Exception as error:
        finding = f"the other commands do not run: {described(error)}"
        yield Check("command line", NOTE, finding, f"pip install '{NAME}[train]'")
    else:
        yield Check("command line", OK, "gradnets-fast runs")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


CHECKS = (_python, _platform, _package, _torch, _numpy, _extras, _command_line)
