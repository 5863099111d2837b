// The module family's potential on the pipeline, S = Σ_rows weight·F, without the bias's part:
//   softmax:      F = (p LSE(τv) + q LSE(−τv))/τ,  ∂F/∂v = p π − q ω,  ∂F/∂τ = (v·∂F/∂v − F)/τ
//   transformed:  F = w ρ(Σ_j Ψ(z_j)),             ∂F/∂z = w ρ' σ
#pragma once

#include "modules.h"

namespace gradnets::GRADNETS_ISA {

// F of a row from v; strip becomes weight·∂F/∂v, and the parameters' gradients are added to sums.  scratch: a strip.
template <class T>
inline T softmax_potential(const Module<T> &m, T weight, T *v, ModuleSums<T> &sums, T *pi, T *omega) {
    using V = typename Simd<T>::Vector;
    const auto log_sums = both_softmax(m, v, pi, omega);
    V moment = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V slope = m.positive * load(pi + j) - m.negative * load(omega + j);
        moment += slope * load(v + j);
        store(v + j, weight * slope);
        store(sums.db + j, load(sums.db + j) + weight * slope);
    }
    log_sums.add_gradients(m, weight, horizontal_sum<T>(moment), sums);
    return log_sums.potential(m);
}

// The same for a transformed sum; z becomes weight·∂F/∂z.
template <class T> inline T transformed_potential(const Module<T> &m, T weight, T *z, ModuleSums<T> &sums) {
    const double total = basis_sum(m, z, (T *)nullptr);
    const T rho = transform_value<T>(m.transform, total);
    const T factor = weight * m.positive * transform_at<T>(m.transform, total).first;
    sums.positive += double(weight * rho);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        store(z + j, factor * load(z + j));
        store(sums.db + j, load(sums.db + j) + load(z + j));
    }
    return m.positive * rho;
}

template <class S> struct ModulesPotential : ModulesMiddle<S> {
    using T = Sum<S>;

    void operator()(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *this->problem;
        const Module<T> module = this->module_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        ModuleSums<T> sums = this->zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const v = tile.u + i * tile.stride;
            add_shift(module, v);
            const T weight = p.points.weight ? p.points.weight[tile.first_row + i] : T(0);
            const T F = p.basis == kSoftmax ? softmax_potential(module, weight, v, sums, strips, strips + tile.stride)
                                            : transformed_potential(module, weight, v, sums);
            if (p.points.scalar)
                tile.scalars[i] += F;
        }
        if (p.points.weight)
            this->add_sums(tile, sums);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        if (this->problem->points.weight)
            ModulesMiddle<S>::finish(partials, chunks, size);
    }
};

template <class P, class S> inline bool modules_potential_on_pipeline(const Modules<S> &p) {
    using T = Sum<S>;
    const bool forward = p.points.scalar != nullptr;
    const double flops = (forward ? 2.0 * p.d + 20.0 : 6.0 * p.d + 40.0) * double(p.batch) * double(p.h * p.count);
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h * p.count,
                               p.h,
                               module_rows<T>(p.h, 1),
                               p.points,
                               p.W,
                               nullptr,
                               p.dW,
                               nullptr,
                               true,
                               true,
                               flops,
                               ModulesMiddle<S>::sums(p.count, p.h),
                               ModulesMiddle<S>::scratch_bytes(p.h),
                               p.threads};
    return run_pipeline<P, S>(pipeline, ModulesPotential<S>{{&p}});
}

} // namespace gradnets::GRADNETS_ISA
