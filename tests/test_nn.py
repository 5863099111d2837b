"""The modules as their users see them: names, shapes, initialisation, activations as the authors pass them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.prune import l1_unstructured

import gradnets_fast as gf
from authors import NETWORKS as AUTHORS
from gradnets_fast.activations import TABLE
from gradnets_fast.nn import deep
from gradnets_fast.nn.activation import _TORCH_MODULES
from gradnets_fast.nn.registry import cases


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_cascade_parameters() -> None:
    assert shapes(gf.mGradNetC(num_layers=2, in_dim=3, embed_dim=5, activation="weighted_tanh")) == {
        "W": (5, 3),
        **{f"bias.{i}": (5,) for i in range(2)},
        "bias.2": (3,),
        **{f"{name}.{i}": (5,) for name in ("beta", "alpha") for i in range(2)},
        **{f"nonlinearity.{i}.{name}": (5,) for i in range(2) for name in "ab"},
    }
    assert "nonlinearity.0.a" not in shapes(gf.GradNetC(2, 3, 5))
    assert shapes(gf.GradNetC(2, 3, 5, ["tanh", "sin", "relu"]))["nonlinearity.1.weight"] == (3, 5)


def test_module_parameters() -> None:
    expected = {"alpha": (2,), "bias": (3,)}
    for i in range(2):
        prefix = f"mmgn_modules.{i}"
        expected |= {f"{prefix}.beta": (1,), f"{prefix}.W": (5, 3), f"{prefix}.b": (5,)}
        expected |= {f"{prefix}.act.a": (), f"{prefix}.act.b": ()}
    assert shapes(gf.mGradNetM(num_modules=2, in_dim=3, embed_dim=5, activation="weighted_softmax")) == expected
    plain = {name: shape for name, shape in expected.items() if ".act." not in name}
    assert shapes(gf.GradNetM(2, 3, 5, "softmax")) == plain
    bare = {name: shape for name, shape in plain.items() if "beta" not in name}
    assert shapes(gf.GradNetM(2, 3, 5, "tanh", transform="half_square")) == bare


def test_ridge_and_linear_parameters() -> None:
    assert shapes(gf.RidgeGradNet(3, 5, linear="symmetric")) == {
        "W": (5, 3),
        "b": (5,),
        "bias": (3,),
        "linear.S": (3, 3),
    }
    assert shapes(gf.mRidgeGradNet(3, 5, linear="psd"))["linear.V"] == (3, 3)


@pytest.mark.parametrize("module", list(_TORCH_MODULES), ids=lambda module: module.__name__)
def test_torch_modules_and_factories_are_accepted(module: type[nn.Module]) -> None:
    name = _TORCH_MODULES[module][0]
    x = torch.randn(6, 2, dtype=torch.float64)
    if name == "softmax":
        instance: nn.Module = nn.Softmax(dim=-1)
        make = gf.GradNetM
    else:
        instance, make = module(), gf.GradNetC
        z = torch.linspace(-3, 3, 50, dtype=torch.float64)
        from gradnets_fast import reference

        torch.testing.assert_close(instance(z), reference.value(name, z))
    torch.manual_seed(1)
    expected = make(2, 2, 4, name, dtype=torch.float64)
    for given in (instance, lambda: instance):
        torch.manual_seed(1)
        assert torch.equal(make(2, 2, 4, given, dtype=torch.float64)(x), expected(x))
    if name != "softmax":
        torch.manual_seed(1)
        assert torch.equal(make(2, 2, 4, module, dtype=torch.float64)(x), expected(x))


def test_every_table_entry_that_torch_has_is_accepted() -> None:
    missing = set(TABLE) - {name for name, _ in _TORCH_MODULES.values()}
    assert missing == {"sin", "arctan", "erf"}  # torch has no module of these


def test_initialisation_ranges() -> None:
    net = gf.mGradNetC(2, 4, 2500)
    assert net.W.abs().max() <= 0.5
    assert net.W.std().item() == pytest.approx(0.5 / math.sqrt(3), rel=0.05)
    assert net.bias[0].abs().max() > 0.4
    assert net.bias[1].abs().max() <= 0.02
    assert net.bias[2].abs().max() <= 0.02
    for parameter in (*net.beta, *net.alpha):
        assert parameter.min() >= 0
        assert parameter.max() > 0.9
    for parameter in (*gf.GradNetC(2, 4, 2500).beta, *gf.GradNetC(2, 4, 2500).alpha):
        assert parameter.min() < -0.4
        assert parameter.max() <= 0.5
    before = net.W.clone()
    net.reset_parameters()
    assert not torch.equal(before, net.W)


def test_factory_arguments() -> None:
    for net in (
        gf.mGradNetC(2, 3, 4, dtype=torch.float64),
        gf.GradNetM(2, 3, 4, "weighted_softmax", dtype=torch.float64),
    ):
        assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert gf.RidgeGradNet(3, 4, device="meta").W.device.type == "meta"
    with torch.device("meta"):
        assert gf.mGradNetC(2, 3, 4).W.device.type == "meta"


def test_reuse_penultimate_activation_leaves_the_last_ones_parameters_unused() -> None:
    net = gf.GradNetC(3, 2, 4, "weighted_tanh", reuse_penultimate_activation=True)
    x = torch.randn(5, 2)
    before = net(x)
    with torch.no_grad():
        net.nonlinearity[2].a.add_(1.0)
    assert torch.equal(net(x), before)
    with torch.no_grad():
        net.nonlinearity[1].a.add_(1.0)
    assert not torch.equal(net(x), before)


def test_repr_shows_what_matters() -> None:
    text = repr(gf.mGradNetC(4, 2, 7, ["tanh", "softplus"], linear="psd"))
    for word in ("mGradNetC(", "num_layers=4", "in_dim=2", "embed_dim=7", "tanh + softplus", "psd"):
        assert word in text
    text = repr(gf.mGradNetM(4, 2, 7, "tanh", transform="half_square"))
    for word in ("num_modules=4", "'tanh'", "transform='half_square'"):
        assert word in text


def test_potential_of_a_deep_cascade_is_accurate_far_from_zero() -> None:
    """The stated quadrature error: at rounding level while |scale·u| <= 16."""
    net = gf.mGradNetC(1, 1, 1, dtype=torch.float64)
    deep = gf.mGradNetC(2, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        for p in (*net.parameters(), *deep.parameters()):
            p.fill_(math.log(math.e - 1))  # softplus of it is 1
        for p in (*net.bias, *deep.bias):
            p.zero_()
        net.W.fill_(1.0)
        deep.W.fill_(1.0)
        deep.alpha[0].fill_(-200.0)  # the first layer adds nothing: one layer is left
    for x, tolerance in ((16.0, 1e-13), (64.0, 1e-4)):
        point = torch.tensor([x], dtype=torch.float64)
        assert deep.potential(point).item() == pytest.approx(net.potential(point).item(), rel=tolerance)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_small_scale_potential_has_no_cancellation(backend: str) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    one = torch.ones(1, 1, dtype=torch.float64)
    for scale in (1e-12, 0.0, 1e-3, 0.5):
        F = gf.ridge_potential(x, one, scale * one, 0.7 * one, one[None], backend=backend)
        ahead = (torch.log(torch.cosh(scale * x + 0.7)) - math.log(math.cosh(0.7))) / scale if scale > 1e-4 else None
        expected = x * math.tanh(0.7) + scale * x**2 / 2 / math.cosh(0.7) ** 2 if ahead is None else ahead
        torch.testing.assert_close(F, expected[:, 0], rtol=1e-11, atol=1e-13)


class OfALayer(nn.Module):
    """A network of another package, whose weights are those of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)) @ self.layer.weight


