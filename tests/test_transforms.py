"""torch.compile, torch.func, opcheck and export over the operators."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import functional
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import gradnets_fast as gf
from covering import slow_but, slow_but_few
from gradnets_fast.nn.base import METHODS

NETWORKS = {
    "cascade": lambda: gf.mGradNetC(3, 3, 9, "weighted_tanh", linear="psd", dtype=torch.float64),
    "mixture": lambda: gf.RidgeGradNet(3, 9, ["tanh", "sin"], dtype=torch.float64),
    "softmax": lambda: gf.GradNetM(2, 3, 9, "softmax", dtype=torch.float64),
    "weighted_softmax": lambda: gf.mGradNetM(2, 3, 9, "weighted_softmax", dtype=torch.float64),
    "transformed": lambda: gf.mGradNetM(2, 3, 9, "tanh", transform="half_square", dtype=torch.float64),
    "soft_maximum": lambda: gf.mGradNetM(
        *(2, 3, 9, "softplus"), transform="half_square", combine="logsumexp", dtype=torch.float64
    ),
    "deep": lambda: gf.DeepGradNet(3, (9, 7), "softplus", dtype=torch.float64),
}
each_network = pytest.mark.parametrize("name", list(NETWORKS))
FEW_METHODS = slow_but_few(list(product(NETWORKS, METHODS)))


def network(name: str) -> tuple[nn.Module, Tensor]:
    return NETWORKS[name](), torch.randn(8, 3, dtype=torch.float64)


def both(function: object) -> tuple[Tensor, Tensor]:
    """The result on compiled kernels, and on the reference."""
    with gf.use_backend("cpp"):
        ours = function()  # type: ignore[operator]
    with gf.use_backend("reference"):
        return ours, function()  # type: ignore[operator]


@each_network
def test_any_dimension_can_be_mapped(name: str) -> None:
    net, x = network(name)
    columns, v = x.T.contiguous(), torch.randn(8, 3, dtype=torch.float64)
    torch.testing.assert_close(vmap(net, in_dims=1)(columns), net(x))
    torch.testing.assert_close(vmap(net.jvp, in_dims=(1, 0))(columns, v), net.jvp(x, v))
    torch.testing.assert_close(vmap(jacrev(net), in_dims=1)(columns), net.jacobian(x))


@each_network
@pytest.mark.parametrize("jacobian", [jacrev, jacfwd], ids=lambda f: f.__name__)
def test_vmapped_jacobian(name: str, jacobian: object) -> None:
    net, x = network(name)
    torch.testing.assert_close(*both(lambda: vmap(jacobian(net))(x)))  # type: ignore[operator]


def quantity(net: Any, method: str, x: Tensor) -> Tensor:
    """One of the network's methods at x, J(x) v for a fixed v, potential and gradient as one tensor."""
    if method == "value_and_gradient":
        F, f = net.value_and_gradient(x)
        return torch.cat([f, F.unsqueeze(-1)], -1)
    if method == "slogdet":
        return net.slogdet(x)[1]
    return net.jvp(x, torch.ones_like(x)) if method == "jvp" else getattr(net, method)(x)


@pytest.mark.parametrize(("name", "method"), FEW_METHODS)
def test_vmapped_second_derivatives_in_every_mode(name: str, method: str) -> None:
    net, x = network(name)
    function = partial(quantity, net, method)
    with gf.use_backend("reference"):
        expected = vmap(jacrev(jacrev(function)))(x[:2])
    for outer, inner in product((jacrev, jacfwd), repeat=2):
        torch.testing.assert_close(vmap(outer(inner(function)))(x[:2]), expected)


