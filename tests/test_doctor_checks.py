"""The doctor's single checks: what they make of drivers, folders, extras and files that are not here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from few_kernels import FEW, archive
from gradnets_fast import __version__
from gradnets_fast.apps.doctor import compilation, examination, gpu, processor, software
from gradnets_fast.apps.doctor.examination import FAILURE, GROUPS, NOTE, OK, WARNING, Check, Group, Request
from gradnets_fast.kernels import prebuilt


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 64), ("150000 100000", 2), ("20000 100000", 1)])
def test_the_quota_of_a_container_counts(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu.max").write_text(quota)
    assert processor.available_cores(tmp_path / "cpu.max") == cores


def test_a_driver_that_a_container_lacks_is_a_failure() -> None:
    assert gpu.of_driver("580.65", True).status == OK
    assert gpu.of_driver(None, False).status == NOTE
    lacking = gpu.of_driver(None, True)
    assert (lacking.status, "docker run --gpus all" in lacking.advice) == (FAILURE, True)


@pytest.mark.parametrize(
    ("asked", "driver", "cuda", "visible", "status", "advice"),
    [
        (False, None, None, None, NOTE, ""),
        (True, None, None, None, FAILURE, "pytorch.org"),
        (False, "580.65", None, None, WARNING, "pytorch.org"),
        (False, "580.65", "13.0", None, FAILURE, "update the driver"),
        (False, "580.65", "13.0", "", NOTE, "unset CUDA_VISIBLE_DEVICES"),
        (True, "580.65", "13.0", "-1", FAILURE, "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_torch_sees_no_gpu(
    asked: bool, driver: str | None, cuda: str | None, visible: str | None, status: str, advice: str
) -> None:
    check = gpu.why_none("RuntimeError: No CUDA GPUs are available", asked, driver, cuda, visible)
    assert check.status == status
    assert check.finding.startswith("torch sees none: RuntimeError: No CUDA GPUs are available")
    assert advice in check.advice
    assert bool(advice) == bool(check.advice)


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
    broken, sound, _ = GROUPS[0].checks(Request())
    assert (broken.name, broken.status) == ("of something", FAILURE)
    assert "LookupError: lost" in broken.finding
    assert broken.advice == examination.ISSUE
    assert sound.name == "python"


def test_an_extra_that_is_missing_or_too_old_is_noticed() -> None:
    found, missing, old = map(Requirement, ("torch>=2.6", "no-such-package", "torch>=99"))
    assert software.of_extra("x", [found]).status == OK
    assert software.of_extra("x", [found, missing]).finding == "no-such-package not installed"
    assert software.of_extra("x", [missing]).status == NOTE
    check = software.of_extra("x", [old, missing])
    assert (check.status, check.advice) == (WARNING, "pip install 'gradnets_fast[x]'")
    assert "torch>=99 is needed" in check.finding


def test_extras_that_an_extra_names_are_followed_and_markers_are_heeded() -> None:
    lines = ["torch", "rich>=13; extra == 'train'", "gradnets-fast[train]; extra == 'all'"]
    lines += ["grain; python_version < '3' and extra == 'all'"]
    assert [str(r) for r in software.needed_by("all", list(map(Requirement, lines)))] == ['rich>=13; extra == "train"']


@pytest.mark.parametrize(("label", "status"), [("", OK), ("+cu13", OK), (".1", WARNING)])
def test_a_package_installed_from_another_version_is_noticed(
    label: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "installed_homes", lambda: {software.HOME: f"{__version__}{label}"})
    (found,) = software._package(Request())
    assert found.status == status
