"""The kernel for Hugging Face's `kernels`: its layout, and that a copy of it lives by itself and beside the package."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import functional, nn
from gradnets_fast.apps import draws
from gradnets_fast.apps.draws import Variant
from gradnets_fast.nn.registry import Case, cases
from oracle import assert_as_good_as_eager, outputs_and_gradients, second_gradients
from release import hub

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
ALLOWED = {"torch", "triton", *sys.stdlib_module_names}

Function = Callable[[Sequence[Tensor]], Tensor]


@pytest.fixture(scope="module", autouse=True)
def _sources_are_found_once() -> Iterator[None]:
    """They are parsed for it, and none of these tests changes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "sources", cache(hub.sources))
        yield


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the command wrote."""
    folder = tmp_path_factory.mktemp("hub") / "kernel"
    assert hub.main(["--out", str(folder)]) == 0
    return folder


def variants(kernel: Path) -> list[Path]:
    return [kernel / "build" / name for name in hub.VARIANTS]


def metadata(variant: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((variant / "metadata.json").read_text(encoding="utf-8"))
    return loaded


def files(folder: Path) -> dict[str, Path]:
    """All files by their paths in the folder, but the bytecode of those who have run it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path for path in found}


def isolated(script: str | Path, *arguments: object, **environment: str) -> str:
    """What Python prints that sees neither this folder nor its environment variables."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET" and not k.startswith("GRADNETS_FAST")}
    command = [sys.executable, "-I", *([script] if isinstance(script, Path) else ["-c", script]), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=kept | environment, cwd=os.sep)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_is_a_source_of_the_repository_but_those_that_are_generated(kernel: Path) -> None:
    templates = {"gradnets_fast/__init__.py": ROOT / "release" / "hub_template" / "compat.py"}
    generated, sources = {"__init__.py", "metadata.json"}, files(kernel / "torch-ext" / "gradnets_fast")
    assert {"kernels/entry.py", "kernels/table.json", "nn/cascade.py", "ops/operator.py"} <= sources.keys()
    assert not {name.partition("/")[0] for name in sources} & {"__main__.py", "apps", "swap", "interop"}
    for folder in (kernel / "torch-ext" / "gradnets_fast", *variants(kernel)):
        found = files(folder)
        for name, path in found.items():
            if name not in generated:
                mapped = ROOT / name if name.startswith("kernels/") else ROOT / "gradnets_fast" / name
                assert path.read_bytes() == templates.get(name, mapped).read_bytes(), name
        beside = {"metadata.json", "gradnets_fast/__init__.py"} if folder.parent.name == "build" else set()
        assert found.keys() - sources.keys() == beside
        assert all(found[name].read_bytes() == path.read_bytes() for name, path in sources.items())
    assert (kernel / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert {path.name for path in kernel.iterdir()} == {"build.toml", "README.md", "LICENSE", "torch-ext", "build"}


def test_the_kernel_has_every_operator_and_network(kernel: Path) -> None:
    tree = ast.parse((kernel / "build" / "torch-cpu" / "__init__.py").read_text(encoding="utf-8"))
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    choosing = {"use_backend", "explain", "Explanation", "BackendUnavailableError", "__version__"}
    assert {*ast.literal_eval(assigned["__all__"])} == {*functional.__all__, *nn.__all__, *choosing}
    assert ast.literal_eval(assigned["__version__"]) == gradnets_fast.__version__


def test_imports_are_relative_or_of_torch_triton_and_the_standard_library(kernel: Path) -> None:
    distinct = {path.read_bytes(): (name, path) for name, path in files(kernel).items() if path.suffix == ".py"}
    assert len(distinct) > 50
    for name, path in distinct.values():
        foreign = {module for module in absolute_imports(path) if module.partition(".")[0] not in ALLOWED}
        assert not foreign, f"{name} imports {sorted(foreign)}"


def absolute_imports(path: Path) -> Iterator[str]:
    """What a file imports by its whole name, wherever in the file, by statement or by call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = ast.unparse(node.args[0]).lstrip("f").strip("'\"")
            if not name.startswith("."):
                yield name


