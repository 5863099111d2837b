"""What the families of operators are: the one table of quantities, and the tensors and settings of each family.

Registered operators, the callers of compiled kernels and the calls of the reference follow this table.  To add a
quantity, add a row to `QUANTITIES`; to add a family, add a `Family` and its name in `FAMILIES`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..activations import TABLE, TRANSFORMS
from ..reference import modules as reference_modules

Tensors = Sequence["Tensor | None"]
Gradients = tuple["Tensor | None", ...]


def _digest() -> str:
    """Return a digest of the files that give operators their derivatives, shapes and formulas."""
    rooms = (Path(__file__).parent, Path(reference.__file__).parent)
    sources = [path.read_bytes() for room in rooms for path in sorted(room.glob("*.py"))]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]


SPLINE = ("spline",)
"""In place of basis functions: a linear spline for each hidden unit, whose values at the knots are the coefficients."""

SOURCE = _digest()
"""It changes with the version, and with every edit in between."""


class Structure(NamedTuple):
    """How the layers of a deep network are connected; `deep` of gradnets_fast/functional says what it means.

    >>> Structure((8, 8), input_skip=True).parameters(3)  # A 24, V 64, b 8 + 8, A 24, c 8
    136
    """

    widths: tuple[int, ...]
    input_skip: bool = False
    rank: int = 0
    residual: bool = False

    def parameters(self, d: int) -> int:
        """Return how many values the parameters for points of d coordinates have."""
        count, before = 0, 0
        for i, h in enumerate(self.widths):
            count += h * (before + (self.rank + (i == 0 or self.input_skip)) * d + 1)
            before = h
        return count + before

    @property
    def fault(self) -> tuple[str, str, object, str] | None:
        """Return the argument that is wrong, what is expected of it, what came, and the fix; None if nothing is.

        >>> Structure((8, 9), residual=True).fault
        ('widths', 'equal widths of residual layers', (8, 9), 'pass equal widths, or residual=False')
        """
        widths: object = self.widths
        if not isinstance(widths, tuple) or not widths or not all(type(h) is int and h > 0 for h in widths):
            return "widths", "at least one width, each a positive int", widths, "pass for example widths=(64, 64)"
        for argument, flag in (("input_skip", self.input_skip), ("residual", self.residual)):
            if type(flag) is not bool:
                return argument, "True or False", repr(flag), f"pass {argument}=True or {argument}=False"
        if type(self.rank) is not int or self.rank < 0:
            return "rank", "an int of 0 or more", repr(self.rank), "pass rank=0 for no squares"
        if self.residual and len(set(widths)) > 1:
            return "widths", "equal widths of residual layers", widths, "pass equal widths, or residual=False"
        return None


PADDINGS = ("zeros", "circular")


class Image(NamedTuple):
    """What a point of d coordinates is to a convolution.

    Attributes:
        shape: (C_in, n_1, …, n_s), with the product d.
        padding: what lies beyond the border, one of `PADDINGS`.
    """

    shape: tuple[int, ...]
    padding: str = "zeros"


class Settings(NamedTuple):
    """What selects a kernel besides shapes and dtypes.

    Attributes:
        basis: names of basis functions; of a deep network one for each layer.
        transform: the name of ρ, or "".
        structure: of a deep network.
        image: the points of a convolutional network.
        heads: the layers of a cascade are in parallel, not in series.
        keep: a deep network's forward pass leaves its layers in memory for the backward pass, where a kernel can.  It
            changes no result, and what is compiled or exported does without it.

    >>> deep, image = Structure((8,)), Image((1, 5, 7))
    >>> for settings in Settings(("tanh",), "exp"), Settings(("tanh",), "", deep), Settings(("tanh",), image=image):
    ...     settings.text().partition("@")[0]
    'tanh:exp'
    'tanh::8,,0,'
    'tanh:::zeros,1,5,7'
    >>> Settings(("tanh",), heads=True).text().partition("@")[0]
    'tanh::::heads'
    """

    basis: tuple[str, ...] = ()
    transform: str = ""
    structure: Structure | None = None
    image: Image | None = None
    heads: bool = False
    keep: bool = False

    @property
    def profile(self) -> str:
        """Return what follows an operator's name where other kernels compute its functions than a cascade's."""
        return " of splines" if self.basis == SPLINE else ""

    def text(self) -> str:
        """Return the settings as one string, which is what operators registered with PyTorch can take.

        By what follows "@" the caches of compilers, which keep derivatives and shapes, tell sources of them apart.
        """
        layers = points = ""
        if self.structure:
            widths, *flags = self.structure
            skip, rank, residual = flags
            layers = f"{','.join(map(str, widths))},{'skip' * skip},{rank},{'residual' * residual}"
        if self.image:
            points = ",".join([self.image.padding, *map(str, self.image.shape)])
        text = ":".join([",".join(self.basis), self.transform, layers, points, "heads" * self.heads])
        return f"{text.rstrip(':')}@{SOURCE}"


@lru_cache(maxsize=None)
def parse_settings(text: str) -> Settings:
    """Return the settings that `Settings.text` made the string from.

    >>> parse_settings("tanh,softplus").basis, parse_settings("").basis
    (('tanh', 'softplus'), ())
    >>> parse_settings("tanh,tanh::8,8,skip,2,").structure
    Structure(widths=(8, 8), input_skip=True, rank=2, residual=False)
    >>> parse_settings("tanh:::circular,1,5").image
    Image(shape=(1, 5), padding='circular')
    """
    names, transform, layers, points, heads = (text.partition("@")[0] + "::::").split(":")[:5]
    structure = image = None
    if layers:
        *widths, skip, rank, residual = layers.split(",")
        structure = Structure(tuple(map(int, widths)), bool(skip), int(rank), bool(residual))
    if points:
        padding, *shape = points.split(",")
        image = Image(tuple(map(int, shape)), padding)
    return Settings(tuple(names.split(",")) if names else (), transform, structure, image, bool(heads))


def cascade_settings(basis: str | Sequence[str], heads: bool = False) -> Settings:
    """Return the settings of a ridge network whose names have been checked."""
    return Settings((basis,) if isinstance(basis, str) else tuple(basis), heads=heads)


@lru_cache(maxsize=None)
def known_cascade(basis: str | tuple[str, ...], heads: bool = False) -> Settings | None:
    """Return the settings of a ridge network, or None if a name is not in the table or heads are asked of a spline.

    Raises:
        TypeError: basis is a list.
    """
    if not isinstance(basis, (str, tuple)) or type(heads) is not bool:
        return None
    settings = cascade_settings(basis, heads)
    is_spline = settings.basis == SPLINE and not heads
    is_known = is_spline or (settings.basis and all(name in TABLE for name in settings.basis))
    return settings if is_known else None


@lru_cache(maxsize=None)
def known_convolution(basis: str | tuple[str, ...], image: Image, heads: bool = False) -> Settings | None:
    """Return the settings of a convolutional network, or None if a name is not in the table.

    Raises:
        TypeError: basis is a list.
    """
    settings = known_cascade(basis, heads)
    return settings and settings._replace(image=image)


@lru_cache(maxsize=None)
def known_transformed(basis: str, transform: str) -> Settings | None:
    """Return the settings of transformed modules, or None if a name is not in its table.

    Raises:
        TypeError: a name is a list.
    """
    return Settings((basis,), transform) if basis in TABLE and transform in TRANSFORMS else None


def deep_settings(basis: str | Sequence[str], structure: Structure, keep: bool = False) -> Settings:
    """Return the settings of a deep network whose names have been checked; one basis function serves every layer."""
    names = (basis,) if isinstance(basis, str) else tuple(basis)
    return Settings(names * len(structure.widths) if len(names) == 1 else names, "", structure, keep=keep)


@lru_cache(maxsize=None)
def known_deep(basis: str | tuple[str, ...], structure: Structure, keep: bool = False) -> Settings | None:
    """Return the settings of a deep network, or None if a name is not in the table or the structure has a fault.

    Raises:
        TypeError: basis or the widths are a list.
    """
    if not isinstance(basis, (str, tuple)) or structure.fault or type(keep) is not bool:
        return None
    settings = deep_settings(basis, structure, keep)
    fits = len(settings.basis) == len(structure.widths) and all(name in TABLE for name in settings.basis)
    return settings if fits else None


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
"""f(x); J(x) v; F(x); tr J(x); J(x); and (f, F) at once, which the ridge family has no kernel for."""

SOFT_MAXIMUM = ("sharpness?", "offset?")
"""What combines modules by log-sum-exp: arguments of the operators whose kernels do that themselves."""


@dataclass(frozen=True)
class Family:
    """One family of operators: f is a sum over hidden units or modules, with weights W, or of several layers.

    Operators see every point as one row of coordinates; what images are to a convolution, `Settings.image` says.

    Attributes:
        name: the name of the operator that computes f.
        parameters: its tensors besides the points and the bias, the weights first; a trailing "?" marks one that may be
            None.
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

    def fits(self, d: int, weights: Any, settings: Settings) -> bool:
        """Return whether the weights are for points of d coordinates; they need not be a tensor."""
        shape = getattr(weights, "shape", ())
        if settings.structure is None:
            return tuple(shape[-1:]) == (d,)
        return tuple(shape) == (settings.structure.parameters(d),)

    def hidden_values(self, parameters: Tensors, settings: Settings) -> int:
        """Return how many hidden values one row has: the units of all layers or modules."""
        if settings.structure is not None:
            return 4 * (1 + settings.structure.rank) * sum(settings.structure.widths)
        W = parameters[0]
        assert W is not None
        if self.of_modules:
            return math.prod(W.shape[:-1])
        shift = parameters[self.parameters.index("shift")]
        assert shift is not None
        return shift.numel() * (math.prod(settings.image.shape[1:]) if settings.image else 1)

    def by_reference(
        self, quantity: str, points: Sequence[Tensor], parameters: Mapping[str, Tensor | None], settings: Settings
    ) -> Tensor:
        """Return the quantity in plain PyTorch; parameters by name, with or without bias, sharpness and offset."""
        named: dict[str, Any] = {"bias": None, **parameters}
        if settings.structure is not None:
            named |= {"basis": settings.basis, **settings.structure._asdict()}
        elif self.of_modules and settings.basis:
            named |= {"basis": settings.basis[0], "transform": settings.transform}
        elif settings.basis:
            named |= {"basis": settings.basis, "heads": settings.heads}
        if settings.image is not None:
            named["padding"] = settings.image.padding
            points = [point.unflatten(-1, settings.image.shape) for point in points]
        if quantity == "value_and_potential":
            if settings.structure is not None:
                both = (self.by_reference(q, points, parameters, settings) for q in ("value", "potential"))
                f, F = both
                return torch.cat([f, F.unsqueeze(-1)], -1)
            del named["bias"]
            return reference_modules.value_and_potential(self.name, *points, **named)
        result: Tensor = getattr(reference, self.operator_name(quantity))(*points, **named)
        if settings.image is not None and QUANTITIES[quantity].result == "vector":
            return result.flatten(-len(settings.image.shape))
        return result


_ALL = ("value", "jvp", "potential", "divergence", "jacobian")

RIDGE = Family("ridge", ("W", "scale?", "shift", "coef?"), False, _ALL)
SOFTMAX_MODULES = Family(
    "softmax_modules", ("W", "b", "temperature", "positive", "negative?"), True, (*_ALL, "value_and_potential")
)
TRANSFORMED_MODULES = Family("transformed_modules", ("W", "b", "weight"), True, (*_ALL, "value_and_potential"))

DEEP = Family("deep", ("theta",), False, (*_ALL, "value_and_potential"))

CONV_RIDGE = Family("conv_ridge", ("K", "scale?", "shift", "coef?"), False, _ALL[:4])
CONV_TRACE = Family("conv_trace", (*CONV_RIDGE.parameters, "norms"), False, ("divergence",))
"""The divergence after other convolutions: the squared norms of the rows of all together are given."""

_FAMILIES = (RIDGE, SOFTMAX_MODULES, TRANSFORMED_MODULES, DEEP, CONV_RIDGE, CONV_TRACE)
FAMILIES = {family.name: family for family in _FAMILIES}
