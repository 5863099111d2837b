"""The caller of the Triton kernels for convolutional ridge networks.

`ConvKernels` are the kernels of one operator, called by autograd.py and through PyTorch's dispatcher; they call
kernels/conv_strip_launch.py, where one launch does it all, or kernels/conv_launch.py, where kernels work between a
library's convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._kernels import capability_of, kernel_module
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
            arguments = (call.mode, self._quantity.name, points, call.convolution, call.parameters, bias)
            result: Tensor
            if call.why_not_one_launch(self._quantity.name) is None:
                result = kernel_module("conv_strip_launch").forward(*arguments)
            else:
                result = kernel_module("conv_launch").forward(*arguments, self._rule(x))
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
            arguments = (call.mode, self._quantity.name, batch, call.convolution, call.parameters, into)
            if call.why_not_one_launch(self._quantity.name) is None:
                kernel_module("conv_strip_launch").backward(*arguments)
            else:
                kernel_module("conv_launch").backward(*arguments, self._rule(x))
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
        self.mode: Any = ridge_mode(x, shift.shape[0], settings, products_of_convolutions(x))
        self.parameters = kernel_module("launch").Parameters(K, scale, shift, coef)
        self.convolution = kernel_module("conv_launch").Convolution(
            K, self._image.shape, self._image.padding == "circular"
        )

    def why_not_one_launch(self, quantity: str) -> str | None:
        """Return why a library convolves before and after the kernels; None where one launch does it all."""
        why: str | None = kernel_module("conv_strip_launch").why_not(self.mode, quantity, self.convolution)
        return why

    def images(self, points: Tensor) -> Tensor:
        """Return rows of coordinates as contiguous images, (images, C_in, n_1, …)."""
        return plain(points).to(self._dtype).reshape(-1, *self._image.shape).contiguous()


def products_of_convolutions(x: Tensor) -> str:
    """Return how products of such images and filters are computed: as PyTorch is told of convolutions."""
    if x.dtype != torch.float32:
        return "half"
    cudnn = torch.backends.cudnn
    precision = cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else "tf32" if cudnn.allow_tf32 else "none"
    if precision != "none" and x.device.type != "cpu":
        return str(precision)
    kind: str = kernel_module("configuration").float32_kind(
        0 if x.device.type == "cpu" else capability_of(x.get_device())
    )
    return kind


def describe(operator: str, x: Tensor, arguments: Mapping[str, Any] | None) -> str:
    """Return which kernels run images like x, for people; arguments: the operator's besides, where they are known."""
    device, dtype = x.device, str(x.dtype).removeprefix("torch.")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter, on the CPU"
    size = kernel_module("conv_launch").cache_bytes(device) / 2**20
    pieces = f"library convolutions over pieces of up to {size:.0f} MiB, and kernels between them"
    quantity = operator.removeprefix(CONV_RIDGE.name).removeprefix("_") or "value"
    if quantity not in kernel_module("conv_strip_launch").QUANTITIES:
        how = f"{pieces} (the {quantity} has no kernel of its own)"
    elif arguments is None:
        how = f"one launch where a program holds what filters reach, else {pieces}"
    else:
        why = _why_not_one_launch(quantity, x, arguments)
        how = f"{pieces} ({why})" if why else "one launch, by strips of the images"
    return f"{how}, {dtype}, {where}"


def _why_not_one_launch(quantity: str, x: Tensor, arguments: Mapping[str, Any]) -> str | None:
    K, shift = arguments["W"], arguments["shift"]
    names = arguments["basis"]
    settings = Settings((names,) if isinstance(names, str) else tuple(names), heads=arguments.get("heads", False))
    mode = ridge_mode(x, max(1, shift.numel() // len(K)), settings, products_of_convolutions(x))
    shape = tuple(x.shape[-(K.dim() - 1) :])
    convolution = kernel_module("conv_launch").Convolution(K, shape, arguments["padding"] == "circular")
    why: str | None = kernel_module("conv_strip_launch").why_not(mode, quantity, convolution)
    return why
