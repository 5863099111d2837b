"""`squared_error`: the loss of a network on gradients, whose own gradients are made in the same pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.nn.functional import mse_loss

from ..backend import choose
from ..errors import check_tensor, message
from ..nn.base import GradNet
from ..ops import autograd
from ..ops.families import Settings
from ..ops.operator import Operator
from ._steps import HOOKS

_DTYPES = (torch.float32, torch.float64)


def squared_error(net: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return the mean of (f(x) − target)², of all coordinates of all points, with gradients that are made beside it.

    The gradient of the loss in f is known as soon as f is, so that the kernels go on to the parameters' gradients while
    the points are in the cache; a deep network's then take six products for each weight, where f and a later backward
    pass take eight.  So it is on the CPU in float32 and float64, of dense networks in eager mode; elsewhere it is the
    line below.

    Equivalent to:
        torch.nn.functional.mse_loss(net(x), target)

    Args:
        net: any module; of `GradNet` those of points.
        x: the points.
        target: what f(x) should be.

    Returns:
        The loss, (), differentiable in the parameters, x and target any number of times that f is.

    Shapes: x and target (…, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Hsu et al., "Liger Kernel", 2024, arXiv 2410.10989, for gradients that are made in the forward pass.

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.DeepGradNet(2, (64, 64)), torch.randn(1000, 2)
    >>> loss = gradnets_fast.squared_error(net, x, x.tanh())
    >>> loss.backward()
    >>> torch.allclose(loss, torch.nn.functional.mse_loss(net(x), x.tanh()))
    True
    """
    _check(net, x, target)
    found = _by_kernels(net, x, target)
    return mse_loss(net(x), target) if found is None else found


def _check(net: Any, x: Any, target: Any) -> None:
    where = "squared_error"
    if not isinstance(net, nn.Module):
        raise TypeError(message(where, "net", "a torch.nn.Module", type(net).__name__, "pass the network"))
    check_tensor(where, "x", x)
    check_tensor(where, "target", target)
    if x.shape != target.shape:
        got, fix = f"shape {tuple(target.shape)}", "pass the gradient at each point"
        raise ValueError(message(where, "target", f"the shape {tuple(x.shape)} of x", got, fix))
    if x.dtype != target.dtype:
        fix = "convert it with target.to(x.dtype)"
        raise TypeError(message(where, "target", f"the dtype {x.dtype} of x", target.dtype, fix))


def _by_kernels(net: nn.Module, x: Tensor, target: Tensor) -> Tensor | None:
    """Return the loss, or None where there is no gradient to make beside it, or no kernel that does."""
    if not isinstance(net, GradNet) or not _is_called_as_it_is(net) or not _are_read_here(net, x, target):
        return None
    network: Any = net._effective_checked()
    if network.W.dtype != x.dtype or x.shape[-1:] != (getattr(net, "in_dim", None),):
        return None  # for a call to say what is wrong
    settings, linear, operator = network.known_settings(), net.linear, network.operators["value"].cpp
    if settings is None or network.sharpness is not None or network.offset is not None:
        return None
    if linear is not None:  # f − target is the rest of f less what is left of the target
        target = target - linear(x)
    tensors = (x.contiguous(), target.contiguous(), *network.parameters(), network.bias)
    needs = [t is not None and t.requires_grad for t in tensors]
    if not any(needs) or any(map(autograd.is_of_another_kind, tensors)):
        return None
    found = operator.kernels.squared_error_with_gradients(*tensors[:2], tensors[2:], settings, needs)
    function: Any = _SquaredError
    return None if found is None else function.apply(operator, settings, found, *tensors)


def _is_called_as_it_is(net: GradNet) -> bool:
    """Return whether a call is that of its operator, without hooks."""
    if type(net).forward is not GradNet.forward or "forward" in vars(net) or net.point_dimensions != 1:
        return False
    return not any(getattr(net, name) for name in HOOKS) and not nn.modules.module._has_any_global_hook()


def _are_read_here(net: GradNet, x: Tensor, target: Tensor) -> bool:
    """Return whether the kernels of the CPU are those that would be called, in a mode that they can be called in."""
    if not is_grad_enabled() or torch.is_inference_mode_enabled() or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled("cpu") or not autograd.no_transform_is_active():
        return False
    fits = x.is_cpu and target.is_cpu and x.dtype in _DTYPES and x.numel() > 0
    return fits and choose(net.operator_name, x, None).backend == "cpp"


class _SquaredError(torch.autograd.function._SingleLevelFunction):
    """A loss that is there already, with its gradients in (x, target, *parameters)."""

    @staticmethod
    def forward(
        ctx: Any, operator: Operator, settings: Settings, found: tuple[Tensor, list[Tensor | None]], *tensors: Tensor
    ) -> Tensor:
        error, gradients = found
        ctx.operator, ctx.settings, ctx.count = operator, settings, len(tensors)
        ctx.save_for_backward(*tensors, *gradients)
        return error

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        tensors, gradients = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        if not is_grad_enabled():
            return None, None, None, *(None if d is None else d * g for d in gradients)
        # Aliases: of a tensor and one that was computed from it each gets its own part.
        aliases: Any = [t if t is None else t.view_as(t) for t in tensors]
        x, target, *parameters = aliases
        needs = ctx.needs_input_grad[3:]
        loss = mse_loss(autograd.run(ctx.operator, (x, *parameters), ctx.settings), target)
        needed = [t for t, need in zip(aliases, needs) if need]
        found = iter(torch.autograd.grad(loss, needed, g, create_graph=True))
        return None, None, None, *(next(found) if need else None for need in needs)
