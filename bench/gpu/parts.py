"""The parts of a run: what is asked of workers, and what becomes of their answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import torch

import gradnets_fast
from bench import largest_batch
from bench.environment import ROOT
from bench.gpu import checks, determinants, fitting, images, prebuilt
from bench.gpu import device as gpu
from bench.gpu.calls import BACKEND
from bench.gpu.checks import Check
from bench.gpu.workers import Answer, Budget, Task, Worker, WorkerError, command, pool, share
from bench.model import beside
from gradnets_fast.apps.bench import results, runner
from gradnets_fast.apps.bench.contenders import CONTENDERS, ours
from gradnets_fast.apps.bench.gpu import free
from gradnets_fast.apps.bench.machine import Machine
from gradnets_fast.apps.bench.measurement import Plan
from gradnets_fast.apps.bench.operators import OperatorCase
from gradnets_fast.apps.bench.presets import PRESETS, compilers, gpu_cases
from gradnets_fast.apps.readable import duration, percent, times

_CHECK_SECONDS, _CASE_SECONDS, _WARM_SECONDS, _RATES_SECONDS = 180.0, 240.0, 90.0, 120.0
_WARM_SHARE = 0.25
"""The most of the time for measurements that may go to compiling the kernels of all cases side by side."""

_WARM_BATCH, _PROBES = 4096, 3
_MOST_LARGE = 2
"""Checks side by side of which each takes a good part of a GPU's memory."""

_WATCHING = (("memcheck", "--leak-check", "no"), ("racecheck",))
_REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What cuBLAS needs to repeat its sums, and PyTorch's deterministic mode asks for."""

_FEW_COMPILERS = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
_SANITIZER, _SANITIZER_SHARE = "compute-sanitizer", 0.2
_WRONG = 9
Say = Callable[[str], None]
Write = Callable[[dict[str, Any]], None]


def answered(role: str, task: Task, place: torch.device) -> Answer:
    """What a worker does with a task."""
    try:
        return _ROLES[role](task, place)
    finally:
        free(place)  # for the other processes


def _checked(task: Task, place: torch.device) -> Answer:
    return checks.run(_check(task), place)


def _check(task: Task) -> Check:
    return Check(**(task | {"size": tuple(task["size"]), "kinds": tuple(task["kinds"])}))


def _measured(task: Task, place: torch.device) -> Answer:
    """The machine's rates, the compilation of a case's kernels, or one row of the results."""
    plan = _plan(place)
    if "dtypes" in task:
        machine = Machine(place, task["dtypes"], runner.clock_of(place))
        for _ in range(_PROBES):
            machine.probe()
        return machine.to_json()
    case = next(case for case in gpu_cases() if case.label == task["case"])
    if "contenders" in task:
        row = runner.run_case(case, {name: CONTENDERS[name] for name in task["contenders"]}, plan)
        x = torch.empty(case.batch, case.d, dtype=case.precision.dtype, device=place)
        kernel = gradnets_fast.explain(case.operator, x, backend=BACKEND).kernel
        return row | {"kernel": kernel, "predicted": _predicted(case, place)}
    with case.precision.active():
        problem = case.problem(place, _WARM_BATCH)
        built = ours(problem)
        with built.active():
            built.forward()
            built.step(problem.g)
    return {}


def _predicted(case: OperatorCase, place: torch.device) -> dict[str, float]:
    """What `bench.model` says of a case, for the networks that it knows."""
    if place.type != "cuda" or case.operator != "ridge" or case.tensors.basis != ("tanh",):
        return {}
    major, minor = torch.cuda.get_device_capability(place)
    return beside.milliseconds(case.facts(), case.tensors.depth, 10 * major + minor)


def _plan(place: torch.device) -> Plan:
    return replace(PRESETS["gpu"].plan, device=place)


def _fits(task: Task, place: torch.device) -> Answer:
    return {"fits": largest_batch.fits(task["network"], task["contender"], task["batch"], str(place))}


def _factored(task: Task, place: torch.device) -> Answer:
    return determinants.measured(determinants.Matrices(**task), place)


