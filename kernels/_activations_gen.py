"""Printed by gradnets_fast/activations/codegen.py from spec.py and transforms.py. Do not edit."""

import triton
import triton.language as tl

from . import common


@triton.jit
def identity_antiderivative(x):
    return 0.5 * (x * x)


@triton.jit
def identity_value(x):
    return x


@triton.jit
def identity_value_first(x):
    return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def identity_value_first_second(x):
    return x, tl.full(x.shape, 1.0, tl.float32), tl.full(x.shape, 0.0, tl.float32)


@triton.jit
def tanh_antiderivative(x):
    t0 = tl.abs(x)
    t1 = common.expm1(common.minimum(t0, 1.0))
    return tl.where(t0 < 1.0, common.log1p(common.minimum((t1 * t1) / (2.0 * (1.0 + t1)), 1.0)), (t0 + common.log1p(tl.exp(-2.0 * t0))) - 0.6931471805599453)


@triton.jit
def tanh_value(x):
    return common.tanh(x)


@triton.jit
def tanh_fast_value(x, ARITHMETIC: tl.constexpr):
    return common.approximate_tanh(x, ARITHMETIC)


@triton.jit
def tanh_value_first(x):
    return common.tanh(x), common.sech_squared(x)


@triton.jit
def tanh_fast_value_first(x, ARITHMETIC: tl.constexpr):
    t0 = common.approximate_tanh(x, ARITHMETIC)
    return t0, 1.0 - (t0 * t0)


@triton.jit
def tanh_value_first_second(x):
    t0 = common.tanh(x)
    t1 = common.sech_squared(x)
    return t0, t1, (-2.0 * t0) * t1


@triton.jit
def tanh_fast_value_first_second(x, ARITHMETIC: tl.constexpr):
    t0 = common.approximate_tanh(x, ARITHMETIC)
    t1 = 1.0 - (t0 * t0)
    return t0, t1, (-2.0 * t0) * t1


@triton.jit
def sigmoid_antiderivative(x):
    return tl.where(x > 0.0, x, 0.0) + common.log1p(tl.exp(-tl.abs(x)))


@triton.jit
def sigmoid_value(x):
    t0 = tl.exp(-tl.abs(x))
    t1 = 1.0 / (1.0 + t0)
    return tl.where(x < 0.0, t0 * t1, t1)


@triton.jit
def sigmoid_fast_value(x, ARITHMETIC: tl.constexpr):
    return 0.5 + (0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC))


@triton.jit
def sigmoid_value_first(x):
    t0 = tl.exp(-tl.abs(x))
    t1 = 1.0 / (1.0 + t0)
    t2 = t0 * t1
    return tl.where(x < 0.0, t2, t1), t2 * t1


@triton.jit
def sigmoid_fast_value_first(x, ARITHMETIC: tl.constexpr):
    t0 = 0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC)
    return 0.5 + t0, 0.25 - (t0 * t0)


@triton.jit
def sigmoid_value_first_second(x):
    t0 = -tl.abs(x)
    t1 = tl.exp(t0)
    t2 = 1.0 / (1.0 + t1)
    t3 = t1 * t2
    t4 = t3 * t2
    t5 = common.expm1(t0)
    return tl.where(x < 0.0, t3, t2), t4, t4 * common.copysign(t5 / (2.0 + t5), -x)


@triton.jit
def sigmoid_fast_value_first_second(x, ARITHMETIC: tl.constexpr):
    t0 = 0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC)
    t1 = 0.25 - (t0 * t0)
    return 0.5 + t0, t1, (-2.0 * t0) * t1


@triton.jit
def softplus_antiderivative(x):
    t0 = common.log1p(tl.exp(-tl.abs(x)))
    t1 = t0 * t0
    t2 = (t0 * (1.0 + (0.25 * t0))) + ((t1 * t0) * (0.027777777777777776 + t1 * (-0.0002777777777777778 + t1 * (4.72411186696901e-06 + t1 * (-9.185773074661964e-08)))))
    return tl.where(x > 0.0, (0.5 * (x * x)) + (1.6449340668482264 - t2), t2)


