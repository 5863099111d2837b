"""accelerate: modules of convolutions that people write, and the two published regularisers of images."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_regularizers import back
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import gradnets_fast as gf
from oracle import assert_as_good_as_eager

TRANSPOSED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv_transpose1d,
    nn.Conv2d: F.conv_transpose2d,
    nn.Conv3d: F.conv_transpose3d,
}


class Tied(nn.Module):
    """What people write: a convolution, an activation, and its transpose."""

    def __init__(self, conv: nn.Module, act: Callable[[Tensor], Tensor], bias: bool = False) -> None:
        super().__init__()
        self.conv, self.act = conv, act
        self.offset = nn.Parameter(torch.randn(1, conv.in_channels, *[1] * len(conv.kernel_size))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        z = self.act(self.conv(x))
        f = TRANSPOSED[type(self.conv)](z, self.conv.weight, padding=self.conv.kernel_size[0] // 2)
        return f if self.offset is None else f + self.offset


class Hidden(Tied):
    """Whose activation is nowhere to be found."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 5, 3, padding=1), nn.Identity())
        del self.act

    def act(self, z: Tensor) -> Tensor:
        return F.elu(z)


class Circular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, padding=2, padding_mode="circular", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.conv(x))
        return F.conv_transpose2d(F.pad(z, [2] * 4, mode="circular"), self.conv.weight, padding=4)


