"""The basis functions as torch writes them, their antiderivatives and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .forward_mode import outer_levels

__all__ = [
    "ANTIDERIVATIVES",
    "DERIVATIVES",
    "SECOND_DERIVATIVES",
    "VALUES",
    "antiderivative",
    "derivative",
    "second_derivative",
    "value",
]


def _softplus(x: Tensor) -> Tensor:
    # torch's default threshold of 20 drops log1p(e^{-x}), up to 2e-9, which float64 sees.
    return F.softplus(x, threshold=40.0)


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": _softplus,
    "relu": F.relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "sin": torch.sin,
    "arctan": torch.atan,
    "softsign": F.softsign,
    "erf": torch.erf,
    "softshrink": F.softshrink,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
}
"""As torch computes them, which is what kernels are compared with in speed."""


def _arctan(x: Tensor) -> Tensor:
    limit = torch.finfo(x.dtype).max / 4
    return torch.atan(x.clamp(-limit, limit))


_FOR_AUTOGRAD: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: torch.where(x.abs() < 40.0, F.gelu(x.clamp(-40.0, 40.0)), x * (x > 0)),
    "arctan": _arctan,
    "erf": lambda x: torch.erf(x.clamp(-30.0, 30.0)),
    "hardsigmoid": lambda x: F.relu6(x + 3) / 6,
}
"""Those whose derivatives by autograd are not as good as their values.

The second or third is NaN far out: with constant slopes there, as rounding has it, it is not.  The first of torch's
hardsigmoid is one of single precision.
"""


def _minus_dilogarithm(x: Tensor) -> Tensor:
    """−Li₂(−eˣ), by its values left of 0 and the inversion formula."""
    left = _minus_dilogarithm_left(x)
    return torch.where(x > 0, x * x / 2 + math.pi**2 / 6 - left, left)


def _minus_dilogarithm_left(x: Tensor) -> Tensor:
    """−Li₂(−e^{−|x|}), by Σ_n B_n u^{n+1}/(n+1)! in u = log(1 + e^{−|x|})."""
    u = torch.log1p(torch.exp(-x.abs()))
    # B_2k/(2k+1)! for k = 1 … 9; |u| <= log 2, so the next term is below 1e-17.
    series = torch.zeros_like(u)
    bernoulli = [1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798]
    for k, number in reversed(list(enumerate(bernoulli, start=1))):
        series = series * u * u + number / math.factorial(2 * k + 1)
    return u + u * u / 4 + u**3 * series


def _elu(x: Tensor) -> Tensor:
    negative = x.clamp(max=0)
    return torch.where(x > 0, x * x / 2, torch.expm1(negative) - negative)


def _silu_antiderivative(x: Tensor) -> Tensor:
    # x softplus(x) + Li₂(−eˣ) + π²/12, where x² of one and x²/2 of the other would both overflow.
    constant = math.pi**2 / 12 - _minus_dilogarithm_left(x)
    return x * (F.relu(x) / 2 + torch.log1p(torch.exp(-x.abs()))) + torch.where(x > 0, -constant, constant)


def _gelu_antiderivative(x: Tensor) -> Tensor:
    x = x.clamp(min=-40.0)  # further left N is 0, and x² may overflow
    cdf: Tensor = torch.special.ndtr(x)
    pdf = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return ((x * x - 1) * cdf + x * pdf) / 2 + 0.25


def _arctan_antiderivative(x: Tensor) -> Tensor:
    near = x.abs().clamp(max=1e8)  # beyond, log(1 + x²)/2 is log|x|, and x² may overflow
    return x * torch.atan(x) - torch.log1p(near * near) / 2 - torch.log(x.abs().clamp(min=1e8) / 1e8)


ANTIDERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x * x / 2,
    "tanh": lambda x: x.abs() + _softplus(-2 * x.abs()) - math.log(2.0),
    "sigmoid": _softplus,
    "softplus": _minus_dilogarithm,
    "relu": lambda x: F.relu(x) ** 2 / 2,
    "elu": _elu,
    "silu": _silu_antiderivative,
    "gelu": _gelu_antiderivative,
    "sin": lambda x: 1 - torch.cos(x),
    "arctan": _arctan_antiderivative,
    "softsign": lambda x: x.abs() - torch.log1p(x.abs()),
    "erf": lambda x: x * torch.erf(x) + torch.expm1(-x * x) / math.sqrt(math.pi),
    "softshrink": lambda x: F.softshrink(x) ** 2 / 2,
    "hardtanh": lambda x: F.hardtanh(x) ** 2 / 2 + F.relu(x.abs() - 1),
    "hardsigmoid": lambda x: (x.clamp(-3, 3) + 3) ** 2 / 12 + F.relu(x - 3),
}
"""Φ with Φ' = the value: Φ(0) = 0, but log 2 for sigmoid and π²/12 for softplus, which vanish at −∞."""


