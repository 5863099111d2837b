"""Priors and denoisers in deepinv's algorithms."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import deepinv
import pytest
import torch
from deepinv.models.GSPnP import GSPnP
from torch import Tensor

import gradnets_fast as gf
from covering import quick_in_turn, slow_but
from gradnets_fast.interop import GradientStepDenoiser, GradNetPrior
from gradnets_fast.nn import GradNet

SHAPE, SIDE, PATCH = (2, 6, 6), 6, 3
FORMS: dict[str, dict[str, int]] = {
    "whole": {},
    "every patch": {"patch_size": PATCH},
    "disjoint": {"patch_size": PATCH, "stride": PATCH},
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, *SHAPE, dtype=torch.float64)


def dimension(form: dict[str, int]) -> int:
    return SHAPE[0] * form.get("patch_size", SIDE) ** 2


def cut(x: Tensor, patch_size: int = SIDE, stride: int = 1) -> Tensor:
    """The points that the network is applied to, by slices, (B, points, d)."""
    places = range(0, SIDE - patch_size + 1, stride)
    patches = [x[:, :, i : i + patch_size, j : j + patch_size].flatten(1) for i in places for j in places]
    return torch.stack(patches, 1)


def strongly_convex(form: dict[str, int]) -> tuple[GradNet, float]:
    """A network with ½I ⪯ J, and a bound of the Lipschitz constant of the prior's gradient."""
    net = gf.mRidgeGradNet(dimension(form), 40, "softplus", linear="psd", dtype=torch.float64)
    assert net.linear is not None
    with torch.no_grad():
        net.linear.V.copy_(torch.eye(net.in_dim).double() / 2**0.5)
        net.W.div_(torch.linalg.matrix_norm(net.W, 2))
    most_patches_of_a_pixel = PATCH**2 if form == FORMS["every patch"] else 1
    return net, 1.5 * most_patches_of_a_pixel


def problem(shape: tuple[int, ...] = SHAPE) -> tuple[Any, Tensor]:
    """Inpainting of one image: deepinv's cost adds up the priors of a batch, and its fidelities not."""
    mask = (torch.rand(shape) > 0.4).double()
    physics = deepinv.physics.Inpainting(shape, mask=mask)
    return physics, physics(images(1))


@forms
@pytest.mark.parametrize("kind", [gf.mGradNetC, gf.GradNetC, gf.mGradNetM])
def test_prior_is_the_potential_of_its_patches(kind: Any, form: dict[str, int]) -> None:
    activation = "softmax" if kind is gf.mGradNetM else "tanh"
    net = kind(2, dimension(form), 20, activation, dtype=torch.float64)
    prior, x = GradNetPrior(net, **form), images()
    assert prior.explicit_prior
    torch.testing.assert_close(prior(x, 0.1, reduce=False), net.potential(cut(x, **form)).sum(1))
    by_autograd = deepinv.optim.Prior.grad(prior, x.clone(), 0.1)
    torch.testing.assert_close(prior.grad(x, 0.1), by_autograd)
    v, leaf = images(), x.clone()
    (product,) = torch.autograd.grad((deepinv.optim.Prior.grad(prior, leaf) * v).sum(), leaf)
    torch.testing.assert_close(prior.potential.hessian(x, v), product)


