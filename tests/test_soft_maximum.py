"""Modules combined by log-sum-exp: composed on the cpp backend, by kernels in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from test_derivative_operators import QUANTITIES, cotangent, doubles
from torch import Tensor

import gradnets_fast
from covering import label, slow_but_few
from gradnets_fast import reference
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients

BACKENDS = ("cpp", "triton")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(1, 1, 1), (7, 3, 9), (41, 20, 35)]
FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "softmax": ("softmax_modules", {}),
    "weighted softmax": ("softmax_modules", {}),
    "quadratic": ("transformed_modules", {"basis": "identity", "transform": "identity"}),
    "tanh": ("transformed_modules", {"basis": "tanh", "transform": "half_square"}),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def draw(family: str, size: tuple[int, int, int], dtype: torch.dtype, modules: int = 3) -> list[Tensor]:
    """x, parameters, bias, sharpness and offset; vectors of 16-bit points are float32.

    Potentials and scores are small, because their rounding errors are relative errors of the shares.
    """
    batch, d, h = size
    points = [torch.randn(batch, d), torch.randn(modules, h, d) * (4 * d) ** -0.5]
    vectors = [
        torch.randn(modules, h) / 2,
        *(torch.rand(modules) + 0.1 for _ in range(_numbers(family))),
        torch.randn(d),
    ]
    vectors += [torch.tensor(3.0 / h), torch.randn(modules)]
    wide = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    return [*(t.to(dtype) for t in points), *(t.to(wide) for t in vectors)]


def _numbers(family: str) -> int:
    return {"softmax": 2, "weighted softmax": 3}.get(family, 1)


def call(family: str, suffix: str, backend: str) -> Callable[[Sequence[Tensor]], Tensor]:
    """(x, [v], *parameters, bias, sharpness, offset) -> the operator's result on a backend."""
    name, settings = FAMILIES[family]
    operator = getattr(gradnets_fast, name + suffix)

    def function(tensors: Sequence[Tensor]) -> Tensor:
        *arguments, bias, sharpness, offset = tensors
        missing = [None] if family == "softmax" else []
        result: Tensor = operator(
            *arguments, *missing, bias, **settings, sharpness=sharpness, offset=offset, backend=backend
        )
        return result

    return function


def check(family: str, suffix: str, backend: str, tensors: list[Tensor], g: Tensor) -> None:
    eager = call(family, suffix, "reference")
    truth = outputs_and_gradients(eager, doubles(tensors), g.double())
    ours = outputs_and_gradients(call(family, suffix, backend), tensors, g)
    compare(family, ours, outputs_and_gradients(eager, tensors, g), truth)


def compare(family: str, *results: list[Tensor]) -> None:
    """By the oracle's rule; gradients of numbers of modules together, for one of them may be all cancellation."""
    count = _numbers(family)

    def grouped(tensors: list[Tensor]) -> list[Tensor]:
        *others, bias, sharpness, offset = tensors
        numbers = [*others[-count:], offset, sharpness.reshape(1)]
        return [*others[:-count], bias, torch.cat(numbers)]

    assert_as_good_as_eager(*map(grouped, results))


@pytest.mark.parametrize(
    ("family", "backend", "size", "dtype"), slow_but_few(list(product(FAMILIES, BACKENDS, SIZES, DTYPES)), 2), ids=label
)
def test_values_and_gradients(family: str, backend: str, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors = draw(family, size, dtype)
    check(family, "", backend, tensors, torch.randn(size[:2]).to(dtype) / 16)


@each_family
@each_backend
@pytest.mark.parametrize("suffix", [*(f"_{s}" for s in QUANTITIES), "_jvp"])
def test_derivatives_and_their_gradients(family: str, backend: str, suffix: str) -> None:
    size = (7, 3, 9)
    tensors, g = draw(family, size, torch.float32), torch.randn(size[:2])
    if suffix == "_jvp":
        tensors.insert(1, torch.randn(size[:2]))
    check(family, suffix, backend, tensors, g if suffix == "_jvp" else cotangent(suffix[1:], g))


@pytest.mark.parametrize(("backend", "of_eager"), [("cpp", 0.8), ("triton", 0.5)])
def test_shares_of_large_scores(backend: str, of_eager: float) -> None:
    """Of scores of a thousand the last digits are a share's first ones: sums and scores have more than float32's."""
    errors = torch.zeros(2)
    for seed in range(4):
        torch.manual_seed(seed)
        tensors = draw("quadratic", (33, 4, 256), torch.float32)
        tensors[1] *= 2
        tensors[-2] = torch.tensor(5.0)
        truth = call("quadratic", "", "reference")(doubles(tensors))
        found = [call("quadratic", "", which)(tensors) for which in (backend, "reference")]
        errors += torch.stack([(f.double() - truth).square().mean().sqrt() for f in found]).float()
    assert errors[0] <= of_eager * errors[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("soft", [False, True], ids=["sum", "soft maximum"])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's words for overflow
def test_potentials_that_overflow_have_a_sign(sign: int, soft: bool, backend: str) -> None:
    """−∞ − (−∞) must not come up: eager PyTorch's potential is ±∞ there."""
    x = torch.tensor([[sign * torch.finfo(torch.float32).max / 4] * 9, [0.1] * 9])
    W, b, ones = torch.ones(2, 5, 9), torch.zeros(2, 5), torch.ones(2)
    more = {"sharpness": torch.tensor(3.0), "offset": torch.zeros(2)} if soft else {}
    found = gradnets_fast.softmax_modules_potential(x, W, b, ones, ones, None, None, backend=backend, **more)
    expected = reference.softmax_modules_potential(x, W, b, ones, ones, None, None, **more)
    assert expected[0] == sign * float("inf")
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1])


