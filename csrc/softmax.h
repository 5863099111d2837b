// Softmax modules: f = Σ_m W_mᵀ s(v),  v = W x + b,  s = p π − q ω,  π = softmax(τ v),  ω = softmax(−τ v).  On one row
// of one module, v in place of u = W x:
//   value:      F = (p LSE(τ v) + q LSE(−τ v))/τ,  ∂F/∂v = s,  ∂F/∂τ = (v·s − F)/τ
//   jvp:        S = τ Σ_± w_± c(π_±),  c = Σ_j π_j (a_j − π·a)(p_j − π·p),
//               ∂c/∂z_j = π_j [(a_j − π·a)(p_j − π·p) − c]
//   Jacobian:   s = τ (p π + q ω),  strips π and ω with c = −τ p and −τ q
// Everything is relative to the v with the largest exponential: where one unit has all of π, its exponential is exactly
// 1, and its share of a covariance exactly 0, whatever the size of v.
#pragma once

#include "jacobian.h"
#include "module.h"
#include "simd_math.h"

namespace gradnets::GRADNETS_ISA {

// The v_j with the largest factor·v_j, of the first h.
template <class T> inline T peak_of(const T *v, T factor, int64_t h) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const T sign = factor < 0 ? T(-1) : T(1);
    T top = sign * v[0];
    int64_t j = 0;
    if (h >= lanes) {
        V tops = load(v) * sign;
        for (j = lanes; j + lanes <= h; j += lanes) {
            const V here = load(v + j) * sign;
            tops = select(here > tops, here, tops);
        }
        for (int i = 0; i < lanes; ++i)
            top = tops[i] > top ? tops[i] : top;
    }
    for (; j < h; ++j)
        top = sign * v[j] > top ? sign * v[j] : top;
    return sign * top;
}

// log Σ exp(factor·v) = factor·peak + log
template <class T> struct LogSum {
    T peak, log;
};

// What stands for the logarithm beside an infinite peak: 0, or NaN where there is one.
template <class T> __attribute__((noinline, cold)) T infinite_log(const T *v, int64_t h) {
    for (int64_t j = 0; j < h; ++j)
        if (__builtin_isnan(v[j]))
            return v[j];
    return T(0);
}

// out = softmax(factor·v) over the first h values of a strip, and 0 after them.
template <class T>
__attribute__((noinline)) LogSum<T> softmax_strip(const T *v, T factor, int64_t h, int64_t width, T *out) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const T peak = peak_of(v, factor, h);
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, v_exp((load(v + j) - peak) * factor));
    fill_zero(out + h, width - h);
    V sums = {};
    for (int64_t j = 0; j < width; j += lanes)
        sums += load(out + j);
    const T total = horizontal_sum<T>(sums), scale = T(1) / total;
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, load(out + j) * scale);
    if (__builtin_expect(__builtin_isinf(peak), 0))
        return {peak, infinite_log(v, h)};
    return {peak, T(__builtin_log(double(total)))};
}

// Those of temperature·v and −temperature·v, the latter 0 where it is not needed.
template <class T> struct LogSums {
    LogSum<T> plus, minus;

    T of_positive(const Module<T> &m) const { return plus.peak + plus.log / m.temperature; }
    T of_negative(const Module<T> &m) const { return minus.log / m.temperature - minus.peak; }
    T potential(const Module<T> &m) const {
        return m.two_signs ? m.positive * of_positive(m) + m.negative * of_negative(m) : m.positive * of_positive(m);
    }

    // The gradients of weight·F: of the weights, and of the temperature with along = v·∂F/∂v, v relative to the peaks.
    void add_gradients(const Module<T> &m, T weight, T along, ModuleSums<T> &sums) const {
        sums.positive += double(weight * of_positive(m));
        sums.negative += double(weight * of_negative(m));
        const T logs = (m.positive * plus.log + m.negative * minus.log) / m.temperature;
        sums.temperature += double(weight * (along - logs) / m.temperature);
    }
};

// softmax(temperature·v) and softmax(−temperature·v), 0 where it is not needed.
template <class T> inline LogSums<T> both_softmax(const Module<T> &m, const T *v, T *pi, T *omega) {
    const LogSum<T> plus = softmax_strip(v, m.temperature, m.h, m.width, pi);
    if (m.two_signs)
        return {plus, softmax_strip(v, -m.temperature, m.h, m.width, omega)};
    fill_zero(omega, m.width);
    return {plus, {T(0), T(0)}};
}

