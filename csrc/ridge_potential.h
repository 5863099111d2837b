// S = Σ_rows weight·Σ_j ∫_0^{u_j} φ_j,   U = weight·φ(u): the potential of the ridge family on the pipeline, to which
// the caller adds the bias's part.
#pragma once

#include "cascade_potential.h"
#include "spline.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: a template of the type of sums, not of storage, so that there are few copies.
template <class T> struct RidgePotentialStrips {
    using V = typename Simd<T>::Vector;
    static constexpr int lanes = Simd<T>::lanes;
    CascadeStrips<T> cascade;
    const PotentialRules *rules;
    const T *weight;    // of each row
    bool gives_scalars; // F(x) rather than gradients

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        if (cascade.index().is_closed()) {
            // One vector at a time: the many formulas of each basis make large code.
            const MixedBasis mixed{cascade.phi->terms, cascade.phi->basis};
            for (int64_t i = 0; i < tile.rows; ++i)
                cascade.phi->basis[0] == kSpline ? strip<1>(tile, SplineBases{}, i, local)
                                                 : strip<1>(tile, mixed, i, local);
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
        if constexpr (N == 1 && is_same<Bases, SplineBases>)
            return spline_potential(cascade.index(), parameter, u);
        else if constexpr (N == 1)
            if (cascade.index().is_closed())
                return closed_potential<N>(cascade.index(), parameter, *rules, cascade.phi->basis, u);
        quadrature_potential<N>(cascade.index(), bases, parameter, rules->panelled, u);
    }

    template <int N, class Bases>
    void potential_gradient(const Bases &bases, const UnitsParameters<T> &parameter, const V (&u)[N],
                            const V (&weights)[N], T *local, int64_t j) const {
        const ParameterGradients<T> to = cascade.gradients(local + j);
        if constexpr (N == 1 && is_same<Bases, SplineBases>)
            return spline_potential_gradient(cascade.index(), parameter, u, weights, to);
        else if constexpr (N == 1)
            if (cascade.index().is_closed())
                return closed_potential_gradient<N>(cascade.index(), parameter, *rules, cascade.phi->basis, u, weights,
                                                    to);
        V *const history = cascade.history(local);
        quadrature_potential_gradient<N>(cascade.index(), bases, parameter, rules->panelled, u, weights, to, history,
                                         reinterpret_cast<T *>(history + cascade.index().layers * kInterleaved));
    }
};

template <class S> inline bool ridge_potential(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    const CascadeStrips<T> cascade = cascade_strips(p, phi);
    // Layers in series are evaluated at every node of the rule.
    const double flops = !phi.index.is_closed() ? 20.0 * p.rules->panelled.count : 80.0;
    const int64_t history = 2 * phi.index.layers * kInterleaved + phi.index.count();
    const RidgePotentialStrips<T> strips{cascade, p.rules, p.points.weight, p.points.scalar != nullptr};
    return run_pipeline(ridge_pipeline(p, cascade, flops, history), RidgeMiddle<S, RidgePotentialStrips<T>>(p, strips));
}

} // namespace gradnets::GRADNETS_ISA
