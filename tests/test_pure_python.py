"""The package without its C++ extension: that it works and says so, which builds lead to it, and which fail instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import gradnets_fast
import test_doctor
from cmake_build import ROOT, copy_of, run
from gradnets_fast.apps.doctor.examination import WARNING
from gradnets_fast.ops import _cpp
from release import cuda, extension

TOOLS = str(Path(sys.executable).parent)
SYSTEM = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
MSVC = "-DCMAKE_CXX_COMPILER_FORCED=1 -DCMAKE_CXX_COMPILER_ID=MSVC"
EXTENSION = f"gradnets_fast/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
WHEEL = f"gradnets_fast-{gradnets_fast.__version__}-py3-none-any.whl"
COMMAND = "GRADNETS_FAST_EXTENSION=1 pip install --force-reinstall --no-deps --no-cache-dir --no-binary gradnets_fast"

USE = """
import torch, gradnets_fast
from gradnets_fast.nn import registry
torch.manual_seed(0)
for case in registry.cases():
    net, x = case.make(dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(net.named_parameters())
    f, expected = net(x), case.reference(parameters, x)
    leaves, g = [x, *parameters.values()], torch.randn_like(f)
    gradients = (torch.autograd.grad(result, leaves, g, materialize_grads=True) for result in (f, expected))
    torch.testing.assert_close([f, *next(gradients)], [expected, *next(gradients)])
print(gradnets_fast.explain(net, x))
try:
    with gradnets_fast.use_backend("cpp"):
        net(x)
except gradnets_fast.BackendUnavailableError as error:
    print(error)
"""


@pytest.fixture(scope="module", name="installed")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Statements by which a process finds a copy without the extension, and nothing of this checkout."""
    site = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "gradnets_fast", site / "gradnets_fast", ignore=ignored)
    shutil.copytree(ROOT / "kernels", site / "gradnets_fast" / "kernels", ignore=ignored)
    finders = "[finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]"
    return f"import sys\nsys.meta_path[:] = {finders}\nsys.path[:0] = [{str(site)!r}]\n"


@pytest.mark.slow
def test_networks_are_those_of_the_reference_and_the_kernels_that_are_missing_are_named(installed: str) -> None:
    text = run(sys.executable, "-c", installed + USE)
    assert "backend   reference: the fastest that can run this call" in text
    missing = "the compiled extension gradnets_fast._C cannot be imported (No module named 'gradnets_fast._C')"
    assert text.count(f"{missing}; to build it, with GCC: {COMMAND} gradnets_fast") == 2
    assert "choose one of reference" in text


@pytest.mark.slow
def test_the_doctor_takes_it_for_slow_but_sound(installed: str) -> None:
    check = test_doctor.quick(installed)["extension"]
    assert check["status"] == WARNING
    assert check["finding"].startswith("this installation is of Python alone, without the C++ extension")
    assert check["advice"] == f"{COMMAND} gradnets_fast, with GCC"


def test_an_extension_of_other_sources_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    monkeypatch.setattr(_cpp, "__file__", str(tmp_path / "gradnets_fast" / "ops" / "_cpp.py"))
    assert _cpp._load()[1] is None
    (tmp_path / "csrc" / "README").touch()
    assert _cpp._load()[1] is None
    (tmp_path / "csrc" / "common.h").write_text("", encoding="utf-8")
    loaded, reason = _cpp._load()
    assert loaded is None
    assert reason is not None
    assert reason.startswith("the compiled extension was built from other files than csrc/ has now; to build it, ")
    assert COMMAND in reason
    monkeypatch.setitem(sys.modules, "gradnets_fast._C", SimpleNamespace())  # from before there were digests
    assert _cpp._load() == (None, reason)


