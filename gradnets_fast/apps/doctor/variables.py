"""Checks of the package's environment variables: whether each is read, and whether the backend they name can run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from ... import backend
from ...ops import _prebuilt
from .examination import FAILURE, NOTE, OK, WARNING, Check, Request, joined

_PREFIX = "GRADNETS_FAST_"
KNOWN = (
    *(backend.ENVIRONMENT_VARIABLE, "GRADNETS_FAST_CPU_ISA", _prebuilt.ENVIRONMENT_VARIABLE, "GRADNETS_FAST_TABLE"),
    *("GRADNETS_FAST_CMAKE_ARGS", "GRADNETS_FAST_CUDA", "GRADNETS_FAST_EXTENSION"),  # while it is built
)
"""All that the package and its build read."""


def _variables(request: Request) -> Iterator[Check]:
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIX) and value}
    for name, value in given.items():
        if name not in KNOWN:
            yield Check(
                name, WARNING, f"{value}: nothing reads it", f"correct the name: there are {joined(list(KNOWN))}"
            )
        elif name == backend.ENVIRONMENT_VARIABLE:
            yield _of_backend(name, value, request)
        else:
            yield Check(name, OK, value)
    if not given:
        yield Check("variables", OK, f"none is set whose name begins with {_PREFIX}")


def _of_backend(name: str, value: str, request: Request) -> Check:
    """Whether the backend that a variable names can run."""
    if value not in backend.BACKENDS:
        advice = f"set it to {joined(list(backend.BACKENDS), 'or')}, or: unset {name}"
        return Check(name, FAILURE, f"{value}: no backend, so that every call raises", advice)
    device = request.devices()[-1]
    refusal = backend.why_not(value, device, torch.float32)
    if refusal is None:
        return Check(name, NOTE, f"{value}: every call runs on it, or raises")
    finding = f"{value}: every call must run on it, and those on {device.type} raise: {refusal}"
    return Check(name, WARNING, finding, f"unset {name}")


CHECKS = (_variables,)
