"""The programs of the backward pass of modules: for rows of the batch, and for the hidden units of one module.

They compute the gradients of S = <g, f> ("value") or Σ_B weight F ("potential"), by QUANTITY.  To module m of a row, S
is r <g, ∇F_m> + t F_m, with numbers r and t that `_of_module` finds.  Programs for rows save what `modules.hidden`
needs, and programs for hidden units load it.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import common, modules, reduction
from .modules import Factors, Statistics


class SoftMaximum(NamedTuple):
    """The running soft maximum (log-sum-exp) of a row's scores s_m = κ F_m + c_m, over the modules so far.

    top = max_m s_m, in float64;  total = Σ_m e^{s_m − top};  more = Σ_m e^{s_m − top} y_m, where y_m is averaged.
    """

    top: tl.tensor
    total: tl.tensor
    more: tl.tensor


@triton.jit
def empty_maximum(more):
    """The soft maximum over no module; more: zeros of y's shape."""
    empty = tl.zeros((more.shape[0],), tl.float32)
    return SoftMaximum(empty.to(tl.float64) + float("-inf"), empty, more)


@triton.jit
def with_module(maximum, of_module, more):
    """The soft maximum with another module, whose s_m is of_module and whose y_m is `more`."""
    highest = tl.maximum(maximum.top, of_module)
    shrink = modules.shrinkage(maximum.top, highest)
    e = tl.exp((of_module - modules.origin(highest)).to(tl.float32))
    total = maximum.total * shrink + e
    return SoftMaximum(highest, total, modules.scaled(maximum.more, shrink) + modules.scaled(more, e))


@triton.jit
def score(potential, network, m):
    """s_m = κ F_m + c_m, in float64 as the potential is."""
    return tl.load(network.sharpness).to(tl.float64) * potential + tl.load(network.offset + m).to(tl.float64)


@triton.jit
def soft_maximum(maximum, network):
    """LSE_m(s_m)/κ, in float64."""
    return (maximum.top + tl.log(maximum.total).to(tl.float64)) / tl.load(network.sharpness).to(tl.float64)


class Memory(NamedTuple):
    """What programs for rows save: factors (count · SLOTS, B), and, unless None, ∂S/∂scalar row by row (B, COLUMNS)."""

    factors: tl.tensor
    scalars: tl.tensor
    rows: tl.tensor
    columns: tl.constexpr
    slots: tl.constexpr


@triton.jit
def _slot(memory, m, slot: tl.constexpr, rows):
    """Where one number of module m and each of `rows` is saved."""
    return memory.factors + (tl.cast(m, tl.int64) * memory.slots + slot) * memory.rows + rows


@triton.jit
def _save(memory, m, slot: tl.constexpr, rows, numbers):
    tl.store(_slot(memory, m, slot, rows), numbers, mask=rows < memory.rows)


@triton.jit
def _load_saved(memory, m, slot: tl.constexpr, rows, otherwise: tl.constexpr):
    # Other programs save numbers beside these, so that this multiprocessor's first-level cache may hold them as they
    # were before.  It is the acquire of `reduction.wait_for`, or the program's own barrier, that makes them current;
    # .cg alone does not, because a pipelined loop turns the load into a cp.async, which goes through that cache.
    return tl.load(_slot(memory, m, slot, rows), mask=rows < memory.rows, other=otherwise, cache_modifier=".cg")


@triton.jit
def _save_scalar(memory, column, rows, numbers):
    tl.store(memory.scalars + rows * memory.columns + column, numbers, mask=rows < memory.rows)


@triton.jit
def _save_statistics(memory, m, rows, found, form):
    _save(memory, m, 0, rows, found.positive)
    _save(memory, m, 1, rows, found.total_positive)
    _save(memory, m, 2, rows, found.along_positive)
    if form.two_signs:
        _save(memory, m, 4, rows, found.negative)
        _save(memory, m, 5, rows, found.total_negative)
        _save(memory, m, 6, rows, found.along_negative)


@triton.jit
def _load_saved_statistics(memory, m, rows, form):
    # Where there is no row, a number at which every transform has a derivative.
    first, total = _load_saved(memory, m, 0, rows, 1.0), _load_saved(memory, m, 1, rows, 1.0)
    along = _load_saved(memory, m, 2, rows, 0.0)
    if form.two_signs:
        second, total_2 = _load_saved(memory, m, 4, rows, 1.0), _load_saved(memory, m, 5, rows, 1.0)
        return Statistics(first, second, total, total_2, along, _load_saved(memory, m, 6, rows, 0.0))
    else:
        return Statistics(first, first, total, total, along, along)


