// The elementwise steps of a deep network on a tile: templates of the type of sums, so that there are few copies.
#pragma once

#include "deep_shape.h"

namespace gradnets::GRADNETS_ISA {

// Two tiles of which a pass reads one and writes the other take turns.
template <class T> inline void exchange(T *&a, T *&b) {
    T *const first = a;
    a = b;
    b = first;
}

// A derivative of σ at u, which the tables make a number where u is NaN and σ piecewise linear.
template <class V> GRADNETS_INLINE V or_nan(V u, V derivative) {
    return select(u == u, derivative, u);
}

// Padding of tiles of values that depend on points is 0: weights 0 of padding times an infinite point are NaN.
template <class T> inline void deep_clear_padding(T *tile, int64_t rows, int64_t width, int64_t stride) {
    if (width < stride)
        for (int64_t i = 0; i < rows; ++i)
            fill_zero(tile + i * stride + width, stride - width);
}

// A layer's tile on the way up.  Rows [rows, stride] of u become a = σ(u + b); τ becomes t = σ'·τ; slopes becomes σ'
// and curves σ''·τ.  The last two with tangents only; before_a and before_t, of a residual layer, are added to a and t.
template <class T> struct DeepUp {
    T *u, *tangent, *slopes, *curves;
    const T *bias, *before_a, *before_t;
    int64_t rows, stride;
};

template <class T> __attribute__((noinline)) void deep_up(int basis, const DeepUp<T> &tile) {
    using V = typename Simd<T>::Vector;
    with_basis(basis, [&](auto b) {
        for (int64_t i = 0; i < tile.rows * tile.stride; i += tile.stride)
            for (int64_t j = 0; j < tile.stride; j += Simd<T>::lanes) {
                const int64_t at = i + j;
                const V u = load(tile.u + at) + load(tile.bias + j);
                V value, slope;
                b.value_first(u, value, slope);
                store(tile.slopes + at, or_nan(u, slope));
                store(tile.u + at, tile.before_a ? value + load(tile.before_a + at) : value);
            }
    });
}

template <class T> __attribute__((noinline)) void deep_up_tangent(int basis, const DeepUp<T> &tile) {
    using V = typename Simd<T>::Vector;
    with_basis(basis, [&](auto b) {
        for (int64_t i = 0; i < tile.rows * tile.stride; i += tile.stride)
            for (int64_t j = 0; j < tile.stride; j += Simd<T>::lanes) {
                const int64_t at = i + j;
                const V u = load(tile.u + at) + load(tile.bias + j), tau = load(tile.tangent + at);
                V value, slope, curve;
                b.value_first_second(u, value, slope, curve);
                slope = or_nan(u, slope);
                store(tile.slopes + at, slope);
                store(tile.curves + at, curve * tau);
                store(tile.u + at, tile.before_a ? value + load(tile.before_a + at) : value);
                store(tile.tangent + at, tile.before_t ? slope * tau + load(tile.before_t + at) : slope * tau);
            }
    });
}

template <class T, class F> inline void each_vector(int64_t rows, int64_t stride, const F &body) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < stride; j += Simd<T>::lanes)
            body(i, j, i * stride + j);
}

// u becomes a = σ(u + b), and the derivatives of σ there are stored.
template <class T>
__attribute__((noinline)) void deep_up_third(int basis, int64_t rows, int64_t stride, const T *bias, const T *before,
                                             T *u, T *slopes, T *curves, T *thirds) {
    using V = typename Simd<T>::Vector;
    with_basis(basis, [&](auto b) {
        each_vector<T>(rows, stride, [&](int64_t, int64_t j, int64_t at) {
            const V argument = load(u + at) + load(bias + j);
            V value, slope, curve, third;
            b.value_to_third(argument, value, slope, curve, third);
            store(u + at, before ? value + load(before + at) : value);
            store(slopes + at, or_nan(argument, slope));
            store(curves + at, or_nan(argument, curve));
            store(thirds + at, third);
        });
    });
}

// p becomes s = σ'·p, and r, where there is one, e = σ''τ·p + σ'·r.
template <class T>
__attribute__((noinline)) void deep_down(T *p, T *r, const T *slopes, const T *curves, int64_t count) {
    using V = typename Simd<T>::Vector;
    for (int64_t j = 0; j < count; j += Simd<T>::lanes) {
        const V slope = load(slopes + j), above = load(p + j);
        store(p + j, slope * above);
        if (r)
            store(r + j, load(curves + j) * above + slope * load(r + j));
    }
}

// u += Σ_r y_r²;  τ += 2 Σ_r y_r·(Q_r v), of u and τ those that are there.  A row of y is rank·stride long.
template <class T>
__attribute__((noinline)) void deep_add_squares(const T *y, const T *y_tangent, int64_t rows, int64_t stride,
                                                int64_t rank, T *u, T *tangent) {
    using V = typename Simd<T>::Vector;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t r = 0; r < rank; ++r)
            for (int64_t j = 0; j < stride; j += Simd<T>::lanes) {
                const int64_t from = (i * rank + r) * stride + j, to = i * stride + j;
                const V value = load(y + from);
                if (u)
                    store(u + to, load(u + to) + value * value);
                if (tangent)
                    store(tangent + to, load(tangent + to) + T(2) * value * load(y_tangent + from));
            }
}

// y_r becomes 2 y_r·s, and Q_r v, where there is one, 2 (y_r·e + (Q_r v)·s).
template <class T>
__attribute__((noinline)) void deep_squares_down(T *y, T *y_tangent, int64_t rows, int64_t stride, int64_t rank,
                                                 const T *s, const T *e) {
    using V = typename Simd<T>::Vector;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t r = 0; r < rank; ++r)
            for (int64_t j = 0; j < stride; j += Simd<T>::lanes) {
                const int64_t at = (i * rank + r) * stride + j, from = i * stride + j;
                const V value = T(2) * load(y + at), factor = load(s + from);
                store(y + at, value * factor);
                if (y_tangent)
                    store(y_tangent + at, value * load(e + from) + T(2) * load(y_tangent + at) * factor);
            }
}

// out[j] (+)= Σ_i w_i·a[i, j], in ascending i; w null stands for ones.
template <class T>
__attribute__((noinline)) void deep_column_sums(const T *a, int64_t rows, int64_t stride, const T *w, bool accumulate,
                                                T *out) {
    using V = typename Simd<T>::Vector;
    for (int64_t j = 0; j < stride; j += Simd<T>::lanes) {
        V sum = accumulate ? load(out + j) : V{};
        for (int64_t i = 0; i < rows; ++i)
            sum += w ? w[i] * load(a + i * stride + j) : load(a + i * stride + j);
        store(out + j, sum);
    }
}

} // namespace gradnets::GRADNETS_ISA
