"""The cases and contenders of `gradnets-fast bench --preset full` under pytest-benchmark: verified, then timed.

python -m pytest bench/test_cpu.py --benchmark-only
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import pytest
import torch
from torch import Tensor

from gradnets_fast.backend import use_backend
from gradnets_fast.benchmark.cases import CASES, PRESETS, Case
from gradnets_fast.benchmark.contenders import BACKEND, CONTENDERS, JOBS, Contender, Problem, make_problem
from gradnets_fast.benchmark.verification import chosen_rows, exact, fault, results


@pytest.fixture(autouse=True)
def _on_the_kernels() -> Iterator[None]:
    with use_backend(BACKEND), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        yield


@lru_cache(maxsize=1)
def _prepared(case: Case) -> tuple[Problem, Tensor, list[Tensor], list[Tensor]]:
    problem = make_problem(case)
    rows = chosen_rows(case.batch)
    return problem, rows, exact(problem, rows), results(CONTENDERS["eager"](problem), problem, rows)


@lru_cache(maxsize=1)
def _verified(case: Case, name: str) -> tuple[Contender, Tensor]:
    problem, rows, truth, eager = _prepared(case)
    contender = CONTENDERS[name](problem)
    assert contender is not None
    got = eager if name == "eager" else results(contender, problem, rows)
    assert fault(got, eager, truth) is None
    return contender, problem.g.to(contender.x.dtype)


def _entries() -> Iterator[tuple[Case, str]]:
    for case in CASES:
        for name in PRESETS["full"].contenders:
            if name != "ours float32" or case.dtype != torch.float32:
                yield case, name


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("case", "name"), [pytest.param(case, name, id=f"{case.label}-{name}") for case, name in _entries()]
)
@pytest.mark.benchmark(min_rounds=3, max_time=0.5)
def test_case(case: Case, name: str, job: str, benchmark: Callable[[Callable[[], object]], object]) -> None:
    contender, g = _verified(case, name)
    benchmark.group = f"{case.label}, {job}"
    benchmark(contender.forward if job == "forward" else partial(contender.step, g))
