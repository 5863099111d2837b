"""init_unit_scale_ over the registry: the size of the Jacobian at points of its own, for narrow and wide networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_contract import CASES as ALL
from test_contract import REPRESENTATIVES
from torch import Tensor, nn

import gradnets_fast as gf
from covering import slow_but_few
from gradnets_fast.nn import GradNet
from gradnets_fast.nn.registry import Case

D = 3
CASES = [case for case in ALL if "transform=exp" not in case.label]
"""The Jacobian of exp(Ψ) grows so fast with x that no mean over points foretells another, and with h out of range."""


def of_width(case: Case, h: int, **options: object) -> GradNet:
    sizes = {"widths": (h,) * 3} if "Deep" in case.label else {"embed_dim": h}
    return case.make(**sizes, **options)


def size(net: GradNet, *shape: int) -> float:
    """The root of E |J v|²/E |v|², at points other than those that the initialiser draws."""
    generator = torch.Generator().manual_seed(99)
    like = next(net.parameters())
    x, v = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(like.dtype)
    with torch.no_grad():
        return float((net.jvp(x, v).double().square().mean() / v.double().square().mean()).sqrt())


def widths(case: Case) -> tuple[int, ...]:
    """Of deep networks, whose time grows with the square of the width, one of each kind is as wide as others."""
    deep = "Deep" in case.label and case.label not in ("DeepGradNet-tanh", "mDeepGradNet-softplus")
    return 8, 64, 256 if deep else 1024


EACH = [(case, h) for case in CASES for h in widths(case)]
QUICK = [(case, h) for case in REPRESENTATIVES if case in CASES for h in widths(case)]


@pytest.mark.parametrize(
    ("case", "h"),
    [*slow_but_few(QUICK), *(pytest.param(*c, marks=pytest.mark.slow) for c in EACH if c not in QUICK)],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_the_jacobian_has_size_one_at_every_width(case: Case, h: int) -> None:
    torch.manual_seed(0)
    net = of_width(case, h, dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    gf.init_unit_scale_(net, generator=torch.Generator().manual_seed(1))
    # A mean of heavy-tailed squares varies more from one draw of points to the next.
    assert size(net, 8000, D) == pytest.approx(1.0, abs=0.1 if "transform" in case.label else 0.05)
    changed = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    assert len(changed) == 1
    if case.monotone:
        x = torch.randn(50, D, dtype=torch.float64)
        assert torch.linalg.eigvalsh(net.jacobian(x)).min() > -1e-9


def test_the_generator_alone_decides() -> None:
    torch.manual_seed(0)
    first, second = gf.mGradNetC(3, D, 16), gf.mGradNetC(3, D, 16)
    second.load_state_dict(first.state_dict())
    for net in (first, second):
        torch.rand(7)
        gf.init_unit_scale_(net, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for make in (lambda: gf.mGradNetC(2, D, 256), lambda: gf.mRidgeGradNet(D, 256)):
        net = make().to(dtype)
        gf.init_unit_scale_(net)
        assert size(net, 8000, D) == pytest.approx(1.0, abs=0.05)


def test_points_of_another_distribution() -> None:
    torch.manual_seed(0)
    net, x, v = gf.mGradNetC(2, D, 64), 5 + torch.randn(2000, D), torch.randn(2000, D)
    gf.init_unit_scale_(net, x)
    with torch.no_grad():
        assert float(net.jvp(x, v).square().mean() / v.square().mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("stages", [(), ((4, 3),)], ids=["one", "composed"])
def test_networks_of_images(stages: tuple[tuple[int, int], ...]) -> None:
    torch.manual_seed(0)
    for channels in (4, 64):
        net = gf.mConvGradNet(1, channels, 3, "softplus", stages=stages)
        gf.init_unit_scale_(net, torch.randn(8, 1, 20, 20))
        assert size(net, 8, 1, 20, 20) == pytest.approx(1.0, abs=0.1)


def test_the_linear_part_counts() -> None:
    torch.manual_seed(0)
    net = gf.mGradNetC(2, D, 64, linear="psd")
    with torch.no_grad():
        net.linear.V.copy_(0.9 * torch.eye(D))
    gf.init_unit_scale_(net)
    assert size(net, 8000, D) == pytest.approx(1.0, abs=0.03)
    with torch.no_grad():
        net.linear.V.copy_(1.1 * torch.eye(D))
    with pytest.raises(ValueError, match=r"brings to size 1, got one of size 1.* smaller linear"):
        gf.init_unit_scale_(net)


CONV, NORMALIZED = (gf.mConvGradNet(1, 2, 3, normalized=normalized) for normalized in (False, True))
X = torch.zeros(4, D)
NET = gf.mGradNetC(2, D, 5)
WRONG: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "no network": (TypeError, "got Linear", lambda: gf.init_unit_scale_(nn.Linear(2, 2))),  # type: ignore[arg-type]
    "a conditional network": (TypeError, "initialise the network within", lambda: conditional()),
    "images without images": (ValueError, "pass a batch of images", lambda: gf.init_unit_scale_(CONV)),
    "normalized": (
        ValueError,
        "have unit scale",
        lambda: gf.init_unit_scale_(gf.mConvGradNet(1, 2, 3, normalized=True)),
    ),
    "no points": (
        ValueError,
        "x: expected finite numbers, got none",
        lambda: gf.init_unit_scale_(NET, torch.zeros(0, D)),
    ),
    "NaN": (ValueError, "x: expected finite", lambda: gf.init_unit_scale_(NET, X / 0)),
    "shape": (ValueError, "x: expected", lambda: gf.init_unit_scale_(NET, X[:, 1:])),
    "piecewise linear energy": (ValueError, "got one of size 0", lambda: flat()),
}


def conditional() -> None:
    gf.init_unit_scale_(gf.Conditional(NET, context_dim=1))  # type: ignore[arg-type]


def flat() -> None:
    gf.init_unit_scale_(gf.DeepGradNet(D, (8, 8), "relu"))


@pytest.mark.parametrize("name", WRONG)
def test_bad_arguments_raise_before_anything_is_changed(name: str) -> None:
    error, text, call = WRONG[name]
    before: dict[str, Tensor] = {key: value.clone() for key, value in NET.state_dict().items()}
    with pytest.raises(error, match=text):
        call()
    assert all(torch.equal(value, before[key]) for key, value in NET.state_dict().items())


def test_a_parametrized_coefficient_is_refused() -> None:
    net = gf.GradNetM(2, D, 5)
    nn.utils.parametrize.register_parametrization(net, "alpha", nn.Softplus())
    with pytest.raises(ValueError, match="computed from others; initialise before"):
        gf.init_unit_scale_(net)
