"""The outer functions ρ of transformed ridge sums, for float32 blocks of sums t; log t only where t > 0."""

import triton
import triton.language as tl

from . import _activations_gen as activations
from . import common


@triton.jit
def value(t, NAME: tl.constexpr):
    """ρ(t)."""
    if NAME == "identity":
        return t
    elif NAME == "half_square":
        return 0.5 * t * t
    elif NAME == "softplus":
        return activations.softplus_value(t)
    elif NAME == "logcosh":
        return activations.tanh_antiderivative(t)
    elif NAME == "exp":
        return tl.exp(t)
    elif NAME == "log":
        return tl.log(t)
    else:
        tl.static_assert(False, "unknown transform")


@triton.jit
def first_second(t, NAME: tl.constexpr):
    """ρ'(t) and ρ''(t)."""
    if NAME == "identity":
        return tl.full(t.shape, 1.0, tl.float32), tl.full(t.shape, 0.0, tl.float32)
    elif NAME == "half_square":
        return t, tl.full(t.shape, 1.0, tl.float32)
    elif NAME == "softplus":
        return activations.softplus_value_first_second(t)[1:]
    elif NAME == "logcosh":
        return common.tanh(t), common.sech_squared(t)
    elif NAME == "exp":
        return tl.exp(t), tl.exp(t)
    elif NAME == "log":
        return 1.0 / t, -1.0 / (t * t)
    else:
        tl.static_assert(False, "unknown transform")
