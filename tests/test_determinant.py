"""Determinants of symmetric matrices and of networks' Jacobians: values, gradients, second gradients, bad input."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from test_contract import REPRESENTATIVES, structure
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gradnets_fast as gf
from covering import in_turn, slow_but
from gradnets_fast.functional import _determinant, _sylvester
from gradnets_fast.nn.registry import ARCHITECTURES, Case
from oracle import Function, assert_as_good_as_eager, outputs_and_gradients, second_gradients

SIZES = [1, 2, 3, 4, 5, 8, 9, 16, 31, 32, 64, 65, 128, 130]
BATCHES: list[tuple[int, ...]] = [(), (1,), (17,), (2, 9), (0,)]
DTYPES = [torch.float32, torch.float64]
OF_EACH_STRUCTURE = list({structure(case): case for case in reversed(REPRESENTATIVES)}.values())
"""The first representatives."""
Derivatives = Callable[[Function, Sequence[Tensor], Tensor], list[Tensor]]


def positive(batch: tuple[int, ...], d: int) -> Tensor:
    """Symmetric positive definite matrices, (*batch, d, d), of condition numbers of about 5, float64."""
    G = torch.randn(*batch, d, d, dtype=torch.float64) / d**0.5
    return G @ G.mT + torch.eye(d, dtype=torch.float64)


def of_symmetric(function: Function) -> Function:
    """The function of the symmetric part, in which every derivative is symmetric."""
    return lambda t: function([(t[0] + t[0].mT) / 2])


ours = of_symmetric(lambda t: gf.symmetric_slogdet(t[0])[1])
torchs = of_symmetric(lambda t: torch.linalg.slogdet(t[0])[1])


@in_turn("d, batch, dtype", DTYPES, SIZES, BATCHES)
def test_values_and_two_derivatives_of_positive_definite_matrices(
    d: int, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Of several draws together, as the error of a single number may happen to be near 0 in eager PyTorch."""
    drawn = [
        (positive(batch, d).to(dtype), torch.randn(batch, dtype=dtype)) for _ in range(1 if math.prod(batch) > 8 else 8)
    ]
    for derivatives in (outputs_and_gradients, second_gradients):
        ours_here, eager, exact = (
            [torch.stack(parts) for parts in zip(*(derivatives(of, [A.to(to)], g.to(to)) for A, g in drawn))]
            for of, to in ((ours, dtype), (torchs, dtype), (torchs, torch.float64))
        )
        assert_as_good_as_eager(ours_here, eager, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_positive_definite_matrices_are_not_factored_twice(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel calls not positive definite goes another way, which is slow, and right as well."""
    monkeypatch.setattr(_determinant, "_for_lu", lambda A: pytest.fail(f"{len(A)} matrices were factored again"))
    for d in SIZES[:11]:
        A = positive((17,), d).to(dtype).requires_grad_()
        sign, logarithm = gf.symmetric_slogdet(A)
        assert bool((sign == 1).all())
        torch.autograd.grad(logarithm.sum(), A)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 5, 33])
def test_other_matrices_among_positive_definite_ones(d: int, dtype: torch.dtype) -> None:
    A = positive((20,), d).to(dtype)
    A[3] = -A[3]
    A[7, 0] = A[7, :, 0] = 0
    A[11, 0, 0] -= 100
    A[13] *= torch.finfo(dtype).tiny
    A[17] *= torch.finfo(dtype).max / 100
    sign, logarithm = gf.symmetric_slogdet(A)
    expected_sign, expected = torch.linalg.slogdet(A)
    assert torch.equal(sign, expected_sign)
    torch.testing.assert_close(logarithm, expected)
    assert (float(sign[7]), float(logarithm[7])) == (0.0, -math.inf)
    regular = [i for i in range(20) if i not in (7, 13, 17)]
    A = A[regular].requires_grad_()
    ours, expected = (torch.autograd.grad(f(A)[1].sum(), A)[0] for f in (gf.symmetric_slogdet, torch.linalg.slogdet))
    torch.testing.assert_close(ours, (expected + expected.mT) / 2)


def test_nan_stays_in_its_own_matrix() -> None:
    A = positive((9,), 4)
    A[5, 1, 1] = math.nan
    logarithm = gf.symmetric_slogdet(A)[1]
    assert logarithm.isnan().nonzero().tolist() == [[5]]


def test_of_the_same_bits_whatever_the_batch_and_the_threads() -> None:
    A = positive((333,), 7).float().requires_grad_()
    whole = gf.symmetric_slogdet(A)[1]
    (gradient,) = torch.autograd.grad(whole.sum(), A)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for rows in (slice(5, 6), slice(100, 333)):
            B = A.detach()[rows].requires_grad_()
            logarithm = gf.symmetric_slogdet(B)[1]
            assert torch.equal(logarithm, whole[rows])
            assert torch.equal(torch.autograd.grad(logarithm.sum(), B)[0], gradient[rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_any_strides(layout: str) -> None:
    A = positive((6,), 5)
    view = {"transposed": A.mT, "strided": A.repeat(2, 1, 1)[::2], "expanded": A[0].expand(6, 5, 5)}[layout]
    torch.testing.assert_close(gf.symmetric_slogdet(view)[1], torch.linalg.slogdet(view.contiguous())[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    A = positive((6,), 5).to(dtype)
    sign, logarithm = gf.symmetric_slogdet(A)
    assert sign.dtype == logarithm.dtype == dtype
    torch.testing.assert_close(logarithm, torch.linalg.slogdet(A.float())[1].to(dtype))


def test_gradcheck() -> None:
    def function(A: Tensor) -> Tensor:
        return gf.symmetric_slogdet((A + A.mT) / 2)[1]

    A = torch.cat([positive((2,), 3), -positive((1,), 3)]).requires_grad_()
    assert torch.autograd.gradcheck(function, A)
    assert torch.autograd.gradgradcheck(function, A)


@pytest.mark.parametrize(("A", "text"), [
    (torch.eye(3).tolist(), "symmetric_slogdet: A: expected a torch.Tensor"),
    (torch.ones(3), r"expected shape \(…, d, d\), got shape \(3,\)"),
    (torch.ones(3, 2), r"expected shape \(…, d, d\), got shape \(3, 2\)"),
    (torch.ones(2, 2, dtype=torch.int64), "expected a floating-point dtype, got torch.int64"),
])  # fmt: skip
def test_bad_input(A: object, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        gf.symmetric_slogdet(A)  # type: ignore[arg-type]


def test_a_warning_names_the_matrices_without_a_logarithm() -> None:
    A = torch.diag_embed(torch.tensor([[1.0, 2.0], [1.0, -2.0], [0.0, 1.0]]))
    with pytest.warns(RuntimeWarning, match=r"in 2 of 3 \(at 1, 2\): .*; add a multiple of the identity"):
        logarithm = gf.symmetric_logdet(A)
    assert logarithm[0] == math.log(2)
    assert logarithm[1].isnan()
    assert logarithm[2] == -math.inf
    with pytest.warns(RuntimeWarning, match=r"mGradNetC.logdet: .*use a monotone network with linear=\"psd\""):
        gf.mGradNetC(2, 8, 3).logdet(torch.zeros(4, 8))


class LogDeterminant(nn.Module):
    """log|det J(x)| of a network, as a module, so that it can be called with other parameters."""

    def __init__(self, net: gf.nn.GradNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.slogdet(x)[1]


class Eager(LogDeterminant):
    """The same by torch.linalg, of the same Jacobian."""

    def forward(self, x: Tensor) -> Tensor:
        logarithm: Tensor = torch.linalg.slogdet(self.net.jacobian(x))[1]
        return logarithm


def regular(case: Case, dtype: torch.dtype) -> tuple[gf.nn.GradNet, Tensor]:
    """The network with the linear part 4x, which makes the Jacobian of a monotone one positive definite."""
    net = case.make(dtype=dtype, linear="psd")
    with torch.no_grad():
        net.linear.V.copy_(2 * torch.eye(3))
    x = torch.randn(100, 3, dtype=dtype) / 2
    with torch.no_grad():
        sizes = torch.linalg.eigvalsh(net.jacobian(x)).abs()
    is_regular = (sizes.amin(-1) > 0.5) & (sizes.amax(-1) < 10 * sizes.amin(-1))
    return net, x[is_regular][:23]


def of_all(module: nn.Module) -> tuple[Function, list[Tensor]]:
    """The module as a function of the points and all its parameters, and the latter."""
    names, values = zip(*((name, value.detach()) for name, value in module.named_parameters()))

    def function(tensors: Sequence[Tensor]) -> Tensor:
        result: Tensor = functional_call(module, dict(zip(names, tensors[1:])), (tensors[0],))
        return result

    return function, list(values)


@pytest.mark.parametrize("case", slow_but(OF_EACH_STRUCTURE, REPRESENTATIVES), ids=lambda case: case.label)
def test_networks_and_two_derivatives_in_everything(case: Case) -> None:
    """Of three draws together, as the error of a few numbers may happen to be near 0 in eager PyTorch."""
    for dtype in DTYPES:
        for derivatives in (outputs_and_gradients, second_gradients):
            results = zip(*(determinants_derivatives(case, dtype, derivatives) for _ in range(3)))
            assert_as_good_as_eager(*([torch.cat(parts) for parts in zip(*draws)] for draws in results))


def determinants_derivatives(case: Case, dtype: torch.dtype, derivatives: Derivatives) -> tuple[list[Tensor], ...]:
    """Those of a new network: ours, eager PyTorch's and in float64, each tensor as a vector."""
    net, x = regular(case, dtype)
    (ours, values), (eager, _) = of_all(LogDeterminant(net)), of_all(Eager(net))
    g, given = torch.randn(len(x), dtype=dtype), [x, *values]
    assert len(x) >= 5
    if case.monotone:
        assert torch.equal(net.slogdet(x)[0], torch.ones_like(g))
        torch.testing.assert_close(net.logdet(x), ours(given))
    exact = derivatives(eager, [t.double() for t in given], g.double())
    return tuple(
        [t.flatten() for t in every] for every in (derivatives(ours, given, g), derivatives(eager, given, g), exact)
    )


FEW_UNITS = {
    "ridge": lambda: gf.mRidgeGradNet(24, 9, "softplus", linear="psd"),
    "cascade": lambda: gf.GradNetC(2, 24, 12, linear="psd"),
    "heads": lambda: gf.RidgeGradNet(24, 7, gf.Heads(2, "tanh"), linear="psd"),
    "modules": lambda: gf.mGradNetM(3, 24, 4, linear="psd"),
    "soft maximum": lambda: gf.mGradNetM(2, 24, 5, combine="logsumexp", linear="psd"),
    "low rank": lambda: gf.structure.LowRank(gf.mGradNetC(2, 5, 40), 24, linear="psd"),
}


@pytest.mark.parametrize("name", FEW_UNITS)
def test_fewer_units_than_coordinates_and_two_derivatives_in_everything(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, sizes = FEW_UNITS[name](), []
    slogdet = _sylvester.LowRank.slogdet
    monkeypatch.setattr(_sylvester.LowRank, "slogdet", lambda *a: sizes.append(len(a[0].L)) or slogdet(*a))
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(24) + torch.randn(24, 24) / 20)
    for dtype in DTYPES:
        net, x, g = net.to(dtype), torch.randn(2, 6, 24, dtype=dtype), torch.randn(2, 6, dtype=dtype)
        (ours, values), (eager, _) = of_all(LogDeterminant(net)), of_all(Eager(net))
        for derivatives in (outputs_and_gradients, second_gradients):
            exact = of_all(Eager(copy.deepcopy(net).double()))[0]
            truth = derivatives(exact, [x.double(), *(value.double() for value in values)], g.double())
            theirs = derivatives(eager, [x, *values], g)
            assert_as_good_as_eager(derivatives(ours, [x, *values], g), theirs, truth)
        with torch.no_grad():
            torch.testing.assert_close(net.slogdet(x[0, 0])[1], ours([x, *values])[0, 0])
    assert sizes
    assert max(sizes) <= 12


@pytest.mark.parametrize("singular", ["W", "V"])
def test_weights_or_linear_parts_of_less_rank_go_the_usual_way(singular: str) -> None:
    net, x = gf.mGradNetC(2, 24, 6, linear="psd", dtype=torch.float64), torch.randn(3, 24, dtype=torch.float64)
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(24))
        (net.W if singular == "W" else net.linear.V)[2] = 0
    logarithm = net.slogdet(x)[1]
    torch.testing.assert_close(logarithm, torch.linalg.slogdet(net.jacobian(x))[1])
    if singular == "W":
        logarithm.sum().backward()
        assert net.W.grad is not None
        assert net.W.grad.isfinite().all()


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_without_gradients_in_pieces_and_any_leading_dimensions(arch: str) -> None:
    net = ARCHITECTURES[arch].make(2, 64, 70, activation="softmax" if arch.endswith("-m") else "softplus")
    x = torch.randn(3, 40, 64)
    sign, logarithm = net.slogdet(x)
    with torch.no_grad():
        in_pieces = net.slogdet(x)
    assert sign.shape == (3, 40)
    assert torch.equal(in_pieces[0], sign)
    torch.testing.assert_close(in_pieces[1], logarithm.detach())
    assert net.slogdet(x[:0])[1].shape == (0, 40)
    assert net.slogdet(x[0, 0])[1].shape == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_16_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    net = gf.mGradNetC(2, 3, 9, linear="psd").to(dtype)
    wide, x = copy.deepcopy(net).float(), torch.randn(8, 3).to(dtype)
    logarithm = net.logdet(x)
    exact, eager = wide.logdet(x.float()), torch.linalg.slogdet(net.jacobian(x).float())[1]
    assert (logarithm - exact).abs().max() <= (eager - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()
    logarithm.sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert gradients.pop("bias.2") is None  # on which J does not depend
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(wide.logdet(x.float()), wide.logdet(x.float()))
        assert wide.logdet(x.float()).dtype == torch.float32


def test_per_sample_gradients_and_compilation() -> None:
    net, x = gf.mGradNetM(2, 3, 9, linear="psd", dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    function, values = of_all(LogDeterminant(net))
    ours = vmap(grad(lambda point: function([point, *values])))(x)
    points = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net.logdet(points).sum(), points)
    torch.testing.assert_close(ours, expected)
    compiled = torch.compile(LogDeterminant(net), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(points).sum(), points)[0], expected)


def test_convolutions_have_none() -> None:
    with pytest.raises(NotImplementedError, match="the Jacobian, which has"):
        gf.mConvGradNet(1, 4, 3).logdet(torch.zeros(1, 5, 5))


def test_large_matrices_after_a_change_of_threads() -> None:
    """PyTorch 2.13's own batched factorisation fails then."""
    A = positive((6,), 200)
    A[4] = -A[4]
    A[5] -= 1.5 * torch.eye(200)
    exact = torch.stack([torch.linalg.slogdet(each)[1] for each in A])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.set_num_threads(2)
        leaf = A.clone().requires_grad_()
        logarithm = gf.symmetric_slogdet(leaf)[1]
        torch.testing.assert_close(logarithm, exact)
        (gradient,) = torch.autograd.grad(logarithm.sum(), leaf)
        torch.testing.assert_close(gradient @ A, torch.eye(200, dtype=torch.float64).expand_as(A), rtol=0, atol=1e-8)
    finally:
        torch.set_num_threads(threads)
