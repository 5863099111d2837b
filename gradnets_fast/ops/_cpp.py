"""The only caller of the compiled extension: tensors in, raw addresses out.

`CppKernels` are the kernels of one operator.  They are called by gradnets_fast/functional (`attempt`), by autograd.py
and through PyTorch's dispatcher (`forward`, `backward`), and call one function of csrc/bindings.cpp for each family:
    family(quantity, *numbers, (x, g, v, weight), parameters, (dx, dg, dv, scalar), gradients, threads) -> bool
(of deep networks with one argument more: what f leaves for its gradients)
which computes what the memory in its last two tuples is for, with S a scalar of the points and parameters:
    value       S = <g, f(x)>           dg = f(x) where g is None
    jvp         S = <g, J(x) v>
    potential   S = Σ weight F(x)       scalar = F(x) where weight is None; likewise divergence, with tr J(x)
    jacobian    S = <g, J(x)>           dg = J(x) where g is None
    value_and_potential   S = <g, f(x)> + Σ weight F(x)
    squared_error         S = mean of (f(x) − g)²; scalar = S, (1,), and dg = ∂S/∂f, beside the gradients
It answers False, and has done nothing, where the tensors are not such as kernels read.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, empty_like, get_num_threads
from torch.autograd import profiler

from ..activations import TABLE, TRANSFORMS
from ..activations.quadrature import SINGLE_PANEL_RULE, rules_by_reach
from .families import Gradients, Settings, Tensors
from .operator import PLAIN_TYPES, Kernels, Operator, present, shown

_SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}
_SUM_DTYPE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
"""The dtypes of points and weights, and in which of them vectors over hidden units are read and sums are taken."""

_SUM_DTYPE_IS_OWN = (torch.float32, torch.float64)
_BASIS_NUMBER = {name: number for number, name in enumerate(TABLE)} | {"spline": -2}
_TRANSFORM_NUMBER = {name: number for number, name in enumerate(TRANSFORMS)}


def how_to_build() -> str:
    """Return the command that builds the extension for this package, or fails and says why it cannot be built."""
    root = Path(__file__).resolve().parents[2]
    fresh = "--force-reinstall --no-deps --no-cache-dir --no-binary gradnets_fast gradnets_fast"
    return f"GRADNETS_FAST_EXTENSION=1 pip install {f'-e {root}' if (root / 'setup.py').is_file() else fresh}"


def _load() -> tuple[ModuleType | None, str | None]:
    """Return the extension, or every reason why there is none."""
    fix = f"to build it, with GCC: {how_to_build()}"
    try:
        extension = importlib.import_module(".._C", __package__)
    except ImportError as error:
        return None, f"the compiled extension gradnets_fast._C cannot be imported ({error}); {fix}"
    try:
        names = [*extension.basis_names(), *extension.transform_names()]
        sources = extension.sources
    except AttributeError:
        names, sources = [], ""  # an extension from before the check
    except RuntimeError as error:  # this processor lacks what GRADNETS_FAST_CPU_ISA names, or all that was built
        return None, str(error)
    if sources != (_sources() or sources):
        return None, f"the compiled extension was built from other files than csrc/ has now; {fix}"
    if names != [*TABLE, *TRANSFORMS]:
        return None, f"the compiled extension was built for another activation table; {fix}"
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    extension.set_types(torch.Tensor, torch.nn.Parameter, exchange, *_SUFFIX)
    by_reach = [
        [(reach, *map(list, zip(*rule))) for reach, rule in rules_by_reach(dtype)] for dtype in ("float32", "float64")
    ]
    extension.set_potential_rules(*map(list, zip(*SINGLE_PANEL_RULE)), *by_reach)
    return extension, None


def _sources() -> str | None:
    """Return the digest of csrc/, as CMakeLists.txt takes it, where the package lies in a checkout; None elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "csrc"
    if not (folder / "activations_gen.h").is_file():
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in (".cpp", ".h"))
    digests = [sha256(path.read_bytes()).hexdigest() for path in files]
    return sha256("".join(digests).encode()).hexdigest()


