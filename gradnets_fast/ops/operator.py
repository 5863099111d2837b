"""What every operator f(x; W, parameters) shares: autograd twice, vmap, jvp, and registration for torch.compile.

An operator is linear algebra around a scalar potential, so its Jacobian in x is symmetric.  With
S(x, θ) = <g, f(x; θ)>, the backward pass is ∇S, and differentiating that once more in the direction v is the
Hessian of S times v; both second-order rules below rest on this.

In eager mode the autograd Functions run (torch.func needs them); while torch.compile traces, the registered
operators of the same name do (the compiler needs those).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]

DOUBLE_BACKWARD_ELEMENTS = 2**20
"""The double backward recomputes with the reference, in batch chunks of about this many hidden values."""


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    Attributes:
        name: its name in the public API and in torch.ops.gradnets_fast.
        arguments: its tensor arguments, x first; a trailing "?" marks one that may be None.
        reference: (*tensors, config) -> f in plain PyTorch.
        forward: the same by compiled kernels.
        backward: (g, *tensors, config, needs) -> the gradients of <g, f>, None where `needs` is False.
        hidden_width: (*tensors) -> hidden values per row, which bounds the chunks of the double backward.

    `config` is what selects a kernel besides shapes: names joined by commas.
    """

    name: str
    arguments: tuple[str, ...]
    reference: Callable[..., Tensor]
    forward: Callable[..., Tensor]
    backward: Callable[..., Gradients]
    hidden_width: Callable[..., int]

    def __call__(self, *tensors: Tensor | None, config: str) -> Tensor:
        """f(x), by kernels, differentiable twice."""
        if torch.compiler.is_compiling():
            compiled: Tensor = getattr(torch.ops.gradnets_fast, self.name)(*tensors, config)
            return compiled
        result: Tensor = _apply(_Forward, self, config, *tensors)
        return result


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(operator: Operator, config: str, *tensors: Tensor | None) -> Tensor:
        return operator.forward(*tensors, config)

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
        if all(tangent is None for tangent in tangents[1:]):
            # J(x) v = J(x)ᵀ v: the backward pass with v in place of g.
            needs = (True,) + (False,) * (len(tensors) - 1)
            symmetric: Tensor = _apply(_Backward, operator, ctx.config, needs, tangents[0], *tensors)[0]
            return symmetric
        # <∇S, v> is linear in g, and its gradient in g is the tangent of f along v.
        wanted = (True,) + (False,) * len(tensors)
        g = torch.zeros_like(tensors[0])
        tangent: Tensor = _apply(_DoubleBackward, operator, ctx.config, wanted, g, *tensors, *tangents)[0]
        return tangent

    @staticmethod
    def vmap(info: Any, in_dims: Any, operator: Operator, config: str, *tensors: Tensor | None) -> tuple[Any, Any]:
        rows = (True,) + (False,) * (len(tensors) - 1)
        return _batched(_Forward, (operator, config), info.batch_size, in_dims[2:], tensors, rows, True)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        operator: Operator, config: str, needs: tuple[bool, ...], g: Tensor, *tensors: Tensor | None
    ) -> Gradients:
        return operator.backward(g, *tensors, config, needs)

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
        rows = (True, True) + (False,) * (len(tensors) - 2)
        static = (operator, config, needs)
        return _batched(_Backward, static, info.batch_size, in_dims[3:], tensors, rows, not any(needs[1:]))


