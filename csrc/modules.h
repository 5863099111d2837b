// The module family on the pipeline: a row's hidden units are coupled (softmax, or a function of a sum), so a block
// holds all h hidden units of one module, and few enough rows that they stay in cache.  Nothing of size batch × h.
#pragma once

#include "activations_gen.h"
#include "pipeline.h"

namespace gradnets::GRADNETS_ISA {

// In the order of TRANSFORMS in activations/transforms.py; Python compares the names when it loads the extension.
static constexpr const char *kTransformNames[] = {"identity", "half_square", "softplus", "logcosh", "exp", "log"};

// ρ'(t) and ρ''(t).
template <class T> struct Transform {
    T first, second;
};

template <class T> inline Transform<T> transform_at(int transform, double t) {
    switch (transform) {
    case 1: // t²/2
        return {T(t), T(1)};
    case 2: { // log(1 + e^t)
        const double e = __builtin_exp(-__builtin_fabs(t)), sigmoid = (t < 0 ? e : 1.0) / (1.0 + e);
        return {T(sigmoid), T(e / ((1.0 + e) * (1.0 + e)))};
    }
    case 3: { // log cosh t
        const double e = __builtin_exp(-2.0 * __builtin_fabs(t));
        return {T(__builtin_tanh(t)), T(4.0 * e / ((1.0 + e) * (1.0 + e)))};
    }
    case 4: // e^t
        return {T(__builtin_exp(t)), T(__builtin_exp(t))};
    case 5: // log t
        return {T(1.0 / t), T(-1.0 / (t * t))};
    default:
        return {T(1), T(0)};
    }
}

// ρ(t)
template <class T> inline T transform_value(int transform, double t) {
    switch (transform) {
    case 1: // t²/2
        return T(t * t / 2);
    case 2: // log(1 + e^t)
        return T((t > 0 ? t : 0.0) + __builtin_log1p(__builtin_exp(-__builtin_fabs(t))));
    case 3: // log cosh t
        return T(__builtin_fabs(t) + __builtin_log1p(__builtin_exp(-2.0 * __builtin_fabs(t))) - __builtin_log(2.0));
    case 4: // e^t
        return T(__builtin_exp(t));
    case 5: // log t
        return T(__builtin_log(t));
    default:
        return T(t);
    }
}

// What one row of one module needs: where its parameters lie and how wide its strips are.
template <class T> struct Module {
    int64_t h, width;
    int basis, transform;
    const T *b; // [h]
    T temperature, positive, negative;
    bool two_signs;
};

// Sums over a tile of one module's parameter gradients.  The scalars add up one term for each row: in double.
template <class T> struct ModuleSums {
    T *db; // [width]
    double temperature, positive, negative;
};

// max factor·v over the first h values.
template <class T> inline T largest(const T *v, T factor, int64_t h) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    T top = factor * v[0];
    int64_t j = 0;
    if (h >= lanes) {
        V tops = load(v) * factor;
        for (j = lanes; j + lanes <= h; j += lanes) {
            const V here = load(v + j) * factor;
            tops = select(here > tops, here, tops);
        }
        for (int i = 0; i < lanes; ++i)
            top = tops[i] > top ? tops[i] : top;
    }
    for (; j < h; ++j)
        top = factor * v[j] > top ? factor * v[j] : top;
    return top;
}

// out = softmax(factor·v) over the first h values of a strip, and 0 after them; returns log Σ exp(factor·v).
template <class T> __attribute__((noinline)) T softmax_strip(const T *v, T factor, int64_t h, int64_t width, T *out) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const T top = largest(v, factor, h);
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, v_exp(load(v + j) * factor - top));
    fill_zero(out + h, width - h);
    V sums = {};
    for (int64_t j = 0; j < width; j += lanes)
        sums += load(out + j);
    const T total = horizontal_sum<T>(sums), scale = T(1) / total;
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, load(out + j) * scale);
    return top + T(__builtin_log(double(total)));
}

// u (= W x) becomes v = u + b; hidden units past h become 0.
template <class T> inline void add_shift(const Module<T> &m, T *u) {
    for (int64_t j = 0; j < m.h; ++j)
        u[j] += m.b[j];
    fill_zero(u + m.h, m.width - m.h);
}

// LSE(temperature·v) and LSE(−temperature·v), the latter 0 where it is not needed.
template <class T> struct LogSums {
    T plus, minus;

    T potential(const Module<T> &m) const { return (m.positive * plus + m.negative * minus) / m.temperature; }

    // The gradients of weight·F: of the weights, and of the temperature with along = v·∂F/∂v.
    void add_gradients(const Module<T> &m, T weight, T along, ModuleSums<T> &sums) const {
        sums.positive += double(weight * plus / m.temperature);
        sums.negative += double(weight * minus / m.temperature);
        sums.temperature += double(weight * (along - potential(m)) / m.temperature);
    }
};

