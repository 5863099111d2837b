"""The cases that options choose: operators or networks, at some shapes, in some dtypes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ... import functional, nn, reference
from ...activations import TABLE, TRANSFORMS
from ...errors import check_choice, check_positive, message
from . import draws, operators
from .cases import Case, NetworkCase
from .precision import PRECISIONS

OPERATORS = tuple(functional.__all__)
NETWORKS = ("RidgeGradNet", "mRidgeGradNet", "GradNetC", "mGradNetC", "GradNetM", "mGradNetM")
DEFAULT_SHAPE = "16384x32x256"
_NETWORK_DEPTH = 4
_REFERENCES: dict[str, Callable[..., Any]] = {
    "RidgeGradNet": reference.ridge_gradnet,
    "GradNetC": reference.gradnet_c,
    "GradNetM": reference.gradnet_m,
}


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
        """The names of the options."""
        return [f"--{_OPTIONS.get(name, name)}" for name, value in vars(self).items() if value not in (None, ())]

    def words(self) -> list[str]:
        """The options as they are typed."""
        values = [value for value in vars(self).values() if value not in (None, ())]
        typed = [",".join(value) if isinstance(value, tuple) else str(value) for value in values]
        return [word for pair in zip(self.given(), typed) for word in pair]


_OPTIONS = {"operators": "operator", "networks": "network", "shapes": "shape", "dtypes": "dtype"}


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
        check_choice("bench", "network", name, NETWORKS)
    dtypes = choice.dtypes or ("float32",)
    for dtype in dtypes:
        check_choice("bench", "dtype", dtype, list(PRECISIONS))
        if dtype == "tf32" and device.type != "cuda":
            fix = "choose float32, or add --device cuda"
            raise ValueError(message("bench", "dtype", f"a dtype of {device.type}", "'tf32'", fix))
    _check_fit(choice)
    shapes = [_parsed(shape) for shape in choice.shapes or (DEFAULT_SHAPE,)]
    makers = [*map(partial(_operator, choice), choice.operators), *map(partial(_network, choice), choice.networks)]
    found = [make(dtype, shape) for make in makers for dtype in dtypes for shape in shapes]
    return list({case.label: case for case in found}.values())


def _parsed(shape: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"\d+x\d+x\d+", shape):
        fix = f"for example --shape {DEFAULT_SHAPE}"
        raise ValueError(message("bench", "shape", "batch x d x h, as BxdxH", repr(shape), fix))
    batch, d, h = map(int, shape.split("x"))
    for name, number in (("batch", batch), ("d", d), ("h", h)):
        check_positive("bench", f"{name} of shape {shape}", number)
    return batch, d, h


def _check_fit(choice: Choice) -> None:
    """Raises ValueError for an option that is of nothing that was chosen."""
    families = {draws.family(name) for name in choice.operators}
    bare = {name.removeprefix("m") for name in choice.networks}
    fits = {
        "layers": bool("ridge" in families or "GradNetC" in bare),
        "modules": bool(families & {"softmax_modules", "transformed_modules"} or "GradNetM" in bare),
        "activation": bool(families & {"ridge", "transformed_modules"} or bare),
        "transform": bool("transformed_modules" in families or "GradNetM" in bare),
    }
    of = {
        "layers": "ridge or GradNetC",
        "modules": "modules or GradNetM",
        "activation": "anything but softmax modules",
        "transform": "transformed_modules or GradNetM",
    }
    for name, fit in fits.items():
        value = getattr(choice, name)
        if value is not None and not fit:
            chosen = ", ".join([*choice.operators, *choice.networks])
            raise ValueError(message("bench", name, f"an operator or network of {of[name]}", chosen, "leave it out"))
        if value is not None and name in ("layers", "modules"):
            check_positive("bench", name, value)
    if choice.transform is not None:
        check_choice("bench", "transform", choice.transform, list(TRANSFORMS))


Maker = Callable[[str, tuple[int, int, int]], Case]
"""(dtype, (batch, d, h)) -> a case."""


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

    def make(dtype: str, shape: tuple[int, int, int]) -> Case:
        batch, d, h = shape
        return operators.named(name, depth or 1, basis, transform, dtype)(batch=batch, d=d, h=h)

    return make


def _network(choice: Choice, name: str) -> Maker:
    bare, monotone = name.removeprefix("m"), name.startswith("m")
    module = getattr(nn, name)
    modular = bare == "GradNetM"
    activation = choice.activation or ("softmax" if modular and choice.transform is None else "tanh")
    key: Any = tuple(activation.split("+")) if "+" in activation else activation
    options: dict[str, Any] = {"activation": list(key) if isinstance(key, tuple) else key}
    extra = {"transform": choice.transform} if modular and choice.transform is not None else {}
    depth = (choice.modules if modular else choice.layers) or _NETWORK_DEPTH
    sizes = [] if bare == "RidgeGradNet" else [depth]
    unit = "module" if modular else "layer"
    family = ", ".join([name, *(f"{n} {unit}" + ("" if n == 1 else "s") for n in sizes)])
    variant = " ".join([activation, *extra.values()])
    function = partial(_REFERENCES[bare], activation=key, monotone=monotone, **extra)

    def make(dtype: str, shape: tuple[int, int, int]) -> Case:
        batch, d, h = shape
        network = partial(module, *sizes, d, h, **options, **extra)
        network()  # refuses what does not fit before anything is measured
        heading = family if dtype == "float32" else f"{family}, {dtype}"
        return NetworkCase(heading, variant, batch, d, h, dtype, make=network, reference=function)

    return make
