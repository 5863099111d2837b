"""The groups of checks, in the order of the report, and the loop over them that no failure stops."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .check import FAILURE, NOTE, Check

if TYPE_CHECKING:
    import torch

ISSUE = "report this with the whole output of gradnets-fast doctor"


@dataclass(frozen=True)
class Request:
    """What is to be examined.

    Attributes:
        device: "cpu", "cuda" or "cuda:1" for the self-test on that alone; None for the CPU and the first GPU.
    """

    device: str | None = None

    def devices(self) -> list[torch.device]:
        """Where the self-test runs."""
        import torch

        if self.device is not None:
            named = torch.device(self.device)
            return [torch.device("cuda", named.index or 0) if named.type == "cuda" else named]
        return [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]

    def needs_kernels(self) -> bool:
        """Whether there is a GPU that the Triton kernels should run on."""
        import torch

        of_nvidia = torch.cuda.is_available() and torch.version.hip is None
        return of_nvidia and any(device.type == "cuda" for device in self.devices())


@dataclass(frozen=True)
class Group:
    """A part of the report.

    Attributes:
        title: its heading.
        module: the file of this folder whose CHECKS it runs: functions of a request that yield checks.
        needs_torch: whether that file can be imported without torch.
    """

    title: str
    module: str
    needs_torch: bool = True

    def checks(self, request: Request) -> Iterator[Check]:
        """What it finds; an exception is a finding too."""
        try:
            functions = importlib.import_module(f".{self.module}", __package__).CHECKS
        except Exception as error:
            yield _broken(self.title, error)
            return
        for function in functions:
            yield from _guarded(function.__name__.strip("_").replace("_", " "), function, request)


GROUPS = (
    Group("Software", "software", needs_torch=False),
    Group("Environment variables", "variables"),
    Group("Processor", "processor"),
    Group("GPU", "gpu"),
    Group("Triton", "compilation"),
    Group("Self-test", "selftest"),
)


def examine(request: Request) -> Iterator[tuple[Group, Iterable[Check]]]:
    """Each group, and its checks as they are made."""
    for group in GROUPS:
        reason = why_no_torch() if group.needs_torch else None
        if reason is None:
            yield group, group.checks(request)
        else:
            yield group, [Check(group.title, NOTE, "not examined, as torch cannot be imported")]


def why_no_torch() -> str | None:
    """Why torch cannot be imported; None if it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without numpy it warns, of what is a check of its own
            importlib.import_module("torch")
    except Exception as error:  # a broken installation raises whatever it comes to
        return described(error)
    return None


def has_kernels() -> bool:
    """Whether the files of kernels/ are part of the package, as an installation makes them."""
    return importlib.util.find_spec("...kernels", __package__) is not None


def described(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _guarded(name: str, function: object, request: Request) -> Iterator[Check]:
    assert callable(function)
    try:
        yield from function(request)
    except Exception as error:
        yield _broken(name, error)


def _broken(name: str, error: BaseException) -> Check:
    return Check(name, FAILURE, f"the check itself failed: {described(error)}", ISSUE)
