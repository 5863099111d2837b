"""Potentials of images for deepinv: an explicit prior and a gradient-step denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..convex import proximal_map
from ..errors import check_positive, message
from ..nn import GradNet
from ._optional import require

_Denoiser: Any = require("gradnets_fast.interop", "deepinv.models").Denoiser
_Prior: Any = require("gradnets_fast.interop", "deepinv.optim").Prior


class _ImagePotential(torch.nn.Module):
    """A network's potential of whole images, or its sum over their patches, with its gradient and Hessian."""

    def __init__(self, where: str, net: GradNet, patch_size: int | None, stride: int) -> None:
        super().__init__()
        if patch_size is not None:
            check_positive(where, "patch_size", patch_size)
            check_positive(where, "stride", stride)
            if stride > patch_size:
                fix = "take 1 for every patch, or patch_size for disjoint ones"
                raise ValueError(message(where, "stride", f"at most patch_size = {patch_size}", stride, fix))
        self.where, self.net, self.patch_size, self.stride = where, net, patch_size, stride
        self.takes_images = net.operator_name == "conv_ridge"
        if self.takes_images and patch_size is not None:
            fix = "leave it out: the network takes whole images"
            raise ValueError(message(where, "patch_size", "None for convolutions", patch_size, fix))

    def forward(self, x: Tensor) -> Tensor:
        """F(x), (B,)."""
        if self.takes_images:
            return self.net.potential(x)
        return self.net.potential(self._points(x)).sum(1)

    def gradient(self, x: Tensor) -> Tensor:
        """∇F(x), of x's shape."""
        if self.takes_images:
            of_image: Tensor = self.net(x)
            return of_image
        return self._image(self.net(self._points(x)), x.shape)

    def hessian(self, x: Tensor, v: Tensor) -> Tensor:
        """∇²F(x) v, of x's shape."""
        if self.takes_images:
            return self.net.jvp(x, v)
        return self._image(self.net.jvp(self._points(x), self._points(v)), x.shape)

    def _points(self, x: Tensor) -> Tensor:
        """The points of each image that the network is applied to, (B, number of points, d)."""
        if self.patch_size is None:
            return x.flatten(1).unsqueeze(1)
        self._check_cover(x)
        return F.unfold(x, self.patch_size, stride=self.stride).mT

    def _image(self, points: Tensor, shape: torch.Size) -> Tensor:
        """The transpose of the linear map `_points`."""
        if self.patch_size is None:
            return points.reshape(shape)
        return F.fold(points.mT, shape[-2:], self.patch_size, stride=self.stride)

    def _check_cover(self, x: Tensor) -> None:
        """Raise unless x has four dimensions and the patches cover it."""
        assert self.patch_size is not None
        if x.dim() != 4:
            fix = "add the missing dimensions, or leave patch_size out"
            raise ValueError(message(self.where, "x", "shape (B, C, H, W)", f"shape {tuple(x.shape)}", fix))
        if any(side < self.patch_size or (side - self.patch_size) % self.stride for side in x.shape[-2:]):
            expected = f"sides of {self.patch_size} + a multiple of {self.stride}, for patches to cover it"
            fix = "crop or pad x, or take stride=1"
            raise ValueError(message(self.where, "x", expected, f"shape {tuple(x.shape)}", fix))

    def extra_repr(self) -> str:
        return "" if self.patch_size is None else f"patch_size={self.patch_size}, stride={self.stride}"


class _GradientMap(torch.nn.Module):
    """The gradient of a potential of images as a network, whose jvp is the Hessian's product."""

    def __init__(self, potential: _ImagePotential) -> None:
        super().__init__()
        self.potential, self.jvp = potential, potential.hessian

    def forward(self, x: Tensor) -> Tensor:
        """∇F(x), of x's shape."""
        return self.potential.gradient(x)


