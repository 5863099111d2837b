"""`keep`: a deep network whose forward pass leaves its layers in memory for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from covering import in_turn
from gradnets_fast.errors import is_message
from gradnets_fast.ops import _cpp

pytestmark = pytest.mark.skipif(_cpp.why_unavailable() is not None, reason=f"{_cpp.why_unavailable()}")

NETWORKS: dict[str, Callable[..., gf.DeepGradNet]] = {
    "one layer": lambda **given: gf.DeepGradNet(3, (5,), "tanh", **given),
    "plain": lambda **given: gf.DeepGradNet(3, (17, 9, 30), "silu", **given),
    "skips": lambda **given: gf.DeepGradNet(2, (8, 8), ["tanh", "sin"], input_skip=True, linear="symmetric", **given),
    "residual squares": lambda **given: gf.mDeepGradNet(
        4, (6, 6, 6), input_skip="quadratic", rank=2, residual=True, **given
    ),
    "beta": lambda **given: gf.mDeepGradNet(2, (33,), "softplus", inverse_temperature=5.0, **given),
}
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def twins(name: str, dtype: torch.dtype) -> tuple[gf.DeepGradNet, gf.DeepGradNet]:
    """A network that keeps its layers, and one of the same parameters that does not."""
    torch.manual_seed(0)
    keeps, plain = NETWORKS[name](keep=True, dtype=dtype), NETWORKS[name](dtype=dtype)
    plain.load_state_dict(keeps.state_dict())
    return keeps, plain


def gradients(net: Any, x: Tensor, both: bool) -> list[Tensor]:
    """f, or F and f, and their gradients in the points and the parameters."""
    x = x.clone().requires_grad_()
    results = list(net.value_and_gradient(x)) if both else [net(x)]
    loss = sum((result * result.detach().sin()).sum() for result in results)
    leaves = [x, *(p for name, p in net.named_parameters() if name != "energy.2.bias")]  # which no gradient sees
    return [*results, *torch.autograd.grad(loss, leaves)]


@in_turn("name, rows, both, dtype", list(DTYPES), list(NETWORKS), (1, 7, 48, 131), (False, True), few=2)
def test_results_and_gradients_are_those_without(name: str, rows: int, both: bool, dtype: torch.dtype) -> None:
    keeps, plain = twins(name, dtype)
    x = torch.randn(rows, keeps.in_dim, dtype=dtype)
    for ours, theirs in zip(gradients(keeps, x, both), gradients(plain, x, both)):
        tolerance = DTYPES[dtype] * max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def layers_in(node: Any) -> list[Tensor]:
    """What a result's node has saved that is as large as u_l and p_l of three points and layers of 17, 9 and 30."""
    return [t for t in node.saved_tensors if t is not None and t.shape == (3, 2 * (17 + 9 + 30))]


def test_the_layers_are_kept_until_the_backward_pass_alone() -> None:
    keeps, plain = twins("plain", torch.float32)
    x = torch.randn(3, 3, requires_grad=True)
    f = keeps(x)
    assert len(layers_in(f.grad_fn)) == 1
    assert not layers_in(plain(x).grad_fn)
    f.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        _ = f.grad_fn.saved_tensors
    with torch.no_grad():
        assert keeps(x).grad_fn is None


def test_kept_layers_are_read_in_the_backward_pass() -> None:
    keeps, _ = twins("plain", torch.float64)
    f = keeps(torch.randn(3, 3, dtype=torch.float64, requires_grad=True))
    (kept,) = layers_in(f.grad_fn)
    kept.data.fill_(torch.nan)
    f.sum().backward()
    assert all(p.grad is not None and p.grad.isnan().any() for name, p in keeps.named_parameters() if name[0] in "VA")


@pytest.mark.parametrize("name", NETWORKS)
def test_second_derivatives(name: str) -> None:
    keeps, _ = twins(name, torch.float64)
    x = torch.randn(3, keeps.in_dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(keeps, (x,))


def test_strides_backends_compilers_and_transforms_change_no_result() -> None:
    keeps, plain = twins("plain", torch.float64)
    x = torch.randn(3, 8, dtype=torch.float64).T
    torch.testing.assert_close(keeps(x), plain(x.contiguous()))
    with gf.use_backend("reference"):
        torch.testing.assert_close(keeps(x), plain(x.contiguous()))
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(keeps))(x), plain.jacobian(x))
    keeps(x).sum().backward()
    plain(x).sum().backward()
    for p, q in zip(keeps.parameters(), plain.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_same_bits_for_any_thread_count() -> None:
    keeps, _ = twins("plain", torch.float32)
    x, before, found = torch.randn(500, 3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(keeps, x, False))
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_an_energy_keeps_its_layers_too() -> None:
    energy = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(5, 2)
    for ours, theirs in zip(*(gradients(gf.gradient_of(energy, keep=keep), x, False) for keep in (True, False))):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "fault",
    [
        lambda: gf.DeepGradNet(2, (3,), keep="yes"),  # type: ignore[arg-type]
        lambda: gf.gradient_of(torch.nn.Linear(2, 1), keep=1),  # type: ignore[arg-type]
        lambda: gf.deep(torch.zeros(2), torch.zeros(4), widths=(1,), keep=None),
    ],
)
def test_faults_are_named(fault: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="keep: expected True or False") as caught:
        fault()
    assert is_message(str(caught.value))
