"""The only caller of the Triton kernels: which of them run, on what, and why not."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..reference.ridge import PANELLED_RULE, SINGLE_PANEL_RULE, SMOOTH
from . import _prebuilt, by_reference
from ._kernels import capability_of, kernel_module

Gradients = tuple[Tensor | None, ...]

MODULES = ("softmax_modules", "transformed_modules")
"""The families of modules."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LOWEST_VERSION = (3, 6)
_LOWEST_CAPABILITY = 80
_BY_KERNELS = ("", "_jvp", "_potential")
_KERNELS = {
    "ridge": ("forward", "backward"),
    "ridge_jvp": ("backward", "derivatives"),
    "ridge_potential": ("numbers", "derivatives"),
    "ridge_divergence": ("numbers", "derivatives"),
    "ridge_jacobian": ("jacobian", "jacobian_backward"),
}
_KERNELS |= {
    f"{family}{suffix}": ("modules.forward", "modules.backward") for family in MODULES for suffix in _BY_KERNELS
}
"""The kernels that an operator needs tiles for; of modules explained as if they had one sign."""


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


def why_not(device: torch.device, dtype: torch.dtype, tiles: bool = True) -> str | None:
    """Why no operator can run on such tensors; None if one can.  tiles: whether the kernels' table must be there."""
    if dtype not in DTYPES:
        return f"its dtypes are float32, bfloat16 and float16, not {dtype}"
    if device.type not in ("cuda", "cpu"):
        return f"it runs on NVIDIA GPUs, and these tensors are on {device.type}"
    on_cpu = device.type == "cpu"
    if on_cpu and not os.environ.get("TRITON_INTERPRET"):
        return (
            "it runs on NVIDIA GPUs; for CPU tensors set TRITON_INTERPRET=1 before Python starts (slow, to try kernels)"
        )
    missing = _why_not_installed()
    if missing is not None:
        return missing
    if on_cpu and not _interpreted():
        return "TRITON_INTERPRET was set after triton was imported; set it before Python starts"
    return None if on_cpu else _why_not_gpu(device, tiles)


# torch.compile asks once, while it traces, instead of tracing imports: torch.compiler.assume_constant_result without
# the seconds that importing the compiler takes.
why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _why_not_gpu(device: torch.device, tiles: bool) -> str | None:
    if not torch.cuda.is_available():
        return "it runs on NVIDIA GPUs, and PyTorch sees none"
    if torch.version.hip is not None:
        return "it runs on NVIDIA GPUs, and this PyTorch is built for AMD's"
    if _interpreted():
        return "TRITON_INTERPRET is set, and Triton's interpreter runs on CPU tensors"
    capability = capability_of(torch.cuda.current_device() if device.index is None else device.index)
    if capability < _LOWEST_CAPABILITY:
        return f"it needs compute capability 8.0 or later, and this GPU has {capability / 10}"
    configuration = kernel_module("configuration")
    if tiles and str(configuration.tabulated(capability)) not in configuration.table():
        return f"its table has no tiles for compute capability {capability / 10}; gradnets-fast tune measures them"
    return None


def products_of(x: Tensor) -> str:
    """How products of such tensors are computed: `configuration.KINDS`."""
    if x.dtype != torch.float32:
        return "half"
    precision = _float32_precision()
    if precision != "none":
        return precision
    kind: str = kernel_module("configuration").float32_kind(
        0 if x.device.type == "cpu" else capability_of(x.get_device())
    )
    return kind


