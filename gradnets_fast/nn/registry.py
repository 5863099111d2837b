"""Every architecture with its reference and its test cases: what users import, and what tests and benchmarks enumerate.

A new architecture is nn/<arch>.py, its formulas in reference/architectures.py, and its name and cases here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from .. import reference
from ..activations import TABLE, TRANSFORMS
from ..reference.architectures import Parameters
from .base import GradNet
from .cascade import GradNetC, mGradNetC
from .conditional import Conditional, ConditionalConv
from .conv import ConvGradNet, mConvGradNet
from .deep import DeepGradNet, mDeepGradNet
from .heads import Heads
from .modular import GradNetM, mGradNetM
from .ridge import RidgeGradNet, mRidgeGradNet
from .spline import Spline

__all__ = [
    "Conditional",
    "ConditionalConv",
    "ConvGradNet",
    "DeepGradNet",
    "GradNetC",
    "GradNetM",
    "Heads",
    "RidgeGradNet",
    "Spline",
    "mConvGradNet",
    "mDeepGradNet",
    "mGradNetC",
    "mGradNetM",
    "mRidgeGradNet",
]

_IN_DIM, _EMBED_DIM, _DEPTH = 3, 11, 3

REFERENCES: dict[type[GradNet], Callable[..., Tensor]] = {
    RidgeGradNet: reference.ridge_gradnet,
    mRidgeGradNet: reference.ridge_gradnet,
    GradNetC: reference.gradnet_c,
    mGradNetC: reference.gradnet_c,
    GradNetM: reference.gradnet_m,
    mGradNetM: reference.gradnet_m,
    DeepGradNet: reference.deep_gradnet,
    mDeepGradNet: reference.deep_gradnet,
}
"""Every architecture's (parameters, x, activation=…, monotone=…) -> f(x) in plain PyTorch."""


@dataclass(frozen=True)
class Architecture:
    """A class of networks, and how it is made.

    Attributes:
        network: the class.
        depth: its argument that counts layers or modules, "num_layers" or "num_modules", or lists the layers,
            "widths"; None for a single layer.
    """

    network: type[GradNet]
    depth: str | None

    @property
    def modular(self) -> bool:
        """Whether the network is made of modules, with the arguments `transform` and `combine`."""
        return self.depth == "num_modules"

    def make(self, depth: int, in_dim: int, embed_dim: int, **options: Any) -> GradNet:
        """A network with `depth` layers or modules, where there can be several.

        >>> ARCHITECTURES["mgradnet-c"].make(4, 2, 7, activation="tanh").extra_repr()
        "num_layers=4, in_dim=2, embed_dim=7, activation='tanh'"
        """
        if self.depth == "widths":
            return self.network(in_dim=in_dim, widths=(embed_dim,) * depth, **options)
        sizes = {"in_dim": in_dim, "embed_dim": embed_dim}
        return self.network(**sizes if self.depth is None else {self.depth: depth, **sizes}, **options)


ARCHITECTURES = {
    "gradnet-c": Architecture(GradNetC, "num_layers"),
    "mgradnet-c": Architecture(mGradNetC, "num_layers"),
    "gradnet-m": Architecture(GradNetM, "num_modules"),
    "mgradnet-m": Architecture(mGradNetM, "num_modules"),
    "ridge": Architecture(RidgeGradNet, None),
    "mridge": Architecture(mRidgeGradNet, None),
    "deep": Architecture(DeepGradNet, "widths"),
    "mdeep": Architecture(mDeepGradNet, "widths"),
}
"""The architectures by the names that settings and options use: training, warm-up and swapping enumerate them."""


@dataclass(frozen=True)
class Case:
    """One network to test.

    Attributes:
        label: unique in the registry.
        make: (**factory) -> the network; factory: device, dtype.
        reference: (parameters, x) -> f(x) in plain PyTorch.
        potential: (parameters, x) -> F(x) up to a constant, likewise.
        monotone: the Jacobian must be positive semidefinite.
        smooth: the basis functions have a continuous second derivative, so that finite differences apply.
        bases: the basis functions it uses.
    """

    label: str
    make: Callable[..., GradNet]
    reference: Callable[[Parameters, Tensor], Tensor]
    potential: Callable[[Parameters, Tensor], Tensor]
    monotone: bool
    smooth: bool = True
    bases: tuple[str, ...] = field(default=())


