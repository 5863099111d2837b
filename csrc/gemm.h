// The one matrix product: C[m, n] (+)= A[m, k]·B[k, n], A read through run-time strides (so that it may be a
// transpose), B packed into panels of kPanel columns.  Every sum over k runs in ascending order, for every tile size
// and thread count.

template <class T> struct Tile {
    static constexpr int lanes = Simd<T>::lanes;
    static constexpr int rows = GRADNETS_TILE_ROWS;
    static constexpr int vectors = GRADNETS_TILE_VECTORS;
    static constexpr int panel = vectors * lanes;
};

inline int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}
inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

// dst[panel][k][kPanel] from src(k, n) = src[k·row_stride + n·column_stride]; columns past n become 0.
template <class T>
inline void pack_panels(const T *src, int64_t k, int64_t n, int64_t row_stride, int64_t column_stride, T *dst) {
    constexpr int panel = Tile<T>::panel;
    for (int64_t j0 = 0; j0 < n; j0 += panel, dst += k * panel) {
        const int64_t valid = smaller(panel, n - j0);
        for (int64_t p = 0; p < k; ++p) {
            const T *row = src + p * row_stride + j0 * column_stride;
            T *to = dst + p * panel;
            for (int64_t j = 0; j < valid; ++j)
                to[j] = row[j * column_stride];
            for (int64_t j = valid; j < panel; ++j)
                to[j] = 0;
        }
    }
}

// Unrolled over the accumulators: an accumulator array indexed in a loop would live in memory.
template <class T, int rows, int vectors>
inline void multiply_tile(int64_t k, const T *a, int64_t a_row, int64_t a_column, const T *b, T *c, int64_t c_row,
                          int64_t valid, bool accumulate) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Tile<T>::lanes, panel = Tile<T>::panel, columns = vectors * lanes;
    V sum[rows][vectors];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            sum[i][j] = V{};
    for (int64_t p = 0; p < k; ++p, a += a_column, b += panel) {
        V right[vectors];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            right[j] = load(b + j * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i) {
            const V left = broadcast<V>(a[i * a_row]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                sum[i][j] += left * right[j];
        }
    }
    if (valid >= columns) {
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j) {
                T *to = c + i * c_row + j * lanes;
                store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
            }
        return;
    }
    T spill[rows][columns];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j)
            store(&spill[i][j * lanes], sum[i][j]);
    for (int i = 0; i < rows; ++i)
        for (int64_t j = 0; j < valid; ++j)
            c[i * c_row + j] = accumulate ? c[i * c_row + j] + spill[i][j] : spill[i][j];
}

// All rows of one panel, of which `vectors` vectors hold valid columns.
template <class T, int vectors, int rows = Tile<T>::rows>
inline void multiply_panel(int64_t m, int64_t k, const T *a, int64_t a_row, int64_t a_column, const T *b, T *c,
                           int64_t c_row, int64_t valid, bool accumulate) {
    int64_t i = 0;
    for (; i + rows <= m; i += rows)
        multiply_tile<T, rows, vectors>(k, a + i * a_row, a_row, a_column, b, c + i * c_row, c_row, valid, accumulate);
    if constexpr (rows > 1)
        if (i < m)
            multiply_panel<T, vectors, rows - 1>(m - i, k, a + i * a_row, a_row, a_column, b, c + i * c_row, c_row,
                                                 valid, accumulate);
}

// A sum of k products in one accumulator has an error that grows with k; blocks of this many, added up, keep it at the
// level of a library's product and cost one more pass over C each.
static constexpr int64_t kSumBlock = 128;

// C[m, n] (+)= A·B for packed B; columns past n are not written.
template <class T>
inline void multiply(int64_t m, int64_t n, int64_t k, const T *a, int64_t a_row, int64_t a_column, const T *b, T *c,
                     int64_t c_row, bool accumulate) {
    constexpr int panel = Tile<T>::panel;
    for (int64_t j = 0; j < n; j += panel, b += k * panel) {
        for (int64_t p = 0; p < k; p += kSumBlock) {
            const int64_t depth = smaller(kSumBlock, k - p);
            const T *block_a = a + p * a_column, *block_b = b + p * panel;
            const bool add = accumulate || p > 0;
            if (n - j <= Tile<T>::lanes)
                multiply_panel<T, 1>(m, depth, block_a, a_row, a_column, block_b, c + j, c_row, n - j, add);
            else
                multiply_panel<T, Tile<T>::vectors>(m, depth, block_a, a_row, a_column, block_b, c + j, c_row, n - j,
                                                    add);
        }
    }
}
