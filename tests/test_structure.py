"""Sparse weights, groups that are taken out, and potentials of few directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_contract import CASES, REPRESENTATIVES
from torch import Tensor, nn

import gradnets_fast as gf
from covering import slow_but
from gradnets_fast import convex
from gradnets_fast.errors import is_message
from gradnets_fast.nn import GradNet
from gradnets_fast.nn.registry import Case
from gradnets_fast.structure import LowRank, group_norms, group_soft_threshold_, pruned, soft_threshold_

GROUPED = [
    case
    for case in CASES
    if issubclass(case.make.func, (gf.RidgeGradNet, gf.GradNetC, gf.GradNetM)) and "logsumexp" not in case.label
]


def weights(net: Any) -> nn.Parameter:
    W: nn.Parameter = net.mmgn_modules.W if isinstance(net, gf.GradNetM) else net.W
    return W


def made(case: Case) -> Any:
    torch.manual_seed(0)
    return case.make(dtype=torch.float64)


@pytest.mark.parametrize("case", slow_but([c for c in REPRESENTATIVES if c in GROUPED], GROUPED), ids=lambda c: c.label)
def test_a_pruned_network_is_the_same_function(case: Case) -> None:
    net = made(case)
    with torch.no_grad():
        weights(net)[1::2] = 0
    before = {name: value.clone() for name, value in net.state_dict().items()}
    smaller: Any = pruned(net)
    x = torch.randn(6, net.in_dim, dtype=torch.float64)
    torch.testing.assert_close(smaller(x), net(x))
    torch.testing.assert_close(smaller.jacobian(x), net.jacobian(x))
    constant = net.potential(x) - smaller.potential(x)
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))
    assert len(group_norms(smaller)) == (len(group_norms(net)) + 1) // 2
    assert type(smaller) is type(net)
    same = type(net)(**arguments(case, smaller), dtype=torch.float64)
    same.load_state_dict(smaller.state_dict())  # as a network that was made with these sizes
    torch.testing.assert_close(same(x), net(x))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def arguments(case: Case, net: Any) -> dict[str, Any]:
    sizes = {"num_modules": net.num_modules} if isinstance(net, gf.GradNetM) else {"embed_dim": net.embed_dim}
    return {**case.make.keywords, **sizes}


@pytest.mark.parametrize("make", [lambda: gf.mGradNetC(2, 3, 6), lambda: gf.GradNetM(6, 3, 4, "softmax")])
def test_thresholds_are_proximal_maps(make: Callable[[], Any]) -> None:
    """They minimise ½‖V − W‖² + threshold·penalty(V): no other V that is near, or 0, is better."""
    torch.manual_seed(0)
    for threshold, change, penalty in (
        (0.1, soft_threshold_, lambda V: V.abs().sum()),
        (None, group_soft_threshold_, lambda V: V.flatten(1).norm(dim=1).sum()),
    ):
        net = make()
        W = weights(net).detach().clone()
        threshold = threshold or float(group_norms(net).median())
        change(net, threshold)

        def objective(
            V: Tensor, W: Tensor = W, t: float = threshold, p: Callable[[Tensor], Tensor] = penalty
        ) -> Tensor:
            return (V - W).square().sum() / 2 + t * p(V)

        found = weights(net).detach()
        assert (found == 0).any()
        assert (found != 0).any()
        least = objective(found)
        for _ in range(200):
            assert objective(found + 1e-2 * torch.randn_like(W) * (torch.rand_like(W) < 0.2)) >= least - 1e-6


def test_a_group_of_zeros_stays_so() -> None:
    net = gf.RidgeGradNet(3, 4)
    with torch.no_grad():
        net.W[0] = 0
    group_soft_threshold_(net, 0.0)
    assert net.W.isfinite().all()
    group_soft_threshold_(net, 1e9)
    assert not net.W.any()
    assert pruned(net).embed_dim == 1  # type: ignore[attr-defined]


def test_units_that_a_field_does_not_have_are_taken_out() -> None:
    """Steps of Adam, each with the group lasso's proximal map, on a field of three ridge functions."""
    torch.manual_seed(0)
    directions = torch.eye(6)[:3] * 2
    x = torch.randn(400, 6)
    target = (x @ directions.T).tanh() @ directions
    net: Any = gf.RidgeGradNet(6, 24)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(500):
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        group_soft_threshold_(net, 2e-3)
    smaller: Any = pruned(net)
    assert 3 <= smaller.embed_dim < 20
    torch.testing.assert_close(smaller(x), net(x))
    assert (smaller(x) - target).square().mean() < 0.05 * target.square().mean()


