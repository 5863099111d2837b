"""The cases that options choose: operators or networks, at some shapes, in some dtypes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ... import functional
from ...activations import TABLE, TRANSFORMS
from ...errors import check_choice, check_positive, message
from ...nn import registry
from .. import draws
from . import operators
from .cases import Case, NetworkCase
from .precision import PRECISIONS

OPERATORS = tuple(functional.__all__)
NETWORKS = {module.__name__: module for module in registry.REFERENCES}
DEFAULT_SHAPE = "16384x32x256"
_NETWORK_DEPTH = 4
_ON_A_GPU = ("tf32", "ieee")


@dataclass(frozen=True)
class Choice:
    """What a user chose; None and nothing leave a default."""

    operators: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    layers: int | None = None
    modules: int | None = None
    activation: str | None = None
    transform: str | None = None
    dtypes: tuple[str, ...] = ()

    def given(self) -> list[str]:
        """The options that were given."""
        values = {name: value for name, value in vars(self).items() if value not in (None, ())}
        # One that may be repeated is named by its singular.
        return [f"--{name.removesuffix('s') if isinstance(value, tuple) else name}" for name, value in values.items()]


def cases(choice: Choice, device: torch.device) -> list[Case]:
    """Every chosen operator and network, in every dtype, at every shape.

    Raises:
        TypeError, ValueError: an option that does not exist or does not fit.
    """
    if not choice.operators and not choice.networks:
        fix = f"for example --operator ridge; operators: {', '.join(OPERATORS)}; networks: {', '.join(NETWORKS)}"
        raise ValueError(message("bench", "operator", f"--operator or --network with {choice.given()[0]}", "none", fix))
    for name in choice.operators:
        check_choice("bench", "operator", name, OPERATORS)
    for name in choice.networks:
        check_choice("bench", "network", name, tuple(NETWORKS))
    dtypes = choice.dtypes or ("float32",)
    for dtype in dtypes:
        check_choice("bench", "dtype", dtype, list(PRECISIONS))
        if dtype in _ON_A_GPU and device.type != "cuda":
            fix = "choose float32, or add --device cuda"
            raise ValueError(message("bench", "dtype", f"a dtype of {device.type}", repr(dtype), fix))
    _check_fit(choice)
    shapes = [_parsed(shape) for shape in choice.shapes or (DEFAULT_SHAPE,)]
    makers = [*map(partial(_operator, choice), choice.operators), *map(partial(_network, choice), choice.networks)]
    found = [make(dtype, *shape) for make in makers for dtype in dtypes for shape in shapes]
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
    "layers": ("ridge or GradNetC", {"ridge", "GradNetC"}),
    "modules": ("modules or GradNetM", {"softmax_modules", "transformed_modules", "GradNetM"}),
    "activation": (
        "anything but softmax modules",
        {"ridge", "transformed_modules", "RidgeGradNet", "GradNetC", "GradNetM"},
    ),
    "transform": ("transformed_modules or GradNetM", {"transformed_modules", "GradNetM"}),
}
"""For each option the operators and networks that take it: in words, and as families."""


def _check_fit(choice: Choice) -> None:
    """Raises ValueError for an option that nothing chosen takes."""
    families = {draws.family(name) for name in choice.operators} | {name.removeprefix("m") for name in choice.networks}
    for name, (words, takers) in _TAKEN_BY.items():
        value = getattr(choice, name)
        if value is not None and not families & takers:
            got = ", ".join([*choice.operators, *choice.networks])
            raise ValueError(message("bench", name, f"an operator or network of {words}", got, "leave it out"))
        if value is not None and name in ("layers", "modules"):
            check_positive("bench", name, value)
    if choice.transform is not None:
        check_choice("bench", "transform", choice.transform, list(TRANSFORMS))


Maker = Callable[[str, int, int, int], Case]
"""(dtype, batch, d, h) -> a case."""


def _operator(choice: Choice, name: str) -> Maker:
    family = draws.family(name)
    depth = choice.layers if family == "ridge" else choice.modules
    basis = () if family == "softmax_modules" else tuple((choice.activation or "tanh").split("+"))
    for part in basis:
        check_choice("bench", "activation", part, list(TABLE), "join several of these by + for a mixture")
    if family == "transformed_modules" and len(basis) > 1:
        fix = "choose one name, or the operator ridge"
        raise ValueError(message("bench", "activation", f"one basis function for {name}", choice.activation, fix))
    transform = (choice.transform or "half_square") if family == "transformed_modules" else ""
    return lambda dtype, batch, d, h: operators.named(name, depth or 1, basis, transform, dtype)(batch=batch, d=d, h=h)


def _network(choice: Choice, name: str) -> Maker:
    module = NETWORKS[name]
    sizes = {p.removeprefix("num_") for p in inspect.signature(module).parameters if p.startswith("num_")}
    modular = "modules" in sizes
    activation = choice.activation or ("softmax" if modular and choice.transform is None else "tanh")
    key: Any = tuple(activation.split("+")) if "+" in activation else activation
    extra = {"transform": choice.transform} if modular and choice.transform is not None else {}
    options = {f"num_{size}": getattr(choice, size) or _NETWORK_DEPTH for size in sizes}
    words = [f"{n} {size if n > 1 else size.removesuffix('s')}" for size, n in zip(sizes, options.values())]
    options |= {"activation": list(key) if isinstance(key, tuple) else key, **extra}
    function = partial(registry.REFERENCES[module], activation=key, monotone=module.monotone, **extra)

    def make(dtype: str, batch: int, d: int, h: int) -> Case:
        network = partial(module, in_dim=d, embed_dim=h, **options)
        network()  # refuses what does not fit before anything is measured
        heading = ", ".join([name, *words, *([] if dtype == "float32" else [dtype])])
        variant = " ".join([activation, *extra.values()])
        return NetworkCase(heading, variant, batch, d, h, dtype, make=network, reference=function)

    return make