@triton.jit
def softplus_value(x):
    return tl.where(x > 0.0, x, 0.0) + common.log1p(tl.exp(-tl.abs(x)))


@triton.jit
def softplus_fast_value(x, ARITHMETIC: tl.constexpr):
    return tl.where(x > 0.0, x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def softplus_value_first(x):
    t0 = tl.exp(-tl.abs(x))
    t1 = 1.0 / (1.0 + t0)
    return tl.where(x > 0.0, x, 0.0) + common.log1p(t0), tl.where(x < 0.0, t0 * t1, t1)


@triton.jit
def softplus_fast_value_first(x, ARITHMETIC: tl.constexpr):
    return tl.where(x > 0.0, x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x))), 0.5 + (0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC))


@triton.jit
def softplus_value_first_second(x):
    t0 = tl.exp(-tl.abs(x))
    t1 = 1.0 / (1.0 + t0)
    t2 = t0 * t1
    return tl.where(x > 0.0, x, 0.0) + common.log1p(t0), tl.where(x < 0.0, t2, t1), t2 * t1


@triton.jit
def softplus_fast_value_first_second(x, ARITHMETIC: tl.constexpr):
    t0 = 0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC)
    return tl.where(x > 0.0, x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x))), 0.5 + t0, 0.25 - (t0 * t0)


@triton.jit
def relu_antiderivative(x):
    t0 = tl.where(x <= 0.0, 0.0, x)
    return 0.5 * (t0 * t0)


@triton.jit
def relu_value(x):
    return tl.where(x <= 0.0, 0.0, x)


@triton.jit
def relu_value_first(x):
    return tl.where(x <= 0.0, 0.0, x), tl.where(x > 0.0, 1.0, 0.0)


@triton.jit
def relu_value_first_second(x):
    return tl.where(x <= 0.0, 0.0, x), tl.where(x > 0.0, 1.0, 0.0), tl.full(x.shape, 0.0, tl.float32)


@triton.jit
def elu_antiderivative(x):
    t0 = common.minimum(x, 0.0)
    t1 = common.minimum(-t0, 1.0)
    return tl.where(x > 0.0, 0.5 * (x * x), tl.where(t0 > -1.0, (t1 * t1) * (0.5 + (-t1) * (0.16666666666666666 + (-t1) * (0.041666666666666664 + (-t1) * (0.008333333333333333 + (-t1) * (0.001388888888888889 + (-t1) * (0.0001984126984126984 + (-t1) * (2.48015873015873e-05 + (-t1) * (2.7557319223985893e-06 + (-t1) * (2.755731922398589e-07 + (-t1) * (2.505210838544172e-08)))))))))), common.expm1(t0) - t0))


@triton.jit
def elu_value(x):
    return tl.where(x > 0.0, x, common.expm1(common.minimum(x, 0.0)))


@triton.jit
def elu_value_first(x):
    t0 = x > 0.0
    t1 = common.minimum(x, 0.0)
    return tl.where(t0, x, common.expm1(t1)), tl.where(t0, 1.0, tl.exp(t1))


@triton.jit
def elu_value_first_second(x):
    t0 = x > 0.0
    t1 = common.minimum(x, 0.0)
    t2 = tl.exp(t1)
    return tl.where(t0, x, common.expm1(t1)), tl.where(t0, 1.0, t2), tl.where(x < 0.0, t2, 0.0)


