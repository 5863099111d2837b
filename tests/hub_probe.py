"""Runs a built kernel where gradnets_fast cannot be imported: python -I hub_probe.py KERNEL INPUTS OUTPUTS BACKEND."""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Imports = set[tuple[str, str]]


class Refusal(importlib.abc.MetaPathFinder):
    """No module of the installed package can be found."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == "gradnets_fast":
            raise ImportError(f"{fullname} is refused")


def load(folder: Path, name: str = "") -> ModuleType:
    """Imports a folder as `kernels` does: under the name in its metadata, or as earlier versions did under another."""
    name = name or json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["id"]
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(package: str) -> Imports:
    """From now on, who in the package imports what from outside, as (module, package)."""
    found: Imports = set()
    by_statement, by_call = builtins.__import__, importlib.import_module

    def note(importer: object, name: str) -> None:
        if isinstance(importer, str) and importer.partition(".")[0] == package and not name.startswith("."):
            found.add((importer, name.partition(".")[0]))

    def statement(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            note((globals or {}).get("__name__"), name)
        return by_statement(name, globals, locals, fromlist, level)

    def call(name: str, package: str | None = None) -> ModuleType:
        note(sys._getframe(1).f_globals.get("__name__"), name)
        return by_call(name, package)

    builtins.__import__, importlib.import_module = statement, call
    return found


def results(kernel: ModuleType, oracle: ModuleType, inputs: dict[str, Any]) -> dict[str, list[list[Tensor]]]:
    """Outputs and gradients of each operator and network, and the gradients of those."""
    found = {}
    for label, case in inputs.items():
        function = {"operator": _operator, "network": _network}[case["kind"]](kernel, case)
        tensors, g = case["tensors"], case["g"]
        first = oracle.outputs_and_gradients(function, tensors, g)
        found[label] = [first, oracle.second_gradients(function, tensors, g)]
    return found


def _operator(kernel: ModuleType, case: dict[str, Any]) -> Any:
    def function(tensors: Sequence[Tensor]) -> Tensor:
        result: Tensor = getattr(kernel, case["name"])(*tensors, **case["settings"])
        return result

    return function


def _network(kernel: ModuleType, case: dict[str, Any]) -> Any:
    net = getattr(kernel, case["name"])(**case["settings"])

    def function(tensors: Sequence[Tensor]) -> Tensor:
        x, *parameters = tensors
        result: Tensor = torch.func.functional_call(net, dict(zip(case["parameters"], parameters)), (x,))
        return result

    return function


def main(folder: Path, inputs: Path, outputs: Path, backend: str) -> None:
    """Writes what the kernel computes, and what it imported to do so."""
    sys.meta_path.insert(0, Refusal())
    name = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["id"]
    imports = record(name)
    kernel = load(folder)
    sys.path.insert(0, str(Path(__file__).parent))
    oracle = importlib.import_module("oracle")
    with kernel.use_backend(backend):
        computed = results(kernel, oracle, torch.load(inputs))
    told = {
        "results": computed,
        "imports": sorted(imports),
        "modules": sorted(sys.modules),
        "explanation": str(kernel.explain("ridge", torch.zeros(3, 2))),
        "asked": str(kernel.explain("ridge", torch.zeros(3, 2), backend=backend)),
    }
    torch.save(told, outputs)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
