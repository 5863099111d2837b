"""gradnets-fast doctor: in sound environments, in broken ones, and a self-test that fails when an operator is wrong."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradnets_fast import functional
from gradnets_fast.apps.doctor import command, processor, report, selftest, variables
from gradnets_fast.apps.doctor.examination import FAILURE, GROUPS, NOTE, OK, STATUSES, WARNING, Check, Request
from gradnets_fast.apps.train import ranks

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
Found = dict[str, dict[str, str]]
"""Checks by their names."""

MAIN = """
sys.argv = ["gradnets-fast", *sys.argv[1:]]
from gradnets_fast.__main__ import main
main()
"""
WITHOUT_SELF_TEST = """
from gradnets_fast.apps.doctor import examination
examination.GROUPS = tuple(group for group in examination.GROUPS if group.title != "Self-test")
"""


def run(command: list[str], **changes: Any) -> subprocess.CompletedProcess[str]:
    """A command in an environment without the variables that are looked at, but for these."""
    cwd = changes.pop("cwd", None)
    looked_at = ("TRITON_INTERPRET", *(name for name in os.environ if name.startswith("GRADNETS_FAST_")))
    environment = {name: value for name, value in os.environ.items() if name not in looked_at}
    return subprocess.run(command, capture_output=True, text=True, env=environment | changes, cwd=cwd, check=False)


def script(before: str, *arguments: str) -> list[str]:
    """The command in a process that first runs the statements `before`."""
    return [sys.executable, "-c", f"import sys\n{before}\n{MAIN}", "doctor", *arguments]


def doctor(*arguments: str, before: str = "", code: int = 0, **changes: Any) -> Found:
    """The checks of a process whose exit code must be this."""
    result = run(script(before, "--json", *arguments), **changes)
    assert "Traceback" not in result.stderr
    assert result.returncode == code, result.stdout + result.stderr
    content = json.loads(result.stdout)
    assert (content["status"] == FAILURE) == (code == 1)
    found = {check["name"]: check for check in content["checks"]}
    assert len(found) == len(content["checks"]), "a name stands for two checks"
    for check in found.values():
        assert set(check) == {"group", "name", "status", "finding", "advice"}
        assert check["status"] in STATUSES
        assert check["finding"]
        assert check["advice"] or check["status"] not in (WARNING, FAILURE), check
        assert "the check itself failed" not in check["finding"], check
    return found


def quick(before: str = "", **options: Any) -> Found:
    """The checks but for the self-test, as if there were no GPU."""
    return doctor(before=before + WITHOUT_SELF_TEST, CUDA_VISIBLE_DEVICES="", **options)


def blocked(*names: str) -> str:
    return "".join(f"sys.modules[{name!r}] = None\n" for name in names)


def test_a_sound_installation_passes_every_check() -> None:
    found = doctor()
    assert list(dict.fromkeys(check["group"] for check in found.values())) == [group.title for group in GROUPS]
    assert {"python", "platform", "gradnets_fast", "torch", "extra train", "command line"} <= set(found)
    assert {"extension", "instruction sets", "OpenMP", "threads", "driver", "GPUs"} <= set(found)
    assert {"triton", "C compiler", "Triton's cache", "tuned table", "ahead-of-time kernels"} <= set(found)
    assert set(variables.VARIABLES) <= set(found)
    for name in (f"{backend} {dtype}" for backend in ("reference", "cpp") for dtype in selftest.DTYPES):
        assert found[name]["status"] == OK
        assert found[name]["finding"].startswith(f"{2 * len(functional.__all__)} cases right")
    if not torch.cuda.is_available():
        assert "not run" in found["all of triton"]["finding"]


def test_the_text_says_what_the_json_says() -> None:
    groups = [(group, list(group.checks(Request()))) for group in GROUPS[:2]]
    as_json, as_text = io.StringIO(), io.StringIO()
    assert report.write_json(groups, as_json) == report.write_text(groups, as_text)
    for check in json.loads(as_json.getvalue())["checks"]:
        assert check["finding"] in as_text.getvalue()
        assert check["advice"] in as_text.getvalue()
    assert "\x1b" not in as_text.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_lines_end_before_its_margin_and_statuses_are_coloured(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Check("Triton's cache", WARNING, "a sentence " * 30, "a remedy " * 30)
    plain = report.in_columns(check, width)
    assert max(map(len, plain.splitlines())) <= width
    assert len(plain.splitlines()) > 4
    assert len(report.in_columns(check, None).splitlines()) == 2
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    report.write_text([(GROUPS[0], [check])], file)
    assert plain in re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    assert "\x1b[33m  warning" in file.getvalue()


def test_a_path_is_not_broken_and_a_long_name_keeps_its_distance() -> None:
    path = "/a/folder-of-a-long-name" * 9
    assert path in report.in_columns(Check("x", OK, f"{path} can be written"), 80)
    assert f"{'name' * 9} found" in report.in_columns(Check("name" * 9, OK, "found"), None)


OPTIONAL = ("typer", "rich", "numpy", "triton", "matplotlib", "polars", "safetensors", "pyarrow", "grain", "packaging")


def test_with_torch_alone_everything_is_examined_by_the_standard_library() -> None:
    found = doctor(before=blocked(*OPTIONAL))
    assert found["command line"]["status"] == found["extras"]["status"] == found["triton"]["status"] == NOTE
    assert "typer" in found["command line"]["finding"]
    assert "gradnets_fast[train]" in found["command line"]["advice"]
    assert "packaging" in found["extras"]["finding"]
    assert found["cpp float32"]["status"] == OK


@pytest.mark.parametrize("before", ["", blocked("typer")], ids=["typer", "argparse"])
def test_without_typer_the_options_are_the_same(before: str) -> None:
    text = run(script(before, "--help"), COLUMNS="200").stdout
    assert set(re.findall(r"--\w+", text)) == {"--device", "--json", "--help"}
    for sentence in (command.SUMMARY, command.DETAILS, command.DEVICE, command.JSON):
        assert sentence in text
    result = run(script(before, "--device", "tpu"))
    assert result.returncode == 2
    assert result.stderr.startswith("gradnets-fast: doctor: device: expected cpu, cuda or cuda with a number, got tpu")
    assert len(result.stderr.splitlines()) == 1


def test_a_gpu_that_is_asked_for_and_is_not_there_is_a_failure() -> None:
    found = doctor("--device", "cuda:99", code=1)
    assert FAILURE in [check["status"] for check in found.values() if check["group"] == "GPU"]
    assert found["all backends"]["finding"].startswith("not run: cuda:99 cannot be used")


@pytest.fixture(name="broken_torch")
def _broken_torch(tmp_path: Path) -> dict[str, str]:
    """The variables with which a process finds a torch whose library is missing."""
    (tmp_path / "torch.py").write_text('raise OSError("libtorch_cpu.so: cannot open shared object file")')
    return {"PYTHONPATH": str(tmp_path)}


def test_a_torch_that_cannot_be_imported_is_diagnosed(broken_torch: dict[str, str]) -> None:
    found = doctor(code=1, **broken_torch)
    assert found["torch"]["status"] == FAILURE
    assert "OSError: libtorch_cpu.so" in found["torch"]["finding"]
    assert found["torch"]["advice"] == "install it anew: pip install --force-reinstall torch"
    for group in GROUPS[1:]:
        assert found[group.title]["finding"] == "not examined, as torch cannot be imported"


def test_a_reader_that_stops_and_a_terminal_without_arrows_are_no_errors(broken_torch: dict[str, str]) -> None:
    words = [sys.executable, "-m", "gradnets_fast", "doctor"]
    stopped = run(["bash", "-c", f"{' '.join(words)} | head -1"], **broken_torch)
    assert (stopped.stdout.count("\n"), stopped.stderr) == (1, "")
    plain = run(words, PYTHONIOENCODING="ascii", **broken_torch)
    assert (plain.returncode, plain.stderr) == (1, "")
    assert "? install it anew" in plain.stdout


@pytest.mark.parametrize("arguments", [["train"], ["--help"], []])
def test_other_commands_say_what_they_lack_in_one_line(arguments: list[str], broken_torch: dict[str, str]) -> None:
    result = run([sys.executable, "-m", "gradnets_fast", *arguments], **broken_torch)
    assert result.returncode == 2
    assert "libtorch_cpu.so" in result.stderr
    assert result.stderr.endswith("gradnets-fast doctor says more\n")
    assert len(result.stderr.splitlines()) == 1


OTHER_TABLE = "from gradnets_fast.activations import TABLE\nTABLE['other'] = TABLE['tanh']\n"


@pytest.mark.parametrize(
    ("change", "cause"),
    [(blocked("gradnets_fast._C"), "cannot be imported"), (OTHER_TABLE, "another activation table")],
    ids=["missing", "another table"],
)
def test_an_extension_that_cannot_serve_is_a_failure(change: str, cause: str) -> None:
    found = quick(change, code=1)
    assert found["extension"]["status"] == FAILURE
    assert cause in found["extension"]["finding"]
    assert "pip install" in found["extension"]["advice"]
    assert "instruction sets" not in found


Expected = dict[str, tuple[str, str, str]]
"""Status, part of the finding and part of the advice, "" where there is none, by the check's name."""

