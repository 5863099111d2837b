"""Potentials of cascades with layers in series, by as many nodes as each hidden unit needs, or between its kinks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import gradnets_fast as gf
from covering import in_turn
from gradnets_fast import reference
from gradnets_fast.activations import TABLE
from gradnets_fast.activations.quadrature import rules_by_reach
from gradnets_fast.reference.ridge import quadrature_rule
from oracle import assert_as_good_as_eager, outputs_and_gradients

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SMOOTH = [(name,) for name, basis in TABLE.items() if basis.smooth]
MIXTURES = [("tanh", "identity"), ("softplus", "sin", "tanh"), ("gelu", "arctan"), ("identity", "silu", "erf")]
BENT = [("elu",), ("softsign", "tanh"), ("relu", "tanh"), ("hardtanh", "sin", "elu")]
STRAIGHT = [("relu",), ("hardtanh",), ("softshrink",), ("hardsigmoid",), ("identity",), ("hardtanh", "identity")]
STRAIGHT += [("relu", "softshrink", "hardsigmoid")]
BENT_ERROR = 1e-12
"""In float64, where 128 nodes that know of no kinks are wrong by 1e-6 to 2e-3."""
LAYERS = (2, 3, 4, 8)


def draw(basis: Sequence[str], layers: int, rows: int = 60, h: int = 17) -> list[Tensor]:
    """x, W, scale, shift and coef in float64, and |u| from 1e-4 to about 100."""
    x = torch.randn(rows, 3, dtype=torch.float64) * torch.logspace(-4, 1.5, rows, dtype=torch.float64)[:, None]
    W = torch.randn(h, 3, dtype=torch.float64)
    scale, shift = (torch.randn(layers, h, dtype=torch.float64) for _ in range(2))
    return [x, W, scale, shift, torch.randn(layers, len(basis), h, dtype=torch.float64) / len(basis)]


def potential(tensors: Sequence[Tensor], basis: Sequence[str], backend: str) -> Tensor:
    """The operator without a bias."""
    return gf.ridge_potential(*tensors, None, basis=tuple(basis), backend=backend)


def integral(
    u: Tensor, parameters: Sequence[Tensor], basis: Sequence[str], rule: Sequence[tuple[float, float]]
) -> Tensor:
    """∫_0^u φ, of u's shape."""
    t, weight = torch.tensor(rule, dtype=u.dtype).T
    values = reference.cascade(t.view(-1, *(1,) * u.dim()) * u, *parameters, basis)
    return u * torch.tensordot(weight, values, 1)


def exact_potential(tensors: Sequence[Tensor], basis: Sequence[str]) -> Tensor:
    """By 16 nodes in each of `pieces`."""
    x, W, *parameters = tensors
    u = x @ W.T
    row, unit, start, width = pieces(u, parameters, basis)
    at, own = u[row, unit], [p[..., unit] for p in parameters]
    sums = sum(w * reference.cascade((start + t * width) * at, *own, basis) for t, w in quadrature_rule(1))
    return torch.zeros_like(u).index_put((row, unit), width * at * sums, accumulate=True).sum(-1)


@torch.no_grad()
def pieces(u: Tensor, parameters: Sequence[Tensor], basis: Sequence[str]) -> tuple[Tensor, ...]:
    """Row, unit, start and width of intervals of [0, 1] on which t ↦ φ(tu) is linear, or short and without a kink.

    Layer by layer, each interval is cut where z_l, which has no kink there, meets one.
    """
    equal = 1 if all(TABLE[name].straight for name in basis) else 64
    numbers = torch.meshgrid(*map(torch.arange, u.shape), torch.arange(equal), indexing="ij")
    row, unit, first = (number.flatten() for number in numbers)
    start, end = first.double() / equal, (first + 1.0).double() / equal
    kinks = sorted({sign * TABLE[name].kink for name in basis if not TABLE[name].smooth for sign in (-1, 1)})
    for layer in range(len(parameters[0])):
        for kink in kinks:
            known = partial(argument, layer, parameters=parameters, basis=basis)
            before, after = (known(t * u[row, unit], unit) > kink for t in (start, end))
            (inside,) = (before != after).nonzero(as_tuple=True)
            low, high = start[inside], end[inside]
            for _ in range(55):
                middle = (low + high) / 2
                beyond = (known(middle * u[row, unit][inside], unit[inside]) > kink) != before[inside]
                low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            row, unit = (torch.cat([each, each[inside]]) for each in (row, unit))
            start, end = torch.cat([start, high]), torch.cat([end.index_put((inside,), high), end[inside]])
    return row, unit, start, end - start


def argument(layer: int, u: Tensor, unit: Tensor, parameters: Sequence[Tensor], basis: Sequence[str]) -> Tensor:
    """z_layer of the hidden units `unit` at u, both of one shape."""
    scale, shift, _ = parameters
    z = scale[layer, unit] * u + shift[layer, unit]
    return z + reference.cascade(u, *(p[:layer, ..., unit] for p in parameters), basis) if layer else z