def sigmoid(x: Tensor) -> Tensor:
    """1/(1 + e^{−x}), whose derivative by autograd keeps relative accuracy in both tails."""
    # autograd's y(1 − y) cancels where y is near 1: there 1 − sigmoid(−x), whose y is near 0.
    return torch.where(x < 0, torch.sigmoid(x), 1 - torch.sigmoid(-x))


def sech_squared(x: Tensor) -> Tensor:
    """tanh'(x) = 4 sigmoid(2x) sigmoid(−2x): 1 − tanh² would lose the tails, 1/cosh² overflow in its derivative."""
    return 4 * sigmoid(2 * x) * sigmoid(-2 * x)


def _gelu_derivative(x: Tensor) -> Tensor:
    x = x.clamp(-40.0, 40.0)  # beyond, it is 0 or 1
    cdf = torch.erfc(-math.sqrt(0.5) * x) / 2
    return cdf + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


# Piecewise constant ones go through x, so that autograd finds the derivative 0 rather than none, and NaN stays NaN.
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: torch.where(x.isnan(), x, 1.0),
    "tanh": sech_squared,
    "sigmoid": lambda x: sigmoid(x) * sigmoid(-x),
    "softplus": sigmoid,
    "relu": lambda x: torch.where(x > 0, 1.0, F.relu(x)),
    "elu": lambda x: torch.where(x >= 0, 1.0, torch.exp(x.clamp(max=0))),
    "silu": lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
    "gelu": _gelu_derivative,
    "sin": torch.cos,
    # x² would overflow.
    "arctan": lambda x: torch.hypot(x, torch.ones_like(x)).reciprocal().square(),
    "softsign": lambda x: (1 + x.abs()).reciprocal().square(),
    "erf": lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x.clamp(-30.0, 30.0).square()),
    "softshrink": lambda x: torch.where(x.abs() > 0.5, 1.0, F.softshrink(x)),
    "hardtanh": lambda x: torch.where(x.abs() < 1, 1.0, F.softshrink(x.clamp(-0.5, 0.5))),
    "hardsigmoid": lambda x: torch.where(x.abs() < 3, 1 / 6, F.softshrink(x.clamp(-0.5, 0.5))),
}
"""b', written so that autograd's derivative of it, b'', is accurate too; at kinks both are torch's."""


def _minus_tanh_of_half(x: Tensor) -> Tensor:
    return -torch.tanh(x / 2)


def _bounded(x: Tensor) -> Tensor:
    """x where e^{−x²/2} is not 0, whose powers beyond would overflow."""
    return x.clamp(-40.0, 40.0)


