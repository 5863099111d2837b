"""Times and memory of one case, in the process that it runs in: ours, eager, torch.compile, the authors' structure."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gradnets_fast
from bench.gpu.cases import COMPILERS, JOBS, Case, Rates, bound, bounds, flops
from bench.gpu.networks import Function
from bench.gpu.operators import BACKEND, PRECISIONS
from gradnets_fast.apps.bench import verification
from gradnets_fast.apps.bench.cases import Problem
from gradnets_fast.apps.bench.contenders import Contender, of_function
from gradnets_fast.apps.bench.gpu import EventClock as Clock
from gradnets_fast.apps.bench.gpu import freed, peak_bytes, special_function_rate
from gradnets_fast.apps.bench.measurement import Spread, without_collection

OUT_OF_MEMORY = "out of memory"
_MATRIX, _COPIED = 8192, 2**28
_SECONDS, _ROUNDS, _FEWEST = 1.5, 30, 5
_WARM_BATCH = 4096


def problem(case: Case, device: torch.device, batch: int | None = None) -> Problem:
    """The case's tensors from a fixed seed; batch: in place of the case's."""
    generator = torch.Generator(device).manual_seed(0)
    precision = PRECISIONS[case.dtype]

    def drawn(draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return draw(shape, generator=generator, device=device).to(precision.dtype)

    parameters = case.kind.parameters(drawn, case.layers, case.h, case.d)
    parameters = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    x, g = (drawn(torch.randn, batch or case.batch, case.d) for _ in range(2))
    return Problem(
        points=(x.requires_grad_(),),
        parameters=parameters,
        g=g,
        exact=case.kind.exact,
        eager=partial(case.kind.eager, parameters),
        ours=partial(case.kind.ours, parameters),
        authors=None if case.kind.authors is None else partial(case.kind.authors, parameters),
        work={},
        eps=precision.eps,
    )


def contenders(case: Case, compilers: Sequence[str]) -> dict[str, Function]:
    """Who is timed, ours first."""
    torch.compiler.reset()
    kind = case.kind
    listed = {"ours": kind.ours, "eager": kind.eager}
    if kind.authors is not None and case.layers > 1:
        listed["authors"] = kind.authors
    for name in compilers:
        listed[name] = torch.compile(kind.eager, fullgraph=True, dynamic=False, mode=COMPILERS[name])
    return listed


def contender(function: Function, of: Problem) -> Contender:
    """A way to compute f, on the tensors of a problem."""
    return of_function(partial(function, of.parameters), of)


def measured_rates(device: torch.device) -> dict[str, Any]:
    """What this GPU does, for `Rates.of`."""
    clock, matmul = Clock(device), {}

    def seconds(job: Callable[[], object]) -> float:
        job()
        return 1e-3 * statistics.median(clock.milliseconds(job)[0] for _ in range(_FEWEST))

    for name in ("bf16", "tf32", "fp32"):
        a, b = torch.randn(2, _MATRIX, _MATRIX, device=device).to(PRECISIONS[name].dtype).unbind()
        with PRECISIONS[name].active():
            matmul[name] = 2.0 * _MATRIX**3 / seconds(partial(torch.mm, a, b))
    source, target = torch.ones(2, _COPIED, device=device).unbind()
    copy = 2.0 * source.nbytes / seconds(lambda: target.copy_(source))
    return {"matmul": matmul, "copy": copy, "tanh": special_function_rate(device)}


def warm(case: Case, device: torch.device) -> None:
    """Has the kernels of a case compiled, on few points."""
    few = problem(case, device, _WARM_BATCH)
    with PRECISIONS[case.dtype].active():
        compiled = contender(case.kind.ours, few)
        compiled.forward()
        compiled.step(few.g)


def measured(case: Case, device: torch.device, compilers: Sequence[str], rates: Rates) -> dict[str, Any]:
    """One row of the results: of each contender times, memory and error, or None where there was no time to compile."""
    row: dict[str, Any] = {**asdict(case), "label": case.label, "bounds": bounds(case, rates), "seconds": {}}
    outcomes: dict[str, Any] = dict.fromkeys(case.compilers)
    with PRECISIONS[case.dtype].active():
        whole = problem(case, device)
        row["kernel"] = gradnets_fast.explain(case.kind.operator, whole.points[0], backend=BACKEND).kernel
        judge = Judge(whole, PRECISIONS[case.dtype].eps)
        ready = {}
        for name, function in contenders(case, compilers).items():
            start = time.perf_counter()
            ready[name] = contender(function, whole)
            outcomes[name] = judge.outcome(ready[name])
            row["seconds"][name] = time.perf_counter() - start
        _time(ready, outcomes, whole.g, Clock(device))
    row["contenders"] = {
        name: outcomes[name] for name in ("ours", "eager", "authors", *case.compilers) if name in outcomes
    }
    return derived(row, case, rates)


class Judge:
    """No time without a right result: f and all gradients at some rows against float64, by the package's rule."""

    def __init__(self, whole: Problem, eps: float) -> None:
        self._whole, self._eps = whole, eps
        self._rows = verification.chosen_rows(len(whole.g)).to(whole.g.device)
        self._truth = verification.exact(whole, self._rows)
        self._eager = verification.yardstick(whole, self._rows)
        fault = verification.fault(self._eager, self._eager, self._truth, eps)
        if fault is not None:
            raise ArithmeticError(f"eager PyTorch, the yardstick, is wrong: {fault}")

    def outcome(self, built: Contender) -> dict[str, Any]:
        """The contender's error and the memory of its step; "failed" with a reason if it is not to be timed.

        "missing": why it has a forward pass alone.
        """
        try:
            return self._judged(verification.results(built, self._whole, self._rows)) | {
                "step_bytes": self._peak(built)
            }
        except torch.OutOfMemoryError:
            pass  # beyond here, so that the failed call's tensors are gone
        except Exception as error:  # a contender that cannot compile a case must not end the run
            return {"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
        freed()
        try:
            f = built.forward()[self._rows]
        except torch.OutOfMemoryError:
            return {"failed": OUT_OF_MEMORY}
        return self._judged([f]) | {"missing": OUT_OF_MEMORY}

    def _judged(self, got: list[Tensor]) -> dict[str, Any]:
        fault = verification.fault(got, self._eager, self._truth, self._eps)
        error = verification.relative_error(got, self._truth)
        return {"error": error} if fault is None else {"error": error, "failed": f"wrong: {fault}"}

    def _peak(self, built: Contender) -> int:
        return peak_bytes(partial(built.step, self._whole.g), self._whole.g.device)


def _time(ready: Mapping[str, Contender], outcomes: dict[str, Any], g: Tensor, clock: Clock) -> None:
    """Adds what each job of the contenders takes to their outcomes, from samples taken in turns."""
    samplers = {}
    for name, built in ready.items():
        if "failed" not in outcomes[name]:
            samplers[name, "forward"] = _forward_sampler(built, clock)
            if "missing" not in outcomes[name]:
                samplers[name, "step"] = _step_sampler(built, g, clock)
    samples: dict[tuple[str, str], list[float]] = {}
    for name, job, milliseconds in _interleaved(samplers, outcomes):
        samples.setdefault((name, job), []).append(milliseconds)
    for (name, job), values in samples.items():
        spread = Spread.of(values)
        outcomes[name][job] = {
            "milliseconds": spread.median,
            "spread": [spread.low, spread.high],
            "samples": len(values),
        }


Sampler = Callable[[], dict[str, float]]


def _forward_sampler(built: Contender, clock: Clock) -> Sampler:
    return lambda: {"forward": clock.milliseconds(built.forward)[0]}


def _step_sampler(built: Contender, g: Tensor, clock: Clock) -> Sampler:
    leaves, held = [*built.points, *built.parameters], []

    def sample() -> dict[str, float]:
        # Not a backward pass over a graph that is kept: compiled ones reuse its memory, and refuse.
        forward, backward = clock.milliseconds(
            lambda: held.append(built.call(*built.points)),
            lambda: torch.autograd.grad(held.pop(), leaves, g, allow_unused=True),
        )
        return {"backward": backward, "step": forward + backward}

    return sample


def _interleaved(samplers: dict[tuple[str, str], Sampler], outcomes: dict[str, Any]) -> Any:
    """(contender, job, milliseconds), in another order each round; the first round only warms up."""
    order, start = random.Random(0), time.perf_counter()
    with without_collection():
        for number in range(_ROUNDS + 1):
            if number > _FEWEST and time.perf_counter() - start > _SECONDS:
                break
            for key in order.sample(list(samplers), len(samplers)):
                try:
                    times = samplers[key]()
                except torch.OutOfMemoryError:
                    outcomes[key[0]]["missing"] = OUT_OF_MEMORY
                    del samplers[key]
                    continue
                if number:
                    yield from ((key[0], job, milliseconds) for job, milliseconds in times.items())


def derived(row: dict[str, Any], case: Case, rates: Rates) -> dict[str, Any]:
    """The row with what follows from its times: TFLOP/s, fractions of the bound, gains of ours over the others."""
    least = bound(case, rates)
    for outcome in row["contenders"].values():
        for job in JOBS:
            if outcome is not None and job in outcome:
                seconds = 1e-3 * outcome[job]["milliseconds"]
                outcome[job] |= {"tflops": 1e-12 * flops(case)[job] / seconds, "of_bound": least[job] / seconds}
    row["bound_milliseconds"] = {job: 1e3 * seconds for job, seconds in least.items()}
    return row | {"gain": gains(row["contenders"])}


def gains(outcomes: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How many times as fast as each other contender ours is, by job.

    >>> ours, other = ({"forward": {"milliseconds": m}} for m in (2.0, 5.0))
    >>> gains({"ours": ours, "eager": other, "authors": {"failed": "out of memory"}, "compile": None})
    {'eager': {'forward': 2.5}, 'authors': {}}
    """
    mine = outcomes["ours"]
    return {
        name: {
            job: other[job]["milliseconds"] / mine[job]["milliseconds"] for job in JOBS if job in other and job in mine
        }
        for name, other in outcomes.items()
        if name != "ours" and other is not None
    }
