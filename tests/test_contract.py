"""The contract that every registered architecture fulfils on every backend.

Every case meets what depends on its activation, on compiled kernels.  What depends on the structure alone, and the
reference, which most tests compare with, are for the representatives: a few activations of each structure.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, jvp, vmap

import gradnets_fast
from gradnets_fast.activations import TABLE
from gradnets_fast.nn import GradNet
from gradnets_fast.nn.registry import Case, cases
from oracle import assert_as_good_as_eager, eager_and_exact, outputs_and_gradients

CASES = list(cases())
BACKENDS = ("reference", "cpp")
DERIVATIVES = ("jvp", "divergence", "jacobian")
POINTS = 23

OF_KINDS = ("tanh", "softplus", "relu")
"""Bounded, smooth and unbounded, with a kink."""
QUICK_DERIVATIVES = {"tanh": ("jvp", "jacobian"), "softplus": ("divergence",), "relu": ("jvp",)}
"""Each derivative of a smooth function, and each of `OF_KINDS`."""


def structure(case: Case) -> str:
    """A case's label without its activation, where that is one of the table's functions."""
    network, activation, *options = case.label.split("-")
    return "-".join([network, "*" if activation in TABLE else activation, *options])


def is_representative(case: Case) -> bool:
    """Whether the activation is one of `OF_KINDS`, or all that its structure has.

    Monotone networks differ from the others by a softplus of their parameters, and have one activation each.
    """
    activation = case.label.split("-")[1]
    alone = sum(structure(other) == structure(case) for other in CASES) == 1
    return activation not in TABLE or alone or activation in (OF_KINDS[1:2] if case.monotone else OF_KINDS)


REPRESENTATIVES = [case for case in CASES if is_representative(case)]
WITH_KERNELS_OF_THEIR_OWN = [case for case in CASES if not case.monotone or case in REPRESENTATIVES]


def marks_of(case: Case, backend: str, name: str | None = None) -> list[pytest.MarkDecorator]:
    """`make test` has the representatives, and of derivatives those of `QUICK_DERIVATIVES` where a structure has them.

    On the reference it has those that differ by more than a parameter's sign or a function that test_oracle.py takes.
    """
    activation, quick = case.label.split("-")[1], case in REPRESENTATIVES
    if case.monotone or activation not in OF_KINDS:
        quick = quick and not (case.monotone and backend == "reference")
    elif backend == "reference":
        quick = activation == OF_KINDS[0]
    elif name is not None:
        quick = name in QUICK_DERIVATIVES[activation]
    return [] if quick else [pytest.mark.slow]


def each(*cases_of_backend: tuple[str, list[Case]], slow: Sequence[Case] = ()) -> pytest.MarkDecorator:
    """The cases of each backend that is named."""
    pairs = [
        pytest.param(
            case,
            backend,
            id=f"{backend}-{case.label}",
            marks=pytest.mark.slow if case in slow else marks_of(case, backend),
        )
        for backend, chosen in cases_of_backend
        for case in chosen
    ]
    return pytest.mark.parametrize(("case", "backend"), pairs)


every_case = each(("cpp", CASES), ("reference", REPRESENTATIVES))
representatives = each(("cpp", REPRESENTATIVES), ("reference", REPRESENTATIVES))


@pytest.fixture
def _on_backend(backend: str) -> Iterator[None]:
    with gradnets_fast.use_backend(backend):
        yield


def make(case: Case, dtype: torch.dtype = torch.float64) -> tuple[GradNet, Tensor]:
    """The network, its raw parameters drawn wider than at initialisation, and points that reach its nonlinear range."""
    net = case.make(dtype=dtype)
    generator = torch.Generator().manual_seed(len(case.label))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype), alpha=0.3)
    x = torch.randn(POINTS, 3, generator=generator, dtype=torch.float64).to(dtype)
    return net, x


def test_labels_are_unique() -> None:
    assert len({case.label for case in CASES}) == len(CASES)


def test_every_structure_has_a_representative() -> None:
    assert {structure(case) for case in REPRESENTATIVES} == {structure(case) for case in CASES}


@every_case
@pytest.mark.usefixtures("_on_backend")
def test_forward_and_gradients_match_the_reference_architecture(case: Case) -> None:
    for dtype in (torch.float64, torch.float32):
        net, x = make(case, dtype)
        names = [name for name, _ in net.named_parameters()]
        tensors = [x, *(p.detach() for p in net.parameters())]
        g = torch.randn(x.shape, dtype=dtype)

        def ours(values: list[Tensor], net: GradNet = net, names: list[str] = names) -> Tensor:
            return functional_call(net, dict(zip(names, values[1:])), (values[0],))

        def eager(values: list[Tensor], names: list[str] = names) -> Tensor:
            return case.reference(dict(zip(names, values[1:])), values[0])

        assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), *eager_and_exact(eager, tensors, g))


@each(("cpp", REPRESENTATIVES), slow=[c for c in CASES if c.monotone or c.label.split("-")[1] in OF_KINDS[1:]])
@pytest.mark.usefixtures("_on_backend")
def test_gradcheck_and_gradgradcheck(case: Case) -> None:
    net, x = make(case)
    names = [name for name, _ in net.named_parameters()]
    # Finite differences lose what is small beside the output itself, which an exponential makes 10⁶.
    size = net(x[:3]).abs().max().clamp(min=1.0).detach()

    def function(points: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(net, dict(zip(names, parameters)), (points,)) / size

    inputs = (x[:3].requires_grad_(), *(p.detach().requires_grad_() for p in net.parameters()))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, atol=1e-6, rtol=1e-4)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, atol=1e-5, rtol=1e-3)


@representatives
@pytest.mark.usefixtures("_on_backend")
def test_potential_and_gradient_at_once(case: Case) -> None:
    net, x = make(case)
    with torch.no_grad():
        torch.testing.assert_close(net.value_and_gradient(x), (net.potential(x), net(x)), rtol=1e-12, atol=1e-12)


@representatives
@pytest.mark.usefixtures("_on_backend")
def test_jacobian_is_symmetric(case: Case) -> None:
    net, x = make(case)
    jacobian = vmap(jacrev(net))(x)
    scale = jacobian.abs().amax()
    assert scale > 0
    assert (jacobian - jacobian.mT).abs().amax() <= 1e-13 * scale


@each(*((backend, [case for case in CASES if case.monotone]) for backend in BACKENDS))
@pytest.mark.usefixtures("_on_backend")
def test_monotone_jacobian_is_positive_semidefinite(case: Case) -> None:
    net, x = make(case)
    jacobian = vmap(jacrev(net))(5 * x)
    eigenvalues = torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2)
    assert eigenvalues.min() >= -1e-13 * eigenvalues.abs().max()


def test_the_eigenvalue_check_can_fail() -> None:
    """Some network without the leading m has a negative eigenvalue, so the check above says something."""
    smallest = []
    for case in CASES:
        if not case.monotone:
            net, x = make(case)
            jacobian = vmap(jacrev(net))(x)
            smallest.append(torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2).min().item())
    assert min(smallest) < -0.1


@every_case
def test_gradient_of_the_potential_is_the_network(case: Case, backend: str) -> None:
    net, x = make(case)
    x.requires_grad_()
    with gradnets_fast.use_backend(backend):
        potential = net.potential(x)
    assert potential.shape == (POINTS,)
    (gradient,) = torch.autograd.grad(potential.sum(), x)
    with gradnets_fast.use_backend(backend):
        f = net(x)
    assert (gradient - f).abs().max() <= 1e-12 * f.abs().max()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_potential_matches_the_reference_architecture(case: Case) -> None:
    net, x = make(case)
    potential = net.potential(x)
    difference = potential - case.potential(dict(net.named_parameters()), x)
    tolerance = 1e-11 if case.smooth else 2e-3
    assert (difference - difference[0]).abs().max() <= tolerance * (1 + potential.abs().max())


@representatives
@pytest.mark.usefixtures("_on_backend")
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    net, x = make(case)
    net(x).square().sum().backward()
    unused = {"nonlinearity.2.a", "nonlinearity.2.b"} if "reuse" in case.label else set()
    for name, parameter in net.named_parameters():
        if name in unused:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("case", REPRESENTATIVES, ids=lambda case: case.label)
def test_state_dict_pickle_and_copy_round_trip(case: Case) -> None:
    net, x = make(case)
    expected = net(x)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other = case.make(dtype=torch.float64)
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    for twin in (other, pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert torch.equal(twin(x), expected)
        assert repr(twin) == repr(net)


@representatives
@pytest.mark.usefixtures("_on_backend")
def test_shapes_strides_and_the_empty_batch(case: Case) -> None:
    net, x = make(case)
    expected = net(x)
    assert torch.equal(net(x[5]), expected[5]) or torch.allclose(net(x[5]), expected[5], rtol=1e-12)
    assert net(x[:0]).shape == (0, 3)
    with gradnets_fast.use_backend("reference"):
        assert net.potential(x[:0]).shape == (0,)
    strided = torch.empty(3, POINTS, dtype=x.dtype).T.copy_(x)
    assert not strided.is_contiguous()
    torch.testing.assert_close(net(strided), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(net(x[:22].view(2, 11, 3)).reshape(22, 3), expected[:22], rtol=1e-12, atol=1e-14)
    net(x[:0]).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


@every_case
@pytest.mark.usefixtures("_on_backend")
def test_nan_stays_in_its_row(case: Case) -> None:
    net, x = make(case)
    expected = net(x)
    x[4, 1] = float("nan")
    f = net(x)
    assert f[4].isnan().any()
    others = [i for i in range(POINTS) if i != 4]
    assert torch.equal(f[others], expected[others])


def each_derivative(*cases_of_backend: tuple[str, list[Case]], slow: Sequence[Case] = ()) -> pytest.MarkDecorator:
    """Every derivative of the cases of each backend that is named."""
    triples = [
        pytest.param(
            case,
            name,
            backend,
            id=f"{name}-{backend}-{case.label}",
            marks=pytest.mark.slow if case in slow else marks_of(case, backend, name),
        )
        for backend, chosen in cases_of_backend
        for case in chosen
        for name in DERIVATIVES
    ]
    return pytest.mark.parametrize(("case", "name", "backend"), triples)


class _Derivative(torch.nn.Module):
    """One of a network's derivatives as a module's forward, for functional_call."""

    def __init__(self, net: GradNet, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        derivative: Callable[..., Tensor] = getattr(self.net, self.name)
        return derivative(x, v) if self.name == "jvp" else derivative(x)


def by_formula(net: GradNet, name: str) -> Callable[[list[Tensor]], Tensor]:
    """(x, v, *parameters) -> the network's own derivative."""
    module = _Derivative(net, name)
    keys = [key for key, _ in module.named_parameters()]
    return lambda values: functional_call(module, dict(zip(keys, values[2:])), (values[0], values[1]))


