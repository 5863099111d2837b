// The products of a convolution, none of which needs a copy of the image for each tap: pixels and taps are distances in
// memory, and the element of pixel q and tap t lies at data[q + t].
#pragma once

#include "operands.h"

namespace gradnets::GRADNETS_ISA {

// The left factor of a product: element (i, p) at row(i)[distance ? distance[p] : p].
// The right one: element (p, j) of panel q at data[q·step + p·row + j].  Row i of the result is at to(i).
template <class T, int rows, int vectors>
inline void conv_tile(int64_t k, const T *const (&a)[rows], const int64_t *distance, const T *b, int64_t b_row,
                      T *const (&c)[rows], bool accumulate) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Tile<T>::lanes;
    V sum[rows][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            sum[i][j] = V{};
    const auto add = [&](int64_t at) __attribute__((always_inline)) {
        V right[vectors];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            right[j] = load(b + j * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
            const V left = broadcast<V>(a[i][at]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                sum[i][j] += left * right[j];
        }
        b += b_row;
    };
    if (distance)
        for (int64_t p = 0; p < k; ++p)
            add(distance[p]);
    else
        for (int64_t p = 0; p < k; ++p)
            add(p);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) {
            T *const to = c[i] + j * lanes;
            store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
        }
}

template <class T, int vectors, int rows = Tile<T>::rows, class From, class To>
inline void conv_panel(int64_t m, int64_t i, int64_t k, const From &row, const int64_t *distance, const T *b,
                       int64_t b_row, const To &to, bool accumulate) {
    for (; i + rows <= m; i += rows) {
        const T *a[rows];
        T *c[rows];
        for (int r = 0; r < rows; ++r) {
            a[r] = row(i + r);
            c[r] = to(i + r);
        }
        conv_tile<T, rows, vectors>(k, a, distance, b, b_row, c, accumulate);
    }
    if constexpr (rows > 1)
        if (i < m)
            conv_panel<T, vectors, rows - 1>(m, i, k, row, distance, b, b_row, to, accumulate);
}

template <class T, int vectors = Tile<T>::vectors, class From, class To>
inline void conv_columns(int64_t m, int64_t n, int64_t k, const From &row, const int64_t *distance, const T *b,
                         int64_t b_row, const To &to, bool accumulate) {
    if constexpr (vectors > 1)
        if (n <= (vectors - 1) * Tile<T>::lanes)
            return conv_columns<T, vectors - 1>(m, n, k, row, distance, b, b_row, to, accumulate);
    conv_panel<T, vectors>(m, 0, k, row, distance, b, b_row, to, accumulate);
}

// to(i)[0 … n) (+)= Σ_p element (i, p)·b(p); whole vectors are written.
template <class T, class From, class To>
inline void conv_product(int64_t m, int64_t n, int64_t k, const From &row, const int64_t *distance, const Right<T> &b,
                         const To &to, bool accumulate) {
    constexpr int64_t panel = Tile<T>::panel;
    for (int64_t j = 0, q = 0; j < n; j += panel, ++q)
        for (int64_t p = 0; p < k; p += kSumBlock)
            conv_columns<T>(
                m, smaller(panel, n - j), smaller(kSumBlock, k - p),
                [&](int64_t i) { return row(i) + (distance ? 0 : p); }, distance ? distance + p : nullptr,
                b.data + q * b.step + p * b.row, b.row, [&](int64_t i) { return to(i) + j; }, accumulate || p > 0);
}

} // namespace gradnets::GRADNETS_ISA
