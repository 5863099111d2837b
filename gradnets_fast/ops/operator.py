"""What every operator f(x; W, parameters) shares: autograd twice, vmap, jvp, and registration for torch.compile.

An operator is linear algebra around a scalar potential, so its Jacobian in x is symmetric.  With
S(x, θ) = <g, f(x; θ)>, the backward pass is ∇S, and differentiating that once more in the direction v is the
Hessian of S times v; both second-order rules below rest on this.

In eager mode the autograd Functions run (torch.func needs them); while torch.compile traces, the registered
operators of the same name do (the compiler needs those).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import message
from .double_backward import Gradients, double_backward

NAMESPACE = re.sub(r"\W", "_", __name__.removesuffix(".ops.operator"))
"""The operators' in torch.ops: the name by which the package was imported, so that copies of it do not meet."""

_registered = getattr(torch.ops, NAMESPACE)


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    Attributes:
        name: its name in the public API.
        arguments: its tensor arguments, those of x's shape first; a trailing "?" marks one that may be None.
        reference: (*tensors, config) -> f in plain PyTorch.
        forward: the same by compiled kernels.
        attempt: the same, but None where the tensors are not such as kernels read; it checks them in passing.
        backward: (g, *tensors, config, needs) -> the gradients of <g, f>, None where `needs` is False.
        hidden_width: (*tensors) -> hidden values per row, which bounds the chunks of the double backward.
        rows: how many arguments have x's shape.
        shape: what f is for each row: "row", with a Jacobian symmetric in each argument of x's shape; "number";
            "pair", a gradient and its potential, (…, d + 1); or "matrix", (…, d, d).
        backend: whose kernels these are, "cpp" or "triton".
        quantity: "value" for f, or which other function of the family it is: "potential", "jvp", "divergence",
            "jacobian".
        tangent: the operator J(x) v with arguments (x, v, *parameters but a bias).  From its backward pass comes the
            double backward of this operator for a cotangent of x alone.

    `config` is what selects a kernel besides shapes: names joined by commas.
    """

    name: str
    arguments: tuple[str, ...]
    reference: Callable[..., Tensor]
    forward: Callable[..., Tensor]
    attempt: Callable[..., Tensor | None]
    backward: Callable[..., Gradients]
    hidden_width: Callable[..., int]
    rows: int = 1
    shape: str = "row"
    backend: str = "cpp"
    quantity: str = "value"
    tangent: Operator | None = None

    @property
    def registered(self) -> str:
        """Its name in `NAMESPACE`."""
        return self.name if self.backend == "cpp" else f"{self.name}_{self.backend}"

    def row_flags(self, extra: int = 0) -> tuple[bool, ...]:
        """For `extra` rows and then each argument, whether it has x's shape."""
        return (True,) * (extra + self.rows) + (False,) * (len(self.arguments) - self.rows)

    def result_shape(self, x: Tensor) -> torch.Size:
        """The shape of f(x)."""
        d = x.shape[-1]
        return x.shape[:-1] + torch.Size({"row": (d,), "number": (), "pair": (d + 1,), "matrix": (d, d)}[self.shape])

    def __call__(self, *tensors: Tensor | None, config: str) -> Tensor:
        """f(x), by kernels, differentiable twice."""
        if torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active():
                # The compiler cannot trace an autograd.Function with a jvp inside torch.func.
                return self.reference(*tensors, config)
            compiled: Tensor = getattr(_registered, self.registered)(*tensors, config)
            return compiled
        if _nothing_but_numbers() and all(type(t) in PLAIN_TYPES for t in tensors):
            return self._eager(self.forward, tensors, config)
        # A compiled module under torch.func may fall back to running here, frame by frame: traced, the autograd
        # Functions below would lose tangents.
        prior = torch._C._dynamo.eval_frame.set_eval_frame(None)
        try:
            result: Tensor = _apply(_Forward, self, config, *tensors)
        finally:
            torch._C._dynamo.eval_frame.set_eval_frame(prior)
        return result

    def quickly(self, tensors: tuple[Tensor | None, ...], config: str) -> Tensor | None:
        """f(x) where nothing about the call is out of the ordinary, without any other check; else None."""
        if not _nothing_but_numbers():
            return None
        try:
            return self._eager(self._attempt_or_refuse, tensors, config)
        except _RefusedError:
            return None

    def _attempt_or_refuse(self, *arguments: Any) -> Tensor:
        result = self.attempt(*arguments)
        if result is None:
            raise _RefusedError
        return result

    def _eager(self, kernel: Callable[..., Tensor], tensors: tuple[Tensor | None, ...], config: str) -> Tensor:
        if torch.is_grad_enabled():
            for tensor in tensors:
                if getattr(tensor, "requires_grad", False):  # nothing is checked yet
                    result: Tensor = _apply(_Eager, self, kernel, config, *tensors)
                    return result
        return kernel(*tensors, config)


