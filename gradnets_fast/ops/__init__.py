"""Operators: what kernels compute, with its derivatives, registered with PyTorch.

`OPERATORS[family][quantity]` is an operator on each backend that has compiled kernels, for example
OPERATORS["ridge"]["jvp"].cpp.  Called by gradnets_fast/functional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from . import families
from ._cpp import CppKernels
from ._triton import RidgeKernels
from ._triton_conv import ConvKernels
from ._triton_deep import QUANTITIES as _OF_DEEP
from ._triton_deep import DeepKernels
from ._triton_modules import ModuleKernels
from .operator import Kernels, Operator
from .recompute import Recomputed
from .registration import register


class Backends(NamedTuple):
    """One operator on each backend that has compiled kernels."""

    cpp: Operator
    triton: Operator


_FIVE = ("value", "jvp", "potential", "divergence", "jacobian")

_COMPILED: dict[tuple[str, str], tuple[Callable[[Operator], Kernels], tuple[str, ...]]] = {
    ("cpp", "ridge"): (CppKernels, _FIVE),
    ("cpp", "softmax_modules"): (CppKernels, (*_FIVE, "value_and_potential")),
    ("cpp", "transformed_modules"): (CppKernels, (*_FIVE, "value_and_potential")),
    ("cpp", "deep"): (CppKernels, (*_FIVE, "value_and_potential")),
    ("cpp", "conv_ridge"): (CppKernels, _FIVE[:4]),
    ("triton", "conv_ridge"): (ConvKernels, _FIVE[:4]),
    ("triton", "ridge"): (RidgeKernels, _FIVE),
    ("triton", "softmax_modules"): (ModuleKernels, ("value", "jvp", "potential")),
    ("triton", "transformed_modules"): (ModuleKernels, ("value", "jvp", "potential")),
    ("triton", "deep"): (DeepKernels, _OF_DEEP),
}
"""Backend and family → what calls their compiled kernels, and the quantities that these compute.

The reference computes the rest, in pieces of the batch.  On a GPU modules' value and potential are called one after the
other, whose kernels there are.
"""


def _kernels_of(backend: str, family: families.Family, quantity: str) -> Callable[[Operator], Kernels]:
    """Return what makes the kernels of an operator."""
    compiled, quantities = _COMPILED.get((backend, family.name), (Recomputed, ()))
    return compiled if quantity in quantities else Recomputed


def _operators(family: families.Family) -> dict[str, Backends]:
    """Make and register the operators of a family, J v first, which others need for their derivatives."""
    made: dict[str, Backends] = {}
    for name in sorted(family.quantities, key=lambda name: name != "jvp"):
        quantity = families.QUANTITIES[name]
        jvp = made["jvp"] if name in ("value", "value_and_potential", "jacobian") else None
        made[name] = Backends(
            register(Operator(family, quantity, "cpp", _kernels_of("cpp", family, name), jvp and jvp.cpp)),
            register(Operator(family, quantity, "triton", _kernels_of("triton", family, name), jvp and jvp.triton)),
        )
    return made


OPERATORS = {name: _operators(family) for name, family in families.FAMILIES.items()}