def _case(
    module: type[GradNet], functions: tuple[Any, Any], sizes: dict[str, Any], options: dict[str, Any], **extra: Any
) -> Case:
    activation = options["activation"]
    key = tuple(activation) if isinstance(activation, list) else activation
    names = key if isinstance(key, tuple) else (key,)
    arguments: dict[str, Any] = {"activation": key, "monotone": module.monotone, **extra}
    forward, potential = (partial(function, **arguments) for function in functions)
    label = "-".join([module.__name__, "+".join(names), *(f"{k}={v}" for k, v in options.items() if k != "activation")])
    derivatives = 3 if issubclass(module, DeepGradNet) else 2  # f has a derivative of the activation
    smooth = all(TABLE[name].continuous_derivatives >= derivatives for name in names if name in TABLE)
    bases = tuple(name for name in names if name in TABLE)
    make = partial(module, **sizes, **options)
    return Case(label, make, forward, potential, module.monotone, smooth, bases)


def _elementwise(module: type[GradNet]) -> list[str | list[str]]:
    names = [name for name, basis in TABLE.items() if basis.nondecreasing or not module.monotone]
    mixture = ["tanh", "softplus"] if module.monotone else ["tanh", "sin", "gelu"]
    return [*names, "weighted_tanh", mixture]


def cases() -> Iterator[Case]:
    """Every architecture × activation, and each option once."""
    ridge = (reference.ridge_gradnet, reference.ridge_gradnet_potential)
    cascade = (reference.gradnet_c, reference.gradnet_c_potential)
    modular = (reference.gradnet_m, reference.gradnet_m_potential)
    sizes = {"in_dim": _IN_DIM, "embed_dim": _EMBED_DIM}
    for wide in (RidgeGradNet, mRidgeGradNet):
        for activation in _elementwise(wide):
            yield _case(wide, ridge, sizes, {"activation": activation})
        yield _case(wide, ridge, sizes, {"activation": "tanh", "linear": "psd"})
    for deep in (GradNetC, mGradNetC):
        deep_sizes = {"num_layers": _DEPTH, **sizes}
        for activation in _elementwise(deep):
            yield _case(deep, cascade, deep_sizes, {"activation": activation})
        yield _case(deep, cascade, {**deep_sizes, "num_layers": 1}, {"activation": "softplus", "linear": "psd"})
        reuse = {"reuse_penultimate_activation": True}
        yield _case(deep, cascade, deep_sizes, {"activation": "weighted_tanh", **reuse}, **reuse)
    yield _case(GradNetC, cascade, {"num_layers": 2, **sizes}, {"activation": "sin", "linear": "symmetric"})
    energy = (reference.deep_gradnet, reference.deep_gradnet_potential)
    for layered in (DeepGradNet, mDeepGradNet):
        layers: dict[str, Any] = {"in_dim": _IN_DIM, "widths": (_EMBED_DIM, 9, 8)}
        for name, basis in TABLE.items():
            if not layered.monotone or (basis.convex and basis.nondecreasing):
                # With piecewise linear layers alone the energy would be piecewise linear too.
                straight = basis.algebraic and basis.continuous_derivatives != 1
                chosen = [name, "softplus", "softplus"] if straight else name
                yield _case(layered, energy, layers, {"activation": chosen})
        equal = {**layers, "widths": (_EMBED_DIM,) * 3}
        options = {"activation": "softplus", "input_skip": "quadratic", "residual": True, "linear": "psd"}
        temperatures = {"inverse_temperature": 1.5, "learn_temperature": True}
        yield _case(layered, energy, equal, {**options, **temperatures}, residual=True)
        mixed = {"activation": ["elu", "identity", "softplus"], "linear": None, "input_skip": False}
        yield _case(layered, energy, layers, mixed)
    for sums in (GradNetM, mGradNetM):
        module_sizes = {"num_modules": _DEPTH, **sizes}
        for activation in ("softmax", "weighted_softmax"):
            yield _case(sums, modular, module_sizes, {"activation": activation})
        yield _case(sums, modular, module_sizes, {"activation": "softmax", "linear": "psd"})
        for activation in ("softmax", "weighted_softmax"):
            yield _case(sums, modular, module_sizes, {"activation": activation, "combine": "logsumexp"})
        # A potential's rounding error, which grows with it, is a relative error of the module's share.
        small_sizes = {**module_sizes, "embed_dim": 3}
        for activation, transform in (("identity", "identity"), ("tanh", "logcosh")):
            options = {"activation": activation, "transform": transform, "combine": "logsumexp"}
            yield _case(sums, modular, small_sizes, options, transform=transform)
        for name, basis in TABLE.items():
            if basis.nondecreasing or not sums.monotone:
                options = {"activation": name, "transform": "half_square"}
                yield _case(sums, modular, module_sizes, options, transform="half_square")
        for outer in TRANSFORMS.values():
            # The sum of softplus's antiderivatives is positive, which log and exp need and want.
            if outer.name != "half_square" and (outer.keeps_convexity_on_nonnegative or not sums.monotone):
                options = {"activation": "softplus", "transform": outer.name}
                yield _case(sums, modular, module_sizes, options, transform=outer.name)
