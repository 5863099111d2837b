"""The Triton kernels of J v, the potential, the divergence and the Jacobian, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from test_derivative_operators import (
    QUANTITIES,
    check_directions,
    check_quantity,
    cotangent,
    doubles,
    draw,
    jvp_by_autograd,
    quantity_of,
)
from torch import Tensor

import gradnets_fast
from covering import in_turn, label, slow_but_few, with_each_in_turn
from gradnets_fast import reference
from gradnets_fast.ops import recompute
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients
from test_operators import Call, ridge_call

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(4, 1, 2), (7, 3, 65), (9, 33, 40)]
"""(batch, d, h): d padded to 16, and beyond; one tile of hidden units, and more."""

TOO_WIDE = (5, 300, 20)
CALLS = [
    ridge_call(1, ("tanh",), "triton"),
    ridge_call(2, ("tanh",), "triton"),
    ridge_call(1, ("gelu", "relu"), "triton"),
    ridge_call(3, ("softplus", "sin"), "triton"),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_quantity = pytest.mark.parametrize("quantity", QUANTITIES)


DEEP_POTENTIALS = [
    ("potential", CALLS[1], SIZES[2], torch.float32),
    ("potential", CALLS[1], SIZES[0], torch.float16),
    ("potential", CALLS[3], SIZES[0], torch.bfloat16),
]
"""The 128 nodes of a deep cascade take the interpreter long: they are left to `make test-all`."""

QUANTITY_CASES = [
    case
    for case in with_each_in_turn(DTYPES, QUANTITIES, CALLS, SIZES)
    if case[0] != "potential" or case[1] not in (CALLS[1], CALLS[3])
]


@pytest.mark.parametrize(("basis", "at"), [("hardtanh", 0.5), ("hardsigmoid", 0.0)])
def test_potentials_of_small_scales_do_not_cancel(basis: str, at: float) -> None:
    """Below s lies a kink of other functions, none of this one, and ∫_0^u φ(βt + s) dt is all but u φ(s)."""
    x, W, scale, shift = torch.tensor([[-1.0], [1.0]]), torch.ones(1, 1), torch.full((1, 1), 1e-6), torch.tensor([[at]])
    F = gradnets_fast.ridge_potential(x, W, scale, shift, None, None, basis, backend="triton")
    torch.testing.assert_close(F, x[:, 0] / 2, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("quantity", "call", "size", "dtype"),
    [*slow_but_few(QUANTITY_CASES), *(pytest.param(*case, marks=pytest.mark.slow) for case in DEEP_POTENTIALS)],
    ids=label,
)
def test_potential_divergence_jacobian_and_their_gradients(
    quantity: str, call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_quantity(quantity, call, size, dtype, "triton")


@in_turn("call, size, dtype", DTYPES, CALLS, [*SIZES, (70, 20, 33)], few=1)
def test_jacobian_vector_products_and_double_backward(
    call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_directions(call, size, dtype, jvp_of(call))


def one_call(quantity: str) -> Call:
    """A cascade of two layers, but of one where that is by far the quicker."""
    return CALLS[0] if quantity == "potential" else CALLS[1]


def jvp_of(call: Call) -> Callable[[list[Tensor]], Tensor]:
    basis = tuple(call.name.split("-")[2].split("+"))
    return lambda tensors: gradnets_fast.ridge_jvp(*tensors, basis=basis, backend="triton")


@each_quantity
@each_dtype
def test_rows_that_no_tile_holds(quantity: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "VALUES", 1)  # a row at a time
    check_quantity(quantity, CALLS[1], TOO_WIDE, dtype, "triton")


def test_jvp_of_rows_that_no_tile_holds() -> None:
    tensors, v, g = draw(CALLS[1], TOO_WIDE, torch.float32)
    tensors.insert(1, v)
    truth, eager = (
        outputs_and_gradients(jvp_by_autograd(CALLS[1].exact), t, c)
        for t, c in ((doubles(tensors), g.double()), (tensors, g))
    )
    assert_as_good_as_eager(outputs_and_gradients(jvp_of(CALLS[1]), tensors, g), eager, truth)


@pytest.mark.parametrize(
    ("quantity", "absent"),
    slow_but_few(list(product([*QUANTITIES, "jvp"], [("scale",), ("coef",), ("scale", "coef", "bias")]))),
    ids=str,
)
def test_tensors_that_are_left_out(quantity: str, absent: tuple[str, ...]) -> None:
    (x, W, scale, shift, coef, bias), v, g = draw(one_call(quantity), (6, 5, 9), torch.float32)
    names = ("x", "v", "W", "scale", "shift", "coef", "bias") if quantity == "jvp" else ("x", *ALL[1:])
    values = {"x": x, "v": v, "W": W, "scale": scale, "shift": shift, "coef": coef, "bias": bias}
    given = {name: values[name] for name in names if name not in absent}
    ones = {"scale": torch.ones_like(scale), "coef": torch.ones_like(coef), "bias": torch.zeros(5)}
    operator = getattr(gradnets_fast, f"ridge_{quantity}")

    def call(backend: str, tensors: list[Tensor]) -> Tensor:
        arguments: dict[str, Tensor | None] = dict.fromkeys(absent)
        if backend == "reference":
            arguments = {name: ones[name].to(tensors[0].dtype) for name in absent}
        arguments |= dict(zip(given, tensors))
        result: Tensor = operator(*(arguments[name] for name in names), basis="tanh", backend=backend)
        return result

    rows = cotangent(quantity, g) if quantity != "jvp" else g
    tensors = list(given.values())
    eager = outputs_and_gradients(partial(call, "reference"), tensors, rows)
    truth = outputs_and_gradients(partial(call, "reference"), doubles(tensors), rows.double())
    assert_as_good_as_eager(outputs_and_gradients(partial(call, "triton"), tensors, rows), eager, truth)


ALL = ("x", "W", "scale", "shift", "coef", "bias")


@pytest.mark.parametrize("quantity", [*QUANTITIES, "jvp"])
def test_only_what_is_needed_gets_a_gradient(quantity: str) -> None:
    tensors, v, g = draw(CALLS[0], (6, 5, 9), torch.float32)
    tensors = tensors[:5]
    rows = cotangent(quantity, g) if quantity != "jvp" else g
    operator = getattr(gradnets_fast, f"ridge_{quantity}")
    if quantity == "jvp":
        tensors.insert(1, v)

    def ours(leaves: list[Tensor]) -> Tensor:
        result: Tensor = operator(*leaves, basis="tanh", backend="triton")
        return result

    everything = outputs_and_gradients(ours, tensors, rows)[1:]
    for needed, expected in enumerate(everything):
        leaves = [t.detach().requires_grad_(i == needed) for i, t in enumerate(tensors)]
        (gradient,) = torch.autograd.grad(ours(leaves), leaves[needed], rows)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("d", [3, 260])
@pytest.mark.parametrize("quantity", [*QUANTITIES, "jvp"])
def test_leading_dimensions_strides_and_empty_batches(quantity: str, d: int) -> None:
    tensors, v, _ = draw(CALLS[0], (6, d, 5), torch.float32)
    operator = partial(getattr(gradnets_fast, f"ridge_{quantity}"), basis="tanh", backend="triton")
    rows = [tensors[0], v] if quantity == "jvp" else [tensors[0]]
    parameters = tensors[1:5]
    result = operator(*rows, *parameters)
    folded = operator(*(r.view(2, 3, d).transpose(0, 1) for r in rows), *parameters)
    torch.testing.assert_close(folded.transpose(0, 1).reshape(result.shape), result)
    leaves = [t.requires_grad_() for t in (*(r[:0] for r in rows), *(p.clone() for p in parameters))]
    empty = operator(*leaves)
    assert empty.shape == result[:0].shape
    for gradient in torch.autograd.grad(empty.sum(), leaves, materialize_grads=True):
        assert not gradient.any()


def test_a_jacobian_is_exactly_symmetric() -> None:
    jacobian = quantity_of(CALLS[1], "jacobian", "triton")([t.float() for t in CALLS[1].draw(3, 70, 33)])
    assert torch.equal(jacobian, jacobian.mT)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's word for 0 · ∞
@pytest.mark.parametrize("d", [3, 20])
@pytest.mark.parametrize("basis", ["tanh", "relu"])
def test_derivatives_at_infinite_and_undefined_points(basis: str, d: int) -> None:
    call = ridge_call(1, (basis,), "triton")
    (x, W, *vectors, _), v, _ = draw(call, (5, d, 40), torch.float32)
    x[0, 0], x[1, 1] = (float("inf"), float("nan")) if basis == "tanh" else (float("nan"), float("nan"))
    ours = gradnets_fast.ridge_jvp(x, v, W, *vectors, basis=basis, backend="triton")
    expected = reference.ridge_jvp(x, v, W, *vectors, None, (basis,))
    torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    bounded = x[:1] if basis == "tanh" else x[2:]
    jacobian = gradnets_fast.ridge_jacobian(bounded, W, *vectors, basis=basis, backend="triton")
    expected = reference.ridge_jacobian(bounded, W, *vectors, None, (basis,))
    torch.testing.assert_close(jacobian, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(37, 5, 30), (37, 3, 30)], ids=str)
def test_second_derivatives_in_everything(size: tuple[int, int, int]) -> None:
    tensors, _, g = draw(CALLS[1], size, torch.float32)
    truth = second_gradients(CALLS[1].exact, doubles(tensors), g.double())
    eager = second_gradients(CALLS[1].exact, tensors, g)
    assert_as_good_as_eager(second_gradients(CALLS[1].ours, tensors, g), eager, truth)


def test_methods_of_networks_under_use_backend() -> None:
    net = gradnets_fast.mGradNetC(2, 3, 8)
    x, v = torch.randn(5, 3), torch.randn(5, 3)
    for method in (net.potential, net.divergence, net.jacobian, lambda x: net.jvp(x, v)):
        with gradnets_fast.use_backend("triton"):
            ours = method(x)
        with gradnets_fast.use_backend("reference"):
            torch.testing.assert_close(ours, method(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("d", "path"), [(3, "fused route"), (300, "PyTorch's own operators, in pieces")])
def test_explain_says_what_computes_a_derivative(d: int, path: str) -> None:
    assert path in gradnets_fast.explain("ridge_divergence", torch.zeros(2, d), backend="triton").kernel
