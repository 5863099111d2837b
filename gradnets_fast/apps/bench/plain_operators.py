"""Each operator as a user of plain PyTorch would write it: W x is computed once, the rest is elementwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ... import reference
from ...reference import ANTIDERIVATIVES, DERIVATIVES, TRANSFORM_VALUES, value
from ...reference.ridge import PANELLED_RULE, gram

Basis = Sequence[str]


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
"""Derivatives of the basis functions.  The reference's keep their tails' digits, which costs more."""


def _mixed(functions: Callable[[str, Tensor], Tensor], coef: Tensor, basis: Basis, z: Tensor) -> Tensor:
    total = coef[0] * functions(basis[0], z)
    for k in range(1, len(basis)):
        total = total + coef[k] * functions(basis[k], z)
    return total


def _slope(name: str, z: Tensor) -> Tensor:
    return _SLOPES[name](z)


def _cascade(u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Basis) -> Tensor:
    z = scale[0] * u + shift[0]
    for layer in range(1, len(scale)):
        z = scale[layer] * u + shift[layer] + _mixed(value, coef[layer - 1], basis, z)
    return _mixed(value, coef[-1], basis, z)


def _cascade_slope(u: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, basis: Basis) -> Tensor:
    z, slope = scale[0] * u + shift[0], scale[0]
    for layer in range(1, len(scale)):
        below = coef[layer - 1]
        slope = scale[layer] + _mixed(_slope, below, basis, z) * slope
        z = scale[layer] * u + shift[layer] + _mixed(value, below, basis, z)
    return _mixed(_slope, coef[-1], basis, z) * slope


def _ridge(x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Basis) -> Tensor:
    return (_cascade(x @ W.T, scale, shift, coef, basis).to(W.dtype) @ W + bias).to(x.dtype)


def _ridge_potential(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Basis
) -> Tensor:
    u = x @ W.T
    if len(scale) == 1:
        z = scale[0] * u + shift[0]
        rises = [coef[0, k] * (ANTIDERIVATIVES[n](z) - ANTIDERIVATIVES[n](shift[0])) for k, n in enumerate(basis)]
        of_units = sum(rises[1:], rises[0]) / scale[0]
    else:
        of_units = u * sum(weight * _cascade(t * u, scale, shift, coef, basis) for t, weight in PANELLED_RULE)
    return (of_units.sum(-1) + x @ bias.to(x.dtype)).to(x.dtype)


def _ridge_jvp(
    x: Tensor, v: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Basis
) -> Tensor:
    slope = _cascade_slope(x @ W.T, scale, shift, coef, basis)
    return ((slope * (v @ W.T)).to(W.dtype) @ W).to(x.dtype)


def _ridge_divergence(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Basis
) -> Tensor:
    slope = _cascade_slope(x @ W.T, scale, shift, coef, basis)
    return (slope @ W.square().sum(-1).to(slope.dtype)).to(x.dtype)


def _ridge_jacobian(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Basis
) -> Tensor:
    return gram(W, _cascade_slope(x @ W.T, scale, shift, coef, basis)).to(x.dtype)


def _modules(
    x: Tensor, W: Tensor, b: Tensor, basis: str, transform: str
) -> Iterator[tuple[int, Tensor, tuple[Tensor, Tensor, Tensor]]]:
    """(m, z_m, (ρ(F_m), ρ'(F_m), ρ''(F_m))) of each module."""
    for m in range(len(W)):
        z = x @ W[m].T + b[m]
        total = ANTIDERIVATIVES[basis](z).sum(-1, keepdim=True)
        rho, first, second = (function(total) for function in TRANSFORM_VALUES[transform])
        yield m, z, (rho, first, second)


def _transformed(x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor, basis: str, transform: str) -> Tensor:
    f = bias
    for m, z, (_, first, _) in _modules(x, W, b, basis, transform):
        f = f + (weight[m] * first * value(basis, z)).to(W.dtype) @ W[m]
    return f.to(x.dtype)


def _transformed_potential(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor, basis: str, transform: str
) -> Tensor:
    potential = x @ bias.to(x.dtype)
    for m, _, (rho, _, _) in _modules(x, W, b, basis, transform):
        potential = potential + weight[m] * rho.squeeze(-1)
    return potential.to(x.dtype)


def _transformed_jvp(
    x: Tensor, v: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor, basis: str, transform: str
) -> Tensor:
    tangent = torch.zeros_like(x)
    for m, z, (_, first, second) in _modules(x, W, b, basis, transform):
        s, a = value(basis, z), v @ W[m].T
        hidden = second * (s * a).sum(-1, keepdim=True) * s + first * _slope(basis, z) * a
        tangent = tangent + (weight[m] * hidden).to(W.dtype) @ W[m]
    return tangent.to(x.dtype)


def _transformed_divergence(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor, basis: str, transform: str
) -> Tensor:
    trace = torch.zeros_like(x[:, 0])
    for m, z, (_, first, second) in _modules(x, W, b, basis, transform):
        gradient = value(basis, z).to(W.dtype) @ W[m]
        slope = _slope(basis, z)
        curvature = slope @ W[m].square().sum(-1).to(slope.dtype)
        of_module = second.squeeze(-1) * gradient.square().sum(-1) + first.squeeze(-1) * curvature
        trace = trace + weight[m] * of_module
    return trace.to(x.dtype)


def _transformed_jacobian(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor, basis: str, transform: str
) -> Tensor:
    jacobian = x.new_zeros(*x.shape, x.shape[-1])
    for m, z, (_, first, second) in _modules(x, W, b, basis, transform):
        gradient = value(basis, z).to(W.dtype) @ W[m]
        outer = (second * gradient).unsqueeze(-1) * gradient.unsqueeze(-2)
        jacobian = jacobian + weight[m] * (outer + gram(W[m], first * _slope(basis, z)))
    return jacobian.to(x.dtype)


_OWN: dict[str, Callable[..., Tensor]] = {
    "ridge": _ridge,
    "ridge_potential": _ridge_potential,
    "ridge_jvp": _ridge_jvp,
    "ridge_divergence": _ridge_divergence,
    "ridge_jacobian": _ridge_jacobian,
    "transformed_modules": _transformed,
    "transformed_modules_potential": _transformed_potential,
    "transformed_modules_jvp": _transformed_jvp,
    "transformed_modules_divergence": _transformed_divergence,
    "transformed_modules_jacobian": _transformed_jacobian,
}


def plain_operator(name: str) -> Callable[..., Tensor]:
    """A function with the arguments of that of `reference`, whose softmax modules are plain already."""
    function: Callable[..., Tensor] = _OWN.get(name) or getattr(reference, name)
    return function
