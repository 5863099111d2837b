"""A start whose Jacobian has the same size for every number of hidden units."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ..errors import check_tensor, message
from ..functional import PLAIN_TYPES
from .base import GradNet, inverse_softplus

__all__ = ["init_unit_scale_"]

_NUMBERS, _FEWEST = 2**14, 64
"""How many coordinates all points have together, and how many points there are at least."""
_ROUNDS, _TOLERANCE, _FARTHEST = 60, 1e-4, 1e4
"""Of the search for a factor: its steps, the relative error that ends it, and the largest factor of a step."""


@torch.no_grad()
def init_unit_scale_(net: GradNet, x: Tensor | None = None, *, generator: Generator | None = None) -> None:
    """Scales one parameter so that the mean square of the Jacobian's singular values is 1, in place.

    By default f grows with h, the number of hidden units, of mGradNetC and mRidgeGradNet in proportion; these are what
    it is for.  The Jacobian of GradNetC begins below 1, and training may end higher from 1.

    Here t is found such that with the parameter θ replaced by tθ

        E |J(x) v|² = E |v|²,    x and v standard normal,

    which is E |J|_F² = d, and means that a small change of x leaves f as large as it was.  The trace will not do in its
    place: where f need not be monotone, its mean may be 0.  θ is what f is linear in, if there is such a parameter, so
    that the hidden units stay as drawn:

        GradNetC, mGradNetC: α_{L−1};   GradNetM, mGradNetM: α;   DeepGradNet, mDeepGradNet: c;
        RidgeGradNet, mRidgeGradNet: W;   ConvGradNet, mConvGradNet: K,

    in monotone networks the softplus of the first three.  The linear part counts in J, and is left as it is.

    Args:
        net: a network of points or of images, on one rank.
        x: points or images of its own distribution in place of standard normal points; of images they must be given,
            for a network knows no size of them.
        generator: what draws points and directions v; None is PyTorch's own.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix; also where no t is found, because
            J is 0, not finite, or too large by its linear part alone.

    Source: Pennington, Schoenholz, Ganguli, "Resurrecting the sigmoid in deep learning through dynamical isometry",
    NeurIPS 2017, for the mean square; Mishkin, Matas, "All you need is a good init", ICLR 2016, for measuring it.

    >>> import torch, gradnets_fast
    >>> x, v = torch.randn(2, 4000, 2)
    >>> for h in (16, 1024):
    ...     net = gradnets_fast.mGradNetC(4, 2, h)
    ...     gradnets_fast.init_unit_scale_(net)
    ...     print(round((net.jvp(x, v).square().mean() / v.square().mean()).item()))
    1
    1
    """
    where = "init_unit_scale_"
    name = _scaled_parameter(where, net)
    exact, points = copy.deepcopy(net).double(), _points(where, net, x, generator)
    device = None if generator is None else generator.device
    v = torch.randn(points.shape, dtype=torch.float64, generator=generator, device=device).to(points.device)
    parameter, positive = exact.get_parameter(name), net.monotone and name not in ("W", "K")
    drawn = nn.functional.softplus(parameter) if positive else parameter.clone()

    def size(t: float) -> float:
        parameter.copy_(inverse_softplus(t * drawn) if positive else t * drawn)
        return float((exact.jvp(points, v).square().mean() / v.square().mean()).sqrt())

    _solve(where, type(net).__name__, name, size)
    net.get_parameter(name).copy_(parameter)


def _solve(where: str, network: str, name: str, size: Callable[[float], float]) -> None:
    """Calls `size` at last with t where it is 1, by the secant of its logarithm within a bracket."""
    low, high, t, power = 0.0, math.inf, 1.0, 1.0
    before = None
    for _ in range(_ROUNDS):
        now = size(t)
        if abs(now - 1) <= _TOLERANCE:
            return
        low, high = (t, high) if now < 1 else (low, t)
        has_slope = 0 < now < math.inf
        if before is not None and has_slope:
            rise = math.log(now / before[1]) / math.log(t / before[0])
            power = rise if rise > 0 else 1.0
        before = (t, now) if has_slope else None
        factor = math.exp(min(-math.log(now) / power, 700.0)) if has_slope else 0.0 if now != 0 else math.inf
        t *= min(max(factor, 1 / _FARTHEST), _FARTHEST)
        if not low < t < high:
            t = math.sqrt(low * high)
    got = f"one of size {now:.3g} as {name} is scaled by {t:.3g}"
    fix = (
        "choose another activation, transform or width, or draw a smaller linear part by net.linear.reset_parameters()"
    )
    raise ValueError(message(where, "net", f"a Jacobian of {network} that {name} brings to size 1", got, fix))


def _scaled_parameter(where: str, net: object) -> str:
    """The name of what is scaled; raises unless it is a parameter of a network that is whole on this rank."""
    if not isinstance(net, GradNet):
        fix = "use a network such as mGradNetC, or initialise the network within"
        raise TypeError(message(where, "net", "a gradient network", type(net).__name__, fix))
    if net.mesh is not None or any(type(p) not in PLAIN_TYPES for p in net.parameters()):
        fix = "initialise before dividing it among ranks"
        raise ValueError(message(where, "net", "parameters that are whole on this rank", "distributed ones", fix))
    if getattr(net, "normalized", False):
        fix = "nothing needs to be done: divided by their norm, the filters have unit scale"
        raise ValueError(message(where, "net", "filters that can be scaled", "normalized=True", fix))
    name = net.outer_coefficients() or next((name for name in ("alpha", "W", "K") if hasattr(net, name)), None)
    if name is None:
        fix = "scale the parameters that it is computed from"
        raise TypeError(message(where, "net", "a network of this package", type(net).__name__, fix))
    if name not in dict(net.named_parameters()):
        fix = "initialise before torch.nn.utils.parametrize, weight_norm or prune"
        raise ValueError(message(where, f"net.{name}", "a parameter", "one that is computed from others", fix))
    return name


def _points(where: str, net: GradNet, x: Tensor | None, generator: Generator | None) -> Tensor:
    """Where the Jacobian is measured, in float64."""
    like = next(net.parameters())
    if x is not None:
        check_tensor(where, "x", x)
        if not x.numel() or not x.isfinite().all():
            got = "none" if not x.numel() else "others"
            raise ValueError(message(where, "x", "finite numbers", got, "pass some points, without NaN"))
        return x.double()
    if net.point_dimensions != 1:
        got, fix = "None", "pass a batch of images such as it will be trained on"
        raise ValueError(message(where, "x", f"images for a {type(net).__name__}", got, fix))
    d = int(net.in_dim)  # type: ignore[arg-type]
    device = None if generator is None else generator.device
    shape = (max(_FEWEST, _NUMBERS // d), d)
    return torch.randn(shape, dtype=torch.float64, generator=generator, device=device).to(like.device)
