"""accelerate: networks written by hand, in the structure of the authors' code, become ours in place."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradnets_fast
from gradnets_fast import accelerate, load_reference_checkpoint, register_adapter, restore
from oracle import assert_as_good_as_eager

D, H = 3, 6


class WeightedTanh(nn.Module):
    def __init__(self, monotone: bool) -> None:
        super().__init__()
        self.a, self.b, self.monotone = nn.Parameter(torch.rand(H)), nn.Parameter(torch.rand(H)), monotone

    def forward(self, z: Tensor) -> Tensor:
        if self.monotone:
            return F.softplus(self.a) * torch.tanh(z) + F.softplus(self.b) * F.tanhshrink(z)
        return self.a * torch.tanh(z) - self.b * F.tanhshrink(z)


class WeightedSoftmax(nn.Module):
    def __init__(self, monotone: bool) -> None:
        super().__init__()
        self.a, self.b, self.monotone = nn.Parameter(torch.rand(())), nn.Parameter(torch.rand(())), monotone

    def forward(self, z: Tensor) -> Tensor:
        a, b = (F.softplus(self.a), F.softplus(self.b)) if self.monotone else (self.a, self.b)
        return a * z.softmax(-1) - b * (-z).softmax(-1)


class Cascade(nn.Module):
    """The authors' cascade: with softplus of the weights; or raw, where the last activation is the last but one."""

    def __init__(self, activation: Callable[[], nn.Module], monotone: bool, last: int, layers: int = 3) -> None:
        super().__init__()
        self.positive, self.last = F.softplus if monotone else nn.Identity(), last
        self.nonlinearity = nn.ModuleList([activation() for _ in range(layers)])
        self.W = nn.Parameter(torch.randn(H, D))
        self.bias = nn.ParameterList([nn.Parameter(torch.randn(n)) for n in [H] * layers + [D]])
        self.beta = nn.ParameterList([nn.Parameter(torch.rand(H)) for _ in range(layers)])
        self.alpha = nn.ParameterList([nn.Parameter(torch.rand(H)) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        z = self.positive(self.beta[0]) * F.linear(x, self.W, self.bias[0])
        for i in range(len(self.alpha) - 1):
            skip = self.positive(self.beta[i + 1]) * F.linear(x, self.W, self.bias[i + 1])
            z = skip + self.positive(self.alpha[i]) * self.nonlinearity[i](z)
        z = self.positive(self.alpha[-1]) * self.nonlinearity[self.last](z)
        return F.linear(z, self.W.T, self.bias[-1])


class Module(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.beta, self.act = nn.Parameter(torch.rand(1)), activation()
        self.W, self.b = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(x, self.W, self.b)
        return F.linear(self.act(z * F.softplus(self.beta)), self.W.T)


class Modular(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module], monotone: bool) -> None:
        super().__init__()
        self.mmgn_modules = nn.ModuleList([Module(activation) for _ in range(2)])
        self.alpha, self.bias, self.monotone = nn.Parameter(torch.rand(2)), nn.Parameter(torch.randn(D)), monotone

    def forward(self, x: Tensor) -> Tensor:
        alpha = F.softplus(self.alpha) if self.monotone else self.alpha
        return sum(alpha[i] * module(x) for i, module in enumerate(self.mmgn_modules)) + self.bias


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.T + self.offset) @ self.weight


class Scaled(Cascade):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


def plain_arguments(module: Any) -> dict[str, Any]:
    return {"W": module.weight, "scale": None, "shift": module.offset, "coef": None, "basis": "tanh"}


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mGradNet_C, tanh": (lambda: Cascade(nn.Tanh, True, -1), "mGradNetC"),
    "mGradNet_C, weighted": (lambda: Cascade(lambda: WeightedTanh(True), True, -1), "mGradNetC"),
    "mGradNet_C, one layer": (lambda: Cascade(nn.Tanh, True, -1, layers=1), "mGradNetC"),
    "GradNet_C": (lambda: Cascade(nn.Sigmoid, False, -1), "GradNetC"),
    "GradNet_C, weighted, last but one": (lambda: Cascade(lambda: WeightedTanh(False), False, -2), "GradNetC"),
    "mGradNet_M": (lambda: Modular(lambda: nn.Softmax(dim=-1), True), "mGradNetM"),
    "mGradNet_M, weighted": (lambda: Modular(lambda: WeightedSoftmax(True), True), "mGradNetM"),
    "GradNet_M": (lambda: Modular(lambda: WeightedSoftmax(False), False), "GradNetM"),
}
each_model = pytest.mark.parametrize("name", MODELS)


