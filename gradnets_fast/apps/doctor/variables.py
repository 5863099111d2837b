"""The environment variables that decide what the package does, and what they do now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ... import backend
from ...ops import _cpp, _prebuilt
from .check import FAILURE, NOTE, OK, WARNING, Check, joined
from .examination import Request

_PREFIX = "GRADNETS_FAST_"
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_LAUNCHERS = (*_LAUNCHED, "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
_AT_BUILD = ("GRADNETS_FAST_CMAKE_ARGS", "GRADNETS_FAST_CUDA")
"""Read when the package is built, and never after."""

Judgement = tuple[str, str, str]
"""Status, finding, advice."""


@dataclass(frozen=True)
class Variable:
    """One that may be set.

    Attributes:
        name: its name.
        unset: what happens while it is not set.
        judge: (value, request) -> status, what the value does, advice.
    """

    name: str
    unset: str
    judge: Callable[[str, Request], Judgement]

    def check(self, request: Request) -> Check:
        """Of its value in this process."""
        value = os.environ.get(self.name, "")
        if not value:
            return Check(self.name, OK, f"not set: {self.unset}")
        status, effect, advice = self.judge(value, request)
        return Check(self.name, status, f"{value}: {effect}", advice)


def _backend(value: str, request: Request) -> Judgement:
    if value not in backend.BACKENDS:
        names = joined(list(backend.BACKENDS), "or")
        return (
            FAILURE,
            "no backend, so that every call raises",
            f"set it to {names}, or: unset {backend.ENVIRONMENT_VARIABLE}",
        )
    import torch

    device = request.devices()[-1]
    refusal = backend.why_not(value, device, torch.float32)
    if refusal is not None:
        advice = f"unset {backend.ENVIRONMENT_VARIABLE}"
        return WARNING, f"every call must run on it, and those on {device.type} raise: {refusal}", advice
    return NOTE, "every call runs on it, or raises", ""


def _instruction_set(value: str, request: Request) -> Judgement:
    reason = _cpp.why_unavailable()
    if reason is not None:
        named = "GRADNETS_FAST_CPU_ISA" in reason
        advice = "unset GRADNETS_FAST_CPU_ISA, or set it to one of those"
        return (FAILURE, reason, advice) if named else (NOTE, "without the extension it has no effect", "")
    best = _cpp.extension().available_instruction_sets()[0]
    if value == best:
        return OK, "the best that this processor has", ""
    return NOTE, f"the kernels take it in place of {best}", "for full speed: unset GRADNETS_FAST_CPU_ISA"


def _table(value: str, request: Request) -> Judgement:
    return OK, "the tuned table is read from there" if Path(value).is_file() else "no such file yet", ""


def _ahead_of_time(value: str, request: Request) -> Judgement:
    if value == "0":
        return (
            NOTE,
            "kernels compiled ahead of time are not used",
            f"to use them: unset {_prebuilt.ENVIRONMENT_VARIABLE}",
        )
    return NOTE, "no effect: only 0 has one", ""


def _interpreter(value: str, request: Request) -> Judgement:
    advice = "unset TRITON_INTERPRET"
    if value.lower() not in ("1", "true", "yes", "on", "y"):
        return WARNING, "Triton takes this for off; only 1 is meant to be set", advice
    if request.needs_kernels():
        return WARNING, "Triton's kernels run in its interpreter, on CPU tensors, and not on the GPU", advice
    return (
        NOTE,
        "Triton's kernels run in its interpreter, on CPU tensors, where they are asked for: slow, to try them",
        "",
    )


def _place(value: str, request: Request) -> Judgement:
    return OK, "looked at below, under Triton", ""


VARIABLES = (
    Variable(backend.ENVIRONMENT_VARIABLE, "each call runs on the fastest backend that can", _backend),
    Variable("GRADNETS_FAST_CPU_ISA", "the best instruction set of the processor", _instruction_set),
    Variable(
        _prebuilt.ENVIRONMENT_VARIABLE, "kernels compiled ahead of time are used where there are any", _ahead_of_time
    ),
    Variable("GRADNETS_FAST_TABLE", "the tuned table lies in the user's cache folder", _table),
    Variable("XDG_CACHE_HOME", "the user's cache folder is ~/.cache", _place),
    Variable("TRITON_INTERPRET", "Triton's kernels run on NVIDIA GPUs", _interpreter),
    Variable("TRITON_CACHE_DIR", "Triton's cache is in its home folder", _place),
    Variable("TRITON_HOME", "Triton's home folder is ~/.triton", _place),
    Variable("CC", "Triton takes gcc or clang", _place),
)
KNOWN = (*(variable.name for variable in VARIABLES), *_AT_BUILD, *_OF_LAUNCHERS)
"""All that the package reads."""


def _variables(request: Request) -> Iterator[Check]:
    for variable in VARIABLES:
        yield variable.check(request)


def _launcher(request: Request) -> Iterator[Check]:
    given = [name for name in _LAUNCHED if name in os.environ]
    name = "of launchers"
    if not given:
        yield Check(name, OK, "not set: gradnets-fast train is one process")
    elif len(given) < len(_LAUNCHED):
        missing = joined([name for name in _LAUNCHED if name not in given])
        advice = f"start with torchrun, which sets all; or: unset {' '.join(given)}"
        yield Check(name, NOTE, f"{joined(given)} without {missing}: gradnets-fast train is one process", advice)
    else:
        yield Check(name, OK, f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")


def _unknown(request: Request) -> Iterator[Check]:
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in KNOWN:
            known = joined([known for known in KNOWN if known.startswith(_PREFIX)])
            yield Check(name, WARNING, f"{os.environ[name]}: nothing reads it", f"correct the name: there are {known}")


CHECKS = (_variables, _launcher, _unknown)
