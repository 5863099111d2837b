"""The inverse of a gradient map, the conjugate of its potential, and its proximal map."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import check_positive, check_tensor, message
from ..nn import GradNet
from ._bounds import strong_convexity_bound
from ._equation import LARGEST_DENSE, Equation, root
from ._newton import Outcome, Progress, newton


class Solution(NamedTuple):
    """Points that solve an equation for each sample, and how far the method came.

    Attributes:
        x: the points, of the shape of what was given; differentiable any number of times.
        converged: for each sample whether it is solved to the tolerance, (…,), bool.
        iterations: the steps that it took, (…,), int64.
        residual: the length of what is left of its equation, (…,).

    >>> import torch, gradnets_fast
    >>> found = prox(gradnets_fast.mGradNetC(2, 3, 8), torch.zeros(5, 3))
    >>> found.x.shape, found.converged.shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    x: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


class Conjugate(NamedTuple):
    """Values of a convex conjugate, with its gradient, which is the inverse of the map.

    Attributes:
        value: F*(y), (…,).
        gradient: ∇F*(y), of y's shape.
        converged, iterations, residual: as in `Solution`.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.mRidgeGradNet(2, 2, "identity", linear="psd")
    >>> conjugate(net, torch.ones(5, 2)).value.shape
    torch.Size([5])
    """

    value: Tensor
    gradient: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


