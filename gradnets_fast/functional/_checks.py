"""Checks of the arguments that the functions of a family share, and autocast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import check_basis, check_like, check_points, check_tensor, check_transform, check_weight


def autocast(tensor: Tensor) -> Tensor:
    """The points or weights in autocast's dtype, where autocast is on for their device."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def checked_ridge(
    where: str,
    x: Tensor,
    W: Tensor,
    scale: Tensor,
    shift: Tensor,
    coef: Tensor,
    bias: Tensor | None,
    basis: str | Sequence[str],
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Checks the arguments of the ridge family; returns x and W after autocast, and the names of the basis."""
    check_basis(where, (basis,) if isinstance(basis, str) else basis)
    names = (basis,) if isinstance(basis, str) else tuple(basis)
    check_weight(where, W, "(h, d)")
    h, d = W.shape
    check_points(where, x, d)
    x, W = autocast(x), autocast(W)
    check_tensor(where, "scale", scale)
    layers = scale.shape[0] if scale.dim() == 2 and scale.shape[0] else 1
    check_like(where, "W", W, (h, d), "(h, d)", x)
    check_like(where, "scale", scale, (layers, h), "(L, h)", x)
    check_like(where, "shift", shift, (layers, h), "(L, h)", x)
    check_like(where, "coef", coef, (layers, len(names), h), "(L, K, h)", x)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    return x, W, names


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


def checked_direction(where: str, v: Tensor, x: Tensor) -> Tensor:
    """Checks the direction v of a Jacobian-vector product against the points, and returns it after autocast."""
    check_tensor(where, "v", v)
    v = autocast(v)
    check_like(where, "v", v, tuple(x.shape), "(…, d) of x", x)
    return v
