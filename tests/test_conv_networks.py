"""ConvGradNet and mConvGradNet: compositions of convolutions, their norm, and what they collapse to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

import gradnets_fast as gf
from gradnets_fast import reference
from gradnets_fast.functional import adjoint, convolved
from gradnets_fast.nn.filter_norm import norm_of
from gradnets_fast.ops import recompute

NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "one convolution": ({"in_channels": 1, "channels": 6, "kernel_size": 5}, (15, 14)),
    "pictures": ({"in_channels": 1, "channels": 6, "kernel_size": 3, "stages": [(4, 5), (5, 3)]}, (22, 21)),
    "colours": ({"in_channels": 3, "channels": 5, "kernel_size": (3, 2), "stages": [(4, (2, 4))]}, (13, 12)),
    "signals": ({"in_channels": 1, "channels": 4, "kernel_size": (4,), "stages": [(2, 3)]}, (23,)),
    "volumes": ({"in_channels": 1, "channels": 3, "kernel_size": (2, 3, 2), "stages": [(2, 2)]}, (8, 9, 7)),
}
each_network = pytest.mark.parametrize("name", NETWORKS)
each_padding = pytest.mark.parametrize("padding", ["zeros", "circular"])


def made(name: str, monotone: bool = False, **options: Any) -> tuple[gf.ConvGradNet, Tensor]:
    """A network in float64, and images."""
    arguments, size = NETWORKS[name]
    net = (gf.mConvGradNet if monotone else gf.ConvGradNet)(**arguments, **options, dtype=torch.float64)
    return net, torch.randn(2, arguments["in_channels"], *size, dtype=torch.float64)


@each_padding
@each_network
def test_it_is_the_gradient_of_its_potential(name: str, padding: str) -> None:
    net, x = made(name, activation=gf.Spline(knots=9), padding=padding, centred="first", normalized=True)
    with torch.no_grad():
        net.act.values.normal_()
    x.requires_grad_()
    f = net(x)
    (by_autograd,) = torch.autograd.grad(net.potential(x).sum(), x, create_graph=True)
    torch.testing.assert_close(f, by_autograd)
    v = torch.randn_like(x)
    torch.testing.assert_close(net.jvp(x, v), torch.func.jvp(net, (x.detach(),), (v,))[1])
    (f * v).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with gf.use_backend("reference"):
        torch.testing.assert_close(net(x), f)


@each_padding
@pytest.mark.parametrize("name", ["pictures", "colours"])
def test_the_jacobian_is_symmetric_and_of_the_monotone_network_positive(name: str, padding: str) -> None:
    net, _ = made(name, monotone=True, activation=["tanh", "softplus"], padding=padding)
    x = torch.randn(net.in_channels, 7, 6, dtype=torch.float64)
    J = jacrev(net)(x).reshape(x.numel(), x.numel())
    torch.testing.assert_close(J, J.T, rtol=0, atol=1e-14)
    assert torch.linalg.eigvalsh(J).min() > -1e-12


@pytest.mark.parametrize("activation", ["tanh", gf.Heads(2, ["hardtanh", "softplus"]), gf.Spline(knots=5)])
@each_padding
@each_network
def test_the_divergence_is_the_trace_of_the_jacobian(name: str, padding: str, activation: object) -> None:
    """Of images as they are, and of such as the filters of all stages reach across, or no larger than the largest."""
    net, x = made(name, activation=activation, padding=padding, centred="first", normalized=True)
    filters = [*net.stages, net.K]
    x = x[(0, slice(None), *(slice(0, 16 if x.dim() == 4 else 6 if x.dim() == 5 else None),) * (x.dim() - 2))]
    smallest = [max(K.shape[i + 2] for K in filters) for i in range(x.dim() - 1)]
    for image in (x, x[(slice(None), *map(slice, smallest))]):
        J = jacrev(net)(image).reshape(image.numel(), image.numel())
        for backend in ("cpp", "reference"):
            with gf.use_backend(backend):
                torch.testing.assert_close(net.divergence(image), J.trace(), rtol=1e-12, atol=1e-12)


def test_the_divergence_has_hidden_values_of_a_piece_of_the_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = made("pictures")
    expected = torch.autograd.grad(net.divergence(x).sum(), list(net.parameters()), materialize_grads=True)
    formula, images = reference.conv_trace_divergence, []
    monkeypatch.setattr(recompute, "VALUES", 2 * net.channels * x[0].numel())
    monkeypatch.setattr(
        reference, "conv_trace_divergence", lambda x, *rest, **more: images.append(len(x)) or formula(x, *rest, **more)
    )
    several = net.divergence(x.repeat(3, 1, 1, 1)).sum() / 3
    got = torch.autograd.grad(several, list(net.parameters()), materialize_grads=True)
    torch.testing.assert_close(got, expected)
    assert images == [2] * 6


@pytest.mark.parametrize("name", ["one convolution", "pictures", "colours", "signals"])
def test_the_norm_of_the_filters(name: str) -> None:
    net, x = made(name, activation="identity", padding="circular", normalized=True)
    torch.testing.assert_close(net.filter_norm(), torch.ones((), dtype=torch.float64))
    free, _ = made(name, activation="identity", padding="circular")
    side = 8 if name == "signals" else 16  # which divides the grid of waves
    x = torch.randn(1, free.in_channels, *[side] * (x.dim() - 2), dtype=torch.float64)
    matrix = jacrev(lambda x: free(x) - free(0 * x))(x).reshape(x.numel(), x.numel())
    norm = torch.linalg.matrix_norm(matrix, 2).sqrt().item()
    assert norm <= free.filter_norm().item() * (1 + 1e-12)
    assert norm > 0.8 * free.filter_norm().item()


@each_network
def test_the_norm_is_the_largest_singular_value_of_all_waves(name: str) -> None:
    free, _ = made(name, activation="identity")
    filters = [*free.stages, free.K]
    dims = list(range(2, filters[0].dim()))
    grid = {3: 64}.get(len(dims), 256)

    def by_complex_numbers(*filters: Tensor) -> Tensor:
        product = torch.eye(free.in_channels, dtype=torch.complex128)[(..., *[None] * len(dims))]
        for K in filters:
            waves = torch.fft.fftn(K, [grid] * len(dims), dims)
            product = torch.einsum("ab...,bc...->ac...", waves, product)
        return torch.linalg.matrix_norm(product.flatten(2).movedim(-1, 0), 2).max()

    def derivatives(norm: Callable[..., Tensor]) -> list[Tensor]:
        value = norm(*filters)
        first = torch.autograd.grad(value, filters, create_graph=True)
        second = torch.autograd.grad(sum((d * d.cos()).sum() for d in first), filters)
        return [value, *first, *second]

    torch.testing.assert_close(derivatives(lambda *K: norm_of(list(K))), derivatives(by_complex_numbers))


@each_network
def test_zeros_make_the_norm_of_one_convolution_no_larger(name: str) -> None:
    arguments, size = NETWORKS[name]
    net = gf.ConvGradNet(**{**arguments, "stages": ()}, activation="identity", normalized=True, dtype=torch.float64)
    v = torch.randn(1, arguments["in_channels"], *size, dtype=torch.float64)
    for _ in range(50):
        v = net.jvp(v, v)
        v, length = v / v.norm(), v.norm().item()
    assert length <= 1 + 1e-12


@each_padding
@each_network
def test_collapse(name: str, padding: str) -> None:
    net, x = made(name, activation=gf.Spline(knots=5), padding=padding, centred="all", normalized=True)
    single = net.collapse()
    assert not single.stages
    f, collapsed = net(x), single(x)
    if padding == "circular":
        torch.testing.assert_close(collapsed, f)
        torch.testing.assert_close(single.potential(x), net.potential(x))
        return
    reach = [k - 1 for k in single.kernel_size]
    inside = (..., *(slice(r, n - r) for r, n in zip(reach, x.shape[2:])))
    assert f[inside].numel() > 0 or name == "volumes"
    torch.testing.assert_close(collapsed[inside], f[inside])
    assert len(net.stages) == 0 or not torch.allclose(collapsed, f)


def test_centred_filters_do_not_see_constants() -> None:
    for centred, expected in (("none", False), ("first", True), ("all", True)):
        net, x = made("pictures", activation="tanh", padding="circular", centred=centred)
        torch.testing.assert_close(net(x + 1), net(x)) if expected else None
        assert torch.allclose(net(x + 1), net(x)) == expected
        means = [K.mean(tuple(range(1, K.dim()))).abs().max() < 1e-12 for K in net.filters()]
        assert sum(means) == {"none": 0, "first": 1, "all": 3}[centred]


@each_padding
def test_adjoint(padding: str) -> None:
    for shape, size in (((4, 2, 5), (9,)), ((3, 2, 4, 3), (6, 7)), ((2, 3, 2, 3, 4), (5, 4, 6))):
        K = torch.randn(shape, dtype=torch.float64)
        x, y = (torch.randn(2, channels, *size, dtype=torch.float64) for channels in (shape[1], shape[0]))
        along = (convolved(x, K, padding) * y).sum(), (x * adjoint(y, K, padding)).sum()
        torch.testing.assert_close(*along)


def test_copies_and_checkpoints() -> None:
    net, x = made("colours", activation=gf.Spline(shared=True), normalized=True)
    for other in (copy.deepcopy(net), made("colours", activation=gf.Spline(shared=True), normalized=True)[0]):
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(x), net(x))
    assert "stages=[(4, (2, 4))], normalized=True" in repr(net)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gf.ConvGradNet(1, 4, 0), "kernel_size: expected a positive integer"),
        (lambda: gf.ConvGradNet(1, 4, (3,) * 4), "kernel_size: expected one to three sizes, got 4"),
        (lambda: gf.ConvGradNet(1, 4, 3, padding="reflect"), "padding: expected one of zeros, circular"),
        (lambda: gf.ConvGradNet(1, 4, 3, centred="last"), "centred: expected one of none, first, all"),
        (lambda: gf.ConvGradNet(1, 4, 3, stages=[4]), "stages: expected pairs of channels and a filter's size, got 4"),
        (lambda: gf.ConvGradNet(1, 4, 3, stages=[(4, (3,))]), "stages: expected filters of 2 dimensions, got (3,)"),
        (lambda: gf.mConvGradNet(1, 4, 3, "sin"), "activation: expected nondecreasing functions"),
        (lambda: gf.ConvGradNet(1, 4, 3)(torch.zeros(2, 3, 8, 8)), "x: expected shape (…, 1, n_1, n_2)"),
        (lambda: gf.ConvGradNet(1, 4, 3, stages=[(2, 3)])(torch.zeros(2, 3, 8, 8)), "x: expected shape (…, 1, n_1"),
        (lambda: gf.ConvGradNet(1, 4, 9, padding="circular")(torch.zeros(1, 8, 8)), "filters of at most (8, 8)"),
        (lambda: gf.ConvGradNet(1, 4, 3).jacobian(torch.zeros(1, 8, 8)), "got the Jacobian"),
    ],
)
def test_bad_input(make: Callable[[], object], words: str) -> None:
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as caught:
        make()
    assert words in str(caught.value)


@each_padding
@each_network
def test_pruning_leaves_out_what_does_nothing_and_nothing_else(name: str, padding: str) -> None:
    for activation in ("tanh", gf.Spline(knots=5), gf.Spline(knots=5, shared=True), gf.Heads(2, ["tanh", "softplus"])):
        net, x = made(name, activation=activation, padding=padding, normalized=True)
        profiles = dict(net.act.named_parameters()).get("values", getattr(net.act, "weight", None))
        of_each = profiles is not None and profiles.shape[-1] == net.channels
        with torch.no_grad():
            net.K[1].zero_()
            for K, following in zip(net.stages, (*net.stages[1:], net.K)):
                following[:, : len(K) // 2] = 0
            if of_each:
                profiles[..., 2].zero_()
        pruned = net.prune()
        assert pruned.channels == net.channels - 1 - of_each
        assert [len(K) for K in pruned.stages] == [len(K) - len(K) // 2 for K in net.stages]
        torch.testing.assert_close(pruned(x), net(x))
        torch.testing.assert_close(pruned.potential(x), net.potential(x))
        assert pruned.prune().channels == pruned.channels
    assert net.prune(1e9).channels == 1
