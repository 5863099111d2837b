"""Runs a built kernel where gradnets_fast cannot be imported: python -I hub_probe.py KERNEL INPUTS OUTPUTS BACKEND."""

from __future__ import annotations

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
        named = dict(zip(case["parameters"], tensors))
        result: Tensor = getattr(kernel, case["name"])(**named, **case["settings"])
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
    """Writes what the kernel computes, and what modules there are then."""
    sys.meta_path.insert(0, Refusal())
    sys.path.insert(0, str(Path(__file__).parent))
    if backend == "triton":
        interpreter = importlib.import_module("interpreter")
        interpreter.prepare_once_a_launch()
        interpreter.make_types_once()
    kernel = load(folder)
    oracle = importlib.import_module("oracle")
    with kernel.use_backend(backend):
        computed = results(kernel, oracle, torch.load(inputs))
    told = {
        "results": computed,
        "modules": sorted(sys.modules),
        "explanation": str(kernel.explain("ridge", torch.zeros(3, 2))),
        "asked": str(kernel.explain("ridge", torch.zeros(3, 2), backend=backend)),
    }
    torch.save(told, outputs)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
