// The products of a convolution, none of which needs a copy of the image for each tap: pixels and taps are distances in
// memory, and the element of pixel q and tap t lies at data[q + t].
#pragma once

#include "operands.h"

namespace gradnets::GRADNETS_ISA {

// A left factor whose element (i, p) lies at data[row[i] + column[p]]; neighbouring rows are in rising order.
template <class T> struct LeftInPlace {
    const T *data;
    const int64_t *row, *column;
};
// A left factor that was packed for the rows that a tile has, the last ones of fewer: rows i … i + r − 1 from
// data[i·length] on, for each p one after the other; of all `length` values of p those from `first` on count.
template <class T> struct LeftPacked {
    const T *data;
    int64_t length, first;
};
// Where the result's rows lie: row i at data + (row ? row[i] : i·stride).
template <class T> struct ConvResult {
    T *data;
    const int64_t *row;
    int64_t stride;
    T *at(int64_t i) const { return data + (row ? row[i] : i * stride); }
};

// The rows of a tile, of which element (i, p) is at(p)[offset(i)]: one after the other, …
template <class T> struct NeighbouringRows {
    const T *data;
    const int64_t *column;
    const T *at(int64_t p) const { return data + column[p]; }
    static constexpr int64_t offset(int i) { return i; }
};
// … anywhere, …
template <class T, int rows> struct ScatteredRows {
    const T *data;
    const int64_t *column;
    int64_t offsets[rows];
    const T *at(int64_t p) const { return data + column[p]; }
    int64_t offset(int i) const { return offsets[i]; }
};
// … or packed.
template <class T, int rows> struct PackedRows {
    const T *data;
    const T *at(int64_t p) const { return data + p * rows; }
    static constexpr int64_t offset(int i) { return i; }
};

// The columns of a tile, of which row p starts at at(p): a panel of a packed factor, or in place.
template <class T> struct PanelColumns {
    const T *data;
    int64_t row;
    const T *at(int64_t p) const { return data + p * row; }
};
template <class T> struct ColumnsInPlace {
    const T *data;
    const int64_t *row;
    const T *at(int64_t p) const { return data + row[p]; }
};

// to (+)= Σ_p element (i, p)·right.at(p)[j].
template <class T, int rows, int vectors, class Rows, class Columns>
inline void conv_tile(int64_t k, const Rows &left, const Columns &right_factor, const ConvResult<T> &to, int64_t first,
                      int64_t column, bool accumulate) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Tile<T>::lanes;
    V sum[rows][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            sum[i][j] = V{};
    for (int64_t p = 0; p < k; ++p) {
        const T *const at = left.at(p), *const b = right_factor.at(p);
        V right[vectors];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            right[j] = load(b + j * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
            const V value = broadcast<V>(at[left.offset(i)]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                sum[i][j] += value * right[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
        T *const row = to.at(first + i) + column;
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            store(row + j * lanes, accumulate ? load(row + j * lanes) + sum[i][j] : sum[i][j]);
    }
}

template <int N> struct Count {
    static constexpr int value = N;
};
// body(the smaller of `most` and count, known to the compiler)
template <int most, class F> GRADNETS_INLINE void with_at_most(int64_t count, const F &body) {
    if constexpr (most > 1)
        if (count < most)
            return with_at_most<most - 1>(count, body);
    body(Count<most>{});
}

template <class T> constexpr int64_t vectors_of(int64_t columns) {
    return (columns + Tile<T>::lanes - 1) / Tile<T>::lanes;
}

// to[m, n] (+)= left·right, left [m, k]; whole vectors are written.
template <class T>
inline void conv_product(int64_t m, int64_t n, int64_t k, const LeftInPlace<T> &left, const Right<T> &right,
                         const ConvResult<T> &to, bool accumulate) {
    constexpr int64_t panel = Tile<T>::panel;
    for (int64_t j = 0; j < n; j += panel)
        for (int64_t p = 0; p < k; p += kSumBlock) {
            const PanelColumns<T> columns{right.data + j / panel * right.step + p * right.row, right.row};
            const int64_t *const column = left.column + p, length = smaller(kSumBlock, k - p);
            with_at_most<Tile<T>::vectors>(vectors_of<T>(n - j), [&](auto vectors) {
                for (int64_t i = 0; i < m; i += Tile<T>::rows)
                    with_at_most<Tile<T>::rows>(m - i, [&](auto count) {
                        constexpr int rows = decltype(count)::value;
                        const int64_t *const row = left.row + i;
                        const T *const data = left.data + row[0];
                        const auto multiply = [&](const auto &of_tile) __attribute__((always_inline)) {
                            conv_tile<T, rows, decltype(vectors)::value>(length, of_tile, columns, to, i, j,
                                                                         accumulate || p > 0);
                        };
                        if (row[rows - 1] - row[0] == rows - 1)
                            return multiply(NeighbouringRows<T>{data, column});
                        ScatteredRows<T, rows> scattered{data, column, {}};
                        for (int r = 0; r < rows; ++r)
                            scattered.offsets[r] = row[r] - row[0];
                        multiply(scattered);
                    });
            });
        }
}
template <class T>
inline void conv_product(int64_t m, int64_t n, int64_t k, const LeftPacked<T> &left, const Right<T> &right,
                         const ConvResult<T> &to, bool accumulate) {
    constexpr int64_t panel = Tile<T>::panel;
    for (int64_t i = 0; i < m; i += Tile<T>::rows)
        with_at_most<Tile<T>::rows>(m - i, [&](auto count) {
            constexpr int rows = decltype(count)::value;
            const T *const data = left.data + i * left.length + left.first * rows;
            for (int64_t j = 0; j < n; j += panel)
                for (int64_t p = 0; p < k; p += kSumBlock)
                    with_at_most<Tile<T>::vectors>(vectors_of<T>(n - j), [&](auto vectors) {
                        const PanelColumns<T> columns{right.data + j / panel * right.step + p * right.row, right.row};
                        const PackedRows<T, rows> of_tile{data + p * rows};
                        conv_tile<T, rows, decltype(vectors)::value>(smaller(kSumBlock, k - p), of_tile, columns, to, i,
                                                                     j, accumulate || p > 0);
                    });
        });
}

} // namespace gradnets::GRADNETS_ISA
