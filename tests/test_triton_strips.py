"""The Triton kernels that take a convolutional network in one launch: in Triton's interpreter, and as compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from test_conv import CALLS, Call, Size, normal, tensors_for
from test_triton_conv import check, check_second_derivatives, spline

import gradnets_fast as gf
from covering import label, slow_but, slow_but_few, with_each_in_turn
from gradnets_fast.kernels import conv_strip_launch
from gradnets_fast.ops import _triton_conv
from oracle import assert_as_good_as_eager, assert_each_gradient_alone, outputs_and_gradients

QUANTITIES = conv_strip_launch.QUANTITIES
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = Size(2, 1, (3, 5), 3, (2, 3))
SIZES = [
    SMALL,
    Size(2, 2, (4, 3), 4, (3, 2)),
    Size(1, 3, (2, 70), 70, (1, 5)),
    Size(2, 2, (2, 3), 4, (5, 4)),
    Size(2, 2, (1, 1), 2, (1, 1)),
    Size(1, 1, (40,), 3, (7,)),
    Size(1, 5, (6, 37), 20, (3, 3)),
    Size(1, 1, (19, 8), 5, (4, 4)),
]
"""Strips of which the last is short; more channels than a tile, filters larger than the image, lines, bands of rows."""

USED = [Call(1, ("tanh",), "circular"), CALLS[3], Call(3, ("softplus",), "circular"), CALLS[0]]
TURNS = [(USED[i % 4], DTYPES[(i + i // 4) % 3]) for i in range(12)]
each_quantity = pytest.mark.parametrize("quantity", QUANTITIES)


@pytest.fixture(autouse=True)
def _in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call takes the library's convolutions here; and everything would pass on another backend too."""

    def refused(*_: object) -> None:
        raise AssertionError("the library's convolutions were asked")

    conv_launch = _triton_conv.kernel_module("conv_launch")
    for name in ("forward", "backward"):
        monkeypatch.setattr(conv_launch, name, refused)


def fits(size: Size, call: Call) -> bool:
    """Whether circular filters are no larger than the image."""
    return call.padding == "zeros" or all(k <= n for k, n in zip(size.filters, size.image))


CASES = [
    (quantity, size, *turn)
    for quantity, size, turn in with_each_in_turn(TURNS, QUANTITIES, SIZES)
    if fits(size, turn[0])
]
QUICK = [next(c for c in CASES if c[0] == "value" and c[1] == SIZES[1]), next(c for c in CASES if c[0] == "jvp")]


@pytest.mark.parametrize(("quantity", "size", "call", "dtype"), slow_but(QUICK, CASES), ids=label)
def test_results_and_gradients(quantity: str, size: Size, call: Call, dtype: torch.dtype) -> None:
    check(quantity, call, *tensors_for(quantity, call, size, dtype))


