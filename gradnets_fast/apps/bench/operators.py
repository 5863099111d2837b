"""An operator as a case: its value, and the gradients of its value, of tensors drawn from a fixed seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ... import functional, reference
from ...reference.ridge import PANELLED_RULE
from . import draws
from .cases import Case, Problem
from .plain_operators import plain_operator
from .work import products, transcendental, work

_WITHOUT_CURVATURE = "identity"
"""The transform without a second derivative."""


@dataclass(frozen=True, kw_only=True)
class OperatorCase(Case):
    """One of `gradnets_fast.functional`.

    Attributes:
        operator: its name.
        depth: layers of a cascade, or modules.
        basis: names of the activation table; none for softmax modules.
        transform: of transformed modules; else empty.
    """

    operator: str
    depth: int
    basis: tuple[str, ...] = ()
    transform: str = ""

    def problem(self, device: torch.device | str = "cpu", batch: int | None = None) -> Problem:
        """The operator's tensors from a fixed seed."""
        size = (batch or self.batch, self.d, self.h)
        variant, generator = self.tensors(), torch.Generator().manual_seed(0)
        drawn = draws.drawn(self.operator, variant, self.precision.dtype, size, generator, device)
        parameters = {name: t.requires_grad_() for name, t in drawn.parameters.items()}
        points = tuple(p.requires_grad_() for p in drawn.points)
        own = tuple(parameters.values())
        exact = variant.bound(getattr(reference, self.operator))
        plain = variant.bound(plain_operator(self.operator))
        public = variant.bound(getattr(functional, self.operator))

        def exactly(given: Mapping[str, Tensor], *points: Tensor) -> Tensor:
            return exact(*points, *given.values())

        return Problem(
            points=points,
            parameters=parameters,
            g=drawn.g,
            exact=exactly,
            eager=lambda *points: plain(*points, *own),
            ours=lambda *points: public(*points, *own),
            authors=None,
            work=work(
                products(draws.quantity(self.operator), self.d, self._means()),
                float(size[0] * self.h * self._modules()),
                self.d,
                self._evaluations(),
                (*points, *own, drawn.g),
            ),
            eps=self.precision.eps,
        )

    def tensors(self) -> draws.Variant:
        """How they are drawn."""
        family = draws.family(self.operator)
        if family == "ridge":
            return draws.ridge(self.depth, *self.basis, positive=True)
        if family == "softmax_modules":
            return draws.softmax_modules(self.depth)
        return draws.transformed_modules(self.depth, self.basis[0], self.transform)

    def _modules(self) -> int:
        return 1 if draws.family(self.operator) == "ridge" else self.depth

    def _means(self) -> int:
        if not self.basis:
            return 2
        return int(self.transform not in ("", _WITHOUT_CURVATURE))

    def _evaluations(self) -> int:
        """Of special functions for each hidden value in one pass; of a deep cascade's potential at each node."""
        if not self.basis:
            return 2
        layers = self.depth if draws.family(self.operator) == "ridge" else 1
        nodes = len(PANELLED_RULE) if layers > 1 and draws.quantity(self.operator) == "potential" else 1
        return layers * nodes * transcendental(self.basis)


def named(operator: str, depth: int, basis: tuple[str, ...], transform: str, dtype: str) -> partial[OperatorCase]:
    """A case without its size, which (batch, d, h) make one of.

    >>> named("ridge_jvp", 4, ("tanh", "softplus"), "", "bfloat16")(batch=8, d=2, h=3).label
    'ridge_jvp, 4 layers, bfloat16 tanh+softplus 8x2x3'
    """
    unit = "layer" if draws.family(operator) == "ridge" else "module"
    words = [operator, f"{depth} {unit}" + ("" if depth == 1 else "s"), *([] if dtype == "float32" else [dtype])]
    variant = " ".join(part for part in ("+".join(basis), transform) if part)
    return partial(
        OperatorCase,
        family=", ".join(words),
        variant=variant,
        dtype=dtype,
        operator=operator,
        depth=depth,
        basis=basis,
        transform=transform,
    )
