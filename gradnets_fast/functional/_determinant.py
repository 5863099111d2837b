"""Determinants of symmetric matrices, which Jacobians of gradient networks are: their signs and logarithms.

    ∂ log|det A| = <A⁻¹, ∂A>        ∂A⁻¹ = −A⁻¹ ∂A A⁻¹

A C++ kernel factors positive definite matrices as A = L Lᵀ, one to a lane of the processor's vectors, and on a GPU a
Triton kernel those of up to 64 × 64, one or several to a program.  The backward pass factors them again, and makes the
inverse times the incoming gradient while they are in the cache or in registers, which is quicker than to store the
inverse and to read it once more.  Matrices that are not positive definite go to torch.linalg then, and so does all that
the kernels do not take.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backend as _backend
from ..errors import check_tensor, message
from ..ops import _cpp, _triton_cholesky, autograd
from ._convolution import are_unwatched, kernels_run

__all__ = ["symmetric_logdet", "symmetric_slogdet"]

_LARGEST = 128
"""Up to this size a group of matrices, one to a lane, stays in the second-level cache."""
_PIECE = 1 << 18
"""How many values of matrices are made at a time where no gradient is asked for."""
_NARROW = (torch.bfloat16, torch.float16)
Factorisation = Callable[[Tensor, "Tensor | None", "Tensor | None"], Tensor]
"""(A, weights, memory for their product with A⁻¹) ↦ log det A, as `_cpp.cholesky`."""


def symmetric_slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Signs and logarithms of the absolute determinants of symmetric matrices.

    Positive definite ones go through Cholesky's factorisation A = L Lᵀ, log det A = 2 Σ_i log L_ii; the others through
    an LU factorisation with pivots.

    Equivalent to:
        torch.linalg.slogdet(A)

    Args:
        A: matrices, (…, d, d), of which the lower triangle is read; float64, float32, or 16-bit, which is computed in
            float32.

    Returns:
        The signs 1, −1, or 0 of a singular matrix, and log|det A|, −inf of a singular matrix, (…,) each, in the dtype
        of A.  The logarithms are differentiable any number of times.

    Raises:
        TypeError: A is no tensor, or of another dtype.  ValueError: its last two dimensions differ.

    Source: Golub, Van Loan, "Matrix Computations", 4th edition, section 4.2; d log det A = tr(A⁻¹ dA).

    >>> import torch
    >>> sign, logarithm = symmetric_slogdet(torch.diag(torch.tensor([2.0, -3.0])))
    >>> float(sign), round(float(logarithm.exp()), 4)
    (-1.0, 6.0)
    """
    check_matrices("symmetric_slogdet", A)
    if A.dtype in _NARROW:
        sign, logarithm = symmetric_slogdet(A.float())
        return sign.to(A.dtype), logarithm.to(A.dtype)
    kernel = factorisation(A, A)
    if kernel is None:
        return _by_linalg(A)
    flat = A.reshape(-1, *A.shape[-2:])
    if torch.is_grad_enabled() and A.requires_grad:
        sign, logarithm = _Determinant.apply(flat, kernel)  # type: ignore[no-untyped-call]
    else:
        sign, logarithm, _ = _slogdet(kernel, flat)
    return sign.reshape(A.shape[:-2]), logarithm.reshape(A.shape[:-2])


def symmetric_logdet(A: Tensor) -> Tensor:
    """Logarithms of the determinants of symmetric matrices: −inf of singular ones, NaN where the determinant is < 0.

    Equivalent to:
        torch.logdet(A)

    Args:
        A: matrices, (…, d, d), as `symmetric_slogdet` takes them.

    Returns:
        log det A, (…,), in the dtype of A.  A warning names the matrices whose determinant is not positive.

    Raises:
        TypeError, ValueError: as `symmetric_slogdet`.

    Source: as `symmetric_slogdet`.

    >>> import torch
    >>> round(float(symmetric_logdet(torch.eye(3) * 2).exp()), 4)
    8.0
    """
    return logarithm_of_positive("symmetric_logdet", *symmetric_slogdet(A), "add a multiple of the identity")


