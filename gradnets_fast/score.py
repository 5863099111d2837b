"""Scores: ∇log p of the points of a sample, learned as −∇E of an energy E, and samples drawn with them.

A gradient network f = ∇E models the density p(x) ∝ exp(−E(x)), whose score is −f and whose normaliser nothing here
needs:

- `denoising_score_loss` learns it from noisy points, `score_matching_loss` from the points themselves, with the exact
  divergence that these networks have.
- `langevin` draws samples, and with the energy corrects them by Metropolis's rule, which a score that is no gradient
  does not allow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import check_flag, check_points, check_positive, check_positive_number, message

__all__ = ["LangevinSamples", "denoising_score_loss", "langevin", "score_matching_loss"]


def denoising_score_loss(
    net: Any, x: Tensor, sigma: float | Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Return the loss of denoising score matching, which is least where −f is the score of the noisy points' density.

    Of a noise level for each point the loss weighs the squared errors of the scores by sigma², so that all levels count
    alike.

    Equivalent to:
        noise = torch.randn_like(x)
        (sigma * net(x + sigma * noise) - noise).square().sum(-1).mean()

    Args:
        net: x ↦ f(x), or (x, context) ↦ f(x; context): a `GradNet`, a `Conditional`, or any other module.
        x: points of the sample, (…, d).
        sigma: the noise's standard deviation in units of x, a number above 0 or a tensor that broadcasts to (…, 1).
        context: what else the network takes, for example log sigma of each point, (…, p).
        generator: of the noise, on the device of x.

    Returns:
        The loss, a scalar with a graph.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Vincent, "A Connection Between Score Matching and Denoising Autoencoders", Neural Computation 23 (2011),
    equation 11; the weights are those of Song, Ermon, arXiv 1907.05600, equation 6.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.GradNetC(num_layers=2, in_dim=2, embed_dim=16, linear="symmetric")
    >>> loss = denoising_score_loss(net, torch.randn(100, 2), sigma=0.1)
    >>> loss.backward()
    """
    where = "denoising_score_loss"
    _check_sample(where, x)
    if isinstance(sigma, Tensor):
        _check_levels(where, sigma, x)
        sigma = sigma.to(x.dtype)
    else:
        check_positive_number(where, "sigma", sigma)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    f = _value(net, x + sigma * noise, context)
    return (sigma * f - noise).square().sum(-1).mean()