@pytest.mark.parametrize(("name", "method"), FEW_METHODS)
def test_functions_of_autograd_functional(name: str, method: str) -> None:
    """Their vectorize=True maps by another vmap than torch.func's, their jvp and hvp by two backward passes."""
    net, x = network(name)
    x = x[:2]
    v = torch.randn_like(x)
    function = partial(quantity, net, method)

    def scalar(points: Tensor) -> Tensor:
        return function(points).square().sum()

    def second(points: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(scalar(points), points, create_graph=True)
        return torch.autograd.grad(first, points, torch.stack([v, -v]), is_grads_batched=True)[0]

    def gradient_of_jvp(points: Tensor) -> Tensor:
        return torch.autograd.grad(functional.jvp(function, points, v, create_graph=True)[1].sin().sum(), points)[0]

    forward = {"vectorize": True, "strategy": "forward-mode"}
    for of_points in (
        lambda: functional.jacobian(function, x, vectorize=True),
        lambda: functional.jacobian(function, x, **forward),
        lambda: functional.hessian(scalar, x, vectorize=True),
        lambda: functional.hessian(scalar, x, vectorize=True, outer_jacobian_strategy="forward-mode"),
        lambda: functional.jvp(function, x, v)[1],
        lambda: functional.hvp(scalar, x, v)[1],
        lambda: functional.vhp(scalar, x, v)[1],
        lambda: second(x.clone().requires_grad_()),
        lambda: gradient_of_jvp(x.clone().requires_grad_()),
    ):
        torch.testing.assert_close(*both(of_points))


@each_network
def test_hessian_vector_products_in_the_parameters(name: str) -> None:
    """What trust-region methods take."""
    net, x = network(name)
    names, values = zip(*((key, value.detach()) for key, value in net.named_parameters()))
    directions = tuple(torch.randn_like(value) for value in values)

    def loss(*parameters: Tensor) -> Tensor:
        return functional_call(net, dict(zip(names, parameters)), (x,)).square().sum()

    ours, expected = both(lambda: functional.hvp(loss, values, directions)[1])
    for mine, theirs in zip(ours, expected):
        torch.testing.assert_close(mine, theirs)


@each_network
@pytest.mark.parametrize("mapped", [lambda f: f, vmap, jacfwd], ids=["plain", "vmap", "jacfwd"])
def test_inference_mode_with_gradients_enabled_inside_of_it(name: str, mapped: Any) -> None:
    net, x = network(name)
    for method in METHODS:
        function = mapped(partial(quantity, net, method))
        expected = function(x)
        with torch.inference_mode(), torch.enable_grad():
            for points in (x, x.clone()):  # the latter an inference tensor
                torch.testing.assert_close(function(points), expected)


@each_network
def test_hessian_of_a_scalar(name: str) -> None:
    net, x = network(name)
    torch.testing.assert_close(*both(lambda: hessian(lambda p: net(p).square().sum())(x[0])))


@each_network
def test_per_sample_gradients_of_the_parameters(name: str) -> None:
    net, x = network(name)
    parameters = dict(net.named_parameters())

    def loss(values: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(net, values, (point,)).square().sum()

    ours, expected = both(lambda: vmap(grad(loss), in_dims=(None, 0))(parameters, x))
    for key in parameters:
        torch.testing.assert_close(ours[key], expected[key])


@each_network
def test_tangents_of_points_and_parameters(name: str) -> None:
    net, x = network(name)
    parameters = {key: value.detach() for key, value in net.named_parameters()}
    directions = {key: torch.randn_like(value) for key, value in parameters.items()}
    v = torch.randn_like(x)

    def f(values: dict[str, Tensor], points: Tensor) -> Tensor:
        return functional_call(net, values, (points,))

    torch.testing.assert_close(*both(lambda: jvp(f, (parameters, x), (directions, v))[1]))
    ours = jvp(lambda points: f(parameters, points), (x,), (v,))[1]
    assert ours.abs().max() > 0  # a silent zero is the known failure of registered operators
    torch.testing.assert_close(ours, torch.einsum("nij,nj->ni", vmap(jacrev(net))(x), v))


@each_network
def test_an_ensemble_by_vmap_over_parameters(name: str) -> None:
    nets = [network(name)[0] for _ in range(3)]
    x = network(name)[1]
    stacked, _ = torch.func.stack_module_state(nets)  # type: ignore[arg-type]
    together = vmap(lambda values: functional_call(nets[0], values, (x,)))(stacked)
    torch.testing.assert_close(together, torch.stack([n(x) for n in nets]))


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@each_network
def test_functionalize_alone_and_beside_other_transforms(name: str, backend: str) -> None:
    net, x = network(name)

    def loss(points: Tensor) -> Tensor:
        return (net.potential(points) + net(points).square().sum(-1)).sum()

    expected = net(x), net.potential(x), grad(loss)(x)
    with gf.use_backend(backend):
        for transform in (functionalize(grad(loss)), grad(functionalize(loss))):
            torch.testing.assert_close(transform(x), expected[2])
        torch.testing.assert_close(functionalize(vmap(net))(x), expected[0])
        graph = make_fx(functionalize(net))(x)
        torch.testing.assert_close((graph(x), functionalize(net.potential)(x)), expected[:2])
    assert ("gradnets_fast" in graph.code) == (backend == "cpp")


def compiler(name: str) -> str:
    """One network goes through the whole compiler; what it makes of the operators shows before it writes code."""
    return "inductor" if name == "cascade" else "aot_eager"


@pytest.mark.parametrize("name", slow_but(["weighted_softmax"], ["cascade", "weighted_softmax", "transformed"]))
def test_compiles_without_graph_breaks_for_any_batch(name: str) -> None:
    net, x = network(name)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=compiler(name))
    for points in (x, x[:5]):
        points = points.clone().requires_grad_()
        expected = net(points)
        y = compiled(points)
        torch.testing.assert_close(y, expected)
        ours = torch.autograd.grad(y.square().sum(), [points, *net.parameters()])
        for got, wanted in zip(ours, torch.autograd.grad(expected.square().sum(), [points, *net.parameters()])):
            torch.testing.assert_close(got, wanted)
    with gf.use_backend("reference"):
        torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize("limit", slow_but([1], [1, 8]))
def test_networks_compiled_in_turn_keep_their_gradients(limit: int) -> None:
    """All share the code of `forward`: beyond the limit of its compilations, PyTorch compiles what it calls."""
    torch.compiler.reset()
    modes: tuple[Any, ...] = (torch.no_grad, torch.inference_mode, torch.enable_grad)
    networks = [network(name)[0] for name in (*NETWORKS, "soft_maximum")]
    with torch._dynamo.config.patch(cache_size_limit=limit):
        for net in networks:
            compiled = torch.compile(net, backend="aot_eager")
            for batch, mode, moves in product((4, 7, 1), modes, (False, True)):
                with mode():
                    x = torch.ones(batch, 3, dtype=torch.float64, requires_grad=moves)
                    y, expected = compiled(x), net(x)
                torch.testing.assert_close(y, expected)
                assert y.requires_grad == expected.requires_grad
                if y.requires_grad:
                    ours, wanted = (
                        torch.autograd.grad(f.square().sum(), list(net.parameters())) for f in (y, expected)
                    )
                    torch.testing.assert_close(ours, wanted)


def derivatives(net: gf.nn.GradNet, x: Tensor) -> Tensor:
    """J(x) x, tr J(x) and J(x) side by side."""
    return torch.cat([net.jvp(x, x), net.divergence(x).unsqueeze(-1), net.jacobian(x).flatten(-2)], -1)


@each_network
def test_derivatives_under_transforms(name: str) -> None:
    net, x = network(name)
    expected = derivatives(net, x)
    f = partial(derivatives, net)
    torch.testing.assert_close(vmap(f)(x), expected)
    torch.testing.assert_close(vmap(jacfwd(f))(x), vmap(jacrev(f))(x))
    torch.testing.assert_close(vmap(jacfwd(jacrev(f)))(x), vmap(jacrev(jacrev(f)))(x))
    torch.testing.assert_close(make_fx(f)(x)(2 * x), f(2 * x))


@pytest.mark.parametrize("name", slow_but(["weighted_softmax", "deep"], list(NETWORKS)))
def test_derivatives_compile_without_graph_breaks(name: str) -> None:
    net, x = network(name)
    torch.compiler.reset()
    compiled = torch.compile(lambda points: derivatives(net, points), fullgraph=True, backend=compiler(name))
    points = x.clone().requires_grad_()
    expected, ours = derivatives(net, points), compiled(points)
    torch.testing.assert_close(ours, expected)
    tensors = [points, *net.parameters()]
    for got, wanted in zip(
        torch.autograd.grad(ours.square().sum(), tensors, materialize_grads=True),
        torch.autograd.grad(expected.square().sum(), tensors, materialize_grads=True),
    ):
        torch.testing.assert_close(got, wanted)


aot_compiled = partial(torch.compile, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: aot_compiled(lambda p: jvp(net, (p,), (p,))[1], fullgraph=True)(x),
        lambda net, x: aot_compiled(lambda p: vmap(jacrev(net))(p))(x),
        lambda net, x: aot_compiled(lambda p: grad(lambda q: net(q).square().sum())(p))(x),
        lambda net, x: jvp(torch.compile(net), (x,), (x,))[1],
        lambda net, x: vmap(jacfwd(aot_compiled(net)))(x),
        lambda net, x: vmap(jacrev(aot_compiled(net)))(x),
    ],
    ids=[
        "compiled jvp",
        "compiled jacrev",
        "compiled grad",
        "jvp of compiled",
        "jacfwd of compiled",
        "jacrev of compiled",
    ],
)
@pytest.mark.filterwarnings("ignore")  # the compiler's own, about graph breaks and its deprecations
def test_functional_transforms_and_compilation_combine(function: object) -> None:
    net, x = network("cascade")
    ours, expected = [], []
    for backend, results in (("cpp", ours), ("reference", expected)):
        torch.compiler.reset()
        with gf.use_backend(backend):
            results.append(function(net, x))  # type: ignore[operator]
    torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformed", "soft_maximum"])