@triton.jit
def _save_factors(memory, m, rows, by, form):
    _save(memory, m, 0, rows, by.positive)
    _save(memory, m, 1, rows, by.value_positive)
    _save(memory, m, 2, rows, by.shift_positive)
    _save(memory, m, 3, rows, by.centre_positive)
    if form.two_signs:
        _save(memory, m, 4, rows, by.negative)
        _save(memory, m, 5, rows, by.value_negative)
        _save(memory, m, 6, rows, by.shift_negative)
        _save(memory, m, 7, rows, by.centre_negative)


@triton.jit
def _load_saved_factors(memory, m, rows, form):
    """The factors of rows; where there is no row, those of which `modules.hidden` makes 0."""
    infinity: tl.constexpr = float("inf")
    first, value = _load_saved(memory, m, 0, rows, infinity), _load_saved(memory, m, 1, rows, 0.0)
    shift, centre = _load_saved(memory, m, 2, rows, 0.0), _load_saved(memory, m, 3, rows, 0.0)
    if form.two_signs:
        second, value_2 = _load_saved(memory, m, 4, rows, infinity), _load_saved(memory, m, 5, rows, 0.0)
        shift_2, centre_2 = _load_saved(memory, m, 6, rows, 0.0), _load_saved(memory, m, 7, rows, 0.0)
        return Factors(first, value, shift, centre, second, value_2, shift_2, centre_2)
    else:
        return Factors(first, value, shift, centre, first, value, shift, centre)


@triton.jit
def _save_scalars(
    memory, m, rows, count, found, module, of_gradient, of_potential, of_z, of_score, form, OF_POTENTIAL: tl.constexpr
):
    """Save the derivatives of r <g, ∇F> + t F in module m's p (or w), τ and q, and of_score, that in its c.

    of_z: Σ_j v_j times the derivative in z_j.
    """
    place = m
    if form.basis != "":
        first, _ = activations.transform_first_second(found.positive, form.transform)
        of_positive = of_gradient * first * found.along_positive
        if OF_POTENTIAL:
            of_positive += of_potential * activations.transform_value(found.positive, form.transform)
        _save_scalar(memory, place, rows, of_positive)
    else:
        of_positive = of_gradient * found.along_positive
        of_negative = -of_gradient * found.along_negative
        if OF_POTENTIAL:
            pushed = of_potential / module.temperature
            of_positive += pushed * modules.log_sum_exp(found.positive, found.total_positive)
            of_negative += pushed * modules.log_sum_exp(found.negative, found.total_negative)
            of_z -= pushed * modules.potential(found, module, form)
        _save_scalar(memory, place, rows, of_positive)
        place += count
        _save_scalar(memory, place, rows, of_z)
        if form.two_signs:
            place += count
            _save_scalar(memory, place, rows, of_negative)
    if form.combined:
        _save_scalar(memory, place + count, rows, of_score)


@triton.jit
def _find_statistics(
    batch, points, cotangents, network, memory, rows, form, products, QUANTITY: tl.constexpr, BH: tl.constexpr
):
    """Save every module's statistics; the soft maximum of their scores, with y_m = g·∇F_m ("value")."""
    ALONG: tl.constexpr = "cotangents" if QUANTITY == "value" else ""
    maximum = empty_maximum(tl.zeros((points.shape[0],), tl.float32))
    for m in range(network.count):
        module = modules.load_module(network, m, products.D)
        found = modules.statistics(points, cotangents, module, form, products, ALONG, BH)
        _save_statistics(memory, m, rows, found, form)
        if form.combined:
            potential = modules.exact_potential(found, module, form)
            more = maximum.more
            if QUANTITY == "value":
                more = modules.gradient(found, module, form)
            maximum = with_module(maximum, score(potential, network, m), more)
    return maximum


@triton.jit
def _of_module(found, module, network, m, maximum, weight, form, QUANTITY: tl.constexpr):
    """r and t of module m, to which S is r <g, ∇F_m> + t F_m, and the derivatives of S in c_m and, its part, in κ."""
    zeros = tl.zeros(weight.shape, tl.float32)
    if form.combined:
        kappa = tl.load(network.sharpness).to(tl.float32)
        potential = modules.exact_potential(found, module, form)
        softmax = tl.exp((score(potential, network, m) - maximum.top).to(tl.float32)) / maximum.total
        # Relative to the network's potential, which changes nothing because Σ_m of_score = 0, and keeps digits where
        # potentials are large.
        rise = (potential - soft_maximum(maximum, network)).to(tl.float32)
        if QUANTITY == "value":
            of_score = softmax * (modules.gradient(found, module, form) - maximum.more / maximum.total)
            return softmax, kappa * of_score, of_score, of_score * rise
        else:
            of_score = weight * softmax / kappa
            return zeros, weight * softmax, of_score, of_score * rise
    elif QUANTITY == "value":
        return zeros + 1.0, zeros, zeros, zeros
    else:
        return zeros, weight, zeros, zeros


