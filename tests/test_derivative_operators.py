"""The operators' derivatives by kernels: accuracy, reproducibility, memory; and the double backward that they serve."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp, vmap

import gradnets_fast
from covering import few_of, in_turn, label, slow_but, slow_but_few, with_each_in_turn
from gradnets_fast import reference
from gradnets_fast.reference.ridge import PANELLED_RULE
from oracle import assert_as_good_as_eager, eager_and_exact, outputs_and_gradients
from test_operators import (
    BOUNDED,
    CALLS,
    DTYPES,
    SIZES,
    Call,
    deep_settings,
    each_call,
    each_path,
    ridge_call,
    transformed_call,
)

RIDGES = [*CALLS[:3], ridge_call(1, ("gelu", "sigmoid"))]
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


def jvp_by_autograd(function: Function) -> Function:
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
@each_path([(4, 1, 1), *SIZES[1:]])
def test_double_backward_through_the_points(call: Call, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    tensors, v, g = draw(call, size, dtype)
    tensors.insert(1, v)
    eager, truth = eager_and_exact(jvp_by_autograd(call.exact), tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(jvp_by_autograd(call.ours), tensors, g), eager, truth)


@each_call
def test_double_backward_is_bitwise_equal_for_any_thread_count(call: Call) -> None:
    tensors, v, g = draw(call, (3000, 20, 150), torch.float32)
    tensors.insert(1, v)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(jvp_by_autograd(call.ours), tensors, g))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@each_call
def test_only_what_is_needed_gets_a_second_derivative(call: Call) -> None:
    tensors, v, g = draw(call, (50, 4, 70), torch.float64)
    everything = outputs_and_gradients(jvp_by_autograd(call.exact), [tensors[0], v, *tensors[1:]], g)[1:]
    for needed, expected in enumerate(everything):
        leaves = [t.detach().requires_grad_(i in (0, needed)) for i, t in enumerate([tensors[0], v, *tensors[1:]])]
        (gradient,) = torch.autograd.grad(jvp_by_autograd(call.ours)(leaves), leaves[needed], g)
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-11)


def exact_potential(tensors: Sequence[Tensor], basis: Sequence[str]) -> Tensor:
    """By quadrature throughout: the closed form's derivative in scale cancels even in float64."""
    x, W, scale, shift, coef, bias = tensors
    u = x @ W.T
    t, weight = torch.tensor(PANELLED_RULE, dtype=x.dtype).T
    means = torch.tensordot(weight, reference.cascade(t[:, None, None] * u, scale, shift, coef, basis), 1)
    return (u * means).sum(-1) + x @ bias


QUANTITIES = ("potential", "divergence", "jacobian")
QUANTITY_SIZES = [(4, 1, 2), (5, 2, 7), (97, 3, 65), (30, 21, 150), (40, 33, 193), (64, 130, 20)]


def quantity_of(call: Call, quantity: str, backend: str) -> Function:
    """A call's operator of that quantity on a backend."""
    family = call.name.partition("-")[0]
    operator = getattr(gradnets_fast, f"{family}_{quantity}")

    def function(tensors: Sequence[Tensor]) -> Tensor:
        settings = settings_of(call, tensors)
        arguments: list[Tensor | None] = [*tensors]
        if call.name.startswith("softmax_modules") and call.name.endswith("-1"):
            arguments.insert(5, None)  # negative
        result: Tensor = operator(*arguments, **settings, backend=backend)
        return result

    return function


def settings_of(call: Call, tensors: Sequence[Tensor]) -> dict[str, Any]:
    """The settings of a call, from its name; a deep network's from the size of theta."""
    family, *rest = call.name.split("-")
    if family == "ridge":
        return {"basis": tuple(rest[1].split("+"))}
    if family == "deep":
        return deep_settings(call.name, tensors[1], tensors[0].shape[-1])
    return {"basis": rest[1], "transform": rest[2]} if family == "transformed_modules" else {}


def cotangent(quantity: str, g: Tensor) -> Tensor:
    """One for the operator's result, of numbers as in g (B, d)."""
    return g.unsqueeze(-1) * g.flip(0).unsqueeze(-2) if quantity == "jacobian" else g[:, 0]


