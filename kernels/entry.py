"""The kernels that are launched: one for each pass, whose programs are those of `ridge` or, NARROW, of `narrow`."""

import triton
import triton.language as tl

from . import cascade, narrow, parts, ridge
from .cascade import Cascade, Wanted
from .ridge import Batch, Products, Rule


@triton.jit(do_not_specialize=["B"])
def forward(
    x,
    W,
    scale,
    shift,
    coef,
    bias,
    out,
    B,
    h,
    x_stride,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    LAYERS: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    NARROW: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """f(x) = φ(x Wᵀ) W + bias: a program for every BM rows."""
    batch = Batch(x, None, None, None, B, x_stride, None, None)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    vectors = cascade.pointers(scale, shift, coef)
    if NARROW:
        narrow.points_program(batch, W, vectors, bias, out, h, tl.program_id(0), phi, products, "value", BM, BH)
    else:
        ridge.points_program(batch, W, vectors, bias, out, None, h, tl.program_id(0), phi, products, "value", BM, BH)


@triton.jit(do_not_specialize=["B"])
def numbers(
    x,
    W,
    scale,
    shift,
    coef,
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
    TASK: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """F(x) − bias·x ("potential") or tr J(x) ("divergence"): a program for every BM rows."""
    ridge.numbers_program(
        Batch(x, None, None, None, B, x_stride, None, None),
        *(W, cascade.pointers(scale, shift, coef), out, h, tl.program_id(0), Rule(rule, SMOOTH)),
        Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None),
        *(Products(D, BD, PRECISION, ARITHMETIC, EVEN), TASK, BM, BH),
    )


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
    """The gradients that are not None of the scalar that TASK names in `ridge`.

    First come the programs for parameters, which run longest, then those for the bias, then those for dx and dv: their
    FORM is that of dx, or of dv where dx is None.
    """
    program = tl.program_id(0)
    batch = Batch(x, g, v, weight, B, x_stride, g_stride, v_stride)
    vectors = cascade.pointers(scale, shift, coef)
    phi: tl.constexpr = Cascade(BASIS, LAYERS, ARITHMETIC, scale is not None, coef is not None)
    wanted: tl.constexpr = Wanted(OF_SCALE, OF_SHIFT, OF_COEF)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    if program < weight_programs:
        if dW is not None or dneurons is not None:
            shares = (dW, dneurons, partials, counters, h, program // splits, program % splits, splits, rows_per_split)
            if NARROW:
                narrow.weights_program(*(batch, W, vectors), *shares, *(phi, wanted, products, BM_WEIGHTS, BH_WEIGHTS))
            else:
                ridge.weights_program(
                    *(batch, W, vectors),
                    *shares,
                    Rule(rule, SMOOTH),
                    *(phi, wanted, products, TASK, BM_WEIGHTS, BH_WEIGHTS),
                )
    elif program < weight_programs + bias_splits:
        if dbias is not None:
            parts.columns(
                *(g, dbias, bias_partials, counters + weight_programs // splits, B, g_stride),
                *(program - weight_programs, bias_splits, bias_rows, D, BM, BD),
            )
    else:
        number = program - weight_programs - bias_splits
        if NARROW:
            if dx is not None:
                narrow.points_program(batch, W, vectors, None, dx, h, number, phi, products, FORM, BM, BH)
        elif dx is not None:
            ridge.points_program(batch, W, vectors, None, dx, dv, h, number, phi, products, FORM, BM, BH)
        elif dv is not None:
            ridge.points_program(batch, W, vectors, None, dv, None, h, number, phi, products, FORM, BM, BH)