@pytest.mark.parametrize("padding", slow_but(["zeros"], ["zeros", "circular"]))
def test_bands_and_strips_leave_no_seam(padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of several programs both ways, against one by one of its rows."""
    call, size = Call(1, ("tanh",), padding), Size(1, 1, (5, 31), 2, (2, 3))
    tensors, g = tensors_for("value", call, size, torch.float32)
    check("value", call, tensors, g)
    expected = outputs_and_gradients(call.function("value", "triton"), tensors, g)
    monkeypatch.setattr(conv_strip_launch, "_PROGRAMS", 1)
    for ours, of_one in zip(outputs_and_gradients(call.function("value", "triton"), tensors, g), expected):
        torch.testing.assert_close(ours, of_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("quantity", "knots", "size", "dtype"),
    slow_but_few(
        [
            (quantity, *case)
            for quantity in QUANTITIES
            for case in [(2, SMALL, torch.float16), (3, SIZES[1], torch.float32), (9, SIZES[7], torch.bfloat16)]
        ]
    ),
    ids=label,
)
def test_splines(quantity: str, knots: int, size: Size, dtype: torch.dtype) -> None:
    call, tensors, g = spline(size, "circular" if knots == 3 else "zeros", knots, dtype, quantity)
    ours, eager = call.function(quantity, "triton"), call.function(quantity, "reference")
    exact = outputs_and_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), exact)


@pytest.mark.slow
@pytest.mark.parametrize("knots", [0, 5])
@each_quantity
def test_only_what_is_needed_gets_a_gradient(knots: int, quantity: str) -> None:
    call, tensors, g = spline(SMALL, "zeros", knots or 2, torch.float32, quantity)
    if not knots:
        call = CALLS[0]
        tensors, g = tensors_for(quantity, call, SMALL, torch.float32)
    assert_each_gradient_alone(call.function(quantity, "triton"), tensors, g)


@pytest.mark.slow
def test_heads_and_tensors_that_are_left_out() -> None:
    x, K, shift = (normal(*s).float() for s in [(2, 1, 4, 5), (3, 1, 3, 2), (2, 3)])
    for heads in (False, True):
        results = [
            gf.conv_ridge(x, K, None, shift, None, basis="tanh", heads=heads, backend=backend)
            for backend in ("triton", "reference")
        ]
        torch.testing.assert_close(*results)


@pytest.mark.slow
@pytest.mark.parametrize("call", [CALLS[0], CALLS[3]], ids=label)
def test_second_derivatives(call: Call) -> None:
    check_second_derivatives(call, SMALL)


@pytest.mark.parametrize("basis", slow_but(["relu"], ["relu", "identity", "tanh", "spline"]))
def test_not_a_number_spreads_as_far_as_filters_reach(basis: str) -> None:
    x, v = torch.randn(1, 1, 7, 9), torch.randn(1, 1, 7, 9)
    x[0, 0, 3, 4] = float("nan")
    K, coef = torch.randn(3, 1, 3, 3), torch.randn(1, 5 if basis == "spline" else 1, 3)
    for quantity, points in (("conv_ridge", (x,)), ("conv_ridge_jvp", (x, v))):
        f = getattr(gf, quantity)(*points, K, None, torch.zeros(3), coef, basis=basis, backend="triton")
        expected = torch.zeros(1, 1, 7, 9, dtype=torch.bool)
        expected[0, 0, 1:6, 2:7] = True
        assert torch.equal(f.isnan(), expected)


def test_it_says_when_it_is_not_one_launch() -> None:
    def kernel(net: torch.nn.Module, shape: tuple[int, ...]) -> str:
        return gf.explain(net, torch.zeros(shape), backend="triton").kernel

    assert kernel(gf.ConvGradNet(1, 4, 5), (1, 1, 9, 9)).startswith("one launch, by strips of the images, float32")
    wide, deep = gf.ConvGradNet(1, 4, 17), gf.ConvGradNet(1, 4, (3, 3, 3))
    assert "(filters of 1 × 17 × 17: 17 rows of 32 taps are more" in kernel(wide, (1, 1, 20, 20))
    assert "(images have 3 axes)" in kernel(deep, (1, 1, 3, 3, 3))
    of_operator = gf.explain("conv_ridge", torch.zeros(1, 1, 5), backend="triton").kernel
    assert of_operator.startswith("one launch where a program holds what filters reach, else library convolutions")
    assert (
        "(the divergence has no kernel"
        in gf.explain("conv_ridge_divergence", torch.zeros(1, 1, 5), backend="triton").kernel
    )


def test_products_are_as_precise_as_pytorch_is_told_of_convolutions() -> None:
    x = torch.zeros(1)
    assert _triton_conv.products_of_convolutions(x) == "ieee"
    assert _triton_conv.products_of_convolutions(x.half()) == "half"


_COMPILE = """
import json, sys
from gradnets_fast.kernels import compiler, configuration
from gradnets_fast.kernels.mode import Mode
architecture, kind, filters, layers, knots, heads = json.loads(sys.argv[1])
basis = ("spline",) if knots else ("tanh",)
mode = Mode(architecture, kind, basis, layers, heads=heads)
tiles = configuration.strip_options(kind, 2 if knots else configuration.depth(layers, 1), 64, tuple(filters), 321)
shape = (*filters, tiles.pop("KX"), tiles.pop("TAPS"), tiles.pop("W"), False)
constants = mode.constants() | tiles | {"KNOTS": knots, "BT": 32, "FILTERS": shape}
constants |= {"PRECISION": "ieee" if kind == "half" else kind}
constants |= {"NEEDS_SCALE": True, "NEEDS_SHIFT": True, "NEEDS_COEF": True}
for kernel, quantity, without in [("forward", "value", {"v"}), ("forward", "jvp", {"bias"}),
                                  ("backward", "value", {"v", "dv"}), ("backward", "jvp", set())]:
    named = compiler.function(f"conv_strip.{kernel}").arg_names
    wanted = (*named, *compiler.OPTIONS)
    given = {name: of for name, of in (constants | {"QUANTITY": quantity}).items() if name in wanted}
    launch = compiler.typed(f"conv_strip.{kernel}", given, kind, without, ())
    needs = compiler.Resources.of(compiler.compiled(launch, architecture))
    print(kernel, quantity, needs, flush=True)
    assert needs.fits(architecture), (kernel, quantity, needs)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "kind", "filters", "layers", "knots", "heads"),
    [
        (80, "half", (8, 5, 5), 1, 0, False),
        (90, "tf32", (1, 13, 13), 4, 0, False),
        (90, "half", (8, 5, 5), 4, 0, True),
        (80, "tf32x3", (1, 5, 5), 1, 0, False),
        (90, "half", (1, 13, 13), 1, 21, False),
    ],
)
def test_kernels_compile_without_a_gpu_and_spill_nothing(
    architecture: int, kind: str, filters: tuple[int, ...], layers: int, knots: int, heads: bool
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    case = json.dumps([architecture, kind, filters, layers, knots, heads])
    run = subprocess.run([sys.executable, "-c", _COMPILE, case], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 4
