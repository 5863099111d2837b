"""Launches for convolutional ridge networks: a library's convolutions over pieces of the batch, kernels between them.

    f(x) = Kᵀφ(K∗x) + bias

A piece is some images, or a band of one along its first axis: so few that its tensors of (images, C, pixels), which are
all of this size that there are, stay in the second-level cache.  Called by `gradnets_fast.ops`; calls the kernels of
`conv`, between convolutions that follow PyTorch's settings for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from . import configuration, conv
from .launch import Batch, Gradients, Parameters
from .launching import launch
from .mode import Mode

_PROGRAMS = 1024
"""Programs of a launch whose sums go on in their order: fixed, so that sums are too."""

_CACHE_BYTES = 32 << 20
"""What a piece may take where the size of the second-level cache is not known, about that of compute capability 9.0."""

_HIDDEN = {"x": "u", "g": "a", "v": "v"}
"""Points and cotangents → what the kernels call their convolution."""

_MULTIPLIED = {"value": {"x": "a"}, "jvp": {"x": "u", "v": "a"}, "potential": {"x": "u"}, "divergence": {"x": "u"}}
"""Quantity → the gradients in points, and of what they are the adjoint after the kernel."""

_PRODUCTS = {
    "value": (("u", "g"), ("a", "x")),
    "jvp": (("u", "x"), ("a", "v"), ("v", "g")),
    "potential": (("u", "x"),),
    "divergence": (("u", "x"),),
}
"""Quantity → the pairs whose products make the gradient in K."""


@dataclass(frozen=True)
class Convolution:
    """x ↦ K∗x of images, band by band, and its adjoint.

    Attributes:
        K: (C, C_in, k_1, …, k_s).
        shape: of an image, (C_in, n_1, …, n_s).
        circular: whether the image's other end lies beyond its border, or zeros.
    """

    K: Tensor
    shape: tuple[int, ...]
    circular: bool

    def pieces(self, count: int, tensors: int, device: torch.device) -> Iterator[tuple[slice, list[slice]]]:
        """The images of each piece, and the bands of each; tensors: how many of (images, C, pixels) there are."""
        rows = self.shape[1]
        row = tensors * self.K.element_size() * len(self.K) * self.pixels(1)
        most = max(1, cache_bytes(device) // row)
        images, band = max(1, most // rows), min(most, rows)
        bands = [slice(start, min(start + band, rows)) for start in range(0, rows, band)]
        for start in range(0, count, images):
            yield slice(start, min(start + images, count)), bands

    def pixels(self, rows: int) -> int:
        """How many pixels a band of so many rows has."""
        return rows * torch.Size(self.shape[2:]).numel()

    def seen(self, images: Tensor, band: slice) -> Tensor:
        """What filters see of images (n, C_in, n_1, …) at a band: (n, C_in, rows + k_1 − 1, n_2 + k_2 − 1, …)."""
        for dim, k in enumerate(self.K.shape[2:], start=2):
            start, stop = (band.start, band.stop) if dim == 2 else (0, images.shape[dim])
            images = self._window(images, dim, start - (k - 1) // 2, stop + k // 2)
        return images.contiguous()

    def _window(self, images: Tensor, dim: int, start: int, stop: int) -> Tensor:
        n = images.shape[dim]
        before, after = max(-start, 0), max(stop - n, 0)
        inside = images.narrow(dim, start + before, stop - after - start - before)
        if self.circular:
            return torch.cat([images.narrow(dim, n - before, before), inside, images.narrow(dim, 0, after)], dim)
        return F.pad(inside, [0, 0] * (images.dim() - 1 - dim) + [before, after])

    def of(self, seen: Tensor) -> Tensor:
        """K∗x at a band, (n, C, rows, n_2, …)."""
        return _convolution(seen, self.K)

    def adjoint(self, hidden: Tensor) -> Tensor:
        """What Kᵀ makes of a band, on all rows that its filters see: (n, C_in, rows + k_1 − 1, n_2, …)."""
        y = _convolution(hidden, self.K, transposed=True)
        for dim in range(3, y.dim()):
            y = self.folded(y, dim)
        return y

    def folded(self, y: Tensor, dim: int = 2) -> Tensor:
        """y on the image alone along an axis, what lies beyond it added to the other end or dropped; y is used up."""
        n, before = self.shape[dim - 1], (self.K.shape[dim] - 1) // 2
        inside, after = y.narrow(dim, before, n), self.K.shape[dim] // 2
        if self.circular:
            inside.narrow(dim, n - before, before).add_(y.narrow(dim, 0, before))
            inside.narrow(dim, 0, after).add_(y.narrow(dim, before + n, after))
        return inside

    def weights(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """The gradient of <hidden, K∗x> in K, in float32; for one seen channel (C, 1, k_1, …)."""
        K = self.K[:, : seen.shape[1]].to(hidden.dtype)
        axes = K.dim() - 2
        numbers = ([1] * axes, [0] * axes, [1] * axes, False, [0] * axes, 1)
        backward = torch.ops.aten.convolution_backward.default
        return backward(hidden, seen, K, None, *numbers, [False, True, False])[1].float()

    def norms(self, band: slice) -> Tensor:
        """n_c(p) = Σ_{i,t} K[c,i,t]² over taps t inside the image at pixels of a band, (C, rows, n_2, …), float32."""
        squares = self.K.float().square().sum(1, keepdim=True)
        return _convolution(self.seen(self._ones(), band), squares)[0].contiguous()

    def counted(self, hidden: Tensor, band: slice) -> Tensor:
        """The gradient of Σ hidden·n in K."""
        total = hidden.sum(0, keepdim=True, dtype=torch.float32)
        return 2 * self.K.float() * self.weights(total, self.seen(self._ones(), band))

    def _ones(self) -> Tensor:
        return torch.ones((1, 1, *self.shape[1:]), device=self.K.device)


def _convolution(x: Tensor, K: Tensor, transposed: bool = False) -> Tensor:
    """The library's convolution without a border, or its adjoint."""
    axes = K.dim() - 2
    return torch.convolution(x, K, None, [1] * axes, [0] * axes, [1] * axes, transposed, [0] * axes, 1).contiguous()


