// The gradient of a multi-layer energy.  With p_L = c and, for l = L … 1, s_l = σ_l'(u_l) ⊙ p_l, p_{l−1} = V_lᵀ s_l:
//   u_l = V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l,  a_l = σ_l(u_l),  F = <c, a_L>
//   f = ∇F = Σ_l [A_lᵀ s_l + 2 Σ_r Q_lrᵀ((Q_lr x) ⊙ s_l)]
// A residual layer adds a_{l−1} to a_l and p_l to p_{l−1}.  Here: where everything lies, for all quantities.
#pragma once

#include "activations_gen.h"
#include "plan.h"

namespace gradnets::GRADNETS_ISA {

// One layer: its sizes, and offsets into θ (elements), into shared and into a thread's memory (bytes) and into the sums
// of a chunk (elements).
struct DeepLayer {
    int64_t width, before; // h_l, and h_{l−1} or 0
    int64_t stride;        // of a tile's rows: `width` in whole vectors
    int basis;
    bool input;                     // whether there is A
    int64_t A, V, Q, b;             // in θ
    int64_t At, Vt, Qt, As, Vs, Qs; // right factors, transposed and straight
    int64_t bias, columns;          // b in whole vectors; the columns of A, then of each Q, likewise
    int64_t up, slopes, squares;    // tiles
    int64_t kept;                   // of a row of kept values: u (h), then p (h)
    // Of second derivatives: the derivatives of σ, p, s, ū, m, q; τ, t and η; Q_r v.
    int64_t curves, thirds, above, s, of_u, moments, square_moments, tangents, of_tangents, partners, of_squares;
    int64_t dA, dV, dQ, db; // sums
};

// The sizes of a network, and the offsets of its parameters in θ:
// for each layer A (h, d), V (h, h_{l−1}), Q (rank, h, d), b (h), as far as there are such; then c (h_L).
template <class S> class DeepShape {
    using T = Sum<S>;

  public:
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;

    explicit DeepShape(const Deep<S> &p)
        : memory_(p.layers * int64_t(sizeof(DeepLayer))), d(p.d), d_stride(round_up(p.d, lanes)), layers(p.layers),
          rank(p.rank) {
        if (!ok())
            return;
        int64_t offset = 0, before = 0;
        for (int i = 0; i < layers; ++i) {
            DeepLayer &l = (*this)[i];
            l = {};
            l.width = p.widths[i];
            l.before = before;
            l.stride = round_up(l.width, lanes);
            l.basis = p.basis[i];
            l.input = i == 0 || p.input_skip;
            l.A = offset;
            l.V = l.A + (l.input ? l.width * d : 0);
            l.Q = l.V + l.width * before;
            l.b = l.Q + rank * l.width * d;
            offset = l.b + l.width;
            before = l.width;
            widest = larger(widest, l.stride);
        }
        c = offset;
    }

    bool ok() const { return memory_.ok(); }
    DeepLayer &operator[](int i) const { return reinterpret_cast<DeepLayer *>(memory_.at(0))[i]; }
    DeepLayer &last() const { return (*this)[layers - 1]; }
    int64_t parameters() const { return c + last().width; }
    // Multiplications that one row takes in one direction.
    double multiplications() const {
        double sum = 0;
        for (int i = 0; i < layers; ++i) {
            const DeepLayer &l = (*this)[i];
            sum += double(l.width) * double(l.before + ((l.input ? 1 : 0) + rank) * d);
        }
        return sum;
    }

  private:
    Workspace memory_;

  public:
    int64_t d, d_stride;
    int layers;
    int64_t rank, c = 0, widest = 0;
};

// The weights as right factors of products, packed once a call.
template <class S> class DeepWeights {
    using T = Sum<S>;
    using P = Plain<T>;
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;

  public:
    // downward: whether the straight ones are needed; columns: whether the columns of A and Q are, as rows.
    DeepWeights(const DeepShape<S> &shape, bool downward, bool columns, Layout &all)
        : shape_(shape), downward_(downward), columns_(columns) {
        for (int i = 0; i < shape.layers; ++i) {
            DeepLayer &l = shape[i];
            const int64_t panels = round_up(l.width, panel);
            l.At = l.input ? all.add<T>(panels * shape.d) : 0;
            l.Vt = all.add<T>(panels * l.before);
            l.Qt = all.add<T>(shape.rank * panels * shape.d);
            l.bias = all.add<T>(l.stride);
            l.columns = columns ? all.add<T>(((l.input ? 1 : 0) + shape.rank) * shape.d * l.stride) : 0;
            if (!downward)
                continue;
            const int64_t d_panels = round_up(shape.d, panel);
            l.As = l.input ? all.add<T>(l.width * d_panels) : 0;
            l.Vs = all.add<T>(l.width * round_up(l.before, panel));
            l.Qs = all.add<T>(shape.rank * l.width * d_panels);
        }
        c_ = all.add<T>(shape.last().stride);
    }

    void pack(const S *theta, char *memory, int threads) {
        memory_ = memory;
        // A layer's V transposed, V straight and all else are tasks of their own.
        auto body = [&](int64_t i, int) {
            const DeepLayer &l = shape_[int(i / 3)];
            if (i % 3 == 2)
                pack_inputs(theta, l);
            else if (l.before > 0)
                pack_matrix(theta + l.V, l.width, l.before, l.Vt, l.Vs, i % 3 == 0, i % 3 == 1);
        };
        parallel(threads_for(16.0 * double(shape_.parameters()), threads, 3 * shape_.layers), 3 * shape_.layers, body);
        vector(theta + shape_.c, shape_.last().width, shape_.last().stride, c_);
    }

    const T *c() const { return piece<T>(memory_, c_); }
    const T *bias(const DeepLayer &l) const { return piece<T>(memory_, l.bias); }
    Right<T> A_transposed(const DeepLayer &l) const { return right(l.At, shape_.d); }
    Right<T> V_transposed(const DeepLayer &l) const { return right(l.Vt, l.before); }
    Right<T> Q_transposed(const DeepLayer &l, int64_t r) const {
        return right(l.Qt + r * round_up(l.width, panel) * shape_.d * int64_t(sizeof(T)), shape_.d);
    }
    // Column k of A, or of Q_r, in whole vectors.
    const T *A_column(const DeepLayer &l, int64_t k) const { return piece<T>(memory_, l.columns) + k * l.stride; }
    const T *Q_column(const DeepLayer &l, int64_t r, int64_t k) const {
        return A_column(l, ((l.input ? 1 : 0) + r) * shape_.d + k);
    }
    Right<T> A(const DeepLayer &l) const { return right(l.As, l.width); }
    Right<T> V(const DeepLayer &l) const { return right(l.Vs, l.width); }
    Right<T> Q(const DeepLayer &l, int64_t r) const {
        return right(l.Qs + r * l.width * round_up(shape_.d, panel) * int64_t(sizeof(T)), l.width);
    }

  private:
    Right<T> right(int64_t offset, int64_t k) const { return {piece<T>(memory_, offset), panel, k * panel}; }

    void vector(const S *from, int64_t width, int64_t stride, int64_t offset) const {
        T *const to = piece<T>(memory_, offset);
        widen_row(from, width, to);
        fill_zero(to + width, stride - width);
    }

    void pack_inputs(const S *theta, const DeepLayer &l) const {
        if (l.input)
            pack_matrix(theta + l.A, l.width, shape_.d, l.At, l.As);
        for (int64_t r = 0; r < shape_.rank; ++r)
            pack_matrix(theta + l.Q + r * l.width * shape_.d, l.width, shape_.d,
                        l.Qt + r * round_up(l.width, panel) * shape_.d * int64_t(sizeof(T)),
                        l.Qs + r * l.width * round_up(shape_.d, panel) * int64_t(sizeof(T)));
        vector(theta + l.b, l.width, l.stride, l.bias);
        T *to = piece<T>(memory_, l.columns);
        if (columns_ && l.input)
            to = pack_columns(theta + l.A, l, to);
        for (int64_t r = 0; columns_ && r < shape_.rank; ++r)
            to = pack_columns(theta + l.Q + r * l.width * shape_.d, l, to);
    }

    T *pack_columns(const S *from, const DeepLayer &l, T *to) const {
        for (int64_t k = 0; k < shape_.d; ++k, to += l.stride) {
            for (int64_t j = 0; j < l.width; ++j)
                to[j] = widen(from[j * shape_.d + k]);
            fill_zero(to + l.width, l.stride - l.width);
        }
        return to;
    }

    void pack_matrix(const S *from, int64_t rows, int64_t columns, int64_t transposed, int64_t straight,
                     bool upward = true, bool downward = true) const {
        if (upward)
            pack_transposed<P>(from, rows, columns, piece<T>(memory_, transposed));
        if (downward && downward_)
            pack_rows<P>(from, rows, columns, piece<T>(memory_, straight));
    }

    const DeepShape<S> &shape_;
    bool downward_, columns_;
    int64_t c_;
    char *memory_ = nullptr;
};

// C[m, n] (+)= A·B.
template <class T>
inline void product(int64_t m, int64_t n, int64_t k, const Left<T> &a, const Right<T> &b, T *c, int64_t c_row,
                    bool accumulate) {
    const Factors<T> factors{a, b};
    multiply<Plain<T>>(m, n, k, &factors, 1, c, c_row, accumulate);
}

} // namespace gradnets::GRADNETS_ISA
