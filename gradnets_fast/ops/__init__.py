"""Operators: what kernels compute, with its derivatives, registered with PyTorch.

`OPERATORS[family][quantity]` is an operator on each backend that has compiled kernels, for example
OPERATORS["ridge"]["jvp"].cpp.  Called by gradnets_fast/functional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ._cpp import CppKernels
from ._triton import RidgeKernels
from ._triton_modules import ModuleKernels
from .families import FAMILIES, QUANTITIES, Family
from .operator import Kernels, Operator
from .recompute import Recomputed
from .registration import register


class Backends(NamedTuple):
    """One operator on each backend that has compiled kernels."""

    cpp: Operator
    triton: Operator


_QUANTITIES_BY_KERNELS: dict[Callable[[Operator], Kernels], tuple[str, ...]] = {
    CppKernels: ("value", "jvp", "potential", "divergence", "jacobian", "value_and_potential"),
    RidgeKernels: ("value", "jvp", "potential", "divergence", "jacobian"),
    ModuleKernels: ("value", "jvp", "potential"),
}
"""What compiled kernels compute; the reference computes the rest in pieces of the batch."""


def _kernels(backend: str, family: Family, quantity: str) -> Callable[[Operator], Kernels]:
    """Return what makes the kernels of an operator."""
    compiled = CppKernels if backend == "cpp" else ModuleKernels if family.of_modules else RidgeKernels
    return compiled if quantity in _QUANTITIES_BY_KERNELS[compiled] else Recomputed


def _operators(family: Family) -> dict[str, Backends]:
    """Make and register the operators of a family, J v first, which others need for their second derivatives."""
    made: dict[str, Backends] = {}
    for name in sorted(family.quantities, key=lambda name: name != "jvp"):
        quantity = QUANTITIES[name]
        jvp = made["jvp"] if name in ("value", "value_and_potential") else None
        made[name] = Backends(
            register(Operator(family, quantity, "cpp", _kernels("cpp", family, name), jvp and jvp.cpp)),
            register(Operator(family, quantity, "triton", _kernels("triton", family, name), jvp and jvp.triton)),
        )
    return made


OPERATORS = {name: _operators(family) for name, family in FAMILIES.items()}
