"""The elementwise middle of the ridge family: φ, φ', φ'', and the gradients of Σ a·φ and Σ q·φ' in β, s and C.

    z_0 = β_0 u + s_0,   z_l = β_l u + s_l + Σ_k C_{l−1,k} b_k(z_{l−1}),   φ(u) = Σ_k C_{L−1,k} b_k(z_{L−1})

or of heads, whose layers stand in parallel,   z_l = β_l u + s_l,   φ(u) = Σ_l Σ_k C_{l,k} b_k(z_l).

A tile holds hidden units along one axis and rows of the batch along the other, AXIS.  Parameters are float32
vectors over the tile's units, expanded along AXIS.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import _activations_gen as activations

FEW_ROUNDINGS = tl.constexpr(2.0**-21)


class Cascade(NamedTuple):
    """The constants of φ.

    basis: names of the b_k.  layers: L.  arithmetic: ARITHMETIC of `common`.  scaled, mixed: whether there are β and C;
    where there are none they are ones.  heads: whether the layers are heads.
    """

    basis: tl.constexpr
    layers: tl.constexpr
    arithmetic: tl.constexpr
    scaled: tl.constexpr
    mixed: tl.constexpr
    heads: tl.constexpr


class Vectors(NamedTuple):
    """Tuples of vectors in registers: β and s, one for each layer; C, one for each layer and basis function."""

    scale: tl.tensor
    shift: tl.tensor
    coef: tl.tensor


class InMemory(NamedTuple):
    """Pointers to β (layers, h), s (layers, h) and C (layers · K, h).

    The vectors at `units` are loaded where they are used: along the rows of a tile each would take many registers.
    """

    scale: tl.tensor
    shift: tl.tensor
    coef: tl.tensor
    units: tl.tensor
    h: tl.tensor


class Needs(NamedTuple):
    """Which of β, s and C get gradients; those that do are kept in this order, one after the other."""

    scale: tl.constexpr
    shift: tl.constexpr
    coef: tl.constexpr


@triton.jit
def pointers(scale, shift, coef):
    """The pointers that `load` and `in_memory` read.

    Another pointer stands for None, because a function's result cannot hold None in Triton 3.6.
    """
    return (shift if scale is None else scale, shift, shift if coef is None else coef)


@triton.jit
def in_memory(at, units, h, AXIS: tl.constexpr):
    """β, s and C at `units`, left in memory."""
    return InMemory(at[0], at[1], at[2], tl.expand_dims(units, AXIS), h)


@triton.jit
def load(at, units, h, phi, AXIS: tl.constexpr):
    """β, s and C at `units`, in registers, for a loop that uses them again and again."""
    here = in_memory(at, units, h, AXIS)
    COEFS: tl.constexpr = phi.layers * len(phi.basis)
    scale = ()
    coef = ()
    if phi.scaled:
        scale = _all(here, here.scale, phi.layers)
    if phi.mixed:
        coef = _all(here, here.coef, COEFS)
    return Vectors(scale, _all(here, here.shift, phi.layers), coef)


@triton.jit
def _all(vectors, of, COUNT: tl.constexpr):
    rows = ()
    for i in tl.static_range(COUNT):
        rows = rows + (vector(vectors, of, i),)
    return rows


@triton.jit
def vector(vectors, of, i: tl.constexpr):
    """The i-th vector of `of`, which is vectors.scale, vectors.shift or vectors.coef; 0 beyond h."""
    if len(vectors) == 3:
        return of[i]
    else:
        at = of + i * vectors.h + vectors.units
        return tl.load(at, mask=vectors.units < vectors.h, other=0.0).to(tl.float32)


@triton.jit
def after(done, u):
    """u, and NaN where `done` is.

    A head waits in this way for the one before it: a compiler that computes all at once runs out of registers.
    """
    return tl.where(done == done, u, done)


@triton.jit
def _enter(l: tl.constexpr, u, mixed, vectors, phi):
    """z_l = β_l u + s_l + mixed, with mixed = Σ_k C_{l−1,k} b_k(z_{l−1}) of the layer before, which heads lack."""
    z = u
    if l > 0 and phi.heads:
        z = after(mixed, u)
    if phi.scaled:
        z = z * vector(vectors, vectors.scale, l)
    z = z + vector(vectors, vectors.shift, l)
    if l > 0 and not phi.heads:
        z = z + mixed
    return z


@triton.jit
def _joined(l: tl.constexpr, before, own, phi):
    """What the layers to l give together: of heads a sum, else what this one gives."""
    return before + own if l > 0 and phi.heads else own


@triton.jit
def _inner(l: tl.constexpr, passed, vectors, phi):
    """z_l' = β_l + passed, with passed = Σ_k C_{l−1,k} b_k'(z_{l−1}) z_{l−1}'; else a vector or a number."""
    if phi.scaled:
        scale = vector(vectors, vectors.scale, l)
        return scale + passed if l > 0 and not phi.heads else scale
    else:
        return 1.0 + passed if l > 0 and not phi.heads else 1.0


