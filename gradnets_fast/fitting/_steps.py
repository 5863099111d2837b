"""One step of training, in two ways: of any module by autograd, and of the simplest networks by one call of kernels.

With effective parameters e = e(θ), such as the softplus of a monotone network, and the loss S = mean of (f(x; e) − g)²,
the kernels return S and ∂S/∂e together, and `GradNet._pulled_back` makes ∂S/∂θ of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils.parametrize import is_parametrized

from ..backend import choose
from ..nn import (
    DeepGradNet,
    GradNetC,
    GradNetM,
    RidgeGradNet,
    mDeepGradNet,
    mGradNetC,
    mGradNetM,
    mRidgeGradNet,
)
from ..nn.base import GradNet
from ..ops import _cpp, autograd

_KNOWN = (RidgeGradNet, mRidgeGradNet, GradNetC, mGradNetC, GradNetM, mGradNetM, DeepGradNet, mDeepGradNet)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Batch(NamedTuple):
    """Points (B, …), the target gradients, of their shape, and the target values (B,); one target may be missing."""

    x: Tensor
    gradients: Tensor | None
    values: Tensor | None

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with a function of each of its tensors."""
        x, gradients, values = self
        return Batch(
            function(x),
            None if gradients is None else function(gradients),
            None if values is None else function(values),
        )


def squared_error(net: nn.Module, batch: Batch, weights: tuple[float, float]) -> Tensor:
    """Return weights[0]·(mean of (f(x) − gradients)²) + weights[1]·(mean of (F(x) − values)²), of what there is."""
    x, gradients, values = batch
    if values is None:
        assert gradients is not None
        return mse_loss(net(x), gradients) * weights[0]
    network: Any = net
    if gradients is None:
        return mse_loss(network.potential(x), values) * weights[1]
    F, f = network.value_and_gradient(x)
    return mse_loss(f, gradients) * weights[0] + mse_loss(F, values) * weights[1]


class AutogradStep:
    """A step of any module, by autograd and torch.optim.Adam."""

    def __init__(self, net: nn.Module, weights: tuple[float, float]) -> None:
        self._net, self._weights = net, weights
        trained = [p for p in net.parameters() if p.requires_grad]
        fused = all(type(p) is nn.Parameter and p.device.type in ("cpu", "cuda") for p in trained)
        self._optimizer = torch.optim.Adam(trained, fused=fused)

    def __call__(self, batch: Batch, error: Tensor, rate: float) -> None:
        """Make a step at this learning rate; the loss before it is written into `error`, (1,)."""
        with torch.enable_grad():
            loss = squared_error(self._net, batch, self._weights)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        error.copy_(loss.detach())

    def store(self) -> None:
        """Leave the module with the parameters of the last step and without gradients."""
        self._optimizer.zero_grad()


