// J(x) = Wᵀ diag(s) W + Σ_k c_k y_k y_kᵀ,  y_k = p_k W: the Jacobian of every network of these families, summed over
// blocks of hidden units.  s and p_k are strips of hidden values of the row, c_k numbers; uncoupled hidden units have
// no p_k.  For S = Σ_rows <G, J(x)>, with G made symmetric (weight·I gives the divergence), and
//     q_j = w_jᵀ G w_j,   e_k = y_kᵀ G y_k,   ȳ_k = 2 c_k G y_k,   a_k = ȳ_k Wᵀ,
// the derivatives are ∂S/∂s = q, ∂S/∂c_k = e_k and ∂S/∂p_k = a_k, from which the family makes U = ∂S/∂u.  Then
//     dx = U W,   dW_j = Σ_rows U_j x + Σ_k p_kj ȳ_k + 2 s_j G w_j.
#pragma once

#include "triangle.h"
#include "pipeline.h"

namespace gradnets::GRADNETS_ISA {

static constexpr int kMostStrips = 2;

template <class T> struct JacobianTile : HiddenTile<T> {
    T *s = nullptr, *strip[kMostStrips] = {}; // [rows, stride]
    T *c[kMostStrips] = {};                   // [rows]
    T *q = nullptr;                           // [rows, stride]: ∂S/∂s
    const T *along[kMostStrips] = {};         // [rows, stride]: ∂S/∂p_k
    const T *in_c[kMostStrips] = {};          // [rows]: ∂S/∂c_k
};

// What a family computes from u for a tile.
template <class T> struct JacobianMiddle {
    // Writes s, p_k and c_k.
    virtual void value(const JacobianTile<T> &tile) const = 0;
    // u becomes U; adds the gradients of the parameters to `sums`.
    virtual void gradient(const JacobianTile<T> &tile) const = 0;
    virtual void finish(const T *sums, int64_t chunks, int64_t size) const = 0;

  protected:
    ~JacobianMiddle() = default;
};

template <class S> struct Jacobian {
    using T = Sum<S>;
    int64_t batch = 0, d = 0, hidden = 0;
    int64_t block = 0;     // hidden units of a block
    int64_t most_rows = 0; // of a tile, that the family's scratch memory allows
    Points<S> points;      // g and dg: [batch, d, d]
    const S *W = nullptr;
    S *dW = nullptr;
    int strips = 0;
    bool early = false; // whether `gradient` needs what `value` writes
    double flops = 0;
    int64_t sums = 0, scratch = 0; // as of a Pipeline
    int threads = 1;

    bool traces() const { return points.weight || points.scalar; }
    bool backward() const { return points.weight || points.g; }
};

// |w_j|² of hidden units [first, first + count), zeros up to `width`.
template <class S> inline void weight_norms(const S *W, int64_t count, int64_t d, int64_t width, Sum<S> *norms) {
    fill_zero(norms, width);
    for (int64_t j = 0; j < count; ++j)
        for (int64_t i = 0; i < d; ++i)
            norms[j] += widen(W[j * d + i]) * widen(W[j * d + i]);
}

template <class S> class JacobianRun {
    using T = Sum<S>;
    using P = Plain<T>;
    using V = typename Simd<T>::Vector;
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;
    static constexpr int64_t kDeep = (128 / panel > 0 ? 128 / panel : 1) * panel; // hidden units of a product in J

  public:
    JacobianRun(const Jacobian<S> &problem, const JacobianMiddle<T> &family)
        : p(problem), family_(family), triangle_(p.d),
          by_triangle_(!p.traces() && triangle_.serves(p.batch, p.hidden)) {
        const int64_t most = p.traces() || by_triangle_ ? p.most_rows : smaller(Tile<T>::rows, p.most_rows);
        plan_ = make_plan(p.batch, p.hidden * p.d, p.hidden, p.block, p.block, most, Tile<T>::rows, p.flops);
        plan_.split = false;
        plan_.row_chunks = p.flops <= kSerialFlops ? 1 : smaller(plan_.tiles, most_chunks(p.hidden * p.d));
        stride_ = round_up(plan_.block, panel);
        d_vectors_ = round_up(p.d, lanes);
        d_panels_ = round_up(p.d, panel);
        kept_ = p.backward() || p.traces() || by_triangle_ ? 1 : plan_.blocks;
        lay_out();
    }

    bool run() {
        const int threads = threads_for(p.flops, p.threads, plan_.row_chunks);
        Workspace workspace(shared_bytes_ + threads * worker_bytes_);
        if (!workspace.ok())
            return false;
        shared_ = workspace.at(0);
        char *const workers = workspace.at(shared_bytes_);
        auto pack = [&](int64_t b, int worker) { pack_weights(b, workers + worker * worker_bytes_); };
        const double packed = double(p.hidden * (by_triangle_ ? triangle_.count : p.d));
        parallel(threads_for(16.0 * packed, threads, plan_.blocks), plan_.blocks, pack);
        each_tile(plan_, p.batch, threads, workers, worker_bytes_,
                  [&](const BatchTile &tile, int64_t) { run_tile(tile); });
        finish(threads);
        return true;
    }

  private:
    struct Job : BatchTile {
        Left<T> x;
    };

    void lay_out() {
        Layout all, mine;
        transposed_ = all.template add<T>(plan_.blocks * stride_ * p.d);
        straight_ = all.template add<T>(plan_.blocks * plan_.block * d_panels_);
        norms_ = all.template add<T>(plan_.blocks * stride_);
        products_size_ = p.backward() ? stride_ * triangle_.count : plan_.block * round_up(triangle_.count, panel);
        products_ = by_triangle_ ? all.template add<T>(plan_.blocks * products_size_) : 0;
        weight_sums_ = p.dW ? all.template add<T>(plan_.row_chunks * p.hidden * d_vectors_) : 0;
        family_sums_ = all.template add<T>(plan_.row_chunks * p.sums);
        shared_bytes_ = all.bytes();
        const int64_t tile = plan_.tile_rows * stride_, wide_rows = plan_.tile_rows * d_vectors_;
        x_ = mine.template add<T>(plan_.tile_rows * p.d);
        x_right_ = mine.template add<T>(plan_.tile_rows * d_panels_);
        u_ = mine.template add<T>(tile);
        q_ = mine.template add<T>(tile);
        s_ = mine.template add<T>(kept_ * tile);
        for (int k = 0; k < p.strips; ++k) {
            strip_[k] = mine.template add<T>(tile);
            along_[k] = mine.template add<T>(tile);
            y_[k] = mine.template add<T>(kept_ * wide_rows);
            c_[k] = mine.template add<T>(kept_ * plan_.tile_rows);
            in_c_[k] = mine.template add<T>(plan_.tile_rows);
            lifted_[k] = mine.template add<T>(wide_rows);
            lifted_right_[k] = mine.template add<T>(plan_.tile_rows * d_panels_);
        }
        matrix_ = mine.template add<T>(p.traces() ? d_vectors_ : p.d * d_vectors_);
        // The product G Wᵀ of a row and its sum with the rows' s, or W scaled by s.
        const int64_t wide = p.traces() ? 1 : p.d;
        if (by_triangle_) {
            entries_ = mine.template add<T>(plan_.tile_rows * round_up(triangle_.row(), Triangle<S>::kPiece));
            s_right_ = mine.template add<T>(tile);
            entry_sums_ = mine.template add<T>(Triangle<S>::kPiece * stride_);
        }
        product_ = mine.template add<T>(wide * larger(stride_, kDeep));
        diagonal_ = mine.template add<T>(wide * stride_);
        dx_ = mine.template add<T>(wide_rows);
        scratch_ = mine.template add<char>(p.scratch);
        worker_bytes_ = mine.bytes();
    }

    void pack_weights(int64_t b, char *mine) const {
        const Block block = block_at(b);
        const S *const W = p.W + block.first * p.d;
        pack_transposed<P>(W, block.units, p.d, transposed(b));
        pack_rows<P>(W, block.units, p.d, piece<T>(shared_, straight_) + b * plan_.block * d_panels_);
        weight_norms(W, block.units, p.d, stride_, piece<T>(shared_, norms_) + b * stride_);
        if (by_triangle_ && p.backward())
            triangle_.pack_doubled_products(transposed(b), block.width, products(b));
        else if (by_triangle_)
            triangle_.pack_products(W, block.units, piece<T>(mine, entries_), products(b));
    }

    T *products(int64_t b) const { return piece<T>(shared_, products_) + b * products_size_; }

    T *transposed(int64_t b) const { return piece<T>(shared_, transposed_) + b * stride_ * p.d; }
    // W_block as a right factor with k along its hidden units, from hidden unit `from` on.
    Right<T> straight(const Block &block, int64_t from = 0) const {
        return {piece<T>(shared_, straight_) + block.number * plan_.block * d_panels_ + from * panel, panel,
                block.units * panel};
    }
    Right<T> transposed_right(const Block &block) const { return {transposed(block.number), panel, p.d * panel}; }

    Block block_at(int64_t b) const { return plan_.block_at(b, lanes); }

    static void product(int64_t m, int64_t n, int64_t k, const Left<T> &a, const Right<T> &b, T *c, int64_t row,
                        bool accumulate = false) {
        const Factors<T> factors{a, b};
        multiply<P>(m, n, k, &factors, 1, c, row, accumulate);
    }

    void run_tile(const BatchTile &tile_of_batch) const {
        Job job{tile_of_batch, {}};
        char *const mine = job.mine;
        const S *const x = p.points.x + job.first * p.d;
        job.x = left_rows<P>(x, job.rows, p.d, piece<T>(mine, x_));
        if (p.dW)
            pack_rows<P>(x, job.rows, p.d, piece<T>(mine, x_right_));
        if (p.points.scalar)
            fill_zero(p.points.scalar + job.first, job.rows);
        if (by_triangle_ && p.backward())
            for (int64_t i = 0; i < job.rows; ++i)
                triangle_.gather(p.points.g + (job.first + i) * p.d * p.d, i, job.rows, piece<T>(mine, entries_));
        for (int64_t b = 0; b < plan_.blocks; ++b) {
            const Block block = block_at(b);
            JacobianTile<T> tile = tile_of(job, block);
            product(job.rows, block.width, p.d, job.x, transposed_right(block), tile.u, stride_);
            if (!p.backward() || p.early || (p.dW && !p.traces()))
                evaluate(job, block, tile);
            if (p.points.scalar)
                add_trace(job, block, tile);
            if (p.backward())
                block_backward(job, block, tile);
            else if (by_triangle_)
                add_entries(job, block, tile);
        }
        if (!p.backward() && !p.traces())
            for (int64_t i = 0; i < job.rows; ++i)
                row_jacobian(job, i);
        if (p.points.dx)
            for (int64_t i = 0; i < job.rows; ++i)
                narrow_row(piece<T>(mine, dx_) + i * d_vectors_, p.d, p.points.dx + (job.first + i) * p.d);
    }

    JacobianTile<T> tile_of(const Job &job, const Block &block) const {
        char *const mine = job.mine;
        const int64_t kept = kept_ > 1 ? block.number : 0;
        JacobianTile<T> tile;
        tile.place(job, block);
        tile.u = piece<T>(mine, u_);
        tile.s = piece<T>(mine, s_) + kept * plan_.tile_rows * stride_;
        tile.q = piece<T>(mine, q_);
        for (int k = 0; k < p.strips; ++k) {
            tile.strip[k] = piece<T>(mine, strip_[k]);
            tile.along[k] = piece<T>(mine, along_[k]);
            tile.c[k] = piece<T>(mine, c_[k]) + kept * plan_.tile_rows;
            tile.in_c[k] = piece<T>(mine, in_c_[k]);
        }
        tile.stride = stride_;
        tile.sums = piece<T>(shared_, family_sums_) + job.chunk * p.sums;
        tile.scratch = mine + scratch_;
        return tile;
    }

    T *y(const Job &job, const Block &block, int k) const {
        return piece<T>(job.mine, y_[k]) + (kept_ > 1 ? block.number : 0) * plan_.tile_rows * d_vectors_;
    }

    // s, p_k, c_k and y_k of a block.  Past the last hidden unit there may be a NaN, where x is infinite.
    void evaluate(const Job &job, const Block &block, JacobianTile<T> &tile) const {
        family_.value(tile);
        for (int64_t i = 0; i < job.rows; ++i)
            fill_zero(tile.s + i * stride_ + block.units, block.width - block.units);
        for (int k = 0; k < p.strips; ++k)
            product(job.rows, p.d, block.units, {tile.strip[k], stride_, 1}, straight(block), y(job, block, k),
                    d_vectors_);
    }

    void add_trace(const Job &job, const Block &block, const JacobianTile<T> &tile) const {
        const T *const norms = piece<T>(shared_, norms_) + block.number * stride_;
        for (int64_t i = 0; i < job.rows; ++i) {
            T total = dot(tile.s + i * stride_, norms, block.width);
            for (int k = 0; k < p.strips; ++k) {
                const T *const here = y(job, block, k) + i * d_vectors_;
                total += tile.c[k][i] * dot(here, here, d_vectors_);
            }
            p.points.scalar[job.first + i] += total;
        }
    }

    // A block's part of J, by the triangle.
    void add_entries(const Job &job, const Block &block, const JacobianTile<T> &tile) const {
        T *const entries = piece<T>(job.mine, entries_);
        product(job.rows, triangle_.count, block.units, {tile.s, stride_, 1},
                {products(block.number), panel, block.units * panel}, entries, triangle_.row(), block.number > 0);
        for (int k = 0; k < p.strips; ++k)
            for (int64_t i = 0; i < job.rows; ++i)
                triangle_.add_outer(tile.c[k][i], y(job, block, k) + i * d_vectors_, entries + i * triangle_.row());
    }

    // J of one row, from the strips of all blocks: the upper triangle by panels of columns, then mirrored.
    void row_jacobian(const Job &job, int64_t i) const {
        S *const out = p.points.dg + (job.first + i) * p.d * p.d;
        if (by_triangle_)
            return triangle_.spread(piece<T>(job.mine, entries_) + i * triangle_.row(), out);
        T *const J = piece<T>(job.mine, matrix_), *const scaled = piece<T>(job.mine, product_);
        for (int64_t b = 0; b < plan_.blocks; ++b) {
            const Block block = block_at(b);
            const JacobianTile<T> tile = tile_of(job, block);
            const T *const s = tile.s + i * stride_;
            for (int64_t from = 0; from < block.units; from += kDeep) {
                const int64_t deep = smaller(kDeep, block.units - from);
                scale_weights(block, from, deep, s, scaled);
                for (int64_t column = 0; column < p.d; column += panel) {
                    const Right<T> right = straight(block, from);
                    product(smaller(p.d, column + panel), smaller(panel, p.d - column), deep, {scaled, kDeep, 1},
                            {right.data + column / panel * right.step, right.row, right.step}, J + column, d_vectors_,
                            b > 0 || from > 0);
                }
            }
            for (int k = 0; k < p.strips; ++k)
                add_outer(tile.c[k][i], y(job, block, k) + i * d_vectors_, J);
        }
        for (int64_t r = 0; r < p.d; ++r)
            for (int64_t c = 0; c < p.d; ++c)
                narrow(r > c ? J[c * d_vectors_ + r] : J[r * d_vectors_ + c], out[r * p.d + c]);
    }

    // scaled[i, j] = W_ji·s_j for the hidden units [from, from + deep) of a block.
    void scale_weights(const Block &block, int64_t from, int64_t deep, const T *s, T *scaled) const {
        for (int64_t j0 = 0; j0 < deep; j0 += panel) {
            const T *packed = transposed(block.number) + (from + j0) * p.d;
            const int64_t width = smaller(panel, block.width - from - j0);
            for (int64_t i = 0; i < p.d; ++i, packed += panel)
                for (int64_t j = 0; j < width; j += lanes)
                    store(scaled + i * kDeep + j0 + j, load(packed + j) * load(s + from + j0 + j));
        }
    }

    void add_outer(T c, const T *y, T *J) const {
        for (int64_t r = 0; r < p.d; ++r)
            for (int64_t j = 0; j < d_vectors_; j += lanes) {
                T *const to = J + r * d_vectors_ + j;
                store(to, load(to) + (c * y[r]) * load(y + j));
            }
    }

    void block_backward(const Job &job, const Block &block, JacobianTile<T> &tile) const {
        T *const diagonal = piece<T>(job.mine, diagonal_);
        fill_zero(diagonal, (p.traces() ? 1 : p.d) * stride_);
        if (by_triangle_)
            triangle_cotangents(job, block, tile);
        if (p.traces() || !by_triangle_ || p.strips)
            for (int64_t i = 0; i < job.rows; ++i)
                p.traces() ? trace_cotangents(job, block, tile, i) : matrix_cotangents(job, block, tile, i);
        for (int k = 0; k < p.strips; ++k)
            product(job.rows, block.width, p.d, {piece<T>(job.mine, lifted_[k]), d_vectors_, 1},
                    transposed_right(block), piece<T>(job.mine, along_[k]), stride_);
        family_.gradient(tile);
        if (p.points.dx)
            product(job.rows, p.d, block.units, {tile.u, stride_, 1}, straight(block), piece<T>(job.mine, dx_),
                    d_vectors_, block.number > 0);
        if (p.dW)
            weight_gradient(job, block, tile);
    }

    // q, e_k and ȳ_k of a row for G = weight·I.
    void trace_cotangents(const Job &job, const Block &block, const JacobianTile<T> &tile, int64_t i) const {
        const T weight = p.points.weight[job.first + i];
        const T *const norms = piece<T>(shared_, norms_) + block.number * stride_;
        T *const q = piece<T>(job.mine, q_) + i * stride_;
        for (int64_t j = 0; j < block.width; j += lanes)
            store(q + j, weight * load(norms + j));
        for (int k = 0; k < p.strips; ++k) {
            const T *const here = y(job, block, k) + i * d_vectors_;
            T *const lifted = piece<T>(job.mine, lifted_[k]) + i * d_vectors_;
            piece<T>(job.mine, in_c_[k])[i] = weight * dot(here, here, d_vectors_);
            for (int64_t j = 0; j < d_vectors_; j += lanes)
                store(lifted + j, (2 * tile.c[k][i] * weight) * load(here + j));
        }
    }

    // q of all rows for matrices G, and Σ s_j G w_j.
    void triangle_cotangents(const Job &job, const Block &block, const JacobianTile<T> &tile) const {
        T *const slopes = piece<T>(job.mine, s_right_), *const sums = piece<T>(job.mine, entry_sums_);
        if (p.dW)
            pack_rows<P>(tile.s, job.rows, stride_, slopes);
        int64_t r = 0, c = 0;
        for (int64_t n = 0; n < triangle_.pieces(); ++n) {
            constexpr int64_t kPiece = Triangle<S>::kPiece;
            const int64_t size = triangle_.piece_size(n);
            const T *const entries = piece<T>(job.mine, entries_) + n * job.rows * kPiece;
            product(job.rows, block.width, size, {entries, kPiece, 1},
                    {products(block.number) + n * kPiece * panel, panel, triangle_.count * panel}, tile.q, stride_,
                    n > 0);
            if (!p.dW)
                continue;
            product(size, block.width, job.rows, {entries, 1, kPiece}, {slopes, panel, job.rows * panel}, sums,
                    stride_);
            triangle_.add_weight_sums(sums, size, r, c, transposed(block.number), block.width, stride_,
                                      piece<T>(job.mine, diagonal_));
            for (int64_t rest = size; rest > 0; ++r, c = r) {
                const int64_t here = smaller(rest, p.d - c);
                rest -= here;
                if (c + here < p.d) {
                    c += here;
                    break;
                }
            }
        }
    }

    // e_k and ȳ_k of a row for a matrix G and, unless by the triangle, q and what the row adds to Σ s_j G w_j.
    void matrix_cotangents(const Job &job, const Block &block, const JacobianTile<T> &tile, int64_t i) const {
        T *const G = piece<T>(job.mine, matrix_);
        symmetrise(p.points.g + (job.first + i) * p.d * p.d, G);
        if (!by_triangle_)
            row_cotangents(job, block, tile, i);
        lift_strips(job, block, tile, i);
    }

    void row_cotangents(const Job &job, const Block &block, const JacobianTile<T> &tile, int64_t i) const {
        const T *const G = piece<T>(job.mine, matrix_);
        T *const GW = piece<T>(job.mine, product_);
        product(p.d, block.width, p.d, {G, d_vectors_, 1}, transposed_right(block), GW, stride_);
        quadratic_forms(block, GW, piece<T>(job.mine, q_) + i * stride_);
        if (p.dW) {
            T *const diagonal = piece<T>(job.mine, diagonal_);
            for (int64_t r = 0; r < p.d; ++r)
                for (int64_t j = 0; j < block.width; j += lanes) {
                    T *const to = diagonal + r * stride_ + j;
                    store(to, load(to) + load(tile.s + i * stride_ + j) * load(GW + r * stride_ + j));
                }
        }
    }

    void lift_strips(const Job &job, const Block &block, const JacobianTile<T> &tile, int64_t i) const {
        const T *const G = piece<T>(job.mine, matrix_);
        for (int k = 0; k < p.strips; ++k) {
            const T *const here = y(job, block, k) + i * d_vectors_;
            T *const lifted = piece<T>(job.mine, lifted_[k]) + i * d_vectors_;
            fill_zero(lifted, d_vectors_);
            for (int64_t r = 0; r < p.d; ++r)
                for (int64_t j = 0; j < d_vectors_; j += lanes)
                    store(lifted + j, load(lifted + j) + here[r] * load(G + r * d_vectors_ + j));
            piece<T>(job.mine, in_c_[k])[i] = dot(here, lifted, d_vectors_);
            for (int64_t j = 0; j < d_vectors_; j += lanes)
                store(lifted + j, (2 * tile.c[k][i]) * load(lifted + j));
        }
    }

    void symmetrise(const S *given, T *G) const {
        for (int64_t r = 0; r < p.d; ++r) {
            for (int64_t c = 0; c < p.d; ++c)
                G[r * d_vectors_ + c] = (widen(given[r * p.d + c]) + widen(given[c * p.d + r])) / 2;
            fill_zero(G + r * d_vectors_ + p.d, d_vectors_ - p.d);
        }
    }

    // q_j = Σ_i W_ji·(G Wᵀ)_ij
    void quadratic_forms(const Block &block, const T *GW, T *q) const {
        for (int64_t j = 0; j < block.width; j += lanes) {
            const T *packed = transposed(block.number) + j / panel * panel * p.d + j % panel;
            V sum = {};
            for (int64_t i = 0; i < p.d; ++i, packed += panel)
                sum += load(packed) * load(GW + i * stride_ + j);
            store(q + j, sum);
        }
    }

    void weight_gradient(const Job &job, const Block &block, const JacobianTile<T> &tile) const {
        T *const sums = piece<T>(shared_, weight_sums_) + (job.chunk * p.hidden + block.first) * d_vectors_;
        Factors<T> factors[1 + kMostStrips];
        factors[0] = {{tile.u, 1, stride_}, {piece<T>(job.mine, x_right_), panel, job.rows * panel}};
        for (int k = 0; k < p.strips; ++k) {
            T *const right = piece<T>(job.mine, lifted_right_[k]);
            pack_rows<P>(piece<T>(job.mine, lifted_[k]), job.rows, d_vectors_, right);
            factors[1 + k] = {{tile.strip[k], 1, stride_}, {right, panel, job.rows * panel}};
        }
        multiply<P>(block.units, p.d, job.rows, factors, 1 + p.strips, sums, d_vectors_, !job.first_of_chunk);
        T *const diagonal = piece<T>(job.mine, diagonal_);
        if (p.traces())
            for (int64_t i = 0; i < job.rows; ++i)
                for (int64_t j = 0; j < block.width; j += lanes)
                    store(diagonal + j,
                          load(diagonal + j) + p.points.weight[job.first + i] * load(tile.s + i * stride_ + j));
        const S *const W = p.W + block.first * p.d;
        for (int64_t j = 0; j < block.units; ++j)
            for (int64_t i = 0; i < p.d; ++i)
                sums[j * d_vectors_ + i] +=
                    2 * (p.traces() ? diagonal[j] * widen(W[j * p.d + i]) : diagonal[i * stride_ + j]);
    }

    void finish(int threads) const {
        if (p.dW)
            finish_weights(plan_, threads, piece<T>(shared_, weight_sums_), d_vectors_, p.d, p.dW);
        if (p.backward())
            family_.finish(piece<T>(shared_, family_sums_), plan_.row_chunks, p.sums);
    }

    const Jacobian<S> p;
    const JacobianMiddle<T> &family_;
    const Triangle<S> triangle_;
    const bool by_triangle_;
    Plan plan_;
    int64_t products_size_ = 0, products_ = 0, entries_ = 0, s_right_ = 0, entry_sums_ = 0;
    int64_t stride_, d_vectors_, d_panels_, kept_; // kept_: blocks whose strips are kept
    int64_t shared_bytes_, worker_bytes_;
    int64_t transposed_, straight_, norms_, weight_sums_, family_sums_;
    int64_t x_, x_right_, u_, q_, s_, strip_[kMostStrips], along_[kMostStrips], y_[kMostStrips], c_[kMostStrips],
        in_c_[kMostStrips], lifted_[kMostStrips], lifted_right_[kMostStrips], matrix_, product_, diagonal_, dx_,
        scratch_;
    char *shared_ = nullptr;
};

// Operations for each row and hidden unit, besides those of the basis functions.
template <class S> inline double jacobian_flops(const Jacobian<S> &p) {
    const double d = double(p.d);
    if (p.traces())
        return (p.backward() ? 6 + 6 * p.strips : 2 + 2 * p.strips) * d;
    return p.backward() ? 2 * d * d : d * d;
}

} // namespace gradnets::GRADNETS_ISA