// softmax(temperature·v) and softmax(−temperature·v), 0 where it is not needed.
template <class T> inline LogSums<T> both_softmax(const Module<T> &m, const T *v, T *pi, T *omega) {
    const T plus = softmax_strip(v, m.temperature, m.h, m.width, pi);
    if (m.two_signs)
        return {plus, softmax_strip(v, -m.temperature, m.h, m.width, omega)};
    fill_zero(omega, m.width);
    return {plus, T(0)};
}

// v becomes s(temperature·v); returns F.  scratch: two strips.
template <class T> __attribute__((noinline)) T softmax_value(const Module<T> &m, T *v, T *scratch) {
    T *pi = scratch, *omega = scratch + m.width;
    const auto sums = both_softmax(m, v, pi, omega);
    const T positive = m.positive, negative = m.negative;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        store(v + j, load(pi + j) * positive - load(omega + j) * negative);
    return sums.potential(m);
}

// v becomes (∂s/∂v)ᵀ a + weight·∂F/∂v, a becomes s(temperature·v) = ∂F/∂v; the parameters' gradients are added to sums.
// scratch: two strips.
// The temperature's comes from v itself, not from temperature·v over a temperature that may have underflowed.
template <class T>
__attribute__((noinline)) void softmax_gradient(const Module<T> &m, T weight, T *v, T *a, ModuleSums<T> &sums,
                                                T *scratch) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + m.h, m.width - m.h); // a non-finite g times the padding of W is NaN
    T *pi = scratch, *omega = scratch + m.width;
    const auto log_sums = both_softmax(m, v, pi, omega);
    const T a_pi = dot(a, pi, m.width), a_omega = m.two_signs ? dot(a, omega, m.width) : T(0);
    const T positive = m.positive, negative = m.negative, temperature = m.temperature;
    sums.positive += double(a_pi);
    sums.negative -= double(a_omega);
    V dtemperature = {}, along = {};
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V p = positive * load(pi + j), q = negative * load(omega + j), here = load(a + j);
        const V dz = p * (here - a_pi) + q * (here - a_omega);
        const V slope = p - q, dv = temperature * dz + weight * slope;
        dtemperature += dz * load(v + j);
        along += slope * load(v + j);
        store(a + j, slope);
        store(v + j, dv);
        store(sums.db + j, load(sums.db + j) + dv);
    }
    sums.temperature += double(horizontal_sum<T>(dtemperature));
    if (weight != 0) // else 0 times an infinite sum
        log_sums.add_gradients(m, weight, horizontal_sum<T>(along), sums);
}

// Σ_j Ψ(z_j) over the real hidden units, to more than T's precision, for ρ = exp makes its error a relative one; z
// becomes σ(z) and, if needed, slope σ'(z).
template <class T> __attribute__((noinline)) double basis_sum(const Module<T> &m, T *z, T *slope) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const V infinity = broadcast<V>(T(__builtin_inf()));
    V sums = {}, lost = {};
    with_basis(m.basis, [&](auto b) {
        for (int64_t j = 0; j < m.width; j += lanes) {
            V antiderivative, value, first;
            b.antiderivative(load(z + j), antiderivative);
            b.value_first(load(z + j), value, first);
            store(z + j, value);
            if (slope)
                store(slope + j, first);
            for (int64_t i = m.h - j; i < lanes; ++i)
                antiderivative[i] = 0;
            // What rounding loses of the smaller summand; of an infinite sum there is nothing to mend.
            const V total = sums + antiderivative, swallowed = total - sums;
            const V error = (sums - (total - swallowed)) + (antiderivative - swallowed);
            lost += select(absolute(total) < infinity, error, V{});
            sums = total;
        }
    });
    fill_zero(z + m.h, m.width - m.h);
    double total = 0;
    for (int i = 0; i < lanes; ++i)
        total += double(sums[i]) + double(lost[i]);
    return total;
}

// z becomes s(z); returns F.
template <class T> __attribute__((noinline)) T transformed_value(const Module<T> &m, T *z) {
    const double total = basis_sum(m, z, (T *)nullptr);
    const T factor = m.positive * transform_at<T>(m.transform, total).first;
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes)
        store(z + j, load(z + j) * factor);
    return m.positive * transform_value<T>(m.transform, total);
}

// z becomes (∂s/∂z)ᵀ a + potential_weight·∂F/∂z, a becomes s(z) = ∂F/∂z.
template <class T>
__attribute__((noinline)) void transformed_gradient(const Module<T> &m, T potential_weight, T *z, T *a,
                                                    ModuleSums<T> &sums, T *slope) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + m.h, m.width - m.h);
    const double total = basis_sum(m, z, slope);
    const auto rho = transform_at<T>(m.transform, total);
    if (potential_weight != 0) // else 0 times an infinite sum
        sums.positive += double(potential_weight * transform_value<T>(m.transform, total));
    const T weight = m.positive, a_sigma = dot(a, z, m.width);
    sums.positive += double(rho.first * a_sigma);
    for (int64_t j = 0; j < m.width; j += Simd<T>::lanes) {
        const V value = load(z + j);
        const V here = value * (weight * rho.first);
        const V dz = weight * (rho.first * load(a + j) * load(slope + j) + rho.second * a_sigma * value) +
                     potential_weight * here;
        store(z + j, dz);
        store(a + j, here);
        store(sums.db + j, load(sums.db + j) + dz);
    }
}

