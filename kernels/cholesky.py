"""Determinants and inverses of small symmetric positive definite matrices, one launch for a batch of them.

    log det A = Σ_k log p_k,    p_k = S_kk before step k,    S = A at first and −A⁻¹ at last

The p_k are the squares of Cholesky's diagonal.  Step k sweeps row and column k, with S_ik = S_ki:

    S_ij ← S_ij − (S_ki/p_k) S_kj,    S_kj ← S_kj/p_k,    S_ik ← S_ki/p_k,    S_kk ← −1/p_k    (i, j ≠ k)

which is one outer product: S ← S₀ − a bᵀ, where S₀ is S with zeros in row and column k, a = S_k·/p_k but a_k = −1/p_k,
and b = S_k· but b_k = −1.  So a matrix takes one tile of registers, and its inverse no more steps than its determinant.
No square root rounds: at any condition number errors are about those of an LU factorisation.

A matrix takes d N² multiply-adds, 2d N² additions, 2d N² selections and d N² comparisons, N being d rounded up to a
power of two: registers have no index, so that step k finds its row by adding up what a tile without it lacks.  It reads
d(d + 1)/2 numbers, and writes one, and for the inverse another d².
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])
def sweep(
    A,
    weight,
    logarithm,
    inverse,
    count,
    d,
    stride,
    row_stride,
    column_stride,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
    BM: tl.constexpr,
    N: tl.constexpr,
):
    """logarithm (count,) ← log det A, NaN if a pivot is not in [SMALLEST, LARGEST]; inverse (count, d, d) ← weight A⁻¹.

    A (count, d, d) has any strides, and its lower triangle alone is read; weight (count,) is None for ones, and so is
    `inverse` where it is not wanted.
    """
    matrices = tl.program_id(0) * BM + tl.arange(0, BM)
    i = tl.arange(0, N)[None, :, None]
    j = tl.arange(0, N)[None, None, :]
    inside = (matrices < count)[:, None, None] & (i < d) & (j < d)
    at = matrices.to(tl.int64)
    # (BM, N, N)
    place = at[:, None, None] * stride + tl.maximum(i, j) * row_stride + tl.minimum(i, j) * column_stride
    S = tl.load(A + place, mask=inside, other=0.0)
    columns = tl.arange(0, N)[None, :]
    pivots = tl.full((BM, N), 1.0, S.dtype)
    for k in range(0, d):
        rest = tl.where(i == k, 0.0, S)
        row = tl.sum(S - rest, 1)
        pivot = tl.sum(tl.where(columns == k, row, 0.0), 1)
        is_plain = (pivot >= SMALLEST) & (pivot <= LARGEST)
        # A step with another pivot changes nothing: the matrix is given up, and must not overflow.
        q = tl.where(is_plain, 1.0 / tl.where(is_plain, pivot, 1.0), 0.0)[:, None]
        a = tl.where(columns == k, -q, row * q)
        b = tl.where(columns == k, -1.0, row)
        S = tl.fma(-a[:, :, None], b[:, None, :], tl.where(j == k, 0.0, rest))
        pivots = tl.where(columns == k, tl.where(is_plain, pivot, float("nan"))[:, None], pivots)
    tl.store(logarithm + at, tl.sum(tl.log(pivots), 1), mask=matrices < count)
    if inverse is not None:
        half = tl.full((BM,), -0.5, S.dtype)
        if weight is not None:
            half *= tl.load(weight + at, mask=matrices < count, other=0.0)
        # Rounding has made S_ij and S_ji differ.
        symmetric = (S + tl.permute(S, (0, 2, 1))) * half[:, None, None]
        tl.store(inverse + at[:, None, None] * d * d + i * d + j, symmetric, mask=inside)