class Composed(nn.Module):
    """Two convolutions, the gradient as `grad` and the potential as `g`, as deepinv's priors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(1, 3, 3, padding="same", bias=False), nn.Conv2d(3, 6, 5, padding=2))
        self.weight = 2.0

    def grad(self, x: Tensor, sigma: float = 1.0) -> Tensor:
        return sigma * back(torch.tanh(self.convs(x)), [conv.weight for conv in self.convs])

    def g(self, x: Tensor) -> Tensor:
        bias = self.convs[1].bias.view(-1, 1, 1)
        return (torch.log(torch.cosh(self.convs(x))) - torch.log(torch.cosh(bias))).sum((1, 2, 3))

    def step(self, x: Tensor) -> Tensor:
        return x - self.weight * self.grad(x)


class Centred(nn.Module):
    def forward(self, K: Tensor) -> Tensor:
        return K - K.mean((1, 2, 3), keepdim=True)


class Clipped(nn.Module):
    """Format (a): ∇R is `grad`, R is `g`, and a call gives R."""

    def __init__(self, weak_convexity: float, smooth: bool = False) -> None:
        super().__init__()
        sizes = [(1, 4), (4, 8), (8, 16)]
        self.filters = nn.Sequential(*[nn.Conv2d(a, b, 5, padding=2, bias=False) for a, b in sizes])
        parametrize.register_parametrization(self.filters[0], "weight", Centred())
        self.scaling, self.beta = nn.Parameter(2.0 + torch.randn(1, 16, 1, 1)), nn.Parameter(torch.tensor(1.5))
        self.weak_cvx, self.smooth = weak_convexity, smooth
        self.impulse = torch.zeros(1, 1, 25, 25)
        self.impulse[..., 12, 12] = 1.0

    def norm(self) -> Tensor:
        response = self.filters(self.impulse)
        response = back(response, [conv.weight for conv in self.filters])
        return torch.fft.fft2(response, s=(256, 256)).abs().max().sqrt()

    def profile(self, t: Tensor) -> Tensor:
        return torch.tanh(t) if self.smooth else t.clip(-1, 1)

    def eta(self, t: Tensor) -> Tensor:
        if self.smooth:
            return t.abs() + F.softplus(-2 * t.abs()) - math.log(2)
        return t.clip(-1, 1) ** 2 / 2 + t.abs().clip(min=1) - 1

    def grad(self, x: Tensor) -> Tensor:
        z = self.scaling.exp() * self.filters(x / self.norm())
        z = self.profile(self.beta.exp() * z) - self.weak_cvx * self.profile(z)
        return back(z * (-self.scaling).exp() / self.norm(), [conv.weight for conv in self.filters])

    def g(self, x: Tensor) -> Tensor:
        z = self.scaling.exp() * self.filters(x / self.norm())
        R = (-self.beta).exp() * self.eta(self.beta.exp() * z) - self.weak_cvx * self.eta(z)
        return (R * (-2 * self.scaling).exp()).sum((1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.g(x)


def steep() -> nn.Module:
    """As training leaves it."""
    net = Clipped(1.0)
    with torch.no_grad():
        net.scaling += 4.0
        net.beta.fill_(4.0)
    return net


class Wrapped(nn.Module):
    """With learned scales of the values and of the points."""

    def __init__(self, regularizer: nn.Module) -> None:
        super().__init__()
        self.regularizer = regularizer
        self.alpha, self.scale = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.2))

    def grad(self, x: Tensor) -> Tensor:
        return (self.alpha - self.scale).exp() * self.regularizer.grad(self.scale.exp() * x)


class Splines(nn.Module):
    """The activation of format (b)."""

    def __init__(self, channels: int, size: int, radius: float) -> None:
        super().__init__()
        self.size, self.range_ = size, radius
        self.coefficients_vect = nn.Parameter(torch.randn(channels, size).cumsum(1).flatten() / 10)

    def values(self) -> Tensor:
        rises = self.coefficients_vect.view(-1, self.size).diff(dim=1).clamp(min=0)
        rises = torch.cat([0 * rises[:, :1], rises[:, 1:-1], 0 * rises[:, :1]], 1)
        values = torch.cat([0 * rises[:, :1], rises.cumsum(1)], 1)
        return values - values[:, self.size // 2, None]

    def forward(self, z: Tensor) -> Tensor:
        values, r = self.values(), self.range_
        place = (z.clamp(-r, r) + r) * (self.size - 1) / (2 * r)
        cell = place.detach().floor().clamp(0, self.size - 2).long()
        channel = torch.arange(len(values)).view(-1, 1, 1).expand_as(cell)
        low, high = values[channel, cell], values[channel, cell + 1]
        return low + (place - cell) * (high - low)


class Multi(nn.Module):
    def __init__(self, shapes: list[tuple[int, int, int]]) -> None:
        super().__init__()
        layers = [nn.Conv2d(a, b, k, padding=k // 2, bias=False) for a, b, k in shapes]
        self.conv_layers = nn.ModuleList(layers)
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", Centred())

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.conv_layers:
            x = conv(x)
        return x


class Splined(nn.Module):
    """Format (b): a call gives ∇R, and so does `grad`; λ and μ stand outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_layer, self.activation = Multi([(1, 4, 7), (4, 8, 7)]), Splines(8, 21, 0.1)
        self.lmbd, self.mu = nn.Parameter(torch.tensor(5.0)), nn.Parameter(torch.tensor(1.0))
        self.register_buffer("L", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return back(self.activation(self.conv_layer(x)), [conv.weight for conv in self.conv_layer.conv_layers])

    def grad(self, x: Tensor) -> Tensor:
        return self.forward(x)


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pictures": (lambda: Tied(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh()), "conv_ridge(tanh): forward"),
    "signals": (
        lambda: Tied(nn.Conv1d(2, 4, 3, padding="same"), torch.sigmoid, bias=True),
        "conv_ridge(sigmoid): forward",
    ),
    "volumes": (
        lambda: Tied(nn.Conv3d(1, 3, 3, padding=1, bias=False), nn.ReLU(), bias=True),
        "conv_ridge(relu): forward",
    ),
    "softplus": (lambda: Tied(nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(beta=4)), "conv_ridge(softplus): forward"),
    "hidden": (Hidden, "conv_ridge(elu): forward"),
    "circular": (Circular, "conv_ridge(tanh): forward"),
    "composed": (Composed, "conv_ridge(tanh): grad, g"),
    "weakly convex": (lambda: Clipped(1.0), "ClippedRidgeRegularizer(weak_convexity=1): grad, forward, g"),
    "steep": (steep, "ClippedRidgeRegularizer(weak_convexity=1): grad, forward, g"),
    "convex": (lambda: Clipped(0.0), "ClippedRidgeRegularizer(weak_convexity=0): grad, forward, g"),
    "between": (lambda: Clipped(0.4), "ClippedRidgeRegularizer(weak_convexity=0.4): grad, forward, g"),
    "smooth": (lambda: Clipped(1.0, True), "ClippedRidgeRegularizer(weak_convexity=1, smooth=True): grad, forward, g"),
    "splines": (Splined, "SplineRidgeRegularizer(radius=0.1): grad, forward"),
}
each_module = pytest.mark.parametrize("name", MODULES)


