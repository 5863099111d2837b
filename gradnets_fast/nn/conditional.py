"""Conditional networks: gradients in x of a potential that depends on a context c too, such as a noise level."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_like, check_tensor, message
from ..functional import ConvRidge
from .base import GradNet, check_sizes
from .cascade import GradNetC
from .conv import ConvGradNet
from .modular import GradNetM
from .ridge import RidgeGradNet


class Conditional(nn.Module):
    """The gradient in x alone of a network of points (x, c): for each context c a gradient network of x.

    Every hidden unit of the network sees W x + V c, so that the context shifts it.

    Equivalent to:
        net(torch.cat([x, c], -1))[..., :-context_dim]

    Args:
        net: a network of points with d + p coordinates; a monotone one has a potential that is convex in x and c.
        context_dim: p.

    Shapes: x (…, d), c (…, p) with leading dimensions that broadcast to those of x → forward and jvp (…, d), potential
        and divergence (…,), jacobian (…, d, d).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Amos, Xu, Kolter, "Input Convex Neural Networks", ICML 2017, section 3; Bunne, Krause, Cuturi, "Supervised
    Training of Conditional Monge Maps", NeurIPS 2022.

    >>> import torch, gradnets_fast
    >>> net = Conditional(gradnets_fast.mGradNetC(num_layers=2, in_dim=2 + 1, embed_dim=8), context_dim=1)
    >>> x, c = torch.randn(5, 2), torch.tensor([0.1])
    >>> net(x, c).shape, net.potential(x, c).shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(self, net: GradNet, context_dim: int) -> None:
        super().__init__()
        where = type(self).__name__
        in_dim = getattr(net, "in_dim", None)
        if not isinstance(net, GradNet) or not isinstance(in_dim, int):
            fix = "pass for example mGradNetC(num_layers, in_dim=d + context_dim, embed_dim=64)"
            raise TypeError(message(where, "net", "a gradient network of points", type(net).__name__, fix))
        check_sizes(where, context_dim=context_dim)
        if context_dim >= in_dim:
            fix = "make the network with in_dim=d + context_dim"
            raise ValueError(
                message(where, "context_dim", f"less than in_dim={in_dim} of the network", context_dim, fix)
            )
        self.net, self.context_dim, self.monotone = net, context_dim, net.monotone

    @property
    def in_dim(self) -> int:
        """The dimension d of x."""
        joint: Any = self.net
        d: int = joint.in_dim - self.context_dim
        return d

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return f(x; c), the gradient of the potential in x, (…, d)."""
        f: Tensor = self.net(self._joint(x, c))
        return f[..., : self.in_dim]

    def potential(self, x: Tensor, c: Tensor) -> Tensor:
        """Return F(x; c), (…,), the network's own at (x, c): its gradient in c counts too, and F(0; 0) = 0."""
        return self.net.potential(self._joint(x, c))

    def value_and_gradient(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return F(x; c), (…,), and f(x; c), (…, d)."""
        F, f = self.net.value_and_gradient(self._joint(x, c))
        return F, f[..., : self.in_dim]

    def jvp(self, x: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """Return J v, (…, d), J the Jacobian in x alone, which is symmetric."""
        joint = self._joint(x, c)
        check_like(type(self).__name__, "v", v, tuple(x.shape), "(…) of x", x)
        direction = torch.nn.functional.pad(v, (0, self.context_dim))
        return self.net.jvp(joint, direction)[..., : self.in_dim]

    def divergence(self, x: Tensor, c: Tensor) -> Tensor:
        """Return tr J, (…,): the divergence in x and c, less the p derivatives of the gradient in c by c."""
        joint = self._joint(x, c)
        units = torch.eye(joint.shape[-1], dtype=joint.dtype, device=joint.device)[self.in_dim :]
        directions = units.view(-1, *[1] * (joint.dim() - 1), joint.shape[-1])
        products = self.net.jvp(joint.expand(len(units), *joint.shape), directions.expand(-1, *joint.shape))
        return self.net.divergence(joint) - (products * directions).sum(-1).sum(0)

    def jacobian(self, x: Tensor, c: Tensor) -> Tensor:
        """Return J, (…, d, d)."""
        d = self.in_dim
        return self.net.jacobian(self._joint(x, c))[..., :d, :d]

    @torch.no_grad()
    def at(self, c: Tensor) -> GradNet:
        """Return the network of x alone for one context: a copy, whose potential differs from F(x; c) by a constant.

        `gradnets_fast.convex` inverts such a network and bounds its Jacobian, and `gradnets_fast.export` prints it.

        Equivalent to: a network of the same class with d coordinates, and for a cascade
            W, b = net.W[:, :d], [b + net.W[:, d:] @ c for b in net.bias[:-1]]

        Args:
            c: (p,).

        Raises:
            TypeError, ValueError: another c, or a network that is no `RidgeGradNet`, `GradNetC` or `GradNetM`.

        Source: none; it is the definition.

        >>> import torch, gradnets_fast
        >>> net = Conditional(gradnets_fast.mGradNetC(num_layers=2, in_dim=2 + 1, embed_dim=8), context_dim=1)
        >>> x, c = torch.randn(5, 2), torch.tensor([0.1])
        >>> torch.testing.assert_close(net.at(c)(x), net(x, c))
        """
        where, d = f"{type(self).__name__}.at", self.in_dim
        fixed: Any = copy.deepcopy(self.net)
        if not isinstance(fixed, (RidgeGradNet, GradNetC, GradNetM)):
            kinds = "a RidgeGradNet, GradNetC or GradNetM, or their monotone kin"
            fix = "pass x and c to the network itself"
            raise TypeError(message(where, "net", kinds, type(fixed).__name__, fix))
        weights: Any = fixed.mmgn_modules if isinstance(fixed, GradNetM) else fixed
        W: Tensor = weights.W
        check_like(where, "c", c, (self.context_dim,), "(context_dim,)", W)
        *offsets, bias = fixed.bias if isinstance(fixed, GradNetC) else (weights.b, fixed.bias)
        for offset in offsets:
            offset.add_(W[..., d:] @ c)
        linear: Any = fixed.linear
        if linear is not None:
            matrix = linear.matrix()
            bias[:d].add_(matrix[:d, d:] @ c)
            if linear.kind == "psd":
                exact = linear.V[:, :d].to(torch.promote_types(W.dtype, torch.float32))
                linear.V.data = torch.linalg.qr(exact).R.to(W.dtype)  # RᵀR is VᵀV of these columns
            else:
                linear.S.data = matrix[:d, :d].clone()
        W.data, bias.data, fixed.in_dim = W.data[..., :d].clone(), bias.data[:d].clone(), d
        alone: GradNet = fixed
        return alone

    def _joint(self, x: Tensor, c: Tensor) -> Tensor:
        where, d, p = type(self).__name__, self.in_dim, self.context_dim
        _check_alike(where, x, c)
        for argument, tensor, size in (("x", x, d), ("c", c, p)):
            if not tensor.dim() or tensor.shape[-1] != size:
                fix = f"the network takes x (…, {d}) and c (…, {p})"
                raise ValueError(message(where, argument, f"shape (…, {size})", f"shape {tuple(tensor.shape)}", fix))
        try:
            context = c.expand(*x.shape[:-1], p)
        except RuntimeError as error:
            fix, got = "pass one context for each point, or one for all", f"shape {tuple(c.shape)}"
            expected = f"leading dimensions that broadcast to {tuple(x.shape[:-1])}"
            raise ValueError(message(where, "c", expected, got, fix)) from error
        return torch.cat([x, context], -1)


class ConditionalConv(nn.Module):
    """A convolutional network whose channels a context c stretches and shifts: f(x; c) = Kᵀσ(β(c) ⊙ K∗x + s(c)) + bias.

    β(c) = exp(A c) and s(c) = S c + b, so that it is the network itself where A and S are 0, as they are at first.
    Images with contexts of their own take a call of the kernels each.

    Equivalent to, for pictures, filters of odd sizes, zeros and no stages:
        beta, shift = (c @ A.T).exp()[..., None, None], (c @ S.T + net.b)[..., None, None]
        z = sigma(beta * torch.nn.functional.conv2d(x, net.K, padding="same") + shift)
        torch.nn.functional.conv_transpose2d(z, net.K, net.bias, padding=(K.shape[-2] // 2, K.shape[-1] // 2))

    Args:
        net: the network; a monotone one stays monotone.
        context_dim: p.

    Shapes: x (…, C_in, n_1, …, n_s), c (…, p), one for all images or one for each → forward and jvp as x, potential and
        divergence (…,).  There is no jacobian, as `ConvGradNet` says.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Goujon, Neumayer, Unser, "Learning Weakly Convex Regularizers for Convergent Image-Reconstruction
    Algorithms", SIAM Journal on Imaging Sciences, 2024, whose profiles depend so on the noise level.

    >>> import torch, gradnets_fast
    >>> net = ConditionalConv(gradnets_fast.ConvGradNet(1, 8, 5), context_dim=1)
    >>> x, sigma = torch.zeros(4, 1, 20, 30), torch.full((4, 1), 0.1)
    >>> net(x, sigma).shape, net.potential(x, sigma).shape
    (torch.Size([4, 1, 20, 30]), torch.Size([4]))
    """

    def __init__(self, net: ConvGradNet, context_dim: int) -> None:
        super().__init__()
        where = type(self).__name__
        if not isinstance(net, ConvGradNet):
            fix = "pass for example ConvGradNet(1, 32, 7), or use Conditional for networks of points"
            raise TypeError(message(where, "net", "a convolutional network", type(net).__name__, fix))
        check_sizes(where, context_dim=context_dim)
        self.net, self.context_dim, self.monotone = net, context_dim, net.monotone
        self.A = nn.Parameter(net.b.new_zeros(net.channels, context_dim))
        self.S = nn.Parameter(net.b.new_zeros(net.channels, context_dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Return f(x; c), of x's shape."""
        return self._each("value", c, x)

    def potential(self, x: Tensor, c: Tensor) -> Tensor:
        """Return F(x; c), (…,), with F(0; c) = 0."""
        return self._each("potential", c, x)

    def value_and_gradient(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return F(x; c), (…,), and f(x; c), of x's shape."""
        return self.potential(x, c), self(x, c)

    def jvp(self, x: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """Return J v, of x's shape, J the Jacobian in x, which is symmetric."""
        return self._each("jvp", c, x, v)

    def divergence(self, x: Tensor, c: Tensor) -> Tensor:
        """Return tr J, (…,)."""
        return self._each("divergence", c, x)

    def _each(self, quantity: str, c: Tensor, *points: Tensor) -> Tensor:
        where, network, x = type(self).__name__, self.net._current(), points[0]
        assert isinstance(network, ConvRidge)
        _check_alike(where, x, c)
        for v in points[1:]:
            check_like(where, "v", v, tuple(x.shape), "(…) of x", x)
        leading, p = x.shape[: 1 - network.W.dim()], self.context_dim
        if not c.dim() or c.shape[-1] != p or (c.numel() != p and c.shape[:-1] != leading):
            expected, fix = f"shape {(p,)} or {(*leading, p)}", "pass one context for all images, or one for each"
            raise ValueError(message(where, "c", expected, f"shape {tuple(c.shape)}", fix))
        of_channels = [(c.to(matrix.dtype) @ matrix.T).reshape(-1, len(network.W)) for matrix in (self.A, self.S)]
        gain, offset = of_channels[0].exp(), of_channels[1]
        if len(gain) <= 1:
            whole: Tensor = getattr(_stretched(network, gain.sum(0), offset.sum(0)), quantity)(*points)
            return whole
        network = network.prepared(quantity, x)
        images = [point.reshape(-1, 1, *point.shape[len(leading) :]) for point in points]
        of_each = [
            getattr(_stretched(network, gain[i], offset[i]), quantity)(*(image[i] for image in images))
            for i in range(len(gain))
        ]
        result = torch.cat(of_each)
        return result.reshape(*leading, *result.shape[1:])


def _check_alike(where: str, x: Tensor, c: Tensor) -> None:
    """Raise TypeError unless x and c are tensors of one dtype on one device."""
    check_tensor(where, "x", x)
    check_tensor(where, "c", c)
    if (c.dtype, c.device) != (x.dtype, x.device):
        expected, got = (f"{t.dtype} on {t.device}" for t in (x, c))
        raise TypeError(message(where, "c", f"{expected} like x", got, "pass c.to(x)"))


def _stretched(network: ConvRidge, gain: Tensor, offset: Tensor) -> ConvRidge:
    """Return the network of φ(gain·u + offset) for the functions φ of this one."""
    shift = network.shift.reshape(-1, len(network.W))
    scale = torch.ones_like(shift) if network.scale is None else network.scale
    return replace(network, scale=scale * gain, shift=shift + scale * offset)
