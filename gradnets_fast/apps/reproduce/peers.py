"""What networks are compared with: plain networks, energies by autograd, linear maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap
from torch.nn.functional import softplus

from gradnets_fast.nn import GradNet

_FEW = 4

Map = Callable[[Tensor], Tensor]
"""x (n, d) -> f(x) (n, d)."""


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
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
    """The derivatives of an energy, (…, d) → (…, 1) or (…,), by autograd, under the names that `GradNet` has."""

    def __init__(self, energy: nn.Module) -> None:
        super().__init__()
        self.energy = energy

    def potential(self, x: Tensor) -> Tensor:
        """F(x), (…,)."""
        F: Tensor = self.energy(x)
        return F.reshape(x.shape[:-1])

    @torch.enable_grad()
    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x), (…,), and ∇F(x), (…, d)."""
        leaf = _leaf(x)
        F = self.potential(leaf)
        return F, torch.autograd.grad(F.sum(), leaf, create_graph=True)[0]

    def forward(self, x: Tensor) -> Tensor:
        """∇F(x), (…, d)."""
        return self.value_and_gradient(x)[1]

    def divergence(self, x: Tensor) -> Tensor:
        """The Laplacian ΔF(x), (…,)."""
        return torch.stack([row[..., i] for i, row in enumerate(self._rows(x)[1])]).sum(0)

    def gradient_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """∇F(x), (B, d), and the Hessian, (B, d, d): row by row where there are few, which is faster then."""
        if x.shape[-1] <= _FEW:
            f, rows = self._rows(x)
            return f, torch.stack(rows, -2)

        def twice(x: Tensor) -> tuple[Tensor, Tensor]:
            f: Tensor = grad(self.energy)(x)
            return f, f

        hessian, f = vmap(jacrev(twice, has_aux=True))(x)
        return f, hessian

    @torch.enable_grad()
    def _rows(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """∇F(x) and the Hessian's rows, (…, d) each."""
        leaf = _leaf(x)
        (f,) = torch.autograd.grad(self.potential(leaf).sum(), leaf, create_graph=True)
        return f, [torch.autograd.grad(part.sum(), leaf, create_graph=True)[0] for part in f.unbind(-1)]


def _leaf(x: Tensor) -> Tensor:
    """x where derivatives in it can be asked for, so that those of the result can be too."""
    return x if x.requires_grad else x.detach().requires_grad_()


class WithConstant(nn.Module):
    """F + a learned constant, for networks whose potential has none."""

    def __init__(self, net: GradNet) -> None:
        super().__init__()
        self.net, self.constant = net, nn.Parameter(torch.zeros(()))

    def potential(self, x: Tensor) -> Tensor:
        """F(x), (…,)."""
        return self.net.potential(x) + self.constant

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x), (…,), and ∇F(x), (…, d)."""
        F, f = self.net.value_and_gradient(x)
        return F + self.constant, f

    def forward(self, x: Tensor) -> Tensor:
        """∇F(x), (…, d)."""
        f: Tensor = self.net(x)
        return f

    def divergence(self, x: Tensor) -> Tensor:
        """ΔF(x), (…,)."""
        return self.net.divergence(x)


def least_squares(x: Tensor, g: Tensor, monotone: bool) -> Map:
    """The affine map with a symmetric matrix, positive semidefinite if `monotone`, from least squares of g on x."""
    centre, mean = x.mean(0), g.mean(0)
    A = torch.linalg.lstsq(x - centre, g - mean).solution
    A = (A + A.T) / 2
    if monotone:
        values, vectors = torch.linalg.eigh(A)
        A = vectors @ torch.diag(values.clamp(min=0)) @ vectors.T
    return lambda x: (x - centre) @ A + mean