def test_mapped_gradients_compile(name: str) -> None:
    net, x = network(name)
    torch.compiler.reset()
    compiled = aot_compiled(lambda points: vmap(grad(net.potential))(points), fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))


@each_network
def test_batched_traced_and_fake_tensors(name: str) -> None:
    net, x = network(name)
    torch.testing.assert_close(*both(lambda: torch.autograd.functional.jacobian(net, x, vectorize=True)))
    torch.testing.assert_close(make_fx(net)(x)(2 * x), net(2 * x))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert net(mode.from_tensor(x)).shape == x.shape


@each_network
def test_more_derivatives_than_kernels_have_are_refused(name: str) -> None:
    net, x = network(name)
    parameters = {key: value.detach() for key, value in net.named_parameters()}
    directions = {key: torch.ones_like(value) for key, value in parameters.items()}

    def tangent(values: dict[str, Tensor]) -> Tensor:
        return jvp(lambda v: functional_call(net, v, (x,)), (values,), (directions,))[1]

    refusal = pytest.raises(RuntimeError, match=r'at most two derivatives.*use_backend\("reference"\)')
    with refusal:
        jvp(tangent, (parameters,), (directions,))
    for first, second, third in product((jacrev, jacfwd), repeat=3):
        with refusal:
            first(second(third(net)))(x[0])
    ours, expected = both(lambda: grad(lambda v: tangent(v).sin().sum())(parameters))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["cascade", "weighted_softmax"])
