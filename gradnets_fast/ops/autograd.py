"""The derivatives of every operator: autograd twice, forward mode, and vmap.

An operator is linear algebra around a scalar potential, so its Jacobian in x is symmetric.  With
S(x, θ) = <g, f(x; θ)>, the backward pass is ∇S, and differentiating that once more in the direction v is the
Hessian of S times v, which is symmetric; the second-order rules below rest on this.

`gradnets_fast/functional` calls `run` or, on its short way, `recorded`.  In eager mode the autograd Functions of this
file run (torch.func needs them); under torch.compile and torch.jit.trace, the operators of registration.py do, for what
is traced is operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import forward_ad

from ..errors import message
from ..reference.forward_mode import outer_levels
from .families import Gradients, Settings, Tensors
from .operator import NAMESPACE, PLAIN_TYPES, Operator, none_where_not_needed, shown

_registered = getattr(torch.ops, NAMESPACE)
_FUNCTIONALIZE = torch._C._functorch.TransformType.Functionalize

# Each small call asks these; looking them up in torch's namespaces would take as long as the answers.
_interpreter = torch._C._functorch.peek_interpreter_stack
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_is_tracing = torch._C._is_tracing


def run(operator: Operator, tensors: Tensors, settings: Settings) -> Tensor:
    """Return the operator's result by kernels, differentiable twice."""
    if torch.compiler.is_compiling() or _is_tracing():
        if torch._C._are_functorch_transforms_active():
            # The compiler cannot trace an autograd.Function with a jvp inside torch.func.
            return operator.by_reference(tensors, settings)
        compiled: Tensor = getattr(_registered, operator.registered)(*tensors, settings.text())
        return compiled
    if no_transform_is_active() and not any(map(is_of_another_kind, tensors)):
        found = shown(operator.registered, operator.kernels.forward_of_checked, tensors, settings)
        return recorded(operator, found, tensors, settings)
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    if any(transform.key() == _FUNCTIONALIZE for transform in transforms):
        # torch.func.functionalize takes no autograd.Function, and other transforms beside it none of the operators.
        if len(transforms) > 1:
            return operator.by_reference(tensors, settings)
        functional: Tensor = getattr(_registered, operator.registered)(*tensors, settings.text())
        return functional
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
    if is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                if torch.is_inference_mode_enabled():  # which records nothing, whatever enable_grad says inside of it
                    break
                with_graph: Tensor = _apply(operator.recording, [result], settings, *tensors)
                return with_graph
    return result


def kept(operator: Operator, tensors: Tensors, settings: Settings) -> Tensor | None:
    """Return the result with a backward pass that reads what the forward pass has left in memory.

    None if no tensor requires such a pass, or the kernels leave nothing.
    """
    requires = any(tensor is not None and tensor.requires_grad for tensor in tensors)
    if not requires or not is_grad_enabled() or torch.is_inference_mode_enabled():
        return None
    found = shown(operator.registered, operator.kernels.keeping, tensors, settings)
    if found is None:
        return None
    result: Tensor = _apply(_Kept, operator, [*found], settings, *tensors)
    return result


def no_transform_is_active() -> bool:
    """Return whether no torch.func transform, dispatch mode, forward-mode level or tracer is active.

    Plain tensors can then take the cheap autograd.Function `_Recorded`.
    """
    return (
        _interpreter() is None
        and not _dispatch_modes()
        and not _function_modes()
        and forward_ad._current_level < 0
        and not _is_tracing()
    )


def is_of_another_kind(tensor: Tensor | None) -> bool:
    """Return whether the tensor is not one that kernels read, which PyTorch's dispatcher may have a way for.

    autograd.grad with is_grads_batched, and autograd.functional with vectorize=True, batch by a vmap of their own,
    outside of torch.func.
    """
    if type(tensor) not in PLAIN_TYPES:
        return True
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def third_derivative_message(name: str) -> str:
    """Return why no more than two derivatives can be taken, and what to do."""
    return message(
        name,
        "derivative order",
        "at most two derivatives through compiled kernels (one in forward mode over forward mode in the parameters)",
        "one more",
        'run the model under gradnets_fast.use_backend("reference")',
    )


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


