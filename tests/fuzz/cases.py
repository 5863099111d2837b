"""A call of an operator as a value: its tensors by a seed, their layouts, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradnets_fast import functional
from gradnets_fast.apps import draws

LAYOUTS = ("plain", "transposed", "strided", "offset", "expanded")
MODES = (
    *("gradients", "second", "no_grad", "inference", "vmap", "func.grad", "meta", "changed"),
    *("functionalize", "modes", "aliased", "autocast", "compiled"),
)
"""What is asked of a call:

- gradients: f, and the gradients of <g, f> in the tensors that need one.
- second: the gradients of a function of these gradients.
- no_grad, inference: f alone, in these modes.
- vmap: f of each point by itself, under torch.func.vmap.
- func.grad: the gradient of <g, f> in the points, by torch.func.grad.
- meta: the shape and dtype of f, of tensors without numbers.
- changed: an error, where a tensor that a gradient needs has been changed since.
- functionalize: f, under torch.func.functionalize.
- modes: f and gradients, under a TorchDispatchMode and a TorchFunctionMode that let everything pass.
- aliased: f and gradients where all tensors are views of one storage, and v is x itself.
- autocast: f to the bit as of points and weights that were rounded to 16 bits before.
- compiled: f and gradients, by torch.compile.
"""


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        operator: its name in `gradnets_fast`.
        variant: the family's parameters and settings.
        dtype: of the points and weights.
        batch: the leading dimensions of the points.
        d, h: coordinates and hidden units.
        layouts: of the points, the parameters and g, in this order, over again if there are more.
        needs: which of the points and parameters need gradients, likewise.
        scale: what the points are multiplied by.
        mode: one of MODES.
        seed: of all numbers.
    """

    operator: str
    variant: draws.Variant
    dtype: str
    batch: tuple[int, ...]
    d: int
    h: int
    layouts: tuple[str, ...]
    needs: tuple[bool, ...]
    scale: float
    mode: str
    seed: int

    def tensors(self) -> draws.Drawn:
        """Return points, parameters and g in their layouts."""
        dtype, generator = getattr(torch, self.dtype), torch.Generator().manual_seed(self.seed)
        size = (math.prod(self.batch), self.d, self.h)
        found = draws.drawn(self.operator, self.variant, dtype, size, generator, "cpu")
        layouts = [*self.layouts]

        def laid(t: Tensor) -> Tensor:
            layouts.append(layouts.pop(0))
            return laid_out(t.to(dtype), layouts[-1])

        return draws.Drawn(
            {name: laid((t * self.scale).reshape((*self.batch, *t.shape[1:]))) for name, t in found.points.items()},
            {name: laid(t) for name, t in found.parameters.items()},
            laid(found.g.reshape((*self.batch, *found.g.shape[1:]))),
        )

    def needed(self, names: Any) -> dict[str, bool]:
        """Return by name which tensors need gradients."""
        return {name: self.needs[i % len(self.needs)] for i, name in enumerate(names)}

    def ours(self, tensors: dict[str, Tensor], backend: str | None = "cpp") -> Tensor:
        """Return the operator's result, by default by the C++ kernels."""
        operator: Callable[..., Tensor] = getattr(functional, self.operator)
        return operator(**tensors, **self.variant.settings(self.h), backend=backend)

    def oracle(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return that of the reference."""
        return draws.oracle(self.operator, self.variant, self.h)(**tensors)

    def program(self) -> str:
        """Return a program that tries the case by itself, in the checkout's folder."""
        return (
            "from gradnets_fast.apps.draws import Variant\n"
            "from tests.fuzz.cases import Case\n"
            "from tests.fuzz.judge import judge\n\n"
            f"judge({self!r})\n"
        )


def laid_out(t: Tensor, layout: str) -> Tensor:
    """Return t, or for "expanded" its first row over and over, in memory with NaN wherever it is not.

    >>> laid_out(torch.ones(2, 3), "strided").stride(), laid_out(torch.ones(2, 3), "transposed").stride()
    ((6, 2), (1, 2))
    """
    if layout == "transposed" and t.dim() > 1:
        return t.mT.contiguous().mT
    if layout == "strided":
        return torch.stack([t, torch.full_like(t, math.nan)], -1)[..., 0]
    if layout == "offset":
        memory = t.new_full((t.numel() + 3,), math.nan)
        return memory[3:].view(t.shape).copy_(t)
    if layout == "expanded" and t.dim() and len(t):
        return t[:1].expand_as(t)
    return t
