"""Heads in parallel in place of layers in series: values and every derivative, beside the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from covering import in_turn
from oracle import Function, assert_as_good_as_eager, outputs_and_gradients
from test_operators import DTYPES

QUANTITIES = ("value", "jvp", "potential", "divergence", "jacobian")
SIZES = [(5, 1, 3, 2), (97, 3, 65, 1), (40, 33, 130, 3), (64, 130, 20, 2), (600, 2, 5, 5)]
"""(batch, d, h, R)."""
BASES = [("tanh",), ("hardtanh",), ("hardsigmoid", "softplus"), ("sin", "identity")]
Draw = tuple[list[Tensor], Tensor]


def draw(size: tuple[int, int, int, int], terms: int, dtype: torch.dtype, quantity: str) -> Draw:
    """x, v of J v, W, scale, shift, coef and bias; and a gradient of the result."""
    batch, d, h, heads = size
    shapes = [(batch, d)] * (1 + (quantity == "jvp")) + [(h, d), (heads, h), (heads, h), (heads, terms, h), (d,)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    tensors[-5] /= d**0.5
    tensors[-4] += tensors[-4].sign() / 2  # closed forms of potentials cancel for scales near 0
    vectors = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    tensors = [t.to(dtype if i < len(tensors) - 4 else vectors) for i, t in enumerate(tensors)]
    result = {"value": (d,), "jvp": (d,), "jacobian": (d, d)}.get(quantity, ())
    return tensors, (torch.randn(batch, *result, dtype=torch.float64) / 16).to(dtype)


def function(quantity: str, basis: tuple[str, ...], backend: str) -> Function:
    operator = getattr(gf, "ridge" if quantity == "value" else f"ridge_{quantity}")
    return lambda t: operator(*t, basis=basis, heads=True, backend=backend)


@in_turn("quantity, size, basis, dtype", DTYPES, QUANTITIES, SIZES, BASES, few=2)
def test_values_and_gradients(
    quantity: str, size: tuple[int, int, int, int], dtype: torch.dtype, basis: tuple[str, ...]
) -> None:
    tensors, g = draw(size, len(basis), dtype, quantity)
    exact = function(quantity, basis, "reference")
    truth = outputs_and_gradients(exact, [t.double() for t in tensors], g.double())
    eager = outputs_and_gradients(exact, tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(function(quantity, basis, "cpp"), tensors, g), eager, truth)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_heads_are_a_sum_of_networks_of_one_layer(quantity: str, backend: str) -> None:
    basis = ("tanh", "softplus")
    tensors, _ = draw((4, 2, 6, 3), 2, torch.float64, quantity)
    *points, W, scale, shift, coef, _ = (t.requires_grad_() for t in tensors)
    operator = getattr(gf, "ridge" if quantity == "value" else f"ridge_{quantity}")
    of_heads = [
        operator(*points, W, scale[i : i + 1], shift[i : i + 1], coef[i : i + 1], None, basis, backend=backend)
        for i in range(3)
    ]
    together = operator(*points, W, scale, shift, coef, None, basis, heads=True, backend=backend)
    torch.testing.assert_close(together, sum(of_heads))
    inputs = [*points, W, scale, shift, coef]
    got, expected = (
        torch.autograd.grad(f.sin().sum(), inputs, materialize_grads=True) for f in (together, sum(of_heads))
    )
    torch.testing.assert_close(got, expected)
    leaves = [t.detach().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: function(quantity, basis, backend)(t), leaves, fast_mode=True)


@in_turn("quantity, basis, dtype", DTYPES, ("value", "jvp", "potential", "divergence"), BASES)
def test_convolutions_have_them_too(quantity: str, dtype: torch.dtype, basis: tuple[str, ...]) -> None:
    vectors = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    points = [torch.randn(2, 2, 9, 7, dtype=dtype) for _ in range(1 + (quantity == "jvp"))]
    K = torch.randn(5, 2, 3, 4, dtype=dtype) / 4
    tensors = [*points, K, *(torch.randn(s, dtype=vectors) for s in ((3, 5), (3, 5), (3, len(basis), 5), (2,)))]
    tensors[-4] += tensors[-4].sign() / 2  # as in `draw`
    operator = getattr(gf, "conv_ridge" if quantity == "value" else f"conv_ridge_{quantity}")

    def of(backend: str) -> Function:
        return lambda t: operator(*t, basis=basis, padding="circular", heads=True, backend=backend)

    g = torch.randn(of("reference")(tensors).shape).to(dtype) / 4
    truth = outputs_and_gradients(of("reference"), [t.double() for t in tensors], g.double())
    eager = outputs_and_gradients(of("reference"), tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(of("cpp"), tensors, g), eager, truth)


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", [gf.RidgeGradNet, gf.mRidgeGradNet])
def test_networks(network: type[gf.RidgeGradNet], compiler: str) -> None:
    net = network(3, 8, gf.Heads(4, ["hardtanh", "softplus"]), dtype=torch.float64)
    x = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    f, (scale, shift, coef) = net(x), net.act.cascade(net.b)
    assert scale is not None
    assert coef is not None
    z = scale * (x @ net.W.T).unsqueeze(1) + shift
    each = coef[:, 0] * z.clamp(-1, 1) + coef[:, 1] * torch.nn.functional.softplus(z)
    torch.testing.assert_close(f, each.sum(1) @ net.W + net.bias)
    (by_autograd,) = torch.autograd.grad(net.potential(x).sum(), x, create_graph=True)
    torch.testing.assert_close(f, by_autograd)
    assert not net.monotone or torch.linalg.eigvalsh(net.jacobian(x)).min() > -1e-12
    f.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    other = network(3, 8, gf.Heads(4, ("hardtanh", "softplus")), dtype=torch.float64)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    assert "Heads(4, hardtanh + softplus)" in repr(net)
    compiled = torch.compile(net, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(x), f)


def test_images() -> None:
    net = gf.mConvGradNet(1, 6, 3, gf.Heads(2, "hardtanh"), dtype=torch.float64)
    x = torch.randn(2, 1, 8, 9, dtype=torch.float64, requires_grad=True)
    (by_autograd,) = torch.autograd.grad(net.potential(x).sum(), x)
    torch.testing.assert_close(net(x), by_autograd)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 1}, "heads: expected True or False, got 1"),
        ({"basis": "spline"}, "heads: expected False where basis is 'spline'"),
    ],
)
def test_bad_input(changes: dict[str, object], words: str) -> None:
    good = {"W": torch.ones(4, 2), "scale": None, "shift": torch.zeros(2, 4), "coef": None, "heads": True}
    with pytest.raises((TypeError, ValueError)) as caught:
        gf.ridge(torch.ones(3, 2), **{**good, **changes})  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("network", "heads", "words"),
    [
        (gf.RidgeGradNet, (0,), "count: expected"),
        (gf.RidgeGradNet, (2, ()), "basis: expected a name, or several"),
        (gf.RidgeGradNet, (2, "clip"), "activation: expected one of identity"),
        (gf.mRidgeGradNet, (2, "sin"), "activation: expected nondecreasing functions"),
        (gf.GradNetC, (2,), "use RidgeGradNet"),
    ],
)
def test_bad_heads(network: type[gf.nn.GradNet], heads: tuple[object, ...], words: str) -> None:
    sizes = (2, 2, 3) if network is gf.GradNetC else (2, 3)
    with pytest.raises((TypeError, ValueError)) as caught:
        network(*sizes, gf.Heads(*heads))  # type: ignore[arg-type]
    assert words in str(caught.value)
