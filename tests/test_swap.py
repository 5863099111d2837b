"""accelerate: networks written by hand, in the structure of the authors' code, become ours in place."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from authors import (
    CMGN,
    MMGN,
    NETWORKS,
    Cascade,
    CMGNWithClamp,
    D,
    Modular,
    ModularAndLogDeterminant,
    Plain,
    PlainWithLinear,
    Scaled,
    WeightedSoftmax,
    plain_arguments,
    plain_linear,
)
from gradnets_fast import accelerate, register_adapter, restore
from gradnets_fast.nn import GradNet
from gradnets_fast.swap.activation import names_of
from oracle import assert_as_good_as_eager

register_adapter(Plain, "ridge", plain_arguments, monotone=True)
register_adapter(PlainWithLinear, "ridge", plain_arguments, linear=plain_linear, monotone=True)
each_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str) -> nn.Module:
    return NETWORKS[name].make()


def outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The results of forward, as a list."""
    result = net(x)
    return [result] if isinstance(result, Tensor) else list(result)


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Compare up to rounding, which a nearly singular Jacobian magnifies in its log-determinant."""
    assert len(ours) == len(theirs)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("name", ["GradNet_C", "GradNet_M", "C_MGN, not told"])
def test_a_network_is_recognised_whatever_the_default_device_is(name: str) -> None:
    net, x = network(name), torch.randn(17, D)
    before = outputs(net, x)
    with torch.device("meta"):
        accelerate(net)
    assert isinstance(net, GradNet)
    assert_close(outputs(net, x), before)


@each_network
def test_a_network_becomes_ours_in_place(name: str) -> None:
    net = network(name)
    before, was = dict(net.named_parameters()), type(net)
    attributes, x = dict(vars(net)), torch.randn(17, D)
    expected = [value.detach() for value in outputs(net, x)]
    (entry,) = accelerate(net)
    assert (entry.path, entry.was, entry.now) == ("", was.__name__, NETWORKS[name].becomes)
    assert isinstance(net, GradNet)
    assert net.monotone == NETWORKS[name].monotone
    assert all(after is before[key] for key, after in net.named_parameters())
    assert list(dict(net.named_parameters())) == list(before)
    assert_close(outputs(net, x), expected)
    assert len(accelerate(net)) == 0
    assert restore(net) == 1
    assert type(net) is was
    assert vars(net) == attributes
    torch.testing.assert_close(outputs(net, x), expected, rtol=0.0, atol=0.0, equal_nan=True)
    assert restore(net) == 0


@each_network
def test_potential_and_derivatives_are_those_of_f(name: str) -> None:
    net, (x, v) = network(name).double(), torch.randn(2, 17, D, dtype=torch.float64)
    theirs = copy.deepcopy(net)
    J = torch.func.vmap(torch.func.jacrev(lambda row: outputs(theirs, row[None])[0][0]))(x)
    f = outputs(theirs, x)[0]
    accelerate(net)
    assert isinstance(net, GradNet)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(net.potential))(x), f)
    torch.testing.assert_close(net.jacobian(x), J)
    torch.testing.assert_close(net.jvp(x, v), (J @ v[..., None])[..., 0])
    torch.testing.assert_close(net.divergence(x), J.diagonal(dim1=-2, dim2=-1).sum(-1))


@each_network
def test_gradients_are_as_good_as_before(name: str) -> None:
    net, (x, g) = network(name), torch.randn(2, 65, D)
    exact = copy.deepcopy(net).double()
    *_, last = outputs(exact, x.double())
    # The larger half of log-determinants only: a nearly singular Jacobian magnifies its rounding errors.
    larger = last > last.nanmedian()
    assert larger.any()

    def gradients(of: nn.Module, x: Tensor, g: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        f, *logarithms = outputs(of, x)
        leaves = [x, *of.parameters()]
        loss = (f * g).sum() + sum(logarithm.where(larger, 0.0).sum() for logarithm in logarithms)
        return [f.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]

    eager, truth = gradients(net, x, g), gradients(exact, x.double(), g.double())
    assert len(accelerate(net).swapped) == 1
    assert_as_good_as_eager(gradients(net, x, g), eager, truth)


@each_network
def test_optimisers_hooks_checkpoints_copies_and_pickles_go_on(name: str) -> None:
    inner = network(name)
    was = type(inner)
    outer = nn.Sequential(nn.Linear(D, D), inner)
    optimiser = torch.optim.SGD(outer.parameters(), 0.1)
    calls: list[int] = []
    inner.register_forward_hook(lambda *_: calls.append(1))
    state = copy.deepcopy(outer.state_dict())
    report = accelerate(outer)
    assert [entry.path for entry in report.swapped] == ["1"]
    assert not calls
    x = torch.randn(5, D)
    outputs(outer, x)[0].sum().backward()
    optimiser.step()
    assert len(calls) == 1
    assert not any(torch.equal(value, state[key]) for key, value in outer.state_dict().items() if "eight" in key)
    assert list(outer.state_dict()) == list(state)
    outer.load_state_dict(state)
    twin = copy.deepcopy(inner)
    twin._forward_hooks.clear()
    assert_close(outputs(twin, x), outputs(inner, x))
    buffer = io.BytesIO()
    torch.save(twin, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert_close(outputs(loaded, x), outputs(inner, x))
    assert restore(loaded) == 1
    assert type(loaded) is was


@each_network
def test_averages_of_weights_go_on(name: str) -> None:
    net, x = network(name), torch.randn(5, D)
    plain = copy.deepcopy(net)
    averages = []
    for model in (plain, net):
        average = torch.optim.swa_utils.AveragedModel(model)  # copied as it came
        if model is net:
            accelerate(net)
        later = torch.optim.swa_utils.AveragedModel(model)
        for step in range(2):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * step)
            average.update_parameters(model)
            later.update_parameters(model)
        averages.append((average, later))
    (expected, _), ours = averages
    for average in ours:
        assert_close(outputs(average, x), outputs(expected, x))
    assert [entry.path for entry in accelerate(ours[0])] == ["module"]


@pytest.mark.parametrize("name", ["mGradNet_M", "GradNet_M"])
def test_modules_of_theirs_are_initialised_as_ours(name: str) -> None:
    net: Any = network(name)
    assert max(module.W.abs().max() for module in net.mmgn_modules) > D**-0.5
    accelerate(net)
    net.reset_parameters()
    for module in net.mmgn_modules:
        assert max(module.W.abs().max(), module.b.abs().max()) <= D**-0.5
        assert [weight.item() for weight in module.act.parameters()] in ([], [0.5, 0.5])


@pytest.mark.parametrize("name", ["C_MGN, tanh", "GradNet_M and logdet"])
def test_compiles_without_graph_breaks(name: str) -> None:
    net, x = network(name), torch.randn(5, D)
    accelerate(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert_close(outputs(compiled, x), outputs(net, x))


def test_the_form_is_told_from_others_by_values() -> None:
    net = Scaled(nn.Tanh, True, -1)
    x = torch.randn(4, D)
    f = net(x)
    (entry,) = accelerate(net).skipped
    assert "mGradNetC differs by" in entry.reason
    assert "GradNetC differs by" in entry.reason
    assert type(net) is Scaled
    assert torch.equal(net(x), f)


def test_the_form_is_told_from_others_by_gradients() -> None:
    """In equal parameters values cannot tell the right one from others; those of a user's adapter may be any."""

    class Twice(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(self.offset.detach().clone())

    class Detached(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    class WithoutGradients(Plain):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    register_adapter(Twice, "ridge", lambda module: {**plain_arguments(module), "shift": module.other})
    register_adapter(Detached, "ridge", plain_arguments)
    register_adapter(WithoutGradients, "ridge", plain_arguments)
    for net, reason in (
        (Twice(), "Adapted differs by"),
        (Detached(), "Adapted has another gradient of x"),
        (WithoutGradients(), "Adapted is differentiable"),
    ):
        parameters = {name: (parameter, parameter.clone()) for name, parameter in net.named_parameters()}
        (entry,) = accelerate(net).skipped
        assert entry.reason.startswith(reason)
        for name, parameter in net.named_parameters():
            was, value = parameters[name]
            assert parameter is was
            assert torch.equal(parameter, value)
            assert parameter.grad is None


@pytest.mark.parametrize("name", ["mGradNet_C, tanh", "mGradNet_M", "C_MGN, tanh", "M_MGN", "plain"])
def test_parametrized_weights(name: str) -> None:
    """Before and after, removed before and after `restore`."""
    for early, removed in ((True, False), (False, False), (True, True), (False, True)):
        net, x = network(name), torch.randn(5, D)
        was, owner = type(net), net
        (key, *_) = [key for key, value in net.named_parameters() if value.dim() == 2]
        path, _, key = key.rpartition(".")
        owner = net.get_submodule(path)

        def normalise(owner: nn.Module = owner, key: str = key) -> None:
            weight_norm(owner, key)

        if early:
            normalise()
        expected = outputs(net, x)
        (entry,) = accelerate(net)
        assert (entry.was, entry.now) == (was.__name__, NETWORKS[name].becomes)
        assert_close(outputs(net, x), expected)
        if not early:
            normalise()
        outputs(net, x)[0].sum().backward()
        assert all(p.grad is not None for p in owner.parametrizations[key].parameters())  # type: ignore[index, union-attr]
        if removed:
            remove_parametrizations(owner, key)
        assert isinstance(net, GradNet)
        assert_close(outputs(net, x), expected)
        assert restore(net) == 1
        assert isinstance(net, was)
        assert_close(outputs(net, x), expected)
        assert is_parametrized(owner) is not removed
        if not removed:
            remove_parametrizations(owner, key)
        assert type(net) is was
        assert_close(outputs(net, x), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_a_hook_computes_are_refused() -> None:
    net = Cascade(nn.Tanh, True, -1)
    nn.utils.weight_norm(net, "W")
    (entry,) = accelerate(net).skipped
    assert entry.reason.startswith("its W is no parameter, but what a hook computes: use torch.nn.utils.parametriz")
    assert type(net) is Cascade


def test_a_log_determinant_of_something_else_is_refused() -> None:
    def doubled(jacobian: Tensor) -> Tensor:
        return torch.logdet(2.0 * jacobian)

    def fixed(jacobian: Tensor) -> Tensor:
        return torch.logdet(jacobian).nan_to_num()

    for determinant, reason in ((doubled, "log-determinants that differ by up to 2.1e+00"), (fixed, "NaN for other")):
        net = ModularAndLogDeterminant(lambda: WeightedSoftmax(False), False, determinant)
        (entry,) = accelerate(net).skipped
        assert f"GradNetM and logdet has {reason}" in entry.reason
        assert type(net) is ModularAndLogDeterminant


def test_log_determinants_of_singular_jacobians_tell_nothing() -> None:
    net = ModularAndLogDeterminant(lambda: WeightedSoftmax(True), True, torch.logdet)
    with torch.no_grad():
        for module in net.mmgn_modules:
            module.W[:, 0] = 0.0
    (entry,) = accelerate(net).skipped
    assert "mGradNetM and logdet cannot be told from others" in entry.reason


def test_a_forward_that_returns_something_else_is_refused() -> None:
    class Listed(Modular):
        def forward(self, x: Tensor) -> Any:
            return [super().forward(x), x]

    (entry,) = accelerate(Listed(lambda: nn.Softmax(dim=-1), True)).skipped
    assert entry.reason == "its forward returns a list, not f or (f, log-determinant)"


def test_a_forward_that_fails_is_refused() -> None:
    class Images(Cascade):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(x.shape[0], 1, 28, 28))

    (entry,) = accelerate(Images(nn.Tanh, True, -1)).skipped
    assert "fails at random points" in entry.reason


def test_activations_without_kernels_are_left_alone() -> None:
    net = Cascade(nn.Hardswish, True, -1)
    (entry,) = accelerate(net).skipped
    assert "GradNetC: activation: expected one of" in entry.reason
    assert "Hardswish" in entry.reason
    assert type(net) is Cascade
    for other in (CMGN(F.hardswish), MMGN(nn.Hardswish)):
        (entry,) = accelerate(other).skipped
        assert entry.reason.startswith(f"{type(other).__name__}: its activation is none of identity, tanh")


@pytest.mark.parametrize(("limit", "reason"), [(2.0, "differs by"), (30.0, "has another forward, which differs by")])
def test_an_activation_that_is_the_identity_near_0_is_not_taken_for_it(limit: float, reason: str) -> None:
    net, x = CMGNWithClamp(limit), torch.randn(32, D)
    torch.testing.assert_close(net.act(x @ net.W), x @ net.W)
    (entry,) = accelerate(net).skipped
    assert f"CMGN(identity) {reason}" in entry.reason


def test_activations_are_told_apart_far_out() -> None:
    def names(*activations: Any) -> list[str]:
        return names_of(activations, torch.empty(0, dtype=torch.float64))

    for clamped in (nn.Hardtanh(-30, 30), nn.Hardtanh(-1e9, 1e9), nn.Threshold(-1e4, 0.0), nn.ReLU6()):
        assert names(clamped) == []
    assert names(nn.Softplus(threshold=10)) == []
    assert names(nn.ReLU(inplace=True), nn.ReLU()) == ["relu"]
    assert names(lambda z: torch.log1p(z.exp())) == ["softplus"]  # which overflows there


@pytest.mark.parametrize("positive", [torch.relu, torch.abs, lambda weight: weight.clamp(min=0.0)])
def test_weights_that_forward_makes_positive_are_told_from_others(positive: Any) -> None:
    net = Cascade(nn.Tanh, True, -1)
    net.positive = positive
    assert all((parameter >= 0).all() for name, parameter in net.named_parameters() if "eta" in name or "pha" in name)
    (entry,) = accelerate(net).skipped
    assert entry.reason.startswith("GradNetC differs by")


class Standardised(Cascade):
    """What a later value of its buffers changes."""

    def __init__(self) -> None:
        super().__init__(nn.Tanh, True, -1)
        self.register_buffer("mean", torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)


class Dropping(Cascade):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.1, self.training))


