"""The only caller of the compiled extension: tensors in, raw addresses out."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..activations import TABLE, TRANSFORMS
from ..reference.ridge import PANELLED_RULE, SINGLE_PANEL_RULE, SMOOTH

Gradients = tuple[Tensor | None, ...]

_SUFFIX = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}
_SUM_DTYPE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
_PLAIN = (Tensor, torch.nn.Parameter)
_SUM_DTYPE_IS_OWN = (torch.float32, torch.float64)
_BASIS_NUMBER = {name: number for number, name in enumerate(TABLE)}
_TRANSFORM_NUMBER = {name: number for number, name in enumerate(TRANSFORMS)}
_NO_BASIS = -1


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, or every reason why there is none."""
    try:
        extension = importlib.import_module("gradnets_fast._C")
    except ImportError as error:
        return None, f"the compiled extension gradnets_fast._C cannot be imported ({error}); reinstall the package"
    try:
        names = [*extension.basis_names(), *extension.transform_names()]
    except AttributeError:
        names = []  # an extension from before the check
    except RuntimeError as error:  # GRADNETS_FAST_CPU_ISA names what this processor lacks
        return None, str(error)
    if names != [*TABLE, *TRANSFORMS]:
        return None, "the compiled extension was built for another activation table; rebuild it with pip install ."
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    extension.set_types(torch.Tensor, torch.nn.Parameter, exchange, *_SUFFIX)
    rules = (PANELLED_RULE, SINGLE_PANEL_RULE)
    extension.set_potential_rules(*(list(part) for rule in rules for part in zip(*rule)), [b in SMOOTH for b in TABLE])
    return extension, None


# Once, at import: torch.compile traces what follows, and cannot trace an import of a C++ module.
_EXTENSION, _WHY_UNAVAILABLE = _load()


def why_unavailable() -> str | None:
    """None if the kernels can be called."""
    return _WHY_UNAVAILABLE


def extension() -> Any:
    """The extension module; RuntimeError with the cause if there is none."""
    if _EXTENSION is None:
        raise RuntimeError(_WHY_UNAVAILABLE)
    return _EXTENSION


def describe(dtype: torch.dtype) -> str:
    """Which build of the kernels runs, for people."""
    return f"csrc, {_SUFFIX[dtype]}, {extension().instruction_set()} instructions, {torch.get_num_threads()} thread(s)"


