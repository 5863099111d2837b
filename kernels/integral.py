"""∫_0^u φ(t) dt, the potential of one hidden unit, and its gradients in β, s and C, on float32 tiles.

One layer, and each head, has the closed form Σ_k C_k (Φ_k(βu + s) − Φ_k(s))/β, Φ_k' = b_k, which cancels for small βu:
there a rule of NEAR nodes on [0, u] serves.  For more layers in series it is one of FAR nodes, those of
gradnets_fast/activations/quadrature.py.  Where some b_k have kinks, it is the sum over the intervals between them,
of NEAR nodes in each, or, where all b_k are piecewise linear, of its middle.

rule: pointer to float32 numbers: NEAR nodes on [0, 1], their weights, FAR nodes, their weights.
"""

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import cascade, common

NEAR = tl.constexpr(16)
FAR = tl.constexpr(128)
_SMALLEST_NORMAL = tl.constexpr(1.1754943508222875e-38)
_MOST_PANELS = tl.constexpr(64)


@triton.constexpr_function
def _is_straight(basis):
    """Whether all basis functions are piecewise linear."""
    return all(name in ("identity", "relu", "softshrink", "hardtanh", "hardsigmoid") for name in basis)


@triton.constexpr_function
def _nodes(basis):
    """Of the rule between kinks."""
    return 1 if _is_straight(basis) else 16


@triton.constexpr_function
def _has_panels(basis):
    """Whether one of them has a kink, or all are piecewise linear."""
    kinks = ("relu", "elu", "softsign", "softshrink", "hardtanh", "hardsigmoid")
    return any(name in kinks for name in basis) or all(name == "identity" for name in basis)


@triton.jit
def _between_kinks(z, shift):
    """Whether no kink of most basis functions lies between `shift` and z: theirs are at 0 or ±½."""
    return ((z < 0.0) == (shift < 0.0)) & ((z < 0.5) == (shift < 0.5)) & ((z < -0.5) == (shift < -0.5))


@triton.jit
def _on_one_side(z, shift, kink):
    """Whether neither kink nor −kink lies between `shift` and z."""
    return ((z < kink) == (shift < kink)) & ((z < -kink) == (shift < -kink))


@triton.jit
def _near(u, vectors, rule, phi, l: tl.constexpr, NAME: tl.constexpr):
    """∫_0^u of b(z), b'(z) and t·b'(z), z = βt + s, by the rule of NEAR nodes."""
    value = tl.zeros(u.shape, tl.float32)
    first = tl.zeros(u.shape, tl.float32)
    moment = tl.zeros(u.shape, tl.float32)
    for i in range(NEAR):
        t = tl.load(rule + i) * u
        weight = tl.load(rule + NEAR + i)
        z = cascade.scaled(l, t, vectors, phi) + cascade.vector(vectors, vectors.shift, l)
        b, b_first = activations.value_first(z, NAME, "accurate")
        value += weight * b
        first += weight * b_first
        moment += weight * (b_first * t)
    return u * value, u * first, u * moment


@triton.jit
def _integrals(u, vectors, rule, phi, l: tl.constexpr, k: tl.constexpr, SMOOTH: tl.constexpr, LIMIT: tl.constexpr):
    """∫_0^u of b_k(z), b_k'(z), t·b_k'(z), z = β_l t + s_l; by the rule where |β_l u| < LIMIT, if b_k is smooth."""
    NAME: tl.constexpr = tl.constexpr(phi.basis[k])
    shift = cascade.vector(vectors, vectors.shift, l)
    step = cascade.scaled(l, u, vectors, phi)
    z = step + shift
    short = tl.abs(step) < LIMIT
    if not SMOOTH[k]:
        short = (short & _between_kinks(z, shift)) | (tl.abs(step) < _SMALLEST_NORMAL)
    if NAME == "hardtanh":
        short = ((tl.abs(step) < LIMIT) & _on_one_side(z, shift, 1.0)) | (tl.abs(step) < _SMALLEST_NORMAL)
    if NAME == "hardsigmoid":
        short = ((tl.abs(step) < LIMIT) & _on_one_side(z, shift, 3.0)) | (tl.abs(step) < _SMALLEST_NORMAL)
    divisor = tl.where(short, 1.0, cascade.scaled(l, tl.full(u.shape, 1.0, tl.float32), vectors, phi))
    rise = activations.antiderivative(z, NAME, "accurate") - activations.antiderivative(shift, NAME, "accurate")
    top = activations.value(z, NAME, "accurate")
    value = rise / divisor
    first = (top - activations.value(shift, NAME, "accurate")) / divisor
    moment = (u * top - value) / divisor
    if tl.max(tl.max(short.to(tl.int32), 1), 0) > 0:
        near, near_first, near_moment = _near(u, vectors, rule, phi, l, NAME)
        value = tl.where(short, near, value)
        first = tl.where(short, near_first, first)
        moment = tl.where(short, near_moment, moment)
    return value, first, moment


@triton.jit
def _is_left(t):
    """Whether a row has not come to t = 1."""
    return tl.min(tl.min(t, 1), 0) < 1.0


@triton.jit
def _panel_end(u, t, panel, vectors, phi):
    """As far from t as φ, along tu, is linear or has no kink, and a little further; 1 for the last of _MOST_PANELS."""
    if _is_straight(phi.basis):
        end = tl.minimum(t + cascade.to_kink(u, t, vectors, phi), 1.0)
    else:
        end = cascade.cut_at_kink(u, t, (tl.floor(8.0 * t) + 1.0) * 0.125, vectors, phi)
    return tl.where(panel < _MOST_PANELS, tl.minimum(end, 1.0), 1.0)


