"""What GRADNETS_FAST_CUDA adds to a wheel; the compilation itself is tests/test_prebuilt.py's."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from cmake_build import ROOT
from few_kernels import archive, changed, manifest_of
from release import cuda

pytestmark = pytest.mark.slow


@pytest.fixture(name="kernels", scope="module")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory)


@pytest.fixture(name="build")
def _build(tmp_path: Path) -> Path:
    """A folder with the package's Python files."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "kernels", "prebuilt.zip")
    shutil.copytree(ROOT / "gradnets_fast", tmp_path / "gradnets_fast", ignore=ignored)
    shutil.copytree(ROOT / "kernels", tmp_path / "gradnets_fast" / "kernels", ignore=ignored)
    return tmp_path


@pytest.mark.parametrize("value", ["", "0"])
def test_nothing_is_added_or_kept_unasked(value: str, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda.VARIABLE, value)
    (build / cuda.PLACE).touch()
    cuda.add(build / cuda.PLACE)
    assert (cuda.requirements(), cuda.tag(), cuda.tools(build)) == ([], "", {})
    assert not list(build.rglob(cuda.FILE))


def test_the_compiler_is_the_one_that_the_table_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda.VARIABLE, "1")
    monkeypatch.setattr(sys, "version_info", cuda.OLDEST_PYTHON)
    assert cuda.requirements() == [cuda.TRITON]
    monkeypatch.setattr(sys, "version_info", (3, 10, 14))
    with pytest.raises(SystemExit, match=r"expected Python 3\.11 or later, .*; compile with another Python"):
        cuda.requirements()
    table = json.loads((ROOT / "kernels" / "table.json").read_text(encoding="utf-8"))
    kinds = (kinds for kernels in table.values() for kinds in kernels.values())
    made = {f"triton=={e['triton']}" for entries in kinds for listed in entries.values() for e in listed}
    assert made == {cuda.TRITON}


def test_requirements_can_be_asked_for_before_they_are_there(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda.VARIABLE, "1")
    monkeypatch.setattr(cuda, "find_spec", lambda _: None)
    assert cuda.tag() == ""
    with pytest.raises(SystemExit, match=r"expected triton==.* to be installed"):
        cuda.add(build / cuda.PLACE)


def test_a_file_of_an_earlier_build_is_packed(kernels: Path, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda.VARIABLE, str(kernels))
    cuda.add(build / cuda.PLACE)
    assert (build / cuda.PLACE).read_bytes() == kernels.read_bytes()
    manifest = manifest_of(kernels)
    assert cuda.tag() == f"+cu{manifest['toolkit'].partition('.')[0]}"
    assert cuda.tools(build)["Triton"] == manifest["triton"]


def test_a_file_of_other_kernels_is_refused(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = changed(kernels, tmp_path / "stale.zip", sources="0" * 16)
    monkeypatch.setenv(cuda.VARIABLE, str(stale))
    with pytest.raises(SystemExit, match=r"compiled from other kernels \([\w.]+\) than those installed"):
        cuda.tag()


def test_what_is_no_such_file_and_what_is_too_large_is_refused(
    kernels: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cuda.VARIABLE, str(ROOT / "LICENSE"))
    with pytest.raises(SystemExit, match="expected 1, 0, or a file"):
        cuda.tag()
    monkeypatch.setenv(cuda.VARIABLE, kernels.name)
    with pytest.raises(SystemExit, match=r"an absolute path, got prebuilt\.zip"):
        cuda.tag()
    monkeypatch.setenv(cuda.VARIABLE, str(kernels))
    monkeypatch.setattr(cuda, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="expected at most 1000 bytes"):
        cuda.add(build / cuda.PLACE)