@pytest.mark.parametrize(
    ("platform", "value", "gpu", "left_out", "required", "tried"),
    [
        ("linux", "", "", False, False, True),
        ("linux", "1", "", False, True, True),
        ("linux", "0", "", True, False, True),
        ("linux", "", "1", False, True, True),
        ("win32", "", "", False, False, False),
        ("darwin", "", "", False, False, False),
        ("darwin", "1", "", False, True, True),
    ],
)
def test_which_builds_have_the_extension(
    platform: str, value: str, gpu: str, left_out: bool, required: bool, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(extension.VARIABLE, value)
    monkeypatch.setenv(cuda.VARIABLE, gpu)
    assert (extension.left_out(), extension.required(), extension.untried() is None) == (left_out, required, tried)
    assert bool(extension.requirements()) == (tried and not left_out)


@pytest.mark.parametrize(("value", "gpu", "got"), [("yes", "", "'yes'"), ("0", "1", "0")])
def test_a_value_that_cannot_be_meant_ends_the_build(
    value: str, gpu: str, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(extension.VARIABLE, value)
    monkeypatch.setenv(cuda.VARIABLE, gpu)
    with pytest.raises(SystemExit, match=f"setup: GRADNETS_FAST_EXTENSION: expected 1.*, got {got}; unset "):
        extension.left_out()


def _build(source: Path, kind: str = "wheel", **variables: str) -> subprocess.CompletedProcess[str]:
    """Builds a wheel, or an editable one, into dist/, with this environment's tools on PATH unless another is given."""
    command = [sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{kind}('dist')"]
    changed = {"PATH": TOOLS, extension.VARIABLE: "", **variables}
    return subprocess.run(
        command, cwd=source, env={**os.environ, **changed}, capture_output=True, text=True, check=False
    )


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> Path:
    """A checkout where extensions of earlier builds lie."""
    source = copy_of(ROOT, tmp_path / "source")
    platform = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for folder in (source, source / "build" / f"lib.{platform}"):
        (folder / EXTENSION).parent.mkdir(parents=True, exist_ok=True)
        (folder / EXTENSION).touch()
    return source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({}, "No CMAKE_CXX_COMPILER could be found"),
        ({"CXX": "false", "PATH": SYSTEM}, "is not able to compile a simple test program"),
        ({"GRADNETS_FAST_CMAKE_ARGS": MSVC, "PATH": SYSTEM}, "CXX: expected GCC"),
        ({"PATH": "/"}, "CMake does not start"),
        ({extension.VARIABLE: "0"}, None),
    ],
    ids=["no compiler", "a broken compiler", "a compiler of other extensions", "no CMake", "left out"],
)
def test_a_build_that_cannot_compile_is_of_python_alone_and_for_every_platform(
    variables: dict[str, str], cause: str | None, source: Path
) -> None:
    done = _build(source, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in source.glob("dist/*")] == [WHEEL]
    with zipfile.ZipFile(source / "dist" / WHEEL) as file:
        names = file.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: true\nTag: py3-none-any\n" in file.read(metadata).decode()
    folders = {"gradnets_fast": source / "gradnets_fast", "gradnets_fast/kernels": source / "kernels"}
    sources = {Path(name, path.relative_to(top)) for name, top in folders.items() for path in top.rglob("*.py")}
    assert {Path(name) for name in names if name.endswith(".py")} == sources
    assert not [name for name in names if "_C." in name]
    assert (extension.NOTICE in done.stderr) == (cause is not None)
    assert cause is None or cause in done.stdout + done.stderr


def test_an_extension_that_is_required_and_cannot_be_built_fails_the_build(source: Path) -> None:
    done = _build(source, **{extension.VARIABLE: "1"})
    assert done.returncode != 0
    assert "error: CMake has failed, for the reason above" in done.stdout + done.stderr
    assert not list(source.glob("dist/*"))


@pytest.mark.parametrize("value", ["", "0"])
def test_an_editable_installation_without_it_keeps_none_of_an_earlier_one(value: str, source: Path) -> None:
    done = _build(source, "editable", **{extension.VARIABLE: value})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (source / EXTENSION).exists()
