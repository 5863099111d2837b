"""Bad input: one line, naming the argument, what was expected, what came, and the fix."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import gradnets_fast as gf
from gradnets_fast.nn.base import METHODS
from gradnets_fast.nn.registry import ARCHITECTURES

D, H, L, M = 3, 5, 2, 2


def ridge_arguments(**changes: Any) -> dict[str, Any]:
    shapes = {"x": (4, D), "W": (H, D), "scale": (L, H), "shift": (L, H), "coef": (L, 1, H), "bias": (D,)}
    return {**{name: torch.ones(shape) for name, shape in shapes.items()}, "basis": "tanh", **changes}


def softmax_arguments(**changes: Any) -> dict[str, Any]:
    shapes = {
        "x": (4, D),
        "W": (M, H, D),
        "b": (M, H),
        "temperature": (M,),
        "positive": (M,),
        "negative": (M,),
        "bias": (D,),
    }
    return {**{name: torch.ones(shape) for name, shape in shapes.items()}, **changes}


def transformed_arguments(**changes: Any) -> dict[str, Any]:
    shapes = {"x": (4, D), "W": (M, H, D), "b": (M, H), "weight": (M,), "bias": (D,)}
    return {**{name: torch.ones(shape) for name, shape in shapes.items()}, **changes}


def deep_arguments(**changes: Any) -> dict[str, Any]:
    count = H * D + H + H * H + H + H
    shapes = {"x": (4, D), "theta": (count,), "bias": (D,)}
    return {**{name: torch.ones(shape) for name, shape in shapes.items()}, "widths": (H, H), **changes}


def conv_arguments(**changes: Any) -> dict[str, Any]:
    shapes = {"x": (4, 2, 6), "K": (H, 2, 3), "scale": (L, H), "shift": (L, H), "coef": (L, 1, H), "bias": (2,)}
    return {**{name: torch.ones(shape) for name, shape in shapes.items()}, "basis": "tanh", **changes}


FAMILIES = {
    "ridge": ridge_arguments,
    "softmax_modules": softmax_arguments,
    "transformed_modules": transformed_arguments,
    "deep": deep_arguments,
    "conv_ridge": conv_arguments,
}


def jvp_arguments(arguments: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda **changes: {**arguments(v=torch.ones_like(arguments()["x"])), **changes}


OPERATORS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., dict[str, Any]]]] = {}
for family, arguments in FAMILIES.items():
    for suffix in ("", "_potential", "_divergence", *["_jacobian"] * (family != "conv_ridge")):
        OPERATORS[family + suffix] = (getattr(gf, family + suffix), arguments)
    OPERATORS[f"{family}_jvp"] = (getattr(gf, f"{family}_jvp"), jvp_arguments(arguments))
TENSORS = {
    operator: [name for name, value in arguments().items() if isinstance(value, torch.Tensor)]
    for operator, (_, arguments) in OPERATORS.items()
}


def rejection(operator: str, error: type[Exception] | tuple[type[Exception], ...], **changes: Any) -> str:
    function, arguments = OPERATORS[operator]
    function(**arguments())
    with pytest.raises(error) as caught:
        function(**arguments(**changes))
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{operator}: ")
    for word in ("expected ", ", got ", "; "):
        assert word in text
    return text


@pytest.mark.parametrize("operator", TENSORS)
def test_not_a_tensor(operator: str) -> None:
    for name in TENSORS[operator]:
        assert f": {name}: expected a torch.Tensor, got list" in rejection(operator, TypeError, **{name: [1.0]})


@pytest.mark.parametrize("operator", TENSORS)
def test_none_and_sparse_tensors(operator: str) -> None:
    for name in TENSORS[operator]:
        function, arguments = OPERATORS[operator]
        if name in ("bias", "negative", "scale", "coef"):
            function(**arguments(**{name: None}))
        else:
            assert "got NoneType" in rejection(operator, TypeError, **{name: None})
        assert "a dense tensor" in rejection(operator, TypeError, **{name: arguments()[name].to_sparse()})


@pytest.mark.parametrize("operator", TENSORS)
def test_wrong_shape(operator: str) -> None:
    for name in TENSORS[operator]:
        good = OPERATORS[operator][1]()[name]
        shape = [*good.shape]
        # An image may have any size, but not any number of channels.
        shape[-2 if operator.startswith("conv") and name in ("x", "K", "v") else -1] += 1
        text = rejection(operator, ValueError, **{name: torch.ones(shape)})
        assert "shape" in text
        # Another number of columns of W is taken for another d: then x is what does not fit; and theta for another x.
        unfit = "theta" if name == "x" and operator.startswith("deep") else name
        assert f": {'x' if name in ('W', 'K') else unfit}: " in text
        if name not in ("x", "K"):
            assert f": {name}: " in rejection(operator, ValueError, **{name: torch.ones(2, *good.shape)})


@pytest.mark.parametrize("operator", TENSORS)
def test_wrong_dtype(operator: str) -> None:
    for name in TENSORS[operator]:
        text = rejection(operator, TypeError, **{name: OPERATORS[operator][1]()[name].double()})
        assert "dtype" in text
        assert "float64" in text
        if name == "x":
            integers = OPERATORS[operator][1]()["x"].long()
            assert "bfloat16 or float16), got torch.int64" in rejection(operator, TypeError, x=integers)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_only_vectors_are_float32_beside_points_of_16_bits(operator: str, backend: str | None) -> None:
    function, arguments = OPERATORS[operator]
    half = {name: v.bfloat16() for name, v in arguments().items() if isinstance(v, torch.Tensor)}
    for name in half.keys() - {"x"}:
        changed = {**half, name: half[name].float()}
        if name in ("W", "K", "theta", "v"):
            assert f": {name}: expected dtype torch.bfloat16" in rejection(
                operator, TypeError, **changed, backend=backend
            )
        else:
            function(**arguments(**changed), backend=backend)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "_mkldnn": torch.Tensor.to_mkldnn,
    "sparse_coo": torch.Tensor.to_sparse,
    "sparse_csr": lambda t: torch.eye(2).to_sparse_csr(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "nested tensor": lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
}
DTYPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "complex64": lambda t: t.to(torch.complex64),
    "float8_e5m2": lambda t: t.to(torch.float8_e5m2),
    "bool": torch.Tensor.bool,
    "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:.*(beta state|prototype stage|quantized):UserWarning")
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("operator", TENSORS)
def test_unusual_layouts_and_dtypes(operator: str, backend: str | None) -> None:
    for name in TENSORS[operator]:
        good = OPERATORS[operator][1]()[name]
        for kinds in (LAYOUTS, DTYPES):
            for words, make in kinds.items():
                text = rejection(operator, TypeError, **{name: make(good)}, backend=backend)
                assert f": {name}: expected " in text
                assert words in text


@pytest.mark.parametrize("operator", TENSORS)
def test_wrong_device(operator: str) -> None:
    for name in TENSORS[operator]:
        text = rejection(operator, ValueError, **{name: OPERATORS[operator][1]()[name].to("meta")})
        assert "device" in text
        assert "meta" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_must_have_the_shape_and_dtype_of_the_points(family: str) -> None:
    jvp = f"{family}_jvp"
    x = FAMILIES[family]()["x"]
    text = rejection(jvp, ValueError, v=x[0])
    assert f" of x = {tuple(x.shape)}, got shape {tuple(x[0].shape)}; " in text
    assert ": v: expected shape (…, " in text
    assert ": v: " in rejection(jvp, ValueError, x=torch.stack([x, x]))
    half = {name: t.bfloat16() for name, t in OPERATORS[jvp][1]().items() if isinstance(t, torch.Tensor)}
    assert ": v: expected dtype torch.bfloat16 like x" in rejection(jvp, TypeError, **{**half, "v": x})


def test_every_operator_is_enumerated_here() -> None:
    assert set(OPERATORS) == set(gf.functional.__all__)


@pytest.mark.parametrize("suffix", ["", "_potential", "_jvp", "_divergence", "_jacobian"])
def test_unknown_basis_and_transform(suffix: str) -> None:
    assert "one of identity, tanh, sigmoid" in rejection("ridge" + suffix, ValueError, basis="mish")
    assert "at least one name" in rejection("ridge" + suffix, ValueError, basis=[])
    assert "a sequence of names, got 3" in rejection("ridge" + suffix, TypeError, basis=3)
    assert "a sequence of names, got None" in rejection("ridge" + suffix, TypeError, basis=None)
    assert "a sequence of names, got <" in rejection("ridge" + suffix, TypeError, basis=iter(["tanh"]))
    assert "'mish'" in rejection("transformed_modules" + suffix, ValueError, basis="mish")
    assert "a name, got None" in rejection("transformed_modules" + suffix, TypeError, basis=None)
    assert "half_square" in rejection("transformed_modules" + suffix, ValueError, transform="cube")
    assert "(L, K, h) = (2, 2, 5)" in rejection("ridge" + suffix, ValueError, basis=["tanh", "sin"])
    assert "'mish'" in rejection("deep" + suffix, ValueError, basis=["tanh", "mish"])
    assert "one for each of 2 layers, got 3 names" in rejection("deep" + suffix, ValueError, basis=["tanh"] * 3)
    assert "at least one width" in rejection("deep" + suffix, ValueError, widths=())
    assert "equal widths" in rejection("deep" + suffix, ValueError, widths=[4, 5], residual=True)
    assert "rank: expected an int of 0 or more, got -1" in rejection("deep" + suffix, ValueError, rank=-1)
    assert "rank: expected an int of 0 or more, got '1'" in rejection("deep" + suffix, TypeError, rank="1")
    for widths in (8, None, "88", (8.0, 8.0)):
        assert "widths: expected at least one" in rejection("deep" + suffix, (TypeError, ValueError), widths=widths)
    assert "input_skip: expected True" in rejection("deep" + suffix, TypeError, input_skip="quadratic")
    assert "residual: expected True" in rejection("deep" + suffix, TypeError, residual="no")
    for basis in (None, 5, (5,)):
        assert "basis: expected a name or" in rejection("deep" + suffix, TypeError, basis=basis)
    assert ": x: expected shape (…, d), got shape ()" in rejection("deep" + suffix, ValueError, x=torch.ones(()))


CONVOLUTIONS = [operator for operator in OPERATORS if operator.startswith("conv")]


@pytest.mark.parametrize("operator", CONVOLUTIONS)
def test_filters_and_images_that_do_not_fit(operator: str) -> None:
    def rejected(error: type[Exception] = ValueError, **changes: Any) -> str:
        if "x" in changes and operator.endswith("jvp"):
            changes["v"] = changes["x"]
        return rejection(operator, error, **changes)

    assert ": padding: expected one of zeros, circular, got 'same'; " in rejected(padding="same")
    assert ": padding: expected one of zeros, circular, got 1; " in rejected(padding=1)
    for shape in ((H, 2), (H, 2, 0), (0, 2, 3), (H, 2, 1, 1, 1, 1)):
        assert f": K: expected a nonempty (C, C_in, k_1, …, k_s), s = 1, 2 or 3, got shape {shape}; " in rejected(
            K=torch.ones(shape)
        )
    for shape in ((6,), (4, 3, 6), (4, 2, 0), (2, 6, 4)):
        text = rejected(x=torch.ones(shape))
        assert f": x: expected shape (…, 2, n_1), K being (5, 2, 3), got shape {shape}; put the channels" in text
    text = rejected(K=torch.ones(H, 2, 3, 7, 2), x=torch.ones(1, 2, 3, 6, 5), padding="circular")
    assert ": K: expected filters of at most (3, 6, 5), the image's size, got (3, 7, 2); " in text
    assert 'padding="zeros"' in text
    assert "(L, C) = (2, 5), got shape (2, 4); " in rejected(scale=torch.ones(2, 4))
    assert "(L, K, C) = (2, 2, 5), got shape (2, 1, 5); " in rejected(basis=["tanh", "sin"])
    assert ": K: expected dtype torch.bfloat16 like x" in rejected(
        TypeError, x=torch.ones(4, 2, 6, dtype=torch.bfloat16), bias=None
    )
    assert "one of identity, tanh" in rejected(basis="mish")


def test_the_jacobian_of_images_is_refused_with_its_size_and_the_way_out() -> None:
    arguments = conv_arguments()
    x, K = arguments.pop("x"), arguments.pop("K")
    with pytest.raises(NotImplementedError, match=r"^conv_ridge: quantity: .*\(C_in·n_1·…·n_s\)².*; .* jvp, or torch"):
        gf.functional.ConvRidge(K, **arguments).jacobian(x)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: gf.mGradNetC(2, 2, 3, dtype=torch.complex64), TypeError, ["mGradNetC: dtype", "torch.complex64"]),
        (lambda: gf.GradNetM(2, 2, 3, dtype=torch.int8), TypeError, ["GradNetM: dtype", "torch.int8"]),
        (lambda: gf.RidgeGradNet(2, 3, dtype="float32"), TypeError, ["RidgeGradNet: dtype", "'float32'"]),
        (lambda: gf.mGradNetC(2, 2, 3, None), TypeError, ["activation", "got None"]),
        (lambda: gf.mGradNetC(0, 2, 3), ValueError, ["mGradNetC: num_layers", "positive", "got 0"]),
        (lambda: gf.mGradNetC(2, 2.0, 3), TypeError, ["in_dim", "got 2.0"]),
        (lambda: gf.GradNetM(True, 2, 3), TypeError, ["num_modules", "got True"]),
        (lambda: gf.mRidgeGradNet(2, -1), ValueError, ["embed_dim", "got -1"]),
        (lambda: gf.mGradNetC(2, 2, 3, "mish"), ValueError, ["one of identity, tanh", "weighted_tanh", "'mish'"]),
        (lambda: gf.mGradNetC(2, 2, 3, "sin"), ValueError, ["nondecreasing functions (identity, tanh", "got sin"]),
        (lambda: gf.mRidgeGradNet(2, 3, ["tanh", "gelu"]), ValueError, ["nondecreasing", "gelu"]),
        (lambda: gf.GradNetC(2, 2, 3, nn.Mish()), ValueError, ["one of identity, tanh", "torch.nn.Mish"]),
        (lambda: gf.GradNetC(2, 2, 3, lambda: nn.Hardswish()), ValueError, ["torch.nn.Hardswish"]),
        (lambda: gf.GradNetC(2, 2, 3, nn.ELU(alpha=2.0)), ValueError, ["ELU.alpha", "1.0", "2.0"]),
        (lambda: gf.GradNetC(2, 2, 3, nn.GELU("tanh")), ValueError, ["GELU.approximate", "'none'", "'tanh'"]),
        (lambda: gf.GradNetC(2, 2, 3, torch.tanh), TypeError, ["activation", "activation='tanh'"]),
        (lambda: gf.GradNetC(2, 2, 3, 7), TypeError, ["activation", "got 7"]),
        (lambda: gf.GradNetC(2, 2, 3, []), TypeError, ["activation", "got []"]),
        (lambda: gf.GradNetC(2, 2, 3, "softmax"), ValueError, ["'softmax'", "tanh"]),
        (lambda: gf.GradNetM(2, 2, 3, "tanh"), ValueError, ["softmax or weighted_softmax", "transform="]),
        (lambda: gf.GradNetM(2, 2, 3, "softmax", transform="exp"), ValueError, ["elementwise"]),
        (lambda: gf.GradNetM(2, 2, 3, nn.Softmax(dim=0)), ValueError, ["Softmax.dim", "-1", "got 0"]),
        (lambda: gf.mGradNetM(2, 2, 3, "softplus", transform="log"), ValueError, ["keeps convexity", "log is concave"]),
        (lambda: gf.GradNetM(2, 2, 3, "tanh", transform="cube"), ValueError, ["transform", "half_square", "'cube'"]),
        (lambda: gf.mGradNetC(2, 2, 3, linear="symmetric"), ValueError, ["linear", "'psd' or None"]),
        (lambda: gf.GradNetC(2, 2, 3, linear="full"), ValueError, ["one of psd, symmetric", "'full'"]),
        (lambda: gf.DeepGradNet(2, ()), ValueError, ["widths", "at least one width"]),
        (lambda: gf.DeepGradNet(2, 8), TypeError, ["widths", "pass (64, 64)"]),
        (lambda: gf.DeepGradNet(2, (8, 0)), ValueError, ["widths", "positive", "got (8, 0)"]),
        (lambda: gf.DeepGradNet(2, "88"), TypeError, ["widths", "got '88'"]),
        (lambda: gf.DeepGradNet(2, (8, 9), residual=True), ValueError, ["equal widths", "(8, 9)"]),
        (lambda: gf.DeepGradNet(2, (8, 9), ["tanh"]), ValueError, ["activation", "2 activations", "got 1"]),
        (lambda: gf.DeepGradNet(2, (8,), "weighted_tanh"), ValueError, ["without weights", "weighted_tanh"]),
        (lambda: gf.DeepGradNet(2, (8,), input_skip="cubic"), ValueError, ["input_skip", "'quadratic'", "'cubic'"]),
        (lambda: gf.DeepGradNet(2, (8,), input_skip="quadratic", rank=0), ValueError, ["rank", "got 0"]),
        (lambda: gf.DeepGradNet(2, (8,), inverse_temperature=0.0), ValueError, ["inverse_temperature", "above 0"]),
        (lambda: gf.DeepGradNet(2, (8,), inverse_temperature="a"), TypeError, ["inverse_temperature", "got 'a'"]),
        (lambda: gf.DeepGradNet(2, (8,), inverse_temperature=float("inf")), ValueError, ["finite", "got inf"]),
        (lambda: gf.DeepGradNet(2, (8,), rank=2), ValueError, ["rank", "input_skip='quadratic'"]),
        (lambda: gf.DeepGradNet(2, (8,), input_skip=1), ValueError, ["input_skip", "got 1"]),
        (lambda: gf.DeepGradNet(2, (8, 8), residual="no"), TypeError, ["residual", "got 'no'"]),
        (lambda: gf.mDeepGradNet(2, (8,), "tanh"), ValueError, ["convex functions (identity, softplus", "got tanh"]),
        (lambda: gf.mDeepGradNet(2, (8,), linear="symmetric"), ValueError, ["linear", "'psd' or None"]),
        (
            lambda: gf.GradNetC(1, 2, 3, reuse_penultimate_activation=True),
            ValueError,
            ["num_layers", "at least 2", "got 1"],
        ),
    ],
)
def test_constructors(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text
    for word in ("expected ", ", got ", "; ", *words):
        assert word in text


def test_the_module_names_the_operator_for_bad_points() -> None:
    net = gf.mGradNetC(2, 3, 4)
    with pytest.raises(ValueError, match=r"ridge: x: expected shape \(…, 3\)"):
        net(torch.zeros(5, 2))
    with pytest.raises(TypeError, match=r"W: expected dtype torch.float64 like x, got torch.float32"):
        net(torch.zeros(5, 3).double())


NETWORKS = (gf.mRidgeGradNet(D, H), gf.mGradNetC(L, D, H), gf.mGradNetM(M, D, H, combine="logsumexp", linear="psd"))


@pytest.mark.filterwarnings("ignore:.*(beta state|prototype stage):UserWarning")
@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("net", NETWORKS, ids=lambda net: type(net).__name__)
def test_every_method_of_a_network_refuses_points_of_unusual_layouts(net: Any, make: Any) -> None:
    x = make(torch.ones(4, D))
    calls = [net, net.potential, lambda x: net.jvp(x, x), net.divergence, net.jacobian]
    for call in [
        *calls,
        *(getattr(net, name) for name in ("module_potentials", "module_gradients") if hasattr(net, name)),
    ]:
        with pytest.raises(TypeError, match=r": x: expected a dense tensor, got"):
            call(x)


CALLS: tuple[Callable[[Any, Any], Any], ...] = (
    *(lambda net, x, name=name: getattr(net, name)(*(x, x)[: 2 if name == "jvp" else 1]) for name in METHODS),
    lambda net, x: net.jvp(torch.zeros(4, D), x),
)
"""Every method of a network, with x for its points, and for the directions alone."""


def symbolic_trace(call: Callable[[Any, Any], Any], net: nn.Module) -> torch.fx.GraphModule:
    return torch.fx.symbolic_trace(lambda x: call(net, x))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_list_and_what_symbolic_trace_passes_are_no_points(architecture: str) -> None:
    net = ARCHITECTURES[architecture].make(2, D, H)
    for call in CALLS:
        with pytest.raises(TypeError, match=r": [xv]: expected a torch.Tensor, got list; "):
            call(net, [1.0, 2.0, 3.0])
        with pytest.raises(TypeError, match=r": [xv]: expected a torch.Tensor, got a Proxy .*torch.export or make_fx"):
            symbolic_trace(call, net)


def test_the_ways_to_trace_that_the_message_names() -> None:
    net, x = nn.Sequential(nn.Linear(D, D), gf.mGradNetC(L, D, H, linear="psd")), torch.ones(4, D)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, gf.mGradNetC) or super().is_leaf_module(m, module_qualified_name)

    for graph in (torch.fx.GraphModule(net, Tracer().trace(net)), make_fx(net)(x)):
        torch.testing.assert_close(graph(2 * x), net(2 * x))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("net", NETWORKS, ids=lambda net: type(net).__name__)
def test_a_network_in_a_dtype_without_functions_names_a_parameter(net: Any, dtype: torch.dtype) -> None:
    net = copy.deepcopy(net)
    for p in net.parameters():
        p.data = p.data.to(dtype)
    for x in (torch.ones(4, D), torch.ones(4, D).to(dtype)):
        for call in (net, net.potential):
            with pytest.raises(TypeError, match=r": \w+(\.\w+)*: expected "):
                call(x)


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.zeros(3, 2_000_000)])
def test_a_jacobian_of_points_of_another_width_is_refused_before_memory_is_asked_for(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"ridge_jacobian: x: expected shape"):
        gf.ridge_jacobian(x, torch.zeros(4, 3), None, torch.zeros(1, 4), None)


def test_a_tuple_is_no_basis_of_transformed_modules() -> None:
    W, b = torch.zeros(1, 4, 3), torch.zeros(1, 4)
    with pytest.raises((TypeError, ValueError), match=r"transformed_modules: basis"):
        gf.transformed_modules(torch.zeros(5, 3), W, b, torch.ones(1), basis=("tanh", "sin"))  # type: ignore[arg-type]
