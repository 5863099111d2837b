// Divergence and Jacobian of the module family.
//   softmax:      s = τ (p π + q ω),  strips π and ω with c = −τp and −τq
//   transformed:  s = w ρ' σ',        strip σ with c = w ρ''
#pragma once

#include "jacobian.h"
#include "modules_potential.h"
#include "modules_second.h"

namespace gradnets::GRADNETS_ISA {

// v = u + b (in place), s, strips and c of a row.
template <class T> inline void softmax_jacobian(const Module<T> &m, T *v, T *s, T *pi, T *omega, T *c_pi, T *c_omega) {
    const T positive = m.temperature * m.positive, negative = m.temperature * m.negative;
    softmax_strip(v, m.temperature, m.h, m.width, pi);
    *c_pi = -positive;
    if (!m.two_signs) {
        for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
            store(s + j, positive * load(pi + j));
        return;
    }
    softmax_strip(v, -m.temperature, m.h, m.width, omega);
    *c_omega = -negative;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        store(s + j, positive * load(pi + j) + negative * load(omega + j));
}

// Through one softmax of sign·τ·v whose strip in S has the weight w: with α = τ w q + a, dz += sign·π(α − π·α).
// Returns Σ π q − e, the derivative of S in τ w.
template <class T>
inline T softmax_jacobian_backward(const Module<T> &m, T sign, T weight, const T *pi, const T *q, const T *along,
                                   T in_c, T *dz) {
    using V = typename Simd<T>::Vector;
    const T factor = m.temperature * weight;
    V q_sum = {}, a_sum = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        q_sum += load(pi + j) * load(q + j);
        a_sum += load(pi + j) * load(along + j);
    }
    const T q_mean = horizontal_sum<T>(q_sum), mean = factor * q_mean + horizontal_sum<T>(a_sum);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V in_pi = factor * load(q + j) + load(along + j);
        store(dz + j, load(dz + j) + sign * load(pi + j) * (in_pi - mean));
    }
    return q_mean - in_c;
}

