// A symmetric positive definite, A = L Lᵀ:
//     log det A = 2 Σ_i log L_ii        A⁻¹ = XᵀX, X = L⁻¹
// of a batch of small matrices, one to a lane, so that every step is a vector's and no matrix waits for another.
//
// A group of matrices lies in one block [d, d] of vectors, d rounded up to whole blocks by ones on the diagonal.  Its
// lower triangle is L, its upper one Xᵀ, and the diagonal 1/L_ii, which is X's too; then A⁻¹ takes L's place.  Each of
// the three steps subtracts inner products of two rows of that block, so they share one loop.
#pragma once

#include "simd_math.h"
#include "workspace.h"

namespace gradnets::GRADNETS_ISA {

// The product of many positive numbers as mantissa·2^exponent, 1 <= mantissa < 2.
template <class T> struct Pivots {
    using V = typename Simd<T>::Vector;
    using M = MathConstants<T>;

    void add(V pivot) {
        typedef typename M::Word Unsigned __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
        // Not so of NaN.  Of a product beyond the range of normal numbers the exponent would be another.
        const auto is_plain = (pivot >= broadcast<V>(T(4) / M::largest)) & (pivot <= broadcast<V>(M::largest / 2));
        valid = select(is_plain, valid, V{});
        const V product = mantissa * pivot;
        const Unsigned biased = (Unsigned)product >> M::mantissa, bias = (Unsigned)broadcast<V>(T(1)) >> M::mantissa;
        mantissa = (V)((Unsigned)product - ((biased - bias) << M::mantissa));
        exponent += ((V)(biased + (Unsigned)broadcast<V>(M::rounder)) - M::rounder) - M::bias;
    }

    // NaN if one of them was not positive, or beyond the range of numbers.
    V logarithm() const {
        const V sum = exponent * M::ln2_high + (v_log(mantissa) + exponent * M::ln2_low);
        return select(valid > T(0), sum, broadcast<V>(T(__builtin_nan(""))));
    }

    V mantissa = broadcast<V>(T(1)), exponent{}, valid = broadcast<V>(T(1));
};

template <class T> class CholeskyGroup {
    using V = typename Simd<T>::Vector;
    static constexpr int lanes = Simd<T>::lanes;
    static constexpr int rows = 4, columns = GRADNETS_VECTOR_BYTES == 64 ? 4 : 2; // of sums held in registers
    static constexpr int64_t together = 16; // terms of a sum, so that rounding errors grow slowly

  public:
    static constexpr int64_t padded(int64_t d) { return round_up(d, rows); }

    CholeskyGroup(int64_t d, T *memory) : d_(d), n_(padded(d)), a_(memory) {}

    // The matrices' elements of a lane each; identities in the lanes beyond `count` and in the padding.
    void read(const T *A, int64_t count) {
        Place place{0, 0};
        for (int64_t e = 0; e < d_ * d_; e += lanes) {
            const int64_t valid = smaller(lanes, d_ * d_ - e);
            V block[lanes];
#pragma GCC unroll 16
            for (int l = 0; l < lanes; ++l) {
                const T *const from = A + l * d_ * d_ + e;
                block[l] = l >= count ? V{} : valid == lanes ? load(from) : load_part(from, valid);
            }
            transpose<T>(block);
#pragma GCC unroll 16
            for (int k = 0; k < lanes; ++k)
                if (k < valid) {
                    set(place.i, place.j, block[k]);
                    advance(place);
                }
        }
        for (int64_t i = 0; i < n_; ++i) {
            for (int64_t j = i < d_ ? d_ : 0; j < n_; ++j)
                set(i, j, broadcast<V>(i == j));
            for (int64_t l = count; l < lanes; ++l)
                at(i, i)[l] = T(1);
        }
    }

    // L and 1/L_ii in place of A.  Returns log det A of each lane, NaN where A is not positive definite.
    V factor() {
        Pivots<T> pivots;
        for (int64_t j = 0; j < n_; j += columns) {
            V scale[columns] = {}; // of the diagonal block, which comes first
            for (int64_t i = j / rows * rows; i < n_; i += rows) {
                V s[rows][columns];
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                    for (int c = 0; c < columns; ++c)
                        s[r][c] = get(i + r, j + c);
                subtract(i, j, 0, j, s);
                const int64_t first = j - i; // of the rows: the diagonal's, in the first block
#pragma GCC unroll 16
                for (int c = 0; c < columns; ++c) {
#pragma GCC unroll 16
                    for (int b = 0; b < c; ++b) {
                        const V l = first >= 0 ? s[first + c][b] : get(j + c, j + b);
#pragma GCC unroll 16
                        for (int r = 0; r < rows; ++r)
                            s[r][c] -= s[r][b] * l;
                    }
                    if (first >= 0) {
                        pivots.add(s[first + c][c]);
                        scale[c] = T(1) / root(s[first + c][c]);
                    }
#pragma GCC unroll 16
                    for (int r = 0; r < rows; ++r)
                        s[r][c] *= scale[c];
                }
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                    for (int c = 0; c < columns; ++c)
                        if (i + r > j + c)
                            set(i + r, j + c, s[r][c]);
                        else if (i + r == j + c)
                            set(i + r, j + c, scale[c]);
            }
        }
        return pivots.logarithm();
    }

    // A⁻¹ in place of L.
    void invert() {
        for (int64_t i = 0; i < n_; i += rows)
            invert_rows(i);
        for (int64_t i = 0; i < n_; i += rows)
            for (int64_t j = 0; j < i + rows; j += columns) {
                V s[rows][columns] = {};
                subtract(i, j, i + rows, n_, s);
                V result[rows][columns];
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                    for (int c = 0; c < columns; ++c) {
                        result[r][c] = -s[r][c];
#pragma GCC unroll 16
                        for (int k = r; k < rows; ++k)
                            if (i + r >= j + c)
                                result[r][c] += get(i + r, i + k) * get(j + c, i + k);
                    }
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                    for (int c = 0; c < columns; ++c)
                        if (i + r >= j + c)
                            set(i + r, j + c, result[r][c]);
            }
    }

    // The matrices, each times its weight.
    void write(T *A, int64_t count, V weight) const {
        Place place{0, 0};
        for (int64_t e = 0; e < d_ * d_; e += lanes) {
            const int64_t valid = smaller(lanes, d_ * d_ - e);
            V block[lanes] = {};
#pragma GCC unroll 16
            for (int k = 0; k < lanes; ++k)
                if (k < valid) {
                    block[k] = get(larger(place.i, place.j), smaller(place.i, place.j)) * weight;
                    advance(place);
                }
            transpose<T>(block);
#pragma GCC unroll 16
            for (int l = 0; l < lanes; ++l)
                if (l < count && valid == lanes)
                    store(A + l * d_ * d_ + e, block[l]);
                else if (l < count)
                    __builtin_memcpy(A + l * d_ * d_ + e, &block[l], size_t(valid) * sizeof(T));
        }
    }

  private:
    struct Place {
        int64_t i, j;
    };
    GRADNETS_INLINE void advance(Place &place) const {
        const bool ends = place.j + 1 == d_;
        place = {place.i + ends, ends ? 0 : place.j + 1};
    }
    GRADNETS_INLINE V get(int64_t i, int64_t j) const { return load(a_ + (i * n_ + j) * lanes); }
    GRADNETS_INLINE void set(int64_t i, int64_t j, V v) { store(a_ + (i * n_ + j) * lanes, v); }
    T *at(int64_t i, int64_t j) { return a_ + (i * n_ + j) * lanes; }

    static GRADNETS_INLINE V root(V v) {
        T values[lanes];
        store(values, v);
#pragma GCC unroll 16
        for (int l = 0; l < lanes; ++l)
            values[l] = sizeof(T) == 4 ? T(__builtin_sqrtf(float(values[l]))) : T(__builtin_sqrt(double(values[l])));
        return load(values);
    }

    // s[r][c] −= Σ_k a[i + r][k] a[j + c][k], first <= k < last.
    GRADNETS_INLINE void subtract(int64_t i, int64_t j, int64_t first, int64_t last, V (&s)[rows][columns]) const {
        const T *const left = a_ + i * n_ * lanes, *const right = a_ + j * n_ * lanes;
        for (int64_t from = first; from < last; from += together) {
            V sums[rows][columns] = {};
            for (int64_t k = from * lanes; k < smaller(from + together, last) * lanes; k += lanes) {
                V b[columns];
#pragma GCC unroll 4
                for (int c = 0; c < columns; ++c)
                    b[c] = load(right + c * n_ * lanes + k);
#pragma GCC unroll 4
                for (int r = 0; r < rows; ++r) {
                    const V a = load(left + r * n_ * lanes + k);
#pragma GCC unroll 4
                    for (int c = 0; c < columns; ++c)
                        sums[r][c] += a * b[c];
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < columns; ++c)
                    s[r][c] -= sums[r][c];
        }
    }

    // Rows i … of X = L⁻¹: x_ij = −(Σ_{j <= k < i} L_ik x_kj)/L_ii.
    void invert_rows(int64_t i) {
        for (int64_t j = 0; j < i; j += columns) {
            V s[rows][columns] = {};
            subtract(i, j, j + columns, i, s);
#pragma GCC unroll 16
            for (int c = 0; c < columns; ++c)
#pragma GCC unroll 16
                for (int k = c; k < columns; ++k)
#pragma GCC unroll 16
                    for (int r = 0; r < rows; ++r)
                        s[r][c] -= get(i + r, j + k) * get(j + c, j + k);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
                for (int c = 0; c < columns; ++c) {
#pragma GCC unroll 16
                    for (int k = 0; k < r; ++k)
                        s[r][c] -= get(i + r, i + k) * s[k][c];
                    s[r][c] *= get(i + r, i + r);
                    set(j + c, i + r, s[r][c]);
                }
        }
#pragma GCC unroll 16
        for (int c = 0; c < rows; ++c)
#pragma GCC unroll 16
            for (int r = c + 1; r < rows; ++r) {
                V s{};
#pragma GCC unroll 16
                for (int k = c; k < r; ++k)
                    s -= get(i + r, i + k) * get(i + c, i + k);
                set(i + c, i + r, s * get(i + r, i + r));
            }
    }

    const int64_t d_, n_;
    T *const a_;
};

template <class T> bool cholesky(const Cholesky<T> &p) {
    using Group = CholeskyGroup<T>;
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const int64_t n = Group::padded(p.d), groups = (p.batch + lanes - 1) / lanes;
    const int64_t together = larger(1, 4096 / (n * n)), tasks = (groups + together - 1) / together;
    Layout mine;
    mine.add<T>(n * n * lanes);
    const double flops = double(p.batch) * double(n * n) * (double(n) * (p.inverse ? 1 : 1 / 3.0) + 4);
    const int threads = threads_for(flops, p.threads, tasks);
    Workspace workspace(threads * mine.bytes());
    if (!workspace.ok())
        return false;
    auto body = [&](int64_t task, int worker) {
        Group group(p.d, piece<T>(workspace.at(worker * mine.bytes()), 0));
        for (int64_t g = task * together; g < smaller(groups, (task + 1) * together); ++g) {
            const int64_t first = g * lanes, count = smaller(lanes, p.batch - first);
            group.read(p.A + first * p.d * p.d, count);
            T values[lanes];
            store(values, group.factor());
            __builtin_memcpy(p.logdet + first, values, size_t(count) * sizeof(T));
            if (p.inverse) {
                group.invert();
                const auto weight = p.weight ? load_part(p.weight + first, count) : broadcast<V>(T(1));
                group.write(p.inverse + first * p.d * p.d, count, weight);
            }
        }
    };
    parallel(threads, tasks, body);
    return true;
}

} // namespace gradnets::GRADNETS_ISA
