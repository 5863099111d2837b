"""Kernels compiled ahead of time: what is compiled, what the file says of it, and when it is refused."""

from __future__ import annotations

import dataclasses
import doctest
import re
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import gradnets_fast
from bench.gpu.prebuilt import NETWORKS
from few_kernels import FEW, archive, changed, few, manifest_of, python
from gradnets_fast.kernels import compiler, configuration, hot, launching, prebuild, prebuilt, sources
from gradnets_fast.ops import _prebuilt, _triton, _triton_account, _triton_modules


@pytest.fixture(name="archive", scope="module")
def _archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory)


@pytest.mark.slow
def test_the_manifest_says_what_each_kernel_takes(archive: Path) -> None:
    manifest = manifest_of(archive)
    entries = manifest["kernels"]
    assert {entry["target"] for entry in entries} == {"sm_80", "sm_90a", "sm_100a", "ptx"}
    assert {entry["kernel"] for entry in entries} == {kernel for kernel, *_ in FEW}
    assert len(entries) == len(FEW) * (len(configuration.ARCHITECTURES) + 1)
    for entry in entries:
        assert entry["stack"] == 0
        assert 0 < entry["registers"] <= 255
        assert entry["shared"] <= 1024 * max(configuration.SHARED_KB.values())
        assert entry["threads"] == 32 * entry["constants"]["num_warps"]
        assert entry["sources"] == sources.digest(entry["kernel"], sources.names_in(entry["constants"]))
        present = [kind for kind in entry["types"].values() if kind is not None]
        assert entry["parameters"] == ["u64" if kind[0] == "*" else "u32" for kind in present] + ["u64", "u64"]


@pytest.mark.slow
def test_machine_code_has_the_parameters_of_themanifest_of(archive: Path, tmp_path: Path) -> None:
    """By what the code itself says of them."""
    tool = next((Path(compiler.triton.__file__).parent / "backends" / "nvidia" / "bin").glob("cuobjdump"))
    with zipfile.ZipFile(archive) as file:
        for entry in manifest_of(archive)["kernels"]:
            content = file.read(entry["image"])
            if entry["target"] == "ptx":
                assert b".target sm_80" in content
                assert b".version 8.0" in content
                continue
            path = tmp_path / "image.cubin"
            path.write_bytes(content)
            text = subprocess.run([tool, "-elf", path], capture_output=True, text=True, check=True).stdout
            assert re.search(rf"\bsm[=_]{entry['target'].removeprefix('sm_')}\b", text), text[:500]
            sizes = dict(re.findall(r"Ordinal : 0x(\w+).*?Size\s*: 0x(\w+)", text))
            found = [int(size, 16) for _, size in sorted(sizes.items(), key=lambda item: int(item[0], 16))]
            assert found == [{"u64": 8, "u32": 4}[kind] for kind in entry["parameters"]]


@pytest.mark.slow
def test_the_file_finds_its_kernels(archive: Path) -> None:
    found = prebuilt.read(archive)
    for architecture in configuration.ARCHITECTURES:
        for _, launch in few(architecture):
            signature = tuple(launch.types.values())
            (kernel,) = found.serving(launch.kernel, launch.constants, signature, architecture)
            assert prebuilt.runs_on(kernel.target, architecture)
            assert found.image(kernel)[:4] == b"\x7fELF"
            other = launch.constants | {"D": 5}
            assert found.serving(launch.kernel, other, signature, architecture) == []
            assert found.covers(launch.kernel, {"D": launch.constants["D"]}, architecture)
            assert not found.covers(launch.kernel, {"D": 5}, architecture)


@pytest.mark.slow
def test_later_gpus_take_ptx_and_the_same_generation_machine_code(archive: Path) -> None:
    found = prebuilt.read(archive)
    ((_, launch),) = [task for task in few(80) if task[1].kernel == "entry.forward"]
    call = (launch.kernel, launch.constants, tuple(launch.types.values()))
    targets = {number: [k.target for k in found.serving(*call, number)] for number in (75, 80, 86, 89, 120, 121)}
    assert targets == {75: [], 80: ["sm_80"], 86: ["sm_80"], 89: ["sm_80"], 120: ["ptx"], 121: ["ptx"]}
    assert doctest.testmod(prebuilt).failed == 0


@pytest.mark.slow
def test_code_of_other_kernels_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(prebuilt.PrebuiltError, match=r"compiled from other kernels \([\w.]+\) than those installed"):
        prebuilt.read(changed(archive, tmp_path / "stale.zip", sources="0" * 16))


