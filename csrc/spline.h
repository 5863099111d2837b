// φ(u) = s(scale·u + shift), s linear between T uniform knots on [−1, 1], where its values are the coefficients, and
// with the slopes of the first and the last cell beyond them: the cascade's functions (cascade.h) for a profile that
// each hidden unit learns.  φ'' is 0 between the knots; at a knot the slope is that of the cell behind it.
#pragma once

#include "cascade_second.h"

namespace gradnets::GRADNETS_ISA {

// Of each lane its cell, the place in it in units of its width, and the values at its ends.
template <int N, class V> struct SplineCells {
    typename Simd<ScalarOf<V>>::Integers at[N];
    V place[N], low[N], high[N];
};

// The cells of one unit of z, half of all.
template <class T> inline T cells_per_unit(const ParameterIndex &index) {
    return T(index.terms - 1) / 2;
}

template <int N, class V, class Parameters>
GRADNETS_INLINE void find_cells(const ParameterIndex &index, const Parameters &parameter, const V (&u)[N],
                                SplineCells<N, V> &cells) {
    using T = ScalarOf<V>;
    const V scale = parameter(index.scale(0)), shift = parameter(index.shift(0));
    const V last = broadcast<V>(T(index.terms - 2));
    GRADNETS_EACH {
        const V s = (scale * u[i] + shift + T(1)) * cells_per_unit<T>(index);
        const V inside = select(s > V{}, minimum(s, last), V{}); // a number, of NaN too
        cells.at[i] = __builtin_convertvector(inside, typename Simd<T>::Integers);
        cells.place[i] = s - __builtin_convertvector(cells.at[i], V);
        T low[Simd<T>::lanes], high[Simd<T>::lanes];
        for (int l = 0; l < Simd<T>::lanes; ++l) {
            const int number = index.coef(0, int(cells.at[i][l]));
            low[l] = parameter.at(number, l);
            high[l] = parameter.at(number + 1, l);
        }
        cells.low[i] = load(low);
        cells.high[i] = load(high);
    }
}

// to += low and high, each at its end of the cell, lane by lane.
template <int N, class V, class T>
GRADNETS_INLINE void add_to_ends(const ParameterIndex &index, const SplineCells<N, V> &cells, const V (&low)[N],
                                 const V (&high)[N], const ParameterGradients<T> &to) {
    for (int i = 0; i < N; ++i)
        for (int l = 0; l < Simd<T>::lanes; ++l) {
            T *const at = to.data + index.coef(0, int(cells.at[i][l])) * to.stride + l;
            at[0] += low[i][l];
            at[to.stride] += high[i][l];
        }
}

template <int N, class V, class Parameters>
GRADNETS_INLINE void block_value(const ParameterIndex &index, const SplineBases &, const Parameters &parameter,
                                 V (&u)[N]) {
    SplineCells<N, V> cells;
    find_cells(index, parameter, u, cells);
    GRADNETS_EACH u[i] = cells.low[i] + cells.place[i] * (cells.high[i] - cells.low[i]);
}

template <int N, class V, class Parameters, class T>
GRADNETS_INLINE void block_gradient(const ParameterIndex &index, const SplineBases &, const Parameters &parameter,
                                    V (&u)[N], V (&a)[N], const ParameterGradients<T> &to, V *) {
    SplineCells<N, V> cells;
    find_cells(index, parameter, u, cells);
    const V scale = parameter(index.scale(0));
    V slope[N], low[N], high[N];
    GRADNETS_EACH {
        slope[i] = a[i] * ((cells.high[i] - cells.low[i]) * cells_per_unit<T>(index));
        high[i] = a[i] * cells.place[i];
        low[i] = a[i] - high[i];
    }
    if (to.coef)
        add_to_ends(index, cells, low, high, to);
    if (to.shift)
        add_block<N>(slope, to, index.shift(0));
    if (to.scale) {
        V product[N];
        GRADNETS_EACH product[i] = slope[i] * u[i];
        add_block<N>(product, to, index.scale(0));
    }
    GRADNETS_EACH {
        u[i] = cells.low[i] + cells.place[i] * (cells.high[i] - cells.low[i]);
        a[i] = slope[i] * scale;
    }
}

template <int N, class V, class Parameters>
inline void block_slope(const ParameterIndex &index, const SplineBases &, const Parameters &parameter, V (&u)[N]) {
    using T = ScalarOf<V>;
    SplineCells<N, V> cells;
    find_cells(index, parameter, u, cells);
    const V scale = parameter(index.scale(0)) * cells_per_unit<T>(index);
    GRADNETS_EACH u[i] = select(u[i] == u[i], (cells.high[i] - cells.low[i]) * scale, u[i]);
}

template <int N, class V, class Parameters, class T>
inline void block_second(const ParameterIndex &index, const SplineBases &, const Parameters &parameter, V (&u)[N],
                         const V (&q)[N], V (&slope)[N], const ParameterGradients<T> &to, V *) {
    SplineCells<N, V> cells;
    find_cells(index, parameter, u, cells);
    const V scale = parameter(index.scale(0));
    V in_scale[N], low[N], high[N];
    GRADNETS_EACH {
        const V rise = (cells.high[i] - cells.low[i]) * cells_per_unit<T>(index);
        slope[i] = rise * scale;
        in_scale[i] = q[i] * rise;
        high[i] = q[i] * scale * cells_per_unit<T>(index);
        low[i] = -high[i];
        u[i] = select(u[i] == u[i], V{}, u[i]);
    }
    if (to.coef)
        add_to_ends(index, cells, low, high, to);
    if (to.scale)
        add_block<N>(in_scale, to, index.scale(0));
}

// body(cell, from, to, start, length) for the pieces of [0, u], each in one cell: its ends in the cell, in units of the
// cell's width, and the start and the length of the piece, as parts of u.
template <class T, class F> inline void each_piece(const ParameterIndex &index, T scale, T shift, T u, const F &body) {
    const T last = T(index.terms - 2), first = (shift + T(1)) * cells_per_unit<T>(index);
    const T end = (scale * u + shift + T(1)) * cells_per_unit<T>(index);
    const auto cell = [&](T s) { return s > T(0) ? int(s < last ? s : last) : 0; };
    const int to = cell(end), step = end > first ? 1 : -1;
    int at = cell(first);
    T from = first;
    if (at != to) {
        const T whole = end - first;
        for (; at != to; at += step) {
            const T edge = T(step > 0 ? at + 1 : at);
            body(at, from - T(at), edge - T(at), (from - first) / whole, (edge - from) / whole);
            from = edge;
        }
        body(to, from - T(to), end - T(to), (from - first) / whole, (end - from) / whole);
    } else {
        body(to, first - T(to), end - T(to), T(0), T(1));
    }
}

// ∫_0^u φ.
template <class V, class Parameters>
inline V spline_potential(const ParameterIndex &index, const Parameters &parameter, V u) {
    using T = ScalarOf<V>;
    for (int l = 0; l < Simd<T>::lanes; ++l) {
        const T of = u[l];
        T sum = 0;
        each_piece<T>(index, parameter.at(index.scale(0), l), parameter.at(index.shift(0), l), of,
                      [&](int cell, T from, T to, T, T length) {
                          const int number = index.coef(0, cell);
                          const T low = parameter.at(number, l), high = parameter.at(number + 1, l);
                          sum += length * (low + (from + to) / 2 * (high - low));
                      });
        u[l] = of * sum;
    }
    return u;
}

// to += weight·∂/∂θ ∫_0^u φ.
template <class V, class Parameters, class T>
inline void spline_potential_gradient(const ParameterIndex &index, const Parameters &parameter, const V (&u)[1],
                                      const V (&weight)[1], const ParameterGradients<T> &to) {
    for (int l = 0; l < Simd<T>::lanes; ++l) {
        const T of = u[0][l];
        T in_shift = 0, in_scale = 0;
        each_piece<T>(index, parameter.at(index.scale(0), l), parameter.at(index.shift(0), l), of,
                      [&](int cell, T from, T end, T start, T length) {
                          const int number = index.coef(0, cell);
                          const T slope = (parameter.at(number + 1, l) - parameter.at(number, l)) *
                                          cells_per_unit<T>(index),
                                  part = weight[0][l] * of * length, high = part * ((from + end) / 2);
                          in_shift += part * slope;
                          in_scale += part * slope * (of * (start + length / 2));
                          if (to.coef) {
                              to.data[number * to.stride + l] += part - high;
                              to.data[(number + 1) * to.stride + l] += high;
                          }
                      });
        if (to.shift)
            to.data[index.shift(0) * to.stride + l] += in_shift;
        if (to.scale)
            to.data[index.scale(0) * to.stride + l] += in_scale;
    }
}

} // namespace gradnets::GRADNETS_ISA
