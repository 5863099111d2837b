"""gradient_of: the fused gradient of energies that people have, on their own parameters."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from gradnets_fast import BackendUnavailableError, gradient_of, use_backend
from gradnets_fast.nn import GradNet
from oracle import assert_as_good_as_eager

D, H = 3, 7


class Positive(nn.Linear):
    """A linear layer of a map of its weights."""

    def __init__(self, inputs: int, outputs: int, positive: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.positive = positive

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, self.positive(self.weight))


class TwoLists(nn.Module):
    """z ← σ(P(W_i) z + X_i x + b); the first layer is in the list of x, or of z."""

    def __init__(self, positive: Callable[[Tensor], Tensor], act: Callable[[Tensor], Tensor], first_of_x: bool) -> None:
        super().__init__()
        self.Wzs = nn.ModuleList([Positive(H, H, positive), Positive(H, 1, positive)])
        self.Wxs = nn.ModuleList([nn.Linear(D, H), nn.Linear(D, 1)])
        (self.Wxs if first_of_x else self.Wzs).insert(0, nn.Linear(D, H))
        self.act, self.first_of_x = act, first_of_x
        with torch.no_grad():
            for layer in self.Wzs:
                layer.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        (first, *Wxs), Wzs = (self.Wxs, list(self.Wzs)) if self.first_of_x else ([self.Wzs[0], *self.Wxs], self.Wzs[1:])
        z = self.act(first(x))
        for Wz, Wx in zip(Wzs[:-1], Wxs[:-1]):
            z = self.act(Wz(z) + Wx(x))
        result: Tensor = Wzs[-1](z) + Wxs[-1](x)
        return result


class ConvexQuadratic(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.quadratic_decomposed = nn.Parameter(torch.randn(D, rank, H) / 3)
        self.weight, self.bias = nn.Parameter(torch.randn(H, D)), nn.Parameter(torch.randn(H))

    def forward(self, x: Tensor) -> Tensor:
        squares = torch.einsum("bd,drh->brh", x, self.quadratic_decomposed).square().sum(1)
        return squares + F.linear(x, self.weight, self.bias)


class WithoutBias(ConvexQuadratic):
    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        del self.bias

    def forward(self, x: Tensor) -> Tensor:
        squares = torch.einsum("bd,drh->brh", x, self.quadratic_decomposed).square().sum(1)
        return squares + F.linear(x, self.weight)


class Quadratic(nn.Module):
    """An input convex network of quadratic layers, the first without an activation."""

    def __init__(
        self,
        act: Callable[[Tensor], Tensor],
        strong_convexity: Any = 0.1,
        rank: int = 2,
        layer: Callable[[int], nn.Module] = ConvexQuadratic,
    ) -> None:
        super().__init__()
        self.quadratic_layers = nn.ModuleList([layer(rank) for _ in range(3)])
        self.convex_layers = nn.ModuleList([nn.Linear(H, H, bias=False) for _ in range(2)])
        self.final_layer = nn.Linear(H, 1, bias=False)
        self.act, self.strong_convexity = act, strong_convexity
        with torch.no_grad():
            for layer in (*self.convex_layers, self.final_layer):
                layer.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        z = self.quadratic_layers[0](x)
        for quadratic, convex in zip(self.quadratic_layers[1:], self.convex_layers):
            z = self.act(convex(z) + quadratic(x))
        result: Tensor = self.final_layer(z)
        return (
            result if self.strong_convexity is None else result + self.strong_convexity / 2 * x.square().sum(1)[:, None]
        )


class Doubled(Quadratic):
    """With another strong convexity than it says."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.strong_convexity / 2 * x.square().sum(1, keepdim=True)


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, H), nn.SiLU(), nn.Linear(H, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x).squeeze(-1)
        return result


class Wrapper(nn.Module):
    """Whatever holds an energy."""

    def __init__(self, energy: nn.Module, act: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        super().__init__()
        self.inner, self.act = energy, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.inner(x))


