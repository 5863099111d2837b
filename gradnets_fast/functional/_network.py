"""`Network`: what all families of operators share, the arguments of a call besides its points.

The public functions (`ridge`, …) and the modules of gradnets_fast/nn make a `Network` and call its methods; each of
them goes to `run` in _dispatch.py.  A family is a subclass, in a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..ops import Backends
from ..ops.families import Family
from ._dispatch import run


class Network:
    """A gradient network by its effective parameters, as kernels take them: after softplus and every other map.

    Attributes:
        family: its tensors and settings by name.
        operators: the compiled operators of the family by quantity.
        W, bias: the weights, and what is added to f or None; a subclass has more tensors.
        sharpness, offset: what combines modules by log-sum-exp; None where f is a sum.
    """

    family: ClassVar[Family]
    operators: ClassVar[dict[str, Backends]]
    W: Tensor
    bias: Tensor | None
    sharpness: Tensor | None = None
    offset: Tensor | None = None

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

    def parameters(self) -> tuple[Tensor | None, ...]:
        """Return the tensors that a sum over hidden units or modules is over, in the order of `family.parameters`."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its parameters are")

    def names(self) -> tuple[str | Sequence[str], str]:
        """Return the names of the basis functions and of the transform ρ, "" where there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its functions are")

    def checked(self, where: str, x: Tensor) -> tuple[Tensor, Any]:
        """Return the points and the network as they count, after autocast.

        Raises:
            TypeError, ValueError: naming the argument, what was expected, what came, and the fix.
        """
        raise NotImplementedError(f"{type(self).__name__} does not check its arguments")
