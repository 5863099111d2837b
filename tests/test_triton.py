"""The Triton kernels in Triton's interpreter, on the CPU: every route, activation and dtype against float64."""

from __future__ import annotations

import doctest
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
import torch._inductor.graph
from torch import Tensor

import gradnets_fast
from covering import in_turn, slow_but_few
from gradnets_fast import reference
from gradnets_fast.activations import TABLE, quadrature
from gradnets_fast.kernels import launch, launching
from gradnets_fast.ops import _triton
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients
from test_operators import Call, check_vectors_in_float32, compare, drawn, ridge_call

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

ROUTES = {
    "narrow": [(1, 1, 1), (5, 2, 7), (97, 3, 65), (33, 4, 32), (300, 2, 5)],
    "fused": [(1, 16, 5), (33, 33, 3), (70, 20, 67), (131, 9, 64), (40, 130, 37), (600, 9, 5)],
    "wide": [(33, 300, 40), (300, 257, 9)],
}
"""(batch, d, h) for each route, just past tiles and their multiples; the longest batches are divided among programs."""

ABSENT = [(), ("scale",), ("coef",), ("bias",), ("scale", "coef", "bias")]
SIZES = [size for sizes in ROUTES.values() for size in sizes]
ONE_EACH = [(41, 3, 35), (41, 20, 35), (41, 260, 35)]
SMALL = [(9, 3, 7), (9, 20, 7), (9, 260, 7)]
"""Each route with two tiles of hidden units, and with one, which takes the interpreter half as long."""