def changed(energy: nn.Module, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(energy, name, value)
    return energy


def repeated(act: nn.Module, linear: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(D, H), act, linear, act, linear, act, nn.Linear(H, 1))


def over_fan_in(weight: Tensor) -> Tensor:
    return F.softplus(weight) / weight.shape[-1]


ENERGIES: dict[str, Callable[[], nn.Module]] = {
    "Sequential": lambda: nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, 5), nn.SiLU(), nn.Linear(5, 1)),
    "no biases, two in a row": lambda: nn.Sequential(
        nn.Linear(D, H, bias=False),
        nn.Linear(H, H),
        nn.Sequential(nn.CELU(), nn.Identity()),
        nn.Linear(H, 1, bias=False),
    ),
    "softplus of temperature": lambda: nn.Sequential(
        nn.Linear(D, H), nn.Softplus(beta=5.0), nn.Linear(H, H), nn.Softplus(beta=2.0), nn.Linear(H, 1)
    ),
    "an activation used twice": lambda: repeated(nn.Tanh(), nn.Linear(H, H)),
    "held": Held,
    "Dropout of nothing": lambda: nn.Sequential(
        nn.Linear(D, H), nn.Dropout(0.0), nn.ReLU(inplace=True), nn.Linear(H, 1)
    ),
    "two lists, clamped": lambda: TwoLists(lambda w: w, F.softplus, False),
    "two lists, softplus": lambda: TwoLists(F.softplus, F.celu, True),
    "two lists, square": lambda: TwoLists(torch.square, F.softplus, True),
    "two lists, over fan-in": lambda: TwoLists(over_fan_in, F.softplus, False),
    "quadratic, celu": lambda: Quadratic(F.celu),
    "quadratic, softplus": lambda: Quadratic(F.softplus, strong_convexity=0.0, rank=1),
    "quadratic, relu": lambda: Quadratic(F.relu),
    "quadratic, a learned strong convexity": lambda: Quadratic(F.softplus, nn.Parameter(torch.tensor([0.4]))),
    "quadratic, no attribute bias": lambda: Quadratic(F.softplus, layer=WithoutBias),
    "quadratic, no strong convexity": lambda: Quadratic(F.softplus, None),
    "two lists, softplus of temperature": lambda: TwoLists(torch.square, nn.Softplus(beta=5.0), True),
    "two lists, a word that means something else": lambda: changed(TwoLists(F.softplus, F.celu, True), norm="identity"),
    "a wrapped input convex network": lambda: Wrapper(TwoLists(F.softplus, F.relu, False)),
    "a Sequential of one": lambda: nn.Sequential(Quadratic(F.softplus)),
}
each_energy = pytest.mark.parametrize("name", ENERGIES)


def by_autograd(energy: nn.Module, x: Tensor) -> Tensor:
    x = x if x.requires_grad else x.detach().requires_grad_()
    return torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]


@each_energy
def test_values_and_gradients_are_as_good_as_autograd(name: str) -> None:
    energy, (x, g) = ENERGIES[name](), torch.randn(2, 40, D)
    exact = copy.deepcopy(energy).double()
    net = gradient_of(energy)
    parameters = list(energy.parameters())
    assert list(net.parameters()) == parameters
    torch.testing.assert_close(net.potential(x), energy(x).reshape(40), rtol=1e-5, atol=1e-5)

    def results(f: Callable[[Tensor], Tensor], of: nn.Module, x: Tensor) -> list[Tensor]:
        x = x.to(next(of.parameters()).dtype).requires_grad_()
        value = f(x)
        leaves = [x, *of.parameters()]
        return [value.detach(), *torch.autograd.grad(value, leaves, g.to(x.dtype), materialize_grads=True)]

    truth = results(lambda x: by_autograd(exact, x), exact, x)
    assert_as_good_as_eager(results(net, energy, x), results(lambda x: by_autograd(energy, x), energy, x), truth)


