"""What is checked: each operator's tensors, and the three functions that are compared."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import functional, reference
from gradnets_fast.apps.bench import draws
from gradnets_fast.apps.bench.draws import quantity
from gradnets_fast.apps.bench.precision import Precision
from gradnets_fast.backend import why_not
from gradnets_fast.reference.ridge import PANELLED_RULE

BACKEND = "triton"
Function = Callable[..., Tensor]


PRECISIONS = {
    "bf16": Precision(torch.bfloat16, None, 2.0**-7),
    "tf32": Precision(torch.float32, "high", 2.0**-10),
    "fp32": Precision(torch.float32, "highest", 2.0**-23),
    "fp32-default": Precision(torch.float32, None, 2.0**-23),
    "fp16": Precision(torch.float16, None, 2.0**-10),
}


VARIANTS = {
    "tanh-1": draws.ridge(1, "tanh"),
    "tanh-4": draws.ridge(4, "tanh"),
    "softplus+sin+identity-2": draws.ridge(2, "softplus", "sin", "identity"),
    "softmax-2": draws.softmax_modules(2),
    "softmax-maximum-3": draws.soft_maximum(draws.softmax_modules(3)),
    "half_square-2": draws.transformed_modules(2, "tanh", "half_square"),
    "quadratic-maximum-3": draws.soft_maximum(draws.transformed_modules(3, "identity", "identity")),
}


def operators(device: torch.device) -> list[str]:
    """Those that have kernels, the gradients of a family before what derives from them."""
    able = functional.__all__ if why_not(BACKEND, device, torch.float32) is None else []
    return sorted(able, key=lambda name: quantity(name) != "value")


def variants(operator: str) -> list[str]:
    """The names of the variants of an operator's family."""
    return [name for name, variant in VARIANTS.items() if variant.family == draws.family(operator)]


@dataclass(frozen=True)
class Call:
    """One operator on fixed numbers.

    Attributes:
        operator, precision: as in the tables.
        names: of the tensors.
        tensors: points first.
        g: the gradient of the result.
        ours, eager, exact: by the kernels, in plain PyTorch, and in PyTorch for float64.
    """

    operator: str
    precision: Precision
    names: Sequence[str]
    tensors: list[Tensor]
    g: Tensor
    ours: Function
    eager: Function
    exact: Function

    def truth(self) -> list[Tensor]:
        """The result and its gradients in float64."""
        return evaluated(self.exact, [t.double() for t in self.tensors], self.g.double())


def prepared(operator: str, variant: str, precision: str, size: tuple[int, int, int], device: torch.device) -> Call:
    """A call with tensors that the arguments alone determine; size: (batch, d, h)."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((operator, variant, precision, size)).encode()))
    chosen, numbers = VARIANTS[variant], PRECISIONS[precision]
    drawn = draws.drawn(operator, chosen, numbers.dtype, size, generator, device)
    eager = chosen.bound(getattr(reference, operator))
    points = inspect.signature(getattr(gradnets_fast, operator)).parameters
    return Call(
        operator,
        numbers,
        [*list(points)[: len(drawn.points)], *drawn.parameters],
        [*drawn.points, *drawn.parameters.values()],
        drawn.g,
        chosen.bound(partial(getattr(gradnets_fast, operator), backend=BACKEND)),
        eager,
        partial(_ridge_potential, **chosen.settings) if operator == "ridge_potential" else eager,
    )


def _ridge_potential(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Sequence[str]
) -> Tensor:
    """By quadrature throughout: the closed form's derivative in scale cancels even in float64."""
    u = x @ W.T
    phi = sum(weight * reference.cascade(t * u, scale, shift, coef, basis) for t, weight in PANELLED_RULE)
    return (u * phi).sum(-1) + x @ bias


def evaluated(function: Function, tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The result, and the gradients of <g, result> for every tensor."""
    return step(function, [t.detach().requires_grad_() for t in tensors], g)


def step(function: Function, leaves: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The same of leaves that require gradients."""
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, g, materialize_grads=True)]
