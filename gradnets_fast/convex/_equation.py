"""A(x) = t with A(x) = f(x), or x + γ f(x), for the gradient f of a convex potential: the operator and its derivatives.

With H = ∂A/∂x, which is symmetric, the root's derivative is dx = H⁻¹(dt − ∂_θ A dθ), and that of w = H⁻¹g is
H⁻¹(dg − dH w).  Both are written with each other, so that roots are differentiable any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..functional import factorisation

Inputs = Sequence[Tensor]
LARGEST_DENSE = 128
"""Up to this dimension H is made and factored; beyond it, it is known by its products with vectors."""
_PIECE = 1 << 18
"""How many values of H are made at a time: they stay in the processor's cache, and memory does not grow with B d²."""


class _Methods(nn.Module):
    """A network's methods by name, so that torch.func.functional_call reaches them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, method: str, *arguments: Tensor) -> Tensor:
        result: Tensor = (self.net if method == "forward" else getattr(self.net, method))(*arguments)
        return result


class Equation:
    """A(x) = f(x), or x + γ f(x) where γ is given, for points x (B, …), each a sample.

    Attributes:
        inputs: what A depends on besides x: γ, (B, 1, …), where it is given, and the network's parameters.
        is_dense: whether H is made as a matrix.
    """

    def __init__(self, net: nn.Module, gamma: Tensor | None, is_dense: bool) -> None:
        self._methods = _Methods(net)
        names_and_values = list(self._methods.named_parameters())
        self._names = [name for name, _ in names_and_values]
        self._has_gamma = gamma is not None
        given = () if gamma is None else (gamma,)
        self.inputs: tuple[Tensor, ...] = (*given, *(value for _, value in names_and_values))
        self.is_dense = is_dense

    def rows(self, inputs: Inputs, chosen: Tensor | slice) -> tuple[Tensor, ...]:
        """Return the inputs of some of the samples."""
        return (inputs[0][chosen], *inputs[1:]) if self._has_gamma else tuple(inputs)

    def apply(self, inputs: Inputs, x: Tensor) -> Tensor:
        """Return A(x)."""
        f = self._call(inputs, "forward", x)
        return x + inputs[0] * f if self._has_gamma else f

    def product(self, inputs: Inputs, x: Tensor, v: Tensor) -> Tensor:
        """Return H v."""
        Jv = self._call(inputs, "jvp", x, v)
        return v + inputs[0] * Jv if self._has_gamma else Jv

    @torch.no_grad()
    def solve(self, inputs: Inputs, x: Tensor, right: Tensor, relative: Tensor | float) -> Tensor:
        """Return H⁻¹ right, by a factorisation, or by conjugate gradients until |right − H s| <= relative·|right|."""
        if not self.is_dense:
            return conjugate_gradients(lambda v: self.product(inputs, x, v), right, relative)
        count = max(1, _PIECE // x.shape[-1] ** 2)
        pieces = [slice(i, i + count) for i in range(0, len(x), count)]
        if len(pieces) > 1:
            parts = (self.solve(self.rows(inputs, piece), x[piece], right[piece], relative) for piece in pieces)
            return torch.cat(list(parts))
        H = self._call(inputs, "jacobian", x)
        if self._has_gamma:
            H = inputs[0].unsqueeze(-1) * H
            H.diagonal(dim1=-2, dim2=-1).add_(1)
        return (_inverse(H) @ right.unsqueeze(-1)).squeeze(-1)

    def _call(self, inputs: Inputs, method: str, *arguments: Tensor) -> Tensor:
        parameters = dict(zip(self._names, inputs[1:] if self._has_gamma else inputs))
        result: Tensor = functional_call(self._methods, parameters, (method, *arguments))
        return result


def _inverse(H: Tensor) -> Tensor:
    """Return the inverses of positive semidefinite matrices (B, d, d), a multiple of I added where one has none."""
    kernel = factorisation(H, H)
    inverse: Tensor | None = None
    for _ in range(2):
        if kernel is not None:
            inverse = torch.empty_like(H, memory_format=torch.contiguous_format)
            failed = kernel(H, None, inverse).isnan()
        else:
            factor, info = torch.linalg.cholesky_ex(H)
            inverse, failed = torch.cholesky_inverse(factor), info != 0
        if not failed.any():
            break
        size = H.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(H.dtype).tiny)
        unit = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
        H = H + (failed * size * torch.finfo(H.dtype).eps ** 0.5)[:, None, None] * unit
    assert inverse is not None
    return inverse


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, relative: Tensor | float) -> Tensor:
    """Solve A s = right for each sample, A symmetric positive definite, until |right − A s| <= relative·|right|.

    Args:
        product: s ↦ A s of a batch, (B, …) → (B, …).
        right: (B, …).
        relative: a number, or one for each sample, (B, 1, …).

    >>> A = torch.tensor([2.0, 4.0])
    >>> conjugate_gradients(lambda s: A * s, torch.tensor([[2.0, 4.0]]), 1e-6).allclose(torch.ones(1, 2))
    True
    """
    solution, r = torch.zeros_like(right), right
    direction, target = r, relative * norm(r)
    for _ in range(right[:1].numel()):
        unsolved = norm(r) > target
        if not unsolved.any():
            break
        image = product(direction)
        length = torch.where(unsolved, dot(r, r) / dot(direction, image), 0.0)
        before = dot(r, r)
        solution, r = solution + length * direction, r - length * image
        direction = r + torch.where(unsolved, dot(r, r) / before, 0.0) * direction
    return solution


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, (B, 1, …)."""
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.dim() - 1))


