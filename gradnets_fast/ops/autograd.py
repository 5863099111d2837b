"""The derivatives of every operator: autograd twice, forward mode, and vmap.

An operator is linear algebra around a scalar potential, so its Jacobian in x is symmetric.  With
S(x, θ) = <g, f(x; θ)>, the backward pass is ∇S, and differentiating that once more in the direction v is the
Hessian of S times v; both second-order rules below rest on this.

`gradnets_fast/functional` calls `run` or, on its short way, `recorded`.  In eager mode the autograd Functions of this
file run (torch.func needs them); under torch.compile and torch.jit.trace, the operators of registration.py do, for what
is traced is operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import message
from . import recompute
from .families import Gradients, Settings, Tensors
from .operator import NAMESPACE, PLAIN_TYPES, Operator, none_where_not_needed

_registered = getattr(torch.ops, NAMESPACE)


def run(operator: Operator, tensors: Tensors, settings: Settings) -> Tensor:
    """Return the operator's result by kernels, differentiable twice."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        if torch._C._are_functorch_transforms_active():
            # The compiler cannot trace an autograd.Function with a jvp inside torch.func.
            return operator.by_reference(tensors, settings)
        compiled: Tensor = getattr(_registered, operator.registered)(*tensors, settings.text())
        return compiled
    if no_transform_is_active() and all(type(t) in PLAIN_TYPES for t in tensors):
        return recorded(operator, operator.kernels.forward(tensors, settings), tensors, settings)
    # A compiled module under torch.func may fall back to running here, frame by frame: traced, the autograd
    # Functions below would lose tangents.
    prior = torch._C._dynamo.eval_frame.set_eval_frame(None)
    try:
        result: Tensor = _apply(Forward, operator, settings, *tensors)
    finally:
        torch._C._dynamo.eval_frame.set_eval_frame(prior)
    return result


def recorded(operator: Operator, result: Tensor, tensors: Tensors, settings: Settings) -> Tensor:
    """Return a result that kernels gave, with its backward pass where a tensor requires one."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                with_graph: Tensor = _apply(_Recorded, operator, [result], settings, *tensors)
                return with_graph
    return result


def no_transform_is_active() -> bool:
    """Return whether no torch.func transform, dispatch mode, forward-mode level or tracer is active.

    Plain tensors can then take the cheap autograd.Function `_Recorded`.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and forward_ad._current_level < 0
        and torch._C._get_tracing_state() is None
    )


def third_derivative_message(name: str) -> str:
    """Return why no more than two derivatives can be taken, and what to do."""
    return message(
        name,
        "derivative order",
        "at most two derivatives through compiled kernels (one where forward mode in the parameters is involved)",
        "one more",
        'run the model under gradnets_fast.use_backend("reference")',
    )


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


