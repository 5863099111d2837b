"""The kernels that are launched: one for each pass, for every quantity and route but the wide one.

QUANTITY is what is computed: forward f ("value"), the potential without bias, the divergence or the Jacobian;
backward the gradients of the scalar that it names in `ridge`, or of Σ_B <g, J(x)>.
"""

import triton
import triton.language as tl

from . import cascade, jacobian, narrow, reduction, ridge
from .cascade import Cascade, Needs
from .common import Batch, Products
from .reduction import Into, Part
from .ridge import Rule


@triton.jit(do_not_specialize=["B"])
def forward(
    x,
    W,
    scale,
    shift,
    coef,
    bias,
    rule,
    out,
    B,
    h,
    x_stride,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    SMOOTH: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    NARROW: tl.constexpr,
    QUANTITY: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """out = f(x) = φ(x Wᵀ) W + bias, or another QUANTITY: one program for every BM rows (a Jacobian's BM is 1).

    Shapes: x (B, D), W (h, D), scale and shift (LAYERS, h), coef (LAYERS, K, h), bias (D,), rule as in `integral`.
    """
    block = tl.program_id(0)
    batch = Batch(x, None, None, None, B, x_stride, None, None)
    at = cascade.pointers(scale, shift, coef)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    if NARROW:
        narrow.points_program(batch, W, at, bias, out, h, block, phi, products, "value", BM, BH)
    elif QUANTITY == "value":
        ridge.points_program(batch, W, at, bias, out, None, h, block, phi, products, "value", BM, BH)
    elif QUANTITY == "jacobian":
        jacobian.value_program(batch, W, at, out, h, block, phi, products, BH)
    else:
        ridge.scalar_program(batch, W, at, out, h, block, Rule(rule, SMOOTH), phi, products, QUANTITY, BM, BH)


@triton.jit(
    do_not_specialize=["B", "weight_programs", "splits", "rows_per_split", "bias_splits", "bias_rows"],
)
def backward(
    x,
    g,
    v,
    weight,
    W,
    scale,
    shift,
    coef,
    rule,
    dx,
    dv,
    dW,
    dvectors,
    dbias,
    partials,
    bias_partials,
    counters,
    B,
    h,
    x_stride,
    g_stride,
    v_stride,
    weight_programs,
    splits,
    rows_per_split,
    bias_splits,
    bias_rows,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    HEADS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    SMOOTH: tl.constexpr,
    PRECISION: tl.constexpr,
    NEEDS_SCALE: tl.constexpr,
    NEEDS_SHIFT: tl.constexpr,
    NEEDS_COEF: tl.constexpr,
    EVEN: tl.constexpr,
    NARROW: tl.constexpr,
    QUANTITY: tl.constexpr,
    FORM: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BM_WEIGHTS: tl.constexpr,
    BH_WEIGHTS: tl.constexpr,
):
    """dx, dv, dW, dvectors (those of scale, shift and coef, one after the other) and dbias, unless they are None.

    Shapes: x, g, v (B, D), weight (B,), and those of `forward`; a Jacobian's g (B, D, D).

    First come the programs for parameters, which run longest, then those for the bias, then those for dx and dv.  FORM
    is `ridge.points_program`'s form of dx, or of dv where dx is None.

    Programs for parameters and for points both compute u, 14Bhd operations in all.  A program that did both would spare
    4Bhd, and would have to add its part of dW and of dvectors to memory for every BM rows: 8 (BD + vectors) / BM bytes
    for each row and hidden unit.  By the data sheet of compute capability 9.0 that takes as long as what it spares, or
    longer.
    """
    program = tl.program_id(0)
    batch = Batch(x, g, v, weight, B, x_stride, g_stride, v_stride)
    at = cascade.pointers(scale, shift, coef)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None, HEADS)
    needs: tl.constexpr = Needs(NEEDS_SCALE, NEEDS_SHIFT, NEEDS_COEF)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    if program < weight_programs:
        if dW is not None or dvectors is not None:
            into = Into(dW, dvectors)
            arrived = counters + reduction.OTHERS
            part = Part(partials, arrived, program // splits, program % splits, splits, rows_per_split)
            if NARROW:
                narrow.weights_program(batch, W, at, into, part, h, phi, needs, products, BM_WEIGHTS, BH_WEIGHTS)
            elif QUANTITY == "jacobian":
                jacobian.weights_program(batch, W, at, into, part, h, phi, needs, products, BH_WEIGHTS)
            else:
                ridge.weights_program(
                    *(batch, W, at, into, part, h, Rule(rule, SMOOTH), phi, needs, products),
                    *(QUANTITY, BM_WEIGHTS, BH_WEIGHTS),
                )
    elif program < weight_programs + bias_splits:
        if dbias is not None:
            reduction.columns(
                *(g, dbias, bias_partials, counters, B, g_stride),
                *(program - weight_programs, bias_splits, bias_rows, products, BM),
            )
    else:
        block = program - weight_programs - bias_splits
        if NARROW:
            if dx is not None:
                narrow.points_program(batch, W, at, None, dx, h, block, phi, products, FORM, BM, BH)
        elif QUANTITY == "jacobian":
            if dx is not None:
                jacobian.points_program(batch, W, at, dx, h, block, phi, products, BH)
        elif dx is not None:
            ridge.points_program(batch, W, at, None, dx, dv, h, block, phi, products, FORM, BM, BH)
        elif dv is not None:
            ridge.points_program(batch, W, at, None, dv, None, h, block, phi, products, FORM, BM, BH)