gf.register_adapter(
    OfALayer, "ridge", lambda m: {"W": m.layer.weight, "scale": None, "shift": m.layer.bias, "coef": None}
)
HOOKED: dict[str, Callable[[], nn.Module]] = {
    "ridge": lambda: gf.RidgeGradNet(3, 5, ["tanh", "softplus"], linear="symmetric"),
    "cascade": lambda: gf.mGradNetC(2, 3, 5, ["tanh", "softplus"], linear="psd"),
    "modules": lambda: gf.GradNetM(2, 3, 5, linear="symmetric"),
    "soft maximum": lambda: gf.mGradNetM(2, 3, 5, "softplus", transform="half_square", combine="logsumexp"),
    "swapped, by an adapter": OfALayer,
    "swapped, 2023": AUTHORS["M_MGN"].make,
    "swapped": AUTHORS["mGradNet_M"].make,
}


HOOKS = {"weight_norm": weight_norm, "spectral_norm": spectral_norm, "prune": partial(l1_unstructured, amount=0.3)}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("name", HOOKED)
def test_every_method_has_the_parameters_that_hooks_compute(name: str, hook: Callable[..., object]) -> None:
    plain, x, v = HOOKED[name](), torch.randn(4, 3), torch.randn(4, 3)
    gf.accelerate(plain)
    assert isinstance(plain, gf.nn.GradNet)
    net = copy.deepcopy(plain)
    matrices = [key.rpartition(".") for key, p in plain.named_parameters() if p.shape[1:] and p.shape[-1] == 3]
    for path, _, matrix in matrices:
        hook(net.get_submodule(path), matrix)
    net = net.eval()
    calls = {"forward": (x,), "jvp": (x, v), "potential": (x,), "divergence": (x,), "jacobian": (x,)}
    functions = [partial(getattr(net, "__call__" if key == "forward" else key), *at) for key, at in calls.items()]
    if hasattr(net, "module_potentials"):
        functions += [partial(net.module_potentials, x), partial(net.module_gradients, x)]
    for function in functions:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        function().sum().backward()
        result = function()
        result.sum().backward()  # through the computation of the parameters anew
        for path, *_ in matrices:
            (computing,) = net.get_submodule(path)._forward_pre_hooks.values()
            computing(net.get_submodule(path), ())
        with torch.no_grad():
            for key, p in plain.named_parameters():
                path, _, last = key.rpartition(".")
                p.copy_(getattr(net.get_submodule(path), last))
        torch.testing.assert_close(result, getattr(plain, function.func.__name__)(*function.args))


def test_every_network_can_be_made_in_a_block_of_a_backend_that_is_not_here() -> None:
    """Making one computes nothing with operators, in whatever dtype an initialiser works; nor does a cache hide it."""
    deep._moment.cache_clear()
    with gf.use_backend("triton"):
        for case in cases():
            case.make()


@pytest.mark.parametrize("activation", ["softplus", "relu", "elu"])
def test_nonnegative_weights_begin_with_layers_of_mean_0_and_variance_1(activation: str) -> None:
    """About: one draw of 128 units, whose layers have one constant mean, and each layer departs a little further."""
    torch.manual_seed(0)
    net, x = gf.mDeepGradNet(8, (128,) * 4, activation, input_skip=False, linear=None), torch.randn(4000, 8)
    a, weights = x, [net.A[0], *(nn.functional.softplus(V) for V in net.V)]
    with torch.no_grad():
        for weight, b in zip(weights, net.b):
            u = a @ weight.T + b
            assert 0.6 <= u.std() <= 2.0
            assert u.mean().abs() <= 0.5
            a = gf.ridge(u.reshape(-1, 1), torch.ones(1, 1), None, torch.zeros(1), None, basis=activation).view_as(u)
    assert 0.5 <= net.potential(x).std() <= 3.0
