"""What experiments of `gradnets-fast reproduce` compute themselves: baselines, certificates, distances, machines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from gradnets_fast.apps.reproduce import _quadratics, _sparse, colour, contest, expressive, machine, score
from gradnets_fast.apps.reproduce.measures import jacobians, parameters


@pytest.mark.parametrize("d", [2, 8])
def test_contenders_have_as_many_parameters(d: int) -> None:
    for networks in (score.NETWORKS, expressive.NETWORKS, expressive.MONOTONE):
        for make in networks.values():
            net = contest.sized(lambda width, make=make: make(d, width), 1200)
            assert abs(parameters(net) - 1200) < 120


def test_newton_solves() -> None:
    torch.manual_seed(0)
    net, x = gf.mGradNetC(2, 3, 8, linear="psd"), torch.randn(20, 3)
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(3))  # type: ignore[union-attr, operator]
    found = contest.newton(net, net(x).detach())
    torch.testing.assert_close(found, x, atol=1e-3, rtol=1e-3)


def test_the_sliced_distance_of_a_shift() -> None:
    x, shift = torch.randn(500, 4), torch.tensor([3.0, 0.0, 0.0, 0.0])
    assert score.sliced_wasserstein(x, x[torch.randperm(500)]) == 0
    assert math.isclose(score.sliced_wasserstein(x, x + shift, 5000), 3 / math.sqrt(4), rel_tol=0.03)


def test_the_divergence_by_autograd_is_the_trace() -> None:
    net, x = score.Unconstrained(3, 5), torch.randn(4, 3)
    torch.testing.assert_close(net.divergence(x), jacobians(net, x).diagonal(dim1=1, dim2=2).sum(1))
    assert score.curl(net, x) > 1e-3
    assert score.curl(gf.GradNetC(2, 3, 5), x) < 1e-6


def test_the_certificate_bounds_the_step() -> None:
    torch.manual_seed(0)
    settings = {"quadratic_d": 5, "condition": 30.0}
    Q, best = _quadratics.Quadratics(settings, 0).sample(4)
    net = gf.mGradNetC(2, 5, 8, "tanh", linear="psd")
    least, most = _quadratics.bounds(net, Q)
    for matrix, mu, L in zip(Q, least, most):
        values, vectors = torch.linalg.eigh(matrix)
        root = vectors * values.sqrt() @ vectors.T
        found = torch.linalg.eigvalsh(root @ net.jacobian(3 * torch.randn(200, 5)).detach() @ root)
        assert mu <= found.min() + 1e-5
        assert found.max() <= L * (1 + 1e-5)
    step = _quadratics.by_steps(net, Q, best)
    torch.testing.assert_close(step(best, 0), best)


def test_conjugate_gradients_end_after_as_many_steps_as_there_are_coordinates() -> None:
    problems = _quadratics.Quadratics({"quadratic_d": 6, "condition": 10.0}, 0)
    Q, best = problems.sample(8)
    step, x = _quadratics.by_hand("conjugate gradients", Q, best, problems), torch.zeros_like(best)
    for k in range(6):
        x = step(x, k)
    torch.testing.assert_close(x, best, atol=1e-2, rtol=1e-2)


def test_proximal_operators() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 8)
    shrunk = _sparse.group_soft(x, 0.5, 4)
    before, after = (points.unflatten(1, (2, 4)).norm(dim=2) for points in (x, shrunk))
    torch.testing.assert_close(after, (before - 0.5).clamp(min=0))
    net = _sparse.Proximal(8, 0.2)
    with torch.no_grad():
        net.g.W[8:] = 0
        net.g.W[:8] = torch.eye(8)
    torch.testing.assert_close(net(x), _sparse.soft(x, 0.2))  # where it begins, up to its small weights
    assert float(gf.convex.lipschitz_bound(net.g).detach()) <= 1 + 1e-5


def test_the_machine_is_the_gradient_of_a_convex_energy() -> None:
    x, angle = machine._drawn(500)
    J = jacobians(lambda flux: _graph(flux, angle), machine.FLUX * x)
    torch.testing.assert_close(J, J.mT)
    assert torch.linalg.eigvalsh(J).min() > 100  # A/Vs, one over an inductance
    torch.testing.assert_close(machine.currents(machine.FLUX * x, angle), _graph(machine.FLUX * x, angle).detach())


def _graph(flux: Tensor, angle: Tensor) -> Tensor:
    flux = flux if flux.requires_grad else flux.clone().requires_grad_()
    return torch.autograd.grad(machine.energy(flux, angle).sum(), flux, create_graph=True)[0]


def test_a_table_has_its_nodes_and_is_linear_between_them() -> None:
    table = machine.Table((3, 4), noise=0.0)
    x = torch.tensor([[-1.0, -1.0], [0.0, 1.0], [1.0, 0.0], [-0.5, 0.0]])
    angle = torch.tensor([0.0, 1.0, 3.0, 2.0]) * 2 * math.pi / 4 / 6
    exact = machine.currents(machine.FLUX * x, angle) / machine.CURRENT
    found = table(x, machine.context(angle))
    torch.testing.assert_close(found[:3], exact[:3], atol=1e-5, rtol=1e-4)
    ends = machine.currents(machine.FLUX * torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), angle[3:].expand(2))
    torch.testing.assert_close(found[3], ends.mean(0) / machine.CURRENT, atol=1e-5, rtol=1e-4)
    assert table.numbers == 3 * 3 * 4 * 2


def test_maps_of_colours() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(100, 3), 0.5 + torch.rand(100, 3) @ torch.diag(torch.tensor([0.5, 1.0, 2.0]))
    moved = colour.gaussian(x, y)(x)
    torch.testing.assert_close(moved.mean(0), y.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cov(moved.T), torch.cov(y.T), atol=1e-4, rtol=1e-3)
    assert colour.distance(colour.exact_plan(x, y, 100)(x), y) < 1e-3
    assert colour.distance(x, y) > 0.3


def test_the_fields_are_gradients() -> None:
    for name, field in expressive.fields().items():
        x = field.sample(50, torch.Generator().manual_seed(0))
        assert field.gradient(x).shape == x.shape, name
        assert field.gradient(x).isfinite().all(), name


def test_numbers_of_seeds() -> None:
    assert contest.of_seeds([None, None]) == "–"
    assert contest.of_seeds([0.5, math.inf]) == "inf (0.50 – inf)"
    assert contest.of_seeds([0.011, 0.013]) == "0.012 (0.011 – 0.013)"


def test_a_residual_network_begins_at_the_identity() -> None:
    x = torch.randn(5, 4)
    assert torch.equal(contest.Residual(4, 8)(x), x)
