"""Losses that learn scores, and samples by Langevin's dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradnets_fast as gf
from gradnets_fast.errors import is_message
from gradnets_fast.score import denoising_score_loss, langevin, score_matching_loss


class Gaussian(nn.Module):
    """E(x) = xᵀA x / 2 with the score −A x, and what losses and samplers ask of a network."""

    def __init__(self, A: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(A)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A

    def potential(self, x: Tensor) -> Tensor:
        return (x @ self.A * x).sum(-1) / 2

    def divergence(self, x: Tensor) -> Tensor:
        return torch.trace(self.A).expand(x.shape[:-1])


def precision() -> Tensor:
    return torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


def whitened(count: int) -> Tensor:
    """Points whose second moments are exactly those of the Gaussian of this precision."""
    z = torch.randn(count, 2, dtype=torch.float64)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / count)).T
    return z @ torch.linalg.cholesky(torch.linalg.inv(precision())).T


def test_exact_score_matching_is_least_at_the_score() -> None:
    torch.manual_seed(0)
    net, x = Gaussian(precision()), whitened(200)
    loss = score_matching_loss(net, x)
    loss.backward()
    torch.testing.assert_close(net.A.grad, torch.zeros_like(net.A))
    # |A x|²/2 has the mean tr A / 2, of the divergence's trace one half is left.
    torch.testing.assert_close(loss.detach(), -torch.trace(precision()) / 2)


def test_denoising_is_least_at_the_score_of_noisy_points() -> None:
    torch.manual_seed(0)
    x, sigma = whitened(400_000), 0.7
    noisy = torch.linalg.inv(torch.linalg.inv(precision()) + sigma**2 * torch.eye(2, dtype=torch.float64))
    net = Gaussian(noisy)
    denoising_score_loss(net, x, sigma).backward()
    assert net.A.grad is not None
    assert net.A.grad.abs().max() < 1e-2
    net = Gaussian(precision())  # of the clean points
    denoising_score_loss(net, x, sigma).backward()
    assert net.A.grad is not None
    assert net.A.grad.abs().max() > 0.2


def test_the_losses_are_what_their_docstrings_say() -> None:
    net = gf.GradNetC(2, 3, 8, linear="symmetric")
    x, sigma = torch.randn(5, 4, 3), torch.rand(5, 4, 1) + 0.1
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    expected = (sigma * net(x + sigma * noise) - noise).square().sum(-1).mean()
    assert torch.equal(denoising_score_loss(net, x, sigma, generator=torch.Generator().manual_seed(1)), expected)
    J = torch.func.vmap(torch.func.jacrev(net))(x.reshape(-1, 3))
    expected = (net(x).square().sum(-1).mean() / 2) - J.diagonal(dim1=1, dim2=2).sum(-1).mean()
    torch.testing.assert_close(score_matching_loss(net, x), expected)


def test_a_context_is_passed_on() -> None:
    net = gf.Conditional(gf.GradNetC(2, 3, 8), context_dim=1)
    x, sigma = torch.randn(50, 2), torch.rand(50, 1) + 0.1
    for loss in (denoising_score_loss(net, x, sigma, context=sigma.log()), score_matching_loss(net, x, sigma.log())):
        net.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.net.parameters())
    assert langevin(net, x, steps=2, step=1e-3, metropolis=True, context=sigma.log()).x.shape == x.shape


@pytest.mark.parametrize("metropolis", [False, True])
def test_langevin_draws_from_the_density(metropolis: bool) -> None:
    net, step = Gaussian(precision()), 0.3
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(40_000, 2, dtype=torch.float64)
    found = langevin(net, x, steps=60, step=step, metropolis=metropolis, generator=generator)
    # Without the correction the step's error stays: A is replaced by A (1 − step·A/2).
    eye = torch.eye(2, dtype=torch.float64)
    limit = precision() if metropolis else precision() @ (eye - step * precision() / 2)
    torch.testing.assert_close(torch.cov(found.x.T), torch.linalg.inv(limit), atol=3e-2, rtol=0)
    if metropolis:
        assert 0.5 < found.accepted.mean() < 1
        # The correction is seen: the biased covariance is further away than the tolerance.
        biased = torch.linalg.inv(precision() @ (eye - step * precision() / 2))
        assert (biased - torch.linalg.inv(precision())).abs().max() > 0.1
    else:
        assert bool((found.accepted == 1).all())


def test_langevin_repeats_with_its_generator_and_keeps_no_graph() -> None:
    net = gf.GradNetM(2, 2, 8, linear="symmetric")
    x = torch.randn(10, 2)
    one, two = (langevin(net, x, 5, 1e-2, True, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.x, two.x)
    assert not one.x.requires_grad


def test_shares_are_counted_exactly_and_levels_may_have_another_dtype() -> None:
    x = torch.zeros(2, 2, dtype=torch.bfloat16)
    found = langevin(nn.Identity(), x, steps=300, step=0.1)
    assert found.accepted.dtype == torch.float32
    assert bool((found.accepted == 1).all())
    loss = denoising_score_loss(NET, torch.randn(3, 2), torch.ones(3, 1, dtype=torch.float64))
    assert loss.dtype == torch.float32


NET, IMAGES = gf.GradNetC(1, 2, 4), gf.ConvGradNet(1, 4, 3)
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no points": (lambda: denoising_score_loss(NET, torch.zeros(0, 2), 1.0), ValueError, "x"),
    "points of integers": (lambda: score_matching_loss(NET, torch.zeros(3, 2, dtype=torch.long)), TypeError, "x"),
    "no tensor": (lambda: langevin(NET, [[0.0, 0.0]], 1, 1.0), TypeError, "x"),  # type: ignore[arg-type]
    "negative noise": (lambda: denoising_score_loss(NET, torch.zeros(3, 2), -1.0), ValueError, "sigma"),
    "noise of a name": (lambda: denoising_score_loss(NET, torch.zeros(3, 2), "1"), TypeError, "sigma"),  # type: ignore[arg-type]
    "levels without a last dimension": (
        lambda: denoising_score_loss(NET, torch.zeros(3, 2), torch.ones(3)),
        ValueError,
        "sigma",
    ),
    "more levels than points": (
        lambda: denoising_score_loss(NET, torch.zeros(3, 2), torch.ones(4, 3, 1)),
        ValueError,
        "sigma",
    ),
    "levels of zero": (
        lambda: denoising_score_loss(NET, torch.zeros(3, 2), torch.tensor([[1.0], [0.0], [1.0]])),
        ValueError,
        "sigma",
    ),
    "divergences of images": (lambda: score_matching_loss(IMAGES, torch.zeros(4, 1, 4, 4)), TypeError, "net"),
    "energies of images": (lambda: langevin(IMAGES, torch.zeros(4, 1, 4, 4), 1, 1.0, True), TypeError, "net"),
    "no divergence": (lambda: score_matching_loss(nn.Linear(2, 2), torch.zeros(3, 2)), TypeError, "net"),
    "no potential": (lambda: langevin(nn.Linear(2, 2), torch.zeros(3, 2), 1, 1.0, True), TypeError, "net"),
    "no steps": (lambda: langevin(NET, torch.zeros(3, 2), 0, 1.0), ValueError, "steps"),
    "endless step": (lambda: langevin(NET, torch.zeros(3, 2), 1, math.inf), ValueError, "step"),
    "no flag": (lambda: langevin(NET, torch.zeros(3, 2), 1, 1.0, 1), TypeError, "metropolis"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_raise_before_any_work(name: str) -> None:
    call, kind, argument = WRONG[name]
    with pytest.raises(kind) as caught:
        call()
    assert is_message(str(caught.value))
    assert f": {argument}: " in str(caught.value)
