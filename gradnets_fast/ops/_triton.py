"""The only caller of the Triton kernels: which of them run, on what, and why not."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]

OPERATORS = ("ridge",)
"""The operators that have kernels."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LOWEST_VERSION = (3, 6)
_LOWEST_CAPABILITY = 80
_KINDS = {"highest": "ieee", "high": "tf32", "medium": "tf32"}


@lru_cache(maxsize=None)
def _kernels(name: str) -> ModuleType:
    return importlib.import_module(f"gradnets_fast.kernels.{name}")


@lru_cache(maxsize=1)
def _why_not_installed() -> str | None:
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported ({error}); install it with pip install 'gradnets_fast[triton]'"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < _LOWEST_VERSION:
        lowest = ".".join(map(str, _LOWEST_VERSION))
        return f"it needs triton {lowest} or later, and {triton.__version__} is installed"
    return None


def _interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter: its own device functions show what it decided at its import."""
    triton = importlib.import_module("triton")
    return not isinstance(triton.language.sum, triton.runtime.JITFunction)


def why_not(operator: str, device: str, dtype: torch.dtype) -> str | None:
    """Why no kernel can run `operator` on such tensors; None if one can."""
    if operator not in OPERATORS:
        return f"this version has no Triton kernel for {operator}"
    if dtype not in DTYPES:
        return f"its dtypes are float32, bfloat16 and float16, not {dtype}"
    if device not in ("cuda", "cpu"):
        return f"it runs on NVIDIA GPUs, and these tensors are on {device}"
    if device == "cpu" and not os.environ.get("TRITON_INTERPRET"):
        return (
            "it runs on NVIDIA GPUs; for CPU tensors set TRITON_INTERPRET=1 before Python starts (slow, to try kernels)"
        )
    missing = _why_not_installed()
    if missing is not None:
        return missing
    if device == "cpu" and not _interpreted():
        return "TRITON_INTERPRET was set after triton was imported; set it before Python starts"
    return None if device == "cpu" else _why_not_gpu()


# torch.compile asks once, while it traces, instead of tracing imports: torch.compiler.assume_constant_result without
# the seconds that importing the compiler takes.
why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _why_not_gpu() -> str | None:
    if torch.version.hip is not None:
        return "it runs on NVIDIA GPUs, and this PyTorch is built for AMD's"
    if _interpreted():
        return "TRITON_INTERPRET is set, and Triton's interpreter runs on CPU tensors"
    capability = _capability(torch.cuda.current_device())
    if capability < _LOWEST_CAPABILITY:
        return f"it needs compute capability 8.0 or later, and this GPU has {capability / 10}"
    configuration = _kernels("configuration")
    if str(configuration.tabulated(capability)) not in configuration.table():
        return f"its table has no tiles for compute capability {capability / 10} yet (python -m bench.tiles writes it)"
    return None


@lru_cache(maxsize=None)
def _capability(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _mode(x: Tensor, layers: int, config: str) -> Any:
    kind = _KINDS[torch.get_float32_matmul_precision()] if x.dtype == torch.float32 else "half"
    device = -1 if x.device.type == "cpu" else x.get_device()
    return _mode_of(device, kind, x.shape[-1], layers, config)


@lru_cache(maxsize=None)
def _mode_of(device: int, kind: str, d: int, layers: int, config: str) -> Any:
    basis = tuple(config.split(","))
    architecture, route = _route(device, kind, d, layers, len(basis))
    return _kernels("launch").Mode(architecture, kind, basis, layers, route.name)


def _route(device: int, kind: str, d: int, layers: int, terms: int) -> tuple[int, Any]:
    configuration = _kernels("configuration")
    interpreter: int = configuration.INTERPRETER
    architecture = interpreter if device < 0 else configuration.tabulated(_capability(device))
    return architecture, configuration.route(architecture, kind, d, configuration.depth(layers, terms))


def describe(x: Tensor, layers: int = 1, terms: int = 1) -> str:
    """Which kernels run points like x, for people."""
    kind = _KINDS[torch.get_float32_matmul_precision()] if x.dtype == torch.float32 else "half"
    device = -1 if x.device.type == "cpu" else x.get_device()
    _, route = _route(device, kind, x.shape[-1], layers, terms)
    where = "Triton's interpreter, on the CPU" if device < 0 else torch.cuda.get_device_name(device)
    products = {"half": str(x.dtype).removeprefix("torch.")}.get(kind, f"float32 ({kind} products)")
    return f"kernels, {route.name} route ({route.why}), {products}, {where}"


def _dense(tensor: Tensor | None) -> Tensor | None:
    """The tensor as kernels read it: its own numbers, in a row."""
    if tensor is None:
        return None
    return tensor.detach().as_subclass(Tensor).resolve_neg().contiguous()


def _on(device: torch.device) -> Any:
    """Launches go to the current device."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


def ridge_forward(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None, config: str
) -> Tensor:
    """f(x); the shapes of reference.ridge, config = basis names joined by commas."""
    if not x.numel():
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    points = x.detach().as_subclass(Tensor).resolve_neg()
    mode = _mode(x, shift.numel() // W.shape[0], config)
    with _on(x.device):
        f: Tensor = _kernels("launch").forward(mode, points, *map(_dense, (W, scale, shift, coef, bias)))
    return f


def ridge_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of <g, f> for those of (x, W, scale, shift, coef, bias) that `needs` marks."""
    tensors = (x, W, scale, shift, coef, bias)
    wanted = [t if need else None for need, t in zip(needs, tensors)]
    if not x.numel():
        return tuple(None if t is None else torch.zeros_like(t, memory_format=torch.contiguous_format) for t in wanted)
    launch = _kernels("launch")
    mode = _mode(x, shift.numel() // W.shape[0], config)
    into = _memory(launch, wanted)
    points, cotangents = (t.detach().as_subclass(Tensor).resolve_neg() for t in (x, g.to(x.dtype)))
    with _on(x.device):
        launch.backward(mode, cotangents, points, *map(_dense, (W, scale, shift, coef)), into)
    return into.x, into.W, *_parts(into.neurons, wanted[2:5]), into.bias


def _memory(launch: ModuleType, wanted: Sequence[Tensor | None]) -> Any:
    """Memory for the gradients; those of (scale, shift, coef) adjoin, so that kernels need one pointer."""
    x, W, *vectors, bias = wanted
    present = [v for v in vectors if v is not None]
    adjoining = None
    if present:
        dtype = present[0].dtype if len({v.dtype for v in present}) == 1 else torch.float32
        adjoining = torch.empty(sum(v.numel() for v in present), dtype=dtype, device=present[0].device)
    x, W, bias = (
        None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, W, bias)
    )
    return launch.Gradients(x, W, adjoining, tuple(v is not None for v in vectors), bias)


def _parts(adjoining: Tensor | None, vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of (scale, shift, coef)."""
    sizes = [v.numel() for v in vectors if v is not None]
    parts = iter(() if adjoining is None else adjoining.split(sizes))
    return [None if v is None else next(parts).view(v.shape).to(v.dtype) for v in vectors]