class _RefusedError(Exception):
    """The kernels cannot read the tensors as they are."""


def _nothing_but_numbers() -> bool:
    """Whether no transform, mode or tangent is about: plain tensors then need not take autograd's long way."""
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and forward_ad._current_level < 0
    )


PLAIN_TYPES = (Tensor, torch.nn.Parameter, type(None))


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


def _call_below_autograd(name: str, *arguments: Any) -> Any:
    """The registered operator's kernel, by the dispatcher: fake, traced and batched tensors are its business."""
    with torch._C._AutoDispatchBelowAutograd():
        return getattr(_registered, name)(*arguments)


def _none_for_empty(parts: Sequence[Tensor], tensors: Sequence[Tensor | None], needed: Sequence[bool]) -> Gradients:
    return tuple(p if need and t is not None else None for p, t, need in zip(parts, tensors, needed))


class _Eager(torch.autograd.Function):
    """`_Forward` without what torch.func needs, whose set-up costs more than a small network."""

    @staticmethod
    def forward(
        ctx: Any, operator: Operator, kernel: Callable[..., Tensor], config: str, *tensors: Tensor | None
    ) -> Tensor:
        ctx.operator, ctx.config = operator, config
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return kernel(*tensors, config)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if g is None:
            return (None,) * (3 + len(tensors))
        # autograd.functional's vectorize=True batches g by a vmap of its own, outside of torch.func.
        batched = torch._C._functorch.is_legacy_batchedtensor(g)
        if torch.is_grad_enabled() or batched or type(g) is not Tensor or not _nothing_but_numbers():
            return None, None, None, *_apply(_Backward, ctx.operator, ctx.config, needs, g, *tensors)
        return None, None, None, *ctx.operator.backward(g, *tensors, ctx.config, needs)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(operator: Operator, config: str, *tensors: Tensor | None) -> Tensor:
        result: Tensor = _call_below_autograd(operator.registered, *tensors, config)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operator, ctx.config, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Any, ...]:
        if g is None:
            return (None,) * (2 + len(ctx.saved_tensors))
        needs = tuple(ctx.needs_input_grad[2:])
        return None, None, *_apply(_Backward, ctx.operator, ctx.config, needs, g, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, _operator: None, _config: None, *tangents: Tensor | None) -> Tensor:
        tensors, operator = ctx.saved_tensors, ctx.operator
        if operator.shape in ("row", "number") and all(tangent is None for tangent in tangents[operator.rows :]):
            parts = [
                _along_rows(operator, ctx.config, i, tangent, tensors)
                for i, tangent in enumerate(tangents)
                if tangent is not None
            ]
            return sum(parts[1:], parts[0])
        # <∇S, v> is linear in g, and its gradient in g is the tangent of f along v.
        wanted = (True,) + (False,) * len(tensors)
        g = tensors[0].new_zeros(operator.result_shape(tensors[0]))
        tangent: Tensor = _apply(_DoubleBackward, operator, ctx.config, wanted, g, *tensors, *tangents)[0]
        return tangent

    @staticmethod
    def vmap(info: Any, in_dims: Any, operator: Operator, config: str, *tensors: Tensor | None) -> tuple[Any, Any]:
        call = partial(_apply, _Forward, operator, config)
        return _batched(call, info.batch_size, in_dims[2:], tensors, operator.row_flags(), True)