template <class S> struct ModulesJacobian : ModulesMiddle<S> {
    using T = Sum<S>;
    using V = typename Simd<T>::Vector;

    void value(const JacobianTile<T> &tile) const {
        const Module<T> module = this->module_of(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            const int64_t at = i * tile.stride;
            add_shift(module, tile.u + at);
            if (this->problem->basis == kSoftmax)
                softmax_jacobian(module, tile.u + at, tile.s + at, tile.strip[0] + at, tile.strip[1] + at,
                                 tile.c[0] + i, tile.c[1] + i);
            else
                transformed_value(module, tile, i);
        }
    }

    void gradient(const JacobianTile<T> &tile) const {
        const Module<T> module = this->module_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        ModuleSums<T> sums = this->zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const q = const_cast<T *>(tile.q) + i * tile.stride;
            fill_zero(q + module.h, module.width - module.h); // a non-finite G times the padding of W is NaN
            this->problem->basis == kSoftmax ? softmax_gradient_of(module, tile, i, sums, strips)
                                             : transformed_gradient_of(module, tile, i, sums, strips);
        }
        this->add_sums(tile, sums);
    }

  private:
    void transformed_value(const Module<T> &m, const JacobianTile<T> &tile, int64_t i) const {
        T *const s = tile.s + i * tile.stride, *const sigma = tile.strip[0] + i * tile.stride;
        __builtin_memcpy(sigma, tile.u + i * tile.stride, size_t(m.width) * sizeof(T));
        const auto rho = transform_at<T>(m.transform, basis_sum(m, sigma, s));
        for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
            store(s + j, (m.positive * rho.first) * load(s + j));
        tile.c[0][i] = m.positive * rho.second;
    }

    // v becomes ∂S/∂u.
    void softmax_gradient_of(const Module<T> &m, const JacobianTile<T> &tile, int64_t i, ModuleSums<T> &sums,
                             T *dz) const {
        const int64_t at = i * tile.stride;
        T *const v = tile.u + at;
        fill_zero(dz, m.width);
        const T in_positive = softmax_jacobian_backward(m, T(1), m.positive, tile.strip[0] + at, tile.q + at,
                                                        tile.along[0] + at, tile.in_c[0][i], dz);
        sums.positive += double(m.temperature * in_positive);
        sums.temperature += double(m.positive * in_positive);
        if (m.two_signs) {
            const T in_negative = softmax_jacobian_backward(m, T(-1), m.negative, tile.strip[1] + at, tile.q + at,
                                                            tile.along[1] + at, tile.in_c[1][i], dz);
            sums.negative += double(m.temperature * in_negative);
            sums.temperature += double(m.negative * in_negative);
        }
        sums.temperature += double(dot(dz, v, m.width));
        for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
            const V du = m.temperature * load(dz + j);
            store(v + j, du);
            store(sums.db + j, load(sums.db + j) + du);
        }
    }

    // z becomes ∂S/∂u.
    void transformed_gradient_of(const Module<T> &m, const JacobianTile<T> &tile, int64_t i, ModuleSums<T> &sums,
                                 T *scratch) const {
        const int64_t at = i * tile.stride;
        T *const z = tile.u + at, *const first = scratch, *const second = scratch + m.width;
        const T *const q = tile.q + at, *const along = tile.along[0] + at, in_c = tile.in_c[0][i];
        const T weight = m.positive;
        const double total = basis_second(m, z, first, second);
        const auto rho = transform_at<T>(m.transform, total);
        const T along_slope = dot(first, q, m.width);
        sums.positive += double(rho.first * along_slope + rho.second * in_c);
        const T through_sum = weight * (rho.second * along_slope + transform_third<T>(m.transform, total) * in_c);
        for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
            const V dz = (weight * rho.first) * load(second + j) * load(q + j) + load(along + j) * load(first + j) +
                         through_sum * load(z + j);
            store(z + j, dz);
            store(sums.db + j, load(sums.db + j) + dz);
        }
    }
};

template <class S> bool modules_jacobian(const Modules<S> &p) {
    using T = Sum<S>;
    Jacobian<S> jacobian{};
    jacobian.batch = p.batch;
    jacobian.d = p.d;
    jacobian.hidden = p.h * p.count;
    jacobian.block = p.h;
    jacobian.points = &p.points;
    jacobian.W = p.W;
    jacobian.dW = p.dW;
    jacobian.strips = p.negative ? 2 : 1;
    jacobian.early = true;
    const int64_t most = module_rows<T>(p.h, jacobian.backward() ? 7 : 4);
    jacobian.most_rows = jacobian.traces() ? most : smaller(most, Tile<T>::rows);
    jacobian.flops = double(p.batch) * double(jacobian.hidden) * (jacobian_flops(jacobian) + 60.0);
    jacobian.sums = ModulesMiddle<S>::sums(p.count, p.h);
    jacobian.scratch = ModulesMiddle<S>::scratch_bytes(p.h);
    jacobian.threads = p.threads;
    JacobianRun<S, ModulesJacobian<S>> run(jacobian, {{&p}});
    return run.run();
}

template <class P, class S> inline bool modules_by(const Modules<S> &p) {
    switch (p.quantity) {
    case Quantity::value:
    case Quantity::value_and_potential:
        return modules_on_pipeline<P, S>(p);
    case Quantity::potential:
        return modules_potential_on_pipeline<P, S>(p);
    default:
        return modules_second_on_pipeline<P, S>(p);
    }
}

template <class S> bool modules(const Modules<S> &p) {
    if (p.quantity == Quantity::divergence || p.quantity == Quantity::jacobian)
        return modules_jacobian(p);
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<float>(p.batch, p.d))
            return modules_by<Pairs, S>(p);
#endif
    return modules_by<Plain<Sum<S>>, S>(p);
}

} // namespace gradnets::GRADNETS_ISA
