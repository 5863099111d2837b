"""Conditional networks: for each context a gradient network, with the derivatives of its potential."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

import gradnets_fast as gf

F64 = torch.float64
NETWORKS: dict[str, Callable[[], gf.nn.GradNet]] = {
    "ridge": lambda: gf.RidgeGradNet(5, 8, "gelu", dtype=F64),
    "cascade": lambda: gf.mGradNetC(3, 5, 8, linear="psd", dtype=F64),
    "modules": lambda: gf.mGradNetM(3, 5, 4, dtype=F64),
    "deep": lambda: gf.DeepGradNet(5, (8, 8), "silu", input_skip=True, dtype=F64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_are_those_of_the_potential_in_x(name: str) -> None:
    net = gf.Conditional(NETWORKS[name](), context_dim=2)
    x, v, c = (torch.randn(6, n, dtype=F64) for n in (3, 3, 2))
    x.requires_grad_(), c.requires_grad_()
    F, f = net.value_and_gradient(x, c)
    torch.testing.assert_close(F, net.potential(x, c))
    torch.testing.assert_close(f, net(x, c))
    torch.testing.assert_close(f, torch.autograd.grad(F.sum(), x, create_graph=True)[0])
    J = vmap(jacrev(net))(x.detach(), c.detach())
    torch.testing.assert_close(net.jacobian(x, c), J)
    torch.testing.assert_close(net.jvp(x, v, c), (J @ v.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(net.divergence(x, c), J.diagonal(dim1=-2, dim2=-1).sum(-1))
    assert not net.monotone or torch.linalg.eigvalsh(J).min() > -1e-12
    net.divergence(x, c).sum().backward()
    assert c.grad is not None
    assert c.grad.isfinite().all()
    torch.testing.assert_close(net(x, c[0]), net(x, c[:1].expand(6, 2)))
    assert net(x[:0], c[:0]).shape == (0, 3)
    other = gf.Conditional(NETWORKS[name](), context_dim=2)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, c), net(x, c))


FIXED: dict[str, Callable[[], gf.nn.GradNet]] = {
    "ridge": lambda: gf.RidgeGradNet(5, 8, "weighted_tanh", linear="symmetric", dtype=F64),
    "heads": lambda: gf.mRidgeGradNet(5, 8, gf.Heads(3), dtype=F64),
    "spline": lambda: gf.RidgeGradNet(5, 8, gf.Spline(11, 2.0), dtype=F64),
    "cascade": lambda: gf.mGradNetC(3, 5, 8, "weighted_tanh", linear="psd", dtype=F64),
    "modules": lambda: gf.GradNetM(3, 5, 4, "weighted_softmax", linear="symmetric", dtype=F64),
    "transformed": lambda: gf.mGradNetM(3, 5, 4, "tanh", transform="half_square", linear="psd", dtype=F64),
    "soft maximum": lambda: gf.mGradNetM(3, 5, 4, combine="logsumexp", linear="psd", dtype=F64),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_context_that_is_fixed_leaves_a_network_of_x(name: str) -> None:
    net = gf.Conditional(FIXED[name](), context_dim=2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x, c = torch.randn(6, 3, dtype=F64), torch.randn(2, dtype=F64)
    alone = net.at(c)
    assert type(alone) is type(net.net)
    torch.testing.assert_close(alone(x), net(x, c))
    torch.testing.assert_close(alone.jacobian(x), net.jacobian(x, c))
    constant = alone.potential(x) - net.potential(x, c)
    torch.testing.assert_close(constant, constant[:1].expand(6))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    alone(x).sum().backward()
    assert all(p.grad is None for p in net.parameters())


def test_a_context_is_fixed_in_16_bits() -> None:
    net = gf.Conditional(gf.mGradNetC(2, 3, 8, linear="psd", dtype=torch.bfloat16), context_dim=1)
    x, c = torch.randn(5, 2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)
    torch.testing.assert_close(net.at(c)(x), net(x, c), rtol=0.05, atol=0.05)


def test_a_context_is_fixed_for_what_takes_networks_of_points(tmp_path: Path) -> None:
    net = gf.Conditional(gf.mGradNetC(2, 3, 8, linear="psd"), context_dim=1)
    alone, x = net.at(torch.ones(1)), torch.randn(5, 2)
    with torch.no_grad():
        alone.linear.V.add_(torch.eye(2))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(gf.convex.inverse(alone, alone(x).detach()).x, x, atol=1e-3, rtol=1e-3)
    gf.export.to_c(alone, tmp_path / "net.c")
    assert "points of 2 numbers" in (tmp_path / "net.c").read_text("utf-8")


IMAGES: dict[str, Callable[[], gf.ConvGradNet]] = {
    "one convolution": lambda: gf.mConvGradNet(2, 5, 3, "softplus", padding="circular", dtype=F64),
    "a composition": lambda: gf.ConvGradNet(2, 5, 3, gf.Heads(2), stages=[(3, 5)], dtype=F64),
}


def drawn(name: str) -> gf.ConditionalConv:
    net = gf.ConditionalConv(IMAGES[name](), context_dim=2)
    with torch.no_grad():
        net.A.normal_(), net.S.normal_()
    return net


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_channels_of_their_own(name: str) -> None:
    net, (x, v), c = drawn(name), torch.randn(2, 3, 2, 7, 6, dtype=F64), torch.randn(3, 2, dtype=F64)
    x.requires_grad_(), c.requires_grad_()
    F, f = net.value_and_gradient(x, c)
    torch.testing.assert_close(f, torch.autograd.grad(F.sum(), x, create_graph=True)[0])
    torch.testing.assert_close(net(x[1:2], c[1]), f[1:2])
    torch.testing.assert_close(net(x[:2].reshape(2, 1, 2, 7, 6), c[:2].unsqueeze(1)).squeeze(1), f[:2])
    assert net(x[:0], c[:0]).shape == (0, 2, 7, 6)
    assert net.potential(0 * x, c).abs().max() == 0
    for i in range(3):
        of_one = jacrev(lambda x, i=i: net(x, c[i].detach()))(x[i].detach()).reshape(84, 84)
        torch.testing.assert_close(net.jvp(x, v, c)[i].flatten(), of_one @ v[i].flatten())
        assert not net.monotone or torch.linalg.eigvalsh(of_one).min() > -1e-12
        torch.testing.assert_close(net.divergence(x, c)[i], of_one.trace())
    (f * v).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters() if p is not net.net.bias)


def test_the_context_stretches_and_shifts_what_the_activation_sees() -> None:
    net, x, c = drawn("one convolution"), torch.randn(3, 2, 7, 6, dtype=F64), torch.randn(3, 2, dtype=F64)
    K = net.net.K
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
    z = nn.functional.conv2d(padded, K)
    gain, shift = ((c @ net.A.T).exp(), c @ net.S.T + net.net.b)
    z = nn.functional.softplus(gain[..., None, None] * z + shift[..., None, None])
    flipped = K.flip(2, 3).transpose(0, 1)
    expected = nn.functional.conv2d(nn.functional.pad(z, (1, 1, 1, 1), mode="circular"), flipped)
    torch.testing.assert_close(net(x, c), expected + net.net.bias[:, None, None])
    fresh = gf.ConditionalConv(net.net, context_dim=2)
    torch.testing.assert_close(fresh(x, c), net.net(x))


def ones(batch: int) -> Tensor:
    return torch.ones(batch, 2, 5, 5, dtype=F64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gf.Conditional(nn.Linear(2, 2), 1), "net: expected a gradient network of points, got Linear"),
        (lambda: gf.Conditional(gf.RidgeGradNet(2, 3), 2), "context_dim: expected less than in_dim=2"),
        (lambda: gf.Conditional(gf.RidgeGradNet(3, 3), 0), "context_dim"),
        (
            lambda: gf.Conditional(gf.RidgeGradNet(3, 3), 1)(torch.ones(4, 3), torch.ones(4, 1)),
            "x: expected shape (…, 2)",
        ),
        (lambda: gf.Conditional(gf.RidgeGradNet(3, 3), 1)(torch.ones(4, 2), torch.ones(5, 1)), "broadcast to (4,)"),
        (
            lambda: gf.Conditional(gf.RidgeGradNet(3, 3), 1)(torch.ones(4, 2), torch.ones(1, dtype=F64)),
            "Conditional: c: expected torch.float32 on cpu like x, got torch.float64 on cpu",
        ),
        (
            lambda: gf.Conditional(gf.RidgeGradNet(3, 3), 1).jvp(torch.ones(4, 2), torch.ones(3, 2), torch.ones(1)),
            "Conditional: v: expected shape (…) of x = (4, 2), got shape (3, 2)",
        ),
        (lambda: gf.Conditional(gf.RidgeGradNet(3, 3), 1).at(torch.ones(2)), "c: expected shape (context_dim,)"),
        (
            lambda: gf.Conditional(gf.DeepGradNet(3, (3, 3)), 1).at(torch.ones(1)),
            "or their monotone kin, got DeepGradNet; pass x and c to the network itself",
        ),
        (lambda: gf.ConditionalConv(gf.RidgeGradNet(3, 3), 1), "net: expected a convolutional network"),
        (lambda: drawn("a composition")(ones(4), ones(4)[:3, :, 0, 0]), "c: expected shape (2,) or (4, 2)"),
        (lambda: drawn("a composition")(ones(4), ones(0)[:, :, 0, 0]), "c: expected shape (2,) or (4, 2)"),
        (lambda: drawn("a composition")(ones(4), torch.ones(2)), "c: expected torch.float64 on cpu like x"),
        (lambda: drawn("a composition")(ones(4).float(), torch.ones(2)), "dtype torch.float32 like x"),
        (lambda: drawn("one convolution").jvp(ones(4), ones(5), ones(4)[:, :, 0, 0]), "v: expected shape (…) of x"),
    ],
)
def test_bad_input(call: Callable[[], Tensor], words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert words in str(caught.value)