// Rows so few that a tile's strips stay within about half a megabyte.
template <class T> inline int64_t module_rows(int64_t h, int strips) {
    const int64_t fit = (int64_t(1) << 19) / (round_up(h, Tile<T>::panel) * strips * int64_t(sizeof(T)));
    return larger(Tile<T>::rows, smaller(96, fit / Tile<T>::rows * Tile<T>::rows));
}

// Sums over the batch: db [count, h], then temperature, positive and negative [count] each.
template <class S> struct ModulesMiddle {
    using T = Sum<S>;
    const Modules<S> *problem;

    static int64_t sums(int64_t count, int64_t h) { return count * (h + 3); }
    static int64_t scratch_bytes(int64_t h) { return 3 * round_up(h, Tile<T>::panel) * int64_t(sizeof(T)); }

    void operator()(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *problem;
        const Module<T> module = module_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        const bool softmax = p.basis == kSoftmax;
        if (tile.a == tile.u) {
            for (int64_t i = 0; i < tile.rows; ++i) {
                T *const z = tile.u + i * tile.stride;
                add_shift(module, z);
                const T F = softmax ? softmax_value(module, z, strips) : transformed_value(module, z);
                if (p.points.scalar)
                    tile.scalars[i] += F;
            }
            return;
        }
        ModuleSums<T> sums = zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const z = tile.u + i * tile.stride, *const a = tile.a + i * tile.stride;
            add_shift(module, z);
            const T weight = p.points.weight ? p.points.weight[tile.first_row + i] : T(0);
            softmax ? softmax_gradient(module, weight, z, a, sums, strips)
                    : transformed_gradient(module, weight, z, a, sums, strips);
        }
        add_sums(tile, sums);
    }

    Module<T> module_of(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *problem;
        const int64_t m = tile.block;
        return {p.h,
                tile.width,
                p.basis,
                p.transform,
                p.b + m * p.h,
                p.temperature ? p.temperature[m] : T(1),
                p.positive[m],
                p.negative ? p.negative[m] : T(0),
                p.negative != nullptr};
    }

    // In the tile's scratch memory behind two strips, which are for the rows.
    static ModuleSums<T> zero_sums(const HiddenTile<T> &tile) {
        T *const db = piece<T>(tile.scratch, 0) + 2 * tile.stride;
        fill_zero(db, tile.width);
        return {db, 0, 0, 0};
    }

    void add_sums(const HiddenTile<T> &tile, const ModuleSums<T> &sums) const {
        const Modules<S> &p = *problem;
        T *const db = tile.sums + tile.first_unit, *const scalars = tile.sums + p.count * p.h + tile.block;
        for (int64_t j = 0; j < tile.units; ++j)
            db[j] = sums.db[j] + (tile.first_tile ? 0 : db[j]);
        const double totals[] = {sums.temperature, sums.positive, sums.negative};
        for (int s = 0; s < 3; ++s)
            scalars[s * p.count] = T(totals[s]) + (tile.first_tile ? 0 : scalars[s * p.count]);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        const Modules<S> &p = *problem;
        if (p.db)
            reduce_partials(partials, chunks, size, p.count * p.h, p.db);
        T *const scalars[] = {p.dtemperature, p.dpositive, p.dnegative};
        for (int s = 0; s < 3; ++s)
            if (scalars[s])
                reduce_partials(partials + p.count * (p.h + s), chunks, size, p.count, scalars[s]);
    }
};

template <class P, class S> inline bool modules_on_pipeline(const Modules<S> &p) {
    using T = Sum<S>;
    const bool forward = p.points.g == nullptr;
    const double flops = (forward ? 4.0 * p.d + 20.0 : 10.0 * p.d + 40.0) * double(p.batch) * double(p.h * p.count);
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h * p.count,
                               p.h,
                               module_rows<T>(p.h, forward ? 1 : 2),
                               p.points,
                               p.W,
                               p.bias,
                               p.dW,
                               p.dbias,
                               p.points.v == nullptr,
                               true,
                               flops,
                               ModulesMiddle<S>::sums(p.count, p.h),
                               ModulesMiddle<S>::scratch_bytes(p.h),
                               p.threads};
    return run_pipeline<P, S>(pipeline, ModulesMiddle<S>{&p});
}

} // namespace gradnets::GRADNETS_ISA
