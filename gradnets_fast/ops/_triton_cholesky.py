"""The caller of the Triton kernel that factors small symmetric matrices, in the place of `_cpp.cholesky` on a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ._kernels import kernel_module
from ._triton import current_device, dense, plain, why_not

LARGEST = 64
"""The largest matrices that the registers of a program hold."""

_DTYPES = (torch.float32, torch.float64)
_LARGEST_STRIDE = 1 << 22
"""Offsets within a matrix are counted in 32 bits."""


def why_not_matrices(A: Tensor) -> str | None:
    """Why the kernel does not take matrices (…, d, d); None if it does."""
    if A.dtype not in _DTYPES:
        return f"its matrices are float32 or float64, not {A.dtype}"
    if A.shape[-1] > LARGEST:
        return f"its matrices are {LARGEST} × {LARGEST} at most"
    unfit = why_not(A.device, torch.float32, tiles=False)
    if unfit is None and A.is_cuda and torch.cuda.is_current_stream_capturing():
        return "it asks whether all matrices are positive definite, which a CUDA graph cannot record"
    return unfit


def cholesky(A: Tensor, weight: Tensor | None = None, inverse: Tensor | None = None) -> Tensor:
    """Return log det A, (B,), of symmetric positive definite A (B, d, d), as `_cpp.cholesky` does; d <= LARGEST."""
    A, weight = plain(A), dense(weight)
    if max(A.stride()) > _LARGEST_STRIDE:
        A = A.contiguous()
    logarithm = torch.empty(A.shape[0], dtype=A.dtype, device=A.device)
    if not A.numel():
        return logarithm.zero_()
    constants = _constants(A.shape[-1], A.dtype)
    grid = (-(-A.shape[0] // constants["BM"]),)
    with current_device(A.device):
        kernel_module("launching").launch(
            kernel_module("cholesky").sweep,
            grid,
            (A, weight, logarithm, inverse, A.shape[0], A.shape[-1], *A.stride()),
            constants,
        )
    return logarithm


@lru_cache(maxsize=None)
def _constants(d: int, dtype: torch.dtype) -> dict[str, Any]:
    largest = torch.finfo(dtype).max
    limits = {"SMALLEST": 4 / largest, "LARGEST": largest / 2}  # of pivots in C++
    return {**limits, **kernel_module("configuration").matrix_options(d, dtype.itemsize)}


def describe(A: Tensor) -> str:
    """Which kernel factors matrices (…, d, d), for people."""
    what = f"kernels, {A.shape[-1]} × {A.shape[-1]} matrices, {str(A.dtype).removeprefix('torch.')}"
    if A.is_cuda:
        return f"{what}, {torch.cuda.get_device_name(A.device)}, compiled at the first call"
    return f"{what}, Triton's interpreter, on the CPU"