def _below_autograd(name: str, *arguments: Any) -> Any:
    """Call a registered operator's kernel by the dispatcher: fake, traced and batched tensors are its business."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(_registered, name)(*arguments)


def _save(ctx: Any, tensors: Tensors) -> None:
    """Keep a Function's arguments for its derivatives, where the gradient of a result that is not used is None."""
    ctx.set_materialize_grads(False)
    ctx.save_for_forward(*tensors)
    if not any(tensor is not None and tensor.is_inference() for tensor in tensors) or not _is_in_inference_mode():
        ctx.save_for_backward(*tensors)


def _is_in_inference_mode() -> bool:
    """Return whether inference mode is on, whose tensors cannot be saved, and no transform to reverse mode is in it.

    Forward mode of torch.func hides inference mode, but for the dispatcher.
    """
    transform = torch._C._functorch.peek_interpreter_stack()
    if transform is not None and transform.key() == torch._C._functorch.TransformType.Grad:
        return False
    return torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality)


def _is_watched(g: Tensor) -> bool:
    """Return whether a backward pass is itself recorded, batched or traced: kernels cannot be called at once then."""
    return is_grad_enabled() or is_of_another_kind(g) or not no_transform_is_active()


class _Recorded(torch.autograd.function._SingleLevelFunction):
    """A result that is there already: `Forward` without what torch.func needs, which costs more than a small call.

    The base class is that of torch.autograd.Function, whose own `apply` only adds the ways of torch.func.
    """

    operator: Operator

    @staticmethod
    def forward(ctx: Any, result: list[Tensor], settings: Settings, *tensors: Tensor | None) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return result[0]  # in a list, as no input of the Function's

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        operator, tensors, needs = ctx._forward_cls.operator, ctx.saved_tensors, ctx.needs_input_grad[2:]
        if g is None:
            return (None,) * (2 + len(tensors))
        if _is_watched(g):
            return None, None, *_apply(Backward, operator, ctx.settings, needs, g, *tensors)
        name = f"{operator.registered}_backward"
        return None, None, *shown(name, operator.kernels.backward, g, tensors, ctx.settings, needs)


class _Kept(torch.autograd.function._SingleLevelFunction):
    """`_Recorded` of a result that has left something for its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, operator: Operator, found: list[Tensor], settings: Settings, *tensors: Tensor | None
    ) -> Tensor:
        ctx.operator, ctx.settings = operator, settings
        ctx.save_for_backward(*tensors, found[1])
        ctx.set_materialize_grads(False)
        return found[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        operator, needs = ctx.operator, ctx.needs_input_grad[3:]
        if g is None:
            return (None,) * (3 + len(needs))
        *tensors, kept = ctx.saved_tensors
        if _is_watched(g):
            return None, None, None, *_apply(Backward, operator, ctx.settings, needs, g, *tensors)
        name, by = f"{operator.registered}_backward", operator.kernels.backward_of_kept
        return None, None, None, *shown(name, by, g, tensors, kept, ctx.settings, needs)


def recording(operator: Operator) -> type[_Recorded]:
    """Return `_Recorded` of an operator, whose nodes bear its name: ridgeBackward in a profile and a tensor's repr."""
    made = type(operator.registered, (_Recorded,), {"operator": operator})
    made.__name__ += "_recording"  # The nodes have their names by now; a profile shows the operator itself too.
    return made


