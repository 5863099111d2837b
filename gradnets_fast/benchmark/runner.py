"""Runs cases: builds the contenders, verifies them, times the right ones, and gathers what a report needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ..backend import use_backend
from ..errors import is_message
from . import memory, verification
from .cases import Case
from .contenders import BACKEND, CONTENDERS, JOBS, Builder, Contender, Problem, make_problem
from .measurement import Machine, Spread, flops, interleaved, minimum_bytes

TIMED, WRONG, UNAVAILABLE = "timed", "wrong", "unavailable"
_UNAVAILABLE_IF = (ArithmeticError, ImportError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within it, torch and the kernels use `count` threads; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_case(
    case: Case,
    builders: Mapping[str, Builder] = CONTENDERS,
    *,
    rounds: int,
    seconds: float,
    with_memory: bool = False,
) -> dict[str, Any]:
    """One row of a report, JSON-ready: see `report`."""
    problem = make_problem(case)
    outcomes: dict[str, Any] = {}
    row = {**_description(problem), "contenders": outcomes}
    built = _built(problem, builders, outcomes)
    # Without the kernels there is nothing to compare: the others' times would only cost time.
    if "ours" not in built:
        return {**row, "skipped": outcomes["ours"]["reason"]}
    with use_backend(BACKEND):
        ready = _verified(problem, built, outcomes)
        row["rounds"] = _time(problem, ready, outcomes, rounds, seconds)
    if with_memory and case.batch * case.h >= memory.LARGE:
        for name in ready:
            outcomes[name]["memory_bytes"] = memory.extra_bytes(case, name)
    return row


def _description(problem: Problem) -> dict[str, Any]:
    case, net = problem.case, problem.net
    count = sum(p.numel() for p in net.parameters())
    return {
        "label": case.label,
        "family": case.family,
        "variant": case.variant,
        "batch": case.batch,
        "d": case.d,
        "h": case.h,
        "dtype": str(case.dtype).removeprefix("torch."),
        "target": None if case.target is None else vars(case.target),
        "flops": flops(case, getattr(net, "num_modules", 1)),
        "minimum_bytes": minimum_bytes(case, count),
    }


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


def _verified(problem: Problem, built: Mapping[str, Contender], outcomes: dict[str, Any]) -> dict[str, Contender]:
    """The contenders whose results are right; what became of the others goes to the outcomes."""
    rows = verification.chosen_rows(problem.case.batch)
    truth = verification.exact(problem, rows)
    eager = verification.results(built["eager"], problem, rows)
    ready: dict[str, Contender] = {}
    for name, contender in built.items():
        try:
            got = eager if name == "eager" else verification.results(contender, problem, rows)
        except _UNAVAILABLE_IF as error:
            if name == "ours":
                raise
            outcomes[name] = _unavailable(error)
            continue
        fault = verification.fault(got, eager, truth)
        status, size = WRONG if fault else TIMED, verification.relative_error(got, truth)
        outcomes[name] = {"status": status, "reason": fault, "relative_error": size}
        if fault is None:
            ready[name] = contender
    return ready


def _unavailable(error: Exception) -> dict[str, Any]:
    first = (str(error).strip().splitlines() or [""])[0]
    return {"status": UNAVAILABLE, "reason": first if is_message(first) else f"{type(error).__name__}: {first}"}


def _time(
    problem: Problem, ready: Mapping[str, Contender], outcomes: dict[str, Any], rounds: int, seconds: float
) -> int:
    """Adds milliseconds to the outcomes; returns how many rounds there were."""
    jobs: dict[str, Callable[[], object]] = {}
    for name, contender in ready.items():
        g = problem.g.to(contender.x.dtype)
        jobs[f"{name}/forward"], jobs[f"{name}/step"] = contender.forward, partial(contender.step, g)
    if not jobs:
        return 0
    samples = interleaved(jobs, rounds, seconds)
    for name in ready:
        milliseconds = {job: [1e3 * s for s in samples[f"{name}/{job}"]] for job in JOBS}
        outcomes[name]["milliseconds"] = {job: vars(Spread.of(values)) for job, values in milliseconds.items()}
    return len(next(iter(samples.values())))


def run(
    cases: Sequence[Case],
    builders: Mapping[str, Builder] = CONTENDERS,
    *,
    rounds: int,
    seconds: float,
    with_memory: bool = False,
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """After each case: the rows so far, and the machine's rates, which are sampled between the cases."""
    machine, rows = Machine(), []
    machine.probe()
    for case in cases:
        rows.append(run_case(case, builders, rounds=rounds, seconds=seconds, with_memory=with_memory))
        machine.probe()
        yield rows, machine.to_json()
