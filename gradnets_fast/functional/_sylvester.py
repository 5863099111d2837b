"""Determinants of VᵀV + Bᵀ S B, S symmetric with far fewer rows than V, by matrices of the size of S.

    det(VᵀV + Bᵀ S B) = det(VᵀV) det(P) det(P⁻¹ + Lᵀ S L),    B = L Q,  QQᵀ = I,  P = Q (VᵀV)⁻¹ Qᵀ

which is Sylvester's identity in the coordinates of the rows of B, where the last factor is as regular as the whole.
The Jacobian of a network with a linear part is such a matrix: with B = W and S = diag φ'(Wx) where each unit has a
function.  Called by the networks' `slogdet`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..ops import autograd
from ..ops.operator import PLAIN_TYPES
from ._determinant import slogdet_of
from ._network import Network, Ridge

_PAYS = 2
"""By how much V's rows are to exceed those of B."""
_REGULAR = {torch.float32: 1e-5, torch.float64: 1e-11}
"""The least part of the largest diagonal of a triangular factor that its least one is to be: 0 has no derivatives."""
_OF_WEIGHTS = ("ridge", "softmax_modules", "transformed_modules")
"""The families that depend on x by W x alone."""


@dataclass(frozen=True)
class LowRank:
    """The matrices VᵀV + Bᵀ S B of a batch of S.

    Attributes:
        L, inverse: L and P⁻¹, (n, n).
        logarithm: log det(VᵀV) + log det(P), ().
    """

    L: Tensor
    inverse: Tensor
    logarithm: Tensor

    @staticmethod
    def of(V: Tensor, B: Tensor) -> LowRank | None:
        """Return what the matrices share, V (d, d), B (n, d); None where it does not pay, or V or B is nearly singular.

        In float64: it is the work of a few of the batch's matrices.
        """
        if _PAYS * B.shape[0] > B.shape[1] or not B.shape[0] or not _are_plain(V, B):
            return None
        R, (Q, T) = torch.linalg.qr(V.double()).R, torch.linalg.qr(B.double().mT)
        if not (_is_regular(R, V.dtype) and _is_regular(T, V.dtype)):
            return None
        Z = torch.linalg.qr(torch.linalg.solve_triangular(R.mT, Q, upper=False)).R
        inverse = torch.linalg.solve_triangular(Z, torch.eye(len(Z), dtype=Z.dtype, device=Z.device), upper=True)
        logarithm = 2 * (R.diagonal().abs().log().sum() + Z.diagonal().abs().log().sum())
        return LowRank(T.mT.to(V.dtype), (inverse @ inverse.mT).to(V.dtype), logarithm)

    def slogdet(self, S: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        """Return signs and log|det| of the matrices, (…,); S: points (…, n) ↦ (…, n, n), or if diagonal (…, n)."""

        def matrices(points: Tensor) -> Tensor:
            inner = S(points)
            product = inner.unsqueeze(-1) * self.L if inner.dim() == points.dim() else inner @ self.L
            return self.inverse + self.L.mT @ product

        sign, logarithm = slogdet_of(matrices, points)
        return sign, (logarithm + self.logarithm).to(logarithm.dtype)


def slogdet_with_linear(network: Network, V: Tensor, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return signs and log|det(J(x) + VᵀV)| at points x (…, d), (…,) each; None where this does not pay."""
    if network.family.name not in _OF_WEIGHTS or type(network.W) not in PLAIN_TYPES or type(x) not in PLAIN_TYPES:
        return None
    if x.shape[-1:] != V.shape[:1] or x.dtype is not V.dtype or x.device != network.W.device:
        return None  # which the usual way has words for
    W = network.W.flatten(0, -2)
    found = LowRank.of(V, W)
    if found is None:
        return None
    of_units: Any = network  # a dataclass, which every family is
    identity = torch.eye(len(W), dtype=W.dtype, device=W.device).view(*network.W.shape[:-1], len(W))
    of_units = replace(of_units, W=identity, bias=None)
    if isinstance(network, Ridge):
        return found.slogdet(lambda u: of_units.jvp(u, torch.ones_like(u)), x @ W.mT)
    return found.slogdet(of_units.jacobian, x @ W.mT)


def _are_plain(V: Tensor, B: Tensor) -> bool:
    """Whether numbers can be looked at: nothing traces, or spreads tensors over devices."""
    plain = type(V) in PLAIN_TYPES and type(B) in PLAIN_TYPES and V.dtype in _REGULAR and B.dtype is V.dtype
    return plain and not torch.compiler.is_compiling() and autograd.no_transform_is_active()


def _is_regular(R: Tensor, dtype: torch.dtype) -> bool:
    sizes = R.detach().diagonal().abs()
    return bool(sizes.min() > _REGULAR[dtype] * sizes.max())