def test_relative_imports_lead_to_files_of_the_kernel(kernel: Path) -> None:
    found = files(kernel / "build" / "torch-cuda")
    for name in found:
        if name.endswith(".py") and name not in ("__init__.py", "gradnets_fast/__init__.py"):
            for module in hub.imported(found[name], tuple(name.split("/")[:-1])):
                inside = hub.located(module)
                assert inside is None or inside in found, f"{name} imports {module}"


def test_build_toml_describes_a_kernel_without_compiled_code(kernel: Path) -> None:
    parsed = tomllib.loads((kernel / "build.toml").read_text(encoding="utf-8"))
    general = parsed["general"]
    assert (general["name"], general["license"], general["backends"]) == ("gradnets-fast", "MIT", ["cpu", "cuda"])
    assert general["version"] == int(gradnets_fast.__version__.partition(".")[0])
    endings = {path.suffix.lstrip(".") for path in files(kernel / "torch-ext").values()}
    assert {*parsed["torch-noarch"]["pyext"]} == endings
    assert "hub" not in general


def test_metadata_names_the_build_and_digests_its_files(kernel: Path) -> None:
    identifiers = set()
    for variant in variants(kernel):
        told = metadata(variant)
        found = {name: path for name, path in files(variant).items() if name != "metadata.json"}
        assert told["id"].isidentifier()
        assert told["backend"]["type"] == hub.VARIANTS[variant.name]
        digests = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in found.items()}
        assert {n: base64.b64decode(d) for n, d in told["digest"]["files"].items()} == digests
        identifiers.add(told["id"])
    assert len(identifiers) == len(hub.VARIANTS)


def test_a_build_of_other_sources_has_another_name() -> None:
    names = {hub.revision(package) for package in ({"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1", "b": b""})}
    assert len(names) == 4


def test_a_repository_on_the_hub_is_named_in_what_needs_it(tmp_path: Path) -> None:
    assert hub.main(["--out", str(tmp_path / "kernel"), "--repository", "owner/gradnets-fast"]) == 0
    parsed = tomllib.loads((tmp_path / "kernel" / "build.toml").read_text(encoding="utf-8"))
    assert parsed["general"]["hub"] == {"repo-id": "owner/gradnets-fast"}
    assert 'get_kernel("owner/gradnets-fast", version=0)' in (tmp_path / "kernel" / "README.md").read_text("utf-8")