class Counting(Cascade):
    def __init__(self) -> None:
        super().__init__(nn.Tanh, True, -1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Standardised, "mGradNetC differs by"),
        (lambda: Dropping(nn.Tanh, True, -1), "computes another function in training"),
        (lambda: Dropping(nn.Tanh, True, -1).eval(), "computes another function in training"),
        (Counting, "its forward changes its buffer calls"),
    ],
)
def test_what_depends_on_buffers_or_on_the_mode_is_refused(make: Any, reason: str) -> None:
    net = make()
    modes, state = [part.training for part in net.modules()], copy.deepcopy(net.state_dict())
    (entry,) = accelerate(net).skipped
    assert reason in entry.reason
    assert [part.training for part in net.modules()] == modes
    torch.testing.assert_close(net.state_dict(), state, rtol=0.0, atol=0.0)


def test_another_potential_of_the_activation_is_refused() -> None:
    """For the sigmoid M-MGN has the potential softplus, and this module log cosh."""
    (entry,) = accelerate(MMGN(nn.Sigmoid)).skipped
    assert "MMGN(sigmoid) differs by" in entry.reason


def test_more_parameters_than_a_form_has_are_refused() -> None:
    net = CMGN(torch.tanh)
    net.gate = nn.Parameter(torch.zeros(()))
    (entry,) = accelerate(net).skipped
    assert entry.reason == "CMGN has other parameters: gate"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    for name in ("mGradNet_M, weighted", "C_MGN, tanh", "M_MGN"):
        (entry,) = accelerate(network(name).to(dtype))
        assert entry.now == NETWORKS[name].becomes


