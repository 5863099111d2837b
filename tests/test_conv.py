"""Convolutional ridge networks as operators: values and every derivative, shapes, transforms, reproducibility."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import gradnets_fast as gf
from covering import in_turn, label, slow_but, slow_but_few, with_each_in_turn
from gradnets_fast import reference
from gradnets_fast.reference.conv import projected
from gradnets_fast.reference.ridge import PANELLED_RULE
from oracle import (
    Function,
    assert_as_good_as_eager,
    assert_rounded_once,
    outputs_and_gradients,
    second_gradients,
)
from test_operators import rounds_hidden_values

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class Size(NamedTuple):
    """How many images, their channels and sizes, and the channels and sizes of the filters."""

    batch: int
    inputs: int
    image: tuple[int, ...]
    channels: int
    filters: tuple[int, ...]

    @property
    def name(self) -> str:
        image, filters = ("x".join(map(str, sizes)) for sizes in (self.image, self.filters))
        return f"{self.batch}x{self.inputs}x{image}-{self.channels}x{filters}"


TINY = Size(2, 2, (3, 2), 3, (3, 2))
SIZES = [
    Size(3, 1, (7,), 5, (3,)),
    Size(2, 2, (5,), 4, (4,)),
    Size(2, 1, (301,), 17, (9,)),
    Size(5, 3, (1, 1), 2, (1, 1)),
    Size(2, 1, (9, 12), 6, (5, 5)),
    Size(1, 3, (6, 17), 9, (2, 3)),
    Size(1, 1, (33, 40), 64, (5, 5)),
    Size(1, 1, (61, 47), 33, (13, 13)),
    Size(1, 8, (20, 30), 31, (4, 6)),
    Size(17, 2, (8, 8), 16, (3, 3)),
    Size(2, 2, (3, 4, 5), 3, (2, 3, 1)),
    Size(1, 1, (7, 9, 10), 8, (3, 3, 3)),
]
LARGER_FILTERS = Size(2, 2, (2, 3), 4, (5, 4))
"""Than the image, which zeros allow."""


@dataclass(frozen=True)
class Call:
    """The functions of the channels, and what lies beyond the border."""

    layers: int
    basis: tuple[str, ...]
    padding: str

    @property
    def name(self) -> str:
        return f"{self.layers}-{'+'.join(self.basis)}-{self.padding}"

    def draw(self, size: Size, dtype: torch.dtype, vectors: torch.dtype | None = None) -> list[Tensor]:
        """x, K, scale, shift, coef and bias; coefficients are halved, as in test_derivative_operators.py."""
        shapes = [(self.layers, size.channels)] * 2 + [(self.layers, len(self.basis), size.channels), (size.inputs,)]
        K = normal(size.channels, size.inputs, *size.filters)
        drawn = [normal(size.batch, size.inputs, *size.image), K / K[0].numel() ** 0.5, *(normal(*s) for s in shapes)]
        drawn[4] = drawn[4] / 2
        return [t.to(dtype if i < 2 else vectors or dtype) for i, t in enumerate(drawn)]

    def function(self, quantity: str = "value", backend: str = "cpp") -> Function:
        """An operator of (x, K, …), or of (x, v, K, …) for J v."""
        operator = getattr(gf, "conv_ridge" if quantity == "value" else f"conv_ridge_{quantity}")
        return lambda t: operator(*t, basis=self.basis, padding=self.padding, backend=backend)

    def exact(self, quantity: str) -> Function:
        """The reference; the potential by quadrature, because its closed form's derivative in scale cancels."""
        return self._potential if quantity == "potential" else self.function(quantity, "reference")

    def _potential(self, tensors: Sequence[Tensor]) -> Tensor:
        x, K, scale, shift, coef, bias = tensors
        u = projected(x, K, self.padding)
        phi = sum(w * reference.cascade(t * u, scale, shift, coef, self.basis) for t, w in PANELLED_RULE)
        return (u * phi).flatten(1).sum(-1) + x.flatten(2).sum(-1) @ bias


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


CALLS = [
    Call(1, ("tanh",), "zeros"),
    Call(1, ("softplus",), "circular"),
    Call(3, ("tanh",), "circular"),
    Call(2, ("softplus", "sin", "identity"), "zeros"),
]
QUANTITIES = ("value", "jvp", "potential", "divergence")
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
each_quantity = pytest.mark.parametrize("quantity", QUANTITIES)


