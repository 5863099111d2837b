"""Calls that hypothesis draws, the same ones in each run; and that the judge of such calls finds faults."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from fuzz import __main__ as command
from fuzz.cases import MODES, Case, laid_out
from fuzz.judge import judge
from fuzz.strategies import cases
from gradnets_fast import functional
from gradnets_fast.apps.draws import Variant
from gradnets_fast.ops import _cpp

pytestmark = pytest.mark.skipif(_cpp.why_unavailable() is not None, reason="needs the extension")


@settings(max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck])
@given(cases())
def test_calls_that_nobody_thought_of(case: Case) -> None:
    judge(case)


def case_of(mode: str) -> Case:
    variant = Variant("ridge", 2, ("tanh", "identity"))
    return Case("ridge", variant, "float32", (3, 2), 5, 7, ("strided", "transposed"), (True,), 1.0, mode, 0)


@pytest.mark.parametrize("family", ["softmax_modules", "transformed_modules"])
def test_autocast_rounds_the_arguments_of_combined_modules_alone(family: str) -> None:
    """Found by `make fuzz`: the products of the modules' slopes were rounded too."""
    basis, transform = (("tanh",), "identity") if family == "transformed_modules" else ((), "")
    variant = Variant(family, 2, basis, transform, combined=True)
    for quantity in ("", "_jvp", "_potential", "_divergence", "_jacobian"):
        judge(Case(family + quantity, variant, "float32", (3,), 2, 2, ("plain",), (False,), 1.0, "autocast", 0))


@pytest.mark.parametrize("mode", MODES)
def test_the_judge_finds_a_wrong_result(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(case_of(mode))
    right = functional.ridge

    def wrong(x: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        if mode == "autocast" and not torch.is_autocast_enabled("cpu"):
            return right(x, *arguments, **options)  # with which the other is compared
        result = right(x * 1.01, *arguments, **options)
        return torch.empty_like(result, dtype=torch.float64) if mode == "meta" and result.is_meta else result

    monkeypatch.setattr(functional, "ridge", wrong)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        judge(case_of(mode))


def test_layouts_keep_the_numbers() -> None:
    t = torch.randn(3, 4)
    for layout in ("plain", "transposed", "strided", "offset"):
        assert torch.equal(laid_out(t, layout), t)
    assert torch.equal(laid_out(t, "expanded"), t[:1].expand(3, 4))


def test_a_failure_is_made_small_and_printed_as_a_program_and_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails_for_many_units(case: Case) -> None:
        assert case.h < 5

    out, arguments = tmp_path / "fuzz.json", ["fuzz", "--count", "40", "--seed", "3", "--out"]
    monkeypatch.setattr(command, "_BLOCK", 20)
    commits = iter(["a", "a", "b"])
    monkeypatch.setattr(command, "environment", lambda text: {"command": text, "commit": next(commits)})
    monkeypatch.setattr(sys, "argv", [*arguments, str(out)])
    monkeypatch.setattr(command, "judge", fails_for_many_units)
    assert command.main() == 1
    program = json.loads(out.read_text())["failed"]["3"]
    assert re.search(r"h=5\b", program)
    assert program in capsys.readouterr().out
    tried: list[Case] = []
    monkeypatch.setattr(command, "judge", tried.append)
    assert command.main() == 1
    assert not tried
    assert command.main() == 0  # of other code all is tried again
    assert len(tried) >= 20


@pytest.mark.slow
def test_the_program_of_a_case_runs() -> None:
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", case_of("second").program()], cwd=root, check=True)
