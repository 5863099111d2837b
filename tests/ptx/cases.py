"""Which calls are checked: every kernel of the table with every kind of product, and the kernels without tiles."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import functional
from gradnets_fast.apps.accuracy import Verdict, evaluated, half_the_digits, judged
from gradnets_fast.apps.draws import quantity
from gradnets_fast.functional import Structure
from gradnets_fast.kernels.candidates import WIDTHS

from .checking import Checker
from .compiling import Compiled, launches_to

_EPS = {"half": 2.0**-7, "tf32": 2.0**-10, "tf32x3": 2.0**-23, "ieee": 2.0**-23}
Draw = Callable[["Case", Callable[..., Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A call, forward and backward.

    Attributes:
        architecture, kind: whose machine code, and of which products.
        operator: of `gradnets_fast.functional`, or symmetric_slogdet.
        size: rows, d and h.
        form: which of _FORMS draws the parameters.
        depth: layers or modules.
    """

    architecture: int
    kind: str
    operator: str
    size: tuple[int, int, int]
    form: str
    depth: int = 1

    @property
    def name(self) -> str:
        """The case in words."""
        rows, d, h = self.size
        where = f"{self.architecture // 10}.{self.architecture % 10} {self.kind}"
        return f"{where} {self.operator} of {self.form}, depth {self.depth}, {rows} rows, d = {d}, h = {h}"

    @property
    def dtype(self) -> torch.dtype:
        """Of the points."""
        return torch.bfloat16 if self.kind == "half" else torch.float32

    def tensors(self) -> tuple[dict[str, Tensor], Tensor]:
        """Tensors by name, and the gradient of the result."""
        generator = torch.Generator().manual_seed(zlib.crc32(repr((self.operator, self.size, self.form)).encode()))
        normal = partial(torch.randn, generator=generator, dtype=torch.float64)
        named = _FORMS[self.form][0](self, lambda *shape: normal(shape))
        rows, d, _ = self.size
        shapes = {"potential": (rows,), "divergence": (rows,), "jacobian": (rows, d, d)}
        shape = shapes.get(quantity(self.operator), tuple(named["x"].shape) if "x" in named else (rows,))
        if self.operator == "deep_value_and_potential":
            shape = (rows, d + 1)
        stored = ("x", "v", "W", "K", "theta")
        vectors = torch.float32 if quantity(self.operator) != "value" else self.dtype
        typed = {name: t.to(self.dtype if name in stored else vectors) for name, t in named.items()}
        return typed, (normal(shape) / 16).to(self.dtype)

    def function(self, backend: str) -> Callable[..., Tensor]:
        """The call, of tensors in the order of `tensors`."""
        names, settings = list(self.tensors()[0]), _FORMS[self.form][1](self)

        def call(*tensors: Tensor) -> Tensor:
            with gradnets_fast.use_backend(backend):
                if self.operator == "symmetric_slogdet":
                    return gradnets_fast.symmetric_slogdet((tensors[0] + tensors[0].mT) / 2)[1]
                return getattr(functional, self.operator)(**dict(zip(names, tensors)), **settings)

        return call

    def check(self, checker: Checker, cache: dict[str, Compiled]) -> Verdict:
        """Run the call's launches by a checker, and hold its results to the rule."""
        named, g = self.tensors()
        given = list(named.values())
        reference = self.function("reference")
        exact = evaluated(reference, [t.double() for t in given], g.double())
        eager = evaluated(reference, given, g)
        with checker.poisoned(), launches_to(checker.run, self.architecture, self.kind, cache):
            got = evaluated(self.function("triton"), given, g)
        names, eps = ["the result", *(f"gradient of {n}" for n in named)], _EPS[self.kind]
        # PyTorch has no products of TF32 on a CPU to compare with.
        return judged(names, got, None if self.kind == "tf32" else eager, exact, eps, half_the_digits(eps))


def _points(case: Case, normal: Callable[..., Tensor], *channels: int) -> dict[str, Tensor]:
    shape = (case.size[0], *channels, case.size[1])
    return {"x": normal(*shape)} | ({"v": normal(*shape)} if case.operator.endswith("_jvp") else {})


def _cascade(case: Case, normal: Callable[..., Tensor], terms: int) -> dict[str, Tensor]:
    h = case.size[2]
    scale = normal(case.depth, h).sigmoid() + 0.5
    return {"scale": scale, "shift": normal(case.depth, h), "coef": normal(case.depth, terms, h) / 2}


