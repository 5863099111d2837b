"""The Triton kernels of modules, in Triton's interpreter, on the CPU: against float64."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from test_derivative_operators import QUANTITIES, check_directions, check_quantity, doubles
from test_triton import check_only_what_is_needed, check_strides
from torch import Tensor

import gradnets_fast
from covering import in_turn, label, slow_but, slow_but_few
from gradnets_fast.activations import TABLE, TRANSFORMS
from gradnets_fast.kernels import launch
from gradnets_fast.ops import recompute
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients
from test_operators import Call, check_vectors_in_float32, compare, drawn, softmax_call, transformed_call

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 1, 1), (5, 3, 7), (33, 33, 3), (70, 20, 67), (131, 9, 64), (257, 9, 5)]
"""(batch, d, h), just past tiles and their multiples; the longest batch is divided among two programs."""

TOO_WIDE = (9, 300, 20)
MIDDLE = (41, 5, 35)
SMALL = (9, 5, 7)
"""Two tiles of hidden units, and one, which takes the interpreter half as long."""

CALLS = [
    softmax_call(3, 1, "triton"),
    softmax_call(2, 2, "triton"),
    transformed_call(2, "tanh", "half_square", "triton"),
    transformed_call(3, "softplus", "logcosh", "triton"),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=label)
of_each_family = pytest.mark.parametrize("call", slow_but(CALLS[1:3], CALLS), ids=label)


def check(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, g = drawn(call, size, dtype)
    result = compare(call, tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@each_call
def test_the_kernels_run(call: Call) -> None:
    """Everything here would pass on another backend too."""
    kernel = gradnets_fast.explain(call.name.split("-")[0], torch.zeros(3, 2), backend="triton").kernel
    assert "kernels, fused route" in kernel
    assert "interpreter" in kernel


@in_turn("call, size, dtype", DTYPES, CALLS, SIZES, few=1)
def test_values_and_gradients(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(call, size, dtype)


@in_turn("transform, dtype", DTYPES[:2], list(TRANSFORMS))
def test_every_transform(transform: str, dtype: torch.dtype) -> None:
    # The sum of softplus's antiderivatives is positive, as log wants it, and too small for exp to overflow.
    check(transformed_call(2, "softplus", transform, "triton"), SMALL, dtype)


@in_turn("basis, dtype", DTYPES[:2], list(TABLE))
def test_every_basis_function(basis: str, dtype: torch.dtype) -> None:
    check(transformed_call(2, basis, "half_square", "triton"), SMALL, dtype)


@in_turn("call, dtype", DTYPES, CALLS)
def test_rows_that_no_tile_holds(call: Call, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "VALUES", 100)  # a few rows at a time
    explanation = gradnets_fast.explain(call.name.split("-")[0], torch.zeros(1, 300), backend="triton")
    assert "PyTorch's own operators, in pieces of the batch" in explanation.kernel
    check(call, TOO_WIDE, dtype)


@in_turn("call, dtype", DTYPES[1:], CALLS)
def test_points_in_sixteen_bits_with_vectors_in_float32(call: Call, dtype: torch.dtype) -> None:
    check_vectors_in_float32(call, SMALL, dtype)


@pytest.mark.parametrize(("call", "size"), slow_but_few(list(product(CALLS, [SMALL, TOO_WIDE]))), ids=label)
def test_only_what_is_needed_gets_a_gradient(call: Call, size: tuple[int, int, int]) -> None:
    check_only_what_is_needed(call, size)


@of_each_family
def test_strides_of_every_tensor_and_of_the_incoming_gradient(call: Call) -> None:
    check_strides(call, SMALL)


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


@of_each_family
def test_second_derivatives(call: Call) -> None:
    tensors, g = drawn(call, (37, 5, 30), torch.float32)
    truth = second_gradients(call.exact, doubles(tensors), g.double())
    assert_as_good_as_eager(second_gradients(call.ours, tensors, g), second_gradients(call.exact, tensors, g), truth)


@in_turn("call, quantity, size, dtype", DTYPES, CALLS, QUANTITIES, [(4, 1, 2), (9, 33, 40)], few=1)
def test_potential_divergence_jacobian_and_their_gradients(
    call: Call, quantity: str, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_quantity(quantity, call, size, dtype, "triton")


@in_turn("call, size, dtype", DTYPES, CALLS, [(7, 3, 65), TOO_WIDE], few=1)
def test_jacobian_vector_products_and_double_backward(
    call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_directions(call, size, dtype, partial(_jvp, call))


def _jvp(call: Call, tensors: list[Tensor]) -> Tensor:
    family, *settings = call.name.split("-")
    *rows, bias = tensors
    result: Tensor
    if family == "softmax_modules":
        missing = [None] if settings[1] == "1" else []
        result = gradnets_fast.softmax_modules_jvp(*rows, *missing, bias, backend="triton")
    else:
        result = gradnets_fast.transformed_modules_jvp(
            *rows, bias, basis=settings[1], transform=settings[2], backend="triton"
        )
    return result


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of padded hidden units, whose b is not so large
@of_each_family
def test_hidden_values_of_ten_thousand(call: Call) -> None:
    """W x + b is exact: where the softmax is not saturated, or σ' is not 0, its rounding would decide the errors."""
    tensors, g = drawn(call, (41, 5, 35), torch.float32)
    tensors[:3] = [(4 * t).round() / 4 for t in tensors[:3]]
    tensors[1] *= 1e4
    tensors[2] *= 1e4
    result = compare(call, tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@of_each_family
def test_launches_leave_counters_as_they_were(call: Call) -> None:
    check(call, (70, 20, 67), torch.float32)
    assert launch._zeroed
    assert not any(counters.any() for counters in launch._zeroed.values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's word for a row of NaN
@of_each_family
def test_undefined_points_stay_in_their_rows(call: Call) -> None:
    tensors, g = drawn(call, MIDDLE, torch.float32)
    usual = outputs_and_gradients(call.ours, tensors, g)
    tensors[0][3, 1] = float("nan")
    ours = outputs_and_gradients(call.ours, tensors, g)
    others = [i for i in range(MIDDLE[0]) if i != 3]
    for result, expected in zip(ours[:2], usual[:2]):
        assert torch.equal(result[others], expected[others])
        assert result[3].isnan().all()
