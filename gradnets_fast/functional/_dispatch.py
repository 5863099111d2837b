"""The way of every call from its arguments to a backend.

`run` is called by the methods of `Network`.  It takes the short way where it can: one attempt of the C++ kernels, which
check their arguments themselves, or on a GPU of the Triton kernels, for tensors like those of a call that has been
checked.  Else it checks the arguments in Python, asks gradnets_fast/backend.py which backend
runs, and calls that one: the reference, or an operator of gradnets_fast/ops, whose autograd.py records the derivatives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import Tensor, is_autocast_enabled
from torch.compiler import is_compiling

from .. import backend as _backend
from ..ops import _cpp, autograd
from ..ops.families import Settings
from ..ops.operator import PLAIN_TYPES, shown
from ._checks import checked_direction
from ._ranks import is_distributed, over_ranks, whole
from ._soft_maximum import combined

if TYPE_CHECKING:
    from ._network import Network

Points = tuple[Tensor, ...]
"""x, and for J(x) v also v."""

_SHORT_WAYS = (None, "cpp", "triton")
"""Nothing that anybody asks for, and the backends that may be asked for, of which there is a short way."""

_NO_MAXIMUM = {False: (), True: (None, None)}
"""Sharpness and offset of a sum, by whether the family is of modules."""


def run(network: Network, quantity: str, points: Points, backend: str | None) -> Tensor:
    """Return a quantity of the network at the points, by the backend that is named, or else by the fastest that can.

    Raises:
        TypeError, ValueError: an argument's type, dtype, device or shape, before any work.
        BackendUnavailableError: a backend was named that cannot run the call.
    """
    try:
        result = _attempt(network, quantity, points, backend)
    except (RuntimeError, torch.fx.proxy.TraceError):
        # A tensor without sizes, of a layout without memory to ask for, or of no values yet: the checks name it.
        result = None
    if result is not None:
        return result
    where = network.family.operator_name(quantity)
    x, network = network.checked(where, points[0])
    points = (x, *(checked_direction(where, v, x) for v in points[1:]))
    if any(map(is_distributed, network.parameters())):
        return _over_ranks(network, quantity, points, backend)
    chosen = _backend.select(where + network.settings().profile, x, backend)
    return _compute(chosen, network, quantity, points)


def _attempt(network: Network, quantity: str, points: Points, backend: str | None) -> Tensor | None:
    """Return the result of kernels without any check in Python, or None if the call is out of the ordinary.

    Out of the ordinary means torch.compile, a tracer, autocast, a transform, a soft maximum, another backend, or a
    tensor that the kernels refuse; the caller then takes the checked way.
    """
    if is_compiling() or is_autocast_enabled("cpu"):
        return None
    if backend is None:
        backend = _backend.block_request() or _cpp.environment(_backend.ENVIRONMENT_VARIABLE) or None
    is_sum = network.sharpness is None and network.offset is None
    if backend not in _SHORT_WAYS or not is_sum or not autograd.no_transform_is_active():
        return None
    try:
        settings = network.known_settings()
    except TypeError:  # a list, or what is no name
        return None
    if settings is None:
        return None
    if backend == "triton":
        return _attempt_on_gpu(network, quantity, points, settings)
    operator = network.operators[quantity].cpp
    takes_bias = operator.quantity.takes_bias
    tensors = points + network.parameters() + ((network.bias,) if takes_bias else ())
    result = autograd.kept(operator, tensors, settings) if settings.keep else None
    is_recorded = result is not None
    if result is None:
        result = operator.kernels.attempt(tensors, settings)
    if result is None:
        of_gpu = backend is None and _is_on_gpu(points[0])
        return _attempt_on_gpu(network, quantity, points, settings) if of_gpu else None
    if not (takes_bias or _is_like(network.bias, points[0])):
        return None
    if not is_recorded:
        result = autograd.recorded(operator, result, tensors, settings)
    return result if takes_bias else _plus_bias(result, quantity, points[0], network.bias)


def _is_on_gpu(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_cuda


def _attempt_on_gpu(network: Network, quantity: str, points: Points, settings: Settings) -> Tensor | None:
    """Return the result of the Triton kernels for tensors like those of a call that has been checked, or None."""
    operator = network.operators[quantity].triton
    takes_bias, bias = operator.quantity.takes_bias, network.bias
    tensors = points + network.parameters() + _NO_MAXIMUM[network.family.of_modules] + ((bias,) if takes_bias else ())
    if any(map(autograd.is_of_another_kind, tensors)) or not (takes_bias or bias is None):
        return None
    if _is_on_gpu(points[0]) and is_autocast_enabled("cuda"):
        return None
    result = shown(operator.registered, operator.kernels.attempt, tensors, settings)
    return None if result is None else autograd.recorded(operator, result, tensors, settings)


def _is_like(bias: Tensor | None, x: Tensor) -> bool:
    """Return whether a bias that no kernel sees is None, or a plain tensor (d,) that can be added beside x."""
    if bias is None:
        return True
    is_plain = type(bias) in PLAIN_TYPES and bias.layout is torch.strided and bias.is_cpu
    return is_plain and bias.shape == x.shape[-1:] and bias.dtype is x.dtype


def _compute(backend: str, network: Network, quantity: str, points: Points) -> Tensor:
    """Return the quantity on a backend, for arguments that have been checked."""
    settings = network.settings()
    if backend == "reference":
        names = (name.rstrip("?") for name in network.family.parameters)
        named = dict(zip(names, network.parameters())) | {"bias": network.bias}
        if network.sharpness is not None:
            named |= {"sharpness": network.sharpness, "offset": network.offset}
        if quantity != "value_and_potential":
            return network.family.by_reference(quantity, points, named, settings)
        both = network.family.by_reference(quantity, points, named | {"bias": None}, settings)
        return _plus_bias(both, quantity, points[0], network.bias)
    if backend == "cpp" and network.sharpness is not None:
        return combined(network, quantity, points, settings)
    operator = network.operators[quantity].cpp if backend == "cpp" else network.operators[quantity].triton
    tensors = (*points, *network.parameters())
    if backend == "triton" and network.family.of_modules:
        tensors = (*tensors, network.sharpness, network.offset)
    if operator.quantity.takes_bias:
        return autograd.run(operator, (*tensors, network.bias), settings)
    return _plus_bias(autograd.run(operator, tensors, settings), quantity, points[0], network.bias)


def _over_ranks(network: Network, quantity: str, points: Points, backend: str | None) -> Tensor:
    """Return the quantity of a network whose parameters are divided among ranks, the same on every rank."""
    names = [name.rstrip("?") for name in network.family.parameters]
    copy: Any = replace  # of a dataclass, which every family is
    if network.sharpness is not None:  # a soft maximum is no sum over modules
        held = {name: whole(getattr(network, name)) for name in (*names, "bias", "sharpness", "offset")}
        return run(copy(network, **held), quantity, points, backend)

    def of_rank(own_points: Points, own: tuple[Any, ...]) -> Tensor:
        return run(copy(network, **dict(zip(names, own)), bias=None), quantity, own_points, backend)

    where = network.family.operator_name(quantity)
    total = over_ranks(where, of_rank, points, network.parameters())
    return _plus_bias(total, quantity, points[0], whole(network.bias))


def _plus_bias(result: Tensor, quantity: str, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return a quantity of the network without bias, with what the bias adds to it: bias to f, and bias·x to F."""
    if bias is None or quantity not in ("value", "potential", "value_and_potential"):
        return result
    if quantity == "value_and_potential":
        f, F = (
            _plus_bias(part, q, x, bias) for part, q in ((result[..., :-1], "value"), (result[..., -1], "potential"))
        )
        return torch.cat([f, F.unsqueeze(-1)], -1)
    # Not x @ bias, whose gradient some libraries sum in another order for each number of threads.
    return (result + (bias if quantity == "value" else (x * bias).sum(-1))).to(x.dtype)