@triton.jit
def silu_antiderivative(x):
    t0 = tl.abs(x)
    t1 = common.copysign(common.minimum(t0, 1.0), x)
    t2 = x > 0.0
    t3 = common.log1p(tl.exp(-t0))
    t4 = t3 * t3
    t5 = 0.8224670334241132 - ((t3 * (1.0 + (0.25 * t3))) + ((t4 * t3) * (0.027777777777777776 + t4 * (-0.0002777777777777778 + t4 * (4.72411186696901e-06 + t4 * (-9.185773074661964e-08))))))
    return tl.where(t0 < 1.0, (x * x) * (0.25 + (t1 * (0.08333333333333333 + (t1 * t1) * (-0.004166666666666667 + (t1 * t1) * (0.00029761904761904765 + (t1 * t1) * (-2.3423721340388008e-05 + (t1 * t1) * (1.9415383998717333e-06 + (t1 * t1) * (-1.6645198936865603e-07 + (t1 * t1) * (1.4616406398813807e-08 + (t1 * t1) * (-1.3067217542323558e-09)))))))))), (x * (tl.where(t2, 0.5 * x, 0.0) + t3)) + tl.where(t2, -t5, t5))


@triton.jit
def silu_value(x):
    t0 = tl.exp(-tl.abs(x))
    t1 = 1.0 / (1.0 + t0)
    return x * tl.where(x < 0.0, t0 * t1, t1)


@triton.jit
def silu_fast_value(x, ARITHMETIC: tl.constexpr):
    return x * (0.5 + (0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC)))


@triton.jit
def silu_value_first(x):
    t0 = x < 0.0
    t1 = tl.exp(-tl.abs(x))
    t2 = 1.0 / (1.0 + t1)
    t3 = t1 * t2
    t4 = tl.where(t0, t3, t2)
    return x * t4, t4 * (1.0 + (x * tl.where(t0, t2, t3)))


@triton.jit
def silu_fast_value_first(x, ARITHMETIC: tl.constexpr):
    t0 = 0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC)
    t1 = 0.5 + t0
    return x * t1, t1 + (x * (0.25 - (t0 * t0)))


@triton.jit
def silu_value_first_second(x):
    t0 = x < 0.0
    t1 = -tl.abs(x)
    t2 = tl.exp(t1)
    t3 = 1.0 / (1.0 + t2)
    t4 = t2 * t3
    t5 = tl.where(t0, t4, t3)
    t6 = common.expm1(t1)
    return x * t5, t5 * (1.0 + (x * tl.where(t0, t3, t4))), (t4 * t3) * (2.0 + (x * common.copysign(t6 / (2.0 + t6), -x)))


@triton.jit
def silu_fast_value_first_second(x, ARITHMETIC: tl.constexpr):
    t0 = 0.5 * common.approximate_tanh(0.5 * x, ARITHMETIC)
    t1 = 0.5 + t0
    t2 = 0.25 - (t0 * t0)
    return x * t1, t1 + (x * t2), (2.0 * t2) + (x * ((-2.0 * t0) * t2))


@triton.jit
def gelu_antiderivative(x):
    t0 = tl.abs(x)
    t1 = common.copysign(common.minimum(t0, 1.0), x)
    t2 = -common.minimum(-x, 40.0)
    t3 = common.minimum(t0, 40.0)
    return tl.where(t0 < 1.0, (x * x) * (0.25 + (t1 * (0.1329807601338109 + (t1 * t1) * (-0.013298076013381087 + (t1 * t1) * (0.001424793858576546 + (t1 * t1) * (-0.00013192535727560604 + (t1 * t1) * (1.0494062510559568e-05 + (t1 * t1) * (-7.265120199618165e-07 + (t1 * t1) * (4.439795677544436e-08 + (t1 * t1) * (-2.425098479330993e-09)))))))))), (0.5 * ((((t2 * t2) - 1.0) * (0.5 * common.erfc(-0.7071067811865476 * x))) + (t2 * (tl.exp(-0.5 * (t3 * t3)) * 0.3989422804014327)))) + 0.25)


@triton.jit
def gelu_value(x):
    return x * (0.5 * common.erfc(-0.7071067811865476 * x))


@triton.jit
def gelu_value_first(x):
    t0 = 0.5 * common.erfc(-0.7071067811865476 * x)
    t1 = common.minimum(tl.abs(x), 40.0)
    return x * t0, t0 + (x * (tl.exp(-0.5 * (t1 * t1)) * 0.3989422804014327))


