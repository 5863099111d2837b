// ∫_0^u φ(t) dt = u Σ_n widths_n·φ(middles_n·u) for layers in series of piecewise linear functions: the intervals of
// [0, 1] on which t ↦ φ(t·u) is linear, of each row and hidden unit alone.
//
// From t on every z_l is linear as far as the nearest t + (kink − z_l)/(dz_l/dt) of all layers and basis functions; a
// step goes a few roundings of z_l further, so that the next one begins beyond it.
#pragma once

#include "cascade.h"

namespace gradnets::GRADNETS_ISA {

// Intervals at most, of which the last takes what is left; as in reference/ridge.py.
static constexpr int kMostPanels = 64;

// What the mixtures that this type stands for may be: piecewise linear, analytic, or neither.
template <class Bases> struct Kinks {
    static constexpr bool may_be_smooth = !is_same<Bases, SplineBases>;
    static constexpr bool may_bend = is_same<Bases, MixedBasis>, may_be_straight = may_bend;
};
template <class B> struct Kinks<SingleBasis<B>> {
    static constexpr bool may_be_straight = B::straight, may_be_smooth = B::smooth && !B::straight;
    static constexpr bool may_bend = !B::smooth && !B::straight;
};

// Whether all basis functions of a mixture are piecewise linear.
inline bool is_straight(int terms, const int *basis) {
    bool all = true;
    for (int k = 0; k < terms; ++k) {
        if (basis[k] == kSpline)
            return false;
        with_basis(basis[k], [&](auto b) { all = all && decltype(b)::straight; });
    }
    return all;
}

// Whether one of them has a kink.
inline bool has_kinks(int terms, const int *basis) {
    bool any = false;
    for (int k = 0; k < terms; ++k)
        with_basis(basis[k], [&](auto b) { any = any || !decltype(b)::smooth; });
    return any;
}

template <class V> GRADNETS_INLINE V few_roundings() {
    return broadcast<V>(sizeof(ScalarOf<V>) == 4 ? 0x1p-21 : 0x1p-50);
}

// least = minimum(least, how long z, which moves at `slope`, takes to be `beyond` the next kink of b, ±kink).
template <class B, class V> GRADNETS_INLINE void reach_kink(V z, V slope, V beyond, V &least) {
    if constexpr (!B::smooth) {
        const V ahead = v_copysign(broadcast<V>(1), slope) * z, kink = broadcast<V>(B::kink);
        V distance = kink - ahead;
        if constexpr (B::kink != 0)
            distance = select(ahead <= -kink, -kink - ahead, distance);
        const V time = (distance + beyond) / absolute(slope);
        least = select((distance >= V{}) & (time < least), time, least);
    }
}

// least: how far it is from t to beyond the next kink, were all z_l linear; 1 at most, and a few roundings.
template <int N, class V, class Bases, class Parameters>
GRADNETS_INLINE void reach_kinks(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                 const V (&u)[N], const V (&t)[N], V (&least)[N]) {
    V point[N], z[N], slope[N], beyond[N], mixed[N] = {}, passed[N] = {};
    GRADNETS_EACH {
        point[i] = t[i] * u[i];
        least[i] = broadcast<V>(1);
    }
    for (int l = 0; l < index.layers; ++l) {
        enter_layer(index, l, parameter, point, mixed, z);
        const V scale = parameter(index.scale(l)), shift = absolute(parameter(index.shift(l)));
        GRADNETS_EACH {
            slope[i] = scale * u[i] + passed[i];
            beyond[i] = few_roundings<V>() * (absolute(z[i]) + shift + absolute(mixed[i]));
        }
        V gain[N];
        start_sums(mixed);
        start_sums(gain);
        bases.each([&](int k, auto b) __attribute__((always_inline)) {
            const V coef = parameter(index.coef(l, k));
            GRADNETS_EACH {
                V value, first;
                b.value_first(z[i], value, first);
                mixed[i] = mixed[i] + coef * value;
                gain[i] = gain[i] + coef * first;
                reach_kink<decltype(b)>(z[i], slope[i], beyond[i], least[i]);
            }
        });
        GRADNETS_EACH passed[i] = gain[i] * slope[i];
    }
    GRADNETS_EACH least[i] += few_roundings<V>();
}

// body(middles, widths) for the intervals one after another; those of rows that have fewer than others end as [1, 1].
template <int N, class V, class Bases, class Parameters, class F>
GRADNETS_INLINE void each_panel(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                const V (&u)[N], const F &body) {
    const V one = broadcast<V>(1);
    V t[N] = {};
    bool is_left = true;
    for (int panel = 1; is_left && panel <= kMostPanels; ++panel) {
        V middles[N], widths[N], reach[N];
        reach_kinks(index, bases, parameter, u, t, reach);
        is_left = false;
        GRADNETS_EACH {
            const V end = panel < kMostPanels ? minimum(t[i] + reach[i], one) : one;
            middles[i] = (t[i] + end) * broadcast<V>(0.5);
            widths[i] = end - t[i];
            t[i] = end;
            is_left = is_left | any_lane(end < one);
        }
        body(middles, widths);
    }
}

// u becomes ∫_0^u φ.
template <int N, class V, class Bases, class Parameters>
GRADNETS_INLINE void straight_potential(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                        V (&u)[N]) {
    V total[N] = {};
    each_panel(index, bases, parameter, u,
               [&](const V(&middles)[N], const V(&widths)[N]) __attribute__((always_inline)) {
                   V phi[N];
                   GRADNETS_EACH phi[i] = middles[i] * u[i];
                   block_value<N>(index, bases, parameter, phi);
                   GRADNETS_EACH total[i] += widths[i] * phi[i];
               });
    GRADNETS_EACH u[i] *= total[i];
}

// to += weight·∂/∂θ ∫_0^u φ.  history: layers·N vectors.
template <int N, class V, class Bases, class Parameters, class T>
GRADNETS_INLINE void straight_gradient(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                       const V (&u)[N], const V (&weight)[N], const ParameterGradients<T> &to,
                                       V *history) {
    each_panel(index, bases, parameter, u,
               [&](const V(&middles)[N], const V(&widths)[N]) __attribute__((always_inline)) {
                   V point[N], a[N];
                   GRADNETS_EACH {
                       point[i] = middles[i] * u[i];
                       a[i] = widths[i] * u[i] * weight[i];
                   }
                   block_gradient<N>(index, bases, parameter, point, a, to, history);
               });
}

} // namespace gradnets::GRADNETS_ISA
