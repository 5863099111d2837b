"""Flows of networks through torchdiffeq's solvers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

import gradnets_fast as gf
from covering import quick_in_turn
from gradnets_fast import interop
from gradnets_fast.interop import GradientFlow, HamiltonianFlow
from gradnets_fast.nn import GradNet

D = 4
MONOTONE: dict[str, Callable[[], GradNet]] = {
    "cascade": lambda: gf.mGradNetC(3, D, 16, "softplus", dtype=torch.float64),
    "modules": lambda: gf.mGradNetM(3, D, 16, dtype=torch.float64),
    "ridge": lambda: gf.mRidgeGradNet(D, 16, "tanh", linear="psd", dtype=torch.float64),
    "deep": lambda: gf.mDeepGradNet(D, (8, 8), dtype=torch.float64),
}
monotone = pytest.mark.parametrize("make", MONOTONE.values(), ids=MONOTONE)
TIMES = torch.linspace(0, 3, 13, dtype=torch.float64)
TOLERANCE = 1e-8


def start(count: int = 6) -> Tensor:
    return torch.randn(count, D, dtype=torch.float64)


def solve(flow: torch.nn.Module, y: Tensor, tolerance: float = TOLERANCE, times: Tensor = TIMES) -> Tensor:
    with torch.no_grad():
        trajectory: Tensor = odeint(flow, y, times, rtol=tolerance, atol=tolerance)
    return trajectory


@monotone
@pytest.mark.parametrize("descent", [True, False])
def test_the_potential_falls_along_the_flow_and_rises_against_it(make: Callable[[], GradNet], descent: bool) -> None:
    net, y = make(), start()
    potentials = net.potential(solve(GradientFlow(net, descent), y))
    change = potentials.diff(dim=0) * (-1 if descent else 1)
    assert change.min() > 0
    # dF/dt = ∓|f|², by a difference quotient over a time at which it is as accurate as can be.
    short = torch.tensor([0, 1e-4], dtype=torch.float64)
    rate = net.potential(solve(GradientFlow(net, descent), y, 1e-12, short)).diff(dim=0)[0] / 1e-4
    expected = net(y).square().sum(-1) * (-1 if descent else 1)
    torch.testing.assert_close(rate, expected, rtol=1e-2, atol=0)


@monotone
def test_solutions_of_a_convex_flow_approach_each_other(make: Callable[[], GradNet]) -> None:
    net = make()
    y, other = (solve(GradientFlow(net), start()) for _ in range(2))
    distances = (y - other).norm(dim=-1)
    assert distances.diff(dim=0).max() <= 0
    assert (distances[-1] < 0.9 * distances[0]).all()


@pytest.mark.parametrize(
    "net",
    [
        lambda: gf.GradNetC(3, D, 16, "tanh", dtype=torch.float64),
        lambda: gf.mGradNetC(3, D, 16, "softplus", dtype=torch.float64),
        lambda: gf.GradNetM(3, D, 16, dtype=torch.float64),
        lambda: gf.DeepGradNet(D, (16, 16), "tanh", residual=True, dtype=torch.float64),
    ],
    ids=["GradNetC", "mGradNetC", "GradNetM", "DeepGradNet"],
)
def test_the_energy_is_kept_to_the_tolerance(net: Callable[[], GradNet]) -> None:
    """The solver's error over a fixed time is in proportion to its tolerance; so is the energy's."""
    flow, y = HamiltonianFlow(net()), start()
    drifts = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        energy = flow.energy(solve(flow, y, tolerance, TIMES))
        drifts.append((energy - energy[0]).abs().max().item())
        assert drifts[-1] < 100 * tolerance
    assert drifts[2] < drifts[0] / 100
    assert (solve(flow, y)[-1] - y).norm(dim=-1).min() > 0.01  # they do move


def test_two_springs_have_the_solution_in_closed_form() -> None:
    """H = (ω₁²q₁² + ω₂²q₂² + p₁² + p₂²)/2: q = q₀ cos ωt + p₀/ω sin ωt."""
    omega = torch.tensor([0.7, 2.0], dtype=torch.float64)
    net = gf.RidgeGradNet(4, 4, "identity", dtype=torch.float64)
    with torch.no_grad():
        net.W.copy_(torch.diag(torch.cat([omega, torch.ones(2, dtype=torch.float64)])))
        net.b.zero_()
        net.bias.zero_()
    y = start()
    q, p = y.chunk(2, -1)
    phase = TIMES[:, None, None] * omega
    expected = torch.cat([q * phase.cos() + p / omega * phase.sin(), p * phase.cos() - q * omega * phase.sin()], dim=-1)
    torch.testing.assert_close(solve(HamiltonianFlow(net), y, 1e-10), expected, rtol=0, atol=1e-8)
    period = torch.tensor([0, 2 * math.pi / 0.7], dtype=torch.float64)
    first = solve(HamiltonianFlow(net), y, 1e-10, period)[-1, :, [0, 2]]
    torch.testing.assert_close(first, y[:, [0, 2]], rtol=0, atol=1e-8)


def gradients(flow: torch.nn.Module, y: Tensor, solver: Callable[..., Tensor], **options: object) -> list[Tensor]:
    """The gradients of a loss on the trajectory, for y and all parameters."""
    leaf = y.clone().requires_grad_()
    loss = solver(flow, leaf, TIMES, **options).square().mean()
    return list(torch.autograd.grad(loss, [leaf, *flow.parameters()]))


FLOWS = pytest.mark.parametrize("flow", [GradientFlow, HamiltonianFlow])


@quick_in_turn("network, flow", ["GradientFlow", "HamiltonianFlow"], list(MONOTONE))
def test_gradients_by_the_adjoint_equation(network: str, flow: str) -> None:
    """Both are the solution's gradient up to errors of the solver; the adjoint has those of a second run besides."""
    instance, y = getattr(interop, flow)(MONOTONE[network]()), start(3)
    options = {"rtol": TOLERANCE, "atol": TOLERANCE}
    through = gradients(instance, y, odeint, **options)
    adjoint = gradients(instance, y, odeint_adjoint, **options)
    assert all(g.abs().max() > 1e-6 for g in through)
    for a, b in zip(through, adjoint):
        torch.testing.assert_close(a, b, rtol=0, atol=100 * TOLERANCE)


@FLOWS
@monotone
def test_gradients_are_those_of_the_reference(make: Callable[[], GradNet], flow: type[torch.nn.Module]) -> None:
    """Steps have a fixed length, so that no rounding error can change their number."""
    instance, y = flow(make()), start(3)
    options = {"method": "rk4", "options": {"step_size": 0.25}}
    ours = gradients(instance, y, odeint, **options)
    with gf.use_backend("reference"):
        reference = gradients(instance, y, odeint, **options)
    for a, b in zip(ours, reference):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_an_odd_number_of_coordinates_is_refused() -> None:
    with pytest.raises(ValueError, match="HamiltonianFlow: y: expected an even last dimension, got shape"):
        HamiltonianFlow(gf.mGradNetC(2, 3, 5))(0.0, torch.zeros(4, 3))
