"""Heads: a shallow network of one dimension that each hidden unit learns in place of a fixed activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import check_positive, message


@dataclass(frozen=True)
class Heads:
    """A learned sum of shifted and stretched basis functions for an activation: φ(u) = Σ_r Σ_k C_rk b_k(β_r u + s_r).

    It costs one product with the weights, whatever the number of heads.

    Equivalent to, for one basis function and the activation's parameters:
        (act.weight[:, 0] * b(act.scale * u[..., None, :] + act.shift)).sum(-2)

    Args:
        count: R, how many heads there are.
        basis: a name of the activation table, or several, of each of which every head has one.  In a monotone network
            they are nondecreasing, and the scales and weights are passed through softplus.

    Shapes: the parameters are `scale` and `shift`, (R, h), and `weight`, (R, K, h).

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.

    Source: Goujon, Neumayer, Unser, "Learning Weakly Convex Regularizers for Convergent Image-Reconstruction
    Algorithms", SIAM Journal on Imaging Sciences, 2024, whose profile is two heads of hardtanh.

    >>> import torch, gradnets_fast
    >>> net = gradnets_fast.RidgeGradNet(in_dim=2, embed_dim=8, activation=gradnets_fast.Heads(3, "hardtanh"))
    >>> net(torch.zeros(5, 2)).shape, net.act.weight.shape
    (torch.Size([5, 2]), torch.Size([3, 1, 8]))
    """

    count: int = 2
    basis: str | Sequence[str] = "tanh"

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_positive(where, "count", self.count)
        if isinstance(self.basis, str):
            object.__setattr__(self, "basis", (self.basis,))
        if not isinstance(self.basis, Sequence) or not self.basis or not all(isinstance(b, str) for b in self.basis):
            fix = 'pass for example basis="hardtanh"'
            raise TypeError(message(where, "basis", "a name, or several", repr(self.basis), fix))
        object.__setattr__(self, "basis", tuple(self.basis))

    def label(self) -> str:
        """Return what it is called in a repr."""
        return f"Heads({self.count}, {' + '.join(self.basis)})"
