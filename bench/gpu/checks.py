"""What each check does with one call, in the process that it runs in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

import gradnets_fast
from bench.gpu.calls import BACKEND, Call, Function, prepared
from gradnets_fast.apps import accuracy
from gradnets_fast.apps.accuracy import evaluated, step
from gradnets_fast.apps.draws import quantity
from gradnets_fast.kernels import launching

_SLEEP_CYCLES = 50_000_000
"""Some 30 ms: long after a kernel that ignores its stream would have run."""

_HIDDEN_AT_ONCE = 1 << 24
_REPETITIONS = 4
_LIBRARY = ("gemm", "cutlass", "xmma")
"""Parts of the names of a library's products."""


@dataclass(frozen=True)
class Check:
    """One call, and the kinds of check that it goes through: names of KINDS.

    variant: a name of `calls.VARIANTS`.  precision: one of `precision.PRECISIONS`.  size: (batch, d, h).
    """

    operator: str
    variant: str
    precision: str
    size: tuple[int, int, int]
    kinds: tuple[str, ...]

    @property
    def label(self) -> str:
        """Unique among all checks."""
        shape = "x".join(map(str, self.size))
        return f"{self.operator} {self.variant} {self.precision} {shape} {','.join(self.kinds)}"


@dataclass(frozen=True)
class Finding:
    """What is wrong, or None; and what was measured on the way."""

    fault: str | None
    numbers: dict[str, Any] = field(default_factory=dict)


def judged(call: Call, got: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor]) -> Finding:
    """Whether each largest error is within twice eager's plus the floor; `worst`: the largest part of that taken."""
    names = ["result", *(f"gradient of {name}" for name in call.names)]
    verdict = accuracy.judged(names, got, eager, exact, call.precision.eps)
    return Finding(verdict.fault, {"worst": round(verdict.of_allowed, 4)})


def accurate(call: Call) -> Finding:
    """Results and gradients against float64, from memory that is NaN where nothing was written."""
    with _poisoned_memory():
        got = evaluated(call.ours, call.tensors, call.g)
    return judged(call, got, evaluated(call.eager, call.tensors, call.g), call.truth())


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Has torch.empty return NaN: part of deterministic mode, whose refusals are not the matter here."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def strides(call: Call) -> Finding:
    """What `accurate` checks, from tensors that are not contiguous, with NaN between their numbers."""
    eager, exact = evaluated(call.eager, call.tensors, call.g), call.truth()
    findings = []
    for layout in (_padded, _every_other, _transposed):
        got = evaluated(call.ours, [layout(t) if t.dim() else t for t in call.tensors], layout(call.g))
        findings.append(judged(call, got, eager, exact))
        if findings[-1].fault:
            return Finding(f"{layout.__name__.strip('_')}: {findings[-1].fault}")
    return max(findings, key=lambda finding: finding.numbers["worst"])


def _padded(t: Tensor) -> Tensor:
    wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), math.nan)
    wide[..., : t.shape[-1]] = t
    return wide[..., : t.shape[-1]]


def _every_other(t: Tensor) -> Tensor:
    wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), math.nan)
    wide[..., ::2] = t
    return wide[..., ::2]


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.dim() > 1 else t


def repeats(call: Call) -> Finding:
    """Whether every run gives the same bits."""
    first = evaluated(call.ours, call.tensors, call.g)
    for _ in range(_REPETITIONS):
        again = evaluated(call.ours, call.tensors, call.g)
        for name, a, b in zip(("result", *call.names), first, again):
            if not torch.equal(a, b):
                return Finding(f"{name}: {int((a != b).sum())} of {a.numel()} numbers differ between runs")
    return Finding(None)


def launches(call: Call) -> Finding:
    """One launch in each direction, where no library multiplies: kernels, copies and fills of memory are counted."""
    kernel = gradnets_fast.explain(call.operator, call.tensors[0], backend=BACKEND).kernel
    # The bias of a potential is a term of its own, by PyTorch.
    given = call.tensors[:-1] if quantity(call.operator) != "value" else call.tensors
    leaves = [t.detach().requires_grad_() for t in given]
    held: list[Tensor] = []

    def forward() -> None:
        held[:] = [call.ours(*leaves)]

    def backward() -> None:
        torch.autograd.grad(held[0], leaves, call.g)

    for job in (forward, backward):
        launched(job)  # what is compiled, allocated or loaded once
    names = {}
    for job in (forward, backward):
        forward()
        names[job.__name__] = launched(job)
    several = {name: found for name, found in names.items() if len(found) != 1}
    fault = f"expected one launch, got {several}" if several and _is_fused(kernel, call, names) else None
    return Finding(fault, {"kernel": kernel, **{name: len(found) for name, found in names.items()}})


def _is_fused(kernel: str, call: Call, names: dict[str, list[str]]) -> bool:
    """Whether it has to be one launch.  What `explain` says of one layer holds no deeper cascade of wide rows."""
    if "wide route" in kernel or not kernel.startswith("kernels"):
        return False
    coef = dict(zip(call.names, call.tensors)).get("coef")
    deep = coef is not None and coef.shape[0] * coef.shape[1] > 1
    return not deep or not any(word in name for found in names.values() for name in found for word in _LIBRARY)


def launched(job: Callable[[], object]) -> list[str]:
    """The names of what the GPU did for a job; without a GPU, of the kernels that were launched by the package."""
    if not torch.cuda.is_available():
        return _interpreted(job)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        job()
        torch.cuda.synchronize()
    return [e.name for e in record.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]


def _interpreted(job: Callable[[], object]) -> list[str]:
    names: list[str] = []

    def note(kernel: Any, *_: object) -> bool:
        names.append(kernel.fn.__name__)
        return False

    launching.try_first(note)
    try:
        job()
    finally:
        launching.try_first(None)
    return names