def _along_rows(operator: Operator, config: str, i: int, tangent: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
    """The derivative of f when its i-th argument, of x's shape, moves along the tangent."""
    needs = tuple(k == i for k in range(len(tensors)))
    # J(x) v = J(x)ᵀ v: the backward pass with v in place of g.
    number = operator.shape == "number"
    g = torch.ones_like(tangent[..., 0]) if number else tangent
    gradient: Tensor = _apply(_Backward, operator, config, needs, g, *tensors)[i]
    return (gradient * tangent).sum(-1) if number else gradient


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        operator: Operator, config: str, needs: tuple[bool, ...], g: Tensor, *tensors: Tensor | None
    ) -> Gradients:
        gradients = _call_below_autograd(f"{operator.registered}_backward", g, *tensors, config, needs)
        return _none_for_empty(gradients, tensors, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.operator, ctx.config, ctx.needs, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        wanted = tuple(ctx.needs_input_grad[3:])
        known = [c if need else None for c, need in zip(cotangents, ctx.needs)]
        if all(c is None for c in known):
            return (None,) * (3 + len(wanted))
        second = _apply(_DoubleBackward, ctx.operator, ctx.config, wanted, *ctx.saved_tensors, *known)
        return None, None, None, *second

    @staticmethod
    def jvp(ctx: Any, _operator: None, _config: None, _needs: None, dg: Tensor | None, *tangents: Any) -> Gradients:
        g, *tensors = ctx.saved_tensors
        wanted = (False, *ctx.needs)
        total: list[Tensor | None] = [None] * len(tensors)
        if any(tangent is not None for tangent in tangents):
            total = list(_apply(_DoubleBackward, ctx.operator, ctx.config, wanted, g, *tensors, *tangents)[1:])
        if dg is not None:
            linear = _apply(_Backward, ctx.operator, ctx.config, ctx.needs, dg, *tensors)
            total = [b if a is None else a if b is None else a + b for a, b in zip(total, linear)]
        return tuple(total)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operator: Operator, config: str, needs: tuple[bool, ...], *tensors: Tensor | None
    ) -> tuple[Any, Any]:
        foldable = not any(needs[operator.rows :])
        call = partial(_apply, _Backward, operator, config, needs)
        return _batched(call, info.batch_size, in_dims[3:], tensors, operator.row_flags(1), foldable)


class _DoubleBackward(torch.autograd.Function):
    """The gradients of Σ <cotangent_i, ∇_i S> for (g, *tensors), where S = <g, f>."""

    @staticmethod
    def forward(
        operator: Operator, config: str, wanted: tuple[bool, ...], *tensors_and_cotangents: Tensor | None
    ) -> Gradients:
        count = len(operator.arguments) + 1
        tensors, cotangents = tensors_and_cotangents[:count], tensors_and_cotangents[count:]
        if operator.tangent is not None and all(c is None for c in cotangents[1:]):
            cotangent = cotangents[0]
            assert cotangent is not None
            return _double_backward_by_kernels(operator, config, wanted, tensors, cotangent)
        return double_backward(operator, config, wanted, tensors, cotangents)

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
        info: Any, in_dims: Any, operator: Operator, config: str, wanted: tuple[bool, ...], *tensors: Tensor | None
    ) -> tuple[Any, Any]:
        rows = operator.row_flags(1) + operator.row_flags()
        foldable = not any(wanted[1 + operator.rows :])
        call = partial(_apply, _DoubleBackward, operator, config, wanted)
        return _batched(call, info.batch_size, in_dims[3:], tensors, rows, foldable)


def third_derivative_message(name: str) -> str:
    """Why no more than two derivatives can be taken, and what to do."""
    return message(
        name,
        "derivative order",
        "at most two derivatives through compiled kernels (one where forward mode in the parameters is involved)",
        "one more",
        'run the model under gradnets_fast.use_backend("reference")',
    )


def _batched(
    call: Callable[..., Any],
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor | None],
    rows: Sequence[bool],
    outputs_are_rows: bool,
) -> tuple[Any, Any]:
    """The vmap rule: fold the new dimension into the leading ones of the row tensors, or loop if a parameter has it."""
    if outputs_are_rows and all(row or dim is None for row, dim in zip(rows, dims)):
        folded = [_to_front(t, dim, size) if row and t is not None else t for t, dim, row in zip(tensors, dims, rows)]
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


def _double_backward_by_kernels(
    operator: Operator,
    config: str,
    wanted: Sequence[bool],
    tensors: Sequence[Tensor | None],
    cotangent: Tensor,
) -> Gradients:
    """`double_backward` for a cotangent c of x alone: <c, ∇_x <g, f>> = <c, J(x) g>.

    Of a pair, g = (g_f, g_F): <c, ∇_x (<g_f, f> + g_F F)> = <c, J(x) g_f> + g_F <c, f(x)>.
    """

    def call(name: str, g: Tensor, arguments: Sequence[Tensor | None], needs: tuple[bool, ...]) -> Gradients:
        parts = _call_below_autograd(f"{name}_backward", g, *arguments, config, needs)
        return _none_for_empty(parts, arguments, needs)

    def through_tangent(g: Tensor | None, x: Tensor | None, *parameters: Tensor | None) -> Gradients:
        assert operator.tangent is not None
        needs = (wanted[1], wanted[0], *wanted[2 : 2 + len(parameters)])
        dx, dg, *rest = call(operator.tangent.registered, cotangent, (x, g, *parameters), needs)
        return dg, dx, *rest

    if operator.shape != "pair":
        *others, bias = tensors
        zero = torch.zeros_like(bias) if wanted[-1] and bias is not None else None
        return *through_tangent(*others), zero
    g, *arguments = tensors
    assert g is not None
    of_value, of_potential = g[..., :-1].contiguous(), g[..., -1:]
    dg, *second = through_tangent(of_value, *arguments)
    weighted = torch.cat([of_potential * cotangent, torch.zeros_like(of_potential)], -1)
    first = call(operator.registered, weighted, arguments, tuple(wanted[1:]))
    if dg is not None:
        f = _call_below_autograd(operator.registered, *arguments, config)[..., :-1]
        dg = torch.cat([dg, (cotangent * f).sum(-1, keepdim=True)], -1)
    return dg, *(a if b is None else b if a is None else a + b for a, b in zip(second, first))


