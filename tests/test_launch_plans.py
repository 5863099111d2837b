"""Plans of launches: what is launched with a plan at hand is what would be launched without one, whatever changes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton import knobs

import gradnets_fast as gf
from bench import launch_cost
from gradnets_fast.kernels import launching
from gradnets_fast.ops import OPERATORS
from gradnets_fast.ops._plans import Plans

ROOT = Path(__file__).resolve().parents[1]
Launch = tuple[Any, ...]
KERNELS = [backends.triton.kernels for backends in OPERATORS["ridge"].values()]


@pytest.fixture(name="recorded", autouse=True)
def _recorded() -> Iterator[list[Launch]]:
    """What is launched, in place of launching it: all but addresses, of which the alignment alone."""
    launches: list[Launch] = []

    def record(kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> bool:
        shown = tuple((a.dtype, a.data_ptr() % 16 == 0) if isinstance(a, Tensor) else a for a in arguments)
        launches.append((kernel.fn.__name__, grid, shown, tuple(sorted(constants.items(), key=str))))
        return True

    _forget()
    launching.try_first(record)
    with gf.use_backend("triton"):
        yield launches
    launching.try_first(None)
    _forget()


def _forget() -> None:
    for kernels in KERNELS:
        kernels._forward_plans, kernels._backward_plans = Plans(), Plans()


def _moved(t: Tensor) -> Tensor:
    """The same numbers at an address that is no multiple of 16."""
    held = t.new_zeros(t.numel() + 1)
    held[1:] = t.flatten()
    return held[1:].view(t.shape)


def _padded(t: Tensor) -> Tensor:
    return torch.cat([t, t], -1)[..., : t.shape[-1]]


def _call(
    quantity: str = "value",
    size: tuple[int, int, int] = (40, 3, 8),
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
    vectors: torch.dtype | None = None,
    change: dict[str, Callable[[Tensor], Tensor | None]] | None = None,
    frozen: tuple[str, ...] = (),
    basis: Any = "tanh",
    heads: bool = False,
) -> None:
    """One forward and one backward pass; change: what becomes of an argument, or of the cotangent, g."""
    batch, d, h = size
    named: dict[str, Any] = {"x": torch.zeros(batch, d, dtype=dtype), "W": torch.zeros(h, d, dtype=dtype)}
    if quantity == "jvp":
        named = {"x": named["x"], "v": torch.zeros(batch, d, dtype=dtype), "W": named["W"]}
    of = vectors or dtype
    named |= {"scale": torch.zeros(layers, h, dtype=of), "shift": torch.zeros(layers, h, dtype=of)}
    named |= {"coef": torch.zeros(layers, 1, h, dtype=of)}
    if quantity == "value":
        named["bias"] = torch.zeros(d, dtype=of)
    change = change or {}
    named = {name: change[name](t) if name in change else t for name, t in named.items()}
    named = {name: t if t is None or name in frozen else t.detach().requires_grad_() for name, t in named.items()}
    bias = named.pop("bias", None)
    operator = gf.ridge if quantity == "value" else getattr(gf, f"ridge_{quantity}")
    result = operator(*named.values(), bias, basis, heads=heads)
    g = torch.zeros_like(result)
    leaves = [t for t in (*named.values(), bias) if t is not None and t.requires_grad]
    torch.autograd.grad(result, leaves, change["g"](g) if "g" in change else g)


@contextmanager
def _products(precision: str) -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def _by_tf32() -> None:
    with _products("tf32"):
        _call(size=(40, 20, 8))


def _absent(_: Tensor) -> None:
    return None


CALLS: dict[str, Callable[[], None]] = {
    "as it is": _call,
    "batch": lambda: _call(size=(41, 3, 8)),
    "d": lambda: _call(size=(40, 4, 8)),
    "d of matrix units": lambda: _call(size=(40, 20, 8)),
    "products by TF32": _by_tf32,
    "h": lambda: _call(size=(40, 3, 9)),
    "layers": lambda: _call(layers=3),
    "dtype": lambda: _call(dtype=torch.bfloat16),
    "vectors in float32": lambda: _call(dtype=torch.bfloat16, vectors=torch.float32),
    "basis": lambda: _call(basis=("sin",)),
    "heads": lambda: _call(heads=True),
    "leading dimensions": lambda: _call(change={"x": lambda x: x.view(5, 8, 3)}),
    "strides of x": lambda: _call(change={"x": _padded}),
    "strides of g": lambda: _call(change={"g": _padded}),
    "strides of W": lambda: _call(change={"W": lambda W: W.T.contiguous().T}),
    "alignment of x": lambda: _call(change={"x": _moved}),
    "alignment of W": lambda: _call(change={"W": _moved}),
    "alignment of a vector": lambda: _call(change={"coef": _moved}),
    "alignment of g": lambda: _call(change={"g": _moved}),
    "no scale": lambda: _call(change={"scale": _absent}),
    "no bias": lambda: _call(change={"bias": _absent}),
    "x frozen": lambda: _call(frozen=("x",)),
    "W frozen": lambda: _call(frozen=("W",)),
    "a vector frozen": lambda: _call(frozen=("shift",)),
    "bias frozen": lambda: _call(frozen=("bias",)),
    "jvp": lambda: _call("jvp"),
    "jvp of wide rows": lambda: _call("jvp", size=(40, 20, 8)),
    "potential": lambda: _call("potential"),
    "divergence": lambda: _call("divergence"),
    "jacobian": lambda: _call("jacobian"),
    "wide": lambda: _call(size=(40, 300, 8)),
}


def test_whatever_a_launch_depends_on_leads_to_another_plan(recorded: list[Launch]) -> None:
    without: dict[str, list[Launch]] = {}
    for name, call in CALLS.items():
        _forget()
        recorded.clear()
        call()
        without[name] = list(recorded)
    assert without["products by TF32"] != without["d of matrix units"]
    same = [name for name, launches in without.items() if name != "as it is" and launches == without["as it is"]]
    # Layouts that are copied before they are read, and dimensions that are one before the launch.
    assert same == ["leading dimensions", "strides of W"]
    _forget()
    for _ in range(2):
        for name, call in CALLS.items():
            recorded.clear()
            call()
            assert recorded == without[name], name


@pytest.mark.parametrize("name", CALLS)
def test_no_plan_serves_two_kinds_of_calls(name: str) -> None:
    """Those too that differ in the alignment of addresses alone, by which Triton compiles."""
    _call()
    before = _count()
    CALLS[name]()
    assert (_count() == before) == (name in ("as it is", "strides of W", "wide")), _count()
    for call in (_call, CALLS[name]):
        before = _count()
        call()
        assert _count() == before


def _count() -> list[int]:
    return [len(plans._known) for kernels in KERNELS for plans in (kernels._forward_plans, kernels._backward_plans)]


def test_later_calls_take_the_plan_of_the_first(monkeypatch: pytest.MonkeyPatch, recorded: list[Launch]) -> None:
    kernels = OPERATORS["ridge"]["value"].triton.kernels
    _call()
    first = list(recorded)
    for name in ("_forward", "_backward", "_parameters"):
        monkeypatch.setattr(kernels, name, None)  # the ways of a first call
    recorded.clear()
    _call()
    assert recorded == first


def test_what_has_no_plan_is_checked() -> None:
    _call()
    x, W, one = torch.zeros(40, 3), torch.zeros(8, 3), torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"ridge: x: expected shape \(…, 3\), W being \(…, 3\), got shape \(40, 4\)"):
        gf.ridge(torch.zeros(40, 4), W, one, one, None)
    with pytest.raises(ValueError, match="ridge: scale: expected shape"):
        gf.ridge(x, W, torch.zeros(3, 8), one, None)
    with pytest.raises(TypeError, match=r"ridge: W: expected dtype torch\.float32 like x"):
        gf.ridge(x, W.bfloat16(), one, one, None)
    with pytest.raises(ValueError, match="ridge: basis: expected one of"):
        gf.ridge(x, W, one, one, None, basis="tahn")


@pytest.mark.parametrize("wrong", [None, torch.zeros(()), torch.zeros(0, 4), [1.0], torch.zeros(8, 3).to_sparse()])
def test_no_wrong_argument_reaches_a_plan(wrong: Any) -> None:
    _call()
    arguments: dict[str, Any] = {"x": torch.zeros(40, 3), "W": torch.zeros(8, 3), "scale": None}
    arguments |= {"shift": torch.zeros(2, 8), "coef": None}
    for name in ("x", "W", "shift"):
        with pytest.raises((TypeError, ValueError), match=f"ridge: {name}: expected"):
            gf.ridge(**arguments | {name: wrong})


def test_as_many_coefficients_as_functions_are_asked_for_anew() -> None:
    x, W, shift, coef = torch.zeros(40, 3), torch.zeros(8, 3), torch.zeros(2, 8), torch.zeros(2, 2, 8)
    gf.ridge(x, W, None, shift, coef, basis=("tanh", "sin"))
    with pytest.raises(ValueError, match="ridge: coef: expected shape"):
        gf.ridge(x, W, None, shift, coef, basis=("tanh",))


def test_what_was_not_checked_is_checked_though_it_ran_before() -> None:
    kernels = OPERATORS["ridge"]["value"].triton.kernels
    settings = gf.functional._network.Ridge(torch.zeros(8, 3), None, torch.zeros(2, 8), None).settings()
    tensors = (torch.zeros(40, 3), torch.zeros(8, 3), torch.zeros(3, 8), torch.zeros(2, 8), None, None)
    kernels.forward(tensors, settings)  # as by torch.ops, with a scale that does not fit
    assert kernels.attempt(tensors, settings) is None
    with pytest.raises(ValueError, match="ridge: scale: expected shape"):
        gf.ridge(*tensors[:5])


def test_plans_hold_no_tensor() -> None:
    x, W = torch.zeros(40, 3), torch.zeros(8, 3, requires_grad=True)
    f = gf.ridge(x, W, None, torch.zeros(1, 8), None)
    f.backward(torch.zeros(40, 3))
    held = [weakref.ref(t) for t in (x, W, f)]
    del x, W, f
    gc.collect()
    assert [ref() for ref in held] == [None] * 3


def test_plans_are_no_more_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradnets_fast.ops._plans._MOST", 3)
    kernels = OPERATORS["ridge"]["value"].triton.kernels
    for batch in range(1, 9):
        _call(size=(batch, 3, 8))
    assert len(kernels._forward_plans._known) <= 3


def test_threads_share_plans(recorded: list[Launch]) -> None:
    sizes = [(batch, 3, 8) for batch in (5, 6, 7, 8)]
    expected: dict[Any, int] = {}
    for size in sizes:
        recorded.clear()
        _call(size=size)
        expected |= dict.fromkeys(recorded, 0)
    _forget()
    recorded.clear()

    def work() -> None:
        with gf.use_backend("triton"):
            for size in 5 * sizes:
                _call(size=size)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for launch in recorded:
        expected[launch] += 1
    assert set(expected.values()) == {20}


class _Kernel:
    """Answers as a kernel of Triton's does, and counts the ways that it is launched by."""

    arg_names = ("a", "b", "C", "D")

    def __init__(self) -> None:
        self.ways: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: Any) -> Any:
        def launch(*arguments: Any, **constants: Any) -> Any:
            self.ways.append(("looked for", grid, arguments, constants))
            return _Found(self)

        return launch


