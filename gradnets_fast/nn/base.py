"""What all architectures share: the linear part, initialisation, and the names that `explain` reads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_positive, message

LINEAR_PARTS = ("psd", "symmetric")


class LinearPart(nn.Module):
    """x ↦ VᵀV x ("psd") or (S + Sᵀ)/2 x ("symmetric"): the gradient of ½|Vx|² or ½xᵀSx."""

    V: nn.Parameter
    S: nn.Parameter

    def __init__(self, kind: str, in_dim: int, **factory: Any) -> None:
        super().__init__()
        self.kind = kind
        setattr(self, "V" if kind == "psd" else "S", nn.Parameter(torch.empty(in_dim, in_dim, **factory)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the matrix uniformly from (−k, k), k = 1/in_dim: an initial map of small norm."""
        for matrix in self.parameters():
            nn.init.uniform_(matrix, -1.0 / matrix.shape[0], 1.0 / matrix.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """The linear part's gradient at x, (…, d)."""
        if self.kind == "psd":
            return x @ self.V.T @ self.V
        return x @ ((self.S + self.S.T) / 2)

    def potential(self, x: Tensor) -> Tensor:
        """½ x·(linear part of x), (…,)."""
        return (x * self.forward(x)).sum(-1) / 2

    def extra_repr(self) -> str:
        return self.kind


class GradNet(nn.Module):
    """A network that is the gradient of a scalar potential.

    Attributes:
        operator_name: the functional operator that `forward` calls.
        monotone: whether the potential is convex for every value of the parameters.
    """

    operator_name: str = ""
    monotone: bool = False
    linear: LinearPart | None

    def potential(self, x: Tensor) -> Tensor:
        """The potential F with ∇F = forward, (…, d) → (…,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no potential")

    def _set_linear(self, linear: str | None, in_dim: int, **factory: Any) -> None:
        where = type(self).__name__
        if linear is None:
            self.linear = None
            return
        check_choice(where, "linear", linear, LINEAR_PARTS, "or None for no linear part")
        if self.monotone and linear != "psd":
            fix = "a symmetric matrix need not be positive semidefinite"
            raise ValueError(message(where, "linear", "'psd' or None for a monotone network", repr(linear), fix))
        self.linear = LinearPart(linear, in_dim, **factory)

    def _add_linear(self, f: Tensor, x: Tensor) -> Tensor:
        return f if self.linear is None else f + self.linear(x)

    def _add_linear_potential(self, potential: Tensor, x: Tensor) -> Tensor:
        return potential if self.linear is None else potential + self.linear.potential(x)


def check_sizes(where: str, **sizes: object) -> None:
    """Raises unless every size is a positive int."""
    for name, size in sizes.items():
        check_positive(where, name, size)


def init_uniform(parameter: Tensor, fan_in: int) -> None:
    """Draws uniformly from (−k, k), k = sqrt(1/fan_in)."""
    k = math.sqrt(1.0 / fan_in)
    nn.init.uniform_(parameter, -k, k)


def init_weights(parameter: Tensor, monotone: bool) -> None:
    """Draws from [0, 1) before a softplus, else from [−½, ½)."""
    nn.init.uniform_(parameter, 0.0, 1.0) if monotone else nn.init.uniform_(parameter, -0.5, 0.5)