def inverse(
    net: GradNet,
    y: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iter: int = 50,
    method: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Solution:
    """Invert a monotone gradient map: the points x with f(x) = y, by Newton's method with damped steps.

    Equivalent to, for a strongly convex potential:
        argmin_x net.potential(x) - (x * y).sum()  # for each sample

    Args:
        net: a monotone network.  Its inverse exists everywhere if its potential is strongly convex, which a linear part
            makes it; a warning says so where no bound above 0 is known.
        y: values of the map, (…, d); for convolutional networks images.
        start: where the method begins, of y's shape; by default y or 0, whichever is nearer to a solution.
        tolerance: a sample has converged when |f(x) − y| is at most this times the larger of |y| and |f(start) − y|, or
            when a step, which is about the error of x, is at most this times |x|.  By default 32 units of rounding.
        max_iter: the most steps.
        method: "newton", which makes and factors Jacobians, or "cg", which takes products with them alone, by conjugate
            gradients; by default the former up to d = 128.
        strict: raise where a sample has not converged.
        progress: called after each step with its number, how many samples are left, and their largest residual.

    Returns:
        A `Solution`.  Its x is differentiable in y and the parameters of the network, any number of times, by the
        implicit function theorem: dx = J⁻¹(dy − ∂_θ f dθ).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.
        RuntimeError: with strict, where a sample has not converged.

    Source: Nocedal, Wright, "Numerical Optimization", 2nd edition, sections 3.3 and 7.1.

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(2, 3, 8, linear="psd", dtype=torch.float64), torch.zeros(5, 3).double()
    >>> with torch.no_grad():
    ...     _ = net.linear.V.copy_(torch.eye(3))
    >>> found = inverse(net, net(x))
    >>> found.converged.all().item(), torch.allclose(found.x, x, atol=1e-9)
    (True, True)
    """
    _check_exists("inverse", net)
    return _solved("inverse", net, None, y, start, tolerance, max_iter, method, strict, progress)


def conjugate(
    net: GradNet,
    y: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iter: int = 50,
    method: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Conjugate:
    """Convex conjugate of the potential: F*(y) = max_x <x, y> − F(x), with its gradient x, the inverse of the map.

    Equivalent to:
        x = inverse(net, y).x
        (x * y).sum(-1) - net.potential(x)

    Args:
        net, y, start, tolerance, max_iter, method, strict, progress: as in `inverse`.

    Returns:
        A `Conjugate`, value and gradient of which are differentiable in y and the parameters of the network.

    Raises:
        TypeError, ValueError, RuntimeError: as `inverse`.

    Source: Rockafellar, "Convex Analysis", theorem 23.5: x ∈ ∂F*(y) if and only if y ∈ ∂F(x).

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.mRidgeGradNet(2, 2, "identity", linear="psd")
    >>> with torch.no_grad():
    ...     for parameter in net.parameters():
    ...         _ = parameter.zero_()
    ...     _ = net.linear.V.copy_(torch.eye(2))
    >>> conjugate(net, torch.tensor([3.0, 4.0])).value  # of |x|²/2, which is its own conjugate
    tensor(12.5000, grad_fn=<SubBackward0>)
    """
    _check_exists("conjugate", net)
    found = _solved("conjugate", net, None, y, start, tolerance, max_iter, method, strict, progress)
    inner = (found.x * y).flatten(y.dim() - net.point_dimensions).sum(-1)
    return Conjugate(inner - net.potential(found.x), *found)


def prox(
    net: GradNet,
    x: Tensor,
    gamma: float | Tensor = 1.0,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iter: int = 50,
    method: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Solution:
    """Proximal map of the potential: argmin_z ½|z − x|² + γF(z), the z with z + γf(z) = x, by Newton's method.

    Equivalent to:
        inverse of z ↦ z + gamma * net(z) at x

    Args:
        net: a monotone network.
        x: points, (…, d); for convolutional networks images.
        gamma: γ >= 0, a number, or one for each sample, (…,).
        start: where the method begins, of x's shape; by default x or 0, whichever is nearer to a solution.
        tolerance, max_iter, method, strict, progress: as `inverse`.

    Returns:
        A `Solution`.  Its x is differentiable in x, γ and the parameters of the network, any number of times.

    Raises:
        TypeError, ValueError, RuntimeError: as `inverse`.

    Source: Parikh, Boyd, "Proximal Algorithms", Foundations and Trends in Optimization, 2014, equation (1.1).

    >>> import torch, gradnets_fast
    >>> net, x = gradnets_fast.mGradNetC(2, 3, 8), torch.randn(5, 3)
    >>> z = prox(net, x, gamma=0.5).x
    >>> torch.allclose(z + 0.5 * net(z), x, atol=1e-5)
    True
    """
    _check_monotone("prox", net)
    check_tensor("prox", "x", x)
    leading = x.shape[: x.dim() - net.point_dimensions]
    of_each = torch.as_tensor(gamma, dtype=x.dtype, device=x.device)
    if of_each.dim() and of_each.shape != leading:
        fix = "pass one number, or one for each sample"
        raise ValueError(
            message("prox", "gamma", f"shape () or {tuple(leading)}", f"shape {tuple(of_each.shape)}", fix)
        )
    if not bool((of_each >= 0).all()):
        raise ValueError(message("prox", "gamma", "0 or more", f"{float(of_each.min())}", "pass a step of at least 0"))
    return _solved("prox", net, of_each.expand(leading), x, start, tolerance, max_iter, method, strict, progress)


def _solved(
    where: str,
    net: GradNet,
    gamma: Tensor | None,
    t: Tensor,
    start: Tensor | None,
    tolerance: float | None,
    max_iter: int,
    method: str | None,
    strict: bool,
    progress: Progress | None,
) -> Solution:
    """Return the solution of f(x) = t, or of x + γ f(x) = t, and its derivatives."""
    dimensions = net.point_dimensions
    is_dense = _check_options(where, t, start, tolerance, max_iter, method, dimensions)
    tolerance = 32 * torch.finfo(t.dtype).eps if tolerance is None else tolerance
    leading = t.shape[: t.dim() - dimensions]
    rows = t.reshape(-1, *t.shape[len(leading) :])
    of_rows = None if gamma is None else gamma.reshape(-1, *[1] * dimensions)
    equation = Equation(net, of_rows, is_dense)
    begin = None if start is None else start.detach().reshape(rows.shape)
    outcome = newton(equation, rows.detach(), begin, tolerance, max_iter, progress)
    if strict and not bool(outcome.converged.all()):
        raise RuntimeError(_failure(where, outcome, tolerance, max_iter))
    x = root(equation, outcome.x, rows, tolerance).reshape(t.shape)
    return Solution(x, *(part.reshape(leading) for part in outcome[1:]))


def _check_options(
    where: str, t: Tensor, start: Tensor | None, tolerance: float | None, max_iter: int, method: str | None, dims: int
) -> bool:
    """Return whether the method makes Jacobians."""
    argument = "x" if where == "prox" else "y"
    check_tensor(where, argument, t)
    if t.dim() < dims or t.dtype not in (torch.float32, torch.float64):
        expected = f"float32 or float64 of at least {dims} dimensions"
        got, fix = f"{t.dtype} of shape {tuple(t.shape)}", "16 bits are too few for Newton's method: net.float()"
        raise ValueError(message(where, argument, expected, got, fix))
    if start is not None:
        check_tensor(where, "start", start)
        if start.shape != t.shape or start.dtype != t.dtype:
            got = f"shape {tuple(start.shape)}, {start.dtype}"
            fix = f"pass a start for each sample, or leave it out to begin at {argument}"
            raise ValueError(message(where, "start", f"shape {tuple(t.shape)}, {t.dtype}", got, fix))
    if tolerance is not None and not tolerance > 0:
        raise ValueError(message(where, "tolerance", "a number above 0", repr(tolerance), "pass for example 1e-5"))
    check_positive(where, "max_iter", max_iter)
    if method not in (None, "newton", "cg"):
        raise ValueError(message(where, "method", "'newton', 'cg' or None", repr(method), "leave it out to choose"))
    if method == "newton" and dims > 1:
        fix = "use method='cg', which takes products with it alone"
        raise ValueError(message(where, "method", "'cg' for images", "'newton', which makes the Jacobian", fix))
    return method == "newton" or (method is None and dims == 1 and t.shape[-1] <= LARGEST_DENSE)


def _failure(where: str, outcome: Outcome, tolerance: float, max_iter: int) -> str:
    failed = (~outcome.converged).nonzero().flatten().tolist()
    shown = ", ".join(map(str, failed[:5])) + ", …" * (len(failed) > 5)
    got = f"{len(failed)} that have not after at most {max_iter} steps (at {shown}), with residuals up to "
    got += f"{float(outcome.residual[failed].max()):.1e}"
    fix = "pass a larger max_iter or tolerance, another start, or strict=False and read the mask"
    return message(where, "samples", f"all to converge to a tolerance of {tolerance:.1e}", got, fix)


def _check_monotone(where: str, net: GradNet) -> None:
    if not isinstance(net, GradNet) or not net.monotone:
        got = type(net).__name__
        fix = "use one whose name begins with m, such as mGradNetC: only a convex potential has such a map"
        raise TypeError(message(where, "net", "a monotone gradient network", got, fix))


def _check_exists(where: str, net: GradNet) -> None:
    """Raise of networks that are not monotone, and warn where the map may not reach every y."""
    _check_monotone(where, net)
    if strong_convexity_bound(net) > 0:
        return
    expected, got = (
        "a strongly convex potential, whose map reaches every y",
        f"a {type(net).__name__} without that bound",
    )
    fix = 'add linear="psd", or see by `converged` which y it reaches'
    warnings.warn(message(where, "net", expected, got, fix), RuntimeWarning, stacklevel=3)


def proximal_map(net: nn.Module, x: Tensor, gamma: float | Tensor, tolerance: float, max_iter: int) -> Tensor:
    """Return the z with z + γf(z) = x as `prox` does, by conjugate gradients, for any module with a method jvp.

    Shapes: x (B, …), each a sample; gamma a number, or a tensor that broadcasts against x.
    """
    of_each = torch.as_tensor(gamma, dtype=x.dtype, device=x.device)
    rows = torch.broadcast_shapes(of_each.shape, (len(x), *[1] * (x.dim() - 1)))
    equation = Equation(net, of_each.expand(rows), is_dense=False)
    return root(equation, newton(equation, x.detach(), None, tolerance, max_iter, None).x, x, tolerance)
