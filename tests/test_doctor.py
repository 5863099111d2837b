"""gradnets-fast doctor: in sound environments, in broken ones, and a self-test that fails when an operator is wrong."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from few_kernels import FEW, archive
from gradnets_fast import __version__, functional
from gradnets_fast.apps.doctor import command, compilation, examination, gpu, report, selftest, software, variables
from gradnets_fast.apps.doctor.examination import FAILURE, GROUPS, NOTE, OK, STATUSES, WARNING, Check, Request
from gradnets_fast.kernels import prebuilt

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
del examination.GROUPS["Self-test"]
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
    assert list(dict.fromkeys(check["group"] for check in found.values())) == list(GROUPS)
    assert {"python", "gradnets_fast", "torch", "command line", "variables"} <= set(found)
    assert {"extension", "instruction sets", "threads", "driver", "GPUs"} <= set(found)
    assert {"triton", "Triton's cache", "tuned table", "ahead-of-time kernels"} <= set(found)
    for name in (f"{backend} {dtype}" for backend in ("reference", "cpp") for dtype in selftest.DTYPES):
        assert found[name]["status"] == OK
        assert found[name]["finding"].startswith(f"{2 * len(functional.__all__)} cases right")
    if not torch.cuda.is_available():
        assert "not run" in found["all of triton"]["finding"]


def test_the_text_says_what_the_json_says() -> None:
    groups = [(title, list(examination.checks(title, Request()))) for title in list(GROUPS)[:2]]
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
    path = "/a/folder-of-a-long-name" * 9
    assert f"{'name' * 9} {path}" in report.in_columns(Check("name" * 9, OK, path), width).replace(f"\n{' ' * 35}", "")
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    report.write_text([("Software", [check])], file)
    assert plain in re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
    assert "\x1b[33m  warning" in file.getvalue()


OPTIONAL = ("typer", "rich", "numpy", "triton", "matplotlib", "safetensors", "pyarrow", "grain", "packaging")


@pytest.mark.slow
def test_with_torch_alone_everything_is_examined_by_the_standard_library() -> None:
    found = doctor(before=blocked(*OPTIONAL))
    assert found["command line"]["status"] == found["triton"]["status"] == NOTE
    assert "typer" in found["command line"]["finding"]
    assert "gradnets_fast[train]" in found["command line"]["advice"]
    assert found["cpp float32"]["status"] == OK


@pytest.mark.slow
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


@pytest.mark.slow
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
    for title in list(GROUPS)[1:]:
        assert found[title]["finding"] == "not examined, as torch cannot be imported"


def test_a_reader_that_stops_and_a_terminal_without_arrows_are_no_errors(broken_torch: dict[str, str]) -> None:
    words = [sys.executable, "-m", "gradnets_fast", "doctor"]
    stopped = run(["bash", "-c", f"{' '.join(words)} | head -1"], **broken_torch)
    assert (stopped.stdout.count("\n"), stopped.stderr) == (1, "")
    plain = run(words, PYTHONIOENCODING="ascii", **broken_torch)
    assert (plain.returncode, plain.stderr) == (1, "")
    assert "-> install it anew" in plain.stdout


@pytest.mark.parametrize("arguments", [["train"], ["--help"], []])
def test_other_commands_say_what_they_lack_in_one_line(arguments: list[str], broken_torch: dict[str, str]) -> None:
    result = run([sys.executable, "-m", "gradnets_fast", *arguments], **broken_torch)
    assert result.returncode == 2
    assert "libtorch_cpu.so" in result.stderr
    assert result.stderr.endswith("gradnets-fast doctor says more\n")
    assert len(result.stderr.splitlines()) == 1


OTHER_TABLE = "from gradnets_fast.activations import TABLE\nTABLE['other'] = TABLE['tanh']\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "cause"),
    [(blocked("gradnets_fast._C"), "cannot be imported"), (OTHER_TABLE, "another activation table")],
    ids=["missing", "another table"],
)
def test_an_extension_that_cannot_serve_is_a_failure(change: str, cause: str) -> None:
    found = quick(change, code=1)
    assert found["extension"]["status"] == FAILURE
    assert cause in found["extension"]["finding"]
    assert found["extension"]["advice"] == f"GRADNETS_FAST_EXTENSION=1 pip install -e {ROOT}, with GCC"
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
            "TRITON_CACHE_DIR": "{file}",
        },
        {
            "extension": (FAILURE, "got mmx", "unset GRADNETS_FAST_CPU_ISA"),
            "GRADNETS_FAST_BACKEND": (FAILURE, "every call raises", "reference, cpp or triton"),
            "GRADNETS_FAST_BACKEN": (WARNING, "nothing reads it", "GRADNETS_FAST_BACKEND"),
            "tuned table": (FAILURE, "expected what gradnets-fast tune writes", "rm "),
            "Triton's cache": (WARNING, "is a file", "TRITON_CACHE_DIR"),
        },
    ),
    (
        {
            "GRADNETS_FAST_CPU_ISA": "baseline",
            "GRADNETS_FAST_BACKEND": "triton",
            "GRADNETS_FAST_TABLE": "{empty}",
            "TRITON_HOME": "{file}",
        },
        {
            "instruction sets": (NOTE, "baseline in use", "unset GRADNETS_FAST_CPU_ISA"),
            "GRADNETS_FAST_CPU_ISA": (OK, "baseline", ""),
            "GRADNETS_FAST_BACKEND": (WARNING, "on cpu raise", "unset GRADNETS_FAST_BACKEND"),
            "tuned table": (OK, "before the package's", ""),
            "Triton's cache": (WARNING, "is a file", "TRITON_CACHE_DIR"),
        },
    ),
    (
        {
            "GRADNETS_FAST_BACKEND": "cpp",
            "GRADNETS_FAST_TABLE": "{file}/table.json",
            "TRITON_CACHE_DIR": "{folder}/new",
        },
        {
            "GRADNETS_FAST_BACKEND": (NOTE, "runs on it, or raises", ""),
            "tuned table": (OK, "none, so that the package's", ""),
            "Triton's cache": (OK, "/new can be written", ""),
        },
    ),
]


@pytest.mark.slow
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


def test_every_variable_of_the_package_is_known() -> None:
    sources = [*(ROOT / "gradnets_fast").rglob("*.py"), *(ROOT / "kernels").glob("*.py"), *(ROOT / "csrc").iterdir()]
    elsewhere = [
        path
        for path in (*sources, ROOT / "setup.py", ROOT / "release" / "cuda.py")
        if path.parent.name != "doctor" and path.is_file()
    ]
    texts = [path.read_text(encoding="utf-8") for path in elsewhere]
    found = {name for text in texts for name in re.findall(r"GRADNETS_FAST_[A-Z_]*[A-Z]", text)}
    assert {"GRADNETS_FAST_CPU_ISA", "GRADNETS_FAST_BACKEND", "GRADNETS_FAST_CUDA"} <= found == set(variables.KNOWN)


def _wrong_value(result: torch.Tensor) -> torch.Tensor:
    return result * 1.01


def _wrong_gradient(result: torch.Tensor) -> torch.Tensor:
    return result + (result - result.detach()) / 64


def _wrong_without_gradients(result: torch.Tensor) -> torch.Tensor:
    return result if torch.is_grad_enabled() else result * 1.01


def _raised(result: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize("operator", functional.__all__)
@pytest.mark.parametrize("wrong", [_wrong_value, _wrong_gradient, _wrong_without_gradients, _raised])
def test_the_self_test_names_an_operator_that_is_wrong(
    operator: str, wrong: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(functional, operator)
    broken = functools.wraps(right)(lambda *given, **named: wrong(right(*given, **named)))
    monkeypatch.setattr(functional, operator, broken)
    another = functional.__all__[functional.__all__.index(operator) - 1]
    cases = [(another, 1), (operator, 1)]
    check = selftest.of_cases(cases, "reference", "float32", CPU)
    assert check.status == FAILURE
    assert check.finding.startswith(f"1 of {len(cases)} cases wrong: {operator} 4x3x8: ")
    if wrong is not _raised:
        assert re.search(r"(f|gradient of \w+|f without gradients): error \S+, at most \S+ allowed", check.finding)
    else:
        assert "ZeroDivisionError: by zero" in check.finding
    assert check.advice


@pytest.mark.slow
def test_a_wrong_kernel_is_a_failure_of_its_backend_alone() -> None:
    change = """
