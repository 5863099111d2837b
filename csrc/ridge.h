// The ridge family on the pipeline: the middle step is the cascade, hidden unit by hidden unit.
#pragma once

#include "narrow.h"
#include "ridge_jacobian.h"
#include "ridge_quantities.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: for a type of sums, not of storage, so that there are few copies.
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

template <class S> struct RidgeMiddle {
    using T = Sum<S>;
    const Ridge<S> *problem;
    RidgeStrips<T> strips;

    void operator()(const HiddenTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        const CascadeStrips<T> &cascade = strips.cascade;
        if (cascade.needs_parameters())
            cascade.start_sums(local);
        strips(tile, local);
        if (cascade.needs_parameters())
            cascade.add_sums(tile, local);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        if (strips.cascade.needs_parameters())
            finish_cascade(*problem, strips.cascade.index(), partials, strips.cascade.phi->stride, chunks, size);
    }
};

template <class P, class S> inline bool ridge_on_pipeline(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    const CascadeStrips<T> cascade = cascade_strips(p, phi);
    const int products = 1 + (p.points.g != nullptr) + (p.points.v != nullptr);
    const int outputs = (p.points.dx != nullptr) + (p.points.dg != nullptr) + (p.points.dv != nullptr);
    // Few rows wait for W to come from memory, which takes as long as 16 operations on each of its values.
    const double flops =
        double(p.d) * double(p.h) * (2.0 * double(p.batch) * (products * (p.dW ? 2 : 1) + outputs) + 16.0) +
        cascade_flops(p);
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h,
                               cascade.block,
                               p.d > 512 ? 66 : 96,
                               p.points,
                               p.W,
                               p.bias,
                               p.dW,
                               p.dbias,
                               p.points.v == nullptr,
                               false,
                               flops,
                               cascade.sums(),
                               cascade.scratch_bytes(phi.index.layers * kInterleaved),
                               p.threads};
    return run_pipeline<P, S>(pipeline, RidgeMiddle<S>{&p, {cascade}});
}

template <class S> bool ridge(const Ridge<S> &p) {
    using T = Sum<S>;
    const PaddedCascade<T> phi(p.phi, p.h);
    if (!phi.memory.ok())
        return false;
    if (p.quantity == Quantity::divergence || p.quantity == Quantity::jacobian)
        return ridge_jacobian(p, phi);
    if (p.quantity != Quantity::value)
        return ridge_quantities(p, phi);
    if (narrow_pays<T>(p.batch, p.d, p.h))
        return ridge_narrow(p, phi);
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<T>(p.batch, p.d))
            return ridge_on_pipeline<Pairs, S>(p, phi);
#endif
    return ridge_on_pipeline<Plain<T>, S>(p, phi);
}

} // namespace gradnets::GRADNETS_ISA
