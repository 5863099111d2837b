"""The norm of convolutions in turn, the root of the largest value that KᵀK takes on waves, on a grid of them.

    M(ω) = Σ_p R(p) e^(−iω·p),        norm² = max_ω λ_max(M(ω)),

R(p) (C_in, C_in) being what KᵀK makes of an impulse in each channel, p pixels from it.  R(−p) = R(p)ᵀ, so that M is
Hermitian.  R reaches a few pixels, and the grid has many more waves: two small matrix products are quicker than a fast
Fourier transform, and need no complex numbers, for which compilers make no code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional import NAMESPACE, adjoint, convolved

WAVES = {1: 256, 2: 256, 3: 64}
"""How many there are at least along each dimension, by the number of dimensions."""
_SQUARINGS = 5


def norm_of(filters: list[Tensor]) -> Tensor:
    """Return the norm of the convolutions with these filters in turn, (), in float32 at least.

    It is differentiable twice.  Autocast leaves it as it is.
    """
    device = filters[0].device.type
    with torch.autocast(device, enabled=False):
        exact = [K.to(torch.promote_types(K.dtype, torch.float32)) for K in filters]
        response = response_of(exact)
        for K in reversed(exact):
            response = adjoint(response, K, "zeros")
        tables = _tables(response)
        spectrum = _transformed(response.detach(), tables)
        place = spectrum[..., 0].argmax() if len(response) == 1 else _largest(spectrum.flatten(2, -2))
        for dim in reversed(range(len(tables))):
            waves = tables[dim].shape[2]
            tables[dim] = tables[dim].index_select(2, place.remainder(waves).view(1))
            place = place.div(waves, rounding_mode="floor")
        real, imaginary = _transformed(response, tables).flatten(2, -2).squeeze(2).unbind(-1)
        if len(response) == 1:
            return real.view(()).sqrt()
        M = torch.cat([torch.cat([real, -imaginary], 1), torch.cat([imaginary, real], 1)])
        return _largest_eigenvalue(M).sqrt()


def response_of(filters: list[Tensor]) -> Tensor:
    """Return what the convolutions make of an impulse in each channel, (C_in, C, …), as far as they and adjoints reach.

    The impulse is in the middle.
    """
    channels, reach = filters[0].shape[1], reach_of(filters)
    response = filters[0].new_zeros(channels, channels, *(2 * r + 1 for r in reach))
    for channel in range(channels):
        place = (channel, channel, *reach)
        response[place] = 1.0
    for K in filters:
        response = convolved(response, K, "zeros")
    return response


def reach_of(filters: list[Tensor]) -> list[int]:
    """Return how many pixels the convolutions take around one, together, along each dimension."""
    return [sum(K.shape[dim] - 1 for K in filters) for dim in range(2, filters[0].dim())]


def _tables(response: Tensor) -> list[Tensor]:
    """For each dimension e^(−iω·p) as a matrix, (pixels, 2, waves, 2); of ω and −ω there is one."""
    tables = []
    for dim, pixels in enumerate(response.shape[2:]):
        waves = max(WAVES[response.dim() - 2], pixels)
        p = torch.arange(pixels, device=response.device) - pixels // 2
        k = torch.arange(waves if dim else waves // 2 + 1, device=response.device)
        angle = (k * p[:, None] % waves).to(response.dtype) * (2 * math.pi / waves)  # of integers: no rounding so far
        cos, sin = angle.cos(), angle.sin()
        tables.append(torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1))
    return tables


def _transformed(response: Tensor, tables: list[Tensor]) -> Tensor:
    """M(ω), (C_in, C_in, waves …, 2) with real and imaginary parts."""
    spectrum = torch.stack([response, torch.zeros_like(response)], -1)
    for table in tables:
        spectrum = torch.tensordot(spectrum, table, ([2, spectrum.dim() - 1], [0, 1]))
    return spectrum


@torch.library.custom_op(f"{NAMESPACE}::largest_matrix", mutates_args=())
def _largest(matrices: Tensor) -> Tensor:
    """Which of the Hermitian matrices (n, n, N, 2) has the largest eigenvalue, (1,); how many are looked at varies.

    The sum of the squares of the elements of Mᵖ is between λᵖ squared and n times that: at each squaring those are left
    out whose λ cannot be the largest, so that eigenvalues are computed of few.
    """
    power = matrices = torch.view_as_complex(matrices.movedim(2, 0).contiguous())
    kept = torch.arange(len(matrices), device=matrices.device)
    for _ in range(_SQUARINGS):
        size = torch.view_as_real(power).square().sum((1, 2, 3))
        may_be = size * (1.001 * matrices.shape[-1]) >= size.max()
        kept, power = kept[may_be], power[may_be] / size.max().clamp_min(torch.finfo(size.dtype).tiny).sqrt()
        power = power @ power
    return kept[torch.linalg.eigvalsh(matrices[kept])[:, -1].argmax()].view(1)


@_largest.register_fake
def _(matrices: Tensor) -> Tensor:
    return matrices.new_empty(1, dtype=torch.int64)


@_largest.register_vmap
def _(info: object, in_dims: tuple[int], matrices: Tensor) -> tuple[Tensor, int]:
    return torch.stack([_largest(each) for each in matrices.unbind(in_dims[0])]), 0


def _largest_eigenvalue(M: Tensor) -> Tensor:
    """λ_max of the real symmetric form of a Hermitian matrix, whose eigenvalues are there twice, with two derivatives.

    For v of that eigenvalue and S the inverse of λ − M on what is orthogonal to its vectors, λ = vᵀMv to first order of
    M, and to second order with (Mv)ᵀS(Mv), which is 0 here.  The derivatives of torch.linalg.eigh divide by
    differences of equal eigenvalues.
    """
    values, vectors = torch.linalg.eigh(M.detach())
    gaps = values[-1] - values[:-2]
    inverse = torch.where(gaps > 1e-6 * values[-1], 1 / gaps, 0.0)
    Mv = M @ vectors[:, -1]
    across = vectors[:, :-2].T @ Mv
    largest: Tensor = vectors[:, -1] @ Mv + (across.square() * inverse).sum()
    return largest