# Once, at import: torch.compile traces what follows, and cannot trace an import of a C++ module.
_EXTENSION, _WHY_UNAVAILABLE = _load()

environment: Callable[[str], str] = getattr(_EXTENSION, "environment", lambda name: os.environ.get(name, ""))
"""The value of an environment variable, or "" if it is not set, in less time than os.environ takes where it can."""


def why_unavailable() -> str | None:
    """Return why the kernels cannot be called, or None if they can."""
    return _WHY_UNAVAILABLE


def extension() -> Any:
    """Return the extension module.

    Raises:
        RuntimeError: there is none; the message is the cause.
    """
    if _EXTENSION is None:
        raise RuntimeError(_WHY_UNAVAILABLE)
    return _EXTENSION


def describe(dtype: torch.dtype) -> str:
    """Return in words which build of the kernels runs points of a dtype."""
    threads = f"{get_num_threads()} thread(s), {extension().threading()}"
    return f"csrc, {_SUFFIX[dtype]}, {extension().instruction_set()} instructions, {threads}"


class CppKernels(Kernels):
    """The C++ kernels of one operator; tensors as in `Operator.arguments`."""

    def __init__(self, operator: Operator) -> None:
        family = operator.family
        self._family, self._quantity, self._point_count = family.name, operator.quantity, operator.point_count
        self._registered, self._stored = operator.registered, self._point_count + 1
        self._fits, self._is_deep = family.fits, family.name == "deep"
        self._can_keep = self._is_deep and operator.quantity.name in ("value", "value_and_potential")
        self._forward: Callable[[Tensors, Settings], Tensor | None] = getattr(self, f"_{operator.quantity.name}")
        self._no_gradients = (None,) * (len(family.parameters) + 1)
        self._numbers: dict[Settings, tuple[Any, ...]] = {}

    def attempt(self, tensors: Tensors, settings: Settings) -> Tensor | None:
        """Return the result, or None if a shape, dtype, stride or device is not such as kernels read.

        The kernels check that themselves: the checks in Python, which it skips, cost as much as a small call.
        """
        x = tensors[0]
        if _EXTENSION is None or x is None or type(x) not in PLAIN_TYPES or not x.is_cpu:
            return None
        if profiler._is_profiler_enabled:
            return shown(self._registered, self._forward, tensors, settings)
        return self._forward(tensors, settings)

    def forward(self, tensors: Tensors, settings: Settings) -> Tensor:
        """Return the result, for tensors whose shapes and dtypes have been checked, of any strides."""
        x = tensors[0]
        assert x is not None
        if not x.numel():
            return torch.empty(self._quantity.result_shape(x.shape), dtype=x.dtype)
        result: Tensor = _ran(self._forward(self._dense(tensors, x.dtype), settings))
        return result

    def keeping(self, tensors: Tensors, settings: Settings) -> tuple[Tensor, Tensor] | None:
        """Return the result of a deep network, f or (f, F), and u_l and p_l of its layers."""
        x, structure = tensors[0], settings.structure
        if _EXTENSION is None or not self._can_keep or structure is None or x is None:
            return None
        if type(x) not in PLAIN_TYPES or not x.is_cpu or not x.dim() or not x.numel() or x.dtype not in _SUM_DTYPE:
            return None
        rows = x.numel() // x.shape[-1]
        kept = torch.empty(rows, 2 * sum(structure.widths), dtype=_SUM_DTYPE[x.dtype])
        forward = self._value if self._quantity.name == "value" else self._value_and_potential
        result = forward(tensors, settings, kept)
        return None if result is None else (result, kept)

    def backward_of_kept(
        self, g: Tensor, tensors: Tensors, kept: Tensor, settings: Settings, needs: Sequence[bool]
    ) -> Gradients:
        """Return the gradients of <g, result> by u_l and p_l of the layers."""
        return self.backward(g, tensors, settings, needs, kept)

    def _value(self, tensors: Tensors, settings: Settings, kept: Tensor | None = None) -> Tensor | None:
        x = tensors[0]
        assert x is not None
        f = empty_like(x)
        points, results = (x, None, None, None), (None, f, None, None)
        return f if self._call("value", settings, points, tensors[1:], results, self._no_gradients, kept) else None

    def _jvp(self, tensors: Tensors, settings: Settings) -> Tensor | None:
        x, v = tensors[:2]
        if getattr(v, "shape", None) != present(x).shape:
            return None
        return self._jacobian_times(v, present(x), tensors[2:], settings)

    def _jacobian(self, tensors: Tensors, settings: Settings) -> Tensor | None:
        x = present(tensors[0])
        if not x.dim() or not self._fits(x.shape[-1], tensors[1], settings):
            return None  # a Jacobian of others might not fit in any memory
        J = torch.empty(*x.shape, x.shape[-1], dtype=x.dtype)
        return J if self._run(tensors, settings, (None, J, None, None)) else None

    def _potential(self, tensors: Tensors, settings: Settings) -> Tensor | None:
        x = present(tensors[0])
        number = torch.empty(x.shape[:-1], dtype=_SUM_DTYPE.get(x.dtype, x.dtype))
        return number.to(x.dtype) if self._run(tensors, settings, (None, None, None, number)) else None

    _divergence = _potential

    def _value_and_potential(self, tensors: Tensors, settings: Settings, kept: Tensor | None = None) -> Tensor | None:
        x = present(tensors[0])
        f, F = empty_like(x), torch.empty(x.shape[:-1], dtype=_SUM_DTYPE.get(x.dtype, x.dtype))
        done = self._run(tensors, settings, (None, f, None, F), kept)
        return torch.cat([f, F.to(x.dtype).unsqueeze(-1)], -1) if done else None

    def backward(
        self, g: Tensor, tensors: Tensors, settings: Settings, needs: Sequence[bool], kept: Tensor | None = None
    ) -> Gradients:
        """Return the gradients of <g, result> in the tensors that `needs` marks."""
        x = tensors[0]
        assert x is not None
        if not x.numel():
            return _zeros(tensors, needs)
        if self._quantity.name == "jvp" and needs[1] and sum(needs) == 1:
            dense, direction = self._dense(tensors, x.dtype), _dense(g, x.dtype)
            product = _ran(self._jacobian_times(direction, present(dense[0]), dense[2:], settings))
            return (None, product, *(None,) * (len(tensors) - 2))
        gradients = _memory(tensors, needs, self._stored)
        if not self._backward(g, tensors, settings, gradients, kept):
            _ran(self._backward(g, self._dense(tensors, x.dtype), settings, gradients, kept) or None)
        if x.dtype in _SUM_DTYPE_IS_OWN:
            return tuple(gradients)
        return tuple(d if d is None or t is None else d.to(t.dtype) for d, t in zip(gradients, tensors))

    def squared_error(
        self, x: Tensor, target: Tensor, parameters: Tensors, settings: Settings, error: Tensor, into: Tensors
    ) -> None:
        """Write the mean of (f(x) − target)², (1,), and its gradients in the parameters and the bias into memory.

        All tensors are as kernels read them, float32 or float64.
        """
        points, results = (x, target, None, None), (None, empty_like(x), None, error)
        done = self._call("squared_error", settings, points, parameters, results, tuple(into))
        _ran(done or None)

    def squared_error_with_gradients(
        self, x: Tensor, target: Tensor, parameters: Tensors, settings: Settings, needs: Sequence[bool]
    ) -> tuple[Tensor, list[Tensor | None]] | None:
        """Return the mean of (f(x) − target)², (), and its gradients in (x, target, *parameters) where `needs` says.

        None where the tensors are not such as kernels read.
        """
        error, slope = x.new_empty(()), empty_like(x)
        dx, _, *into = _memory((x, None, *parameters), needs, 3)
        points, results = (x, target, None, None), (dx, slope, None, error.view(1))
        if not self._call("squared_error", settings, points, parameters, results, tuple(into)):
            return None
        return error, [dx, slope.neg_() if needs[1] else None, *into]

    def _backward(
        self,
        g: Tensor,
        tensors: Tensors,
        settings: Settings,
        gradients: list[Tensor | None],
        kept: Tensor | None,
    ) -> bool:
        count, quantity = self._point_count, self._quantity
        x, v = tensors[0], tensors[1] if count == 2 else None
        dx, dv = gradients[0], gradients[1] if count == 2 else None
        dtype = present(x).dtype
        points: tuple[Tensor | None, ...]
        if quantity.result == "number":
            points = (x, None, v, _dense(g, _SUM_DTYPE[dtype]))
        elif quantity.result == "vector and number":
            points = (x, _dense(g[..., :-1], dtype), v, _dense(g[..., -1], _SUM_DTYPE[dtype]))
        else:
            points = (x, _dense(g, dtype), v, None)
        no_bias = () if quantity.takes_bias else (None,)
        parameters, into = (*tensors[count:], *no_bias), (*gradients[count:], *no_bias)
        return self._call(quantity.name, settings, points, parameters, (dx, None, dv, None), into, kept)

    def _jacobian_times(self, v: Tensor | None, x: Tensor, parameters: Tensors, settings: Settings) -> Tensor | None:
        """Return J(x) v, which is the gradient of <v, f> in x."""
        product = empty_like(x)
        results = (product, None, None, None)
        if not self._call("value", settings, (x, v, None, None), (*parameters, None), results, self._no_gradients):
            return None
        # To a kernel a piecewise linear basis has a constant slope, but what follows from NaN is NaN.
        if self._family in ("ridge", "conv_ridge") and x.sum().isnan():
            product[x.isnan().any(-1)] = math.nan
        return product

    def _run(
        self, tensors: Tensors, settings: Settings, results: tuple[Tensor | None, ...], kept: Tensor | None = None
    ) -> bool:
        """Call the operator's own kernel, which takes no bias, for results at points x alone."""
        points, parameters = (tensors[0], None, None, None), (*tensors[1:], None)
        return self._call(self._quantity.name, settings, points, parameters, results, self._no_gradients, kept)

    def _call(
        self,
        quantity: str,
        settings: Settings,
        points: tuple[Tensor | None, ...],
        parameters: Tensors,
        results: tuple[Tensor | None, ...],
        gradients: tuple[Tensor | None, ...],
        kept: Tensor | None = None,
    ) -> bool:
        entry, numbers = getattr(_EXTENSION, self._family), self._numbers.get(settings)
        if numbers is None:
            numbers = self._numbers[settings] = _numbers(self._family, settings)
        more = (kept,) if self._is_deep else ()
        done: bool = entry(quantity, *numbers, points, parameters, results, gradients, get_num_threads(), *more)
        return done

    def _dense(self, tensors: Tensors, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        """Return points, W and parameters as kernels read them."""
        sums = _SUM_DTYPE[dtype]
        return tuple([_dense(t, dtype if i < self._stored else sums) for i, t in enumerate(tensors)])


def linear_convolution(which: str, x: Tensor, y: Tensor, K: Tensor, padding: str) -> Tensor:
    """Return one of y = K∗x, x = Kᵀy and the gradient of <y, K∗x> in K, written into y, x or K, which is contiguous.

    which: "convolved", "adjoint" or "filters".
    """
    result = {"convolved": y, "adjoint": x, "filters": K}[which]
    if not x.numel():
        return result.zero_()
    tensors = (_dense(t, x.dtype) for t in (x, y, K))
    done = extension().linear_conv(which, *tensors, padding == "circular", get_num_threads())
    written: Tensor = _ran(result if done else None)
    return written


def cholesky(A: Tensor, weight: Tensor | None = None, inverse: Tensor | None = None) -> Tensor:
    """Return log det A, (B,), of symmetric positive definite A (B, d, d), float32 or float64.

    Where memory for it is given, (B, d, d), A⁻¹ is written into it, times the weights (B,).  The logarithm is NaN, and
    the inverse has no meaning, where A is not positive definite.
    """
    A, weight = present(_dense(A, A.dtype)), _dense(weight, A.dtype)
    logarithm = A.new_empty(A.shape[0])
    if not A.numel():
        return logarithm.zero_()
    _ran(extension().cholesky(A, weight, logarithm, inverse, get_num_threads()) or None)
    return logarithm


def adam(parameters: Tensor, gradient: Tensor, means: tuple[Tensor, Tensor], step: int, rate: float) -> None:
    """Make the step-th update of parameters (n,) as torch.optim.Adam does with its own constants.

    means: the running means of the gradient and of its square, (n,) each, which are updated too.
    """
    constants = (0.9, 0.999, 1e-8)
    _ran(extension().adam(parameters, gradient, *means, step, rate, *constants, get_num_threads()) or None)


def _numbers(family: str, settings: Settings) -> tuple[Any, ...]:
    """Return the kernels' numbers of the basis functions, and the other settings, as a family's entry takes them."""
    if settings.structure is not None:
        widths, *others = settings.structure
        return ([_BASIS_NUMBER[name] for name in settings.basis], list(widths), *others)
    if family == "ridge":
        return [_BASIS_NUMBER[name] for name in settings.basis], settings.heads
    if settings.image is not None:
        numbers = [_BASIS_NUMBER[name] for name in settings.basis]
        return numbers, settings.heads, list(settings.image.shape), settings.image.padding == "circular"
    if family == "softmax_modules":
        return ()
    return _BASIS_NUMBER[settings.basis[0]], _TRANSFORM_NUMBER[settings.transform]


def _dense(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the tensor as kernels read it."""
    if tensor is None:
        return None
    if type(tensor) in PLAIN_TYPES and tensor.dtype is dtype and tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    # Kernels know torch's own classes only.  A lazily negated tensor, such as the imaginary part of a conjugate, is
    # contiguous and yet must be copied.
    return tensor.detach().as_subclass(Tensor).resolve_neg().to(dtype).contiguous()


def _memory(tensors: Tensors, needs: Sequence[bool], stored: int) -> list[Tensor | None]:
    """Return memory for the gradients that are needed; those of vectors, after `stored` others, in the sums' dtype."""
    dtype = present(tensors[0]).dtype
    if dtype in _SUM_DTYPE_IS_OWN:
        return [
            empty_like(t, memory_format=torch.contiguous_format) if need and t is not None else None
            for need, t in zip(needs, tensors)
        ]
    return [
        torch.empty(t.shape, dtype=dtype if i < stored else _SUM_DTYPE[dtype]) if need and t is not None else None
        for i, (need, t) in enumerate(zip(needs, tensors))
    ]


def _zeros(tensors: Tensors, needs: Sequence[bool]) -> Gradients:
    """Return the gradients of an empty batch."""
    return tuple(
        torch.zeros_like(t, memory_format=torch.contiguous_format) if need and t is not None else None
        for need, t in zip(needs, tensors)
    )


def _ran(result: Any) -> Any:
    """Return what kernels gave for tensors that Python has checked."""
    if result is None:
        raise AssertionError(
            "gradnets_fast._C: tensors: expected shapes, dtypes and strides as Python's checks leave them, got others; "
            'report this bug, and meanwhile run under gradnets_fast.use_backend("reference")'
        )
    return result
