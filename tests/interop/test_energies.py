"""Deep networks, and energies that someone has, in Hamiltonian flows and under the losses of score matching."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

import gradnets_fast as gf
from gradnets_fast.apps.train.losses import Objective
from gradnets_fast.interop import HamiltonianFlow
from gradnets_fast.nn import GradNet

D, H, BATCH = 4, 16, 20
TIMES = torch.linspace(0, 3, 7, dtype=torch.float64)
Energy = Callable[[Tensor], Tensor]


class ByAutograd(nn.Module):
    """The gradient of an energy, and its Laplacian, as one writes them without this package."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    def divergence(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        parts = [torch.autograd.grad(part.sum(), x, create_graph=True)[0] for part in self(x).unbind(-1)]
        return torch.stack([part[:, i] for i, part in enumerate(parts)]).sum(0)


def of_a_sequential() -> tuple[GradNet, Energy]:
    layers = nn.Linear(D, H), nn.Tanh(), nn.Linear(H, H), nn.Softplus(beta=3), nn.Linear(H, 1)
    energy = nn.Sequential(*layers).double()
    return gf.gradient_of(energy), energy


def of_its_own() -> tuple[GradNet, Energy]:
    net = gf.DeepGradNet(D, (H, H), "tanh", input_skip="quadratic", linear="symmetric", dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        with gf.use_backend("reference"):
            return net.potential(x)

    return net, energy


make = pytest.mark.parametrize("make", [of_a_sequential, of_its_own])


def points(count: int = BATCH) -> Tensor:
    return torch.randn(count, D, dtype=torch.float64)


def assert_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert all(tensor.abs().max() > 1e-6 for tensor in expected)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", [odeint, odeint_adjoint])
@make
def test_a_hamiltonian_flow_is_that_by_autograd(
    make: Callable[[], tuple[GradNet, Energy]], solver: Callable[..., Tensor]
) -> None:
    """Orbits, and the gradients of a loss on them, for their first points and all parameters; steps of equal length."""
    net, energy = make()
    options = {"method": "rk4", "options": {"step_size": 0.25}}
    y, results = points(3), []
    for flow in (HamiltonianFlow(net), HamiltonianFlow(ByAutograd(energy))):
        leaf = y.clone().requires_grad_()
        parameters = {} if solver is odeint else {"adjoint_params": tuple(net.parameters())}
        orbits = solver(flow, leaf, TIMES, **options, **parameters)
        gradients = torch.autograd.grad(orbits.square().mean(), [leaf, *net.parameters()], allow_unused=True)
        results.append([orbits.detach(), *(g for g in gradients if g is not None and g.any())])
    assert_equal(*results)


@make
def test_the_energy_is_kept_along_a_flow(make: Callable[[], tuple[GradNet, Energy]]) -> None:
    flow, y = HamiltonianFlow(make()[0]), points(6)
    with torch.no_grad():
        orbits = odeint(flow, y, TIMES, rtol=1e-9, atol=1e-9)
        drift = flow.energy(orbits) - flow.energy(y)
    assert drift.abs().max() < 1e-6
    assert (orbits[-1] - y).norm(dim=-1).min() > 0.01


def denoising(net: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """f is the gradient of −log of the density of x + σ·noise where f(x + σ·noise) is the mean of noise/σ."""
    loss, _ = Objective(net)(x + 0.3 * noise, noise / 0.3)
    return loss


def exact(net: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """The mean of ½|f|² − ∇·f, which is least for f = −∇ log p."""
    return (net(x).square().sum(-1) / 2 - net.divergence(x)).mean()


@pytest.mark.parametrize("loss", [denoising, exact])
@make
def test_losses_of_score_matching_are_those_by_autograd(
    make: Callable[[], tuple[GradNet, Energy]], loss: Callable[..., Tensor]
) -> None:
    net, energy = make()
    (x, noise), results = (points(), points()), []
    for contender in (net, ByAutograd(energy)):
        value = loss(contender, x, noise)
        gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        results.append([value.detach(), *(g for g in gradients if g is not None and g.any())])
    assert_equal(*results)
