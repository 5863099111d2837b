// Elementary functions on vectors, and the activation table printed from spec.py.  Included after simd.h.

template <class T> struct MathConstants;

template <> struct MathConstants<float> {
    static constexpr float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    // 1.5·2^23: adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
    static constexpr float rounder = 12582912.0f;
    static constexpr float lowest = -120.0f, highest = 100.0f;
    static constexpr int mantissa = 23, bias = 127, expm1_terms = 6, log1p_terms = 7;
};

template <> struct MathConstants<double> {
    static constexpr double log2e = 1.4426950408889634, ln2_high = 0.693147180369123816490,
                            ln2_low = 1.90821492927058770002e-10;
    static constexpr double rounder = 6755399441055744.0;
    static constexpr double lowest = -760.0, highest = 720.0;
    static constexpr int mantissa = 52, bias = 1023, expm1_terms = 12, log1p_terms = 16;
};

// Horner over all coefficients in float64, over the first `short_terms` in float32.
template <int short_terms, class V, int N> inline V polynomial(V x, const double (&c)[N]) {
    constexpr int terms = sizeof(ScalarOf<V>) == 4 ? short_terms : N;
    V sum = broadcast<V>(ScalarOf<V>(c[terms - 1]));
#pragma GCC unroll 32
    for (int k = terms - 2; k >= 0; --k)
        sum = sum * x + ScalarOf<V>(c[k]);
    return sum;
}

// e^x = 2^n·(1 + p), |r| <= ln2/2, p = e^r − 1; the power of two is applied in two factors, so that subnormal and
// infinite results come out right.
template <class V> struct ReducedExp {
    V p, half_power, other_power;
};

template <class V> inline ReducedExp<V> reduce_exp(V x) {
    using T = ScalarOf<V>;
    using I = typename Simd<T>::Integers;
    using M = MathConstants<T>;
    x = minimum(maximum(x, broadcast<V>(M::lowest)), broadcast<V>(M::highest));
    const V shifted = x * M::log2e + M::rounder;
    const V n = shifted - M::rounder;
    const I integer = (I)shifted - (I)broadcast<V>(M::rounder);
    const V r = (x - n * M::ln2_high) - n * M::ln2_low;
    constexpr double q[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                            1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                            1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    const V p = r + (r * r) * polynomial<MathConstants<float>::expm1_terms>(r, q);
    const I half = integer >> 1;
    const I other = integer - half;
    return {p, (V)((half + M::bias) << M::mantissa), (V)((other + M::bias) << M::mantissa)};
}

template <class V> inline V v_exp(V x) {
    const ReducedExp<V> e = reduce_exp(x);
    return (e.p * e.half_power + e.half_power) * e.other_power;
}

// For x <= 1: the power of two is then at most 4 and needs no second factor.
template <class V> inline V v_expm1(V x) {
    const ReducedExp<V> e = reduce_exp(x);
    const V power = e.half_power * e.other_power;
    return power * e.p + (power - ScalarOf<V>(1));
}

// For 0 <= x <= 1: 2·artanh(s), s = x/(2+x) <= 1/3.
template <class V> inline V v_log1p(V x) {
    constexpr double q[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11, 1.0 / 13, 1.0 / 15, 1.0 / 17,
                            1.0 / 19, 1.0 / 21, 1.0 / 23, 1.0 / 25, 1.0 / 27, 1.0 / 29, 1.0 / 31, 1.0 / 33};
    const V s = x / (x + ScalarOf<V>(2));
    const V s2 = s * s;
    return ScalarOf<V>(2) * (s + (s * s2) * polynomial<MathConstants<float>::log1p_terms>(s2, q));
}

#define GRADNETS_LANEWISE(function)                                                                                    \
    template <class V> inline V v_##function(V x) {                                                                    \
        V result;                                                                                                      \
        for (int i = 0; i < Simd<ScalarOf<V>>::lanes; ++i) {                                                           \
            if constexpr (sizeof(ScalarOf<V>) == 4)                                                                    \
                result[i] = __builtin_##function##f(x[i]);                                                             \
            else                                                                                                       \
                result[i] = __builtin_##function(x[i]);                                                                \
        }                                                                                                              \
        return result;                                                                                                 \
    }

GRADNETS_LANEWISE(erf)
GRADNETS_LANEWISE(erfc)
GRADNETS_LANEWISE(sin)
GRADNETS_LANEWISE(cos)
GRADNETS_LANEWISE(atan)
GRADNETS_LANEWISE(log)
#undef GRADNETS_LANEWISE

#include "activations_gen.h"
