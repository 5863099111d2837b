"""The caller of the Triton kernels for deep networks: one launch each way where a program takes the whole network.

`DeepKernels` are the kernels of one operator, called by autograd.py and through PyTorch's dispatcher; they call
kernels/deep_launch.py.  Wider or deeper networks, and the gradients of J(x) v, are computed by the reference in pieces
of the batch, whose products are the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import recompute
from ._kernels import kernel_module
from ._triton import architecture_of, current_device, dense, memory_for, plain, products_of, those_needed, zeros_for
from .families import Gradients, Settings, Tensors
from .operator import Kernels, Operator, present

QUANTITIES = ("value", "jvp", "potential", "value_and_potential")
"""What the kernels compute."""


class DeepKernels(Kernels):
    """The Triton kernels of one operator of the deep family; tensors as in `Operator.arguments`."""

    def __init__(self, operator: Operator) -> None:
        self._operator, self._quantity, self._point_count = operator, operator.quantity, operator.point_count

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result."""
        x, theta, shape = present(tensors[0]), self._theta(tensors), self._operator.result_shape(present(tensors[0]))
        if not x.numel():
            return torch.empty(shape, dtype=x.dtype, device=x.device)
        mode = deep_mode(x, settings)
        if not has_tiles(mode, x.shape[-1]):
            return recompute.forward(self._operator, tensors, settings)
        launch = kernel_module("deep_launch")
        with current_device(x.device):
            if self._quantity.name == "jvp":
                into = launch.Gradients(x=memory_for(x))
                v = plain(present(tensors[1]).to(x.dtype))
                launch.backward(mode, "value", launch.Batch(plain(x), v), theta, into)
                jvp: Tensor = into.x
                return jvp
            bias = dense(tensors[-1]) if self._quantity.takes_bias else None
            result: Tensor = launch.forward(mode, self._quantity.name, plain(x), theta, bias, shape)
        return result

    def backward(self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
        """Return the gradients of <g, result> in the tensors that `needs` marks."""
        x, targets = present(tensors[0]), those_needed(tensors, needs)
        if not x.numel():
            return zeros_for(targets)
        mode = deep_mode(x, settings)
        if self._quantity.name == "jvp" or not has_tiles(mode, x.shape[-1]):
            return recompute.backward(self._operator, g, tensors, settings, needs)
        into = kernel_module("deep_launch").Gradients(*map(memory_for, targets))
        if any(target is not None for target in targets):
            with current_device(x.device):
                batch = self._batch(plain(x), plain(g.to(x.dtype)))
                kernel_module("deep_launch").backward(mode, self._quantity.name, batch, self._theta(tensors), into)
        return (into.x, into.theta, into.bias)[: len(tensors)]

    def _batch(self, x: Tensor, g: Tensor) -> Any:
        """Return the points and cotangents as launches take them."""
        make = kernel_module("deep_launch").Batch
        if self._quantity.name == "value":
            return make(x, g)
        if self._quantity.name == "potential":
            return make(x, weight=g)
        rows = g.reshape(-1, g.shape[-1])
        return make(x, rows[:, :-1], rows[:, -1])

    def _theta(self, tensors: Tensors) -> Tensor:
        return present(dense(tensors[self._point_count]))


def deep_mode(x: Tensor, settings: Settings) -> Any:
    """Return the constants with which kernels of deep networks are compiled for points like x."""
    return _mode_of(-1 if x.device.type == "cpu" else x.get_device(), products_of(x), settings)


@lru_cache(maxsize=None)
def _mode_of(device: int, kind: str, settings: Settings) -> Any:
    assert settings.structure is not None
    return kernel_module("mode").DeepMode(architecture_of(device), kind, settings.basis, *settings.structure)


def has_tiles(mode: Any, d: int) -> bool:
    """Return whether a program takes the whole network, both ways."""
    return all(mode.options(kernel, d) is not None for kernel in ("forward", "backward"))
