"""`Network`: the arguments of a call besides its points, as an object with a method for each quantity.

The public functions (`ridge`, …) and the modules of gradnets_fast/nn make one and call its methods; each of them goes
to `run` in _dispatch.py.  A family is a subclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import check_flag, message
from ..ops import OPERATORS, Backends
from ..ops.families import (
    CONV_RIDGE,
    DEEP,
    QUANTITIES,
    RIDGE,
    SOFTMAX_MODULES,
    TRANSFORMED_MODULES,
    Family,
    Image,
    Settings,
    Structure,
    cascade_settings,
    deep_settings,
    known_cascade,
    known_convolution,
    known_deep,
    known_transformed,
)
from ._checks import (
    checked_conv_ridge,
    checked_deep,
    checked_images,
    checked_modules,
    checked_ridge,
    checked_soft_maximum,
    checked_transformed,
)
from ._dispatch import run

_NO_NAMES = Settings()


class Network:
    """A gradient network by its effective parameters, as kernels take them: after softplus and every other map.

    Attributes:
        family: its tensors and settings by name.
        operators: the compiled operators of the family by quantity.
        W, bias: the weights, and what is added to f or None; a subclass may have more tensors.
        sharpness, offset: what combines modules by log-sum-exp; None where f is a sum.
    """

    __slots__ = ()
    family: ClassVar[Family]
    operators: ClassVar[dict[str, Backends]]
    W: Tensor
    bias: Tensor | None
    sharpness: Tensor | None = None
    offset: Tensor | None = None

    def value_and_potential(self, x: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
        """Return f(x), (…, d), and F(x), (…,), at once where the family has kernels for that."""
        is_sum = self.sharpness is None and self.offset is None
        calls_two_kernels = self.family.of_modules and isinstance(x, Tensor) and x.is_cuda
        if not is_sum or calls_two_kernels or "value_and_potential" not in self.family.quantities:
            return self.value(x, backend), self.potential(x, backend)
        both = run(self, "value_and_potential", (x,), backend)
        return both[..., :-1], both[..., -1]

    def value(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Return f(x), (…, d)."""
        return run(self, "value", (x,), backend)

    def potential(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Return F(x) with ∇F = f, (…,)."""
        return run(self, "potential", (x,), backend)

    def jvp(self, x: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
        """Return J(x) v, (…, d)."""
        return run(self, "jvp", (x, v), backend)

    def divergence(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Return tr J(x), (…,)."""
        return run(self, "divergence", (x,), backend)

    def jacobian(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Return J(x), (…, d, d)."""
        return run(self, "jacobian", (x,), backend)

    def in_float32(self) -> Network:
        """Return the network with its 16-bit tensors in float32."""
        network: Any = self  # a dataclass, which every family is
        held = {field.name: getattr(self, field.name) for field in fields(network)}
        wide = {name: t.float() for name, t in held.items() if isinstance(t, Tensor) and t.itemsize == 2}
        result: Network = replace(network, **wide)
        return result

    def parameters(self) -> tuple[Tensor | None, ...]:
        """Return the tensors that a sum over hidden units or modules is over, in the order of `family.parameters`."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its parameters are")

    def settings(self) -> Settings:
        """Return what selects a kernel, of a network that has been checked."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its functions are")

    def known_settings(self) -> Settings | None:
        """Return the settings of a network that has not been checked, or None if a name is in no table.

        Raises:
            TypeError: the names are a list.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its functions are")

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, Any]:
        """Return the points and the network as kernels take them, after autocast.

        Raises:
            TypeError, ValueError: naming the argument, what was expected, what came, and the fix.
        """
        raise NotImplementedError(f"{type(self).__name__} does not check its arguments")


@dataclass(slots=True)
class Ridge(Network):
    """A network of the ridge family; the fields are the arguments of `ridge`."""

    W: Tensor
    scale: Tensor | None
    shift: Tensor
    coef: Tensor | None
    bias: Tensor | None = None
    basis: str | Sequence[str] = "tanh"
    heads: bool = False

    family: ClassVar[Family] = RIDGE
    operators: ClassVar[dict[str, Backends]] = OPERATORS["ridge"]

    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.W, self.scale, self.shift, self.coef

    def settings(self) -> Settings:
        return cascade_settings(self.basis, self.heads)

    def known_settings(self) -> Settings | None:
        return known_cascade(self.basis, self.heads)

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, Ridge]:
        arguments = (self.W, self.scale, self.shift, self.coef, self.bias, self.basis, self.heads)
        x, W, shift, coef, names = checked_ridge(where, x, *arguments)
        return x, Ridge(W, self.scale, shift, coef, self.bias, names, self.heads)


@dataclass(slots=True)
class SoftmaxModules(Network):
    """A network of the family; the fields are the arguments of `softmax_modules`."""

    W: Tensor
    b: Tensor
    temperature: Tensor
    positive: Tensor
    negative: Tensor | None = None
    bias: Tensor | None = None
    sharpness: Tensor | None = None
    offset: Tensor | None = None

    family: ClassVar[Family] = SOFTMAX_MODULES
    operators: ClassVar[dict[str, Backends]] = OPERATORS["softmax_modules"]

    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.W, self.b, self.temperature, self.positive, self.negative

    def settings(self) -> Settings:
        return _NO_NAMES

    known_settings = settings

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, SoftmaxModules]:
        numbers = {"temperature": self.temperature, "positive": self.positive, "negative": self.negative}
        x, W = checked_modules(where, x, self.W, self.b, self.bias, **numbers)
        offset = checked_soft_maximum(where, self.sharpness, self.offset, x, W)
        return x, replace(self, W=W, offset=offset)