QUANTITY_CASES = with_each_in_turn(DTYPES, QUANTITIES, [*RIDGES, *CALLS[3:]], QUANTITY_SIZES)


def met_together(case: tuple[str, Call, tuple[int, int, int], torch.dtype]) -> tuple[Any, ...]:
    """What `make test` has together: a family's quantity at each size, a call with each quantity, size and dtype."""
    quantity, call, size, dtype = case
    family = call.name.partition("-")[0]
    return (quantity, family, size), (call.name, quantity), (call.name, size), (call.name, dtype)


@pytest.mark.parametrize(
    ("quantity", "call", "size", "dtype"),
    slow_but(few_of(QUANTITY_CASES, as_seen=met_together), QUANTITY_CASES),
    ids=label,
)
def test_potential_divergence_jacobian_and_their_gradients(
    quantity: str, call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    check_quantity(quantity, call, size, dtype)


def check_quantity(
    quantity: str, call: Call, size: tuple[int, int, int], dtype: torch.dtype, backend: str = "cpp"
) -> None:
    tensors, _, rows = draw(call, size, dtype)
    g = cotangent(quantity, rows)
    eager, ours = quantity_of(call, quantity, "reference"), quantity_of(call, quantity, backend)
    if quantity == "potential" and call.name.startswith("ridge"):
        exact = partial(exact_potential, basis=settings_of(call, tensors)["basis"])
        theirs = outputs_and_gradients(eager, tensors, g)
        truth = outputs_and_gradients(exact, doubles(tensors), g.double())
    else:
        theirs, truth = eager_and_exact(eager, tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), theirs, truth)


@in_turn("quantity, call, size, dtype", DTYPES, QUANTITIES, BOUNDED, [(6, 2, 5), (6, 17, 5), (50, 9, 131)])
def test_quantities_of_a_bounded_network_are_finite_at_infinity(
    quantity: str, call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """Kernels pad hidden units, and the weights 0 of padding times infinity are NaN."""
    tensors, _, _ = draw(call, size, dtype)
    tensors[0][0, 0], tensors[0][1, 1] = float("inf"), float("-inf")
    tensors.pop()  # the bias, of which the potential takes infinite multiples
    expected = quantity_of(call, quantity, "reference")(doubles(tensors))
    if call.name.startswith("deep"):
        assert expected.isfinite().all()
    ours = quantity_of(call, quantity, "cpp")(tensors).double()
    largest = expected[expected.isfinite()].abs().max().item()
    torch.testing.assert_close(ours, expected, equal_nan=True, rtol=0.1, atol=0.1 * largest)


def check_directions(call: Call, size: tuple[int, int, int], dtype: torch.dtype, jvp: Function) -> None:
    """J(x) v and its gradients, by `jvp` and by autograd of the call."""
    tensors, v, g = draw(call, size, dtype)
    tensors.insert(1, v)
    eager, truth = eager_and_exact(jvp_by_autograd(call.exact), tensors, g)
    for ours in (jvp_by_autograd(call.ours), jvp):
        assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), eager, truth)


