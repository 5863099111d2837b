"""The oracle's own derivatives, in float64, against finite differences: in every mode, to the third."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from inspect import signature
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev

import gradnets_fast
from gradnets_fast import reference
from gradnets_fast.activations import TABLE, TRANSFORMS
from gradnets_fast.apps.draws import Variant
from gradnets_fast.reference import conv
from gradnets_fast.reference.ridge import cascade_integral

MODES = (jacfwd, jacrev)
SUCCESSIONS = (
    *(list(product(MODES, repeat=order)) for order in (1, 2)),
    [(a, b, a) for a, b in product(MODES, repeat=2)],  # of the third order those that every mode meets each other in
)
Line = Callable[[Tensor], Tensor]


def check_derivatives(line: Line, orders: int = 3) -> None:
    """Each derivative of a function of one number, by successions of modes, is the difference of the one before."""
    step = 1e-4
    here = torch.tensor(0.3, dtype=torch.float64)
    below = line
    for successions in SUCCESSIONS[:orders]:
        difference = (below(here + step) - below(here - step)) / (2 * step)
        size = difference.abs().max().clamp(min=1.0).item()
        for modes in successions:
            derivative = line
            for mode in modes:
                derivative = mode(derivative)
            names = [mode.__name__ for mode in modes]
            error = (derivative(here) - difference).abs().max().item()
            assert error <= 1e-6 * size, (names, error, size)
        below = jacrev(below)


@pytest.mark.parametrize("name", TABLE)
def test_basis_functions(name: str) -> None:
    """Between kinks, on both sides of 0 and in the tails."""
    points = torch.tensor([-7.0, -1.2, -0.61, 0.11, 0.83, 2.5, 9.0], dtype=torch.float64)
    for function in (reference.antiderivative, reference.value, reference.derivative, reference.second_derivative):
        check_derivatives(lambda t, function=function: function(name, points + t / 10))


@pytest.mark.parametrize("name", TABLE)
def test_potentials_of_small_scales_keep_their_digits_in_single_precision(name: str) -> None:
    """Where (Φ(βu + s) − Φ(s))/β is all cancellation: no kink lies between s and s + βu."""
    shift = torch.tensor([-4.1, -2.3, -0.8, -0.2, 0.3, 0.7, 1.6, 5.0])
    scale = torch.logspace(-7, -2.5, 10)[:, None] * torch.tensor([1.0, -1.0] * 4)
    for u in (1.0, -2.0):
        single, double = (
            cascade_integral(
                torch.full((10, 8), u, dtype=dtype),
                *(t.to(dtype).view(1, 10, 8) for t in (scale, shift.expand(10, 8))),
                torch.ones(1, 1, 10, 8, dtype=dtype),
                (name,),
            )
            for dtype in (torch.float32, torch.float64)
        )
        assert ((single - double).abs() <= 5e-6 * (double.abs() + 0.1)).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    points = torch.tensor([0.2, 0.7, 2.5, 9.0], dtype=torch.float64)
    for function in reference.TRANSFORM_VALUES[name]:
        check_derivatives(lambda t, function=function: function(points + t / 10))


VARIANTS = [
    Variant("ridge", 1, ("tanh",), signed=True),
    Variant("ridge", 2, ("gelu", "sin"), signed=True),
    Variant("conv_ridge", 2, ("gelu", "sin"), signed=True),
    Variant("deep", 2, ("silu", "softplus")),
    Variant("softmax_modules", 1),
    Variant("softmax_modules", 2, combined=True),
    Variant("transformed_modules", 1, ("tanh",), "half_square"),
    Variant("transformed_modules", 2, ("softplus",), "log", combined=True),
]
QUANTITIES = ("", "_potential", "_jvp", "_divergence", "_jacobian")
INTEGRALS = (("ridge", "_potential"), ("conv_ridge", "_potential"))
"""Where three derivatives take as long as all other tests: of a quadrature that evaluates the network 144 times."""


@pytest.mark.parametrize(
    ("variant", "quantity", "orders"),
    [
        pytest.param(v, q, orders, marks=pytest.mark.slow if orders == 3 else [])
        for v, q in product(VARIANTS, QUANTITIES)
        if hasattr(gradnets_fast, v.family + q)
        for orders in ([1] if (v.family, q) in INTEGRALS else [2, 3])
    ],
)
def test_quantities_in_points_and_parameters(variant: Variant, quantity: str, orders: int) -> None:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    operator = getattr(gradnets_fast, variant.family + quantity)
    points = {name: normal(2, *variant.channels, 3) for name in ("x", "v")[: 1 + (quantity == "_jvp")]}
    tensors = points | variant.draw(normal, 3, 4)
    tensors = {name: t for name, t in tensors.items() if name in signature(operator).parameters}
    along = {name: normal(*t.shape) / 4 for name, t in tensors.items()}

    def line(t: Tensor) -> Tensor:
        moved = {name: tensor + t * along[name] for name, tensor in tensors.items()}
        result: Tensor = operator(**moved, **variant.settings(4), backend="reference")
        return result

    check_derivatives(line, orders)


IMAGES = [((1, 7), (3,)), ((2, 5), (4,)), ((2, 4, 5), (3, 2)), ((1, 3, 4), (1, 4)), ((2, 3, 4, 3), (2, 3, 1))]
"""(C_in, n_1, …), and the filters' size."""


