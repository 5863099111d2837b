"""Measures the candidates of the table on the GPU that is there, for `gradnets-fast tune`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from . import configuration, deep_launch, launch, modules_launch
from .candidates import CANDIDATES, Case, cases
from .mode import DeepMode, Mode, ModulesMode

_HIDDEN = 1024
_ROWS = {
    **dict.fromkeys(("numbers", "derivatives", "modules.forward", "modules.backward"), 1 << 13),
    **dict.fromkeys(("jacobian", "jacobian_backward"), 1 << 11),
}
_MOST_ROWS = 1 << 16
_INTERPRETED = (5, 40)
_AGREEMENT = {"half": 2e-2, "tf32": 5e-3, "tf32x3": 1e-4, "ieee": 1e-4}
"""Relative difference of two candidates' results that rounding explains."""


@dataclass(frozen=True)
class _Fixed(Mode):
    """A mode with a given route, and given tiles in place of the table's."""

    way: str = ""
    fixed: tuple[tuple[str, int], ...] = ()

    def route(self, kernel: str, d: int) -> str:
        return self.way

    def options(self, kernel: str, d: int) -> dict[str, int]:
        return dict(self.fixed)


@dataclass(frozen=True)
class _FixedModules(ModulesMode):
    """A mode of modules with given tiles in place of the table's."""

    fixed: tuple[tuple[str, int], ...] = ()

    def options(self, kernel: str, d: int, two_signs: bool) -> dict[str, int]:
        return dict(self.fixed)


@dataclass(frozen=True)
class _FixedDeep(DeepMode):
    """A mode of deep networks with given tiles in place of the table's."""

    fixed: tuple[tuple[str, int], ...] = ()

    def options(self, kernel: str, d: int) -> dict[str, int]:
        return dict(self.fixed)


@dataclass(frozen=True)
class Measured:
    """One entry of the table, measured.

    Attributes:
        case: architecture, kernel, kind, d, depth.
        options: the fastest tiles.
        milliseconds: their median time.
        before: that of the table's own tiles, or None where it has none or they do not run.
    """

    case: Case
    options: dict[str, int]
    milliseconds: float
    before: float | None

    def entry(self) -> dict[str, Any]:
        """The entry in the form that the table has."""
        return {"d": self.case[3], "depth": self.case[4], "options": self.options}


def listed(device: torch.device, kernel: str = "") -> list[Case]:
    """The table's cases for a device; kernel: only those of this one."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        architecture = configuration.tabulated(10 * major + minor)
    else:
        architecture = configuration.ARCHITECTURES[0]
    return [case for case in cases() if case[0] == architecture and kernel in ("", case[1])]


def measure(case: Case, device: torch.device) -> Measured | None:
    """Times every candidate, once its result agrees with the first's; None if none runs."""
    architecture, kernel, kind, d, depth = case
    rows, hidden = _ROWS.get(kernel, _MOST_ROWS), _HIDDEN
    if device.type == "cpu":
        architecture, (rows, hidden) = configuration.INTERPRETER, _INTERPRETED
    numbers = (kernel, kind, rows, d, hidden, depth, device)
    run = {"modules": _RunModules, "deep": _RunDeep}.get(kernel.partition(".")[0], _Run)(*numbers)
    current = configuration.options(kernel, architecture, kind, d, depth)
    expected: list[Tensor] | None = None
    times: dict[tuple[tuple[str, int], ...], float] = {}
    for tiles in _distinct(current, CANDIDATES[kernel]):
        fixed = tuple(tiles.items())
        mode = run.mode(architecture, fixed)
        try:
            found = run(mode)
        except OutOfResources:
            continue
        if expected is None:
            expected = found
        if not _agree(found, expected, _AGREEMENT[kind]):
            raise ArithmeticError(
                f"tune: {kernel} ({kind}, d = {d}, depth {depth}): expected the same result from all tiles, got others "
                f"with {tiles}; report this bug"
            )
        times[fixed] = _time(lambda mode=mode: run(mode), device)
    if not times:
        return None
    best = min(times, key=times.__getitem__)
    before = None if current is None else times.get(tuple(current.items()))
    return Measured(case, dict(best), times[best], before)


def _distinct(current: dict[str, int] | None, candidates: list[dict[str, int]]) -> Iterator[dict[str, int]]:
    if current is not None:
        yield current
    yield from (tiles for tiles in candidates if tiles != current)


def _agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    return all(
        bool(torch.isfinite(a).all()) and bool((a - b).abs().max() <= tolerance * b.abs().max())
        for a, b in zip(found, expected)
    )


