"""What the families of operators are: the one table of quantities, and the tensors and settings of each family.

Registered operators, the callers of compiled kernels and the calls of the reference follow this table.  To add a
quantity, add a row to `QUANTITIES`; to add a family, add a `Family` and its name in `FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..activations import TABLE, TRANSFORMS
from ..reference import modules as reference_modules

Tensors = Sequence["Tensor | None"]
Gradients = tuple["Tensor | None", ...]


class Settings(NamedTuple):
    """What selects a kernel besides shapes and dtypes: names of basis functions, and of a transform ρ or "".

    >>> Settings(("tanh",), "half_square").text()
    'tanh:half_square'
    """

    basis: tuple[str, ...] = ()
    transform: str = ""

    def text(self) -> str:
        """Return the settings as one string, which is what operators registered with PyTorch can take."""
        names = ",".join(self.basis)
        return f"{names}:{self.transform}" if self.transform else names


@lru_cache(maxsize=None)
def parse_settings(text: str) -> Settings:
    """Return the settings that `Settings.text` made the string from.

    >>> parse_settings("tanh,softplus").basis, parse_settings("").basis
    (('tanh', 'softplus'), ())
    """
    names, _, transform = text.partition(":")
    return Settings(tuple(names.split(",")) if names else (), transform)


def settings_of(basis: str | Sequence[str], transform: str = "") -> Settings:
    """Return the settings of a call whose names have been checked."""
    return Settings((basis,) if isinstance(basis, str) else tuple(basis), transform)


@lru_cache(maxsize=None)
def known_settings(family: str, basis: str | Sequence[str], transform: str) -> Settings | None:
    """Return the settings of a call whose names are not checked, or None if a name is not in the tables.

    Raises:
        TypeError: basis is a list, or no sequence of names at all.
    """
    if not isinstance(basis, (str, tuple)):
        return None
    settings = settings_of(basis, transform)
    if family == "softmax_modules":
        return settings
    known = bool(settings.basis) and all(name in TABLE for name in settings.basis)
    if family == "transformed_modules":
        known = known and isinstance(basis, str) and transform in TRANSFORMS
    return settings if known else None


@dataclass(frozen=True)
class Quantity:
    """What an operator computes of a network with gradient f, potential F and Jacobian J.

    Attributes:
        name: its name; the operator of a family is called <family>_<name>, and <family> alone for "value".
        points: the arguments of x's shape, (…, d).
        result: of one row of x: "vector" (d,), "number" (), "matrix" (d, d), or "vector and number" (d + 1,).
        takes_bias: whether the kernels add the bias; the potential's bias·x is added outside of them.
    """

    name: str
    points: tuple[str, ...]
    result: str
    takes_bias: bool = False

    def result_shape(self, x_shape: torch.Size) -> torch.Size:
        """Return the result's shape for points of shape (…, d)."""
        d = x_shape[-1]
        row = {"vector": (d,), "number": (), "matrix": (d, d), "vector and number": (d + 1,)}[self.result]
        return torch.Size((*x_shape[:-1], *row))


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("value", ("x",), "vector", takes_bias=True),
        Quantity("jvp", ("x", "v"), "vector"),
        Quantity("potential", ("x",), "number"),
        Quantity("divergence", ("x",), "number"),
        Quantity("jacobian", ("x",), "matrix"),
        Quantity("value_and_potential", ("x",), "vector and number"),
    )
}
"""f(x); J(x) v; F(x); tr J(x); J(x); and (f, F) at once, which only families of modules have kernels for."""

SOFT_MAXIMUM = ("sharpness?", "offset?")
"""What combines modules by log-sum-exp: arguments of the operators whose kernels do that themselves."""


@dataclass(frozen=True)
class Family:
    """One family of operators: f is a sum over hidden units or modules, with weights W.

    Attributes:
        name: the name of the operator that computes f.
        parameters: its tensors besides the points and the bias, W first; a trailing "?" marks one that may be None.
        of_modules: whether W is (M, h, d), and the modules may be combined by log-sum-exp.
        quantities: names of `QUANTITIES` that it has operators for.
    """

    name: str
    parameters: tuple[str, ...]
    of_modules: bool
    quantities: tuple[str, ...]

    def operator_name(self, quantity: str) -> str:
        """Return the name of the operator that computes a quantity."""
        return self.name if quantity == "value" else f"{self.name}_{quantity}"

    def hidden_values(self, parameters: Tensors) -> int:
        """Return how many hidden values one row has: the units of all layers or modules."""
        W = parameters[0]
        assert W is not None
        if self.of_modules:
            return math.prod(W.shape[:-1])
        shift = parameters[self.parameters.index("shift")]
        assert shift is not None
        return shift.numel()

    def by_reference(
        self, quantity: str, points: Sequence[Tensor], parameters: Mapping[str, Tensor | None], settings: Settings
    ) -> Tensor:
        """Return the quantity in plain PyTorch; parameters by name, with or without bias, sharpness and offset."""
        named: dict[str, Any] = {"bias": None, **parameters}
        if self.of_modules and settings.basis:
            named |= {"basis": settings.basis[0], "transform": settings.transform}
        elif settings.basis:
            named["basis"] = settings.basis
        if quantity == "value_and_potential":
            del named["bias"]
            return reference_modules.value_and_potential(self.name, *points, **named)
        result: Tensor = getattr(reference, self.operator_name(quantity))(*points, **named)
        return result


_ALL = ("value", "jvp", "potential", "divergence", "jacobian")

RIDGE = Family("ridge", ("W", "scale?", "shift", "coef?"), False, _ALL)
SOFTMAX_MODULES = Family(
    "softmax_modules", ("W", "b", "temperature", "positive", "negative?"), True, (*_ALL, "value_and_potential")
)
TRANSFORMED_MODULES = Family("transformed_modules", ("W", "b", "weight"), True, (*_ALL, "value_and_potential"))

FAMILIES = {family.name: family for family in (RIDGE, SOFTMAX_MODULES, TRANSFORMED_MODULES)}
