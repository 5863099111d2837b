"""What networks are compared with: plain networks, energies by autograd, linear maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

Map = Callable[[Tensor], Tensor]
"""x (n, d) -> f(x) (n, d)."""


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A multi-layer perceptron from sizes[0] to sizes[-1] numbers.

    >>> mlp((2, 5, 1))
    Sequential(
      (0): Linear(in_features=2, out_features=5, bias=True)
      (1): Tanh()
      (2): Linear(in_features=5, out_features=1, bias=True)
    )
    """
    *hidden, last = [nn.Linear(before, after) for before, after in pairwise(sizes)]
    return nn.Sequential(*(part for layer in hidden for part in (layer, activation())), last)


class ConvexEnergy(nn.Module):
    """An input-convex network: layers of softplus whose weights of earlier layers are at least 0, with input skips.

    Shapes: x (n, d) -> (n, 1).
    """

    def __init__(self, in_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.skips = nn.ModuleList(nn.Linear(in_dim, h) for h in (*widths, 1))
        self.weights = nn.ParameterList(
            torch.randn(after, before) - 2 for before, after in zip(widths, (*widths[1:], 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """The energy at x."""
        z: Tensor = self.skips[0](x)
        for skip, weight in zip(list(self.skips)[1:], self.weights):
            z = nn.functional.linear(softplus(z), softplus(weight) / weight.shape[1] ** 0.5) + skip(x)
        return z


class ByAutograd(nn.Module):
    """The gradient of an energy, (n, d) -> (n, 1), as one writes it with autograd."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        """∇F(x), (n, d)."""
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(self.energy(leaf).sum(), leaf, create_graph=True)[0]


def least_squares(x: Tensor, g: Tensor, monotone: bool) -> Map:
    """The affine map with a symmetric matrix, positive semidefinite if `monotone`, from least squares of g on x."""
    centre, mean = x.mean(0), g.mean(0)
    A = torch.linalg.lstsq(x - centre, g - mean).solution
    A = (A + A.T) / 2
    if monotone:
        values, vectors = torch.linalg.eigh(A)
        A = vectors @ torch.diag(values.clamp(min=0)) @ vectors.T
    return lambda x: (x - centre) @ A + mean
