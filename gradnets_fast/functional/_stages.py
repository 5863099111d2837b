"""Convolutional ridge functions of a composition of convolutions: f(x) = Aᵀf_K(A x) + bias, A = K_{m} ⋯ K_1.

The first stages have few channels and are PyTorch's; the last one, with the function and its adjoint, is `ConvRidge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..errors import message
from ._checks import checked_images
from ._network import ConvRidge

_CONVOLUTIONS: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def convolved(x: Tensor, K: Tensor, padding: str) -> Tensor:
    """Return K∗x of images x (B, C_in, n_1, …), of their size; K (C, C_in, k_1, …)."""
    return _same(x, K, padding, [(k - 1) // 2 for k in K.shape[2:]])


def adjoint(y: Tensor, K: Tensor, padding: str) -> Tensor:
    """Return Kᵀy, the adjoint of `convolved`: the convolution with the flipped filters, which is what it costs."""
    flipped = K.flip(*range(2, K.dim())).transpose(0, 1)
    return _same(y, flipped, padding, [k - 1 - (k - 1) // 2 for k in K.shape[2:]])


def _same(x: Tensor, K: Tensor, padding: str, before: Sequence[int]) -> Tensor:
    pads = [p for k, b in zip(reversed(K.shape[2:]), reversed(before)) for p in (b, k - 1 - b)]
    convolution = _CONVOLUTIONS[K.dim()]
    if padding == "zeros" and all(2 * b == k - 1 for k, b in zip(K.shape[2:], before)):
        result: Tensor = convolution(x, K, padding=tuple(before))
        return result
    result = convolution(F.pad(x, pads, mode="constant" if padding == "zeros" else "circular"), K)
    return result


@dataclass(slots=True)
class ComposedConvRidge(ConvRidge):
    """A network of the family after other convolutions, whose filters are `stages`; the bias is added at the end."""

    stages: tuple[Tensor, ...] = ()

    def value(self, x: Tensor, backend: str | None = None) -> Tensor:
        f = self._to_points(self._last().value(self._of_points(x), backend), x)
        return f if self.bias is None else (f + self.bias.view(-1, *[1] * (self.W.dim() - 2))).to(f.dtype)

    def potential(self, x: Tensor, backend: str | None = None) -> Tensor:
        return self._plus_bias_times(x, self._last().potential(self._of_points(x), backend))

    def jvp(self, x: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
        return self._to_points(self._last().jvp(self._of_points(x), self._of_points(v), backend), x)

    def divergence(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Raise NotImplementedError."""
        got = "the divergence of a composition, whose filters are cut off differently at each distance to the border"
        fix = "use collapse(), or the mean of (v * net.jvp(x, v)).sum() over random signs v"
        raise NotImplementedError(message("conv_ridge", "quantity", "value, potential or jvp", got, fix))

    def _last(self) -> ConvRidge:
        return ConvRidge(self.W, self.scale, self.shift, self.coef, None, self.basis, self.padding)

    def _of_points(self, x: Tensor) -> Tensor:
        checked_images(self.family.name, (x,), [*self.stages, self.W][0], self.bias, self.padding)
        z = x.reshape(-1, *x.shape[1 - self.W.dim() :])
        for K in self.stages:
            z = convolved(z, K, self.padding)
        return z.reshape(*x.shape[: 1 - self.W.dim()], *z.shape[1:])

    def _to_points(self, z: Tensor, x: Tensor) -> Tensor:
        f = z.reshape(-1, *z.shape[1 - self.W.dim() :])
        for K in reversed(self.stages):
            f = adjoint(f, K, self.padding)
        return f.reshape(x.shape)
