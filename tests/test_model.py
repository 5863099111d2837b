"""The model of the GPU kernels' speed: on listings written by hand, and on a compiled kernel."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton")

from bench import tiles
from bench.model import beside, chips, kernel, pipes, sass, table, warp
from bench.model.chips import CHIPS, programs
from bench.model.kernel import bound
from bench.model.rows import Case, cases
from gradnets_fast.kernels import compiler
from gradnets_fast.kernels.candidates import CANDIDATES

ROOT = Path(__file__).resolve().parents[1]
HOPPER = CHIPS[90]


def _line(address: int, text: str, stall: int = 1, sets: int = 7, waits: int = 0) -> str:
    """An instruction as nvdisasm prints it."""
    control = stall << 41 | sets << 46 | 7 << 49 | waits << 52
    return f"        /*{address:04x}*/    {text} ;    /* 0x{0:016x} */\n    /* 0x{control:016x} */\n"


def _from(function_line: int, entry_line: int) -> str:
    """The source of what follows: a line of a program in ridge.py that entry.py calls."""
    return (
        f'\t//## File "/elsewhere/kernels/ridge.py", line {function_line} inlined at "/elsewhere/kernels/entry.py", '
        f'line {entry_line}\n\t//## File "/elsewhere/kernels/entry.py", line {entry_line}\n'
    )


def _listing(*parts: str) -> tuple[list[sass.Instruction], list[sass.Loop]]:
    return sass.parsed(".text.kernel:\n" + "".join(parts))


def _first_line(function: str) -> int:
    text = (ROOT / "kernels" / "ridge.py").read_text(encoding="utf-8").splitlines()
    return text.index(f"def {function}(") + 2


POINTS, WEIGHTS = (_first_line(name) for name in ("points_program", "weights_program"))


def test_an_instruction_is_read_with_its_waits() -> None:
    (found,), _ = _listing(_line(0x40, "@!PT LDS.64 R8, [R4+0x20]", stall=5, sets=2, waits=0b1001))
    assert (found.name, found.family, found.modifiers) == ("LDS.64", "LDS", ("64",))
    assert (found.address, found.operands, found.off) == (0x40, "R8, [R4+0x20]", True)
    assert (found.stall, found.sets, found.frees, found.waits) == (5, 2, None, (0, 3))


def test_programs_are_told_apart_by_their_source_and_each_has_its_loop() -> None:
    instructions, loops = _listing(
        _from(POINTS, 50) + _line(0x00, "LDG.E R2, desc[UR4][R4.64]"),
        ".L_x_1:\n" + _line(0x10, "MUFU.TANH R2, R2") + _line(0x20, "@P0 BRA `(.L_x_1)"),
        _from(WEIGHTS, 60) + _line(0x30, "FADD R2, R2, R3") + "\n.L_x_2:\n" + _line(0x40, "FFMA R2, R2, R3, R4"),
        _line(0x50, "BRA.U UP0, `(.L_x_2)") + _line(0x60, "STG.E desc[UR4][R4.64], R2"),
        _line(0x70, "ATOMG.E.ADD R2, desc[UR4][R4.64], R2") + _line(0x80, "FADD R2, R2, R3") + _line(0x90, "EXIT"),
        ".L_x_3:\n" + _line(0xA0, "@!P6 BRA `(.L_x_3)") + _line(0xB0, "BRA `(.L_x_2)"),
    )
    found = sass.sections(instructions, loops)
    assert sorted(found) == ["points_program", "weights_program"]
    points, weights = found["points_program"], found["weights_program"]
    assert [i.family for i in (*points.before, *points.loop, *points.after)] == ["LDG", "MUFU", "BRA"]
    assert [i.family for i in weights.before] == ["FADD"]
    assert [i.family for i in weights.loop] == ["FFMA", "BRA"]
    assert [i.family for i in weights.after] == ["STG"]  # not what the last program does, nor code moved behind the end


def test_units_are_counted_by_what_instructions_take_of_them() -> None:
    def taken(text: str, architecture: int = 90) -> dict[str, float]:
        (instruction,), _ = _listing(_line(0, text))
        return pipes.clocks(instruction, CHIPS[architecture])

    assert taken("MUFU.TANH R1, R2") == {"issue": 1, "special": 8}
    assert taken("FFMA R1, R2, R3, R4") == {"issue": 1, "float": 1}
    assert taken("FFMA R1, R2, R3, R4", 80) == {"issue": 1, "float": 2}
    assert taken("ISETP.GE.AND P0, PT, R1, R2, PT") == {"issue": 1, "integer": 2}
    assert taken("LDS.128 R4, [R2]") == {"issue": 1, "shared": 16}
    assert taken("@!PT LDS RZ, [RZ]") == {"issue": 1}
    assert taken("LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64]")["cache"] == pytest.approx(4 * 512 / HOPPER.cache_bytes)
    # 64 × 32 × 16 from shared memory reads 3072 bytes, 24 clocks; its multiply-adds take 16.
    both = taken("HGMMA.64x32x16.F32.BF16 R24, gdesc[UR8], R24")
    assert both == {"issue": 1, "matrix": 16, "shared": 24}
    assert taken("HGMMA.64x64x16.F32.BF16 R24, R8, gdesc[UR8], R24") == {"issue": 1, "matrix": 32, "shared": 16}
    assert taken("HMMA.16816.F32.BF16 R4, R8, R10, R4", 80) == {"issue": 1, "matrix": 8}
    assert taken("HMMA.1688.F32.TF32 R4, R8, R10, R4", 80) == {"issue": 1, "matrix": 8}


def _section(*texts: str) -> sass.Section:
    loop, _ = _listing("".join(texts))
    return sass.Section((), tuple(loop), ())


def test_a_warp_alone_waits_for_what_it_needs() -> None:
    chain = _section(
        _line(0x00, "MUFU.TANH R2, R2", sets=0),
        _line(0x10, "FADD R2, R2, R3", stall=4, waits=1),
        _line(0x20, "BRA `(.L_x_1)", stall=5),
    )
    assert warp.alone(chain, HOPPER).turn == 20 + 4 + 5
    apart = _section(_line(0x00, "MUFU.TANH R2, R2", sets=0), _line(0x10, "FADD R4, R4, R3", stall=4))
    assert warp.alone(apart, HOPPER).turn == 8  # as long as the unit is busy


def test_copies_that_are_issued_a_turn_ahead_are_not_waited_for() -> None:
    def turn(pending: int) -> sass.Section:
        work = "".join(_line(0x100 + 16 * i, "FADD R2, R2, R3", stall=4) for i in range(100))
        copy = _line(0x20, "LDGSTS.E.BYPASS.128 [R2], desc[UR4][R4.64]") + _line(0x30, "LDGDEPBAR")
        return _section(_line(0x10, f"DEPBAR.LE SB0, {pending:#x}"), work, copy)

    late, ahead = turn(0), turn(1)
    assert (warp.prefetched(late), warp.prefetched(ahead), warp.prefetched(_section(_line(0, "NOP")))) == (0, 1, None)
    assert warp.alone(late, HOPPER).waited["loads"] == pytest.approx(HOPPER.cache_wait, abs=5)
    assert "loads" not in warp.alone(ahead, HOPPER).waited


def test_products_of_warp_groups_are_waited_for_where_the_code_says_so() -> None:
    product = _line(0x00, "HGMMA.64x64x16.F32.BF16 R24, R8, gdesc[UR8], R24, gsb0")
    waiting = _section(product, _line(0x10, "WARPGROUP.DEPBAR.LE gsb0, 0x0"))
    found = warp.alone(waiting, HOPPER)
    assert found.waited["matrix"] == pytest.approx(32 + HOPPER.matrix_wait, abs=3)
    assert found.turn > warp.alone(_section(product), HOPPER).turn


def test_resident_programs_follow_from_what_they_take() -> None:
    assert programs(90, 255, 100_000, 8) == 1
    assert programs(90, 32, 0, 32) == 2
    assert programs(100, 64, 10_000, 4, tensor_columns=256) == 2
    assert programs(80, 64, 100_000, 4) == 1


def test_the_bound_is_that_of_the_scarcest_resource() -> None:
    assert bound(HOPPER, "half", 128, 1, "backward") == (1280.0, "products")
    assert bound(HOPPER, "half", 8, 4, "forward") == (1024.0, "special functions")
    assert bound(HOPPER, "tf32", 128, 1, "forward") == (1024.0, "products")


def test_the_cases_are_those_that_fused_kernels_take() -> None:
    found = cases()
    assert Case(90, "half", 64, 4, "backward") in found
    assert Case(90, "tf32x3", 128, 4, "backward") not in found
    assert {case.architecture for case in found} == set(CHIPS)


_PREDICT = """
import json
from bench.model.rows import Case, row
print(json.dumps([row(Case(*case)) for case in (
    (90, "half", 64, 1, "forward"), (90, "half", 64, 4, "backward"), (80, "half", 32, 1, "forward"),
    (100, "half", 64, 1, "backward"), (90, "tf32x3", 2, 1, "backward"),
)]))
"""


@pytest.mark.slow
def test_a_compiled_kernel_shows_its_programs() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", _PREDICT], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    forward, deep, ampere, blackwell, narrow = json.loads(run.stdout.splitlines()[-1])
    (points,) = forward["programs"]
    # One tanh and products of 64 × 64 multiply-adds for each hidden value, twice.
    assert points["pipes"]["special"] == pytest.approx(256, rel=0.02)
    assert points["pipes"]["matrix"] == pytest.approx(256, rel=0.05)
    for row in (forward, deep, ampere, blackwell, narrow):
        names = [program["name"] for program in row["programs"]]
        assert names == ["points_program", "weights_program"][: 1 + (row["job"] == "backward")]
        assert 0 < row["predicted_of_bound"] <= row["predicted_ceiling"] <= 1.001
        expected = row["bound_milliseconds"] / row["predicted_of_bound"]
        assert row["predicted_milliseconds"] == pytest.approx(expected, rel=1e-3)
        assert all(max(p["pipes"].values()) <= p["predicted"] * 1.001 for p in row["programs"])
    by_name = {program["name"]: program for program in deep["programs"]}
    assert by_name["weights_program"]["pipes"]["matrix"] == pytest.approx(512, rel=0.05)
    assert by_name["points_program"]["pipes"]["special"] == pytest.approx(1024, rel=0.02)


def _row(job: str, milliseconds: float) -> dict[str, Any]:
    case = {"architecture": 90, "kind": "half", "d": 64, "layers": 1, "job": job, "warps_a_scheduler": 4.0}
    shares = {"predicted_of_bound": 0.5, "predicted_ceiling": 0.9, "scarcest": ["special"]}
    return case | shares | {"predicted_milliseconds": milliseconds, "bound_milliseconds": milliseconds / 2}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A file of two predictions."""
    rows = [_row("forward", 1.0), _row("backward", 3.0)]
    file = tmp_path / "gpu_model.json"
    file.write_text(json.dumps({"batch": 1000, "h": 1024, "rows": rows}))
    return file


