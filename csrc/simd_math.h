// Elementary functions on vectors, of which activations_gen.h is made.
//
// Every coefficient below is of a minimax polynomial (Remez, in 50 digits): `single` serves float32, `full` float64.
// The comments give the largest relative error that the exact polynomial makes in the function's value.
#pragma once

#include "simd.h"

namespace gradnets::GRADNETS_ISA {

template <class T> struct MathConstants;

template <> struct MathConstants<float> {
    static constexpr float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    // 1.5·2^23: adding it rounds to the nearest integer and leaves that integer in the low mantissa bits.
    static constexpr float rounder = 12582912.0f;
    static constexpr int mantissa = 23, bias = 127;
    using Word = uint32_t;
    // exp works with 2^(n + 24), normal for every n that gives a result > 0, and multiplies by 2^−24 last.
    static constexpr int exp_shift = 24;
    static constexpr float exp_scale = 0x1p-24f, exp_lowest = -104.0f, tanh_lowest = -45.0f;
    // π/2 in positive parts (−0 stays −0); for |x| <= angle_limit the multiples of the first three are exact.
    static constexpr float half_pi[] = {1.570556640625f, 0.0002396702766418457f, 1.5890691429376602e-08f,
                                        2.5633440682570896e-12f};
    static constexpr float angle_limit = 3000.0f;
    static constexpr float erfc_pole = 2.5f, erfc_zero = 10.125f, largest = __FLT_MAX__;
};

template <> struct MathConstants<double> {
    static constexpr double log2e = 1.4426950408889634, ln2_high = 0.693147180369123816490,
                            ln2_low = 1.90821492927058770002e-10;
    static constexpr double rounder = 6755399441055744.0;
    static constexpr int mantissa = 52, bias = 1023;
    using Word = uint64_t;
    static constexpr int exp_shift = 54;
    static constexpr double exp_scale = 0x1p-54, exp_lowest = -745.2, tanh_lowest = -355.5;
    static constexpr double half_pi[] = {1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21,
                                         8.4784276603689e-32};
    static constexpr double angle_limit = 1e6;
    static constexpr double erfc_pole = 4.0, erfc_zero = 27.25, largest = __DBL_MAX__;
};

// Horner over all coefficients in float64, over the first `short_terms` in float32.
template <int short_terms, class V, int N> GRADNETS_INLINE V polynomial(V x, const double (&c)[N]) {
    constexpr int terms = sizeof(ScalarOf<V>) == 4 ? short_terms : N;
    V sum = broadcast<V>(ScalarOf<V>(c[terms - 1]));
#pragma GCC unroll 32
    for (int k = terms - 2; k >= 0; --k)
        sum = sum * x + ScalarOf<V>(c[k]);
    return sum;
}

// Even and odd coefficients apart: one product more than Horner and half its latency, which pays off for many terms.
template <class V, int N> GRADNETS_INLINE V pairwise(V x, const double (&c)[N]) {
    using T = ScalarOf<V>;
    const V x2 = x * x;
    V even = broadcast<V>(T(c[(N - 1) & ~1])), odd = broadcast<V>(T(c[(N - 2) | 1]));
#pragma GCC unroll 32
    for (int k = ((N - 1) & ~1) - 2; k >= 0; k -= 2)
        even = even * x2 + T(c[k]);
#pragma GCC unroll 32
    for (int k = ((N - 2) | 1) - 2; k >= 1; k -= 2)
        odd = odd * x2 + T(c[k]);
    return even + odd * x;
}

// The coefficients of the precision at hand.
template <class V, int N, int M> GRADNETS_INLINE V minimax(V x, const double (&single)[N], const double (&full)[M]) {
    if constexpr (sizeof(ScalarOf<V>) == 4)
        return polynomial<N>(x, single);
    else
        return pairwise(x, full);
}

// e^x = 2^n·(1 + p), |r| <= ln2/2, p = e^r − 1.
template <class V> struct ReducedExp {
    V p, power; // power = 2^(n + exp_shift)
};

// `remainder` gives r for n: x − n·ln2, in the order that suits x.
template <class V, class F> GRADNETS_INLINE ReducedExp<V> reduce_exp(V x, F remainder) {
    using T = ScalarOf<V>;
    using I = typename Simd<T>::Integers;
    using M = MathConstants<T>;
    // The exponent field of 2^(n + exp_shift) ends up in the low bits, and one shift puts it into place.
    constexpr T magic = M::rounder + T(M::bias + M::exp_shift);
    const V shifted = x * M::log2e + magic;
    const V n = shifted - magic;
    const V r = remainder(n);
    // (e^r − 1 − r)/r² on |r| <= ln2/2: 2^−26.1 and 2^−55.6 in e^r − 1.
    constexpr double single[] = {0.499999982, 0.166665436, 0.0416671999, 0.00836652054, 0.00138825175};
    constexpr double full[] = {0.5000000000000006,    0.16666666666666588,   0.04166666666657675,
                               0.008333333333389556,  0.0013888888931565667, 0.0001984126971899285,
                               2.480150527270616e-05, 2.755740755753256e-06, 2.7626038337046386e-07,
                               2.505377020000212e-08};
    const V p = r + (r * r) * minimax(r, single, full);
    return {p, (V)((I)shifted << M::mantissa)};
}

template <class V> GRADNETS_INLINE ReducedExp<V> reduce_exp(V x) {
    using M = MathConstants<ScalarOf<V>>;
    x = maximum(x, broadcast<V>(M::exp_lowest));
    return reduce_exp(x, [x](V n) { return (x - n * M::ln2_high) - n * M::ln2_low; });
}

// For x <= 64.
template <class V> GRADNETS_INLINE V v_exp_bounded(V x) {
    const ReducedExp<V> e = reduce_exp(x);
    return (e.p * e.power + e.power) * MathConstants<ScalarOf<V>>::exp_scale;
}

// e^64 for greater x.
template <class V> GRADNETS_INLINE V v_exp(V x) {
    return v_exp_bounded(minimum(x, broadcast<V>(ScalarOf<V>(64))));
}

// For x <= 64.
template <class V> GRADNETS_INLINE V v_expm1(V x) {
    const ReducedExp<V> e = reduce_exp(x);
    const V power = e.power * MathConstants<ScalarOf<V>>::exp_scale;
    return power * e.p + (power - ScalarOf<V>(1));
}

// With e^{−2|x|} = 2^n·(1 + 2h) and E = 4·e^{−2|x|}: tanh|x| = (4 − E)/(4 + E).  The factor 4 keeps E normal as long as
// sech² is.
template <class V> struct HyperbolicParts {
    V tanh, E; // of |x|
};

template <class V> GRADNETS_INLINE HyperbolicParts<V> hyperbolic_parts(V x) {
    using T = ScalarOf<V>;
    using I = typename Simd<T>::Integers;
    using M = MathConstants<T>;
    constexpr T magic = M::rounder + T(M::bias + 3), half = T(0.5);
    const V z = maximum((V)((I)x | (I)broadcast<V>(T(-0.0))), broadcast<V>(M::tanh_lowest));
    const V shifted = z * (2 * M::log2e) + magic;
    const V n = shifted - magic;
    const V r = (z - n * (half * M::ln2_high)) - n * (half * M::ln2_low);
    // (e^{2r} − 1 − 2r)/(2r²) on |r| <= ln2/4: 2^−26.1 and 2^−55.6 in h.
    constexpr double single[] = {0.999999964, 0.666661744, 0.333337599, 0.133864329, 0.044424056};
    constexpr double full[] = {1.000000000000001,     0.6666666666666635,    0.333333333332614,
                               0.1333333333342329,    0.044444444581010135,  0.012698412620155424,
                               0.0031745926749063885, 0.0007054696334728336, 0.0001414453162856775,
                               2.5655060684802172e-05};
    const V h = r + (r * r) * minimax(r, single, full);
    const V power = (V)((I)shifted << M::mantissa); // 8·2^n
    const V difference = (T(4) - half * power) - power * h;
    return {difference / (T(8) - difference), power * (h + half)};
}

template <class V> GRADNETS_INLINE V v_tanh(V x) {
    using I = typename Simd<ScalarOf<V>>::Integers;
    // The sign bit of |tanh x| is clear.
    return (V)((I)hyperbolic_parts(x).tanh | ((I)x & (I)broadcast<V>(ScalarOf<V>(-0.0))));
}

// sech²x = 16E/(4 + E)², in which 8/(4 + E) = 1 + tanh|x|: no second division, and the tail keeps its accuracy.
template <class V> GRADNETS_INLINE V v_sech_squared(V x) {
    using T = ScalarOf<V>;
    const HyperbolicParts<V> parts = hyperbolic_parts(x);
    const V mean = T(0.5) * parts.tanh + T(0.5);
    return parts.E * (mean * mean);
}

// For 0 <= x <= 1: 2·artanh(s), s = x/(2+x) <= 1/3.
template <class V> GRADNETS_INLINE V v_log1p(V x) {
    // (artanh(s)/s − 1)/s² on s² <= 1/9: 2^−27.7 and 2^−59.4.
    constexpr double single[] = {0.333332081, 0.200107668, 0.140008433, 0.140063157};
    constexpr double full[] = {0.33333333333333154,  0.20000000000077633, 0.1428571427404889,  0.1111111197748085,
                               0.09090872215338736,  0.07693274733119612, 0.06650553373930256, 0.06052532348894986,
                               0.041722155756568735, 0.08505394071595603};
    const V s = x / (x + ScalarOf<V>(2));
    const V s2 = s * s;
    return ScalarOf<V>(2) * (s + (s * s2) * minimax(s2, single, full));
}

// For x >= 1: x = 2^e·m, √½ <= m < √2, log m = 2·artanh(s), s = (m−1)/(m+1).
template <class V> GRADNETS_INLINE V v_log(V x) {
    using T = ScalarOf<V>;
    using I = typename Simd<T>::Integers;
    using M = MathConstants<T>;
    // (artanh(s)/s − 1)/s² on s² <= (√2−1)²/(√2+1)²: 2^−30.2 and 2^−59.5.
    constexpr double single[] = {0.333333881, 0.199887846, 0.149355375};
    constexpr double full[] = {0.3333333333333367,  0.19999999999708,    0.14285714371052163, 0.11111099300505868,
                               0.09091781473450239, 0.07657042061135093, 0.07397815358856288};
    // With the bits of √½ subtracted, the exponent field is e.  Unsigned, because AVX2 shifts 64 bits only so.
    typedef typename M::Word Unsigned __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    const Unsigned exponent = (Unsigned)((I)x - (I)broadcast<V>(T(0.70710678118654752))) >> M::mantissa;
    const V e = (V)(exponent + (Unsigned)broadcast<V>(M::rounder)) - M::rounder;
    const V m = (V)((Unsigned)x - (exponent << M::mantissa));
    const V s = (m - T(1)) / (m + T(1));
    const V s2 = s * s;
    const V log_m = T(2) * (s + (s * s2) * minimax(s2, single, full));
    // False for infinity and NaN, which are their own logarithms.
    return select(x <= broadcast<V>(M::largest), e * M::ln2_high + (log_m + e * M::ln2_low), x);
}

// With t = 1/|x| beyond 1, where atan|x| = π/2 − atan t.
template <class V> GRADNETS_INLINE V v_atan(V x) {
    using T = ScalarOf<V>;
    // (atan(t)/t − 1)/t² on t² <= 1: 2^−28.5 and 2^−57.6.
    constexpr double single[] = {-0.333332991, 0.199985484,   -0.142642431, 0.109521924,   -0.0840346746,
                                 0.0579578554, -0.0311780812, 0.0109147209, -0.00179364539};
    constexpr double full[] = {
        -0.3333333333333307,   0.19999999999951443,  -0.14285714282574105,    0.11111111006999846,
        -0.09090907002589428,  0.07692279835295017,  -0.06666404029989456,    0.05880527677135485,
        -0.05253518045158774,  0.04722320804785647,  -0.04219175974823138,    0.03664186315094769,
        -0.029903800967176195, 0.021984802556499296, -0.013900528974627811,   0.007196491771812707,
        -0.00288491749144156,  0.000831323069485113, -0.00015216143530255596, 1.3225160256937022e-05};
    constexpr double half_pi = 1.5707963267948966;
    constexpr double rest = sizeof(T) == 4 ? half_pi - double(float(half_pi)) : 6.123233995736766e-17;
    const V a = absolute(x);
    const auto far = a > broadcast<V>(T(1));
    const V t = select(far, broadcast<V>(T(1)) / select(far, a, broadcast<V>(T(1))), a);
    const V t2 = t * t;
    const V near = t + (t * t2) * minimax(t2, single, full);
    return v_copysign(select(far, T(half_pi) - (near - T(rest)), near), x);
}

template <class I> GRADNETS_INLINE bool any_lane(I mask) {
    int64_t words[sizeof(I) / 8], any = 0;
    __builtin_memcpy(words, &mask, sizeof(I));
    for (unsigned i = 0; i < sizeof(I) / 8; ++i)
        any |= words[i];
    return any != 0;
}

// x = n·π/2 + r with |r| <= π/4, and sin r, cos r.
template <class V> struct ReducedAngle {
    V sine, cosine;
    typename Simd<ScalarOf<V>>::Integers n; // mod 4
};

template <class V> GRADNETS_INLINE ReducedAngle<V> reduce_angle(V x) {
    using T = ScalarOf<V>;
    using I = typename Simd<T>::Integers;
    using M = MathConstants<T>;
    const V shifted = x * T(0.63661977236758134) + M::rounder;
    const V n = shifted - M::rounder;
    const V r = (((x - n * M::half_pi[0]) - n * M::half_pi[1]) - n * M::half_pi[2]) - n * M::half_pi[3];
    const V r2 = r * r;
    // (sin(r)/r − 1)/r² and (cos r − 1 + r²/2)/r⁴ on |r| <= π/4: 2^−28 and 2^−57.9 in the sine, 2^−33 and 2^−63.9 in
    // the cosine.
    constexpr double sine_single[] = {-0.166666545, 0.00833215605, -0.000195146316},
                     cosine_single[] = {0.0416666456, -0.00138873099, 2.44324139e-05};
    constexpr double sine_full[] = {-0.1666666666666663,   0.008333333333322005,   -0.00019841269829495503,
                                    2.755731358760724e-06, -2.505074230466374e-08, 1.5895904503432003e-10};
    constexpr double cosine_full[] = {0.041666666666666595,   -0.0013888888888872895, 2.480158728874811e-05,
                                      -2.755731414859631e-07, 2.0875696568366337e-09, -1.1358310254124945e-11};
    // The sum would lose the sign of −0.
    const V sum = r + (r * r2) * minimax(r2, sine_single, sine_full);
    const V sine = (V)((I)sum | ((I)r & (I)broadcast<V>(T(-0.0))));
    const V cosine = (T(1) - T(0.5) * r2) + (r2 * r2) * minimax(r2, cosine_single, cosine_full);
    return {sine, cosine, (I)shifted};
}

// sin(x + quarter_turns·π/2) of a reduced x.
template <class V> GRADNETS_INLINE V turn(const ReducedAngle<V> &x, int quarter_turns) {
    using I = typename Simd<ScalarOf<V>>::Integers;
    const I n = x.n + quarter_turns;
    const V magnitude = select((n & 1) == 0, x.sine, x.cosine);
    return (V)((I)magnitude ^ ((n & 2) << (8 * int(sizeof(ScalarOf<V>)) - 2)));
}

// Lane by lane, for arguments whose reduction needs more of π, and `usual` for the others, lest a result depend on its
// neighbours; out of line, so that the usual case stays small.
#define GRADNETS_PERIODIC(function, quarter_turns)                                                                     \
    template <class V> __attribute__((noinline, cold)) V large_##function(V x, V usual) {                              \
        for (int i = 0; i < Simd<ScalarOf<V>>::lanes; ++i) {                                                           \
            const ScalarOf<V> angle = x[i], limit = MathConstants<ScalarOf<V>>::angle_limit;                           \
            if (!(angle > limit || angle < -limit))                                                                    \
                continue;                                                                                              \
            if constexpr (sizeof(ScalarOf<V>) == 4)                                                                    \
                usual[i] = __builtin_##function##f(angle);                                                             \
            else                                                                                                       \
                usual[i] = __builtin_##function(angle);                                                                \
        }                                                                                                              \
        return usual;                                                                                                  \
    }                                                                                                                  \
    template <class V> GRADNETS_INLINE V v_##function(V x) {                                                           \
        const V usual = turn(reduce_angle(x), quarter_turns);                                                          \
        if (__builtin_expect(any_lane(absolute(x) > broadcast<V>(MathConstants<ScalarOf<V>>::angle_limit)), 0))        \
            return large_##function(x, usual);                                                                         \
        return usual;                                                                                                  \
    }

