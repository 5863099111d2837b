"""Right-hand sides of differential equations, called as torchdiffeq and its like call them: (t, y) → dy/dt."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import message
from ..nn import GradNet


class GradientFlow(torch.nn.Module):
    """The flow down a network's potential, dy/dt = −∇F(y), or up it.

    Equivalent to:
        lambda t, y: -net(y)

    Args:
        net: the network ∇F.
        descent: down the potential; False for up.

    Shapes: t (), y (…, d) → (…, d).

    Down the potential of a monotone network any two solutions approach each other.

    With torchdiffeq:
        trajectory = torchdiffeq.odeint(GradientFlow(net), y0, times)  # (times, …, d); odeint_adjoint likewise

    >>> import torch, gradnets_fast
    >>> net, y = gradnets_fast.mGradNetC(2, 3, 5), torch.randn(4, 3)
    >>> torch.equal(GradientFlow(net)(torch.tensor(0.0), y), -net(y))
    True
    """

    def __init__(self, net: GradNet, descent: bool = True) -> None:
        super().__init__()
        self.net, self.descent = net, descent

    def forward(self, t: Tensor | float, y: Tensor) -> Tensor:
        """dy/dt, (…, d); t is not used."""
        f: Tensor = self.net(y)
        return -f if self.descent else f

    def extra_repr(self) -> str:
        return f"descent={self.descent}"


class HamiltonianFlow(torch.nn.Module):
    """The flow of Hamilton's equations with a network's potential as energy H, on y = (q, p).

    Equivalent to:
        dH_dq, dH_dp = net(y).chunk(2, -1)
        torch.cat([dH_dp, -dH_dq], -1)

    Args:
        net: the network ∇H on an even number of dimensions d: positions q, then momenta p, d/2 of each.

    Shapes: t (), y (…, d) → (…, d).

    Solutions keep their energy and the volume of any set of them.

    Raises:
        ValueError: y has an odd number of coordinates.

    Source: Greydanus, Dzamba, Yosinski, "Hamiltonian Neural Networks", arXiv 1906.01563.

    >>> import torch, gradnets_fast
    >>> flow, y = HamiltonianFlow(gradnets_fast.RidgeGradNet(4, 8)), torch.randn(3, 4)
    >>> (flow.net(y) * flow(torch.tensor(0.0), y)).sum(-1).abs().max() < 1e-5  # dH/dt = 0
    tensor(True)
    """

    def __init__(self, net: GradNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor | float, y: Tensor) -> Tensor:
        """(∂H/∂p, −∂H/∂q), (…, d); t is not used."""
        if y.shape[-1] % 2:
            fix = "put the positions first and as many momenta after them"
            raise ValueError(message("HamiltonianFlow", "y", "an even last dimension", f"shape {tuple(y.shape)}", fix))
        dH_dq, dH_dp = self.net(y).chunk(2, -1)
        return torch.cat([dH_dp, -dH_dq], -1)

    def energy(self, y: Tensor) -> Tensor:
        """H(y), the network's potential, (…,)."""
        return self.net.potential(y)
