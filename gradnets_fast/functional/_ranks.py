"""Operators whose parameters are divided among the ranks of a mesh: each rank computes its part of the sum.

f is a sum over hidden units (ridge) or over modules, and so are J v, the potential, the divergence and the Jacobian.
What a rank holds of the parameters is an operator of its own; one all-reduce adds the parts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import message
from ..ops.operator import PLAIN_TYPES

Parts = tuple[Any, ...]
"""Tensors, some of them None: what a rank holds of an operator's points or parameters."""


def is_distributed(tensor: Tensor | None) -> bool:
    """Whether it is a DTensor; torch.distributed is not imported to tell."""
    if type(tensor) in PLAIN_TYPES:
        return False
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def over_ranks(
    where: str,
    function: Callable[[Parts, Parts], Tensor],
    points: Parts,
    parameters: Parts,
) -> Tensor:
    """function(points, parameters), where W, the first of the parameters, is a DTensor; the same on every rank.

    Placements, for each dimension of W's mesh: a ridge's hidden units stay as W has them, Shard(0) or Replicate();
    modules are dealt to the ranks if there are some for each.  Other parameters follow W.  The points are plain
    tensors, equal on all ranks.  Gradients of parameters come placed as the parameters are.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    W: Any = parameters[0]
    if not is_distributed(W):
        fix = "distribute it too, for example with Replicate()"
        raise TypeError(message(where, "W", "a DTensor beside others", "a plain tensor", fix))
    if any(is_distributed(point) for point in points):
        fix = "pass the points whole, for example x.full_tensor(), or a rank's own ones to a network under FSDP"
        raise TypeError(message(where, "x", "a plain tensor beside distributed parameters", "a DTensor", fix))
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        fix = "take the network's own jvp, divergence and jacobian, or torch.autograd"
        raise RuntimeError(message(where, "torch.func transform", "none over distributed parameters", "one", fix))
    mesh = W.device_mesh
    divided = _divided(W)
    if not smallest_part(W.shape[0], [size for size, d in zip(mesh.shape, divided) if d]):
        got, fix = f"{W.shape[0]} over {tuple(mesh.shape)}", "use a smaller mesh"
        raise ValueError(message(where, "W", "hidden units on every rank", got, fix))

    def part(tensor: Tensor | None, is_weight: bool) -> Tensor | None:
        if tensor is None:
            return None
        if not isinstance(tensor, DTensor):
            tensor = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
        dim = 0 if is_weight or W.dim() == 3 else tensor.dim() - 1
        placements = [Shard(dim) if d else Replicate() for d in divided]
        local: Tensor = tensor.redistribute(mesh, placements).to_local()
        return local

    parts = [part(tensor, i == 0) for i, tensor in enumerate(parameters)]
    groups = [mesh.get_group(i) for i, d in enumerate(divided) if d]
    entered = list(points)
    for group in groups:
        entered = [_apply(_Entered, point, group) for point in entered]
    result = function(tuple(entered), tuple(parts))
    for group in groups:
        result = _apply(_Sum, result, group)
    return result


def whole(tensor: Any) -> Any:
    """A DTensor in full, on every rank; anything else as it is."""
    return tensor.full_tensor() if is_distributed(tensor) else tensor


def smallest_part(units: int, sizes: Sequence[int]) -> int:
    """How many of `units` the last rank has, where mesh dimensions of these sizes divide them, one after another.

    DTensor gives each rank ⌈units / size⌉ of them while there are any, so that the last may have none.

    >>> smallest_part(11, [4]), smallest_part(9, [4]), smallest_part(9, [])
    (2, 0, 9)
    """
    for size in sizes:
        units = max(0, units - (size - 1) * -(-units // size))
    return units


def _divided(W: Any) -> list[bool]:
    """For each dimension of the mesh, whether its ranks have different hidden units or modules."""
    if W.dim() == 2:
        return [placement.is_shard(0) for placement in W.placements]
    chosen: list[bool] = []
    for size in W.device_mesh.shape:
        before = [other for other, divides in zip(W.device_mesh.shape, chosen) if divides]
        chosen.append(smallest_part(W.shape[0], [*before, size]) > 0)
    return chosen


def _apply(function: Any, tensor: Tensor, group: Any) -> Tensor:
    result: Tensor = function.apply(tensor, group)
    return result


class _Sum(torch.autograd.Function):
    """The sum of all ranks' tensors, on each of them; a gradient of it is one of each part."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, None]:
        return _apply(_Entered, g, ctx.group), None


class _Entered(torch.autograd.Function):
    """A tensor that is equal on all ranks, for each to compute its part with: the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, None]:
        return _apply(_Sum, g, ctx.group), None