def graph(call: Call) -> Finding:
    """Captured in a CUDA graph with its gradients, and replayed on other points."""
    leaves = [t.detach().clone().requires_grad_() for t in call.tensors]
    got, replay = _captured(lambda: step(call.ours, leaves, call.g))
    others = [call.tensors[0].flip(0), *call.tensors[1:]]
    with torch.no_grad():
        leaves[0].copy_(others[0])
    replay()
    first = [t.clone() for t in got]
    replay()
    if not all(torch.equal(a, b) for a, b in zip(first, got)):
        return Finding("two replays differ")
    exact = evaluated(call.exact, [t.double() for t in others], call.g.double())
    return judged(call, first, evaluated(call.eager, others, call.g), exact)


def _captured(job: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """Results of a job, and what computes them anew in their place; without a GPU the job itself does."""
    if not torch.cuda.is_available():
        results = job()

        def again() -> None:
            for mine, other in zip(results, job()):
                mine.copy_(other)

        return results, again
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            job()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = job()
    return results, captured.replay


def compiled(call: Call) -> Finding:
    """Within graphs of torch.compile, which have memory of their own, between calls that are not."""
    leaves = [t.detach().clone().requires_grad_() for t in call.tensors]
    function = torch.compile(lambda *tensors: call.ours(*tensors), mode="reduce-overhead")
    eager, exact = evaluated(call.eager, call.tensors, call.g), call.truth()
    findings = []
    for _ in range(_REPETITIONS):  # it is run, recorded, and replayed
        torch.compiler.cudagraph_mark_step_begin()
        for mine in (function, call.ours):
            findings.append(judged(call, [t.clone() for t in step(mine, leaves, call.g)], eager, exact))
            if findings[-1].fault:
                return findings[-1]
    return max(findings, key=lambda finding: finding.numbers["worst"])


def stream(call: Call) -> Finding:
    """On another stream than the default one, on numbers that appear there late."""
    evaluated(call.ours, call.tensors, call.g)  # compilation would outlast the sleep
    late = [torch.full_like(t, math.nan) for t in call.tensors]
    with _side_stream():
        for mine, number in zip(late, call.tensors):
            mine.copy_(number)
        got = evaluated(call.ours, late, call.g)
    return judged(call, got, evaluated(call.eager, call.tensors, call.g), call.truth())


@contextmanager
def _side_stream() -> Iterator[None]:
    """A stream of its own that begins late, and is waited for; without a GPU none."""
    if not torch.cuda.is_available():
        yield
        return
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(_SLEEP_CYCLES)
        yield
    side.synchronize()


def device(call: Call) -> Finding:
    """On a GPU that is not the current one."""
    other = torch.device("cuda", torch.cuda.device_count() - 1) if torch.cuda.is_available() else call.g.device
    got = evaluated(call.ours, [t.to(other) for t in call.tensors], call.g.to(other))
    if any(t.device != other for t in got):
        return Finding(f"results on {[str(t.device) for t in got]}, not on {other}")
    back = [t.to(call.g.device) for t in got]
    return judged(call, back, evaluated(call.eager, call.tensors, call.g), call.truth())


def large(call: Call) -> Finding:
    """Accuracy where batch × hidden units are so many that plain PyTorch computes them piece by piece."""
    got = evaluated(call.ours, call.tensors, call.g)
    return judged(call, got, in_pieces(call.eager, call, False), in_pieces(call.exact, call, True))


def in_pieces(function: Function, call: Call, exactly: bool) -> list[Tensor]:
    """The results and gradients of a call with one tensor of points, in pieces of the batch; exactly: in float64."""
    x, *parameters = (t.double() if exactly else t for t in call.tensors)
    g = call.g.double() if exactly else call.g
    rows = max(1, _HIDDEN_AT_ONCE // parameters[0].shape[-2])
    pieces = [evaluated(function, [a, *parameters], b) for a, b in zip(x.split(rows), g.split(rows))]
    results, of_x, *of_parameters = zip(*pieces)
    return [torch.cat(results), torch.cat(of_x), *(torch.stack(p).sum(0, dtype=torch.float64) for p in of_parameters)]


def plain(call: Call) -> Finding:
    """Nothing but the kernels, for a program that watches them."""
    evaluated(call.ours, call.tensors, call.g)
    return Finding(None)


KINDS: dict[str, Callable[[Call], Finding]] = {
    "accuracy": accurate,
    "strides": strides,
    "repeats": repeats,
    "launches": launches,
    "graph": graph,
    "compiled": compiled,
    "stream": stream,
    "device": device,
    "large": large,
    "plain": plain,
}
ON_CPU = ("accuracy", "strides", "repeats")
ON_GPU = (*ON_CPU, "launches", "graph", "stream")


def run(check: Check, place: torch.device) -> dict[str, Any]:
    """The findings of a check, JSON-ready."""
    start = time.perf_counter()
    findings: dict[str, Any] = {}
    try:
        call = prepared(check.operator, check.variant, check.precision, check.size, place)
        with call.precision.active():
            for kind in check.kinds:
                findings[kind] = vars(_found(kind, call))
    except Exception as error:
        findings["tensors"] = vars(_cause(error))
    return {"label": check.label, "findings": findings, "seconds": round(time.perf_counter() - start, 2)}


def _found(kind: str, call: Call) -> Finding:
    try:
        return KINDS[kind](call)
    except Exception as error:  # what one check meets must not hide the others
        return _cause(error)


def _cause(error: Exception) -> Finding:
    first = (str(error).strip().splitlines() or [""])[0]
    return Finding(f"{type(error).__name__}: {first}")
