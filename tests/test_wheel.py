"""The source archive and the wheel: what is in them, and that they work where there is no compiler.

`make wheel-check` does more: it compiles the kernels anew, and runs the contract beside several versions of PyTorch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from base64 import urlsafe_b64encode
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from packaging.requirements import Requirement

import few_kernels
import gradnets_fast
from cmake_build import ROOT, copy_of, kernels, shared_folder
from release import check_wheel, cuda, sbom, smoke

pytestmark = pytest.mark.slow

EPOCH = 1_700_000_000
BUILT = f"gradnets_fast-{gradnets_fast.__version__}"
METADATA = f"{BUILT}.dist-info"
FROM_THE_SYSTEM = {"c", "dl", "gcc_s", "m", "pthread", "stdc++"}
TOP = ("CHANGELOG.md", "CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
FOR_BUILDING = ("__init__.py", "archive.py", "cuda.py", "extension.py", "sbom.py", "smoke.py")
GENERATED = {"PKG-INFO", "setup.cfg"}


def _sources(root: Path, *folders: str) -> set[str]:
    """The files in folders of a checkout that someone has written."""
    paths = (path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in paths if path.suffix not in (".pyc", ".so")}


def _built(source: Path, folder: Path, **variables: str) -> Path:
    """A folder with the archive and the wheel; the kernels are those of another build: compiling them takes minutes."""
    options = {
        "GRADNETS_FAST_CMAKE_ARGS": f"-DGRADNETS_KERNELS={kernels()}",
        "SOURCE_DATE_EPOCH": str(EPOCH),
    } | variables
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**options, "PATH": tools}.items():
            patch.setenv(name, value)
        check_wheel.build(copy_of(source, folder / "source"), folder / "dist", "--no-isolation")
    return folder / "dist"


@pytest.fixture(scope="module", name="dist")
def _dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with shared_folder("wheel", tmp_path_factory) as folder:
        if not (folder / "done").exists():
            _built(ROOT, folder)
            (folder / "done").touch()
    return folder / "dist"


@pytest.fixture(name="source")
def _source(dist: Path) -> Path:
    """The checkout as it was built."""
    return dist.parent / "source"


@pytest.fixture(name="archive")
def _archive(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(name="wheel")
def _wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def _files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {entry.filename: file.read(entry) for entry in file.infolist() if not entry.is_dir()}


def _extension(files: dict[str, bytes]) -> str:
    (name,) = (name for name in files if name.endswith(".so"))
    return name


def test_the_archive_has_the_sources_and_nothing_else(archive: Path, source: Path) -> None:
    with tarfile.open(archive) as file:
        members = [member for member in file if member.isfile()]
        found = {member.name.removeprefix(f"{BUILT}/"): file.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    written = {name for name in found if name not in GENERATED and not name.startswith("gradnets_fast.egg-info/")}
    expected = _sources(source, "csrc", "gradnets_fast", "kernels", "licenses") | set(TOP)
    assert written == expected | {f"release/{name}" for name in FOR_BUILDING}
    for name in written:
        assert found[name] == (source / name).read_bytes(), name


def test_the_wheel_has_the_package_and_its_extension(wheel: Path, source: Path) -> None:
    files = _files(wheel)
    package = {name for name in files if not name.startswith(METADATA)}
    kernels = {f"gradnets_fast/{name}" for name in _sources(source, "kernels")}
    extension = f"gradnets_fast/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert package == _sources(source, "gradnets_fast") | kernels | {extension}
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.startswith(f"{BUILT}-{tag}-{tag}-linux_")


def test_the_record_names_every_file_with_its_hash(wheel: Path) -> None:
    files = _files(wheel)
    record = files.pop(f"{METADATA}/RECORD").decode()
    listed = dict(line.rsplit(",", 2)[:2] for line in record.splitlines())
    assert listed.pop(f"{METADATA}/RECORD") == ""
    digests = {name: urlsafe_b64encode(hashlib.sha256(data).digest()).decode() for name, data in files.items()}
    assert listed == {name: f"sha256={digest.rstrip('=')}" for name, digest in digests.items()}


def test_the_metadata_ask_for_torch_alone(wheel: Path) -> None:
    files = _files(wheel)
    metadata = message_from_string(files[f"{METADATA}/METADATA"].decode())
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert [str(r) for r in requirements if r.marker is None] == ["torch>=2.6"]
    assert metadata["License-Expression"] == "MIT AND BSD-3-Clause"
    licences = metadata.get_all("License-File", [])
    assert set(licences) == {"LICENSE", *_sources(ROOT, "licenses")}
    for name in licences:
        assert files[f"{METADATA}/licenses/{name}"] == (ROOT / name).read_bytes()


def test_the_extension_needs_the_systems_libraries_alone_and_says_nothing_of_the_builder(wheel: Path) -> None:
    files = _files(wheel)
    data = files[_extension(files)]
    elf = ELFFile(io.BytesIO(data))
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    tags = [(tag.entry.d_tag, getattr(tag, "needed", "")) for tag in dynamic.iter_tags()]
    needed = {name for kind, name in tags if kind == "DT_NEEDED" and not name.startswith("ld-linux")}
    assert {re.sub(r"^lib(.*)\.so\.\d+$", r"\1", name) for name in needed} <= FROM_THE_SYSTEM
    assert not {"DT_RPATH", "DT_RUNPATH"} & {kind for kind, _ in tags}
    assert elf.get_section_by_name(".symtab") is None
    assert elf.get_section_by_name(".debug_info") is None
    for place in (ROOT, Path(sys.prefix), Path(sys.base_prefix), wheel.parents[1], Path.home()):
        assert place == Path("/") or f"{place}/".encode() not in data, place


def test_auditwheel_finds_a_manylinux_policy_and_nothing_to_bundle(wheel: Path, tmp_path: Path) -> None:
    final = check_wheel.repaired(wheel, tmp_path)
    assert re.search(r"-manylinux_2_\d+_", final.name)
    before, after = _files(wheel), _files(final)
    changed = {f"{METADATA}/RECORD", f"{METADATA}/WHEEL"}
    assert {name: data for name, data in before.items() if name not in changed} == {
        name: data for name, data in after.items() if name not in changed
    }


def _bill(wheel: Path) -> dict[str, Any]:
    bill: dict[str, Any] = json.loads(_files(wheel)[f"{METADATA}/{sbom.FOLDER}/gradnets_fast.cdx.json"])
    return bill


def test_the_bill_of_materials_is_cyclonedx(wheel: Path) -> None:
    # Here, for they take seconds to import, which each process of a run would spend that only collects this file.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bill = _bill(wheel)
    validator = JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"]))
    assert validator.validate_str(json.dumps(bill)) is None
    assert validator.validate_str(json.dumps({**bill, "components": [{"name": "?"}]})) is not None


def test_the_bill_of_materials_says_what_was_built_in(wheel: Path) -> None:
    files, bill = _files(wheel), _bill(wheel)
    components = {component["name"]: component for component in bill["components"]}
    extension = _extension(files)
    assert components[extension]["hashes"][0]["content"] == hashlib.sha256(files[extension]).hexdigest()
    parts = {name: part for name, part in components.items() if part["type"] == "library"}
    assert parts["pybind11"]["version"] == distribution("pybind11").version
    assert set(parts) <= set(sbom.PARTS)
    references = {component["bom-ref"] for component in bill["components"]} | {"gradnets_fast"}
    assert {entry["ref"] for entry in bill["dependencies"]} == references


def test_the_licence_of_pybind11_is_its_own() -> None:
    files = distribution("pybind11").files or []
    (own,) = (file for file in files if file.name == "LICENSE")
    assert (ROOT / "licenses" / "pybind11.txt").read_text(encoding="utf-8") == own.read_text(encoding="utf-8")


def test_builds_of_one_date_are_the_same_bytes(dist: Path, source: Path, tmp_path: Path) -> None:
    again = _built(source, tmp_path / "another")
    for path in dist.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_a_wheel_with_kernels_of_a_gpu_has_their_file_and_says_so(
    source: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    of_gpu = few_kernels.archive(tmp_path_factory)
    dist = _built(source, tmp_path, **{cuda.VARIABLE: str(of_gpu)})
    (archive,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    assert archive.name == f"{BUILT}.tar.gz"
    version = f"{gradnets_fast.__version__}+cu13"
    assert wheel.name.startswith(f"gradnets_fast-{version}-")
    files = _files(wheel)
    assert files[cuda.PLACE.as_posix()] == of_gpu.read_bytes()
    bill = json.loads(files[f"gradnets_fast-{version}.dist-info/{sbom.FOLDER}/gradnets_fast.cdx.json"])
    assert bill["metadata"]["component"]["version"] == version
    tools = {tool["name"]: tool["version"] for tool in bill["formulation"][0]["components"]}
    assert tools["Triton"] == few_kernels.manifest_of(of_gpu)["triton"]


def test_smoke_asks_for_the_kernels_that_a_version_promises() -> None:
    plain, promising = gradnets_fast.__version__, f"{gradnets_fast.__version__}+cu13"
    assert smoke.faults_of_kernels(plain, False, "there are none") == []
    assert smoke.faults_of_kernels(promising, True, "5 for sm_80") == []
    (fault,) = smoke.faults_of_kernels(promising, False, "there are none")
    assert fault.startswith(f"version {promising}: expected kernels compiled ahead of time, got: there are none; build")


def _borrow(name: str, python: Path, done: set[str]) -> None:
    """Makes a package of this environment, and all that it requires, one of another: it need not be downloaded."""
    (folder,) = (python.parents[1] / "lib").glob("python*/site-packages")
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        if not (folder / top).exists():
            (folder / top).symlink_to(found.locate_file(top))
    done.add(name)
    for requirement in map(Requirement, found.requires or []):
        if requirement.name not in done and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            _borrow(requirement.name, python, done)


def test_it_works_with_torch_alone_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    python, variables = check_wheel.environment(tmp_path / "venv")
    check_wheel.without_compiler(variables)
    final = check_wheel.repaired(wheel, tmp_path / "repaired")
    shutil.copy(ROOT / "release" / "smoke.py", tmp_path)

    def run(*command: str) -> str:
        words = [str(python), *command]
        done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")  # that of Python, which may be too old for PyTorch
    _borrow("torch", python, set())
    run("-m", "pip", "install", "--quiet", "--no-index", str(final))
    run("-m", "pip", "check")
    output = run("smoke.py")
    assert f"of {tmp_path / 'venv'}" in output
    assert str(ROOT) not in output


def test_a_compiler_on_the_path_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "c++").touch(mode=0o755)
    with pytest.raises(ValueError, match=r"PATH: expected no compiler, got c\+\+"):
        check_wheel.without_compiler({"PATH": str(tmp_path)})
