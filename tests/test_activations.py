"""The table of basis functions, against mpmath (values, tails) and torch (kinks, infinities, NaN)."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import islice, pairwise, product
from pathlib import Path

import mpmath
import pytest
import torch
from torch import Tensor

from gradnets_fast import reference
from gradnets_fast.activations import TABLE, TRANSFORMS, codegen, quadrature
from gradnets_fast.activations.spec import SMOOTH
from gradnets_fast.ops import _cpp
from gradnets_fast.reference.activations import KINKS as KINKS_OF
from gradnets_fast.reference.activations import STRAIGHT
from gradnets_fast.reference.ridge import quadrature_rule

mpmath.mp.dps = 60
mpf = mpmath.mpf

EXACT = {
    "identity": lambda x: x,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)) if x > -200 else mpmath.exp(x),
    "relu": lambda x: max(x, mpf(0)),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "sin": mpmath.sin,
    "arctan": mpmath.atan,
    "softsign": lambda x: x / (1 + abs(x)),
    "erf": mpmath.erf,
    "softshrink": lambda x: x - mpf("0.5") if x > 0.5 else x + mpf("0.5") if x < -0.5 else mpf(0),
    "hardtanh": lambda x: min(max(x, mpf(-1)), mpf(1)),
    "hardsigmoid": lambda x: min(max(x + 3, mpf(0)), mpf(6)) / 6,
}
"""The definitions, independent of the table."""

AT_ZERO = {"sigmoid": mpmath.log(2), "softplus": mpmath.pi**2 / 12, "hardsigmoid": mpf("0.75")}
"""Φ(0), where it is not 0."""

KINKS = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]
"""Where a derivative of one of them may jump."""

MAGNITUDES = [1e-6, 1e-3, 0.02, 0.1, 0.3, 0.49, 0.6, 0.9, 1.1, 1.6, 2.3, 3.7, 5.0, 8.0, 12.0, 25.0, 60.0]
# Exact in float32, so that both precisions share the true values.
POINTS = torch.tensor([-m for m in reversed(MAGNITUDES)] + MAGNITUDES).tolist()
OUTPUTS = ("antiderivative", "value", "first", "second", "third")
ALLOWED_ULPS = 8.0
ALLOWED_ULPS_ANTIDERIVATIVE = 16.0

each_basis = pytest.mark.parametrize("name", list(TABLE))


def compiled(name: str, which: str, x: Tensor) -> Tensor:
    out = torch.full_like(x, float("nan"))
    function = getattr(_cpp.extension(), f"evaluate_basis_{'f32' if x.dtype == torch.float32 else 'f64'}")
    function(list(TABLE).index(name), OUTPUTS.index(which), x.numel(), x.data_ptr(), out.data_ptr())
    return out


@lru_cache(maxsize=None)
def exact_and_condition(name: str, which: str, x: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The true value, and |x·derivative|: what a relative error of the argument does to it."""
    function, point = EXACT[name], mpf(x)
    if which == "antiderivative":
        return without_noise(name, integral(name, x)), abs(point * function(point))
    order = OUTPUTS.index(which) - 1
    here, more = derivatives(name, x)[order : order + 2]
    return without_noise(name, here), abs(point * more)


@lru_cache(maxsize=None)
def derivatives(name: str, x: float) -> list[mpmath.mpf]:
    """The function and its derivatives to the fourth, from the same values."""
    # erf(25) is 1 − 10⁻²⁷³: numerical differentiation must resolve that.
    with mpmath.workdps(200 if abs(x) > 5 else 60):
        if name == "erf":
            return [EXACT[name](mpf(x)), *mpmath.diffs(lambda t: 2 * bell(t, 1), mpf(x), 3)]
        if name == "gelu":
            share = [mpmath.erfc(-mpf(x) / mpmath.sqrt(2)) / 2, *mpmath.diffs(lambda t: bell(t, 2), mpf(x), 3)]
            return list(islice(mpmath.diffs_prod([[mpf(x), 1, 0, 0, 0], share]), 5))
        return list(mpmath.diffs(EXACT[name], mpf(x), 4))


def bell(t: mpmath.mpf, twice_the_variance: int) -> mpmath.mpf:
    """The normal density, whose integral defines erf: differentiating that itself takes a hundred times as long."""
    return mpmath.exp(-t * t / twice_the_variance) / mpmath.sqrt(twice_the_variance * mpmath.pi)


