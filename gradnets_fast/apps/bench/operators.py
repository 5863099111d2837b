"""An operator as a case: its value, and the gradients of its value, of tensors drawn from a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from ... import functional
from ...reference.ridge import PANELLED_RULE
from .. import draws
from . import eager
from .cases import Case, Problem
from .work import deep_products, products, transcendental, work

_DRAWN_ON_THE_CPU = 2**24
"""So many numbers at most are the same on every device; more would keep a GPU waiting."""


@dataclass(frozen=True, kw_only=True)
class OperatorCase(Case):
    """One of `gradnets_fast.functional`.

    Attributes:
        operator: its name.
        tensors: its parameters and settings.
    """

    operator: str
    tensors: draws.Variant

    @property
    def hidden(self) -> int:
        """Of all samples of signals."""
        return self.batch * self.h * (self.d if self._convolves() else 1)

    def problem(self, device: torch.device | str = "cpu", batch: int | None = None) -> Problem:
        """The operator's tensors from a fixed seed."""
        size = (batch or self.batch, self.d, self.h)
        generator = torch.Generator(device if size[0] * self.d > _DRAWN_ON_THE_CPU else "cpu").manual_seed(0)
        drawn = draws.drawn(self.operator, self.tensors, self.precision.dtype, size, generator, device)
        parameters = {name: t.requires_grad_() for name, t in drawn.parameters.items()}
        points = tuple(p.requires_grad_() for p in drawn.points.values())
        arguments = parameters | self.tensors.settings(self.h)
        exact, plain = draws.oracle(self.operator, self.tensors, self.h), eager.function(self.operator)
        public = getattr(functional, self.operator)
        return Problem(
            points=points,
            parameters=parameters,
            g=drawn.g,
            exact=lambda given, *points: exact(*points, **given),
            eager=lambda *points: plain(*points, **arguments),
            ours=lambda *points: public(*points, **arguments),
            authors=(lambda x: eager.authors_ridge(x, **arguments)) if self._recomputes() else None,
            work=work(
                self._products(),
                float(size[0] * self.h * self.tensors.modules * (self.d if self._convolves() else 1)),
                draws.taps(self.d) if self._convolves() else self.d,
                self._evaluations(),
                (points, tuple(parameters.values()), drawn.g),
            ),
            eps=self.precision.eps,
        )

    def _convolves(self) -> bool:
        return self.tensors.family == "conv_ridge"

    def _recomputes(self) -> bool:
        return self.operator == "ridge" and self.tensors.depth > 1

    def _products(self) -> dict[str, float]:
        quantity = draws.quantity(self.operator)
        if self.tensors.family == "deep":
            return deep_products(quantity, self.d, self.h, self.tensors.depth)
        return products(quantity, self.d, self._means())

    def _means(self) -> int:
        """Mean rows whose squares enter the Jacobian: see `work.products`."""
        if not self.tensors.basis:
            return 1 if self.tensors.bare else 2
        return int(self.tensors.transform not in ("", "identity"))

    def _evaluations(self) -> int:
        """Special functions for each hidden unit of each module in one pass; a deep potential takes them at each
        node."""
        tensors = self.tensors
        if not tensors.basis:
            return 1 if tensors.bare else 2
        own = transcendental(tensors.basis)
        if tensors.family == "deep":
            return own * (tensors.depth // len(tensors.basis))
        if tensors.family in ("ridge", "conv_ridge"):
            deep_potential = tensors.depth > 1 and draws.quantity(self.operator) == "potential"
            return tensors.depth * own * (len(PANELLED_RULE) if deep_potential else 1)
        # Their antiderivatives take an exponential and a logarithm besides.
        return own if tensors.transform == "identity" else 3 * own


def named(operator: str, depth: int, basis: tuple[str, ...], transform: str, dtype: str) -> partial[OperatorCase]:
    """A case without its size, which (batch, d, h) make one of.

    >>> named("ridge_jvp", 4, ("tanh", "softplus"), "", "bfloat16")(batch=8, d=2, h=3).label
    'ridge_jvp, 4 layers, bfloat16 tanh+softplus 8x2x3'
    """
    return of_variant(operator, draws.Variant(draws.family(operator), depth, basis, transform), dtype)


def of_variant(operator: str, tensors: draws.Variant, dtype: str) -> partial[OperatorCase]:
    """`named`, of any variant.

    >>> of_variant("softmax_modules", draws.Variant("softmax_modules", 4, bare=True), "tf32")(batch=8, d=2, h=3).label
    'softmax_modules, 4 modules, tf32 bare 8x2x3'
    """
    unit, depth = "layer" if tensors.layered else "module", tensors.depth
    words = [operator, f"{depth} {unit}" + ("" if depth == 1 else "s"), *([] if dtype == "float32" else [dtype])]
    variant = ["+".join(tensors.basis), tensors.transform, "bare" * tensors.bare, "soft maximum" * tensors.combined]
    return partial(
        OperatorCase,
        family=", ".join(words),
        variant=" ".join(filter(None, variant)),
        dtype=dtype,
        operator=operator,
        tensors=tensors,
    )
