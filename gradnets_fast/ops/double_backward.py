"""The double backward of any operator, recomputed with the reference in batch chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .operator import Operator

Gradients = tuple[Tensor | None, ...]

DOUBLE_BACKWARD_ELEMENTS = 2**20
"""The double backward recomputes with the reference, in batch chunks of about this many hidden values."""


def double_backward(
    operator: Operator,
    config: str,
    wanted: Sequence[bool],
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> Gradients:
    """The gradients of Σ <cotangent_i, ∇_i <g, f>> for (g, x, *parameters), by the reference, in chunks of the batch.

    Shapes: tensors = (g (…, d), x (…, d), *parameters), cotangents = one for x and each parameter, or None; where the
    operator has more arguments of x's shape, they follow x.
    Memory: O(DOUBLE_BACKWARD_ELEMENTS) beyond the results, whatever the batch.
    """
    count = 1 + operator.rows
    g, x = tensors[:2]
    assert g is not None
    assert x is not None
    batch = x.shape[:-1].numel()
    rows = [g.detach().reshape(batch, *g.shape[x.dim() - 1 :]), *(_rows(t) for t in tensors[1:count])]
    row_cotangents = [_rows(c) for c in cotangents[: operator.rows]]
    parameters = tensors[count:]
    row_results: list[list[Tensor]] = [[] for _ in rows]
    sums: list[Tensor | None] = [
        torch.zeros_like(p, memory_format=torch.contiguous_format) if want and p is not None else None
        for p, want in zip(parameters, wanted[count:])
    ]
    step = max(1, DOUBLE_BACKWARD_ELEMENTS // operator.hidden_width(*tensors[1:]))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        chunk = [None if t is None else t[part] for t in rows]
        chunk_cotangents = [None if c is None else c[part] for c in row_cotangents]
        with torch.autocast(x.device.type, enabled=False):
            results = _double_backward_chunk(
                *(operator, config, wanted, [*chunk, *parameters], [*chunk_cotangents, *cotangents[operator.rows :]])
            )
        for collected, result, want in zip(row_results, results, wanted):
            if want:
                collected.append(result)
        for total, result in zip(sums, results[count:]):
            if total is not None:
                total += result
    shapes = [g.shape] + [x.shape] * operator.rows
    whole = [(torch.cat(p) if p else x.new_zeros(s)).reshape(s) for p, s in zip(row_results, shapes)]
    return tuple(part if want else None for part, want in zip(whole, wanted)) + tuple(sums)


def _rows(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().reshape(-1, tensor.shape[-1])


def _double_backward_chunk(
    operator: Operator,
    config: str,
    wanted: Sequence[bool],
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> list[Tensor]:
    """Zeros stand for the gradients of arguments that are None, not wanted, or without influence."""
    with torch.enable_grad():
        active = [c is not None for c in cotangents]
        needed = [want or moving for want, moving in zip(wanted, [True, *active])]
        leaves = [None if t is None else t.detach().requires_grad_(need) for t, need in zip(tensors, needed)]
        g, *inputs = leaves
        pairs = [(t, c) for t, c in zip(inputs, cotangents) if t is not None and c is not None]
        f = operator.reference(*inputs, config)
        first = torch.autograd.grad(f, [t for t, _ in pairs], g, create_graph=True, materialize_grads=True)
        total = sum(((d * c.detach()).sum() for d, (_, c) in zip(first, pairs)), f.new_zeros(()))
        targets = [t for t, want in zip(leaves, wanted) if t is not None and want]
        second = torch.autograd.grad(total, targets, materialize_grads=True) if total.requires_grad else ()
    remaining = iter(second or [torch.zeros_like(t) for t in targets])
    return [next(remaining) if t is not None and want else f.new_zeros(()) for t, want in zip(leaves, wanted)]