@pytest.mark.parametrize(
    ("quantity", "call"), slow_but_few([*product(QUANTITIES, [RIDGES[3], CALLS[4], CALLS[6], CALLS[9]])]), ids=label
)
def test_quantities_under_the_transforms(quantity: str, call: Call) -> None:
    torch.compiler.reset()  # all cases compile the same function, and a function's versions are limited
    leaves = [t.requires_grad_() for t in call.draw(3, 2, 5)]
    ours, exact = (quantity_of(call, quantity, backend) for backend in ("cpp", "reference"))
    assert torch.autograd.gradcheck(lambda *t: ours(t), leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: ours(t), leaves, fast_mode=True)
    x, *parameters = (t.detach() for t in leaves)
    torch.testing.assert_close(vmap(lambda a: ours([a, *parameters]))(x), exact([x, *parameters]))
    compiled = torch.compile(lambda *t: ours(t), backend="aot_eager", fullgraph=True)
    for mine, theirs in zip(
        torch.autograd.grad(compiled(*leaves).sum(), leaves, materialize_grads=True),
        torch.autograd.grad(exact(leaves).sum(), leaves, materialize_grads=True),
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("quantity", QUANTITIES)
@each_call
def test_quantities_are_bitwise_equal_for_any_thread_count(quantity: str, call: Call) -> None:
    tensors, _, rows = draw(call, (500, 20, 150), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(
                outputs_and_gradients(quantity_of(call, quantity, "cpp"), tensors, cotangent(quantity, rows))
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("quantity", ["jvp", *QUANTITIES])
@each_call
def test_derivatives_of_a_row_do_not_depend_on_its_batch(quantity: str, call: Call) -> None:
    """Bitwise, in batches of more than 32 rows, as the value's in test_operators.py."""
    (x, *parameters), v, g = draw(call, (300, 20, 150), torch.float32)
    directed = quantity == "jvp"
    if quantity == "potential" and parameters[-1].shape == x.shape[-1:]:
        parameters[-1].zero_()  # what a bias adds is a product of PyTorch's, which promises no such thing
    function = jvp_by_autograd(call.ours) if directed else quantity_of(call, quantity, "cpp")
    cotangents = g if directed else cotangent(quantity, g)

    def of(rows: slice) -> list[Tensor]:
        points = [x[rows], v[rows]] if directed else [x[rows]]
        return outputs_and_gradients(function, [*points, *parameters], cotangents[rows])[: 1 + len(points)]

    whole = of(slice(None))
    for rows in (slice(1, 290), slice(100, 133), slice(77, 200)):
        for part, all_rows in zip(of(rows), whole):
            assert torch.equal(part, all_rows[rows])


@pytest.mark.parametrize("quantity", QUANTITIES)
@each_call
def test_quantities_of_no_rows_and_of_leading_dimensions(quantity: str, call: Call) -> None:
    tensors = call.draw(6, 3, 5)
    ours = quantity_of(call, quantity, "cpp")
    x, *parameters = tensors
    result = ours(tensors)
    folded = ours([x.view(2, 3, 3).transpose(0, 1), *parameters])
    torch.testing.assert_close(folded.transpose(0, 1).reshape(result.shape), result)
    leaves = [x[:0].requires_grad_(), *(t.requires_grad_() for t in parameters)]
    empty = ours(leaves)
    assert empty.shape == result[:0].shape
    for gradient in torch.autograd.grad(empty.sum(), leaves, materialize_grads=True):
        assert not gradient.any()


EVERY = ("value", "jvp", *QUANTITIES)


def drawn_for(
    quantity: str, call: Call, size: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Function, Function, list[Tensor], Tensor]:
    """Ours, the exact one, their tensors and a cotangent; J(x) v by two backward passes."""
    tensors, v, g = draw(call, size, dtype)
    if quantity == "value":
        return call.ours, call.exact, tensors, g
    if quantity == "jvp":
        return jvp_by_autograd(call.ours), jvp_by_autograd(call.exact), [tensors[0], v, *tensors[1:]], g
    ours, exact = (quantity_of(call, quantity, backend) for backend in ("cpp", "reference"))
    return ours, exact, tensors, cotangent(quantity, g)


@pytest.mark.parametrize("quantity", EVERY)
@each_call
def test_any_number_of_dimensions(quantity: str, call: Call) -> None:
    """Of points, of the gradients and, where the quantity is not one itself, of the double backward."""
    ours, _, tensors, _ = drawn_for(quantity, call, (6, 3, 5), torch.float64)
    points = 2 if quantity == "jvp" else 1

    def results(shape: tuple[int, ...]) -> list[Tensor]:
        leaves = [t.reshape(*shape, 3) if i < points else t.clone() for i, t in enumerate(tensors)]
        leaves = [t.requires_grad_() for t in leaves]
        result = ours(leaves)
        (first,) = torch.autograd.grad(result.square().sum(), leaves[0], create_graph=quantity != "jvp")
        if quantity == "jvp":
            return [result, first]
        return [result, first, *torch.autograd.grad(first.square().sum(), leaves, materialize_grads=True)]

    flat = results((6,))
    for shape in ((2, 1, 1, 1, 1, 1, 3), (2, 1, 1, 1, 1, 1, 1, 3), (1,) * 11 + (6, 1)):
        for mine, expected in zip(results(shape), flat):
            torch.testing.assert_close(mine.reshape(expected.shape), expected)


@pytest.mark.parametrize("quantity", EVERY)
@pytest.mark.parametrize("call", CALLS[3:5], ids=lambda call: call.name)
def test_saturated_softmax_modules(quantity: str, call: Call) -> None:
    """Rows in which one unit has all of a softmax, where eager PyTorch finds exact zeros, beside a row that has not."""
    ours, exact, tensors, g = drawn_for(quantity, call, (12, 3, 33), torch.float32)
    tensors[0][1:] *= 1e6
    truth = outputs_and_gradients(exact, doubles(tensors), g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(exact, tensors, g), truth)


@pytest.mark.parametrize("quantity", EVERY)
@in_turn("basis, below, dtype", DTYPES[:3], ["softplus", "sigmoid"], [-30.0, -40.0])
def test_the_logarithm_of_a_small_sum(quantity: str, basis: str, below: float, dtype: torch.dtype) -> None:
    """Its third derivative overflows where the sum and all results are within range."""
    ours, exact, tensors, g = drawn_for(quantity, transformed_call(2, basis, "log"), (12, 3, 9), dtype)
    tensors[3 if quantity == "jvp" else 2] += below
    truth = outputs_and_gradients(exact, doubles(tensors), g.double())
    allowed = 20 * torch.finfo(dtype).eps * max(t.abs().max().item() for t in truth)
    for mine, expected in zip(outputs_and_gradients(ours, tensors, g), truth):
        torch.testing.assert_close(mine.double(), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("call", [CALLS[0], CALLS[3], CALLS[5], CALLS[9]], ids=lambda call: call.name)
def test_a_jacobian_is_exactly_symmetric(call: Call) -> None:
    jacobian = quantity_of(call, "jacobian", "cpp")([t.float() for t in call.draw(3, 70, 33)])
    assert torch.equal(jacobian, jacobian.mT)


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
    assert torch.autograd.gradcheck(lambda *t: ours(t), leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: ours(t), leaves, fast_mode=True)
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
batch, d, h = 60_000, 4, 1024
net = gradnets_fast.{network}
x, v = torch.randn(batch, d, requires_grad=True), torch.randn(batch, d)
for name in {names}:
    call = (lambda x: net.jvp(x, v[: len(x)])) if name == "jvp" else getattr(net, name)
    call(x[:100]).sum().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call(x).square().sum().backward()
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (batch * h * 4)
    assert more < 0.2, (name, more)
print("little")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("mGradNetC(4, d, h)", ("forward", "jvp")),
        ("mGradNetC(1, d, h)", ("jvp", *QUANTITIES)),
        ("mGradNetM(2, d, h, 'weighted_softmax')", ("forward", "jvp", *QUANTITIES)),
        ("DeepGradNet(d, (h // 2, h // 2))", ("forward", "jvp", *QUANTITIES)),
    ],
)
def test_a_result_and_its_gradients_store_nothing_of_size_batch_times_hidden(
    network: str, names: tuple[str, ...]
) -> None:
    """One float32 array of that size would be 246 MB, which no quantity before would have made room for."""
    script = _MEMORY_SCRIPT.format(network=network, names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "little\n", done.stderr


def test_jvp_at_an_infinite_point_follows_the_reference() -> None:
    tensors = CALLS[0].draw(4, 2, 5)
    tensors[0][1, 0] = float("inf")
    v = torch.ones(4, 2, dtype=torch.float64)
    ours = gradnets_fast.ridge_jvp(tensors[0], v, *tensors[1:], backend="cpp")
    torch.testing.assert_close(ours, reference.ridge_jvp(tensors[0], v, *tensors[1:], ("tanh",)), equal_nan=True)
