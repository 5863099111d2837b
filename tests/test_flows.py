"""Densities by gradient maps: likelihoods against quadrature and autograd, samples, torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, TransformedDistribution

import gradnets_fast as gf
from gradnets_fast.flows import ConvexPotentialFlow, GradientMap
from gradnets_fast.nn import GradNet


def maps(count: int, d: int = 2) -> list[GradNet]:
    nets: list[GradNet] = [gf.mGradNetC(2, d, 9, linear="psd", dtype=torch.float64) for _ in range(count)]
    with torch.no_grad():
        for net in nets:
            assert net.linear is not None
            net.linear.V.copy_(torch.eye(d))
    return nets


def normal(d: int = 2) -> Independent:
    return Independent(Normal(torch.zeros(d).double(), torch.ones(d).double()), 1)


@pytest.mark.parametrize(("count", "d", "points"), [(1, 2, 801), (3, 1, 100_001)])
def test_a_density_has_the_integral_one(count: int, d: int, points: int) -> None:
    flow = ConvexPotentialFlow(maps(count, d))
    middle = flow.inverse(torch.zeros(1, d, dtype=torch.float64)).detach()
    axis = torch.linspace(-12, 12, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * d).view(-1, d) + middle
    with torch.no_grad():
        total = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** d
    assert total.item() == pytest.approx(1.0, abs=1e-6)


def test_a_linear_map_gives_a_gaussian() -> None:
    V = torch.tensor([[1.0, 0.3], [0.0, 2.0]], dtype=torch.float64)
    net = gf.mRidgeGradNet(2, 3, "identity", linear="psd", dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.linear.V.copy_(V)
    x = torch.randn(10, 2, dtype=torch.float64)
    exact = MultivariateNormal(torch.zeros(2).double(), precision_matrix=(V.T @ V) @ (V.T @ V))
    torch.testing.assert_close(ConvexPotentialFlow([net]).log_prob(x), exact.log_prob(x))


def test_samples_have_the_base_density_where_the_maps_carry_them() -> None:
    flow = ConvexPotentialFlow(maps(2))
    torch.manual_seed(3)
    x = flow.sample((2000,))
    assert x.shape == (2000, 2)
    assert not x.requires_grad
    z, _ = flow(x)
    assert z.mean(0).abs().max() < 4 / math.sqrt(2000)
    assert (z.T.cov() - torch.eye(2)).abs().max() < 0.15
    assert flow.sample().shape == (2,)


def test_it_is_a_distribution_of_torch() -> None:
    flow = ConvexPotentialFlow(maps(2))
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(flow.distribution().log_prob(x), flow.log_prob(x))
    assert flow.distribution().sample((3,)).shape == (3, 2)
    given = ConvexPotentialFlow(flow.nets, base=normal())
    torch.testing.assert_close(given.log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize("cache_size", [0, 1])
def test_a_bijection(cache_size: int) -> None:
    (net,) = maps(1)
    bijection = GradientMap(net).with_cache(cache_size)
    x = torch.randn(7, 2, dtype=torch.float64)
    y = bijection(x)
    torch.testing.assert_close(bijection.inv(y), x)
    logarithm = torch.stack([torch.func.jacrev(net)(point).logdet() for point in x])
    torch.testing.assert_close(bijection.log_abs_det_jacobian(x, y), logarithm)
    carried = TransformedDistribution(normal(), [bijection])
    torch.testing.assert_close(carried.log_prob(y), normal().log_prob(x) - logarithm)


def test_maximum_likelihood_finds_a_density_of_two_parts() -> None:
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (400, 1)).double() * 2 - 1
    data = torch.cat([1.5 * signs, torch.zeros(400, 1).double()], 1) + 0.4 * torch.randn(400, 2).double()
    flow = ConvexPotentialFlow(maps(1))
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss: Tensor = -flow.log_prob(data).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    gaussian = MultivariateNormal(data.mean(0), data.T.cov())
    assert losses[-1] < -float(gaussian.log_prob(data).mean()) - 0.1


def test_bad_input() -> None:
    with pytest.raises(
        TypeError, match="GradientMap: net: expected a monotone gradient network of points, got GradNetC"
    ):
        GradientMap(gf.GradNetC(2, 2, 3))
    with pytest.raises(TypeError, match=r"ConvexPotentialFlow: net: expected a monotone .* got mConvGradNet"):
        ConvexPotentialFlow([gf.mConvGradNet(1, 2, 3)])
    with pytest.raises(ValueError, match="nets: expected at least one network, got none"):
        ConvexPotentialFlow([])
