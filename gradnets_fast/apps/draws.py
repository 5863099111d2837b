"""Each operator's tensors, drawn from normal numbers: used by benchmarks, the checks of bench.gpu, and the doctor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import functional, reference
from ..ops.families import QUANTITIES

_DERIVED = QUANTITIES.keys() - {"value"}
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
        depth: layers of a cascade or of a deep network, or modules.
        basis: names of the activation table; none for softmax modules.
        transform: of transformed modules; else empty.
        bare: without the parameters that may be left out: scale and coefficients of one layer, weights of the second
            softmax of each module.
        signed: a cascade's scales are of any sign, rather than near 1, as networks begin with.
        combined: modules are combined by their soft maximum, rather than summed.
    """

    family: str
    depth: int
    basis: tuple[str, ...] = ()
    transform: str = ""
    bare: bool = False
    signed: bool = False
    combined: bool = False

    @property
    def modules(self) -> int:
        """How many modules there are, 1 where there are none."""
        return 1 if self.layered else self.depth

    @property
    def layered(self) -> bool:
        """Whether `depth` counts layers."""
        return self.family in ("ridge", "deep", "conv_ridge")

    @property
    def channels(self) -> tuple[int, ...]:
        """The dimensions of a point before its d coordinates: signals of one channel are what a convolution takes."""
        return (1,) if self.family == "conv_ridge" else ()

    def settings(self, h: int) -> dict[str, Any]:
        """The arguments of the functional operators that are no tensors, for h hidden units."""
        if self.family == "deep":
            return {"widths": (h,) * self.depth, "basis": self.basis * (self.depth // len(self.basis))}
        if self.family in ("ridge", "conv_ridge"):
            return {"basis": self.basis} | ({"scale": None, "coef": None} if self.bare else {}) | self._padding()
        if self.family == "softmax_modules":
            return {"negative": None} if self.bare else {}
        return {"basis": self.basis[0], "transform": self.transform}

    def draw(self, normal: Normal, d: int, h: int) -> dict[str, Tensor]:
        """The parameters, W first and the bias last."""
        drawn = _FAMILIES[self.family](self, normal, d, h)
        if self.combined:
            # Convex modules with potentials of order 1: of large ones the rounding errors are relative errors of f.
            drawn = {name: t.abs() if t.dim() == 1 else t for name, t in drawn.items()}
            drawn |= {"sharpness": (normal(1)[0].abs() + 1) / h**0.5, "offset": normal(self.depth)}
        return drawn | {"bias": normal(*self.channels or (d,))}

    def _padding(self) -> dict[str, str]:
        return {"padding": "zeros"} if self.family == "conv_ridge" else {}


def taps(d: int) -> int:
    """The size of the filters of signals of d samples."""
    return min(d, 5)


def _conv_ridge(variant: Variant, normal: Normal, d: int, h: int) -> dict[str, Tensor]:
    return {"K": normal(h, 1, taps(d)) / taps(d) ** 0.5} | _cascade(variant, normal, h)


def _ridge(variant: Variant, normal: Normal, d: int, h: int) -> dict[str, Tensor]:
    return {"W": normal(h, d) / d**0.5} | _cascade(variant, normal, h)


def _cascade(variant: Variant, normal: Normal, h: int) -> dict[str, Tensor]:
    if variant.bare:
        return {"shift": normal(1, h)}
    scale = normal(variant.depth, h)
    scale = scale if variant.signed else scale.sigmoid() + 0.5
    # Halved coefficients: at full size each layer of a mixture magnifies rounding errors, until chance decides
    # whose second derivatives are better.
    coef = normal(variant.depth, len(variant.basis), h) / 2
    return {"scale": scale, "shift": normal(variant.depth, h), "coef": coef}


def _softmax_modules(variant: Variant, normal: Normal, d: int, h: int) -> dict[str, Tensor]:
    modules = variant.depth
    drawn = {"W": normal(modules, h, d) / d**0.5, "b": normal(modules, h)}
    drawn |= {"temperature": normal(modules).abs() + 0.1, "positive": normal(modules)}
    return drawn if variant.bare else drawn | {"negative": normal(modules)}


def _transformed_modules(variant: Variant, normal: Normal, d: int, h: int) -> dict[str, Tensor]:
    modules = variant.depth
    return {"W": normal(modules, h, d) / d**0.5, "b": normal(modules, h), "weight": normal(modules) / h}


def _deep(variant: Variant, normal: Normal, d: int, h: int) -> dict[str, Tensor]:
    """Weights that keep the scale from layer to layer."""
    parts: list[Tensor] = []
    for before in (d, *[h] * (variant.depth - 1)):
        parts += [normal(h, before) / before**0.5, normal(h)]
    return {"theta": torch.cat([part.flatten() for part in (*parts, normal(h) / h**0.5)])}


_FAMILIES = {
    "ridge": _ridge,
    "softmax_modules": _softmax_modules,
    "transformed_modules": _transformed_modules,
    "deep": _deep,
    "conv_ridge": _conv_ridge,
}


@dataclass(frozen=True)
class Drawn:
    """An operator's tensors.

    Attributes:
        points: by name: x, or x and v.
        parameters: by name, W first and the bias last.
        g: the gradient of the result.
    """

    points: dict[str, Tensor]
    parameters: dict[str, Tensor]
    g: Tensor

    @property
    def named(self) -> dict[str, Tensor]:
        """Points and parameters."""
        return self.points | self.parameters

    def in_order(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function of tensors by name, as one of tensors in the order of `named`."""
        return lambda *tensors: function(**dict(zip(self.named, tensors)))


def drawn(
    operator: str,
    variant: Variant,
    dtype: torch.dtype,
    size: tuple[int, int, int],
    generator: torch.Generator,
    device: torch.device | str,
) -> Drawn:
    """Tensors that the generator's seed alone determines; size: (batch, d, h)."""
    normal = partial(torch.randn, generator=generator, dtype=torch.float64, device=generator.device)
    (batch, d, h), computed = size, quantity(operator)
    names = [name for name in inspect.signature(getattr(functional, operator)).parameters if name in ("x", "v")]
    point = (batch, *variant.channels, d)
    points = {name: normal(*point).to(device, dtype) for name in names}
    # As users of mixed precision have them: besides f itself, whose vectors may be in 16 bits too.
    narrow = dtype in (torch.bfloat16, torch.float16) and computed != "value"
    vectors = torch.float32 if narrow else dtype
    parameters = variant.draw(normal, d, h)
    shape = {"potential": (batch,), "divergence": (batch,), "jacobian": (batch, d, d)}.get(computed, point)
    return Drawn(
        points,
        {name: t.to(device, dtype if name in ("W", "K", "theta") else vectors) for name, t in parameters.items()},
        # A sixteenth, for sums over the batch to fit into float16.
        (normal(*shape) / 16).to(device, dtype),
    )


def oracle(operator: str, variant: Variant, h: int) -> Callable[..., Tensor]:
    """The operator of `gradnets_fast.reference` with the variant's settings for h hidden units, of tensors by name."""
    return partial(getattr(reference, operator), **variant.settings(h))