@lru_cache(maxsize=None)
def cache_bytes(device: torch.device) -> int:
    """Bytes of the second-level cache that a piece may take: five eighths of it."""
    if device.type != "cuda":
        return _CACHE_BYTES
    size = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
    return int(size) * 5 // 8 or _CACHE_BYTES


def _constants(mode: Mode, parameters: Parameters, quantity: str) -> dict[str, Any]:
    knots = parameters.coef.shape[1] if mode.basis == ("spline",) and parameters.coef is not None else 0
    knots_and_padded = {"KNOTS": knots, "BT": triton.next_power_of_2(knots)}
    return (
        mode.constants()
        | knots_and_padded
        | {"QUANTITY": quantity}
        | configuration.pixel_options(mode.layers, quantity, mode.heads)
    )


def forward(
    mode: Mode,
    quantity: str,
    points: dict[str, Tensor],
    convolution: Convolution,
    parameters: Parameters,
    bias: Tensor | None = None,
    rule: Tensor | None = None,
) -> Tensor:
    """f(x) ("value"), J(x) v ("jvp"), or for each image the potential without bias or the divergence.

    points: x, and v of J(x) v, (images, C_in, n_1, …, n_s), at least one image.
    """
    x = points["x"]
    with torch.autocast(x.device.type, enabled=False):
        if quantity in ("potential", "divergence"):
            return _numbers(mode, quantity, x, convolution, parameters, rule)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        constants = _constants(mode, parameters, quantity)
        for images, bands in convolution.pieces(len(x), len(points), x.device):
            whole = _Whole(convolution, bands)
            for band in bands:
                u, *v = (convolution.of(convolution.seen(t[images], band)) for t in points.values())
                count, h, pixels = _sizes(u)
                grid = (count * triton.cdiv(pixels, constants["BP"]), triton.cdiv(h, constants["BC"]))
                arguments = (u, *(v or (None,)), *_vectors(parameters), count, h, pixels)
                launch(conv.forward, grid, arguments, constants)
                whole.add(band, convolution.adjoint(u))
            out[images] = whole.image()
        if bias is not None:
            out += bias.view(-1, *[1] * (x.dim() - 2))
        return out


def _numbers(
    mode: Mode, quantity: str, x: Tensor, convolution: Convolution, parameters: Parameters, rule: Tensor | None
) -> Tensor:
    constants = _constants(mode, parameters, quantity) | {"SMOOTH": mode.smooth}
    out = torch.zeros(len(x), device=x.device)
    norms = None
    for images, bands in convolution.pieces(len(x), 1, x.device):
        for band in bands:
            u = convolution.of(convolution.seen(x[images], band))
            if quantity == "divergence" and (norms is None or len(bands) > 1):
                norms = convolution.norms(band)
            count, h, pixels = _sizes(u)
            splits, each = _split(
                triton.cdiv(h, constants["BC"]) * triton.cdiv(pixels, constants["BP"]), _PROGRAMS // count
            )
            partials = torch.empty(count, splits, device=x.device)
            arguments = (u, norms, *_vectors(parameters), rule, partials, h, pixels, splits, each)
            launch(conv.numbers, (count * splits,), arguments, constants)
            out[images] += partials.sum(1)
    return out.to(x.dtype)