def test_a_measured_case_finds_its_prediction(result: Path) -> None:
    case = {"batch": 2000, "d": 64, "h": 1024, "dtype": "bfloat16"}
    assert beside.milliseconds(case, 1, 90, result) == {"forward": 2.0, "backward": 6.0, "step": 8.0}
    for other in (case | {"d": 32}, case | {"dtype": "tf32"}, case | {"h": 64}):
        assert beside.milliseconds(other, 1, 90, result) == {}
    assert beside.milliseconds(case, 4, 90, result) == beside.milliseconds(case, 1, 80, result) == {}
    assert beside.milliseconds(case, 1, None, result) == beside.milliseconds(case, 1, 90, result.parent / "none") == {}


def test_how_far_off_the_model_is() -> None:
    timed = {"ours": {"milliseconds": {"forward": {"median": 3.0}, "backward": {"median": 4.0}}}}
    measured = {"predicted": {"forward": 2.0, "backward": 5.0}, "contenders": timed}
    assert beside.error([measured, {"contenders": timed}]) == (0.8, 1.5)
    assert beside.error([{"contenders": timed}]) is None


def test_the_committed_predictions_have_every_case_and_their_table() -> None:
    content = json.loads(beside.FILE.read_text(encoding="utf-8"))
    fields = ("architecture", "kind", "d", "layers", "job")
    assert [Case(*(row[name] for name in fields)) for row in content["rows"]] == cases()
    for row in content["rows"]:
        assert 0 < row["predicted_of_bound"] <= row["predicted_ceiling"] <= 1.001
    for row in content["attention"]:  # measured by others, with tiles as good as they found
        assert 0.7 < row["teraflops"] / row["predicted_teraflops"] < 1.1
    text = table.of_result(content)
    assert text.count("| bfloat16 |") == 10
    assert "Predictions, not measurements" in text