from gradnets_fast.ops import OPERATORS
kernels = OPERATORS["ridge"]["value"].cpp.kernels
right = kernels.backward
kernels.backward = lambda *given: tuple(d if d is None else d * 1.01 for d in right(*given))
"""
    found = doctor(before=change, code=1)
    assert found["cpp float32"]["status"] == found["cpp float64"]["status"] == FAILURE
    assert "cases wrong: ridge 33x5x17: gradient of x: error" in found["cpp float32"]["finding"]
    assert "GRADNETS_FAST_BACKEND=reference" in found["cpp float32"]["advice"]
    assert found["reference float32"]["status"] == OK


@pytest.mark.slow
def test_the_triton_kernels_are_tested_in_the_interpreter() -> None:
    """The interpreter is on in this process, by its environment."""
    found = list(selftest.of_backend("triton", [CPU]))
    assert [check.name for check in found] == [f"triton {dtype}" for dtype in selftest.DTYPES if dtype != "float64"]
    for check in found:
        assert check.status == OK
        assert f"{len(functional.__all__)} cases right in Triton's interpreter" in check.finding


@pytest.mark.parametrize(
    ("asked", "driver", "cuda", "visible", "status", "advice"),
    [
        (False, None, None, None, NOTE, ""),
        (True, None, None, None, FAILURE, "pytorch.org"),
        (False, "580.65", "13.0", None, WARNING, "pytorch.org"),
        (False, "580.65", "13.0", "", NOTE, "unset CUDA_VISIBLE_DEVICES"),
        (True, "580.65", "13.0", "-1", FAILURE, "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_torch_sees_no_gpu(
    asked: bool,
    driver: str | None,
    cuda: str | None,
    visible: str | None,
    status: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init() -> None:
        raise RuntimeError("No CUDA GPUs are available")

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    check = gpu.why_none(asked, driver)
    assert check.status == status
    assert check.finding.startswith("torch sees none: RuntimeError: No CUDA GPUs are available")
    assert advice in check.advice
    assert bool(advice) == bool(check.advice)


def _ahead_of_time() -> Check:
    prebuilt.installed.cache_clear()
    compilation._prebuilt._why_not_installed.cache_clear()
    (check,) = compilation._ahead_of_time(Request())
    return check


@pytest.mark.slow
def test_kernels_compiled_ahead_of_time_are_counted_and_a_broken_file_is_noticed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = archive(tmp_path_factory)
    monkeypatch.setattr(prebuilt, "PATH", file)
    assert _ahead_of_time().status == OK
    assert f"{len(FEW)} for sm_80" in _ahead_of_time().finding
    with monkeypatch.context() as without:
        without.setattr(compilation._triton, "_why_not_installed", lambda: "triton cannot be imported")
        assert (_ahead_of_time().status, "triton cannot be" in _ahead_of_time().finding) == (NOTE, True)
    monkeypatch.setenv("GRADNETS_FAST_PREBUILT", "0")
    assert _ahead_of_time().finding.endswith("not used: GRADNETS_FAST_PREBUILT is 0")
    (tmp_path / "broken.zip").write_text("no archive")
    monkeypatch.setattr(prebuilt, "PATH", tmp_path / "broken.zip")
    assert (_ahead_of_time().status, "pip install" in _ahead_of_time().advice) == (WARNING, True)
    monkeypatch.undo()
    assert _ahead_of_time().status == (OK if prebuilt.PATH.is_file() else NOTE)


class WithGpu(Request):
    """A request where there is a GPU for the kernels."""

    def needs_kernels(self) -> bool:
        return True


def test_where_there_is_a_gpu_what_triton_lacks_is_graver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(compilation._triton, "_why_not_installed", lambda: "it needs triton 3.6 or later, and 3.5 is")
    found = {check.name: check for check in examination.checks("Triton", WithGpu())}
    assert found["Triton's cache"].status == FAILURE
    assert found["triton"].status == WARNING
    assert "pip install" in found["triton"].advice


def test_a_folder_without_execution_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_at() -> Check:
        return compilation.writable("cache", tmp_path / "new" / "folder", FAILURE, "another folder")

    assert looked_at().status == OK
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert (looked_at().status, "noexec" in looked_at().finding) == (FAILURE, True)


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _of_something(request: Request) -> Any:
        raise LookupError("lost")

    monkeypatch.setattr(software, "CHECKS", (_of_something, software._python))
    broken, sound = examination.checks("Software", Request())
    assert (broken.name, broken.status) == ("of something", FAILURE)
    assert "LookupError: lost" in broken.finding
    assert broken.advice == examination.ISSUE
    assert sound.name == "python"


@pytest.mark.parametrize(
    ("installed", "status"),
    [(__version__, OK), (f"{__version__}+cu13", OK), (f"{__version__}.1", WARNING), (None, NOTE)],
)
def test_a_package_that_is_another_than_the_installed_one_is_noticed(
    installed: str | None, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "installed_version", lambda: installed)
    (found,) = software._package(Request())
    assert found.status == status