def slogdet_of(jacobian: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `symmetric_slogdet` of the matrices jacobian(x), (…, d, d), at points x (…, d), in the dtype of x.

    Without gradients the matrices are made and used in pieces that stay in the processor's cache.
    """
    d = x.shape[-1] if x.dim() else 1
    rows = max(1, _PIECE // max(1, d * d))
    if torch.is_grad_enabled() or x.numel() <= rows * d or not kernels_run(None, x, x):
        sign, logarithm = symmetric_slogdet(jacobian(x))
    else:
        pieces = [symmetric_slogdet(jacobian(piece)) for piece in x.reshape(-1, d).split(rows)]
        sign, logarithm = (torch.cat(parts).reshape(x.shape[:-1]) for parts in zip(*pieces))
    return sign.to(x.dtype), logarithm.to(x.dtype)


def logarithm_of_positive(where: str, sign: Tensor, logarithm: Tensor, fix: str) -> Tensor:
    """Return the logarithms where the sign is 1, −inf where it is 0 and NaN elsewhere, with a warning of those rows."""
    is_positive = sign > 0
    # While a compiler or a transform traces, the signs have no values to look at.
    if not torch.compiler.is_compiling() and autograd.no_transform_is_active() and not bool(is_positive.all()):
        rows = [index[0] if len(index) == 1 else tuple(index) for index in (~is_positive).nonzero().tolist()]
        shown = ", ".join(map(str, rows[:5])) + ", …" * (len(rows) > 5)
        got = f"one that is not, in {len(rows)} of {sign.numel()} (at {shown}): their logarithm is −inf or NaN"
        warnings.warn(message(where, "matrices", "a positive determinant", got, fix), RuntimeWarning, stacklevel=3)
    unlike = torch.where(sign == 0, -torch.inf, torch.nan).to(logarithm.dtype)
    return torch.where(is_positive, logarithm, unlike)


def check_matrices(where: str, A: Any) -> None:
    """Raise if A is no floating-point tensor of shape (…, d, d)."""
    check_tensor(where, "A", A)
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        fix = "pass square matrices, such as the Jacobian of a network"
        raise ValueError(message(where, "A", "shape (…, d, d)", f"shape {tuple(A.shape)}", fix))
    if not A.is_floating_point():
        raise TypeError(message(where, "A", "a floating-point dtype", str(A.dtype), "convert it with A.float()"))


def choose(A: Tensor, backend: str | None = None) -> _backend.Choice:
    """Return what factors plain matrices A, (…, d, d): "cpp", "triton", or "reference", which is torch.linalg."""
    named = _backend.requested(backend)
    refusals: dict[str, str] = {}
    reason = f"asked for by {named[1]}" if named else "the fastest that can run this call"
    for name in ("triton", "cpp"):
        refusal = f"{named[0]!r} is asked for by {named[1]}" if named and named[0] != name else None
        if refusal is None and name == "cpp":
            too_large = f"its matrices are {_LARGEST} × {_LARGEST} at most" if A.shape[-1] > _LARGEST else None
            refusal = _backend.why_not(name, A.device, A.dtype) or too_large
        elif refusal is None and not named and A.device.type == "cpu":
            refusal = "Triton's interpreter is slow, and runs only when asked for by name"
        elif refusal is None:
            refusal = _triton_cholesky.why_not_matrices(A)
        if refusal is None:
            return _backend.Choice(name, reason, refusals)
        refusals[name] = refusal
    is_asked_for = named is not None and named[0] == "reference"
    return _backend.Choice("reference", reason if is_asked_for else "torch.linalg takes what kernels do not", refusals)


def factorisation(A: Tensor, other: Tensor) -> Factorisation | None:
    """Return the kernel that factors A, (B, d, d), beside another tensor; None where torch.linalg does."""
    if A.dtype in _NARROW:
        return None
    if kernels_run(None, A, other):
        return _cholesky
    is_free = are_unwatched(A, other) and not torch.is_autocast_enabled("cuda")
    return _triton_cholesky.cholesky if is_free and choose(A).backend == "triton" else None


def _by_linalg(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signs and logarithms where kernels do not run: of large matrices on a GPU, and under transforms.

    In forward mode torch.linalg.slogdet of PyTorch 2.13 gives wrong derivatives, of a batch and of second order; those
    of A = QR, |det A| = Π |R_ii|, are right.
    """
    if torch.compiler.is_compiling() or autograd.no_transform_is_active():
        sign, logarithm = torch.linalg.slogdet(A)
        return sign, logarithm
    R = torch.linalg.qr(A).R
    return torch.linalg.slogdet(A.detach()).sign, R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


def _slogdet(kernel: Factorisation, A: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return signs and logarithms, (B,), of matrices (B, d, d) without a graph; whether all are positive definite."""
    logarithm = kernel(A, None, None)
    sign, failed = torch.ones_like(logarithm), logarithm.isnan()
    are_positive = not failed.any()
    if not are_positive:
        found = [torch.linalg.slogdet(part) for part in _for_lu(A.detach()[failed])]
        sign[failed], logarithm[failed] = (torch.cat(parts) for parts in zip(*found))
    return sign, logarithm, are_positive


def _weighted_inverse(kernel: Factorisation, A: Tensor, weight: Tensor | None, are_positive: bool) -> Tensor:
    """Return weight·A⁻¹ of symmetric matrices (B, d, d), without a graph; are_positive: as `_slogdet` found.

    A GPU that needs not say which are positive definite goes on while Python does.
    """
    inverse = torch.empty_like(A, memory_format=torch.contiguous_format)
    failed = kernel(A, weight, inverse).isnan()
    if not are_positive and failed.any():
        found = torch.cat([torch.linalg.inv_ex(part).inverse for part in _for_lu(A.detach()[failed])])
        symmetric = (found + found.mT) / 2
        inverse[failed] = symmetric if weight is None else symmetric * weight[failed, None, None]
    return inverse


def _cholesky(A: Tensor, weight: Tensor | None = None, inverse: Tensor | None = None) -> Tensor:
    """Return log det A, (B,), NaN where A is not positive definite; write weight·A⁻¹ into `inverse` if it is given."""
    if A.shape[-1] <= _LARGEST:
        return _cpp.cholesky(A, weight, inverse)
    factor, failed = torch.linalg.cholesky_ex(A.detach())
    if inverse is not None:
        torch.cholesky_inverse(factor, out=inverse)
        if weight is not None:
            inverse *= weight[:, None, None]
    logarithm = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.where(failed == 0, logarithm, torch.nan)


def _for_lu(A: Tensor) -> tuple[Tensor, ...]:
    """Return the matrices as torch.linalg factors them rightly: one by one if they are large.

    After torch.set_num_threads, PyTorch 2.13's batched LU factorisation of more than 128 rows gives wrong pivots on a
    CPU: each thread calls a library that starts threads of its own.
    """
    if A.shape[-1] <= _LARGEST:
        return (A,)
    return tuple(A[i : i + 1] for i in range(len(A)))


class _Determinant(torch.autograd.Function):
    """A ↦ (sign, log|det A|)."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, kernel: Factorisation) -> tuple[Tensor, Tensor]:
        sign, logarithm, are_positive = _slogdet(kernel, A)
        ctx.positive_by = kernel if are_positive else None
        ctx.save_for_backward(A)
        ctx.mark_non_differentiable(sign)
        return sign, logarithm

    @staticmethod
    def backward(ctx: Any, _: Any, g: Tensor) -> tuple[Tensor, None]:
        (A,) = ctx.saved_tensors
        kernel = factorisation(A, g)
        if kernel is None:
            return g[:, None, None] * torch.linalg.inv(A), None
        if not torch.is_grad_enabled():
            return _weighted_inverse(kernel, A, g, ctx.positive_by is kernel), None
        inverse: Tensor = _Inverse.apply(A, kernel, ctx.positive_by is kernel)  # type: ignore[no-untyped-call]
        return g[:, None, None] * inverse, None


class _Inverse(torch.autograd.Function):
    """A ↦ A⁻¹, of symmetric matrices."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, kernel: Factorisation, are_positive: bool) -> Tensor:
        inverse = _weighted_inverse(kernel, A, None, are_positive)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return -(inverse @ g @ inverse), None, None
