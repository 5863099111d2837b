// The one matrix product: C[m, n] (+)= Σ_s A_s[m, k]·B_s[k, n], A read through run-time strides (so that it may be a
// transpose), B in panels of Tile::panel columns.  Every sum over k runs in ascending order, for every tile size and
// thread count.
#pragma once

#include "simd.h"

namespace gradnets::GRADNETS_ISA {

inline int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}
inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

template <class T> struct Tile {
    static constexpr int lanes = Simd<T>::lanes;
    static constexpr int rows = GRADNETS_TILE_ROWS;
    static constexpr int vectors = GRADNETS_TILE_VECTORS;
    static constexpr int panel = vectors * lanes;
};

// How elements are multiplied: one number at a time.
template <class T> struct Plain {
    using Element = T;
    using Total = T;
    using Operand = typename Simd<T>::Vector;
    static constexpr int depth = 1;
    static Operand broadcast_left(const T *a) { return broadcast<Operand>(*a); }
    static Operand load_right(const T *b) { return load(b); }
    static Operand add_product(Operand sum, Operand a, Operand b) { return sum + a * b; }
};

#ifdef GRADNETS_BF16_DOT
// Pairs of bfloat16 that adjoin along k, multiplied and summed in float by one instruction.
struct Pairs {
    using Element = uint32_t;
    using Total = float;
    using Operand = __m512i;
    static constexpr int depth = 2;
    static Operand broadcast_left(const uint32_t *a) { return _mm512_set1_epi32(int(*a)); }
    static Operand load_right(const uint32_t *b) { return _mm512_loadu_si512(b); }
    static Simd<float>::Vector add_product(Simd<float>::Vector sum, Operand a, Operand b) {
        return (Simd<float>::Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }
};
#endif

// The left factor: element (i, p) at data[i·row + p·column].
template <class E> struct Left {
    const E *data;
    int64_t row, column;
};

// The right factor: element (p, j) of panel q at data[q·step + p·row + j]; the last panel may lie at `tail`.
template <class E> struct Right {
    const E *data;
    int64_t row, step;
    const E *tail = nullptr;
    int64_t tail_row = 0;
};

template <class E> struct Factors {
    Left<E> a;
    Right<E> b;
};

// Unrolled over the accumulators: an accumulator array indexed in a loop would live in memory.
template <class P, int rows, int vectors>
inline void multiply_tile(int64_t k, const typename P::Element *const *a, const typename P::Element *const *b,
                          const Factors<typename P::Element> *factors, int count, bool tail, typename P::Total *c,
                          int64_t c_row, bool accumulate) {
    using T = typename P::Total;
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Tile<T>::lanes;
    V sum[rows][vectors];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            sum[i][j] = V{};
    for (int s = 0; s < count; ++s) {
        const typename P::Element *left = a[s], *right = b[s];
        const int64_t a_row = factors[s].a.row, a_column = factors[s].a.column;
        const int64_t b_row = tail ? factors[s].b.tail_row : factors[s].b.row;
        for (int64_t p = 0; p < k; ++p, left += a_column, right += b_row) {
            typename P::Operand operand[vectors];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                operand[j] = P::load_right(right + j * lanes);
#pragma GCC unroll 8
            for (int i = 0; i < rows; ++i) {
                const typename P::Operand scalar = P::broadcast_left(left + i * a_row);
#pragma GCC unroll 8
                for (int j = 0; j < vectors; ++j)
                    sum[i][j] = P::add_product(sum[i][j], scalar, operand[j]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) {
            T *to = c + i * c_row + j * lanes;
            store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
        }
}

static constexpr int kMostFactors = 3;

// All m rows of one panel, `vectors` vectors wide, for the products k_first … k_first + k.
template <class P, int vectors, int rows = Tile<typename P::Total>::rows>
inline void multiply_panel(int64_t m, int64_t i, int64_t k_first, int64_t k,
                           const Factors<typename P::Element> *factors, int count, int64_t panel, bool tail,
                           typename P::Total *c, int64_t c_row, bool accumulate) {
    using E = typename P::Element;
    const E *b[kMostFactors];
    for (int s = 0; s < count; ++s) {
        const Right<E> &right = factors[s].b;
        b[s] = tail ? right.tail + k_first * right.tail_row : right.data + panel * right.step + k_first * right.row;
    }
    for (; i + rows <= m; i += rows) {
        const E *a[kMostFactors];
        for (int s = 0; s < count; ++s)
            a[s] = factors[s].a.data + i * factors[s].a.row + k_first * factors[s].a.column;
        multiply_tile<P, rows, vectors>(k, a, b, factors, count, tail, c + i * c_row, c_row, accumulate);
    }
    if constexpr (rows > 1)
        if (i < m)
            multiply_panel<P, vectors, rows - 1>(m, i, k_first, k, factors, count, panel, tail, c, c_row, accumulate);
}

template <class P, int vectors = Tile<typename P::Total>::vectors>
inline void multiply_columns(int64_t m, int64_t n, int64_t k_first, int64_t k,
                             const Factors<typename P::Element> *factors, int count, int64_t panel, bool tail,
                             typename P::Total *c, int64_t c_row, bool accumulate) {
    if constexpr (vectors > 1)
        if (n <= (vectors - 1) * Tile<typename P::Total>::lanes)
            return multiply_columns<P, vectors - 1>(m, n, k_first, k, factors, count, panel, tail, c, c_row,
                                                    accumulate);
    multiply_panel<P, vectors>(m, 0, k_first, k, factors, count, panel, tail, c, c_row, accumulate);
}

// A sum of k products in one accumulator has an error that grows with k; blocks of this many, added up, keep it at the
// level of a library's product and cost one more pass over C each.
static constexpr int64_t kSumBlock = 128;

// C (+)= Σ_s A_s·B_s; writes whole vectors, so C's rows hold round_up(n, lanes) values.  k counts elements.
template <class P>
inline void multiply(int64_t m, int64_t n, int64_t k, const Factors<typename P::Element> *factors, int count,
                     typename P::Total *c, int64_t c_row, bool accumulate) {
    constexpr int panel = Tile<typename P::Total>::panel;
    for (int64_t j = 0, q = 0; j < n; j += panel, ++q) {
        const bool tail = factors[0].b.tail != nullptr && j + panel > n;
        for (int64_t p = 0; p < k; p += kSumBlock)
            multiply_columns<P>(m, smaller(panel, n - j), p, smaller(kSumBlock, k - p), factors, count, q, tail, c + j,
                                c_row, accumulate || p > 0);
    }
}

// The products of `rows` rows of x with `columns` rows of W, both read along d where they lie.
template <class T, int rows, int columns>
inline void dot_tile(int64_t d, const T *x, int64_t x_row, const T *W, int64_t W_row, T *u, int64_t u_row) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Tile<T>::lanes;
    V sum[rows][columns];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j)
            sum[i][j] = V{};
    for (int64_t p = 0; p < d; p += lanes) {
        V right[columns];
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j)
            right[j] = p + lanes <= d ? load(W + j * W_row + p) : load_part(W + j * W_row + p, d - p);
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i) {
            const V left = p + lanes <= d ? load(x + i * x_row + p) : load_part(x + i * x_row + p, d - p);
#pragma GCC unroll 8
            for (int j = 0; j < columns; ++j)
                sum[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < columns; ++j)
            u[i * u_row + j] = horizontal_sum<T>(sum[i][j]);
}

// u[m, n] = x[m, d]·W[n, d]ᵀ with nothing packed: for batches too small to pay for packing.
template <class T>
inline void multiply_dots(int64_t m, int64_t n, int64_t d, const T *x, int64_t x_row, const T *W, int64_t W_row, T *u,
                          int64_t u_row) {
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) {
        int64_t i = 0;
        for (; i + 4 <= m; i += 4)
            dot_tile<T, 4, 4>(d, x + i * x_row, x_row, W + j * W_row, W_row, u + i * u_row + j, u_row);
        for (; i < m; ++i)
            dot_tile<T, 1, 4>(d, x + i * x_row, x_row, W + j * W_row, W_row, u + i * u_row + j, u_row);
    }
    for (; j < n; ++j)
        for (int64_t i = 0; i < m; ++i)
            dot_tile<T, 1, 1>(d, x + i * x_row, x_row, W + j * W_row, W_row, u + i * u_row + j, u_row);
}

} // namespace gradnets::GRADNETS_ISA