// v becomes s(temperature·v); returns F.  scratch: two strips.
template <class T> __attribute__((noinline)) T softmax_value(const Module<T> &m, T *v, T *scratch) {
    T *pi = scratch, *omega = scratch + m.width;
    const auto sums = both_softmax(m, v, pi, omega);
    const T positive = m.positive, negative = m.negative;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        store(v + j, load(pi + j) * positive - load(omega + j) * negative);
    return sums.potential(m);
}

// v becomes (∂s/∂v)ᵀ a + weight·∂F/∂v, a becomes s(temperature·v) = ∂F/∂v; the parameters' gradients are added to sums.
// scratch: two strips.
// The temperature's gradient is made from v itself, not from temperature·v over a temperature that may have
// underflowed.
template <class T>
__attribute__((noinline)) void softmax_gradient(const Module<T> &m, T weight, T *v, T *a, ModuleSums<T> &sums,
                                                T *scratch) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + m.h, m.width - m.h); // a non-finite g times the padding of W is NaN
    T *pi = scratch, *omega = scratch + m.width;
    const auto log_sums = both_softmax(m, v, pi, omega);
    const T a_pi = dot(a, pi, m.width), a_omega = m.two_signs ? dot(a, omega, m.width) : T(0);
    const T positive = m.positive, negative = m.negative, temperature = m.temperature;
    sums.positive += double(a_pi);
    sums.negative -= double(a_omega);
    V dtemperature = {}, along = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V p = positive * load(pi + j), q = negative * load(omega + j), here = load(a + j);
        const V from_plus = load(v + j) - log_sums.plus.peak, from_minus = load(v + j) - log_sums.minus.peak;
        const V dz_plus = p * (here - a_pi), dz_minus = q * (here - a_omega);
        const V slope = p - q, dv = temperature * (dz_plus + dz_minus) + weight * slope;
        dtemperature += dz_plus * from_plus + dz_minus * from_minus;
        along += p * from_plus - q * from_minus;
        store(a + j, slope);
        store(v + j, dv);
        store(sums.db + j, load(sums.db + j) + dv);
    }
    sums.temperature += double(horizontal_sum<T>(dtemperature));
    if (weight != 0) // else 0 times an infinite sum
        log_sums.add_gradients(m, weight, horizontal_sum<T>(along), sums);
}

// v becomes weight·∂F/∂v, and the parameters' gradients are added to sums; returns F.  scratch: two strips.
template <class T> inline T softmax_potential(const Module<T> &m, T weight, T *v, ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    T *const pi = scratch, *const omega = scratch + m.width;
    const auto log_sums = both_softmax(m, v, pi, omega);
    V moment = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V p = m.positive * load(pi + j), q = m.negative * load(omega + j), slope = p - q;
        moment += p * (load(v + j) - log_sums.plus.peak) - q * (load(v + j) - log_sums.minus.peak);
        store(v + j, weight * slope);
        store(sums.db + j, load(sums.db + j) + weight * slope);
    }
    log_sums.add_gradients(m, weight, horizontal_sum<T>(moment), sums);
    return log_sums.potential(m);
}

// The covariance of a and p under one softmax.
template <class T> struct SoftmaxPair {
    const T *pi;
    T peak, a_mean, p_mean, covariance;
};

template <class T>
inline SoftmaxPair<T> softmax_pair(const T *v, T factor, const Module<T> &m, const T *a, const T *p, T *pi) {
    using V = typename Simd<T>::Vector;
    const T peak = softmax_strip(v, factor, m.h, m.width, pi).peak;
    SoftmaxPair<T> pair{pi, peak, dot(a, pi, m.width), dot(p, pi, m.width), 0};
    V sum = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        sum += load(pi + j) * ((load(a + j) - pair.a_mean) * (load(p + j) - pair.p_mean));
    pair.covariance = horizontal_sum<T>(sum);
    return pair;
}