def model(name: str) -> nn.Module:
    return MODELS[name][0]()


@each_model
def test_a_network_becomes_ours_in_place(name: str) -> None:
    net = model(name)
    before, was = dict(net.named_parameters()), type(net)
    x = torch.randn(17, D)
    f = net(x).detach()
    report = accelerate(net)
    (entry,) = report
    assert (entry.path, entry.was) == ("", was.__name__)
    assert entry.now == MODELS[name][1] + ("(reuse_penultimate_activation=True)" if "last but one" in name else "")
    assert isinstance(net, getattr(gradnets_fast, MODELS[name][1]))
    assert all(after is before[key] for key, after in net.named_parameters())
    assert list(dict(net.named_parameters())) == list(before)
    torch.testing.assert_close(net(x), f, rtol=1e-4, atol=1e-5)
    F_of = torch.func.grad(lambda row: net.potential(row))  # type: ignore[operator]
    torch.testing.assert_close(F_of(x[0]), f[0], rtol=1e-4, atol=1e-4)
    assert restore(net) == 1
    assert type(net) is was
    torch.testing.assert_close(net(x), f, rtol=0.0, atol=0.0)
    assert restore(net) == 0


@each_model
def test_gradients_are_as_good_as_before(name: str) -> None:
    net, (x, g) = model(name), torch.randn(2, 17, D)
    exact = copy.deepcopy(net).double()

    def gradients(of: nn.Module, x: Tensor, g: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        f = of(x)
        leaves = [x, *of.parameters()]
        return [f.detach(), *torch.autograd.grad(f, leaves, g, materialize_grads=True)]

    eager, truth = gradients(net, x, g), gradients(exact, x.double(), g.double())
    assert len(accelerate(net).swapped) == 1
    assert_as_good_as_eager(gradients(net, x, g), eager, truth)


def test_optimisers_hooks_checkpoints_copies_and_pickles_go_on() -> None:
    inner = model("mGradNet_C, weighted")
    outer = nn.Sequential(nn.Linear(D, D), inner)
    optimiser = torch.optim.SGD(outer.parameters(), 0.1)
    calls: list[int] = []
    inner.register_forward_hook(lambda *_: calls.append(1))
    state = copy.deepcopy(outer.state_dict())
    report = accelerate(outer)
    assert [entry.path for entry in report.swapped] == ["1"]
    assert not calls
    x = torch.randn(5, D)
    outer(x).sum().backward()
    optimiser.step()
    assert len(calls) == 1
    assert not torch.equal(inner.W, state["1.W"])
    assert list(outer.state_dict()) == list(state)
    outer.load_state_dict(state)
    twin = copy.deepcopy(inner)
    twin._forward_hooks.clear()
    torch.testing.assert_close(twin(x), inner(x))
    buffer = io.BytesIO()
    torch.save(twin, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    torch.testing.assert_close(loaded(x), inner(x))
    assert restore(loaded) == 1
    assert type(loaded) is Cascade


def test_another_forward_is_refused_with_the_difference() -> None:
    net = Scaled(nn.Tanh, True, -1)
    x = torch.randn(4, D)
    f = net(x)
    report = accelerate(net)
    (entry,) = report.skipped
    assert "mGradNetC differs by" in entry.reason
    assert "GradNetC differs by" in entry.reason
    assert "skipped" in str(report)
    assert type(net) is Scaled
    assert torch.equal(net(x), f)


def test_a_forward_that_fails_is_refused() -> None:
    class Images(Cascade):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(x.shape[0], 1, 28, 28))

    (entry,) = accelerate(Images(nn.Tanh, True, -1)).skipped
    assert "fails at random points" in entry.reason


def test_activations_without_kernels_are_left_alone() -> None:
    net = Cascade(nn.Hardtanh, True, -1)
    (entry,) = accelerate(net).skipped
    assert "GradNetC: activation: expected one of" in entry.reason
    assert "Hardtanh" in entry.reason
    assert type(net) is Cascade


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    net = model("mGradNet_M, weighted").to(dtype)
    assert len(accelerate(net).swapped) == 1


def test_a_registered_module() -> None:
    register_adapter(Plain, "ridge", plain_arguments, monotone=True)
    net = nn.Sequential(Plain(), nn.Tanh(), Plain())
    x = torch.randn(4, D)
    f = net(x)
    report = accelerate(net)
    assert [entry.path for entry in report.swapped] == ["0", "2"]
    torch.testing.assert_close(net(x), f)
    assert net[0].jacobian(x).shape == (4, D, D)  # type: ignore[operator]
    again = accelerate(net)
    assert len(again) == 0
    assert restore(net) == 2


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"accelerate: model: expected a torch\.nn\.Module, got list"):
        accelerate([Plain()])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="register_adapter: cls"):
        register_adapter(Plain(), "ridge", plain_arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="register_adapter: operator"):
        register_adapter(Plain, "ridge_jvp", plain_arguments)


