// f, F, J v and the gradients of S = <g, f> + w·F of a deep network (deep_shape.h), in two passes over its layers.
//
// With t_0 = g and r_L = w·c, on the way up    τ_l = V_l t_{l−1} + A_l g + 2 Σ_r (Q_r x) ⊙ (Q_r g),  t_l = σ'(u_l) ⊙
// τ_l and on the way down                          e_l = σ''(u_l) ⊙ τ_l ⊙ p_l + σ'(u_l) ⊙ r_l,  r_{l−1} = V_lᵀ e_l:
//   dx   = Σ_l [A_lᵀ e_l + 2 Σ_r Q_rᵀ((Q_r x) ⊙ e_l + (Q_r g) ⊙ s_l)], which is J g for w = 0
//   dV_l = e_l a_{l−1}ᵀ + s_l t_{l−1}ᵀ,  dA_l = e_l xᵀ + s_l gᵀ,  db_l = e_l,  dc = t_L + w a_L
//   dQ_r = 2 (s_l ⊙ Q_r x) gᵀ + 2 ((Q_r x) ⊙ e_l + (Q_r g) ⊙ s_l) xᵀ
// Without g there is no tangent, and e_l is s_l of p_L = w·c.  A tile of rows goes up and down while it is in cache.
//
// u_l and p_l do not depend on g.  A forward pass can leave them in memory for the backward pass, which then takes four
// products for each weight in place of six; of the squared error a tile makes both passes, one after the other.
#pragma once

#include "deep_run.h"

