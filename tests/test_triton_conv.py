"""The Triton kernels between a library's convolutions in Triton's interpreter, and what the compiler says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_conv import CALLS, QUANTITIES, Call, Size, normal, tensors_for, through_the_points
from torch import Tensor

import gradnets_fast as gf
from covering import label, slow_but_few, with_each_in_turn
from gradnets_fast.kernels import conv_launch, conv_strip_launch
from oracle import assert_as_good_as_eager, assert_each_gradient_alone, outputs_and_gradients, second_gradients

ROOT = Path(__file__).resolve().parents[1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [
    Size(2, 1, (260,), 3, (3,)),
    Size(2, 2, (6, 5), 4, (4, 3)),
    Size(5, 3, (1, 1), 2, (1, 1)),
    Size(2, 2, (3, 4, 5), 3, (2, 3, 1)),
    Size(1, 1, (17, 19), 5, (5, 4)),
]
USED = [CALLS[0], CALLS[3], Call(1, ("softsign", "gelu"), "circular")]
ONE_PIXEL = Size(1, 1, (1,), 2, (1,))
CUT = [Size(2, 1, (5,), 3, (4,)), Size(2, 2, (5, 6), 3, (3, 2)), Size(2, 1, (3, 4), 2, (3, 4)), SIZES[3]]
each_quantity = pytest.mark.parametrize("quantity", QUANTITIES)


@pytest.fixture(autouse=True)
def _in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is one launch here; and everything would pass on another backend too."""
    monkeypatch.setattr(conv_strip_launch, "QUANTITIES", ())
    kernel = gf.explain(gf.ConvGradNet(1, 2, 3), torch.zeros(1, 1, 5, 5), backend="triton").kernel
    assert kernel.startswith("library convolutions over pieces of up to 32 MiB")
    assert "interpreter" in kernel


def pieces_of(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a piece take so many float32 numbers, in place of a cache."""
    monkeypatch.setattr(conv_launch, "cache_bytes", lambda _: 4 * numbers)


def check(quantity: str, call: Call, tensors: list[Tensor], g: Tensor) -> None:
    """The result and its gradients, by the rule of oracle.py."""
    ours, eager = call.function(quantity, "triton"), call.function(quantity, "reference")
    exact = outputs_and_gradients(call.exact(quantity), [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), exact)


TURNS = [(USED[i % 3], DTYPES[(i + i // 3) % 3]) for i in range(9)]


@pytest.mark.parametrize(
    ("quantity", "size", "call", "dtype"),
    slow_but_few(
        [
            (quantity, size, *turn)
            for quantity, size, turn in with_each_in_turn(TURNS, QUANTITIES, SIZES)
            if quantity != "potential" or turn[0].layers == 1
        ]
    ),
    ids=label,
)
def test_results_and_gradients(quantity: str, size: Size, call: Call, dtype: torch.dtype) -> None:
    check(quantity, call, *tensors_for(quantity, call, size, dtype))


@pytest.mark.slow
def test_potentials_of_several_layers() -> None:
    """They have 128 nodes, which takes the interpreter long."""
    check("potential", CALLS[3], *tensors_for("potential", CALLS[3], ONE_PIXEL, torch.float32))


@pytest.mark.parametrize(
    ("quantity", "size", "padding"),
    slow_but_few(
        [c for c in with_each_in_turn(["zeros", "circular"], QUANTITIES, CUT) if c[0] != "potential" or c[1] == CUT[1]]
    ),
    ids=label,
)
def test_pieces_and_bands(quantity: str, size: Size, padding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images alone, bands of some rows and of one: the same up to the order of sums."""
    call = Call(1, ("tanh",), padding)
    tensors, g = tensors_for(quantity, call, size, torch.float32)
    whole = outputs_and_gradients(call.function(quantity, "triton"), tensors, g)
    row = size.channels * torch.Size(size.image[1:]).numel()
    for numbers in (4 * row, 1)[: 1 if quantity == "potential" else 2]:
        pieces_of(numbers, monkeypatch)
        for ours, expected in zip(outputs_and_gradients(call.function(quantity, "triton"), tensors, g), whole):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    if quantity != "potential":
        check(quantity, call, [t.to(torch.bfloat16) for t in tensors], g.to(torch.bfloat16))


def test_filters_larger_than_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(2, 2, (2, 3), 4, (5, 4))
    for quantity in QUANTITIES[:2]:
        check(quantity, CALLS[0], *tensors_for(quantity, CALLS[0], size, torch.float32))
    pieces_of(1, monkeypatch)
    check("divergence", CALLS[0], *tensors_for("divergence", CALLS[0], size, torch.float32))


def spline(
    size: Size, padding: str, knots: int, dtype: torch.dtype, quantity: str
) -> tuple[Call, list[Tensor], Tensor]:
    """A call with splines; some scales are all but 0, and the values at knots are of all sizes."""
    call = Call(1, ("spline",), padding)
    tensors, g = tensors_for(quantity, call, size, dtype)
    tensors[-2] = normal(1, knots, size.channels).to(dtype)
    tensors[-4][:, ::3] *= 2.0**-12
    return call, tensors, g


@each_quantity
@pytest.mark.parametrize(
    ("knots", "size", "dtype"),
    [(2, SIZES[1], torch.float16), (3, SIZES[1], torch.float32), (9, SIZES[4], torch.bfloat16)],
    ids=label,
)
def test_splines(quantity: str, knots: int, size: Size, dtype: torch.dtype) -> None:
    call, tensors, g = spline(size, "circular" if knots == 3 else "zeros", knots, dtype, quantity)
    ours, eager = call.function(quantity, "triton"), call.function(quantity, "reference")
    exact = outputs_and_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), exact)


