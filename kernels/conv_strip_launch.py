"""Launches of the kernels that take a convolutional network in one: nothing of size C × pixels is in memory.

    f(x) = Kᵀφ(K∗x) + bias,   J(x) v = Kᵀ(φ'(K∗x)·(K∗v)),   and the gradients of both

Called by `gradnets_fast.ops`; calls the kernels of `conv_strip`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from . import configuration, conv_strip
from .conv_launch import Convolution
from .launch import Batch, Gradients, Parameters, counters, forget_counters, layout_of
from .launching import launch
from .mode import Mode

QUANTITIES = ("value", "jvp")
"""What is computed in one launch."""

_PROGRAMS = 264
"""Programs into which the rows of images are divided where there are enough of them: two for each multiprocessor."""


def why_not(mode: Mode, quantity: str, convolution: Convolution) -> str | None:
    """Why a network is not computed in one launch; None if it is."""
    if quantity not in QUANTITIES:
        return f"the {quantity} has no kernel of its own"
    if mode.kind == "ieee" and mode.architecture != configuration.INTERPRETER:
        return "float32 products without TF32 are not for matrix units"
    if mode.kind == "tf32x3" and quantity == "jvp":
        return "three products of TF32 in place of one take more registers than there are"
    if torch.Size(convolution.shape).numel() >= 2**31:
        return "an image has 2³¹ numbers or more, which are counted in 32 bits"
    axes, K = len(convolution.shape) - 1, convolution.K
    if axes > 2:
        return f"images have {axes} axes"
    return configuration.why_no_strip(mode.kind, K.shape[1], *_planar(K.shape[2:]))


def forward(
    mode: Mode,
    quantity: str,
    points: dict[str, Tensor],
    convolution: Convolution,
    parameters: Parameters,
    bias: Tensor | None = None,
) -> Tensor:
    """f(x) ("value") or J(x) v ("jvp"); points: x, and v, contiguous (images, C_in, n_1[, n_2]), at least one image."""
    x = points["x"]
    out = torch.empty_like(x)
    constants, rows, programs = _layout(mode, quantity, convolution, parameters, len(x))
    vectors = (parameters.scale, parameters.shift, parameters.coef)
    arguments = (
        x,
        points.get("v"),
        parameters.W,
        *vectors,
        bias,
        out,
        *_sizes(x, parameters),
        constants["FILTERS"][1],
        rows,
    )
    del constants["BT"], constants["BC_WEIGHTS"]
    launch(conv_strip.forward, (programs,), arguments, constants)
    return out


def backward(
    mode: Mode, quantity: str, batch: Batch, convolution: Convolution, parameters: Parameters, into: Gradients
) -> None:
    """The gradients of <g, f(x)> ("value") or <g, J(x) v> ("jvp") for at least one image; images as in `forward`."""
    x, K = batch.x, parameters.W
    assert batch.g is not None
    constants, rows, programs = _layout(mode, quantity, convolution, parameters, len(x))
    count, h, n1, n2 = _sizes(x, parameters)
    columns, tile = _numbers(constants, into), constants["BC_WEIGHTS"]
    blocks, positions = triton.cdiv(h, tile) if columns else 0, count * n1 * triton.cdiv(n2, constants["FILTERS"][5])
    channels = constants["FILTERS"][4] // constants["FILTERS"][3]
    bias = into.bias if columns else None
    size = tile * columns + (0 if bias is None else channels)
    layout = layout_of(positions, 1, blocks, size, constants["FILTERS"][5] * tile)
    partials = torch.empty(layout.partials, dtype=torch.float32, device=x.device)
    arrivals = counters(x.device, layout.counters)
    strips = programs if into.x is not None or into.v is not None else 0
    arguments = (
        *(x, batch.g, batch.v, K, parameters.scale, parameters.shift, parameters.coef),
        *(into.x, into.v, into.W, into.vectors, bias, partials, arrivals),
        *(count, h, n1, n2, constants["FILTERS"][1], rows, layout.programs, layout.splits, layout.rows),
    )
    try:
        launch(conv_strip.backward, (layout.programs + strips,), arguments, constants | into.flags())
    except BaseException:
        forget_counters()
        raise
    if into.bias is not None and not columns:
        into.bias.copy_(batch.g.flatten(2).sum((0, 2), dtype=torch.float32))


def _layout(
    mode: Mode, quantity: str, convolution: Convolution, parameters: Parameters, count: int
) -> tuple[dict[str, Any], int, int]:
    """The constants of both kernels, and the rows and the number of programs that compute images."""
    K = convolution.K
    n1, n2 = _planar(convolution.shape[1:])
    k1, k2 = _planar(K.shape[2:])
    depth = 2 if mode.basis == ("spline",) else configuration.depth(mode.layers, len(mode.basis))
    options = configuration.strip_options(mode.kind, depth, len(K), (K.shape[1], k1, k2), n2)
    kx, taps, width = options.pop("KX"), options.pop("TAPS"), options.pop("W")
    knots = parameters.coef.shape[1] if mode.basis == ("spline",) and parameters.coef is not None else 0
    of_spline = {"KNOTS": knots, "BT": triton.next_power_of_2(knots)}
    filters = {"FILTERS": (K.shape[1], k1, k2, kx, taps, width, convolution.circular), "QUANTITY": quantity}
    precision = {"PRECISION": "ieee" if mode.kind == "half" else mode.kind}
    strips = count * triton.cdiv(n2, width - (k2 - 1))
    rows = min(n1, max(4 * (k1 - 1), triton.cdiv(n1 * strips, _PROGRAMS), 1))
    return mode.constants() | precision | of_spline | filters | options, rows, strips * triton.cdiv(n1, rows)


def _numbers(constants: dict[str, Any], into: Gradients) -> int:
    """How many sums a program for parameters keeps of each channel."""
    scale, shift, coef = into.needs
    vectors = constants["LAYERS"] * (scale + shift)
    table = constants["BT"] if constants["KNOTS"] else constants["LAYERS"] * len(constants["BASIS"])
    k1, taps = constants["FILTERS"][1], constants["FILTERS"][4]
    return (k1 * taps if into.W is not None else 0) + vectors + table * coef


def _planar(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Sizes along two axes; a line of pixels is an image of one row."""
    return (1, *sizes)[-2], sizes[-1]


def _sizes(x: Tensor, parameters: Parameters) -> tuple[int, int, int, int]:
    """Images, channels, rows and columns."""
    return (len(x), len(parameters.W), *_planar(x.shape[2:]))
