"""Experiments that train one energy by autograd and by kernels: both give the same, and targets are derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from covering import slow_but
from gradnets_fast.apps.reproduce import EXPERIMENTS, energies, hamiltonian, poisson, surface
from gradnets_fast.apps.reproduce.comparison import AUTOGRAD, KERNELS, TOLERANCE, Training, first_steps
from gradnets_fast.apps.reproduce.drawing import packed, unpacked

NAMES = ["energies", "surface", "poisson", "hamiltonian", "transport"]


@pytest.mark.parametrize("name", slow_but({"energies"}, NAMES))
def test_the_error_is_that_by_autograd(name: str) -> None:
    """Both begin with equal weights, and rounding has not grown in so few steps."""
    experiment = EXPERIMENTS[name]
    settings = experiment.chosen(quick=True, seeds=None)
    row = experiment.run(experiment.cases(settings)[0], settings)
    assert row["first_losses_differ_by"] <= TOLERANCE
    autograd, ours, *others = row["contenders"].values()
    assert list(row["contenders"])[:2] == [AUTOGRAD, KERNELS]
    assert autograd["parameters"] == ours["parameters"]
    assert autograd["errors"].keys() == ours["errors"].keys()
    for quantity, error in ours["errors"].items():
        assert error == pytest.approx(autograd["errors"][quantity], rel=0.05)
        assert 0 < error < 100
    assert others


def test_networks_that_differ_are_not_timed() -> None:
    task = energies.make(0)
    with torch.no_grad():
        next(task.contenders[KERNELS].parameters()).mul_(1.01)
    with pytest.raises(RuntimeError, match="losses by autograd and by kernels differ by"):
        first_steps(task, Training(20, 1e-2))


@pytest.mark.parametrize("name", hamiltonian.SYSTEMS)
def test_contenders_have_about_as_many_parameters(name: str) -> None:
    nets = hamiltonian.networks(hamiltonian.SYSTEMS[name].d)
    counts = [sum(p.numel() for p in net.parameters()) for net in nets.values()]
    assert max(counts) <= 1.12 * min(counts), counts


def test_the_midpoint_rule_keeps_a_quadratic_energy() -> None:
    spring: Any = hamiltonian.SYSTEMS["mass on a spring"]
    points = hamiltonian.midpoint(spring.gradient, torch.tensor([[1.0, 0.5]], dtype=torch.float64), 200)
    energy = spring.energy(points)
    torch.testing.assert_close(energy, energy[:1].expand_as(energy), rtol=0, atol=1e-6)


def test_targets_are_derivatives() -> None:
    x = torch.rand(50, 2, dtype=torch.float64)
    hessian = torch.func.vmap(torch.func.hessian(poisson.solution))(x)
    torch.testing.assert_close(poisson.laplacian(x), hessian.diagonal(dim1=-2, dim2=-1).sum(-1))
    points, normals = surface.surface(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(surface.distance(points), torch.zeros(50), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(surface.distance))(points), normals, atol=1e-5, rtol=0)


def test_an_array_for_a_figure_comes_back() -> None:
    t = torch.randn(3, 5)
    torch.testing.assert_close(unpacked(packed(t)), t, rtol=1e-3, atol=1e-3)
