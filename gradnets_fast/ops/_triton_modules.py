"""The caller of the Triton kernels for families of modules: one pair of kernels serves f, J(x) v and the potential.

`ModuleKernels` are the kernels of one operator, called by autograd.py and through PyTorch's dispatcher; they call
kernels/modules_launch.py.  Sizes and gradients without a kernel are computed by the reference in pieces of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import recompute
from ._kernels import kernel_module
from ._triton import (
    architecture_of,
    current_device,
    dense,
    memory_for,
    plain,
    products_of,
    those_needed,
    zeros_for,
)
from .families import Gradients, Settings, Tensors
from .operator import Kernels, Operator, present

_NUMBERS = ("positive", "temperature", "negative", "offset", "sharpness")
"""The order in which kernels store the gradients of numbers."""


class ModuleKernels(Kernels):
    """The Triton kernels of one operator of a family of modules; tensors as in `Operator.arguments`."""

    def __init__(self, operator: Operator) -> None:
        self._operator, self._quantity, self._point_count = operator, operator.quantity, operator.point_count
        # What a transformed module calls its weight is the positive weight of a softmax module.
        names = (name.rstrip("?") for name in operator.arguments[operator.point_count :])
        self._names = ["positive" if name == "weight" else name for name in names]

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result."""
        x = present(tensors[0])
        if not x.numel():
            return torch.empty(self._quantity.result_shape(x.shape), dtype=x.dtype, device=x.device)
        named, quantity = self._named(tensors), self._quantity.name
        mode = modules_mode(x, settings)
        if not _has_tiles(mode, x, named):
            return recompute.forward(self._operator, tensors, settings)
        launch, network, points = kernel_module("modules_launch"), _network(named), plain(x)
        result: Tensor
        with current_device(x.device):
            if quantity == "jvp":
                into = launch.Gradients(x=memory_for(x))
                launch.backward(mode, "value", points, plain(present(tensors[1]).to(x.dtype)), None, network, into)
                result = into.x
            else:
                result = launch.forward(mode, quantity, points, network, dense(named.get("bias")))
        return result

    def backward(self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
        """Return the gradients of <g, result> in the tensors that `needs` marks."""
        x, targets = present(tensors[0]), those_needed(tensors, needs)
        if not x.numel():
            return zeros_for(targets)
        named, quantity = self._named(tensors), self._quantity.name
        mode = modules_mode(x, settings)
        if quantity not in ("value", "potential") or not _has_tiles(mode, x, named):
            return recompute.backward(self._operator, g, tensors, settings, needs)
        launch, network, of = kernel_module("modules_launch"), _network(named), self._named(targets)
        into = launch.Gradients(memory_for(targets[0]), memory_for(of["W"]), bias=memory_for(of.get("bias")))
        if of["W"] is not None or of["b"] is not None:
            into.b = memory_for(named["b"])
        if any(of.get(name) is not None for name in _NUMBERS):
            into.scalars = torch.empty(sum(network.columns()), dtype=torch.float32, device=x.device)
        with current_device(x.device):
            if quantity == "value":
                launch.backward(mode, "value", plain(x), plain(g.to(x.dtype)), None, network, into)
            else:
                launch.backward(mode, "potential", plain(x), None, plain(g).contiguous(), network, into)
        found = {"W": into.W, "b": into.b, "bias": into.bias} | _numbers(network, into.scalars)
        return into.x, *(_like(found.get(name), of[name]) for name in self._names)

    def _named(self, tensors: Tensors) -> dict[str, Any]:
        """Return the tensors besides the points by the names that kernels/modules_launch.py gives them."""
        return dict(zip(self._names, tensors[self._point_count :]))


def modules_mode(x: Tensor, settings: Settings) -> Any:
    """Return the constants with which kernels of modules are compiled for points like x."""
    return _mode_of(-1 if x.device.type == "cpu" else x.get_device(), products_of(x), settings)


@lru_cache(maxsize=None)
def _mode_of(device: int, kind: str, settings: Settings) -> Any:
    (basis,) = settings.basis or ("",)
    return kernel_module("mode").ModulesMode(architecture_of(device), kind, basis, settings.transform)


def _has_tiles(mode: Any, x: Tensor, named: dict[str, Any]) -> bool:
    two_signs = named.get("negative") is not None
    return all(mode.options(kernel, x.shape[-1], two_signs) is not None for kernel in ("forward", "backward"))


def _network(named: dict[str, Any]) -> Any:
    tensors = {name: dense(tensor) for name, tensor in named.items() if name != "bias"}
    return kernel_module("modules_launch").Network(**{"temperature": None} | tensors)


def _numbers(network: Any, joined: Tensor | None) -> dict[str, Tensor]:
    return {} if joined is None else dict(zip(_NUMBERS, joined.split(network.columns())))


def _like(found: Tensor | None, target: Tensor | None) -> Tensor | None:
    if target is None:
        return None
    assert found is not None
    return found.view(target.shape).to(target.dtype)
