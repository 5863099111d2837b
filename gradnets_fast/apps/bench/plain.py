"""Each architecture as a user of plain PyTorch would write it: W x is computed once, the rest is elementwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...nn import GradNet, GradNetC, RidgeGradNet
from ...reference import TRANSFORM_VALUES, antiderivative, value


def plain(net: GradNet) -> Callable[[Tensor], Tensor]:
    """A function x -> f(x) of the network's own parameters, in plain PyTorch."""
    function = _ridge if isinstance(net, RidgeGradNet) else _cascade if isinstance(net, GradNetC) else _modular
    # Bound here, so that torch.compile sees the parameters as inputs of one function.
    return lambda x: function(net, x)


def _ridge(net: Any, x: Tensor) -> Tensor:
    f: Tensor = _activation(net.act, x @ net.W.T + net.b) @ net.W + net.bias
    return _with_linear(net, f, x)


def _cascade(net: Any, x: Tensor) -> Tensor:
    last = net.num_layers - 1
    u = x @ net.W.T
    z = _positive(net, net.beta[0]) * (u + net.bias[0])
    for layer in range(last):
        act = _positive(net, net.alpha[layer]) * _activation(net.nonlinearity[layer], z)
        z = _positive(net, net.beta[layer + 1]) * (u + net.bias[layer + 1]) + act
    final = net.nonlinearity[last - 1 if net.reuse_penultimate_activation else last]
    f: Tensor = (_positive(net, net.alpha[last]) * _activation(final, z)) @ net.W + net.bias[last + 1]
    return _with_linear(net, f, x)


def _modular(net: Any, x: Tensor) -> Tensor:
    alpha = _positive(net, net.alpha)
    gradients, potentials = [], []
    for i, module in enumerate(net.mmgn_modules):
        z = x @ module.W.T + module.b
        hidden = _softmax(net, module, z) if net.transform is None else _transformed(net, z)
        gradients.append(alpha[i] * (hidden @ module.W))
        if net.combine == "logsumexp":
            potentials.append(alpha[i] * _potential(net, module, z))
    if potentials:
        shares = (net.sharpness.exp() * torch.stack(potentials, -1) + net.offset).softmax(-1)
        gradients = [shares[..., i, None] * gradient for i, gradient in enumerate(gradients)]
    f = net.bias
    for gradient in gradients:
        f = f + gradient
    return _with_linear(net, f, x)


def _potential(net: Any, module: Any, z: Tensor) -> Tensor:
    if net.transform is not None:
        (name,) = net.spec.basis
        return TRANSFORM_VALUES[net.transform][0](antiderivative(name, z).sum(-1))
    beta = F.softplus(module.beta)
    if net.spec.kind != "weighted_softmax":
        return (beta * z).logsumexp(-1) / beta
    a, b = _positive(net, module.act.a), _positive(net, module.act.b)
    return (a * (beta * z).logsumexp(-1) + b * (-beta * z).logsumexp(-1)) / beta


def _softmax(net: Any, module: Any, z: Tensor) -> Tensor:
    z = F.softplus(module.beta) * z
    if net.spec.kind != "weighted_softmax":
        return torch.softmax(z, -1)
    return _positive(net, module.act.a) * torch.softmax(z, -1) - _positive(net, module.act.b) * torch.softmax(-z, -1)


def _transformed(net: Any, z: Tensor) -> Tensor:
    (name,) = net.spec.basis
    return TRANSFORM_VALUES[net.transform][1](antiderivative(name, z).sum(-1, keepdim=True)) * value(name, z)


def _activation(layer: Any, z: Tensor) -> Tensor:
    names = layer.spec.basis
    if layer.spec.kind == "weighted_tanh":
        tanh, a, b = torch.tanh(z), _positive(layer, layer.a), _positive(layer, layer.b)
        return a * tanh + b * (z - tanh) if layer.monotone else a * tanh - b * (z - tanh)
    if layer.spec.kind == "mixture":
        weight = _positive(layer, layer.weight)
        total = weight[0] * value(names[0], z)
        for k in range(1, len(names)):
            total = total + weight[k] * value(names[k], z)
        return total
    return value(names[0], z)


def _positive(owner: Any, raw: Tensor) -> Tensor:
    return F.softplus(raw) if owner.monotone else raw


def _with_linear(net: GradNet, f: Tensor, x: Tensor) -> Tensor:
    if net.linear is not None:
        f = f + net.linear(x)
    return f
