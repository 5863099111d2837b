"""Write the package as a kernel of Hugging Face's `kernels`: its sources, and what is built from them.

python -m release.hub --out FOLDER

The kernel is the operators, the networks and the Triton kernels, copied; what it lacks is the C++ extension.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import importlib
import json
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import gradnets_fast
from gradnets_fast.errors import message

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).resolve().parent / "hub_template"
PACKAGE = "gradnets_fast"
NAME = PACKAGE.replace("_", "-")
LICENSE = "MIT"

ROOMS = ("backend", "explanation", "functional", "nn")
"""The rooms of the package whose public names are the kernel's."""

DATA = ("kernels/table.json",)
"""Data files that the sources read."""

VARIANTS = {"torch-cpu": "cpu", "torch-cuda": "cuda", "torch-universal": "cuda"}
"""The built folders and their backends.

The universal one is for versions of `kernels` before 0.11.2, and for a PyTorch that is built for other devices.
"""

MARK = "# Written by release/hub.py of gradnets_fast."
_TOP = {"build", "torch-ext", "build.toml", "LICENSE", "README.md"}

Files = dict[str, bytes]
Module = tuple[str, ...]


def sources() -> dict[str, Path]:
    """The kernel's files by their paths in it: the files of `ROOMS`, all that they import, and `DATA`."""
    found: dict[str, Path] = {}
    waiting: list[Module] = [(room,) for room in ROOMS]
    while waiting:
        module = waiting.pop()
        inside = located(module)
        if inside is not None and inside not in found:
            found[inside] = _file(inside)
            package = module if inside.endswith("__init__.py") else module[:-1]
            waiting += [module[:-1], *imported(found[inside], package)]
    return found | {inside: _file(inside) for inside in DATA}


def _file(inside: str) -> Path:
    """The path in the checkout of a file of the package."""
    return ROOT / inside if inside.startswith("kernels/") else ROOT / PACKAGE / inside


def located(module: Module) -> str | None:
    """The path of a module in the package; None for the package itself, and for a name that is no module's."""
    path = "/".join(module)
    candidates = (f"{path}/__init__.py", f"{path}.py") if module else ()
    return next((inside for inside in candidates if _file(inside).is_file()), None)


def imported(file: Path, package: Module) -> Iterator[Module]:
    """The modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield module
            yield from ((*module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "kernel_module":
            (name,) = node.args
            if not isinstance(name, ast.Constant):
                where = f"{file.name}, line {node.lineno}"
                raise ValueError(message("hub", where, "a name in quotes", ast.unparse(name), "write it out"))
            yield ("kernels", str(name.value))


def initializer() -> str:
    """The kernel's __init__.py."""
    names = {name: room for room in ROOMS for name in _names(room)}
    imports = [f"from .{room} import {name} as {name}" for name, room in names.items()]
    listed = [f'    "{name}",' for name in sorted(["__version__", *names])]
    lines = [
        '"""Gradient networks with fused kernels, as a kernel of Hugging Face\'s `kernels`."""',
        "",
        *imports,
        "",
        f'__version__ = "{gradnets_fast.__version__}"',
        "",
        *["__all__ = [", *listed, "]", ""],
    ]
    return "\n".join(lines)


def revision(package: Mapping[str, bytes]) -> str:
    """A digest of all files, which tells builds apart."""
    found = hashlib.sha256()
    for name, content in sorted(package.items()):
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:12]


def version() -> int:
    """The kernel's version, which names a branch on the Hub: 0 says that the API may change."""
    return int(gradnets_fast.__version__.partition(".")[0])


def _build_toml(repository: str | None) -> str:
    backends = ", ".join(f'"{backend}"' for backend in sorted(set(VARIANTS.values())))
    hub = f'[general.hub]\nrepo-id = "{repository}"\n\n' if repository else ""
    return (
        f'{MARK}\n[general]\nname = "{NAME}"\nversion = {version()}\nedition = 5\nlicense = "{LICENSE}"\n'
        f'backends = [{backends}]\n\n{hub}[torch-noarch]\npyext = ["json", "py"]\n'
    )


