// S = Σ_rows weight·Σ_j ∫_0^{u_j} φ_j,   U = weight·φ(u): the potential of the ridge family on the pipeline, to which
// the caller adds the bias's part.
#pragma once

#include "cascade_kinks.h"
#include "cascade_potential.h"
#include "spline.h"

namespace gradnets::GRADNETS_ISA {

// The elementwise part: a template of the type of sums, not of storage, so that there are few copies.
template <class T> struct RidgePotentialStrips {
    using V = typename Simd<T>::Vector;
    static constexpr int lanes = Simd<T>::lanes;
    CascadeStrips<T> cascade;
    const PotentialRules<T> *rules;
    const T *paces;     // of the hidden units
    const T *weight;    // of each row
    bool gives_scalars; // F(x) rather than gradients

    // Vectors of scratch memory behind the sums.
    static int64_t history(const ParameterIndex &index, const PotentialRules<T> &rules) {
        return index.layers * kInterleaved + index.count() + 2 * NodeList<T>::room(rules) / lanes;
    }

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        if (cascade.index().is_closed() && gives_scalars)
            return closed_potentials(tile);
        if (cascade.index().is_closed()) {
            // One vector at a time: the many formulas of each basis make large code.
            const MixedBasis mixed{cascade.phi->terms, cascade.phi->basis};
            for (int64_t i = 0; i < tile.rows; ++i)
                is_spline() ? closed_gradients(tile, SplineBases{}, i, local) : closed_gradients(tile, mixed, i, local);
            return;
        }
        if (gives_scalars || cascade.needs_parameters())
            with_bases(cascade.phi->terms, cascade.phi->basis,
                       [&](const auto &bases) { integrals(tile, bases, local); });
        if (!gives_scalars)
            with_second_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
                each_strip(tile.rows, [&](auto n, int64_t i) { slope_strip<decltype(n)::value>(tile, bases, i); });
            });
    }

  private:
    V *history(T *local) const { return cascade.history(local); }
    T *node_sums(T *local) const {
        return reinterpret_cast<T *>(history(local) + cascade.index().layers * kInterleaved);
    }
    T *points(T *local) const { return node_sums(local) + cascade.index().count() * lanes; }
    UnitParameters<T> unit(int64_t j) const { return {cascade.phi->data() + j, cascade.phi->stride}; }

    // F or the gradients of the parameters, of layers in series.
    template <class Bases> void integrals(const HiddenTile<T> &tile, const Bases &bases, T *local) const {
        const int terms = cascade.phi->terms, *const basis = cascade.phi->basis;
        if constexpr (Kinks<Bases>::may_be_straight)
            if (is_straight(terms, basis))
                return straight_integrals(tile, bases, local);
        if constexpr (Kinks<Bases>::may_bend)
            if (has_kinks(terms, basis)) {
                for (int64_t row = 0; row < tile.rows; row += kListed)
                    between_kinks(tile, bases, row, local);
                return;
            }
        if constexpr (Kinks<Bases>::may_be_smooth)
            for (int64_t row = 0; row < tile.rows; row += kListed)
                gives_scalars ? potentials(tile, bases, row, local) : gradients(tile, bases, row, local);
    }

    // The same of piecewise linear functions.
    template <class Bases> void straight_integrals(const HiddenTile<T> &tile, const Bases &bases, T *local) const {
        constexpr int N = kInterleaved;
        for (int64_t row = 0; row < tile.rows; row += N) {
            V total[N] = {}, weights[N] = {};
            for (int i = 0; !gives_scalars && i < N && row + i < tile.rows; ++i)
                weights[i] = broadcast<V>(weight[tile.first_row + row + i]);
            for (int64_t j = 0; j < tile.width; j += lanes) {
                const UnitsParameters<T> parameter = cascade.parameters(tile.first_unit + j);
                V u[N];
                GRADNETS_EACH u[i] = load(tile.u + smaller(row + i, tile.rows - 1) * tile.stride + j);
                if (!gives_scalars) {
                    straight_gradient(cascade.index(), bases, parameter, u, weights, cascade.gradients(local + j),
                                      history(local));
                    continue;
                }
                straight_potential(cascade.index(), bases, parameter, u);
                GRADNETS_EACH total[i] += units_only(u[i], tile.units - j);
            }
            for (int i = 0; gives_scalars && i < N && row + i < tile.rows; ++i)
                tile.scalars[row + i] += horizontal_sum<T>(total[i]);
        }
    }

    // The same of functions with kinks that are not, of the rows from `first` on.
    template <class Bases>
    void between_kinks(const HiddenTile<T> &tile, const Bases &bases, int64_t first, T *local) const {
        const int rows = int(smaller(kListed, tile.rows - first)), count = cascade.index().count();
        T *const node_gradients = node_sums(local), *const at = points(local);
        T *const weights = at + NodeList<T>::room(*rules);
        const ParameterGradients<T> to{node_gradients, lanes, cascade.scale, cascade.shift, cascade.coef};
        const T *const of_rows = gives_scalars ? nullptr : weight + tile.first_row + first;
        KinkList<T, Bases> list(*rules, cascade.index(), bases, at, weights);
        double sums[kListed] = {};
        for (int64_t j = 0; j < tile.units; ++j) {
            constexpr int N = kInterleaved;
            const UnitParameters<T> parameter = unit(tile.first_unit + j);
            const auto block = [&](int64_t offset) {
                V u[N], a[N];
                GRADNETS_EACH {
                    u[i] = load(at + offset + i * lanes);
                    a[i] = load(weights + offset + i * lanes);
                }
                if (!gives_scalars)
                    return block_gradient<N>(cascade.index(), bases, parameter, u, a, to, history(local));
                block_value<N>(cascade.index(), bases, parameter, u);
                GRADNETS_EACH store(at + offset + i * lanes, u[i]);
            };
            const auto done = [&] {
                if (gives_scalars)
                    list.add_integrals(sums);
            };
            fill_zero(node_gradients, count * lanes);
            list.each_block(parameter, tile.u + first * tile.stride + j, tile.stride, rows, of_rows,
                            paces[tile.first_unit + j], block, done);
            for (int r = 0; !gives_scalars && r < count; ++r)
                local[r * cascade.block + j] += horizontal_sum<T>(load(node_gradients + r * lanes));
        }
        for (int i = 0; gives_scalars && i < rows; ++i)
            tile.scalars[first + i] += T(sums[i]);
    }

    // F of the rows from `first` on.
    template <class Bases>
    void potentials(const HiddenTile<T> &tile, const Bases &bases, int64_t first, T *local) const {
        const int64_t rows = smaller(kListed, tile.rows - first);
        T *const at = points(local);
        NodeList<T> nodes(*rules, at);
        double sums[kListed] = {};
        for (int64_t j = 0; j < tile.units; ++j) {
            const UnitParameters<T> parameter = unit(tile.first_unit + j);
            nodes.list(tile.u + first * tile.stride + j, tile.stride, rows, paces[tile.first_unit + j]);
            nodes.each_block([&](int64_t offset) {
                constexpr int N = kInterleaved;
                V phi[N];
                GRADNETS_EACH phi[i] = load(at + offset + i * lanes);
                block_value<N>(cascade.index(), bases, parameter, phi);
                GRADNETS_EACH store(at + offset + i * lanes, phi[i]);
            });
            nodes.add_integrals(sums);
        }
        for (int64_t i = 0; i < rows; ++i)
            tile.scalars[first + i] += T(sums[i]);
    }

    // local += the gradients of the parameters over the rows from `first` on.
    template <class Bases>
    void gradients(const HiddenTile<T> &tile, const Bases &bases, int64_t first, T *local) const {
        const int count = cascade.index().count();
        T *const sums = node_sums(local), *const at = points(local), *const weights = at + NodeList<T>::room(*rules);
        const ParameterGradients<T> to{sums, lanes, cascade.scale, cascade.shift, cascade.coef};
        NodeList<T> nodes(*rules, at);
        for (int64_t j = 0; j < tile.units; ++j) {
            const UnitParameters<T> parameter = unit(tile.first_unit + j);
            nodes.list(tile.u + first * tile.stride + j, tile.stride, smaller(kListed, tile.rows - first),
                       paces[tile.first_unit + j]);
            nodes.list_weights(weight + tile.first_row + first, weights);
            fill_zero(sums, count * lanes);
            nodes.each_block([&](int64_t offset) {
                constexpr int N = kInterleaved;
                V u[N], a[N];
                GRADNETS_EACH {
                    u[i] = load(at + offset + i * lanes);
                    a[i] = load(weights + offset + i * lanes);
                }
                block_gradient<N>(cascade.index(), bases, parameter, u, a, to, history(local));
            });
            for (int r = 0; r < count; ++r)
                local[r * cascade.block + j] += horizontal_sum<T>(load(sums + r * lanes));
        }
    }

    // u becomes weight·φ(u).
    template <int N, class Bases> void slope_strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row) const {
        for (int64_t j = 0; j < tile.width; j += lanes) {
            T *const u_at = tile.u + row * tile.stride + j;
            V u[N];
            GRADNETS_EACH u[i] = load(u_at + i * tile.stride);
            block_value<N>(cascade.index(), bases, cascade.parameters(tile.first_unit + j), u);
            GRADNETS_EACH store(u_at + i * tile.stride, weight[tile.first_row + row + i] * u[i]);
        }
    }

    // Past the last hidden unit there may be a NaN, where x is infinite.
    static V units_only(V v, int64_t valid) {
        T values[lanes];
        store(values, v);
        return valid < lanes ? load_part(values, valid) : v;
    }

    bool is_spline() const { return cascade.phi->basis[0] == kSpline; }

    // F, of a few rows at a time: the antiderivative at the shift is the same for all.
    void closed_potentials(const HiddenTile<T> &tile) const {
        constexpr int N = kInterleaved;
        for (int64_t row = 0; row < tile.rows; row += N) {
            V total[N] = {};
            for (int64_t j = 0; j < tile.width; j += lanes) {
                const UnitsParameters<T> parameter = cascade.parameters(tile.first_unit + j);
                V u[N];
                GRADNETS_EACH u[i] = load(tile.u + smaller(row + i, tile.rows - 1) * tile.stride + j);
                if (is_spline())
                    GRADNETS_EACH u[i] = spline_potential(cascade.index(), parameter, u[i]);
                else
                    closed_potential<N>(cascade.index(), parameter, rules->rules[0], cascade.phi->basis, u);
                GRADNETS_EACH total[i] += units_only(u[i], tile.units - j);
            }
            for (int i = 0; i < N && row + i < tile.rows; ++i)
                tile.scalars[row + i] += horizontal_sum<T>(total[i]);
        }
    }

    template <class Bases>
    void closed_gradients(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += lanes) {
            T *const u_at = tile.u + row * tile.stride + j;
            const UnitsParameters<T> parameter = cascade.parameters(tile.first_unit + j);
            V u[1] = {load(u_at)};
            const V weights[1] = {broadcast<V>(weight[tile.first_row + row])};
            if (cascade.needs_parameters())
                potential_gradient(bases, parameter, u, weights, cascade.gradients(local + j));
            block_value<1>(cascade.index(), bases, parameter, u);
            store(u_at, weights[0] * u[0]);
        }
    }

    template <class Bases>
    void potential_gradient(const Bases &, const UnitsParameters<T> &parameter, const V (&u)[1], const V (&weights)[1],
                            const ParameterGradients<T> &to) const {
        if constexpr (is_same<Bases, SplineBases>)
            spline_potential_gradient(cascade.index(), parameter, u, weights, to);
        else
            closed_potential_gradient<1>(cascade.index(), parameter, rules->single, cascade.phi->basis, u, weights, to);
    }
};

// Operations of one basis function: of layers in series at 16 nodes.
inline double potential_flops(const ParameterIndex &index) {
    return index.is_closed() ? 80.0 : 20.0 * 16;
}

template <class S> inline bool ridge_potential(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    const CascadeStrips<T> cascade = cascade_strips(p, phi);
    const Paces<T> paces(phi);
    if (!paces.ok())
        return false;
    using Strips = RidgePotentialStrips<T>;
    const Strips strips{cascade, p.rules, paces.data(), p.points.weight, p.points.scalar != nullptr};
    return run_pipeline(ridge_pipeline(p, cascade, potential_flops(phi.index), Strips::history(phi.index, *p.rules)),
                        RidgeMiddle<S, Strips>(p, strips));
}

} // namespace gradnets::GRADNETS_ISA
