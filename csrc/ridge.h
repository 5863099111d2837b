// f = φ(x Wᵀ) W + bias, the ridge family, on the pipeline: S = Σ_j a_j φ_j(u_j),  U = a·φ'(u),  A = φ(u).
#pragma once

#include "narrow.h"
#include "ridge_jacobian.h"
#include "ridge_jvp.h"
#include "ridge_potential.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: a template of the type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeStrips {
    using V = typename Simd<T>::Vector;
    CascadeStrips<T> cascade;

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        with_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
            each_strip(tile.rows, [&](auto n, int64_t i) { strip<decltype(n)::value>(tile, bases, i, local); });
        });
    }

  private:
    template <int N, class Bases>
    void strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        V *const history = cascade.history(local);
        const bool gradient = tile.a != tile.u;
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const UnitsParameters<T> parameter = cascade.parameters(tile.first_unit + j);
            T *const u_at = tile.u + row * tile.stride + j, *const a_at = tile.a + row * tile.stride + j;
            V u[N], a[N];
            GRADNETS_EACH u[i] = load(u_at + i * tile.stride);
            if (!gradient) {
                block_value<N>(cascade.index(), bases, parameter, u);
                GRADNETS_EACH store(u_at + i * tile.stride, u[i]);
                continue;
            }
            GRADNETS_EACH a[i] = load(a_at + i * tile.stride);
            block_gradient<N>(cascade.index(), bases, parameter, u, a, cascade.gradients(local + j), history);
            GRADNETS_EACH {
                store(u_at + i * tile.stride, a[i]);
                store(a_at + i * tile.stride, u[i]);
            }
        }
    }
};

template <class S> inline bool ridge_value(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    const CascadeStrips<T> cascade = cascade_strips(p, phi);
    Pipeline<S> pipeline = ridge_pipeline(p, cascade, basis_flops(p), phi.index.layers * kInterleaved);
    // Few rows wait for W to come from memory, which takes as long as 16 operations on each of its values.
    pipeline.flops += 16.0 * double(p.d) * double(p.h);
    return run_pipeline(pipeline, RidgeMiddle<S, RidgeStrips<T>>(p, {cascade}));
}

template <class S> bool ridge(const Ridge<S> &p) {
    const PaddedCascade<Sum<S>> phi(p.phi, p.h);
    if (!phi.memory.ok())
        return false;
    switch (p.quantity) {
    case Quantity::jvp:
        return ridge_jvp(p, phi);
    case Quantity::potential:
        return ridge_potential(p, phi);
    case Quantity::divergence:
    case Quantity::jacobian:
        return ridge_jacobian(p, phi);
    default:
        return narrow_pays<Sum<S>>(p.batch, p.d, p.h) ? ridge_narrow(p, phi) : ridge_value(p, phi);
    }
}

} // namespace gradnets::GRADNETS_ISA