def norm(a: Tensor) -> Tensor:
    """Return the length of each sample, (B, 1, …)."""
    return dot(a, a).sqrt()


def root(equation: Equation, x: Tensor, t: Tensor, relative: float) -> Tensor:
    """Return x, which solves A(x) = t, with its derivatives in t and the equation's inputs."""
    if not torch.is_grad_enabled():
        return x
    found: Tensor = _Root.apply(equation, relative, x, t, *equation.inputs)  # type: ignore[no-untyped-call]
    return found


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, equation: Equation, relative: float, x: Tensor, t: Tensor, *inputs: Tensor) -> Tensor:
        ctx.equation, ctx.relative = equation, relative
        result = x.clone()
        ctx.save_for_backward(result, *inputs)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *inputs = ctx.saved_tensors
        w = _Solved.apply(ctx.equation, ctx.relative, g, x, *inputs)  # type: ignore[no-untyped-call]

        def along(own: Inputs) -> Tensor:
            total: Tensor = (ctx.equation.apply(own, x) * w).sum()
            return total

        return None, None, None, w, *_minus_gradients(along, inputs, ctx.needs_input_grad[4:])


class _Solved(torch.autograd.Function):
    """w = H⁻¹g."""

    @staticmethod
    def forward(ctx: Any, equation: Equation, relative: float, g: Tensor, x: Tensor, *inputs: Tensor) -> Tensor:
        ctx.equation, ctx.relative = equation, relative
        w = equation.solve(inputs, x, g, relative)
        ctx.save_for_backward(w, x, *inputs)
        return w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        w, *tensors = ctx.saved_tensors
        u = _Solved.apply(ctx.equation, ctx.relative, g, *tensors)  # type: ignore[no-untyped-call]

        def along(own: Inputs) -> Tensor:
            x, *inputs = own
            total: Tensor = (ctx.equation.product(inputs, x, w) * u).sum()
            return total

        return None, None, u, *_minus_gradients(along, tensors, ctx.needs_input_grad[3:])


def _minus_gradients(
    along: Callable[[Inputs], Tensor], tensors: Inputs, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return −∇along in the tensors that need it, themselves differentiable where a graph is being built."""
    if not any(needs):
        return (None,) * len(tensors)
    is_recorded = torch.is_grad_enabled()
    # The derivative at fixed others: what these depend on by the graph must not count, so it is taken in aliases.
    own = [t.view_as(t) if is_recorded else t.detach().requires_grad_(need) for t, need in zip(tensors, needs)]
    with torch.enable_grad():
        value = along(own)
    needed = [tensor for tensor, need in zip(own, needs) if need]
    found = iter(torch.autograd.grad(value, needed, create_graph=is_recorded, allow_unused=True))
    gradients = [next(found) if need else None for need in needs]
    return tuple(None if gradient is None else -gradient for gradient in gradients)