// v becomes ∂S/∂v, a becomes ∂S/∂a and p ∂S/∂p; the parameters' gradients are added to sums.  scratch: two strips.
template <class T> inline void softmax_jvp(const Module<T> &m, T *v, T *a, T *p, ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    const T temperature = m.temperature;
    const SoftmaxPair<T> plus = softmax_pair(v, temperature, m, a, p, scratch);
    SoftmaxPair<T> minus{scratch + m.width, 0, 0, 0, 0};
    if (m.two_signs)
        minus = softmax_pair(v, -temperature, m, a, p, scratch + m.width);
    else
        fill_zero(scratch + m.width, m.width);
    const T positive = m.positive, negative = m.negative;
    sums.positive += double(temperature * plus.covariance);
    sums.negative += double(temperature * minus.covariance);
    V dtemperature = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V here_a = load(a + j), here_p = load(p + j);
        const V pi = positive * load(plus.pi + j), omega = negative * load(minus.pi + j);
        const V a_plus = here_a - plus.a_mean, p_plus = here_p - plus.p_mean;
        const V a_minus = here_a - minus.a_mean, p_minus = here_p - minus.p_mean;
        const V dz_plus = temperature * pi * (a_plus * p_plus - plus.covariance);
        const V dz_minus = temperature * omega * (a_minus * p_minus - minus.covariance), dz = dz_plus - dz_minus;
        dtemperature += dz_plus * (load(v + j) - plus.peak) - dz_minus * (load(v + j) - minus.peak);
        store(v + j, temperature * dz);
        store(a + j, temperature * (pi * p_plus + omega * p_minus));
        store(p + j, temperature * (pi * a_plus + omega * a_minus));
        store(sums.db + j, load(sums.db + j) + temperature * dz);
    }
    sums.temperature +=
        double(horizontal_sum<T>(dtemperature)) + double(positive * plus.covariance + negative * minus.covariance);
}

// s, the strips and c of row i from v.
template <class T> inline void softmax_jacobian(const Module<T> &m, const JacobianTile<T> &tile, int64_t i) {
    const T positive = m.temperature * m.positive, negative = m.temperature * m.negative;
    const int64_t at = i * tile.stride;
    const T *const v = tile.u + at;
    T *const s = tile.s + at, *const pi = tile.strip[0] + at;
    softmax_strip(v, m.temperature, m.h, m.width, pi);
    tile.c[0][i] = -positive;
    if (!m.two_signs) {
        for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
            store(s + j, positive * load(pi + j));
        return;
    }
    T *const omega = tile.strip[1] + at;
    softmax_strip(v, -m.temperature, m.h, m.width, omega);
    tile.c[1][i] = -negative;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        store(s + j, positive * load(pi + j) + negative * load(omega + j));
}

// The derivatives of S in τ w and, through one softmax of sign·τ·v whose strip in S has the weight w, in τ.
template <class T> struct SoftmaxStripGradient {
    T of_weight, of_temperature;
};

// With α = τ w q + a, dz += sign·π(α − π·α).  The derivative in τ w is Σ π q − e.
template <class T>
inline SoftmaxStripGradient<T> softmax_strip_backward(const Module<T> &m, T sign, T weight, const T *v, const T *pi,
                                                      const T *q, const T *along, T in_c, T *dz) {
    using V = typename Simd<T>::Vector;
    const T factor = m.temperature * weight;
    V q_sum = {}, pi_sum = {}, v_sum = {}, moment = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V here = load(pi + j);
        q_sum += here * load(q + j);
        pi_sum += here * (factor * load(q + j) + load(along + j));
        v_sum += here * load(v + j);
    }
    const T mean = horizontal_sum<T>(pi_sum), v_mean = horizontal_sum<T>(v_sum);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V in_pi = factor * load(q + j) + load(along + j);
        const V here = sign * load(pi + j) * (in_pi - mean);
        moment += here * (load(v + j) - v_mean); // the sum of `here` is 0
        store(dz + j, load(dz + j) + here);
    }
    return {horizontal_sum<T>(q_sum) - in_c, horizontal_sum<T>(moment)};
}

// v becomes ∂S/∂u of row i; the parameters' gradients are added to sums.  dz: a strip.
template <class T>
inline void softmax_jacobian_gradient(const Module<T> &m, const JacobianTile<T> &tile, int64_t i, ModuleSums<T> &sums,
                                      T *dz) {
    using V = typename Simd<T>::Vector;
    const int64_t at = i * tile.stride;
    T *const v = tile.u + at;
    fill_zero(dz, m.width);
    const auto plus = softmax_strip_backward(m, T(1), m.positive, v, tile.strip[0] + at, tile.q + at,
                                             tile.along[0] + at, tile.in_c[0][i], dz);
    sums.positive += double(m.temperature * plus.of_weight);
    sums.temperature += double(m.positive * plus.of_weight) + double(plus.of_temperature);
    if (m.two_signs) {
        const auto minus = softmax_strip_backward(m, T(-1), m.negative, v, tile.strip[1] + at, tile.q + at,
                                                  tile.along[1] + at, tile.in_c[1][i], dz);
        sums.negative += double(m.temperature * minus.of_weight);
        sums.temperature += double(m.negative * minus.of_weight) + double(minus.of_temperature);
    }
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V du = m.temperature * load(dz + j);
        store(v + j, du);
        store(sums.db + j, load(sums.db + j) + du);
    }
}

} // namespace gradnets::GRADNETS_ISA
