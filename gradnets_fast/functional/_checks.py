"""Checks of the arguments that the families share, and autocast.  Called by each family's `checked`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import (
    check_basis,
    check_choice,
    check_flag,
    check_like,
    check_points,
    check_tensor,
    check_transform,
    check_weight,
    message,
)
from ..ops.families import PADDINGS, SPLINE, Image, Structure
from ._ranks import is_distributed

_AUTOCAST = frozenset(
    filter(torch.amp.is_autocast_available, ("cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu", "privateuseone"))
)
"""The devices that have autocast.  Asked once: torch.compile of PyTorch 2.6 cannot trace the question."""


def autocast(tensor: Tensor) -> Tensor:
    """Return points or weights in autocast's dtype, where autocast is on for their device."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or device not in _AUTOCAST:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a block without autocast on the tensor's device."""
    device = tensor.device.type
    is_on = device in _AUTOCAST and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def checked_ridge(
    where: str,
    x: Tensor,
    W: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    bias: Tensor | None,
    basis: str | Sequence[str],
    heads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[str, ...]]:
    """Check the arguments of the ridge family.

    Returns:
        x and W after autocast; shift (L, h); coef, with ones in place of None where it has more than one function, as
        kernels take it; and the names of the basis functions.
    """
    names = _cascade_names(where, basis, heads)
    check_weight(where, W, "(h, d)")
    h, d = W.shape
    check_points(where, x, d)
    x, W = autocast(x), autocast(W)
    check_like(where, "W", W, (h, d), "(h, d)", x)
    shift, coef = _checked_cascade(where, x, (h, "h"), scale, shift, coef, names)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    return x, W, shift, coef, names


def _cascade_names(where: str, basis: str | Sequence[str], heads: bool) -> tuple[str, ...]:
    """Return the names of a cascade's basis functions, or ("spline",)."""
    check_flag(where, "heads", heads)
    if isinstance(basis, str):
        basis = (basis,)
    if heads and isinstance(basis, (tuple, list)) and tuple(basis) == SPLINE:
        fix = "pass heads=False, or other basis functions"
        raise ValueError(message(where, "heads", "False where basis is 'spline'", "True", fix))
    if not isinstance(basis, (tuple, list)) or tuple(basis) != SPLINE:
        check_basis(where, basis)
    return tuple(basis)


def _checked_cascade(
    where: str,
    x: Tensor,
    width: tuple[int, str],
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    names: tuple[str, ...],
) -> tuple[Tensor, Tensor | None]:
    """Return shift and coef as `checked_ridge` does; width: of the vectors, and its name."""
    check_tensor(where, "shift", shift)
    if shift.dim() == 1:
        shift = shift.unsqueeze(0)
    layers, (h, letter) = shift.shape[0] if shift.dim() == 2 and shift.shape[0] else 1, width
    check_like(where, "shift", shift, (layers, h), f"(L, {letter})", x)
    check_like(where, "scale", scale, (layers, h), f"(L, {letter})", x, optional=True)
    if names == SPLINE:
        return shift, _checked_knots(where, x, width, layers, coef)
    check_like(where, "coef", coef, (layers, len(names), h), f"(L, K, {letter})", x, optional=True)
    if coef is None and len(names) > 1:
        coef = shift.new_ones(layers, len(names), h)
    return shift, coef


def _checked_knots(where: str, x: Tensor, width: tuple[int, str], layers: int, coef: Tensor | None) -> Tensor:
    """Return the values of splines at their knots, (1, T, h)."""
    if layers != 1:
        fix = "pass shift and scale of one layer, or other basis functions"
        raise ValueError(message(where, "shift", "one layer, where basis is 'spline'", f"{layers} layers", fix))
    check_tensor(where, "coef", coef)
    assert coef is not None
    h, letter = width
    knots = coef.shape[1] if coef.dim() == 3 else 0
    if knots < 2 or tuple(coef.shape) != (1, knots, h):
        expected = f"shape (1, T, {letter}) = (1, T, {h}), the values at T >= 2 knots"
        fix = "pass one value for each knot and hidden unit"
        raise ValueError(message(where, "coef", expected, f"shape {tuple(coef.shape)}", fix))
    check_like(where, "coef", coef, (1, knots, h), f"(1, T, {letter})", x)
    return coef


def checked_images(
    where: str, points: tuple[Tensor, ...], K: Tensor, bias: Tensor | None, padding: str
) -> tuple[Image, tuple[Tensor, ...]]:
    """Check that filters and points, x and maybe v, are images that fit together, and the bias.

    Returns:
        What the points are to the convolution, and the points as rows, (…, d).
    """
    check_choice(where, "padding", padding, PADDINGS)
    check_tensor(where, "K", K)
    if K.dim() not in (3, 4, 5) or 0 in K.shape:
        fix = "pass one filter for each channel and channel of x"
        expected = "a nonempty (C, C_in, k_1, …, k_s), s = 1, 2 or 3"
        raise ValueError(message(where, "K", expected, f"shape {tuple(K.shape)}", fix))
    x, channels, filters = points[0], K.shape[1], tuple(K.shape[2:])
    check_points(where, x)
    # As numbers also while a compiler traces with symbols: it then compiles anew for each size of images.
    shape = tuple([len(range(n)) for n in x.shape[1 - K.dim() :]])
    if len(shape) < K.dim() - 1 or shape[0] != channels or 0 in shape:
        sizes = ", ".join(f"n_{i + 1}" for i in range(len(filters)))
        expected = f"shape (…, {channels}, {sizes}), K being {tuple(K.shape)}"
        fix = "put the channels before the dimensions of an image, for example x.unsqueeze(1) of pictures (B, n_1, n_2)"
        raise ValueError(message(where, "x", expected, f"shape {tuple(x.shape)}", fix))
    if padding == "circular" and any(k > n for k, n in zip(filters, shape[1:])):
        fix = 'use smaller filters, or padding="zeros"'
        raise ValueError(message(where, "K", f"filters of at most {shape[1:]}, the image's size", filters, fix))
    like = autocast(x)
    others = [checked_direction(where, v, like, "(…, C_in, n_1, …) of x") for v in points[1:]]
    check_like(where, "bias", bias, (channels,), "(C_in,)", like, optional=True)
    return Image(shape, padding), tuple(point.flatten(-len(shape)) for point in (x, *others))


