"""Checks of the compiled extension, and of the threads it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES

import torch

from ...ops import _cpp
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, joined
from .software import HOME


def _extension(request: Request) -> Iterator[Check]:
    reason = _cpp.why_unavailable()
    if reason is None:
        extension = _cpp.extension()
        yield Check("extension", OK, str(extension.__file__))
        used, available = extension.instruction_set(), extension.available_instruction_sets()
        slower = used != available[0]
        advice = "for full speed: unset GRADNETS_FAST_CPU_ISA" if slower else ""
        finding = f"{used} in use; this processor has {', '.join(available)}"
        yield Check("instruction sets", NOTE if slower else OK, finding, advice)
        yield Check("threads", OK, f"{torch.get_num_threads()}, by {extension.threading()}")
        return
    others = [path.name for path in sorted(HOME.glob("_C.*")) if path.suffix in (".so", ".pyd")]
    if others and not any(name.endswith(suffix) for name in others for suffix in EXTENSION_SUFFIXES):
        reason += f"; there is {joined(others)}, and this Python takes {EXTENSION_SUFFIXES[0]}"
    status, finding = FAILURE, reason.partition("; to build it")[0]
    advice = f"{_cpp.how_to_build()}, with GCC"
    if "GRADNETS_FAST_CPU_ISA" in reason:
        advice = "unset GRADNETS_FAST_CPU_ISA"
    elif not others:
        status, finding = WARNING, "this installation is of Python alone, without the C++ extension"
    yield Check("extension", status, f"{finding}; CPU tensors take the reference, which is slower", advice)


CHECKS = (_extension,)