def _fitted(task: Task, place: torch.device) -> Answer:
    return fitting.measured(fitting.Run(**task), place)


def _convolved(task: Task, place: torch.device) -> Answer:
    return images.measured(images.Run(**task), place)


_ROLES: dict[str, Callable[[Task, torch.device], Answer]] = {
    "checks": _checked,
    "measure": _measured,
    "prebuilt": prebuilt.compared,
    "memory": _fits,
    "determinants": _factored,
    "fit": _fitted,
    "images": _convolved,
}
ROLES = tuple(_ROLES)


def healthy() -> bool:
    """Whether the GPU still takes work from this process."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def run_checks(listed: list[Check], count: int, budget: Budget, write: Write, say: Say) -> bool:
    """Runs checks side by side, `count` at a time but few of the large ones; whether all passed that were run.

    A fifth of the time is left for compute-sanitizer, where it is installed.
    """
    content: dict[str, Any] = {"passed": 0, "failed": 0, "checks": [], "not_run": []}

    def done(task: Task, answer: Answer | WorkerError) -> None:
        if isinstance(answer, WorkerError):
            answer = {"label": _check(task).label, "findings": {"process": {"fault": str(answer), "numbers": {}}}}
        add(content, answer, say)
        write(content)

    reserve = 0.0 if shutil.which(_SANITIZER) is None else _SANITIZER_SHARE * budget.seconds
    with pool(command("checks"), count, _REPEATABLE) as workers:
        for large, group in groupby(listed, key=lambda check: "large" in check.kinds):
            side_by_side = workers[:_MOST_LARGE] if large else workers
            seconds, has_time = lambda: budget.within(_CHECK_SECONDS), lambda: budget.left() > reserve
            left = share(map(asdict, group), side_by_side, seconds, has_time, done)
            content["not_run"] += [_check(task).label for task in left]
    write(content)
    say(f"{content['passed']} checks passed, {content['failed']} failed, {len(content['not_run'])} were not run")
    return not content["failed"]


def add(content: dict[str, Any], answer: Answer, say: Say) -> None:
    """Counts an answer's findings, and shows what failed."""
    content["checks"].append(answer)
    for kind, finding in answer["findings"].items():
        content["passed" if finding["fault"] is None else "failed"] += 1
        if finding["fault"] is not None:
            say(f"FAILED {answer['label']}: {kind}: {finding['fault']}")


def sanitized(watched: list[Check], budget: Budget, write: Write, say: Say) -> bool:
    """Whether compute-sanitizer, where it is installed, got through the checks and found nothing."""
    program = shutil.which(_SANITIZER)
    if program is None:
        write({_SANITIZER: "not installed"})
        return True
    with pool(command("checks"), 1) as workers:  # compiles the kernels, which takes long under a program that watches
        share(map(asdict, watched), workers, lambda: budget.within(_CHECK_SECONDS), budget.has_time, lambda *_: None)
    found: dict[str, Any] = {}
    for number, (tool, *options) in enumerate(_WATCHING):
        seconds = budget.within(budget.left() / (len(_WATCHING) - number))
        line = [program, "--tool", tool, *options, "--error-exitcode", str(_WRONG), *command("checks")]
        found[tool] = watch(line, [asdict(check) for check in watched], max(1.0, seconds))
        say(f"{_SANITIZER} {tool}: {found[tool]['summary']}")
        write({_SANITIZER: found})
    return all(tool["code"] == 0 for tool in found.values())


