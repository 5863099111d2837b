"""What may import what, and how little `import gradnets_fast` does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gradnets_fast"

STANDARD = set(sys.stdlib_module_names)
RULES: dict[str, set[str]] = {
    "reference": {"torch", "reference"},
    "activations": {"activations"},
    "errors.py": {"torch", "activations"},
    "backend.py": {"torch", "errors", "ops"},
    "ops": {"torch", "ops", "activations", "errors", "reference", "_C"},
    "functional": {"torch", "functional", "ops", "backend", "errors", "reference"},
    "explanation.py": {"torch", "ops", "backend", "errors", "functional"},
    "nn": {"torch", "nn", "functional", "activations", "errors", "reference"},
    "chunks.py": {"torch", "nn", "ops", "backend", "errors"},
    "_warmup.py": {"torch", "nn", "errors"},
    "parallel.py": {"torch", "nn", "functional", "errors"},
    "convex": {"torch", "convex", "nn", "functional", "ops", "activations", "errors"},
    "export": {"torch", "export", "nn", "functional", "activations", "errors"},
    "fitting": {"torch", "fitting", "nn", "functional", "ops", "backend", "errors"},
    "flows.py": {"torch", "convex", "nn", "errors"},
    "interop": {"torch", "interop", "convex", "nn", "errors"},
    "score.py": {"torch", "errors"},
    "structure.py": {"torch", "nn", "functional", "errors"},
    "swap": {"torch", "swap", "nn", "functional", "activations", "errors"},
    "apps/doctor": {"torch", "rich", "apps", "functional", "ops", "backend", "reference", "__version__"},
}
"""Each room and what it may import besides the standard library; the package's own rooms by their names."""


APPLICATIONS = {
    "apps/train": {"files", "memory"},
    "apps/bench": {"accuracy", "draws", "environment", "files", "readable"},
    "apps/reproduce": {"environment", "files", "readable", "train"},
    "apps/doctor": {"accuracy", "draws"},
    "apps/tuning.py": {"files"},
    "apps/accuracy.py": set(),
    "apps/draws.py": set(),
    "apps/environment.py": set(),
    "apps/files.py": set(),
    "apps/memory.py": set(),
    "apps/readable.py": set(),
    "apps/text.py": set(),
    "apps/cli": {"files", "memory", "train", "bench", "doctor", "tuning", "reproduce"},
}
"""Each application and what it may import of the others."""


def runs(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file that run: all but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from runs(node)


def named(path: Path) -> set[str]:
    """What a file imports, wherever in the file: modules, or names in them, by their full names."""
    found = set()
    package = ("gradnets_fast", *path.relative_to(PACKAGE).parent.parts)
    for node in runs(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    """The rooms and top-level packages that a file imports."""
    names = [name.split(".") for name in named(path)]
    return {name[1] if name[0] == "gradnets_fast" and len(name) > 1 else name[0] for name in names}


def files(room: str) -> list[Path]:
    place = PACKAGE / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files("")}


def test_no_import_goes_in_a_circle() -> None:
    graph = {}
    for module, path in MODULES.items():
        graph[module] = {name if name in MODULES else name.rpartition(".")[0] for name in named(path)} & set(MODULES)
        graph[module].discard(module)  # a package that names its own files
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("application", APPLICATIONS)
def test_applications_do_not_import_one_another(application: str) -> None:
    for path in files(application):
        others = {name.split(".")[2] for name in named(path) if name.startswith("gradnets_fast.apps.")}
        foreign = others - APPLICATIONS[application] - {Path(application).stem}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_the_library_imports_no_application() -> None:
    for path in files(""):
        if "apps" not in path.relative_to(PACKAGE).parts and path.name != "__main__.py":
            assert "apps" not in imports(path), path.relative_to(ROOT)


@pytest.mark.parametrize("room", RULES)
def test_import_rules(room: str) -> None:
    for path in files(room):
        foreign = imports(path) - STANDARD - RULES[room]
        if path.name == "registry.py":
            foreign -= {"reference"}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_only_the_registry_of_nn_knows_the_reference() -> None:
    for path in (PACKAGE / "nn").glob("*.py"):
        assert path.name == "registry.py" or "reference" not in imports(path), path.name


def test_kernels_import_only_triton_and_torch() -> None:
    for path in (ROOT / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= {"torch", "triton"} | STANDARD
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 or (node.module or "").split(".")[0] in {"torch", "triton"} | STANDARD


def test_only_one_file_imports_the_extension() -> None:
    users = [path for path in PACKAGE.rglob("*.py") if "gradnets_fast._C" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(PACKAGE).as_posix() for path in users] == ["ops/_cpp.py"]


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_the_doctor_can_be_asked_before_torch_is_imported() -> None:
    loaded = run("import sys, gradnets_fast.apps.doctor.command; print(*sys.modules)").split()
    for name in ("torch", "numpy", "typer", "rich", "triton", "gradnets_fast.backend", "gradnets_fast.errors"):
        assert name not in loaded


def test_import_loads_neither_triton_nor_the_extension_nor_torch_extras() -> None:
    loaded = run("import sys, gradnets_fast; print(*sys.modules)").split()
    for heavy in ("triton", "numpy", "torch", "matplotlib", "gradnets_fast._C", "gradnets_fast.nn"):
        assert heavy not in loaded


@pytest.mark.slow
def test_another_import_or_reload_in_any_mode_of_pytorch_gives_the_same_package() -> None:
    script = Path(__file__).parent / "imported_anew.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


def test_everything_works_without_triton_and_without_the_extension() -> None:
    script = """
import sys
sys.modules["triton"] = None
sys.modules["gradnets_fast._C"] = None
import torch, gradnets_fast
net, x = gradnets_fast.mGradNetC(2, 2, 3), torch.zeros(4, 2)
net(x).sum().backward()
print(gradnets_fast.explain(net, x))
try:
    gradnets_fast.ridge(x, x[:2], x[:1], x[:1], x[None, :1], backend="cpp")
except gradnets_fast.BackendUnavailableError as error:
    print(error)
"""
    text = run(script)
    assert "backend   reference" in text
    assert text.count("_C cannot be imported") == 2
    assert "choose one of reference" in text


def test_every_public_name_exists_and_is_listed() -> None:
    import gradnets_fast

    for name in gradnets_fast.__all__:
        assert getattr(gradnets_fast, name) is not None
        assert name in dir(gradnets_fast)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gradnets_fast.nothing  # noqa: B018