def _dense(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The tensor as kernels read it."""
    if tensor is None:
        return None
    if type(tensor) in _PLAIN and tensor.dtype is dtype and tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    # Kernels know torch's own classes only.  A lazily negated tensor, such as the imaginary part of a conjugate, is
    # contiguous and yet must be copied.
    return tensor.detach().as_subclass(Tensor).resolve_neg().to(dtype).contiguous()


@lru_cache(maxsize=None)
def basis_numbers(config: str) -> list[int]:
    """The kernels' numbers of the basis functions that `config` names."""
    return [_BASIS_NUMBER[name] for name in config.split(",")]


def _gradients(needs: Sequence[bool], tensors: Sequence[Tensor | None], stored: int = 2) -> list[Tensor | None]:
    """Memory for the gradients that are needed, those of vectors, after `stored` others, in the dtype of sums."""
    dtype = tensors[0].dtype  # type: ignore[union-attr]
    if dtype in _SUM_DTYPE_IS_OWN:
        return [
            torch.empty_like(t, memory_format=torch.contiguous_format) if need and t is not None else None
            for need, t in zip(needs, tensors)
        ]
    return [
        torch.empty(t.shape, dtype=dtype if i < stored else _SUM_DTYPE[dtype]) if need and t is not None else None
        for i, (need, t) in enumerate(zip(needs, tensors))
    ]


def _like(gradients: Sequence[Tensor | None], tensors: Sequence[Tensor | None]) -> Gradients:
    """Each gradient in its tensor's dtype."""
    return tuple(
        g if g is None or t is None or g.dtype is t.dtype else g.to(t.dtype) for g, t in zip(gradients, tensors)
    )


def _no_rows(needs: Sequence[bool], tensors: Sequence[Tensor | None]) -> Gradients:
    return tuple(
        torch.zeros_like(t, memory_format=torch.contiguous_format) if need and t is not None else None
        for need, t in zip(needs, tensors)
    )


def _mended(tensors: Sequence[Tensor | None], dtype: torch.dtype, stored: int = 2) -> list[Tensor | None]:
    """x, W (`stored` tensors of `dtype`) and parameters as kernels read them."""
    return [_dense(t, dtype if i < stored else _SUM_DTYPE[dtype]) for i, t in enumerate(tensors)]


_ONLY_X = (True, False, False, False, False, False, False)
"""Which gradients are needed when only that of x is; longer than any operator's list of arguments."""


def _ran(done: bool) -> None:
    if not done:
        raise AssertionError(
            "gradnets_fast._C: tensors: expected shapes, dtypes and strides as Python's checks leave them, got others; "
            'report this bug, and meanwhile run under gradnets_fast.use_backend("reference")'
        )


def ridge_attempt(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None, config: str
) -> Tensor | None:
    """f(x), or None if the tensors are not such as kernels read: shapes, dtypes, strides, device."""
    if _EXTENSION is None or type(x) not in _PLAIN:
        return None
    out = torch.empty_like(x)
    done = _EXTENSION.ridge(
        *(basis_numbers(config), x, None, W, scale, shift, coef, bias),
        *(None, out, None, None, None, None, None, torch.get_num_threads()),
    )
    return out if done else None


def ridge_forward(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None, config: str
) -> Tensor:
    """f(x); the shapes of reference.ridge, config = basis names joined by commas."""
    out = torch.empty(x.shape, dtype=x.dtype)
    if x.numel():
        mended = _mended((x, W, scale, shift, coef, bias), x.dtype)
        nothing = (None,) * 5
        numbers, threads = basis_numbers(config), torch.get_num_threads()
        _ran(extension().ridge(numbers, mended[0], None, *mended[1:], None, out, *nothing, threads))
    return out


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
    if not x.numel():
        return _no_rows(needs, tensors)
    gradients = _gradients(needs, tensors)
    call = partial(extension().ridge, basis_numbers(config))
    results = (gradients[0], None, *gradients[1:], torch.get_num_threads())
    if not call(x, g, W, scale, shift, coef, bias, *results):
        mended = _mended(tensors, x.dtype)
        _ran(call(mended[0], _dense(g, x.dtype), *mended[1:], *results))
    return _like(gradients, tensors)


def ridge_jvp_forward(
    x: Tensor, v: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, config: str
) -> Tensor:
    """J(x) v, which is the gradient of <v, f> in x."""
    (tangent, *_) = ridge_backward(v, x, W, scale, shift, coef, None, config, _ONLY_X)
    assert tangent is not None
    # To the kernel a piecewise linear basis has a constant slope, but what follows from NaN is NaN.
    if x.sum().isnan():
        tangent[x.isnan().any(-1)] = math.nan
    return tangent


def ridge_jvp_backward(
    g: Tensor,
    x: Tensor,
    v: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of <g, J v> for those of (x, v, W, scale, shift, coef) that `needs` marks."""
    tensors = (x, v, W, scale, shift, coef)
    if not x.numel():
        return _no_rows(needs, tensors)
    if needs[1] and sum(needs) == 1:
        return (None, ridge_jvp_forward(x, g, W, scale, shift, coef, config), None, None, None, None)
    gradients = _gradients(needs, tensors, stored=3)
    points, *mended = _mended(tensors, x.dtype, stored=3)
    dx, dv, *rest = gradients
    _ran(
        extension().ridge_derivative(
            *(basis_numbers(config), points, _dense(g, x.dtype), *mended, dx, None, dv, *rest),
            torch.get_num_threads(),
        )
    )
    return _like(gradients, tensors)


def _ridge_per_row_forward(kernel: str, tensors: Sequence[Tensor | None], config: str) -> Tensor:
    x = tensors[0]
    assert x is not None
    result = torch.empty(x.shape[:-1], dtype=_SUM_DTYPE[x.dtype])
    if x.numel():
        mended = _mended(tensors, x.dtype)
        nothing = (None,) * 5
        numbers, threads = basis_numbers(config), torch.get_num_threads()
        _ran(getattr(extension(), kernel)(numbers, mended[0], None, *mended[1:], result, *nothing, threads))
    return result.to(x.dtype)


def _ridge_per_row_backward(
    kernel: str, g: Tensor, tensors: Sequence[Tensor | None], config: str, needs: tuple[bool, ...]
) -> Gradients:
    x = tensors[0]
    assert x is not None
    if not x.numel():
        return _no_rows(needs, tensors)
    gradients = _gradients(needs, tensors)
    mended = _mended(tensors, x.dtype)
    weight = _dense(g, _SUM_DTYPE[x.dtype])
    _ran(
        getattr(extension(), kernel)(
            *(basis_numbers(config), mended[0], weight, *mended[1:], None, *gradients, torch.get_num_threads())
        )
    )
    return _like(gradients, tensors)


def ridge_divergence_forward(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, config: str
) -> Tensor:
    """tr J(x), (…,)."""
    return _ridge_per_row_forward("ridge_divergence", (x, W, scale, shift, coef), config)


def ridge_divergence_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of Σ g·tr J(x) for those of (x, W, scale, shift, coef) that `needs` marks."""
    return _ridge_per_row_backward("ridge_divergence", g, (x, W, scale, shift, coef), config, needs)


def ridge_potential_forward(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, config: str
) -> Tensor:
    """F(x) but for the bias's part, (…,)."""
    return _ridge_per_row_forward("ridge_potential", (x, W, scale, shift, coef), config)


def ridge_potential_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of Σ g·F(x), F without bias, for those of (x, W, scale, shift, coef) that `needs` marks."""
    return _ridge_per_row_backward("ridge_potential", g, (x, W, scale, shift, coef), config, needs)


_ModuleTensors = tuple[Tensor, Tensor, Tensor, "Tensor | None", Tensor, "Tensor | None", "Tensor | None"]
"""x, W, b, temperature, positive, negative, bias."""


def _modules_forward(tensors: _ModuleTensors, basis: int, transform: int) -> Tensor:
    x = tensors[0]
    out = torch.empty(x.shape, dtype=x.dtype)
    if x.numel():
        mended = _mended(tensors, x.dtype)
        nothing = (None,) * 6
        threads = torch.get_num_threads()
        _ran(extension().modules(basis, transform, mended[0], None, *mended[1:], None, out, *nothing, threads))
    return out


def _modules_attempt(tensors: _ModuleTensors, basis: int, transform: int) -> Tensor | None:
    x, *parameters = tensors
    if _EXTENSION is None or type(x) not in _PLAIN:
        return None
    out = torch.empty_like(x)
    done = _EXTENSION.modules(
        *(basis, transform, x, None, *parameters),
        *(None, out, None, None, None, None, None, None, torch.get_num_threads()),
    )
    return out if done else None


def _modules_backward(
    g: Tensor, tensors: _ModuleTensors, basis: int, transform: int, needs: tuple[bool, ...]
) -> Gradients:
    x = tensors[0]
    if not x.numel():
        return _no_rows(needs, tensors)
    gradients = _gradients(needs, tensors)
    mended = _mended(tensors, x.dtype)
    _ran(
        extension().modules(
            *(basis, transform, mended[0], _dense(g, x.dtype), *mended[1:]),
            *(gradients[0], None, *gradients[1:], torch.get_num_threads()),
        )
    )
    return _like(gradients, tensors)


def _modules_jvp_backward(
    g: Tensor, v: Tensor, tensors: _ModuleTensors, basis: int, transform: int, needs: tuple[bool, ...]
) -> Gradients:
    """The gradients of <g, J v> for those of (x, v, W, b, temperature, positive, negative) that `needs` marks."""
    x, *parameters, _ = tensors
    differentiated = (x, v, *parameters)
    if not x.numel():
        return _no_rows(needs, differentiated)
    if needs[1] and sum(needs) == 1:
        return (None, _modules_backward(g, tensors, basis, transform, _ONLY_X)[0], *(None,) * 5)
    gradients = _gradients(needs, differentiated, stored=3)
    points, *mended = _mended(differentiated, x.dtype, stored=3)
    dx, dv, *rest = gradients
    _ran(
        extension().modules_derivative(
            *(basis, transform, points, _dense(g, x.dtype), *mended, dx, None, dv, *rest),
            torch.get_num_threads(),
        )
    )
    return _like(gradients, differentiated)


def softmax_modules_attempt(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    config: str,
) -> Tensor | None:
    """f(x), or None if the tensors are not such as kernels read."""
    return _modules_attempt((x, W, b, temperature, positive, negative, bias), _NO_BASIS, 0)


def softmax_modules_forward(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    config: str,
) -> Tensor:
    """f(x); the shapes of reference.softmax_modules, config unused."""
    return _modules_forward((x, W, b, temperature, positive, negative, bias), _NO_BASIS, 0)


def softmax_modules_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of <g, f> for those of (x, W, b, temperature, positive, negative, bias) that `needs` marks."""
    return _modules_backward(g, (x, W, b, temperature, positive, negative, bias), _NO_BASIS, 0, needs)


def softmax_modules_jvp_forward(
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    config: str,
) -> Tensor:
    """J(x) v, which is the gradient of <v, f> in x."""
    (tangent, *_) = _modules_backward(v, (x, W, b, temperature, positive, negative, None), _NO_BASIS, 0, _ONLY_X)
    assert tangent is not None
    return tangent


def softmax_modules_jvp_backward(
    g: Tensor,
    x: Tensor,
    v: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of <g, J v> for those of (x, v, W, b, temperature, positive, negative) that `needs` marks."""
    return _modules_jvp_backward(g, v, (x, W, b, temperature, positive, negative, None), _NO_BASIS, 0, needs)


def _transformed_numbers(config: str) -> tuple[int, int]:
    basis, transform = config.split(",")
    return _BASIS_NUMBER[basis], _TRANSFORM_NUMBER[transform]


def transformed_modules_attempt(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, config: str
) -> Tensor | None:
    """f(x), or None if the tensors are not such as kernels read."""
    return _modules_attempt((x, W, b, None, weight, None, bias), *_transformed_numbers(config))


def transformed_modules_forward(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, config: str
) -> Tensor:
    """f(x); the shapes of reference.transformed_modules, config = "basis,transform"."""
    return _modules_forward((x, W, b, None, weight, None, bias), *_transformed_numbers(config))


def transformed_modules_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    b: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of <g, f> for those of (x, W, b, weight, bias) that `needs` marks."""
    all_needs = (*needs[:3], False, needs[3], False, needs[4])
    gradients = _modules_backward(g, (x, W, b, None, weight, None, bias), *_transformed_numbers(config), all_needs)
    return (*gradients[:3], gradients[4], gradients[6])


def transformed_modules_jvp_forward(x: Tensor, v: Tensor, W: Tensor, b: Tensor, weight: Tensor, config: str) -> Tensor:
    """J(x) v, which is the gradient of <v, f> in x."""
    tensors = (x, W, b, None, weight, None, None)
    (tangent, *_) = _modules_backward(v, tensors, *_transformed_numbers(config), _ONLY_X)
    assert tangent is not None
    return tangent


def transformed_modules_jvp_backward(
    g: Tensor, x: Tensor, v: Tensor, W: Tensor, b: Tensor, weight: Tensor, config: str, needs: tuple[bool, ...]
) -> Gradients:
    """The gradients of <g, J v> for those of (x, v, W, b, weight) that `needs` marks."""
    all_needs = (*needs[:4], False, needs[4], False)
    tensors = (x, W, b, None, weight, None, None)
    gradients = _modules_jvp_backward(g, v, tensors, *_transformed_numbers(config), all_needs)
    return (*gradients[:4], gradients[5])
