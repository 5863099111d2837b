"""Modules under log-sum-exp: F(x) = LSE_m(κ F_m + c_m)/κ, with κ > 0, in place of the sum of their potentials F_m.

Log-sum-exp is convex and nondecreasing in each argument, so that convex F_m make a convex F.  With G_m = ∇F_m and
H_m = ∇²F_m, both by a family's functions of one module, and s = softmax_m(κ F_m + c_m):

    f = Σ_m s_m G_m        J = Σ_m s_m [H_m + κ (G_m − f)(G_m − f)ᵀ]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = Sequence["Tensor | None"]


@dataclass(frozen=True)
class Family:
    """A family's functions of (x, [v], *parameters), without bias: f, F, J v, tr J and J."""

    value: Callable[..., Tensor]
    potential: Callable[..., Tensor]
    jvp: Callable[..., Tensor]
    divergence: Callable[..., Tensor]
    jacobian: Callable[..., Tensor]


def value(family: Family, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """f(x), (…, d); parameters: of all modules, (M, …)."""
    s, G = _shares(family, x, parameters, sharpness, offset), _gradients(family, x, parameters)
    return (s.unsqueeze(-1) * G).sum(-2).to(x.dtype)


def potential(family: Family, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """F(x), (…,)."""
    return (_scores(family, x, parameters, sharpness, offset).logsumexp(-1) / sharpness).to(x.dtype)


def jvp(family: Family, x: Tensor, v: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """J(x) v, (…, d)."""
    s, G = _shares(family, x, parameters, sharpness, offset), _gradients(family, x, parameters)
    along = (G * v.unsqueeze(-2)).sum(-1)
    turned = s * (along - (s * along).sum(-1, keepdim=True)) * sharpness
    curved = torch.stack([family.jvp(x, v, *one) for one in modules(parameters)], -2)
    return (s.unsqueeze(-1) * curved + turned.unsqueeze(-1) * G).sum(-2).to(x.dtype)


def divergence(family: Family, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """tr J(x), (…,)."""
    s, G = _shares(family, x, parameters, sharpness, offset), _gradients(family, x, parameters)
    apart = G - (s.unsqueeze(-1) * G).sum(-2, keepdim=True)
    curved = torch.stack([family.divergence(x, *one) for one in modules(parameters)], -1)
    return (s * (curved + sharpness * apart.square().sum(-1))).sum(-1).to(x.dtype)


def jacobian(family: Family, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """J(x), (…, d, d)."""
    s, G = _shares(family, x, parameters, sharpness, offset), _gradients(family, x, parameters)
    apart = G - (s.unsqueeze(-1) * G).sum(-2, keepdim=True)
    total = sharpness * ((s.unsqueeze(-1) * apart).mT @ apart.to(s.dtype))
    for m, one in enumerate(modules(parameters)):
        total = total + s[..., m, None, None] * family.jacobian(x, *one)
    return total.to(x.dtype)


def modules(parameters: Parameters) -> list[list[Tensor | None]]:
    """The parameters of each module, (1, …)."""
    first = parameters[0]
    assert first is not None
    return [[None if t is None else t[m : m + 1] for t in parameters] for m in range(len(first))]


def _gradients(family: Family, x: Tensor, parameters: Parameters) -> Tensor:
    """G, (…, M, d)."""
    return torch.stack([family.value(x, *one) for one in modules(parameters)], -2)


def _scores(family: Family, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """κ F_m + c_m, (…, M), in float32 at least: an absolute error of it is a relative one of s_m."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide = [None if t is None else t.to(dtype) for t in parameters]
    potentials = torch.stack([family.potential(x.to(dtype), *one) for one in modules(wide)], -1)
    return sharpness * potentials + offset


def _shares(family: Family, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """s, (…, M)."""
    return _scores(family, x, parameters, sharpness, offset).softmax(-1)
