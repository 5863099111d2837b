"""What is checked: an operator's tensors, and the three functions of them that are compared."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradnets_fast import functional, reference
from gradnets_fast.apps import draws
from gradnets_fast.apps.accuracy import evaluated
from gradnets_fast.apps.bench.precision import PRECISIONS, Precision
from gradnets_fast.apps.draws import Variant, oracle, quantity
from gradnets_fast.backend import why_not
from gradnets_fast.reference.ridge import PANELLED_RULE

BACKEND = "triton"
Function = Callable[..., Tensor]

VARIANTS = {
    "tanh-1": Variant("ridge", 1, ("tanh",), signed=True),
    "tanh-4": Variant("ridge", 4, ("tanh",), signed=True),
    "softplus+sin+identity-2": Variant("ridge", 2, ("softplus", "sin", "identity"), signed=True),
    "softmax-2": Variant("softmax_modules", 2),
    "softmax-maximum-3": Variant("softmax_modules", 3, combined=True),
    "half_square-2": Variant("transformed_modules", 2, ("tanh",), "half_square"),
    "quadratic-maximum-3": Variant("transformed_modules", 3, ("identity",), "identity", combined=True),
}


def operators(device: torch.device) -> list[str]:
    """The operators that have kernels, each family's f before what derives from it."""
    able = functional.__all__ if why_not(BACKEND, device, torch.float32) is None else []
    return sorted(filter(variants, able), key=lambda name: quantity(name) != "value")


def variants(operator: str) -> list[str]:
    """The names of the variants of an operator's family."""
    return [name for name, variant in VARIANTS.items() if variant.family == draws.family(operator)]


@dataclass(frozen=True)
class Call:
    """One operator on fixed numbers.

    Attributes:
        operator: its name.
        precision: its dtype, and how products are computed.
        names: of the tensors.
        tensors: points first.
        g: the gradient of the result.
        ours, eager, exact: by the kernels, in plain PyTorch, and in PyTorch for float64; of some or all of the tensors.
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
    ours = partial(getattr(functional, operator), **chosen.settings(size[2]), backend=BACKEND)
    eager = oracle(operator, chosen, size[2])
    exact = partial(_ridge_potential, **chosen.settings(size[2])) if operator == "ridge_potential" else eager
    functions = map(drawn.in_order, (ours, eager, exact))
    return Call(operator, numbers, list(drawn.named), list(drawn.named.values()), drawn.g, *functions)


def _ridge_potential(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Sequence[str]
) -> Tensor:
    """By quadrature throughout: the closed form's derivative in scale cancels even in float64."""
    u = x @ W.T
    phi: Any = sum(weight * reference.cascade(t * u, scale, shift, coef, basis) for t, weight in PANELLED_RULE)
    return (u * phi).sum(-1) + x @ bias