GRADNETS_PERIODIC(sin, 0)
GRADNETS_PERIODIC(cos, 1)
#undef GRADNETS_PERIODIC

// erfc|x| = e^{−x²}·p(t − ½)/(1 + 9/8·|x|), t = k/(k + |x|): p is flat at 0, where it would multiply the rounding error
// of t.  That of x² would be multiplied by x², so x is split into two parts.
template <class V> GRADNETS_INLINE V v_erfc(V x) {
    using T = ScalarOf<V>;
    using I = typename Simd<T>::Integers;
    using M = MathConstants<T>;
    // e^{x²}·erfc(x)·(1 + 9/8·x) on 0 <= x <= erfc_zero: 2^−26.8 and 2^−56.6.
    constexpr double single[] = {0.803699256,  0.462920997,   0.217695201, -0.271718842, -0.647378812,
                                 -0.533719717, -0.0377490043, 0.263877837, 0.0741171151, -0.122894513};
    constexpr double full[] = {
        0.7534970169378377,    0.38375829911078335,  0.4173636553378577,    0.2684656142942994,
        -0.14660935253432544,  -0.8036816109905941,  -1.511519586730196,    -1.95680014246014,
        -1.8777241772225919,   -1.2702028932463758,  -0.4462267235168792,   0.15877362216707,
        0.3066135146340937,    0.1192681042888394,   -0.08234195649461366,  -0.09950868609484952,
        0.0029517366261350183, 0.05593799724590595,  0.012288737356733102,  -0.030207463110584698,
        -0.006178355774238794, 0.014201496752574365, -0.0030732968187588694};
    const V a = minimum(absolute(x), broadcast<V>(M::erfc_zero));
    const V u = M::erfc_pole / (M::erfc_pole + a) - T(0.5);
    const V high = (V)((I)a & (I{} - (1 << (M::mantissa / 2 + 1))));
    const V minus_rest = (high - a) * (high + a);
    const ReducedExp<V> e =
        reduce_exp(-(a * a), [=](V n) { return ((-(high * high) - n * M::ln2_high) + minus_rest) - n * M::ln2_low; });
    const V scaled = e.power * minimax(u, single, full) / (T(1) + T(1.125) * a);
    // exp_scale last, so that a subnormal result is rounded only once.
    const V right = (scaled + scaled * e.p) * M::exp_scale;
    return select(x < V{}, T(2) - right, right);
}

