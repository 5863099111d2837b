"""The oracle's own derivatives, in float64, against finite differences: in every mode, to the third."""

from __future__ import annotations

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


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    points = torch.tensor([0.2, 0.7, 2.5, 9.0], dtype=torch.float64)
    for function in reference.TRANSFORM_VALUES[name]:
        check_derivatives(lambda t, function=function: function(points + t / 10))


VARIANTS = [
    Variant("ridge", 1, ("tanh",), signed=True),
    Variant("ridge", 2, ("gelu", "sin"), signed=True),
    Variant("deep", 2, ("silu", "softplus")),
    Variant("softmax_modules", 1),
    Variant("softmax_modules", 2, combined=True),
    Variant("transformed_modules", 1, ("tanh",), "half_square"),
    Variant("transformed_modules", 2, ("softplus",), "log", combined=True),
]
QUANTITIES = ("", "_potential", "_jvp", "_divergence", "_jacobian")
ORDERS = {("ridge", "_potential"): 1}
"""Where three take as long as all other tests: of a quadrature that evaluates the network 144 times."""


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_quantities_in_points_and_parameters(variant: Variant, quantity: str) -> None:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64)

    operator = getattr(gradnets_fast, variant.family + quantity)
    tensors = {"x": normal(2, 3)} | ({"v": normal(2, 3)} if quantity == "_jvp" else {}) | variant.draw(normal, 3, 4)
    tensors = {name: t for name, t in tensors.items() if name in signature(operator).parameters}
    along = {name: normal(*t.shape) / 4 for name, t in tensors.items()}

    def line(t: Tensor) -> Tensor:
        moved = {name: tensor + t * along[name] for name, tensor in tensors.items()}
        result: Tensor = operator(**moved, **variant.settings(4), backend="reference")
        return result

    check_derivatives(line, ORDERS.get((variant.family, quantity), 3))