class _DoubleBackward(torch.autograd.Function):
    """The gradients of Σ <cotangent_i, ∇_i S> for (g, *tensors), where S = <g, f>."""

    @staticmethod
    def forward(
        operator: Operator, config: str, wanted: tuple[bool, ...], *tensors_and_cotangents: Tensor | None
    ) -> Gradients:
        count = len(operator.arguments) + 1
        tensors, cotangents = tensors_and_cotangents[:count], tensors_and_cotangents[count:]
        return double_backward(operator, config, wanted, tensors, cotangents)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        ctx.name = inputs[0].name

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Any, ...]:
        raise RuntimeError(
            f"{ctx.name}: derivative order: expected at most 2 on compiled kernels, got 3; "
            'run the model under gradnets_fast.use_backend("reference")'
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operator: Operator, config: str, wanted: tuple[bool, ...], *tensors: Tensor | None
    ) -> tuple[Any, Any]:
        parameters = len(operator.arguments) - 1
        rows = (True, True) + (False,) * parameters + (True,) + (False,) * parameters
        foldable = not any(wanted[2:])
        static = (operator, config, wanted)
        return _batched(_DoubleBackward, static, info.batch_size, in_dims[3:], tensors, rows, foldable)


def _batched(
    function: Any,
    static: tuple[Any, ...],
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Tensor | None],
    rows: Sequence[bool],
    outputs_are_rows: bool,
) -> tuple[Any, Any]:
    """The vmap rule: fold the new dimension into the leading ones of the row tensors, or loop if a parameter has it."""
    if outputs_are_rows and all(row or dim is None for row, dim in zip(rows, dims)):
        folded = [_to_front(t, dim, size) if row and t is not None else t for t, dim, row in zip(tensors, dims, rows)]
        result = function.apply(*static, *folded)
        return result, _out_dims(result)
    slices = [
        function.apply(*static, *(t if dim is None or t is None else t.select(dim, i) for t, dim in zip(tensors, dims)))
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


def double_backward(
    operator: Operator,
    config: str,
    wanted: Sequence[bool],
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> Gradients:
    """The gradients of Σ <cotangent_i, ∇_i <g, f>> for (g, x, *parameters), by the reference, in chunks of the batch.

    Shapes: tensors = (g (…, d), x (…, d), *parameters), cotangents = one for x and each parameter, or None.
    Memory: O(DOUBLE_BACKWARD_ELEMENTS) beyond the results, whatever the batch.
    """
    g, x = _rows(tensors[0]), _rows(tensors[1])
    assert g is not None
    assert x is not None
    dx = _rows(cotangents[0])
    parameters = tensors[2:]
    row_results: list[list[Tensor]] = [[], []]
    sums: list[Tensor | None] = [
        torch.zeros_like(p) if want and p is not None else None for p, want in zip(parameters, wanted[2:])
    ]
    step = max(1, DOUBLE_BACKWARD_ELEMENTS // operator.hidden_width(*tensors[1:]))
    for start in range(0, x.shape[0], step):
        part = slice(start, start + step)
        chunk_cotangents = [None if dx is None else dx[part], *cotangents[1:]]
        results = _double_backward_chunk(operator, config, [g[part], x[part], *parameters], chunk_cotangents)
        for rows, result in zip(row_results, results):
            rows.append(result)
        for total, result in zip(sums, results[2:]):
            if total is not None:
                total += result
    leading = tensors[1].shape  # type: ignore[union-attr]
    whole = [(torch.cat(rows) if rows else x.new_zeros(x.shape)).reshape(leading) for rows in row_results]
    return tuple(part if want else None for part, want in zip(whole, wanted)) + tuple(sums)


def _rows(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().reshape(-1, tensor.shape[-1])


def _double_backward_chunk(
    operator: Operator, config: str, tensors: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]
) -> list[Tensor]:
    """Zeros stand for the gradients of arguments that are None or have no influence."""
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        g, *inputs = leaves
        active = [(t, c) for t, c in zip(inputs, cotangents) if t is not None and c is not None]
        f = operator.reference(*inputs, config)
        first = torch.autograd.grad(f, [t for t, _ in active], g, create_graph=True, materialize_grads=True)
        total = sum(((d * c.detach()).sum() for d, (_, c) in zip(first, active)), torch.zeros((), dtype=f.dtype))
        present = [t for t in leaves if t is not None]
        if not total.requires_grad:
            second = [torch.zeros_like(t) for t in present]
        else:
            second = list(torch.autograd.grad(total, present, materialize_grads=True))
    remaining = iter(second)
    return [torch.zeros(()) if t is None else next(remaining) for t in leaves]


_library = torch.library.Library("gradnets_fast", "FRAGMENT")


def register(operator: Operator) -> Operator:
    """Registers `operator` and its two derivatives as torch.ops.gradnets_fast.<name>[_backward|_double_backward]."""
    name, count = operator.name, len(operator.arguments)
    tensors = ", ".join(f"Tensor{'?' if a.endswith('?') else ''} {a.rstrip('?')}" for a in operator.arguments)
    result = ", ".join(["Tensor"] * count)
    _library.define(f"{name}({tensors}, str config) -> Tensor")
    _library.define(f"{name}_backward(Tensor g, {tensors}, str config, bool[] needs) -> ({result})")
    cotangents = ", ".join(f"Tensor? cotangent_{i}" for i in range(count))
    _library.define(
        f"{name}_double_backward(Tensor g, {tensors}, {cotangents}, str config, bool[] wanted) -> (Tensor, {result})"
    )
    qualified = f"gradnets_fast::{name}"

    def forward(*arguments: Any) -> Tensor:
        return operator.forward(*arguments)

    def forward_fake(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, config, needs = arguments
        return _empty_for_none(tensors[0], operator.backward(*tensors, config, tuple(needs)))

    def backward_fake(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, _, needs = arguments
        return tuple(_fake_gradient(g, t, need) for t, need in zip(tensors, needs))

    def second(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, config, wanted = arguments
        parts = double_backward(operator, config, wanted, tensors[: count + 1], tensors[count + 1 :])
        return _empty_for_none(tensors[0], parts)

    def second_fake(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, _, wanted = arguments
        return tuple(_fake_gradient(tensors[0], t, want) for t, want in zip(tensors, wanted))

    kernels = {
        "": (forward, forward_fake),
        "_backward": (backward, backward_fake),
        "_double_backward": (second, second_fake),
    }
    for suffix, (kernel, fake) in kernels.items():
        _library.impl(name + suffix, kernel, "CPU")
        torch.library.register_fake(qualified + suffix, fake, lib=_library)
    _register_derivatives(operator, qualified)
    return operator


def _register_derivatives(operator: Operator, qualified: str) -> None:
    count = len(operator.arguments)
    ops = torch.ops.gradnets_fast

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)))
        ctx.present = [isinstance(i, Tensor) for i in inputs]
        ctx.inputs = tuple(None if isinstance(i, Tensor) else i for i in inputs)

    def restored(ctx: Any) -> list[Any]:
        saved = iter(ctx.saved_tensors)
        return [next(saved) if present else other for present, other in zip(ctx.present, ctx.inputs)]

    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        *tensors, config = restored(ctx)
        needs = list(ctx.needs_input_grad[:count])
        gradients = getattr(ops, operator.name + "_backward")(g, *tensors, config, needs)
        return *(d if need else None for d, need in zip(gradients, needs)), None

    def backward_again(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        g, *tensors, config, needs = restored(ctx)
        wanted = list(ctx.needs_input_grad[: count + 1])
        known = [c if need else None for c, need in zip(cotangents, needs)]
        second = getattr(ops, operator.name + "_double_backward")(g, *tensors, *known, config, wanted)
        return *(d if want else None for d, want in zip(second, wanted)), None, None

    torch.library.register_autograd(qualified, backward, setup_context=save, lib=_library)
    torch.library.register_autograd(qualified + "_backward", backward_again, setup_context=save, lib=_library)


def _empty_for_none(like: Tensor, parts: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(like.new_empty(0) if part is None else part for part in parts)


def _fake_gradient(like: Tensor, tensor: Tensor | None, needed: bool) -> Tensor:
    if tensor is None or not needed:
        return like.new_empty(0)
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