@each_energy
def test_derivatives_are_those_of_the_energy(name: str) -> None:
    energy, x = ENERGIES[name]().double(), torch.randn(5, D, dtype=torch.float64)
    net = gradient_of(energy)
    J = torch.func.vmap(torch.func.hessian(lambda row: energy(row[None]).sum()))(x)
    torch.testing.assert_close(net.jacobian(x), J)
    torch.testing.assert_close(net.divergence(x), J.diagonal(dim1=1, dim2=2).sum(-1))
    F, f = net.value_and_gradient(x)
    torch.testing.assert_close((F, f), (energy(x).reshape(5), by_autograd(energy, x)))
    if net.monotone:
        assert torch.linalg.eigvalsh(J).min() > -1e-9


def test_an_optimiser_of_either_trains_both_and_checkpoints_stay() -> None:
    energy = Held()
    names = list(energy.state_dict())
    optimiser = torch.optim.SGD(energy.parameters(), 0.1)
    net, x = gradient_of(energy), torch.randn(6, D)
    net(x).square().sum().backward()
    optimiser.step()
    torch.testing.assert_close(net(x), by_autograd(energy, x))
    assert list(energy.state_dict()) == names
    buffer = io.BytesIO()
    torch.save(copy.deepcopy(net), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(x), net(x))
    assert isinstance(net, GradNet)
    assert not net.monotone
    assert net.in_dim == D


def test_normalised_weights_are_read_anew() -> None:
    energy = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, 1))
    nn.utils.parametrizations.weight_norm(energy[0])
    net, x = gradient_of(energy), torch.randn(4, D)
    with torch.no_grad():
        energy[0].parametrizations.weight.original0.mul_(2.0)  # type: ignore[index, union-attr]
    torch.testing.assert_close(net(x), by_autograd(energy, x))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda linear: prune.random_unstructured(linear, "weight", 0.3),
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
)
def test_computed_weights_are_followed_and_left_as_they_were(compute: Callable[[nn.Module], Any]) -> None:
    energy: Any = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, 1))
    compute(energy[0])
    energy.eval()
    before = {name: tensor.clone() for name, tensor in energy.state_dict().items()}
    weight = energy[0].weight
    net, x = gradient_of(energy), torch.randn(4, D)
    torch.testing.assert_close(energy.state_dict(), before, rtol=0.0, atol=0.0)
    torch.testing.assert_close(energy[0].weight, weight, rtol=0.0, atol=0.0)
    with torch.no_grad():
        for tensor in energy.state_dict().values():
            tensor.mul_(1.5)
    torch.testing.assert_close(net(x), by_autograd(energy, x))


