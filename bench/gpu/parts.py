"""The parts of a run: what is asked of workers, and what becomes of their answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from bench.environment import ROOT
from bench.gpu import checks, measure
from bench.gpu.cases import JOBS, Budget, Case, Rates
from bench.gpu.checks import Check
from bench.gpu.workers import Answer, Task, Worker, WorkerError, command, share

_CHECK_SECONDS, _CASE_SECONDS, _WARM_SECONDS, _GRACE_SECONDS = 180.0, 240.0, 90.0, 30.0
_WARM_SHARE = 0.25
"""Of the time for measurements, at most, is for compiling the kernels of all cases side by side."""

_WATCHING = (("memcheck", "--leak-check", "no"), ("racecheck",))
_REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What cuBLAS needs to repeat its sums, and PyTorch's deterministic mode asks for."""

_SANITIZER, _SANITIZER_SHARE = "compute-sanitizer", 0.2
_WRONG = 9
Say = Callable[[str], None]


def answered(role: str, task: Task, place: torch.device) -> Answer:
    """What a worker does with a task."""
    if role == "checks":
        return checks.run(Check(**(task | {"size": tuple(task["size"]), "kinds": tuple(task["kinds"])})), place)
    if "case" not in task:
        return measure.measured_rates(place)
    case = Case(**task["case"])
    if "rates" not in task:
        measure.warm(case, place)
        return {}
    try:
        return measure.measured(case, place, task["compilers"], Rates(**task["rates"]))
    finally:
        measure.freed()


def healthy() -> bool:
    """Whether the GPU still takes work from this process."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def run_checks(
    listed: list[Check], count: int, budget: Budget, write: Callable[[dict[str, Any]], None], say: Say
) -> bool:
    """Runs checks side by side, `count` at a time; whether all passed that were run.

    A fifth of the time is left for compute-sanitizer, where it is installed.
    """
    content: dict[str, Any] = {"passed": 0, "failed": 0, "checks": [], "not_run": []}

    def done(task: Task, answer: Answer | WorkerError) -> None:
        if isinstance(answer, WorkerError):
            label = Check(**(task | {"size": tuple(task["size"])})).label
            answer = {"label": label, "findings": {"process": {"fault": str(answer), "numbers": {}}}}
        add(content, answer, say)
        write(content)

    reserve = 0.0 if shutil.which(_SANITIZER) is None else _SANITIZER_SHARE * budget.seconds
    workers = [Worker(command("checks"), _REPEATABLE) for _ in range(count)]
    seconds = partial(_at_most, _CHECK_SECONDS, budget)
    left = share(map(asdict, listed), workers, seconds, lambda: budget.left() > reserve, done)
    content["not_run"] = [Check(**task).label for task in left]
    write(content)
    say(f"{content['passed']} checks passed, {content['failed']} failed, {len(left)} were not run")
    return not content["failed"]


def _at_most(seconds: float, budget: Budget) -> float:
    return min(seconds, max(0.0, budget.left()) + _GRACE_SECONDS)


def add(content: dict[str, Any], answer: Answer, say: Say) -> None:
    """Counts an answer's findings, and shows what failed."""
    content["checks"].append(answer)
    for kind, finding in answer["findings"].items():
        content["passed" if finding["fault"] is None else "failed"] += 1
        if finding["fault"] is not None:
            say(f"FAILED {answer['label']}: {kind}: {finding['fault']}")


def sanitized(watched: list[Check], budget: Budget, write: Callable[[dict[str, Any]], None], say: Say) -> bool:
    """The checks under compute-sanitizer, where it is installed; whether it found nothing in the time that was left."""
    program = shutil.which(_SANITIZER)
    if program is None:
        write({_SANITIZER: "not installed"})
        return True
    found: dict[str, Any] = {}
    for number, (tool, *options) in enumerate(_WATCHING):
        seconds = max(_GRACE_SECONDS, budget.left() / (len(_WATCHING) - number))
        found[tool] = _watch([program, "--tool", tool, *options, "--error-exitcode", str(_WRONG)], watched, seconds)
        say(f"{_SANITIZER} {tool}: {found[tool]['summary']}")
        write({_SANITIZER: found})
    return all(tool["code"] in (0, None) for tool in found.values())