@triton.jit
def scaled(l: tl.constexpr, delta, vectors, phi):
    """β_l δ_l."""
    if phi.scaled:
        return delta * vector(vectors, vectors.scale, l)
    else:
        return delta


@triton.jit
def weighted(position: tl.constexpr, value, vectors, phi):
    """C_{l,k} value, position being l K + k."""
    if phi.mixed:
        return vector(vectors, vectors.coef, position) * value
    else:
        return value


@triton.jit
def value(u, vectors, phi):
    """φ(u)."""
    K: tl.constexpr = len(phi.basis)
    mixed = u
    for l in tl.static_range(phi.layers):
        z = _enter(l, u, mixed, vectors, phi)
        own = weighted(l * K, activations.value(z, tl.constexpr(phi.basis[0]), phi.arithmetic), vectors, phi)
        for k in tl.static_range(1, K):
            term = activations.value(z, tl.constexpr(phi.basis[k]), phi.arithmetic)
            own = own + weighted(l * K + k, term, vectors, phi)
        mixed = _joined(l, mixed, own, phi)
    return mixed


@triton.jit
def _layer(l: tl.constexpr, z, vectors, phi):
    """Σ_k C_{l,k} b_k(z), Σ_k C_{l,k} b_k'(z), and (b_0(z), …, b_{K−1}(z))."""
    K: tl.constexpr = len(phi.basis)
    b, first = activations.value_first(z, tl.constexpr(phi.basis[0]), phi.arithmetic)
    values = (b,)
    mixed, gain = weighted(l * K, b, vectors, phi), weighted(l * K, first, vectors, phi)
    for k in tl.static_range(1, K):
        b, first = activations.value_first(z, tl.constexpr(phi.basis[k]), phi.arithmetic)
        values = values + (b,)
        mixed = mixed + weighted(l * K + k, b, vectors, phi)
        gain = gain + weighted(l * K + k, first, vectors, phi)
    return mixed, gain, values


@triton.jit
def _layer_and_second(l: tl.constexpr, z, vectors, phi):
    """Σ_k C_{l,k} b_k(z), Σ_k C_{l,k} b_k'(z), Σ_k C_{l,k} b_k''(z), (b_0(z), …) and (b_0'(z), …)."""
    K: tl.constexpr = len(phi.basis)
    b, first, second = activations.value_first_second(z, tl.constexpr(phi.basis[0]), phi.arithmetic)
    values = (b,)
    slopes = (first,)
    mixed, gain = weighted(l * K, b, vectors, phi), weighted(l * K, first, vectors, phi)
    bend = weighted(l * K, second, vectors, phi)
    for k in tl.static_range(1, K):
        b, first, second = activations.value_first_second(z, tl.constexpr(phi.basis[k]), phi.arithmetic)
        values = values + (b,)
        slopes = slopes + (first,)
        mixed = mixed + weighted(l * K + k, b, vectors, phi)
        gain = gain + weighted(l * K + k, first, vectors, phi)
        bend = bend + weighted(l * K + k, second, vectors, phi)
    return mixed, gain, bend, values, slopes


@triton.jit
def slope(u, vectors, phi):
    """φ'(u): z_l' = β_l + Σ_k C_{l−1,k} b_k'(z_{l−1}) z_{l−1}', φ' = Σ_k C_{L−1,k} b_k'(z_{L−1}) z_{L−1}'.

    Of heads z_l' = β_l, φ' = Σ_l Σ_k C_{l,k} b_k'(z_l) z_l', and so below.
    """
    mixed = u
    passed = u
    for l in tl.static_range(phi.layers):
        z = _enter(l, u, passed if phi.heads else mixed, vectors, phi)
        mixed, gain, _ = _layer(l, z, vectors, phi)
        passed = _joined(l, passed, gain * _inner(l, passed, vectors, phi), phi)
    return passed


@triton.jit
def _to_either(z, kink):
    """How far it is from z up to −kink, or to kink where z is beyond that."""
    return tl.where(z <= -kink, -kink, kink) - z


@triton.constexpr_function
def kink(name):
    """The number at which, or at whose negative, a derivative of the function jumps; None where all are continuous."""
    others = {"softshrink": 0.5, "hardtanh": 1.0, "hardsigmoid": 3.0}
    return 0.0 if name in ("relu", "elu", "softsign") else others.get(name)


