"""One step of training, in two ways: of any module by autograd, and of the simplest networks by one call of kernels.

With effective parameters e = e(θ), such as the softplus of a monotone network, and the loss S = mean of (f(x; e) − g)²,
the kernels return S and ∂S/∂e together, and `GradNet._pulled_back` makes ∂S/∂θ of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ADAM_COUNTS_TO = 2**24
"""torch.optim.Adam counts steps in float32, which holds no greater odd number."""
AdamState = Mapping[Tensor, Mapping[str, Tensor]]
"""For each parameter, as in torch.optim.Adam, "step", "exp_avg" and "exp_avg_sq"; empty before the first step."""


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


def squared_error(
    net: nn.Module, batch: Batch, weights: tuple[float, float], mean: Callable[[Tensor], Tensor] = torch.mean
) -> Tensor:
    """Return weights[0]·(mean of (f(x) − gradients)²) + weights[1]·(mean of (F(x) − values − c)²), of what there is.

    c is the mean of F(x) − values: a potential has its values up to a constant.  mean: that of the whole batch, where
    this is a part of one.
    """
    x, gradients, values = batch

    def of_values(F: Tensor, values: Tensor) -> Tensor:
        error = F - values
        # The least mean over c, so that the derivative by way of c is 0.
        return (error - mean(error.detach())).square().mean()

    if values is None:
        assert gradients is not None
        return mse_loss(net(x), gradients) * weights[0]
    network: Any = net
    if gradients is None:
        return of_values(network.potential(x), values) * weights[1]
    F, f = network.value_and_gradient(x)
    return mse_loss(f, gradients) * weights[0] + of_values(F, values) * weights[1]


def rate_at(step: int, steps: int, rate: float, schedule: str) -> float:
    """Return the learning rate of step 0 <= step < steps: `rate`, or what a cosine has left of it."""
    return rate * (1 + math.cos(math.pi * step / steps)) / 2 if schedule == "cosine" else rate


class AutogradStep:
    """A step of any module and loss, by autograd and torch.optim.Adam.

    Args:
        net: the module, of which the parameters that require gradients are trained.
        objective: the parts of a batch -> (the loss to minimise, the error to report).
        scaler: the scaler of the loss, for float16.
        clip: the most that the gradient's norm may be.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Callable[..., tuple[Tensor, Tensor]],
        scaler: torch.amp.GradScaler | None = None,
        clip: float | None = None,
    ) -> None:
        self._objective, self._clip = objective, clip
        self._scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self._trained = [p for p in net.parameters() if p.requires_grad]
        fused = all(type(p) is nn.Parameter and p.device.type in ("cpu", "cuda") for p in self._trained)
        self._optimizer = torch.optim.Adam(self._trained, fused=fused)

    def __call__(self, batch: tuple[Any, ...], error: Tensor, rate: float) -> None:
        """Make a step at this learning rate; the error before it is written into `error`, (1,)."""
        self._set_rate(rate)
        self._make(batch, error)

    def _set_rate(self, rate: float) -> None:
        self._optimizer.param_groups[0]["lr"] = rate

    def _make(self, batch: tuple[Any, ...], error: Tensor) -> None:
        optimizer, scaler = self._optimizer, self._scaler
        with torch.enable_grad():
            loss, reported = self._objective(*batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if self._clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self._trained, self._clip)
        scaler.step(optimizer)
        scaler.update()
        error.copy_(reported.detach())

    def state(self) -> AdamState:
        """Adam's state."""
        return self._optimizer.state

    def restore(self, state: AdamState) -> None:
        """Go on with this state, whose forms are checked, for Adam's kernel does not."""
        for parameter, of in state.items():
            self._optimizer.state[parameter] = {name: tensor.to(parameter.device) for name, tensor in of.items()}

    def store(self) -> None:
        """Leave the module with the parameters of the last step and without gradients."""
        self._optimizer.zero_grad()


class KernelStep:
    """A step of a network that `why_not_kernels` has no objection to, on copies of its parameters in one flat tensor.

    A step changes the flat tensor in one call, so that an interrupt never meets half of one.  The loss is the mean of
    (f − g)² times `weight`.
    """

    def __init__(self, net: GradNet, weight: float) -> None:
        self._net, self._weight = net, weight
        raw = net._raw()
        assert raw is not None
        self._parameters = [p for part in raw.values() for p in (part if isinstance(part, list) else [part])]
        self._flat = torch.cat([p.detach().flatten() for p in self._parameters])
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

    def __call__(self, batch: tuple[Any, ...], error: Tensor, rate: float) -> None:
        """Make a step at this learning rate, outside of autograd; the loss before it is written into `error`, (1,).

        batch: points and their gradients.
        """
        network = self._net._effective_of(**self._raw)
        parameters = (*network.parameters(), network.bias)
        self._kernels.squared_error(batch[0], batch[1], parameters, self._settings, error, self._into)
        found = self._net._pulled_back(self._effective_gradients, network, self._raw)
        for name, part in self._computed.items():
            part.copy_(found[name])
        if self._weight != 1:
            error.mul_(self._weight)
            self._gradient.mul_(self._weight)
        self._count += 1
        _cpp.adam(self._flat, self._gradient, self._means, self._count, rate)

    def _each(self, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each parameter with its part of a flat tensor, in its shape."""
        for parameter, part in zip(self._parameters, flat.split([p.numel() for p in self._parameters])):
            yield parameter, part.view_as(parameter)

    def state(self) -> AdamState:
        """Adam's state."""
        if not self._count:
            return {}
        count, means = float(min(self._count, _ADAM_COUNTS_TO)), zip(*(self._each(mean) for mean in self._means))
        return {p: {"step": torch.tensor(count), "exp_avg": m, "exp_avg_sq": v} for (p, m), (_, v) in means}

    def restore(self, state: AdamState) -> None:
        """Go on with this state, whose forms are checked."""
        for name, flat in zip(("exp_avg", "exp_avg_sq"), self._means):
            for parameter, mean in self._each(flat):
                if parameter in state:
                    mean.copy_(state[parameter][name])
                    self._count = int(state[parameter]["step"])

    def store(self) -> None:
        """Leave the network with the parameters of the last step and without gradients."""
        with torch.no_grad():
            for parameter, value in self._each(self._flat):
                parameter.copy_(value)
                parameter.grad = None


def why_not_kernels(net: nn.Module, batch: Batch) -> str | None:
    """Return why a step of this module cannot be one call of kernels, or None if it can."""
    if type(net) not in _KNOWN or vars(net).keys() & {"forward", "_effective"}:
        return f"{type(net).__name__} has no step of kernels"
    assert isinstance(net, GradNet)
    if batch.values is not None:
        return "the loss is not that of gradients alone"
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
    if any(getattr(part, name, None) for part in net.modules() for name in HOOKS) or any(
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
