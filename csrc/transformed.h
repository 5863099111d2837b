// Transformed modules: f = Σ_m W_mᵀ s(z),  z = W x + b,  s = w ρ'(Σ_j Ψ(z_j)) σ(z),  Ψ' = σ.  On one row of one module,
// z in place of u = W x:
//   value:      F = w ρ(Σ_j Ψ(z_j)),  ∂F/∂z = s
//   jvp:        S = w [ρ'' (σ·a)(σ·p) + ρ' Σ_j σ'_j a_j p_j]
//   Jacobian:   s = w ρ' σ',  strip σ with c = w ρ''
// Derivatives of ρ = log overflow long before the sum underflows.  Each is multiplied by as many of σ, σ' and σ'' as
// its order: with a unit k(t), kⁿ ρ⁽ⁿ⁾ meets σ/k.
#pragma once

#include "activations_gen.h"
#include "jacobian.h"
#include "module.h"

namespace gradnets::GRADNETS_ISA {

// ρ(t)
template <class T> inline T transform_value(int transform, double t) {
    double value = 0;
    with_transform(transform, [&](auto rho) { rho.value(t, value); });
    return T(value);
}

// k ρ'(t), k² ρ''(t) and k³ ρ'''(t), and 1/k
template <class T> struct TransformDerivatives {
    T first, second, third, scale;
};

template <class T> inline TransformDerivatives<T> transform_derivatives(int transform, double t) {
    double first = 0, second = 0, third = 0, unit = 1;
    with_transform(transform, [&](auto rho) { rho.derivatives(t, first, second, third, unit); });
    return {T(first), T(second), T(third), T(1 / unit)};
}

// Σ_j Ψ(z_j) over the real hidden units, to more than T's precision, for ρ = exp makes its error a relative one; z
// becomes σ(z) and, if needed, slope σ'(z).
template <class T> __attribute__((noinline)) double basis_sum(const Module<T> &m, T *z, T *slope) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const V infinity = broadcast<V>(T(__builtin_inf()));
    V sums = {}, lost = {};
    with_basis(m.basis, [&](auto b) {
        for (int64_t j = 0; j < m.width; j += lanes) {
            V antiderivative, value, first;
            b.antiderivative(load(z + j), antiderivative);
            b.value_first(load(z + j), value, first);
            store(z + j, value);
            if (slope)
                store(slope + j, first);
            for (int64_t i = m.h - j; i < lanes; ++i)
                antiderivative[i] = 0;
            // What rounding loses of the smaller summand; of an infinite sum there is nothing to mend.
            const V total = sums + antiderivative, swallowed = total - sums;
            const V error = (sums - (total - swallowed)) + (antiderivative - swallowed);
            lost += select(absolute(total) < infinity, error, V{});
            sums = total;
        }
    });
    fill_zero(z + m.h, m.width - m.h);
    double total = 0;
    for (int i = 0; i < lanes; ++i)
        total += double(sums[i]) + double(lost[i]);
    return total;
}

// z becomes s(z); returns F.
template <class T> __attribute__((noinline)) T transformed_value(const Module<T> &m, T *z) {
    const double total = basis_sum(m, z, (T *)nullptr);
    const auto rho = transform_derivatives<T>(m.transform, total);
    const T factor = m.positive * rho.first * rho.scale;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        store(z + j, load(z + j) * factor);
    return m.positive * transform_value<T>(m.transform, total);
}

// z becomes (∂s/∂z)ᵀ a + potential_weight·∂F/∂z, a becomes s(z) = ∂F/∂z.
template <class T>
__attribute__((noinline)) void transformed_gradient(const Module<T> &m, T potential_weight, T *z, T *a,
                                                    ModuleSums<T> &sums, T *slope) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + m.h, m.width - m.h);
    const double total = basis_sum(m, z, slope);
    const auto rho = transform_derivatives<T>(m.transform, total);
    if (potential_weight != 0) // else 0 times an infinite sum
        sums.positive += double(potential_weight * transform_value<T>(m.transform, total));
    const T weight = m.positive, a_sigma = rho.scale * dot(a, z, m.width);
    sums.positive += double(rho.first * a_sigma);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V value = rho.scale * load(z + j), first = rho.scale * load(slope + j);
        const V here = value * (weight * rho.first);
        const V dz =
            weight * (rho.first * load(a + j) * first + rho.second * a_sigma * value) + potential_weight * here;
        store(z + j, dz);
        store(a + j, here);
        store(sums.db + j, load(sums.db + j) + dz);
    }
}