def _below_autograd(name: str, *arguments: Any) -> Any:
    """Call a registered operator's kernel by the dispatcher: fake, traced and batched tensors are its business."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(_registered, name)(*arguments)


class _Recorded(torch.autograd.Function):
    """A result that is there already: `Forward` without what torch.func needs, which costs more than a small call."""

    @staticmethod
    def forward(
        ctx: Any, operator: Operator, result: list[Tensor], settings: Settings, *tensors: Tensor | None
    ) -> Tensor:
        ctx.operator, ctx.settings = operator, settings
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return result[0]  # in a list, as no input of the Function's

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if g is None:
            return (None,) * (3 + len(tensors))
        # autograd.functional's vectorize=True batches g by a vmap of its own, outside of torch.func.
        batched = torch._C._functorch.is_legacy_batchedtensor(g)
        if torch.is_grad_enabled() or batched or type(g) is not Tensor or not no_transform_is_active():
            return None, None, None, *_apply(Backward, ctx.operator, ctx.settings, needs, g, *tensors)
        return None, None, None, *ctx.operator.kernels.backward(g, tensors, ctx.settings, needs)


class Forward(torch.autograd.Function):
    """f(x), differentiable in every mode."""

    @staticmethod
    def forward(operator: Operator, settings: Settings, *tensors: Tensor | None) -> Tensor:
        result: Tensor = _below_autograd(operator.registered, *tensors, settings.text())
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operator, ctx.settings, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * (2 + len(ctx.saved_tensors))
        needs = tuple(ctx.needs_input_grad[2:])
        return None, None, *_apply(Backward, ctx.operator, ctx.settings, needs, g, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, _operator: None, _settings: None, *tangents: Tensor | None) -> Tensor:
        tensors, operator, settings = ctx.saved_tensors, ctx.operator, ctx.settings
        only_points = all(tangent is None for tangent in tangents[operator.point_count :])
        if only_points and operator.quantity.result in ("vector", "number"):
            moving = [(i, tangent) for i, tangent in enumerate(tangents) if tangent is not None]
            parts = [_along_point(operator, settings, i, tangent, tensors) for i, tangent in moving]
            return sum(parts[1:], parts[0])
        # <∇S, v> is linear in g, and its gradient in g is the tangent of f along v.
        needs = (True,) + (False,) * len(tensors)
        g = tensors[0].new_zeros(operator.result_shape(tensors[0]))
        along: Tensor = _apply(DoubleBackward, operator, settings, needs, g, *tensors, *tangents)[0]
        return along

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operator: Operator, settings: Settings, *tensors: Tensor | None
    ) -> tuple[Any, Any]:
        call = partial(_apply, Forward, operator, settings)
        return batched(call, info.batch_size, in_dims[2:], tensors, operator.is_point(), True)


def _along_point(operator: Operator, settings: Settings, i: int, tangent: Tensor, tensors: Tensors) -> Tensor:
    """Return the derivative of f when its i-th argument, of x's shape, moves along the tangent.

    J(x) v = J(x)ᵀ v: it is the backward pass with v in place of g.
    """
    needs = tuple(k == i for k in range(len(tensors)))
    is_number = operator.quantity.result == "number"
    g = torch.ones_like(tangent[..., 0]) if is_number else tangent
    gradient: Tensor = _apply(Backward, operator, settings, needs, g, *tensors)[i]
    return (gradient * tangent).sum(-1) if is_number else gradient


class Backward(torch.autograd.Function):
    """∇S, the gradients of <g, f> in the operator's arguments."""

    @staticmethod
    def forward(
        operator: Operator, settings: Settings, needs: tuple[bool, ...], g: Tensor, *tensors: Tensor | None
    ) -> Gradients:
        parts = _below_autograd(f"{operator.registered}_backward", g, *tensors, settings.text(), needs)
        return none_where_not_needed(parts, tensors, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.operator, ctx.settings, ctx.needs, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        needs = tuple(ctx.needs_input_grad[3:])
        known = [c if need else None for c, need in zip(cotangents, ctx.needs)]
        if all(c is None for c in known):
            return (None,) * (3 + len(needs))
        second = _apply(DoubleBackward, ctx.operator, ctx.settings, needs, *ctx.saved_tensors, *known)
        return None, None, None, *second

    @staticmethod
    def jvp(ctx: Any, _operator: None, _settings: None, _needs: None, dg: Tensor | None, *tangents: Any) -> Gradients:
        g, *tensors = ctx.saved_tensors
        total: list[Tensor | None] = [None] * len(tensors)
        if any(tangent is not None for tangent in tangents):
            needs = (False, *ctx.needs)
            total = list(_apply(DoubleBackward, ctx.operator, ctx.settings, needs, g, *tensors, *tangents)[1:])
        if dg is not None:
            linear = _apply(Backward, ctx.operator, ctx.settings, ctx.needs, dg, *tensors)
            total = [_sum(a, b) for a, b in zip(total, linear)]
        return tuple(total)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        operator: Operator,
        settings: Settings,
        needs: tuple[bool, ...],
        *tensors: Tensor | None,
    ) -> tuple[Any, Any]:
        foldable = not any(needs[operator.point_count :])
        call = partial(_apply, Backward, operator, settings, needs)
        return batched(call, info.batch_size, in_dims[3:], tensors, operator.is_point(1), foldable)


