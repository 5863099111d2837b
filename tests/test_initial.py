"""Initialisers over the registry: maps between Gaussians against the closed form, least squares against autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_contract import CASES as ALL
from test_contract import REPRESENTATIVES
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import gradnets_fast as gf
from covering import slow_but
from gradnets_fast.nn import GradNet
from gradnets_fast.nn.registry import Case

# The gradient of exp(Ψ) grows so fast that no mean over points foretells another.
CASES = [case for case in ALL if "transform=exp" not in case.label]
D = 3
each = pytest.mark.parametrize("case", slow_but(REPRESENTATIVES, CASES), ids=lambda case: case.label)


def gaussian(seed: int, d: int = D) -> MultivariateNormal:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(d, d, generator=generator, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    return MultivariateNormal(mean, factor @ factor.T + torch.eye(d) / 2)


def relative(error: Tensor, of: Tensor) -> float:
    return float(error.detach().norm() / of.detach().norm())


def power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


@each
def test_a_network_starts_near_the_identity_and_can_still_learn(case: Case) -> None:
    torch.manual_seed(0)
    net, x = case.make(dtype=torch.float64, linear="psd"), torch.randn(1000, D, dtype=torch.float64)
    gf.init_identity_(net, share=0.05)
    assert relative(net(x) - x, x) < 0.06
    (net(x) - x.sinh()).square().sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert all(g.isfinite().all() for g in gradients.values())
    weights = [g for name, g in gradients.items() if name in ("W", "mmgn_modules.W", "A.0")]
    assert weights
    assert all((g != 0).any() for g in weights)


@each
def test_a_network_starts_at_the_map_between_gaussians(case: Case) -> None:
    torch.manual_seed(0)
    p, q = gaussian(1), gaussian(2)
    net = case.make(dtype=torch.float64, linear="psd")
    if "Deep" in case.label:
        with pytest.raises(ValueError, match=r"expected 0 for a m?DeepGradNet"):
            gf.init_gaussian_map_(net, p.mean, p.covariance_matrix)
        p, q = (MultivariateNormal(torch.zeros(D).double(), each.covariance_matrix) for each in (p, q))
    gf.init_gaussian_map_(net, p.mean, p.covariance_matrix, q.mean, q.covariance_matrix, share=0.02)
    x = p.sample((4000,))
    root = power(p.covariance_matrix, 0.5)
    A = root.inverse() @ power(root @ q.covariance_matrix @ root, 0.5) @ root.inverse()
    assert relative(net(x) - (x - p.mean) @ A - q.mean, net(x) - q.mean) < 0.03
    assert relative(net.jacobian(x).mean(0) - A, A) < 0.01
    assert torch.linalg.eigvalsh(net.jacobian(x)).min() > 0


def test_a_smaller_share_is_closer_to_the_map() -> None:
    torch.manual_seed(0)
    net, x = gf.mGradNetC(4, D, 32, linear="psd"), torch.randn(1000, D)
    errors = []
    for share in (0.1, 0.01):
        gf.init_identity_(net, share=share)
        errors.append(relative(net(x) - x, x))
    assert 5 < errors[0] / errors[1] < 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes_and_symmetric_linear_parts(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = gf.GradNetC(2, D, 8, linear="symmetric", dtype=dtype), torch.randn(200, D, dtype=dtype)
    gf.init_identity_(net, share=0.05)
    assert relative(net(x) - x, x) < 0.06


def stationary(net: GradNet, x: Tensor, g: Tensor) -> None:
    """Asserts that no small change of what least squares fits lessens the squared error."""
    loss = (net(x) - g).square().sum()
    name = net.outer_coefficients()
    outer = None if name is None else net.get_parameter(name)
    bias: Any = net._effective().bias
    fitted = [t for t in (outer, bias, None if net.linear is None else net.linear.S) if t is not None]
    scale = float(g.square().sum())
    for t, slope in zip(fitted, torch.autograd.grad(loss, fitted)):
        change = torch.maximum(t.detach().abs(), torch.ones_like(t) * 1e-3)
        assert float((slope * change).abs().max()) < 1e-2 * scale, t.shape


@each
def test_least_squares_finds_the_least(case: Case) -> None:
    torch.manual_seed(0)
    linear = "psd" if case.monotone else "symmetric"
    net, x = case.make(dtype=torch.float64, linear=linear), torch.randn(300, D, dtype=torch.float64)
    g = x.pow(3) / 10 + torch.tanh(x.sum(1, keepdim=True))
    before = float((net(x) - g).detach().square().mean())
    gf.init_least_squares_(net, x, g)
    after = float((net(x) - g).detach().square().mean())
    assert after < before
    if not case.monotone:
        # The linear part alone comes to 0.17.
        assert after < 0.2 or net.outer_coefficients() is None
        stationary(net, x, g)


def test_least_squares_recovers_the_network_that_made_the_gradients() -> None:
    torch.manual_seed(0)
    for make in (lambda: gf.mGradNetC(3, D, 9, linear="psd"), lambda: gf.mDeepGradNet(D, (6, 5))):
        net, x = make().double(), torch.randn(200, D, dtype=torch.float64)
        g = net(x).detach()
        outer = net.get_parameter(str(net.outer_coefficients()))
        with torch.no_grad():
            for parameter in (outer, net.linear.V):
                parameter.add_(torch.rand_like(parameter))
        assert relative(net(x) - g, g) > 0.1
        gf.init_least_squares_(net, x, g)
        assert relative(net(x) - g, g) < 2e-3


@pytest.mark.parametrize("make", [lambda: gf.mGradNetC(3, D, 8), lambda: gf.mGradNetM(2, D, 8, linear="psd")])
def test_least_squares_of_gradients_that_are_zero_leave_a_network_that_learns(make: Callable[[], GradNet]) -> None:
    torch.manual_seed(0)
    net, x = make(), torch.randn(50, D)
    gf.init_least_squares_(net, x, torch.zeros(50, D))
    net(x).square().sum().backward()
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)
    assert net(x).abs().max() < 1e-3


def test_least_squares_takes_pieces_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    nets = [gf.GradNetC(2, D, 8, linear="symmetric") for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(100, D)
    gf.init_least_squares_(nets[0], x, x.sin())
    monkeypatch.setattr("gradnets_fast.nn.initial._VALUES", 7 * 8 * D)
    gf.init_least_squares_(nets[1], x, x.sin())
    torch.testing.assert_close(nets[0](x), nets[1](x))


WITHOUT = gf.mGradNetC(2, D, 5)
WITH = gf.mGradNetC(2, D, 5, linear="psd")
CONV = gf.mConvGradNet(1, 2, 3)
EYE, X = torch.eye(D), torch.zeros(4, D)
WRONG: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "no linear part": (ValueError, 'make it with linear="psd"', lambda: gf.init_identity_(WITHOUT)),
    "images": (TypeError, "network of points, got mConvGradNet", lambda: gf.init_identity_(CONV)),
    "no network": (TypeError, "got Linear", lambda: gf.init_identity_(nn.Linear(2, 2))),  # type: ignore[arg-type]
    "share": (ValueError, "share: expected a number between 0 and 1", lambda: gf.init_identity_(WITH, share=1.0)),
    "mean": (ValueError, r"mean: expected shape \(3,\)", lambda: gf.init_gaussian_map_(WITH, EYE, EYE)),
    "covariance": (ValueError, "smallest eigenvalue of -1", lambda: gf.init_gaussian_map_(WITH, X[0], -EYE)),
    "asymmetric": (ValueError, "asymmetric", lambda: gf.init_gaussian_map_(WITH, X[0], EYE + EYE.roll(1, 0).triu())),
    "target": (ValueError, "target_covariance", lambda: gf.init_gaussian_map_(WITH, X[0], EYE, None, EYE * torch.nan)),
    "shape of x": (ValueError, r"x: expected shape \(n, 3\)", lambda: gf.init_least_squares_(WITH, X[:, :2], X)),
    "shape of g": (ValueError, "like x", lambda: gf.init_least_squares_(WITH, X, X[:2])),
    "NaN": (ValueError, "g: expected finite", lambda: gf.init_least_squares_(WITH, X, X / 0)),
    "nothing linear": (
        ValueError,
        "coefficients that f is linear in",
        lambda: gf.init_least_squares_(gf.mRidgeGradNet(D, 5), X, X),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_arguments_raise_before_anything_is_changed(name: str) -> None:
    error, text, call = WRONG[name]
    before = {key: value.clone() for key, value in WITH.state_dict().items()}
    with pytest.raises(error, match=text):
        call()
    assert all(torch.equal(value, before[key]) for key, value in WITH.state_dict().items())


def test_a_parametrized_coefficient_is_refused() -> None:
    net = gf.GradNetM(2, D, 5, linear="psd")
    nn.utils.parametrizations.orthogonal(net.linear, "V")
    nn.utils.parametrize.register_parametrization(net, "alpha", nn.Softplus())
    with pytest.raises(ValueError, match="computed from others; initialise before"):
        gf.init_identity_(net)