def checked_conv_ridge(
    where: str,
    x: Tensor,
    K: Tensor,
    scale: Tensor | None,
    shift: Tensor,
    coef: Tensor | None,
    basis: str | Sequence[str],
    heads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, tuple[str, ...]]:
    """Check the other arguments of a convolutional network, and return what `checked_ridge` does."""
    names = _cascade_names(where, basis, heads)
    x, K = autocast(x), autocast(K)
    check_like(where, "K", K, tuple(K.shape), "(C, C_in, k_1, …)", x)
    shift, coef = _checked_cascade(where, x, (K.shape[0], "C"), scale, shift, coef, names)
    _check_whole(where, "K", K)
    return x, K, shift, coef, names


def _check_whole(where: str, argument: str, parameter: Tensor) -> None:
    """Raise TypeError if a parameter is divided among ranks."""
    if is_distributed(parameter):
        fix = "use DistributedDataParallel or gradnets_fast.fully_shard, which divide the batch"
        raise TypeError(message(where, argument, "a plain tensor", "a DTensor", fix))


def checked_modules(
    where: str, x: Tensor, W: Tensor, b: Tensor, bias: Tensor | None, **per_module: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Check what the families of modules share and their (M,) arguments; return x and W after autocast."""
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
    """Check the arguments of transformed modules; return x and W after autocast."""
    if not isinstance(basis, str):
        raise TypeError(message(where, "basis", "a name", repr(basis), 'for example basis="tanh"'))
    check_basis(where, (basis,))
    check_transform(where, transform)
    return checked_modules(where, x, W, b, bias, weight=weight)


def check_structure(where: str, structure: Structure) -> None:
    """Raise TypeError or ValueError if the layers of a deep network cannot be connected so."""
    if structure.fault is None:
        return
    of_type = isinstance(getattr(structure, structure.fault[0]), (tuple, int))
    raise (ValueError if of_type else TypeError)(message(where, *structure.fault))


def checked_deep(
    where: str, x: Tensor, theta: Tensor, bias: Tensor | None, basis: str | Sequence[str], structure: Structure
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Check the arguments of a deep network; return x and theta after autocast, and the names of its functions."""
    check_basis(where, (basis,) if isinstance(basis, str) else basis)
    names = (basis,) if isinstance(basis, str) else tuple(basis)
    check_structure(where, structure)
    if len(names) not in (1, len(structure.widths)):
        expected = f"one name, or one for each of {len(structure.widths)} layers"
        raise ValueError(message(where, "basis", expected, f"{len(names)} names", "pass one for each of the widths"))
    check_points(where, x)
    check_tensor(where, "theta", theta)
    x, theta = autocast(x), autocast(theta)
    d = x.shape[-1]
    count = structure.parameters(d)
    if tuple(theta.shape) != (count,):
        expected = f"shape ({count},), which layers of {structure.widths} take for points x (…, {d})"
        fix = "pass points, theta, widths, input_skip and rank of the same network"
        raise ValueError(message(where, "theta", expected, f"shape {tuple(theta.shape)}", fix))
    check_like(where, "theta", theta, (count,), "(n,)", x)
    check_like(where, "bias", bias, (d,), "(d,)", x, optional=True)
    _check_whole(where, "theta", theta)
    return x, theta, names


def checked_soft_maximum(
    where: str, sharpness: Tensor | None, offset: Tensor | None, x: Tensor, W: Tensor
) -> Tensor | None:
    """Check what combines modules by log-sum-exp, for x and W that are checked; return the offset, zeros for None."""
    count = W.shape[0]
    if sharpness is None:
        if offset is not None:
            fix = "pass sharpness too, for example torch.ones(()), or leave offset out"
            raise ValueError(message(where, "offset", "None where modules are summed", "a tensor", fix))
        return None
    check_like(where, "sharpness", sharpness, (), "()", x)
    check_like(where, "offset", offset, (count,), "(M,)", x, optional=True)
    return sharpness.new_zeros(count) if offset is None else offset


def checked_direction(where: str, v: Tensor, x: Tensor, shape: str = "(…, d) of x") -> Tensor:
    """Check the direction v of a Jacobian-vector product against the points; return it after autocast."""
    check_tensor(where, "v", v)
    v = autocast(v)
    check_like(where, "v", v, tuple(x.shape), shape, x)
    return v
