// Quantities of the ridge family on the pipeline:
//   jvp:         S = <g, J(x) v> = Σ_j φ'_j a_j p_j,         U = a·p·φ''(u),  A = φ'·p,  P = φ'·a
//   potential:   S = Σ_rows weight·Σ_j ∫_0^{u_j} φ_j,        U = weight·φ(u)
#pragma once

#include "cascade_potential.h"
#include "cascade_second.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: for a type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeQuantityStrips {
    using V = typename Simd<T>::Vector;
    static constexpr int lanes = Simd<T>::lanes;
    Quantity quantity;
    CascadeStrips<T> cascade;
    const PotentialRules *rules;
    const T *weight;    // of each row
    bool gives_scalars; // F(x) rather than gradients

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        if (quantity == Quantity::potential && cascade.index().layers == 1) {
            // One vector at a time: the many formulas of each basis make large code.
            for (int64_t i = 0; i < tile.rows; ++i)
                potential<1>(tile, MixedBasis{cascade.phi->terms, cascade.phi->basis}, i, local);
            return;
        }
        with_second_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
            each_strip(tile.rows, [&](auto n, int64_t i) { strip<decltype(n)::value>(tile, bases, i, local); });
        });
    }

  private:
    // Past the last hidden unit there may be a NaN, where x is infinite.
    static V units_only(V v, int64_t valid) {
        T values[lanes];
        store(values, v);
        return valid < lanes ? load_part(values, valid) : v;
    }

    template <int N, class Bases>
    void strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        quantity == Quantity::potential ? potential<N>(tile, bases, row, local) : jvp<N>(tile, bases, row, local);
    }

    template <int N, class Bases>
    void potential(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        V total[N] = {};
        for (int64_t j = 0; j < tile.width; j += lanes) {
            T *const u_at = tile.u + row * tile.stride + j;
            V u[N];
            GRADNETS_EACH u[i] = load(u_at + i * tile.stride);
            if (gives_scalars) {
                integrate<N>(bases, cascade.parameters(tile.first_unit + j), u);
                GRADNETS_EACH total[i] += units_only(u[i], tile.units - j);
                continue;
            }
            V weights[N];
            GRADNETS_EACH weights[i] = broadcast<V>(weight[tile.first_row + row + i]);
            if (cascade.needs_parameters())
                potential_gradient<N>(bases, cascade.parameters(tile.first_unit + j), u, weights, local, j);
            block_value<N>(cascade.index(), bases, cascade.parameters(tile.first_unit + j), u);
            GRADNETS_EACH store(u_at + i * tile.stride, weights[i] * u[i]);
        }
        if (gives_scalars)
            GRADNETS_EACH tile.scalars[row + i] += horizontal_sum<T>(total[i]);
    }

    template <int N, class Bases>
    void integrate(const Bases &bases, const UnitsParameters<T> &parameter, V (&u)[N]) const {
        if constexpr (N == 1)
            if (cascade.index().layers == 1)
                return closed_potential<N>(cascade.index(), parameter, *rules, cascade.phi->basis, u);
        quadrature_potential<N>(cascade.index(), bases, parameter, rules->panelled, u);
    }

    template <int N, class Bases>
    void potential_gradient(const Bases &bases, const UnitsParameters<T> &parameter, const V (&u)[N],
                            const V (&weights)[N], T *local, int64_t j) const {
        const ParameterGradients<T> to = cascade.gradients(local + j);
        if constexpr (N == 1)
            if (cascade.index().layers == 1)
                return closed_potential_gradient<N>(cascade.index(), parameter, *rules, cascade.phi->basis, u, weights,
                                                    to);
        V *const history = cascade.history(local);
        quadrature_potential_gradient<N>(cascade.index(), bases, parameter, rules->panelled, u, weights, to, history,
                                         reinterpret_cast<T *>(history + cascade.index().layers * kInterleaved));
    }

    template <int N, class Bases> void jvp(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += lanes) {
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

template <class S> struct RidgeQuantities {
    using T = Sum<S>;
    const Ridge<S> *problem;
    RidgeQuantityStrips<T> strips;

    void operator()(const HiddenTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        strips.cascade.start_sums(local);
        strips(tile, local);
        strips.cascade.add_sums(tile, local);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        finish_cascade(*problem, strips.cascade.index(), partials, strips.cascade.phi->stride, chunks, size);
    }
};

// How much work a basis function is here; a potential of several layers evaluates it at every node.
template <class S> inline double quantity_flops(const Ridge<S> &p) {
    return p.quantity == Quantity::potential && p.phi.layers > 1 ? 20.0 * p.rules->panelled.count : 80.0;
}

template <class P, class S>
inline bool ridge_quantities_on_pipeline(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    const CascadeStrips<T> cascade = cascade_strips(p, phi);
    const int products = 1 + (p.points.g != nullptr) + (p.points.v != nullptr);
    const int outputs = (p.points.dx != nullptr) + (p.points.dg != nullptr) + (p.points.dv != nullptr);
    const double flops = 2.0 * double(p.batch) * double(p.d) * double(p.h) * (products * (p.dW ? 2 : 1) + outputs) +
                         quantity_flops(p) * double(p.batch) * double(p.h) * phi.index.layers * phi.index.terms;
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h,
                               cascade.block,
                               p.d > 512 ? 66 : 96,
                               p.points,
                               p.W,
                               nullptr,
                               p.dW,
                               nullptr,
                               p.points.v == nullptr,
                               false,
                               flops,
                               cascade.sums(),
                               cascade.scratch_bytes(2 * phi.index.layers * kInterleaved + phi.index.count()),
                               p.threads};
    const RidgeQuantityStrips<T> strips{p.quantity, cascade, p.rules, p.points.weight, p.points.scalar != nullptr};
    return run_pipeline<P, S>(pipeline, RidgeQuantities<S>{&p, strips});
}

template <class S> inline bool ridge_quantities(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<Sum<S>>(p.batch, p.d))
            return ridge_quantities_on_pipeline<Pairs, S>(p, phi);
#endif
    return ridge_quantities_on_pipeline<Plain<Sum<S>>, S>(p, phi);
}

} // namespace gradnets::GRADNETS_ISA