@dataclass(slots=True)
class TransformedModules(Network):
    """A network of the family; the fields are the arguments of `transformed_modules`."""

    W: Tensor
    b: Tensor
    weight: Tensor
    bias: Tensor | None = None
    basis: str = "tanh"
    transform: str = "half_square"
    sharpness: Tensor | None = None
    offset: Tensor | None = None

    family: ClassVar[Family] = TRANSFORMED_MODULES
    operators: ClassVar[dict[str, Backends]] = OPERATORS["transformed_modules"]

    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.W, self.b, self.weight

    def settings(self) -> Settings:
        return Settings((self.basis,), self.transform)

    def known_settings(self) -> Settings | None:
        return known_transformed(self.basis, self.transform)

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, TransformedModules]:
        x, W = checked_transformed(where, x, self.W, self.b, self.weight, self.bias, self.basis, self.transform)
        offset = checked_soft_maximum(where, self.sharpness, self.offset, x, W)
        return x, replace(self, W=W, offset=offset)


@dataclass(slots=True)
class Deep(Network):
    """A network of the family; the fields are the arguments of `deep`, theta as W."""

    W: Tensor
    bias: Tensor | None
    basis: str | Sequence[str]
    structure: Structure
    keep: bool = False

    family: ClassVar[Family] = DEEP
    operators: ClassVar[dict[str, Backends]] = OPERATORS["deep"]

    def parameters(self) -> tuple[Tensor | None, ...]:
        return (self.W,)

    def settings(self) -> Settings:
        return deep_settings(self.basis, self.structure, self.keep)

    def known_settings(self) -> Settings | None:
        return known_deep(self.basis, self.structure, self.keep)

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, Deep]:
        check_flag(where, "keep", self.keep)
        x, theta, names = checked_deep(where, x, self.W, self.bias, self.basis, self.structure)
        return x, Deep(theta, self.bias, names, self.structure, self.keep)


@dataclass(slots=True)
class ConvRidge(Network):
    """A network of the family; the fields are the arguments of `conv_ridge`, K as W, and what x was when made flat.

    Its methods take images (…, C_in, n_1, …, n_s), and return such, or numbers (…,).  They give `run` rows of
    coordinates, as all operators take.
    """

    W: Tensor
    scale: Tensor | None
    shift: Tensor
    coef: Tensor | None
    bias: Tensor | None = None
    basis: str | Sequence[str] = "tanh"
    padding: str = "zeros"
    heads: bool = False
    image: Image | None = None

    family: ClassVar[Family] = CONV_RIDGE
    operators: ClassVar[dict[str, Backends]] = OPERATORS["conv_ridge"]

    def value(self, x: Tensor, backend: str | None = None) -> Tensor:
        return self._of_images("value", (x,), backend)

    def potential(self, x: Tensor, backend: str | None = None) -> Tensor:
        return self._plus_bias_times(x, self._of_images("potential", (x,), backend))

    def _plus_bias_times(self, x: Tensor, F: Tensor) -> Tensor:
        if self.bias is None:
            return F
        sums = x.flatten(2 - self.W.dim()).sum(-1, dtype=torch.promote_types(F.dtype, torch.float32))
        return (F + (sums * self.bias).sum(-1)).to(F.dtype)

    def jvp(self, x: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
        return self._of_images("jvp", (x, v), backend)

    def divergence(self, x: Tensor, backend: str | None = None) -> Tensor:
        return self._of_images("divergence", (x,), backend)

    def jacobian(self, x: Tensor, backend: str | None = None) -> Tensor:
        """Raise NotImplementedError."""
        got = "the Jacobian, which has (C_in·n_1·…·n_s)² values an image"
        fix = "take the product with a vector, jvp, or torch.func.jacrev of a small image"
        raise NotImplementedError(message("conv_ridge", "quantity", "value, potential, jvp or divergence", got, fix))

    def prepared(self, quantity: str, x: Tensor, backend: str | None = None) -> ConvRidge:
        """Return the network with what calls of the quantity for images like x share, computed once for all of them."""
        return self

    def _of_images(self, quantity: str, points: tuple[Tensor, ...], backend: str | None) -> Tensor:
        """Return the quantity; of the potential without what the bias adds."""
        where = CONV_RIDGE.operator_name(quantity)
        image, rows = checked_images(where, points, self.W, self.bias, self.padding)
        bias = self.bias if quantity == "value" else None
        result = run(replace(self, bias=bias, image=image), quantity, rows, backend)
        return result.reshape(points[0].shape) if QUANTITIES[quantity].result == "vector" else result

    def parameters(self) -> tuple[Tensor | None, ...]:
        return self.W, self.scale, self.shift, self.coef

    def settings(self) -> Settings:
        return cascade_settings(self.basis, self.heads)._replace(image=self.image)

    def known_settings(self) -> Settings | None:
        assert self.image is not None
        return known_convolution(self.basis, self.image, self.heads)

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, ConvRidge]:
        arguments = (self.W, self.scale, self.shift, self.coef, self.basis, self.heads)
        x, K, shift, coef, names = checked_conv_ridge(where, x, *arguments)
        return x, replace(self, W=K, shift=shift, coef=coef, basis=names)


NETWORKS: dict[str, type[Network]] = {
    cls.family.name: cls for cls in (Ridge, SoftmaxModules, TransformedModules, Deep, ConvRidge)
}
"""The families by the names of their operators."""