def test_tiles_are_chosen_by_the_prediction_among_those_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []

    def taken(case: tiles.Case, options: dict[str, int], known: object = None) -> tiles.Taken | None:
        size = tuple(options.values())
        tried.append(size)
        if size[:3] == (128, 64, 4):
            raise tiles.SpillsError
        if size == (128, 64, 8, 3):
            return None  # too much shared memory
        speed = {(128, 64, 8, 2): 0.5, (64, 64, 4, 3): 0.7}.get(size, 0.1)
        return tiles.Taken({"forward": compiler.Resources(100, 0, 1000, 500)}, speed)

    monkeypatch.setattr(tiles, "taken", taken)
    entry = tiles.chosen((90, "forward", "half", 64, 1))
    assert tuple(entry["options"].values()) == (64, 64, 4, 3)
    assert (entry["predicted"], entry["resources"]) == (0.7, {"forward": (100, 0, 1000, 500)})
    assert (128, 64, 4, 2) not in tried  # fewer stages take as many registers
    assert (128, 64, 8, 2) in tried
    assert (64, 64, 4, 2) not in tried  # the most stages that fit
    monkeypatch.setattr(tiles, "taken", lambda *_: None)
    assert tiles.chosen((90, "backward", "half", 64, 1))["options"] is None


def test_other_kernels_take_the_first_tiles_of_which_two_programs_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    registers = iter((255, 128, 64))

    def taken(case: tiles.Case, options: dict[str, int], known: object = None) -> tiles.Taken:
        return tiles.Taken({"potential": compiler.Resources(next(registers), 0, 1000, 500)})

    monkeypatch.setattr(tiles, "taken", taken)
    entry = tiles.chosen((90, "numbers", "half", 64, 1))
    assert entry["options"] == CANDIDATES["numbers"][1]
    assert entry["predicted"] is None


@pytest.mark.parametrize("module", [beside, chips, kernel, pipes, warp])
def test_the_examples_of_the_model(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)