def tensors_for(
    quantity: str, call: Call, size: Size, dtype: torch.dtype = torch.float64, vectors: torch.dtype | None = None
) -> tuple[list[Tensor], Tensor]:
    """The operator's tensors, v after x where it takes one, and a gradient of its result, a sixteenth of normal."""
    x, *parameters = call.draw(size, dtype, vectors)
    points = [x, normal(*x.shape).to(dtype)][: 1 + (quantity == "jvp")]
    g = normal(*x.shape if quantity in ("value", "jvp") else x.shape[:1]) / 16
    return [*points, *parameters], g.to(dtype)


def check(quantity: str, call: Call, tensors: Sequence[Tensor], g: Tensor) -> None:
    """The result and its gradients, by the rule of oracle.py."""
    ours, eager = call.function(quantity), call.function(quantity, "reference")
    exact = outputs_and_gradients(call.exact(quantity), [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), exact)


def takes_seconds(quantity: str, call: Call, size: Size) -> bool:
    """Whether float64 takes longer than a test may: a potential by quadrature evaluates the cascade 144 times."""
    return quantity == "potential" and call.layers > 1 and math.prod(size.image) * size.channels > 5000


@pytest.mark.parametrize(
    ("quantity", "call", "size", "dtype"),
    slow_but_few(
        [(q, *c) for q in QUANTITIES for c in with_each_in_turn(DTYPES, CALLS, SIZES) if not takes_seconds(q, *c[:2])],
        together=2,
    ),
    ids=label,
)
def test_results_and_gradients(quantity: str, call: Call, size: Size, dtype: torch.dtype) -> None:
    check(quantity, call, *tensors_for(quantity, call, size, dtype))


@in_turn("call, size, dtype", DTYPES[2:], CALLS, SIZES[4:8])
def test_results_in_sixteen_bits_are_rounded_once(call: Call, size: Size, dtype: torch.dtype) -> None:
    if rounds_hidden_values(dtype):
        return
    tensors, g = tensors_for("value", call, size, dtype)
    ours, eager = call.function(), call.function(backend="reference")
    float32 = outputs_and_gradients(eager, [t.float() for t in tensors], g.float())
    exact = outputs_and_gradients(eager, [t.double() for t in tensors], g.double())
    assert_rounded_once(outputs_and_gradients(ours, tensors, g), float32, exact)


@each_quantity
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_images_in_sixteen_bits_with_vectors_in_float32(quantity: str, dtype: torch.dtype) -> None:
    tensors, g = tensors_for(quantity, CALLS[3], SIZES[4], dtype, torch.float32)
    check(quantity, CALLS[3], tensors, g)
    gradients = outputs_and_gradients(CALLS[3].function(quantity), tensors, g)[1:]
    assert [t.dtype for t in gradients] == [t.dtype for t in tensors]


