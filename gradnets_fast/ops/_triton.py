"""The caller of the Triton kernels for the ridge family, and what all callers of Triton kernels share.

`why_not` says whether the backend can run; `RidgeKernels` are the kernels of one operator, called by autograd.py and
through PyTorch's dispatcher, and call kernels/launch.py.  Families of modules have _triton_modules.py.
"""

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

from ..activations import TABLE
from ..activations.quadrature import PANELLED_RULE, SINGLE_PANEL_RULE
from . import _prebuilt, recompute
from ._kernels import capability_of, kernel_module
from ._plans import Known, Plans, signature
from ._triton_plans import BackwardPlan, ForwardPlan, backward_plan, forward_plan
from .families import CONV_RIDGE, CONV_TRACE, FAMILIES, RIDGE, Gradients, Settings, Tensors
from .operator import Kernels, Operator, present

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LOWEST_VERSION = (3, 6)
_LOWEST_CAPABILITY = 80
_MODULE_QUANTITIES = ("value", "jvp", "potential")
TILED_KERNELS = {
    "ridge": ("forward", "backward"),
    "ridge_jvp": ("backward", "derivatives"),
    "ridge_potential": ("numbers", "derivatives"),
    "ridge_divergence": ("numbers", "derivatives"),
    "ridge_jacobian": ("jacobian", "jacobian_backward"),
}
TILED_KERNELS |= {
    family.operator_name(quantity): ("modules.forward", "modules.backward")
    for family in FAMILIES.values()
    if family.of_modules
    for quantity in _MODULE_QUANTITIES
}
"""Operator → the entries of the table of tiles that it needs (of modules as if they were a plain softmax)."""

CONVOLUTIONS = tuple(f.operator_name(quantity) for f in (CONV_RIDGE, CONV_TRACE) for quantity in f.quantities)
"""The operators that have no tiles in the table, and the only ones whose kernels take splines for basis functions."""


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
    unfit = _why_not_driver(capability) or _why_not_started(device.index or 0)
    if unfit is not None:
        return unfit
    configuration = kernel_module("configuration")
    if tiles and str(configuration.tabulated(capability)) not in configuration.table():
        return f"its table has no tiles for compute capability {capability / 10}; gradnets-fast tune measures them"
    return None


@lru_cache(maxsize=None)
def _why_not_driver(capability: int) -> str | None:
    """Why the NVIDIA driver takes no code of Triton's assembler: it knows that of its own CUDA and of earlier ones.

    Versions of CUDA with the same first number count as one.
    """
    tool = importlib.import_module("triton.backends.nvidia.compiler").get_ptxas(capability)
    version, driver = int(tool.version.split(".")[0]), torch._C._cuda_getDriverVersion() // 1000  # type: ignore[attr-defined]
    if driver >= version:
        return None
    name = os.path.basename(tool.path).upper().replace("-", "_")
    found = f"Triton compiles with {tool.path} of CUDA {tool.version}, and the NVIDIA driver is of CUDA {driver}"
    return f"{found}; update the driver, or set TRITON_{name}_PATH to a ptxas of CUDA {driver}"


def _why_not_started(device: int) -> str | None:
    """Why Triton does not start, for want of a C compiler for example, where no kernels are compiled ahead of time."""
    if _prebuilt.why_not(device) is None:
        return None
    try:
        importlib.import_module("triton.runtime").driver.active.get_current_target()
    except Exception as error:
        return f"Triton does not start ({type(error).__name__}: {error})"
    return None


def products_of(x: Tensor) -> str:
    """How products of such tensors are computed: `configuration.KINDS`."""
    if x.dtype != torch.float32:
        return "half"
    precision = _float32_precision()
    if precision != "none":
        return precision
    return _float32_kind(x.get_device())


@lru_cache(maxsize=None)
def _float32_kind(device: int) -> str:
    return str(kernel_module("configuration").float32_kind(0 if device < 0 else capability_of(device)))


_precision: Any = getattr(torch._C, "_get_fp32_precision_getter", None)
"""What answers torch.backends.cuda.matmul.fp32_precision, in a tenth of its time, from torch 2.9 on."""


def _float32_precision() -> str:
    """What PyTorch is told of float32 products: "tf32", "ieee", or "none" where nobody has asked for either."""
    if _precision is not None:
        return str(_precision("cuda", "matmul"))
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "none"


def architecture_of(device: int) -> int:
    """The architecture of the table whose tiles a device takes; kernels compiled ahead of time serve it from now on."""
    configuration = kernel_module("configuration")
    if device < 0:
        return int(configuration.INTERPRETER)
    kernel_module("launching").try_first(_prebuilt.launched)
    return int(configuration.tabulated(capability_of(device)))


def ridge_mode(x: Tensor, layers: int, settings: Settings, kind: str | None = None) -> Any:
    """Return the constants with which kernels of the ridge family are compiled for points like x.

    kind: of the products, where they are not those of matrices.
    """
    return _mode_of(x.get_device(), kind or products_of(x), layers, settings.basis, settings.heads and layers > 1)


