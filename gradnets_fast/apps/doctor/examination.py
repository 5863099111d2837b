"""The groups of checks in the order of the report, and the loop over them that no failure stops.

Each group is a file of this folder, whose CHECKS yield findings; `command.py` passes them to `report.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUSES = OK, NOTE, WARNING, FAILURE = ("ok", "note", "warning", "failure")
"""As it should be; worth knowing; slower or riskier than it could be; broken."""
ISSUE = "report this with the whole output of gradnets-fast doctor"
REINSTALL = "install it anew: pip install --force-reinstall --no-deps gradnets_fast"


@dataclass(frozen=True)
class Check:
    """A finding.

    Attributes:
        name: what was looked at.
        status: one of STATUSES.
        finding: what is there.
        advice: a command or setting that mends it; empty if nothing is to be done.
    """

    name: str
    status: str
    finding: str
    advice: str = ""


@dataclass(frozen=True)
class Request:
    """The options of an examination.

    Attributes:
        device: "cpu", "cuda" or "cuda:1" for the self-test on that alone; None for the CPU and the first GPU.
        lacking: why the other commands cannot start; None if they can.
    """

    device: str | None = None
    lacking: str | None = None

    def devices(self) -> list[torch.device]:
        """The devices that the self-test runs on."""
        import torch

        if self.device is not None:
            named = torch.device(self.device)
            return [torch.device("cuda", named.index or 0) if named.type == "cuda" else named]
        return [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]

    def needs_kernels(self) -> bool:
        """Whether there is a GPU that the Triton kernels should run on."""
        import torch

        nvidia = torch.cuda.is_available() and torch.version.hip is None
        return nvidia and any(device.type == "cuda" for device in self.devices())


GROUPS = {
    "Software": "software",
    "Environment variables": "variables",
    "Processor": "processor",
    "GPU": "gpu",
    "Triton": "compilation",
    "Self-test": "selftest",
}
"""By title, the file of this folder whose CHECKS a group runs: functions of a request that yield checks."""


def examine(request: Request) -> Iterator[tuple[str, Iterable[Check]]]:
    """Each group's title, and its checks as they are made."""
    for title in GROUPS:
        yield title, checks(title, request)


def checks(title: str, request: Request) -> Iterator[Check]:
    """What a group finds; an exception is a finding too."""
    if title != "Software" and why_no_torch() is not None:
        yield Check(title, NOTE, "not examined, as torch cannot be imported")
        return
    try:
        functions = importlib.import_module(f".{GROUPS[title]}", __package__).CHECKS
    except Exception as error:
        yield _broken(title, error)
        return
    for function in functions:
        try:
            yield from function(request)
        except Exception as error:
            yield _broken(function.__name__.strip("_").replace("_", " "), error)


def why_no_torch() -> str | None:
    """Why torch cannot be imported; None if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns where numpy is missing, which only some commands need
            importlib.import_module("torch")
    except Exception as error:  # a broken installation raises whatever it comes to
        return described(error)
    return None


def has_kernels() -> bool:
    """Whether the files of kernels/ are part of the package, as an installation makes them."""
    return importlib.util.find_spec("...kernels", __package__) is not None


def joined(names: list[str], last: str = "and") -> str:
    """Names as a sentence lists them.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def described(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _broken(name: str, error: BaseException) -> Check:
    return Check(name, FAILURE, f"the check itself failed: {described(error)}", ISSUE)