def test_a_model_with_several() -> None:
    net = nn.Sequential(Plain(), nn.Tanh(), Plain(), Scaled(nn.Tanh, True, -1))
    x = torch.randn(4, D)
    f = net(x)
    report = accelerate(net)
    assert [entry.path for entry in report] == ["0", "2", "3"]
    assert [entry.path for entry in report.swapped] == ["0", "2"]
    torch.testing.assert_close(net(x), f)
    assert [entry.path for entry in accelerate(net)] == ["3"]
    assert restore(net) == 2


def test_a_report_prints_as_a_table() -> None:
    net = nn.ModuleDict({"encoder": Plain(), "head": CMGN(torch.tanh), "odd": Scaled(nn.Tanh, True, -1)})
    report = accelerate(net)
    title, *rows = str(report).splitlines()
    assert title == "gradnets_fast runs 2 of 3 gradient networks"
    assert [row.split()[:5] for row in rows[:2]] == [
        ["swapped", "encoder", "Plain", "->", "Adapted"],
        ["swapped", "head", "CMGN", "->", "CMGN(tanh)"],
    ]
    assert rows[0].index("largest difference") == rows[1].index("largest difference")
    assert rows[2].split() == ["skipped", "odd", "Scaled"]
    assert [row.strip() for row in rows[3:]] == report.skipped[0].reason.splitlines()
    assert {row.index(row.split()[0]) for row in rows[3:]} == {rows[2].index("Scaled")}
    assert repr(report) == str(report)
    assert str(report.skipped[0]).startswith("skipped  odd  Scaled\n              GradNetC differs by")


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"accelerate: model: expected a torch\.nn\.Module, got list"):
        accelerate([Plain()])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="register_adapter: cls"):
        register_adapter(Plain(), "ridge", plain_arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="register_adapter: operator"):
        register_adapter(Plain, "ridge_jvp", plain_arguments)


def test_an_adapter_that_fails_is_named() -> None:
    class Other(Plain):
        pass

    register_adapter(Other, "ridge", lambda module: {"weights": module.weight})
    (entry,) = accelerate(Other()).skipped
    assert "its adapter or structure fails: KeyError: 'W'" in entry.reason


def test_the_random_numbers_of_a_user_are_untouched() -> None:
    net = network("GradNet_M")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    accelerate(net)
    assert torch.equal(torch.rand(3), expected)