ENVIRONMENTS: list[tuple[dict[str, str], Expected]] = [
    (
        {
            "GRADNETS_FAST_CPU_ISA": "mmx",
            "GRADNETS_FAST_BACKEND": "nonsense",
            "GRADNETS_FAST_BACKEN": "cpp",
            "GRADNETS_FAST_TABLE": "{broken}",
            "TRITON_INTERPRET": "0",
            "TRITON_CACHE_DIR": "{file}",
            "CC": "{file}",
            "RANK": "0",
        },
        {
            "extension": (FAILURE, "got mmx", "unset GRADNETS_FAST_CPU_ISA"),
            "GRADNETS_FAST_BACKEND": (FAILURE, "every call raises", "reference, cpp or triton"),
            "GRADNETS_FAST_BACKEN": (WARNING, "nothing reads it", "GRADNETS_FAST_BACKEND"),
            "tuned table": (FAILURE, "expected what gradnets-fast tune writes", "rm "),
            "TRITON_INTERPRET": (WARNING, "for off", "unset TRITON_INTERPRET"),
            "Triton's cache": (WARNING, "is a file", "TRITON_CACHE_DIR"),
            "C compiler": (NOTE, "does not compile what Triton needs", "unset CC"),
            "of launchers": (NOTE, "RANK without WORLD_SIZE, MASTER_ADDR and MASTER_PORT", "torchrun"),
        },
    ),
    (
        {
            "GRADNETS_FAST_CPU_ISA": "baseline",
            "GRADNETS_FAST_BACKEND": "triton",
            "GRADNETS_FAST_TABLE": "{empty}",
            "TRITON_HOME": "{file}",
            "PATH": "{folder}",
        },
        {
            "instruction sets": (NOTE, "baseline in use", "unset GRADNETS_FAST_CPU_ISA"),
            "GRADNETS_FAST_CPU_ISA": (OK, "baseline: looked at below", ""),
            "GRADNETS_FAST_BACKEND": (WARNING, "on cpu raise", "unset GRADNETS_FAST_BACKEND"),
            "tuned table": (OK, "before the package's", ""),
            "Triton's cache": (WARNING, "is a file", "TRITON_CACHE_DIR"),
            "C compiler": (NOTE, "no gcc or clang", "install gcc"),
        },
    ),
    (
        {
            "GRADNETS_FAST_BACKEND": "cpp",
            "GRADNETS_FAST_TABLE": "{file}/table.json",
            "TRITON_INTERPRET": "1",
            "TRITON_CACHE_DIR": "{folder}/new",
        },
        {
            "GRADNETS_FAST_BACKEND": (NOTE, "runs on it, or raises", ""),
            "tuned table": (WARNING, "is a file", "GRADNETS_FAST_TABLE"),
            "TRITON_INTERPRET": (NOTE, "in its interpreter", ""),
            "Triton's cache": (OK, "/new can be written", ""),
        },
    ),
]


