"""The Triton kernel of determinants in Triton's interpreter, and what the compiler says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from test_determinant import Eager, LogDeterminant, of_all, ours, positive, torchs
from torch import Tensor

import gradnets_fast as gf
from gradnets_fast.kernels import launching
from gradnets_fast.ops import _triton_cholesky
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients

DTYPES = [torch.float32, torch.float64]
SIZES = [(3, 1), (130, 2), (33, 3), (9, 5), (3, 16), (2, 17)]
"""(batch, d): one program, and more, of which the last is not full; rows that fill a tile, and fewer."""


@pytest.fixture(autouse=True)
def launches() -> Iterator[list[int]]:
    """Every test runs on the kernel: how many programs each launch had."""
    found: list[int] = []

    def noted(kernel: object, grid: tuple[int, ...], arguments: object, constants: object) -> bool:
        found.append(grid[0])
        return False

    launching.try_first(noted)
    try:
        with gf.use_backend("triton"):
            yield found
    finally:
        launching.try_first(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "d"), [*SIZES, pytest.param(1, 64, marks=pytest.mark.slow)])
def test_values_and_two_derivatives(batch: int, d: int, dtype: torch.dtype, launches: list[int]) -> None:
    A, g = positive((batch,), d).to(dtype), torch.randn(batch, dtype=dtype)
    for derivatives in (outputs_and_gradients, second_gradients):
        truth = derivatives(torchs, [A.double()], g.double())
        assert_as_good_as_eager(derivatives(ours, [A], g), derivatives(torchs, [A], g), truth)
    # The value, and the inverse with its weights or to be differentiated.
    tile = max(1, {1: 1024, 2: 256, 3: 64, 5: 16}.get(d, 1) // A.itemsize)
    assert launches == 4 * [-(-batch // tile)]


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
@pytest.mark.parametrize(("batch", "d"), [(128, 2), (40, 8), (16, 13)])
def test_ill_conditioned_matrices(batch: int, d: int, condition: float) -> None:
    Q = torch.linalg.qr(torch.randn(batch, d, d, dtype=torch.float64)).Q
    A = ((Q * condition ** -torch.linspace(0, 1, d, dtype=torch.float64)) @ Q.mT).float()
    A = (A + A.mT) / 2
    inverse = torch.empty_like(A)
    found = [_triton_cholesky.cholesky(A, inverse=inverse), inverse]
    factor = torch.linalg.cholesky(A)
    eager = [2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), torch.cholesky_inverse(factor)]
    for mine, theirs, truth in zip(found, eager, (torch.linalg.slogdet(A.double())[1], torch.linalg.inv(A.double()))):
        assert_as_good_as_eager([mine], [theirs], [truth])


def test_gradients_are_symmetric_to_the_bit_and_of_the_same_bits_in_any_batch() -> None:
    A, weight = positive((9,), 7).float(), torch.randn(9)

    def gradient(rows: slice) -> Tensor:
        leaf = A[rows].clone().requires_grad_()
        return torch.autograd.grad(gf.symmetric_slogdet(leaf)[1], leaf, weight[rows])[0]

    whole = gradient(slice(None))
    assert torch.equal(whole, whole.mT)
    assert torch.equal(gradient(slice(3, 8)), whole[3:8])


@pytest.mark.parametrize("layout", ["columns", "inside", "every second", "repeated", "far apart"])
def test_only_the_lower_triangle_counts_in_any_strides(layout: str) -> None:
    A = positive((6,), 2).float()
    lower, far = A.tril() + torch.full_like(A, torch.nan).triu(1), torch.empty(6 + (3 << 22))
    views = {
        "columns": lower.mT.contiguous().mT,
        "inside": torch.nn.functional.pad(lower, (1, 2, 3, 1), value=torch.nan)[:, 3:5, 1:3],
        "every second": lower.repeat_interleave(2, 0)[::2],
        "repeated": lower[:1].expand(6, 2, 2),
        "far apart": far.as_strided((6, 2, 2), (1, 2 << 22, 1 << 22)).copy_(lower),
    }
    expected = A[:1].expand(6, 2, 2) if layout == "repeated" else A
    found = []
    for matrices in (views[layout], expected.contiguous()):
        inverse = torch.empty(6, 2, 2)
        found.append((_triton_cholesky.cholesky(matrices, inverse=inverse), inverse))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matrices_that_are_not_positive_definite(dtype: torch.dtype, launches: list[int]) -> None:
    A = positive((12,), 5).to(dtype)
    A[3] = -A[3]
    A[5, 0] = A[5, :, 0] = 0
    A[7, 2, 2] -= 100
    A[8] = torch.eye(5, dtype=dtype) * (torch.finfo(dtype).tiny / 4)
    A[9] = torch.eye(5, dtype=dtype) * (torch.finfo(dtype).max * 0.75)
    A[11, 4, 1] = A[11, 1, 4] = torch.nan
    assert _triton_cholesky.cholesky(A).isnan().nonzero().flatten().tolist() == [3, 5, 7, 8, 9, 11]
    (sign, logarithm), (expected_sign, expected) = gf.symmetric_slogdet(A), torch.linalg.slogdet(A)
    assert torch.equal(sign[:11], expected_sign[:11])
    torch.testing.assert_close(logarithm, expected, equal_nan=True)
    leaf = A[[0, 1, 2, 3, 4, 6, 7, 10]].requires_grad_()
    ours, expected = (
        torch.autograd.grad(f(leaf)[1].sum(), leaf)[0] for f in (gf.symmetric_slogdet, torch.linalg.slogdet)
    )
    torch.testing.assert_close(ours, (expected + expected.mT) / 2)
    assert len(launches) == 4


def test_gradcheck_and_16_bits() -> None:
    A = torch.cat([positive((1,), 2), -positive((1,), 2)]).requires_grad_()
    function = lambda A: gf.symmetric_slogdet((A + A.mT) / 2)[1]  # noqa: E731
    assert torch.autograd.gradcheck(function, A)
    assert torch.autograd.gradgradcheck(function, A)
    narrow = A.detach().bfloat16()
    torch.testing.assert_close(function(narrow), torch.linalg.slogdet(narrow.float())[1].bfloat16())
    assert function(narrow[:0]).shape == (0,)


def test_a_network_and_its_second_derivatives(launches: list[int]) -> None:
    net, x, g = gf.mGradNetC(2, 3, 9, linear="psd"), torch.randn(5, 3), torch.randn(5)
    (ours, values), (eager, _) = of_all(LogDeterminant(net)), of_all(Eager(net))
    for derivatives in (outputs_and_gradients, second_gradients):
        found = derivatives(ours, [x, *values], g)
        with gf.use_backend("reference"):
            truth = derivatives(eager, [x.double(), *(value.double() for value in values)], g.double())
            theirs = derivatives(eager, [x, *values], g)
        assert_as_good_as_eager(found, theirs, truth)


def test_what_the_kernel_does_not_take_goes_to_torch_linalg(launches: list[int]) -> None:
    A = positive((2,), 65)
    torch.testing.assert_close(gf.symmetric_slogdet(A)[1], torch.linalg.slogdet(A)[1])
    assert not launches
    assert gf.explain("symmetric_slogdet", A).rejected["triton"] == "its matrices are 64 × 64 at most"
    assert gf.explain("symmetric_slogdet", A).kernel == "torch.linalg, torch.float64, on cpu"


@pytest.mark.parametrize("backend", ["cpp", "triton", "reference"])
def test_explain_says_what_factors_matrices(backend: str) -> None:
    found = gf.explain(gf.symmetric_logdet, torch.zeros(3, 4, 4), backend=backend)
    text = {"cpp": "csrc", "triton": "4 × 4 matrices, float32, Triton's interpreter", "reference": "torch.linalg"}
    assert (found.operator, found.backend) == ("symmetric_logdet", backend)
    assert found.reason == "asked for by the argument backend="
    assert text[backend] in found.kernel
    assert gf.explain("symmetric_slogdet", torch.zeros(129, 129), backend=backend).backend == "reference"
    with pytest.raises(ValueError, match=r"explain: A: expected shape \(…, d, d\), got shape \(3, 2\)"):
        gf.explain("symmetric_slogdet", torch.zeros(3, 2))


_COMPILE = """
import json, sys, torch
from gradnets_fast.kernels import compiler
from gradnets_fast.ops._triton_cholesky import _constants
architecture, dtype = json.loads(sys.argv[1])
of, integers = "*fp" + dtype[5:], ("count", "d", "stride", "row_stride", "column_stride")
for d in (1, 2, 3, 5, 16, 17, 32, 33, 64):
    for absent in ((), ("weight", "inverse")):
        pointers = {name: None if name in absent else of for name in ("A", "weight", "logarithm", "inverse")}
        multiples = [name for name in pointers if name not in absent] + ["d", "stride", "row_stride"] * (d % 16 == 0)
        types = pointers | dict.fromkeys(integers, "i32")
        launch = compiler.Launch("cholesky.sweep", _constants(d, getattr(torch, dtype)), types, frozenset(multiples))
        needs = compiler.Resources.of(compiler.compiled(launch, architecture))
        print(d, absent, needs, flush=True)
        assert needs.fits(architecture), (d, absent, needs)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "dtype"), [(80, "float32"), (90, "float64"), (100, "float32")])
def test_it_compiles_without_a_gpu_and_spills_nothing(architecture: int, dtype: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    case = json.dumps([architecture, dtype])
    run = subprocess.run([sys.executable, "-c", _COMPILE, case], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 18
