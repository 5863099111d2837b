"""GradNetM's parameters: one tensor for all modules in memory, one for each module in a state_dict."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations
from torch.nn.utils.prune import l1_unstructured, remove

import gradnets_fast as gf

M, D, H = 3, 2, 5
NETWORKS: dict[str, Callable[..., gf.GradNetM]] = {
    "softmax": lambda **factory: gf.mGradNetM(M, D, H, linear="psd", **factory),
    "weighted": lambda **factory: gf.GradNetM(M, D, H, "weighted_softmax", combine="logsumexp", **factory),
    "transformed": lambda **factory: gf.mGradNetM(M, D, H, "tanh", transform="half_square", **factory),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def other_state(net: nn.Module) -> dict[str, Tensor]:
    """A state_dict of other numbers, in memory of its own."""
    return {name: torch.randn_like(tensor) for name, tensor in net.state_dict().items()}


def assert_state(net: nn.Module, expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(net.state_dict()), expected, rtol=0.0, atol=0.0)


@each_network
def test_the_number_of_parameters_does_not_grow_with_the_modules(name: str) -> None:
    own = {"beta": (M, 1), "W": (M, H, D), "b": (M, H), "act_a": (M,), "act_b": (M,)}
    kept = {"softmax": ("beta", "W", "b"), "weighted": tuple(own), "transformed": ("W", "b")}[name]
    shapes = {key: tuple(p.shape) for key, p in NETWORKS[name]().mmgn_modules.named_parameters()}
    assert shapes == {key: own[key] for key in kept}


def test_initial_values_are_those_of_modules_drawn_one_after_another() -> None:
    torch.manual_seed(3)
    net, after = NETWORKS["weighted"](), torch.rand(2)
    torch.manual_seed(3)
    for _ in range(2):  # when the parts are made, and then for the network
        drawn = []
        for _ in range(M):
            W, b, k = torch.empty(H, D), torch.empty(H), D**-0.5
            drawn.append((W.uniform_(-k, k), b.uniform_(-k, k), torch.rand(1)))
    alpha, bias = torch.empty(M).normal_(), torch.empty(D).uniform_(-(H**-0.5), H**-0.5)
    assert torch.equal(torch.rand(2), after)
    for module, (W, b, beta) in zip(net.mmgn_modules, drawn):
        torch.testing.assert_close((module.W, module.b, module.beta), (W, b, beta), rtol=1e-7, atol=0.0)
        assert (module.act.a, module.act.b) == (0.5, 0.5)
    torch.testing.assert_close((net.alpha.detach(), net.bias.detach()), (alpha, bias), rtol=1e-7, atol=0.0)


def test_modules_are_views_and_changes_of_them_reach_the_network() -> None:
    net = NETWORKS["weighted"]()
    x = torch.randn(4, D)
    before = net(x)
    assert len(net.mmgn_modules) == len(list(net.mmgn_modules)) == M
    with torch.no_grad():
        net.mmgn_modules[1].W.mul_(2.0)
        net.mmgn_modules[-1].act.b.fill_(7.0)
        for module in net.mmgn_modules[:2]:
            module.beta.zero_()
    parameters = net.mmgn_modules
    assert torch.equal(parameters.W[1], net.state_dict()["mmgn_modules.1.W"])
    assert parameters.act_b.tolist() == [0.5, 0.5, 7.0]
    assert not parameters.beta[:2].any()
    assert parameters.beta[2] > 0
    assert not torch.equal(net(x), before)
    net.mmgn_modules[1].W.square().sum().backward()
    assert parameters.W.grad is not None
    assert torch.equal(parameters.W.grad[1], 2 * parameters.W[1])
    assert not parameters.W.grad[0].any()


def test_what_a_view_does_not_have_is_named() -> None:
    module = NETWORKS["transformed"]().mmgn_modules[0]
    for name in ("beta", "act", "parameters"):
        with pytest.raises(AttributeError, match=rf"mmgn_modules\[i\]: attribute: expected .*, got {name}; a module"):
            getattr(module, name)
    with pytest.raises(AttributeError, match="cannot assign to field 'W'"):
        module.W = torch.zeros(H, D)
    with pytest.raises(IndexError):
        NETWORKS["softmax"]().mmgn_modules[M]


@each_network
def test_a_state_dict_shares_the_networks_memory(name: str) -> None:
    """As that of any module, for averages of weights that are updated through it."""
    net = NETWORKS[name]()
    state = net.state_dict()
    for tensor in state.values():
        tensor.fill_(0.25)
    assert all((parameter == 0.25).all() for parameter in net.parameters())
    kept = net.state_dict(keep_vars=True)
    torch.cat([tensor.flatten() for tensor in kept.values()]).sum().backward()
    for parameter in net.parameters():
        torch.testing.assert_close(parameter.grad, torch.ones_like(parameter))


@each_network
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_is_loaded_inside_of_another_module(name: str, assign: bool) -> None:
    model = nn.ModuleDict({"first": NETWORKS[name](), "second": nn.Sequential(NETWORKS[name]())})
    model.requires_grad_(False)
    state = other_state(model)
    assert f"second.0.mmgn_modules.{M - 1}.W" in state
    objects = list(model.parameters())
    assert str(model.load_state_dict(copy.deepcopy(state), assign=assign)) == "<All keys matched successfully>"
    assert_state(model, state)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(now is was for now, was in zip(model.parameters(), objects)) is not assign


def test_parameters_own_names_are_loaded_too() -> None:
    net, other = NETWORKS["weighted"](), NETWORKS["weighted"]()
    net.load_state_dict(dict(other.named_parameters()))
    assert_state(net, dict(other.state_dict()))


def test_missing_and_unexpected_parameters_are_named_module_by_module() -> None:
    net = NETWORKS["softmax"]()
    before, state = copy.deepcopy(net.state_dict()), other_state(net)
    changed = dict(state)
    for name in ("mmgn_modules.1.W", "mmgn_modules.0.b", "mmgn_modules.1.b", "mmgn_modules.2.b"):
        del changed[name]
    changed |= {"mmgn_modules.3.W": torch.zeros(H, D), "mmgn_modules.0.gate": torch.zeros(())}
    missing, unexpected = net.load_state_dict(changed, strict=False)
    assert set(missing) == state.keys() - changed.keys()
    assert set(unexpected) == changed.keys() - state.keys()
    assert_state(net, {name: (changed if name in changed else before)[name] for name in state})
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(changed)
    for name in changed.keys() ^ state.keys():
        assert f'"{name}"' in str(caught.value)
    with pytest.raises(RuntimeError, match=r"mmgn_modules\.W: expected all 3 modules' parts, got 2 of them; load"):
        net.load_state_dict(changed, strict=False, assign=True)


def test_a_part_of_another_form_is_named() -> None:
    net = NETWORKS["softmax"]()
    state: dict[str, Any] = other_state(net)
    before = copy.deepcopy(net.state_dict())
    state |= {"mmgn_modules.1.W": torch.zeros(H, D + 1), "mmgn_modules.2.b": "a word"}
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    errors = str(caught.value)
    assert "mmgn_modules.1.W: expected a tensor of shape (5, 2), got shape (5, 3); make the network" in errors
    assert "mmgn_modules.2.b: expected a tensor of shape (5,), got str; make the network" in errors
    assert torch.equal(net.mmgn_modules.W[0], before["mmgn_modules.0.W"])


def test_assigned_parameters_have_the_dtype_and_device_of_what_is_loaded() -> None:
    net = NETWORKS["weighted"](device="meta")
    state = NETWORKS["weighted"](dtype=torch.float64).state_dict()
    net.load_state_dict(state, assign=True)
    assert {(p.dtype, p.device.type, p.requires_grad) for p in net.parameters()} == {(torch.float64, "cpu", True)}
    assert_state(net, dict(state))


@each_network
def test_copies_conversions_and_pickles(name: str) -> None:
    net = NETWORKS[name]()
    x = torch.randn(4, D)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        assert repr(twin) == repr(net)
        with torch.no_grad():
            twin.mmgn_modules[0].W.zero_()
        assert not torch.equal(twin(x), net(x))
    assert "(mmgn_modules): StackedModules(3)" in repr(net)
    assert net.half().mmgn_modules[0].W.dtype == torch.float16
    empty, other = NETWORKS[name](device="meta").to_empty(device="cpu"), NETWORKS[name]()
    for made in (empty, other):
        torch.manual_seed(1)
        made.reset_parameters()
    assert_state(empty, dict(other.state_dict()))


@each_network
def test_parametrized_weights_keep_the_parametrizations_names(name: str) -> None:
    net, x = NETWORKS[name](), torch.randn(4, D)
    expected, names = net(x), list(net.state_dict())
    weight_norm(net.mmgn_modules, "W", dim=1)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net.mmgn_modules[1].W, net.mmgn_modules.W[1])
    assert "mmgn_modules.parametrizations.W.original0" in net.state_dict()
    assert "mmgn_modules.1.b" in net.state_dict()
    twin = NETWORKS[name]()
    weight_norm(twin.mmgn_modules, "W", dim=1)
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(twin(x), expected)
    remove_parametrizations(net.mmgn_modules, "W")
    assert sorted(net.state_dict()) == sorted(names)


def test_pruned_weights_keep_the_names_of_pruning() -> None:
    net, x = NETWORKS["softmax"](), torch.randn(4, D)
    names = sorted(net.state_dict())
    l1_unstructured(net.mmgn_modules, "W", amount=0.5)
    assert int((net.mmgn_modules.W == 0).sum()) == M * H * D // 2
    assert {"mmgn_modules.W_orig", "mmgn_modules.W_mask", "mmgn_modules.0.b"} <= net.state_dict().keys()
    twin = NETWORKS["softmax"]()
    l1_unstructured(twin.mmgn_modules, "W", amount=0.5)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x), net(x))
    remove(net.mmgn_modules, "W")
    assert sorted(net.state_dict()) == names


def test_a_call_takes_parameters_by_their_own_names_only() -> None:
    net, x = NETWORKS["softmax"](), torch.randn(4, D)
    assert torch.equal(functional_call(net, dict(net.named_parameters()), (x,)), net(x))
    with pytest.raises(TypeError, match=re.escape("ModuleView")):
        functional_call(net, net.state_dict(), (x,))