class DoubleBackward(torch.autograd.Function):
    """The gradients of Σ_i <cotangent_i, ∇_i S> in (g, *tensors), where S = <g, f>."""

    @staticmethod
    def forward(
        operator: Operator, settings: Settings, needs: tuple[bool, ...], *tensors_and_cotangents: Tensor | None
    ) -> Gradients:
        count = len(operator.arguments) + 1
        (g, *tensors), cotangents = tensors_and_cotangents[:count], tensors_and_cotangents[count:]
        assert g is not None
        of_x, *others = cotangents
        if operator.jvp is None or of_x is None or any(c is not None for c in others):
            return recompute.double_backward(operator, needs, g, tensors, settings, cotangents)
        by_kernels = _of_value_and_potential if operator.quantity.name == "value_and_potential" else _of_value
        return by_kernels(operator, settings, needs, g, tensors, of_x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.name = inputs[0].name

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Any, ...]:
        raise RuntimeError(third_derivative_message(ctx.name))

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Gradients:
        raise RuntimeError(third_derivative_message(ctx.name))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        operator: Operator,
        settings: Settings,
        needs: tuple[bool, ...],
        *tensors: Tensor | None,
    ) -> tuple[Any, Any]:
        is_point = operator.is_point(1) + operator.is_point()
        foldable = not any(needs[1 + operator.point_count :])
        call = partial(_apply, DoubleBackward, operator, settings, needs)
        return batched(call, info.batch_size, in_dims[3:], tensors, is_point, foldable)


def _of_value(
    operator: Operator, settings: Settings, needs: Sequence[bool], g: Tensor, tensors: Tensors, cotangent: Tensor
) -> Gradients:
    """Return the double backward of f for a cotangent c of x alone, by the kernels of J v.

    <c, ∇_x <g, f>> = <c, J(x) g>, whose gradients are the backward pass of J v at v = g.
    """
    *others, bias = tensors
    zero = torch.zeros_like(bias) if needs[-1] and bias is not None else None
    return *_through_jvp(operator, settings, needs, g, others, cotangent), zero


def _of_value_and_potential(
    operator: Operator, settings: Settings, needs: Sequence[bool], g: Tensor, tensors: Tensors, cotangent: Tensor
) -> Gradients:
    """Return the double backward of (f, F) for a cotangent c of x alone.

    With g = (g_f, g_F): <c, ∇_x (<g_f, f> + g_F F)> = <c, J(x) g_f> + g_F <c, f(x)>.
    """
    of_f, of_F = g[..., :-1].contiguous(), g[..., -1:]
    dg, *second = _through_jvp(operator, settings, needs, of_f, tensors, cotangent)
    weighted = torch.cat([of_F * cotangent, torch.zeros_like(of_F)], -1)
    parts = _below_autograd(f"{operator.registered}_backward", weighted, *tensors, settings.text(), tuple(needs[1:]))
    first = none_where_not_needed(parts, tensors, needs[1:])
    if dg is not None:
        f = _below_autograd(operator.registered, *tensors, settings.text())[..., :-1]
        dg = torch.cat([dg, (cotangent * f).sum(-1, keepdim=True)], -1)
    return dg, *(_sum(a, b) for a, b in zip(second, first))


def _through_jvp(
    operator: Operator, settings: Settings, needs: Sequence[bool], v: Tensor, tensors: Tensors, cotangent: Tensor
) -> Gradients:
    """Return the gradients of <cotangent, J(x) v> in (v, x, *parameters)."""
    assert operator.jvp is not None
    x, *parameters = tensors
    arguments = (x, v, *parameters)
    needs = (needs[1], needs[0], *needs[2 : 2 + len(parameters)])
    parts = _below_autograd(f"{operator.jvp.registered}_backward", cotangent, *arguments, settings.text(), needs)
    dx, dv, *rest = none_where_not_needed(parts, arguments, needs)
    return dv, dx, *rest


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def batched(
    call: Callable[..., Any],
    size: int,
    dims: Sequence[int | None],
    tensors: Tensors,
    is_point: Sequence[bool],
    outputs_are_rows: bool,
) -> tuple[Any, Any]:
    """Apply the vmap rule: fold the new dimension into the points' leading ones, or loop if a parameter has it."""
    if outputs_are_rows and all(point or dim is None for point, dim in zip(is_point, dims)):
        folded = [
            _to_front(t, dim, size) if point and t is not None else t for t, dim, point in zip(tensors, dims, is_point)
        ]
        result = call(*folded)
        return result, _out_dims(result)
    slices = [
        call(*(t if dim is None or t is None else t.select(dim, i) for t, dim in zip(tensors, dims)))
        for i in range(size)
    ]
    if isinstance(slices[0], Tensor):
        return torch.stack(slices), 0
    stacked = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*slices))
    return stacked, _out_dims(stacked)


def _to_front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _out_dims(result: Any) -> Any:
    return 0 if isinstance(result, Tensor) else tuple(None if part is None else 0 for part in result)
