"""The elementwise middle of the ridge family: φ, φ' and the gradients of a·φ, on float32 tiles in registers.

A tile holds neurons along one axis and rows of the batch along the other, AXIS.  Parameters are tuples of vectors over
the tile's neurons, expanded along AXIS: `scale` β and `shift` s, one per layer; `coef` C, one per layer and basis
function, layer by layer.  An empty tuple stands for ones.
"""

import triton
import triton.language as tl

from . import _activations_gen as activations


@triton.jit
def load(pointer, neurons, h, COUNT: tl.constexpr, AXIS: tl.constexpr):
    """The rows of a (COUNT, h) matrix at `neurons`, 0 beyond h; no rows for a pointer that is None."""
    rows = ()
    if pointer is not None:
        for i in tl.static_range(COUNT):
            row = tl.load(pointer + i * h + neurons, mask=neurons < h, other=0.0).to(tl.float32)
            rows = rows + (tl.expand_dims(row, AXIS),)
    return rows


@triton.jit
def _enter(l: tl.constexpr, u, mixed, scale, shift):
    """z_l = β_l u + s_l + mixed, mixed being what layer l − 1 passed on."""
    z = u
    if len(scale) > 0:
        z = z * scale[l]
    z = z + shift[l]
    if l > 0:
        z = z + mixed
    return z


@triton.jit
def _weighted(coef, position: tl.constexpr, value):
    result = value
    if len(coef) > 0:
        result = coef[position] * value
    return result


@triton.jit
def value(u, scale, shift, coef, BASIS: tl.constexpr, LAYERS: tl.constexpr, ARITHMETIC: tl.constexpr):
    """φ(u): z_l = β_l u + s_l + Σ_k C_{l−1,k} b_k(z_{l−1}), φ = Σ_k C_{L−1,k} b_k(z_{L−1})."""
    K: tl.constexpr = len(BASIS)
    mixed = u
    for l in tl.static_range(LAYERS):
        z = _enter(l, u, mixed, scale, shift)
        mixed = _weighted(coef, l * K, activations.value(z, tl.constexpr(BASIS[0]), ARITHMETIC))
        for k in tl.static_range(1, K):
            term = activations.value(z, tl.constexpr(BASIS[k]), ARITHMETIC)
            mixed = mixed + _weighted(coef, l * K + k, term)
    return mixed


@triton.jit
def _layer(l: tl.constexpr, z, coef, BASIS: tl.constexpr, ARITHMETIC: tl.constexpr):
    """Σ_k C_{l,k} b_k(z), Σ_k C_{l,k} b_k'(z), and (b_0(z), …, b_{K−1}(z))."""
    K: tl.constexpr = len(BASIS)
    b, first = activations.value_first(z, tl.constexpr(BASIS[0]), ARITHMETIC)
    values = (b,)
    mixed, gain = _weighted(coef, l * K, b), _weighted(coef, l * K, first)
    for k in tl.static_range(1, K):
        b, first = activations.value_first(z, tl.constexpr(BASIS[k]), ARITHMETIC)
        values = values + (b,)
        mixed = mixed + _weighted(coef, l * K + k, b)
        gain = gain + _weighted(coef, l * K + k, first)
    return mixed, gain, values


@triton.jit
def value_and_slope(u, scale, shift, coef, BASIS: tl.constexpr, LAYERS: tl.constexpr, ARITHMETIC: tl.constexpr):
    """φ(u) and φ'(u): z_l' = β_l + Σ_k C_{l−1,k} b_k'(z_{l−1}) z_{l−1}', φ' = Σ_k C_{L−1,k} b_k'(z_{L−1}) z_{L−1}'."""
    mixed = u
    slope = u
    for l in tl.static_range(LAYERS):
        z = _enter(l, u, mixed, scale, shift)
        mixed, gain, _ = _layer(l, z, coef, BASIS, ARITHMETIC)
        if len(scale) > 0:
            inner = scale[l] + slope if l > 0 else scale[l]
            slope = gain * inner
        else:
            slope = gain * (1.0 + slope) if l > 0 else gain
    return mixed, slope


@triton.jit
def _add(total, term, AXIS: tl.constexpr, REDUCE: tl.constexpr):
    if REDUCE:
        term = tl.sum(term, AXIS)
    return total + term


@triton.jit
def value_and_gradients(
    u,
    a,
    scale,
    shift,
    coef,
    sums,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    AXIS: tl.constexpr,
    REDUCE: tl.constexpr,
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
):
    """φ(u), a·φ'(u), and `sums` + the gradients of Σ a·φ for those of (β, s, C) that are wanted, in this order.

    δ_l = (∂ of a·φ by z_l) = C_l·b'(z_l) δ_{l+1}, δ_L = a:  a·φ' = Σ_l β_l δ_l;  dβ_l = Σ δ_l u;  ds_l = Σ δ_l;
    dC_{l,k} = Σ δ_{l+1} b_k(z_l).  REDUCE: whether sums are over AXIS, or tiles that the caller will sum.
    """
    K: tl.constexpr = len(BASIS)
    mixed = u
    gains = ()
    values = ()
    for l in tl.static_range(LAYERS):
        z = _enter(l, u, mixed, scale, shift)
        mixed, gain, passed = _layer(l, z, coef, BASIS, ARITHMETIC)
        gains = gains + (gain,)
        values = values + passed
    shifts: tl.constexpr = LAYERS if OF_SCALE else 0
    coefs: tl.constexpr = shifts + (LAYERS if OF_SHIFT else 0)
    of_scale = ()
    of_shift = ()
    of_coef = ()
    delta = a
    total = a
    for l in tl.static_range(LAYERS - 1, -1, -1):
        if OF_COEF:
            layer = ()
            for k in tl.static_range(K):
                layer = layer + (_add(sums[coefs + l * K + k], delta * values[l * K + k], AXIS, REDUCE),)
            of_coef = layer + of_coef
        delta = delta * gains[l]
        if OF_SHIFT:
            of_shift = (_add(sums[shifts + l], delta, AXIS, REDUCE),) + of_shift
        if OF_SCALE:
            of_scale = (_add(sums[l], delta * u, AXIS, REDUCE),) + of_scale
        scaled = delta
        if len(scale) > 0:
            scaled = delta * scale[l]
        total = scaled if l == LAYERS - 1 else total + scaled
    return mixed, total, of_scale + of_shift + of_coef
