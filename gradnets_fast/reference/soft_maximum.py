"""Modules under log-sum-exp: F(x) = LSE_m(κ F_m + c_m)/κ, with κ > 0, in place of the sum of their potentials F_m.

Log-sum-exp is convex and nondecreasing in each argument, so that convex F_m make a convex F.  With G_m = ∇F_m and
H_m = ∇²F_m, both by the functions of one module, and s = softmax_m(κ F_m + c_m):

    f = Σ_m s_m G_m        J = Σ_m s_m [H_m + κ (G_m − f)(G_m − f)ᵀ]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Parameters = Sequence["Tensor | None"]


@dataclass(frozen=True)
class ModuleFunctions:
    """The functions of one module, of (x, [v], *parameters) without bias: (f, F) at once, F, J v, tr J and J.

    F is in float32 at least: an absolute error of κF is a relative one of s.
    """

    value_and_potential: Callable[..., tuple[Tensor, Tensor]]
    potential: Callable[..., Tensor]
    jvp: Callable[..., Tensor]
    divergence: Callable[..., Tensor]
    jacobian: Callable[..., Tensor]


def value(module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """f(x), (…, d); parameters: of all modules, (M, …)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    return (s.unsqueeze(-1) * G).sum(-2).to(x.dtype)


def potential(module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """F(x), (…,)."""
    potentials = torch.stack([module.potential(x, *one) for one in modules(parameters)], -1)
    return ((sharpness * potentials + offset).logsumexp(-1) / sharpness).to(x.dtype)


def jvp(
    module: ModuleFunctions, x: Tensor, v: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> Tensor:
    """J(x) v, (…, d)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    along = (G * v.unsqueeze(-2)).sum(-1)
    turned = s * (along - (s * along).sum(-1, keepdim=True)) * sharpness
    curved = torch.stack([module.jvp(x, v, *one) for one in modules(parameters)], -2)
    return (s.unsqueeze(-1) * curved + turned.unsqueeze(-1) * G).sum(-2).to(x.dtype)


def divergence(module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """tr J(x), (…,)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    apart = G - (s.unsqueeze(-1) * G).sum(-2, keepdim=True)
    curved = torch.stack([module.divergence(x, *one) for one in modules(parameters)], -1)
    return (s * (curved + sharpness * apart.square().sum(-1))).sum(-1).to(x.dtype)


def jacobian(module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor) -> Tensor:
    """J(x), (…, d, d)."""
    s, G = _shares_and_gradients(module, x, parameters, sharpness, offset)
    apart = G - (s.unsqueeze(-1) * G).sum(-2, keepdim=True)
    total = sharpness * ((s.unsqueeze(-1) * apart).mT @ apart.to(s.dtype))
    for m, one in enumerate(modules(parameters)):
        total = total + s[..., m, None, None] * module.jacobian(x, *one)
    return total.to(x.dtype)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "value": value,
    "potential": potential,
    "jvp": jvp,
    "divergence": divergence,
    "jacobian": jacobian,
}
"""Each quantity as a function of (module, x, [v], parameters, sharpness, offset)."""


def modules(parameters: Parameters) -> list[list[Tensor | None]]:
    """The parameters of each module, (1, …)."""
    first = parameters[0]
    assert first is not None
    return [[None if t is None else t[m : m + 1] for t in parameters] for m in range(len(first))]


def _shares_and_gradients(
    module: ModuleFunctions, x: Tensor, parameters: Parameters, sharpness: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """s, (…, M), and G, (…, M, d)."""
    gradients, potentials = zip(*(module.value_and_potential(x, *one) for one in modules(parameters)))
    return (sharpness * torch.stack(potentials, -1) + offset).softmax(-1), torch.stack(gradients, -2)