def _card(repository: str | None) -> str:
    """The README.md that the Hub shows."""
    if repository:
        load = ["import torch", "from kernels import get_kernel"]
        call = f'get_kernel("{repository}", version={version()})'
    else:
        load = ["from pathlib import Path", "", "import torch", "from kernels import get_local_kernel"]
        call = 'get_local_kernel(Path("."))  # the folder of this file'
    fields = {
        "load": "\n".join([*load, "", f"gradnets = {call}"]),
        "operators": _listed("functional"),
        "networks": _listed("nn"),
        "version": gradnets_fast.__version__,
        "license": LICENSE,
        "license_tag": LICENSE.lower(),
    }
    return Template((TEMPLATES / "README.md").read_text(encoding="utf-8")).substitute(fields)


def _listed(room: str) -> str:
    return textwrap.fill(", ".join(f"`{name}`" for name in _names(room)), 120, break_on_hyphens=False)


def _names(room: str) -> list[str]:
    """The public names of a room."""
    return sorted(importlib.import_module(f"{PACKAGE}.{room}").__all__)


def _metadata(variant: str, package: Files) -> dict[str, Any]:
    """The content of metadata.json; `kernels` imports the folder under its `id`, which names the operators too."""
    digests = {name: base64.b64encode(hashlib.sha256(content).digest()).decode() for name, content in package.items()}
    return {
        "name": NAME,
        "id": f"_{PACKAGE}_{variant.removeprefix('torch-')}_{revision(package)}",
        "version": version(),
        "license": LICENSE,
        "python-depends": [],
        "backend": {"type": VARIANTS[variant]},
        "digest": {"algorithm": "sha256", "files": dict(sorted(digests.items()))},
    }


def layout(repository: str | None = None) -> Files:
    """All files of the folder, by their paths in it."""
    package = {inside: file.read_bytes() for inside, file in sources().items()}
    package["__init__.py"] = initializer().encode()
    files: Files = {
        "build.toml": _build_toml(repository).encode(),
        "README.md": _card(repository).encode(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    files |= {f"torch-ext/{PACKAGE}/{name}": content for name, content in package.items()}
    built = package | {f"{PACKAGE}/__init__.py": (TEMPLATES / "compat.py").read_bytes()}
    for variant in VARIANTS:
        metadata = json.dumps(_metadata(variant, built), indent=2) + "\n"
        files |= {f"build/{variant}/{name}": content for name, content in built.items()}
        files[f"build/{variant}/metadata.json"] = metadata.encode()
    return files


def check_folder(folder: Path) -> None:
    """Raise FileExistsError unless the folder is missing, empty, or one that this command wrote."""
    if not folder.exists():
        return
    fix = "choose another one, or remove what is there"
    if not folder.is_dir():
        raise FileExistsError(message("hub", f"out {folder}", "a folder", "a file", fix))
    foreign = {path.name for path in folder.iterdir()} - _TOP
    first = folder / "build.toml"
    ours = first.is_file() and first.read_text(encoding="utf-8").startswith(MARK)
    if foreign or (any(folder.iterdir()) and not ours):
        got = f"one with {', '.join(sorted(foreign)[:3])}" if foreign else "one that something else wrote"
        raise FileExistsError(message("hub", f"out {folder}", "a folder that this command may replace", got, fix))


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put the files in place of the folder, all of them or none."""
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m release.hub", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="where it will be on the Hub (default: nowhere)")
    arguments = parser.parse_args(words)
    folder = arguments.out.resolve()
    try:
        check_folder(folder)
        files = layout(arguments.repository)
        write(folder, files)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(map(len, files.values())) / 1e6
    print(f"{folder}: {len(files)} files, {size:.1f} MB: build.toml, torch-ext, and build/ with {', '.join(VARIANTS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
