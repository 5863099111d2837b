"""Operators as a user of plain PyTorch would write them: the eager contender, and what torch.compile is given.

`gradnets_fast.reference` is plain PyTorch, and serves wherever it is as fast as this.  Its derivatives and
antiderivatives keep the digits of both tails, which costs more than the textbook's forms; those stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import reference
from ...nn import DeepGradNet
from ...reference import ANTIDERIVATIVES, DERIVATIVES, TRANSFORM_VALUES, VALUES
from ...reference.ridge import PANELLED_RULE, gram

Function = Callable[..., Tensor]


def _sigmoid_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


_SLOPES: dict[str, Callable[[Tensor], Tensor]] = DERIVATIVES | {
    "tanh": lambda z: 1 - torch.tanh(z).square(),
    "sigmoid": _sigmoid_slope,
    "softplus": torch.sigmoid,
    "silu": _silu_slope,
}


def _slope(name: str, z: Tensor) -> Tensor:
    return _SLOPES[name](z)


def _ridge(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor, basis: Sequence[str]
) -> Tensor:
    if scale is None or coef is None:
        return VALUES[basis[0]](x @ W.T + shift[0]) @ W + bias
    return reference.ridge(x, W, scale, shift, coef, bias, basis)


def authors_ridge(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Sequence[str]
) -> Tensor:
    """The operator ridge in the structure of the authors' code, which computes W x in each layer."""
    hidden = torch.zeros((), dtype=x.dtype, device=x.device)
    for layer in range(len(scale)):
        z = scale[layer] * (x @ W.T) + shift[layer] + hidden
        hidden = sum((coef[layer, k] * VALUES[name](z) for k, name in enumerate(basis)), torch.zeros_like(z))
    return hidden @ W + bias


def _ridge_jvp(x: Tensor, v: Tensor, W: Tensor, bias: Tensor, **cascade: Any) -> Tensor:
    slope = reference.cascade_slope(x @ W.T, **cascade, derivative=_slope)
    return ((slope * (v @ W.T)).to(W.dtype) @ W).to(x.dtype)


def _ridge_divergence(x: Tensor, W: Tensor, bias: Tensor, **cascade: Any) -> Tensor:
    slope = reference.cascade_slope(x @ W.T, **cascade, derivative=_slope)
    return (slope @ W.square().sum(-1).to(slope.dtype)).to(x.dtype)


def _ridge_jacobian(x: Tensor, W: Tensor, bias: Tensor, **cascade: Any) -> Tensor:
    return gram(W, reference.cascade_slope(x @ W.T, **cascade, derivative=_slope)).to(x.dtype)


def _ridge_potential(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Sequence[str]
) -> Tensor:
    u = x @ W.T
    if len(scale) == 1:
        z = scale[0] * u + shift[0]
        rises = [coef[0, k] * (ANTIDERIVATIVES[n](z) - ANTIDERIVATIVES[n](shift[0])) for k, n in enumerate(basis)]
        of_units = sum(rises[1:], rises[0]) / scale[0]
    else:
        of_units = u * sum(w * reference.cascade(t * u, scale, shift, coef, basis) for t, w in PANELLED_RULE)
    return (of_units.sum(-1) + x @ bias.to(x.dtype)).to(x.dtype)


