"""Convolutional ridge functions of a composition of convolutions: f(x) = Aᵀf_K(A x) + bias, A = K_{m} ⋯ K_1.

The first stages are those of _convolution.py; the last one, with the function and its adjoint, is `ConvRidge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import message
from ._checks import checked_images
from ._convolution import adjoint, convolved
from ._network import ConvRidge


@dataclass(slots=True)
class ComposedConvRidge(ConvRidge):
    """A network of the family after other convolutions, whose filters are `stages`; the bias is added at the end."""

    stages: tuple[Tensor, ...] = ()

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
        """Raise NotImplementedError."""
        got = "the divergence of a composition, whose filters are cut off differently at each distance to the border"
        fix = "use collapse(), or the mean of (v * net.jvp(x, v)).sum() over random signs v"
        raise NotImplementedError(message("conv_ridge", "quantity", "value, potential or jvp", got, fix))

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


def composed(filters: Sequence[Tensor], *arguments: Any, **options: Any) -> ConvRidge:
    """Return the network of convolutions with these filters in turn; `arguments` are those of `ConvRidge` after W."""
    *stages, K = filters
    cls: Any = partial(ComposedConvRidge, stages=tuple(stages)) if stages else ConvRidge
    network: ConvRidge = cls(K, *arguments, **options)
    return network