@triton.jit
def gelu_value_first_second(x):
    t0 = 0.5 * common.erfc(-0.7071067811865476 * x)
    t1 = common.minimum(tl.abs(x), 40.0)
    t2 = t1 * t1
    t3 = tl.exp(-0.5 * t2) * 0.3989422804014327
    return x * t0, t0 + (x * t3), t3 * (2.0 - t2)


@triton.jit
def sin_antiderivative(x):
    t0 = common.sin(0.5 * x)
    return 2.0 * (t0 * t0)


@triton.jit
def sin_value(x):
    return common.sin(x)


@triton.jit
def sin_value_first(x):
    return common.sin(x), common.cos(x)


@triton.jit
def sin_value_first_second(x):
    t0 = common.sin(x)
    return t0, common.cos(x), -t0


@triton.jit
def arctan_antiderivative(x):
    t0 = tl.abs(x)
    t1 = t0 > 1.0
    t2 = tl.where(t1, t0, 1.0)
    t3 = tl.where(t1, 1.0 / t2, t0)
    return (x * common.atan(x)) - (tl.log(t2) + (0.5 * common.log1p(t3 * t3)))


@triton.jit
def arctan_value(x):
    return common.atan(x)


@triton.jit
def arctan_value_first(x):
    t0 = tl.abs(x)
    t1 = t0 > 1.0
    t2 = tl.where(t1, 1.0 / tl.where(t1, t0, 1.0), t0)
    t3 = t2 * t2
    return common.atan(x), tl.where(t1, t3, 1.0) / (1.0 + t3)


@triton.jit
def arctan_value_first_second(x):
    t0 = tl.abs(x)
    t1 = t0 > 1.0
    t2 = tl.where(t1, 1.0 / tl.where(t1, t0, 1.0), t0)
    t3 = t2 * t2
    t4 = 1.0 + t3
    t5 = tl.where(t1, t3, 1.0) / t4
    return common.atan(x), t5, (-2.0 * t5) * common.copysign(t2 / t4, x)


@triton.jit
def softsign_antiderivative(x):
    t0 = tl.abs(x)
    t1 = common.minimum(t0, 1.0)
    t2 = t1 / (2.0 + t1)
    t3 = t2 * t2
    return tl.where(t0 < 1.0, (t1 * t2) - ((t3 * t2) * (0.6666666666666666 + t3 * (0.4 + t3 * (0.2857142857142857 + t3 * (0.2222222222222222 + t3 * (0.18181818181818182 + t3 * (0.15384615384615385 + t3 * (0.13333333333333333 + t3 * (0.11764705882352941))))))))), t0 - tl.log(1.0 + t0))


@triton.jit
def softsign_value(x):
    return x / (1.0 + tl.abs(x))


@triton.jit
def softsign_value_first(x):
    t0 = 1.0 + tl.abs(x)
    return x / t0, 1.0 / (t0 * t0)


@triton.jit
def softsign_value_first_second(x):
    t0 = 1.0 + tl.abs(x)
    t1 = t0 * t0
    return x / t0, 1.0 / t1, (-2.0 * tl.where(x < 0.0, -1.0, tl.where(x > 0.0, 1.0, 0.0))) / (t1 * t0)


@triton.jit
def erf_antiderivative(x):
    return (x * tl.erf(x)) + (0.5641895835477563 * common.expm1(-(x * x)))


@triton.jit
def erf_value(x):
    return tl.erf(x)


@triton.jit
def erf_value_first(x):
    return tl.erf(x), 1.1283791670955126 * tl.exp(-(x * x))


@triton.jit
def erf_value_first_second(x):
    t0 = 1.1283791670955126 * tl.exp(-(x * x))
    return tl.erf(x), t0, (-2.0 * t0) * x