_library = torch.library.Library(NAMESPACE, "FRAGMENT")


_DISPATCH_KEYS = {"cpp": ("CPU",), "triton": ("CPU", "CUDA")}


def register(operator: Operator) -> Operator:
    """Registers `operator` and its gradient in `NAMESPACE`, the latter with the suffix _backward."""
    name, count = operator.registered, len(operator.arguments)
    tensors = ", ".join(f"Tensor{'?' if a.endswith('?') else ''} {a.rstrip('?')}" for a in operator.arguments)
    result = ", ".join(["Tensor"] * count)
    _library.define(f"{name}({tensors}, str config) -> Tensor")
    _library.define(f"{name}_backward(Tensor g, {tensors}, str config, bool[] needs) -> ({result})")
    qualified = f"{NAMESPACE}::{name}"

    def forward(*arguments: Any) -> Tensor:
        return operator.forward(*arguments)

    def forward_fake(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(operator.result_shape(x))

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, config, needs = arguments
        return _empty_for_none(tensors[0], operator.backward(*tensors, config, tuple(needs)))

    def backward_fake(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, _, needs = arguments
        return tuple(_fake_gradient(g, t, need) for t, need in zip(tensors, needs))

    kernels = {"": (forward, forward_fake), "_backward": (backward, backward_fake)}
    for suffix, (kernel, fake) in kernels.items():
        for device in _DISPATCH_KEYS[operator.backend]:
            _library.impl(name + suffix, kernel, device)
        torch.library.register_fake(qualified + suffix, fake, lib=_library)
    _register_derivatives(operator)
    return operator


def _register_derivatives(operator: Operator) -> None:
    """Gives the registered operators the same derivatives as the eager call, forward mode included.

    torch.library.register_autograd knows no forward mode: under it a tangent would silently become 0.
    """

    def forward(*arguments: Any) -> Tensor:
        *tensors, config = arguments
        if torch._C._are_functorch_transforms_active():
            # A transform reaches inside the dispatcher, where an autograd.Function cannot be applied.
            return operator.reference(*tensors, config)
        result: Tensor = _apply(_Forward, operator, config, *tensors)
        return result

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, config, needs = arguments
        if torch._C._are_functorch_transforms_active():
            fix = "apply torch.func outside of torch.compile, not to a compiled backward pass"
            where = f"{operator.registered}_backward"
            raise RuntimeError(
                message(where, "torch.func transform", "none around a compiled backward pass", "one", fix)
            )
        return _empty_for_none(tensors[0], _apply(_Backward, operator, config, tuple(needs), *tensors))

    def forward_vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        *tensors, config = arguments
        call = partial(_on_registered, operator.registered, (config,))
        return _batched(call, info.batch_size, in_dims[:-1], tensors, operator.row_flags(), True)

    def backward_vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        *tensors, config, needs = arguments
        call = partial(_on_registered, operator.registered + "_backward", (config, needs))
        # In turn, because the placeholders for gradients that are not needed have no rows to fold.
        rows = (False,) * len(tensors)
        return _batched(call, info.batch_size, in_dims[: len(tensors)], tensors, rows, False)

    for suffix, vmap in (("", forward_vmap), ("_backward", backward_vmap)):
        torch.library.register_vmap(f"{NAMESPACE}::{operator.registered}{suffix}", vmap, lib=_library)
    for suffix, function in (("", forward), ("_backward", backward)):
        _library.impl(operator.registered + suffix, function, "Autograd")


def _on_registered(name: str, trailing: tuple[Any, ...], *tensors: Tensor | None) -> Any:
    return getattr(_registered, name)(*tensors, *trailing)


def _empty_for_none(like: Tensor, parts: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(like.new_empty(0) if part is None else part for part in parts)


def _fake_gradient(like: Tensor, tensor: Tensor | None, needed: bool) -> Tensor:
    if tensor is None or not needed:
        return like.new_empty(0)
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
