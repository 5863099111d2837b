"""The only caller of the compiled extension: tensors in, raw addresses out."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
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


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, or every reason why there is none."""
    try:
        extension = importlib.import_module(".._C", __package__)
    except ImportError as error:
        what = "the compiled extension gradnets_fast._C"
        return None, f"{what} cannot be imported ({error}); pip install gradnets_fast brings it"
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


def environment(name: str) -> str:
    """The environment variable, or "" if it is not set; RuntimeError without the extension."""
    value: str = extension().environment(name)
    return value


def describe(dtype: torch.dtype) -> str:
    """Which build of the kernels runs, for people."""
    threads = f"{torch.get_num_threads()} thread(s), {extension().threading()}"
    return f"csrc, {_SUFFIX[dtype]}, {extension().instruction_set()} instructions, {threads}"


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


def _gradients(needs: Sequence[bool], tensors: _Tensors, stored: int = 2) -> list[Tensor | None]:
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

_Tensors = Sequence["Tensor | None"]

_NOTHING = [(None,) * count for count in range(7)]
"""No gradients of so many tensors."""


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
    points, parameters, results = (x, None, None, None), (W, scale, shift, coef, bias), (None, out, None, None)
    done = _EXTENSION.ridge(
        "value", basis_numbers(config), points, parameters, results, _NOTHING[5], torch.get_num_threads()
    )
    return out if done else None


def ridge_forward(
    x: Tensor, W: Tensor, scale: Tensor | None, shift: Tensor, coef: Tensor | None, bias: Tensor | None, config: str
) -> Tensor:
    """f(x); the shapes of reference.ridge, config = basis names joined by commas."""
    out = torch.empty(x.shape, dtype=x.dtype)
    if x.numel():
        points, *parameters = _mended((x, W, scale, shift, coef, bias), x.dtype)
        _ran(_ridge("value", config, (points, None, None, None), parameters, (None, out, None, None), _NOTHING[5]))
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
    dx, *rest = gradients = _gradients(needs, tensors)
    results = (dx, None, None, None)
    if not _ridge("value", config, (x, g, None, None), tensors[1:], results, rest):
        points, *parameters = _mended(tensors, x.dtype)
        _ran(_ridge("value", config, (points, _dense(g, x.dtype), None, None), parameters, results, rest))
    return tuple(gradients) if x.dtype in _SUM_DTYPE_IS_OWN else _like(gradients, tensors)


def _ridge(
    quantity: str, config: str, points: _Tensors, parameters: _Tensors, results: _Tensors, gradients: _Tensors
) -> bool:
    done: bool = extension().ridge(
        *(quantity, basis_numbers(config), points, tuple(parameters), results, tuple(gradients)),
        torch.get_num_threads(),
    )
    return done


def _softmax(
    quantity: str, config: str, points: _Tensors, parameters: _Tensors, results: _Tensors, gradients: _Tensors
) -> bool:
    done: bool = extension().softmax_modules(
        *(quantity, points, tuple(parameters), results, tuple(gradients)), torch.get_num_threads()
    )
    return done


def _transformed(
    quantity: str, config: str, points: _Tensors, parameters: _Tensors, results: _Tensors, gradients: _Tensors
) -> bool:
    done: bool = extension().transformed_modules(
        *(quantity, *_transformed_numbers(config), points, tuple(parameters), results, tuple(gradients)),
        torch.get_num_threads(),
    )
    return done


_SCALAR_CALLS = {
    "ridge": _ridge,
    "softmax_modules": _softmax,
    "transformed_modules": _transformed,
}


class ScalarKernels:
    """The kernels of one scalar S of points x, perhaps directions v, and parameters, for one family.

    kind: "potential" or "divergence", whose forward pass gives one number a row; "jacobian", a matrix; "derivative",
    J(x) v.  The arguments are those of the operator.
    """

    def __init__(self, family: str, kind: str) -> None:
        self._family, self._kind = family, kind
        self._call = partial(_SCALAR_CALLS[family], "jvp" if kind == "derivative" else kind)
        self._rows = 2 if kind == "derivative" else 1

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """S's kernel without gradients: (x, [v], *parameters, config) -> the operator's result."""
        *tensors, config = arguments
        if self._kind == "derivative":
            return _directional(self._family, x, *tensors, config=config)
        per_row = self._kind != "jacobian"
        if per_row:
            result = torch.empty(x.shape[:-1], dtype=_SUM_DTYPE[x.dtype])
        else:
            result = torch.empty(*x.shape, x.shape[-1], dtype=x.dtype)
        if x.numel():
            points, *mended = _mended((x, *tensors), x.dtype)
            results = (None, None, None, result) if per_row else (None, result, None, None)
            nothing = (None,) * (len(mended) + 1)
            _ran(self._call(config, (points, None, None, None), (*mended, None), results, nothing))
        return result.to(x.dtype)

    def backward(self, g: Tensor, *arguments: Any) -> Gradients:
        """(g, x, [v], *parameters, config, needs) -> the gradients of <g, result>."""
        *tensors, config, needs = arguments
        x = tensors[0]
        if not x.numel():
            return _no_rows(needs, tensors)
        if self._kind == "derivative" and needs[1] and sum(needs) == 1:
            return (None, _directional(self._family, x, g, *tensors[2:], config=config), *(None,) * (len(tensors) - 2))
        gradients = _gradients(needs, tensors, stored=self._rows + 1)
        points, *mended = _mended(tensors, x.dtype, stored=self._rows + 1)
        v = mended.pop(0) if self._rows > 1 else None
        dx, *rest = gradients
        dv = rest.pop(0) if self._rows > 1 else None
        if self._kind in ("potential", "divergence"):
            rows: _Tensors = (points, None, None, _dense(g, _SUM_DTYPE[x.dtype]))
        else:
            rows = (points, _dense(g, x.dtype), v, None)
        _ran(self._call(config, rows, (*mended, None), (dx, None, dv, None), (*rest, None)))
        return _like(gradients, tensors)