@triton.jit
def softshrink_antiderivative(x):
    t0 = tl.where(tl.abs(x) <= 0.5, 0.0, x - common.copysign(0.5, x))
    return 0.5 * (t0 * t0)


@triton.jit
def softshrink_value(x):
    return tl.where(tl.abs(x) <= 0.5, 0.0, x - common.copysign(0.5, x))


@triton.jit
def softshrink_value_first(x):
    t0 = tl.abs(x) <= 0.5
    return tl.where(t0, 0.0, x - common.copysign(0.5, x)), tl.where(t0, 0.0, 1.0)


@triton.jit
def softshrink_value_first_second(x):
    t0 = tl.abs(x) <= 0.5
    return tl.where(t0, 0.0, x - common.copysign(0.5, x)), tl.where(t0, 0.0, 1.0), tl.full(x.shape, 0.0, tl.float32)


@triton.jit
def hardtanh_antiderivative(x):
    t0 = tl.abs(x)
    return tl.where(t0 > 1.0, t0 - 0.5, 0.5 * (x * x))


@triton.jit
def hardtanh_value(x):
    return tl.where(x > 1.0, 1.0, tl.where(x < -1.0, -1.0, x))


@triton.jit
def hardtanh_value_first(x):
    return tl.where(x > 1.0, 1.0, tl.where(x < -1.0, -1.0, x)), tl.where(tl.abs(x) < 1.0, 1.0, 0.0)


@triton.jit
def hardtanh_value_first_second(x):
    return tl.where(x > 1.0, 1.0, tl.where(x < -1.0, -1.0, x)), tl.where(tl.abs(x) < 1.0, 1.0, 0.0), tl.full(x.shape, 0.0, tl.float32)


@triton.jit
def hardsigmoid_antiderivative(x):
    t0 = x + 3.0
    return tl.where(x > 3.0, x, tl.where(x < -3.0, 0.0, 0.08333333333333333 * (t0 * t0)))


@triton.jit
def hardsigmoid_value(x):
    return tl.where(x > 3.0, 1.0, tl.where(x < -3.0, 0.0, 0.16666666666666666 * (x + 3.0)))


@triton.jit
def hardsigmoid_value_first(x):
    return tl.where(x > 3.0, 1.0, tl.where(x < -3.0, 0.0, 0.16666666666666666 * (x + 3.0))), tl.where(tl.abs(x) < 3.0, 0.16666666666666666, 0.0)


@triton.jit
def hardsigmoid_value_first_second(x):
    return tl.where(x > 3.0, 1.0, tl.where(x < -3.0, 0.0, 0.16666666666666666 * (x + 3.0))), tl.where(tl.abs(x) < 3.0, 0.16666666666666666, 0.0), tl.full(x.shape, 0.0, tl.float32)


@triton.jit
def antiderivative(x, NAME: tl.constexpr, ARITHMETIC: tl.constexpr):
    if NAME == "identity":
        return identity_antiderivative(x)
    elif NAME == "tanh":
        return tanh_antiderivative(x)
    elif NAME == "sigmoid":
        return sigmoid_antiderivative(x)
    elif NAME == "softplus":
        return softplus_antiderivative(x)
    elif NAME == "relu":
        return relu_antiderivative(x)
    elif NAME == "elu":
        return elu_antiderivative(x)
    elif NAME == "silu":
        return silu_antiderivative(x)
    elif NAME == "gelu":
        return gelu_antiderivative(x)
    elif NAME == "sin":
        return sin_antiderivative(x)
    elif NAME == "arctan":
        return arctan_antiderivative(x)
    elif NAME == "softsign":
        return softsign_antiderivative(x)
    elif NAME == "erf":
        return erf_antiderivative(x)
    elif NAME == "softshrink":
        return softshrink_antiderivative(x)
    elif NAME == "hardtanh":
        return hardtanh_antiderivative(x)
    elif NAME == "hardsigmoid":
        return hardsigmoid_antiderivative(x)
    else:
        tl.static_assert(False, "unknown basis function")


