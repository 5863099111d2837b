"""Mixed precision: autocast with float32 parameters and sums, GradScaler, and training that follows float32's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradnets_fast import mGradNetC
from gradnets_fast.apps.train.checkpoint import load_checkpoint, save_checkpoint
from gradnets_fast.apps.train.losses import Objective, decibel
from gradnets_fast.apps.train.settings import Settings
from gradnets_fast.apps.train.training import Trainer
from gradnets_fast.fitting._steps import AutogradStep
from gradnets_fast.nn import GradNet, GradNetM, RidgeGradNet
from gradnets_fast.nn.registry import REFERENCES

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
NETWORKS = {
    "ridge": lambda: RidgeGradNet(5, 33, "gelu", linear="symmetric"),
    "cascade": lambda: mGradNetC(3, 5, 33, "weighted_tanh", linear="psd"),
    "modules": lambda: GradNetM(2, 5, 33, "weighted_softmax"),
    "soft maximum": lambda: GradNetM(2, 5, 33, combine="logsumexp"),
}


def plain(net: GradNet) -> Callable[[Tensor], Tensor]:
    parameters, arguments = dict(net.named_parameters()), {"activation": net.spec.label, "monotone": net.monotone}
    return lambda x: REFERENCES[type(net)](parameters, x, **arguments)


@pytest.mark.parametrize("dtype", HALF.values(), ids=list(HALF))
@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_keeps_parameters_and_their_gradients_in_float32(name: str, dtype: torch.dtype) -> None:
    net: GradNet = NETWORKS[name]()
    x, g = torch.randn(2, 41, 5)

    def results(network: GradNet, of: Callable[[Tensor], Tensor], dtype: torch.dtype | None) -> list[Tensor]:
        points = x.to(next(network.parameters()).dtype).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            f = of(points)
        gradients = torch.autograd.grad(f, [points, *network.parameters()], g.to(f.dtype), materialize_grads=True)
        return [f.detach(), *gradients]

    exact = copy.deepcopy(net).double()
    ours, eager = results(net, net, dtype), results(net, plain(net), dtype)
    assert ours[0].dtype == dtype
    assert all(gradient.dtype == torch.float32 for gradient in ours[1:])
    truths = results(exact, plain(exact), None)
    # A gradient may be a difference of much larger ones, whose rounding errors it keeps.
    floor = 4 * torch.finfo(dtype).eps * max(truth.norm() for truth in truths)
    for mine, theirs, truth in zip(ours, eager, truths):
        error, eager_error = ((t.double() - truth).norm() for t in (mine, theirs))
        assert error <= 2 * eager_error + floor


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_leaves_float64_alone(name: str) -> None:
    net: GradNet = NETWORKS[name]().double()
    x, v = torch.randn(2, 7, 5, dtype=torch.float64)

    def results() -> list[Tensor]:
        return [net(x), net.potential(x), net.jvp(x, v), net.divergence(x), net.jacobian(x)]

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(ours, other) for ours, other in zip(results(), expected))


def test_sums_over_many_hidden_units_and_points_are_in_float32() -> None:
    """In bfloat16 a sum of 4096 equal terms would stop at 256 of them."""
    net = RidgeGradNet(1, 4096, "identity")
    with torch.no_grad():
        for parameter, value in ((net.W, 1.0), (net.b, 0.0), (net.bias, 0.0)):
            parameter.fill_(value)
    x = torch.ones(4096, 1)
    with torch.autocast("cpu", torch.bfloat16):
        f = net(x)
    f.backward(torch.ones_like(f))
    assert f.unique().tolist() == [4096.0]
    assert net.b.grad is not None
    assert net.b.grad.unique().tolist() == [4096.0]


def test_grad_scaler_skips_a_step_that_overflows() -> None:
    net = mGradNetC(2, 3, 7)
    scaler, error = torch.amp.GradScaler("cpu", init_scale=2.0**10), torch.empty(1)
    step = AutogradStep(net, Objective(net, amp="float16"), scaler)
    x, g = torch.randn(2, 16, 3)
    before = [p.detach().clone() for p in net.parameters()]
    step((x, g * 1e30), error, 1e-2)
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    step((x, g), error, 1e-2)
    assert scaler.get_scale() == 2.0**9
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters()))


# In dB; the worst of four seeds was within half of each bound.
BOUNDS = {
    ("mgradnet-c", "convex2d", "bfloat16"): 0.4,
    ("mgradnet-c", "convex2d", "float16"): 0.6,
    ("gradnet-c", "nonconvex2d", "bfloat16"): 6.0,
    ("gradnet-c", "nonconvex2d", "float16"): 0.5,
}


@lru_cache(maxsize=None)
def errors(arch: str, field: str, amp: str) -> list[float]:
    """The errors of a short run along its way, in dB, each over 40 steps."""
    settings = Settings(arch=arch, field=field, amp=amp, embed_dim=32, steps=1200, samples=20_000, batch_size=500)
    trainer = Trainer(settings)
    while trainer.step < settings.steps:
        trainer.advance()
    losses = [loss for _, loss in trainer.history]
    assert len(losses) == 400
    return [decibel(sum(losses[i : i + 40]) / 40) for i in range(0, 400, 40)]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "field", "amp"), BOUNDS)
def test_training_follows_float32(arch: str, field: str, amp: str) -> None:
    full, half = errors(arch, field, "float32"), errors(arch, field, amp)
    assert full != half
    assert full[-1] < full[0] - 10
    # While the scale of float16 comes down to what fits, steps are skipped.
    assert all(low - high <= BOUNDS[arch, field, amp] for low, high in list(zip(half, full))[1:])


def test_a_run_in_float16_resumes_with_its_scale(tmp_path: Path) -> None:
    settings = Settings(amp="float16", steps=30, samples=1000, batch_size=100)
    whole, first, second = (Trainer(settings) for _ in range(3))
    for trainer in (whole, first):
        trainer._scaler._init_scale = 2.0**40  # which overflows, so that the first steps lower it
    for _ in range(11):
        first.advance()
    save_checkpoint(tmp_path, first.checkpoint())
    second.resume(load_checkpoint(tmp_path))
    while second.step < settings.steps:
        second.advance()
    while whole.step < settings.steps:
        whole.advance()
    assert second.history == whole.history
    assert second._scaler.get_scale() == whole._scaler.get_scale() < 2.0**40