def check(tensors: list[Tensor], basis: Sequence[str], dtype: torch.dtype, backend: str = "cpp") -> None:
    """F and its gradients in all tensors, against `exact_potential` in float64."""
    vectors = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    given = [t.to(dtype if i < 2 else vectors) for i, t in enumerate(tensors)]
    g = torch.randn(len(given[0]), dtype=torch.float64).to(dtype)
    ours, eager = (
        outputs_and_gradients(partial(potential, basis=basis, backend=name), given, g)
        for name in (backend, "reference")
    )
    exact = outputs_and_gradients(partial(exact_potential, basis=basis), [t.double() for t in given], g.double())
    assert_as_good_as_eager(ours, eager, exact)


@in_turn("basis, layers, dtype", DTYPES, [*SMOOTH, *MIXTURES, *BENT, *STRAIGHT], LAYERS, few=True)
def test_values_and_gradients_near_and_far(basis: tuple[str, ...], layers: int, dtype: torch.dtype) -> None:
    check(draw(basis, layers), basis, dtype)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@in_turn("basis, first, layers", LAYERS, [*SMOOTH, *MIXTURES], range(0, 60, 15), few=True)
def test_every_distance_by_itself(basis: tuple[str, ...], first: int, layers: int, dtype: torch.dtype) -> None:
    """The floor of the error is in units of the largest value, which is that of a large |u|."""
    tensors = draw(basis, layers)
    tensors[0] = tensors[0][first : first + 15]
    check(tensors, basis, dtype)


