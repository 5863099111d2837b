"""Convex potential flows: densities that gradient maps of strongly convex potentials carry to a simple one.

With z = f(x) = ∇F(x) of base density q,

    log p(x) = log q(f(x)) + log det J(x),        x = f⁻¹(z) for samples z of q.

- `GradientMap`: f as a bijection of torch.distributions, so that it composes with the others there.
- `ConvexPotentialFlow`: several such maps in a row, with exact log-likelihood and samples.

Both use `GradNet.logdet` and `convex.inverse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Transform, TransformedDistribution, constraints

from .convex import inverse
from .errors import message
from .nn import GradNet

__all__ = ["ConvexPotentialFlow", "GradientMap"]


class GradientMap(Transform):
    """The gradient map of a strongly convex potential as a bijection of torch.distributions: y = f(x) on (…, d).

    Equivalent to:
        y = net(x); log_abs_det_jacobian = net.logdet(x); x = gradnets_fast.convex.inverse(net, y).x

    Args:
        net: a monotone network with linear="psd".
        tolerance: of the inverse, as in `gradnets_fast.convex.inverse`.
        cache_size: 1 keeps the last point and its image, so that inverting it takes no work.

    Shapes: x (…, d) → y (…, d), log_abs_det_jacobian (…,).

    Raises:
        TypeError: net is no monotone network of points.
        RuntimeError: an inverse does not converge.

    Source: Huang, Chen, Tsirigotis, Courville, "Convex Potential Flows", arXiv 2012.05942.

    >>> import torch, gradnets_fast
    >>> from torch.distributions import Independent, Normal, TransformedDistribution
    >>> net = gradnets_fast.mGradNetC(2, 3, 16, linear="psd")
    >>> with torch.no_grad():
    ...     _ = net.linear.V.copy_(torch.eye(3))
    >>> base = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    >>> carried = TransformedDistribution(base, [GradientMap(net)])  # the distribution of f(z), z normal
    >>> carried.log_prob(carried.sample((5,))).shape
    torch.Size([5])
    """

    bijective = True
    domain = codomain = constraints.real_vector

    def __init__(self, net: GradNet, tolerance: float | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        _check(type(self).__name__, net)
        self.net, self.tolerance = net, tolerance

    def with_cache(self, cache_size: int = 1) -> GradientMap:
        """Return the same map with another size of its cache."""
        return self if self._cache_size == cache_size else GradientMap(self.net, self.tolerance, cache_size)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log det J(x), (…,)."""
        return self.net.logdet(x)

    def _call(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        return inverse(self.net, y, tolerance=self.tolerance, strict=True).x


class ConvexPotentialFlow(nn.Module):
    """A density that gradient maps, one after the other, carry to a base density.

    Equivalent to, for one map:
        log_prob(x) = base.log_prob(net(x)) + net.logdet(x)

    Args:
        nets: monotone networks with linear="psd", the one that sees the data first.
        base: a distribution of points (d,); by default the standard normal one.
        tolerance: of the inverses, as in `gradnets_fast.convex.inverse`.

    Shapes: x (…, d) → log_prob (…,); sample(shape) (*shape, d).

    Raises:
        TypeError: a network is no monotone network of points.  ValueError: there is none.
        RuntimeError: an inverse does not converge.

    Source: Huang, Chen, Tsirigotis, Courville, "Convex Potential Flows", arXiv 2012.05942.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.mGradNetC(2, 3, 16, linear="psd")
    >>> with torch.no_grad():
    ...     _ = net.linear.V.copy_(torch.eye(3))
    >>> flow = ConvexPotentialFlow([net])
    >>> (-flow.log_prob(torch.randn(100, 3)).mean()).backward()  # the loss of maximum likelihood
    >>> flow.sample((5,)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, nets: Sequence[GradNet], base: Distribution | None = None, tolerance: float | None = None
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if not len(nets):
            raise ValueError(message(where, "nets", "at least one network", "none", "pass [mGradNetC(…)]"))
        for net in nets:
            _check(where, net)
        self.nets = nn.ModuleList(nets)
        self.base, self.tolerance = base, tolerance

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, (…, d), that the maps carry x to, and the log-determinant of the Jacobian of that, (…,)."""
        logarithm = x.new_zeros(x.shape[:-1])
        for net in self.nets:
            logarithm = logarithm + net.logdet(x)  # type: ignore[operator]
            x = net(x)
        return x, logarithm

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (…,)."""
        z, logarithm = self(x)
        result: Tensor = self._density().log_prob(z) + logarithm
        return result

    @torch.no_grad()
    def sample(self, shape: Sequence[int] = ()) -> Tensor:
        """Return independent samples, (*shape, d), by inverting the maps."""
        return self.inverse(self._density().sample(torch.Size(shape)))

    def inverse(self, z: Tensor) -> Tensor:
        """Return the x that the maps carry to z, (…, d), differentiable in z and the parameters."""
        for net in reversed(self.nets):
            z = inverse(net, z, tolerance=self.tolerance, strict=True).x  # type: ignore[arg-type]
        return z

    def distribution(self) -> TransformedDistribution:
        """Return p as a distribution of torch.distributions, on the same networks."""
        maps = [GradientMap(net, self.tolerance).inv for net in reversed(self.nets)]  # type: ignore[arg-type]
        return TransformedDistribution(self._density(), maps)

    def _density(self) -> Any:
        """Return the base distribution."""
        if self.base is not None:
            return self.base
        first: Any = self.nets[0]
        zero = next(first.parameters()).new_zeros(first.in_dim)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)


def _check(where: str, net: object) -> None:
    """Raise TypeError unless it is a monotone network of points."""
    if not isinstance(net, GradNet) or not net.monotone or net.point_dimensions != 1:
        fix = 'use for example mGradNetC(4, d, 32, linear="psd")'
        raise TypeError(message(where, "net", "a monotone gradient network of points", type(net).__name__, fix))
