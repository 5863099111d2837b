"""The Triton kernels of deep networks, in Triton's interpreter, on the CPU: against float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_derivative_operators import check_directions, check_quantity, doubles, jvp_by_autograd, settings_of
from test_triton import check_only_what_is_needed, check_strides
from torch import Tensor, vmap

import gradnets_fast
from covering import in_turn
from gradnets_fast import reference
from gradnets_fast.activations import TABLE
from gradnets_fast.functional._network import Deep
from gradnets_fast.kernels import deep_launch, launch, launching
from gradnets_fast.ops import recompute
from gradnets_fast.ops.families import Structure
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients
from test_operators import Call, check_vectors_in_float32, compare, deep_call, drawn

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 1, 1), (5, 3, 16), (70, 20, 33), (131, 2, 5)]
"""(batch, d, h): one tile of rows and more; the longest batch has more tiles than the interpreter has programs."""

CALLS = [
    deep_call(1, "tanh", backend="triton"),
    deep_call(3, "silu", "skip", backend="triton"),
    deep_call(2, "softplus", "skip", "residual", rank=2, backend="triton"),
]
TOO_WIDE = (9, 3, 140)
MIDDLE = (41, 5, 19)
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


def check(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, g = drawn(call, size, dtype)
    result = compare(call, tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@pytest.mark.parametrize(
    ("d", "widths", "way"),
    [
        (3, (128, 8), "kernels, fused route"),
        (64, (8,), "kernels, fused route"),
        (65, (8,), "d = 65, 1 layers, 8 wide: no program"),
        (3, (129,), "129 wide: no program"),
        (3, (2,) * 9, "9 layers, 2 wide: no program"),
    ],
)
def test_the_route_is_explained(d: int, widths: tuple[int, ...], way: str) -> None:
    """Everything here would pass on another backend too."""
    net = gradnets_fast.DeepGradNet(d, widths)
    kernel = gradnets_fast.explain(net, torch.zeros(5, d), backend="triton").kernel
    assert way in kernel
    assert "interpreter" in kernel


def test_the_route_of_an_operator_alone_is_explained() -> None:
    x = torch.zeros(5, 3)
    for operator, words in {
        "deep": "gradients in one launch, where a program holds the network",
        "deep_jvp": "gradients in pieces of the batch",
        "deep_jacobian": "PyTorch's own operators",
    }.items():
        assert words in gradnets_fast.explain(operator, x, backend="triton").kernel


@in_turn("call, size, dtype", DTYPES, CALLS, SIZES, few=1)
def test_values_and_gradients(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert -(-SIZES[-1][0] // 64) > deep_launch._INTERPRETED
    check(call, size, dtype)


@in_turn("basis, dtype", DTYPES, list(TABLE))
def test_every_activation(basis: str, dtype: torch.dtype) -> None:
    check(deep_call(2, basis, backend="triton"), MIDDLE, dtype)


def structured_call(structure: Structure, basis: tuple[str, ...]) -> Call:
    """A network of any structure; its d and h are those of the points and the widths."""
    settings = {"basis": basis, **structure._asdict()}

    def draw(batch: int, d: int, h: int) -> list[Tensor]:
        theta = torch.randn(structure.parameters(d), dtype=torch.float64) / h**0.5
        return [torch.randn(batch, d, dtype=torch.float64), theta, torch.randn(d, dtype=torch.float64)]

    return Call(
        "deep",
        draw,
        lambda t: gradnets_fast.deep(*t, **settings, backend="triton"),
        lambda t: reference.deep(*t, **settings),
    )


@in_turn(
    "structure, dtype",
    DTYPES,
    [
        Structure((5, 33, 9), input_skip=True),
        Structure((17, 17, 17), residual=True),
        Structure((20, 3), rank=3),
        Structure((18, 18), rank=1, residual=True),
        Structure((3, 2) * 4, input_skip=True),
    ],
)
def test_every_structure(structure: Structure, dtype: torch.dtype) -> None:
    basis = tuple(("tanh", "silu", "softplus", "gelu")[i % 4] for i in range(len(structure.widths)))
    check(structured_call(structure, basis), (67, 3, 9), dtype)


@in_turn("call, dtype", DTYPES, CALLS)
def test_layers_that_no_tile_holds(call: Call, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "VALUES", 4000)  # a few rows at a time
    check(call, TOO_WIDE, dtype)


@in_turn("call, dtype", DTYPES[1:], CALLS)
def test_points_in_sixteen_bits_with_the_bias_in_float32(call: Call, dtype: torch.dtype) -> None:
    check_vectors_in_float32(call, MIDDLE, dtype)


@in_turn("call, size, dtype", DTYPES, CALLS, [(4, 1, 2), (70, 20, 33)])
def test_potentials_and_their_gradients(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    check_quantity("potential", call, size, dtype, "triton")


@in_turn("call, dtype", DTYPES, CALLS)
def test_value_and_potential_and_their_gradients(call: Call, dtype: torch.dtype) -> None:
    (x, theta, bias), _ = drawn(call, (70, 3, 20), dtype)
    settings = settings_of(call, [x, theta])
    structure = Structure(*(settings[name] for name in Structure._fields))

    def ours(tensors: list[Tensor]) -> Tensor:
        f, F = Deep(*tensors[1:], settings["basis"], structure).value_and_potential(tensors[0], "triton")
        return torch.cat([f, F.unsqueeze(-1)], -1)

    def exact(tensors: list[Tensor]) -> Tensor:
        f, F = (function(*tensors, **settings) for function in (reference.deep, reference.deep_potential))
        return torch.cat([f, F.unsqueeze(-1)], -1)

    tensors, g = [x, theta, bias], (torch.randn(70, 4) / 16).to(dtype)
    truth = outputs_and_gradients(exact, doubles(tensors), g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(exact, tensors, g), truth)


@in_turn("call, size, dtype", DTYPES, CALLS, [(7, 3, 33), TOO_WIDE])
def test_jacobian_vector_products_and_double_backward(
    call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    def jvp(tensors: list[Tensor]) -> Tensor:
        x, v, theta, bias = tensors
        settings = settings_of(call, [x, theta])
        result: Tensor = gradnets_fast.deep_jvp(x, v, theta, bias, **settings, backend="triton")
        return result

    check_directions(call, size, dtype, jvp)


@each_call
def test_second_derivatives(call: Call) -> None:
    tensors, g = drawn(call, (37, 5, 20), torch.float32)
    truth = second_gradients(call.exact, doubles(tensors), g.double())
    assert_as_good_as_eager(second_gradients(call.ours, tensors, g), second_gradients(call.exact, tensors, g), truth)


@each_call
def test_only_what_is_needed_gets_a_gradient(call: Call) -> None:
    check_only_what_is_needed(call, MIDDLE)


@each_call
def test_strides_of_every_tensor_and_of_the_incoming_gradient(call: Call) -> None:
    check_strides(call, MIDDLE)


@each_call
def test_leading_dimensions_and_empty_batches(call: Call) -> None:
    tensors, _ = drawn(call, (24, 3, 10), torch.float32)
    flat = call.ours(tensors)
    folded = call.ours([tensors[0].view(2, 3, 4, 3), *tensors[1:]])
    assert torch.equal(folded.view(24, 3), flat)
    leaves = [t.requires_grad_() for t in (tensors[0][:0], *tensors[1:])]
    empty = call.ours(leaves)
    assert empty.shape == (0, 3)
    assert all(not gradient.any() for gradient in torch.autograd.grad(empty.sum(), leaves))


@each_call
def test_launches_leave_counters_as_they_were(call: Call) -> None:
    check(call, SIZES[-1], torch.float32)
    assert launch._zeroed
    assert not any(counters.any() for counters in launch._zeroed.values())


def test_memory_does_not_grow_with_the_batch() -> None:
    """Besides points, cotangents and what is returned, launches take the same memory for any batch that keeps them
    busy."""
    call, sizes = CALLS[2], {}

    def recorded(kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: Any) -> bool:
        given = [a for a in arguments if isinstance(a, Tensor) and a.dtype == torch.float32]
        sizes.setdefault(len(given[0]), []).append(sum(a.numel() for a in given if len(a) != len(given[0])))
        return True

    launching.try_first(recorded)
    try:
        for batch in (500, 1500):
            outputs_and_gradients(call.ours, *drawn(call, (batch, 3, 20), torch.float32))
    finally:
        launching.try_first(None)
    assert len(sizes[500]) == 2
    assert sizes[500] == sizes[1500]


def test_the_dispatcher_has_the_kernels() -> None:
    """Within torch.compile and under vmap it is the same operator on the same kernels."""
    torch.compiler.reset()
    call, code = CALLS[1], []
    tensors, g = drawn(call, (5, 3, 8), torch.float32)
    expected = outputs_and_gradients(call.ours, tensors, g)

    def inspected(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
        code.append(graph.code)
        return graph.forward

    settings = settings_of(call, tensors)
    function = partial(gradnets_fast.deep, **settings, backend="triton")
    compiled = torch.compile(function, backend=inspected, fullgraph=True)
    for ours, wanted in zip(outputs_and_gradients(lambda t: compiled(*t), tensors, g), expected):
        torch.testing.assert_close(ours, wanted)
    assert "gradnets_fast.deep_triton" in code[0]
    torch.testing.assert_close(vmap(lambda x: function(x, *tensors[1:]))(tensors[0]), expected[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's words for overflow and 0 · ∞
def test_infinities_of_a_layer_stay_infinities() -> None:
    """They meet the weights 0 of padding on their way down."""
    call = structured_call(Structure((3, 3, 3)), ("identity",) * 3)
    tensors, _ = drawn(call, (2, 2, 3), torch.float32)
    tensors[1] = torch.full_like(tensors[1], 1e30)
    assert call.exact(tensors).isposinf().all()
    assert call.ours(tensors).isposinf().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's word for 0 · ∞
@pytest.mark.parametrize("h", [16, 19])
def test_a_bounded_network_is_finite_at_infinity(h: int) -> None:
    """Tiles pad hidden units, and the weights 0 of padding times infinity are NaN."""
    call = deep_call(2, "tanh", backend="triton")
    tensors, _ = drawn(call, (5, 3, h), torch.float32)
    tensors[0][0, 0], tensors[0][1, 1], tensors[0][2, 0] = float("inf"), float("-inf"), float("nan")
    expected = call.exact(doubles(tensors))
    assert expected[:2].isfinite().all()
    torch.testing.assert_close(call.ours(tensors).double(), expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@each_call
def test_the_gradient_at_an_undefined_point_stays_in_its_row(call: Call) -> None:
    tensors, g = drawn(call, MIDDLE, torch.float32)
    usual = jvp_by_autograd(call.ours)([tensors[0], g, *tensors[1:]])
    tensors[0][3, 1] = float("nan")
    ours = jvp_by_autograd(call.ours)([tensors[0], g, *tensors[1:]])
    others = [i for i in range(MIDDLE[0]) if i != 3]
    assert torch.equal(ours[others], usual[others])
    assert ours[3].isnan().all()