def matrix(K: Tensor, image: tuple[int, ...], padding: str) -> Tensor:
    """x ↦ K∗x as its definition says, with a row for each channel and pixel and a column for each coordinate of x."""
    (channels, *_), (inputs, *sizes), taps = K.shape, image, K.shape[2:]
    W = torch.zeros(channels, *sizes, inputs, *sizes, dtype=K.dtype)
    for pixel in product(*map(range, sizes)):
        for tap in product(*map(range, taps)):
            place = [p + t - (k - 1) // 2 for p, t, k in zip(pixel, tap, taps)]
            if padding == "circular":
                place = [q % n for q, n in zip(place, sizes)]
            if all(0 <= q < n for q, n in zip(place, sizes)):
                W[(slice(None), *pixel, slice(None), *place)] += K[(..., *tap)]
    return W.flatten(0, len(sizes)).flatten(1)


def both_forms(
    image: tuple[int, ...], filters: tuple[int, ...], padding: str, basis: tuple[str, ...], layers: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Points of a convolution, its parameters, and those of the dense network that is the same function."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    C, pixels = 3, math.prod(image[1:])
    K, bias = normal(C, image[0], *filters), normal(image[0])
    vectors = [normal(layers, C), normal(layers, C), normal(layers, len(basis), C)]
    dense = [matrix(K, image, padding), *(t.repeat_interleave(pixels, -1) for t in (*vectors, bias))]
    return [normal(2, *image), normal(2, *image)], [K, *vectors, bias], dense


each_image = pytest.mark.parametrize(("image", "filters"), IMAGES, ids=str)
each_padding = pytest.mark.parametrize("padding", ["zeros", "circular"])


@each_padding
@each_image
@pytest.mark.parametrize(("basis", "layers"), [(("tanh", "softplus"), 1), (("gelu",), 3)])
def test_a_convolutional_ridge_is_the_ridge_of_its_matrix(
    image: tuple[int, ...], filters: tuple[int, ...], padding: str, basis: tuple[str, ...], layers: int
) -> None:
    points, convolved, dense = both_forms(image, filters, padding, basis, layers)
    for quantity, count in (("", 1), ("_potential", 1), ("_divergence", 1), ("_jvp", 2)):
        ours = getattr(reference, f"conv_ridge{quantity}")(*points[:count], *convolved, basis, padding)
        rows = [point.flatten(1) for point in points[:count]]
        expected = getattr(reference, f"ridge{quantity}")(*rows, *dense, basis)
        torch.testing.assert_close(ours.reshape(expected.shape), expected, rtol=1e-12, atol=1e-12)


@each_padding
@each_image
def test_the_jacobian_of_a_convolutional_ridge_is_symmetric_and_with_it_monotone(
    image: tuple[int, ...], filters: tuple[int, ...], padding: str
) -> None:
    (x, _), (K, *vectors, bias), _ = both_forms(image, filters, padding, ("softplus",), 1)
    vectors = [t.abs() for t in vectors]
    d = math.prod(image)
    jacobian = jacrev(lambda point: reference.conv_ridge(point, K, *vectors, bias, ("softplus",), padding))(x[0])
    square = jacobian.reshape(d, d)
    size = square.abs().max()
    assert size > 0.1
    assert (square - square.T).abs().max() <= 1e-15 * size
    assert torch.linalg.eigvalsh((square + square.T) / 2).min() >= -1e-13 * size
    trace = reference.conv_ridge_divergence(x[0], K, *vectors, bias, ("softplus",), padding)
    torch.testing.assert_close(trace, square.trace())


@each_padding
def test_filters_lie_as_pytorchs_convolutions_have_them(padding: str) -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    options = {"bias": False, "dtype": x.dtype, "padding_mode": padding}
    for filters in ((3, 5), (2, 4)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # even filters of padding "same" make a copy
            layer = torch.nn.Conv2d(3, 4, filters, padding="same", **options)
            ours = conv.projected(x, layer.weight, padding).movedim(-1, 1)
            torch.testing.assert_close(ours, layer(x))
