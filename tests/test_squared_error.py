"""`squared_error`: the loss whose gradients are made beside it, against mse_loss of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_contract import CASES, REPRESENTATIVES
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import gradnets_fast as gf
from covering import slow_but
from gradnets_fast.errors import is_message
from gradnets_fast.fitting._squared_error import _by_kernels
from gradnets_fast.nn.registry import Case
from gradnets_fast.ops import _cpp

needs_kernels = pytest.mark.skipif(_cpp.why_unavailable() is not None, reason=f"{_cpp.why_unavailable()}")


def of(net: nn.Module, loss: Callable[..., Tensor], x: Tensor, target: Tensor) -> list[Tensor | None]:
    """The loss, times a factor, and its gradients in the points, the target and the parameters."""
    x, target = x.clone().requires_grad_(), target.clone().requires_grad_()
    value = 1.5 * loss(net, x, target)
    return [value, *torch.autograd.grad(value, [x, target, *net.parameters()], allow_unused=True)]


def plain(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return mse_loss(net(x), target)


@pytest.mark.parametrize("case", slow_but(REPRESENTATIVES, CASES), ids=lambda case: case.label)
def test_the_loss_and_its_gradients_are_those_of_mse_loss(case: Case) -> None:
    torch.manual_seed(0)
    net: Any = case.make(dtype=torch.float64)
    shape = (5, net.in_dim) if net.point_dimensions == 1 else (3, net.in_channels, *(7,) * (net.point_dimensions - 1))
    x, target = torch.randn(2, *shape, dtype=torch.float64)
    for ours, theirs in zip(of(net, gf.squared_error, x, target), of(net, plain, x, target)):
        if ours is None or theirs is None:
            assert ours is theirs
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    if _cpp.why_unavailable() is None and net.point_dimensions == 1:
        assert (_by_kernels(net, x, target) is None) == (getattr(net, "combine", "sum") != "sum")


@needs_kernels
@pytest.mark.parametrize("rows", [1, 48, 50, 700])
def test_a_deep_network_in_float32(rows: int) -> None:
    torch.manual_seed(0)
    net = gf.DeepGradNet(3, (20, 33), "tanh", input_skip=True)
    x, target = torch.randn(2, rows, 3)
    net64 = gf.DeepGradNet(3, (20, 33), "tanh", input_skip=True, dtype=torch.float64)
    net64.load_state_dict(net.state_dict())
    exact = of(net64, plain, x.double(), target.double())
    for ours, true in zip(of(net, gf.squared_error, x, target), exact):
        assert ours is not None
        assert true is not None
        torch.testing.assert_close(ours.double(), true, rtol=1e-4, atol=1e-5 * float(true.detach().abs().max()))


@needs_kernels
def test_the_backward_pass_calls_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = gf.DeepGradNet(2, (8, 8)), torch.randn(9, 2)
    loss = gf.squared_error(net, x, x.sin())
    monkeypatch.setattr(_cpp, "_EXTENSION", None)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


NESTED: dict[str, Callable[[], Any]] = {
    "cascade": lambda: gf.mGradNetC(2, 3, 5, dtype=torch.float64),  # whose shift is computed from its scale
    "heads": lambda: gf.RidgeGradNet(3, 5, gf.Heads(2, "tanh"), dtype=torch.float64),
    "linear part": lambda: gf.GradNetM(2, 3, 5, "softmax", linear="symmetric", dtype=torch.float64),
}


@needs_kernels
@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("target_of", [torch.Tensor.detach, torch.Tensor.sin, torch.Tensor.view_as])
def test_gradients_that_have_a_graph_are_the_others(name: str, target_of: Callable[..., Tensor]) -> None:
    """Of tensors that are computed from each other too: scale and shift, points and target."""
    torch.manual_seed(0)
    net, x = NESTED[name](), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = target_of(x, x) if target_of is torch.Tensor.view_as else target_of(x)
    found = []
    for loss, options in ((gf.squared_error, {}), (gf.squared_error, {"create_graph": True}), (plain, {})):
        value = loss(net, x, target)
        found.append(torch.autograd.grad(value, [x, *net.parameters()], retain_graph=True, **options))
    for ours, again, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(again, theirs)


@needs_kernels
def test_the_loss_is_changed_in_place_and_gradients_too() -> None:
    net, x = gf.RidgeGradNet(3, 5), torch.randn(4, 3)
    loss = gf.squared_error(net, x, x)
    loss /= 2
    first = torch.autograd.grad(loss, net.W, retain_graph=True)[0].mul_(0.5)
    loss.backward()
    torch.testing.assert_close(net.W.grad, 2 * first)


@needs_kernels
def test_gradients_of_several_cotangents_at_once() -> None:
    net, x = gf.RidgeGradNet(3, 5), torch.randn(4, 3)
    factors = torch.tensor([1.0, -2.0])
    batched = torch.autograd.grad(gf.squared_error(net, x, x), net.W, factors, is_grads_batched=True)[0]
    once = torch.autograd.grad(gf.squared_error(net, x, x), net.W)[0]
    torch.testing.assert_close(batched, factors.view(-1, 1, 1) * once)


@needs_kernels
def test_second_derivatives() -> None:
    net = gf.DeepGradNet(2, (4, 3), "tanh", dtype=torch.float64)
    x, target = torch.randn(2, 3, 2, dtype=torch.float64).unbind()
    leaves = (x.requires_grad_(), target.requires_grad_())
    assert torch.autograd.gradcheck(lambda *points: gf.squared_error(net, *points), leaves)
    assert torch.autograd.gradgradcheck(lambda *points: gf.squared_error(net, *points), leaves)


def test_some_parameters_alone() -> None:
    net, x = gf.mGradNetC(2, 3, 5), torch.randn(4, 3)
    net.W.requires_grad_(False)
    gf.squared_error(net, x, x).backward()
    assert net.W.grad is None
    assert net.alpha[0].grad is not None


@needs_kernels
def test_calls_out_of_the_ordinary_are_mse_loss() -> None:
    x = torch.randn(4, 3)
    net = gf.mGradNetC(2, 3, 5)
    assert _by_kernels(net, x, x) is not None
    assert _by_kernels(net, x[:0], x[:0]) is None
    assert _by_kernels(net, x.half(), x.half()) is None
    with torch.no_grad():
        assert _by_kernels(net, x, x) is None
    with gf.use_backend("reference"):
        assert _by_kernels(net, x, x) is None
    with torch.autocast("cpu"):
        assert _by_kernels(net, x, x) is None
    with net.register_forward_hook(lambda _net, _x, f: 2 * f):
        assert _by_kernels(net, x, x) is None
        torch.testing.assert_close(gf.squared_error(net, x, x), mse_loss(net(x), x))
    linear = nn.Linear(3, 3)
    torch.testing.assert_close(gf.squared_error(linear, x, x), mse_loss(linear(x), x))
    of_points = torch.func.grad(lambda point: gf.squared_error(net, point, point.detach()))(x)
    assert of_points.shape == x.shape


def test_strides_do_not_matter() -> None:
    net, x = gf.DeepGradNet(3, (5,)), torch.randn(3, 8).T
    torch.testing.assert_close(gf.squared_error(net, x, x.flip(0)), mse_loss(net(x), x.flip(0)))


@pytest.mark.parametrize(
    ("fault", "argument"),
    [
        (lambda: gf.squared_error(torch.sin, torch.zeros(2, 2), torch.zeros(2, 2)), "net"),  # type: ignore[arg-type]
        (lambda: gf.squared_error(gf.RidgeGradNet(2, 3), torch.zeros(2, 2), torch.zeros(2)), "target"),
        (lambda: gf.squared_error(gf.RidgeGradNet(2, 3), torch.zeros(2, 2), torch.zeros(2, 2).double()), "target"),
        (lambda: gf.squared_error(gf.RidgeGradNet(2, 3), 1.0, torch.zeros(2)), "x"),  # type: ignore[arg-type]
        (lambda: gf.squared_error(gf.mGradNetC(2, 3, 5, linear="psd"), torch.zeros(4, 2), torch.zeros(4, 2)), "x"),
    ],
)
def test_faults_are_named(fault: Callable[[], object], argument: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{argument}: expected") as caught:
        fault()
    assert is_message(str(caught.value))