def without_noise(name: str, value: mpmath.mpf) -> mpmath.mpf:
    """The value, or 0 where it should be: the sixths of one function are rounded, even in 60 digits."""
    return mpmath.chop(value, tol=1e-40) if name == "hardsigmoid" else value


TRANSFORM_DEFINITIONS = {
    "identity": lambda t: t,
    "half_square": lambda t: t * t / 2,
    "softplus": lambda t: mpmath.log1p(mpmath.exp(t)),
    "logcosh": lambda t: mpmath.log(mpmath.cosh(t)),
    "exp": mpmath.exp,
    "log": mpmath.log,
}
"""ρ, independent of the table."""

TRANSFORM_OUTPUTS = ("value", "first", "second", "third")


@lru_cache(maxsize=None)
def transform_derivatives(name: str, t: float) -> list[mpmath.mpf]:
    with mpmath.workdps(100):
        return list(mpmath.diffs(TRANSFORM_DEFINITIONS[name], mpf(t), 4))


def assert_transform_accurate(name: str, which: str, points: list[float], got: list[float], dtype: torch.dtype) -> None:
    """Relative accuracy wherever sums of antiderivatives may lie."""
    info = torch.finfo(dtype)
    order = TRANSFORM_OUTPUTS.index(which)
    for t, y in zip(points, got):
        if name == "log" and t <= 0:
            continue
        here, more = transform_derivatives(name, t)[order : order + 2]
        error = abs(mpf(y) - here)
        assert error <= info.eps / 2 * ALLOWED_ULPS * (abs(here) + abs(t * more)) + info.tiny, (t, y, here)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_transforms_are_accurate(name: str) -> None:
    t = torch.tensor(POINTS, dtype=torch.float64)
    for order, which in enumerate(TRANSFORM_OUTPUTS):
        out = torch.full_like(t, math.nan)
        _cpp.extension().evaluate_transform(
            list(TRANSFORMS).index(name), order, t.numel(), t.data_ptr(), out.data_ptr()
        )
        assert_transform_accurate(name, which, POINTS, out.tolist(), torch.float64)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_transforms_at_infinity(name: str) -> None:
    """ρ and ρ' are never NaN there: a large sum gives a large value, not an undefined one."""
    t = torch.tensor([1e308, math.inf], dtype=torch.float64)
    for order in (0, 1):
        out = torch.full_like(t, math.nan)
        _cpp.extension().evaluate_transform(list(TRANSFORMS).index(name), order, 2, t.data_ptr(), out.data_ptr())
        assert not out.isnan().any()


@lru_cache(maxsize=None)
def integral(name: str, x: float) -> mpmath.mpf:
    """Φ(x), from the next of `POINTS` towards 0: each stretch of the axis is integrated once."""
    nearer = max((p for p in POINTS if p * x > 0 and abs(p) < abs(x)), key=abs, default=0.0)
    kinks = [mpf(k) for k in KINKS if min(nearer, x) < k < max(nearer, x)]
    rest = mpmath.quad(EXACT[name], _refined([mpf(nearer), *kinks, mpf(x)]), method="gauss-legendre")
    return (integral(name, nearer) if nearer else AT_ZERO.get(name, mpf(0))) + rest


def _refined(pieces: list[mpmath.mpf]) -> list[mpmath.mpf]:
    refined = [pieces[0]]
    for start, end in pairwise(pieces):
        count = max(1, math.ceil(abs(end - start) / 2))
        refined += [start + (end - start) * k / count for k in range(1, count + 1)]
    return refined