def made(name: str) -> tuple[nn.Module, Tensor, list[str]]:
    """A module, images, and the methods of it that ours replace."""
    torch.manual_seed(0)
    make, becomes = MODULES[name]
    net = make()
    layers: Any = [part for part in net.modules() if hasattr(part, "kernel_size")]
    x = torch.randn(3, layers[0].in_channels, *(20 + i for i in range(len(layers[0].kernel_size)))) / 4
    return net, x, becomes.partition(": ")[2].split(", ")


@each_module
def test_modules_become_ours_and_compute_the_same(name: str) -> None:
    net, x, methods = made(name)
    exact, parameters = copy.deepcopy(net).double(), list(net.parameters())
    for part in exact.modules():
        if isinstance(part, Clipped):
            part.impulse = part.impulse.double()

    def everything(of: Any, x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        found = []
        for method in methods:
            f = getattr(of, method)(x)
            g = torch.linspace(-1, 1, f.numel(), dtype=f.dtype).view_as(f)
            gradients = torch.autograd.grad(f, [x, *of.parameters()], g, materialize_grads=True)
            found += [f.detach(), *gradients]
        return found

    eager, truth = everything(net, x), everything(exact, x.double())
    was = type(net)
    report = gf.accelerate(net)
    (entry,) = report
    assert entry.now == MODULES[name][1], report
    assert isinstance(net, was)
    assert all(mine is theirs for mine, theirs in zip(net.parameters(), parameters))
    assert_as_good_as_eager(everything(net, x), eager, truth)
    assert "cpp" in str(gf.explain(net, x))
    assert len(gf.accelerate(net)) == 0
    assert gf.restore(net) == 1
    assert type(net) is was


@pytest.mark.parametrize("name", ["pictures", "volumes", "circular", "composed", "weakly convex", "splines"])
def test_copies_pickles_and_training_go_on(name: str) -> None:
    net, x, (method, *_) = made(name)
    plain = copy.deepcopy(net)
    optimiser = torch.optim.SGD(net.parameters(), 1e-3)
    assert len(gf.accelerate(net).swapped) == 1
    steps = torch.optim.SGD(plain.parameters(), 1e-3)
    for of, chosen in ((net, optimiser), (plain, steps)):
        getattr(of, method)(x).square().mean().backward()
        chosen.step()
    expected = getattr(plain, method)(x)
    copies = [net, copy.deepcopy(net)]
    if not any(parametrize.is_parametrized(part) for part in net.modules()):
        copies.append(pickle.loads(pickle.dumps(net)))
    assert list(net.state_dict()) == list(plain.state_dict())
    for of in copies:
        assert type(of) is type(net)
        torch.testing.assert_close(getattr(of, method)(x), expected, rtol=1e-4, atol=1e-5)
    assert gf.restore(copies[-1]) == 1
    assert type(copies[-1]) is type(plain)
    torch.testing.assert_close(getattr(copies[-1], method)(x), expected)


def test_what_else_a_class_has_stays() -> None:
    net, x, _ = made("composed")
    f, step, R = net.grad(x), net.step(x), net.g(x)
    gf.accelerate(net)
    torch.testing.assert_close(net.step(x), step)
    torch.testing.assert_close(net.grad(x, 2.0), 2 * f)  # what the operator does not know is left to the user's own
    torch.testing.assert_close(net.potential(x), R)
    compiled = torch.compile(net.grad, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), f)
    v = torch.randn_like(x)
    torch.testing.assert_close(net.jvp(x, v), torch.func.jvp(net.grad, (x,), (v,))[1])
    inner, x, _ = made("weakly convex")
    prior = Wrapped(inner)
    expected = prior.grad(x)
    (entry,) = gf.accelerate(prior)
    assert (entry.path, entry.was) == ("regularizer", "Clipped")
    torch.testing.assert_close(prior.grad(x), expected)


