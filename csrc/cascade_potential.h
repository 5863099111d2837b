// ∫_0^u φ(t) dt of one layer, and so of heads, and its derivatives in the parameters, on blocks of N vectors:
// Σ_k coef_k (Φ_k(scale·u + shift) − Φ_k(shift))/scale, which cancels for small scale·u.  There, between kinks, a
// quadrature rule on [0, u] serves; reference/ridge.py keeps to the quotient for functions with kinks.
#pragma once

#include "cascade.h"

namespace gradnets::GRADNETS_ISA {

// u becomes ∫_0^u Σ_k coef_k b_k(scale·t + shift) dt, for one basis function of one layer.
template <int N, class V, class B> struct ClosedForm {
    V scale, shift, coef;
    B basis;
    V z[N], rise[N], near[N], near_slope[N], near_moment[N];
    decltype(V{} < V{}) is_short[N];

    // smooth_limit: below which scale·u the rule serves if b is smooth between the ends.  near: ∫ b, near_slope: ∫ b',
    // near_moment: ∫ t·b', over [0, u] by quadrature.
    template <class Rule>
    ClosedForm(V scale_, V shift_, V coef_, B basis_, const Rule &rule, double smooth_limit, const V (&u)[N])
        : scale(scale_), shift(shift_), coef(coef_), basis(basis_) {
        using T = ScalarOf<V>;
        V base;
        basis.antiderivative(shift, base);
        GRADNETS_EACH {
            z[i] = scale * u[i] + shift;
            V top;
            basis.antiderivative(z[i], top);
            rise[i] = top - base;
            is_short[i] = absolute(scale * u[i]) < broadcast<V>(T(smooth_limit));
            if constexpr (!B::smooth)
                is_short[i] &= between_kinks(i) | (absolute(scale * u[i]) < broadcast<V>(smallest(T())));
            near[i] = near_slope[i] = near_moment[i] = V{};
            if (any_lane(is_short[i]))
                integrate(i, rule, u[i]);
        }
    }

    V value(int i) const { return select(is_short[i], near[i], rise[i] / divisor(i)); }

    // ∂/∂shift and ∂/∂scale of coef·∫b.
    V in_shift(int i) const {
        V top, base;
        basis.value(z[i], top);
        basis.value(shift, base);
        return coef * select(is_short[i], near_slope[i], (top - base) / divisor(i));
    }
    V in_scale(int i, V u) const {
        V top;
        basis.value(z[i], top);
        return coef * select(is_short[i], near_moment[i], (u * top - rise[i] / divisor(i)) / divisor(i));
    }

  private:
    static float smallest(float) { return __FLT_MIN__; }
    static double smallest(double) { return __DBL_MIN__; }
    decltype(V{} < V{}) between_kinks(int i) const {
        const V kink = broadcast<V>(B::kink);
        return ~(((z[i] < kink) ^ (shift < kink)) | ((z[i] < -kink) ^ (shift < -kink)));
    }
    V divisor(int i) const { return select(is_short[i], broadcast<V>(1), scale); }

    template <class Rule> void integrate(int i, const Rule &rule, V u) {
        using T = ScalarOf<V>;
        for (int n = 0; n < rule.count; ++n) {
            const V t = T(rule.nodes[n]) * u;
            const T weight = T(rule.weights[n]);
            V value, first;
            basis.value_first(scale * t + shift, value, first);
            near[i] += weight * value;
            near_slope[i] += weight * first;
            near_moment[i] += weight * (first * t);
        }
        near[i] *= u;
        near_slope[i] *= u;
        near_moment[i] *= u;
    }
};

template <int N, class V, class Parameters, class Rule, class F>
inline void closed_forms(const ParameterIndex &index, const Parameters &parameter, const Rule &rule,
                         double smooth_limit, const int *basis, const V (&u)[N], const F &body) {
    for (int l = 0; l < index.layers; ++l)
        for (int k = 0; k < index.terms; ++k)
            with_basis(basis[k], [&](auto b) {
                const V scale = parameter(index.scale(l)), shift = parameter(index.shift(l)),
                        coef = parameter(index.coef(l, k));
                body(l, k, ClosedForm<N, V, decltype(b)>(scale, shift, coef, b, rule, smooth_limit, u));
            });
}

// u becomes ∫_0^u φ for one layer or heads, in closed form; the rule need not reach further than 1/64.
template <int N, class V, class Parameters, class Rule>
inline void closed_potential(const ParameterIndex &index, const Parameters &parameter, const Rule &rule,
                             const int *basis, V (&u)[N]) {
    V total[N] = {};
    closed_forms<N>(index, parameter, rule, 1.0 / 64, basis, u,
                    [&](int, int, const auto &form) { GRADNETS_EACH total[i] += form.coef * form.value(i); });
    GRADNETS_EACH u[i] = total[i];
}

// to += weight·∂/∂θ ∫_0^u φ for one layer or heads.  The derivative in scale cancels twice, so the rule serves as far
// as it is exact to rounding.
template <int N, class V, class Parameters, class T>
inline void closed_potential_gradient(const ParameterIndex &index, const Parameters &parameter, const Quadrature &rule,
                                      const int *basis, const V (&u)[N], const V (&weight)[N],
                                      const ParameterGradients<T> &to) {
    closed_forms<N>(index, parameter, rule, 1.0, basis, u, [&](int l, int k, const auto &form) {
        V in_scale[N], in_shift[N], in_coef[N];
        GRADNETS_EACH {
            in_scale[i] = weight[i] * form.in_scale(i, u[i]);
            in_shift[i] = weight[i] * form.in_shift(i);
            in_coef[i] = weight[i] * form.value(i);
        }
        if (to.scale)
            add_block<N>(in_scale, to, index.scale(l));
        if (to.shift)
            add_block<N>(in_shift, to, index.shift(l));
        if (to.coef)
            add_block<N>(in_coef, to, index.coef(l, k));
    });
}

} // namespace gradnets::GRADNETS_ISA
