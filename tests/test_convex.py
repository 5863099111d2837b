"""Inverses, conjugates and proximal maps of convex potentials, and bounds of Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_contract import CASES, REPRESENTATIVES
from torch import Tensor, nn
from torch.func import functional_call

import gradnets_fast as gf
from covering import quick_in_turn
from gradnets_fast import convex
from gradnets_fast.nn import GradNet
from gradnets_fast.nn.registry import Case

MONOTONE = [case for case in REPRESENTATIVES if case.monotone and "mDeepGradNet-relu" not in case.label]
"""The gradient of a deep energy of relu jumps, so that it leaves values out."""
NETWORKS: dict[str, Callable[..., GradNet]] = {
    "ridge": lambda **kw: gf.mRidgeGradNet(3, 9, "tanh", linear="psd", **kw),
    "cascade": lambda **kw: gf.mGradNetC(3, 3, 9, "softplus", linear="psd", **kw),
    "softmax": lambda **kw: gf.mGradNetM(2, 3, 9, linear="psd", **kw),
    "deep": lambda **kw: gf.mDeepGradNet(3, (9, 8), linear="psd", **kw),
}
each_network = pytest.mark.parametrize("name", list(NETWORKS))
METHODS = ("newton", "cg")


def strongly_convex(make: Callable[..., GradNet], **factory: Any) -> GradNet:
    net = make(**{"dtype": torch.float64, **factory})
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(3) + 0.2 * torch.randn(3, 3))
    return net


@pytest.mark.parametrize("case", MONOTONE, ids=lambda case: case.label)
@pytest.mark.parametrize("method", METHODS)
def test_the_inverse_of_every_monotone_architecture(case: Case, method: str) -> None:
    net = strongly_convex(lambda **kw: case.make(linear="psd", **kw))
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    found = convex.inverse(net, net(x), method=method, strict=True)
    assert found.converged.shape == found.iterations.shape == found.residual.shape == (5, 4)
    torch.testing.assert_close(found.x, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(net(found.x), net(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", MONOTONE, ids=lambda case: case.label)
@pytest.mark.parametrize("method", METHODS)
def test_the_proximal_map_of_every_monotone_architecture(case: Case, method: str) -> None:
    net, x = case.make(dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)
    gamma = torch.rand(30, dtype=torch.float64) * 3
    for step, steps in ((0.7, 0.7), (gamma, gamma.unsqueeze(-1))):
        z = convex.prox(net, x, step, method=method, strict=True).x
        torch.testing.assert_close(z + steps * net(z), x, rtol=1e-8, atol=1e-8)
    assert torch.equal(convex.prox(net, x, 0.0).x, x)


@each_network
def test_float32_to_a_tolerance(name: str) -> None:
    net = strongly_convex(NETWORKS[name], dtype=torch.float32)
    x = torch.randn(200, 3)
    found = convex.inverse(net, net(x), tolerance=1e-6, strict=True)
    assert (net(found.x) - net(x)).norm(dim=1).max() <= 1e-5 * net(x).norm(dim=1).max()


@quick_in_turn("name, method", METHODS, list(NETWORKS))
def test_two_derivatives_of_the_inverse_in_everything(name: str, method: str) -> None:
    net = strongly_convex(NETWORKS[name])
    names, values = zip(*((key, value.detach().requires_grad_()) for key, value in net.named_parameters()))
    y = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, y: Tensor) -> Tensor:
            return convex.inverse(self.net, y, method=method, tolerance=1e-14).x

    inverse = Inverse()

    def function(y: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(inverse, {f"net.{key}": p for key, p in zip(names, parameters)}, (y,))

    assert torch.autograd.gradcheck(function, (y, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (y, *values), fast_mode=True)


def test_two_derivatives_of_the_proximal_map_in_everything() -> None:
    net, x = NETWORKS["cascade"](dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, gamma: Tensor, *_: Tensor) -> Tensor:
        return convex.prox(net, x, gamma, tolerance=1e-14).x

    assert torch.autograd.gradcheck(function, (x, gamma, *net.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, gamma, *net.parameters()), fast_mode=True)


@each_network
def test_the_conjugate_and_its_two_derivatives(name: str) -> None:
    net = strongly_convex(NETWORKS[name])
    x = torch.randn(6, 3, dtype=torch.float64)
    y = net(x).detach().requires_grad_()
    found = convex.conjugate(net, y, strict=True)
    # Fenchel and Young: F(x) + F*(y) = <x, y> where y = f(x), and F* is no smaller elsewhere.
    torch.testing.assert_close(found.value + net.potential(x), (x * y).sum(-1))
    others = torch.randn(6, 3, dtype=torch.float64)
    assert (found.value + net.potential(others) >= (others * y).sum(-1) - 1e-9).all()
    (gradient,) = torch.autograd.grad(found.value.sum(), y, create_graph=True)
    torch.testing.assert_close(gradient, x)
    hessian = torch.stack([torch.autograd.grad(gradient[:, i].sum(), y, retain_graph=True)[0] for i in range(3)], 1)
    torch.testing.assert_close(hessian, torch.linalg.inv(net.jacobian(x)), rtol=1e-6, atol=1e-8)


def test_images() -> None:
    net = gf.mConvGradNet(1, 4, 3, activation="tanh", dtype=torch.float64)
    x = torch.randn(3, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    found = convex.prox(net, x, 0.8, strict=True)
    assert found.converged.shape == (3,)
    torch.testing.assert_close(found.x + 0.8 * net(found.x), x)
    assert torch.autograd.gradcheck(lambda x: convex.prox(net, x, 0.8, tolerance=1e-14).x, x, atol=1e-5)


def test_a_kinked_map_is_inverted_too() -> None:
    net = strongly_convex(lambda **kw: gf.mRidgeGradNet(3, 30, "relu", linear="psd", **kw))
    x = 5 * torch.randn(300, 3, dtype=torch.float64)
    torch.testing.assert_close(convex.inverse(net, net(x), strict=True).x, x)


def test_what_does_not_converge_is_in_the_mask_and_raises_if_strict() -> None:
    net = gf.mRidgeGradNet(2, 8, "tanh", dtype=torch.float64)  # bounded: |f| <= Σ |w_j|
    y = torch.tensor([[0.0, 0.0], [1e3, 0.0]], dtype=torch.float64) + net(torch.zeros(2, dtype=torch.float64)).detach()
    with pytest.warns(RuntimeWarning, match='inverse: net: expected a strongly convex potential.*add linear="psd"'):
        found = convex.inverse(net, y)
    assert found.converged.tolist() == [True, False]
    assert found.residual[1] > 100
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match=r"got 1 that have not .*\(at 1\)"):
        convex.inverse(net, y, strict=True)


def test_a_point_that_is_nan_leaves_the_others_alone() -> None:
    net = strongly_convex(NETWORKS["cascade"])
    x = torch.randn(4, 3, dtype=torch.float64)
    y = net(x).detach()
    y[2, 1] = math.nan
    found = convex.inverse(net, y)
    assert found.converged.tolist() == [True, True, False, True]
    torch.testing.assert_close(found.x[[0, 1, 3]], x[[0, 1, 3]])


def test_a_warm_start_takes_no_step_and_progress_is_told() -> None:
    net = strongly_convex(NETWORKS["cascade"])
    x = 3 * torch.randn(50, 3, dtype=torch.float64)
    told: list[tuple[int, int, float]] = []
    found = convex.inverse(net, net(x), progress=lambda *news: told.append(news))
    assert [step for step, _, _ in told] == list(range(1, int(found.iterations.max()) + 1))
    assert told[-1][1] == 0
    assert all(before[1] >= after[1] for before, after in pairwise(told))
    again = convex.inverse(net, net(x), start=found.x)
    assert again.iterations.max() <= 1
    torch.testing.assert_close(again.x, found.x)


def test_a_batch_of_several_pieces() -> None:
    net = strongly_convex(NETWORKS["cascade"])
    x = torch.randn(3, 10_000, 3, dtype=torch.float64)
    found = convex.inverse(net, net(x), strict=True)
    torch.testing.assert_close(found.x, x, rtol=1e-8, atol=1e-8)
    assert convex.prox(net, x, torch.rand(3, 10_000, dtype=torch.float64), strict=True).converged.all()


def test_an_empty_batch_and_a_single_point() -> None:
    net = strongly_convex(NETWORKS["softmax"])
    assert convex.inverse(net, torch.zeros(0, 3, dtype=torch.float64)).x.shape == (0, 3)
    point = torch.randn(3, dtype=torch.float64)
    found = convex.inverse(net, net(point))
    assert found.converged.shape == ()
    torch.testing.assert_close(found.x, point)


X = torch.zeros(4, 3)


@pytest.mark.parametrize(("call", "text"), [
    (lambda net: convex.inverse(gf.GradNetC(2, 3, 8), X), "net: expected a monotone gradient network, got GradNetC"),
    (lambda net: convex.inverse(net, X.tolist()), "inverse: y: expected a torch.Tensor"),
    (lambda net: convex.inverse(net, X.half()), "inverse: y: expected float32 or float64"),
    (lambda net: convex.inverse(net, X[:, :2]), r"shape \(4, 2\)"),
    (lambda net: convex.inverse(net, X, start=X[:2]), r"start: expected shape \(4, 3\)"),
    (lambda net: convex.inverse(net, X, tolerance=0.0), "tolerance: expected a number above 0"),
    (lambda net: convex.inverse(net, X, max_iter=0), "max_iter"),
    (lambda net: convex.inverse(net, X, method="bfgs"), "method: expected 'newton', 'cg' or None"),
    (lambda net: convex.prox(net, X, -1.0), "gamma: expected 0 or more"),
    (lambda net: convex.prox(net, X, torch.ones(3)), r"gamma: expected shape \(\) or \(4,\)"),
    (lambda net: convex.lipschitz_bound(nn.Linear(3, 3)), "net: expected a gradient network, got Linear"),
    (lambda net: convex.logdet_estimate(net, X, probes=1), "probes: expected at least 2"),
    (lambda net: convex.logdet_estimate(net, X.half()), "x: expected float32 or float64"),
])  # fmt: skip
def test_bad_input(call: Callable[[GradNet], object], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        call(strongly_convex(NETWORKS["cascade"], dtype=torch.float32))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_bounds_hold_at_many_points(case: Case) -> None:
    net = case.make(dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        size = torch.logspace(-2, 1, 10, dtype=torch.float64).repeat_interleave(100).unsqueeze(-1)
        J = net.jacobian(size * torch.randn(1000, 3, dtype=torch.float64))
        eigenvalues = torch.linalg.eigvalsh(J[J.isfinite().all(-1).all(-1)])
        largest, least = convex.lipschitz_bound(net), convex.strong_convexity_bound(net)
    assert eigenvalues.abs().max() <= largest * (1 + 1e-9) + 1e-12
    assert eigenvalues.min() >= least - 1e-9 * abs(least) - 1e-12
    if net.monotone:
        assert least >= 0


BOUNDED: dict[str, Callable[[], GradNet]] = {
    "ridge": lambda: gf.RidgeGradNet(3, 9, ["tanh", "sin"]),
    "one layer": lambda: gf.mRidgeGradNet(3, 9, "tanh"),
    "heads": lambda: gf.RidgeGradNet(3, 9, gf.Heads(2, "hardtanh")),
    "spline": lambda: gf.RidgeGradNet(3, 9, gf.Spline(9, slopes=(-1.0, 2.0))),
    "cascade": lambda: gf.GradNetC(3, 3, 9, "tanh"),
    "softmax": lambda: gf.GradNetM(2, 3, 9, "weighted_softmax"),
    "identity": lambda: gf.GradNetM(2, 3, 9, "tanh", transform="identity"),
    "deep": lambda: gf.DeepGradNet(3, (9, 9), "silu", input_skip=True, residual=True),
}


@pytest.mark.parametrize("name", list(BOUNDED))
def test_bounds_are_finite_and_differentiable(name: str) -> None:
    net = BOUNDED[name]().double()
    bound = convex.lipschitz_bound(net)
    assert bound.isfinite()
    x = torch.randn(1000, 3, dtype=torch.float64)
    assert torch.linalg.matrix_norm(net.jacobian(x), 2).max() <= bound * (1 + 1e-12)
    bound.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def test_the_bound_of_one_layer_is_reached() -> None:
    net = gf.mRidgeGradNet(3, 9, "tanh", dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name != "W":
                parameter.zero_()
        net_at_zero = torch.linalg.matrix_norm(net.jacobian(torch.zeros(3, dtype=torch.float64)), 2)
        torch.testing.assert_close(convex.lipschitz_bound(net), net_at_zero)


@quick_in_turn("arch, stages, padding", ["zeros", "circular"], [gf.ConvGradNet, gf.mConvGradNet], [[], [(3, 3)]])
def test_bounds_of_convolutions(padding: str, stages: list[Any], arch: type[GradNet]) -> None:
    activation = "tanh" if arch.monotone else gf.Heads(2, "hardtanh")
    net = arch(2, 4, 3, activation, stages=stages, padding=padding, dtype=torch.float64)
    for _ in range(5):
        x = 2 * torch.randn(2, 5, 4, dtype=torch.float64)
        J = torch.func.jacrev(net)(x).reshape(40, 40)
        eigenvalues = torch.linalg.eigvalsh(J)
        assert eigenvalues[-1] <= convex.lipschitz_bound(net)
        assert eigenvalues[0] >= convex.strong_convexity_bound(net) - 1e-12
    assert convex.lipschitz_bound(net) <= 20 * eigenvalues.abs().max()


def test_the_estimate_approaches_the_largest_norm_from_below() -> None:
    net, x = gf.GradNetC(2, 5, 9, dtype=torch.float64), torch.randn(50, 5, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(net.jacobian(x), 2).max()
    estimate = convex.lipschitz_estimate(net, x, iterations=400)
    assert estimate <= exact * (1 + 1e-12)
    torch.testing.assert_close(estimate, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["cascade", "deep"])
def test_the_estimate_of_log_determinants_and_of_their_gradients(name: str) -> None:
    net = strongly_convex(NETWORKS[name])
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    parameters = [x, *(parameter for parameter in net.parameters() if parameter.dim() == 2)]
    generator = torch.Generator().manual_seed(0)
    # All steps that there can be: then only the random vectors make an error.
    estimate = convex.logdet_estimate(net, x, probes=4000, steps=3, tolerance=1e-12, generator=generator)
    exact = net.logdet(x)
    assert ((estimate.value - exact).abs() <= 4 * estimate.standard_error + 1e-9).all()
    ours, expected = (torch.autograd.grad(value.sum(), parameters) for value in (estimate.value, exact))
    for mine, theirs in zip(ours, expected):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))


def test_the_estimate_of_many_dimensions_and_of_images() -> None:
    net = gf.mGradNetC(2, 300, 50, linear="psd", dtype=torch.float64)
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(300))
        x = torch.randn(5, 300, dtype=torch.float64)
        found = convex.logdet_estimate(net, x, steps=20, generator=torch.Generator().manual_seed(1))
        assert ((found.value - net.logdet(x)).abs() <= 4 * found.standard_error).all()
    image = torch.randn(2, 1, 6, 5, dtype=torch.float64)
    conv = gf.mConvGradNet(1, 40, 3, dtype=torch.float64)
    J = torch.stack([torch.func.jacrev(conv)(each).reshape(30, 30) for each in image])
    found = convex.logdet_estimate(conv, image, probes=500, generator=torch.Generator().manual_seed(1))
    assert ((found.value - torch.logdet(J)).abs() <= 4 * found.standard_error).all()
