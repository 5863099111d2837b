"""The functional operators: shapes, dtypes, second derivatives, reproducibility."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import gradnets_fast
from covering import few_of, in_turn, label, slow_but, with_each_in_turn
from gradnets_fast import reference
from gradnets_fast.functional import Structure
from gradnets_fast.ops import _cpp
from oracle import (
    assert_as_good_as_eager,
    assert_rounded_once,
    eager_and_exact,
    outputs_and_gradients,
    second_gradients,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALVES = DTYPES[2:]

PATHS = {
    "narrow": [(1, 1, 1), (5, 2, 7), (97, 3, 65), (1, 8, 2), (5, 1, 33), (97, 5, 17), (513, 4, 9), (1025, 8, 71)],
    "few coordinates, fewer rows": [(1, 3, 41), (2, 7, 33)],
    "small batch": [(1, 16, 5), (1, 129, 301), (2, 17, 33), (17, 19, 131), (32, 64, 96), (7, 601, 251), (32, 33, 7)],
    "one block": [(33, 33, 3), (64, 130, 20), (67, 515, 19)],
    "divided hidden units": [(33, 41, 401), (200, 33, 193), (130, 70, 130), (129, 37, 259), (1439, 9, 149)],
    "many rows": [(1601, 9, 37), (1601, 11, 131)],
}
"""(batch, d, h) for each way through csrc, just past its limits and those of vectors, tiles, blocks and panels."""

PATH_OF = {size: path for path, sizes in PATHS.items() for size in sizes}
SIZES = [*PATH_OF]


@dataclass(frozen=True)
class Call:
    """One operator at one configuration: how to draw its tensors, and the two functions to compare."""

    name: str
    draw: Callable[[int, int, int], list[Tensor]]
    ours: Callable[[Sequence[Tensor]], Tensor]
    exact: Callable[[Sequence[Tensor]], Tensor]


def _normal(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * scale


def ridge_call(layers: int, basis: tuple[str, ...], backend: str = "cpp") -> Call:
    def draw(batch: int, d: int, h: int) -> list[Tensor]:
        shapes = ((layers, h), (layers, h), (layers, len(basis), h), (d,))
        return [_normal(batch, d), _normal(h, d, scale=d**-0.5), *(_normal(*shape) for shape in shapes)]

    return Call(
        f"ridge-{layers}-{'+'.join(basis)}",
        draw,
        lambda t: gradnets_fast.ridge(*t, basis=basis, backend=backend),
        lambda t: reference.ridge(*t, basis),
    )


def softmax_call(modules: int, signs: int, backend: str = "cpp") -> Call:
    def draw(batch: int, d: int, h: int) -> list[Tensor]:
        W = _normal(modules, h, d, scale=d**-0.5)
        scalars = [_normal(modules).abs() + 0.1, _normal(modules), _normal(modules)][: 1 + signs]
        return [_normal(batch, d), W, _normal(modules, h), *scalars, _normal(d)]

    def arguments(t: Sequence[Tensor]) -> list[Tensor | None]:
        return [*t[:-1], *([None] if signs == 1 else []), t[-1]]

    return Call(
        f"softmax_modules-{modules}-{signs}",
        draw,
        lambda t: gradnets_fast.softmax_modules(*arguments(t), backend=backend),
        lambda t: reference.softmax_modules(*arguments(t)),
    )


def transformed_call(modules: int, basis: str, transform: str, backend: str = "cpp") -> Call:
    def draw(batch: int, d: int, h: int) -> list[Tensor]:
        W = _normal(modules, h, d, scale=d**-0.5)
        return [_normal(batch, d), W, _normal(modules, h), _normal(modules), _normal(d)]

    return Call(
        f"transformed_modules-{modules}-{basis}-{transform}",
        draw,
        lambda t: gradnets_fast.transformed_modules(*t, basis=basis, transform=transform, backend=backend),
        lambda t: reference.transformed_modules(*t, basis, transform),
    )


def deep_widths(layers: int, h: int, residual: bool) -> tuple[int, ...]:
    """Layers of h and of about h/2 hidden units in turn, or of h where they are residual."""
    return tuple(h if residual or i % 2 == 0 else h // 2 + 1 for i in range(layers))


def deep_settings(name: str, theta: Tensor, d: int) -> dict[str, Any]:
    """The settings that a call's name says, with the widths that give theta its size."""
    _, layers, basis, rank, *flags = name.split("-")
    options = {"input_skip": "skip" in flags, "rank": int(rank), "residual": "residual" in flags}
    for h in range(1, 1000):
        widths = deep_widths(int(layers), h, options["residual"])
        if Structure(widths, **options).parameters(d) == theta.numel():
            break
    return {"widths": widths, "basis": (basis,) * int(layers), **options}


