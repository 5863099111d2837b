"""Modules combined by log-sum-exp on the cpp backend: composed of kernels that give a module's f and F at once.

Nothing of size batch × h is in memory, only (batch, M, d), and every derivative is that of the parts.  Called by
_dispatch.py; the formulas are those of gradnets_fast/reference/modules.py, with kernels in place of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..ops import autograd
from ..ops.families import Settings
from ..reference.modules import SOFT_MAXIMUM, ModuleFunctions
from ._checks import without_autocast

if TYPE_CHECKING:
    from ._network import Network


def combined(network: Network, quantity: str, points: tuple[Tensor, ...], settings: Settings) -> Tensor:
    """Return a quantity of the soft maximum of a network's modules."""
    x = points[0]
    # Gradients of the modules, rounded to 16 bits one by one, would cancel to less than their rounding errors.
    dtype = torch.promote_types(x.dtype, torch.float32)
    assert network.sharpness is not None
    assert network.offset is not None
    parameters = [None if t is None else t.to(dtype) for t in network.parameters()]
    wide_points = [point.to(dtype) for point in points]
    # An absolute error of a score is a relative one of its module's share.
    sharpness, offset = network.sharpness.double(), network.offset.double()
    function = SOFT_MAXIMUM[quantity]
    with without_autocast(x):  # which has rounded the points and W already, and would round the modules' slopes too
        result = function(_by_kernels(network, settings), *wide_points, parameters, sharpness, offset)
    if network.bias is not None and quantity in ("value", "potential"):
        bias = network.bias.to(dtype)
        result = result + (bias if quantity == "value" else (wide_points[0] * bias).sum(-1))
    return result.to(x.dtype)


def _by_kernels(network: Network, settings: Settings) -> ModuleFunctions:
    """Return the functions of one module by the C++ kernels."""

    def kernel(quantity: str) -> Callable[..., Tensor]:
        return lambda *tensors: autograd.run(network.operators[quantity].cpp, tensors, settings)

    def value_and_potential(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        result = kernel("value_and_potential")(*tensors)
        return result[..., :-1], result[..., -1].double()

    def potential(*tensors: Tensor | None) -> Tensor:
        return kernel("potential")(*tensors).double()

    jvp, divergence, jacobian = map(kernel, ("jvp", "divergence", "jacobian"))
    return ModuleFunctions(value_and_potential, potential, jvp, divergence, jacobian)
