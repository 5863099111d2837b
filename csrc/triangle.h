// A symmetric matrix [d, d] as its `count` = d(d + 1)/2 entries (r, c) with r <= c, row by row.  A network's Jacobian
// is linear in the slopes s of its hidden units, so that for a whole tile of the batch
//     J = s Q,  Q_jt = W_jr·W_jc,      ∂S/∂s = G Q'ᵀ,  Q'_jt = Q_jt for r = c, else 2 Q_jt,      D = Gᵀ s
// are matrix products whose right factor all rows share, half as large as products with whole matrices.  G holds
// (G_rc + G_cr)/2; Σ_rows s_j G w_j follows from D.  In the backward pass the entries are cut into pieces of kPiece.
#pragma once

#include "pipeline.h"

namespace gradnets::GRADNETS_ISA {

template <class S> struct Triangle {
    using T = Sum<S>;
    using V = typename Simd<T>::Vector;
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;
    static constexpr int64_t kPiece = 64;

    int64_t d = 0, count = 0;

    explicit Triangle(int64_t dimension) : d(dimension), count(dimension * (dimension + 1) / 2) {}

    // Q costs hidden·count values once a call, which few rows do not repay.
    bool serves(int64_t batch, int64_t hidden) const {
        return batch > kSmallBatch && d <= 64 && hidden * count <= int64_t(1) << 22;
    }
    int64_t row() const { return round_up(count, lanes); }
    int64_t pieces() const { return (count + kPiece - 1) / kPiece; }
    int64_t piece_size(int64_t number) const { return smaller(kPiece, count - number * kPiece); }

    // Q of `units` rows of W [units, d] as a right factor with k along the hidden units; `line`: row() values.
    void pack_products(const S *W, int64_t units, T *line, T *to) const {
        fill_zero(line + count, row() - count);
        for (int64_t j = 0; j < units; ++j, W += d) {
            T *at = line;
            for (int64_t r = 0; r < d; ++r) {
                const T w = widen(W[r]);
                for (int64_t c = r; c < d; ++c)
                    *at++ = w * widen(W[c]);
            }
            for (int64_t t = 0; t < row(); t += lanes)
                store(to + (t / panel * units + j) * panel + t % panel, load(line + t));
        }
    }

    // Q' as a right factor with k along the entries, from W packed in panels of hidden units, `width` of them.
    void pack_doubled_products(const T *packed_W, int64_t width, T *to) const {
        for (int64_t j0 = 0; j0 < width; j0 += panel, packed_W += d * panel)
            for (int64_t r = 0; r < d; ++r)
                for (int64_t c = r; c < d; ++c, to += panel)
                    for (int64_t j = 0; j < panel; j += lanes) {
                        const V product = load(packed_W + r * panel + j) * load(packed_W + c * panel + j);
                        store(to + j, r == c ? product : product + product);
                    }
    }

    // c·y yᵀ added to the entries of a row.
    void add_outer(T c, const T *y, T *entries) const {
        for (int64_t r = 0; r < d; ++r) {
            const T left = c * y[r];
            for (int64_t column = r; column < d; ++column)
                *entries++ += left * y[column];
        }
    }

    void spread(const T *entries, S *matrix) const {
        for (int64_t r = 0; r < d; ++r) {
            for (int64_t c = r; c < d; ++c)
                narrow(entries[c - r], matrix[r * d + c]);
            for (int64_t c = r + 1; c < d; ++c)
                matrix[c * d + r] = matrix[r * d + c];
            entries += d - r;
        }
    }

    // Row i of `rows` rows of G: entry t lies at [t / kPiece][i][t % kPiece].
    void gather(const S *matrix, int64_t i, int64_t rows, T *to) const {
        int64_t t = 0;
        for (int64_t r = 0; r < d; ++r)
            for (int64_t c = r; c < d; ++c, ++t)
                to[(t / kPiece * rows + i) * kPiece + t % kPiece] =
                    (widen(matrix[r * d + c]) + widen(matrix[c * d + r])) / 2;
    }

    // weights [d, stride] += Σ_rows s_j G w_j from the `size` entries of D [size, stride] that begin with entry (r, c).
    void add_weight_sums(const T *D, int64_t size, int64_t r, int64_t c, const T *packed_W, int64_t width,
                         int64_t stride, T *weights) const {
        for (int64_t j = 0; j < width; j += lanes) {
            const T *const w = packed_W + j / panel * panel * d + j % panel;
            T *const to = weights + j;
            for (int64_t t = 0, row = r, column = c; t < size; ++row, column = row) {
                const V w_row = load(w + row * panel);
                V sum = load(to + row * stride);
                if (column == row)
                    sum += load(D + t++ * stride + j) * w_row, ++column;
                for (; column < d && t < size; ++column, ++t) {
                    const V entry = load(D + t * stride + j);
                    sum += entry * load(w + column * panel);
                    store(to + column * stride, load(to + column * stride) + entry * w_row);
                }
                store(to + row * stride, sum);
            }
        }
    }
};

} // namespace gradnets::GRADNETS_ISA
