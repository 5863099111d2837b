"""Networks as transport maps, measured with POT."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from gradnets_fast.interop import TransportReport, measure_transport

N, D = 80, 3
CONVEX: dict[str, Any] = {
    "cascade": lambda **o: gf.mGradNetC(4, D, 12, "softplus", **o),
    "modules": lambda **o: gf.mGradNetM(3, D, 12, "weighted_softmax", **o),
    "ridge": lambda **o: gf.mRidgeGradNet(D, 12, "tanh", linear="psd", **o),
}


def points(count: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, D, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("make", CONVEX.values(), ids=CONVEX)
def test_gradients_of_convex_potentials_are_optimal_maps(make: Any, dtype: torch.dtype) -> None:
    net, x = make(dtype=dtype), points(dtype=dtype)
    report = measure_transport(net, x, points(N + 7, dtype))
    assert abs(report.gap) < 1e-13
    with torch.no_grad():
        moved = net(x).double()
    plan = ot.emd([], [], ot.dist(x.double().numpy(), moved.numpy()))
    np.testing.assert_allclose(plan, np.eye(N) / N, atol=1e-12)
    assert report.map_cost == pytest.approx((x.double() - moved).square().sum(-1).mean().item(), rel=1e-12)
    assert report.map_cost > 0.1


@pytest.mark.parametrize(
    "move", [lambda x: x @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).double(), lambda x: -x]
)
def test_rotations_and_reflections_are_not(move: Any) -> None:
    """Rotations and reflections move points onto points that were nearer to others."""
    x = points()
    report = measure_transport(move, x, move(x))
    assert report.gap > 0.3
    assert report.target_distance < 1e-7
    assert report.cost_ratio == pytest.approx(1 / (1 - report.gap))


def test_the_gradient_of_a_concave_potential_is_not() -> None:
    net = gf.GradNetC(3, D, 12, "tanh", dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*net.alpha, *net.beta):
            parameter.fill_(1.0)
        net.alpha[-1].fill_(-1.0)
    assert torch.linalg.eigvalsh(net.jacobian(points()))[..., -1].max() <= 1e-12
    assert measure_transport(net, points(), points()).gap > 0.05


def gaussian(mean: list[float], scales: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """A mean, a covariance and its root."""
    rotation = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    root = rotation @ torch.tensor(scales).double().diag() @ rotation.T
    return torch.tensor(mean).double(), root @ root, root


def root_of(A: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(A)
    return vectors @ values.sqrt().diag() @ vectors.T


def test_a_linear_network_transports_one_gaussian_to_another() -> None:
    """The optimal map is m₂ + A(x − m₁) with A = S⁻¹(S C₂ S)^½ S⁻¹, S² = C₁, and its cost is POT's closed form."""
    (m1, C1, S), (m2, C2, S2) = gaussian([1, 0, -1], [1.0, 0.5, 0.8]), gaussian([0, 2, 0], [2.0, 0.3, 1.0])
    inverse = torch.linalg.inv(S)
    A = inverse @ root_of(S @ C2 @ S) @ inverse
    net = gf.mRidgeGradNet(D, D, "identity", dtype=torch.float64)
    with torch.no_grad():
        net.W.copy_(root_of(A))
        net.b.zero_()
        net.bias.copy_(m2 - A @ m1)
    (sample, count) = (points(2000), 600)
    x, y = m1 + sample[:count] @ S, m2 + points(count) @ S2
    report = measure_transport(net, x, y)
    independent = measure_transport(net, x, m2 + points(count) @ S2)
    assert abs(report.gap) < 1e-13
    # The distance of two samples of the target itself, and what the identity and another linear map leave.
    level = measure_transport(lambda y: y, y, m2 + points(count) @ S2).target_distance
    assert 0.8 * level < report.target_distance < 1.2 * level
    assert 0.8 * level < independent.target_distance < 1.2 * level
    assert measure_transport(lambda x: x + m2 - m1, x, y).target_distance > 2 * level
    exact = float(ot.gaussian.bures_wasserstein_distance(m1, m2, C1, C2)) ** 2
    large = m1 + sample @ S
    cost = (large - net(large)).detach().square().sum(-1)
    assert cost.mean().item() == pytest.approx(exact, abs=4 * cost.std().item() / len(cost) ** 0.5)
    assert report.target_cost == pytest.approx(exact, rel=0.15)
    assert report.cost_ratio == pytest.approx(1, abs=0.15)


def test_numbers_of_a_report_by_hand() -> None:
    """Three points of a line; y has them in another order."""
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[5.0], [3.0], [4.0]])
    report = measure_transport(lambda x: 2 - x, x, y)
    assert report == TransportReport((3, 3), 3.0, pytest.approx(8 / 3), 0.0, pytest.approx(9.0))
    assert report.gap == 1.0
    assert report.cost_ratio == pytest.approx(8 / 27)
    assert str(report).splitlines() == [
        "transport of 3 points to 3",
        "  W2(T(x), y)         3",
        "  mean |x - T(x)|^2   2.667",
        "  best for x to T(x)  0, gap 1",
        "  best for x to y     9, ratio 0.2963",
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.map_cost = 1.0
    same = measure_transport(lambda x: x, x, x)
    assert same.gap == 0
    assert math.isnan(same.cost_ratio)


ZEROS = torch.zeros(N, D)


@pytest.mark.parametrize(
    ("x", "y", "error", "text"),
    [
        (np.zeros((4, 3)), ZEROS, TypeError, "x: expected a torch.Tensor, got ndarray"),
        (ZEROS[0], ZEROS, ValueError, r"x: expected shape \(points, coordinates\), got shape \(3,\)"),
        (ZEROS, ZEROS[:0], ValueError, r"y: expected shape \(points, coordinates\), got shape \(0, 3\)"),
        (ZEROS, ZEROS[:, :2], ValueError, r"y: expected 3 coordinates, like x, got shape \(80, 2\)"),
        (ZEROS, ZEROS / 0, ValueError, "y: expected finite points, got 80 that are not"),
    ],
)
def test_what_is_no_sample_is_refused(x: Any, y: Tensor, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"measure_transport: {text}; "):
        measure_transport(lambda x: x, x, y)


def test_a_diverged_network_is_refused() -> None:
    with pytest.raises(ValueError, match="measure_transport: net: expected finite points, got 80 that are not; "):
        measure_transport(lambda x: x * float("nan"), points(), points())