class Forward(torch.autograd.Function):
    """f(x), differentiable in every mode."""

    @staticmethod
    def forward(operator: Operator, settings: Settings, *tensors: Tensor | None) -> Tensor:
        result: Tensor = _below_autograd(operator.registered, *tensors, settings.text())
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operator, ctx.settings, *tensors = inputs
        _save(ctx, tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * (2 + len(ctx.saved_tensors))
        needs = tuple(ctx.needs_input_grad[2:])
        return None, None, *_apply(Backward, ctx.operator, ctx.settings, needs, g, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, _operator: None, _settings: None, *tangents: Tensor | None) -> Tensor:
        operator, settings = ctx.operator, ctx.settings
        with outer_levels(*ctx.saved_tensors) as tensors:
            if all(tangent is None for tangent in tangents[operator.point_count :]):
                moving = ((i, tangent) for i, tangent in enumerate(tangents) if tangent is not None)
                parts = [_along_point(operator, settings, i, tangent, tensors) for i, tangent in moving]
                return sum(parts[1:], parts[0])
            # <∇S, v> is linear in g, and its gradient in g is the tangent of f along v.
            needs = (True,) + (False,) * len(tensors)
            g = tensors[0].new_zeros(operator.result_shape(tensors[0]))
            along = _second(operator, settings, needs, g, *tensors, *tangents)[0]
            assert along is not None
            return along

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operator: Operator, settings: Settings, *tensors: Tensor | None
    ) -> tuple[Any, Any]:
        call = partial(_apply, Forward, operator, settings)
        return batched(call, info.batch_size, in_dims[2:], tensors, operator.is_point(), True)