@each_quantity
def test_filters_larger_than_the_image(quantity: str) -> None:
    check(quantity, CALLS[3], *tensors_for(quantity, CALLS[3], LARGER_FILTERS, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("size", SIZES[4:6], ids=lambda size: size.name)
@each_call
def test_second_derivatives(call: Call, size: Size, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.ops.recompute.DOUBLE_BACKWARD_VALUES", 700)  # an image at a time
    tensors, g = tensors_for("value", call, size, dtype)
    ours, eager = call.function(), call.function(backend="reference")
    truth = second_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(second_gradients(ours, tensors, g), second_gradients(eager, tensors, g), truth)


def through_the_points(function: Function) -> Function:
    """(x, v, *parameters) -> J(x) v by autograd of f."""

    def derivative(tensors: Sequence[Tensor]) -> Tensor:
        x, v, *parameters = tensors
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(function([x, *parameters]), x, v, create_graph=True)[0]

    return derivative


@in_turn("call, size, dtype", DTYPES, CALLS, SIZES[4:8])
def test_double_backward_through_the_points(call: Call, size: Size, dtype: torch.dtype) -> None:
    tensors, g = tensors_for("jvp", call, size, dtype, None if dtype in DTYPES[:2] else torch.float32)
    ours, eager = (through_the_points(call.function(backend=backend)) for backend in ("cpp", "reference"))
    truth = outputs_and_gradients(eager, [t.double() for t in tensors], g.double())
    assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), outputs_and_gradients(eager, tensors, g), truth)


@pytest.mark.parametrize(
    ("quantity", "call"),
    slow_but_few([(q, call) for q in QUANTITIES for call in CALLS if q != "potential" or call.layers == 1]),
    ids=label,
)
def test_gradcheck_and_transforms(quantity: str, call: Call) -> None:
    tensors, _ = tensors_for(quantity, call, TINY)
    leaves = [t.requires_grad_() for t in tensors]
    ours, exact = call.function(quantity), call.function(quantity, "reference")
    assert torch.autograd.gradcheck(lambda *t: ours(t), leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: ours(t), leaves, fast_mode=True)
    points = [t.detach() for t in leaves[: len(leaves) - 5]]
    parameters = [t.detach() for t in leaves[len(points) :]]

    def at(function: Function) -> Callable[..., Tensor]:
        return lambda *some: function([*some, *points[len(some) :], *parameters])

    close = torch.testing.assert_close
    close(vmap(at(ours))(*points), exact([*points, *parameters]))
    close(vmap(jacrev(at(ours)))(*points), vmap(jacrev(at(exact)))(*points))
    close(vmap(jacfwd(at(ours)))(*points), vmap(jacrev(at(exact)))(*points))
    close(make_fx(at(ours))(*points)(*(2 * p for p in points)), at(exact)(*(2 * p for p in points)))
    along = [tuple(torch.ones_like(p) for p in points)] * 2
    close(jvp(at(ours), tuple(points), along[0]), jvp(at(exact), tuple(points), along[1]))

    def loss(function: Function) -> Callable[[Tensor], Tensor]:
        return lambda K: function([*points, K, *parameters[1:]]).square().sum()

    filters = torch.stack([parameters[0], -parameters[0]])
    close(vmap(grad(loss(ours)))(filters), vmap(grad(loss(exact)))(filters))
    points = [p[0] for p in points]
    close(jacrev(jacfwd(at(ours)))(points[0]), jacrev(jacrev(at(exact)))(points[0]))


@pytest.mark.parametrize(
    ("quantity", "dynamic"), slow_but([("value", True), ("jvp", False)], [*product(QUANTITIES, (False, True))])
)
def test_compiles_without_graph_breaks(quantity: str, dynamic: bool) -> None:
    torch.compiler.reset()
    call = CALLS[3]
    ours = call.function(quantity)
    compiled = torch.compile(lambda *t: ours(t), backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for size in (TINY, TINY._replace(batch=5), TINY._replace(image=(6, 7))):
        tensors, g = tensors_for(quantity, call, size)
        for mine, expected in zip(
            outputs_and_gradients(lambda t: compiled(*t), tensors, g), outputs_and_gradients(ours, tensors, g)
        ):
            torch.testing.assert_close(mine, expected)


def test_third_derivatives_are_refused_with_the_way_out() -> None:
    tensors, _ = tensors_for("value", CALLS[0], TINY)
    x = tensors[0].requires_grad_()
    (first,) = torch.autograd.grad(CALLS[0].function()(tensors).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='use_backend\\("reference"\\)'):
        torch.autograd.grad(second.sum(), x)


@each_quantity
def test_only_what_is_needed_gets_a_gradient(quantity: str) -> None:
    call = CALLS[3]
    tensors, g = tensors_for(quantity, call, SIZES[4])
    everything = outputs_and_gradients(call.function(quantity, "reference"), tensors, g)[1:]
    for needed, expected in enumerate(everything):
        leaves = [t.detach().requires_grad_(i == needed) for i, t in enumerate(tensors)]
        result = call.function(quantity)(leaves)
        if result.requires_grad:  # J and tr J do not depend on the bias
            result.backward(g)
            found = [leaf.grad for leaf in leaves]
            assert [t is not None for t in found] == [i == needed for i in range(len(leaves))]
            torch.testing.assert_close(found[needed], expected, rtol=1e-11, atol=1e-12)
        else:
            assert not expected.any()
    with torch.no_grad():
        assert not call.function(quantity)(tensors).requires_grad


@each_quantity
@each_call
def test_strides_of_every_tensor_and_of_the_incoming_gradient(quantity: str, call: Call) -> None:
    tensors, g = tensors_for(quantity, call, Size(3, 2, (6, 6), 5, (3, 3)))
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    expected = outputs_and_gradients(call.function(quantity), tensors, g)

    def spread(t: Tensor) -> Tensor:
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype)
        wide[..., ::2] = t
        return wide[..., ::2]

    def turned(t: Tensor) -> Tensor:
        return t.mT.contiguous().mT if t.dim() > 1 else t

    def channels_last(t: Tensor) -> Tensor:
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t

    for changed in (spread, turned, channels_last):
        close(outputs_and_gradients(call.function(quantity), [changed(t) for t in tensors], changed(g)), expected)
    points = [t[:1].expand_as(t) for t in tensors[:-5]]
    same = call.function(quantity)([*points, *tensors[-5:]])
    close(same, call.function(quantity)([*(p.clone() for p in points), *tensors[-5:]]))
    leaves = [t.detach().requires_grad_() for t in tensors]
    gradients = torch.autograd.grad(call.function(quantity)(leaves).sum(), leaves, materialize_grads=True)
    close([*gradients], outputs_and_gradients(call.function(quantity), tensors, torch.ones_like(g))[1:])


@each_quantity
def test_leading_dimensions_and_no_images(quantity: str) -> None:
    call, size = CALLS[2], Size(6, 2, (4, 5), 3, (3, 2))
    tensors, _ = tensors_for(quantity, call, size)
    points, parameters = tensors[:-5], tensors[-5:]

    def results(*shape: int) -> list[Tensor]:
        leaves = [p[: 6 if shape else 1].reshape(*shape, 2, 4, 5).requires_grad_() for p in points]
        result = call.function(quantity)([*leaves, *parameters])
        assert result.shape == (leaves[0].shape if quantity in ("value", "jvp") else shape)
        return [result, *torch.autograd.grad(result.square().sum(), leaves)]

    flat = results(6)
    for shape in ((2, 3), (1, 2, 1, 1, 3, 1), ()):
        for mine, expected in zip(results(*shape), flat):
            torch.testing.assert_close(mine.reshape(-1, *expected.shape[1:]), expected[: 6 if shape else 1])
    leaves = [*(p[:0].requires_grad_() for p in points), *(t.requires_grad_() for t in parameters)]
    empty = call.function(quantity)(leaves)
    assert empty.shape == flat[0][:0].shape
    for gradient in torch.autograd.grad(empty.sum(), leaves, materialize_grads=True):
        assert not gradient.any()


@each_quantity
@each_call
def test_bitwise_equal_for_any_thread_count(quantity: str, call: Call) -> None:
    threads = torch.get_num_threads()
    for size, dtype in ((SIZES[6], torch.float32), (SIZES[9], torch.bfloat16), (SIZES[7], torch.float32)):
        tensors, g = tensors_for(quantity, call, size, dtype)
        results = []
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(outputs_and_gradients(call.function(quantity), tensors, g))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@each_quantity
def test_an_image_has_the_same_bits_whatever_the_others_are(quantity: str) -> None:
    tensors, g = tensors_for(quantity, CALLS[0], Size(20, 2, (41, 30), 9, (5, 3)), torch.float32)
    count = len(tensors) - 5
    together = outputs_and_gradients(CALLS[0].function(quantity), tensors, g)
    for of in (slice(3, 4), slice(0, 7)):
        alone = outputs_and_gradients(
            CALLS[0].function(quantity), [*(t[of] for t in tensors[:count]), *tensors[count:]], g[of]
        )
        assert all(torch.equal(a, b[of]) for a, b in zip(alone[: 1 + count], together))


@each_quantity
@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
@pytest.mark.parametrize("basis", ["tanh", "relu", "softplus"])
def test_what_is_not_finite_stays_in_its_image(quantity: str, wrong: float, basis: str) -> None:
    call = Call(1, (basis,), "circular")
    (x, *others), g = tensors_for(quantity, call, SIZES[9], torch.float32)
    ours = call.function(quantity)

    def of_points(x: Tensor, g: Tensor) -> list[Tensor]:
        return outputs_and_gradients(ours, [x, *others], g)[: 3 if quantity == "jvp" else 2]

    usual = of_points(x, g)
    x_wrong, g_wrong = x.clone(), g.clone()
    x_wrong[3, 1, 2, 4] = g_wrong.view(17, -1)[3, 0] = wrong
    for points, cotangent in ((x_wrong, g), (x, g_wrong)):
        rest = [i for i in range(17) if i != 3]
        assert all(torch.equal(a[rest], b[rest]) for a, b in zip(of_points(points, cotangent), usual))
    if wrong != wrong:
        assert ours([x_wrong, *others])[3].isnan().any()


def test_without_scale_and_coefficients() -> None:
    for basis in (("tanh",), ("tanh", "softplus")):
        for quantity in QUANTITIES:
            tensors, _ = tensors_for(quantity, Call(1, basis, "zeros"), TINY)
            points, (K, _, shift, coef, bias) = tensors[:-5], tensors[-5:]
            for backend in ("cpp", "reference"):
                function = Call(1, basis, "zeros").function(quantity, backend)
                expected = function([*points, K, torch.ones_like(shift), shift, torch.ones_like(coef), bias])
                for given in (shift, shift[0]):
                    bare = function([*points, K, None, given, None, bias])  # type: ignore[list-item]
                    torch.testing.assert_close(bare, expected)


@each_quantity
def test_inputs_are_left_alone(quantity: str) -> None:
    tensors, g = tensors_for(quantity, CALLS[2], SIZES[4])
    copies = [t.clone() for t in tensors]
    outputs_and_gradients(CALLS[2].function(quantity), tensors, g)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies))