def test_exports(name: str) -> None:
    net, x = network(name)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.testing.assert_close(program.module()(x[:5]), net(x[:5]))
    assert any("gradnets_fast" in str(node.target) for node in program.graph.nodes)


def operator_samples() -> list[tuple[object, tuple[object, ...]]]:
    def parameter(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    assert gf.ops.OPERATORS["ridge"]["value"].cpp.name == "ridge"
    ops = torch.ops.gradnets_fast
    ridge = (parameter(5, 3), parameter(4, 3), parameter(2, 4), parameter(2, 4), parameter(2, 1, 4), parameter(3))
    softmax = (parameter(5, 3), parameter(2, 4, 3), parameter(2, 4), parameter(2), parameter(2), None, parameter(3))
    transformed = (parameter(5, 3), parameter(2, 4, 3), parameter(2, 4), parameter(2), None)
    return [
        (ops.ridge.default, (*ridge, "tanh")),
        (ops.softmax_modules.default, (*softmax, "")),
        (ops.transformed_modules.default, (*transformed, "tanh:half_square")),
        (ops.ridge_backward.default, (parameter(5, 3), *ridge, "tanh", [True, True, False, True, True, True])),
    ]


def test_vmap_over_a_registered_gradient() -> None:
    operator, (g, *rest) = operator_samples()[3]
    rest = [t.detach() if isinstance(t, Tensor) else t for t in rest]
    rest[-1] = [True] + [False] * 5
    batch = torch.randn(4, *g.shape, dtype=torch.float64)  # type: ignore[attr-defined]
    together = vmap(lambda cotangent: operator(cotangent, *rest)[0])(batch)  # type: ignore[operator]
    torch.testing.assert_close(together, torch.stack([operator(b, *rest)[0] for b in batch]))  # type: ignore[operator]


@pytest.mark.parametrize("index", range(4))
def test_opcheck(index: int) -> None:
    operator, arguments = operator_samples()[index]
    torch.library.opcheck(operator, arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["mGradNetC(2, 3, 8)", "mGradNetM(2, 3, 8)"])
def test_compiled_networks_run_the_registered_operators(network: str) -> None:
    torch.compiler.reset()
    net = eval(f"gf.{network}")
    code = []

    def inspected(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        code.append(graph.code)
        return graph.forward

    x = torch.randn(10, 3)
    compiled = torch.compile(net, backend=inspected, fullgraph=True)(x)
    assert f"torch.ops.gradnets_fast.{net.operator_name}(" in code[0]
    torch.testing.assert_close(compiled, net(x))


def test_the_compilers_caches_tell_sources_of_the_operators_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = NETWORKS["cascade"](), torch.randn(4, 3, dtype=torch.float64)
    graphs = []
    for source in ("one", "another"):
        monkeypatch.setattr("gradnets_fast.ops.families.SOURCE", source)
        torch.compiler.reset()
        graphs.append(torch.export.export(net, (x,)))
        torch.testing.assert_close(graphs[-1].module()(x), net(x))
    assert graphs[0].graph_module.code != graphs[1].graph_module.code


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("network", ["mGradNetC(2, 3, 8)", "mGradNetM(2, 3, 8)"])
def test_a_traced_network_computes_at_other_points(network: str, grad: bool) -> None:
    net, x, y = eval(f"gf.{network}"), torch.randn(5, 3), torch.randn(7, 3)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(net, x)
        torch.testing.assert_close(traced(y), net(y))
