"""`fit` against the loop that it stands for, by kernels and by autograd; its ways, endings and messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_contract import CASES, REPRESENTATIVES
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import parametrizations

import gradnets_fast as gf
from covering import slow_but
from gradnets_fast.errors import is_message
from gradnets_fast.fitting import _graph, _loop, _steps
from gradnets_fast.fitting._steps import Batch
from gradnets_fast.nn.registry import Case
from gradnets_fast.ops import _cpp

QUIET: dict[str, Any] = {"progress": False}
needs_kernels = pytest.mark.skipif(_cpp.why_unavailable() is not None, reason="needs the extension")


def data(d: int = 3, n: int = 50, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x.to(dtype), (x.tanh() + 0.1 * x.roll(1, -1)).to(dtype)


def twins(make: Callable[..., nn.Module], **factory: Any) -> tuple[Any, Any]:
    """Two networks with the same parameters."""
    torch.manual_seed(0)
    first = make(**factory)
    torch.manual_seed(0)
    return first, make(**factory)


def plain_loop(
    net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 1e-2, constant: bool = False
) -> list[float]:
    """Full-batch training as people write it; returns the losses."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    losses = []
    for step in range(steps):
        falls = 1.0 if constant else (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rate * falls
        optimizer.zero_grad()
        error = loss()
        error.backward()
        optimizer.step()
        losses.append(error.item())
    return losses


def assert_same(result: gf.Fit, losses: list[float], ours: nn.Module, theirs: nn.Module, tolerance: float) -> None:
    expected = torch.tensor(losses, dtype=result.losses.dtype)
    torch.testing.assert_close(result.losses, expected, rtol=tolerance, atol=tolerance)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
        assert p.grad is None


def has_kernel_step(net: Any) -> bool:
    learned = getattr(getattr(net, "spec", None), "kind", "") not in ("fixed", "weighted_softmax")
    if isinstance(net, gf.DeepGradNet):
        return net.linear is None and net.log_temperature is None and net.inverse_temperature == 1.0
    known = isinstance(net, (gf.RidgeGradNet, gf.GradNetC, gf.GradNetM))
    return known and not learned and net.linear is None and getattr(net, "combine", "sum") == "sum"


@pytest.mark.parametrize("case", slow_but(REPRESENTATIVES, CASES), ids=lambda case: case.label)
def test_every_architecture_is_trained_as_by_the_plain_loop(case: Case) -> None:
    net, other = twins(case.make, dtype=torch.float64)
    x, g = data()
    result = gf.fit(net, x, g, steps=4, **QUIET)
    assert_same(result, plain_loop(other, lambda: mse_loss(other(x), g), 4), net, other, 1e-8)
    if _cpp.why_unavailable() is None:
        assert (result.way == "kernels") == has_kernel_step(net), result.way


@pytest.mark.parametrize(
    "case",
    slow_but(REPRESENTATIVES, [case for case in CASES if case.make.func in _steps._KNOWN]),
    ids=lambda case: case.label,
)
def test_the_chain_rule_is_that_of_autograd(case: Case) -> None:
    torch.manual_seed(0)
    net = case.make(dtype=torch.float64)
    if net._raw() is None:
        assert not has_kernel_step(net)
        return
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(30.0)  # past 20 softplus is the identity to PyTorch
    raw = {
        name: (torch.stack(part) if isinstance(part, list) else part).detach().requires_grad_()
        for name, part in net._raw().items()
    }
    network: Any = net._effective_of(**raw)
    for own, theirs in zip(network.parameters(), net._effective().parameters()):
        assert (own is None and theirs is None) or torch.equal(own, theirs)
    names = [name for name in network.__slots__ if isinstance(getattr(network, name), Tensor)]
    cotangents = {name: torch.randn_like(getattr(network, name)) for name in names}
    expected = torch.autograd.grad(
        [getattr(network, name) for name in names], list(raw.values()), [*cotangents.values()]
    )
    gradients = type(network)(**{name: getattr(network, name) for name in network.__slots__} | cotangents)
    found = net._pulled_back(gradients, network, raw)
    assert found.keys() == raw.keys()
    for name, derivative in zip(raw, expected):
        torch.testing.assert_close(found[name], derivative, rtol=1e-12, atol=1e-12)


def test_images_are_trained() -> None:
    net, other = twins(lambda: gf.ConvGradNet(1, 4, (3, 3)))
    x = torch.randn(6, 1, 8, 8)
    result = gf.fit(net, x, x.tanh(), steps=5, **QUIET)
    assert_same(result, plain_loop(other, lambda: mse_loss(other(x), x.tanh()), 5), net, other, 1e-5)
    assert result.way.startswith("autograd: ")


@needs_kernels
@pytest.mark.parametrize(
    "make",
    [
        lambda: gf.mGradNetC(4, 2, 7),
        lambda: gf.mGradNetM(4, 2, 7),
        lambda: gf.DeepGradNet(2, (20, 7), "tanh"),
        lambda: gf.mDeepGradNet(2, (9, 9), input_skip="quadratic", rank=2, residual=True, linear=None),
    ],
)
@pytest.mark.parametrize("size", [37, 100, 1000])
def test_in_float32_minibatches_have_the_losses_of_the_way_of_autograd(
    make: Callable[[], nn.Module], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = twins(make)
    x, g = data(2, 1000, torch.float32)
    fast = gf.fit(net, x, g, steps=40, batch_size=size, **QUIET)
    monkeypatch.setattr(_loop, "why_not_kernels", lambda *_: "the test says so")
    slow = gf.fit(other, x, g, steps=40, batch_size=size, **QUIET)
    assert (fast.way, slow.way) == ("kernels", "autograd: the test says so")
    assert_same(fast, slow.losses.tolist(), net, other, 1e-4)


@pytest.mark.parametrize("size", [50, 64])
def test_a_recorded_step_is_that_of_autograd_for_batches_of_two_sizes(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded as on a GPU, with the step itself in place of a graph that launches it again."""
    net, other = twins(lambda: gf.mGradNetC(2, 2, 7, linear="psd"))
    x, g = data(2, 150, torch.float32)
    times: list[Callable[[], None]] = []

    def record(step: Callable[[], None], stream: object) -> Callable[[], None]:
        times.append(step)
        return step

    monkeypatch.setattr(_graph, "recorded", record)
    slow = gf.fit(other, x, g, x.sum(-1), steps=20, batch_size=size, **QUIET)
    monkeypatch.setattr(_loop, "why_no_graph", lambda *_: None)
    fast = gf.fit(net, x, g, x.sum(-1), steps=20, batch_size=size, **QUIET)
    assert (fast.way, slow.way.partition(":")[0], len(times)) == ("graph", "autograd", 1)
    assert_same(fast, slow.losses.tolist(), net, other, 1e-5)


def test_steps_that_cannot_be_recorded_are_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(step: Callable[[], None], stream: object) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    net, other = twins(lambda: gf.mGradNetC(2, 2, 7, linear="psd"))
    x, g = data(2, 50, torch.float32)
    slow = gf.fit(other, x, g, steps=10, **QUIET)
    monkeypatch.setattr(_graph, "recorded", record)
    monkeypatch.setattr(_loop, "why_no_graph", lambda *_: None)
    fast = gf.fit(net, x, g, steps=10, **QUIET)
    assert_same(fast, slow.losses.tolist(), net, other, 1e-5)


def test_what_is_not_recorded_as_a_graph() -> None:
    net, x = gf.mGradNetC(2, 2, 7), torch.randn(5, 2)
    assert _graph.why_no_graph(net, Batch(x, x, None)) == "the points are on no GPU"


@needs_kernels
@pytest.mark.parametrize("d", [2, 40])
def test_a_step_has_the_same_bits_for_any_thread_count(d: int) -> None:
    x, g = data(d, 5000, torch.float32)
    states, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            net = gf.mGradNetC(2, d, 30)
            losses = gf.fit(net, x, g, steps=5, batch_size=5000, **QUIET).losses
            states.append(torch.cat([losses, *(p.detach().flatten() for p in net.parameters())]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 1000, 150_001])
def test_adam_is_that_of_pytorch(count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours = torch.randn(count, dtype=dtype)
    theirs = nn.Parameter(ours.clone())
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    means = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 6):
        theirs.grad = torch.randn(count, dtype=dtype)
        optimizer.step()
        _cpp.adam(ours, theirs.grad, means, step, 0.1)
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs.detach(), rtol=tolerance, atol=tolerance)


def _frozen(net: Any) -> None:
    net.W.requires_grad_(False)


def _tied(net: Any) -> None:
    net.beta[1] = net.beta[0]


def _hooked(net: Any) -> None:
    net.register_forward_hook(lambda module, args, f: 2 * f)


def _hooked_gradient(net: Any) -> None:
    net.W.register_hook(lambda gradient: 3 * gradient)


def _parametrized(net: Any) -> None:
    parametrizations.weight_norm(net, "W")


def _extended(net: Any) -> None:
    net.forward = lambda x: type(net).forward(net, x) * 2


@pytest.mark.parametrize("change", [_frozen, _tied, _hooked, _hooked_gradient, _parametrized, _extended])
def test_networks_out_of_the_ordinary_go_by_autograd(change: Callable[[Any], None]) -> None:
    net, other = twins(lambda: gf.mGradNetC(3, 3, 6, dtype=torch.float64))
    change(net)
    change(other)
    x, g = data()
    result = gf.fit(net, x, g, steps=5, **QUIET)
    assert result.way.startswith("autograd: ")
    assert_same(result, plain_loop(other, lambda: mse_loss(other(x), g), 5), net, other, 1e-9)


def test_autocast_other_backends_and_dtypes_go_by_autograd() -> None:
    x, g = data(dtype=torch.float32)
    net = gf.mGradNetC(2, 3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in gf.fit(net, x, g.bfloat16().float(), steps=2, **QUIET).way
    with gf.use_backend("reference"):
        assert "backend" in gf.fit(net, x, g, steps=2, **QUIET).way
    assert "dtype" in gf.fit(net.bfloat16(), x.bfloat16(), g.bfloat16(), steps=2, **QUIET).way
    assert net.W.isfinite().all()


@pytest.mark.parametrize("make", [lambda **o: gf.mGradNetC(2, 3, 6, **o), lambda **o: gf.mGradNetM(2, 3, 6, **o)])
def test_values_and_both(make: Callable[..., nn.Module]) -> None:
    x, g = data()
    v = x.square().sum(-1) / 2
    for arguments in ({"values": v}, {"gradients": g, "values": v, "weights": (0.5, 2.0)}):
        net, other = twins(make, dtype=torch.float64)

        def loss(net: Any = other, both: bool = "gradients" in arguments) -> Tensor:
            of_values = (net.potential(x) - v).var(correction=0)
            return 0.5 * mse_loss(net(x), g) + 2.0 * of_values if both else of_values

        result = gf.fit(net, x, steps=5, **arguments, **QUIET)
        assert_same(result, plain_loop(other, loss, 5), net, other, 1e-9)


def test_values_have_a_free_constant() -> None:
    x, _ = data()
    v = x.square().sum(-1) / 2
    (net, other), constants = twins(gf.mGradNetC, num_layers=2, in_dim=3, embed_dim=5, dtype=torch.float64), (0.0, 1e3)
    found = [gf.fit(n, x, values=v + c, steps=5, **QUIET).losses for n, c in zip((net, other), constants)]
    torch.testing.assert_close(*found)


def test_weights_of_gradients_alone_scale_the_loss() -> None:
    x, g = data()
    net, other = twins(lambda: gf.mGradNetC(2, 3, 6, dtype=torch.float64))
    result = gf.fit(net, x, g, weights=(3.0, 1.0), steps=4, **QUIET)
    assert_same(result, plain_loop(other, lambda: 3 * mse_loss(other(x), g), 4), net, other, 1e-9)


def test_an_epoch_has_every_point_once() -> None:
    seen: list[Tensor] = []
    x = torch.arange(70.0).view(35, 2)
    net = gf.GradNetC(1, 2, 3)
    net.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    gf.fit(net, x, torch.zeros_like(x), batch_size=10, steps=8, **QUIET)
    assert [len(batch) for batch in seen] == [10, 10, 10, 5] * 2
    epochs = [torch.cat(seen[:4])[:, 0], torch.cat(seen[4:])[:, 0]]
    assert all(torch.equal(epoch.sort().values, x[:, 0]) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_the_seed_decides() -> None:
    x, g = data()
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        net = gf.mGradNetC(2, 3, 6, dtype=torch.float64)
        runs.append(gf.fit(net, x, g, batch_size=10, steps=12, seed=seed, **QUIET).losses)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_strides_do_not_matter() -> None:
    x, g = data()
    net, other = twins(lambda: gf.mGradNetC(2, 3, 6, dtype=torch.float64))
    gf.fit(net, x.T.contiguous().T, g.repeat_interleave(2, 1)[:, ::2], steps=4, **QUIET)
    gf.fit(other, x, g, steps=4, **QUIET)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters()))


@pytest.mark.parametrize("linear", [None, "psd"])
def test_points_held_out_end_it_and_the_best_parameters_stay(linear: str | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64)
    noise = torch.randn(40, 3, dtype=torch.float64)
    net = gf.GradNetC(2, 3, 60, "sin", linear="symmetric" if linear else None, dtype=torch.float64)
    net.eval()
    result = gf.fit(net, x, noise, held_out=0.5, patience=3, steps=20_000, **QUIET)
    assert result.stopped == "early"
    assert result.steps < 20_000
    assert len(result.losses) == result.steps
    best_step, best = min(result.held_out, key=lambda at: at[1])
    assert result.steps == best_step + 300
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))[20:]
    with torch.no_grad():
        assert mse_loss(net(x[rows]), noise[rows]).item() == pytest.approx(best, rel=1e-12)
    assert not net.training


@needs_kernels
def test_an_interrupt_keeps_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = data()
    net, other = twins(lambda: gf.mGradNetC(2, 3, 6, dtype=torch.float64))
    adam = _cpp.adam

    def interrupted(*arguments: Any) -> None:
        adam(*arguments)
        if arguments[3] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(_cpp, "adam", interrupted)
    net.eval()
    with pytest.raises(KeyboardInterrupt):
        gf.fit(net, x, g, schedule="constant", steps=50, **QUIET)
    assert not any(module.training for module in net.modules())
    plain_loop(other, lambda: mse_loss(other(x), g), 5, constant=True)
    for p, q in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_an_interrupt_of_autograd_keeps_the_last_step() -> None:
    x, g = data()
    net, other = twins(lambda: gf.DeepGradNet(3, (6, 5), dtype=torch.float64))
    calls = []

    def interrupt(module: nn.Module, arguments: Any) -> None:
        calls.append(module.training)
        if len(calls) == 6:
            raise KeyboardInterrupt

    net.register_forward_pre_hook(interrupt)
    net.eval()
    with pytest.raises(KeyboardInterrupt):
        gf.fit(net, x, g, schedule="constant", steps=50, **QUIET)
    assert calls == [True] * 6
    assert not net.training
    plain_loop(other, lambda: mse_loss(other(x), g), 5, constant=True)
    for p, q in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("linear", [None, "psd"])
def test_a_loss_that_is_not_finite_is_an_error(linear: str | None) -> None:
    x, g = data()
    g[3, 1] = math.nan
    with pytest.raises(ArithmeticError, match="loss of step 1: expected a finite number, got nan") as raised:
        gf.fit(gf.mGradNetC(2, 3, 6, linear=linear, dtype=torch.float64), x, g, steps=3, **QUIET)
    assert is_message(str(raised.value))


def test_long_runs_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    x, g = data()
    net = gf.mGradNetC(2, 3, 6, dtype=torch.float64)
    gf.fit(net, x, g, steps=200)
    assert capsys.readouterr().err == ""
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr(_loop.time, "monotonic", lambda: next(clock))
    gf.fit(net, x, g, steps=300, held_out=0.2)
    err = capsys.readouterr().err
    assert err.count("\r") == 3
    assert "fit: step 200 of 300, loss " in err
    assert err.endswith("\n")
    gf.fit(net, x, g, steps=300, progress=False)
    assert capsys.readouterr().err == ""


X, G = torch.zeros(5, 3), torch.zeros(5, 3)
FAULTS: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "net: expected a torch.nn.Module": (TypeError, {"net": torch.tanh}),
    "net: expected a parameter that": (ValueError, {"net": gf.mGradNetC(2, 3, 4).requires_grad_(False)}),
    "net: expected a module with potential": (TypeError, {"net": nn.Linear(3, 3), "values": X[:, 0]}),
    "gradients, values: expected one target": (ValueError, {"gradients": None}),
    "x: expected a torch.Tensor": (TypeError, {"x": [[0.0]]}),
    "x: expected shape": (ValueError, {"x": torch.zeros(3)}),
    "gradients: expected shape": (ValueError, {"gradients": G[:4]}),
    "gradients: expected torch.float32 on cpu": (TypeError, {"gradients": G.double()}),
    "values: expected shape": (ValueError, {"values": G}),
    "steps: expected a positive integer": (ValueError, {"steps": 0}),
    "batch_size: expected a positive integer": (TypeError, {"batch_size": 1.5}),
    "patience: expected a positive integer": (ValueError, {"patience": 0}),
    "learning_rate: expected a finite number": (ValueError, {"learning_rate": -1.0}),
    "schedule: expected one of": (ValueError, {"schedule": "linear"}),
    "held_out: expected a number in": (ValueError, {"held_out": 1.0}),
    "held_out: expected a part of at least": (ValueError, {"held_out": 0.01}),
    "weights: expected two": (ValueError, {"weights": (1.0,)}),
    "seed: expected an integer": (TypeError, {"seed": 0.5}),
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_named(text: str) -> None:
    kind, change = FAULTS[text]
    arguments = {"net": gf.mGradNetC(2, 3, 4), "x": X, "gradients": G, **QUIET} | change
    with pytest.raises(kind, match=f"^fit: {text}") as raised:
        gf.fit(**arguments)
    assert is_message(str(raised.value))
