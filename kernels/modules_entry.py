"""The kernels of modules that are launched: one for each pass.

QUANTITY is f ("value") or the potential F without bias: `forward` computes it, `backward` the gradients of <g, f> or of
Σ_B weight F.
"""

import triton
import triton.language as tl

from . import common, modules, reduction
from . import modules_programs as programs
from .common import Batch, Products
from .modules import Form, Network
from .modules_programs import Memory
from .reduction import Into, Part


@triton.jit(do_not_specialize=["B", "count"])
def forward(
    x,
    W,
    b,
    temperature,
    positive,
    negative,
    sharpness,
    offset,
    bias,
    out,
    B,
    h,
    count,
    x_stride,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    TRANSFORM: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    QUANTITY: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
):
    """out = f(x) = Σ_m ∇F_m + bias, or the potential Σ_m F_m: a program for every BM rows, module after module.

    With κ (sharpness) and c (offset): f(x) = Σ_m π_m ∇F_m + bias with π = softmax_m(κ F_m + c_m), and the potential is
    LSE_m(κ F_m + c_m)/κ.

    Shapes: x (B, D), W (count, h, D), b (count, h), scalars as in `modules.Network`, bias (D,).
    """
    form: tl.constexpr = Form(BASIS, TRANSFORM, negative is not None, sharpness is not None, ARITHMETIC)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    ALONG: tl.constexpr = "rows" if QUANTITY == "value" else ""
    network = Network(W, b, temperature, positive, negative, sharpness, offset, h, count)
    first = tl.program_id(0).to(tl.int64) * BM
    points = common.load_rows(x, first, B, x_stride, D, BM, BD)  # (BM, BD)
    total = modules.zeros(BM, BD, ALONG)
    maximum = programs.empty_maximum(total)
    for m in range(count):
        module = modules.load_module(network, m, D)
        found = modules.statistics(points, points, module, form, products, ALONG, BH)
        result = total
        if QUANTITY == "value":
            result = modules.gradient(found, module, form)
        elif not form.combined:
            result = modules.potential(found, module, form)
        if form.combined:
            potential = modules.exact_potential(found, module, form)
            maximum = programs.with_module(maximum, programs.score(potential, network, m), result)
        else:
            total += result
    if form.combined:
        if QUANTITY == "value":
            total = maximum.more / maximum.total[:, None]
        else:
            total = programs.soft_maximum(maximum, network).to(tl.float32)
    if QUANTITY == "value":
        if bias is not None:
            lanes = tl.arange(0, BD)
            total += tl.load(bias + lanes, mask=lanes < D, other=0.0).to(tl.float32)[None, :]
        common.store_rows(out, total, first, B, D, BM, BD)
    else:
        rows = tl.arange(0, BM)
        tl.store(out + first + rows, total, mask=rows < B - first)


@triton.jit
def _blocks(split, rows_per_split, B, BM: tl.constexpr):
    """How many programs for rows there are in one part of the batch."""
    begin = tl.cast(split, tl.int64) * rows_per_split
    return tl.cdiv(tl.minimum(B - begin, rows_per_split), BM)


