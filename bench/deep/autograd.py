"""An energy's derivatives as one writes them with autograd, and a constant for energies that have none."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from gradnets_fast.nn import GradNet

_FEW = 4


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
        leaf = x.detach().requires_grad_()
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
        leaf = x.detach().requires_grad_()
        (f,) = torch.autograd.grad(self.potential(leaf).sum(), leaf, create_graph=True)
        return f, [torch.autograd.grad(part.sum(), leaf, create_graph=True)[0] for part in f.unbind(-1)]


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
