"""The proximal map of a convex potential, by Newton's method with conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import message

Map = Callable[[Tensor], Tensor]
_SHORTEST_STEP = 2.0**-20


def proximal_point(
    gradient: Map,
    hessian: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    gamma: float | Tensor,
    tolerance: float,
    max_iter: int,
) -> Tensor:
    """argmin_x ½|x − z|² + γF(x) for a convex F: the root of x + γ∇F(x) − z.

    Args:
        gradient: ∇F of a batch, (B, …) → (B, …).
        hessian: (x, v) → ∇²F(x) v.
        z: (B, …).
        gamma: γ ≥ 0, a number or a tensor that broadcasts against z.
        tolerance: a sample is done when its |x + γ∇F(x) − z| is below it times the larger of |z| and |γ∇F(z)|, which
            bounds the error of x, as x + γ∇F(x) moves no two points closer; or when Newton's step, which is about that
            error, is below it times |x|.
        max_iter: the most steps of Newton's method.

    Returns: x (B, …), differentiable once in z, γ and what `gradient` depends on, by the implicit function theorem.
    """

    def residual(x: Tensor) -> Tensor:
        return x + gamma * gradient(x) - z

    def solve(right: Tensor, relative: Tensor | float) -> Tensor:
        with torch.no_grad():
            return conjugate_gradients(lambda v: v + gamma * hessian(x, v), right, relative)

    with torch.no_grad():
        x = z.detach()
        r = residual(x)
        best, scale = _norm(r), torch.maximum(_norm(z), _norm(r))
        for _ in range(max_iter):
            # A loose direction far from the solution, and an ever better one near it, keep the convergence fast.
            step = solve(r, (_norm(r) / scale.clamp(min=torch.finfo(r.dtype).tiny)).sqrt().clamp(max=0.1))
            unsolved = (_norm(r) > tolerance * scale) & (_norm(step) > tolerance * _norm(x))
            accepted, x, r = _shorten(residual, x, r, torch.where(unsolved, step, 0.0), best)
            best = torch.minimum(best, _norm(r))
            if not accepted.any():
                break
    if not torch.is_grad_enabled():
        return x
    correction: Tensor = _Implicit.apply(residual(x), lambda g: solve(g, tolerance))  # type: ignore[no-untyped-call]
    return x - correction


class _Implicit(torch.autograd.Function):
    """r ↦ 0 with the derivative of H⁻¹r, H the Hessian: the implicit derivative of the root, with its sign turned."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, solve: Map) -> Tensor:
        ctx.solve = solve
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            fix = "leave create_graph=True out, or call deepinv.optim.Prior.prox(prior, x, …)"
            raise RuntimeError(message("prox", "derivatives", "the first ones only", "create_graph=True", fix))
        return ctx.solve(g), None


def _shorten(residual: Map, x: Tensor, r: Tensor, step: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each sample's x − t·step with the first good t = 1, ½, ¼, …, and its residual; first, which samples were moved.

    A t is good if the minimised function still falls there along the step; being convex, it is then lower than at x.
    The residual's length would not do, as a kink of ∇F can make any step lengthen it.  Near the solution a Newton step
    may end slightly past the minimum: so a t is good too if it halves the shortest residual that any step began with,
    which can happen only finitely often.
    """
    moving, length = _norm(step) > 0, torch.ones_like(best)
    while True:
        moved = x - length * step
        new = residual(moved)
        good = (_dot(step, new) >= 0) | (_norm(new) <= best / 2)
        pending = moving & ~good & (length > _SHORTEST_STEP)
        if not pending.any():
            accepted = moving & good
            return accepted, torch.where(accepted, moved, x), torch.where(accepted, new, r)
        length = torch.where(pending, length / 2, length)


def conjugate_gradients(product: Map, right: Tensor, relative: Tensor | float) -> Tensor:
    """Solve A s = right for each sample, A symmetric positive definite, until |right − A s| ≤ relative·|right|.

    Args:
        product: s ↦ A s of a batch, (B, …) → (B, …).
        right: (B, …).
        relative: a number, or one for each sample, (B, 1, …).

    >>> A = torch.tensor([2.0, 4.0])
    >>> conjugate_gradients(lambda s: A * s, torch.tensor([[2.0, 4.0]]), 1e-6).allclose(torch.ones(1, 2))
    True
    """
    solution, r = torch.zeros_like(right), right
    direction, target = r, relative * _norm(r)
    for _ in range(right[:1].numel()):
        unsolved = _norm(r) > target
        if not unsolved.any():
            break
        image = product(direction)
        length = torch.where(unsolved, _dot(r, r) / _dot(direction, image), 0.0)
        before = _dot(r, r)
        solution, r = solution + length * direction, r - length * image
        direction = r + torch.where(unsolved, _dot(r, r) / before, 0.0) * direction
    return solution


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (B, 1, …)."""
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.dim() - 1))


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