@in_turn("basis, layers, dtype", DTYPES[:2], SMOOTH, LAYERS, few=True)
def test_large_coefficients(basis: tuple[str, ...], layers: int, dtype: torch.dtype) -> None:
    tensors = draw(basis, layers)
    tensors[-1] *= torch.logspace(-2, 2, tensors[-1].shape[-1], dtype=torch.float64)
    tensors[0] = tensors[0][:20]
    check(tensors, basis, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("basis", [*SMOOTH, *MIXTURES], ids="+".join)
def test_a_rule_is_exact_to_rounding_as_far_as_it_reaches(basis: tuple[str, ...], dtype: str) -> None:
    rounding = {"float32": 4 * 2.0**-23, "float64": 64 * 2.0**-52}[dtype]
    reaches, rules = zip(*rules_by_reach(dtype)[:-1])
    for layers in LAYERS:
        _, _, *parameters = draw(basis, layers, h=100)
        speed = pace(parameters[0], parameters[2], basis)
        if not speed.any():  # polynomials
            speed += 1
        u = torch.tensor(reaches, dtype=torch.float64)[:, None] / speed
        exact = integral(u, parameters, basis, quadrature_rule(16))
        size = u.abs() * (reference.cascade(u, *parameters, basis).abs() + parameters[2][-1].abs().sum(0))
        for at, expected, largest, rule in zip(u, exact, size, rules):
            found = integral(at, parameters, basis, rule)
            assert ((found - expected).abs() <= rounding * largest).all(), (layers, len(rule))


def pace(scale: Tensor, coef: Tensor, basis: Sequence[str]) -> Tensor:
    """max_l |dz_l/du|, bounded, over the distance of the nearest singularity, (h,)."""
    slope = fastest = scale[0].abs()
    for below, own in zip(coef, scale[1:]):
        slope = own.abs() + sum(c.abs() * TABLE[name].steepest for c, name in zip(below, basis)) * slope
        fastest = torch.maximum(slope, fastest)
    return fastest * max(1 / TABLE[name].strip for name in basis)


def test_the_last_rule_serves_all_distances() -> None:
    for dtype in ("float32", "float64"):
        reach, rule = rules_by_reach(dtype)[-1]
        assert reach == math.inf
        assert len(rule) == 128


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("basis", STRAIGHT, ids="+".join)
def test_piecewise_linear_functions_are_exact_across_kinks(basis: tuple[str, ...], layers: int) -> None:
    tensors = draw(basis, layers)
    exact = exact_potential(tensors, basis)
    for backend in ("reference", "cpp"):
        assert (potential(tensors, basis, backend) - exact).abs().max() < 1e-13 * exact.abs().max()
        single = potential([t.float() for t in tensors], basis, backend)
        exact_of_these = exact_potential([t.float().double() for t in tensors], basis)
        assert (single - exact_of_these).abs().max() < 2e-6 * exact.abs().max()


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("basis", BENT, ids="+".join)
def test_bent_functions_are_exact_across_kinks(basis: tuple[str, ...], layers: int) -> None:
    """Increasing ones, of points where 128 nodes of smooth functions would be exact.

    Those that are not may meet a kink twice where nobody looks.
    """
    tensors = draw(basis, layers)
    tensors[0] = tensors[0][:42]  # |x| up to 1
    tensors[2], tensors[4] = tensors[2].abs().clamp(max=1.5), tensors[4].abs().clamp(max=0.5)
    exact = outputs_and_gradients(partial(exact_potential, basis=basis), tensors, torch.ones(42, dtype=torch.float64))
    for backend in ("reference", "cpp"):
        found = outputs_and_gradients(
            partial(potential, basis=basis, backend=backend), tensors, torch.ones(42, dtype=torch.float64)
        )
        for ours, true in zip(found, exact):
            assert (ours - true).abs().max() < BENT_ERROR * true.abs().max()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_kinks_nearer_than_they_seem(backend: str) -> None:
    """Of −85 the second kink is nearer than 15/16 of what the slope at the first one promises."""
    scale = torch.tensor([[0.7379], [0.9940], [1.1566], [1.3499]])
    shift = torch.tensor([[0.1782], [1.3549], [-0.0112], [0.5928]])
    coef = torch.tensor([[[-0.0668], [-0.4176]], [[0.4928], [-0.0026]], [[-0.0472], [-0.5618]], [[-0.3256], [0.2847]]])
    u, W = torch.linspace(-85.0, 75.0, 32)[:, None], torch.ones(1, 1)
    tensors, basis = [t.double() for t in (u, W, scale, shift, coef)], ("identity", "elu")
    ones = torch.ones(32, dtype=torch.float64)
    exact = outputs_and_gradients(partial(exact_potential, basis=basis), tensors, ones)
    found = outputs_and_gradients(partial(potential, basis=basis, backend=backend), tensors, ones)
    for ours, true in zip(found, exact):
        assert (ours - true).abs().max() < BENT_ERROR * true.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("basis", [("elu",), ("relu", "tanh"), ("hardtanh", "identity")], ids="+".join)
def test_triton_kernels_between_kinks(basis: tuple[str, ...]) -> None:
    tensors = draw(basis, 2, rows=12, h=9)
    tensors[0] = tensors[0][:10]
    check(tensors, basis, torch.float32, "triton")


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_kinks_at_the_origin_and_scales_of_zero(backend: str) -> None:
    """Where the first interval begins at a kink, and where a layer does not move."""
    for basis in STRAIGHT:
        tensors = draw(basis, 4)
        tensors[3][:, ::2] = TABLE[basis[0]].kink
        tensors[2][:2, ::3] = 0
        exact = exact_potential(tensors, basis)
        assert (potential(tensors, basis, backend) - exact).abs().max() < 1e-12 * exact.abs().max()


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the number of layers is a constant of the trace
@pytest.mark.parametrize("kinked", [("relu",), ("hardtanh", "identity"), ("elu",)], ids="+".join)
def test_the_reference_between_kinks_under_transforms(kinked: tuple[str, ...]) -> None:
    """torch.func and tracers, which cannot ask how many intervals there are, agree with who does."""
    x, *parameters = draw(kinked, 2, rows=4, h=5)

    def one(point: Tensor) -> Tensor:
        return reference.ridge_potential(point, *parameters, None, kinked)

    gradient, F = torch.func.vmap(torch.func.grad_and_value(one))(x)
    torch.testing.assert_close(F, one(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient, reference.ridge(x, *parameters, None, kinked), rtol=1e-12, atol=1e-12)
    # Of points with fewer intervals than those that it is called with afterwards.
    traced, far = torch.jit.trace(one, (1e-3 * x,), check_trace=False), 10 * x
    torch.testing.assert_close(traced(far), one(far), rtol=1e-12, atol=1e-12)


def test_rules_ascend_and_have_even_counts() -> None:
    for dtype in ("float32", "float64"):
        reaches, rules = zip(*rules_by_reach(dtype))
        counts = [len(rule) for rule in rules]
        assert list(reaches) == sorted(reaches)
        assert counts == sorted(counts)
        assert all(count % 2 == 0 for count in counts)
        assert len(rules) <= 16


def test_a_value_does_not_depend_on_its_neighbours() -> None:
    """Bitwise: rows in another order, among rows that need many nodes."""
    for basis in (("tanh",), ("hardtanh",), ("elu",)):
        x, *parameters = (t.float() for t in draw(basis, 4, rows=100, h=129))
        F = potential([x, *parameters], basis, "cpp")
        order = torch.randperm(100)
        assert torch.equal(potential([x[order], *parameters], basis, "cpp"), F[order])
        assert torch.equal(potential([torch.cat([1e3 * x[:50], x]), *parameters], basis, "cpp")[50:], F)


@pytest.mark.parametrize("basis", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_number_stays_in_its_row(basis: str, dtype: torch.dtype) -> None:
    x, *parameters = (t.to(dtype) for t in draw((basis,), 3))
    x[3, 0], x[40, 1] = math.nan, math.inf
    F = potential([x, *parameters], (basis,), "cpp")
    finite = torch.ones(60, dtype=torch.bool)
    finite[[3, 40]] = False
    assert F[3].isnan()
    assert not F[40].isfinite()
    assert F[finite].isfinite().all()


@pytest.mark.parametrize("rows", [1, 2, 33, 47, 48, 49, 97])
def test_any_number_of_rows(rows: int) -> None:
    for basis in (("tanh",), ("relu",), ("relu", "tanh")):
        check(draw(basis, 3, rows=rows, h=5), basis, torch.float32)
