// The module family's second order on the pipeline: S = <g, J(x) v> of rows of one module, a = W g, p = W v.
//   softmax:      S = τ Σ_± w_± c(π_±),  c = Σ_j π_j (a_j − π·a)(p_j − π·p),  ∂c/∂z_j = π_j [(a_j − π·a)(p_j − π·p) −
//   c] transformed:  S = w [ρ'' (σ·a)(σ·p) + ρ' Σ_j σ'_j a_j p_j]
#pragma once

#include "modules.h"

namespace gradnets::GRADNETS_ISA {

// The covariance of a and p under one softmax.
template <class T> struct SoftmaxPair {
    const T *pi;
    T a_mean, p_mean, covariance;
};

template <class T>
inline SoftmaxPair<T> softmax_pair(const T *v, T factor, const Module<T> &m, const T *a, const T *p, T *pi) {
    using V = typename Simd<T>::Vector;
    softmax_strip(v, factor, m.h, m.width, pi);
    SoftmaxPair<T> pair{pi, dot(a, pi, m.width), dot(p, pi, m.width), 0};
    V sum = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        sum += load(pi + j) * ((load(a + j) - pair.a_mean) * (load(p + j) - pair.p_mean));
    pair.covariance = horizontal_sum<T>(sum);
    return pair;
}

// v becomes ∂S/∂v, a becomes ∂S/∂a and p ∂S/∂p; the parameters' gradients are added to sums.  scratch: two strips.
template <class T> inline void softmax_second(const Module<T> &m, T *v, T *a, T *p, ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    const T temperature = m.temperature;
    const SoftmaxPair<T> plus = softmax_pair(v, temperature, m, a, p, scratch);
    SoftmaxPair<T> minus{scratch + m.width, 0, 0, 0};
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
        const V dz =
            temperature * (pi * (a_plus * p_plus - plus.covariance) - omega * (a_minus * p_minus - minus.covariance));
        dtemperature += dz * load(v + j);
        store(v + j, temperature * dz);
        store(a + j, temperature * (pi * p_plus + omega * p_minus));
        store(p + j, temperature * (pi * a_plus + omega * a_minus));
        store(sums.db + j, load(sums.db + j) + temperature * dz);
    }
    sums.temperature +=
        double(horizontal_sum<T>(dtemperature)) + double(positive * plus.covariance + negative * minus.covariance);
}

// ρ'''(t)
template <class T> inline T transform_third(int transform, double t) {
    switch (transform) {
    case 2: { // log(1 + e^t): σ(1 − σ)(1 − 2σ)
        const double e = __builtin_exp(-__builtin_fabs(t));
        return T((t < 0 ? 1.0 : -1.0) * e * (1.0 - e) / ((1.0 + e) * (1.0 + e) * (1.0 + e)));
    }
    case 3: // log cosh t: −2 tanh·sech²
        return T(-2.0 * __builtin_tanh(t)) * transform_at<T>(transform, t).second;
    case 4: // e^t
        return T(__builtin_exp(t));
    case 5: // log t
        return T(2.0 / (t * t * t));
    default:
        return T(0);
    }
}

// z becomes σ(z); first becomes σ'(z) and second σ''(z); all 0 past the last hidden unit.  Returns Σ_j Ψ(z_j).
template <class T> inline double basis_second(const Module<T> &m, T *z, T *first, T *second) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    with_basis(m.basis, [&](auto b) {
        for (int64_t j = 0; j < m.width; j += lanes) {
            V value, slope, bend;
            b.value_first_second(load(z + j), value, slope, bend);
            store(first + j, slope);
            store(second + j, bend);
        }
    });
    const double total = basis_sum(m, z, (T *)nullptr);
    fill_zero(first + m.h, m.width - m.h);
    fill_zero(second + m.h, m.width - m.h);
    return total;
}

// As softmax_second.
template <class T>
inline void transformed_second(const Module<T> &m, T *z, T *a, T *p, ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    T *const first = scratch, *const second = scratch + m.width;
    const double total = basis_second(m, z, first, second);
    const auto rho = transform_at<T>(m.transform, total);
    const T third = transform_third<T>(m.transform, total), weight = m.positive;
    const T a_sigma = dot(a, z, m.width), p_sigma = dot(p, z, m.width);
    V along = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        along += load(first + j) * (load(a + j) * load(p + j));
    const T along_slope = horizontal_sum<T>(along);
    sums.positive += double(rho.second * (a_sigma * p_sigma) + rho.first * along_slope);
    const T through_sum = third * (a_sigma * p_sigma) + rho.second * along_slope;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V value = load(z + j), slope = load(first + j), here_a = load(a + j), here_p = load(p + j);
        const V dz = weight * (through_sum * value + rho.second * slope * (here_a * p_sigma + here_p * a_sigma) +
                               rho.first * load(second + j) * (here_a * here_p));
        store(z + j, dz);
        store(a + j, weight * (rho.second * p_sigma * value + rho.first * slope * here_p));
        store(p + j, weight * (rho.second * a_sigma * value + rho.first * slope * here_a));
        store(sums.db + j, load(sums.db + j) + dz);
    }
}

template <class S> struct ModulesSecond : ModulesMiddle<S> {
    using T = Sum<S>;

    void operator()(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *this->problem;
        const Module<T> module = this->module_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        ModuleSums<T> sums = this->zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const z = tile.u + i * tile.stride, *const a = tile.a + i * tile.stride,
                     *const along = tile.p + i * tile.stride;
            add_shift(module, z);
            fill_zero(a + module.h, module.width - module.h); // a non-finite g or v times the padding of W is NaN
            fill_zero(along + module.h, module.width - module.h);
            p.basis == kSoftmax ? softmax_second(module, z, a, along, sums, strips)
                                : transformed_second(module, z, a, along, sums, strips);
        }
        this->add_sums(tile, sums);
    }
};

template <class P, class S> inline bool modules_second_on_pipeline(const Modules<S> &p) {
    using T = Sum<S>;
    const double flops = (16.0 * p.d + 60.0) * double(p.batch) * double(p.h * p.count);
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h * p.count,
                               p.h,
                               module_rows<T>(p.h, 3),
                               p.points,
                               p.W,
                               nullptr,
                               p.dW,
                               nullptr,
                               false,
                               true,
                               flops,
                               ModulesMiddle<S>::sums(p.count, p.h),
                               ModulesMiddle<S>::scratch_bytes(p.h),
                               p.threads};
    return run_pipeline<P, S>(pipeline, ModulesSecond<S>{{&p}});
}

} // namespace gradnets::GRADNETS_ISA
