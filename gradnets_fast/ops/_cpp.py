"""The only caller of the compiled extension: tensors in, raw addresses out."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..activations import TABLE, TRANSFORMS

Gradients = tuple[Tensor | None, ...]

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
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


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    # A lazily negated tensor, such as the imaginary part of a conjugate, is contiguous and yet must be copied.
    return [None if t is None else t.detach().resolve_neg().contiguous() for t in tensors]


def _basis_numbers(config: str) -> list[int]:
    return [_BASIS_NUMBER[name] for name in config.split(",")]


def _gradients_like(needs: tuple[bool, ...], *tensors: Tensor | None) -> list[Tensor | None]:
    return [torch.empty_like(t) if need and t is not None else None for need, t in zip(needs, tensors)]


def _no_rows(needs: tuple[bool, ...], *tensors: Tensor | None) -> Gradients:
    return tuple(torch.zeros_like(t) if need and t is not None else None for need, t in zip(needs, tensors))


def ridge_forward(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor | None, config: str
) -> Tensor:
    """f(x); the shapes of reference.ridge, config = basis names joined by commas."""
    x, W, scale, shift, coef, bias = _contiguous(x, W, scale, shift, coef, bias)  # type: ignore[assignment]
    out = torch.empty_like(x)
    if x.numel():
        getattr(extension(), f"ridge_forward_{_SUFFIX[x.dtype]}")(
            x.numel() // x.shape[-1],
            x.shape[-1],
            W.shape[0],
            scale.shape[0],
            _basis_numbers(config),
            *map(_address, (scale, shift, coef, x, W, bias, out)),
            torch.get_num_threads(),
        )
    return out


def ridge_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    bias: Tensor | None,
    config: str,
    needs: tuple[bool, ...],
) -> Gradients:
    """The gradients of <g, f> for those of (x, W, scale, shift, coef, bias) that `needs` marks."""
    inputs = _contiguous(x, W, scale, shift, coef, bias)
    if not x.numel():
        return _no_rows(needs, *inputs)
    g, x, W, scale, shift, coef = _contiguous(g, *inputs[:5])  # type: ignore[assignment]
    gradients = _gradients_like(needs, *inputs)
    getattr(extension(), f"ridge_backward_{_SUFFIX[x.dtype]}")(
        x.numel() // x.shape[-1],
        x.shape[-1],
        W.shape[0],
        scale.shape[0],
        _basis_numbers(config),
        *map(_address, (scale, shift, coef, g, x, W, *gradients)),
        torch.get_num_threads(),
    )
    return tuple(gradients)


def _modules_forward(
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    basis: int,
    transform: int,
) -> Tensor:
    x, W, *rest = _contiguous(x, W, b, temperature, positive, negative, bias)  # type: ignore[assignment]
    out = torch.empty_like(x)
    if x.numel():
        getattr(extension(), f"modules_forward_{_SUFFIX[x.dtype]}")(
            x.numel() // x.shape[-1],
            x.shape[-1],
            W.shape[1],
            W.shape[0],
            basis,
            transform,
            *map(_address, (W, *rest[:4], x, rest[4], out)),
            torch.get_num_threads(),
        )
    return out


def _modules_backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    b: Tensor,
    temperature: Tensor | None,
    positive: Tensor,
    negative: Tensor | None,
    bias: Tensor | None,
    basis: int,
    transform: int,
    needs: tuple[bool, ...],
) -> Gradients:
    inputs = _contiguous(x, W, b, temperature, positive, negative, bias)
    if not x.numel():
        return _no_rows(needs, *inputs)
    # The kernel always sums the shifts' gradients; the products for x and W are what it can leave out.
    asked = (needs[0], needs[1], True, *needs[3:])
    gradients = _gradients_like(asked, *inputs)
    (g,) = _contiguous(g)  # type: ignore[assignment]
    getattr(extension(), f"modules_backward_{_SUFFIX[x.dtype]}")(
        x.numel() // x.shape[-1],
        x.shape[-1],
        W.shape[1],
        W.shape[0],
        basis,
        transform,
        *map(_address, (inputs[1], *inputs[2:6], g, inputs[0], *gradients)),
        torch.get_num_threads(),
    )
    return tuple(gradient if need else None for need, gradient in zip(needs, gradients))


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
    return _modules_forward(x, W, b, temperature, positive, negative, bias, _NO_BASIS, 0)


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
    return _modules_backward(g, x, W, b, temperature, positive, negative, bias, _NO_BASIS, 0, needs)


def _transformed_numbers(config: str) -> tuple[int, int]:
    basis, transform = config.split(",")
    return _BASIS_NUMBER[basis], _TRANSFORM_NUMBER[transform]


def transformed_modules_forward(
    x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, config: str
) -> Tensor:
    """f(x); the shapes of reference.transformed_modules, config = "basis,transform"."""
    return _modules_forward(x, W, b, None, weight, None, bias, *_transformed_numbers(config))


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
    gradients = _modules_backward(g, x, W, b, None, weight, None, bias, *_transformed_numbers(config), all_needs)
    return (*gradients[:3], gradients[4], gradients[6])
