// φ' and q·∂φ'/∂θ of the cascade on blocks of N vectors in registers, by z_l' = scale_l + Σ_k coef_{l−1,k}
// b_k'(z_{l−1}) z_{l−1}' and the reverse pass through z and z'.  To keep copies few, the choice between the basis
// functions is made inside, at each layer, but for the commonest one.
#pragma once

#include "cascade.h"

namespace gradnets::GRADNETS_ISA {

template <class F> inline void with_second_bases(int terms, const int *basis, const F &body) {
    if (basis[0] == kSpline)
        body(SplineBases{});
    else if (terms == 1 && basis[0] == tanh_basis::number)
        body(SingleBasis<tanh_basis>{});
    else
        body(MixedBasis{terms, basis});
}

// z_l and z_l' = dz_l/du; or what a layer passes on, and the derivative of that in u.
template <int N, class V> struct Dual {
    V z[N], dz[N];
};

template <int N, class V, class Parameters>
inline void enter_dual(const ParameterIndex &index, int l, const Parameters &parameter, const V (&u)[N],
                       const Dual<N, V> &mixed, Dual<N, V> &entry) {
    enter_layer(index, l, parameter, u, mixed.z, entry.z);
    const V scale = parameter(index.scale(l));
    GRADNETS_EACH entry.dz[i] = l > 0 && !index.heads ? scale + mixed.dz[i] : scale;
}

template <int N, class V, class Bases, class Parameters>
inline void leave_dual(const ParameterIndex &index, int l, const Bases &bases, const Parameters &parameter,
                       const Dual<N, V> &entry, Dual<N, V> &mixed) {
    start_sums(mixed.z);
    start_sums(mixed.dz);
    bases.each([&](int k, auto b) __attribute__((always_inline)) {
        const V coef = parameter(index.coef(l, k));
        GRADNETS_EACH {
            V value, first;
            b.value_first(entry.z[i], value, first);
            mixed.z[i] = mixed.z[i] + coef * value;
            mixed.dz[i] = mixed.dz[i] + coef * first;
        }
    });
    GRADNETS_EACH mixed.dz[i] *= entry.dz[i];
}

// u becomes φ'(u).  A NaN stays, though the slope of a piecewise linear basis function would drop it.
template <int N, class V, class Bases, class Parameters>
inline void block_slope(const ParameterIndex &index, const Bases &bases, const Parameters &parameter, V (&u)[N]) {
    Dual<N, V> entry, mixed = {};
    V sum[N];
    start_sums(sum);
    for (int l = 0; l < index.layers; ++l) {
        enter_dual(index, l, parameter, u, mixed, entry);
        leave_dual(index, l, bases, parameter, entry, mixed);
        GRADNETS_EACH sum[i] = sum[i] + mixed.dz[i];
    }
    GRADNETS_EACH u[i] = select(u[i] == u[i], index.heads ? sum[i] : mixed.dz[i], u[i]);
}

// One layer of the reverse pass of S = Σ q·φ'.  adjoint: ∂S in what layer l passes on and in its derivative; becomes
// ∂S/∂z_l and ∂S/∂z_l'.  slope += φ'(u) on the last layer, or that of a head.  to += the gradients of coef.
template <int N, class V, class Bases, class Parameters, class T>
inline void reverse_dual(const ParameterIndex &index, int l, const Bases &bases, const Parameters &parameter,
                         const Dual<N, V> &entry, Dual<N, V> &adjoint, V (&slope)[N], const ParameterGradients<T> &to) {
    const bool last = l == index.layers - 1 || index.heads;
    V firsts[N], seconds[N];
    start_sums(firsts);
    start_sums(seconds);
    bases.each([&](int k, auto b) __attribute__((always_inline)) {
        const V coef = parameter(index.coef(l, k));
        V dcoef[N];
        GRADNETS_EACH {
            V value, first, second;
            b.value_first_second(entry.z[i], value, first, second);
            firsts[i] = firsts[i] + coef * first;
            seconds[i] = seconds[i] + coef * second;
            const V moved = adjoint.dz[i] * (first * entry.dz[i]);
            // Nothing comes from above the last layer, and 0 times an infinite derivative would be NaN.
            dcoef[i] = last ? moved : moved + adjoint.z[i] * value;
        }
        if (to.coef)
            add_block<N>(dcoef, to, index.coef(l, k));
    });
    GRADNETS_EACH {
        if (last)
            slope[i] = slope[i] + firsts[i] * entry.dz[i];
        const V curved = adjoint.dz[i] * (seconds[i] * entry.dz[i]);
        adjoint.z[i] = last ? curved : curved + adjoint.z[i] * firsts[i];
        adjoint.dz[i] *= firsts[i];
    }
}

// u becomes q·φ''(u), slope becomes φ'(u); to += q·∂φ'/∂θ.  history: room for layers·2N vectors.
template <int N, class V, class Bases, class Parameters, class T>
inline void block_second(const ParameterIndex &index, const Bases &bases, const Parameters &parameter, V (&u)[N],
                         const V (&q)[N], V (&slope)[N], const ParameterGradients<T> &to, V *history) {
    Dual<N, V> entry, mixed = {}, adjoint = {};
    const int last = index.layers - 1;
    for (int l = 0; l <= last; ++l) {
        enter_dual(index, l, parameter, u, mixed, entry);
        if (l < last && !index.heads) {
            GRADNETS_EACH history[2 * l * N + i] = entry.z[i];
            GRADNETS_EACH history[(2 * l + 1) * N + i] = entry.dz[i];
            leave_dual(index, l, bases, parameter, entry, mixed);
        }
    }
    V du[N];
    start_sums(du);
    start_sums(slope);
    GRADNETS_EACH adjoint.dz[i] = q[i];
    for (int l = last; l >= 0; --l) {
        if (index.heads) {
            enter_dual(index, l, parameter, u, mixed, entry);
            GRADNETS_EACH adjoint.dz[i] = q[i];
        } else if (l < last) {
            GRADNETS_EACH entry.z[i] = history[2 * l * N + i];
            GRADNETS_EACH entry.dz[i] = history[(2 * l + 1) * N + i];
        }
        reverse_dual(index, l, bases, parameter, entry, adjoint, slope, to);
        const V scale = parameter(index.scale(l));
        GRADNETS_EACH du[i] = du[i] + scale * adjoint.z[i];
        if (to.shift)
            add_block<N>(adjoint.z, to, index.shift(l));
        if (to.scale) {
            V product[N];
            GRADNETS_EACH product[i] = adjoint.z[i] * u[i] + adjoint.dz[i];
            add_block<N>(product, to, index.scale(l));
        }
    }
    GRADNETS_EACH u[i] = du[i];
}

} // namespace gradnets::GRADNETS_ISA