namespace gradnets::GRADNETS_ISA {

template <class S> class DeepValue : DeepRun<S> {
    using Base = DeepRun<S>;
    using T = Sum<S>;
    using Base::dbias_, Base::dc_, Base::p, Base::panel, Base::lanes, Base::shape_, Base::weights_;

  public:
    explicit DeepValue(const Deep<S> &problem) : Base(problem) {}

    bool run() {
        if (!shape_.ok())
            return false;
        is_error_ = p.quantity == Quantity::squared_error;
        tangent_ = p.points.g != nullptr;
        downward_ = p.points.dg != nullptr || p.points.dx != nullptr || p.dtheta != nullptr;
        copies_ = tangent_ ? 2 : 1;
        for (int i = 0; i < shape_.layers; ++i) {
            shape_[i].kept = kept_row_;
            kept_row_ += 2 * shape_[i].width;
        }
        const int64_t most_rows = lay_out_tiles();
        this->make_plan(most_rows, Tile<T>::rows);
        Workspace errors(is_error_ ? this->plan_.tiles * int64_t(sizeof(double)) : 1);
        errors_ = piece<double>(errors.at(0), 0);
        if (!errors.ok() || !this->run_tiles(downward_, false, flops(), [&](const BatchTile &tile) { run_tile(tile); }))
            return false;
        if (is_error_)
            *p.points.scalar = mean_error();
        return true;
    }

  private:
    double flops() const {
        const double up_and_down = (downward_ ? 2.0 : 1.0) * double(is_error_ || !p.kept ? copies_ : 1);
        const double products = up_and_down + (p.dtheta ? double(copies_) : 0.0);
        return double(p.batch) * 2.0 * products * shape_.multiplications();
    }

    // The most rows of a tile: the memory is proportional to them, and fits into the cache.
    int64_t lay_out_tiles() {
        int64_t row = copies_ * (shape_.d_stride + 2 * shape_.widest) + (is_error_ ? kept_row_ : 0);
        for (int i = 0; i < shape_.layers; ++i)
            row += copies_ * (2 + p.rank) * shape_[i].stride;
        const int64_t most_rows = Base::kTileBytes / (row * int64_t(sizeof(T))) >= 48 ? 48 : 24;
        const int64_t one = smaller(most_rows, round_up(p.batch, Tile<T>::rows)), rows = one * copies_;
        points_ = this->own(rows * shape_.d_stride);
        for (int i = 0; i < shape_.layers; ++i) {
            DeepLayer &l = shape_[i];
            l.up = this->own(rows * l.stride);
            l.slopes = this->own(rows * l.stride); // and the curves behind them
            l.squares = this->own(rows * p.rank * l.stride);
        }
        for (int64_t &at : down_)
            at = this->own(rows * shape_.widest);
        result_ = this->own(rows * shape_.d_stride);
        kept_ = this->own(is_error_ ? one * kept_row_ : 0);
        return most_rows;
    }

    // Rows of a tile: of the points or of hidden values, followed by those of their tangents.
    struct Job : BatchTile {
        T *points, *sums;
        int64_t both;  // rows and tangents
        T *kept;       // u_l and p_l of all layers, row by row; or null
        int64_t known; // so many rows of u_l and p_l are read from there; if it is 0, they are written there
        bool tangent() const { return both > rows; }
    };
    T *up(const Job &job, const DeepLayer &l) const { return piece<T>(job.mine, l.up); }
    T *result(const Job &job) const { return piece<T>(job.mine, result_); }

    void run_tile(const BatchTile &tile) const {
        Job job{tile, piece<T>(tile.mine, points_), this->sums_of(tile), tile.rows * copies_, nullptr, 0};
        if (p.kept)
            job.kept = p.kept + tile.first * kept_row_;
        this->load_rows(p.points.x, job, job.points);
        if (is_error_)
            make_error(job);
        else if (tangent_)
            this->load_rows(p.points.g, job, job.points + job.rows * shape_.d_stride);
        job.known = job.kept && tangent_ ? job.rows : 0;
        go(job);
        if (p.dbias)
            deep_column_sums<T>(job.points + (tangent_ ? job.rows * shape_.d_stride : 0), job.rows, shape_.d_stride,
                                nullptr, !job.first_of_chunk, job.sums + dbias_);
    }

    // The gradient of the mean of (f − target)² in f takes the place of tangents; the sum of squares is stored.
    void make_error(Job &job) const {
        job.kept = piece<T>(job.mine, kept_);
        Job forward = job;
        forward.both = job.rows;
        forward.sums = nullptr;
        go(forward);
        T *const f = result(job), *const g = job.points + job.rows * shape_.d_stride;
        this->load_rows(p.points.g, job, g);
        const T scale = T(2.0 / (double(p.batch) * double(p.d)));
        double sum = 0;
        for (int64_t i = 0; i < job.rows; ++i)
            for (int64_t k = 0; k < p.d; ++k) {
                const T error = f[i * shape_.d_stride + k] + (p.bias ? p.bias[k] : T(0)) - g[i * shape_.d_stride + k];
                sum += double(error) * double(error);
                g[i * shape_.d_stride + k] = error * scale;
            }
        errors_[job.first / this->plan_.tile_rows] = sum;
        this->store_rows(g, job, p.points.dg);
    }

    T mean_error() const {
        double sum = 0;
        for (int64_t tile = 0; tile < this->plan_.tiles; ++tile)
            sum += errors_[tile];
        return T(sum / (double(p.batch) * double(p.d)));
    }

    // All layers up and down.
    void go(const Job &job) const {
        for (int i = 0; i < shape_.layers; ++i)
            go_up(job, i);
        const T *const top = up(job, shape_.last());
        if (p.points.scalar && !is_error_)
            for (int64_t i = 0; i < job.rows; ++i)
                p.points.scalar[job.first + i] =
                    dot(top + i * shape_.last().stride, weights_->c(), shape_.last().stride);
        if (downward_)
            go_down(job);
    }

    // Rows of u or p between a tile and the memory for them.
    void keep(const Job &job, const T *from, const DeepLayer &l, int64_t at) const {
        for (int64_t i = 0; i < job.rows; ++i)
            __builtin_memcpy(job.kept + i * kept_row_ + at, from + i * l.stride, size_t(l.width) * sizeof(T));
    }
    void restore(const Job &job, T *to, const DeepLayer &l, int64_t at) const {
        for (int64_t i = 0; i < job.rows; ++i) {
            __builtin_memcpy(to + i * l.stride, job.kept + i * kept_row_ + at, size_t(l.width) * sizeof(T));
            fill_zero(to + i * l.stride + l.width, l.stride - l.width);
        }
    }

    void go_up(const Job &job, int i) const {
        const DeepLayer &l = shape_[i], *const below = i > 0 ? &shape_[i - 1] : nullptr;
        T *const u = up(job, l), *const tangent = job.tangent() ? u + job.rows * l.stride : nullptr;
        T *const made = u + job.known * l.stride; // the first row that products are made of
        const Left<T> points{job.points, shape_.d_stride, 1};
        if (below)
            product<T>(job.both - job.known, l.width, l.before,
                       {up(job, *below) + job.known * below->stride, below->stride, 1}, weights_->V_transposed(l), made,
                       l.stride, false);
        if (l.input)
            product<T>(job.both - job.known, l.width, p.d,
                       {job.points + job.known * shape_.d_stride, shape_.d_stride, 1}, weights_->A_transposed(l), made,
                       l.stride, below != nullptr);
        T *const y = piece<T>(job.mine, l.squares);
        for (int64_t r = 0; r < p.rank; ++r)
            product<T>(job.both, l.width, p.d, points, weights_->Q_transposed(l, r), y + r * l.stride,
                       p.rank * l.stride, false);
        deep_clear_padding(made, job.both - job.known, l.width, l.stride);
        deep_clear_padding(y, job.both * p.rank, l.width, l.stride);
        if (p.rank > 0)
            deep_add_squares(y, y + job.rows * p.rank * l.stride, job.rows, l.stride, p.rank, job.known ? nullptr : u,
                             tangent);
        if (job.known)
            restore(job, u, l, l.kept);
        else if (job.kept)
            keep(job, u, l, l.kept);
        T *const slopes = piece<T>(job.mine, l.slopes), *const before = below && p.residual ? up(job, *below) : nullptr;
        const DeepUp<T> tile{u,
                             tangent,
                             slopes,
                             slopes + job.rows * l.stride,
                             weights_->bias(l),
                             before,
                             before ? before + job.rows * l.stride : nullptr,
                             job.rows,
                             l.stride};
        tangent ? deep_up_tangent(l.basis, tile) : deep_up(l.basis, tile);
    }

    void go_down(const Job &job) const {
        T *here = piece<T>(job.mine, down_[0]), *next = piece<T>(job.mine, down_[1]);
        start_down(job, here);
        for (int i = shape_.layers - 1; i >= 0; --i) {
            const DeepLayer &l = shape_[i];
            T *const e = job.tangent() ? here + job.rows * l.stride : nullptr;
            if (job.known && i + 1 < shape_.layers)
                restore(job, here, l, l.kept + l.width);
            else if (job.kept && !job.known)
                keep(job, here, l, l.kept + l.width);
            const bool residual = p.residual && i > 0;
            if (residual)
                __builtin_memcpy(next, here, size_t(job.both * l.stride) * sizeof(T));
            const T *const slopes = piece<T>(job.mine, l.slopes);
            deep_down<T>(here, e, slopes, slopes + job.rows * l.stride, job.rows * l.stride);
            T *const y = piece<T>(job.mine, l.squares);
            if (p.rank > 0)
                deep_squares_down<T>(y, e ? y + job.rows * p.rank * l.stride : nullptr, job.rows, l.stride, p.rank,
                                     here, e);
            if (!job.sums || p.points.dx || (p.points.dg && !is_error_))
                add_to_result(job, l, e ? e : here, e ? y + job.rows * p.rank * l.stride : y, i == shape_.layers - 1);
            if (p.dtheta && job.sums)
                add_gradients(job, i, here, e, y);
            if (i > 0) {
                product<T>(job.both - job.known, l.before, l.width, {here + job.known * l.stride, l.stride, 1},
                           weights_->V(l), next + job.known * shape_[i - 1].stride, shape_[i - 1].stride, residual);
                exchange(here, next);
            }
        }
        if (job.sums)
            store_result(job);
    }

    // p_L = c, and r_L = w·c; without tangents p_L = w·c where there is a w.  Adds dc.
    void start_down(const Job &job, T *top) const {
        const DeepLayer &l = shape_.last();
        const Sum<S> *const weight = p.points.weight ? p.points.weight + job.first : nullptr;
        const T *const c = weights_->c();
        const int64_t copies = job.tangent() ? 2 : 1;
        for (int64_t k = 0; k < copies; ++k)
            for (int64_t i = 0; i < job.rows; ++i) {
                const bool scaled = weight && k == copies - 1, absent = !weight && k == 1;
                T *const row = top + (k * job.rows + i) * l.stride;
                for (int64_t j = 0; j < l.stride; ++j)
                    row[j] = absent ? T(0) : scaled ? weight[i] * c[j] : c[j];
            }
        if (!p.dtheta || !job.sums)
            return;
        T *const dc = job.sums + dc_;
        if (tangent_)
            deep_column_sums<T>(up(job, l) + job.rows * l.stride, job.rows, l.stride, nullptr, !job.first_of_chunk, dc);
        if (weight)
            deep_column_sums<T>(up(job, l), job.rows, l.stride, weight, tangent_ || !job.first_of_chunk, dc);
    }

    void add_to_result(const Job &job, const DeepLayer &l, const T *e, const T *y, bool first) const {
        T *const result = this->result(job);
        if (l.input)
            product<T>(job.rows, p.d, l.width, {e, l.stride, 1}, weights_->A(l), result, shape_.d_stride, !first);
        for (int64_t r = 0; r < p.rank; ++r)
            product<T>(job.rows, p.d, l.width, {y + r * l.stride, p.rank * l.stride, 1}, weights_->Q(l, r), result,
                       shape_.d_stride, !first || l.input || r > 0);
        if (first && !l.input && p.rank == 0)
            fill_zero(result, job.rows * shape_.d_stride);
    }

    void store_result(const Job &job) const {
        const bool forward = p.points.dg && !is_error_;
        S *const to = forward ? p.points.dg : p.points.dx;
        if (!to)
            return;
        if (forward && p.bias)
            add_rows(p.bias, job.rows, 0, p.d, result(job), shape_.d_stride);
        this->store_rows(result(job), job, to);
    }

    // The rows of s and e times those of what the layer's weights multiplied, summed over the batch.
    void add_gradients(const Job &job, int i, const T *s, const T *e, const T *y) const {
        const DeepLayer &l = shape_[i];
        deep_column_sums<T>(e ? e : s, job.rows, l.stride, nullptr, !job.first_of_chunk, job.sums + l.db);
        if (i > 0)
            outer(job, l.width, s, e, l.stride, up(job, shape_[i - 1]), shape_[i - 1].stride, l.before, l.dV);
        if (l.input)
            outer(job, l.width, s, e, l.stride, job.points, shape_.d_stride, p.d, l.dA);
        for (int64_t r = 0; r < p.rank; ++r) {
            const T *const of_y = y + r * l.stride;
            outer(job, l.width, of_y, e ? of_y + job.rows * p.rank * l.stride : nullptr, p.rank * l.stride, job.points,
                  shape_.d_stride, p.d, l.dQ + r * l.width * shape_.d_stride);
        }
    }

    // eᵀ·values + sᵀ·tangents, or sᵀ·values without e.
    void outer(const Job &job, int64_t m, const T *s, const T *e, int64_t s_row, const T *values, int64_t row,
               int64_t n, int64_t at) const {
        const Right<T> right{values, row, panel}, tangents{values + job.rows * row, row, panel};
        const Factors<T> factors[2] = {{{e ? e : s, 1, s_row}, right}, {{s, 1, s_row}, tangents}};
        multiply<Plain<T>>(m, n, job.rows, factors, e ? 2 : 1, job.sums + at, round_up(n, lanes), !job.first_of_chunk);
    }

    bool is_error_ = false, tangent_ = false, downward_ = false;
    int64_t copies_ = 1, kept_row_ = 0;
    int64_t points_ = 0, down_[2] = {}, result_ = 0, kept_ = 0;
    double *errors_ = nullptr; // of each tile
};

} // namespace gradnets::GRADNETS_ISA