def _softmax_modules(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor,
    sharpness: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    if sharpness is None or offset is None:
        return reference.softmax_modules(x, W, b, temperature, positive, negative, bias)
    gradients, potentials = [], []
    for m in range(len(W)):
        z = temperature[m] * (x @ W[m].T + b[m])
        hidden, potential = positive[m] * z.softmax(-1), positive[m] * z.logsumexp(-1)
        if negative is not None:
            hidden = hidden - negative[m] * (-z).softmax(-1)
            potential = potential + negative[m] * (-z).logsumexp(-1)
        gradients.append(hidden.to(W.dtype) @ W[m])
        potentials.append(potential / temperature[m])
    shares = (sharpness * torch.stack(potentials, -1) + offset).softmax(-1)
    f = sum((shares[..., m, None] * gradient for m, gradient in enumerate(gradients)), bias)
    return f.to(x.dtype)


def _terms(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor, basis: str, transform: str
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """(W_m, z_m, a_m ρ(F_m), a_m ρ'(F_m), a_m ρ''(F_m)) of each module; the last three (…, 1)."""
    for m in range(len(W)):
        z = x @ W[m].T + b[m]
        total = ANTIDERIVATIVES[basis](z).sum(-1, keepdim=True)
        rho, first, second = (weight[m] * function(total) for function in TRANSFORM_VALUES[transform])
        yield W[m], z, rho, first, second


def _transformed(x: Tensor, basis: str, bias: Tensor, **modules: Any) -> Tensor:
    f = bias
    for W, z, _, first, _ in _terms(x, basis=basis, bias=bias, **modules):
        f = f + (first * VALUES[basis](z)).to(W.dtype) @ W
    return f.to(x.dtype)


def _transformed_potential(x: Tensor, bias: Tensor, **modules: Any) -> Tensor:
    potential = x @ bias.to(x.dtype)
    for _, _, rho, _, _ in _terms(x, bias=bias, **modules):
        potential = potential + rho.squeeze(-1)
    return potential.to(x.dtype)


def _transformed_jvp(x: Tensor, v: Tensor, basis: str, **modules: Any) -> Tensor:
    tangent = torch.zeros_like(x)
    for W, z, _, first, second in _terms(x, basis=basis, **modules):
        s, a = VALUES[basis](z), v @ W.T
        hidden = second * (s * a).sum(-1, keepdim=True) * s + first * _slope(basis, z) * a
        tangent = tangent + hidden.to(W.dtype) @ W
    return tangent.to(x.dtype)


def _transformed_divergence(x: Tensor, basis: str, **modules: Any) -> Tensor:
    trace = torch.zeros_like(x[:, 0])
    for W, z, _, first, second in _terms(x, basis=basis, **modules):
        gradient, slope = VALUES[basis](z).to(W.dtype) @ W, _slope(basis, z)
        along = slope @ W.square().sum(-1).to(slope.dtype)
        trace = trace + second.squeeze(-1) * gradient.square().sum(-1) + first.squeeze(-1) * along
    return trace.to(x.dtype)


def _transformed_jacobian(x: Tensor, basis: str, **modules: Any) -> Tensor:
    jacobian = x.new_zeros(*x.shape, x.shape[-1])
    for W, z, _, first, second in _terms(x, basis=basis, **modules):
        gradient = VALUES[basis](z).to(W.dtype) @ W
        outer = (second * gradient).unsqueeze(-1) * gradient.unsqueeze(-2)
        jacobian = jacobian + outer + gram(W, first * _slope(basis, z))
    return jacobian.to(x.dtype)


def _deep_potential(x: Tensor, theta: Tensor, bias: Tensor, widths: Sequence[int], basis: Sequence[str]) -> Tensor:
    sizes = [n for h, before in zip(widths, (x.shape[-1], *widths)) for n in (h * before, h)]
    *parts, c = theta.split([*sizes, widths[-1]])
    a = x
    for h, name, weight, b in zip(widths, basis, parts[::2], parts[1::2]):
        a = VALUES[name](F.linear(a, weight.view(h, -1), b))
    energy: Tensor = a @ c + x @ bias.to(x.dtype)
    return energy


def _gradient(energy: Function, x: Tensor) -> Tensor:
    """By autograd of an energy, with a graph where one is recorded."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (f,) = torch.autograd.grad(energy(x).sum(), x, create_graph=again)
    return f


def _deep(x: Tensor, **network: Any) -> Tensor:
    return _gradient(partial(_deep_potential, **network), x)


def deep_gradnet(net: DeepGradNet) -> Function:
    """(parameters, x) -> f(x) of a network like this, by autograd of its energy."""
    settings: dict[str, Any] = {"activation": net.basis, "monotone": net.monotone}
    energy = partial(reference.deep_gradnet_potential, **settings, residual=net.structure.residual)
    return lambda parameters, x: _gradient(partial(energy, parameters), x)


def _deep_jvp(x: Tensor, v: Tensor, **network: Any) -> Tensor:
    """By autograd of <f, v>."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (product,) = torch.autograd.grad(_deep(x, **network), x, v, create_graph=again)
    return product


def _deep_jacobian(x: Tensor, **network: Any) -> Tensor:
    """By autograd of each coordinate of f."""
    unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.stack([_deep_jvp(x, direction.expand_as(x), **network) for direction in unit], -2)


def _deep_divergence(x: Tensor, **network: Any) -> Tensor:
    return _deep_jacobian(x, **network).diagonal(dim1=-2, dim2=-1).sum(-1)


_OWN: dict[str, Callable[..., Tensor]] = {
    "deep": _deep,
    "deep_jvp": _deep_jvp,
    "deep_potential": _deep_potential,
    "deep_divergence": _deep_divergence,
    "deep_jacobian": _deep_jacobian,
    "ridge": _ridge,
    "ridge_jvp": _ridge_jvp,
    "ridge_potential": _ridge_potential,
    "ridge_divergence": _ridge_divergence,
    "ridge_jacobian": _ridge_jacobian,
    "softmax_modules": _softmax_modules,
    "transformed_modules": _transformed,
    "transformed_modules_jvp": _transformed_jvp,
    "transformed_modules_potential": _transformed_potential,
    "transformed_modules_divergence": _transformed_divergence,
    "transformed_modules_jacobian": _transformed_jacobian,
}


def function(operator: str) -> Callable[..., Tensor]:
    """An operator of (*points, **parameters), named as those of `gradnets_fast.reference`; points: (batch, d).

    Besides softmax modules' f, modules under a soft maximum are the reference's: see `draws.Variant.combined`.
    """
    own: Callable[..., Tensor] = _OWN.get(operator) or getattr(reference, operator)
    return own
