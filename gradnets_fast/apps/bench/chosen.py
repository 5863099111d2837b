"""The cases that options choose: operators or networks, at some shapes, in some dtypes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ... import functional
from ...activations import TABLE, TRANSFORMS
from ...errors import check_choice, check_positive, message
from ...nn import registry
from .. import draws
from . import operators
from .cases import Case, network_case
from .precision import PRECISIONS

OPERATORS = tuple(functional.__all__)
NETWORKS = {architecture.network.__name__: architecture for architecture in registry.ARCHITECTURES.values()}
DEFAULT_SHAPE = "16384x32x256"
_DEFAULT_SHAPES = {"conv_ridge": "64x1024x64"}
"""Of families with a hidden unit for each of d samples: with as many of them in all."""

_NETWORK_DEPTH = 4
_DEFAULT_LAYERS = {"ridge": 1, "deep": 2, "conv_ridge": 1}
_ON_A_GPU = ("tf32", "ieee")


@dataclass(frozen=True)
class Choice:
    """What a user chose; None and nothing leave a default."""

    operator: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()
    layers: int | None = None
    modules: int | None = None
    activation: str | None = None
    transform: str | None = None
    dtype: tuple[str, ...] = ()

    def given(self) -> list[str]:
        """The options that were given."""
        return [f"--{name}" for name, value in vars(self).items() if value not in (None, ())]


def cases(choice: Choice, device: torch.device) -> list[Case]:
    """Every chosen operator and network, in every dtype, at every shape.

    Raises:
        TypeError, ValueError: an option that does not exist or does not fit.
    """
    if not choice.operator and not choice.network:
        fix = f"for example --operator ridge; operators: {', '.join(OPERATORS)}; networks: {', '.join(NETWORKS)}"
        raise ValueError(message("bench", "operator", f"--operator or --network with {choice.given()[0]}", "none", fix))
    for name in choice.operator:
        check_choice("bench", "operator", name, OPERATORS)
    for name in choice.network:
        check_choice("bench", "network", name, tuple(NETWORKS))
    dtypes = choice.dtype or ("float32",)
    for dtype in dtypes:
        check_choice("bench", "dtype", dtype, list(PRECISIONS))
        if dtype in _ON_A_GPU and device.type != "cuda":
            fix = "choose float32, or add --device cuda"
            raise ValueError(message("bench", "dtype", f"a dtype of {device.type}", repr(dtype), fix))
    _check_fit(choice)
    defaults = {name: _DEFAULT_SHAPES.get(draws.family(name), DEFAULT_SHAPE) for name in choice.operator}
    makers = {name: _operator(choice, name) for name in choice.operator}
    makers |= {name: _network(choice, name) for name in choice.network}
    found = [
        make(dtype, *_parsed(shape))
        for name, make in makers.items()
        for dtype in dtypes
        for shape in choice.shape or (defaults.get(name, DEFAULT_SHAPE),)
    ]
    return list({case.label: case for case in found}.values())


def _parsed(shape: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"\d+x\d+x\d+", shape):
        fix = f"for example --shape {DEFAULT_SHAPE}"
        raise ValueError(message("bench", "shape", "batch x d x h, as BxdxH", repr(shape), fix))
    batch, d, h = map(int, shape.split("x"))
    for name, number in (("batch", batch), ("d", d), ("h", h)):
        check_positive("bench", f"{name} of shape {shape}", number)
    return batch, d, h


_TAKEN_BY = {
    "layers": (
        "ridge, conv_ridge, deep, GradNetC or DeepGradNet",
        {"ridge", "conv_ridge", "deep", "GradNetC", "DeepGradNet"},
    ),
    "modules": ("modules or GradNetM", {"softmax_modules", "transformed_modules", "GradNetM"}),
    "activation": (
        "anything but softmax modules",
        {"ridge", "conv_ridge", "transformed_modules", "deep"}
        | {"RidgeGradNet", "GradNetC", "GradNetM", "DeepGradNet"},
    ),
    "transform": ("transformed_modules or GradNetM", {"transformed_modules", "GradNetM"}),
}
"""For each option the operators and networks that take it: in words, and as families."""


def _check_fit(choice: Choice) -> None:
    """Raises ValueError for an option that nothing chosen takes."""
    families = {draws.family(name) for name in choice.operator} | {name.removeprefix("m") for name in choice.network}
    for name, (words, takers) in _TAKEN_BY.items():
        value = getattr(choice, name)
        if value is not None and not families & takers:
            got = ", ".join([*choice.operator, *choice.network])
            raise ValueError(message("bench", name, f"an operator or network of {words}", got, "leave it out"))
        if value is not None and name in ("layers", "modules"):
            check_positive("bench", name, value)
    if choice.transform is not None:
        check_choice("bench", "transform", choice.transform, list(TRANSFORMS))


Maker = Callable[[str, int, int, int], Case]
"""(dtype, batch, d, h) -> a case."""


def _operator(choice: Choice, name: str) -> Maker:
    family = draws.family(name)
    depth = (choice.layers or _DEFAULT_LAYERS[family]) if family in _DEFAULT_LAYERS else choice.modules
    basis = () if family == "softmax_modules" else tuple((choice.activation or "tanh").split("+"))
    for part in basis:
        check_choice("bench", "activation", part, list(TABLE), "join several of these by + for a mixture")
    if family in ("transformed_modules", "deep") and len(basis) > 1:
        fix = "choose one name, or the operator ridge"
        raise ValueError(message("bench", "activation", f"one basis function for {name}", choice.activation, fix))
    transform = (choice.transform or "half_square") if family == "transformed_modules" else ""
    return lambda dtype, batch, d, h: operators.named(name, depth or 1, basis, transform, dtype)(batch=batch, d=d, h=h)


def _network(choice: Choice, name: str) -> Maker:
    architecture = NETWORKS[name]
    transform: dict[str, Any] = (
        {"transform": choice.transform} if architecture.modular and choice.transform is not None else {}
    )
    usual = inspect.signature(architecture.network).parameters["activation"].default
    activation = choice.activation or (
        "tanh" if transform or (usual != "softplus" and not architecture.modular) else usual
    )
    depth = (choice.modules if architecture.modular else choice.layers) or _NETWORK_DEPTH
    variant = " ".join([activation, *transform.values()])

    def make(dtype: str, *shape: int) -> Case:
        batch, d, h = shape
        case = network_case(
            architecture, (batch, d, h), activation, depth=depth, dtype=dtype, variant=variant, **transform
        )
        case.make()  # refuses what does not fit before anything is measured
        return case

    return make
