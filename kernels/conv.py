"""φ and its derivatives on K∗x in memory, for convolutional ridge networks: a library convolves before and after.

    f(x) = Kᵀφ(K∗x) + bias,    u = K∗x,    a = K∗g,    p = K∗v

u, a and p are contiguous, (images, C, pixels).  The gradients are those of a scalar S of the batch, as in `ridge`:
"value" S = <g, f(x)>; "jvp" <g, J(x) v>; "potential" Σ weight F(x); "divergence" Σ weight tr J(x).  A tile has BC
channels and BP pixels of one image.
"""

import triton
import triton.language as tl

from . import cascade, common, integral, spline
from .cascade import Cascade, Needs
from .ridge import Rule


@triton.jit
def splines_at(at, units, h, SCALED: tl.constexpr):
    """The splines of channels `units`; beyond the last one, those of the last."""
    units = tl.minimum(units, h - 1)[:, None]
    scale = tl.full(units.shape, 1.0, tl.float32)
    if SCALED:
        scale = tl.load(at[0] + units).to(tl.float32)
    return spline.Spline(scale, tl.load(at[1] + units).to(tl.float32), at[2] + units, h)


@triton.jit
def weighted(u, a, p, weight, vectors, sums, rule, phi, needs, QUANTITY: tl.constexpr):
    """What u, a and p become, whose adjoints are dx and dv and whose products with x, v and g are dK; and `sums`.

    "value" φ, a·φ'; "jvp" a·p·φ'', a·φ', p·φ'; "potential" weight·φ; "divergence" weight·n·φ'', weight·φ', with n in
    place of a.  To `sums` are added the gradients of S in β, shift and C.
    """
    if QUANTITY == "value":
        value, slope, sums = cascade.value_and_gradients(u, a, vectors, sums, phi, needs, 1, True)
        return value, slope, p, sums
    elif QUANTITY == "potential":
        if len(sums) > 0:
            sums = integral.gradients(u, weight, vectors, sums, rule.table, phi, needs, rule.smooth, 1)
        return weight * cascade.value(u, vectors, phi), a, p, sums
    elif QUANTITY == "divergence":
        slope, bent, sums = cascade.slope_and_gradients(u, weight * a, vectors, sums, phi, needs, 1)
        return bent, weight * slope, p, sums
    else:
        slope, bent, sums = cascade.slope_and_gradients(u, a * p, vectors, sums, phi, needs, 1)
        return bent, slope * a, slope * p, sums


@triton.jit
def weighted_line(u, a, p, weight, line, sums, KNOTS: tl.constexpr, QUANTITY: tl.constexpr):
    """`weighted` of splines; sums: of β, s and the values at the knots, wanted or not."""
    if QUANTITY == "value":
        value, slope, sums = spline.value_and_gradients(u, a, line, sums, KNOTS)
        return value, slope, p, sums
    elif QUANTITY == "potential":
        sums = spline.integral_gradients(u, weight, line, sums, KNOTS)
        return weight * spline.value(u, line, KNOTS), a, p, sums
    elif QUANTITY == "divergence":
        slope, bent, sums = spline.slope_and_gradients(u, weight * a, line, sums, KNOTS)
        return bent, weight * slope, p, sums
    else:
        slope, bent, sums = spline.slope_and_gradients(u, a * p, line, sums, KNOTS)
        return bent, slope * a, slope * p, sums


@triton.jit
def _load(pointer, at, inside):
    """A tile (BC, BP), 0 outside."""
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _places(tile, units, h, pixels, BP: tl.constexpr):
    """Of a tile, the tile-th of all images: its image, and where channels `units` of it lie in n and in u."""
    blocks = tl.cdiv(pixels, BP)
    image = tile // blocks
    places = (tile % blocks) * BP + tl.arange(0, BP)
    inside = (units < h)[:, None] & (places < pixels)[None, :]
    in_image = units.to(tl.int64)[:, None] * pixels + places[None, :]
    return image, in_image, tl.cast(image, tl.int64) * h * pixels + in_image, inside


