"""Networks as C files: compiled, and compared with the networks themselves in float64."""

from __future__ import annotations

import copy
import ctypes
import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from test_contract import CASES, REPRESENTATIVES
from torch import Tensor

import gradnets_fast as gf
from covering import few_of, quick_in_turn, slow_but, with_each_in_turn
from gradnets_fast.activations import TABLE
from gradnets_fast.errors import is_message
from gradnets_fast.export import to_c
from gradnets_fast.functional import Ridge, SoftmaxModules, TransformedModules
from gradnets_fast.nn import GradNet
from gradnets_fast.nn.registry import Case

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-shared", "-fPIC")
DTYPES = {"float32": (torch.float32, ctypes.c_float, 1e-5), "float64": (torch.float64, ctypes.c_double, 1e-12)}


def label(value: Any) -> str:
    return value.label if isinstance(value, Case) else str(value)


def is_printed(case: Case) -> bool:
    net = case.make()
    spline = isinstance(net, gf.RidgeGradNet) and "spline" in case.label.lower()
    plain = net.family in (Ridge, SoftmaxModules, TransformedModules) and getattr(net, "combine", "sum") == "sum"
    return plain and not spline


PRINTED = [case for case in CASES if is_printed(case)]
QUICK = few_of(
    with_each_in_turn([*DTYPES], [case for case in PRINTED if case in REPRESENTATIVES]),
    as_seen=lambda case: (case[0].make.func.__name__, case[1], *sorted(case[0].bases)),
)
REFUSED = [case for case in REPRESENTATIVES if case not in PRINTED]


class Compiled:
    """The functions of a file, on tensors."""

    def __init__(self, net: GradNet, folder: Path, dtype: str) -> None:
        to_c(net, folder / "net.c", name="net", dtype=dtype)
        assert COMPILER is not None
        command = [COMPILER, *STRICT, "-o", str(folder / "net.so"), str(folder / "net.c"), "-lm"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr[:2000]
        self.library = ctypes.CDLL(str(folder / "net.so"))
        self.dtype, self.real, _ = DTYPES[dtype]
        self.library.net_potential.restype = self.real

    def _pointer(self, t: Tensor) -> Any:
        return ctypes.cast(t.data_ptr(), ctypes.POINTER(self.real))

    def gradient(self, x: Tensor) -> Tensor:
        f = torch.full_like(x, torch.nan)
        self.library.net_gradient(self._pointer(x), self._pointer(f))
        return f

    def potential(self, x: Tensor) -> Tensor:
        return torch.tensor(self.library.net_potential(self._pointer(x)), dtype=torch.float64)

    def jacobian(self, x: Tensor) -> Tensor:
        J = torch.full((len(x), len(x)), torch.nan, dtype=self.dtype)
        self.library.net_jacobian(self._pointer(x), self._pointer(J))
        return J

    def inverse(self, y: Tensor, tolerance: float, steps: int = 100) -> tuple[Tensor, int]:
        x = torch.zeros_like(y)
        done = self.library.net_inverse(self._pointer(y), self._pointer(x), self.real(tolerance), steps)
        return x, done


def is_across_kinks(net: GradNet) -> bool:
    """Whether the file integrates by nodes what has kinks, and the package by the intervals between them."""
    bases = getattr(getattr(net, "spec", None), "basis", ())
    return isinstance(net, gf.GradNetC) and all(not TABLE[name].smooth or name == "identity" for name in bases)


def close(ours: Tensor, exact: Tensor, tolerance: float) -> None:
    scale = 1 + float(exact.abs().max())
    torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance * scale)


