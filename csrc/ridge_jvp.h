// S = <g, J(x) v> = Σ_j φ'_j a_j p_j,   U = a·p·φ''(u),   A = φ'·p,   P = φ'·a: J(x) v of the ridge family on the
// pipeline.
#pragma once

#include "cascade_second.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: a template of the type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeJvpStrips {
    using V = typename Simd<T>::Vector;
    CascadeStrips<T> cascade;

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        with_second_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
            each_strip(tile.rows, [&](auto n, int64_t i) { strip<decltype(n)::value>(tile, bases, i, local); });
        });
    }

  private:
    template <int N, class Bases>
    void strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const int64_t at = row * tile.stride + j;
            T *const u_at = tile.u + at, *const a_at = tile.a + at, *const p_at = tile.p + at;
            V u[N], q[N], slope[N] = {};
            GRADNETS_EACH {
                u[i] = load(u_at + i * tile.stride);
                q[i] = load(a_at + i * tile.stride) * load(p_at + i * tile.stride);
            }
            block_second<N>(cascade.index(), bases, cascade.parameters(tile.first_unit + j), u, q, slope,
                            cascade.gradients(local + j), cascade.history(local));
            GRADNETS_EACH {
                const V a = load(a_at + i * tile.stride), p = load(p_at + i * tile.stride);
                store(u_at + i * tile.stride, u[i]);
                store(a_at + i * tile.stride, slope[i] * p);
                store(p_at + i * tile.stride, slope[i] * a);
            }
        }
    }
};

template <class S> inline bool ridge_jvp(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    const CascadeStrips<T> cascade = cascade_strips(p, phi);
    const Pipeline<S> pipeline = ridge_pipeline(p, cascade, 80.0, 2 * phi.index.layers * kInterleaved);
    return run_pipeline(pipeline, RidgeMiddle<S, RidgeJvpStrips<T>>(p, {cascade}));
}

} // namespace gradnets::GRADNETS_ISA
