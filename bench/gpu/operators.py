"""What is checked: each operator's tensors, and the three functions that are compared."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast import functional, reference
from gradnets_fast.backend import why_not
from gradnets_fast.reference.ridge import PANELLED_RULE

BACKEND = "triton"
SUFFIXES = ("jvp", "potential", "divergence", "jacobian")
Function = Callable[..., Tensor]
Normal = Callable[..., Tensor]


@dataclass(frozen=True)
class Precision:
    """A dtype, and how its products are computed.

    Attributes:
        dtype: of the points.
        matmul: what torch.set_float32_matmul_precision is told; None leaves PyTorch as it starts.
        eps: of the numbers that products round their factors to.
    """

    dtype: torch.dtype
    matmul: str | None
    eps: float

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, float32 products are computed so; afterwards as PyTorch starts."""
        try:
            if self.matmul is not None:
                torch.set_float32_matmul_precision(self.matmul)
            yield
        finally:
            torch.set_float32_matmul_precision("highest")
            # "highest" asks for IEEE products, which is more than nothing said.
            if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9
                torch.backends.cuda.matmul.fp32_precision = "none"


PRECISIONS = {
    "bf16": Precision(torch.bfloat16, None, 2.0**-7),
    "tf32": Precision(torch.float32, "high", 2.0**-10),
    "fp32": Precision(torch.float32, "highest", 2.0**-23),
    "fp32-default": Precision(torch.float32, None, 2.0**-23),
    "fp16": Precision(torch.float16, None, 2.0**-10),
}


@dataclass(frozen=True)
class Variant:
    """A family's parameters and settings.

    Attributes:
        family: the operators' common name.
        draw: (normal, d, h) -> the tensors that follow the points; normal draws a float64 tensor of a shape.
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


def _ridge(layers: int, *basis: str) -> Variant:
    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        # Halved coefficients: at full size each layer of a mixture magnifies rounding errors, until chance decides
        # whose second derivatives are better.
        vectors = [normal(layers, h), normal(layers, h), normal(layers, len(basis), h) / 2]
        return [normal(h, d) / d**0.5, *vectors, normal(d)]

    return Variant("ridge", draw, {"basis": basis})


def _softmax(modules: int) -> Variant:
    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        temperature = normal(modules).abs() + 0.1
        weights = [normal(modules), normal(modules)]
        return [normal(modules, h, d) / d**0.5, normal(modules, h), temperature, *weights, normal(d)]

    return Variant("softmax_modules", draw)


def _transformed(modules: int, basis: str, transform: str) -> Variant:
    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        return [normal(modules, h, d) / d**0.5, normal(modules, h), normal(modules) / h, normal(d)]

    return Variant("transformed_modules", draw, {"basis": basis, "transform": transform})


def _combined(variant: Variant) -> Variant:
    """Of three modules, by their soft maximum."""

    def draw(normal: Normal, d: int, h: int) -> list[Tensor]:
        *parameters, bias = variant.draw(normal, d, h)
        # Convex modules with potentials of order 1: of large ones the rounding errors are relative errors of f.
        numbers = [t.abs() if t.dim() == 1 else t for t in parameters]
        return [*numbers, (normal().abs() + 1) / h**0.5, normal(len(parameters[0])), bias]

    return Variant(variant.family, draw, variant.settings, ("sharpness", "offset"))


VARIANTS = {
    "tanh-1": _ridge(1, "tanh"),
    "tanh-4": _ridge(4, "tanh"),
    "softplus+sin+identity-2": _ridge(2, "softplus", "sin", "identity"),
    "softmax-2": _softmax(2),
    "softmax-maximum-3": _combined(_softmax(3)),
    "half_square-2": _transformed(2, "tanh", "half_square"),
    "quadratic-maximum-3": _combined(_transformed(3, "identity", "identity")),
}


def operators(device: torch.device) -> list[str]:
    """Those that have kernels, the gradients of a family before what derives from them."""
    able = functional.__all__ if why_not(BACKEND, device, torch.float32) is None else []
    return sorted(able, key=lambda name: suffix(name) != "")


def suffix(operator: str) -> str:
    """What an operator computes of its family: "" for f itself.

    >>> suffix("ridge_jvp"), suffix("softmax_modules")
    ('jvp', '')
    """
    last = operator.rpartition("_")[2]
    return last if last in SUFFIXES else ""


def variants(operator: str) -> list[str]:
    """The names of the variants of an operator's family."""
    family = operator.removesuffix(f"_{suffix(operator)}")
    return [name for name, variant in VARIANTS.items() if variant.family == family]


@dataclass(frozen=True)
class Call:
    """One operator on fixed numbers.

    Attributes:
        operator, precision: as in the tables.
        names: of the tensors.
        tensors: points first.
        g: the gradient of the result.
        ours, eager, exact: by the kernels, in plain PyTorch, and in PyTorch for float64.
    """

    operator: str
    precision: Precision
    names: Sequence[str]
    tensors: list[Tensor]
    g: Tensor
    ours: Function
    eager: Function
    exact: Function

    def truth(self) -> list[Tensor]:
        """The result and its gradients in float64."""
        return evaluated(self.exact, [t.double() for t in self.tensors], self.g.double())


def prepared(operator: str, variant: str, precision: str, size: tuple[int, int, int], device: torch.device) -> Call:
    """A call with tensors that the arguments alone determine; size: (batch, d, h)."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((operator, variant, precision, size)).encode()))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    (batch, d, h), chosen, numbers = size, VARIANTS[variant], PRECISIONS[precision]
    kind = suffix(operator)
    points = [normal(batch, d) for _ in range(2 if kind == "jvp" else 1)]
    # As users of mixed precision have them: besides f itself, whose vectors may be in 16 bits too.
    vectors = numbers.dtype if kind == "" else torch.float32
    tensors = [t.to(device, numbers.dtype) for t in points]
    tensors += [t.to(device, numbers.dtype if i == 0 else vectors) for i, t in enumerate(chosen.draw(normal, d, h))]
    shape = {"potential": (batch,), "divergence": (batch,), "jacobian": (batch, d, d)}.get(kind, (batch, d))
    public = getattr(gradnets_fast, operator)
    eager = chosen.bound(getattr(reference, operator))
    *names, bias = list(inspect.signature(public).parameters)[: len(tensors) - len(chosen.keywords)]
    return Call(
        operator,
        numbers,
        [*names, *chosen.keywords, bias],
        tensors,
        # A sixteenth, for sums over the batch to fit into float16.
        (normal(*shape) / 16).to(device, numbers.dtype),
        chosen.bound(partial(public, backend=BACKEND)),
        eager,
        partial(_ridge_potential, **chosen.settings) if operator == "ridge_potential" else eager,
    )


def _ridge_potential(
    x: Tensor, W: Tensor, scale: Tensor, shift: Tensor, coef: Tensor, bias: Tensor, basis: Sequence[str]
) -> Tensor:
    """By quadrature throughout: the closed form's derivative in scale cancels even in float64."""
    u = x @ W.T
    phi = sum(weight * reference.cascade(t * u, scale, shift, coef, basis) for t, weight in PANELLED_RULE)
    return (u * phi).sum(-1) + x @ bias


def evaluated(function: Function, tensors: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The result, and the gradients of <g, result> for every tensor."""
    return step(function, [t.detach().requires_grad_() for t in tensors], g)


def step(function: Function, leaves: Sequence[Tensor], g: Tensor) -> list[Tensor]:
    """The same of leaves that require gradients."""
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, g, materialize_grads=True)]