// z becomes weight·∂F/∂z, and the parameters' gradients are added to sums; returns F.
template <class T> inline T transformed_potential(const Module<T> &m, T weight, T *z, ModuleSums<T> &sums) {
    const double total = basis_sum(m, z, (T *)nullptr);
    const T F = transform_value<T>(m.transform, total);
    const auto rho = transform_derivatives<T>(m.transform, total);
    const T factor = weight * m.positive * rho.first * rho.scale;
    sums.positive += double(weight * F);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        store(z + j, factor * load(z + j));
        store(sums.db + j, load(sums.db + j) + load(z + j));
    }
    return m.positive * F;
}

// z becomes σ(z)/k; first becomes σ'(z)/k and second σ''(z)/k; all 0 past the last hidden unit.
template <class T> inline TransformDerivatives<T> scaled_basis(const Module<T> &m, T *z, T *first, T *second) {
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
    const auto rho = transform_derivatives<T>(m.transform, basis_sum(m, z, (T *)nullptr));
    T *const strips[] = {z, first, second};
    for (T *const strip : strips) {
        for (int64_t j = 0; j < m.h; j += lanes)
            store(strip + j, rho.scale * load(strip + j));
        fill_zero(strip + m.h, m.width - m.h);
    }
    return rho;
}

// z becomes ∂S/∂z, a becomes ∂S/∂a and p ∂S/∂p; the parameters' gradients are added to sums.  scratch: two strips.
template <class T> inline void transformed_jvp(const Module<T> &m, T *z, T *a, T *p, ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    T *const first = scratch, *const second = scratch + m.width;
    const auto rho = scaled_basis(m, z, first, second);
    const T weight = m.positive;
    const T a_sigma = dot(a, z, m.width), p_sigma = dot(p, z, m.width);
    V along = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        along += load(first + j) * (load(a + j) * load(p + j));
    const T along_slope = horizontal_sum<T>(along);
    sums.positive += double(rho.second * (a_sigma * p_sigma) + rho.first * along_slope);
    const T through_sum = rho.third * (a_sigma * p_sigma) + rho.second * along_slope;
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

// s, the strip and c of row i from z.
template <class T> inline void transformed_jacobian(const Module<T> &m, const JacobianTile<T> &tile, int64_t i) {
    T *const s = tile.s + i * tile.stride, *const sigma = tile.strip[0] + i * tile.stride;
    __builtin_memcpy(sigma, tile.u + i * tile.stride, size_t(m.width) * sizeof(T));
    const auto rho = transform_derivatives<T>(m.transform, basis_sum(m, sigma, s));
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        store(s + j, (m.positive * rho.first * rho.scale) * load(s + j));
        store(sigma + j, rho.scale * load(sigma + j));
    }
    tile.c[0][i] = m.positive * rho.second;
}

// z becomes ∂S/∂u of row i; the parameters' gradients are added to sums.  scratch: two strips.
template <class T>
inline void transformed_jacobian_gradient(const Module<T> &m, const JacobianTile<T> &tile, int64_t i,
                                          ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    const int64_t at = i * tile.stride;
    T *const z = tile.u + at, *const first = scratch, *const second = scratch + m.width;
    const T *const q = tile.q + at, *const along = tile.along[0] + at, in_c = tile.in_c[0][i];
    const T weight = m.positive;
    const auto rho = scaled_basis(m, z, first, second);
    const T along_slope = dot(first, q, m.width);
    sums.positive += double(rho.first * along_slope + rho.second * in_c);
    const T through_sum = weight * (rho.second * along_slope + rho.third * in_c);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V dz = (weight * rho.first) * load(second + j) * load(q + j) + load(along + j) * load(first + j) +
                     through_sum * load(z + j);
        store(z + j, dz);
        store(sums.db + j, load(sums.db + j) + dz);
    }
}

} // namespace gradnets::GRADNETS_ISA
