"""Linear splines in place of basis functions: values and every derivative, beside the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

import gradnets_fast as gf
from covering import in_turn
from oracle import Function, assert_as_good_as_eager, outputs_and_gradients
from test_operators import DTYPES

QUANTITIES = ("value", "jvp", "potential", "divergence", "jacobian")
SIZES = [(5, 1, 3, 2), (97, 3, 65, 21), (40, 33, 130, 3), (64, 130, 20, 8), (2, 17, 9, 41), (600, 2, 5, 5)]
"""(batch, d, h, T)."""


def draw(size: tuple[int, int, int, int], dtype: torch.dtype, quantity: str) -> tuple[list[Tensor], Tensor]:
    """x, v of J v, W, scale, shift, coef and bias; and a gradient of the result.  Some scales are all but 0."""
    batch, d, h, knots = size
    shapes = [(batch, d)] * (1 + (quantity == "jvp")) + [(h, d), (1, h), (1, h), (1, knots, h), (d,)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    tensors[-5] /= d**0.5
    tensors[-4][:, ::3] *= 2.0**-12
    vectors = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    tensors = [t.to(dtype if i < len(tensors) - 4 else vectors) for i, t in enumerate(tensors)]
    result = {"value": (d,), "jvp": (d,), "jacobian": (d, d)}.get(quantity, ())
    return tensors, (torch.randn(batch, *result, dtype=torch.float64) / 16).to(dtype)


def function(quantity: str, backend: str) -> Function:
    operator = getattr(gf, "ridge" if quantity == "value" else f"ridge_{quantity}")
    return lambda t: operator(*t, basis="spline", backend=backend)


@in_turn("quantity, size, dtype", DTYPES, QUANTITIES, SIZES)
def test_values_and_gradients(quantity: str, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    tensors, g = draw(size, dtype, quantity)
    exact = function(quantity, "reference")
    truth = outputs_and_gradients(exact, [t.double() for t in tensors], g.double())
    eager = outputs_and_gradients(exact, tensors, g)
    assert_as_good_as_eager(outputs_and_gradients(function(quantity, "cpp"), tensors, g), eager, truth)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_gradients_are_those_of_finite_differences(quantity: str) -> None:
    tensors, _ = draw((3, 2, 4, 6), torch.float64, quantity)
    leaves = [t.requires_grad_() for t in tensors]
    for of in (function(quantity, "reference"), function(quantity, "cpp")):
        assert torch.autograd.gradcheck(lambda *t, of=of: of(t), leaves, fast_mode=True)


def test_the_potential_is_the_integral() -> None:
    (x, W, scale, shift, coef, bias), _ = draw((4, 3, 5, 7), torch.float64, "potential")
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64).view(-1, 1, 1)
    along = (gf.ridge(t * x, W, scale, shift, coef, bias, "spline") * x).sum(-1)
    expected = torch.trapezoid(along, t.flatten(), dim=0)
    torch.testing.assert_close(
        gf.ridge_potential(x, W, scale, shift, coef, bias, "spline"), expected, rtol=0, atol=1e-6
    )


def test_it_is_linear_between_and_beyond_the_knots() -> None:
    knots, one = torch.tensor([2.0, -1.0, 3.0]), torch.ones(1, 1)
    z = torch.tensor([[-3.0], [-1.0], [-0.5], [0.0], [0.25], [1.0], [2.0]])
    f = gf.ridge(z, one, None, torch.zeros(1), knots.view(1, 3, 1), None, "spline")
    torch.testing.assert_close(f.flatten(), torch.tensor([8.0, 2.0, 0.5, -1.0, 0.0, 3.0, 7.0]))
    slopes = gf.ridge_divergence(z, one, None, torch.zeros(1), knots.view(1, 3, 1), None, "spline")
    assert slopes.tolist() == [-3.0, -3.0, -3.0, 4.0, 4.0, 4.0, 4.0]


def test_transforms_and_thread_counts() -> None:
    (x, *parameters), g = draw((3000, 20, 150, 21), torch.float32, "value")
    at: Sequence[Tensor] = [t.double() for t in (x[:4], *parameters)]

    def loss(coef: Tensor) -> Tensor:
        return gf.ridge(*at[:4], coef, at[5], "spline").square().sum()

    several = torch.stack([at[4], -at[4]])
    expected = torch.stack([torch.autograd.functional.jacobian(loss, c) for c in several])
    torch.testing.assert_close(vmap(grad(loss))(several), expected)
    row = at[0][0]
    J = jacrev(lambda x: gf.ridge(x, *at[1:], "spline"))(row)
    torch.testing.assert_close(J, gf.ridge_jacobian(row, *at[1:], "spline"))
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(function("value", "cpp"), [x, *parameters], g))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def test_not_a_number_and_infinity_stay_in_their_rows() -> None:
    (x, *parameters), _ = draw((6, 3, 5, 7), torch.float32, "value")
    finite = gf.ridge(x, *parameters, "spline")
    x[1, 0], x[4, 2] = float("nan"), float("inf")
    f = gf.ridge(x, *parameters, "spline")
    assert f[1].isnan().all()
    assert not f[4].isfinite().any()
    assert torch.equal(f[[0, 2, 3, 5]], finite[[0, 2, 3, 5]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coef": None}, "coef: expected a torch.Tensor"),
        ({"coef": torch.ones(1, 1, 4)}, "values at T >= 2 knots, got shape (1, 1, 4)"),
        ({"coef": torch.ones(1, 5, 3)}, "(1, T, h) = (1, T, 4)"),
        ({"shift": torch.zeros(2, 4), "scale": None}, "shift: expected one layer, where basis is 'spline', got 2"),
        ({"basis": ["spline", "tanh"]}, "basis: expected one of identity"),
        ({"backend": "triton"}, "no Triton kernels of ridge of splines"),
    ],
)
def test_bad_input(changes: dict[str, object], words: str) -> None:
    good = {"W": torch.ones(4, 2), "scale": None, "shift": torch.zeros(4), "coef": torch.ones(1, 5, 4)}
    with pytest.raises((TypeError, ValueError, gf.BackendUnavailableError)) as caught:
        gf.ridge(torch.ones(3, 2), **{**good, "basis": "spline", **changes})  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_the_other_families_have_none() -> None:
    with pytest.raises(ValueError, match="basis: expected one of identity"):
        gf.deep(torch.ones(3, 2), torch.ones(4), widths=(1,), basis="spline")


SPLINES = [
    gf.Spline(),
    gf.Spline(knots=2, radius=3.0),
    gf.Spline(knots=11, radius=0.5, slopes=(-0.5, 1.0)),
    gf.Spline(knots=9, odd=True, shared=True),
]


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("spline", SPLINES, ids=gf.Spline.label)
def test_networks_of_splines(spline: gf.Spline, monotone: bool) -> None:
    if monotone and spline.slopes[0] is not None:
        with pytest.raises(ValueError, match=r"slopes of at least 0, got slopes=\(-0.5, 1.0\)"):
            gf.mRidgeGradNet(3, 8, spline)
        return
    net = (gf.mRidgeGradNet if monotone else gf.RidgeGradNet)(3, 8, spline, dtype=torch.float64)
    with torch.no_grad():
        net.act.values.normal_()
    x = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    f = net(x)
    (by_autograd,) = torch.autograd.grad(net.potential(x).sum(), x, create_graph=True)
    torch.testing.assert_close(f, by_autograd)
    eigenvalues = torch.linalg.eigvalsh(net.jacobian(x))
    lipschitz = net.act.slopes().abs().max() * torch.linalg.matrix_norm(net.W, 2) ** 2
    assert eigenvalues.abs().max() <= lipschitz * (1 + 1e-12)
    assert not monotone or eigenvalues.min() > -1e-12
    least, largest = spline.slopes
    assert least is None or net.act.slopes().min() >= least - 1e-12
    assert largest is None or net.act.slopes().max() <= largest + 1e-12
    if spline.odd:
        net.b.data.zero_()
        torch.testing.assert_close(net(x) - net.bias, net.bias - net(-x))
    f.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    other = (gf.mRidgeGradNet if monotone else gf.RidgeGradNet)(3, 8, spline, dtype=torch.float64)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    assert spline.label() in repr(net)


@pytest.mark.parametrize("bounds", [(None, 0.1), (-0.5, 0.0), (2.0, 3.0), (-3.0, -2.0), (None, None), (0.25, 0.25)])
def test_the_first_slopes_are_within_the_bounds_and_learn(bounds: tuple[float | None, float | None]) -> None:
    net = gf.RidgeGradNet(2, 50, gf.Spline(knots=5, slopes=bounds), dtype=torch.float64)
    drawn = net.act.values.diff(dim=0) / 0.5
    torch.testing.assert_close(net.act.slopes(), drawn)
    if bounds[0] is None or bounds[0] != bounds[1]:
        (of_values,) = torch.autograd.grad(net.act.slopes().sum(), net.act.values)
        assert (of_values[-1] > 0).all()
        assert drawn[0].std() > 0.02


def test_a_spline_is_its_values() -> None:
    spline = gf.Spline(knots=5, radius=2.0)
    net = gf.RidgeGradNet(1, 1, spline)
    with torch.no_grad():
        net.W.fill_(1.0)
        for parameter in (net.b, net.bias):
            parameter.zero_()
        net.act.values.copy_(torch.tensor([1.0, 0.0, 4.0, 2.0, 3.0])[:, None])
    knots = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]
    torch.testing.assert_close(net(knots), net.act.values)
    torch.testing.assert_close(net.act.total_variation(), torch.tensor([1.0 + 4.0 + 4.0 + 2.0 + 2.0 + 1.0]))
    assert gf.explain(net, knots).backend == "cpp"
    assert "ridge of splines" in gf.explain(net, knots).rejected["triton"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gf.Spline(knots=1), "knots: expected at least 2, got 1"),
        (lambda: gf.Spline(knots=20, odd=True), "knots: expected an odd number"),
        (lambda: gf.Spline(radius=0.0), "radius: expected a finite number above 0"),
        (lambda: gf.Spline(slopes=(1.0, 0.0)), "slopes: expected the least before the largest"),
        (lambda: gf.Spline(slopes=[0.0, 1.0]), "slopes: expected a tuple of two bounds"),  # type: ignore[arg-type]
        (lambda: gf.GradNetC(2, 2, 3, gf.Spline()), "use RidgeGradNet"),
    ],
)
def test_bad_splines(make: Callable[[], object], words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert words in str(caught.value)
