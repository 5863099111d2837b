"""The derivatives of operators by their definitions, in low precision and where slopes are constant."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor

import gradnets_fast
from test_operators import CALLS

FAMILIES = {"ridge": CALLS[0], "softmax_modules": CALLS[4], "transformed_modules": CALLS[5]}
each_family = pytest.mark.parametrize("family", FAMILIES)


def derivatives_of(family: str, x: Tensor, v: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """J(x) v, tr J(x) and J(x)."""
    points = {"jvp": (x, v), "divergence": (x,), "jacobian": (x,)}
    return [getattr(gradnets_fast, f"{family}_{name}")(*p, *parameters) for name, p in points.items()]


@each_family
def test_the_definitions_in_the_docstrings(family: str) -> None:
    x, *parameters = FAMILIES[family].draw(8, 3, 5)
    if family != "ridge":
        parameters = [p[:1] for p in parameters[:-1]] + parameters[-1:]
    if family == "softmax_modules":
        parameters[4] = torch.zeros_like(parameters[4])
    v = torch.randn(8, 3, dtype=torch.float64)
    for name, ours in zip(("jvp", "divergence", "jacobian"), derivatives_of(family, x, v, parameters)):
        function = getattr(gradnets_fast, f"{family}_{name}")
        arguments = [a for a in inspect.signature(function).parameters if a not in ("v", "x")]
        text = inspect.cleandoc(function.__doc__).split("Equivalent to")[1].split(":\n", 1)[1].split("\n\n")[0]
        *statements, result = textwrap.dedent(text).splitlines()
        names = {"torch": torch, "x": x, "v": v, "log_cosh": lambda z: torch.log(torch.cosh(z))}
        names |= dict(zip(arguments, parameters))
        exec("\n".join(statements), names)
        torch.testing.assert_close(ours, eval(result, names))


@each_family
def test_derivatives_in_half_precision_with_float32_vectors(family: str) -> None:
    x, W, *vectors = FAMILIES[family].draw(10, 4, 8)
    v = torch.randn(10, 4, dtype=torch.float64)
    for dtype in (torch.bfloat16, torch.float16):
        halves = [t.to(dtype) for t in (x, v, W)]
        exact = derivatives_of(family, *(t.double() for t in halves[:2]), [halves[2].double(), *vectors])
        for kind in (dtype, torch.float32):
            ours = derivatives_of(family, *halves[:2], [halves[2], *(t.to(kind) for t in vectors)])
            for got, truth in zip(ours, exact):
                assert got.dtype == dtype
                assert (got.double() - truth).abs().max() < 0.05 * truth.abs().max()


@pytest.mark.parametrize("linear", ["psd", "symmetric"])
def test_autocast_of_derivatives(linear: str) -> None:
    net = gradnets_fast.GradNetC(2, 3, 8, linear=linear)
    x, v = torch.randn(10, 3), torch.randn(10, 3)
    for name, points in (("jvp", (x, v)), ("divergence", (x,)), ("jacobian", (x,))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = getattr(net, name)(*points)
        assert low.dtype == torch.bfloat16
        expected = getattr(net, name)(*points)
        assert (low.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_derivatives_of_constant_slopes_have_zero_gradients_rather_than_none() -> None:
    for basis in ("identity", "relu", "softshrink", "hardtanh", "hardsigmoid"):
        net = gradnets_fast.RidgeGradNet(2, 3, basis)
        x = torch.randn(4, 2, requires_grad=True)
        for result in (net.jvp(x, torch.ones(4, 2)), net.divergence(x), net.jacobian(x)):
            assert not torch.autograd.grad(result.sum(), x)[0].any()


@pytest.mark.parametrize(
    ("quantity", "backend"),
    [
        pytest.param(*case, marks=pytest.mark.slow if case == ("_potential", "triton") else [])
        for case in product(["", "_potential", "_divergence", "_jacobian"], ["reference", "cpp", "triton"])
    ],
)
def test_no_coefficients_stand_for_ones_of_every_basis_function(quantity: str, backend: str) -> None:
    x, W, shift = torch.randn(5, 3), torch.randn(4, 3), torch.randn(2, 4)
    operator, basis = getattr(gradnets_fast, f"ridge{quantity}"), ("tanh", "softplus")
    expected = operator(x, W, None, shift, torch.ones(2, 2, 4), None, basis, backend=backend)
    torch.testing.assert_close(operator(x, W, None, shift, None, None, basis, backend=backend), expected)
