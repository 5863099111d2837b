"""Each operator's tensors, drawn from normal numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ... import functional

_DERIVED = ("jvp", "potential", "divergence", "jacobian")
Function = Callable[..., Tensor]
Normal = Callable[..., Tensor]
"""(*shape) -> a float64 tensor of normal numbers."""


def quantity(operator: str) -> str:
    """Which function of its family an operator computes: "value" is f itself.

    >>> quantity("ridge_jvp"), quantity("softmax_modules")
    ('jvp', 'value')
    """
    last = operator.rpartition("_")[2]
    return last if last in _DERIVED else "value"


def family(operator: str) -> str:
    """The operator that computes f itself.

    >>> family("ridge_jvp"), family("softmax_modules")
    ('ridge', 'softmax_modules')
    """
    return operator.removesuffix(f"_{quantity(operator)}")


@dataclass(frozen=True)
class Variant:
    """A family's parameters and settings.

    Attributes:
        family: the operators' common name.
        draw: (normal, d, h) -> the tensors that follow the points.
        settings: the arguments that are no tensors.
        keywords: the names of the last tensors before the bias, where they are keywords.
    """

    family: str
    draw: Callable[[Normal, int, int], list[Tensor]]
    settings: dict[str, Any] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()

    def bound(self, function: Function) -> Function:
        """A family's function as one of the tensors alone."""

        def call(*tensors: Tensor) -> Tensor:
            *others, bias = tensors
            last = len(others) - len(self.keywords)
            keywords = dict(zip(self.keywords, others[last:]))
            return function(*others[:last], bias, **self.settings, **keywords)

        return call


def ridge(layers: int, *basis: str, positive: bool = False) -> Variant:
    """A cascade; positive: with scales near 1, as networks begin with, rather than of any sign."""

    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        scale = normal(layers, h)
        # Halved coefficients: at full size each layer of a mixture magnifies rounding errors, until chance decides
        # whose second derivatives are better.
        vectors = [scale.sigmoid() + 0.5 if positive else scale, normal(layers, h), normal(layers, len(basis), h) / 2]
        return [normal(h, d) / d**0.5, *vectors, normal(d)]

    return Variant("ridge", draw, {"basis": basis})


def softmax_modules(modules: int) -> Variant:
    """Of both signs."""

    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        temperature = normal(modules).abs() + 0.1
        weights = [normal(modules), normal(modules)]
        return [normal(modules, h, d) / d**0.5, normal(modules, h), temperature, *weights, normal(d)]

    return Variant("softmax_modules", draw)


def transformed_modules(modules: int, basis: str, transform: str) -> Variant:
    """A transform of each module's sum."""

    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        return [normal(modules, h, d) / d**0.5, normal(modules, h), normal(modules) / h, normal(d)]

    return Variant("transformed_modules", draw, {"basis": basis, "transform": transform})


def soft_maximum(variant: Variant) -> Variant:
    """Modules combined by their soft maximum."""

    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        *parameters, bias = variant.draw(normal, d, h)
        # Convex modules with potentials of order 1: of large ones the rounding errors are relative errors of f.
        numbers = [t.abs() if t.dim() == 1 else t for t in parameters]
        return [*numbers, (normal().abs() + 1) / h**0.5, normal(len(parameters[0])), bias]

    return Variant(variant.family, draw, variant.settings, ("sharpness", "offset"))


@dataclass(frozen=True)
class Drawn:
    """An operator's tensors.

    Attributes:
        points: x, or x and v.
        parameters: by name, the bias last.
        g: the gradient of the result.
    """

    points: list[Tensor]
    parameters: dict[str, Tensor]
    g: Tensor


def drawn(
    operator: str,
    variant: Variant,
    dtype: torch.dtype,
    size: tuple[int, int, int],
    generator: torch.Generator,
    device: torch.device | str,
) -> Drawn:
    """Tensors that the generator's seed alone determines, on every device; size: (batch, d, h)."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    (batch, d, h), computed = size, quantity(operator)
    points = [normal(batch, d) for _ in range(2 if computed == "jvp" else 1)]
    # As users of mixed precision have them: besides f itself, whose vectors may be in 16 bits too.
    narrow = dtype in (torch.bfloat16, torch.float16) and computed != "value"
    vectors = torch.float32 if narrow else dtype
    weight, *others = variant.draw(normal, d, h)
    tensors = [weight.to(device, dtype), *(t.to(device, vectors) for t in others)]
    shape = {"potential": (batch,), "divergence": (batch,), "jacobian": (batch, d, d)}.get(computed, (batch, d))
    positional = len(points) + len(tensors) - len(variant.keywords)
    *names, bias = list(inspect.signature(getattr(functional, operator)).parameters)[len(points) : positional]
    return Drawn(
        [p.to(device, dtype) for p in points],
        dict(zip([*names, *variant.keywords, bias], tensors)),
        # A sixteenth, for sums over the batch to fit into float16.
        (normal(*shape) / 16).to(device, dtype),
    )