def assert_accurate(name: str, which: str, points: list[float], got: list[float], dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    allowed = ALLOWED_ULPS_ANTIDERIVATIVE if which == "antiderivative" else ALLOWED_ULPS
    for x, y in zip(points, got):
        truth, condition = exact_and_condition(name, which, x)
        # The antiderivatives that do not vanish at −∞ are differences from their constant there.
        constant = 2.0 if which == "antiderivative" and name in ("silu", "gelu") and abs(x) > 1 else 0.0
        error = abs(mpf(y) - truth)
        assert error <= info.eps / 2 * allowed * (abs(truth) + condition + constant) + info.tiny, (x, y, truth)


@each_basis
def test_compiled_functions_are_accurate(name: str) -> None:
    for which, dtype in product(OUTPUTS, (torch.float64, torch.float32)):
        x = torch.tensor(POINTS, dtype=dtype)
        assert_accurate(name, which, x.tolist(), compiled(name, which, x).tolist(), dtype)


def far_out(dtype: torch.dtype) -> list[float]:
    """Points of either sign up to the dtype's largest number."""
    powers = torch.tensor([0.45, 0.5, 0.505, 0.55, 0.8, 1.0], dtype=torch.float64)
    largest = torch.finfo(dtype).max
    points = largest**powers
    return torch.cat([points, -points]).clamp(-largest, largest).to(dtype).tolist()


LIMITS = {
    "identity": (lambda x: x * x / 2, lambda x: x, lambda x: 1),
    "tanh": (abs, mpmath.sign, lambda x: 0),
    "sigmoid": (lambda x: max(x, 0), lambda x: x > 0, lambda x: 0),
    "sin": (lambda x: 1 - mpmath.cos(x), mpmath.sin, mpmath.cos, lambda x: -mpmath.sin(x), lambda x: -mpmath.cos(x)),
    "arctan": (lambda x: abs(x) * mpmath.pi / 2, lambda x: mpmath.sign(x) * mpmath.pi / 2, lambda x: x**-2),
    "softsign": (abs, mpmath.sign, lambda x: x**-2),
    "erf": (abs, mpmath.sign, lambda x: 0),
    "softshrink": (lambda x: x * x / 2, lambda x: x, lambda x: 1),
    "hardtanh": (abs, mpmath.sign, lambda x: 0),
    "hardsigmoid": (lambda x: max(x, 0), lambda x: x > 0, lambda x: 0),
} | dict.fromkeys(
    ("relu", "softplus", "silu", "gelu"), (lambda x: max(x, 0) ** 2 / 2, lambda x: max(x, 0), lambda x: x > 0)
)
LIMITS["elu"] = (lambda x: x * x / 2 if x > 0 else -x, lambda x: max(x, mpf(-1)), lambda x: x > 0)
"""Φ, b and b' roughly, far out; further derivatives are 0 where they are not given."""


def assert_limits(name: str, which: str, dtype: torch.dtype, got: list[float], points: list[float]) -> None:
    largest, formulas = torch.finfo(dtype).max, LIMITS[name]
    order = OUTPUTS.index(which)
    for x, y in zip(points, got):
        limit = mpf(formulas[order](mpf(x))) if order < len(formulas) else mpf(0)
        if abs(limit) > largest / 2 and math.isinf(y):
            assert y * limit > 0, (x, y, limit)
        else:
            assert abs(mpf(y) - limit) <= 0.05 * abs(limit) + (1.0 if order == 0 else 0.05), (x, y, limit)


@each_basis
def test_functions_far_out_are_finite_or_their_limits(name: str) -> None:
    for dtype in (torch.float64, torch.float32):
        points = far_out(dtype)
        for which in OUTPUTS:
            assert_limits(name, which, dtype, compiled(name, which, torch.tensor(points, dtype=dtype)).tolist(), points)


@each_basis
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_reference_far_out_is_finite_or_its_limit(name: str, dtype: torch.dtype) -> None:
    """Its formulas, and what autograd makes of them three times."""
    points = far_out(dtype)
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    for first, function in enumerate((reference.antiderivative, reference.value, reference.derivative)):
        y = function(name, x)
        for which in OUTPUTS[first:]:
            if which == "third":
                assert y.abs().max() <= 1.0
            else:
                assert_limits(name, which, dtype, y.tolist(), points)
            if y.requires_grad:
                (y,) = torch.autograd.grad(y.sum(), x, create_graph=True, materialize_grads=True)
            else:
                y = torch.zeros_like(x)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's words for overflow far out
def test_triton_functions_are_accurate() -> None:
    from triton_activations import evaluated  # where Triton is optional

    far, near = far_out(torch.float32), len(POINTS)
    printed = evaluated([*POINTS, *far])
    results = printed["basis"]
    assert set(results) == set(TABLE)
    for name, outputs in results.items():
        fast = outputs.pop("fast")
        for which, got in outputs.items():
            assert_accurate(name, which, POINTS, got[:near], torch.float32)
            assert_limits(name, which, torch.float32, got[near:], far)
        for which, got in zip(("value", "first", "second"), fast):
            accurate = torch.tensor(outputs[which])
            error = (torch.tensor(got) - accurate).abs().max()
            assert error <= 2.0**-10 * accurate.abs().max(), (name, which)
    assert set(printed["transforms"]) == set(TRANSFORMS)
    for name, outputs in printed["transforms"].items():
        for which, got in outputs.items():
            assert_transform_accurate(name, which, POINTS, got, torch.float32)


@each_basis
def test_special_points_agree_with_torch(name: str) -> None:
    kinks = [*KINKS, -0.0]
    extremes = [math.inf, -math.inf, math.nan, 1e30, -1e30]
    x = torch.tensor([*kinks, *extremes, 1e4, -1e4], dtype=torch.float64, requires_grad=True)
    value = reference.value(name, x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True, materialize_grads=True)
    finite = x.isfinite()
    points = x.detach()
    got = compiled(name, "value", points)
    assert torch.allclose(got[finite], value.detach()[finite], rtol=1e-12, atol=0)
    assert torch.equal(got[finite].sign(), value.detach()[finite].sign())
    assert torch.allclose(got[~finite], value.detach()[~finite], rtol=0, atol=0, equal_nan=True)
    assert torch.allclose(compiled(name, "first", points)[: len(kinks)], first.detach()[: len(kinks)], rtol=1e-12)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True)
        assert torch.allclose(compiled(name, "second", points)[: len(kinks)], second[: len(kinks)], rtol=1e-12)