@triton.jit
def _to_kink(z, slope, beyond, least, KINK: tl.constexpr):
    """The minimum of `least` and of how long z, which moves at `slope`, takes to be beyond the next of ±KINK."""
    if KINK is None:
        return least
    else:
        ahead = tl.where(slope < 0.0, -z, z)
        distance = -ahead
        if KINK != 0.0:
            distance = _to_either(ahead, KINK)
        speed = tl.abs(slope)
        nearer = (distance >= 0.0) & (distance + beyond < least * speed)
        return tl.where(nearer, (distance + beyond) / tl.where(nearer, speed, 1.0), least)


@triton.jit
def to_kink(u, t, vectors, phi):
    """How far it is from t to where a z_l of tu is beyond a kink, were all z_l linear; 1 at most, and a little.

    The least (kink − z_l)/(z_l' u) of kinks ahead; beyond them by a few roundings of z_l.
    """
    least = tl.full(u.shape, 1.0, tl.float32)
    mixed = u
    passed = u
    for l in tl.static_range(phi.layers):
        z = _enter(l, t * u, mixed, vectors, phi)
        inner = _inner(l, passed, vectors, phi)
        size = tl.abs(z) + tl.abs(vector(vectors, vectors.shift, l))
        if l > 0:
            size += tl.abs(mixed)
        for k in tl.static_range(len(phi.basis)):
            least = _to_kink(z, inner * u, FEW_ROUNDINGS * size, least, kink(tl.constexpr(phi.basis[k])))
        mixed, gain, _ = _layer(l, z, vectors, phi)
        passed = gain * inner
    return least + FEW_ROUNDINGS


@triton.jit
def _sides(u, vectors, phi):
    """On which side of each kink each z_l of u is: the digits, 0 or 1, of a number in base 3, modulo 2³²."""
    sides = tl.zeros(u.shape, tl.int32)
    mixed = u
    for l in tl.static_range(phi.layers):
        z = _enter(l, u, mixed, vectors, phi)
        for k in tl.static_range(len(phi.basis)):
            KINK: tl.constexpr = kink(tl.constexpr(phi.basis[k]))
            if KINK is not None:
                sides = 3 * sides + (z > KINK).to(tl.int32)
                sides = 3 * sides + (z > -KINK).to(tl.int32)
        mixed, _, _ = _layer(l, z, vectors, phi)
    return sides


@triton.jit
def cut_at_kink(u, t, end, vectors, phi):
    """The first point between t and `end` at which a z_l of it times u is beyond a kink, or `end`.

    By halving, until z_l is nearly linear between the ends, then by steps of 15/16 of `to_kink`, most of which stay
    before the kink (one that is too long is made a halving), and a whole one.
    """
    before = _sides(t * u, vectors, phi)
    cuts = _sides(end * u, vectors, phi) != before
    if tl.max(tl.max(cuts.to(tl.int32), 1), 0) > 0:
        low = t
        high = end
        for step in range(8):
            middle = (low + high) * 0.5
            if step >= 5:
                near = low + 0.9375 * to_kink(u, low, vectors, phi)
                middle = tl.where(near < high, near, middle)
            is_beyond = _sides(middle * u, vectors, phi) != before
            low = tl.where(is_beyond, low, middle)
            high = tl.where(is_beyond, middle, high)
        end = tl.where(cuts, tl.minimum(low + to_kink(u, low, vectors, phi), high), end)
    return end


@triton.jit
def slope_and_second(u, vectors, phi):
    """φ'(u) and φ''(u): z_l'' = Σ_k C_{l−1,k} (b_k'(z_{l−1}) z_{l−1}'' + b_k''(z_{l−1}) z_{l−1}'²), φ'' likewise."""
    mixed = u
    passed = u
    second = u
    for l in tl.static_range(phi.layers):
        z = _enter(l, u, passed if phi.heads else mixed, vectors, phi)
        mixed, gain, bend, _, _ = _layer_and_second(l, z, vectors, phi)
        inner = _inner(l, passed, vectors, phi)
        bent = bend * (inner * inner)
        if l > 0:
            bent = bent + (second if phi.heads else gain * second)
        second = bent
        passed = _joined(l, passed, gain * inner, phi)
    return passed, second


@triton.jit
def _add(total, term, AXIS: tl.constexpr, REDUCE: tl.constexpr):
    if REDUCE:
        term = tl.sum(term, AXIS)
    return total + term