class _Found:
    def __init__(self, kernel: _Kernel) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, stream: self._kernel.ways.append(("again", grid, arguments, stream))


def test_a_launcher_looks_for_its_kernel_once_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    launching.try_first(None)
    kernel = _Kernel()
    launcher = launching.Launcher(kernel, (3,), {"C": 7, "D": 8, "num_warps": 4})
    for _ in range(3):
        launcher(5, (1, 2))
    looked = ("looked for", (3,), (1, 2), {"C": 7, "D": 8, "num_warps": 4})
    again = ("again", (3, 1, 1), (1, 2, 7, 8), 5)
    assert kernel.ways == [looked, again, again]
    monkeypatch.setattr(knobs.runtime, "debug", True)
    launcher(5, (1, 2))
    launcher(5, (1, 2))
    assert kernel.ways[3:] == [looked, again]
    kernel.ways.clear()
    ran: list[Any] = []
    launching.try_first(lambda *launch: lambda stream, arguments: ran.append((stream, arguments)))
    launcher(5, (1, 2))
    launcher(6, (3, 4))
    assert not kernel.ways
    assert ran == [(6, (3, 4))]


def test_launches_by_plan_are_told_apart_by_all_that_triton_compiles_by() -> None:
    launching.try_first(None)
    kernel, x = _Kernel(), torch.zeros(64)
    calls: list[tuple[Any, ...]] = [
        ((3,), (x, 2), {"C": 7, "D": 8}),
        ((4,), (x, 2), {"C": 7, "D": 8}),
        ((3,), (x, 3), {"C": 7, "D": 8}),
        ((3,), (x, None), {"C": 7, "D": 8}),
        ((3,), (x, 2), {"C": 6, "D": 8}),
        ((3,), (x.half(), 2), {"C": 7, "D": 8}),
        ((3,), (x[1:], 2), {"C": 7, "D": 8}),
    ]
    for _ in range(2):
        for grid, arguments, constants in calls:
            launching.launch_by_plan(kernel, grid, arguments, constants)
    assert [way for way, *_ in kernel.ways] == ["looked for"] * len(calls) + ["again"] * len(calls)
    launching.launch_by_plan(kernel, (3,), (x[4:], 2), {"C": 7, "D": 8})  # another address, a multiple of 16 too
    assert kernel.ways[-1][0] == "again"