@each_basis
def test_reference_agrees_with_the_definition(name: str) -> None:
    x = torch.tensor(POINTS, dtype=torch.float64)
    exact = torch.tensor([float(EXACT[name](mpf(p))) for p in POINTS], dtype=torch.float64)
    torch.testing.assert_close(reference.value(name, x), exact, rtol=1e-12, atol=1e-15)
    potential = [float(exact_and_condition(name, "antiderivative", p)[0]) for p in POINTS]
    torch.testing.assert_close(
        reference.antiderivative(name, x), torch.tensor(potential, dtype=torch.float64), rtol=1e-10, atol=1e-14
    )


@each_basis
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_reference_derivatives_are_accurate_in_the_tails(name: str, dtype: torch.dtype) -> None:
    """The formula of b', and autograd of it: relative accuracy beyond 1, absolute accuracy before."""
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    first = reference.derivative(name, x)
    (second,) = torch.autograd.grad(first.sum(), x)
    info = torch.finfo(dtype)
    for which, got in (("first", first), ("second", second)):
        for point, y in zip(POINTS, got.tolist()):
            truth, condition = exact_and_condition(name, which, point)
            scale = abs(truth) + condition + (1.0 if abs(point) <= 1 else 0.0)
            assert abs(mpf(y) - truth) <= 16 * info.eps * scale + info.tiny, (which, point, y, truth)


@each_basis
def test_reference_derivatives_at_special_points(name: str) -> None:
    """Torch's at the kinks, NaN at NaN, the limits far out where the formula has them, and never missing."""
    x = torch.tensor([*KINKS, -0.0], dtype=torch.float64, requires_grad=True)
    (torch_first,) = torch.autograd.grad(reference.value(name, x).sum(), x, create_graph=True)
    first = reference.derivative(name, x)
    torch.testing.assert_close(first, torch_first, rtol=1e-14, atol=1e-15)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch_second = torch.zeros_like(x)
    if torch_first.requires_grad:
        (torch_second,) = torch.autograd.grad(torch_first.sum(), x, materialize_grads=True)
    torch.testing.assert_close(second, torch_second, rtol=1e-14, atol=1e-15)
    assert reference.derivative(name, torch.tensor(math.nan)).isnan()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        far = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
        slope = reference.derivative(name, far)
        assert slope.dtype == dtype
        assert torch.autograd.grad(slope.sum(), far)[0].isfinite().all()
        limits = reference.derivative(name, far.detach().double())
        torch.testing.assert_close(slope.double(), limits, rtol=0.02, atol=1e-6)


