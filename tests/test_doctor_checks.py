"""The doctor's single checks: what they make of drivers, folders, extras and files that are not here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from few_kernels import FEW, archive
from gradnets_fast import __version__
from gradnets_fast.apps.doctor import (
    FAILURE,
    GROUPS,
    NOTE,
    OK,
    WARNING,
    Check,
    Group,
    Request,
    compilation,
    examination,
    gpu,
    processor,
    requirements,
    software,
)
from gradnets_fast.kernels import prebuilt
from test_doctor import quick


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 64), ("150000 100000", 2), ("20000 100000", 1)])
def test_the_quota_of_a_container_counts(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu.max").write_text(quota)
    assert processor.available_cores(tmp_path / "cpu.max") == cores


DRIVER = """
#include <stdlib.h>
int cuInit(unsigned flags) { (void)flags; return atoi(getenv("RESULT")); }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuGetErrorName(int result, const char **name) {
    *name = result == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
    return 0;
}
"""


@pytest.fixture(name="library", scope="module")
def _library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the driver's, where there is none; its start gives the variable RESULT."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "driver.c"], check=True)
    return library


@pytest.mark.parametrize(
    ("result", "status", "finding"),
    [
        ("0", OK, "up to 12.4"),
        ("100", NOTE, "CUDA_ERROR_NO_DEVICE"),
        ("803", FAILURE, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
    ],
)
def test_a_driver_is_asked_for_its_version_and_started(
    result: str, status: str, finding: str, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESULT", result)
    check = gpu.of_driver(gpu.driver(str(library)), "12.4", in_kernel=True)
    assert check.status == status
    assert finding in check.finding
    assert check.advice or status != FAILURE


def test_a_driver_that_works_beside_a_torch_that_sees_no_gpu_is_noticed(library: Path) -> None:
    found = quick(LD_LIBRARY_PATH=str(library.parent), RESULT="0")
    assert "CUDA up to 12.4" in found["driver"]["finding"]
    # Of a torch for CUDA the GPUs are hidden.
    assert found["GPUs"]["status"] == (WARNING if torch.version.cuda is None else NOTE)


def test_a_driver_that_a_container_lacks_is_a_failure() -> None:
    check = gpu.of_driver(gpu.driver("libno-such-driver.so.1"), "12.4", in_kernel=True)
    assert check.status == FAILURE
    assert "docker run --gpus all" in check.advice


AGES = [
    ((12, 8), "12.8", OK),
    ((13, 0), "12.8", OK),
    ((12, 4), "12.8", NOTE),
    ((12, 8), "13.0", FAILURE),
    ((12, 8), None, OK),
]


@pytest.mark.parametrize(("version", "cuda", "status"), AGES)
def test_a_driver_older_than_torch_is_noticed(version: tuple[int, int], cuda: str | None, status: str) -> None:
    check = gpu.of_age(version, cuda)
    assert check.status == status
    assert bool(check.advice) == (status != OK)


WORKS, LACKS, FAILS = gpu.Driver((12, 8)), gpu.Driver(None, "no such file"), gpu.Driver((12, 8), "CUDA_ERROR_UNKNOWN")


@pytest.mark.parametrize(
    ("driver", "cuda", "visible", "wanted", "status", "finding"),
    [
        (LACKS, None, None, None, NOTE, "built for the CPU"),
        (WORKS, None, None, None, WARNING, "built for the CPU"),
        (LACKS, None, None, "cuda", FAILURE, "built for the CPU"),
        (WORKS, "12.8", "", None, NOTE, "CUDA_VISIBLE_DEVICES is ''"),
        (WORKS, "12.8", "-1", "cuda", FAILURE, "CUDA_VISIBLE_DEVICES is '-1'"),
        (LACKS, "12.8", None, None, NOTE, "the driver gives it none"),
        (FAILS, "12.8", "0", "cuda:0", FAILURE, "the driver gives it none"),
        (WORKS, "12.8", "0,1", None, FAILURE, "though the driver works"),
    ],
)
def test_why_torch_sees_no_gpu(
    driver: gpu.Driver, cuda: str | None, visible: str | None, wanted: str | None, status: str, finding: str
) -> None:
    check = gpu.why_none(driver, cuda, None, visible, wanted)
    assert check.status == status
    assert finding in check.finding
    assert check.advice or status == NOTE


def _ahead_of_time() -> Check:
    prebuilt.installed.cache_clear()
    compilation._prebuilt._why_not_installed.cache_clear()
    (check,) = compilation._ahead_of_time(Request())
    return check


def test_kernels_compiled_ahead_of_time_are_counted_and_a_broken_file_is_noticed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = archive(tmp_path_factory)
    monkeypatch.setattr(prebuilt, "PATH", file)
    count = len(FEW)
    assert _ahead_of_time().status == OK
    assert f"{count} for sm_80" in _ahead_of_time().finding
    with monkeypatch.context() as without:
        without.setattr(compilation._triton, "_why_not_installed", lambda: "triton cannot be imported")
        assert (_ahead_of_time().status, "triton cannot be" in _ahead_of_time().finding) == (NOTE, True)
    monkeypatch.setenv("GRADNETS_FAST_PREBUILT", "0")
    assert _ahead_of_time().finding.endswith("not used: GRADNETS_FAST_PREBUILT is 0")
    (tmp_path / "broken.zip").write_text("no archive")
    monkeypatch.setattr(prebuilt, "PATH", tmp_path / "broken.zip")
    assert _ahead_of_time().status == WARNING
    assert "pip install" in _ahead_of_time().advice
    monkeypatch.undo()
    assert _ahead_of_time().status == (OK if prebuilt.PATH.is_file() else NOTE)


class WithGpu(Request):
    """A request where there is a GPU for the kernels."""

    def needs_kernels(self) -> bool:
        return True


def test_where_there_is_a_gpu_what_triton_lacks_is_graver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("CC", str(tmp_path / "file"))
    monkeypatch.setattr(compilation._triton, "_why_not_installed", lambda: "it needs triton 3.6 or later, and 3.5 is")
    found = {check.name: check for check in Group("Triton", "compilation").checks(WithGpu())}
    assert found["Triton's cache"].status == found["C compiler"].status == FAILURE
    assert found["triton"].status == WARNING
    assert "pip install" in found["triton"].advice


def test_a_folder_without_room_or_execution_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_at() -> Check:
        return compilation.writable("cache", tmp_path / "new" / "folder", FAILURE, "another folder")

    assert looked_at().status == OK
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert (looked_at().status, looked_at().advice) == (WARNING, "free some there, or another folder")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert (looked_at().status, "noexec" in looked_at().finding) == (FAILURE, True)


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _of_something(request: Request) -> Any:
        raise LookupError("lost")

    monkeypatch.setattr(software, "CHECKS", (_of_something, software._python))
    broken, sound = GROUPS[0].checks(Request())
    assert (broken.name, broken.status) == ("of something", FAILURE)
    assert "LookupError: lost" in broken.finding
    assert broken.advice == examination.ISSUE
    assert sound.name == "python"


def test_an_extra_that_is_missing_or_too_old_is_noticed() -> None:
    found, missing = requirements.Requirement("torch", ">=2.6"), requirements.Requirement("no-such-package")
    assert software._extra("x", [found]).status == OK
    assert "no-such-package" in software._extra("x", [found, missing]).finding
    assert software._extra("x", [missing]).status == NOTE
    old = software._extra("x", [requirements.Requirement("torch", ">=99")])
    assert (old.status, old.advice) == (WARNING, "pip install 'gradnets_fast[x]'")


def test_every_extra_of_this_installation_is_examined() -> None:
    found = {check.name for check in GROUPS[0].checks(Request())}
    for extra in requirements.requirements("gradnets_fast"):
        assert (f"extra {extra}" in found) == (extra not in ("", "test", "dev", "triton"))


@pytest.mark.parametrize(("label", "status"), [("", OK), ("+cu13", OK), (".1", WARNING)])
def test_a_package_installed_from_another_version_is_noticed(
    label: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "installed_homes", lambda: {software.HOME: f"{__version__}{label}"})
    (found,) = software._package(Request())
    assert found.status == status
