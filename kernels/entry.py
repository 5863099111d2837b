"""The kernels that are launched: one for each pass, for every task and route but the wide one.

TASK is what is computed: forward f ("value"), the potential without bias, the divergence or the Jacobian; backward the
gradients of the scalar that it names in `ridge`, or of Σ_B <g, J(x)>.
"""

import triton
import triton.language as tl

from . import cascade, jacobian, narrow, parts, ridge
from .cascade import Cascade, Wanted
from .parts import Into, Share
from .ridge import Batch, Products, Rule


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
    ARITHMETIC: tl.constexpr,
    SMOOTH: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    NARROW: tl.constexpr,
    TASK: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """f(x) = φ(x Wᵀ) W + bias, or what else TASK names: a program for every BM rows."""
    number = tl.program_id(0)
    batch = Batch(x, None, None, None, B, x_stride, None, None)
    at = cascade.pointers(scale, shift, coef)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    if NARROW:
        narrow.points_program(batch, W, at, bias, out, h, number, phi, products, "value", BM, BH)
    elif TASK == "value":
        ridge.points_program(batch, W, at, bias, out, None, h, number, phi, products, "value", BM, BH)
    elif TASK == "jacobian":
        jacobian.value_program(batch, W, at, out, h, number, phi, products, BH)
    else:
        ridge.numbers_program(batch, W, at, out, h, number, Rule(rule, SMOOTH), phi, products, TASK, BM, BH)


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
    dneurons,
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
    ARITHMETIC: tl.constexpr,
    SMOOTH: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_SCALE: tl.constexpr,
    OF_SHIFT: tl.constexpr,
    OF_COEF: tl.constexpr,
    EVEN: tl.constexpr,
    NARROW: tl.constexpr,
    TASK: tl.constexpr,
    FORM: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BM_WEIGHTS: tl.constexpr,
    BH_WEIGHTS: tl.constexpr,
):
    """The gradients that are not None.

    First come the programs for parameters, which run longest, then those for the bias, then those for dx and dv: their
    FORM is that of dx, or of dv where dx is None.

    Both kinds compute u, 14Bhd operations in all.  A program that did both would spare 4Bhd, and would have to add its
    part of dW and the vectors' gradients to memory for every BM rows: 8 (BD + vectors) / BM bytes a hidden value.  By
    the data sheet of compute capability 9.0 that takes as long as what it spares, or longer.
    """
    program = tl.program_id(0)
    batch = Batch(x, g, v, weight, B, x_stride, g_stride, v_stride)
    at = cascade.pointers(scale, shift, coef)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    wanted: tl.constexpr = Wanted(OF_SCALE, OF_SHIFT, OF_COEF)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    if program < weight_programs:
        if dW is not None or dneurons is not None:
            into = Into(dW, dneurons)
            share = Share(partials, counters, program // splits, program % splits, splits, rows_per_split)
            if NARROW:
                narrow.weights_program(batch, W, at, into, share, h, phi, wanted, products, BM_WEIGHTS, BH_WEIGHTS)
            elif TASK == "jacobian":
                jacobian.weights_program(batch, W, at, into, share, h, phi, wanted, products, BH_WEIGHTS)
            else:
                ridge.weights_program(
                    *(batch, W, at, into, share, h, Rule(rule, SMOOTH), phi, wanted, products),
                    *(TASK, BM_WEIGHTS, BH_WEIGHTS),
                )
    elif program < weight_programs + bias_splits:
        if dbias is not None:
            parts.columns(
                *(g, dbias, bias_partials, counters + weight_programs // splits, B, g_stride),
                *(program - weight_programs, bias_splits, bias_rows, products, BM),
            )
    else:
        number = program - weight_programs - bias_splits
        if NARROW:
            if dx is not None:
                narrow.points_program(batch, W, at, None, dx, h, number, phi, products, FORM, BM, BH)
        elif TASK == "jacobian":
            if dx is not None:
                jacobian.points_program(batch, W, at, dx, h, number, phi, products, BH)
        elif dx is not None:
            ridge.points_program(batch, W, at, None, dx, dv, h, number, phi, products, FORM, BM, BH)
        elif dv is not None:
            ridge.points_program(batch, W, at, None, dv, None, h, number, phi, products, FORM, BM, BH)