class PairKernels:
    """f(x) and F(x) from one product with W: (…, d + 1), the potential last; for the modules' families."""

    def __init__(self, family: str) -> None:
        self._call = partial(_SCALAR_CALLS[family], "value_and_potential")

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """(x, *parameters, config) -> the operator's result."""
        *tensors, config = arguments
        f, F = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape[:-1], dtype=_SUM_DTYPE[x.dtype])
        if x.numel():
            points, *mended = _mended((x, *tensors), x.dtype)
            results = (None, f, None, F)
            nothing = (None,) * (len(mended) + 1)
            _ran(self._call(config, (points, None, None, None), (*mended, None), results, nothing))
        return torch.cat([f, F.to(x.dtype).unsqueeze(-1)], -1)

    def backward(self, g: Tensor, *arguments: Any) -> Gradients:
        """(g, x, *parameters, config, needs) -> the gradients of <g, result>."""
        *tensors, config, needs = arguments
        x = tensors[0]
        if not x.numel():
            return _no_rows(needs, tensors)
        dx, *rest = gradients = _gradients(needs, tensors)
        points, *mended = _mended(tensors, x.dtype)
        rows = (points, _dense(g[..., :-1], x.dtype), None, _dense(g[..., -1], _SUM_DTYPE[x.dtype]))
        _ran(self._call(config, rows, (*mended, None), (dx, None, None, None), (*rest, None)))
        return _like(gradients, tensors)


def _directional(family: str, x: Tensor, v: Tensor, *parameters: Tensor | None, config: str) -> Tensor:
    """J(x) v, which is the gradient of <v, f> in x."""
    (tangent, *_) = _FIRST_ORDER[family](v, x, *parameters, None, config, _ONLY_X)
    assert tangent is not None
    # To a kernel a piecewise linear basis has a constant slope, but what follows from NaN is NaN.
    if family == "ridge" and x.sum().isnan():
        tangent[x.isnan().any(-1)] = math.nan
    return tangent


def _modules_forward(family: str, config: str, tensors: _Tensors) -> Tensor:
    x = tensors[0]
    assert x is not None
    out = torch.empty(x.shape, dtype=x.dtype)
    if x.numel():
        points, *parameters = _mended(tensors, x.dtype)
        call = partial(_SCALAR_CALLS[family], "value", config)
        _ran(call((points, None, None, None), parameters, (None, out, None, None), _NOTHING[len(parameters)]))
    return out


def _modules_attempt(family: str, config: str, tensors: _Tensors) -> Tensor | None:
    x, *parameters = tensors
    if x is None or _EXTENSION is None or type(x) not in _PLAIN:
        return None
    out = torch.empty_like(x)
    call = partial(_SCALAR_CALLS[family], "value", config)
    done = call((x, None, None, None), parameters, (None, out, None, None), _NOTHING[len(parameters)])
    return out if done else None


def _modules_backward(family: str, config: str, g: Tensor, tensors: _Tensors, needs: tuple[bool, ...]) -> Gradients:
    x = tensors[0]
    assert x is not None
    if not x.numel():
        return _no_rows(needs, tensors)
    dx, *rest = gradients = _gradients(needs, tensors)
    points, *parameters = _mended(tensors, x.dtype)
    call = partial(_SCALAR_CALLS[family], "value", config)
    _ran(call((points, _dense(g, x.dtype), None, None), parameters, (dx, None, None, None), rest))
    return _like(gradients, tensors)


def softmax_modules_attempt(*arguments: Any) -> Tensor | None:
    """f(x), or None if the tensors are not such as kernels read; arguments as of softmax_modules_forward."""
    return _modules_attempt("softmax_modules", arguments[-1], arguments[:-1])


def softmax_modules_forward(*arguments: Any) -> Tensor:
    """f(x) for (x, W, b, temperature, positive, negative, bias, config), config unused."""
    return _modules_forward("softmax_modules", arguments[-1], arguments[:-1])


def softmax_modules_backward(g: Tensor, *arguments: Any) -> Gradients:
    """The gradients of <g, f> for (g, x, W, b, temperature, positive, negative, bias, config, needs)."""
    *tensors, config, needs = arguments
    return _modules_backward("softmax_modules", config, g, tensors, needs)


def _transformed_numbers(config: str) -> tuple[int, int]:
    basis, transform = config.split(",")
    return _BASIS_NUMBER[basis], _TRANSFORM_NUMBER[transform]


def transformed_modules_attempt(*arguments: Any) -> Tensor | None:
    """f(x), or None if the tensors are not such as kernels read; arguments as of transformed_modules_forward."""
    return _modules_attempt("transformed_modules", arguments[-1], arguments[:-1])


def transformed_modules_forward(*arguments: Any) -> Tensor:
    """f(x) for (x, W, b, weight, bias, config), config = "basis,transform"."""
    return _modules_forward("transformed_modules", arguments[-1], arguments[:-1])


def transformed_modules_backward(g: Tensor, *arguments: Any) -> Gradients:
    """The gradients of <g, f> for (g, x, W, b, weight, bias, config, needs)."""
    *tensors, config, needs = arguments
    return _modules_backward("transformed_modules", config, g, tensors, needs)


_FIRST_ORDER: dict[str, Callable[..., Gradients]] = {
    "ridge": ridge_backward,
    "softmax_modules": softmax_modules_backward,
    "transformed_modules": transformed_modules_backward,
}
