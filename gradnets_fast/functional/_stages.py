"""Convolutional ridge functions of a composition of convolutions: f(x) = Aᵀf_K(A x) + bias, A = K_{m} ⋯ K_1.

The first stages are those of _convolution.py; the last one, with the function and its adjoint, is `ConvRidge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops import OPERATORS, Backends
from ..ops.families import CONV_RIDGE, CONV_TRACE, Family
from ._checks import checked_images
from ._convolution import adjoint, convolved
from ._network import ConvRidge


@dataclass(slots=True)
class ComposedConvRidge(ConvRidge):
    """A network of the family after other convolutions, whose filters are `stages`; the bias is added at the end.

    norms: those of `row_norms` for the images of a call that are divided among several networks; None if not known yet.
    """

    stages: tuple[Tensor, ...] = ()
    norms: Tensor | None = None

    def value(self, x: Tensor, backend: str | None = None) -> Tensor:
        (at,) = self._of_points("value", (x,), backend)
        f = self._to_points(self._last().value(at, backend), x, backend)
        return f if self.bias is None else (f + self.bias.view(-1, *[1] * (self.W.dim() - 2))).to(f.dtype)

    def potential(self, x: Tensor, backend: str | None = None) -> Tensor:
        (at,) = self._of_points("potential", (x,), backend)
        return self._plus_bias_times(x, self._last().potential(at, backend))

    def jvp(self, x: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
        at, along = self._of_points("jvp", (x, v), backend)
        return self._to_points(self._last().jvp(at, along, backend), x, backend)

    def divergence(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Return tr J(x) = Σ_c Σ_q φ_c'((K A x)_c(q)) n_c(q), n the squared norms of the rows of K A, (…,).

        By the reference's formulas, in pieces of the batch, which the backward passes compute again.
        """
        norms = self.prepared("divergence", x, backend).norms
        (at,) = self._of_points("divergence", (x,), backend)
        arguments = (self.W, self.scale, self.shift, self.coef, None, self.basis, self.padding, self.heads)
        return _Trace(*arguments, norms=norms).divergence(at, backend)

    def prepared(self, quantity: str, x: Tensor, backend: str | None = None) -> ComposedConvRidge:
        if quantity != "divergence" or self.norms is not None:
            return self
        image, sizes = x.shape[1 - self.W.dim() :], x.shape[2 - self.W.dim() :]
        (none,) = self._of_points(quantity, (x.reshape(-1, *image)[:0],), backend)  # which checks x
        checked_images(CONV_RIDGE.operator_name(quantity), (none,), self.W, None, self.padding)
        return replace(self, norms=row_norms([*self.stages, self.W], sizes, self.padding, backend))

    def _last(self) -> ConvRidge:
        return ConvRidge(self.W, self.scale, self.shift, self.coef, None, self.basis, self.padding, self.heads)

    def _of_points(self, quantity: str, points: tuple[Tensor, ...], backend: str | None) -> list[Tensor]:
        """Return what the stages make of x, and of v where it is there."""
        where, dimensions, z = self.family.operator_name(quantity), self.W.dim() - 1, points
        for i, K in enumerate(self.stages):
            checked_images(where, z, K, None if i else self.bias, self.padding)
            z = tuple([convolved(t.reshape(-1, *t.shape[-dimensions:]), K, self.padding, backend) for t in z])
        return [t.reshape(*points[0].shape[:-dimensions], *t.shape[1:]) for t in z]

    def _to_points(self, z: Tensor, x: Tensor, backend: str | None) -> Tensor:
        f = z.reshape(-1, *z.shape[1 - self.W.dim() :])
        for K in reversed(self.stages):
            f = adjoint(f, K, self.padding, backend)
        return f.reshape(x.shape)


@dataclass(slots=True)
class _Trace(ConvRidge):
    """A network whose divergence has the squared norms of rows given."""

    norms: Tensor | None = None

    family: ClassVar[Family] = CONV_TRACE
    operators: ClassVar[dict[str, Backends]] = OPERATORS["conv_trace"]

    def parameters(self) -> tuple[Tensor | None, ...]:
        return *ConvRidge.parameters(self), self.norms

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, ConvRidge]:
        return ConvRidge.checked(self, CONV_RIDGE.operator_name("divergence"), x)


_IMPULSES = 256
"""So many images of an impulse are made at a time."""


def row_norms(filters: Sequence[Tensor], sizes: Sequence[int], padding: str, backend: str | None = None) -> Tensor:
    """Return n_c(q) = Σ_{i,p} A(c, q; i, p)², A the convolutions with these filters in turn on images of these sizes.

    A unit impulse in each channel and pixel is sent through them, of an image that is no larger than rows of A reach:
    n is that of the large image where it is repeated in the middle, since far from the border it is constant.  In
    float32 at least.  For a gradient in the filters all responses are kept, of as many values as the squared number of
    pixels of that image times the channels.

    Shapes: (C, m_1, …, m_s), of circular images, where n is the same at each pixel, (C, 1, …).
    """
    with torch.autocast(filters[0].device.type, enabled=False):
        exact = [K.to(torch.promote_types(K.dtype, torch.float32)) for K in filters]
        small = [min(n, 1 + 2 * sum(K.shape[i] // 2 for K in exact)) for i, n in enumerate(sizes, start=2)]
        channels, pixels = exact[0].shape[1], torch.Size(small).numel()
        places = torch.arange(0, channels * pixels, pixels if padding == "circular" else 1, device=exact[0].device)
        parts = []
        for some in places.split(_IMPULSES):
            response = exact[0].new_zeros(len(some), channels * pixels).scatter_(1, some.unsqueeze(1), 1.0)
            response = response.view(-1, channels, *small)
            for K in exact:
                response = convolved(response, K, padding, backend)
            parts.append(response.square().sum(0))
        norms = torch.stack(parts).sum(0)
        return norms if padding == "zeros" else norms.flatten(1).sum(1).view(-1, *[1] * len(small))


def composed(filters: Sequence[Tensor], *arguments: Any, **options: Any) -> ConvRidge:
    """Return the network of convolutions with these filters in turn; `arguments` are those of `ConvRidge` after W."""
    *stages, K = filters
    cls: Any = partial(ComposedConvRidge, stages=tuple(stages)) if stages else ConvRidge
    network: ConvRidge = cls(K, *arguments, **options)
    return network