@triton.jit
def value_and_gradients(u, a, vectors, sums, phi, needs, AXIS: tl.constexpr, REDUCE: tl.constexpr):
    """φ(u), a·φ'(u), and `sums` + the gradients of Σ a·φ for those of (β, s, C) that `needs` marks.

    δ_l = ∂(a·φ)/∂z_l = C_l·b'(z_l) δ_{l+1}, δ_L = a:  a·φ' = Σ_l β_l δ_l;  dβ_l = Σ δ_l u;  ds_l = Σ δ_l;
    dC_{l,k} = Σ δ_{l+1} b_k(z_l).  Of heads a takes the place of every δ_{l+1}.  REDUCE: whether Σ is taken over AXIS
    here, or `sums` are tiles that the caller sums.
    """
    K: tl.constexpr = len(phi.basis)
    mixed = u
    gains = ()
    values = ()
    for l in tl.static_range(phi.layers):
        z = _enter(l, u, mixed, vectors, phi)
        own, gain, passed = _layer(l, z, vectors, phi)
        mixed = _joined(l, mixed, own, phi)
        gains = gains + (gain,)
        values = values + passed
    SHIFTS: tl.constexpr = phi.layers if needs.scale else 0
    COEFS: tl.constexpr = SHIFTS + (phi.layers if needs.shift else 0)
    of_scale = ()
    of_shift = ()
    of_coef = ()
    delta = a
    total = a
    for l in tl.static_range(phi.layers - 1, -1, -1):
        if phi.heads:
            delta = after(total, a) if l < phi.layers - 1 else a
        if needs.coef:
            layer = ()
            for k in tl.static_range(K):
                layer = layer + (_add(sums[COEFS + l * K + k], delta * values[l * K + k], AXIS, REDUCE),)
            of_coef = layer + of_coef
        delta = delta * gains[l]
        if needs.shift:
            of_shift = (_add(sums[SHIFTS + l], delta, AXIS, REDUCE),) + of_shift
        if needs.scale:
            of_scale = (_add(sums[l], delta * u, AXIS, REDUCE),) + of_scale
        part = scaled(l, delta, vectors, phi)
        total = part if l == phi.layers - 1 else total + part
    return mixed, total, of_scale + of_shift + of_coef


@triton.jit
def slope_and_gradients(u, q, vectors, sums, phi, needs, AXIS: tl.constexpr):
    """φ'(u), q·φ''(u), and `sums` + the gradients of Σ q·φ', Σ over AXIS, for those of (β, s, C) that `needs` marks.

    With z_l' as in `slope`, ρ_l = ∂(q·φ')/∂z_l' and δ_l = ∂(q·φ')/∂z_l; ρ_L = q, δ_L = 0:
    ρ_l = C_l·b'(z_l) ρ_{l+1};  δ_l = C_l·b'(z_l) δ_{l+1} + C_l·b''(z_l) z_l' ρ_{l+1};  q·φ'' = Σ_l β_l δ_l;
    dβ_l = Σ δ_l u + ρ_l;  ds_l = Σ δ_l;  dC_{l,k} = Σ δ_{l+1} b_k(z_l) + ρ_{l+1} b_k'(z_l) z_l'.  Of heads q takes the
    place of every ρ_{l+1}, and 0 that of δ_{l+1}.
    """
    K: tl.constexpr = len(phi.basis)
    LAST: tl.constexpr = phi.layers - 1
    mixed = u
    passed = u
    gains = ()
    bends = ()
    values = ()
    slopes = ()
    for l in tl.static_range(phi.layers):
        z = _enter(l, u, passed if phi.heads else mixed, vectors, phi)
        mixed, gain, bend, of_layer, slopes_of_layer = _layer_and_second(l, z, vectors, phi)
        inner = _inner(l, passed, vectors, phi)
        passed = _joined(l, passed, gain * inner, phi)
        gains = gains + (gain,)
        bends = bends + (bend * inner,)
        values = values + of_layer
        for k in tl.static_range(K):
            slopes = slopes + (slopes_of_layer[k] * inner,)
    SHIFTS: tl.constexpr = phi.layers if needs.scale else 0
    COEFS: tl.constexpr = SHIFTS + (phi.layers if needs.shift else 0)
    of_scale = ()
    of_shift = ()
    of_coef = ()
    rho = q
    delta = q
    total = q
    for l in tl.static_range(LAST, -1, -1):
        if phi.heads:
            rho = after(total, q) if l < LAST else q
        if needs.coef:
            layer = ()
            for k in tl.static_range(K):
                term = rho * slopes[l * K + k]
                if l < LAST and not phi.heads:
                    term += delta * values[l * K + k]
                layer = layer + (_add(sums[COEFS + l * K + k], term, AXIS, True),)
            of_coef = layer + of_coef
        bent = rho * bends[l]
        delta = bent + delta * gains[l] if l < LAST and not phi.heads else bent
        rho = rho * gains[l]
        if needs.shift:
            of_shift = (_add(sums[SHIFTS + l], delta, AXIS, True),) + of_shift
        if needs.scale:
            of_scale = (_add(sums[l], delta * u + rho, AXIS, True),) + of_scale
        part = scaled(l, delta, vectors, phi)
        total = part if l == LAST else total + part
    return passed, total, of_scale + of_shift + of_coef