def by_autograd(
    function: Callable[[Mapping[str, Tensor], Tensor], Tensor], net: GradNet, name: str
) -> Callable[..., Tensor]:
    """(x, v, *parameters) -> the same, from autograd's Jacobian of function(parameters, x)."""
    keys = [key for key, _ in net.named_parameters()]

    def derivative(values: list[Tensor]) -> Tensor:
        x, v, *parameters = values
        jacobian = vmap(jacrev(lambda point: function(dict(zip(keys, parameters)), point)))(x)
        if name == "jvp":
            return (jacobian @ v.unsqueeze(-1)).squeeze(-1)
        return jacobian if name == "jacobian" else jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)

    return derivative


def leaves(net: GradNet, x: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    return [x, v, *(p.detach() for p in net.parameters())]


@every_case
def test_derivatives_are_those_of_the_network_and_agree_with_each_other(case: Case, backend: str) -> None:
    net, x = make(case)

    def derivative(name: str, *points: Tensor) -> Tensor:
        with gradnets_fast.use_backend(backend):
            result: Tensor = getattr(net, name)(*points)
        return result

    x = torch.cat([x, 5 * x])
    v = torch.randn_like(x)
    jacobian = derivative("jacobian", x)
    tolerance = 1e-13 * jacobian.abs().max().item() * v.abs().max().item()
    assert tolerance > 0

    def close(ours: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)

    close(jacobian, vmap(jacrev(net))(x))
    close(jacobian, jacobian.mT)
    close(derivative("jvp", x, v), jvp(net, (x,), (v,))[1])
    close(derivative("jvp", x, v), (jacobian @ v.unsqueeze(-1)).squeeze(-1))
    close(derivative("divergence", x), jacobian.diagonal(dim1=-2, dim2=-1).sum(-1))


@each_derivative(("cpp", WITH_KERNELS_OF_THEIR_OWN), ("reference", REPRESENTATIVES))
@pytest.mark.usefixtures("_on_backend")
def test_derivatives_and_their_gradients_match_the_reference_architecture(case: Case, name: str) -> None:
    for dtype in (torch.float64, torch.float32):
        net, x = make(case, dtype)
        tensors = leaves(net, x)
        eager = by_autograd(case.reference, net, name)
        ours = by_formula(net, name)
        g = torch.randn_like(ours(tensors))
        assert_as_good_as_eager(outputs_and_gradients(ours, tensors, g), *eager_and_exact(eager, tensors, g))


@each_derivative(
    ("cpp", [case for case in REPRESENTATIVES if case.smooth]), slow=[case for case in CASES if case.monotone]
)
@pytest.mark.usefixtures("_on_backend")
def test_gradcheck_of_derivatives(case: Case, name: str) -> None:
    net, x = make(case)
    function = by_formula(net, name)
    inputs = [t.requires_grad_() for t in leaves(net, x[:3])]
    size = function(inputs).abs().max().clamp(min=1.0).detach()
    check = torch.autograd.gradcheck
    assert check(lambda *values: function(list(values)) / size, inputs, fast_mode=True, atol=1e-6, rtol=1e-4)


@each_derivative(("cpp", REPRESENTATIVES), ("reference", REPRESENTATIVES))
@pytest.mark.usefixtures("_on_backend")
def test_shapes_strides_and_nan_of_derivatives(case: Case, name: str) -> None:
    net, x = make(case)
    _, v, *_ = leaves(net, x)
    function = _Derivative(net, name)
    expected = function(x, v)
    assert expected.shape == x.shape[:1] + {"jvp": (3,), "divergence": (), "jacobian": (3, 3)}[name]
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12 * expected.abs().max().item())
    close(function(x[5], v[5]), expected[5])
    close(function(x[:22].view(2, 11, 3), v[:22].view(2, 11, 3)).reshape(expected[:22].shape), expected[:22])
    strided = torch.empty(3, POINTS, dtype=x.dtype).T.copy_(x)
    close(function(strided, v), expected)
    empty = function(x[:0], v[:0])
    assert empty.shape == expected[:0].shape
    empty.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())
    x[4, 1] = float("nan")
    result = function(x, v)
    assert result[4].isnan().any()
    others = [i for i in range(POINTS) if i != 4]
    assert torch.equal(result[others], expected[others])