def minimiser(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimiser by torch's own L-BFGS, whose line search ends at rounding, and a step of Newton's."""
    x = start.clone().requires_grad_()
    options = {"max_iter": 500, "tolerance_grad": 1e-13, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([x], **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(x)
        value.backward()
        return value

    optimizer.step(closure)
    closure()
    near = x.detach()
    hessian = torch.autograd.functional.hessian(objective, near).view(near.numel(), -1)
    return near - torch.linalg.solve(hessian, x.grad.flatten()).view_as(near)


@pytest.mark.parametrize(
    ("algorithm", "form"),
    slow_but(
        [("GD", "disjoint"), ("PGD", "every patch"), ("ADMM", "whole")],
        [
            *(("GD", form) for form in FORMS),
            *(("PGD", form) for form in FORMS if form != "disjoint"),
            *((name, "whole") for name in ("FISTA", "ADMM", "DRS")),
        ],
    ),
)
def test_algorithms_reach_the_minimum(algorithm: str, form: str) -> None:
    (net, lipschitz), (physics, y), weight = strongly_convex(FORMS[form]), problem(), 0.5
    model = getattr(deepinv.optim, algorithm)(
        prior=GradNetPrior(net, **FORMS[form]),
        data_fidelity=deepinv.optim.L2(),
        lambda_reg=weight,
        stepsize=1 / (1 + weight * lipschitz) if algorithm == "GD" else 0.9,
        max_iter=2000 if algorithm == "GD" else 400,
        thres_conv=1e-10,
        early_stop=True,
    )
    x, metrics = model(y, physics, compute_metrics=True)

    def objective(x: Tensor) -> Tensor:
        return (physics.A(x) - y).square().sum() / 2 + weight * net.potential(cut(x, **FORMS[form])).sum()

    exact = minimiser(objective, y)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-7)
    cost = torch.tensor(metrics["cost"][0], dtype=torch.float64)
    torch.testing.assert_close(cost[-1], objective(exact).detach())
    if algorithm in ("GD", "PGD"):
        assert cost.diff().max() < 1e-12
        assert cost[0] > cost[-1] + 0.1


def test_regularisation_by_denoising_reaches_the_minimum() -> None:
    """RED's stationary points, whichever step comes first, are those of fidelity + λσ²F."""
    (net, _), (physics, y), weight, sigma = strongly_convex({}), problem(), 0.7, 0.8
    prior = deepinv.optim.RED(GradientStepDenoiser(net))
    options: dict[str, Any] = {"max_iter": 400, "thres_conv": 1e-12, "early_stop": True}
    parameters = {"lambda": weight, "g_param": sigma, "stepsize": 0.5}
    for name, g_first in (("GD", False), ("PGD", True)):
        model = deepinv.optim.optim_builder(
            name,
            params_algo=dict(parameters),
            data_fidelity=deepinv.optim.L2(),
            prior=prior,
            g_first=g_first,
            **options,
        )
        x = model(y, physics)
        gradient = physics.A_adjoint(physics.A(x) - y) + weight * sigma**2 * net(x.flatten(1)).view_as(x)
        assert gradient.abs().max() < 1e-9


def test_plug_and_play_comes_to_a_fixed_point() -> None:
    (net, _), (physics, y), sigma, stepsize = strongly_convex({}), problem(), 0.8, 0.9
    prior = deepinv.optim.PnP(GradientStepDenoiser(net))
    model = deepinv.optim.PGD(
        prior=prior,
        data_fidelity=deepinv.optim.L2(),
        sigma_denoiser=sigma,
        stepsize=stepsize,
        max_iter=400,
        thres_conv=1e-12,
        early_stop=True,
    )
    x = model(y, physics)
    descended = x - stepsize * physics.A_adjoint(physics.A(x) - y)
    torch.testing.assert_close(x, descended - sigma**2 * net(descended.flatten(1)).view_as(x))
    assert (x - descended).abs().max() > 1e-3


class GradientStepPrior(deepinv.optim.RED):
    """The explicit prior that deepinv's guide for gradient-step denoisers builds on theirs."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        super().__init__(denoiser)
        self.explicit_prior = True

    def fn(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        value: Tensor = self.denoiser.potential(x, *args, **kwargs)
        return value


def test_denoiser_takes_the_place_of_deepinvs_gradient_step_denoiser() -> None:
    for method in ("forward", "potential", "potential_grad"):
        theirs, ours = (list(inspect.signature(getattr(c, method)).parameters) for c in (GSPnP, GradientStepDenoiser))
        assert ours[: len(theirs)] == theirs, method
    (net, _), (physics, y) = strongly_convex({}), problem()
    model = deepinv.optim.optim_builder(
        "PGD",
        params_algo={"lambda": 0.7, "g_param": 0.8, "stepsize": 0.5},
        data_fidelity=deepinv.optim.L2(),
        prior=GradientStepPrior(GradientStepDenoiser(net)),
        g_first=True,
        max_iter=60,
    )
    _, metrics = model(y, physics, compute_metrics=True)
    cost = torch.tensor(metrics["cost"][0], dtype=torch.float64)
    assert cost.diff().max() < 1e-12
    assert cost[0] > cost[-1] + 0.1


@forms
def test_denoiser_steps_down_its_potential(form: dict[str, int]) -> None:
    net = gf.GradNetC(2, dimension(form), 20, "tanh", dtype=torch.float64)
    denoiser, x = GradientStepDenoiser(net, **form), images().requires_grad_()
    for sigma in (0.3, torch.tensor(0.3), torch.tensor([0.1, 0.5, 0.9])):
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))
        potential = denoiser.potential(x, sigma)
        torch.testing.assert_close(potential, levels**2 * net.potential(cut(x, **form)).sum(1))
        (gradient,) = torch.autograd.grad(potential.sum(), x)
        torch.testing.assert_close(denoiser.potential_grad(x, sigma), gradient)
        torch.testing.assert_close(denoiser(x, sigma), x - gradient)
        score = deepinv.optim.ScorePrior(denoiser).grad(x, levels.view(-1, 1, 1, 1))
        torch.testing.assert_close(score, GradNetPrior(net, **form).grad(x))


def norms(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1)


def relative_residual(prior: GradNetPrior, z: Tensor, x: Tensor, gamma: float) -> float:
    """|x + γ∇F(x) − z| over the larger of |z| and |γ∇F(z)|, at its largest over the batch."""
    scale = torch.maximum(norms(z), norms(gamma * prior.grad(z)))
    return (norms(x + gamma * prior.grad(x) - z) / scale).max().item()


@quick_in_turn("gamma, activation, name", list(FORMS), [0.1, 10.0, 1000.0], ["softplus", "relu"])
def test_proximal_map(gamma: float, activation: str, name: str) -> None:
    """The residual is rounding, which the terms of γ∇F magnify; float32's result is compared with float64's."""
    form = FORMS[name]
    net = gf.mGradNetC(2, dimension(form), 20, activation)
    prior, z = GradNetPrior(net, **form), 3 * images(4).float()
    z[1] = 0
    with torch.no_grad():
        single = prior.prox(z, 0.1, gamma=gamma)
        net.double()
        z = z.double()
        x = prior.prox(z, 0.1, gamma=gamma)
        alone = torch.cat([prior.prox(image, gamma=gamma) for image in z.split(1)])
    rounding = 64 * (1 + gamma)
    assert relative_residual(prior, z, x, gamma) < rounding * torch.finfo(torch.float64).eps
    for other in (alone, single):
        error = (norms(other - x) / norms(x)).max()
        assert error < rounding * torch.finfo(other.dtype).eps


def test_proximal_map_to_a_tolerance() -> None:
    prior, z = GradNetPrior(gf.mGradNetC(2, dimension({}), 20, dtype=torch.float64)), images()
    with torch.no_grad():
        for gamma in (torch.tensor(2.0).double(), torch.tensor([0.5, 5.0, 50.0]).double().view(-1, 1, 1, 1)):
            exact, loose = prior.prox(z, gamma=gamma), prior.prox(z, gamma=gamma, tol_inter=1e-3)
            torch.testing.assert_close(exact + gamma * prior.grad(exact), z)
            error = norms(loose - exact) / torch.maximum(norms(z), norms(gamma * prior.grad(z)))
            assert 1e-9 < error.max() < 1e-3
        assert norms(prior.prox(z, gamma=2.0, max_iter_inter=1) - prior.prox(z, gamma=2.0)).min() > 1e-4


@pytest.mark.parametrize("kind", [gf.mGradNetC, gf.mGradNetM])
def test_gradients_of_the_proximal_map(kind: Any) -> None:
    """The gradients are compared with those through many steps of deepinv's gradient descent."""
    net = kind(2, dimension({}), 20, dtype=torch.float64)
    prior, z, gamma = GradNetPrior(net), images().requires_grad_(), torch.tensor(0.3).double().requires_grad_()
    inner = {"stepsize_inter": 0.7, "max_iter_inter": 300, "tol_inter": 1e-14}
    weight = images()

    def results(x: Tensor) -> list[Tensor]:
        return [x.detach(), *torch.autograd.grad((x * weight).sum(), [z, gamma, *net.parameters()])]

    ours = results(prior.prox(z, gamma=gamma, **inner))
    theirs = results(deepinv.optim.Prior.prox(prior, z, gamma=gamma, **inner))
    assert all(t.abs().max() > 1e-6 for t in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_networks_that_are_not_monotone_take_deepinvs_own_steps() -> None:
    prior, z = GradNetPrior(gf.GradNetC(2, dimension({}), 20, dtype=torch.float64)), images()
    inner = {"gamma": 0.3, "stepsize_inter": 0.4, "max_iter_inter": 2, "tol_inter": 1e-9}
    assert torch.equal(prior.prox(z, **inner), deepinv.optim.Prior.prox(prior, z, **inner))


@pytest.mark.parametrize("name", slow_but(["disjoint"], list(FORMS)))
def test_second_derivatives_of_the_proximal_map(name: str) -> None:
    form = FORMS[name]
    prior = GradNetPrior(gf.mGradNetC(2, dimension(form), 9, dtype=torch.float64), **form)
    z, gamma = images(2).requires_grad_(), torch.tensor(0.3).double().requires_grad_()

    def function(z: Tensor, gamma: Tensor, *_: Tensor) -> Tensor:
        return prior.prox(z, gamma=gamma, tol_inter=1e-14)

    assert torch.autograd.gradgradcheck(function, (z, gamma, *prior.parameters()), fast_mode=True)


class Unrolled(GradNetPrior):
    """A prior whose proximal map has every inner iteration in the graph."""

    def prox(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        inner = {"stepsize_inter": 0.6, "max_iter_inter": 200, "tol_inter": 1e-14}
        descended: Tensor = deepinv.optim.Prior.prox(self, x, *args, **kwargs, **inner)
        return descended


def test_unfolded_algorithms_train_the_network() -> None:
    (net, _), (physics, y), gradients = strongly_convex({}), problem(), []
    for prior in (GradNetPrior(net), Unrolled(net)):
        model = deepinv.optim.PGD(
            prior=prior,
            data_fidelity=deepinv.optim.L2(),
            lambda_reg=0.5,
            stepsize=0.9,
            max_iter=4,
            unfold=True,
            trainable_params=["lambda", "stepsize"],
        )
        loss = (model(y, physics) - 1).square().mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert len(gradients[0]) == len(list(net.parameters())) + 2
    assert all(g.abs().max() > 1e-6 for g in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-10)


def test_what_does_not_fit_is_refused() -> None:
    net, x = gf.mGradNetC(2, 18, 5), torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match="GradNetPrior: patch_size: expected a positive integer, got 0"):
        GradNetPrior(net, patch_size=0)
    with pytest.raises(TypeError, match=r"GradientStepDenoiser: stride: expected a positive integer, got 1\.0"):
        GradientStepDenoiser(net, patch_size=3, stride=1.0)
    with pytest.raises(ValueError, match="GradNetPrior: stride: expected at most patch_size = 3, got 4"):
        GradNetPrior(net, patch_size=3, stride=4)
    with pytest.raises(ValueError, match=r"sides of 3 \+ a multiple of 2, for patches to cover it, got shape"):
        GradNetPrior(net, patch_size=3, stride=2).fn(x)
    with pytest.raises(ValueError, match=r"GradNetPrior: x: expected shape \(B, C, H, W\), got shape \(2, 6, 6\)"):
        GradNetPrior(net, patch_size=3).grad(x[0])
    with pytest.raises(ValueError, match=r"expected shape \(…, 18\)"):
        GradNetPrior(net)(x)


def regularizer() -> GradNet:
    """One of a published format."""
    filters = {"filters.0.weight": torch.randn(3, SHAPE[0], 3, 3), "filters.1.weight": torch.randn(5, 3, 3, 3)}
    weights = {**filters, "scaling": torch.zeros(1, 5, 1, 1), "beta": torch.tensor(0.5)}
    return gf.load_reference_checkpoint({name: t.double() for name, t in weights.items()}, weak_convexity=0.0)


def convolutions() -> GradNet:
    return gf.mConvGradNet(SHAPE[0], 5, 3, "tanh", stages=[(3, 3)], dtype=torch.float64)


@pytest.mark.parametrize("make", [convolutions, regularizer])
def test_convolutional_networks_take_images_as_they_are(make: Callable[[], GradNet]) -> None:
    net = make()
    prior, denoiser, x = GradNetPrior(net), GradientStepDenoiser(net), images()
    torch.testing.assert_close(prior.fn(x), net.potential(x))
    torch.testing.assert_close(prior.grad(x), net(x))
    u = prior.prox(x, gamma=0.7)
    torch.testing.assert_close(u + 0.7 * net(u), x)
    torch.testing.assert_close(denoiser(x, 0.5), x - 0.25 * net(x))
    with pytest.raises(ValueError, match="patch_size: expected None for convolutions, got 3"):
        GradNetPrior(net, patch_size=3)