def watch(line: list[str], tasks: list[Task], seconds: float) -> dict[str, Any]:
    """Runs a worker under a program, both of which end when time is up; code: None if they did not get through."""
    # A cache would hide reads and writes beyond a tensor's end.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipe = subprocess.PIPE
    run = subprocess.Popen(
        line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        out, errors = run.communicate("".join(f"{json.dumps(task)}\n" for task in tasks), timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"code": None, "summary": f"not through after {seconds:.0f} seconds"}
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    lines = (out + errors).splitlines()
    answers = sum('"fault": null' in line for line in lines)
    summary = next((line.strip("= ") for line in reversed(lines) if "SUMMARY" in line), "no summary")
    code = run.returncode or (0 if answers == len(tasks) else _WRONG)
    return {
        "code": code,
        "summary": f"{summary}; {answers} of {len(tasks)} checks",
        "tail": lines[-20:] if code else [],
    }


def run_measurements(listed: list[OperatorCase], count: int, budget: Budget, write: Write, say: Say) -> bool:
    """Measures the cases one after the other; whether all that were run are right."""
    _warm(listed, count, budget)
    not_run = [case.label for case in listed]
    header = {"preset": "gpu", "rounds": PRESETS["gpu"].plan.rounds, "not_run": not_run}
    rows: list[dict[str, Any]] = []
    with pool(command("measure"), 1, _FEW_COMPILERS) as (worker,):
        machine = _rates(worker, sorted({case.dtype for case in listed}), budget, say)
        for case in listed:
            if not budget.affordable(["case"]):
                break
            rows.append(_row(worker, case, ("ours", "eager", "authors"), budget))
            works = budget.affordable(["case", *compilers(case)])[1:]
            if works and "skipped" not in rows[-1]:
                # The first row stays if a compiler breaks, or takes too long.
                whole = _row(worker, case, ("ours", "eager", "authors", *works), budget)
                rows[-1] = rows[-1] | {"compilers": whole["skipped"]} if "skipped" in whole else whole
            not_run.remove(case.label)
            write(_content(rows, machine, header))
            say(line(results.derived(rows[-1], machine) if machine else rows[-1]))
    result = _content(rows, machine, header)
    write(result)
    say(f"{len(rows)} cases measured, {len(not_run)} were not run")
    if off := beside.error(rows):
        say(f"the model's predictions: measured times are {times(off[0])} to {times(off[1])} those")
    return not results.wrong(result) and not any("skipped" in row for row in rows)


def _rates(worker: Worker, dtypes: list[str], budget: Budget, say: Say) -> dict[str, Any]:
    """The machine's rates; empty where they cannot be measured, without which times are still worth having."""
    for _ in range(2):
        try:
            return worker.ask({"dtypes": dtypes}, budget.within(_RATES_SECONDS))
        except WorkerError as error:
            say(f"FAILED rates of the machine: {error}")
    return {}


def _content(rows: list[dict[str, Any]], machine: dict[str, Any], header: dict[str, Any]) -> dict[str, Any]:
    if machine:
        return results.content(rows, machine, header)
    return {**header, "machine": {}, "rows": [{**row, "gain": {}} for row in rows]}


def _warm(listed: list[OperatorCase], count: int, budget: Budget) -> None:
    """Has kernels compiled side by side, for any h; what fails here will be seen when it is measured."""
    kernels: dict[Any, OperatorCase] = {}
    for case in listed:
        kernels.setdefault((case.operator, case.tensors, case.d, case.dtype), case)
    tasks = [{"case": case.label} for case in kernels.values()]
    reserve = (1 - _WARM_SHARE) * budget.seconds
    with pool(command("measure"), count) as workers:
        share(tasks, workers, lambda: _WARM_SECONDS, lambda: budget.left() > reserve, lambda *_: None)


def _row(worker: Worker, case: OperatorCase, names: tuple[str, ...], budget: Budget) -> dict[str, Any]:
    start = time.monotonic()
    works = [name for name in names if name in budget.longest]
    try:
        row = worker.ask({"case": case.label, "contenders": names}, budget.within(_CASE_SECONDS))
    except WorkerError as error:
        return {**case.facts(), "contenders": {}, "skipped": str(error)}
    seconds = time.monotonic() - start
    if not works:
        budget.spent("case", seconds)
    for work in works:
        budget.spent(work, seconds / len(works))
    return row


def line(row: dict[str, Any]) -> str:
    """One case in a line."""
    own = row["contenders"].get("ours", {})
    if "milliseconds" not in own:
        return f"{row['label']}: FAILED {row.get('skipped') or own.get('reason')}"
    parts = [
        f"{job} {duration(spread['median'])}" + (f" ({percent(own['of_bound'][job])})" if "of_bound" in own else "")
        for job, spread in own["milliseconds"].items()
    ]
    gains = {name: gain["step"] for name, gain in row.get("gain", {}).items() if "step" in gain and name != "eager"}
    parts += [f"{times(gain)} of eager by {name}" for name, gain in gains.items()]
    parts += [f"{job} {times(ratio)} its prediction" for job, ratio in beside.ratios(row).items() if job != "step"]
    return f"{row['label']}: {', '.join(parts)}"


def run_prebuilt(place: torch.device, count: int, budget: Budget, write: Write, say: Say) -> bool:
    """Runs every case of `prebuilt` by both; whether no result is wrong and every launch that was compiled ran."""
    prebuilt.ensure(place, budget.within(budget.seconds), say)
    content: dict[str, Any] = prebuilt.nothing()

    def done(task: Task, answer: Answer | WorkerError) -> None:
        prebuilt.add(content["results"], prebuilt.label(*task["case"]), answer, say)
        write(content)

    with pool(command("prebuilt"), count) as workers:
        tasks = [{"case": case} for case in prebuilt.cases()]
        left = share(tasks, workers, lambda: budget.within(_CASE_SECONDS), budget.has_time, done)
    content["results"]["not begun"] = [prebuilt.label(*task["case"]) for task in left]
    write(content)
    found = content["results"]
    say(", ".join(f"{len(value) if isinstance(value, list) else value} {name}" for name, value in found.items()))
    content["first_steps"] = []
    for row in prebuilt.first_steps(place, budget.limit, say):
        content["first_steps"].append(row)
        write(content)
    right = not found["wrong"] and not found["not run"] and found["ran"] > 0
    return right and not any("fault" in row for row in content["first_steps"])


def run_memory(place: torch.device, budget: Budget, write: Write, say: Say) -> bool:
    """Finds the largest batches, each trial in a worker; whether there was time for all."""
    with pool(command("memory"), 1) as (worker,):

        def fits(network: str, contender: str, batch: int) -> bool:
            if budget.left() <= 0:
                raise WorkerError("there was no time left")
            task = {"network": network, "contender": contender, "batch": batch}
            return bool(worker.ask(task, budget.within(_CASE_SECONDS))["fits"])

        return largest_batch.search(fits, gpu.memory_of(place), budget.has_time, write, say)


def run_determinants(budget: Budget, write: Write, say: Say) -> bool:
    """Measures determinants beside torch.linalg, one case after the other; whether all that were run are right."""
    return _run_rows("determinants", determinants, budget, write, say)


def run_fit(budget: Budget, write: Write, say: Say) -> bool:
    """Measures steps of `fit` beside PyTorch's loop, one case after the other; whether all that were run are right."""
    return _run_rows("fit", fitting, budget, write, say)


def run_images(budget: Budget, write: Write, say: Say) -> bool:
    """Measures convolutional networks, one case after the other; whether all that were run are right."""
    return _run_rows("images", images, budget, write, say)


def _run_rows(role: str, module: Any, budget: Budget, write: Write, say: Say) -> bool:
    """Asks one worker for a row of each of the module's cases; whether none of them has a fault."""
    content: dict[str, Any] = {"rounds": module.ROUNDS, "rows": []}
    labels = {tuple(asdict(case).values()): case.label for case in module.cases()}

    def done(task: Task, answer: Answer | WorkerError) -> None:
        row = task | {"fault": str(answer)} if isinstance(answer, WorkerError) else answer
        content["rows"].append(row)
        write(content)
        say(module.line(row))

    with pool(command(role), 1) as workers:
        tasks = map(asdict, module.cases())
        left = share(tasks, workers, lambda: budget.within(_CASE_SECONDS), budget.has_time, done)
    write(content | {"not_run": [labels[tuple(task.values())] for task in left]})
    return all(row["fault"] is None for row in content["rows"])