@each_basis
def test_flags(name: str) -> None:
    basis = TABLE[name]
    x = torch.cat([torch.linspace(-30, 30, 200_001, dtype=torch.float64), torch.tensor([-1e6, 1e6]).double()])
    slope = compiled(name, "first", x)
    low, high = basis.derivative_range
    assert low - 1e-9 <= slope.min() <= low + 1e-3
    assert high - 1e-3 <= slope.max() <= high + 1e-9
    assert basis.nondecreasing == bool((slope >= 0).all())
    least, largest = basis.second_range
    curvature = compiled(name, "second", x)
    if basis.continuous_derivatives:
        assert least - 1e-9 <= curvature.min() <= least + 2e-3
        assert largest - 2e-3 <= curvature.max() <= largest + 1e-9
    else:  # b' jumps
        assert (least, largest) == (-math.inf, math.inf)
    potential = compiled(name, "antiderivative", x)
    at_zero = compiled(name, "antiderivative", torch.zeros(1, dtype=torch.float64)).item()
    assert at_zero == pytest.approx(float(AT_ZERO.get(name, 0.0)), rel=1e-15)
    if basis.nondecreasing:
        assert potential.min() >= 0


@each_basis
def test_smoothness_flag(name: str) -> None:
    """A jump in derivative n shows as a jump of its values across the kinks."""
    epsilon = 1e-9
    jumps = []
    for which in ("first", "second"):
        sides = [compiled(name, which, torch.tensor([k - epsilon, k + epsilon], dtype=torch.float64)) for k in KINKS]
        jumps.append(max((b - a).abs().item() for a, b in sides))
    smooth = TABLE[name].continuous_derivatives
    assert TABLE[name].smooth == (not KINKS_OF[name])
    assert all(abs(kink) == TABLE[name].kink for kink in KINKS_OF[name])
    assert TABLE[name].straight == (name in STRAIGHT)
    assert (jumps[0] > 0.1) == (smooth < 1)
    assert (jumps[1] > 0.1) == (smooth == 1)
    assert smooth in (0, 1, SMOOTH)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "elu", "silu", "gelu", "arctan", "softsign", "erf"])
def test_antiderivatives_do_not_turn_over_at_the_end_of_the_range(name: str) -> None:
    huge = torch.tensor([1e15, 1.5e19, 2e19, 3e38])
    potential = compiled(name, "antiderivative", huge)
    assert (potential > 0).all()
    assert (potential.diff() >= 0)[potential[1:].isfinite()].all()


def test_generated_files_are_fresh() -> None:
    assert codegen.stale() == []
    assert codegen.main(["--check"]) == 0


def test_check_notices_a_stale_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "activations_gen.h"
    stale.write_text(codegen.print_cpp() + "\n")
    monkeypatch.setitem(codegen.TARGETS, "cpp", stale)
    assert codegen.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err


def test_the_extension_knows_the_same_table() -> None:
    assert _cpp.extension().basis_names() == list(TABLE)


@pytest.mark.parametrize("name", [name for name, basis in TABLE.items() if basis.nondecreasing])
def test_antiderivatives_of_nondecreasing_functions_are_nonnegative(name: str) -> None:
    """So that sums of them are, where `Transform` says which ρ keep convexity."""
    far = torch.tensor([-1e6, -1e3, 1e3, 1e6], dtype=torch.float64)
    z = torch.cat([torch.linspace(-30, 30, 100_001, dtype=torch.float64), far])
    assert (reference.antiderivative(name, z) >= 0).all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_keep_convexity_where_they_say_so(name: str) -> None:
    """Convex and nondecreasing on [0, ∞); the others say why not."""
    t = torch.linspace(0, 20, 10_001, dtype=torch.float64)[1:]
    _, first, second = (function(t) for function in reference.TRANSFORM_VALUES[name])
    keeps = bool((first >= 0).all() and (second >= 0).all())
    assert TRANSFORMS[name].keeps_convexity_on_nonnegative == keeps
    assert bool(TRANSFORMS[name].why_not) == (not keeps)


@pytest.mark.parametrize("panels", [1, 8])
def test_quadrature_rules_are_exact_for_polynomials_of_degree_31(panels: int) -> None:
    for rule in (quadrature_rule(panels), quadrature.rule(panels)):
        for power in range(32):
            exact = mpmath.fsum(mpf(w) * mpf(t) ** power for t, w in rule)
            assert abs(exact - 1 / mpf(power + 1)) < 1e-15