class KernelStep:
    """A step of a network that `why_not_kernels` has no objection to, on copies of its parameters in one flat tensor.

    A step changes the flat tensor in one call, so that an interrupt never meets half of one.
    """

    def __init__(self, net: GradNet) -> None:
        self._net = net
        raw = net._raw()
        assert raw is not None
        self._parts = {name: part if isinstance(part, list) else [part] for name, part in raw.items()}
        self._flat = torch.cat([p.detach().flatten() for part in self._parts.values() for p in part])
        shapes = [(len(part), *part[0].shape) if isinstance(part, list) else part.shape for part in raw.values()]
        views = self._flat.split([torch.Size(shape).numel() for shape in shapes])
        self._raw = {name: view.view(shape) for name, view, shape in zip(raw, views, shapes)}
        network: Any = net._effective_of(**self._raw)
        self._gradient, first, second = torch.zeros(3, len(self._flat), dtype=self._flat.dtype)
        self._means, self._count, self._settings = (first, second), 0, network.settings()
        self._kernels = network.operators["value"].cpp.kernels
        self._place_gradients(network)

    def _place_gradients(self, network: Any) -> None:
        """Give the kernels memory for gradients: that of the flat gradient itself where they pass through unchanged."""
        held = {field.name: getattr(network, field.name) for field in fields(network)}
        memory = {name: torch.zeros_like(t) for name, t in held.items() if isinstance(t, Tensor)}
        found = self._net._pulled_back(replace(network, **memory), network, self._raw)
        parts = self._gradient.split([raw.numel() for raw in self._raw.values()])
        self._computed = {}
        for part, (name, raw) in zip(parts, self._raw.items()):
            same = [of for of, t in memory.items() if t is found[name]]
            if same:
                memory[same[0]] = part.view(raw.shape)
            else:
                self._computed[name] = part.view(raw.shape)
        self._effective_gradients: Any = replace(network, **memory)
        self._into = (*self._effective_gradients.parameters(), self._effective_gradients.bias)

    def __call__(self, batch: Batch, error: Tensor, rate: float) -> None:
        """Make a step at this learning rate, outside of autograd; the loss before it is written into `error`, (1,)."""
        network = self._net._effective_of(**self._raw)
        parameters = (*network.parameters(), network.bias)
        self._kernels.squared_error(batch.x, batch.gradients, parameters, self._settings, error, self._into)
        found = self._net._pulled_back(self._effective_gradients, network, self._raw)
        for name, part in self._computed.items():
            part.copy_(found[name])
        self._count += 1
        _cpp.adam(self._flat, self._gradient, self._means, self._count, rate)

    def store(self) -> None:
        """Leave the network with the parameters of the last step and without gradients."""
        for name, part in self._parts.items():
            for parameter, value in zip(part, self._raw[name] if len(part) > 1 else [self._raw[name]]):
                parameter.copy_(value.view_as(parameter))
                parameter.grad = None


def why_not_kernels(net: nn.Module, batch: Batch, weights: tuple[float, float]) -> str | None:
    """Return why a step of this module cannot be one call of kernels, or None if it can."""
    if type(net) not in _KNOWN or vars(net).keys() & {"forward", "_effective"}:
        return f"{type(net).__name__} has no step of kernels"
    assert isinstance(net, GradNet)
    if batch.values is not None or weights[0] != 1:
        return "the loss is not the plain squared error of gradients"
    if choose(net.operator_name, batch.x, None).backend != "cpp":
        return "the backend is not cpp"
    if batch.x.dtype not in (torch.float32, torch.float64):
        return f"the points have dtype {batch.x.dtype}"
    return _why_not_parameters(net, batch.x) or _why_not_here(net)


def _why_not_parameters(net: GradNet, x: Tensor) -> str | None:
    parameters = [p for _, p in net.named_parameters(remove_duplicate=False)]
    if len({p.untyped_storage().data_ptr() for p in parameters}) != len(parameters):
        return "parameters share memory"
    if not all(p.requires_grad for p in parameters):
        return "parameters are frozen"
    if any(type(p) is not nn.Parameter or p.dtype != x.dtype or p.device != x.device for p in parameters):
        return "the parameters are not plain ones of the points' dtype and device"
    if any(is_parametrized(part) for part in net.modules()):
        return "the network is parametrized"
    if any(getattr(part, name, None) for part in net.modules() for name in _HOOKS) or any(
        getattr(p, name, None) for p in parameters for name in ("_backward_hooks", "_post_accumulate_grad_hooks")
    ):
        return "the network has hooks"
    raw = net._raw()
    if raw is None:
        return "its activation is learned, its modules are combined, or it has a linear part"
    known = [p for part in raw.values() for p in (part if isinstance(part, list) else [part])]
    return None if {*map(id, known)} == {*map(id, parameters)} else "the network has further parameters"


def _why_not_here(net: GradNet) -> str | None:
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if torch.is_anomaly_enabled() or not autograd.no_transform_is_active():
        return "autograd is watched"
    if nn.modules.module._has_any_global_hook():
        return "all modules have hooks"
    return None
