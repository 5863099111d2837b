"""The rule by which a backend passes: at most twice the error of eager PyTorch in the same dtype, plus a floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[[Sequence[Tensor]], Tensor]
Derivatives = Callable[[Function, Sequence[Tensor], Tensor], list[Tensor]]

FLOOR_ULPS = 8.0
FLOAT64_FLOOR_ULPS = 64.0
"""In float64 eager PyTorch is the oracle itself, so its error reads 0 and the floor stands for it."""


def outputs_and_gradients(function: Function, tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """f, and the gradients of <g, f> for every tensor."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    f = function(leaves)
    gradients = torch.autograd.grad(f, leaves, g.to(f.dtype), materialize_grads=True)
    return [f.detach(), *gradients]


def eager_and_exact(
    function: Function, tensors: Sequence[Tensor], g: Tensor, derivatives: Derivatives = outputs_and_gradients
) -> tuple[list[Tensor], list[Tensor]]:
    """What a function of PyTorch's makes of the tensors, and of the same numbers in float64, as they may be already."""
    eager = derivatives(function, tensors, g)
    if all(t.dtype == torch.float64 for t in (*tensors, g)):
        return eager, eager
    return eager, derivatives(function, [t.double() for t in tensors], g.double())


def assert_each_gradient_alone(function: Function, tensors: Sequence[Tensor], g: Tensor) -> None:
    """The gradient of <g, f> in a tensor is the same where no other one is asked for, and then no other is there."""
    everything = outputs_and_gradients(function, tensors, g)[1:]
    for needed, expected in enumerate(everything):
        leaves = [t.detach().requires_grad_(i == needed) for i, t in enumerate(tensors)]
        result = function(leaves)
        if result.requires_grad:
            result.backward(g)
            assert [t.grad is not None for t in leaves] == [i == needed for i in range(len(leaves))]
            torch.testing.assert_close(leaves[needed].grad, expected, rtol=1e-5, atol=1e-6)
        else:
            assert not expected.any()


def second_gradients(function: Function, tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The gradients of Σ <v_i, ∇_i <g, f>>, with fixed pseudo-random v, for g and every tensor."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    cotangent = g.detach().requires_grad_()
    first = torch.autograd.grad(function(leaves), leaves, cotangent, create_graph=True, materialize_grads=True)
    total = sum((d * torch.sin(torch.arange(d.numel(), dtype=d.dtype) + 1).view_as(d)).sum() for d in first)
    return list(torch.autograd.grad(total, [cotangent, *leaves], materialize_grads=True))


def assert_as_good_as_eager(ours: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """Each tensor's largest error against the float64 one is at most twice eager's, plus the floor.

    The floor is in units of the largest value of all the tensors: a sum over the batch may cancel to much less than its
    terms, whose rounding errors it keeps.
    """
    assert len(ours) == len(eager) == len(exact)
    largest = max((t.abs().max().item() for t in exact if t.numel()), default=0.0)
    for position, (mine, theirs, truth) in enumerate(zip(ours, eager, exact)):
        assert mine.shape == truth.shape, position
        assert mine.dtype == theirs.dtype, position
        if not truth.numel():
            continue
        error = (mine.double() - truth).abs().max().item()
        eager_error = (theirs.double() - truth).abs().max().item()
        assert math.isfinite(eager_error), (position, "eager overflowed: it allows anything")
        ulps = FLOAT64_FLOOR_ULPS if mine.dtype == torch.float64 else FLOOR_ULPS
        floor = ulps * torch.finfo(mine.dtype).eps * largest
        assert error <= 2 * eager_error + floor, (position, error, eager_error, floor)


def assert_rounded_once(ours: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """Results in 16 bits are float32's, by the rule above, each rounded to the nearest.

    Eager PyTorch in 16 bits rounds its hidden values too, which hides sums in 16 bits.  `eager` is in float32, on the
    same numbers; `exact` in float64.
    """
    assert len(ours) == len(eager) == len(exact)
    largest = max((t.abs().max().item() for t in exact if t.numel()), default=0.0)
    for position, (mine, theirs, truth) in enumerate(zip(ours, eager, exact)):
        assert theirs.dtype == torch.float32
        kind = torch.finfo(mine.dtype)
        error32 = (
            2 * (theirs.double() - truth).abs().max().item() + FLOOR_ULPS * torch.finfo(torch.float32).eps * largest
        )
        # Half a unit in the last place; below the smallest normal number units are all alike.
        rounding = kind.eps * truth.abs().add(error32).clamp(min=kind.tiny)
        assert ((mine.double() - truth).abs() <= error32 + rounding / 2).all(), position