def _float32_precision() -> str:
    """What PyTorch is told of float32 products: "tf32", "ieee", or "none" where nobody has asked for either."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9
        return str(torch.backends.cuda.matmul.fp32_precision)
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "none"


def architecture_of(device: int) -> int:
    """The architecture of the table whose tiles a device takes; kernels compiled ahead of time serve it from now on."""
    configuration = kernel_module("configuration")
    if device < 0:
        return int(configuration.INTERPRETER)
    kernel_module("launching").try_first(_prebuilt.launched)
    return int(configuration.tabulated(capability_of(device)))


def _mode(x: Tensor, layers: int, config: str) -> Any:
    return _mode_of(-1 if x.device.type == "cpu" else x.get_device(), products_of(x), layers, config)


@lru_cache(maxsize=None)
def _mode_of(device: int, kind: str, layers: int, config: str) -> Any:
    basis = tuple(config.split(","))
    smooth = tuple(name in SMOOTH for name in basis)
    return kernel_module("mode").Mode(architecture_of(device), kind, basis, layers, smooth)


def _fits(operator: str, mode: Any, d: int) -> bool:
    """Whether the table has tiles for all that the operator needs."""
    return all(mode.options(kernel, d) is not None for kernel in _KERNELS[operator])


def dense(tensor: Tensor | None) -> Tensor | None:
    """The tensor as kernels read it: its own numbers, in a row."""
    return None if tensor is None else plain(tensor).contiguous()


def plain(tensor: Tensor) -> Tensor:
    """The tensor's own numbers, in its strides."""
    return tensor.detach().as_subclass(Tensor).resolve_neg()


def _parameters(W: Tensor | None, *vectors: Tensor | None) -> Any:
    return kernel_module("launch").Parameters(dense(W), *map(dense, vectors))


