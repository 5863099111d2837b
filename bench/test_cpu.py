"""The cases and contenders of `gradnets-fast bench` under pytest-benchmark: verified, then timed.

Those of the preset full, and every operator at one shape.

    python -m pytest bench/test_cpu.py --benchmark-only
    python -m pytest bench/test_cpu.py --benchmark-only -k "ridge_jvp and not compile"
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import pytest
import torch
from torch import Tensor

from gradnets_fast.apps.bench import chosen
from gradnets_fast.apps.bench.cases import Case, Problem
from gradnets_fast.apps.bench.contenders import CONTENDERS, Contender
from gradnets_fast.apps.bench.presets import CASES, PRESETS
from gradnets_fast.apps.bench.verification import chosen_rows, exact, judged, results, yardstick
from gradnets_fast.apps.bench.work import JOBS

OPERATORS = chosen.cases(chosen.Choice(operator=chosen.OPERATORS), torch.device("cpu"))


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        yield


@lru_cache(maxsize=1)
def _prepared(case: Case) -> tuple[Problem, Tensor, list[Tensor], list[Tensor]]:
    problem = case.problem()
    rows = chosen_rows(case.batch)
    return problem, rows, exact(problem, rows), yardstick(problem, rows)


@lru_cache(maxsize=1)
def _verified(case: Case, name: str) -> tuple[Contender, Tensor]:
    problem, rows, truth, eager = _prepared(case)
    contender = CONTENDERS[name](problem)
    assert contender is not None
    got = results(contender, problem, rows)
    assert judged(problem, got, None if name == "eager" else eager, truth).fault is None
    return contender, problem.g.to(contender.points[0].dtype)


def _entries() -> Iterator[tuple[Case, str]]:
    for case in CASES:
        for name in PRESETS["full"].contenders:
            if name != "ours float32" or case.dtype != "float32":
                yield case, name
    for case in OPERATORS:
        for name in ("eager", "compile", "cpp"):
            yield case, name


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("case", "name"), [pytest.param(case, name, id=f"{case.label}-{name}") for case, name in _entries()]
)
@pytest.mark.benchmark(min_rounds=3, max_time=0.5)
def test_case(case: Case, name: str, job: str, benchmark: Callable[[Callable[[], object]], object]) -> None:
    contender, g = _verified(case, name)
    benchmark.group = f"{case.label}, {job}"
    with contender.active():
        benchmark(contender.forward if job == "forward" else partial(contender.step, g))