def score_matching_loss(net: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Return the loss of exact score matching, which is least where −f is the score of the points' density.

    It is the mean of |f + ∇log p|²/2 up to a constant, by integration by parts, so that the score itself is not asked
    for; tr J is exact, at the cost of about one more f.

    Equivalent to:
        (net(x).square().sum(-1) / 2 - net.divergence(x)).mean()

    Args:
        net: a network with a divergence: a `GradNet`, or a `Conditional`.
        x: points of the sample, (…, d).
        context: what else the network takes, (…, p).

    Returns:
        The loss, a scalar with a graph; it has no lower bound that is known.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Hyvärinen, "Estimation of Non-Normalized Statistical Models by Score Matching", JMLR 6 (2005), equation 4.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.GradNetC(num_layers=2, in_dim=2, embed_dim=16, linear="symmetric")
    >>> loss = score_matching_loss(net, torch.randn(100, 2))
    >>> loss.backward()
    """
    where = "score_matching_loss"
    _check_sample(where, x)
    _check_method(where, net, "divergence", "or take denoising_score_loss, which needs f alone")
    divergence: Tensor = net.divergence(x) if context is None else net.divergence(x, context)
    _check_one_per_point(where, net, divergence, x)
    return (_value(net, x, context).square().sum(-1) / 2 - divergence).mean()


class LangevinSamples(NamedTuple):
    """What `langevin` returns.

    Attributes:
        x: the points after the last step, (…, d).
        accepted: the share of each point's steps that Metropolis's rule accepted, (…,), float32; 1 without it.
    """

    x: Tensor
    accepted: Tensor


@torch.no_grad()
def langevin(
    net: Any,
    x: Tensor,
    steps: int,
    step: float,
    metropolis: bool = False,
    context: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> LangevinSamples:
    """Draw samples of the density ∝ exp(−E) by Langevin's dynamics with the score −f = −∇E.

    A step is x' = x − step·f(x) + √(2·step)·noise.  With metropolis=True it is made with the probability
    min(1, p(x') q(x | x') / (p(x) q(x' | x))), q(· | x) being the density of a step from x, so that no error of the
    finite step is left in the limit; it needs E.

    Equivalent to, without metropolis:
        for _ in range(steps):
            x = x - step * net(x) + (2 * step) ** 0.5 * torch.randn_like(x)

    Args:
        net: the network; with metropolis=True a `GradNet`, or a `Conditional`, whose potential is E.
        x: where the samples begin, (…, d).
        steps: how many, 1 or more.
        step: the step's length, in units of x squared.
        metropolis: whether steps are accepted and rejected.
        context: what else the network takes, (…, p).
        generator: of the noise, on the device of x.

    Returns:
        The points, and how often they moved, without a graph.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Roberts, Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations",
    Bernoulli 2 (1996), section 1.4.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.mGradNetC(num_layers=2, in_dim=2, embed_dim=16, linear="psd")
    >>> found = langevin(net, torch.randn(100, 2), steps=10, step=1e-2, metropolis=True)
    >>> found.x.shape, found.accepted.shape
    (torch.Size([100, 2]), torch.Size([100]))
    """
    where = "langevin"
    _check_sample(where, x)
    check_positive(where, "steps", steps)
    check_positive_number(where, "step", step)
    check_flag(where, "metropolis", metropolis)
    if metropolis:
        _check_method(where, net, "potential", "or leave out metropolis=True")
    return _chain(net, x, steps, float(step), metropolis, context, generator)


def _chain(
    net: Any,
    x: Tensor,
    steps: int,
    step: float,
    metropolis: bool,
    context: Tensor | None,
    generator: torch.Generator | None,
) -> LangevinSamples:
    def random(draw: Any, shape: torch.Size) -> Tensor:
        drawn: Tensor = draw(shape, generator=generator, dtype=x.dtype, device=x.device)
        return drawn

    accepted = torch.zeros(x.shape[:-1], device=x.device)
    f = _value(net, x, context)
    E = _energy(net, x, context) if metropolis else None
    if E is not None:
        _check_one_per_point("langevin", net, E, x)
    for _ in range(steps):
        noise = random(torch.randn, x.shape)
        moved = x - step * f + (2 * step) ** 0.5 * noise
        f_moved = _value(net, moved, context)
        if E is None:
            x, f, accepted = moved, f_moved, accepted + 1
            continue
        E_moved = _energy(net, moved, context)
        back = (x - moved + step * f_moved).square().sum(-1) / (4 * step)
        log_ratio = E - E_moved - back + noise.square().sum(-1) / 2
        taken = random(torch.rand, accepted.shape).log() < log_ratio
        x, f = (torch.where(taken.unsqueeze(-1), new, old) for new, old in ((moved, x), (f_moved, f)))
        E, accepted = torch.where(taken, E_moved, E), accepted + taken
    return LangevinSamples(x, accepted / steps)


def _value(net: Any, x: Tensor, context: Tensor | None) -> Tensor:
    f: Tensor = net(x) if context is None else net(x, context)
    return f


def _energy(net: Any, x: Tensor, context: Tensor | None) -> Tensor:
    E: Tensor = net.potential(x) if context is None else net.potential(x, context)
    return E


def _check_sample(where: str, x: Tensor) -> None:
    """Raise unless x are some points."""
    check_points(where, x)
    if not x.numel():
        raise ValueError(message(where, "x", "at least one point", f"shape {tuple(x.shape)}", "pass a sample"))


def _check_levels(where: str, sigma: Tensor, x: Tensor) -> None:
    """Raise unless there is a noise level for each point, or one for all."""
    expected, fix = f"numbers that broadcast to {(*x.shape[:-1], 1)}", "pass for example sigma.unsqueeze(-1)"
    try:
        shape = torch.broadcast_shapes(sigma.shape, (*x.shape[:-1], 1))
    except RuntimeError:
        shape = None
    if shape != (*x.shape[:-1], 1):
        raise ValueError(message(where, "sigma", expected, f"shape {tuple(sigma.shape)}", fix))
    if not bool((sigma > 0).all()):
        least = float(sigma.min())
        raise ValueError(message(where, "sigma", "numbers above 0", f"{least:g}", "pass standard deviations"))


def _check_one_per_point(where: str, net: Any, numbers: Tensor, x: Tensor) -> None:
    """Raise unless the network has points (…, d): an image counts as one point in its numbers, not in f."""
    if numbers.shape != x.shape[:-1]:
        expected, fix = f"a network of points (…, {x.shape[-1]})", "pass a network of points, and images as points"
        raise TypeError(message(where, "net", expected, f"{type(net).__name__}, which takes images", fix))


def _check_method(where: str, net: Any, method: str, otherwise: str) -> None:
    """Raise TypeError unless the network has the method."""
    if not callable(getattr(net, method, None)):
        fix = f"pass for example GradNetM(num_modules, in_dim, embed_dim), {otherwise}"
        raise TypeError(message(where, "net", f"a network with {method}(x)", type(net).__name__, fix))