@each_quantity
def test_autocast_casts_images_and_filters(quantity: str) -> None:
    tensors, _ = tensors_for(quantity, CALLS[0], SIZES[4], torch.float32)
    expected = CALLS[0].function(quantity)(tensors)
    for backend in ("cpp", "reference"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = CALLS[0].function(quantity, backend)(tensors)
        assert low.dtype == torch.bfloat16
        assert (low.float() - expected).abs().max() < 0.05 * expected.abs().max()


@each_quantity
def test_the_definitions_in_the_docstrings(quantity: str) -> None:
    function = partial(getattr(gf, "conv_ridge" if quantity == "value" else f"conv_ridge_{quantity}"))
    tensors, _ = tensors_for(quantity, CALLS[0], SIZES[4])
    if quantity == "potential":
        tensors[2].fill_(1), tensors[4].fill_(1)
    named = dict(zip((a for a in inspect.signature(function).parameters if a != "basis"), tensors))
    text = inspect.cleandoc(function.func.__doc__ or "").split("Equivalent to")[1].split(":\n", 1)[1].split("\n\n")[0]
    *statements, result = textwrap.dedent(text).splitlines()
    names = {"torch": torch, "log_cosh": lambda z: torch.log(torch.cosh(z)), **named}
    exec("\n".join(statements), names)
    torch.testing.assert_close(function(*tensors), eval(result, names))


_MEMORY_SCRIPT = """
import resource, torch, gradnets_fast
torch.set_num_threads(2)
images, channels = (16, 1, 240, 240), 64
x, K = torch.randn(images, requires_grad=True), torch.randn(channels, 1, 5, 5, requires_grad=True)
shift, v = torch.zeros(1, channels, requires_grad=True), torch.randn(images)
for name in ("", "_potential", "_jvp", "_divergence"):
    def step(*part):
        points = (x[part], v[part]) if name == "_jvp" else (x[part],)
        result = getattr(gradnets_fast, "conv_ridge" + name)(*points, K, None, shift, None)
        torch.autograd.grad(result.square().sum(), [x, K, shift])
    step(slice(1), slice(None), slice(30), slice(30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(slice(None))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (x.numel() * channels * 4)
    assert more < 0.1, (name, more)
print("little")
"""


@pytest.mark.slow
def test_a_step_stores_nothing_of_size_channels_times_pixels() -> None:
    """One float32 array of that size would be 236 MB, and that of a single image 15 MB."""
    done = subprocess.run([sys.executable, "-c", _MEMORY_SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == "little\n", done.stderr
