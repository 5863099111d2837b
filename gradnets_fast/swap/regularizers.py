"""The two published formats of ridge regularisers of images, as networks with their parameters and mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import check_positive, message
from ..functional import ConvRidge, composed
from ..nn import GradNet
from ..nn.base import parameter_of, parameters_of
from ..nn.conv import centred_filters
from ..nn.filter_norm import norm_of

_LEAST_WEIGHT, _LEAST_SCALE = 1e-4, 0.01
_POWER_ITERATIONS, _SIDE = 200, 64


class ConvRidgeRegularizer(GradNet):
    """A regulariser R of images (…, C_in, n₁, n₂) by a composition of convolutions; `forward` is ∇R.

    Shapes: x (…, C_in, n₁, n₂) → ∇R(x) and jvp as x, potential R(x) (…,), for each image.
    """

    family = ConvRidge
    linear = None

    def __init__(self, filters: list[Tensor]) -> None:
        super().__init__()
        self.filters = nn.ParameterList([nn.Parameter(K.detach().clone()) for K in filters])

    def _effective(self) -> ConvRidge:
        raise NotImplementedError(f"{type(self).__name__} does not say what its operator's arguments are")

    @torch.no_grad()
    def lipschitz(self, steps: int = _POWER_ITERATIONS) -> float:
        """Return the norm of Kᵀ diag(the largest slope of each channel) K, by power iteration on an image."""
        steepest = self._largest_slopes()
        coef, shift = steepest[None, None], torch.zeros_like(steepest)
        linear = replace(self._effective(), scale=None, shift=shift, coef=coef, basis="identity", heads=False)
        generator, channels = torch.Generator().manual_seed(0), self.filters[0].shape[1]
        v = torch.randn(1, channels, _SIDE, _SIDE, generator=generator, dtype=torch.float32, device="cpu").to(steepest)
        norm = 1.0
        for _ in range(steps):
            v = linear.value(v)
            norm = float(v.norm())
            if norm == 0.0:
                return norm
            v = v / norm
        return norm

    def _largest_slopes(self) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not say what its slopes are")


class ClippedRidgeRegularizer(ConvRidgeRegularizer):
    """∇R(x) = Kᵀ[(clip(e^β z) − w·clip(z))·e^(−s)]/N, z = e^s K x/N: weakly convex for w = 1, convex for w = 0.

    Equivalent to, for the filters in effect:
        z = (scaling.exp() / N) * conv(x)
        conv_transpose(((beta.exp() * z).clip(-1, 1) - w * z.clip(-1, 1)) * (-scaling).exp()) / N

    N is the norm of the convolutions, of which the first is centred.  With `alpha` and `scale` it is wrapped:
    ∇R̃(x) = e^(α − c) ∇R(e^c x), R̃(x) = e^(α − 2c) R(e^c x).

    Args:
        filters: of each convolution, (C, C_in, k, k).
        scaling: s, (1, C, 1, 1) or (C,).
        beta: β, ().
        weak_convexity: w.
        smooth: tanh in place of clip, whose potential is log cosh.
        alpha, scale: α and c, (), or None.

    Source: Goujon, Neumayer, Unser, "Learning Weakly Convex Regularizers for Convergent Image-Reconstruction
    Algorithms", SIAM Journal on Imaging Sciences, 2024.
    """

    def __init__(
        self,
        filters: list[Tensor],
        scaling: Tensor,
        beta: Tensor,
        weak_convexity: float,
        *,
        smooth: bool = False,
        alpha: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(filters)
        self.scaling = nn.Parameter(scaling.detach().flatten().clone())
        self.beta = nn.Parameter(beta.detach().reshape(()).clone())
        self.weak_convexity, self.smooth = float(weak_convexity), smooth
        self.monotone = weak_convexity == 0
        wrapped = alpha is not None and scale is not None
        self.alpha = nn.Parameter(alpha.detach().reshape(()).clone()) if wrapped and alpha is not None else None
        self.scale = nn.Parameter(scale.detach().reshape(()).clone()) if wrapped and scale is not None else None

    def _effective(self) -> ConvRidge:
        filters = parameters_of(self.filters)
        filters[0] = centred_filters(filters[0])
        s, beta = parameter_of(self, "scaling"), parameter_of(self, "beta")
        network = clipped_network(filters, s, beta, self.weak_convexity, self.smooth)
        if self.alpha is None or self.scale is None:
            return network
        assert network.scale is not None
        assert network.coef is not None
        scale, coef = network.scale * self.scale.exp(), network.coef * (self.alpha - self.scale).exp()
        return replace(network, scale=scale, coef=coef)

    def _largest_slopes(self) -> Tensor:
        slopes = (self.beta.exp() - (self.weak_convexity if self.beta >= 0 else 0.0)).expand_as(self.scaling)
        return slopes if self.alpha is None else slopes * self.alpha.exp()


class SplineRidgeRegularizer(ConvRidgeRegularizer):
    """∇R(x) = Kᵀφ(K x), φ a nondecreasing linear spline of each channel, constant beyond its knots; K centred.

    Equivalent to, for coefficients (C, T) at the knots:
        slopes = coefficients.diff(dim=1).clamp(min=0); slopes[:, [0, -1]] = 0
        values = slopes.cumsum(1) - slopes.cumsum(1)[:, T // 2 - 1]

    Args:
        filters: of each convolution, (C, C_in, k, k).
        coefficients: (C, T).
        radius: r, the knots are uniform on [−r, r].
        weight, scale: λ and μ of `denoised`.

    Source: Goujon, Neumayer, Bohra, Ducotterd, Unser, "A Neural-Network-Based Convex Regularizer for Inverse Problems",
    IEEE Transactions on Computational Imaging, 2023.
    """

    monotone = True

    def __init__(
        self, filters: list[Tensor], coefficients: Tensor, radius: float, weight: Tensor, scale: Tensor
    ) -> None:
        super().__init__(filters)
        self.coefficients = nn.Parameter(coefficients.detach().clone())
        self.radius = float(radius)
        self.weight = nn.Parameter(weight.detach().reshape(()).clone())
        self.scale = nn.Parameter(scale.detach().reshape(()).clone())

    def _effective(self) -> ConvRidge:
        filters = list(map(centred_filters, parameters_of(self.filters)))
        return spline_network(filters, parameter_of(self, "coefficients"), self.radius)

    def _largest_slopes(self) -> Tensor:
        steepest: Tensor = _spline_values(self.coefficients).diff(dim=0).amax(0)
        return steepest * ((self.coefficients.shape[1] - 1) / (2 * self.radius))

    def denoised(self, y: Tensor, steps: int, lipschitz: float | None = None) -> Tensor:
        """Return `steps` steps down ½|x − y|² + (λ/μ) R(μ x) from noisy images y, of y's shape.

        Equivalent to:
            x = y - 2 / (L * mu) * net(mu * y)
            for _ in range(steps - 1):
                x = x - 2 / (1 + L * lam * mu) * ((x - y) + lam * net(mu * x))

        Args:
            y: (…, C_in, n₁, n₂).
            steps: how many, at least 1.
            lipschitz: L, that of `lipschitz()` where None.
        """
        check_positive(f"{type(self).__name__}.denoised", "steps", steps)
        L = self.lipschitz() if lipschitz is None else lipschitz
        weight, scale = self.weight.clamp(min=_LEAST_WEIGHT), self.scale.clamp(min=_LEAST_SCALE)
        x = y - 2 / (L * scale) * self(scale * y)
        for _ in range(steps - 1):
            x = x - 2 / (1 + L * weight * scale) * ((x - y) + weight * self(scale * x))
        denoised: Tensor = x
        return denoised


def clipped_network(filters: list[Tensor], s: Tensor, beta: Tensor, weak_convexity: float, smooth: bool) -> ConvRidge:
    """Return what `ClippedRidgeRegularizer` computes, of filters in effect, unwrapped; s (C,)."""
    scale, weight = (s + beta).exp()[None], (-s).exp()[None]
    if weak_convexity:
        scale, weight = torch.stack([scale[0], s.exp()]), torch.stack([weight[0], -weak_convexity * weight[0]])
    basis, K = "tanh" if smooth else "hardtanh", filters[-1] / norm_of(filters).to(s.dtype)
    return composed([*filters[:-1], K], scale, torch.zeros_like(scale), weight.unsqueeze(1), None, basis, "zeros", True)


def spline_network(filters: list[Tensor], coefficients: Tensor, radius: float) -> ConvRidge:
    """Return what `SplineRidgeRegularizer` computes, of filters in effect; coefficients (C, T)."""
    ones = torch.ones_like(coefficients[:, 0])
    values = _spline_values(coefficients)[None]
    return composed(filters, ones[None] / radius, torch.zeros_like(ones), values, None, "spline", "zeros")


def _spline_values(coefficients: Tensor) -> Tensor:
    """The values of nondecreasing splines at the knots, (T, C)."""
    rises = coefficients.diff(dim=1).clamp(min=0.0)
    inside = torch.ones_like(rises[0])
    inside[0] = inside[-1] = 0.0
    sums = torch.cat([torch.zeros_like(rises[:, :1]), (rises * inside).cumsum(1)], 1)
    return (sums - sums[:, sums.shape[1] // 2, None]).T


def clipped_regularizer(
    where: str, weights: Mapping[str, Tensor], weak_convexity: float | None, smooth: bool
) -> ClippedRidgeRegularizer:
    """Return the network of a state_dict with filters.{i}.…, scaling and beta, perhaps in a wrapper."""
    if weak_convexity is None:
        fix = "pass 1.0 for a weakly convex one, 0.0 for a convex one"
        raise ValueError(message(where, "weak_convexity", "given, for the weights do not tell", "None", fix))
    prefix = "regularizer." if "regularizer.scaling" in weights else ""
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    _require(where, own, "beta")
    filters = _filters(where, own, "filters.{}.parametrizations.weight.original", "filters.{}.weight")
    _require(where, weights, *("alpha", "scale") if prefix else ())
    wrapper = {name: weights[name] for name in ("alpha", "scale") if prefix}
    return ClippedRidgeRegularizer(filters, own["scaling"], own["beta"], weak_convexity, smooth=smooth, **wrapper)


def spline_regularizer(where: str, weights: Mapping[str, Tensor], config: Any) -> SplineRidgeRegularizer:
    """Return the network of a state_dict with conv_layer.conv_layers.{i}.… and activation.coefficients_vect."""
    try:
        settings = config["activation_params"]
        radius, knots = float(settings["knots_range"]), int(settings["n_knots"])
    except (KeyError, TypeError) as error:
        fix = 'pass what the file holds, {"state_dict": …, "config": …}'
        expected = "config with activation_params, knots_range and n_knots beside the weights"
        raise ValueError(message(where, "source", expected, type(config).__name__, fix)) from error
    names = ("conv_layer.conv_layers.{}.parametrizations.weight.original", "conv_layer.conv_layers.{}.weight")
    _require(where, weights, "lmbd", "mu")
    filters, values = _filters(where, weights, *names), weights["activation.coefficients_vect"]
    if values.numel() != len(filters[-1]) * knots:
        expected = f"activation.coefficients_vect of {len(filters[-1])} channels × {knots} knots"
        fix = "check that weights and config are of one network"
        raise ValueError(message(where, "source", expected, f"{values.numel()} values", fix))
    return SplineRidgeRegularizer(filters, values.reshape(-1, knots), radius, weights["lmbd"], weights["mu"])


def _require(where: str, weights: Mapping[str, Tensor], *names: str) -> None:
    """Raise ValueError, naming it, if a name is missing."""
    missing = [name for name in names if name not in weights]
    if missing:
        got, fix = ", ".join(list(weights)[:5]) + ", …", "pass the whole state_dict of the regulariser"
        raise ValueError(message(where, "source", f"{', '.join(missing)} among the weights", got, fix))


def _filters(where: str, weights: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """Return the filters of all convolutions, each under one of the names."""
    if not any(name.format(0) in weights for name in names):
        _require(where, weights, names[-1].format(0))
    found: list[Tensor] = []
    while True:
        here = [weights[name.format(len(found))] for name in names if name.format(len(found)) in weights]
        if not here:
            return found
        found.append(here[0])
