"""The operators' derivatives by kernels: accuracy, reproducibility, memory; and the double backward that they serve."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import jvp, vmap

import gradnets_fast
from gradnets_fast import reference
from gradnets_fast.reference.ridge import PANELLED_RULE
from oracle import assert_as_good_as_eager, outputs_and_gradients
from test_operators import CALLS, SIZES, Call, _ridge_call, each_call

RIDGES = [(1, ("tanh",)), (4, ("tanh",)), (3, ("softplus", "sin", "identity")), (1, ("gelu", "sigmoid"))]
FAMILIES = ("ridge", "softmax_modules", "transformed_modules")
Function = Callable[[Sequence[Tensor]], Tensor]


def draw(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    """The tensors of a call, and two row vectors; vectors of 16-bit points are float32.

    A ridge's coefficients are halved: at their full size each layer of a mixture magnifies rounding errors, and in
    second derivatives chance decides whose are larger (the mean over draws is the same for kernels and eager PyTorch).
    """
    rows = [torch.randn(size[0], size[1], dtype=torch.float64).to(dtype) for _ in range(2)]
    vectors = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    tensors = call.draw(*size)
    if call.name.startswith("ridge"):
        tensors[4] = tensors[4] / 2
    return [t.to(dtype if i < 2 else vectors) for i, t in enumerate(tensors)], rows[0], rows[1]


def directional(function: Function) -> Function:
    """(x, v, *parameters) -> J(x) v by autograd."""

    def derivative(tensors: Sequence[Tensor]) -> Tensor:
        x, v, *parameters = tensors
        x = x if x.requires_grad else x.detach().requires_grad_()
        f = function([x, *parameters])
        return torch.autograd.grad(f, x, v, create_graph=True)[0]

    return derivative


def doubles(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.double() for t in tensors]


# The floor is set by the largest value: a single number may be all cancellation, four rows are not.
@each_call
@pytest.mark.parametrize("size", [(4, 1, 1), *SIZES[1:]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_double_backward_through_the_points(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, v, g = draw(call, size, dtype)
    tensors.insert(1, v)
    truth = outputs_and_gradients(directional(call.exact), doubles(tensors), g.double())
    eager = outputs_and_gradients(directional(call.exact), tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(directional(call.ours), tensors, g), eager, truth)


@each_call
def test_double_backward_is_bitwise_equal_for_any_thread_count(call: Call) -> None:
    tensors, v, g = draw(call, (3000, 20, 150), torch.float32)
    tensors.insert(1, v)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(directional(call.ours), tensors, g))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@each_call
def test_only_what_is_needed_gets_a_second_derivative(call: Call) -> None:
    tensors, v, g = draw(call, (50, 4, 70), torch.float64)
    everything = outputs_and_gradients(directional(call.exact), [tensors[0], v, *tensors[1:]], g)[1:]
    for needed, expected in enumerate(everything):
        leaves = [t.detach().requires_grad_(i in (0, needed)) for i, t in enumerate([tensors[0], v, *tensors[1:]])]
        (gradient,) = torch.autograd.grad(directional(call.ours)(leaves), leaves[needed], g)
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-11)


def exact_potential(tensors: Sequence[Tensor], basis: Sequence[str]) -> Tensor:
    """By quadrature throughout: the closed form's derivative in scale cancels even in float64."""
    x, W, scale, shift, coef, bias = tensors
    u = x @ W.T
    return (u * sum(w * reference.cascade(t * u, scale, shift, coef, basis) for t, w in PANELLED_RULE)).sum(
        -1
    ) + x @ bias


