"""The two published formats of ridge regularisers of images: files made of the formulas, in plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import gradnets_fast as gf
from gradnets_fast.swap.regularizers import ClippedRidgeRegularizer, SplineRidgeRegularizer

Weights = dict[str, Tensor]
SHAPES = [(4, 1, 5, 5), (8, 4, 5, 5), (64, 8, 5, 5)]


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64)


def clipped_weights(wrapped: bool, beta: float) -> Weights:
    names = ["filters.0.parametrizations.weight.original", "filters.1.weight", "filters.2.weight"]
    weights = {name: normal(*shape, scale=0.2) for name, shape in zip(names, SHAPES)}
    weights |= {"scaling": 1.0 + normal(1, 64, 1, 1, scale=0.5), "beta": torch.tensor(beta, dtype=torch.float64)}
    if not wrapped:
        return weights
    inner = {f"regularizer.{name}": value for name, value in weights.items()}
    return {**inner, "alpha": normal(), "scale": normal(scale=0.3)}


def centred(K: Tensor) -> Tensor:
    return K - K.mean((1, 2, 3), keepdim=True)


def through(x: Tensor, filters: list[Tensor]) -> Tensor:
    for K in filters:
        x = F.conv2d(x, K, padding=K.shape[-1] // 2)
    return x


def back(z: Tensor, filters: list[Tensor]) -> Tensor:
    for K in reversed(filters):
        z = F.conv_transpose2d(z, K, padding=K.shape[-1] // 2)
    return z


def clipped(weights: Weights, x: Tensor, w: float, smooth: bool) -> tuple[Tensor, Tensor]:
    """∇R and R of each image, as the format says."""
    if "alpha" in weights:
        alpha, scale = weights["alpha"], weights["scale"]
        inner = {name.removeprefix("regularizer."): v for name, v in weights.items() if name.startswith("regularizer.")}
        gradient, R = clipped(inner, scale.exp() * x, w, smooth)
        return (alpha - scale).exp() * gradient, (alpha - 2 * scale).exp() * R
    filters = [K for name, K in weights.items() if name.startswith("filters")]
    filters[0] = centred(filters[0])
    impulse = torch.zeros(1, 1, 25, 25, dtype=torch.float64)
    impulse[..., 12, 12] = 1
    N = torch.fft.fft2(back(through(impulse, filters), filters), s=(256, 256)).abs().max().sqrt()
    s, beta = weights["scaling"], weights["beta"]
    z = s.exp() * through(x, filters) / N
    if smooth:
        profile, eta = torch.tanh, lambda t: torch.log(torch.cosh(t))
    else:
        profile, eta = lambda t: t.clip(-1, 1), lambda t: torch.where(t.abs() <= 1, t**2 / 2, t.abs() - 0.5)
    gradient = back((profile(beta.exp() * z) - w * profile(z)) * (-s).exp(), filters) / N
    R = ((-beta).exp() * eta(beta.exp() * z) - w * eta(z)) * (-2 * s).exp()
    return gradient, R.flatten(1).sum(1)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("wrapped", "w", "beta"), [(False, 0.0, 0.7), (False, 1.0, 1.5), (True, 1.0, 0.4)])
def test_regularizers_of_clips(wrapped: bool, w: float, beta: float, smooth: bool, tmp_path: Path) -> None:
    weights = clipped_weights(wrapped, beta)
    path = tmp_path / "weights"  # there are files without an extension
    torch.save(weights, path)
    net = gf.load_reference_checkpoint(path, weak_convexity=w, smooth=smooth)
    assert isinstance(net, ClippedRidgeRegularizer)
    assert net.monotone == (w == 0)
    x = normal(2, 1, 17, 20)
    expected, R = clipped(weights, x, w, smooth)
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(net.potential(x), R, rtol=1e-10, atol=1e-12)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def spline_file(numbers: list[tuple[int, ...]], knots: int, radius: float) -> dict[str, Any]:
    channels = numbers[-1][0]
    weights = {
        f"conv_layer.conv_layers.{i}.parametrizations.weight.original": normal(*shape, scale=0.2)
        for i, shape in enumerate(numbers)
    }
    weights["activation.coefficients_vect"] = normal(channels * knots, scale=0.1).cumsum(0)
    weights |= {"lmbd": normal().abs() + 0.1, "mu": normal().abs() + 0.5, "L": torch.ones(())}
    return {"state_dict": weights, "config": {"activation_params": {"knots_range": radius, "n_knots": knots}}}


def splined(file: dict[str, Any], x: Tensor) -> Tensor:
    """∇R as the format says."""
    weights, settings = file["state_dict"], file["config"]["activation_params"]
    filters = [centred(K) for name, K in weights.items() if name.startswith("conv_layer")]
    T, r = settings["n_knots"], settings["knots_range"]
    rises = weights["activation.coefficients_vect"].view(-1, T).diff(dim=1).clamp(min=0)
    rises[:, 0] = rises[:, -1] = 0
    values = torch.cat([torch.zeros_like(rises[:, :1]), rises.cumsum(1)], 1)
    values = values - values[:, T // 2, None]
    z, step = through(x, filters), 2 * r / (T - 1)
    cell = ((z.clamp(-r, r) + r) / step).floor().clamp(0, T - 2).long()
    place = (z.clamp(-r, r) + r) / step - cell
    channel = torch.arange(len(values)).view(-1, 1, 1).expand_as(cell)
    low, high = values[channel, cell], values[channel, cell + 1]
    return back(low + place * (high - low), filters)


@pytest.mark.parametrize(
    ("numbers", "knots"), [([(8, 1, 7, 7), (32, 8, 7, 7)], 21), ([(5, 1, 3, 3), (6, 5, 5, 5), (7, 6, 3, 3)], 9)]
)
def test_regularizers_of_splines(numbers: list[tuple[int, ...]], knots: int, tmp_path: Path) -> None:
    file = spline_file(numbers, knots, 0.4)
    torch.save(file, tmp_path / "checkpoint.pth")
    net = gf.load_reference_checkpoint(tmp_path / "checkpoint.pth")
    assert isinstance(net, SplineRidgeRegularizer)
    x = normal(2, 1, 31, 26, scale=0.5)
    torch.testing.assert_close(net(x), splined(file, x), rtol=1e-10, atol=1e-12)
    leaf = x.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(net.potential(leaf).sum(), leaf)
    torch.testing.assert_close(net(x), by_autograd, rtol=1e-10, atol=1e-12)
    lam, mu, L = file["state_dict"]["lmbd"], file["state_dict"]["mu"], 3.0
    expected = x - 2 / (L * mu) * splined(file, mu * x)
    for _ in range(4):
        expected = expected - 2 / (1 + L * lam * mu) * ((expected - x) + lam * splined(file, mu * expected))
    torch.testing.assert_close(net.denoised(x, 5, lipschitz=L), expected, rtol=1e-9, atol=1e-11)


def test_the_lipschitz_constant_bounds_the_hessian() -> None:
    net = gf.load_reference_checkpoint(spline_file([(8, 1, 7, 7), (32, 8, 7, 7)], 21, 0.4))
    assert isinstance(net, SplineRidgeRegularizer)
    L = net.lipschitz(60)
    x, v = normal(1, 1, 64, 64, scale=0.1), normal(1, 1, 64, 64)
    for _ in range(8):
        v = net.jvp(x, v / v.norm()).detach()
    assert 0 < float(v.norm()) <= L * (1 + 1e-2)
    y = normal(1, 1, 16, 16)
    assert net.denoised(y, 2, lipschitz=L).shape == y.shape
    clipped_net = gf.load_reference_checkpoint(clipped_weights(False, 0.3), weak_convexity=0.0)
    assert isinstance(clipped_net, ClippedRidgeRegularizer)
    # The filters have norm 1, and the profile's slope is at most e^β.
    assert 0.5 * 2.718281828**0.3 < clipped_net.lipschitz(30) <= 2.718281828**0.3


def test_what_is_missing() -> None:
    with pytest.raises(ValueError, match="weak_convexity: expected given"):
        gf.load_reference_checkpoint(clipped_weights(False, 1.0))
    with pytest.raises(ValueError, match="config with activation_params"):
        gf.load_reference_checkpoint(spline_file([(3, 1, 3, 3)], 5, 1.0)["state_dict"])
    for name in ("beta", "filters.0.parametrizations.weight.original"):
        weights = {key: value for key, value in clipped_weights(False, 1.0).items() if key != name}
        with pytest.raises(ValueError, match=r"expected (beta|filters\.0\.weight) among the weights"):
            gf.load_reference_checkpoint(weights, weak_convexity=1.0)
    wrapped = {key: value for key, value in clipped_weights(True, 1.0).items() if key != "scale"}
    with pytest.raises(ValueError, match="expected scale among the weights"):
        gf.load_reference_checkpoint(wrapped, weak_convexity=1.0)
    file = spline_file([(3, 1, 3, 3)], 5, 1.0)
    file["config"]["activation_params"]["n_knots"] = 4
    with pytest.raises(ValueError, match="3 channels × 4 knots, got 15 values"):
        gf.load_reference_checkpoint(file)


def test_a_profile_without_slope_has_the_lipschitz_constant_0() -> None:
    file = spline_file([(3, 1, 3, 3)], 5, 1.0)
    file["state_dict"]["activation.coefficients_vect"].zero_()
    net = gf.load_reference_checkpoint(file)
    assert isinstance(net, SplineRidgeRegularizer)
    assert net.lipschitz(3) == 0.0
