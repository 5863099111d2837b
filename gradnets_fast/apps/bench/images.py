"""Convolutional networks as cases: images of one channel, filters of one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ...chunks import image_chunk
from ...nn import ConvGradNet
from ...reference.activations import value
from .cases import Case, Problem, Target
from .precision import PRECISIONS
from .work import products, transcendental, work


@dataclass(frozen=True, kw_only=True)
class ImageCase(Case):
    """A `ConvGradNet`; d counts the pixels of an image, and h the filters of the last convolution.

    Attributes:
        size: of an image.
        channels: of all convolutions, beginning with the image's.
        kernel: the side of the filters.
        activation: a name of the activation table.
        rows: of a band of the image, for `image_chunk`; None for the image as a whole.
    """

    size: tuple[int, int]
    channels: tuple[int, ...]
    kernel: int
    activation: str
    rows: int | None = None

    @property
    def hidden(self) -> int:
        """Of all pixels."""
        return self.batch * self.d * self.h

    def few(self, tensor: Tensor) -> Tensor:
        """A corner of two images."""
        return tensor[:2, :, :32, :32]

    def problem(self, device: torch.device | str = "cpu", batch: int | None = None) -> Problem:
        """The network's parameters and images from a fixed seed."""
        dtype = self.precision.dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            stages = [(channels, self.kernel) for channels in self.channels[1:-1]]
            shape = (self.channels[0], self.channels[-1], self.kernel)
            net = ConvGradNet(*shape, self.activation, stages=stages, dtype=dtype).to(device)
            x, g = torch.randn(2, batch or self.batch, self.channels[0], *self.size).to(device, dtype).unbind()
        x.requires_grad_()
        parameters = dict(net.named_parameters())
        plain = partial(gradient, activation=self.activation)
        taps = self.kernel**2 * sum(before * after for before, after in pairwise(self.channels)) / self.h
        hidden = float(len(x) * self.d * self.h)
        evaluations = transcendental([self.activation])
        return Problem(
            points=(x,),
            parameters=parameters,
            g=g,
            exact=plain,
            eager=lambda x: plain(parameters, x),
            ours=net if self.rows is None else partial(image_chunk, net, rows=self.rows),
            authors=None,
            work=work(products("value", 1), hidden * taps, 1, evaluations, ([x], parameters.values(), g)),
            eps=PRECISIONS[self.dtype].eps,
        )


def gradient(parameters: Mapping[str, Tensor], x: Tensor, activation: str) -> Tensor:
    """f(x) = Kᵀσ(K∗x + b) + bias of filters of odd sizes, as it is written in PyTorch."""
    count = sum(name.startswith("stages.") for name in parameters)
    filters = [*(parameters[f"stages.{i}"] for i in range(count)), parameters["K"]]
    z = x
    for K in filters:
        z = F.conv2d(z, K, padding=K.shape[-1] // 2)
    z = value(activation, z + parameters["b"].view(-1, 1, 1))
    for K in reversed(filters):
        z = F.conv_transpose2d(z, K, padding=K.shape[-1] // 2)
    return z + parameters["bias"].view(-1, 1, 1)


def image_case(
    batch: int, size: tuple[int, int], channels: tuple[int, ...], kernel: int, activation: str, *gains: float
) -> ImageCase:
    """A case; gains: a target, if there is one."""
    arrows = "→".join(map(str, channels))
    variant = f"{arrows}, {kernel}×{kernel}, {activation}, {size[0]}×{size[1]}"
    sizes = {"size": size, "channels": channels, "kernel": kernel, "activation": activation}
    target = Target(*gains) if gains else None
    return ImageCase("ConvGradNet", variant, batch, size[0] * size[1], channels[-1], target=target, **sizes)  # type: ignore[arg-type]