@pytest.mark.slow
def test_a_file_that_cannot_be_used_says_why(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.zip").write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(prebuilt.PrebuiltError, match="BadZipFile"):
        prebuilt.read(tmp_path / "broken.zip")
    with pytest.raises(prebuilt.PrebuiltError, match="expected format 1, got 7"):
        prebuilt.read(changed(archive, tmp_path / "later.zip", format=7))
    monkeypatch.setattr(prebuilt, "PATH", tmp_path / "none.zip")
    prebuilt.installed.cache_clear()
    assert prebuilt.status() == (False, "this installation has none")
    monkeypatch.setattr(prebuilt, "PATH", archive)
    prebuilt.installed.cache_clear()
    usable, text = prebuilt.status()
    assert usable
    assert f"{len(FEW)} for sm_90a" in text
    prebuilt.installed.cache_clear()


_SPILLS = """
from dataclasses import replace
from pathlib import Path
from few_kernels import few
from gradnets_fast.kernels import prebuild
((a, launch), *_) = [task for task in few(90) if task[1].kernel == "entry.backward"]
large = replace(launch, constants=launch.constants | {"BM": 32, "BH": 128, "num_warps": 1})
try:
    prebuild.build(Path(sys.argv[1]), [(a, large)], processes=1)
except prebuild.BuildError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_build_fails_on_a_kernel_that_spills(tmp_path: Path) -> None:
    text = python(_SPILLS, str(tmp_path / "prebuilt.zip"))
    assert re.search(r"'BH': 128.* for 90: [1-9]\d* bytes of stack, .*it does not fit", text), text
    assert list(tmp_path.iterdir()) == []


class _Metadata:
    global_scratch_size = profile_scratch_size = 0
    num_ctas = 1
    launch_cooperative_grid = launch_pdl = False


@pytest.mark.slow
def test_the_build_fails_on_unexpected_arguments(archive: Path) -> None:
    (entry, *_) = [e for e in manifest_of(archive)["kernels"] if e["target"] == "ptx"]
    with zipfile.ZipFile(archive) as file:
        ptx = file.read(entry["image"]).decode()
    launch = compiler.Launch(entry["kernel"], {}, entry["types"], frozenset())
    assert prebuild.check_arguments("it", launch, ptx, _Metadata()) == entry["parameters"]
    fewer = replace(launch, types=dict(list(entry["types"].items())[1:]))
    with pytest.raises(prebuild.BuildError, match=r"it: expected the arguments .* takes"):
        prebuild.check_arguments("it", fewer, ptx, _Metadata())
    scratch = _Metadata()
    scratch.global_scratch_size = 128
    with pytest.raises(prebuild.BuildError, match="expected a plain launch"):
        prebuild.check_arguments("it", launch, ptx, scratch)


def test_hot_names_every_kernel_once_or_more_and_none_that_has_no_tiles() -> None:
    assert set(hot.NETWORKS) == set(NETWORKS)
    for architecture in configuration.ARCHITECTURES:
        for _, launch in prebuild.tasks([architecture]):
            arguments = launch.function.arg_names
            options = {"num_warps", "num_stages", "enable_fp_fusion"}
            assert set(arguments) == (set(launch.constants) | set(launch.types)) - options


@pytest.fixture(name="recorded")
def _recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """What would be launched on a GPU, in place of launching it."""
    launches: list[tuple[Any, ...]] = []

    def record(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> bool:
        launches.append((kernel, grid, arguments, constants))
        return True

    _forget()
    launching.try_first(record)
    yield launches
    launching.try_first(None)
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    _triton._mode_of.cache_clear()
    _triton_modules._mode_of.cache_clear()


def _steps(net: gradnets_fast.nn.GradNet, d: int, kind: str) -> None:
    """What `hot` is for: f, a training step, and one that has layers before it."""
    x = torch.randn(5, d)
    with gradnets_fast.use_backend("triton"), torch.autocast("cpu", torch.bfloat16, enabled=kind == "half"):
        for points in (x, x.requires_grad_()):
            net(points).float().sum().backward()


@pytest.mark.parametrize("architecture", configuration.ARCHITECTURES)
@pytest.mark.parametrize("name", hot.NETWORKS)
def test_modules_launch_what_is_compiled(
    name: str, architecture: int, recorded: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[Any, list[frozenset[str]]] = {}
    for launch in hot.launches(architecture):
        key = (launch.kernel, frozenset(launch.constants.items()), tuple(launch.types.values()))
        known.setdefault(key, []).append(launch.multiples)
    missing = set()
    for kind, d, even in product(hot.KINDS[architecture], (*hot.WIDTHS, hot.WIDE), (True, False)):
        for module in (_triton, _triton_modules):
            monkeypatch.setattr(module, "architecture_of", lambda _: architecture)
            monkeypatch.setattr(module, "products_of", lambda _, kind=kind: kind)
        _forget()
        recorded.clear()
        _steps(NETWORKS[name](d, 256 if even else 257), d, kind)
        for kernel, _, arguments, constants in recorded:
            label = _prebuilt.name_of(kernel)
            signature = tuple(_prebuilt._type(argument) for argument in arguments)
            found = known.get((label, frozenset(constants.items()), signature), [])
            values = dict(zip(compiler.function(label).fn.__code__.co_varnames, arguments))
            if not any(_holds(multiples, values) for multiples in found):
                missing.add((label, kind, d, even))
        labels = {_prebuilt.name_of(kernel) for kernel, *_ in recorded}
        if labels and not any(hot.left_out(architecture, name, label, kind, d, even) for label in labels):
            _explained(NETWORKS[name](d, 256 if even else 257), torch.zeros(5, d), kind, known)
    of_this = {key: widths for key, widths in hot.LEFT_OUT.items() if key[:2] == (architecture, name)}
    listed = {(*key[2:], d, even) for key, both in of_this.items() for even, ds in zip((True, False), both) for d in ds}
    assert missing == listed


def _explained(net: gradnets_fast.nn.GradNet, x: torch.Tensor, kind: str, known: dict[Any, Any]) -> None:
    """What `explain` asks for is there."""
    layers = getattr(net, "num_layers", 1)
    mode = _triton._mode_of(0, kind, layers, ("tanh",), False)
    network = net._effective()
    effective = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    passes = _triton_account.passes(net.operator_name, x, mode, effective)
    assert list(passes) == ["f", "its gradients"]
    for kernel, constants in passes.values():
        assert any(name == kernel and set(constants.items()) <= those for name, those, _ in known)


def _holds(multiples: frozenset[str], values: dict[str, Any]) -> bool:
    numbers = (v.data_ptr() if isinstance(v, torch.Tensor) else v for v in map(values.__getitem__, multiples))
    return all(number % 16 == 0 for number in numbers)