// Odd polynomial below 1; 1 − e^{−x²}·t·p(t), t = 3/(3 + |x|), beyond.
template <class V> GRADNETS_INLINE V v_erf(V x) {
    using T = ScalarOf<V>;
    constexpr T one = 1, three = 3;
    const V x2 = x * x, a = absolute(x);
    V near, far;
    {
        // erf(x)/x − 1 on x² <= 1: 2^−29.6 and 2^−56.9.
        constexpr double single[] = {0.128379166,   -0.376126258,    0.112835852,   -0.0268538122,
                                     0.00518832819, -0.000801019826, 7.85387753e-05};
        constexpr double full[] = {0.12837916709551256,     -0.3761263890318352,     0.11283791670944185,
                                   -0.02686617064311144,    0.005223977606118201,    -0.0008548325929299106,
                                   0.00012055293576377275,  -1.4924712290816286e-05, 1.6447131419811136e-06,
                                   -1.6206312501557555e-07, 1.3710974567312202e-08,  -7.779456921831154e-10};
        near = x + x * minimax(x2, single, full);
    }
    {
        // e^{x²}·erfc(x)/t on 1 <= x <= 4 and 1 <= x <= 6, weighted for erf: 2^−28.1 and 2^−59.4.
        constexpr double single[] = {0.22114963, -0.0625107413, 0.928552702, -0.936631142, 0.849146372};
        constexpr double full[] = {0.1880683086058385, 0.18789848456641867,  0.17971074317010574, 0.14177395330729864,
                                   0.1955551654641502, -0.12232698510000337, 0.5314269092525464,  -0.7161958582471754,
                                   0.808680871349949,  -0.5749994591755612,  0.21222001553474296, -0.03181219382144397};
        const V t = broadcast<V>(three) / (three + a);
        far = one - v_exp_bounded(-x2) * (t * minimax(t, single, full));
    }
    return select(a < broadcast<V>(one), near, v_copysign(far, x));
}

} // namespace gradnets::GRADNETS_ISA