@each_family
@each_backend
def test_second_derivatives(family: str, backend: str) -> None:
    size = (7, 3, 9)
    tensors, g = draw(family, size, torch.float32), torch.randn(size[:2])
    eager = call(family, "", "reference")
    truth = second_gradients(eager, doubles(tensors), g.double())
    ours = second_gradients(call(family, "", backend), tensors, g)
    compare(family, ours, second_gradients(eager, tensors, g), truth)


@each_family
@each_backend
def test_one_module_is_as_if_summed(family: str, backend: str) -> None:
    tensors = draw(family, (7, 3, 9), torch.float32, modules=1)
    name, settings = FAMILIES[family]
    *arguments, bias, _, _ = tensors
    missing = [None] if family == "softmax" else []
    summed = getattr(gradnets_fast, name)(*arguments, *missing, bias, **settings, backend=backend)
    torch.testing.assert_close(call(family, "", backend)(tensors), summed)


@each_family
def test_the_soft_maximum_is_the_gradient_of_its_potential_and_near_the_maximum(family: str) -> None:
    tensors = draw(family, (9, 3, 5), torch.float64)
    x = tensors[0].requires_grad_()
    potential = call(family, "_potential", "reference")(tensors)
    (gradient,) = torch.autograd.grad(potential.sum(), x)
    torch.testing.assert_close(call(family, "", "reference")(tensors), gradient)
    sharp = [*tensors[:-2], torch.tensor(1e6, dtype=torch.float64), torch.zeros_like(tensors[-1])]
    name, settings = FAMILIES[family]
    *arguments, bias, _, _ = tensors
    missing = [None] if family == "softmax" else []
    each = [
        getattr(reference, f"{name}_potential")(
            x, *(t[m : m + 1] for t in arguments[1:]), *missing, bias, *settings.values()
        )
        for m in range(3)
    ]
    largest = torch.stack(each, -1).max(-1).values
    torch.testing.assert_close(call(family, "_potential", "reference")(sharp), largest, rtol=0, atol=2e-6)


@each_family
@each_backend
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy of padded hidden units, whose b is not so large
def test_hidden_values_of_ten_thousand_do_not_overflow(family: str, backend: str) -> None:
    tensors = draw(family, (9, 3, 5), torch.float32)
    tensors[1] *= 1e4
    tensors[2] *= 1e4
    ours = outputs_and_gradients(call(family, "", backend), tensors, torch.ones(9, 3))
    truth = outputs_and_gradients(call(family, "", "reference"), doubles(tensors), torch.ones(9, 3).double())
    within = [t.abs().max() < torch.finfo(torch.float32).max for t in truth]
    assert all(mine.isfinite().all() for mine, finite in zip(ours, within) if finite)
    torch.testing.assert_close(ours[0].double(), truth[0], rtol=1e-3, atol=1e-3 * truth[0].abs().max().item())


def test_what_cannot_be_combined_is_refused_with_the_way_out() -> None:
    tensors = draw("softmax", (7, 3, 9), torch.float32)
    *arguments, _, sharpness, offset = tensors
    with pytest.raises(
        ValueError, match="offset: expected None where modules are summed, got a tensor; pass sharpness"
    ):
        gradnets_fast.softmax_modules(*arguments, offset=offset)
    with pytest.raises(ValueError, match=r"sharpness: expected shape \(\) = \(\)"):
        gradnets_fast.softmax_modules(*arguments, sharpness=offset)
    with pytest.raises(ValueError, match=r"offset: expected shape \(M,\) = \(3,\)"):
        gradnets_fast.softmax_modules(*arguments, sharpness=sharpness, offset=offset[:2])
    with pytest.raises(ValueError, match="combine"):
        gradnets_fast.mGradNetM(2, 3, 4, combine="maximum")


def test_without_an_offset_it_is_zero() -> None:
    tensors = draw("softmax", (7, 3, 9), torch.float32)
    *arguments, bias, sharpness, offset = tensors
    default = gradnets_fast.softmax_modules(*arguments, None, bias, sharpness=sharpness)
    zeros = gradnets_fast.softmax_modules(*arguments, None, bias, sharpness=sharpness, offset=torch.zeros_like(offset))
    assert torch.equal(default, zeros)
