"""The caller of the Triton kernels for convolutional ridge networks, which work between a library's convolutions.

`ConvKernels` are the kernels of one operator, called by autograd.py and through PyTorch's dispatcher; they call
kernels/conv_launch.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._kernels import kernel_module
from ._triton import (
    current_device,
    dense,
    gradients_memory,
    memory_for,
    parts,
    plain,
    quadrature,
    ridge_mode,
    those_needed,
    zeros_for,
)
from .families import CONV_RIDGE, Gradients, Image, Settings, Tensors
from .operator import Kernels, Operator, present


class ConvKernels(Kernels):
    """The Triton kernels of one operator of the family; tensors as in `Operator.arguments`."""

    def __init__(self, operator: Operator) -> None:
        self._quantity, self._point_count = operator.quantity, operator.point_count

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result."""
        x = present(tensors[0])
        shape = self._quantity.result_shape(x.shape)
        if not x.numel():
            return torch.empty(shape, dtype=x.dtype, device=x.device)
        call = _Call(x, tensors[self._point_count :], settings)
        points = {name: call.images(present(t)) for name, t in zip(self._quantity.points, tensors)}
        bias = dense(tensors[-1]) if self._quantity.takes_bias else None
        with current_device(x.device):
            arguments = (points, call.convolution, call.parameters, bias, self._rule(x))
            result: Tensor = kernel_module("conv_launch").forward(call.mode, self._quantity.name, *arguments)
        return result.view(shape)

    def backward(self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
        """Return the gradients of <g, result> in the tensors that `needs` marks."""
        x, targets, count = present(tensors[0]), those_needed(tensors, needs), self._point_count
        if not x.numel():
            return zeros_for(targets)
        call, launch = _Call(x, tensors[count:], settings), kernel_module("launch")
        (dx, *dv), (K, *vectors) = targets[:count], targets[count : count + len(CONV_RIDGE.parameters)]
        bias = memory_for(targets[-1]) if self._quantity.takes_bias else None
        into = gradients_memory(dx, K, vectors, bias=bias, v=memory_for(dv[0]) if dv else None)
        if self._quantity.result == "number":
            batch = launch.Batch(call.images(x), weight=plain(g).reshape(-1).float().contiguous())
        else:
            v = call.images(present(tensors[1])) if count == 2 else None
            batch = launch.Batch(call.images(x), call.images(g), v)
        with current_device(x.device):
            arguments = (batch, call.convolution, call.parameters, into, self._rule(x))
            kernel_module("conv_launch").backward(call.mode, self._quantity.name, *arguments)
        of_bias = (into.bias,) if self._quantity.takes_bias else ()
        return *(into.x, into.v)[:count], into.W, *parts(into.vectors, vectors), *of_bias

    def _rule(self, x: Tensor) -> Tensor | None:
        return quadrature(x.device) if self._quantity.name == "potential" else None


class _Call:
    """A network's tensors and constants as launches take them, for points like x."""

    def __init__(self, x: Tensor, parameters: Tensors, settings: Settings) -> None:
        assert settings.image is not None
        self._image: Image = settings.image
        self._dtype = x.dtype
        K, scale, shift, coef = map(dense, parameters[: len(CONV_RIDGE.parameters)])
        K, shift = present(K), present(shift).view(-1, present(K).shape[0])
        self.mode: Any = ridge_mode(x, shift.shape[0], settings)
        self.parameters = kernel_module("launch").Parameters(K, scale, shift, coef)
        self.convolution = kernel_module("conv_launch").Convolution(
            K, self._image.shape, self._image.padding == "circular"
        )

    def images(self, points: Tensor) -> Tensor:
        """Return rows of coordinates as contiguous images, (images, C_in, n_1, …)."""
        return plain(points).to(self._dtype).reshape(-1, *self._image.shape).contiguous()


def describe(x: Tensor) -> str:
    """Which kernels run images like x, for people."""
    device, dtype = x.device, str(x.dtype).removeprefix("torch.")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter, on the CPU"
    size = kernel_module("conv_launch").cache_bytes(device) / 2**20
    return f"library convolutions over pieces of up to {size:.0f} MiB, and kernels between them, {dtype}, {where}"