def _watch(program: list[str], watched: list[Check], seconds: float) -> dict[str, Any]:
    tasks = "".join(f"{json.dumps(asdict(check))}\n" for check in watched)
    # A cache would hide reads and writes beyond a tensor's end.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        run = subprocess.run(
            [*program, *command("checks")],
            input=tasks,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return {"code": None, "summary": f"not through after {seconds:.0f} seconds"}
    lines = (run.stdout + run.stderr).splitlines()
    answers = sum('"fault": null' in line for line in lines)
    summary = next((line.strip("= ") for line in reversed(lines) if "SUMMARY" in line), "no summary")
    code = run.returncode or (0 if answers == len(watched) else _WRONG)
    return {
        "code": code,
        "summary": f"{summary}; {answers} of {len(watched)} checks",
        "tail": lines[-20:] if code else [],
    }


def run_measurements(
    listed: list[Case], count: int, budget: Budget, write: Callable[[dict[str, Any]], None], say: Say
) -> bool:
    """Measures the cases one after the other; whether all that were run are right."""
    _warm(listed, count, lambda: budget.left() > (1 - _WARM_SHARE) * budget.seconds)
    worker = Worker(command("measure"))
    rates = worker.ask({}, _CASE_SECONDS)
    content: dict[str, Any] = {"rates": rates, "rows": [], "not_run": [case.label for case in listed]}
    for case in listed:
        compilers = budget.affordable(case)
        if compilers is None:
            break
        task = {"case": asdict(case), "compilers": compilers, "rates": asdict(Rates.of(rates))}
        row = _measured(worker, task, case, budget)
        content["rows"].append(row)
        content["not_run"].remove(case.label)
        write(content)
        say(line(row))
    worker.close()
    write(content)
    say(f"{len(content['rows'])} cases measured, {len(content['not_run'])} were not run")
    return not any("failed" in row["contenders"]["ours"] for row in content["rows"])


def _warm(listed: list[Case], count: int, has_time: Callable[[], bool]) -> None:
    """Has kernels compiled side by side, for any h; what fails here will be seen when it is measured."""
    kernels: dict[tuple[str, int, int, str], Case] = {}
    for case in listed:
        kernels.setdefault((case.network, case.d, case.layers, case.dtype), case)
    workers = [Worker(command("measure")) for _ in range(count)]
    tasks = [{"case": asdict(case)} for case in kernels.values()]
    share(tasks, workers, lambda: _WARM_SECONDS, has_time, lambda *_: None)


def _measured(worker: Worker, task: Task, case: Case, budget: Budget) -> dict[str, Any]:
    start = time.monotonic()
    try:
        row = worker.ask(task, _at_most(_CASE_SECONDS, budget))
    except WorkerError as error:
        return {**asdict(case), "label": case.label, "contenders": {"ours": {"failed": str(error)}}, "gain": {}}
    compiling = {name: seconds for name, seconds in row["seconds"].items() if name in case.compilers}
    budget.spent("case", time.monotonic() - start - sum(compiling.values()))
    for name, seconds in compiling.items():
        budget.spent(name, seconds)
    return row


def line(row: dict[str, Any]) -> str:
    """One case in a line."""
    ours = row["contenders"]["ours"]
    if "failed" in ours:
        return f"{row['label']}: FAILED {ours['failed']}"
    parts = [f"{job} {ours[job]['milliseconds']:.3f} ms ({ours[job]['of_bound']:.0%})" for job in JOBS if job in ours]
    parts += [f"{name} {gain['step']:.2f}x" for name, gain in row["gain"].items() if "step" in gain]
    return f"{row['label']}: {', '.join(parts)}"