CALLS = [
    ridge_call(1, ("tanh",), "triton"),
    ridge_call(4, ("tanh",), "triton"),
    ridge_call(3, ("softplus", "sin", "identity"), "triton"),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _backend_is_there() -> None:
    """Everything here would pass on another backend too."""
    x = torch.zeros(3, 2)
    assert "interpreter" in gradnets_fast.explain("ridge", x, backend="triton").kernel


@pytest.mark.parametrize("route", ROUTES)
def test_sizes_take_the_routes_that_they_are_listed_for(route: str) -> None:
    for batch, d, _ in ROUTES[route]:
        for dtype in DTYPES:
            kernel = gradnets_fast.explain("ridge", torch.zeros(batch, d, dtype=dtype), backend="triton").kernel
            assert f"{route} route" in kernel


@in_turn("call, size, dtype", DTYPES, CALLS, SIZES, few=1)
def test_values_and_gradients(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, g = drawn(call, size, dtype)
    result = compare(call, tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@pytest.mark.parametrize("size", ONE_EACH[:2], ids=str)
def test_a_launch_that_is_interrupted_spoils_no_later_one(size: tuple[int, int, int]) -> None:
    """Programs count their arrivals, and leave the count as they found it only if all of them come."""
    tensors, g = drawn(CALLS[0], size, torch.float32)

    def interrupted(kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: Any) -> bool:
        for counters in (a for a in arguments if isinstance(a, Tensor) and a.dtype == torch.int32):
            counters += 1
            raise KeyboardInterrupt
        return False

    launching.try_first(interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(CALLS[0], tensors, g)
    finally:
        launching.try_first(None)
    result = compare(CALLS[0], tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


def test_the_examples_of_launches() -> None:
    assert doctest.testmod(launch) == (0, 1)


def test_the_pool_of_an_address_is_that_of_its_segment() -> None:
    """What torch.compile's graphs allocate is theirs, and no counter of a later launch."""
    segments = [
        {"address": 4096, "total_size": 1024, "segment_pool_id": (0, 0)},
        {"address": 5120, "total_size": 512, "segment_pool_id": (3, 0)},
    ]
    pools = {address: launch.pool_of(address, segments) for address in (4095, 4096, 5119, 5120, 5631, 5632)}
    assert pools == {4095: None, 4096: (0, 0), 5119: (0, 0), 5120: (3, 0), 5631: (3, 0), 5632: None}


@in_turn("name, size, dtype", DTYPES, list(TABLE), ONE_EACH, few=1)
def test_every_activation(name: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    call = ridge_call(2, (name,), "triton")
    tensors, g = drawn(call, size, dtype)
    result = compare(call, tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [2, 9])
def test_sines_of_any_angle(d: int, dtype: torch.dtype) -> None:
    """One hidden unit, which is the first coordinate: f = sin, ∇f = cos and −sin of numbers that nothing rounds."""
    generator = torch.Generator().manual_seed(d)
    exponents = torch.linspace(-120, 127.99, 400) if dtype != torch.float16 else torch.linspace(-14, 15.9, 400)
    angles = torch.cat([2**exponents, 6000 * torch.rand(400, generator=generator), 1e4 * 3.0 ** torch.arange(20)])
    # The float32 that comes nearest to a multiple of π/2, and those at which the way to reduce angles changes.
    angles = torch.cat([angles, torch.tensor([16367173 * 2.0**72, 3000.0, 3000.0001220703125, 3.4e38])]).to(dtype)
    angles = angles[angles.isfinite()]
    x = torch.zeros(2 * len(angles), d, dtype=dtype)
    x[:, 0] = torch.cat([angles, -angles])
    W, v = torch.eye(1, d, dtype=dtype), torch.eye(1, d, dtype=dtype).expand_as(x)
    given = {"scale": None, "shift": torch.zeros(1, 1, dtype=dtype), "coef": None, "basis": "sin"}
    x.requires_grad_()
    with gradnets_fast.use_backend("triton"):
        f = gradnets_fast.ridge(x, W, bias=None, **given)
        slope = gradnets_fast.ridge_jvp(x, v, W, **given)
        (of_f,) = torch.autograd.grad(f[:, 0].sum(), x)
        (bent,) = torch.autograd.grad(slope[:, 0].sum(), x)
    exact = x.detach()[:, 0].double()
    least = torch.finfo(dtype).tiny
    # The interpreter rounds towards 0 to bfloat16.
    eps = 3 * 2.0**-24 if dtype == torch.float32 else torch.finfo(dtype).eps
    for got, truth in ((f, exact.sin()), (slope, exact.cos()), (of_f, exact.cos()), (bent, -exact.sin())):
        error = (got.detach()[:, 0].double() - truth).abs()
        assert (error <= eps * truth.abs() + least).all(), error.max()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's words for ∞ − ∞
@pytest.mark.parametrize("d", [2, 9])
def test_sines_far_out_leave_their_neighbours_alone(d: int) -> None:
    x = torch.rand(40, d, generator=torch.Generator().manual_seed(0))
    W, shift = torch.eye(1, d), torch.zeros(1, 1)
    with gradnets_fast.use_backend("triton"):
        usual = gradnets_fast.ridge(x, W, None, shift, None, basis="sin")
        x[3, 0], x[5, 0], x[7, 0], x[9, 0] = math.inf, -math.inf, math.nan, 1e30
        mixed = gradnets_fast.ridge(x, W, None, shift, None, basis="sin")
    assert mixed[[3, 5, 7], 0].isnan().all()
    assert mixed[9, 0] == torch.tensor(1e30).double().sin().float()
    others = [row for row in range(40) if row not in (3, 5, 7, 9)]
    assert torch.equal(mixed[others], usual[others])


_COMPILED_SINES = """
from gradnets_fast.kernels import compiler, configuration, offline
from gradnets_fast.kernels.mode import Mode
for architecture, kind, d, layers, variant in [
    (80, "half", 64, 1, "forward"), (90, "half", 64, 1, "backward"), (90, "ieee", 2, 1, "narrow.backward"),
    (100, "tf32x3", 32, 1, "forward"),
]:
    mode = Mode(architecture, kind, ("sin",), layers)
    tiles = configuration.options(variant, architecture, kind, d, layers)
    made = compiler.compiled(offline.launch(variant, mode, d, tiles, even=True, absent=()), architecture)
    assert ".local" not in made.asm["ptx"], variant
    assert compiler.Resources.of(made).stack == 0, variant
    print(variant)
"""


@pytest.mark.slow
def test_sines_take_no_memory_of_a_threads_own() -> None:
    """The reduction of angles in CUDA's mathematical library keeps an array there, in every kernel that has a sine."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", _COMPILED_SINES], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 4


@in_turn("call, size, dtype", DTYPES[1:], CALLS, SMALL)
def test_points_in_sixteen_bits_with_vectors_in_float32(
    call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_vectors_in_float32(call, size, dtype)


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_vectors_of_several_dtypes(size: tuple[int, int, int]) -> None:
    call = CALLS[1]
    (x, W, scale, shift, coef, bias), g = drawn(call, size, torch.bfloat16)
    tensors = [x, W, scale.float(), shift, coef.float(), bias]
    result = compare(call, tensors, g)
    assert [t.dtype for t in result.ours[1:]] == [t.dtype for t in tensors]
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@pytest.mark.parametrize(("size", "absent"), slow_but_few(list(product(SMALL, ABSENT))), ids=str)
def test_tensors_that_are_left_out(size: tuple[int, int, int], absent: tuple[str, ...]) -> None:
    names = ("x", "W", "scale", "shift", "coef", "bias")
    tensors, g = drawn(CALLS[1], size, torch.float32)
    given = {name: t for name, t in zip(names, tensors) if name not in absent}
    ones = {"scale": torch.ones_like(tensors[2]), "coef": torch.ones_like(tensors[4]), "bias": torch.zeros(size[1])}

    def ours(t: Sequence[Tensor]) -> Tensor:
        arguments = dict.fromkeys(absent) | dict(zip(given, t))
        return gradnets_fast.ridge(*(arguments[name] for name in names), basis="tanh", backend="triton")

    def exact(t: Sequence[Tensor]) -> Tensor:
        arguments = {name: ones[name].to(t[0].dtype) for name in absent} | dict(zip(given, t))
        return reference.ridge(*(arguments[name] for name in names), ("tanh",))

    result = compare(Call("", CALLS[1].draw, ours, exact), list(given.values()), g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@in_turn("size, call", CALLS, SMALL)
def test_only_what_is_needed_gets_a_gradient(size: tuple[int, int, int], call: Call) -> None:
    check_only_what_is_needed(call, size)


def check_only_what_is_needed(call: Call, size: tuple[int, int, int]) -> None:
    """Each tensor's gradient alone is what it is among all, and the others get none."""
    tensors, g = drawn(call, size, torch.float32)
    everything = outputs_and_gradients(call.ours, tensors, g)[1:]
    for needed in range(len(tensors)):
        leaves = [t.detach().requires_grad_(i == needed) for i, t in enumerate(tensors)]
        call.ours(leaves).backward(g)
        for i, (leaf, expected) in enumerate(zip(leaves, everything)):
            assert (leaf.grad is not None) == (i == needed)
            if leaf.grad is not None:
                torch.testing.assert_close(leaf.grad, expected, rtol=1e-5, atol=1e-6)


@in_turn("size, call", CALLS, SMALL)
def test_strides_of_every_tensor_and_of_the_incoming_gradient(size: tuple[int, int, int], call: Call) -> None:
    check_strides(call, size)


def check_strides(call: Call, size: tuple[int, int, int]) -> None:
    """Bitwise the same from spread tensors, among NaN, and from an expanded gradient."""
    tensors, g = drawn(call, size, torch.float32)
    expected = outputs_and_gradients(call.ours, tensors, g)

    def spread(t: Tensor, step: int) -> Tensor:
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype)
        inside = wide[..., ::2] if step == 2 else wide[..., : t.shape[-1]]
        inside.copy_(t)
        return inside

    for step in (1, 2):
        strided = outputs_and_gradients(call.ours, [spread(t, step) for t in tensors], spread(g, step))
        assert all(torch.equal(a, b) for a, b in zip(expected, strided))
    leaves = [t.detach().requires_grad_() for t in tensors]
    gradients = torch.autograd.grad(call.ours(leaves).sum(), leaves)  # an expanded, stride-0 gradient
    ones = outputs_and_gradients(call.ours, tensors, torch.ones_like(g))
    assert all(torch.equal(a, b) for a, b in zip(gradients, ones[1:]))


@pytest.mark.parametrize("d", [3, 20, 260])
def test_leading_dimensions_and_empty_batches(d: int) -> None:
    tensors, _ = drawn(CALLS[1], (24, d, 10), torch.float32)
    flat = CALLS[1].ours(tensors)
    folded = CALLS[1].ours([tensors[0].view(2, 3, 4, d), *tensors[1:]])
    assert torch.equal(folded.view(24, d), flat)
    leaves = [t.requires_grad_() for t in (tensors[0][:0], *tensors[1:])]
    empty = CALLS[1].ours(leaves)
    assert empty.shape == (0, d)
    assert all(not gradient.any() for gradient in torch.autograd.grad(empty.sum(), leaves))


@each_call
def test_second_derivatives(call: Call) -> None:
    tensors, g = drawn(call, (37, 5, 30), torch.float32)
    truth = second_gradients(call.exact, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(second_gradients(call.ours, tensors, g), second_gradients(call.exact, tensors, g), truth)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's word for 0 · ∞
@pytest.mark.parametrize("size", ONE_EACH, ids=str)
@each_dtype
def test_a_bounded_network_is_finite_at_infinity(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Tiles pad hidden units, and the weights 0 of padding times infinity are NaN."""
    tensors, _ = drawn(CALLS[0], size, dtype)
    tensors[0][0, 0], tensors[0][1, 1], tensors[0][2, 0] = float("inf"), float("-inf"), float("nan")
    expected = CALLS[0].exact([t.double() for t in tensors])
    assert expected[:2].isfinite().all()
    rtol = 8 * torch.finfo(dtype).eps
    largest = expected[expected.isfinite()].abs().max().item()
    ours, x, W = CALLS[0].ours(tensors).double(), *tensors[:2]
    checked = torch.ones(len(x), dtype=torch.bool)
    if size[1] > 256:  # there PyTorch multiplies, which on some processors makes NaN of infinity in bfloat16
        checked = ~(x @ W.T).isnan().any(-1) | expected.isnan().any(-1)
    torch.testing.assert_close(ours[checked], expected[checked], equal_nan=True, rtol=rtol, atol=rtol * largest)


@pytest.mark.parametrize("network", ["mGradNetC(3, 4, 20)", "GradNetC(2, 20, 9)", "mRidgeGradNet(3, 40)"])
def test_networks_under_use_backend(network: str) -> None:
    net = eval(f"gradnets_fast.{network}")
    x = torch.randn(37, net.W.shape[1])
    gradients = []
    for backend in ("triton", "reference"):
        net.zero_grad()
        with gradnets_fast.use_backend(backend):
            net(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for ours, expected in zip(*gradients):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_torch_compile_keeps_the_backend() -> None:
    torch.compiler.reset()
    net = gradnets_fast.mGradNetC(2, 3, 8)
    x = torch.randn(10, 3, requires_grad=True)
    code = []

    def inspected(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
        code.append(graph.code)
        return graph.forward

    with gradnets_fast.use_backend("triton"):
        expected = net(x)
        compiled = torch.compile(net, backend=inspected, fullgraph=True)(x)
    assert len(code) == 1
    assert "gradnets_fast.ridge_triton" in code[0]
    torch.testing.assert_close(compiled, expected)
    (ours,), (wanted,) = (torch.autograd.grad(f.square().sum(), x) for f in (compiled, expected))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize(("asked", "products"), [("none", "ieee"), ("ieee", "ieee"), ("tf32", "tf32")])
def test_float32_products_follow_pytorchs_setting(asked: str, products: str) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = asked
        kernel = gradnets_fast.explain("ridge", torch.zeros(2, 20), backend="triton").kernel
        tensors, g = drawn(CALLS[1], ONE_EACH[1], torch.float32)
        result = compare(CALLS[1], tensors, g)
    finally:
        matmul.fp32_precision = before
    assert f"float32 ({products} products)" in kernel
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


def test_the_choice_is_explained() -> None:
    x = torch.zeros(5, 3)
    automatic = gradnets_fast.explain("ridge", x)
    assert automatic.backend == "cpp"
    assert "asked for by name" in automatic.rejected["triton"]
    with pytest.raises(gradnets_fast.BackendUnavailableError, match=r"not torch\.float64"):
        gradnets_fast.explain("ridge", x.double(), backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preparation", "reason"),
    [("", "set TRITON_INTERPRET=1"), ("import triton, os; os.environ['TRITON_INTERPRET'] = '1'", "after triton")],
)
def test_without_the_interpreter_cpu_tensors_are_refused(preparation: str, reason: str) -> None:
    script = f"""
{preparation}
import torch, gradnets_fast
try:
    gradnets_fast.explain("ridge", torch.zeros(2, 2), backend="triton")
except gradnets_fast.BackendUnavailableError as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert reason in run.stdout


@pytest.mark.slow
def test_gradients_of_compiled_graphs_begin_at_multiples_of_sixteen_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile makes asks for that where its inputs are a GPU's: these count as such here."""
    monkeypatch.setattr(torch._inductor.graph, "should_assume_input_aligned", lambda _: True)
    torch.compiler.reset()
    tensors, g = drawn(CALLS[2], (5, 3, 5), torch.float32)
    compiled = torch.compile(lambda *t: CALLS[2].ours(*t), fullgraph=True)
    torch.testing.assert_close(
        outputs_and_gradients(compiled, tensors, g), outputs_and_gradients(CALLS[2].ours, tensors, g)
    )


def test_the_quadrature_rule_is_kept_unless_its_memory_is_a_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [(*zip(*rule),) for rule in (quadrature.SINGLE_PANEL_RULE, quadrature.PANELLED_RULE)]
    expected = torch.tensor([number for rule in rules for part in rule for number in part])
    monkeypatch.setattr(_triton, "_rules", {})
    monkeypatch.setattr(launch, "is_of_a_pool", lambda _: True)
    of_a_graph = _triton.quadrature(torch.device("cpu"))
    monkeypatch.setattr(launch, "is_of_a_pool", lambda _: False)
    first = _triton.quadrature(torch.device("cpu"))
    assert first is not of_a_graph
    assert first is _triton.quadrature(torch.device("cpu"))
    assert torch.equal(of_a_graph, expected)
    assert torch.equal(first, expected)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU of compute capability 9.0, with the tools that this Triton brings, seems to be there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_triton, "_interpreted", lambda: False)
    monkeypatch.setattr(_triton, "capability_of", lambda _: 90)
    _triton._why_not_driver.cache_clear()
    return monkeypatch


def _answer_of_driver(version: int, patch: pytest.MonkeyPatch) -> str | None:
    patch.setattr(torch._C, "_cuda_getDriverVersion", lambda: version, raising=False)
    _triton._why_not_driver.cache_clear()
    return _triton.why_not(torch.device("cuda", 0), torch.float32)


def test_a_driver_older_than_tritons_assembler_is_refused(hopper: pytest.MonkeyPatch) -> None:
    hopper.setattr(_triton, "_why_not_started", lambda _: None)
    answer = _answer_of_driver(11080, hopper)
    assert answer is not None
    assert "the NVIDIA driver is of CUDA 11; update the driver" in answer
    assert _answer_of_driver(99000, hopper) is None


def test_a_triton_that_does_not_start_is_refused_where_no_kernel_is_compiled(hopper: pytest.MonkeyPatch) -> None:
    """There is no NVIDIA driver here, so that Triton's own check fails."""
    answer = _answer_of_driver(99000, hopper)
    assert answer is not None
    assert answer.startswith("Triton does not start (")
    hopper.setattr(_triton._prebuilt, "why_not", lambda _: None)
    assert _answer_of_driver(99000, hopper) is None


def test_no_tensor_of_ones_stands_for_what_is_absent() -> None:
    launches: list[dict[str, Any]] = []

    def record(kernel: Any, _: Any, arguments: tuple[Any, ...], constants: Any) -> bool:
        names = (name for name in kernel.arg_names if name not in constants)
        launches.append(dict(zip(names, arguments)))
        return False

    launching.try_first(record)
    try:
        with gradnets_fast.use_backend("triton"):
            gradnets_fast.mRidgeGradNet(3, 5)(torch.randn(4, 3)).sum().backward()
    finally:
        launching.try_first(None)
    assert len(launches) == 2
    assert all(found["scale"] is found["coef"] is None for found in launches)