@needs_compiler
@pytest.mark.parametrize(("case", "dtype"), slow_but(QUICK, [*product(PRINTED, DTYPES)]), ids=label)
def test_a_file_computes_what_the_network_does(case: Case, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = case.make(linear="psd")
    compiled, exact = Compiled(net, tmp_path, dtype), copy.deepcopy(net).double()
    number, _, tolerance = DTYPES[dtype]
    for x in 2 * torch.randn(5, net.in_dim).to(number):  # type: ignore[arg-type]
        with torch.no_grad(), gf.use_backend("reference"):
            F, f = exact.value_and_gradient(x.double())
            close(compiled.gradient(x), f, tolerance)
            close(compiled.potential(x), F, max(tolerance, 5e-5) if is_across_kinks(net) else tolerance)
            close(compiled.jacobian(x), exact.jacobian(x.double()), tolerance)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "make", [lambda: gf.mGradNetC(3, 5, 8, linear="psd"), lambda: gf.mGradNetM(3, 5, 8, linear="psd")]
)
def test_the_inverse_finds_the_point(make: Callable[[], GradNet], dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = make()
    gf.init_identity_(net)
    compiled = Compiled(net, tmp_path, dtype)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    for x in torch.randn(5, 5, dtype=DTYPES[dtype][0]):
        found, steps = compiled.inverse(compiled.gradient(x), tolerance)
        assert 0 < steps < 20
        torch.testing.assert_close(found, x, rtol=0, atol=30 * tolerance)
        _, failed = compiled.inverse(compiled.gradient(x), tolerance, steps=1)
        assert failed == -1
        closest, _ = compiled.inverse(compiled.gradient(x), 0.0)  # which rounding may keep it from
        torch.testing.assert_close(closest, x, rtol=0, atol=30 * tolerance)


@needs_compiler
def test_a_singular_jacobian_is_no_endless_loop(tmp_path: Path) -> None:
    net = gf.mRidgeGradNet(3, 4, "relu")
    with torch.no_grad():
        net.W.zero_()
    _, steps = Compiled(net, tmp_path, "float64").inverse(torch.ones(3, dtype=torch.float64), 1e-10)
    assert steps == -1


@needs_compiler
@quick_in_turn("basis, dtype", [*DTYPES], ["tanh", "relu", "hardtanh", "gelu"])
def test_small_slopes_keep_the_potential(basis: str, dtype: str, tmp_path: Path) -> None:
    """∫ φ of one layer is a difference of antiderivatives over β, which cancels for small β u."""
    torch.manual_seed(2)
    net = gf.GradNetC(1, 3, 6, activation=basis)
    for size in (1e-1, 1e-3, 1e-6, 1e-12, 0.0):
        with torch.no_grad():
            net.beta[0].fill_(size)
        folder = tmp_path / str(size)
        folder.mkdir()
        compiled, exact = Compiled(net, folder, dtype), copy.deepcopy(net).double()
        for x in torch.randn(3, 3).to(DTYPES[dtype][0]):
            with torch.no_grad(), gf.use_backend("reference"):
                x64 = x.double()
                nodes = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
                F = torch.trapezoid((exact(nodes * x64) * x64).sum(-1), nodes[:, 0])
            close(compiled.potential(x), F, 1e-7 if dtype == "float64" else 2e-4)


def test_the_default_dtype_is_that_of_the_parameters(tmp_path: Path) -> None:
    for dtype, name in ((torch.float64, "double"), (torch.float32, "float"), (torch.bfloat16, "float")):
        to_c(gf.mGradNetM(2, 3, 4, dtype=dtype), tmp_path / "net.c")
        assert f"typedef {name} real;" in (tmp_path / "net.c").read_text()


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        to_c(gf.mGradNetC(2, 3, 4), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
def test_other_networks_are_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        to_c(case.make(), tmp_path / "net.c")
    assert is_message(str(caught.value))
    assert not list(tmp_path.iterdir())


def test_the_file_is_as_readable_as_others(tmp_path: Path) -> None:
    to_c(gf.mGradNetC(2, 3, 4), tmp_path / "net.c")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "net.c").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_numbers_beyond_float_are_refused(tmp_path: Path) -> None:
    net = gf.RidgeGradNet(3, 4, dtype=torch.float64)
    with torch.no_grad():
        net.W.fill_(1e39)
    with pytest.raises(ValueError, match="parameters that float holds"):
        to_c(net, tmp_path / "net.c", dtype="float32")


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    net = gf.mGradNetC(2, 3, 4)
    faults: list[tuple[Any, dict[str, Any]]] = [
        (torch.nn.Linear(3, 3), {}),
        (gf.mGradNetC(2, 65, 4), {}),
        (net, {"name": "2fast"}),
        (net, {"dtype": "float16"}),
    ]
    for of, options in faults:
        with pytest.raises((TypeError, ValueError)) as caught:
            to_c(of, tmp_path / "net.c", **options)
        assert is_message(str(caught.value)), caught.value
    with torch.no_grad():
        net.W[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite parameters"):
        to_c(net, tmp_path / "net.c")
