"""Which Triton kernels would run, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import _prebuilt, _triton, _triton_deep, _triton_modules
from ._kernels import kernel_module
from .families import DEEP, FAMILIES, Settings, Structure, deep_settings

_Passes = dict[str, tuple[str, dict[str, Any]]]
"""Pass → the kernel that it launches, and constants that this one has whichever gradients are wanted."""

_ANY = ("FORM",)


def describe(operator: str, x: Tensor, arguments: Mapping[str, Any] | None = None) -> str:
    """Which kernels run points like x; arguments: those of the operator besides, where they are known."""
    kind, device, d = _triton.products_of(x), -1 if x.device.type == "cpu" else x.get_device(), x.shape[-1]
    mode = _triton.ridge_mode(x, *_cascade(arguments))
    path = _routes(mode, d) if operator == "ridge" else _path(operator, mode, x, arguments)
    products = {"half": str(x.dtype).removeprefix("torch.")}.get(kind, f"float32 ({kind} products)")
    if device < 0:
        return f"{path}, {products}, Triton's interpreter, on the CPU"
    ahead = _prebuilt.describe(device, passes(operator, x, mode, arguments))
    return f"{path}, {products}, {torch.cuda.get_device_name(device)}, {ahead}"


def passes(operator: str, x: Tensor, mode: Any, arguments: Mapping[str, Any] | None) -> _Passes:
    """What f and its gradients launch; nothing of other operators, or where the arguments are not known."""
    if arguments is None or not _as_compiled(x, arguments):
        return {}
    if operator == "ridge":
        return _of_ridge(mode, x.shape[-1], arguments["W"].shape[0])
    if operator in FAMILIES and FAMILIES[operator].of_modules:
        return _of_modules(operator, x, arguments)
    return {}


def _as_compiled(x: Tensor, arguments: Mapping[str, Any]) -> bool:
    """Whether dtypes are those of kernels compiled ahead of time, and modules are a sum."""
    vectors = (t for name, t in arguments.items() if isinstance(t, Tensor) and name != "W")
    plain = x.dtype in (torch.float32, torch.bfloat16) and arguments.get("sharpness") is None
    return plain and all(t.dtype == torch.float32 for t in vectors)


def _of_ridge(mode: Any, d: int, h: int) -> _Passes:
    found = {}
    for name, kernel in (("f", "forward"), ("its gradients", "backward")):
        if mode.route(kernel, d) == "wide":
            found[name] = (f"wide.{kernel}", mode.constants() | kernel_module("configuration").wide_options(kernel))
        else:
            constants = mode.forward("value", d, h) if kernel == "forward" else mode.backward("value", d, h, {}, "")
            found[name] = (f"entry.{kernel}", _without(constants))
    return found


def _of_modules(operator: str, x: Tensor, arguments: Mapping[str, Any]) -> _Passes:
    (count, h, d), two_signs = arguments["W"].shape, arguments.get("negative") is not None
    numbers = ("weight", "positive", "temperature", "negative")
    columns = count * sum(arguments.get(name) is not None for name in numbers)
    basis = (arguments["basis"],) if "basis" in arguments else ()
    mode = _triton_modules.modules_mode(x, Settings(basis, arguments.get("transform", "")))
    if any(mode.options(kernel, d, two_signs) is None for kernel in ("forward", "backward")):
        return {}
    return {
        "f": ("modules_entry.forward", mode.forward("value", d, h, two_signs)),
        "its gradients": ("modules_entry.backward", _without(mode.backward("value", d, h, two_signs, columns))),
    }


def _without(constants: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in constants.items() if name not in _ANY}


def _cascade(arguments: Mapping[str, Any] | None) -> tuple[int, Settings]:
    """Layers and basis functions; of unknown arguments those of one layer."""
    shift = None if arguments is None else arguments.get("shift")
    if arguments is None or shift is None:
        return 1, Settings(("tanh",))
    basis = arguments["basis"]
    names = (basis,) if isinstance(basis, str) else tuple(basis)
    return shift.numel() // arguments["W"].shape[0], Settings(names, heads=arguments.get("heads", False))


def _of_deep(quantity: str, x: Tensor, arguments: Mapping[str, Any] | None) -> str:
    """The route of a deep network; of unknown arguments that of a narrow one."""
    structure = Structure((1,)) if arguments is None else arguments["structure"]
    settings = deep_settings("tanh" if arguments is None else arguments["basis"], structure)
    if not _triton_deep.has_tiles(_triton_deep.deep_mode(x, settings), x.shape[-1]):
        size = f"d = {x.shape[-1]}, {len(structure.widths)} layers, {max(structure.widths)} wide"
        return f"PyTorch's own operators, in pieces of the batch ({size}: no program holds such a network)"
    where = "" if arguments is not None else ", where a program holds the network"
    gradients = "in pieces of the batch" if quantity == "jvp" else "in one launch"
    return f"kernels, fused route (one launch; gradients {gradients}{where})"


def _path(operator: str, mode: Any, x: Tensor, arguments: Mapping[str, Any] | None) -> str:
    d, quantity = x.shape[-1], operator.removeprefix(f"{DEEP.name}_").replace(DEEP.name, "value")
    if operator.startswith(DEEP.name) and quantity in _triton_deep.QUANTITIES:
        return _of_deep(quantity, x, arguments)
    if operator not in _triton.TILED_KERNELS:
        return "PyTorch's own operators, in pieces of the batch (this version has no kernel for it)"
    if _triton.has_tiles(operator, mode, d):
        return "kernels, fused route"
    return f"PyTorch's own operators, in pieces of the batch (d = {d}: no tile holds such rows)"


def _routes(mode: Any, d: int) -> str:
    configuration = kernel_module("configuration")
    depth = configuration.depth(mode.layers, len(mode.basis))
    passes = {k: configuration.route(k, mode.architecture, mode.kind, d, depth) for k in ("forward", "backward")}
    if passes["forward"] == passes["backward"]:
        return f"kernels, {passes['forward'].name} route ({passes['forward'].why})"
    both = "; ".join(f"{name} pass: {route.name} route ({route.why})" for name, route in passes.items())
    return f"kernels, {both}"
