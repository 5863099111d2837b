"""Runs cases: builds the contenders, verifies them, times the right ones, and gathers what a report needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from ...errors import is_message
from . import gpu, memory, verification
from .cases import Case, Problem
from .contenders import Builder, Contender, is_ours
from .machine import Machine
from .measurement import Clock, JobsSampler, Plan, Spread, WallClock, interleaved
from .work import JOBS, Work

TIMED, WRONG, UNAVAILABLE = "timed", "wrong", "unavailable"
_OUT_OF_MEMORY = "out of memory"
_UNAVAILABLE_IF = (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Has torch and the kernels use `count` threads within it; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock_of(device: torch.device) -> Clock:
    """The clock for a device: CUDA events, or wall time."""
    return gpu.EventClock(device) if device.type == "cuda" else WallClock()


def run(
    cases: Sequence[tuple[Case, Mapping[str, Builder]]], plan: Plan
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """After each case: the rows so far, and the machine's rates, which are sampled between the cases.

    cases: with the contenders of each.
    """
    with torch.cuda.device(plan.device) if plan.device.type == "cuda" else nullcontext():
        clock, rows = clock_of(plan.device), []
        machine = Machine(plan.device, [case.dtype for case, _ in cases], clock)
        machine.probe()
        for case, builders in cases:
            rows.append(run_case(case, builders, plan, clock))
            machine.probe()
            yield rows, machine.to_json()


def run_case(case: Case, builders: Mapping[str, Builder], plan: Plan, clock: Clock | None = None) -> dict[str, Any]:
    """One row of a report, JSON-ready: see `results.derived`."""
    with case.precision.active():
        problem = case.problem(plan.device)
        outcomes: dict[str, Any] = {}
        row = {**case.facts(), **_work(problem), "contenders": outcomes}
        built = _built(problem, builders, outcomes)
        # Without the kernels there is nothing to compare: the others' times would only cost time.
        if not any(map(is_ours, built)):
            return {**row, "skipped": next(outcomes[name]["reason"] for name in outcomes if is_ours(name))}
        rows = verification.chosen_rows(case.batch).to(plan.device)
        truth, eager = verification.exact(problem, rows), verification.yardstick(problem, rows)
        fault = verification.judged(problem, eager, None, truth).fault
        if fault is not None:
            return {**row, "contenders": {}, "skipped": f"eager PyTorch, the yardstick, is wrong: {fault}"}
        ready = {}
        for name, contender in built.items():
            outcomes[name] = _judged(name, contender, problem, (rows, truth, eager))
            if outcomes[name]["status"] == TIMED:
                ready[name] = contender
            gpu.free(plan.device)
        row["rounds"] = _time(problem, ready, outcomes, plan, clock or clock_of(plan.device))
        if plan.memory_from is not None and case.hidden >= plan.memory_from:
            for name, contender in ready.items():
                outcomes[name]["memory_bytes"] = _memory(case, name, contender, problem, plan.device)
    return row


def _work(problem: Problem) -> Work:
    """That of the jobs which are timed: on a GPU the backward pass too."""
    jobs = list(problem.work["flops"]) if problem.g.is_cuda else JOBS
    return {key: {job: of_jobs[job] for job in jobs} for key, of_jobs in problem.work.items()}


def _built(problem: Problem, builders: Mapping[str, Builder], outcomes: dict[str, Any]) -> dict[str, Contender]:
    built = {}
    for name, builder in builders.items():
        try:
            contender = builder(problem)
        except _UNAVAILABLE_IF as error:
            outcomes[name] = _unavailable(error)
            continue
        if contender is not None:
            outcomes[name] = {}  # keeps the order of the table
            built[name] = contender
    return built


def _judged(name: str, contender: Contender, problem: Problem, known: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Whether a contender is right, and how far from the truth."""
    rows, truth, eager = known
    outcome: dict[str, Any] = {}
    try:
        got = verification.results(contender, problem, rows)
    except _UNAVAILABLE_IF as error:
        if not _is_lack_of_memory(error):
            if is_ours(name):
                raise
            return _unavailable(error)
        outcome["missing"] = _OUT_OF_MEMORY
    if outcome:  # beyond the handler, so that the failed call's tensors are gone
        gpu.free(problem.g.device)
        try:
            got = [verification.value(contender, rows)]
        except _UNAVAILABLE_IF as error:
            return _unavailable(error)
    # Eager PyTorch is held to half the digits, as the yardstick is: its sums over a whole batch may be worse.
    found = verification.judged(problem, got, None if name == "eager" else eager, truth)
    outcome |= {"status": WRONG if found.fault else TIMED, "reason": found.fault}
    if contender.backend is not None:
        outcome["backend"] = contender.backend
    return {**outcome, "relative_error": found.relative_error}


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _unavailable(error: Exception) -> dict[str, Any]:
    first = (str(error).strip().splitlines() or [""])[0]
    if _is_lack_of_memory(error):
        return {"status": UNAVAILABLE, "reason": _OUT_OF_MEMORY}
    return {"status": UNAVAILABLE, "reason": first if is_message(first) else f"{type(error).__name__}: {first}"}


def _time(problem: Problem, ready: Mapping[str, Contender], outcomes: dict[str, Any], plan: Plan, clock: Clock) -> int:
    """Adds milliseconds to the outcomes; returns how many rounds there were."""
    samplers: dict[str, JobsSampler] = {}
    for name, contender in ready.items():
        g = problem.g.to(contender.points[0].dtype)
        jobs = JOBS[:1] if "missing" in outcomes[name] else JOBS
        for job, sampler in clock.samplers(contender, g, jobs).items():
            samplers[f"{name}/{job}"] = partial(_sampled, sampler, job, outcomes[name])
    if not samplers:
        return 0
    taken = interleaved(samplers, plan.rounds, plan.seconds)
    for name in ready:
        samples: dict[str, list[float]] = {}
        for at_once in (s for job in JOBS for s in taken.get(f"{name}/{job}", [])):
            for job, seconds in at_once.items():
                samples.setdefault(job, []).append(1e3 * seconds)
        outcomes[name]["milliseconds"] = {job: vars(Spread.of(values)) for job, values in samples.items()}
    return len(next(iter(taken.values())))


def _sampled(sampler: JobsSampler, job: str, outcome: dict[str, Any]) -> dict[str, float]:
    """A sample, or nothing where memory runs out, or has for a step."""
    if job == "step" and "missing" in outcome:
        return {}
    try:
        return sampler()
    except torch.OutOfMemoryError:
        outcome["missing"] = _OUT_OF_MEMORY
        return {}


def _memory(case: Case, name: str, contender: Contender, problem: Problem, device: torch.device) -> int | None:
    if device.type != "cuda":
        return memory.extra_bytes(case, name)
    with contender.active():
        return gpu.peak_bytes(partial(contender.step, problem.g.to(contender.points[0].dtype)), device)