@lru_cache(maxsize=None)
def _mode_of(device: int, kind: str, layers: int, basis: tuple[str, ...], heads: bool) -> Any:
    smooth = tuple(name in TABLE and TABLE[name].smooth for name in basis)
    return kernel_module("mode").Mode(architecture_of(device), kind, basis, layers, smooth, heads)


def has_tiles(operator: str, mode: Any, d: int) -> bool:
    """Return whether the table has tiles for all kernels that the operator needs."""
    return all(mode.options(kernel, d) is not None for kernel in TILED_KERNELS[operator])


def dense(tensor: Tensor | None) -> Tensor | None:
    """Return the tensor as kernels read it: its own numbers, contiguous."""
    return None if tensor is None else plain(tensor).contiguous()


def plain(tensor: Tensor) -> Tensor:
    """Return the tensor's own numbers, in its strides, as a plain tensor without a graph."""
    return tensor.detach().as_subclass(Tensor).resolve_neg()


def current_device(device: torch.device) -> Any:
    """Return a context in which the device is the current one, to which launches go."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


class RidgeKernels(Kernels):
    """The Triton kernels of one operator of the ridge family; tensors as in `Operator.arguments`.

    The first call of a size goes the long way, which makes tensors such as kernels read, and leaves a plan where they
    were such; later calls take the plan.
    """

    def __init__(self, operator: Operator) -> None:
        self._operator, self._quantity, self._point_count = operator, operator.quantity, operator.point_count
        self._forward_plans: Plans[ForwardPlan] = Plans()
        self._backward_plans: Plans[BackwardPlan] = Plans()
        self._checked = Known()

    def attempt(self, tensors: Tensors, settings: Settings) -> Tensor | None:
        """Return the result for tensors of a size, and all else that is checked, that has been checked before."""
        key = signature(tensors)
        if (settings, key) not in self._checked:
            return None
        plan = self._forward_plans.get(self._mode(tensors, settings), key)
        return None if plan is None else plan.run(tensors)

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result."""
        return self._forward(tensors, settings, signature(tensors))

    def forward_of_checked(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result, and let `attempt` take the same way from now on."""
        key = signature(tensors)
        self._checked.add((settings, key))
        return self._forward(tensors, settings, key)

    def _forward(self, tensors: Tensors, settings: Settings, key: tuple[Any, ...]) -> Tensor:
        x = present(tensors[0])
        if not x.numel():
            return torch.empty(self._quantity.result_shape(x.shape), dtype=x.dtype, device=x.device)
        mode = self._mode(tensors, settings)
        plan = self._forward_plans.get(mode, key)
        if plan is not None:
            return plan.run(tensors)
        if not self._has_kernels(mode, x):
            return recompute.forward(self._operator, tensors, settings)
        plan = self._planned(mode, tensors)
        if plan is not None:
            self._forward_plans.keep(mode, key, plan)
            return plan.run(tensors)
        launch, quantity, parameters = kernel_module("launch"), self._quantity.name, self._parameters(tensors)
        result: Tensor
        with current_device(x.device):
            if quantity == "jvp":
                result = launch.jvp(mode, plain(x), plain(present(tensors[1]).to(x.dtype)), parameters)
            else:
                bias = dense(tensors[-1]) if self._quantity.takes_bias else None
                result = launch.forward(mode, quantity, plain(x), parameters, bias, _rule(quantity, x))
        return result

    def _planned(self, mode: Any, tensors: Tensors) -> ForwardPlan | None:
        if not self._are_as_read(tensors):
            return None
        return forward_plan(self._quantity.name, mode, tensors, quadrature)

    def _are_as_read(self, tensors: Tensors) -> bool:
        """Return whether kernels read the tensors where they are: rows of points, and parameters that are dense."""
        points, parameters = tensors[: self._point_count], tensors[self._point_count :]
        dtype = present(points[0]).dtype
        return all(t is not None and t.dtype is dtype and _are_rows(t) for t in points) and all(
            t is None or _is_dense(t) for t in parameters
        )

    def backward(self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool]) -> Gradients:
        """Return the gradients of <g, result> in the tensors that `needs` marks."""
        x = present(tensors[0])
        if not x.numel():
            return zeros_for(those_needed(tensors, needs))
        mode, key = self._mode(tensors, settings), (*needs, *signature((g, *tensors)))
        plan = self._backward_plans.get(mode, key)
        if plan is not None:
            return plan.run(g, tensors)
        if not self._has_kernels(mode, x):
            return recompute.backward(self._operator, g, tensors, settings, needs)
        of_rows = self._quantity.result == "vector"
        if self._are_as_read(tensors) and g.dtype is x.dtype and (_are_rows(g) if of_rows else _is_dense(g)):
            plan = backward_plan(self._quantity, mode, g, tensors, needs, quadrature)
            if plan is not None:
                self._backward_plans.keep(mode, key, plan)
                return plan.run(g, tensors)
        return self._backward(mode, g, tensors, needs)

    def _backward(self, mode: Any, g: Tensor, tensors: Tensors, needs: Sequence[bool]) -> Gradients:
        x, targets, parameters = present(tensors[0]), those_needed(tensors, needs), self._parameters(tensors)
        launch, quantity, count = kernel_module("launch"), self._quantity, self._point_count
        points, (W, *vectors) = targets[:count], targets[count : count + len(RIDGE.parameters)]
        bias = memory_for(targets[-1]) if quantity.takes_bias else None
        v = memory_for(points[1]) if count == 2 else None
        into = gradients_memory(points[0], W, vectors, bias=bias, v=v)
        with current_device(x.device):
            batch = self._batch(launch, plain(g), tensors)
            launch.backward(mode, quantity.name, batch, parameters, into, _rule(quantity.name, x))
        of_bias = (into.bias,) if quantity.takes_bias else ()
        return *(into.x, into.v)[:count], into.W, *parts(into.vectors, vectors), *of_bias

    def _batch(self, launch: ModuleType, g: Tensor, tensors: Tensors) -> Any:
        """Return the points and cotangents as launches take them."""
        x = present(tensors[0])
        if self._quantity.result == "number":
            return launch.Batch(plain(x), weight=g.contiguous())
        g = g.to(x.dtype)
        if self._quantity.result == "matrix":
            return launch.Batch(plain(x), g=g.contiguous())
        v = plain(present(tensors[1]).to(x.dtype)) if self._point_count == 2 else None
        return launch.Batch(plain(x), g=g, v=v)

    def _parameters(self, tensors: Tensors) -> Any:
        """Return W, scale, shift and coef as launches take them."""
        W, scale, shift, coef = map(dense, tensors[self._point_count :][: len(RIDGE.parameters)])
        assert W is not None
        assert shift is not None
        shift = shift.view(-1, W.shape[0])
        return kernel_module("launch").Parameters(W, scale, shift, coef)

    def _mode(self, tensors: Tensors, settings: Settings) -> Any:
        x, W, shift = present(tensors[0]), present(tensors[self._point_count]), present(tensors[self._point_count + 2])
        return ridge_mode(x, shift.numel() // W.shape[0], settings)

    def _has_kernels(self, mode: Any, x: Tensor) -> bool:
        # f itself always has: what no tile holds goes the route of kernels/wide.py.
        return self._quantity.name == "value" or has_tiles(self._operator.name, mode, x.shape[-1])


def _rule(quantity: str, x: Tensor) -> Tensor | None:
    return quadrature(x.device) if quantity == "potential" else None


def _is_dense(t: Tensor) -> bool:
    return t.is_contiguous() and not t.is_neg()


def _are_rows(t: Tensor) -> bool:
    """Return whether kernels read the points where they are."""
    return not t.is_neg() and bool(kernel_module("launch").rows_of(t).data_ptr() == t.data_ptr())


_rules: dict[torch.device, Tensor] = {}


def quadrature(device: torch.device) -> Tensor:
    """Return the rules as the kernels read them: nodes and weights, of few and of many.

    A tensor whose memory is a CUDA graph's is not kept, and none is copied from the host, which no graph can record.
    """
    known = _rules.get(device)
    if known is None:
        numbers = [number for rule in (SINGLE_PANEL_RULE, PANELLED_RULE) for part in zip(*rule) for number in part]
        known = torch.zeros(len(numbers), dtype=torch.float32, device=device)
        torch._foreach_add_(known.split(1), numbers)
        if not kernel_module("launch").is_of_a_pool(known):
            _rules[device] = known
    return known


def those_needed(tensors: Tensors, needs: Sequence[bool]) -> list[Tensor | None]:
    """Return the tensors whose gradients are needed, None in place of the others."""
    return [t if need else None for need, t in zip(needs, tensors)]


def zeros_for(targets: Tensors) -> Gradients:
    """Return the gradients of an empty batch."""
    return tuple(None if t is None else torch.zeros_like(t, memory_format=torch.contiguous_format) for t in targets)


def memory_for(t: Tensor | None) -> Tensor | None:
    """Return memory for a tensor's gradient."""
    return None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)


def gradients_memory(x: Tensor | None, W: Tensor | None, vectors: Tensors, **more: Tensor | None) -> Any:
    """Return memory for the gradients; those of (scale, shift, coef) adjoin, so that kernels need one pointer."""
    present = [v for v in vectors if v is not None]
    adjoining = None
    if present:
        dtype = present[0].dtype if len({v.dtype for v in present}) == 1 else torch.float32
        adjoining = torch.empty(sum(v.numel() for v in present), dtype=dtype, device=present[0].device)
    make = kernel_module("launch").Gradients
    return make(memory_for(x), memory_for(W), adjoining, tuple(v is not None for v in vectors), **more)


def parts(adjoining: Tensor | None, vectors: Tensors) -> list[Tensor | None]:
    """Return the gradients of (scale, shift, coef)."""
    sizes = [v.numel() for v in vectors if v is not None]
    given = iter(() if adjoining is None else adjoining.split(sizes))
    return [None if v is None else next(given).view(v.shape).to(v.dtype) for v in vectors]