def test_parts_of_the_cost_add_up() -> None:
    jobs = ("forward", "forward without graph", "forward kernels", "both", "backward kernels")
    us = {name: 10.0 * (k + 1) ** 2 for k, name in enumerate(jobs)}
    us |= {f"{name}, no launch": us[name] - 5.0 for name in ("forward", "both", "forward kernels", "backward kernels")}
    us |= {"effective": 3.0, "network": 20.0, "loss": 25.0, "gradients": 80.0, "step": 90.0}
    parts = launch_cost.parts_of(us)
    assert sum(parts["forward"].values()) == pytest.approx(us["forward"])
    assert sum(parts["backward"].values()) == pytest.approx(us["both"] - us["forward"])
    assert sum(parts["step"].values()) == pytest.approx(us["step"])
    totals = launch_cost.totals_of(us)
    assert (totals["backward"], totals["gradients"]) == (us["both"] - us["forward"], 80.0)


@pytest.mark.slow
def test_the_cost_of_launches_is_measured_without_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "launch_cost.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bench.launch_cost", "--rounds", "3", "--out", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stderr
    content = json.loads(file.read_text())
    assert set(content["microseconds"]) == {"forward", "backward", "gradients", "step"}
    assert min(content["microseconds"].values()) > 0
    assert content["environment"]["commit"]