NETWORKS: dict[str, Callable[..., GradNet]] = {
    "cascade": lambda **given: gf.mGradNetC(2, 3, 5, **given),
    "modules": lambda **given: gf.GradNetM(2, 3, 5, "softmax", **given),
    "deep": lambda **given: gf.DeepGradNet(3, (6, 5), "tanh", **given),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("linear", [None, "psd"])
def test_few_directions_are_a_network_of_all(name: str, linear: str | None) -> None:
    torch.manual_seed(0)
    net = LowRank(NETWORKS[name](dtype=torch.float64), 7, linear)
    x, v = torch.randn(2, 5, 7, dtype=torch.float64)

    def energy(point: Tensor) -> Tensor:
        inner = net.net.potential(point @ net.B.T)
        return inner if net.linear is None else inner + net.linear.potential(point)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    J = torch.func.vmap(torch.func.hessian(energy))(x)
    value, f = net.value_and_gradient(x)
    for ours, exact in (
        (net(x), gradient),
        (f, gradient),
        (net.potential(x), energy(x)),
        (value, energy(x)),
        (net.jacobian(x), J),
        (net.jvp(x, v), (J @ v.unsqueeze(-1)).squeeze(-1)),
        (net.divergence(x), J.diagonal(dim1=-2, dim2=-1).sum(-1)),
    ):
        torch.testing.assert_close(ours, exact)
    assert torch.equal(net.jacobian(x), net.jacobian(x).mT)
    if linear:
        torch.testing.assert_close(net.slogdet(x)[1], torch.linalg.slogdet(J)[1])
    assert torch.linalg.matrix_rank(J - (0 if net.linear is None else net.linear.matrix()), rtol=1e-9).max() <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_network_within_stays_as_it_is(dtype: torch.dtype) -> None:
    inner = gf.mGradNetC(2, 3, 5, dtype=dtype)
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    net = LowRank(inner, 8)
    assert all(torch.equal(before[name], value) for name, value in inner.state_dict().items())
    assert net.B.dtype == dtype
    torch.testing.assert_close(net.B.float() @ net.B.float().T, torch.eye(3), rtol=0, atol=2e-2)
    assert LowRank(gf.gradient_of(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))), 5)(
        torch.zeros(1, 5)
    ).shape == (1, 5)


def test_its_scale_is_that_of_the_network_within() -> None:
    net = LowRank(gf.mGradNetC(2, 3, 64), 8)
    gf.init_unit_scale_(net)
    x, v = torch.randn(2, 4000, 8)
    with torch.no_grad():
        assert net.jvp(x, v).square().mean() / v.square().mean() == pytest.approx(1.0, abs=0.1)
    with pytest.raises(TypeError, match="a network of this package"):
        gf.init_unit_scale_(gf.gradient_of(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))))


def test_calculus_and_explanations_take_it() -> None:
    net = LowRank(gf.mGradNetC(2, 3, 5, dtype=torch.float64), 6, "psd")
    assert net.linear is not None
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(6))
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(convex.inverse(net, net(x), strict=True).x, x, rtol=1e-5, atol=1e-5)
    assert convex.lipschitz_bound(net) >= torch.linalg.eigvalsh(net.jacobian(x)).max() - 1e-9
    torch.testing.assert_close(net._effective().value(x), net.net(x @ net.B.T) @ net.B)
    assert "ridge" in str(gf.explain(net, x))
    assert gf.fit(net, x, x.tanh(), steps=3, progress=False).way.startswith("autograd")


@pytest.mark.parametrize(
    ("fault", "argument"),
    [
        (lambda: LowRank(nn.Linear(2, 2), 3), "net"),  # type: ignore[arg-type]
        (lambda: LowRank(gf.RidgeGradNet(2, 3, linear="psd"), 3), "net"),
        (lambda: LowRank(gf.RidgeGradNet(2, 3), 1), "in_dim"),
        (lambda: LowRank(gf.RidgeGradNet(2, 3), 4)(torch.zeros(2, 2)), "x"),
        (lambda: LowRank(gf.RidgeGradNet(2, 3), 4).jvp(torch.zeros(2, 4), torch.zeros(2, 2)), "v"),
        (lambda: group_norms(gf.DeepGradNet(2, (3,))), "net"),
        (lambda: soft_threshold_(gf.GradNetM(2, 3, 4, "softmax", combine="logsumexp"), 0.1), "net"),
        (lambda: group_norms(nn.utils.parametrizations.weight_norm(gf.RidgeGradNet(2, 3), "W")), "net"),
        (lambda: soft_threshold_(gf.RidgeGradNet(2, 3), -1.0), "threshold"),
        (lambda: group_soft_threshold_(gf.RidgeGradNet(2, 3), "1"), "threshold"),  # type: ignore[arg-type]
        (lambda: pruned(gf.RidgeGradNet(2, 3), float("nan")), "tolerance"),
    ],
)
def test_faults_are_named(fault: Callable[[], object], argument: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{argument}: expected") as caught:
        fault()
    assert is_message(str(caught.value))
