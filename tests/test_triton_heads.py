"""Heads in parallel by the Triton kernels, in Triton's interpreter: every quantity and gradient against float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from test_conv import Call, Size, tensors_for
from test_heads import BASES, QUANTITIES, draw, function
from torch import Tensor

import gradnets_fast as gf
from covering import in_turn
from gradnets_fast.kernels import launching
from gradnets_fast.ops import _triton
from gradnets_fast.ops.families import Settings
from oracle import (
    Function,
    assert_as_good_as_eager,
    assert_each_gradient_alone,
    outputs_and_gradients,
    second_gradients,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(5, 3, 7, 2), (9, 20, 35, 3), (4, 260, 5, 2)]
"""(batch, d, h, R) of the narrow, the fused and the wide route; other quantities than f have the fused one alone."""


def check(quantity: str, basis: tuple[str, ...], tensors: list[Tensor], g: Tensor) -> None:
    exact = function(quantity, basis, "reference")
    truth = outputs_and_gradients(exact, [t.double() for t in tensors], g.double())
    eager = outputs_and_gradients(exact, tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(function(quantity, basis, "triton"), tensors, g), eager, truth)


@in_turn("quantity, size, basis, dtype", DTYPES, QUANTITIES, SIZES, BASES, few=1)
def test_values_and_gradients(
    quantity: str, size: tuple[int, int, int, int], dtype: torch.dtype, basis: tuple[str, ...]
) -> None:
    check(quantity, basis, *draw(size, len(basis), dtype, quantity))


@in_turn("quantity, basis, dtype", DTYPES, QUANTITIES[:4], BASES, few=1)
def test_convolutions(quantity: str, basis: tuple[str, ...], dtype: torch.dtype) -> None:
    call = Call(3, basis, "circular")
    tensors, g = tensors_for(quantity, call, Size(2, 2, (6, 5), 5, (4, 3)), dtype)
    tensors[-4] += tensors[-4].sign() / 2  # closed forms of potentials with kinks cancel for scales near 0
    operator = getattr(gf, "conv_ridge" if quantity == "value" else f"conv_ridge_{quantity}")

    def of(backend: str) -> Function:
        return lambda t: operator(*t, basis=basis, padding="circular", heads=True, backend=backend)

    truth = outputs_and_gradients(of("reference"), [t.double() for t in tensors], g.double())
    eager = outputs_and_gradients(of("reference"), tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(of("triton"), tensors, g), eager, truth)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_what_is_left_out_is_ones_and_only_what_is_needed_gets_a_gradient(quantity: str) -> None:
    tensors, g = draw((6, 5, 9, 3), 2, torch.float32, quantity)
    ours, (*points, W, scale, shift, coef, bias) = function(quantity, BASES[2], "triton"), tensors
    full = ours([*points, W, torch.ones_like(scale), shift, torch.ones_like(coef), bias])
    torch.testing.assert_close(ours([*points, W, None, shift, None, bias]), full)  # type: ignore[list-item]
    assert_each_gradient_alone(ours, tensors, g)


@pytest.mark.parametrize("d", [3, 20])
def test_second_derivatives(d: int) -> None:
    tensors, g = draw((7, d, 9, 2), 1, torch.float32, "value")
    ours, eager = (function("value", ("tanh",), backend) for backend in ("triton", "reference"))
    truth = second_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(second_gradients(ours, tensors, g), second_gradients(eager, tensors, g), truth)


def test_a_pass_is_one_launch_and_a_single_head_is_a_layer() -> None:
    names: list[str] = []

    def record(kernel: object, *_: object) -> bool:
        names.append(kernel.__name__)  # type: ignore[attr-defined]
        return False

    launching.try_first(record)
    try:
        for quantity in QUANTITIES:
            outputs_and_gradients(function(quantity, ("tanh",), "triton"), *draw((3, 2, 4, 2), 1, DTYPES[0], quantity))
    finally:
        launching.try_first(None)
    assert sorted(names) == ["backward"] * 6 + ["forward"] * 4  # J v itself is the backward pass of f
    x = torch.zeros(3, 2)
    alone, layer = (_triton.ridge_mode(x, 1, Settings(("tanh",), heads=heads)) for heads in (True, False))
    assert alone is layer


def test_networks() -> None:
    for net, x in (
        (gf.RidgeGradNet(3, 8, gf.Heads(2, ["hardtanh", "softplus"])), torch.randn(5, 3)),
        (gf.ConvGradNet(1, 4, 3, gf.Heads(2, "hardtanh"), stages=[(2, 3)]), torch.randn(2, 1, 6, 5)),
    ):
        assert "interpreter" in gf.explain(net, x, backend="triton").kernel
        for method in (net, net.potential, net.divergence, lambda x, net=net: net.jvp(x, x)):
            with gf.use_backend("triton"):
                ours = method(x)
            with gf.use_backend("reference"):
                torch.testing.assert_close(ours, method(x), rtol=1e-5, atol=1e-5)


_COMPILE = """
import json, sys
from gradnets_fast.kernels import offline
from gradnets_fast.kernels.mode import Mode
kind, d, name = json.loads(sys.argv[1])
mode = Mode(100, kind, ("tanh",), 4, heads=True)
needs = offline.resources(name, mode, d, mode.options("derivatives", d))
assert needs.fits(100), needs
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "d", "name"),
    [("half", 64, "potential.backward"), ("half", 128, "divergence.backward"), ("tf32x3", 32, "jvp.backward")],
)
def test_what_spilled_with_the_tiles_of_cascades_does_no_longer(kind: str, d: int, name: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    case = json.dumps([kind, d, name])
    run = subprocess.run([sys.executable, "-c", _COMPILE, case], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