@triton.jit
def _node(rule, i, basis: tl.constexpr):
    """Node and weight i on [0, 1] of the rule between kinks."""
    if _is_straight(basis):
        return 0.5, 1.0
    else:
        return tl.load(rule + i), tl.load(rule + NEAR + i)


@triton.jit
def value(u, vectors, rule, phi, SMOOTH: tl.constexpr):
    """∫_0^u φ(t) dt of a tile u.  SMOOTH: for each basis function, whether the rule is exact on all of it."""
    total = tl.zeros(u.shape, tl.float32)
    if phi.layers == 1 or phi.heads:
        for l in tl.static_range(phi.layers):
            at = cascade.after(total, u) if l > 0 else u
            for k in tl.static_range(len(phi.basis)):
                term, _, _ = _integrals(at, vectors, rule, phi, l, k, SMOOTH, 0.015625)
                total += cascade.weighted(l * len(phi.basis) + k, term, vectors, phi)
        return total
    elif _has_panels(phi.basis):
        return _panelled_value(u, vectors, rule, phi)
    else:
        accurate: tl.constexpr = cascade.Cascade(phi.basis, phi.layers, "accurate", phi.scaled, phi.mixed, False)
        for i in range(FAR):
            t = tl.load(rule + 2 * NEAR + i)
            total += tl.load(rule + 2 * NEAR + FAR + i) * cascade.value(t * u, vectors, accurate)
        return u * total


@triton.jit
def _panelled_value(u, vectors, rule, phi):
    """∫_0^u φ of b_k with kinks: u Σ_p (t_{p+1} − t_p) Σ_i weight_i φ((t_p + node_i (t_{p+1} − t_p)) u)."""
    accurate: tl.constexpr = cascade.Cascade(phi.basis, phi.layers, "accurate", phi.scaled, phi.mixed, False)
    total = tl.zeros(u.shape, tl.float32)
    t = tl.zeros(u.shape, tl.float32)
    panel = 1
    while _is_left(t):
        end = _panel_end(u, t, panel, vectors, accurate)
        for i in range(_nodes(phi.basis)):
            node, weight = _node(rule, i, phi.basis)
            total += weight * (end - t) * cascade.value((t + node * (end - t)) * u, vectors, accurate)
        t = end
        panel += 1
    return u * total


@triton.jit
def gradients(u, weight, vectors, sums, rule, phi, needs, SMOOTH: tl.constexpr, AXIS: tl.constexpr):
    """`sums` + the gradients of Σ weight·∫_0^u φ(t) dt, summed over AXIS, for those of (β, s, C) that `needs` marks."""
    if phi.layers == 1 or phi.heads:
        return _closed_gradients(u, weight, vectors, sums, rule, phi, needs, SMOOTH, AXIS)
    elif _has_panels(phi.basis):
        return _panelled_gradients(u, weight, vectors, sums, rule, phi, needs, AXIS)
    else:
        accurate: tl.constexpr = cascade.Cascade(phi.basis, phi.layers, "accurate", phi.scaled, phi.mixed, False)
        for i in range(FAR):
            t = tl.load(rule + 2 * NEAR + i)
            factor = tl.load(rule + 2 * NEAR + FAR + i) * u * weight
            _, _, sums = cascade.value_and_gradients(t * u, factor, vectors, sums, accurate, needs, AXIS, True)
        return sums


@triton.jit
def _panelled_gradients(u, weight, vectors, sums, rule, phi, needs, AXIS: tl.constexpr):
    """`gradients` of `_panelled_value`."""
    accurate: tl.constexpr = cascade.Cascade(phi.basis, phi.layers, "accurate", phi.scaled, phi.mixed, False)
    t = tl.zeros(u.shape, tl.float32)
    panel = 1
    while _is_left(t):
        end = _panel_end(u, t, panel, vectors, accurate)
        for i in range(_nodes(phi.basis)):
            node, share = _node(rule, i, phi.basis)
            factor = share * (end - t) * u * weight
            point = (t + node * (end - t)) * u
            _, _, sums = cascade.value_and_gradients(point, factor, vectors, sums, accurate, needs, AXIS, True)
        t = end
        panel += 1
    return sums


@triton.jit
def _closed_gradients(u, weight, vectors, sums, rule, phi, needs, SMOOTH: tl.constexpr, AXIS: tl.constexpr):
    """`gradients` for one layer, or heads.

    The closed form of the derivative in β cancels twice, so the rule serves wherever it is exact to rounding.
    """
    K: tl.constexpr = len(phi.basis)
    SHIFTS: tl.constexpr = phi.layers if needs.scale else 0
    COEFS: tl.constexpr = SHIFTS + (phi.layers if needs.shift else 0)
    of_scale = ()
    of_shift = ()
    of_coef = ()
    at = u
    for l in tl.static_range(phi.layers):
        in_scale = tl.zeros(u.shape, tl.float32)
        in_shift = tl.zeros(u.shape, tl.float32)
        for k in tl.static_range(K):
            value, first, moment = _integrals(at, vectors, rule, phi, l, k, SMOOTH, 1.0)
            in_shift += weight * cascade.weighted(l * K + k, first, vectors, phi)
            in_scale += weight * cascade.weighted(l * K + k, moment, vectors, phi)
            if needs.coef:
                term = tl.sum(common.product(weight, value), AXIS)
                of_coef = of_coef + (sums[COEFS + l * K + k] + term,)
        if needs.scale:
            of_scale = of_scale + (sums[l] + tl.sum(in_scale, AXIS),)
        if needs.shift:
            of_shift = of_shift + (sums[SHIFTS + l] + tl.sum(in_shift, AXIS),)
        if l < phi.layers - 1:
            at = cascade.after(in_scale, u)
    return of_scale + of_shift + of_coef
