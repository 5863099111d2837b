"""Operators: what kernels compute, with its derivatives, registered with PyTorch.

`OPERATORS[family][quantity]` is an operator's form on each backend, for example OPERATORS["ridge"]["jvp"].cpp; the
names below are those of a family.  Called by gradnets_fast/functional.
"""

from __future__ import annotations

from typing import NamedTuple

from ._cpp import CppKernels
from ._triton import RidgeKernels
from ._triton_modules import ModuleKernels
from .families import FAMILIES, QUANTITIES, Family
from .operator import Operator
from .registration import register


class Backends(NamedTuple):
    """One operator on each backend that has compiled kernels."""

    cpp: Operator
    triton: Operator


def _operators(family: Family) -> dict[str, Backends]:
    """Make and register the operators of a family, J v first, which others need for their second derivatives."""
    triton = ModuleKernels if family.of_modules else RidgeKernels
    made: dict[str, Backends] = {}
    for name in sorted(family.quantities, key=lambda name: name != "jvp"):
        quantity = QUANTITIES[name]
        jvp = made["jvp"] if name in ("value", "value_and_potential") else None
        made[name] = Backends(
            register(Operator(family, quantity, "cpp", CppKernels, jvp and jvp.cpp)),
            register(Operator(family, quantity, "triton", triton, jvp and jvp.triton)),
        )
    return made


OPERATORS = {name: _operators(family) for name, family in FAMILIES.items()}
