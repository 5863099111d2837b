"""Checks of the arguments that the functions of a family share, and autocast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import backend as _backend
from .. import reference
from ..activations import TABLE, TRANSFORMS
from ..errors import check_basis, check_like, check_points, check_tensor, check_transform, check_weight, message
from ..ops import _cpp
from ..ops.operator import Operator
from ..reference.soft_maximum import Family
from ._ranks import Parts, is_distributed, over_ranks, whole
from ._soft_maximum import Gate, combined, gate_of

_AUTOCAST = frozenset(
    filter(torch.amp.is_autocast_available, ("cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu", "privateuseone"))
)
"""The devices that have it.  Asked once: torch.compile of PyTorch 2.6 cannot trace the question."""


def autocast(tensor: Tensor) -> Tensor:
    """The points or weights in autocast's dtype, where autocast is on for their device."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or device not in _AUTOCAST:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


Cascade = tuple[Tensor, Tensor, Tensor]
"""scale (L, h), shift (L, h) and coef (L, K, h)."""


def checked_ridge(
    where: str,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: str | Sequence[str],
) -> tuple[Tensor, Tensor, Cascade, tuple[str, ...]]:
    """Checks the arguments of the ridge family; returns x and W after autocast, the cascade with ones in place of None,
    and the names of the basis."""
    check_basis(where, (basis,) if isinstance(basis, str) else basis)
    names = (basis,) if isinstance(basis, str) else tuple(basis)
    check_weight(where, W, "(h, d)")
    h, d = W.shape
    check_points(where, x, d)
    x, W = autocast(x), autocast(W)
    check_like(where, "W", W, (h, d), "(h, d)", x)
    check_tensor(where, "shift", shift)
    if shift.dim() == 1:
        shift = shift.unsqueeze(0)
    layers = shift.shape[0] if shift.dim() == 2 and shift.shape[0] else 1
    check_like(where, "shift", shift, (layers, h), "(L, h)", x)
    check_like(where, "scale", scale, (layers, h), "(L, h)", x, optional=True)
    check_like(where, "coef", coef, (layers, len(names), h), "(L, K, h)", x, optional=True)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    if scale is None:
        scale = torch.ones_like(shift)
    if coef is None:
        coef = shift.new_ones(layers, len(names), h)
    return x, W, (scale, shift, coef), names


def checked_modules(
    where: str, x: Tensor, W: Tensor, b: Tensor, bias: Tensor | None, **per_module: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Checks what the module families share and their (M,) arguments; returns x and W after autocast."""
    check_weight(where, W, "(M, h, d)")
    modules, h, d = W.shape
    check_points(where, x, d)
    x, W = autocast(x), autocast(W)
    check_like(where, "W", W, (modules, h, d), "(M, h, d)", x)
    check_like(where, "b", b, (modules, h), "(M, h)", x)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    for argument, tensor in per_module.items():
        check_like(where, argument, tensor, (modules,), "(M,)", x, optional=argument == "negative")
    return x, W


def checked_transformed(
    where: str, x: Tensor, W: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, basis: str, transform: str
) -> tuple[Tensor, Tensor]:
    """Checks the arguments of transformed modules; returns x and W after autocast."""
    check_basis(where, (basis,))
    check_transform(where, transform)
    return checked_modules(where, x, W, b, bias, weight=weight)


def checked_gate(where: str, sharpness: Tensor | None, offset: Tensor | None, x: Tensor, W: Tensor) -> Gate:
    """Checks what combines modules by log-sum-exp, against points and weights that are checked; nothing for a sum."""
    count = W.shape[0]
    if sharpness is None:
        if offset is not None:
            fix = "pass sharpness too, for example torch.ones(()), or leave offset out"
            raise ValueError(message(where, "offset", "None where modules are summed", "a tensor", fix))
        return {}
    check_like(where, "sharpness", sharpness, (), "()", x)
    check_like(where, "offset", offset, (count,), "(M,)", x, optional=True)
    return {"sharpness": sharpness, "offset": sharpness.new_zeros(count) if offset is None else offset}


def checked_direction(where: str, v: Tensor, x: Tensor) -> Tensor:
    """Checks the direction v of a Jacobian-vector product against the points, and returns it after autocast."""
    check_tensor(where, "v", v)
    v = autocast(v)
    check_like(where, "v", v, tuple(x.shape), "(…, d) of x", x)
    return v


@lru_cache(maxsize=None)
def _configuration(basis: str | tuple[str, ...], transform: str | None) -> str | None:
    names = (basis,) if isinstance(basis, str) else basis
    if not names or not all(name in TABLE for name in names) or transform not in (None, *TRANSFORMS):
        return None
    return ",".join(names if transform is None else (*names, transform))


def quickly(
    operator: Operator, tensors: tuple[Tensor | None, ...], basis: object = None, transform: str | None = None
) -> Tensor | None:
    """What `operator` gives where the call is an ordinary one of the cpp backend, in the least time; else None.

    The kernels check the tensors in passing.  Where they refuse, the careful path finds out why, or runs all the same.
    """
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or _cpp.why_unavailable() is not None:
        return None
    named = _backend.block_request() or _cpp.environment(_backend.ENVIRONMENT_VARIABLE)
    if named not in ("", "cpp"):
        return None
    if basis is None:
        return operator.quickly(tensors, "")
    config = _configuration(basis, transform) if isinstance(basis, (str, tuple)) else None
    return None if config is None else operator.quickly(tensors, config)


def call(
    operators: dict[str, Operator],
    points: tuple[Tensor, ...],
    parameters: tuple[Tensor | None, ...],
    bias: Tensor | None,
    backend: str | None,
    *settings: Any,
    gate: Gate | None = None,
    family: Callable[..., Family] | None = None,
) -> Tensor:
    """What an operator gives on the chosen backend.

    operators: by backend.  settings: the last arguments of the function of its name in `gradnets_fast.reference`,
    names of basis functions.  gate, family: of modules, what `checked_gate` found and `family_of` made.
    """
    x, operator = points[0], operators["cpp"]
    if any(map(is_distributed, parameters)):
        if gate:  # a soft maximum is no sum over modules
            everything = {name: whole(tensor) for name, tensor in gate.items()}
            held = tuple(map(whole, parameters))
            return call(operators, points, held, whole(bias), backend, *settings, gate=everything, family=family)

        def of_rank(rows: Parts, own: Parts) -> Tensor:
            return call(operators, rows, own, None, backend, *settings, family=family)

        return _plus_bias(operator, over_ranks(operator.name, of_rank, points, parameters), x, whole(bias))
    chosen = _backend.select(operator.name, x, backend)
    if chosen == "reference":
        result: Tensor = getattr(reference, operator.name)(*points, *parameters, bias, *settings, **(gate or {}))
        return result
    if chosen == "cpp" and gate and family is not None:
        return combined(family(*settings), operator.quantity, points, parameters, bias, gate)
    names = [name for setting in settings for name in ((setting,) if isinstance(setting, str) else setting)]
    more = () if gate is None else gate_of(chosen, gate)
    if operator.quantity == "value":
        return operators[chosen](*points, *parameters, *more, bias, config=",".join(names))
    return _plus_bias(operator, operators[chosen](*points, *parameters, *more, config=",".join(names)), x, bias)


def _plus_bias(operator: Operator, result: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """The result of an operator that had no bias, with what a bias adds to it."""
    if bias is None or operator.quantity not in ("value", "potential"):
        return result
    return (result + (bias if operator.quantity == "value" else x @ bias.to(x.dtype))).to(x.dtype)
