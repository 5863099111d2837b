"""The double backward of an operator: by the kernels of J v where they can, else by the reference.

Called through PyTorch's dispatcher by `DoubleBackward` of autograd.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import recompute
from .families import Gradients, Settings, Tensors
from .operator import Operator


def double_backward(
    operator: Operator, needs: Sequence[bool], g: Tensor, tensors: Tensors, settings: Settings, cotangents: Tensors
) -> Gradients:
    """Return the gradients of Σ_i <cotangent_i, ∇_i <g, f>> in g and each of the tensors.

    cotangents: one for each of the tensors, or None.  needs: for g and each of the tensors.
    """
    of_x, *others = cotangents
    by_kernels = _BY_KERNELS.get(operator.quantity.name)
    if by_kernels is None or of_x is None or any(c is not None for c in others):
        return recompute.double_backward(operator, needs, g, tensors, settings, cotangents)
    return by_kernels(operator, settings, needs, g, tensors, of_x)


def _of_value(
    operator: Operator, settings: Settings, needs: Sequence[bool], g: Tensor, tensors: Tensors, cotangent: Tensor
) -> Gradients:
    """Return the double backward of f for a cotangent c of x alone, by the kernels of J v.

    <c, ∇_x <g, f>> = <c, J(x) g>, whose gradients are the backward pass of J v at v = g.
    """
    *others, bias = tensors
    zero = torch.zeros_like(bias) if needs[-1] and bias is not None else None
    return *_through_jvp(operator, settings, needs, g, others, cotangent), zero


def _of_value_and_potential(
    operator: Operator, settings: Settings, needs: Sequence[bool], g: Tensor, tensors: Tensors, cotangent: Tensor
) -> Gradients:
    """Return the double backward of (f, F) for a cotangent c of x alone.

    With g = (g_f, g_F): <c, ∇_x (<g_f, f> + g_F F)> = <c, J(x) g_f> + g_F <c, f(x)>.
    """
    of_f, of_F = g[..., :-1].contiguous(), g[..., -1:]
    dg, *second = _through_jvp(operator, settings, needs, of_f, tensors, cotangent)
    weighted = torch.cat([of_F * cotangent, torch.zeros_like(of_F)], -1)
    first = operator.kernels.backward(weighted, tensors, settings, needs[1:])
    if dg is not None:
        f = operator.kernels.forward(tensors, settings)[..., :-1]
        dg = torch.cat([dg, (cotangent * f).sum(-1, keepdim=True)], -1)
    return dg, *(b if a is None else a if b is None else a + b for a, b in zip(second, first))


_BY_KERNELS = {"value": _of_value, "value_and_potential": _of_value_and_potential}


def _through_jvp(
    operator: Operator, settings: Settings, needs: Sequence[bool], v: Tensor, tensors: Tensors, cotangent: Tensor
) -> Gradients:
    """Return the gradients of <cotangent, J(x) v> in (v, x, *parameters)."""
    assert operator.jvp is not None
    x, *parameters = tensors
    needs = (needs[1], needs[0], *needs[2 : 2 + len(parameters)])
    dx, dv, *rest = operator.jvp.kernels.backward(cotangent, (x, v, *parameters), settings, needs)
    return dv, dx, *rest
