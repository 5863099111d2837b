"""One operator: a quantity of a family by one backend's kernels, and what autograd, vmap and torch.compile need of it.

`gradnets_fast/functional` calls operators; autograd.py gives them derivatives, registration.py tells torch.compile of
them, and the kernels are called by _cpp.py, _triton.py and _triton_modules.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import profiler

from .families import SOFT_MAXIMUM, Family, Gradients, Quantity, Settings, Tensors

NAMESPACE = re.sub(r"\W", "_", __name__.removesuffix(".ops.operator"))
"""The operators' namespace in torch.ops, after the name by which the package was imported: copies of it do not meet."""

PLAIN_TYPES = (Tensor, torch.nn.Parameter, type(None))
"""Types that compiled kernels read as they are; other subclasses of Tensor may give operations another meaning."""


_Result = TypeVar("_Result")


def shown(name: str, kernel: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call a kernel beside the dispatcher, and have a profile show what it would show of a registered operator."""
    if not profiler._is_profiler_enabled:
        return kernel(*arguments)
    with profiler.record_function(f"{NAMESPACE}::{name}"):
        return kernel(*arguments)


def present(tensor: Tensor | None) -> Tensor:
    """Return an argument that an operator always has."""
    assert tensor is not None
    return tensor


class Kernels(Protocol):
    """The compiled kernels of one operator.  tensors: the operator's arguments, in their order."""

    def attempt(self, tensors: Tensors, settings: Settings) -> Tensor | None:
        """Return the result for tensors that have not been checked.

        None, as here, if the kernels neither check them nor know that such tensors have been checked before.
        """
        return None

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result."""

    def forward_of_checked(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return `forward` of tensors that have been checked, which `attempt` may remember."""
        return self.forward(tensors, settings)

    def backward(self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
        """Return the gradients of <g, result>, None where `needs` is False."""

    def keeping(self, tensors: Tensors, settings: Settings) -> tuple[Tensor, Tensor] | None:
        """Return the result and what `backward_of_kept` makes less work of; None, as here, if there is no such thing.

        The tensors may be unchecked; None is also the answer to those that the kernels cannot read.
        """
        return None

    def backward_of_kept(
        self, g: Tensor, tensors: Tensors, kept: Tensor, settings: Settings, needs: Sequence[bool]
    ) -> Gradients:
        """Return `backward`, by what `keeping` has returned beside the result."""
        return self.backward(g, tensors, settings, needs)


class Operator:
    """A quantity of a family, (*tensors) -> result, by one backend.

    With S = <g, f> every backward pass is ∇S.  The Jacobian of f in each argument of x's shape is symmetric, so that
    J(x) v is the backward pass with v in place of g.

    Attributes:
        family, quantity, backend, kernels: what it computes, and by whose kernels: "cpp" or "triton".
        jvp: the operator J(x) v of the same family and backend, whose backward pass is the double backward of f for a
            cotangent of x alone, and has the derivatives of J's columns; None where neither is wanted.
        name: its name in the public API.
        registered: its name in `NAMESPACE`.
        arguments: its tensor arguments, points first, bias last; a trailing "?" marks one that may be None.
        point_count: how many arguments have x's shape.
        recording: the autograd.Function that records a result of plain tensors, which registration gives it.
    """

    recording: Any

    def __init__(
        self,
        family: Family,
        quantity: Quantity,
        backend: str,
        kernels: Callable[[Operator], Kernels],
        jvp: Operator | None = None,
    ) -> None:
        self.family, self.quantity, self.backend, self.jvp = family, quantity, backend, jvp
        self.name = family.operator_name(quantity.name)
        self.registered = self.name if backend == "cpp" else f"{self.name}_{backend}"
        combine = SOFT_MAXIMUM if backend == "triton" and family.of_modules else ()
        bias = ("bias?",) if quantity.takes_bias else ()
        self.arguments = (*quantity.points, *family.parameters, *combine, *bias)
        self.point_count = len(quantity.points)
        self.kernels = kernels(self)

    def is_point(self, before: int = 0) -> tuple[bool, ...]:
        """Return, for `before` points and then each argument, whether it has x's shape."""
        return (True,) * (before + self.point_count) + (False,) * (len(self.arguments) - self.point_count)

    def result_shape(self, x: Tensor) -> torch.Size:
        """Return the shape of the result at points x (…, d)."""
        return self.quantity.result_shape(x.shape)

    def row_values(self, tensors: Tensors, settings: Settings) -> int:
        """Return how many values one row takes in the reference, which bounds its pieces of the batch."""
        x = tensors[0]
        assert x is not None
        # A Jacobian has d tangents for each hidden value, and so has a deep network's divergence.
        is_trace = self.quantity.name == "divergence" and settings.structure is not None
        each = x.shape[-1] if self.quantity.result == "matrix" or is_trace else 1
        return self.family.hidden_values(tensors[self.point_count :], settings) * each

    def by_reference(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result in plain PyTorch, differentiable any number of times."""
        points = [point for point in tensors[: self.point_count] if point is not None]
        names = (name.rstrip("?") for name in self.arguments[self.point_count :])
        parameters = dict(zip(names, tensors[self.point_count :]))
        return self.family.by_reference(self.quantity.name, points, parameters, settings)


def none_where_not_needed(parts: Sequence[Tensor | None], tensors: Tensors, needs: Sequence[bool]) -> Gradients:
    """Return the gradients that are needed of the tensors that are there, None in place of the others."""
    return tuple(part if need and tensor is not None else None for part, tensor, need in zip(parts, tensors, needs))