def _time(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds: the median of several runs."""
    if device.type == "cuda":
        return float(do_bench(function, warmup=10, rep=50, return_mode="median"))
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


class _Run:
    """Launches of one kernel on fixed numbers."""

    def __init__(self, kernel: str, kind: str, rows: int, d: int, h: int, layers: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)
        dtype = torch.bfloat16 if kind == "half" else torch.float32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        self.kernel, self.kind, self.layers = kernel, kind, layers
        self.x, self.g, self.v = (normal(rows, d).to(dtype) for _ in range(3))
        scale, shift, coef = (normal(layers, h) / 2 for _ in range(3))
        self.parameters = launch.Parameters((normal(h, d) / d**0.5).to(dtype), scale, shift, coef)
        self.bias = normal(d).to(dtype)
        self.weight = normal(rows)
        self.matrix = normal(rows, d, d).to(dtype) if kernel == "jacobian_backward" else None
        # The rule is exact only with Gauss–Legendre nodes; any numbers take the same time.
        self.rule = torch.linspace(0, 1, 2 * (16 + 128), device=device)

    def mode(self, architecture: int, fixed: tuple[tuple[str, int], ...]) -> Mode:
        """How to run it with these tiles."""
        route = "narrow" if self.kernel.startswith("narrow") else "fused"
        return _Fixed(architecture, self.kind, ("tanh",), self.layers, (True,), way=route, fixed=fixed)

    def __call__(self, mode: Mode) -> list[Tensor]:
        results = {
            "forward": self._forward,
            "backward": self._backward,
            "numbers": self._numbers,
            "derivatives": self._derivatives,
            "jacobian": self._jacobian,
            "jacobian_backward": self._jacobian_backward,
        }[self.kernel.removeprefix("narrow.")](mode)
        return [result.float() for result in results]

    def _forward(self, mode: Mode) -> list[Tensor]:
        return [launch.forward(mode, "value", self.x, self.parameters, self.bias)]

    def _numbers(self, mode: Mode) -> list[Tensor]:
        quantities = (("potential", self.rule), ("divergence", None))
        return [launch.forward(mode, quantity, self.x, self.parameters, rule=rule) for quantity, rule in quantities]

    def _jacobian(self, mode: Mode) -> list[Tensor]:
        return [launch.forward(mode, "jacobian", self.x, self.parameters)]

    def _into(self, **more: Tensor) -> launch.Gradients:
        p = self.parameters
        vectors = torch.empty(sum(t.numel() for t in (p.scale, p.shift, p.coef)), device=self.x.device)
        return launch.Gradients(torch.empty_like(self.x), torch.empty_like(p.W), vectors, (True, True, True), **more)

    def _backward(self, mode: Mode) -> list[Tensor]:
        into = self._into(bias=torch.empty_like(self.bias))
        launch.backward(mode, "value", launch.Batch(self.x, g=self.g), self.parameters, into)
        return [into.x, into.W, into.vectors, into.bias]

    def _derivatives(self, mode: Mode) -> list[Tensor]:
        into = self._into(v=torch.empty_like(self.v))
        launch.backward(mode, "jvp", launch.Batch(self.x, g=self.g, v=self.v), self.parameters, into)
        results = [into.x, into.v, into.W, into.vectors]
        for quantity, rule in (("potential", self.rule), ("divergence", None)):
            into = self._into()
            launch.backward(mode, quantity, launch.Batch(self.x, weight=self.weight), self.parameters, into, rule)
            results += [into.x, into.W, into.vectors]
        return results

    def _jacobian_backward(self, mode: Mode) -> list[Tensor]:
        into = self._into()
        launch.backward(mode, "jacobian", launch.Batch(self.x, g=self.matrix), self.parameters, into)
        return [into.x, into.W, into.vectors]


class _RunModules:
    """Launches of one kernel of modules on fixed numbers: softmax modules, with as many signs as the depth says."""

    _MODULES = 4

    def __init__(self, kernel: str, kind: str, rows: int, d: int, h: int, signs: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)
        dtype = torch.bfloat16 if kind == "half" else torch.float32
        count = self._MODULES

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        self.kernel, self.kind = kernel, kind
        self.x, self.g = (normal(rows, d).to(dtype) for _ in range(2))
        W = (normal(count, h, d) / d**0.5).to(dtype)
        temperature, positive, negative = (normal(count).abs() + 0.5 for _ in range(3))
        negative = negative if signs == 2 else None
        self.network = modules_launch.Network(W, normal(count, h), temperature, positive, negative)
        self.bias = normal(d).to(dtype)

    def mode(self, architecture: int, fixed: tuple[tuple[str, int], ...]) -> ModulesMode:
        """How to run it with these tiles."""
        return _FixedModules(architecture, self.kind, fixed=fixed)

    def __call__(self, mode: ModulesMode) -> list[Tensor]:
        if self.kernel.endswith("forward"):
            return [modules_launch.forward(mode, "value", self.x, self.network, self.bias).float()]
        W, b = self.network.W, self.network.b
        scalars = torch.empty(sum(self.network.columns()), device=W.device)
        into = modules_launch.Gradients(*map(torch.empty_like, (self.x, W, b)), scalars, torch.empty_like(self.bias))
        modules_launch.backward(mode, "value", self.x, self.g, None, self.network, into)
        return [t.float() for t in (into.x, into.W, into.b, into.scalars, into.bias)]


class _RunDeep:
    """Launches of one kernel of deep networks on fixed numbers: three layers, with skips where the depth says so."""

    def __init__(self, kernel: str, kind: str, rows: int, size: int, h: int, skips: int, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)
        dtype = torch.bfloat16 if kind == "half" else torch.float32
        self.kernel, self.kind = kernel, kind
        self.structure = ((size,) * 3, skips > 1, 2 * (skips > 1), skips > 1)
        d = size // 2
        mode = self.mode(0, ())
        count = mode.constants(d)["OFFSETS"][-1] + mode.widths[-1]
        self.theta = (torch.randn(count, generator=generator, device=device) / size**0.5).to(dtype)
        self.x, self.v = (torch.randn(rows, d, generator=generator, device=device).to(dtype) for _ in range(2))
        self.bias = torch.randn(d, generator=generator, device=device)

    def mode(self, architecture: int, fixed: tuple[tuple[str, int], ...]) -> DeepMode:
        """How to run it with these tiles."""
        return _FixedDeep(architecture, self.kind, ("tanh",) * 3, *self.structure, fixed)

    def __call__(self, mode: DeepMode) -> list[Tensor]:
        if self.kernel.endswith("forward"):
            return [deep_launch.forward(mode, "value", self.x, self.theta, self.bias, self.x.shape).float()]
        into = deep_launch.Gradients(*map(torch.empty_like, (self.x, self.theta, self.bias)))
        deep_launch.backward(mode, "value", deep_launch.Batch(self.x, self.v), self.theta, into)
        return [t.float() for t in (into.x, into.theta, into.bias)]