def _along_point(operator: Operator, settings: Settings, i: int, tangent: Tensor, tensors: Tensors) -> Tensor:
    """Return the derivative of the result when its i-th argument, of x's shape, moves along the tangent t.

    J(x) t = J(x)ᵀ t: it is the backward pass of f with t in place of g.  Of F it is <f, t>, and column k of J's is the
    gradient of <e_k, J(x) t>.
    """
    result = operator.quantity.result

    def gradient(of: Operator, g: Tensor, *arguments: Tensor | None) -> Tensor:
        needs = tuple(k == i for k in range(len(arguments)))
        found: Tensor = _apply(Backward, of, settings, needs, g, *arguments)[i]
        return found

    if result == "number":
        return (gradient(operator, torch.ones_like(tangent[..., 0]), *tensors) * tangent).sum(-1)
    if result == "vector and number":
        f = _apply(Forward, operator, settings, *tensors)[..., :-1]
        along_f = gradient(operator, torch.cat([tangent, torch.zeros_like(tangent[..., :1])], -1), *tensors)
        return torch.cat([along_f, (f * tangent).sum(-1, keepdim=True)], -1)
    if result == "matrix":
        assert operator.jvp is not None
        x, *parameters = tensors
        assert x is not None
        d = tangent.shape[-1]
        units = torch.eye(d, dtype=tangent.dtype, device=tangent.device).view(d, *(1,) * (tangent.dim() - 1), d)
        g, points, directions = (t.expand(d, *tangent.shape) for t in (units, x, tangent))
        return gradient(operator.jvp, g, points, directions, *parameters).movedim(0, -1)
    return gradient(operator, tangent, *tensors)


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
        _save(ctx, tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        needs = tuple(ctx.needs_input_grad[3:])
        known = [c if need else None for c, need in zip(cotangents, ctx.needs)]
        if all(c is None for c in known):
            return (None,) * (3 + len(needs))
        return None, None, None, *_second(ctx.operator, ctx.settings, needs, *ctx.saved_tensors, *known)

    @staticmethod
    def jvp(ctx: Any, _operator: None, _settings: None, _needs: None, dg: Tensor | None, *tangents: Any) -> Gradients:
        with outer_levels(*ctx.saved_tensors) as (g, *tensors):
            return _along(ctx.operator, ctx.settings, ctx.needs, g, tensors, dg, tangents)

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
    """The gradients of Σ_i <cotangent_i, ∇_i S> in (g, *tensors), where S = <g, f>.

    That in g is the derivative of f along the cotangents, which has a derivative in everything.  The others have those
    that need no third one of f: in the cotangents, and in forward mode in g.
    """

    @staticmethod
    def forward(
        operator: Operator, settings: Settings, needs: tuple[bool, ...], *tensors_and_cotangents: Tensor | None
    ) -> Gradients:
        name = f"{operator.registered}_double_backward"
        parts = _below_autograd(name, *tensors_and_cotangents, settings.text(), needs)
        return none_where_not_needed(parts, tensors_and_cotangents[: len(needs)], needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.operator, ctx.settings, ctx.needs, *tensors = inputs
        _save(ctx, tensors)

    @staticmethod
    def backward(ctx: Any, of_g: Tensor | None, *cotangents: Tensor | None) -> tuple[Any, ...]:
        operator, settings, count = ctx.operator, ctx.settings, len(ctx.needs)
        needs, known = ctx.needs_input_grad[3:], ctx.saved_tensors
        g, *tensors = known[:count]
        result: list[Tensor | None] = [None] * len(needs)
        if of_g is not None and any(needs[1:count]):
            result[:count] = _second(operator, settings, (False, *needs[1:count]), of_g, *known[1:])
        if any(needs[count:]):  # the Hessian of S is symmetric
            result[count:] = _along(operator, settings, needs[count:], g, tensors, of_g, cotangents)
        return None, None, None, *result

    @staticmethod
    def jvp(ctx: Any, _operator: None, _settings: None, _needs: None, dg: Tensor | None, *tangents: Any) -> Gradients:
        operator, settings, count = ctx.operator, ctx.settings, len(ctx.needs)
        if any(tangent is not None for tangent in tangents[: count - 1]):
            raise RuntimeError(third_derivative_message(operator.name))
        total: Gradients = (None,) * count
        with outer_levels(*ctx.saved_tensors) as known:
            if any(tangent is not None for tangent in tangents):
                total = _second(operator, settings, ctx.needs, *known[:count], *tangents[count - 1 :])
            if dg is not None:
                linear = _second(operator, settings, (False, *ctx.needs[1:]), dg, *known[1:])
                total = tuple(map(_sum, total, linear))
            return total

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


class _Refused(torch.autograd.Function):
    """0, in whose way back to the tensors lies the message that there is no third derivative."""

    @staticmethod
    def forward(name: str, *tensors: Tensor | None) -> Tensor:
        g = tensors[0]
        assert g is not None
        return torch.zeros((), dtype=g.dtype, device=g.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, g, *_ = inputs
        ctx.save_for_forward(g)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(third_derivative_message(ctx.name))

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Tensor:
        zero: Tensor = ctx.saved_tensors[0].new_zeros(())  # DoubleBackward has refused what must be
        return zero

    @staticmethod
    def vmap(info: Any, in_dims: Any, name: str, *tensors: Tensor | None) -> tuple[Any, None]:
        return _apply(_Refused, name, *tensors), None


def _second(
    operator: Operator, settings: Settings, needs: Sequence[bool], *tensors_and_cotangents: Tensor | None
) -> Gradients:
    """Return the results of `DoubleBackward`, where those of the tensors refuse a derivative in g and the tensors.

    A node of its own refuses: what is linear in the cotangents can then be differentiated in them, as
    torch.autograd.functional.hvp does, without a way through that node.
    """
    of_g, *others = _apply(DoubleBackward, operator, settings, tuple(needs), *tensors_and_cotangents)
    if any(needs[1:]) and (torch.is_grad_enabled() or not no_transform_is_active()):
        zero = _apply(_Refused, operator.name, *tensors_and_cotangents[: len(needs)])
        others = [None if part is None else part + zero for part in others]
    return of_g, *others


def _along(
    operator: Operator,
    settings: Settings,
    needs: Sequence[bool],
    g: Tensor,
    tensors: Tensors,
    dg: Tensor | None,
    tangents: Tensors,
) -> Gradients:
    """Return the derivatives of ∇S, in the tensors that `needs` marks, along (dg, *tangents)."""
    total: Gradients = (None,) * len(tensors)
    if any(tangent is not None for tangent in tangents):
        _, *total = _second(operator, settings, (False, *needs), g, *tensors, *tangents)  # type: ignore[assignment]
    if dg is not None:
        total = tuple(map(_sum, total, _apply(Backward, operator, settings, tuple(needs), dg, *tensors)))
    return tuple(total)


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
