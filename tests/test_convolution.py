"""Convolutions without a function between them, the stages of a composition: values and derivatives, twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import gradnets_fast as gf
from covering import in_turn, slow_but
from gradnets_fast.functional import adjoint, convolved
from gradnets_fast.ops import _cpp
from oracle import Function, assert_as_good_as_eager, outputs_and_gradients, second_gradients
from test_operators import DTYPES

SHAPES: list[tuple[int, int, int, tuple[int, ...], tuple[int, ...]]] = [
    (2, 1, 4, (40, 30), (5, 5)),
    (1, 4, 8, (37, 100), (5, 5)),
    (3, 3, 7, (9, 6), (3, 2)),
    (2, 2, 1, (130,), (4,)),
    (1, 1, 13, (3, 4), (3, 4)),
    (1, 20, 3, (5, 6, 7), (2, 3, 3)),
    (0, 2, 3, (5, 6), (3, 3)),
]
"""(B, C_in, C, sizes, filter)."""
OPERATORS = {"convolved": convolved, "adjoint": adjoint}


def draw(shape: tuple[int, int, int, tuple[int, ...], tuple[int, ...]], which: str) -> tuple[list[Tensor], Tensor]:
    """Images and filters, and a gradient of the result, in float64."""
    batch, c_in, c, sizes, filters = shape
    of_x, of_y = (batch, c_in, *sizes), (batch, c, *sizes)
    images, result = (of_x, of_y) if which == "convolved" else (of_y, of_x)
    K = torch.randn(c, c_in, *filters, dtype=torch.float64) / c_in**0.5
    return [torch.randn(images, dtype=torch.float64), K], torch.randn(result, dtype=torch.float64) / 8


def function(which: str, padding: str, backend: str) -> Function:
    return lambda t: OPERATORS[which](t[0], t[1], padding, backend)


@in_turn("which, padding, shape, dtype", DTYPES, list(OPERATORS), ["zeros", "circular"], SHAPES)
def test_values_and_gradients(
    which: str, padding: str, shape: tuple[int, int, int, tuple[int, ...], tuple[int, ...]], dtype: torch.dtype
) -> None:
    tensors, g = draw(shape, which)
    low, of_result = [t.to(dtype) for t in tensors], g.to(dtype)
    exact, ours = function(which, padding, "reference"), function(which, padding, "cpp")
    for derivatives in (outputs_and_gradients, second_gradients):
        truth = derivatives(exact, [t.double() for t in low], of_result.double())
        eager = derivatives(exact, low, of_result)
        assert_as_good_as_eager(derivatives(ours, low, of_result), eager, truth)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_they_are_adjoint_and_every_derivative_is_a_kernels(padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (x, K), y = draw(SHAPES[2], "convolved")
    torch.testing.assert_close((convolved(x, K, padding) * y).sum(), (x * adjoint(y, K, padding)).sum())
    called: list[str] = []
    kernel = _cpp.linear_convolution
    monkeypatch.setattr(_cpp, "linear_convolution", lambda which, *rest: called.append(which) or kernel(which, *rest))
    for f, of in ((convolved, x), (adjoint, y)):
        leaves = [of.clone().requires_grad_(), K.clone().requires_grad_()]
        assert torch.autograd.gradcheck(lambda t, K, f=f: f(t, K, padding), leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda t, K, f=f: f(t, K, padding), leaves, fast_mode=True)
    assert {*called} == {"convolved", "adjoint", "filters"}


def test_strides_threads_and_other_images_do_not_change_a_bit() -> None:
    (x, K), g = draw((3, 4, 8, (61, 50), (5, 5)), "convolved")
    x, K, g = x.float(), K.float(), g.float()
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(function("convolved", "zeros", "cpp"), [x, K], g))
    finally:
        torch.set_num_threads(threads)
    strided = [x.transpose(2, 3).contiguous().transpose(2, 3), K.flip(0).flip(0)]
    results.append(outputs_and_gradients(function("convolved", "zeros", "cpp"), strided, g))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))
    assert torch.equal(convolved(x[1:2], K, "zeros"), convolved(x, K, "zeros")[1:2])
    expanded = torch.autograd.grad(convolved(x.requires_grad_(), K, "circular").sum(), x)
    torch.testing.assert_close(expanded[0], adjoint(torch.ones_like(g), K, "circular"))


@pytest.mark.parametrize("compiler", slow_but(["aot_eager"], ["aot_eager", "inductor"]))
def test_transforms_and_compilers_take_pytorchs_convolutions(compiler: str) -> None:
    torch.compiler.reset()
    (x, K), g = draw(SHAPES[2], "convolved")

    def loss(K: Tensor) -> Tensor:
        return (convolved(x, K, "zeros") * g).sum()

    several = torch.stack([K, 2 * K])
    expected = torch.stack([torch.autograd.functional.jacobian(loss, k) for k in several])
    torch.testing.assert_close(vmap(grad(loss))(several), expected)
    compiled, adjoint_compiled = (torch.compile(f, fullgraph=True, backend=compiler) for f in (loss, adjoint))
    torch.testing.assert_close(compiled(K), loss(K))
    torch.testing.assert_close(adjoint_compiled(g, K, "circular"), adjoint(g, K, "circular"))
    tangent = torch.func.jvp(lambda x: adjoint(x, K, "circular"), (g,), (g,))[1]
    torch.testing.assert_close(tangent, adjoint(g, K, "circular"))
    batched = torch.autograd.grad(
        convolved(x.requires_grad_(), K, "zeros"), x, torch.stack([g, -g]), is_grads_batched=True
    )[0]
    torch.testing.assert_close(batched[0], -batched[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolved(x.float(), K.float(), "zeros").dtype == torch.bfloat16


def test_a_stage_that_does_not_fit_is_named() -> None:
    net = gf.ConvGradNet(1, 4, 3, stages=[(2, 3), (3, 7)], padding="circular")
    with pytest.raises(ValueError, match=r"K: expected filters of at most \(6, 6\)"):
        net(torch.zeros(1, 1, 6, 6))
    with pytest.raises(ValueError, match=r"conv_ridge_jvp: v: expected shape .* of x = \(1, 1, 9, 9\)"):
        net.jvp(torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 8))