@triton.jit(
    do_not_specialize=[
        *("B", "count", "row_programs", "tiles", "splits", "rows_per_split", "scalar_splits", "scalar_rows"),
        *("bias_splits", "bias_rows"),
    ],
)
def backward(
    x,
    g,
    weight,
    W,
    b,
    temperature,
    positive,
    negative,
    sharpness,
    offset,
    dx,
    dW,
    db,
    dscalars,
    dbias,
    factors,
    row_scalars,
    partials,
    scalar_partials,
    bias_partials,
    counters,
    B,
    h,
    count,
    x_stride,
    g_stride,
    row_programs,
    tiles,
    splits,
    rows_per_split,
    scalar_splits,
    scalar_rows,
    bias_splits,
    bias_rows,
    COLUMNS: tl.constexpr,
    BC: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BASIS: tl.constexpr,
    TRANSFORM: tl.constexpr,
    ARITHMETIC: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN: tl.constexpr,
    QUANTITY: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    BM_WEIGHTS: tl.constexpr,
    BH_WEIGHTS: tl.constexpr,
):
    """dx, dW, db, dscalars (those of p, τ, q, c and κ, one after the other) and dbias, unless they are None.

    Programs depend on each other.  Those for rows come first: they find the statistics of their rows, dx, and the
    gradients of scalars such as τ, row by row, and save what `modules.hidden` needs.  Programs for W and b, and those
    that add up the rows' gradients of scalars, wait until the rows of their part of the batch are there.  The order in
    which programs start decides which one each is: those it waits for have started before it, and wait for nobody.

    Operations: 10Bhd for rows, 8Bhd for hidden units.  Statistics kept from the forward pass would spare none of them:
    π·a, which depends on g, needs the pass over all hidden units too.
    """
    form: tl.constexpr = Form(BASIS, TRANSFORM, negative is not None, sharpness is not None, ARITHMETIC)
    products: tl.constexpr = Products(D, BD, PRECISION, ARITHMETIC, EVEN)
    AWAITED: tl.constexpr = db is not None or dscalars is not None
    program = tl.program_id(0)
    programs_in_all = tl.num_programs(0)
    # Before them are tickets, exits, and the arrivals of those that add up scalars and the bias.
    arrivals = counters + reduction.OTHERS
    if AWAITED:
        program = tl.atomic_add(counters, 1, sem="relaxed", scope="gpu")
        if program == programs_in_all - 1:
            tl.atomic_xchg(counters, 0, sem="relaxed", scope="gpu")
    network = Network(W, b, temperature, positive, negative, sharpness, offset, h, count)
    batch = Batch(x, g, None, weight, B, x_stride, g_stride, None)
    SLOTS: tl.constexpr = 8 if negative is not None else 4
    place = program - row_programs
    if place < 0:
        programs.rows_program(
            *(
                batch,
                network,
                dx,
                Memory(factors, row_scalars, B, COLUMNS, SLOTS),
                program,
                form,
                products,
                QUANTITY,
                BM,
                BH,
            )
        )
        if AWAITED:
            reduction.arrive(arrivals + program.to(tl.int64) * BM // rows_per_split)
    elif place < bias_splits:
        if dbias is not None:
            reduction.columns(
                *(g, dbias, bias_partials, counters + 3, B, g_stride, place, bias_splits, bias_rows, products, BM)
            )
    elif place < bias_splits + scalar_splits:
        if dscalars is not None:
            begin = (place - bias_splits).to(tl.int64) * scalar_rows
            end = tl.minimum(begin + scalar_rows, B)
            for awaited in range(begin // rows_per_split, tl.cdiv(end, rows_per_split)):
                reduction.wait_for(arrivals + awaited, _blocks(awaited, rows_per_split, B, BM))
            of_scalars: tl.constexpr = Products(COLUMNS, BC, PRECISION, ARITHMETIC, EVEN)
            reduction.columns(
                *(row_scalars, dscalars, scalar_partials, counters + 2, B, COLUMNS),
                *(place - bias_splits, scalar_splits, scalar_rows, of_scalars, BM),
            )
    elif db is not None:
        place -= bias_splits + scalar_splits
        tile = place // splits
        split = place % splits
        m = tile // tiles
        reduction.wait_for(arrivals + split, _blocks(split, rows_per_split, B, BM))
        SIZE: tl.constexpr = BH_WEIGHTS * (1 + (BD if dW is not None else 0))
        first_unit = m.to(tl.int64) * h
        into = Into(None if dW is None else dW + first_unit * D, db + first_unit)
        part = Part(partials, arrivals + splits, tile % tiles, split, splits, rows_per_split)
        part = reduction.with_tiles_before(part, m * tiles, SIZE)
        programs.units_program(
            *(batch, modules.load_module(network, m, D), into, part, Memory(factors, None, B, COLUMNS, SLOTS)),
            *(m, form, products, QUANTITY, BM_WEIGHTS, BH_WEIGHTS),
        )
    if AWAITED:
        reduction.leave(arrivals, splits, counters + 1, programs_in_all)