@triton.jit
def value(x, NAME: tl.constexpr, ARITHMETIC: tl.constexpr):
    if NAME == "identity":
        return identity_value(x)
    elif NAME == "tanh" and ARITHMETIC != "accurate":
        return tanh_fast_value(x, ARITHMETIC)
    elif NAME == "tanh":
        return tanh_value(x)
    elif NAME == "sigmoid" and ARITHMETIC != "accurate":
        return sigmoid_fast_value(x, ARITHMETIC)
    elif NAME == "sigmoid":
        return sigmoid_value(x)
    elif NAME == "softplus" and ARITHMETIC != "accurate":
        return softplus_fast_value(x, ARITHMETIC)
    elif NAME == "softplus":
        return softplus_value(x)
    elif NAME == "relu":
        return relu_value(x)
    elif NAME == "elu":
        return elu_value(x)
    elif NAME == "silu" and ARITHMETIC != "accurate":
        return silu_fast_value(x, ARITHMETIC)
    elif NAME == "silu":
        return silu_value(x)
    elif NAME == "gelu":
        return gelu_value(x)
    elif NAME == "sin":
        return sin_value(x)
    elif NAME == "arctan":
        return arctan_value(x)
    elif NAME == "softsign":
        return softsign_value(x)
    elif NAME == "erf":
        return erf_value(x)
    elif NAME == "softshrink":
        return softshrink_value(x)
    elif NAME == "hardtanh":
        return hardtanh_value(x)
    elif NAME == "hardsigmoid":
        return hardsigmoid_value(x)
    else:
        tl.static_assert(False, "unknown basis function")


@triton.jit
def value_first(x, NAME: tl.constexpr, ARITHMETIC: tl.constexpr):
    if NAME == "identity":
        return identity_value_first(x)
    elif NAME == "tanh" and ARITHMETIC != "accurate":
        return tanh_fast_value_first(x, ARITHMETIC)
    elif NAME == "tanh":
        return tanh_value_first(x)
    elif NAME == "sigmoid" and ARITHMETIC != "accurate":
        return sigmoid_fast_value_first(x, ARITHMETIC)
    elif NAME == "sigmoid":
        return sigmoid_value_first(x)
    elif NAME == "softplus" and ARITHMETIC != "accurate":
        return softplus_fast_value_first(x, ARITHMETIC)
    elif NAME == "softplus":
        return softplus_value_first(x)
    elif NAME == "relu":
        return relu_value_first(x)
    elif NAME == "elu":
        return elu_value_first(x)
    elif NAME == "silu" and ARITHMETIC != "accurate":
        return silu_fast_value_first(x, ARITHMETIC)
    elif NAME == "silu":
        return silu_value_first(x)
    elif NAME == "gelu":
        return gelu_value_first(x)
    elif NAME == "sin":
        return sin_value_first(x)
    elif NAME == "arctan":
        return arctan_value_first(x)
    elif NAME == "softsign":
        return softsign_value_first(x)
    elif NAME == "erf":
        return erf_value_first(x)
    elif NAME == "softshrink":
        return softshrink_value_first(x)
    elif NAME == "hardtanh":
        return hardtanh_value_first(x)
    elif NAME == "hardsigmoid":
        return hardsigmoid_value_first(x)
    else:
        tl.static_assert(False, "unknown basis function")


