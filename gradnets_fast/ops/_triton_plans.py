"""The plans of the ridge family: launches of the Triton kernels for tensors that kernels read where they are.

Made by _triton.py, on the first call of a size, from the plans of kernels/launch.py, to which they add the memory for
results, and the order of tensors in the operators' arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._kernels import kernel_module
from ._plans import is_current
from .families import Gradients, Quantity, Tensors
from .operator import present

_PARAMETERS = 4
"""W, scale, shift and coef."""

Rule = Callable[[torch.device], Tensor]
_Offset = tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype]
"""Shape, strides, the first number's place, and dtype."""


@dataclass
class ForwardPlan:
    """The launch of a result.

    Attributes:
        device: the GPU's number; -1 of the CPU.
        launch: the tensors of the operator -> the result, where the device is the current one.
    """

    device: int
    launch: Callable[[Tensors], Tensor]

    def run(self, tensors: Tensors) -> Tensor:
        """Return the result."""
        if is_current(self.device):
            return self.launch(tensors)
        with torch.cuda.device(self.device):
            return self.launch(tensors)


def forward_plan(quantity: str, mode: Any, tensors: Tensors, rule: Rule) -> ForwardPlan | None:
    """Return the plan for such tensors, or None where no one launch computes the quantity; rule: of potentials."""
    x = present(tensors[0])
    found = _of_jvp(mode, tensors) if quantity == "jvp" else _of_others(quantity, mode, tensors, rule)
    return None if found is None else ForwardPlan(x.get_device(), found)


def _of_others(quantity: str, mode: Any, tensors: Tensors, rule: Rule) -> Callable[[Tensors], Tensor] | None:
    launch, x, W = kernel_module("launch"), present(tensors[0]), present(tensors[1])
    plan = launch.forward_plan(mode, quantity, x, W.shape, launch.rows_of(x).stride(0))
    if plan is None:
        return None

    def of_value(tensors: Tensors) -> Tensor:
        result: Tensor = plan(tensors[0], (*tensors[1:], None))
        return result

    def of_potential(tensors: Tensors) -> Tensor:
        x = present(tensors[0])
        result: Tensor = plan(x, (*tensors[1:], None, rule(x.device)))
        return result

    def of_derivative(tensors: Tensors) -> Tensor:
        result: Tensor = plan(tensors[0], (*tensors[1:], None, None))
        return result

    return {"value": of_value, "potential": of_potential}.get(quantity, of_derivative)


def _of_jvp(mode: Any, tensors: Tensors) -> Callable[[Tensors], Tensor]:
    launch = kernel_module("launch")
    x, v = (launch.rows_of(present(t)) for t in tensors[:2])
    needed = launch.Needed(x=True)
    plan = launch.backward_plan(mode, "value", (x, v, None), present(tensors[2]).shape, needed, "jvp")

    def of_jvp(tensors: Tensors) -> Tensor:
        x, v, *parameters = tensors
        out = torch.empty_like(present(x), memory_format=torch.contiguous_format)
        plan((x, v, None, None, *parameters, None), (out, None, None, None, None))
        return out

    return of_jvp


@dataclass
class BackwardPlan:
    """The launch of all gradients that are needed.

    Attributes:
        device: the GPU's number; -1 of the CPU.
        launch: g and the tensors of the operator -> the gradients, where the device is the current one.
    """

    device: int
    launch: Callable[[Tensor, Tensors], Gradients]

    def run(self, g: Tensor, tensors: Tensors) -> Gradients:
        """Return the gradients."""
        if is_current(self.device):
            return self.launch(g, tensors)
        with torch.cuda.device(self.device):
            return self.launch(g, tensors)


def backward_plan(
    quantity: Quantity, mode: Any, g: Tensor, tensors: Tensors, needs: Sequence[bool], rule: Rule
) -> BackwardPlan | None:
    """Return the plan for such tensors, or None where no one launch computes the gradients; rule: of potentials."""
    launch, count = kernel_module("launch"), len(quantity.points)
    x, W = present(tensors[0]), present(tensors[count])
    vectors = _Vectors.of(tensors[count + 1 : count + _PARAMETERS], needs[count + 1 : count + _PARAMETERS])
    v_is_needed, bias_is_needed = count == 2 and needs[1], quantity.takes_bias and needs[-1] and tensors[-1] is not None
    needed = launch.Needed(
        needs[0], v_is_needed, needs[count], vectors.flags, vectors.size // W.shape[0], bias_is_needed
    )
    rows = [launch.rows_of(present(t)) for t in tensors[:count]]
    cotangent = {"vector": launch.rows_of, "matrix": lambda g: g}.get(quantity.result, lambda g: None)(g)
    points = (rows[0], cotangent, rows[1] if count == 2 else None)
    plan = launch.backward_plan(mode, quantity.name, points, W.shape, needed)
    if plan is None:
        return None
    is_weight, has_rule = quantity.result == "number", quantity.name == "potential"

    def run(g: Tensor, tensors: Tensors) -> Gradients:
        x, v, parameters = present(tensors[0]), tensors[1] if count == 2 else None, tensors[count : count + _PARAMETERS]
        dx, dv, dW = _memory(x, needs[0]), _memory(v, v_is_needed), _memory(parameters[0], needs[count])
        db = _memory(tensors[-1], bias_is_needed)
        dvectors = vectors.memory(x.device)
        cotangents = (None, v, g) if is_weight else (g, v, None)
        plan((x, *cotangents, *parameters, rule(x.device) if has_rule else None), (dx, dv, dW, dvectors, db))
        of_bias = (db,) if quantity.takes_bias else ()
        return (*(dx, dv)[:count], dW, *vectors.parts(dvectors), *of_bias)

    return BackwardPlan(x.get_device(), run)


def _memory(t: Tensor | None, is_needed: bool) -> Tensor | None:
    return torch.empty_like(t, memory_format=torch.contiguous_format) if is_needed and t is not None else None


@dataclass(frozen=True)
class _Vectors:
    """Where the gradients of scale, shift and coef lie in their memory: one after the other.

    Attributes:
        flags: which of them are needed, and there.
        size: how many numbers they have together.
        dtype: of the memory.
        places: of each, None where it is not needed.
    """

    flags: tuple[bool, ...]
    size: int
    dtype: torch.dtype
    places: tuple[_Offset | None, ...]

    @staticmethod
    def of(vectors: Tensors, needs: Sequence[bool]) -> _Vectors:
        """Return the places for the gradients of such vectors."""
        present = [t if need else None for t, need in zip(vectors, needs)]
        dtypes = {t.dtype for t in present if t is not None}
        places: list[_Offset | None] = []
        at = 0
        for t in present:
            places.append(None if t is None else (tuple(t.shape), t.stride(), at, t.dtype))
            at += 0 if t is None else t.numel()
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        return _Vectors(tuple(t is not None for t in present), at, dtype, tuple(places))

    def memory(self, device: torch.device) -> Tensor | None:
        """Return memory for all of them."""
        return torch.empty(self.size, dtype=self.dtype, device=device) if self.size else None

    def parts(self, memory: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients in it."""
        if memory is None:
            return (None,) * len(self.places)
        return tuple([None if place is None else _part(memory, *place) for place in self.places])


def _part(memory: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], at: int, dtype: torch.dtype) -> Tensor:
    part = memory.as_strided(shape, strides, at)
    return part if part.dtype is dtype else part.to(dtype)
