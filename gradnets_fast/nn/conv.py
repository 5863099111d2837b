"""ConvGradNet and mConvGradNet: convolutions, a function for each channel, and the convolutions' adjoint."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_choice, check_dtype, check_positive, message
from ..functional import PADDINGS, ConvRidge, composed
from .activation import Activation, ElementwiseActivation, parse_activation
from .base import GradNet, check_sizes, init_uniform, parameter_of, parameters_of
from .filter_norm import norm_of, reach_of, response_of

CENTRED = ("none", "first", "all")


class ConvGradNet(GradNet):
    """Convolutional gradient network, the gradient of a ridge regulariser: f(x) = Kᵀσ(K∗x + b) + bias.

    Equivalent to, for pictures, filters of odd sizes, zeros and no stages:
        z = sigma(torch.nn.functional.conv2d(x, K, b, padding="same"))
        torch.nn.functional.conv_transpose2d(z, K, bias, padding=(K.shape[-2] // 2, K.shape[-1] // 2))

    Args:
        in_channels: C_in, the channels of x and f(x).
        channels: C, the filters.
        kernel_size: the filters' size in each dimension of an image, one to three of them; an int k for (k, k).
        activation: as in `GradNetC`, of each channel, a `Spline` or `Heads`.
        stages: convolutions before this one, so that K∗x is K∗(K_m∗ ⋯ (K_1∗x)): the channels and the size of each.
            Each is padded by itself, which differs from a single larger filter near the border.
        padding: what lies beyond the border, as in `conv_ridge`.
        centred: the filters whose mean is subtracted from them, so that they do not see constants: "none", those of the
            "first" convolution, or those of "all".
        normalized: K is divided by the norm of all convolutions together, `filter_norm`, so that the Lipschitz constant
            of f is that of σ.
        device, dtype: of the parameters.

    Shapes: x (…, C_in, n_1, …, n_s) → f(x) and jvp as x, potential and divergence (…,).  There is no jacobian, which
        has as many values as x has, squared.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Goujon, Neumayer, Bohra, Ducotterd, Unser, "A Neural-Network-Based Convex Regularizer for Inverse Problems",
    IEEE Transactions on Computational Imaging, 2023.

    >>> import torch
    >>> net = ConvGradNet(in_channels=1, channels=8, kernel_size=5, stages=[(4, 3)])
    >>> x = torch.zeros(4, 1, 20, 30)
    >>> net(x).shape, net.potential(x).shape
    (torch.Size([4, 1, 20, 30]), torch.Size([4]))
    """

    family = ConvRidge
    linear = None

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int | Sequence[int],
        activation: Activation = "tanh",
        *,
        stages: Sequence[tuple[int, int | Sequence[int]]] = (),
        padding: str = "zeros",
        centred: str = "none",
        normalized: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_sizes(where, in_channels=in_channels, channels=channels)
        check_choice(where, "padding", padding, PADDINGS)
        check_choice(where, "centred", centred, CENTRED)
        check_dtype(where, dtype)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_channels, self.channels, self.padding = in_channels, channels, padding
        self.centred, self.normalized = centred, normalized
        self.kernel_size = _sizes(where, kernel_size, "kernel_size")
        shapes = _stages(where, stages, in_channels, len(self.kernel_size))
        self.spec = parse_activation(where, activation, monotone=self.monotone, learned=True)
        self.act = ElementwiseActivation(self.spec, channels, self.monotone, **factory)
        self.stages = nn.ParameterList([nn.Parameter(torch.empty(shape, **factory)) for shape in shapes])
        before = shapes[-1][0] if shapes else in_channels
        self.K = nn.Parameter(torch.empty(channels, before, *self.kernel_size, **factory))
        self.b = nn.Parameter(torch.empty(channels, **factory))
        self.bias = nn.Parameter(torch.empty(in_channels, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew, filters and b as torch.nn.Conv2d does."""
        for K in (*self.stages, self.K):
            init_uniform(K, K[0].numel())
        init_uniform(self.b, self.K[0].numel())
        init_uniform(self.bias, self.channels * self.K[0, 0].numel())
        self.act.reset_parameters()

    @property
    def point_dimensions(self) -> int:
        """How many dimensions of x are one image, with its channels."""
        return self.K.dim() - 1

    def filters(self) -> list[Tensor]:
        """Return the filters of all convolutions in effect: centred, and the last ones divided by the norm."""
        filters = [*parameters_of(self.stages), parameter_of(self, "K")]
        count = {"none": 0, "first": 1, "all": len(filters)}[self.centred]
        filters[:count] = map(centred_filters, filters[:count])
        if self.normalized:
            filters[-1] = filters[-1] / norm_of(filters).to(filters[-1].dtype)
        return filters

    def filter_norm(self) -> Tensor:
        """Return the norm of x ↦ K∗x, (): the root of the largest value that KᵀK takes on waves, on a grid of them.

        Of circular images whose size divides the grid's it is exact to the grid; zeros make the norm of one convolution
        smaller.
        """
        return norm_of(self.filters())

    def _effective(self) -> ConvRidge:
        b, bias = (parameter_of(self, name) for name in ("b", "bias"))
        scale, shift, coef = self.act.cascade(b)
        arguments = (scale, shift, coef, bias, self.spec.basis, self.padding, self.spec.heads is not None)
        return composed(self.filters(), *arguments)

    @torch.no_grad()
    def collapse(self) -> ConvGradNet:
        """Return the network with a single convolution: the same function but within its reach of the border.

        With padding "circular" it is the same everywhere.  The filters are centred and divided by the norm for good.
        """
        filters = self.filters()
        response = response_of(filters)
        for dim, reach in enumerate(reach_of(filters), start=2):
            response = response.narrow(dim, sum((K.shape[dim] - 1) // 2 for K in filters), reach + 1)
        K = response.flip(*range(2, response.dim())).transpose(0, 1).contiguous()
        net = type(self)(
            self.in_channels, self.channels, tuple(K.shape[2:]), "tanh", padding=self.padding, device=K.device
        ).to(K.dtype)
        net.K = nn.Parameter(K)
        net.spec, net.act, net.b, net.bias = self.spec, self.act, self.b, self.bias
        return net

    @torch.no_grad()
    def prune(self, tolerance: float = 0.0) -> ConvGradNet:
        """Return the network without the channels that do nothing: the same function for a tolerance of 0.

        Such are channels whose filter is 0, or whose profile is (a spline, heads or a mixture that were regularised to
        0), and channels of a stage that no later convolution reads.  At least one is left.  The filters are centred and
        divided by the norm for good.

        Args:
            tolerance: the largest number, of a filter's taps or a profile's coefficients, that counts as 0.

        >>> net = ConvGradNet(1, 8, 3)
        >>> _ = net.K.data[2:].zero_()
        >>> net.prune().channels
        2
        """
        filters, coef = self.filters(), self.act.cascade(self.b)[2]
        kept = _largest(filters[-1]) > tolerance
        if coef is not None:
            kept &= coef.flatten(0, 1).abs().amax(0) > tolerance
        kept = _at_least_one(kept)
        filters[-1] = filters[-1][kept]
        for i in reversed(range(1, len(filters))):
            read = _at_least_one(_largest(filters[i].transpose(0, 1)) > tolerance)
            filters[i - 1 : i + 1] = filters[i - 1][read], filters[i][:, read]
        stages = [(K.shape[0], tuple(K.shape[2:])) for K in filters[:-1]]
        net = type(self)(self.in_channels, int(kept.sum()), self.kernel_size, stages=stages, padding=self.padding)
        net = net.to(device=self.K.device, dtype=self.K.dtype)
        net.spec, net.act = self.spec, copy.deepcopy(self.act)
        for parameter in net.act.parameters():
            if parameter.shape[-1] == self.channels:
                parameter.data = parameter[..., kept]
        for mine, K in zip((*net.stages, net.K, net.b, net.bias), (*filters, self.b[kept], self.bias)):
            mine.copy_(K)
        return net

    def extra_repr(self) -> str:
        sizes = f"in_channels={self.in_channels}, channels={self.channels}, kernel_size={self.kernel_size}"
        stages = [(K.shape[0], tuple(K.shape[2:])) for K in self.stages]
        options = {"stages": stages or None, "centred": self.centred, "normalized": self.normalized}
        shown = "".join(f", {name}={value!r}" for name, value in options.items() if value not in (None, "none", False))
        return f"{sizes}, activation={self.spec.label!r}, padding={self.padding!r}{shown}"


class mConvGradNet(ConvGradNet):
    """Monotone convolutional gradient network: `ConvGradNet` with a nondecreasing σ, the gradient of a convex function.

    Equivalent to: `ConvGradNet`; a learnable activation has its weights passed through softplus.

    Args, Shapes, Raises: as `ConvGradNet`.

    Source: as `ConvGradNet`.

    >>> mConvGradNet(in_channels=1, channels=4, kernel_size=(3, 3), activation="softplus").monotone
    True
    """

    monotone = True


def centred_filters(K: Tensor) -> Tensor:
    """Return each filter minus its mean over channels and taps."""
    return K - K.mean(tuple(range(1, K.dim())), keepdim=True)


def _largest(K: Tensor) -> Tensor:
    """The largest magnitude in each filter, (C,)."""
    return K.flatten(1).abs().amax(1)


def _at_least_one(kept: Tensor) -> Tensor:
    """The mask, or where it has nothing the first alone."""
    return kept if kept.any() else torch.arange(len(kept), device=kept.device) == 0


def _sizes(where: str, kernel_size: int | Sequence[int], argument: str) -> tuple[int, ...]:
    """Return the filters' size in each dimension."""
    sizes = tuple(kernel_size) if isinstance(kernel_size, Sequence) else (kernel_size, kernel_size)
    for size in sizes:
        check_positive(where, argument, size)
    if len(sizes) not in (1, 2, 3):
        fix = "pass one size for each dimension of an image, for example (5, 5)"
        raise ValueError(message(where, argument, "one to three sizes", f"{len(sizes)} sizes", fix))
    return sizes


def _stages(
    where: str, stages: Sequence[tuple[int, int | Sequence[int]]], in_channels: int, dimensions: int
) -> list[tuple[int, ...]]:
    """Return the shapes of the stages' filters."""
    shapes: list[tuple[int, ...]] = []
    for stage in stages:
        if not isinstance(stage, Sequence) or len(stage) != 2:
            fix = "pass for example stages=[(4, 5), (8, 5)]"
            raise TypeError(message(where, "stages", "pairs of channels and a filter's size", repr(stage), fix))
        channels, kernel_size = stage
        check_positive(where, "stages", channels)
        each = (kernel_size,) * dimensions if isinstance(kernel_size, int) else kernel_size
        sizes = _sizes(where, each, "stages")
        if len(sizes) != dimensions:
            fix = "use filters of as many dimensions as kernel_size"
            raise ValueError(message(where, "stages", f"filters of {dimensions} dimensions", sizes, fix))
        shapes.append((channels, in_channels, *sizes))
        in_channels = channels
    return shapes
