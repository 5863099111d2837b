"""An operator by its reference, piece by piece of the batch: in memory that no batch makes larger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]

ELEMENTS = 2**22
"""Hidden values of one piece of the batch, about."""


def forward(
    reference: Callable[..., Tensor], tensors: Sequence[Tensor | None], config: str, rows: int, width: int
) -> Tensor:
    """reference(*tensors, config); the first `rows` tensors are (…, d), and a row has `width` hidden values."""
    x = tensors[0]
    assert x is not None
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        pieces = [reference(*part, *tensors[rows:], config) for part in _pieces(tensors[:rows], width)]
    whole = torch.cat(pieces)
    return whole.reshape(*x.shape[:-1], *whole.shape[1:])


def backward(
    reference: Callable[..., Tensor],
    g: Tensor,
    tensors: Sequence[Tensor | None],
    config: str,
    needs: Sequence[bool],
    rows: int,
    width: int,
) -> Gradients:
    """The gradients of <g, reference(*tensors, config)> that are needed; sums over the batch in float32 at least."""
    x = tensors[0]
    assert x is not None
    g = g.detach().reshape(-1, *g.shape[x.dim() - 1 :])
    leaves = [None if t is None else t.detach() for t in tensors]
    of_rows: list[list[Tensor]] = [[] for _ in range(rows)]
    sums: list[Tensor | None] = [
        torch.zeros(t.shape, dtype=_sum_dtype(t), device=t.device) if need and t is not None else None
        for t, need in zip(leaves[rows:], needs[rows:])
    ]
    start = 0
    # A caller may be a kernel of the dispatcher's, where nothing is recorded otherwise.
    autograd = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with autograd, torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        for part in _pieces(leaves[:rows], width):
            inputs = [
                t if t is None or not need else t.detach().requires_grad_()
                for t, need in zip([*part, *leaves[rows:]], needs)
            ]
            result = reference(*inputs, config)
            wanted = [t for t, need in zip(inputs, needs) if t is not None and need]
            found = iter(torch.autograd.grad(result, wanted, g[start : start + len(result)], materialize_grads=True))
            start += len(result)
            parts = [next(found) if t is not None and need else None for t, need in zip(inputs, needs)]
            for collected, gradient in zip(of_rows, parts):
                if gradient is not None:
                    collected.append(gradient)
            for total, gradient in zip(sums, parts[rows:]):
                if total is not None and gradient is not None:
                    total += gradient
    whole = [torch.cat(pieces).reshape(x.shape) if pieces else None for pieces in of_rows]
    cast = [None if s is None or t is None else s.to(t.dtype) for s, t in zip(sums, tensors[rows:])]
    return (*whole, *cast)


def _pieces(rows: Sequence[Tensor | None], width: int) -> Iterator[list[Tensor]]:
    matrices = [t.detach().reshape(-1, t.shape[-1]) for t in rows if t is not None]
    step = max(1, ELEMENTS // width)
    for start in range(0, len(matrices[0]), step):
        yield [matrix[start : start + step] for matrix in matrices]


def _sum_dtype(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)