@pytest.mark.parametrize(
    ("knots", "quantity"),
    slow_but_few([(5, q) for q in QUANTITIES] + [(0, q) for q in QUANTITIES if q != "potential"]),
)
def test_only_what_is_needed_gets_a_gradient(knots: int, quantity: str) -> None:
    call, tensors, g = spline(SIZES[1], "zeros", knots, torch.float32, quantity)
    if not knots:
        call = CALLS[0]
        tensors, g = tensors_for(quantity, call, SIZES[1], torch.float32)
    assert_each_gradient_alone(call.function(quantity, "triton"), tensors, g)


@each_quantity
def test_tensors_that_are_left_out_strides_and_leading_dimensions(quantity: str) -> None:
    tensors, g = tensors_for(quantity, CALLS[0], Size(2, 2, (4, 5), 3, (3, 2)), torch.float32)
    *points, K, scale, shift, coef, bias = tensors
    function = CALLS[0].function(quantity, "triton")
    full = function([*points, K, torch.ones_like(scale), shift, torch.ones_like(coef), torch.zeros_like(bias)])
    torch.testing.assert_close(function([*points, K, None, shift[0], None, None]), full)  # type: ignore[list-item]
    expected = outputs_and_gradients(function, tensors, g)
    turned = [t.mT.contiguous().mT if t.dim() > 1 else t for t in tensors]
    assert all(map(torch.equal, outputs_and_gradients(function, turned, g), expected))
    folded = function([*(p.view(2, 1, 2, 4, 5) for p in points), *tensors[-5:]])
    assert torch.equal(folded.reshape(expected[0].shape), expected[0])
    leaves = [t.requires_grad_() for t in (*(p[:0] for p in points), *tensors[-5:])]
    empty = function(leaves)
    assert empty.shape[0] == 0
    assert all(not d.any() for d in torch.autograd.grad(empty.sum(), leaves, materialize_grads=True))


def check_second_derivatives(call: Call, size: Size) -> None:
    """Those of f, and those of its gradient in the points through J v."""
    tensors, g = tensors_for("value", call, size, torch.float32)
    ours, eager = (call.function(backend=backend) for backend in ("triton", "reference"))
    truth = second_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(second_gradients(ours, tensors, g), second_gradients(eager, tensors, g), truth)
    tensors, g = tensors_for("jvp", call, size, torch.float32)
    ours, eager = map(through_the_points, (ours, eager))
    truth = outputs_and_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), truth)


@pytest.mark.parametrize("call", [CALLS[0], CALLS[3]], ids=label)
def test_second_derivatives(call: Call) -> None:
    check_second_derivatives(call, SIZES[1])


