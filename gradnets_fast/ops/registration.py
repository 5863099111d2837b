"""Registers every operator with PyTorch's dispatcher, as torch.compile, torch.export and fake tensors need it.

`register` is called once for each operator by gradnets_fast/ops/__init__.py; autograd.py reaches the kernels through
what is registered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from ..errors import message
from .autograd import Backward, Forward, batched, recording
from .double_backward import double_backward
from .families import parse_settings
from .flops import count
from .operator import NAMESPACE, Operator

_ALIGNMENT = 16
_DISPATCH_KEYS = {"cpp": ("CPU",), "triton": ("CPU", "CUDA")}
_libraries: dict[str, Library] = vars(getattr(torch.ops, NAMESPACE)).setdefault("libraries", {})
"""The libraries of definitions, by their text, and of kernels, by their operator's name.

PyTorch keeps them, so that another import of the package finds what an earlier one has registered.
"""


def register(operator: Operator) -> Operator:
    """Register the operator, with suffixes _backward and _double_backward its first and second gradient; return it.

    An import of the package after it has left sys.modules, or a reload, replaces the kernels that were registered.
    """
    name, arity = operator.registered, len(operator.arguments)
    tensors = ", ".join(f"Tensor{'?' if a.endswith('?') else ''} {a.rstrip('?')}" for a in operator.arguments)
    cotangents = ", ".join(f"Tensor? along_{a.rstrip('?')}" for a in operator.arguments)
    gradients = ", ".join(["Tensor"] * arity)
    needed = "str settings, bool[] needs"
    _define(f"{name}({tensors}, str settings) -> Tensor")
    _define(f"{name}_backward(Tensor g, {tensors}, {needed}) -> ({gradients})")
    _define(f"{name}_double_backward(Tensor g, {tensors}, {cotangents}, {needed}) -> (Tensor, {gradients})")
    if name in _libraries:
        _libraries[name]._destroy()
    library = _libraries[name] = Library(NAMESPACE, "FRAGMENT")

    def forward(*arguments: Any) -> Tensor:
        *tensors, settings = arguments
        return operator.kernels.forward(tensors, parse_settings(settings))

    def backward(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, settings, needs = arguments
        return _returned(g, operator.kernels.backward(g, tensors, parse_settings(settings), tuple(needs)))

    def second(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, settings, needs = arguments
        gradients = double_backward(
            operator, tuple(needs), g, tensors[:arity], parse_settings(settings), tensors[arity:]
        )
        return _returned(g, gradients)

    def forward_fake(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(operator.result_shape(x))

    def backward_fake(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, _, needs = arguments
        return tuple(_fake_gradient(g, t, need) for t, need in zip(tensors, needs))

    def second_fake(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return backward_fake(g, g, *arguments)

    for suffix, kernel, fake in (
        ("", forward, forward_fake),
        ("_backward", backward, backward_fake),
        ("_double_backward", second, second_fake),
    ):
        for device in _DISPATCH_KEYS[operator.backend]:
            library.impl(name + suffix, kernel, device)
        torch.library.register_fake(f"{NAMESPACE}::{name}{suffix}", fake, lib=library)
    _register_derivatives(operator, library)
    operator.recording = recording(operator)
    count(operator)
    return operator


def _define(schema: str) -> None:
    """Define an operator, once in a process: compiled graphs and traced networks hold definitions beyond an import."""
    if schema not in _libraries:
        _libraries[schema] = Library(NAMESPACE, "FRAGMENT")
        _libraries[schema].define(schema)


def _register_derivatives(operator: Operator, library: Library) -> None:
    """Give the registered operators the same derivatives as the eager call, forward mode included.

    torch.library.register_autograd knows no forward mode: under it a tangent would silently become 0.
    """

    def forward(*arguments: Any) -> Tensor:
        *tensors, settings = arguments
        if torch._C._are_functorch_transforms_active():
            # A transform reaches inside the dispatcher, where an autograd.Function cannot be applied.
            return operator.by_reference(tensors, parse_settings(settings))
        result: Tensor = _apply(Forward, operator, parse_settings(settings), *tensors)
        return result

    def backward(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, settings, needs = arguments
        if torch._C._are_functorch_transforms_active():
            fix = "apply torch.func outside of torch.compile, not to a compiled backward pass"
            where = f"{operator.registered}_backward"
            raise RuntimeError(
                message(where, "torch.func transform", "none around a compiled backward pass", "one", fix)
            )
        gradients = _apply(Backward, operator, parse_settings(settings), tuple(needs), *tensors)
        return _returned(tensors[0], gradients)

    def forward_vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        *tensors, settings = arguments
        call = partial(_call_registered, operator.registered, (settings,))
        return batched(call, info.batch_size, in_dims[:-1], tensors, operator.is_point(), True)

    def backward_vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Any, Any]:
        *tensors, settings, needs = arguments
        call = partial(_call_registered, f"{operator.registered}_backward", (settings, needs))
        # In turn, because the placeholders for gradients that are not needed have no rows to fold.
        in_turn = (False,) * len(tensors)
        return batched(call, info.batch_size, in_dims[: len(tensors)], tensors, in_turn, False)

    for suffix, function, vmap in (("", forward, forward_vmap), ("_backward", backward, backward_vmap)):
        torch.library.register_vmap(f"{NAMESPACE}::{operator.registered}{suffix}", vmap, lib=library)
        library.impl(operator.registered + suffix, function, "Autograd")


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


def _call_registered(name: str, trailing: tuple[Any, ...], *tensors: Tensor | None) -> Any:
    return getattr(getattr(torch.ops, NAMESPACE), name)(*tensors, *trailing)


def _returned(like: Tensor, parts: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return gradients as a registered operator may: tensors that begin where torch.compile's kernels can load them.

    An empty tensor stands for None.  Vectors whose gradients adjoin begin anywhere within a tensor's memory, where what
    torch.compile makes for a GPU asks for multiples of 16 bytes: such a gradient is copied.
    """
    return tuple(like.new_empty(0) if part is None else _aligned(part) for part in parts)


def _aligned(part: Tensor) -> Tensor:
    return part.clone() if part.storage_offset() * part.element_size() % _ALIGNMENT else part


def _fake_gradient(like: Tensor, tensor: Tensor | None, need: bool) -> Tensor:
    if tensor is None or not need:
        return like.new_empty(0)
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)
