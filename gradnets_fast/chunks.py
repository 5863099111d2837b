"""`batch_chunk`: batches larger than the device's memory, which the device sees a piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .backend import block_requests, requests_of
from .errors import check_points, check_positive, message

__all__ = ["batch_chunk"]


def batch_chunk(
    function: Callable[[Tensor], Tensor], x: Tensor, rows: int, *, device: torch.device | str | None = None
) -> Tensor:
    """Compute and differentiate function(x) by pieces of the batch, for batches beyond the device's memory.

    x may be on the CPU, pinned or mapped from a file, while the network is on a GPU.  Each piece goes to the device,
    its result comes back to x's device, and nothing of it stays.  The backward pass computes each piece again, takes g
    piece by piece, and adds up the parameters' gradients.  Differentiable twice.

    Equivalent to:
        function(x.to(device)).to(x.device)

    Args:
        function: a network, or one of its methods such as `net.potential`: each row of the result depends on that row
            of the points alone.
        x: points, (B, …, d).
        rows: the length of a piece along the first dimension.
        device: the device to compute on; by default that of the network's parameters, or x's own if `function` belongs
            to no network.

    Returns:
        The result, (B, …), on x's device.

    Raises:
        TypeError, ValueError: x is no batch of points, or `rows` is no positive integer.

    >>> import torch
    >>> from gradnets_fast import mGradNetC
    >>> net, x = mGradNetC(2, 3, 5), torch.randn(10, 3)
    >>> torch.allclose(batch_chunk(net, x, rows=4), net(x), atol=1e-6)
    True
    """
    where = "batch_chunk"
    check_points(where, x)
    check_positive(where, "rows", rows)
    if x.dim() < 2:
        raise ValueError(message(where, "x", "a batch (B, …, d)", f"shape {tuple(x.shape)}", "pass x.unsqueeze(0)"))
    target = _device(function, x) if device is None else torch.device(device)

    requests = block_requests()

    def piece(points: Tensor) -> Tensor:
        # Computed again in the backward pass, perhaps outside of the block and in another thread.
        with requests_of(requests):
            return function(points.to(target, non_blocking=True)).to(x.device)

    results = [checkpoint(piece, points, use_reentrant=False, preserve_rng_state=False) for points in x.split(rows)]
    return torch.cat(results)


def _device(function: Callable[[Tensor], Tensor], x: Tensor) -> torch.device:
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    parameter = next(owner.parameters(), None) if isinstance(owner, nn.Module) else None
    return x.device if parameter is None else parameter.device