@pytest.mark.parametrize("basis", ["relu", "identity", "tanh", "spline"])
def test_not_a_number_spreads_as_far_as_filters_reach(basis: str) -> None:
    x, v = torch.randn(2, 1, 9, 9), torch.randn(2, 1, 9, 9)
    x[0, 0, 4, 4] = float("nan")
    K, coef = torch.randn(3, 1, 3, 3), torch.randn(1, 5 if basis == "spline" else 1, 3)
    for quantity, points in (("conv_ridge", (x,)), ("conv_ridge_jvp", (x, v))):
        f = getattr(gf, quantity)(*points, K, None, torch.zeros(3), coef, basis=basis, backend="triton")
        expected = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
        expected[0, 0, 2:7, 2:7] = True
        assert torch.equal(f.isnan(), expected)


def test_networks_under_torch_compile_and_use_backend() -> None:
    torch.compiler.reset()
    net, x = gf.ConvGradNet(1, 4, 3), torch.randn(2, 1, 6, 7, requires_grad=True)
    code = []

    def inspected(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
        code.append(graph.code)
        return graph.forward

    with gf.use_backend("triton"):
        compiled = torch.compile(net, backend=inspected, fullgraph=True)(x)
        ours = net(x)
    assert "gradnets_fast.conv_ridge_triton" in code[0]
    for f in (compiled, ours):
        torch.testing.assert_close(f, net(x))
        torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (f, net(x))))


def test_it_is_chosen_and_refused_with_reasons() -> None:
    x, K = torch.randn(1, 1, 6), torch.randn(2, 1, 3)
    assert "asked for by name" in gf.explain("conv_ridge", x).rejected["triton"]
    with pytest.raises(gf.BackendUnavailableError, match=r"not torch\.float64"):
        gf.conv_ridge(x.double(), K.double(), None, torch.zeros(2).double(), None, backend="triton")
    with pytest.raises(gf.BackendUnavailableError, match="no Triton kernels of ridge of splines"):
        gf.ridge(
            x[0], K[0, :, :6].repeat(1, 2), None, torch.zeros(1), torch.ones(1, 3, 1), basis="spline", backend="triton"
        )


_COMPILE = """
import json, sys
from gradnets_fast.kernels import compiler, configuration
from gradnets_fast.kernels.mode import Mode
architecture, kind, layers, knots, heads = json.loads(sys.argv[1])
basis = ("spline",) if knots else ("tanh",)
mode = Mode(architecture, kind, basis, layers, heads=heads)
constants = mode.constants() | {"KNOTS": knots, "BT": 32, "SMOOTH": (True,)}
constants |= {"NEEDS_SCALE": True, "NEEDS_SHIFT": True, "NEEDS_COEF": True}
absent = {"value": {"v", "norms", "weight", "rule"}, "jvp": {"norms", "weight", "rule"},
          "potential": {"a", "v", "norms"}, "divergence": {"v", "rule"}}
cases = [("backward", q, without) for q, without in absent.items()]
cases += [("forward", "value", {"v"}), ("forward", "jvp", set())]
cases += [("numbers", "potential", {"norms"}), ("numbers", "divergence", {"rule"})]
for kernel, quantity, without in cases:
    if heads and (kernel, quantity) == ("numbers", "potential"):
        continue  # it spills on 9.0
    named = compiler.function(f"conv.{kernel}").arg_names
    wanted, tiles = (*named, *compiler.OPTIONS), configuration.pixel_options(layers, quantity, heads)
    given = {name: of for name, of in (constants | tiles | {"QUANTITY": quantity}).items() if name in wanted}
    launch = compiler.typed(f"conv.{kernel}", given, kind, without, ("pixels",))
    needs = compiler.Resources.of(compiler.compiled(launch, architecture))
    print(kernel, quantity, needs, flush=True)
    assert needs.fits(architecture), (kernel, quantity, needs)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "kind", "layers", "knots", "heads"),
    [
        *((80, "half", 4, 0, True), (80, "ieee", 1, 21, False), (80, "ieee", 4, 0, False)),
        *((90, "half", 1, 0, False), (90, "tf32x3", 4, 0, False), (90, "tf32x3", 4, 0, True)),
    ],
)
def test_kernels_compile_without_a_gpu_and_spill_nothing(
    architecture: int, kind: str, layers: int, knots: int, heads: bool
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    case = json.dumps([architecture, kind, layers, knots, heads])
    run = subprocess.run([sys.executable, "-c", _COMPILE, case], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 8 - heads