@pytest.mark.parametrize(("changes", "expected"), ENVIRONMENTS)
def test_variables_and_folders_are_judged(changes: dict[str, str], expected: Expected, tmp_path: Path) -> None:
    places = {key: tmp_path / key for key in ("file", "broken", "empty", "folder")}
    places["file"].touch()
    places["broken"].write_text("[]")
    places["empty"].write_text('{"tables": {}}')
    places["folder"].mkdir()
    settings = {key: value.format(**places) for key, value in changes.items()}
    broken = any(status == FAILURE for status, *_ in expected.values())
    found = quick(code=int(broken), **settings)
    for name, (status, finding, advice) in expected.items():
        assert found[name]["status"] == status, found[name]
        assert finding in found[name]["finding"]
        assert advice in found[name]["advice"]
        assert bool(advice) == bool(found[name]["advice"])
    assert {name for name, check in found.items() if check["status"] == FAILURE} <= set(expected)
    assert sorted(tmp_path.rglob("*")) == sorted(places.values()), "it left something"


def test_a_checkout_that_hides_the_installed_package_is_noticed(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "gradnets_fast", tmp_path / "gradnets_fast", ignore=ignored)
    result = run(script(WITHOUT_SELF_TEST, "--json"), cwd=tmp_path)
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}["gradnets_fast"]
    assert found["status"] == WARNING
    assert f"imported from {tmp_path / 'gradnets_fast'}, which hides the one installed in" in found["finding"]


