"""A file of a few kernels compiled ahead of time, made once however many workers run the tests."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gradnets_fast.kernels import compiler, configuration, prebuild, prebuilt

HERE = Path(__file__).resolve().parent
FEW = {("entry.forward", 2, True), ("entry.backward", 128, False), ("modules_entry.backward", 8, True)}
"""The kernels of `hot` that are compiled: with one layer, in bfloat16, for the gradients of everything."""


def few(architecture: int) -> list[tuple[int, compiler.Launch]]:
    """What is compiled for an architecture."""

    def is_one(launch: compiler.Launch) -> bool:
        constants = launch.constants
        chosen = (launch.kernel, constants.get("D"), constants.get("EVEN")) in FEW
        of_all = "dx" not in launch.types or launch.types["dx"] is not None
        return chosen and of_all and constants["ARITHMETIC"] == "fast" and constants.get("LAYERS", 1) == 1

    return [task for task in prebuild.tasks([architecture]) if is_one(task[1])]


def archive(factory: pytest.TempPathFactory) -> Path:
    """The file."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    path = base / "prebuilt.zip"
    with (base / "prebuilt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            python("import few_kernels; few_kernels.build(sys.argv[1])", str(path))
    return path


def build(path: str) -> None:
    """Compiles them; outside Triton's interpreter."""
    tasks = [task for architecture in configuration.ARCHITECTURES for task in few(architecture)]
    prebuild.build(Path(path), tasks, processes=1)


def python(script: str, *arguments: str, **variables: str) -> str:
    """What a script prints that can import this folder, outside Triton's interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    script = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{script}"
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


def manifest_of(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    with zipfile.ZipFile(path) as file:
        manifest: dict[str, Any] = json.loads(file.read(prebuilt.MANIFEST))
    return manifest


def changed(archive: Path, path: Path, **entries: object) -> Path:
    """A copy of a file's manifest alone, with other entries."""
    manifest = manifest_of(archive)
    top = {name: value for name, value in entries.items() if name in manifest}
    kernels = [entry | {n: v for n, v in entries.items() if n not in manifest} for entry in manifest["kernels"]]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(prebuilt.MANIFEST, json.dumps(manifest | top | {"kernels": kernels}))
    return path