SECOND_DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: torch.where(x.isnan(), x, 0.0),
    "tanh": lambda x: -2 * torch.tanh(x) * sech_squared(x),
    "sigmoid": lambda x: sigmoid(x) * sigmoid(-x) * _minus_tanh_of_half(x),
    "softplus": lambda x: sigmoid(x) * sigmoid(-x),
    "relu": lambda x: torch.where(x.isnan(), x, 0.0),
    "elu": lambda x: torch.where(x >= 0, 0.0, torch.exp(x.clamp(max=0))),
    "silu": lambda x: sigmoid(x) * sigmoid(-x) * (2 + x * _minus_tanh_of_half(x)),
    "gelu": lambda x: torch.exp(-x * x / 2) * (2 - _bounded(x).square()) / math.sqrt(2 * math.pi),
    "sin": lambda x: -torch.sin(x),
    "arctan": lambda x: -2 * x * torch.hypot(x, torch.ones_like(x)).reciprocal().square().square(),
    "softsign": lambda x: -2 * torch.sign(x) * (1 + x.abs()).reciprocal().pow(3),
    "erf": lambda x: -4 / math.sqrt(math.pi) * _bounded(x) * torch.exp(-x * x),
    "softshrink": lambda x: torch.where(x.isnan(), x, 0.0),
    "hardtanh": lambda x: torch.where(x.isnan(), x, 0.0),
    "hardsigmoid": lambda x: torch.where(x.isnan(), x, 0.0),
}
"""The second derivative in closed form, which autograd differentiates once more; at kinks one of the two sides."""


KINKS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(VALUES, ()),
    **{"relu": (0.0,), "elu": (0.0,), "softsign": (0.0,)},
    **{"softshrink": (-0.5, 0.5), "hardtanh": (-1.0, 1.0), "hardsigmoid": (-3.0, 3.0)},
}
"""Between which a function is analytic, so that quadrature integrates it to rounding on short intervals."""


STRAIGHT = frozenset({"identity", "relu", "softshrink", "hardtanh", "hardsigmoid"})
"""The piecewise linear ones."""


def value(name: str, x: Tensor) -> Tensor:
    """The basis function `name`, elementwise."""
    return _FOR_AUTOGRAD.get(name, VALUES[name])(x)


def derivative(name: str, x: Tensor) -> Tensor:
    """The derivative of the basis function `name`, elementwise."""
    return DERIVATIVES[name](x)


def second_derivative(name: str, x: Tensor) -> Tensor:
    """The second derivative of the basis function `name`, elementwise."""
    return SECOND_DERIVATIVES[name](x)


def _in_float64(name: str, x: Tensor) -> Tensor:
    # Some formulas cancel near 0, which float64 covers for every smaller dtype; Metal has no float64.
    wide = x.float() if x.device.type == "mps" else x.double()
    return ANTIDERIVATIVES[name](wide).to(x.dtype)


class _Antiderivative(torch.autograd.Function):
    """Φ(x), whose derivative is declared to be b(x), rather than found by differentiating a formula with branches."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        return _in_float64(name, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
        x, ctx.name = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * value(ctx.name, ctx.saved_tensors[0]), None


class _ForwardModeAntiderivative(_Antiderivative):
    """The same with forward mode, which torch.compile refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        with outer_levels(*ctx.saved_tensors) as (x,):
            return tangent * value(ctx.name, x)


_THREE_NODES = ((0.5 - math.sqrt(0.15), 5 / 18), (0.5, 8 / 18), (0.5 + math.sqrt(0.15), 5 / 18))
"""Gauss–Legendre quadrature on [0, 1]: (node, weight) pairs, exact for polynomials of degree 5."""


def _traceable_antiderivative(name: str, x: Tensor) -> Tensor:
    """Φ(x) plus the integral of b from x to x, which is 0 but has the derivatives b, b', …, the first six exactly."""
    here = x.detach()
    beyond = (x - here) * sum(weight * value(name, here + t * (x - here)) for t, weight in _THREE_NODES)
    return _in_float64(name, here) + beyond


def _functionalizes() -> bool:
    """Whether torch.func.functionalize is active."""
    functionalize = torch._C._functorch.TransformType.Functionalize
    return any(transform.key() == functionalize for transform in torch._C._functorch.get_interpreter_stack() or ())


def antiderivative(name: str, x: Tensor) -> Tensor:
    """The antiderivative of the basis function `name`, elementwise."""
    compiling, transforms = torch.compiler.is_compiling(), torch._C._are_functorch_transforms_active()
    if transforms and (compiling or _functionalizes()):
        return _traceable_antiderivative(name, x)  # they find no rule of an autograd.Function for the transform
    function: Any = _Antiderivative if compiling else _ForwardModeAntiderivative
    result: Tensor = function.apply(x, name)
    return result