def _ridge(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    _, d, h = case.size
    parameters = {"W": normal(h, d) / d**0.5, **_cascade(case, normal, 1 if case.form == "tanh" else 2)}
    return _points(case, normal) | parameters | _bias(case, normal(d))


def _sines(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Of the first coordinate alone, which nothing rounds: every other number is far."""
    rows, d, h = case.size
    x = (normal(rows, d) * 2.0 ** (torch.arange(rows) % 2 * torch.arange(rows) % 120)[:, None]).to(case.dtype).double()
    W = torch.zeros(h, d, dtype=torch.float64)
    W[0, 0] = 1
    return {"x": x, "W": W, "scale": torch.ones(1, h), "shift": torch.zeros(1, h), "coef": torch.ones(1, 1, h)}


def _bias(case: Case, bias: Tensor) -> dict[str, Tensor]:
    return {"bias": bias} if quantity(case.operator) in ("value", "potential") else {}


def _modules(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    _, d, h = case.size
    count = case.depth
    drawn = {"W": normal(count, h, d) / d**0.5, "b": normal(count, h)}
    if case.form.startswith("half_square"):
        drawn |= {"weight": normal(count) / h}
    else:
        drawn |= {"temperature": normal(count).abs() + 0.1, "positive": normal(count).abs()}
        drawn |= {"negative": normal(count).abs()} if "weighted" in case.form else {}
    if "maximum" in case.form:
        drawn |= {"sharpness": (normal().abs() + 1) / h**0.5, "offset": normal(count)}
    return _points(case, normal) | drawn | _bias(case, normal(d))


def _deep(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    _, d, h = case.size
    count = Structure(**_structure(case)).parameters(d)
    return _points(case, normal) | {"theta": normal(count) / h**0.5} | _bias(case, normal(d))


def _structure(case: Case) -> dict[str, Any]:
    skips = case.form == "skips"
    return {"widths": (case.size[2],) * case.depth, "input_skip": skips, "rank": 2 * skips, "residual": skips}


def _convolution(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    _, d, h = case.size
    parameters = _cascade(case, normal, 1)
    if case.form == "spline":
        parameters["coef"] = normal(1, 9, h)
    return _points(case, normal, 1) | {"K": normal(h, 1, min(d, 5)) / 2} | parameters | _bias(case, normal(1))


def _images(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Two channels of 3 × d pixels, and filters of 2 × 3."""
    rows, d, h = case.size
    points = {name: normal(rows, 2, 3, d) for name in ("x", "v")[: 1 + case.operator.endswith("_jvp")]}
    parameters = _cascade(case, normal, 1)
    if case.form == "strips of splines":
        parameters["coef"] = normal(1, 9, h)
    return points | {"K": normal(h, 2, 2, 3) / 3} | parameters | _bias(case, normal(2))


def _matrices(case: Case, normal: Callable[..., Tensor]) -> dict[str, Tensor]:
    rows, d, _ = case.size
    G = normal(rows, d, d) / d**0.5
    return {"A": G @ G.mT + torch.eye(d, dtype=torch.float64)}


_FORMS: dict[str, tuple[Draw, Callable[[Case], dict[str, Any]]]] = {
    "tanh": (_ridge, lambda case: {"basis": "tanh"}),
    "far sines": (_sines, lambda case: {"basis": "sin"}),
    "softplus and sin": (_ridge, lambda case: {"basis": ("softplus", "sin")}),
    "heads": (_ridge, lambda case: {"basis": ("softplus", "hardtanh"), "heads": True}),
    "softmax": (_modules, lambda case: {"negative": None}),
    "weighted softmax": (_modules, lambda case: {}),
    "softmax maximum": (_modules, lambda case: {"negative": None}),
    "half_square": (_modules, lambda case: {"basis": "tanh", "transform": "half_square"}),
    "half_square maximum": (_modules, lambda case: {"basis": "tanh", "transform": "half_square"}),
    "layers": (_deep, lambda case: {"basis": ("tanh",) * case.depth, **_structure(case)}),
    "skips": (_deep, lambda case: {"basis": ("tanh",) * case.depth, **_structure(case)}),
    "filters": (_convolution, lambda case: {"basis": "tanh", "padding": "zeros"}),
    "spline": (_convolution, lambda case: {"basis": "spline", "padding": "zeros"}),
    "strips": (_images, lambda case: {"basis": "tanh", "padding": "zeros"}),
    "strips, circular": (_images, lambda case: {"basis": "tanh", "padding": "circular"}),
    "strips of splines": (_images, lambda case: {"basis": "spline", "padding": "zeros"}),
    "matrices": (_matrices, lambda case: {}),
}
"""Name → what draws the tensors, and the arguments that are no tensors."""

_TASKS = ("ridge", "ridge_jvp", "ridge_potential", "ridge_divergence", "ridge_jacobian")
_MODULE_FORMS = ("softmax", "weighted softmax", "half_square", "softmax maximum", "half_square maximum")
_NARROW, _WIDE = (2, 4, 8), 260


def sample() -> list[Case]:
    """Every kernel and every task once, on 8.0 and 9.0 in turn; the quickest first."""
    chosen = [
        ("ieee", "ridge", (70, 2, 33), "tanh", 1),
        ("half", "ridge", (40, 16, 40), "tanh", 1),
        ("tf32x3", "ridge", (33, _WIDE, 40), "tanh", 1),
        ("ieee", "symmetric_slogdet", (9, 5, 0), "matrices", 1),
        ("ieee", "conv_ridge", (4, 20, 8), "filters", 1),
        ("half", "conv_ridge", (1, 40, 20), "strips", 1),
        ("ieee", "conv_ridge_divergence", (3, 20, 8), "spline", 1),
        ("half", "ridge_divergence", (40, 16, 40), "tanh", 1),
        ("half", "ridge_jacobian", (5, 16, 40), "tanh", 1),
        ("tf32x3", "ridge_jvp", (40, 16, 40), "tanh", 1),
        ("tf32x3", "ridge_potential", (40, 16, 40), "tanh", 1),
        ("half", "ridge", (40, 16, 40), "heads", 2),
        ("tf32x3", "ridge", (70, 16, 40), "tanh", 1),
        ("half", "softmax_modules", (40, 16, 40), "weighted softmax", 2),
        ("tf32x3", "softmax_modules_potential", (40, 16, 40), "softmax maximum", 2),
        ("half", "transformed_modules", (40, 16, 40), "half_square", 2),
        ("half", "deep", (40, 8, 20), "layers", 2),
        ("half", "deep_potential", (40, 8, 20), "skips", 2),
        ("ieee", "ridge", (150, 2, 3), "far sines", 1),
        ("half", "ridge", (150, 16, 3), "far sines", 1),
        ("half", "softmax_modules", (2300, 16, 20), "weighted softmax", 1),
        ("ieee", "ridge", (2300, 2, 7), "tanh", 1),
    ]
    return [Case((80, 90)[i % 2], *one) for i, one in enumerate(chosen)]


def everything(architecture: int) -> Iterator[Case]:
    """All entries of the table, and the kernels without tiles, for one architecture."""
    rows = 70
    for (kind, widths), depth in product(WIDTHS["narrow.backward"].items(), (1, 4)):
        for d in widths:
            yield Case(architecture, kind, "ridge", (rows, d, 33), "tanh", depth)
    for kind, widths in WIDTHS["backward"].items():
        for d in widths:
            yield from _of_width(architecture, kind, d)
        yield Case(architecture, kind, "ridge", (33, _WIDE, 40), "tanh", 1)
    for kind, widths in WIDTHS["deep.backward"].items():
        for size, operator in product(widths, ("deep", "deep_jvp", "deep_potential")):
            for form in ("layers", "skips"):
                yield Case(architecture, kind, operator, (40, size // 2, size - 3), form, 3)
    for kind, operator in product(("ieee", "half"), ("", "_jvp", "_potential", "_divergence")):
        for form in ("filters", "spline"):
            if operator in ("", "_divergence") or form == "filters":
                yield Case(architecture, kind, f"conv_ridge{operator}", (3, 20, 8), form, 1)
    for kind, form in product(("half", "tf32", "tf32x3"), ("strips", "strips, circular", "strips of splines")):
        for operator, depth in product(("conv_ridge", "conv_ridge_jvp"), (1, 2)):
            if depth == 1 or form == "strips, circular":
                yield Case(architecture, kind, operator, (2, 40, 20), form, depth)
    for kind, d in (("ieee", 2), ("half", 2), ("half", 16)):
        yield Case(architecture, kind, "ridge", (150, d, 3), "far sines", 1)
    # So many rows that their sums are added up group by group.
    yield Case(architecture, "ieee", "ridge", (2300, 2, 7), "tanh", 1)
    yield Case(architecture, "half", "softmax_modules", (2300, 16, 20), "weighted softmax", 1)
    for d in (1, 3, 5, 17):
        yield Case(architecture, "ieee", "symmetric_slogdet", (9, d, 0), "matrices")


def _of_width(architecture: int, kind: str, d: int) -> Iterator[Case]:
    """Networks with points of d coordinates, or a few less."""
    rows, near = 70 if d < 256 else 40, d - 3
    for operator, depth in product(_TASKS, (1, 4)):
        if d <= 128 or operator not in ("ridge_jacobian",):
            count = 5 if operator == "ridge_jacobian" else rows
            yield Case(architecture, kind, operator, (count, near, 40), "tanh", depth)
    yield Case(architecture, kind, "ridge", (rows, d, 67), "softplus and sin", 2)
    for operator in _TASKS[:4]:
        yield Case(architecture, kind, operator, (40, near, 40), "heads", 2)
    for form, task in product(_MODULE_FORMS, ("", "_jvp", "_potential")):
        family = "transformed_modules" if form.startswith("half_square") else "softmax_modules"
        yield Case(architecture, kind, f"{family}{task}", (rows, near, 40), form, 2)