def test_the_random_numbers_of_a_user_are_untouched() -> None:
    net = model("GradNet_M")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    accelerate(net)
    assert torch.equal(torch.rand(3), expected)


CHECKPOINTS: dict[str, dict[str, Any]] = {
    "mGradNet_C, tanh": {"monotone": True, "activation": "tanh"},
    "mGradNet_C, weighted": {"monotone": True},
    "mGradNet_C, one layer": {"monotone": True, "activation": nn.Tanh},
    "GradNet_C, weighted, last but one": {"monotone": False},
    "mGradNet_M": {"monotone": True},
    "mGradNet_M, weighted": {"monotone": True},
    "GradNet_M": {"monotone": False},
}
"""The authors' networks, and what their checkpoints do not tell."""


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_of_the_authors_code_is_enough(name: str, wrapped: bool, tmp_path: Path) -> None:
    theirs, x = model(name), torch.randn(9, D)
    state: dict[str, Any] = dict(theirs.state_dict())
    if wrapped:
        state = {"model_state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "net.pt")
    ours = load_reference_checkpoint(tmp_path / "net.pt", **CHECKPOINTS[name])
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_a_checkpoint_that_tells_too_little_or_something_else() -> None:
    weights = model("mGradNet_C, tanh").state_dict()
    with pytest.raises(ValueError, match="load_reference_checkpoint: activation: expected given"):
        load_reference_checkpoint(weights, monotone=True)
    with pytest.raises(ValueError, match="load_reference_checkpoint: source: expected the weights of"):
        load_reference_checkpoint(weights, monotone=True, activation="weighted_tanh")
    with pytest.raises(ValueError, match="load_reference_checkpoint: source: expected names of a cascade"):
        load_reference_checkpoint(nn.Linear(2, 2).state_dict(), monotone=True)
    with pytest.raises(TypeError, match="load_reference_checkpoint: source: expected a state_dict"):
        load_reference_checkpoint({"epoch": 3}, monotone=True)


def test_an_adapter_that_fails_is_named() -> None:
    class Other(Plain):
        pass

    register_adapter(Other, "ridge", lambda module: {"weights": module.weight})
    (entry,) = accelerate(Other()).skipped
    assert "its adapter or structure fails: KeyError: 'W'" in entry.reason
