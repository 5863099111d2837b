"""Convolutions of images of their own size, their adjoints, and the filters' gradients: the stages before the last one.

    convolved:  y = K∗x      adjoint:  x = Kᵀy      filters_gradient:  dK[c, i, t] = Σ_p y_c(p) x_i(p + t)

Each is linear in both arguments, and the derivatives of each are the other two.  C++ kernels run them where x and K are
plain CPU tensors and nothing else watches (a compiler, a transform, autocast); PyTorch's convolutions elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, is_autocast_enabled
from torch.nn import functional as F

from .. import backend as _backend
from ..ops import _cpp, autograd

_CONVOLUTIONS: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def convolved(x: Tensor, K: Tensor, padding: str, backend: str | None = None) -> Tensor:
    """Return K∗x of images x (B, C_in, n_1, …), of their size; K (C, C_in, k_1, …)."""
    if kernels_run(backend, x, K):
        return _applied(_Convolved, x, K, padding)
    return _correlated(x, K, padding, [(k - 1) // 2 for k in K.shape[2:]])


def adjoint(y: Tensor, K: Tensor, padding: str, backend: str | None = None) -> Tensor:
    """Return Kᵀy, the adjoint of `convolved`: the convolution with the flipped filters, which is what it costs."""
    if kernels_run(backend, y, K):
        return _applied(_Adjoint, y, K, padding)
    flipped = K.flip(list(range(2, K.dim()))).transpose(0, 1)
    return _correlated(y, flipped, padding, [k // 2 for k in K.shape[2:]])


def filters_gradient(x: Tensor, y: Tensor, K: Tensor, padding: str) -> Tensor:
    """Return the gradient of <y, K∗x> in K, of which the shape counts alone."""
    if kernels_run(None, x, y):
        return _applied(_FiltersGradient, x, y, K, padding)
    padded, count = _padded(x, K, padding, [(k - 1) // 2 for k in K.shape[2:]]), K.dim() - 2
    ones, zeros = [1] * count, [0] * count
    settings = (None, ones, zeros, ones, False, zeros, 1, [False, True, False])
    gradient: Tensor = torch.ops.aten.convolution_backward(y, padded, K, *settings)[1]
    return gradient


def _padded(x: Tensor, K: Tensor, padding: str, before: list[int]) -> Tensor:
    pads = [p for k, b in zip(reversed(K.shape[2:]), reversed(before)) for p in (b, k - 1 - b)]
    return F.pad(x, pads, mode="constant" if padding == "zeros" else "circular")


def _correlated(x: Tensor, K: Tensor, padding: str, before: list[int]) -> Tensor:
    convolution = _CONVOLUTIONS[K.dim()]
    if padding == "zeros" and all(2 * b == k - 1 for k, b in zip(K.shape[2:], before)):
        result: Tensor = convolution(x, K, padding=tuple(before))
        return result
    result = convolution(_padded(x, K, padding, before), K)
    return result


def kernels_run(backend: str | None, x: Tensor, other: Tensor) -> bool:
    """Return whether the C++ kernels take the tensors: plain ones of the CPU, which nothing else watches."""
    if not are_unwatched(x, other) or is_autocast_enabled("cpu"):
        return False
    name = backend or _backend.block_request() or _cpp.environment(_backend.ENVIRONMENT_VARIABLE) or "cpp"
    return name == "cpp" and _backend.why_not("cpp", x.device, x.dtype) is None


def are_unwatched(x: Tensor, other: Tensor) -> bool:
    """Return whether the tensors are plain ones, alike, and neither compiled nor transformed: kernels may read them."""
    if torch.compiler.is_compiling():
        return False
    are_plain = not (autograd.is_of_another_kind(x) or autograd.is_of_another_kind(other))
    are_alike = are_plain and x.device == other.device and x.dtype is other.dtype
    return are_alike and autograd.no_transform_is_active()


def _applied(function: Any, *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, K: Tensor, padding: str) -> Tensor:
        ctx.save_for_backward(x, K)
        ctx.padding = padding
        y = x.new_empty(x.shape[0], K.shape[0], *x.shape[2:])
        return _cpp.linear_convolution("convolved", x, y, K, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, K = ctx.saved_tensors
        dx = adjoint(g, K, ctx.padding) if ctx.needs_input_grad[0] else None
        return dx, filters_gradient(x, g, K, ctx.padding) if ctx.needs_input_grad[1] else None, None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, K: Tensor, padding: str) -> Tensor:
        ctx.save_for_backward(y, K)
        ctx.padding = padding
        x = y.new_empty(y.shape[0], K.shape[1], *y.shape[2:])
        return _cpp.linear_convolution("adjoint", x, y, K, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, K = ctx.saved_tensors
        dy = convolved(g, K, ctx.padding) if ctx.needs_input_grad[0] else None
        return dy, filters_gradient(g, y, K, ctx.padding) if ctx.needs_input_grad[1] else None, None


class _FiltersGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, K: Tensor, padding: str) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.padding = padding
        return _cpp.linear_convolution("filters", x, y, x.new_empty(K.shape), padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, y = ctx.saved_tensors
        dx = adjoint(y, g, ctx.padding) if ctx.needs_input_grad[0] else None
        return dx, convolved(x, g, ctx.padding) if ctx.needs_input_grad[1] else None, None, None