def deep_call(layers: int, basis: str, *flags: str, rank: int = 0, backend: str = "cpp") -> Call:
    """The flags are "skip" and "residual"."""
    name = "-".join(["deep", str(layers), basis, str(rank), *flags])

    def draw(batch: int, d: int, h: int) -> list[Tensor]:
        parts, before = [], 0
        for i, n in enumerate(deep_widths(layers, h, "residual" in flags)):
            parts += [_normal(n, d, scale=d**-0.5)] if i == 0 or "skip" in flags else []
            parts += [_normal(n, before, scale=before**-0.5)] if i else []
            parts += [_normal(rank, n, d, scale=1 / d), _normal(n)]
            before = n
        theta = torch.cat([part.flatten() for part in (*parts, _normal(before, scale=before**-0.5))])
        return [_normal(batch, d), theta, _normal(d)]

    return Call(
        name,
        draw,
        lambda t: gradnets_fast.deep(*t, **deep_settings(name, t[1], t[0].shape[-1]), backend=backend),
        lambda t: reference.deep(*t, **deep_settings(name, t[1], t[0].shape[-1])),
    )


CALLS = [
    ridge_call(1, ("tanh",)),
    ridge_call(4, ("tanh",)),
    ridge_call(3, ("softplus", "sin", "identity")),
    softmax_call(3, 1),
    softmax_call(2, 2),
    transformed_call(2, "tanh", "half_square"),
    transformed_call(2, "softplus", "logcosh"),
    deep_call(1, "tanh"),
    deep_call(3, "silu", "skip"),
    deep_call(2, "softplus", "skip", "residual", rank=2),
    deep_call(2, "gelu", rank=3),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


def each_path(sizes: Sequence[tuple[int, int, int]]) -> pytest.MarkDecorator:
    """Each call at each size; in `make test` the first call, and the others once for each path and each dtype.

    The first size is for the first call alone: of one number, it shows little.
    """
    cases = with_each_in_turn(DTYPES, CALLS, sizes)
    quick = [case for case in cases if case[0] is CALLS[0]]
    others = [case for case in cases if case not in quick and case[1] != sizes[0]]
    quick += few_of(others, 2, lambda case: (case[0], PATH_OF[case[1]], case[2]))
    return pytest.mark.parametrize(("call", "size", "dtype"), slow_but(quick, cases), ids=label)


@dataclass(frozen=True)
class Comparison:
    """One call on the same numbers: by the backend, by eager PyTorch in its dtype, and in float64."""

    ours: list[Tensor]
    eager: list[Tensor]
    exact: list[Tensor]


def compare(call: Call, tensors: Sequence[Tensor], g: Tensor) -> Comparison:
    return Comparison(outputs_and_gradients(call.ours, tensors, g), *eager_and_exact(call.exact, tensors, g))


def drawn(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """The call's tensors, and the gradient of its output: 1/16 of normal, for sums over the batch to fit float16."""
    return [t.to(dtype) for t in call.draw(*size)], _normal(size[0], size[1], scale=1 / 16).to(dtype)


def rounds_hidden_values(dtype: torch.dtype) -> bool:
    """Whether the kernels' products take factors of `dtype` alone, hidden values included: native bfloat16."""
    return dtype == torch.bfloat16 and _cpp.extension().instruction_set() == "avx512_bf16"


def check_values_and_gradients(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, g = drawn(call, size, dtype)
    result = compare(call, tensors, g)
    assert_as_good_as_eager(result.ours, result.eager, result.exact)
    if dtype in HALVES and not rounds_hidden_values(dtype):
        float32 = outputs_and_gradients(call.exact, [t.float() for t in tensors], g.float())
        assert_rounded_once(result.ours, float32, result.exact)


@each_path(SIZES)
def test_values_and_gradients(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    check_values_and_gradients(call, size, dtype)


@in_turn("call, size, dtype", HALVES, CALLS, [(97, 3, 65), (17, 19, 131), (129, 37, 259)])
def test_points_in_sixteen_bits_with_vectors_in_float32(
    call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_vectors_in_float32(call, size, dtype)


def check_vectors_in_float32(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """What autocast makes of a network in float32."""
    (x, W, *vectors), g = drawn(call, size, dtype)
    tensors = [x, W, *(t.float() + 1e-3 for t in vectors)]
    result = compare(call, tensors, g)
    assert [t.dtype for t in result.ours] == [dtype, dtype, dtype, *(torch.float32 for _ in vectors)]
    assert_as_good_as_eager(result.ours, result.eager, result.exact)


@in_turn("call, dtype", [torch.float32, torch.float64], CALLS)
def test_second_derivatives(call: Call, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.ops.recompute.DOUBLE_BACKWARD_VALUES", 1000)  # several chunks
    tensors = [t.to(dtype) for t in call.draw(97, 5, 30)]
    g = _normal(97, 5).to(dtype)
    eager, truth = eager_and_exact(call.exact, tensors, g, second_gradients)
    assert_as_good_as_eager(second_gradients(call.ours, tensors, g), eager, truth)


@each_call
def test_third_derivatives_are_refused_with_the_way_out(call: Call) -> None:
    tensors = [t.requires_grad_() for t in call.draw(3, 2, 4)]
    x = tensors[0]
    (first,) = torch.autograd.grad(call.ours(tensors).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='use_backend\\("reference"\\)'):
        torch.autograd.grad(second.sum(), x)


@each_call
@pytest.mark.parametrize("size", [(3000, 3, 100), (17, 601, 251), (500, 37, 259), (3000, 20, 150)], ids=str)
def test_bitwise_equal_for_any_thread_count(call: Call, size: tuple[int, int, int]) -> None:
    """Narrow, small batch, divided hidden units, many rows: each with enough work for several threads."""
    threads = torch.get_num_threads()
    for dtype in (torch.float32, torch.bfloat16):
        tensors, g = drawn(call, size, dtype)
        results = []
        try:
            for count in (1, 2, 3, 2):
                torch.set_num_threads(count)
                results.append(outputs_and_gradients(call.ours, tensors, g))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@in_turn("call, size, dtype", DTYPES, CALLS, [(3, 65), (20, 150), (37, 259), (9, 131)])
def test_a_row_does_not_depend_on_its_batch(call: Call, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Bitwise, in batches of more than 32 rows; fewer are summed in another order."""
    d, h = size
    (x, *parameters), g = drawn(call, (1700, d, h), dtype)
    whole = outputs_and_gradients(call.ours, [x, *parameters], g)
    for rows in (slice(1, 1550), slice(100, 133), slice(777, 1000)):
        part = outputs_and_gradients(call.ours, [x[rows], *parameters], g[rows])
        assert torch.equal(part[0], whole[0][rows])
        assert torch.equal(part[1], whole[1][rows])


@pytest.mark.parametrize("size", [(50, 3, 65), (50, 20, 65)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_large_angle_leaves_other_rows_alone(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Its sine is computed apart, and the sines in the same vector are not."""
    call = ridge_call(2, ("sin", "tanh"))
    tensors, g = drawn(call, size, dtype)
    usual = outputs_and_gradients(call.ours, tensors, g)
    tensors[0][7] = 1e7
    ours = outputs_and_gradients(call.ours, tensors, g)
    others = [i for i in range(size[0]) if i != 7]
    assert torch.equal(ours[0][others], usual[0][others])
    assert torch.equal(ours[1][others], usual[1][others])


@each_call
def test_only_what_is_needed_gets_a_gradient(call: Call) -> None:
    reference_tensors = [t.requires_grad_() for t in call.draw(50, 4, 70)]
    g = _normal(50, 4)
    everything = torch.autograd.grad(call.exact(reference_tensors), reference_tensors, g)
    for needed in range(len(reference_tensors)):
        tensors = [t.detach().requires_grad_(i == needed) for i, t in enumerate(reference_tensors)]
        call.ours(tensors).backward(g)
        for i, (tensor, expected) in enumerate(zip(tensors, everything)):
            if i == needed:
                assert tensor.grad is not None
                torch.testing.assert_close(tensor.grad, expected, rtol=1e-11, atol=1e-12)
            else:
                assert tensor.grad is None
    with torch.no_grad():
        assert not call.ours([t.detach() for t in reference_tensors]).requires_grad


@each_call
def test_inputs_are_left_alone(call: Call) -> None:
    tensors = call.draw(20, 3, 9)
    copies = [t.clone() for t in tensors]
    outputs_and_gradients(call.ours, tensors, _normal(20, 3))
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies))


@each_call
def test_strides_of_every_tensor_and_of_the_incoming_gradient(call: Call) -> None:
    tensors = call.draw(40, 6, 10)
    g = _normal(40, 6)
    expected = outputs_and_gradients(call.ours, tensors, g)

    def spread(t: Tensor) -> Tensor:
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype)
        wide[..., ::2] = t
        return wide[..., ::2]

    strided = outputs_and_gradients(call.ours, [spread(t) for t in tensors], spread(g))
    assert all(torch.equal(a, b) for a, b in zip(expected, strided))
    leaves = [t.detach().requires_grad_() for t in tensors]
    gradients = torch.autograd.grad(call.ours(leaves).sum(), leaves)  # an expanded, stride-0 gradient
    ones = outputs_and_gradients(call.ours, tensors, torch.ones(40, 6, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(gradients, ones[1:]))


@pytest.mark.parametrize("modules", [1, 3])
def test_softmax_modules_do_not_overflow(modules: int) -> None:
    tensors = [t.float() for t in softmax_call(modules, 2).draw(30, 4, 20)]
    tensors[1] *= 1e4
    ours = softmax_call(modules, 2).ours(tensors)
    truth = reference.softmax_modules(*[t.double() for t in tensors])
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.double(), truth, rtol=1e-2, atol=1e-2 * truth.abs().max().item())


def test_a_temperature_that_underflows_has_finite_gradients() -> None:
    call = softmax_call(2, 2)
    tensors = call.draw(6, 3, 5)
    tensors[3].zero_()
    g = _normal(6, 3)
    for ours, expected in zip(
        outputs_and_gradients(call.ours, tensors, g), outputs_and_gradients(call.exact, tensors, g)
    ):
        torch.testing.assert_close(ours, expected)


@in_turn("call, size, dtype", DTYPES, CALLS, [(6, 3, 5), (6, 17, 5), (50, 17, 5), (50, 9, 131)])
def test_an_infinite_gradient_stays_in_its_row(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, g = drawn(call, size, dtype)
    finite = outputs_and_gradients(call.ours, tensors, g)[1]
    g[2, 1] = float("inf")
    dx = outputs_and_gradients(call.ours, tensors, g)[1]
    doubles = [t.double() for t in tensors]
    expected = outputs_and_gradients(call.exact, doubles, g.double())[1]
    if call.name.startswith("deep"):  # autograd of σ', which the reference computes, is a difference of infinities
        settings = deep_settings(call.name, tensors[1], size[1])
        expected = reference.deep_jvp(doubles[0], g.double(), doubles[1], None, **settings)
    others = [i for i in range(size[0]) if i != 2]
    assert torch.equal(dx[others], finite[others])
    assert torch.equal(dx[2].isnan(), expected[2].isnan())
    assert torch.equal(dx[2].isfinite(), expected[2].isfinite())


def test_lazily_negated_tensors() -> None:
    call = ridge_call(1, ("tanh",))
    tensors = call.draw(6, 2, 5)
    expected = call.ours(tensors)
    negated = [torch._neg_view(-t) for t in tensors]
    assert all(t.is_neg() for t in negated)
    torch.testing.assert_close(call.ours(negated), expected)


def test_second_derivatives_ignore_autocast() -> None:
    call = ridge_call(2, ("tanh",))
    tensors = [t.float() for t in call.draw(20, 3, 9)]
    g = _normal(20, 3).float()
    expected = second_gradients(call.ours, tensors, g)
    leaves = [t.requires_grad_() for t in tensors]
    cotangent = g.clone().requires_grad_()
    first = torch.autograd.grad(call.ours(leaves), leaves, cotangent, create_graph=True)
    total = sum((d * torch.sin(torch.arange(d.numel()) + 1.0).view_as(d)).sum() for d in first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = torch.autograd.grad(total, [cotangent, *leaves], materialize_grads=True)
    for ours, wanted in zip(second, expected):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_infinity_and_nan_follow_the_reference() -> None:
    call = ridge_call(2, ("tanh", "softplus"))
    tensors = call.draw(6, 2, 5)
    tensors[0][0, 0], tensors[0][1, 1], tensors[0][2, 0] = float("inf"), float("-inf"), float("nan")
    torch.testing.assert_close(call.ours(tensors), call.exact(tensors), equal_nan=True)


BOUNDED = [ridge_call(1, ("tanh",)), deep_call(1, "tanh"), deep_call(3, "tanh", "skip")]


@pytest.mark.parametrize("size", [(6, 2, 5), (6, 17, 5), (50, 17, 5), (50, 9, 131)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("call", BOUNDED, ids=lambda call: call.name)
def test_a_bounded_network_is_finite_at_infinity(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Kernels pad hidden units, and the weights 0 of padding times infinity are NaN."""
    tensors = [t.to(dtype) for t in call.draw(*size)]
    tensors[0][0, 0], tensors[0][1, 1], tensors[0][2, 0] = float("inf"), float("-inf"), float("nan")
    expected = call.exact([t.double() for t in tensors])
    assert expected[:2].isfinite().all()
    rtol = 8 * torch.finfo(dtype).eps
    largest = expected[expected.isfinite()].abs().max().item()
    torch.testing.assert_close(call.ours(tensors).double(), expected, equal_nan=True, rtol=rtol, atol=rtol * largest)


def test_autocast_casts_points_and_weights() -> None:
    net = gradnets_fast.mGradNetC(2, 3, 8)
    x = torch.randn(10, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
        assert gradnets_fast.explain(net, x).backend == "cpp"
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
    assert (y.float() - net(x)).abs().max() < 0.05