@triton.jit(do_not_specialize=["count"])
def forward(
    u,
    v,
    scale,
    shift,
    coef,
    count,
    h,
    pixels,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    KNOTS: tl.constexpr,
    BT: tl.constexpr,
    QUANTITY: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    """u ← φ(u) ("value") or φ'(u)·p with v = p ("jvp"), in place, tile by tile; shapes as in `backward`."""
    units = tl.program_id(1) * BC + tl.arange(0, BC)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    at = cascade.pointers(scale, shift, coef)
    _, _, place, inside = _places(tl.program_id(0), units, h, pixels, BP)
    tile = _load(u, place, inside)
    if QUANTITY == "value":
        if KNOTS > 0:
            result = spline.value(tile, splines_at(at, units, h, scale is not None), KNOTS)
        else:
            result = cascade.value(tile, cascade.load(at, units, h, phi, 1), phi)
    else:
        if KNOTS > 0:
            slope = spline.slope(tile, splines_at(at, units, h, scale is not None), KNOTS)
        else:
            slope = cascade.slope(tile, cascade.load(at, units, h, phi, 1), phi)
        # A piecewise linear φ has a slope even at NaN.
        result = tl.where(tile == tile, slope * _load(v, place, inside), tile)
    tl.store(u + place, result, mask=inside)


@triton.jit(do_not_specialize=["splits", "per_program"])
def numbers(
    u,
    norms,
    scale,
    shift,
    coef,
    rule,
    partials,
    h,
    pixels,
    splits,
    per_program,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    SMOOTH: tl.constexpr,
    KNOTS: tl.constexpr,
    BT: tl.constexpr,
    QUANTITY: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    """partials[i, s] = the sum over part s of image i of ∫_0^u φ(t) dt ("potential") or of n·φ'(u) ("divergence").

    A part has per_program tiles, block of channels by block of channels.  Shapes: as in `backward`.
    """
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    at = cascade.pointers(scale, shift, coef)
    program = tl.program_id(0)
    image = program // splits
    begin = (program % splits) * per_program
    blocks = tl.cdiv(pixels, BP)
    total = tl.zeros((BC, BP), tl.float32)
    for tile in range(begin, tl.minimum(begin + per_program, tl.cdiv(h, BC) * blocks)):
        units = (tile // blocks) * BC + tl.arange(0, BC)
        _, in_image, place, inside = _places(image * blocks + tile % blocks, units, h, pixels, BP)
        points = _load(u, place, inside)
        if KNOTS > 0:
            line = splines_at(at, units, h, scale is not None)
            if QUANTITY == "potential":
                found = spline.integral(points, line, KNOTS)
            else:
                found = spline.slope(points, line, KNOTS) * _load(norms, in_image, inside)
        else:
            vectors = cascade.load(at, units, h, phi, 1)
            if QUANTITY == "potential":
                found = integral.value(points, vectors, rule, phi, SMOOTH)
            else:
                found = cascade.slope(points, vectors, phi) * _load(norms, in_image, inside)
        total += tl.where(inside, found, 0.0)
    tl.store(partials + program, tl.sum(tl.sum(total, 1), 0))


@triton.jit(do_not_specialize=["count", "per_program"])
def backward(
    u,
    a,
    v,
    norms,
    weight,
    scale,
    shift,
    coef,
    rule,
    dvectors,
    count,
    h,
    pixels,
    per_program,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    SMOOTH: tl.constexpr,
    NEEDS_SCALE: tl.constexpr,
    NEEDS_SHIFT: tl.constexpr,
    NEEDS_COEF: tl.constexpr,
    KNOTS: tl.constexpr,
    BT: tl.constexpr,
    QUANTITY: tl.constexpr,
    BC: tl.constexpr,
    BP: tl.constexpr,
):
    """u, a and v = p ← what the gradients need of them, in place, as `weighted` has it.

    Program (s, c) takes tiles s·per_program … of its channels, image by image, and adds their gradients in β, s and C
    to dvectors[s], (COUNT, h).  Shapes, with C = h channels: u, a, v (count, h, pixels), norms n (h, pixels), weight
    (count,), scale and shift (LAYERS, h), coef (LAYERS, K, h), or (1, KNOTS, h) of a spline.
    """
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    needs: tl.constexpr = Needs(NEEDS_SCALE, NEEDS_SHIFT, NEEDS_COEF)
    VECTORS: tl.constexpr = LAYERS * (NEEDS_SCALE + NEEDS_SHIFT)
    COUNT: tl.constexpr = VECTORS + (KNOTS if KNOTS > 0 else LAYERS * len(BASIS)) * NEEDS_COEF
    split = tl.program_id(0)
    units = tl.program_id(1) * BC + tl.arange(0, BC)
    at = cascade.pointers(scale, shift, coef)
    begin = split * per_program
    end = tl.minimum(begin + per_program, count * tl.cdiv(pixels, BP))
    if KNOTS > 0:
        line = splines_at(at, units, h, scale is not None)
        of_line = common.zeros(2, (BC,)) + (tl.zeros((BC, BT), tl.float32),)
    else:
        vectors = cascade.load(at, units, h, phi, 1)
        sums = common.zeros(COUNT, (BC,))
    for tile in range(begin, end):
        image, in_image, place, inside = _places(tile, units, h, pixels, BP)
        of_u = _load(u, place, inside)
        of_a = of_u
        of_v = of_u
        of_image = 0.0
        if QUANTITY == "divergence":
            of_a = _load(norms, in_image, inside)
        elif a is not None:
            of_a = _load(a, place, inside)
        if v is not None:
            of_v = _load(v, place, inside)
        if weight is not None:
            of_image = tl.where(inside, tl.load(weight + image), 0.0)
        if KNOTS > 0:
            of_u, of_a, of_v, of_line = weighted_line(of_u, of_a, of_v, of_image, line, of_line, KNOTS, QUANTITY)
        else:
            of_u, of_a, of_v, sums = weighted(
                *(of_u, of_a, of_v, of_image, vectors, sums, Rule(rule, SMOOTH), phi, needs, QUANTITY)
            )
        tl.store(u + place, of_u, mask=inside)
        if a is not None:
            tl.store(a + place, of_a, mask=inside)
        if v is not None:
            tl.store(v + place, of_v, mask=inside)
    into = dvectors + tl.cast(split, tl.int64) * COUNT * h
    if KNOTS > 0:
        if needs.scale:
            _add(into + units, of_line[0], units < h)
        if needs.shift:
            _add(into + (1 if needs.scale else 0) * h + units, of_line[1], units < h)
        if needs.coef:
            knots = tl.arange(0, of_line[2].shape[1])[None, :]
            place = VECTORS * h + knots * h + units[:, None]
            _add(into + place, of_line[2], (units < h)[:, None] & (knots < KNOTS))
    else:
        for i in tl.static_range(COUNT):
            _add(into + i * h + units, sums[i], units < h)


@triton.jit
def _add(pointers, numbers, inside):
    """Adds numbers to those in memory.

    Several threads hold the same: none may store before all have loaded.
    """
    held = tl.load(pointers, mask=inside, other=0.0)
    tl.debug_barrier()
    tl.store(pointers, held + numbers, mask=inside)
