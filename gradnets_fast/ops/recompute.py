"""Operators by their reference, in pieces of the batch: in memory that no batch makes larger.

Called by autograd.py for second derivatives that have no kernel, and by the callers of the Triton kernels for
quantities and sizes that have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .families import Gradients, Settings, Tensors
from .operator import Kernels, Operator, present

VALUES = 2**22
"""About how many hidden values a piece of the batch has, for a result and its gradients."""

DOUBLE_BACKWARD_VALUES = 2**20
"""The same for the double backward, of which autograd keeps several times as much."""


class Recomputed(Kernels):
    """The kernels of an operator that has none: its reference, in pieces of the batch."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result."""
        return forward(self._operator, tensors, settings)

    def backward(self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
        """Return the gradients of <g, result> in the tensors that `needs` marks."""
        return backward(self._operator, g, tensors, settings, needs)


def forward(operator: Operator, tensors: Tensors, settings: Settings) -> Tensor:
    """Return the operator's result, without a graph."""
    x = present(tensors[0])
    if not x.numel():
        return x.new_empty(operator.result_shape(x))
    points, parameters = _flat(operator, tensors)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        pieces = [
            operator.by_reference([*_cut(points, rows), *parameters], settings)
            for rows in _pieces(operator, tensors, settings, VALUES)
        ]
    whole = torch.cat(pieces)
    return whole.reshape((*x.shape[:-1], *whole.shape[1:]))


def backward(operator: Operator, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
    """Return the gradients of <g, result> that are needed; sums over the batch are in float32 at least."""
    x = present(tensors[0])
    g = _flat_cotangent(g, x)
    points, parameters = _flat(operator, tensors)
    of_points: list[list[Tensor]] = [[] for _ in points]
    sums = _zeros(parameters, needs[len(points) :])
    with _recording(x):
        for rows in _pieces(operator, tensors, settings, VALUES):
            leaves = _leaves([*_cut(points, rows), *parameters], needs)
            result = operator.by_reference(leaves, settings)
            targets = [t for t, need in zip(leaves, needs) if t is not None and need]
            found = iter(torch.autograd.grad(result, targets, g[rows], materialize_grads=True))
            _collect(
                [next(found) if t is not None and need else None for t, need in zip(leaves, needs)], of_points, sums
            )
    return _gathered(of_points, sums, [x.shape] * len(points), needs, tensors)


def double_backward(
    operator: Operator, needs: Sequence[bool], g: Tensor, tensors: Tensors, settings: Settings, cotangents: Tensors
) -> Gradients:
    """Return the gradients of Σ_i <cotangent_i, ∇_i <g, f>> in g and each of the tensors.

    cotangents: one for each of the tensors, or None.  needs: for g and each of the tensors.
    """
    x = present(tensors[0])
    flat_g = _flat_cotangent(g, x)
    points, parameters = _flat(operator, tensors)
    count = len(points)
    along = [None if c is None else c.detach().reshape(-1, c.shape[-1]) for c in cotangents[:count]]
    of_points: list[list[Tensor]] = [[] for _ in range(1 + count)]
    sums = _zeros(parameters, needs[1 + count :])
    with _recording(x):
        for rows in _pieces(operator, tensors, settings, DOUBLE_BACKWARD_VALUES):
            piece = [*_cut(points, rows), *parameters]
            pairs = [*(None if c is None else c[rows] for c in along), *cotangents[count:]]
            _collect(_second_derivatives(operator, needs, [flat_g[rows], *piece], settings, pairs), of_points, sums)
    return _gathered(of_points, sums, [g.shape, *[x.shape] * count], needs, [g, *tensors])


def _second_derivatives(
    operator: Operator, needs: Sequence[bool], tensors: Tensors, settings: Settings, cotangents: Tensors
) -> list[Tensor | None]:
    """Return the gradients that are needed of one piece; tensors: g first.  Zeros where there is no influence."""
    moves = [True, *(c is not None for c in cotangents)]
    g, *inputs = leaves = _leaves(tensors, [need or move for need, move in zip(needs, moves)])
    pairs = [(t, c) for t, c in zip(inputs, cotangents) if t is not None and c is not None]
    f = operator.by_reference(inputs, settings)
    first = torch.autograd.grad(f, [t for t, _ in pairs], g, create_graph=True, materialize_grads=True)
    total = sum(((d * c.detach()).sum() for d, (_, c) in zip(first, pairs)), f.new_zeros(()))
    targets = [t for t, need in zip(leaves, needs) if t is not None and need]
    if total.requires_grad:
        found = iter(torch.autograd.grad(total, targets, materialize_grads=True))
    else:
        found = iter([torch.zeros_like(t) for t in targets])
    return [next(found) if t is not None and need else None for t, need in zip(leaves, needs)]


@contextmanager
def _recording(x: Tensor) -> Iterator[None]:
    """Let autograd record: the caller may be a kernel of the dispatcher's, where it would not."""
    autograd = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with autograd, torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        yield


def _flat(operator: Operator, tensors: Tensors) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the points as (rows, d), and the parameters, all detached."""
    detached = [None if t is None else t.detach() for t in tensors]
    points = [t.reshape(-1, t.shape[-1]) for t in detached[: operator.point_count] if t is not None]
    return points, detached[operator.point_count :]


def _flat_cotangent(g: Tensor, x: Tensor) -> Tensor:
    """Return g with one leading dimension, that of the rows."""
    return g.detach().reshape(x.shape[:-1].numel(), *g.shape[x.dim() - 1 :])


def _pieces(operator: Operator, tensors: Tensors, settings: Settings, values: int) -> Iterator[slice]:
    """Yield the rows of each piece of the batch."""
    batch, step = present(tensors[0]).shape[:-1].numel(), max(1, values // operator.row_values(tensors, settings))
    for start in range(0, batch, step):
        yield slice(start, start + step)


def _cut(points: Sequence[Tensor], rows: slice) -> list[Tensor]:
    return [point[rows] for point in points]


def _leaves(tensors: Tensors, needs: Sequence[bool]) -> list[Tensor | None]:
    return [None if t is None else t.detach().requires_grad_(need) for t, need in zip(tensors, needs)]


def _zeros(parameters: Tensors, needs: Sequence[bool]) -> list[Tensor | None]:
    """Return the sums over the batch at their start, in float32 at least."""
    return [
        torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32), device=t.device)
        if need and t is not None
        else None
        for t, need in zip(parameters, needs)
    ]


def _collect(found: Tensors, of_points: list[list[Tensor]], sums: list[Tensor | None]) -> None:
    """Put one piece's gradients of points aside, and add those of parameters to the sums."""
    for pieces, gradient in zip(of_points, found):
        if gradient is not None:
            pieces.append(gradient)
    for total, gradient in zip(sums, found[len(of_points) :]):
        if total is not None and gradient is not None:
            total += gradient


def _gathered(
    of_points: list[list[Tensor]],
    sums: list[Tensor | None],
    shapes: Sequence[torch.Size],
    needs: Sequence[bool],
    tensors: Tensors,
) -> Gradients:
    """Return the pieces of each point's gradient as one, zeros for an empty batch, and the sums in their dtypes."""
    empty = present(tensors[0]).new_zeros(0)
    whole = [torch.cat(p or [empty]).reshape(s) if need else None for p, s, need in zip(of_points, shapes, needs)]
    cast = [None if s is None or t is None else s.to(t.dtype) for s, t in zip(sums, tensors[len(of_points) :])]
    return (*whole, *cast)
