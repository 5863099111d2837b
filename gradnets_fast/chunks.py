"""`batch_chunk` and `image_chunk`: batches and images beyond the device's memory, which it sees a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from .backend import block_requests, requests_of
from .errors import check_points, check_positive, message
from .nn.conv import ConvGradNet
from .ops.autograd import no_transform_is_active

__all__ = ["batch_chunk", "image_chunk"]


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


def image_chunk(net: ConvGradNet, x: Tensor, rows: int) -> Tensor:
    """Compute and differentiate net(x) by bands of the images, for images whose hidden layers are beyond memory.

    A value of f depends on those of x that are near it.  Each band of f is computed from a band of x that has more
    rows, on either side the sum of k − 1 over all filters, k their size in the first dimension of an image.  Nothing
    but x and f stays: the backward pass computes each band again, and adds up the gradients.  A backward pass that is
    to be differentiated itself keeps what the network keeps, and under torch.compile and the transforms of torch.func
    it is net(x).

    Equivalent to:
        net(x)

    Args:
        net: the network.
        x: images, (…, C_in, n_1, …, n_s).
        rows: how many of the n_1 rows of f a band has.  The fewer, the less memory, and the more work is done twice:
            the sum of k − 1, twice, should be small beside it.

    Returns:
        f(x), of the shape of x and the dtype of net(x).

    Raises:
        TypeError, ValueError: `net` is no ConvGradNet, x are no images of its, or `rows` is no positive integer.

    >>> import torch
    >>> from gradnets_fast import ConvGradNet
    >>> net, x = ConvGradNet(1, 8, 5, stages=[(4, 3)]), torch.randn(1, 100, 20)
    >>> torch.allclose(image_chunk(net, x, rows=32), net(x), atol=1e-6)
    True
    """
    where = "image_chunk"
    if not isinstance(net, ConvGradNet):
        fix = "of points, pass batches to batch_chunk"
        raise TypeError(message(where, "net", "a ConvGradNet", type(net).__name__, fix))
    check_points(where, x)
    check_positive(where, "rows", rows)
    dimension = x.dim() - net.point_dimensions + 1
    if dimension < 1:
        got, fix = f"shape {tuple(x.shape)}", "add the dimension of channels, by unsqueeze"
        raise ValueError(message(where, "x", f"images of {net.point_dimensions} dimensions at least", got, fix))
    is_watched = torch.compiler.is_compiling() or not no_transform_is_active()
    if is_watched or not x.shape[dimension]:  # of images without rows the network says what is wrong
        return cast(Tensor, net(x))
    names, parameters = zip(*net.named_parameters())
    bands = _Bands(net, names, dimension, rows, block_requests(), _autocast(x))
    return cast(Tensor, _InBands.apply(bands, x, *parameters))  # type: ignore[no-untyped-call]


def _autocast(x: Tensor) -> tuple[str, torch.dtype, bool]:
    """The arguments of torch.autocast under which x is."""
    device = x.device.type
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


@dataclass(frozen=True)
class _Bands:
    """How f of images is computed by so many rows at a time, and computed again for gradients.

    Attributes:
        names: of the network's parameters.
        dimension: of x and f, along which a band is a slice.
        requests, autocast: the backends that were asked for, and the arguments of torch.autocast, at the call.
    """

    net: ConvGradNet
    names: tuple[str, ...]
    dimension: int
    rows: int
    requests: tuple[str, ...]
    autocast: tuple[str, torch.dtype, bool]

    def value(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return f(x) of the network with these parameters."""
        device, dtype, enabled = self.autocast
        with requests_of(self.requests), torch.autocast(device, dtype, enabled=enabled):
            f: Tensor = functional_call(self.net, dict(zip(self.names, parameters)), (x,))
        return f

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, slice, slice]]:
        """Yield for each band the rows of x that its f depends on, its own among these, and its own in f."""
        size, reach = x.shape[self.dimension], sum(K.shape[2] - 1 for K in (*self.net.stages, self.net.K))
        for start in range(0, size, self.rows):
            stop = min(start + self.rows, size)
            first, last = start - reach, stop + reach
            if self.net.padding == "zeros":  # at the image's border the band ends where the image does
                first, last = max(first, 0), min(last, size)
            around = torch.arange(first, last, device=x.device) % size
            yield around, slice(start - first, stop - first), slice(start, stop)

    def cut(self, x: Tensor, rows: slice) -> Tensor:
        """Return a view of some rows."""
        return x.narrow(self.dimension, rows.start, rows.stop - rows.start)


class _InBands(torch.autograd.Function):
    """(bands, x, *parameters) ↦ f(x)."""

    @staticmethod
    def forward(ctx: Any, bands: _Bands, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.bands = bands
        ctx.save_for_backward(x, *parameters)
        f: Tensor | None = None
        for around, own, rows in bands.parts(x):
            band = bands.cut(bands.value(x.index_select(bands.dimension, around), parameters), own)
            f = band.new_empty(x.shape) if f is None else f
            bands.cut(f, rows).copy_(band)
        assert f is not None
        return f

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        bands, needs = ctx.bands, ctx.needs_input_grad[1:]
        x, *parameters = ctx.saved_tensors
        found: Sequence[Tensor]
        if torch.is_grad_enabled():
            inputs = [t for t, need in zip((x, *parameters), needs) if need]
            found = torch.autograd.grad(bands.value(x, parameters), inputs, g, create_graph=True, allow_unused=True)
        else:
            found = _gradients(bands, g, x, parameters, needs)
        gradients = iter(found)
        return None, *(next(gradients) if need else None for need in needs)


def _gradients(
    bands: _Bands, g: Tensor, x: Tensor, parameters: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of <g, f> that are needed, those of all bands added up."""
    sums = [torch.zeros_like(t) for t, need in zip((x, *parameters), needs) if need]
    leaves = [t.detach().requires_grad_(need) for t, need in zip(parameters, needs[1:])]
    for around, own, rows in bands.parts(x):
        with torch.enable_grad():
            band = x.detach().index_select(bands.dimension, around).requires_grad_(needs[0])
            f = bands.cut(bands.value(band, leaves), own)
        inputs = [t for t, need in zip((band, *leaves), needs) if need]
        found = torch.autograd.grad(f, inputs, bands.cut(g, rows), allow_unused=True, materialize_grads=True)
        if needs[0]:
            sums[0].index_add_(bands.dimension, around, found[0])
        for total, gradient in zip(sums[needs[0] :], found[needs[0] :]):
            total += gradient
    return sums


def _device(function: Callable[[Tensor], Tensor], x: Tensor) -> torch.device:
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    parameter = next(owner.parameters(), None) if isinstance(owner, nn.Module) else None
    return x.device if parameter is None else parameter.device
