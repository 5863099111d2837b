"""What every architecture promises, of convolutional networks, whose points are images."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import pytest
import torch
from test_conv_networks import NETWORKS, each_network, each_padding, made
from torch import Tensor
from torch.func import functional_call, grad, vmap

import gradnets_fast as gf
from covering import in_turn
from oracle import Function, assert_as_good_as_eager, outputs_and_gradients
from test_operators import DTYPES

ACTIVATIONS = ["tanh", ["softplus", "hardtanh"], gf.Spline(knots=5), gf.Heads(2)]
METHODS = ("forward", "potential", "jvp", "divergence")


def function(net: gf.ConvGradNet, name: str, backend: str) -> Function:
    """(parameters …, points …) -> the result of a method."""
    names, method = [n for n, _ in net.named_parameters()], getattr(net, name)

    class Method(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, *points: Tensor) -> Tensor:
            result: Tensor = method(*points)
            return result

    def call(tensors: Sequence[Tensor]) -> Tensor:
        given = {f"net.{n}": t for n, t in zip(names, tensors)}
        with gf.use_backend(backend):
            result: Tensor = functional_call(Method(), given, tuple(tensors[len(names) :]))
        return result

    return call


@in_turn(
    "name, padding, method, activation, dtype", DTYPES, list(NETWORKS), ["zeros", "circular"], METHODS, ACTIVATIONS
)
def test_values_and_gradients_match_plain_pytorch(
    name: str, padding: str, method: str, activation: object, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    net, x = made(name, activation=activation, padding=padding, centred="first", normalized=dtype == torch.float64)
    points = [x, torch.randn_like(x)][: 1 + (method == "jvp")]
    tensors = [t.detach().to(dtype) for t in (*net.parameters(), *points)]
    g = torch.randn(len(x) if method in ("potential", "divergence") else x.shape, dtype=torch.float64).to(dtype) / 8
    exact, ours = function(net, method, "reference"), function(net, method, "cpp")
    truth = outputs_and_gradients(exact, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(exact, tensors, g), truth)


@pytest.mark.parametrize("method", ["forward", "divergence"])
@each_padding
def test_gradcheck_and_gradgradcheck(padding: str, method: str) -> None:
    net = gf.ConvGradNet(1, 3, (3, 2), ["tanh", "sin"], stages=[(2, 2)], padding=padding, dtype=torch.float64)
    tensors = [t.detach().requires_grad_() for t in (*net.parameters(), torch.randn(2, 1, 4, 3, dtype=torch.float64))]
    call = function(net, method, "cpp")
    assert torch.autograd.gradcheck(lambda *t: call(t), tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: call(t), tensors, fast_mode=True)


@each_network
def test_state_dict_pickle_and_copy_round_trip(name: str) -> None:
    net, x = made(name, activation=gf.Heads(2), centred="all", normalized=True)
    other, _ = made(name, activation=gf.Heads(2), centred="all", normalized=True)
    other.load_state_dict(net.state_dict())
    for again in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(x), net(x))


@each_network
def test_shapes_strides_and_the_empty_batch(name: str) -> None:
    net, x = made(name)
    f = net(x)
    assert torch.equal(net(x.transpose(-1, 0).contiguous().transpose(-1, 0)), f)
    torch.testing.assert_close(net(x.unsqueeze(1)), f.unsqueeze(1))
    torch.testing.assert_close(net(x[0]), f[0])
    torch.testing.assert_close(net(x[:1].expand(3, *x.shape[1:])), f[:1].expand(3, *x.shape[1:]))
    assert net(x[:0]).shape == x[:0].shape
    assert net.potential(x[:0]).shape == net.divergence(x[:0]).shape == (0,)
    assert net.jvp(x[:0], x[:0]).shape == x[:0].shape
    with pytest.raises(NotImplementedError, match="take the product with a vector, jvp"):
        net.jacobian(x)


@each_network
def test_not_a_number_stays_in_its_image(name: str) -> None:
    net, x = made(name, activation="relu")
    f = net(x)
    x[1].view(-1)[3] = torch.nan
    got = net(x)
    assert torch.equal(got[0], f[0])
    assert got[1].isnan().any()
    assert net.potential(x).isnan().tolist() == [False, True]
    assert not net.jvp(x, torch.ones_like(x))[0].isnan().any()


@pytest.mark.parametrize(
    ("name", "compiler"),
    [
        pytest.param("one convolution", "inductor", marks=pytest.mark.slow),
        ("pictures", "aot_eager"),
        ("colours", "aot_eager"),
    ],
)
def test_compilers_and_transforms(name: str, compiler: str) -> None:
    torch.compiler.reset()
    net, x = made(name, activation=gf.Heads(2), centred="all", normalized=True)
    f = net(x)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend=compiler)(x), f)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), f)
    parameters = {n: p.detach() for n, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, parameters, (x,)).square().sum()

    f.square().sum().backward()
    for n, of_function in grad(loss)(parameters, x).items():
        torch.testing.assert_close(of_function, net.get_parameter(n).grad)
    of_each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for n, gradients in of_each.items():
        torch.testing.assert_close(gradients.sum(0), net.get_parameter(n).grad)
    torch.testing.assert_close(vmap(net)(x), f)
    torch.testing.assert_close(vmap(net.divergence)(x), net.divergence(x))
    several = {n: torch.stack([p, p.flip(0)]) for n, p in parameters.items()}
    of_all = vmap(lambda parameters: functional_call(net, parameters, (x,)))(several)
    torch.testing.assert_close(of_all[0], f)
    torch.testing.assert_close(of_all[1], functional_call(net, {n: t[1] for n, t in several.items()}, (x,)))


@pytest.mark.parametrize("name", ["pictures", "colours"])
def test_the_norm_follows_its_filters(name: str) -> None:
    """However they are changed: a norm that was kept from before would show."""
    net, x = made(name, activation=gf.Heads(2), normalized=True)
    net.eval()
    other, _ = made(name, activation=gf.Heads(2), normalized=True)
    with torch.no_grad():
        net(x)
        state = {n: 2 * p for n, p in other.state_dict().items()}
        expected = functional_call(net, state, (x,))
        for p, now in zip(net.parameters(), state.values()):
            p.data.copy_(now)
        torch.testing.assert_close(net(x), expected)
        net.load_state_dict(other.state_dict())
        torch.testing.assert_close(net(x), other(x))
        half = net.to(torch.bfloat16)(x.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.double(), other(x), rtol=0.05, atol=0.05)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(other.float().filter_norm(), torch.ones(()), rtol=1e-5, atol=0)