def test_a_second_openmp_runtime_and_threads_beyond_the_cores_are_noticed(tmp_path: Path) -> None:
    some, *_ = processor.openmp_runtimes(Path("/proc/self/maps").read_text())  # other tests may have loaded more
    second = tmp_path / "libgomp.so.1"
    shutil.copy(some, second)
    found = quick(f"import ctypes, torch\nctypes.CDLL({str(second)!r})\ntorch.set_num_threads(4096)\n")
    assert found["OpenMP"]["status"] == found["threads"]["status"] == WARNING
    assert found["OpenMP"]["finding"].startswith("2 runtimes")
    assert str(second) in found["OpenMP"]["finding"]
    assert f"torch.set_num_threads({processor.available_cores()})" in found["threads"]["advice"]


READS = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\(|_VARIABLE = )["']([A-Z_]+)["']|(GRADNETS_FAST_[A-Z_]+)""")


def test_every_variable_that_the_package_reads_is_listed() -> None:
    sources = [*(ROOT / "gradnets_fast").rglob("*.py"), *(ROOT / "kernels").glob("*.py"), *(ROOT / "csrc").iterdir()]
    texts = [path.read_text(encoding="utf-8") for path in sources if path.parent.name != "doctor" and path.is_file()]
    found = {a or b for text in texts for a, b in READS.findall(text)}
    assert {"GRADNETS_FAST_CPU_ISA", "GRADNETS_FAST_BACKEND", "TRITON_INTERPRET", "LOCAL_RANK"} <= found
    # Handed on to processes of its own; and set while kernels are compiled ahead of time.
    others = {"PYTHONPATH", "TRITON_DISABLE_LINE_INFO"}
    of_build = re.findall(r"GRADNETS_FAST_[A-Z_]+", (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert {*found, *of_build} - others <= set(variables.KNOWN)
    assert variables._LAUNCHED == ranks._LAUNCHED


def _wrong_value(result: torch.Tensor) -> torch.Tensor:
    return result * 1.01


def _wrong_gradient(result: torch.Tensor) -> torch.Tensor:
    return result + (result - result.detach()) / 64


def _raised(result: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize("operator", functional.__all__)
@pytest.mark.parametrize("wrong", [_wrong_value, _wrong_gradient, _raised])
def test_the_self_test_names_an_operator_that_is_wrong(
    operator: str, wrong: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(functional, operator)
    broken = functools.wraps(right)(lambda *given, **named: wrong(right(*given, **named)))
    monkeypatch.setattr(functional, operator, broken)
    cases = [(name, 1) for name in functional.__all__]
    check = selftest.of_cases(cases, "reference", "float32", CPU)
    assert check.status == FAILURE
    assert check.finding.startswith(f"1 of {len(cases)} cases wrong: {operator} 4x3x8x1: ")
    if wrong is not _raised:
        assert re.search(r"(f|gradient of \w+): error \S+, at most \S+ allowed", check.finding)
    else:
        assert "ZeroDivisionError: by zero" in check.finding
    assert check.advice


def test_a_wrong_kernel_is_a_failure_of_its_backend_alone() -> None:
    change = """
from gradnets_fast.ops import OPERATORS
kernels = OPERATORS["ridge"]["value"].cpp.kernels
right = kernels.backward
kernels.backward = lambda *given: tuple(d if d is None else d * 1.01 for d in right(*given))
"""
    found = doctor(before=change, code=1)
    assert found["cpp float32"]["status"] == found["cpp float64"]["status"] == FAILURE
    assert "cases wrong: ridge 33x5x17x2: gradient of x: error" in found["cpp float32"]["finding"]
    assert "GRADNETS_FAST_BACKEND=reference" in found["cpp float32"]["advice"]
    assert found["reference float32"]["status"] == OK


def test_the_triton_kernels_are_tested_in_the_interpreter() -> None:
    """The interpreter is on in this process, by its environment."""
    found = list(selftest.of_backend("triton", [CPU]))
    assert [check.name for check in found] == [f"triton {dtype}" for dtype in selftest.DTYPES if dtype != "float64"]
    for check in found:
        assert check.status == OK
        assert f"{len(functional.__all__)} cases right in Triton's interpreter" in check.finding
