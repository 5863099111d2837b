// s = φ'(u): divergence and Jacobian of the ridge family, whose hidden units are not coupled.
#pragma once

#include "cascade_second.h"
#include "jacobian.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: a template of the type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeJacobianStrips {
    using V = typename Simd<T>::Vector;
    CascadeStrips<T> cascade;

    // local: null for s alone; else the sums over the rows, then the history.
    __attribute__((noinline)) void operator()(const JacobianTile<T> &tile, T *local) const {
        with_second_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
            each_strip(tile.rows, [&](auto n, int64_t i) { strip<decltype(n)::value>(tile, bases, i, local); });
        });
    }

  private:
    template <int N, class Bases>
    void strip(const JacobianTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const UnitsParameters<T> parameters = cascade.parameters(tile.first_unit + j);
            const int64_t at = row * tile.stride + j;
            V u[N], q[N], slope[N] = {};
            GRADNETS_EACH u[i] = load(tile.u + at + i * tile.stride);
            if (!local) {
                block_slope<N>(cascade.index(), bases, parameters, u);
                GRADNETS_EACH store(tile.s + at + i * tile.stride, u[i]);
                continue;
            }
            GRADNETS_EACH q[i] = load(tile.q + at + i * tile.stride);
            block_second<N>(cascade.index(), bases, parameters, u, q, slope, cascade.gradients(local + j),
                            cascade.history(local));
            GRADNETS_EACH {
                store(tile.u + at + i * tile.stride, u[i]);
                store(tile.s + at + i * tile.stride, slope[i]);
            }
        }
    }
};

template <class S> struct RidgeJacobian final : JacobianMiddle<Sum<S>> {
    using T = Sum<S>;
    const Ridge<S> &problem;
    const RidgeJacobianStrips<T> strips;

    RidgeJacobian(const Ridge<S> &ridge, const CascadeStrips<T> &cascade) : problem(ridge), strips{cascade} {}

    void value(const JacobianTile<T> &tile) const override { strips(tile, nullptr); }

    void gradient(const JacobianTile<T> &tile) const override {
        T *const local = piece<T>(tile.scratch, 0);
        strips.cascade.start_sums(local);
        strips(tile, local);
        strips.cascade.add_sums(tile, local);
    }

    void finish(const T *sums, int64_t chunks, int64_t size) const override {
        finish_cascade(problem, strips.cascade.index(), sums, strips.cascade.phi->stride, chunks, size);
    }
};

template <class S> bool ridge_jacobian(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    const CascadeStrips<Sum<S>> cascade = cascade_strips(p, phi);
    Jacobian<S> jacobian;
    jacobian.batch = p.batch;
    jacobian.d = p.d;
    jacobian.hidden = p.h;
    jacobian.block = cascade.block;
    jacobian.points = p.points;
    jacobian.W = p.W;
    jacobian.dW = p.dW;
    jacobian.most_rows = most_tile_rows(p.d);
    jacobian.flops = double(p.batch) * double(p.h) *
                     (jacobian_flops(jacobian) + (jacobian.backward() ? 80.0 : 20.0) * phi.index.layers * phi.terms);
    jacobian.sums = cascade.sums();
    jacobian.scratch = cascade.scratch_bytes(2 * phi.index.layers * kInterleaved);
    jacobian.threads = p.threads;
    return JacobianRun<S>(jacobian, RidgeJacobian<S>(p, cascade)).run();
}

} // namespace gradnets::GRADNETS_ISA