@pytest.mark.parametrize("name", ["potential", "divergence"])
@pytest.mark.parametrize("ridge", RIDGES, ids=str)
@pytest.mark.parametrize("size", [(4, 1, 1), (5, 2, 7), (97, 3, 65), (200, 33, 193), (64, 130, 20)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_scalars_of_a_ridge_and_their_gradients(
    name: str, ridge: tuple[int, tuple[str, ...]], size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    layers, basis = ridge
    call = _ridge_call(layers, basis)
    tensors, _, rows = draw(call, size, dtype)
    g = rows[:, 0]

    def eager(t: Sequence[Tensor]) -> Tensor:
        result: Tensor = getattr(reference, f"ridge_{name}")(*t, basis)
        return result

    def ours(t: Sequence[Tensor]) -> Tensor:
        result: Tensor = getattr(gradnets_fast, f"ridge_{name}")(*t, basis=basis, backend="cpp")
        return result

    exact = eager if name == "divergence" else lambda t: exact_potential(t, basis)
    truth = outputs_and_gradients(exact, doubles(tensors), g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), truth)


@pytest.mark.parametrize("name", ["potential", "divergence"])
def test_scalars_of_a_ridge_under_the_transforms(name: str) -> None:
    x, _, *parameters = jvp_tensors("ridge")
    leaves = [t.requires_grad_() for t in (x, *parameters)]
    operator = getattr(gradnets_fast, f"ridge_{name}")

    def ours(*t: Tensor) -> Tensor:
        result: Tensor = operator(*t, basis=("softplus", "sin"), backend="cpp")
        return result

    assert torch.autograd.gradcheck(ours, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, leaves)
    x, *parameters = (t.detach() for t in leaves)
    exact = operator(x, *parameters, basis=("softplus", "sin"), backend="reference")
    torch.testing.assert_close(vmap(lambda a: ours(a, *parameters))(x), exact)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for mine, theirs in zip(
        torch.autograd.grad(compiled(*leaves).sum(), leaves), torch.autograd.grad(ours(*leaves).sum(), leaves)
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["potential", "divergence"])
def test_scalars_of_a_ridge_are_bitwise_equal_for_any_thread_count(name: str) -> None:
    tensors, _, rows = draw(CALLS[2], (3000, 20, 150), torch.float32)
    operator = getattr(gradnets_fast, f"ridge_{name}")
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(
                outputs_and_gradients(
                    lambda t: operator(*t, basis=("softplus", "sin", "identity"), backend="cpp"), tensors, rows[:, 0]
                )
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def jvp_of(family: str, backend: str) -> Function:
    """(x, v, *parameters) -> J(x) v for one configuration of a family."""
    settings: dict[str, object] = {
        "ridge": {"basis": ("softplus", "sin")},
        "softmax_modules": {},
        "transformed_modules": {"basis": "softplus", "transform": "logcosh"},
    }[family]
    return lambda tensors: getattr(gradnets_fast, f"{family}_jvp")(*tensors, backend=backend, **settings)


def jvp_tensors(family: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x, v = normal(3, 2), normal(3, 2)
    if family == "ridge":
        return [x, v, normal(5, 2), normal(2, 5), normal(2, 5), normal(2, 2, 5)]
    scalars = [normal(2).abs() + 0.5 for _ in range(3 if family == "softmax_modules" else 1)]
    return [x, v, normal(2, 5, 2), normal(2, 5), *scalars]


@pytest.mark.parametrize("family", FAMILIES)
def test_jvp_under_the_transforms(family: str) -> None:
    ours, exact = jvp_of(family, "cpp"), jvp_of(family, "reference")
    tensors = jvp_tensors(family)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: ours(t), leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda *t: ours(t), leaves)
    x, v, *parameters = (t.detach() for t in tensors)
    close = torch.testing.assert_close

    def along(function: Function) -> Tensor:
        return jvp(lambda a, b: function([a, b, *parameters]), (x, v), (v, x))[1]

    close(along(ours), along(exact))
    close(vmap(lambda a, b: ours([a, b, *parameters]))(x, v), exact([x, v, *parameters]))
    compiled = torch.compile(lambda *t: ours(t), backend="aot_eager", fullgraph=True)
    compiled_gradients = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    for mine, theirs in zip(compiled_gradients, torch.autograd.grad(exact(leaves).sum(), leaves)):
        close(mine, theirs)


def test_a_cotangent_of_a_parameter_takes_the_reference() -> None:
    call = CALLS[1]
    leaves = [t.requires_grad_() for t in call.draw(9, 3, 5)]

    def second(function: Function) -> list[Tensor]:
        first = torch.autograd.grad(function(leaves).square().sum(), leaves[:2], create_graph=True)
        return list(torch.autograd.grad(sum(t.square().sum() for t in first), leaves))  # type: ignore[arg-type]

    for mine, theirs in zip(second(call.ours), second(call.exact)):
        torch.testing.assert_close(mine, theirs)


_MEMORY_SCRIPT = """
import resource, torch, gradnets_fast
torch.set_num_threads(2)
batch, d, h = 150_000, 4, 1024
net = gradnets_fast.{network}
x, v = torch.randn(batch, d, requires_grad=True), torch.randn(batch, d)
net.jvp(x[:100], v[:100]).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
net.jvp(x, v).square().sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (batch * h * 4))
"""


@pytest.mark.parametrize("network", ["mGradNetC(4, d, h)", "mGradNetM(2, d, h, 'weighted_softmax')"])
def test_a_derivative_and_its_gradients_store_nothing_of_size_batch_times_hidden(network: str) -> None:
    script = _MEMORY_SCRIPT.format(network=network)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2


def test_jvp_at_an_infinite_point_follows_the_reference() -> None:
    tensors = CALLS[0].draw(4, 2, 5)
    tensors[0][1, 0] = float("inf")
    v = torch.ones(4, 2, dtype=torch.float64)
    ours = gradnets_fast.ridge_jvp(tensors[0], v, *tensors[1:], backend="cpp")
    torch.testing.assert_close(ours, reference.ridge_jvp(tensors[0], v, *tensors[1:], ("tanh",)), equal_nan=True)
