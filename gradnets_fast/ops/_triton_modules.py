"""The caller of the Triton kernels for modules, which one pair of kernels serves: f, J(x) v and the potential."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import by_reference
from ._kernels import kernel_module
from ._triton import (
    Gradients,
    architecture_of,
    current_device,
    dense,
    memory_for,
    plain,
    products_of,
    those_wanted,
    zeros_for,
)

_NAMES = {
    "softmax_modules": ("W", "b", "temperature", "positive", "negative", "sharpness", "offset", "bias"),
    "transformed_modules": ("W", "b", "positive", "sharpness", "offset", "bias"),
}
"""What an operator's parameters are to `modules_launch.Network`, in their order."""

_NUMBERS = ("positive", "temperature", "negative", "offset", "sharpness")
"""The order in which kernels store the gradients of numbers."""


class ModuleKernels:
    """One operator of one family of modules.

    suffix: of its name, "" for f.  reference: (*tensors, config) -> the operator in PyTorch, for what has no kernel and
    for rows that no tile holds.
    """

    def __init__(self, family: str, suffix: str, reference: Callable[..., Tensor]) -> None:
        self._names = _NAMES[family] if suffix == "" else _NAMES[family][:-1]
        self._suffix, self._reference = suffix, reference
        self._rows = 2 if suffix == "jvp" else 1

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """(x, [v], *parameters, config) -> the operator's result."""
        *tensors, config = arguments
        if not x.numel():
            last = {"": x.shape[-1:], "jvp": x.shape[-1:], "jacobian": (x.shape[-1],) * 2}.get(self._suffix, ())
            return torch.empty(*x.shape[:-1], *last, dtype=x.dtype, device=x.device)
        named = dict(zip(self._names, tensors[self._rows - 1 :]))
        mode = _mode(x, config)
        if self._suffix in ("divergence", "jacobian") or not _fits(mode, x, named):
            return by_reference.forward(self._reference, (x, *tensors), config, self._rows, self._width(x, named))
        launch, network, points = kernel_module("modules_launch"), _network(named), plain(x)
        result: Tensor
        with current_device(x.device):
            if self._suffix == "jvp":
                into = launch.Gradients(x=memory_for(x))
                launch.backward(mode, "value", points, plain(tensors[0].to(x.dtype)), None, network, into)
                result = into.x
            else:
                task = "value" if self._suffix == "" else "potential"
                result = launch.forward(mode, task, points, network, dense(named.get("bias")))
        return result

    def backward(self, g: Tensor, *arguments: Any) -> Gradients:
        """(g, x, [v], *parameters, config, needs) -> the gradients of <g, result>."""
        *tensors, config, needs = arguments
        x, wanted = tensors[0], those_wanted(tensors, needs)
        if not x.numel():
            return zeros_for(wanted)
        named = dict(zip(self._names, tensors[self._rows :]))
        mode = _mode(x, config)
        if self._suffix not in ("", "potential") or not _fits(mode, x, named):
            width = self._width(x, named)
            return by_reference.backward(self._reference, g, tensors, config, needs, self._rows, width)
        launch, network = kernel_module("modules_launch"), _network(named)
        of = dict(zip(self._names, wanted[self._rows :]))
        into = launch.Gradients(memory_for(wanted[0]), memory_for(of["W"]), bias=memory_for(of.get("bias")))
        if of["W"] is not None or of["b"] is not None:
            into.b = memory_for(named["b"])
        if any(of.get(name) is not None for name in _NUMBERS):
            into.scalars = torch.empty(sum(network.columns()), dtype=torch.float32, device=x.device)
        with current_device(x.device):
            if self._suffix == "":
                launch.backward(mode, "value", plain(x), plain(g.to(x.dtype)), None, network, into)
            else:
                launch.backward(mode, "potential", plain(x), None, plain(g).contiguous(), network, into)
        found = {"W": into.W, "b": into.b, "bias": into.bias} | _numbers(network, into.scalars)
        return into.x, *(_like(found.get(name), of[name]) for name in self._names)

    def _width(self, x: Tensor, named: dict[str, Tensor]) -> int:
        """How many numbers one row takes in the reference."""
        W = named["W"]
        return W.shape[0] * W.shape[1] + (W.numel() if self._suffix == "jacobian" else 0)


def _mode(x: Tensor, config: str) -> Any:
    return _mode_of(-1 if x.device.type == "cpu" else x.get_device(), products_of(x), config)


@lru_cache(maxsize=None)
def _mode_of(device: int, kind: str, config: str) -> Any:
    names = config.split(",") if config else ("", "")
    return kernel_module("mode").ModulesMode(architecture_of(device), kind, *names)


def _fits(mode: Any, x: Tensor, named: dict[str, Tensor]) -> bool:
    two_signs = named.get("negative") is not None
    return all(mode.options(kernel, x.shape[-1], two_signs) is not None for kernel in ("forward", "backward"))


def _network(named: dict[str, Tensor]) -> Any:
    tensors = {name: dense(tensor) for name, tensor in named.items() if name != "bias"}
    return kernel_module("modules_launch").Network(**{"temperature": None} | tensors)


def _numbers(network: Any, joined: Tensor | None) -> dict[str, Tensor]:
    return {} if joined is None else dict(zip(_NUMBERS, joined.split(network.columns())))


def _like(found: Tensor | None, wanted: Tensor | None) -> Tensor | None:
    if wanted is None:
        return None
    assert found is not None
    return found.view(wanted.shape).to(wanted.dtype)