class GradNetPrior(_Prior):  # type: ignore[misc]
    """A network's potential as an explicit prior of deepinv: F of the image, or summed over its patches.

    Equivalent to, with patches:
        patches = torch.nn.functional.unfold(x, patch_size, stride=stride).mT  # (B, patches, C·patch_size²)
        net.potential(patches).sum(1)

    Args:
        net: the network ∇F; d is C·H·W, or C·patch_size² with patches; convolutional networks take images as they are.
        patch_size: the side of the square patches; None for the whole image.
        stride: the distance between patches: 1 for every patch, patch_size for disjoint ones.

    Shapes: x (B, C, H, W) → fn (B,), grad and prox (B, C, H, W); without patches any (B, …) of d numbers a sample.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix; ImportError without deepinv.

    With deepinv:
        prior = GradNetPrior(mGradNetC(3, in_dim=16, embed_dim=64), patch_size=4)
        model = deepinv.optim.PGD(prior=prior, data_fidelity=deepinv.optim.L2(), lambda_reg=0.1, stepsize=1.0)
        x = model(y, physics)
    """

    def __init__(self, net: GradNet, *, patch_size: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.explicit_prior = True
        self.potential = _ImagePotential(type(self).__name__, net, patch_size, stride)

    def fn(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """F(x), (B,); a prior's further arguments, such as a noise level, are not used."""
        value: Tensor = self.potential(x)
        return value

    def grad(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """∇F(x), of x's shape: one evaluation of the network, without autograd."""
        return self.potential.gradient(x)

    def prox(
        self,
        x: Tensor,
        *args: Any,
        gamma: float | Tensor = 1.0,
        tol_inter: float | None = None,
        max_iter_inter: int = 50,
        **kwargs: Any,
    ) -> Tensor:
        """argmin_u ½|u − x|² + γF(u), of x's shape, differentiable in x, γ and the network's parameters.

        For a monotone network by Newton's method, which needs no `stepsize_inter`; for others by deepinv's gradient
        descent, which converges for a γ and a stepsize that are small enough.

        Args:
            x: (B, …).
            gamma: γ ≥ 0, a number or a tensor that broadcasts against x.
            tol_inter: the error of a sample, relative to the larger of |x| and |γ∇F(x)|; None for 32 units of rounding.
            max_iter_inter: the most steps of Newton's method.
        """
        potential = self.potential
        tolerance = 32 * torch.finfo(x.dtype).eps if tol_inter is None else tol_inter
        if potential.net.monotone:
            return proximal_map(_GradientMap(potential), x, gamma, tolerance, max_iter_inter)
        inner = {"gamma": gamma, "tol_inter": tolerance, "max_iter_inter": max_iter_inter}
        descended: Tensor = super().prox(x, *args, **inner, **kwargs)
        return descended


class GradientStepDenoiser(_Denoiser):  # type: ignore[misc]
    """A denoiser of deepinv that takes one step down a potential: D(x, σ) = x − σ²∇F(x).

    By Tweedie's formula this is the best denoiser of Gaussian noise when exp(−F) is the density of the noisy images.
    So deepinv.optim.ScorePrior has the gradient ∇F for every σ, and deepinv.optim.RED the gradient σ²∇F, that of
    `potential`; with σ = 1 it is x − ∇F(x).

    Equivalent to, for whole images:
        x - sigma**2 * net(x.flatten(1)).view_as(x)

    Args:
        net, patch_size, stride: as in `GradNetPrior`.

    Shapes: x (B, C, H, W), sigma a number or (B,) → forward and potential_grad (B, C, H, W), potential (B,).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix; ImportError without deepinv.

    Source: Hurault, Leclaire, Papadakis, "Gradient Step Denoiser for convergent Plug-and-Play", arXiv 2110.03220.

    With deepinv:
        prior = deepinv.optim.PnP(GradientStepDenoiser(net))
        model = deepinv.optim.PGD(prior=prior, data_fidelity=deepinv.optim.L2(), sigma_denoiser=0.1, stepsize=1.0)
    """

    def __init__(self, net: GradNet, *, patch_size: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self._potential = _ImagePotential(type(self).__name__, net, patch_size, stride)

    def forward(self, x: Tensor, sigma: float | Tensor, **kwargs: Any) -> Tensor:
        """x − σ²∇F(x), of x's shape."""
        return x - self.potential_grad(x, sigma)

    def potential(self, x: Tensor, sigma: float | Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """σ²F(x), (B,)."""
        value: Tensor = self._potential(x)
        return self._variance(x, sigma).flatten() * value

    def potential_grad(self, x: Tensor, sigma: float | Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """σ²∇F(x), of x's shape."""
        return self._variance(x, sigma) * self._potential.gradient(x)

    def _variance(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """σ² for each image, (B, 1, …)."""
        level: Tensor = self._handle_sigma(sigma, reference_tensor=x)
        return level.square()