class Adapted(nn.Module):
    """Whose filters are plain parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.K = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(4, 3, 5, 5) / 8)
        self.beta = nn.Parameter(torch.rand(4))

    def grad(self, x: Tensor) -> Tensor:
        z = F.conv2d(F.conv2d(x, self.first, padding=1), self.K, padding=2)
        beta = self.beta.view(-1, 1, 1)
        return back(beta * torch.tanh(beta * z), [self.first, self.K])


def adapted_arguments(module: Any) -> dict[str, Any]:
    vectors = {"scale": module.beta[None], "shift": torch.zeros_like(module.beta), "coef": module.beta[None, None]}
    return {"stages": [module.first], "K": module.K, **vectors, "basis": "tanh"}


def test_registered_classes() -> None:
    net, x = Adapted(), torch.randn(2, 2, 9, 8)
    assert len(gf.accelerate(net)) == 0
    f = net.grad(x)
    gf.register_adapter(Adapted, "conv_ridge", adapted_arguments, monotone=True)
    (entry,) = gf.accelerate(net)
    assert entry.now == "Adapted: grad"
    torch.testing.assert_close(net.grad(x), f)
    gf.register_adapter(Adapted, "conv_ridge", lambda module: module.nothing)
    (entry,) = gf.accelerate(Adapted())
    assert "its adapter fails: AttributeError" in entry.reason
    with pytest.raises(ValueError, match="linear: expected None for conv_ridge"):
        gf.register_adapter(Adapted, "conv_ridge", adapted_arguments, linear=lambda module: module.K)


class Strided(Tied):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        extra = [(n + 1) % 2 for n in x.shape[2:]]
        return F.conv_transpose2d(self.act(self.conv(x)), self.conv.weight, None, 2, 1, extra)


class Averaged(Tied):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 42 / x[0].numel()


class WithDropout(Tied):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.Tanh(), nn.Dropout(0.5)))


class Named(Tied):
    linear = True


class Unflipped(Tied):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.act(self.conv(x)), self.conv.weight.transpose(0, 1), padding=1)


class WithoutRadius(Splined):
    def __init__(self) -> None:
        super().__init__()
        del self.activation.range_, self.activation.size, self.L

    def forward(self, x: Tensor) -> Tensor:
        return back(self.conv_layer(x), [conv.weight for conv in self.conv_layer.conv_layers])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Strided, "conv has stride (2, 2): expected 1"),
        (Averaged, "its forward is not conv_ridge(tanh), which differs by"),
        (WithDropout, "its forward computes another function in training than in evaluation"),
        (Unflipped, "its forward is not conv_ridge(tanh), which differs by"),
        (WithoutRadius, "coefficients_vect has knots, but their radius is no number"),
        (lambda: Tied(nn.Conv2d(1, 4, 3, padding=1), F.hardswish), "its forward is not conv_ridge(relu)"),
        (lambda: Named(nn.Conv2d(1, 4, 3, padding=1), F.relu), "its linear has a name that gradient networks use"),
    ],
)
def test_others_are_left_alone_with_the_reason(make: Callable[[], nn.Module], words: str) -> None:
    torch.manual_seed(0)
    net, x = make(), torch.randn(2, 1, 8, 9)
    was = type(net)
    torch.manual_seed(1)
    f = net(x)
    (entry,) = gf.accelerate(net).skipped
    assert words in entry.reason
    assert type(net) is was
    torch.manual_seed(1)
    assert torch.equal(net(x), f)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)),
        Multi([(1, 4, 3)]),
        nn.TransformerEncoderLayer(8, 2, batch_first=True),
        Tied(nn.LazyConv2d(4, 3, padding=1), nn.Tanh()),
    ],
)
def test_other_networks_are_no_gradient_networks(net: nn.Module) -> None:
    assert len(gf.accelerate(net)) == 0