def test_numbers_of_the_formula_are_read_anew() -> None:
    x = torch.randn(4, D)
    convex, smooth = Quadratic(F.softplus, 0.1), ENERGIES["softplus of temperature"]()
    for energy, owner, name in ((convex, convex, "strong_convexity"), (smooth, smooth[1], "beta")):  # type: ignore[index]
        net = gradient_of(energy)
        setattr(owner, name, 0.7)
        torch.testing.assert_close(net(x), by_autograd(energy, x))
        torch.testing.assert_close(net.divergence(x), net.jacobian(x).diagonal(dim1=1, dim2=2).sum(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_energy
def test_energies_of_low_precision_are_taken(name: str, dtype: torch.dtype) -> None:
    energy, x = ENERGIES[name]().to(dtype), torch.randn(40, D).to(dtype)
    exact = by_autograd(copy.deepcopy(energy).double(), x.double())
    ours, eager = gradient_of(energy)(x), by_autograd(energy, x)
    assert_as_good_as_eager([ours.detach()], [eager.detach()], [exact.detach()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rounding_at_the_kinks_of_wide_layers_is_no_difference(dtype: torch.dtype) -> None:
    layers = [layer for _ in range(3) for layer in (nn.ReLU(), nn.Linear(256, 256))]
    gradient_of(nn.Sequential(nn.Linear(D, 256), *layers[:-1], nn.Linear(256, 1)).to(dtype))


def test_the_callers_modes_and_random_numbers_do_not_matter_and_stay() -> None:
    energy = Held()
    autocast, device = partial(torch.autocast, "cpu", torch.bfloat16), partial(torch.device, "meta")
    for context in (torch.inference_mode, torch.no_grad, autocast, device):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        with context():
            net = gradient_of(energy)
        assert torch.equal(torch.rand(3), expected)
        x = torch.randn(4, D)
        torch.testing.assert_close(net(x), by_autograd(energy, x))
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match="backend 'triton'"):
        gradient_of(energy)


FORMS: dict[str, Callable[[Callable[[Tensor], Tensor]], nn.Module]] = {
    "Sequential": lambda positive: nn.Sequential(nn.Linear(D, H), nn.Softplus(), Positive(H, 1, positive)),
    "two lists": lambda positive: TwoLists(positive, F.softplus, True),
    "quadratic": lambda positive: changed(Quadratic(F.softplus), final_layer=Positive(H, 1, positive)),
}


@pytest.mark.parametrize("positive", [F.relu, torch.abs, lambda weight: weight.clamp(min=0.0)])
@pytest.mark.parametrize("form", FORMS)
def test_weights_that_forward_makes_positive_are_told_from_others(form: str, positive: Any) -> None:
    energy = FORMS[form](positive)
    with torch.no_grad():
        for module in energy.modules():
            if isinstance(module, Positive):
                module.weight.abs_()
    with pytest.raises(ValueError, match=r"^gradient_of: energy: expected the energy that its structure says"):
        gradient_of(energy)


class WithScale(Held):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class Standardised(Held):
    """What a later value of its buffers changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("std", torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - self.mean) / self.std)


def hooked() -> nn.Module:
    energy = Held()
    energy.register_forward_hook(lambda module, arguments, output: 2.0 * output)
    return energy


class Masked(Held):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(D, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.kept)


def sequential(*between: nn.Module, first: type[nn.Linear] = nn.Linear) -> nn.Module:
    inner = first(H) if first is nn.LazyLinear else first(D, H)  # type: ignore[call-arg, arg-type]
    return nn.Sequential(inner, *between, nn.Linear(H, 1))


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Held()


def spectral() -> nn.Module:
    energy: Any = sequential(nn.Tanh())
    nn.utils.parametrizations.spectral_norm(energy[0])
    return energy


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D, H), nn.Linear(H, 1)


@pytest.mark.parametrize(
    ("energy", "error", "words"),
    [
        (lambda: torch.tanh, TypeError, ["a torch.nn.Module, got builtin"]),
        (lambda: nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, 2)), ValueError, ["2 (Linear)", "one output"]),
        (lambda: sequential(nn.Mish()), ValueError, ["1: Mish() is no activation"]),
        (lambda: sequential(nn.ELU(2.0)), ValueError, ["1: ELU(alpha=2.0) is no activation"]),
        (
            lambda: sequential(nn.Hardtanh(-30, 30)),
            ValueError,
            ["1: Hardtanh(min_val=-30, max_val=30) is no activation"],
        ),
        (lambda: sequential(nn.LayerNorm(H)), ValueError, ["1: LayerNorm has par"]),
        (lambda: sequential(nn.Tanh(), nn.Dropout()), ValueError, ["2: Dropout(p=0.5"]),
        (lambda: sequential(nn.AlphaDropout(0.1), nn.Tanh()).eval(), ValueError, ["1: AlphaDropout(p=0.1"]),
        (lambda: Wrapper(Held(), nn.Dropout()).eval(), ValueError, ["another function in training"]),
        (
            lambda: TwoLists(F.softplus, nn.Sequential(nn.CELU(), nn.Dropout()), True).eval(),
            ValueError,
            ["in training"],
        ),
        (
            lambda: spectral(),
            ValueError,
            ["changes its buffer energy.0.parametrizations.weight.0._u", "call eval() first"],
        ),
        (Standardised, ValueError, ["read as Sequential: it differs by"]),
        (Masked, ValueError, ["read as Sequential: it"]),
        (lambda: TwoLists(F.softplus, lambda z: z.clamp(-99, 99), True), ValueError, ["and 57 other readings"]),
        (lambda: nn.Sequential(nn.Linear(D, 1)), ValueError, ["0: there is no hidden layer"]),
        (lambda: nn.Sequential(nn.Tanh(), nn.Linear(D, 1)), ValueError, ["0: Tanh does not follow a Linear"]),
        (Two, TypeError, ["Two with parameters first.weight"]),
        (hooked, ValueError, ["read as Sequential: it", "use autograd"]),
        (WithScale, ValueError, ["read as Sequential: it", "use autograd"]),
        (lambda: TwoLists(torch.exp, F.softplus, True), ValueError, ["read as Wzs and Wxs with softplus"]),
        (lambda: Doubled(F.relu, torch.tensor(0.5)).requires_grad_(False), ValueError, ["quadratic layers"]),
        (lambda: Quadratic(F.relu, "0.1"), TypeError, ["energy.strong_convexity", "got '0.1'"]),
        (
            lambda: changed(Quadratic(F.relu), final_layer=sequential()),
            TypeError,
            ["energy.final_layer.weight", "a Seq"],
        ),
        (lambda: changed(Quadratic(F.relu), quadratic_layers=Held()), TypeError, ["energy.quadratic_layers", "a list"]),
        (lambda: changed(Quadratic(F.relu), convex_layers=nn.ModuleList()), ValueError, ["got 3 and 0"]),
        (lambda: changed(TwoLists(F.relu, F.relu, True), Wxs=nn.ModuleList()), ValueError, ["got 2 and 0"]),
        (
            lambda: changed(
                TwoLists(F.relu, F.relu, True), Wzs=nn.ModuleList([Positive(H, 5, F.relu), Positive(H, 1, F.relu)])
            ),
            ValueError,
            ["energy.Wzs.0.weight: expected shape (7, 7), got shape (5, 7)"],
        ),
        (
            lambda: Wrapper(nn.ModuleList([Held(), nn.Linear(1, 1)])),
            TypeError,
            ["Wrapper with inner.1.weight, inner.1.bias outside"],
        ),
        (lambda: Wrapper(Held(), lambda value: (value, value)), ValueError, ["one that returns a tuple, not a tensor"]),
        (
            lambda: Wrapper(Held(), lambda value: value.view(7, 7)),
            ValueError,
            ["fails on them: RuntimeError: shape '[7, 7]'"],
        ),
        (lambda: Wrapper(Held(), lambda value: value.mean()), ValueError, ["returns shape () for points (32, 3)"]),
        (lambda: Held().to("meta"), ValueError, ["energy.net.0.weight", "to_empty"]),
        (
            lambda: sequential(nn.Tanh(), first=nn.LazyLinear),
            ValueError,
            ["energy.0.weight", "call the energy on points once"],
        ),
        (made_in_inference_mode, ValueError, ["energy.net.0.weight", "inference_mode", "copy.deepcopy"]),
        (lambda: Held().to(torch.complex64), TypeError, ["energy.net.0.weight", "complex64"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_what_it_cannot_take_it_refuses(energy: Any, error: type[Exception], words: list[str]) -> None:
    made = energy()
    with pytest.raises(error, match=r"^gradient_of: ") as caught:
        gradient_of(made)
    text = str(caught.value)
    assert "\n" not in text
    for word in ("expected ", ", got ", "; ", *words):
        assert word in text


@pytest.mark.parametrize("seed", range(4))
def test_a_steep_softplus_is_read_whatever_the_draw(seed: int) -> None:
    """torch's is linear beyond 20/β, of which the second derivative keeps more than rounding."""
    torch.manual_seed(seed)
    widths = (3, 64, 64, 64)
    parts = [part for i in range(3) for part in (nn.Linear(widths[i], widths[i + 1]), nn.Softplus(beta=100))]
    gradient_of(nn.Sequential(*parts, nn.Linear(64, 1)))