def test_its_own_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "kernel"
    assert hub.main(["--out", str(folder)]) == 0
    written = {name: path.read_bytes() for name, path in files(folder).items()}
    (folder / "build" / "torch-cpu" / "old.py").write_text("")
    assert hub.main(["--out", str(folder)]) == 0
    assert {name: path.read_bytes() for name, path in files(folder).items()} == written
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("present", "got"),
    [
        ({"thesis.txt": "years"}, "one with thesis.txt"),
        ({"build.toml": f"{hub.MARK}\n", ".git/HEAD": "ref"}, "one with .git"),
        ({"build.toml": "[general]\n"}, "one that something else wrote"),
        ({"README.md": "mine"}, "one that something else wrote"),
        ({"": "mine"}, "a file"),
    ],
    ids=["other files", "a repository", "another kernel", "one file", "a file in the way"],
)
def test_another_folder_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], present: dict[str, str], got: str
) -> None:
    folder = tmp_path / "kernel"
    for name, content in present.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(content)
    assert hub.main(["--out", str(folder)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(rf"expected a folder( that this command may replace)?, got {got}; choose another", said)
    there = {str(folder / name): content for name, content in present.items()}
    assert {str(path): path.read_text() for path in files(tmp_path).values()} == there


@pytest.mark.parametrize("before", [False, True], ids=["nothing there", "one there"])
@pytest.mark.parametrize("step", ["write_bytes", "rename"])
def test_a_run_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str, before: bool
) -> None:
    folder = tmp_path / "kernel"
    if before:
        assert hub.main(["--out", str(folder)]) == 0
    written = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    real = getattr(Path, step)

    def failing(path: Path, argument: Any) -> Any:
        if path.name in ("operator.py", "new"):
            raise OSError(28, "No space left on device", str(path))
        return real(path, argument)

    monkeypatch.setattr(Path, step, failing)
    assert hub.main(["--out", str(folder)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert {name: path.read_bytes() for name, path in files(tmp_path).items()} == written
    assert list(tmp_path.iterdir()) == ([folder] if before else [])


def test_a_module_of_kernels_that_the_sources_do_not_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("kernel_module(name)\n")
    with pytest.raises(ValueError, match=r"a\.py, line 1: expected a name in quotes, got name; write it out"):
        list(hub.imported(tmp_path / "a.py", ("ops",)))


VARIANTS = (
    Variant("ridge", 2, ("tanh", "identity")),
    Variant("softmax_modules", 2),
    Variant("transformed_modules", 2, ("softplus",), "half_square"),
    Variant("deep", 2, ("softplus",)),
    Variant("conv_ridge", 2, ("tanh", "identity")),
)


def of_operators() -> Iterator[tuple[dict[str, Any], Function]]:
    """Each operator as the probe runs it, and in plain PyTorch."""
    for name in functional.__all__:
        (variant,) = (variant for variant in VARIANTS if variant.family == draws.family(name))
        drawn = draws.drawn(name, variant, torch.float32, (6, 3, 7), torch.Generator().manual_seed(0), "cpu")
        case = {"kind": "operator", "name": name, "settings": variant.settings(7), "parameters": list(drawn.named)}
        case |= {"tensors": list(drawn.named.values()), "g": drawn.g}
        yield case, partial(applied, drawn.in_order(draws.oracle(name, variant, 7)))


def applied(exact: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
    return exact(*tensors)


def of_networks() -> Iterator[tuple[dict[str, Any], Function]]:
    """The first case of each network in the registry, likewise."""
    first: dict[str, Case] = {}
    for case in cases():
        first.setdefault(case.make.func.__name__, case)
    for name, case in first.items():
        net = case.make()
        parameters = {key: value.detach() for key, value in net.named_parameters()}
        settings = case.make.keywords
        told = {"kind": "network", "name": name, "settings": settings, "parameters": list(parameters)}
        tensors = [torch.randn(6, settings["in_dim"]), *parameters.values()]
        yield told | {"tensors": tensors, "g": torch.randn_like(tensors[0])}, partial(network, case, list(parameters))


def network(case: Case, names: list[str], tensors: Sequence[Tensor]) -> Tensor:
    return case.reference(dict(zip(names, tensors[1:])), tensors[0])


@pytest.fixture(scope="module", params=["reference", "triton"])
def probe(request: pytest.FixtureRequest, kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a built variant computes by itself on one backend, and what it should."""
    torch.manual_seed(0)
    made = {case["name"]: (case, exact) for case, exact in (*of_operators(), *of_networks())}
    folder = tmp_path_factory.mktemp("probe")
    torch.save({name: case for name, (case, _) in made.items()}, folder / "in.pt")
    variant = kernel / "build" / ("torch-cuda" if request.param == "triton" else "torch-cpu")
    interpreter = {"TRITON_INTERPRET": "1"} if request.param == "triton" else {}
    isolated(TESTS / "hub_probe.py", variant, folder / "in.pt", folder / "out.pt", request.param, **interpreter)
    told: dict[str, Any] = torch.load(folder / "out.pt")
    return told | {"backend": request.param, "cases": made, "id": metadata(variant)["id"]}


@pytest.mark.slow
def test_by_itself_it_is_as_accurate_as_pytorch_to_second_order(probe: dict[str, Any]) -> None:
    assert probe["cases"].keys() >= {*functional.__all__}
    assert probe["results"].keys() == probe["cases"].keys()
    for name, (case, exact) in probe["cases"].items():
        tensors, g = case["tensors"], case["g"]
        doubles = [t.double() for t in tensors]
        for ours, derive in zip(probe["results"][name], (outputs_and_gradients, second_gradients)):
            assert_as_good_as_eager(ours, derive(exact, tensors, g), derive(exact, doubles, g.double()))


@pytest.mark.slow
def test_by_itself_it_sees_neither_package_nor_extension_and_explain_says_so(probe: dict[str, Any]) -> None:
    assert not [name for name in probe["modules"] if name.partition(".")[0] == "gradnets_fast"]
    assert f"{probe['id']}.ops._cpp" in probe["modules"]
    assert ("triton" in probe["modules"]) == (probe["backend"] == "triton")
    missing = f"cannot be imported (No module named '{probe['id']}._C'); to build it, with GCC: "
    assert "backend   reference: the fastest that can run this call" in probe["explanation"]
    assert f"not       cpp: the compiled extension gradnets_fast._C {missing}" in probe["explanation"]
    assert f"backend   {probe['backend']}: asked for by the argument backend=" in probe["asked"]


BESIDE = """
import sys
from pathlib import Path

import torch
import gradnets_fast

tests, build = sys.argv[1:]
sys.path.insert(0, tests)
from hub_probe import load

copies = [gradnets_fast, *(load(Path(build, name)) for name in ("torch-cpu", "torch-cuda"))]
x = torch.randn(5, 3)
graphs = []


def inspected(graph, inputs):
    graphs.append(graph.code)
    return graph.forward


nets = [copy.mGradNetC(2, 3, 8) for copy in copies]
for net in nets:
    net.load_state_dict(nets[0].state_dict())
for copy, net in zip(copies, nets):
    point = x.clone().requires_grad_()
    with copy.use_backend("triton"):
        plain = net(point)
        compiled = torch.compile(net, backend=inspected, fullgraph=True)(point)
        traced = torch.compile(net, backend="aot_eager", fullgraph=True)(point)
    wanted = torch.autograd.grad(plain.square().sum(), point)[0]
    for found in (compiled, traced):
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(torch.autograd.grad(found.square().sum(), point)[0], wanted)
    assert f"torch.ops.{copy.__name__}.ridge_triton(" in graphs[-1], graphs[-1]
    for name in ("ridge", "ridge_backward", "ridge_triton", "softmax_modules_jvp"):
        assert hasattr(getattr(torch.ops, copy.__name__), name), (copy, name)
assert len(graphs) == len({copy.ridge for copy in copies}) == 3
"""


@pytest.mark.slow
def test_it_lives_beside_the_package_and_beside_another_build(kernel: Path) -> None:
    isolated(BESIDE, TESTS, kernel / "build", TRITON_INTERPRET="1")


EARLIER = """
import sys
from pathlib import Path

tests, variant = sys.argv[1:]
sys.path.insert(0, tests)
from hub_probe import load

old = load(Path(variant, "gradnets_fast"), "gradnets_fast_1f00")
new = sys.modules[old.ridge.__module__.partition(".")[0]]
assert new.__name__.startswith("_gradnets_fast_universal_")
again = load(Path(variant, "gradnets_fast"), "gradnets_fast_2f00")
assert {*old.__all__} == {*new.__all__}
for name in old.__all__:
    assert getattr(old, name) is getattr(new, name) is getattr(again, name), name
"""


@pytest.mark.slow
def test_earlier_versions_of_kernels_find_the_same_functions(kernel: Path, tmp_path: Path) -> None:
    """In the Hub's cache, where each file is a link to one with another name."""
    variant = tmp_path / "snapshot" / "torch-universal"
    for number, (name, path) in enumerate(files(kernel / "build" / "torch-universal").items()):
        blob, link = tmp_path / "blobs" / str(number), variant / name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link.symlink_to(blob)
    isolated(EARLIER, TESTS, variant)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "namespace"),
    [("gradnets_fast", "gradnets_fast"), ("vendor.grad_nets", "vendor_grad_nets"), ("_k_cpu_1f", "_k_cpu_1f")],
)
def test_operators_are_named_after_the_package(name: str, namespace: str, kernel: Path, tmp_path: Path) -> None:
    """Wherever it is imported from; programs that torch.export wrote name those of the installed package."""
    from gradnets_fast.ops import operator

    assert operator.NAMESPACE == "gradnets_fast"
    folder = tmp_path.joinpath(*name.split("."))
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(kernel / "torch-ext" / "gradnets_fast")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch, {name} as copy;"
        f"from {name}.ops import operator; print(operator.NAMESPACE, torch.ops.{namespace}.ridge_backward)"
    )
    assert isolated(script).split() == [namespace, f"{namespace}.ridge_backward"]