def backward(
    mode: Mode,
    quantity: str,
    batch: Batch,
    convolution: Convolution,
    parameters: Parameters,
    into: Gradients,
    rule: Tensor | None = None,
) -> None:
    """The gradients of the scalar that `quantity` names in `conv`, for at least one image.

    Points and cotangents are images, (images, C_in, n_1, …, n_s).
    """
    points = {name: t for name, t in (("x", batch.x), ("g", batch.g), ("v", batch.v)) if t is not None}
    x, K = batch.x, convolution.K
    numbers = _constants(mode, parameters, quantity) | into.flags() | {"SMOOTH": mode.smooth}
    sums = _Sums(numbers, parameters, into.count(len(K)), rule, batch.weight)
    dK = torch.zeros(K.shape, device=K.device)
    tensors, norms = len(points) + (quantity == "divergence"), None
    with torch.autocast(x.device.type, enabled=False):
        for images, bands in convolution.pieces(len(x), tensors, x.device):
            wholes = {name: _Whole(convolution, bands) for name in ("x", "v")}
            for band in bands:
                seen = {name: convolution.seen(t[images], band) for name, t in points.items()}
                hidden = {_HIDDEN[name]: convolution.of(t) for name, t in seen.items()}
                if quantity == "divergence":
                    norms = convolution.norms(band) if norms is None or len(bands) > 1 else norms
                    hidden |= {"a": torch.empty_like(hidden["u"]), "norms": norms}
                sums.launch(hidden, images)
                for name, t in (("x", into.x), ("v", into.v)):
                    if t is not None:
                        wholes[name].add(band, convolution.adjoint(hidden[_MULTIPLIED[quantity][name]]))
                if into.W is not None:
                    for of, name in _PRODUCTS[quantity]:
                        dK += convolution.weights(hidden[of], seen[name])
                    if quantity == "divergence":
                        dK += convolution.counted(hidden["a"], band)
            for name, t in (("x", into.x), ("v", into.v)):
                if t is not None:
                    t.view(x.shape)[images] = wholes[name].image()
    if into.W is not None:
        into.W.copy_(dK)
    if into.vectors is not None:
        into.vectors.copy_(sums.total())
    if into.bias is not None and batch.g is not None:
        into.bias.copy_(batch.g.flatten(2).sum((0, 2), dtype=torch.float32))


class _Whole:
    """Kᵀ of images from what it is of their bands, added up in order in float32 where there are several."""

    def __init__(self, convolution: Convolution, bands: list[slice]) -> None:
        self._convolution, self._are_cut = convolution, len(bands) > 1
        self._rows = bands[-1].stop + convolution.K.shape[2] - 1
        self._sum: Tensor | None = None

    def add(self, band: slice, y: Tensor) -> None:
        """Add the adjoint of a band."""
        if not self._are_cut:
            self._sum = y
            return
        if self._sum is None:
            self._sum = torch.zeros((*y.shape[:2], self._rows, *y.shape[3:]), device=y.device)
        self._sum[:, :, band.start : band.start + y.shape[2]] += y

    def image(self) -> Tensor:
        """Return the sum on the images."""
        assert self._sum is not None
        return self._convolution.folded(self._sum)


class _Sums:
    """Launches of `conv.backward`, and the gradients in β, s and C that they add up."""

    def __init__(
        self, constants: dict[str, Any], parameters: Parameters, rows: int, rule: Tensor | None, weight: Tensor | None
    ) -> None:
        self._constants, self._vectors, self._rows = constants, _vectors(parameters), rows
        self._rule, self._weight = rule, weight
        self._partials: Tensor | None = None
        self._each = 0

    def launch(self, hidden: dict[str, Tensor], images: slice) -> None:
        """Make of the convolutions of some images what the gradients need of them."""
        u = hidden["u"]
        count, h, pixels = _sizes(u)
        channels = triton.cdiv(h, self._constants["BC"])
        tiles = count * triton.cdiv(pixels, self._constants["BP"])
        if self._partials is None:  # of the first piece, the largest
            splits, self._each = _split(tiles, _PROGRAMS // channels)
            self._partials = torch.zeros((splits, self._rows, h), device=u.device)
        weight = None if self._weight is None else self._weight[images]
        tensors = (u, hidden.get("a"), hidden.get("v"), hidden.get("norms"), weight)
        arguments = (*tensors, *self._vectors, self._rule, self._partials, count, h, pixels, self._each)
        launch(conv.backward, (triton.cdiv(tiles, self._each), channels), arguments, self._constants)

    def total(self) -> Tensor:
        """Return the gradients, one after the other."""
        assert self._partials is not None
        return self._partials.sum(0).flatten()


def _sizes(u: Tensor) -> tuple[int, int, int]:
    """Images, channels and pixels."""
    return u.shape[0], u.shape[1], u.shape[2:].numel()


def _vectors(parameters: Parameters) -> tuple[Tensor | None, Tensor, Tensor | None]:
    return parameters.scale, parameters.shift, parameters.coef


def _split(tiles: int, most: int) -> tuple[int, int]:
    """Into how many parts tiles are split, at most `most`, and how many each part has."""
    each = triton.cdiv(tiles, max(1, most))
    return triton.cdiv(tiles, each), each