@triton.jit
def rows_program(
    batch, network, dx, memory, block, form, products, QUANTITY: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr
):
    """dx (BM, D) and ∂S/∂scalar of BM rows; saves what programs for hidden units need of them."""
    D: tl.constexpr = products.D
    BD: tl.constexpr = products.BD
    OF_POTENTIAL: tl.constexpr = form.combined or QUANTITY == "potential"
    OF_Z: tl.constexpr = dx is not None or (memory.scalars is not None and form.basis == "")
    first = block.to(tl.int64) * BM
    rows = first + tl.arange(0, BM)
    points = common.load_rows(batch.x, first, batch.count, batch.x_stride, D, BM, BD)  # (BM, BD)
    cotangents = points
    weight = tl.zeros((BM,), tl.float32)
    if QUANTITY == "value":
        cotangents = common.load_rows(batch.g, first, batch.count, batch.g_stride, D, BM, BD)  # (BM, BD)
    else:
        weight = tl.load(batch.weight + rows, mask=rows < batch.count, other=0.0).to(tl.float32)
    maximum = _find_statistics(batch, points, cotangents, network, memory, rows, form, products, QUANTITY, BH)
    # Other threads than those that saved the statistics load them.
    tl.debug_barrier()
    zeros = tl.zeros((BM, BH), tl.float32)
    total = tl.zeros((BM, BD), tl.float32)
    of_sharpness = tl.zeros((BM,), tl.float32)
    for m in range(network.count):
        module = modules.load_module(network, m, D)
        found = _load_saved_statistics(memory, m, rows, form)
        of_gradient, of_potential, of_score, further = _of_module(
            found, module, network, m, maximum, weight, form, QUANTITY
        )
        of_sharpness += further
        by = modules.factors(found, module, of_gradient, of_potential, form, OF_POTENTIAL)
        tl.debug_barrier()
        _save_factors(memory, m, rows, by, form)
        of_z = tl.zeros((BM,), tl.float32)
        if OF_Z:
            across = modules.expanded(by, 1)
            for start in range(0, module.h, BH):
                W_tile, b = modules.weights(module, start, products, BH)
                v = common.times(points, tl.trans(W_tile), zeros, products) + b[None, :]
                a = zeros
                if QUANTITY == "value":
                    a = common.times(cotangents, tl.trans(W_tile), zeros, products)
                _, step = modules.hidden(v, a, module.temperature, across, form)
                step = common.inside(step, start, module.h, 0.0, products)
                if form.basis == "":
                    of_z += tl.sum(common.product(step, v), 1)
                    step *= module.temperature
                if dx is not None:
                    total = common.times(step.to(W_tile.dtype), W_tile, total, products)
        if memory.scalars is not None:
            _save_scalars(
                *(memory, m, rows, network.count, found, module),
                *(of_gradient, of_potential, of_z, of_score, form, OF_POTENTIAL),
            )
    if memory.scalars is not None and form.combined:
        _save_scalar(memory, memory.columns - 1, rows, of_sharpness)
    if dx is not None:
        common.store_rows(dx, total, first, batch.count, D, BM, BD)


@triton.jit
def units_program(
    batch, module, into, part, memory, m, form, products, QUANTITY: tl.constexpr, BM: tl.constexpr, BH: tl.constexpr
):
    """dW = (r ∂F/∂v)ᵀ g + stepᵀ x and db = Σ_B step of one module's BH hidden units, from one part of the batch.

    step: the derivative of r <g, ∇F> + t F in v.
    """
    D: tl.constexpr = products.D
    BD: tl.constexpr = products.BD
    start = part.tile * BH
    W_tile, b = modules.weights(module, start, products, BH)
    zeros = tl.zeros((BH, BM), tl.float32)
    total = tl.zeros((BH, BD), tl.float32)
    sums = tl.zeros((BH,), tl.float32)
    begin = part.split.to(tl.int64) * part.rows
    for offset in range(0, tl.minimum(batch.count - begin, part.rows), BM):
        first = begin + offset
        points = common.load_rows(batch.x, first, batch.count, batch.x_stride, D, BM, BD)  # (BM, BD)
        v = common.times(W_tile, tl.trans(points), zeros, products) + b[:, None]
        a = zeros
        if QUANTITY == "value":
            cotangents = common.load_rows(batch.g, first, batch.count, batch.g_stride, D, BM, BD)  # (BM, BD)
            a = common.times(W_tile, tl.trans(cotangents), zeros, products)
        by = modules.expanded(_load_saved_factors(memory, m, first + tl.arange(0, BM), form), 0)
        value, step = modules.hidden(v, a, module.temperature, by, form)
        if form.basis == "":
            step *= module.temperature
        sums += tl.sum(step, 1)
        if into.W is not None:
            if QUANTITY == "value":
                total = common.times(value.to(points.dtype), cotangents, total, products)
            total = common.times(step.to(points.dtype), points, total, products)
    reduction.matrix_and_vectors(total, (sums,), into, part, module.h, D, BH, BD)