def current_device(device: torch.device) -> Any:
    """Launches go to the current device."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


def ridge_forward(x: Tensor, *arguments: Any) -> Tensor:
    """f(x) for (x, W, scale, shift, coef, bias, config); the shapes of reference.ridge, config = names and commas."""
    W, scale, shift, coef, bias, config = arguments
    if not x.numel():
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mode = _mode(x, shift.numel() // W.shape[0], config)
    with current_device(x.device):
        f: Tensor = kernel_module("launch").forward(
            mode, "value", plain(x), _parameters(W, scale, shift, coef), dense(bias)
        )
    return f


def ridge_backward(g: Tensor, *arguments: Any) -> Gradients:
    """The gradients of <g, f> for those of (x, W, scale, shift, coef, bias) that `needs` marks.

    The arguments are (g, x, W, scale, shift, coef, bias, config, needs).
    """
    *tensors, config, needs = arguments
    x, W, scale, shift, coef, _ = tensors
    wanted = those_wanted(tensors, needs)
    if not x.numel():
        return zeros_for(wanted)
    launch, mode = kernel_module("launch"), _mode(x, shift.numel() // W.shape[0], config)
    of_x, of_W, *of_vectors, of_bias = wanted
    into = _memory(launch, of_x, of_W, of_vectors, bias=memory_for(of_bias))
    with current_device(x.device):
        batch = launch.Batch(plain(x), g=plain(g.to(x.dtype)))
        launch.backward(mode, "value", batch, _parameters(W, scale, shift, coef), into)
    return into.x, into.W, *_parts(into.vectors, of_vectors), into.bias


class ScalarKernels:
    """The kernels of one operator of the ridge family besides f; the arguments are those of the operator.

    suffix: "jvp", "potential", "divergence" or "jacobian".  reference: the operator in PyTorch, for rows that no
    tile holds.
    """

    def __init__(self, suffix: str, reference: Callable[..., Tensor]) -> None:
        self._operator, self._suffix, self._reference = f"ridge_{suffix}", suffix, reference
        self._rows = 2 if suffix == "jvp" else 1

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """(x, [v], *parameters, config) -> the operator's result."""
        *tensors, config = arguments
        if not x.numel():
            last = {"jvp": x.shape[-1:], "jacobian": (x.shape[-1],) * 2}.get(self._suffix, ())
            return torch.empty(*x.shape[:-1], *last, dtype=x.dtype, device=x.device)
        vectors = tensors[self._rows - 1 :]
        mode = _mode(x, vectors[2].numel() // vectors[0].shape[0], config)
        if not _fits(self._operator, mode, x.shape[-1]):
            return by_reference.forward(self._reference, (x, *tensors), config, self._rows, self._width(x, vectors))
        launch, parameters = kernel_module("launch"), _parameters(*vectors)
        result: Tensor
        with current_device(x.device):
            if self._suffix == "jvp":
                result = launch.jvp(mode, plain(x), plain(tensors[0].to(x.dtype)), parameters)
            else:
                result = launch.forward(mode, self._suffix, plain(x), parameters, rule=self._rule(x))
        return result

    def backward(self, g: Tensor, *arguments: Any) -> Gradients:
        """(g, x, [v], *parameters, config, needs) -> the gradients of <g, result>."""
        *tensors, config, needs = arguments
        x, W, *vectors = (tensors[0], *tensors[self._rows :])
        wanted = those_wanted(tensors, needs)
        of_W, *of_vectors = wanted[self._rows :]
        if not x.numel():
            return zeros_for(wanted)
        mode = _mode(x, vectors[1].numel() // W.shape[0], config)
        if not _fits(self._operator, mode, x.shape[-1]):
            width = self._width(x, (W, *vectors))
            return by_reference.backward(self._reference, g, tensors, config, needs, self._rows, width)
        launch, parameters = kernel_module("launch"), _parameters(W, *vectors)
        of_v = wanted[1] if self._suffix == "jvp" else None
        into = _memory(launch, wanted[0], of_W, of_vectors, v=memory_for(of_v))
        points, cotangents = plain(x), plain(g)
        with current_device(x.device):
            if self._suffix == "jvp":
                batch = launch.Batch(points, g=cotangents.to(x.dtype), v=plain(tensors[1].to(x.dtype)))
                launch.backward(mode, "jvp", batch, parameters, into)
            elif self._suffix == "jacobian":
                batch = launch.Batch(points, g=cotangents.to(x.dtype).contiguous())
                launch.backward(mode, "jacobian", batch, parameters, into)
            else:
                batch = launch.Batch(points, weight=cotangents.contiguous())
                launch.backward(mode, self._suffix, batch, parameters, into, self._rule(x))
        rows = (into.x, into.v)[: self._rows]
        return *rows, into.W, *_parts(into.vectors, of_vectors)

    def _rule(self, x: Tensor) -> Tensor | None:
        return _quadrature(x.device) if self._suffix == "potential" else None

    def _width(self, x: Tensor, vectors: Sequence[Tensor | None]) -> int:
        """How many numbers one row takes in the reference."""
        W, _, shift, _ = vectors
        assert W is not None
        assert shift is not None
        return shift.numel() + (W.numel() if self._suffix == "jacobian" else 0)


@lru_cache(maxsize=None)
def _quadrature(device: torch.device) -> Tensor:
    """The rules as the kernels read them: nodes and weights, of few and of many."""
    numbers = [number for rule in (SINGLE_PANEL_RULE, PANELLED_RULE) for part in zip(*rule) for number in part]
    return torch.tensor(numbers, dtype=torch.float32, device=device)


def those_wanted(tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
    """The tensors whose gradients are needed, None in place of the others."""
    return [t if need else None for need, t in zip(needs, tensors)]


def zeros_for(wanted: Sequence[Tensor | None]) -> Gradients:
    """The gradients of an empty batch."""
    return tuple(None if t is None else torch.zeros_like(t, memory_format=torch.contiguous_format) for t in wanted)


def memory_for(t: Tensor | None) -> Tensor | None:
    """Memory for a tensor's gradient."""
    return None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)


def _memory(
    launch: ModuleType, x: Tensor | None, W: Tensor | None, vectors: Sequence[Tensor | None], **more: Tensor | None
) -> Any:
    """Memory for the gradients; those of (scale, shift, coef) adjoin, so that kernels need one pointer."""
    present = [v for v in vectors if v is not None]
    adjoining = None
    if present:
        dtype = present[0].dtype if len({v.dtype for v in present}) == 1 else torch.float32
        adjoining = torch.empty(sum(v.numel() for v in present), dtype=dtype, device=present[0].device)
    return launch.Gradients(memory_for(x), memory_for(W), adjoining, tuple(v is not None for v in vectors), **more)


def _parts(adjoining: Tensor | None, vectors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of (scale, shift, coef)."""
    sizes = [v.numel() for v in vectors if v is not None]
    parts = iter(() if adjoining is None else adjoining.split(sizes))
    return [None if v is None else next(parts).view(v.shape).to(v.dtype) for v in vectors]