@triton.jit
def value_first_second(x, NAME: tl.constexpr, ARITHMETIC: tl.constexpr):
    if NAME == "identity":
        return identity_value_first_second(x)
    elif NAME == "tanh" and ARITHMETIC != "accurate":
        return tanh_fast_value_first_second(x, ARITHMETIC)
    elif NAME == "tanh":
        return tanh_value_first_second(x)
    elif NAME == "sigmoid" and ARITHMETIC != "accurate":
        return sigmoid_fast_value_first_second(x, ARITHMETIC)
    elif NAME == "sigmoid":
        return sigmoid_value_first_second(x)
    elif NAME == "softplus" and ARITHMETIC != "accurate":
        return softplus_fast_value_first_second(x, ARITHMETIC)
    elif NAME == "softplus":
        return softplus_value_first_second(x)
    elif NAME == "relu":
        return relu_value_first_second(x)
    elif NAME == "elu":
        return elu_value_first_second(x)
    elif NAME == "silu" and ARITHMETIC != "accurate":
        return silu_fast_value_first_second(x, ARITHMETIC)
    elif NAME == "silu":
        return silu_value_first_second(x)
    elif NAME == "gelu":
        return gelu_value_first_second(x)
    elif NAME == "sin":
        return sin_value_first_second(x)
    elif NAME == "arctan":
        return arctan_value_first_second(x)
    elif NAME == "softsign":
        return softsign_value_first_second(x)
    elif NAME == "erf":
        return erf_value_first_second(x)
    elif NAME == "softshrink":
        return softshrink_value_first_second(x)
    elif NAME == "hardtanh":
        return hardtanh_value_first_second(x)
    elif NAME == "hardsigmoid":
        return hardsigmoid_value_first_second(x)
    else:
        tl.static_assert(False, "unknown basis function")


@triton.jit
def identity_transform_value(x):
    return x


@triton.jit
def identity_transform_first_second(x):
    return tl.full(x.shape, 1.0, tl.float32), tl.full(x.shape, 0.0, tl.float32)


@triton.jit
def half_square_transform_value(x):
    return 0.5 * (x * x)


@triton.jit
def half_square_transform_first_second(x):
    return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def softplus_transform_value(x):
    return tl.where(x > 0.0, x, 0.0) + common.log1p(tl.exp(-tl.abs(x)))


@triton.jit
def softplus_transform_first_second(x):
    t0 = tl.exp(-tl.abs(x))
    t1 = 1.0 / (1.0 + t0)
    t2 = t0 * t1
    return tl.where(x < 0.0, t2, t1), t2 * t1


@triton.jit
def logcosh_transform_value(x):
    t0 = tl.abs(x)
    t1 = common.expm1(common.minimum(t0, 1.0))
    return tl.where(t0 < 1.0, common.log1p(common.minimum((t1 * t1) / (2.0 * (1.0 + t1)), 1.0)), (t0 + common.log1p(tl.exp(-2.0 * t0))) - 0.6931471805599453)


@triton.jit
def logcosh_transform_first_second(x):
    return common.tanh(x), common.sech_squared(x)


@triton.jit
def exp_transform_value(x):
    return tl.exp(x)


@triton.jit
def exp_transform_first_second(x):
    t0 = tl.exp(x)
    return t0, t0


@triton.jit
def log_transform_value(x):
    return tl.log(x)


@triton.jit
def log_transform_first_second(x):
    return 1.0 / x, -1.0 / (x * x)


@triton.jit
def transform_value(x, NAME: tl.constexpr):
    if NAME == "identity":
        return identity_transform_value(x)
    elif NAME == "half_square":
        return half_square_transform_value(x)
    elif NAME == "softplus":
        return softplus_transform_value(x)
    elif NAME == "logcosh":
        return logcosh_transform_value(x)
    elif NAME == "exp":
        return exp_transform_value(x)
    elif NAME == "log":
        return log_transform_value(x)
    else:
        tl.static_assert(False, "unknown transform")


@triton.jit
def transform_first_second(x, NAME: tl.constexpr):
    if NAME == "identity":
        return identity_transform_first_second(x)
    elif NAME == "half_square":
        return half_square_transform_first_second(x)
    elif NAME == "softplus":
        return softplus_transform_first_second(x)
    elif NAME == "logcosh":
        return logcosh_transform_first_second(x)
    elif NAME == "exp":
        return exp_transform_first_second(x)
    elif NAME == "log":
        return log_transform_first_second(x)
    else:
        tl.static_assert(False, "unknown transform")
