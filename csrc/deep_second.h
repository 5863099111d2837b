// tr J, J and the gradients of S = Σ_k <η_k, J v_k> of a deep network (deep_shape.h), bilinear in directions v_k:
//   divergence: v_k the unit vectors, η_k = w v_k    jacobian: v_k the unit vectors, η = G v, G the symmetric part of g
//   jvp: S = <g, J v>
// Upward run the tangents τ_k of u along v_k, and t_k = σ'·τ_k; with η also for G applied to the tangents τ,
//   S = Σ_l [σ''·p·m + s·q],  m = Σ_k τ_k·η_k,  q = 2 Σ_r Σ_k (Q_r v_k)·(Q_r η_k).
// Derivatives by each quantity, written with a bar:
//   tangents, downward   τ̄_k = 2 σ''·p·η_k + σ'·t̄_k,  t̄_k of the layer below = Vᵀτ̄_k
//   p, upward            s̄ = q + V p̄ of the layer below,  p̄ = σ''·m + σ'·s̄
//   u, downward          ū = σ'''·p·m + σ''·(p·s̄ + Σ_k τ_k·t̄_k) + σ'·ā,  ā of the layer below = Vᵀū
//   squares              ȳ_r = 2 Σ_k (Q_r v_k)·τ̄_k + 2 y_r·ū,  of Q_r v_k: 2 y_r·τ̄_k + 4 s·(Q_r η_k)
// Nothing but the tile's tangents grows with d; they go through the layers in groups, but for those of a Jacobian.
#pragma once

#include "deep_run.h"

namespace gradnets::GRADNETS_ISA {

template <class S> class DeepSecond : DeepRun<S> {
    using Base = DeepRun<S>;
    using T = Sum<S>;
    using V = typename Simd<T>::Vector;
    using Base::dc_, Base::p, Base::panel, Base::lanes, Base::shape_, Base::weights_;

  public:
    explicit DeepSecond(const Deep<S> &problem) : Base(problem) {}

    bool run() {
        if (!shape_.ok())
            return false;
        pair_ = p.quantity == Quantity::jvp;
        matrix_ = p.quantity == Quantity::jacobian;
        backward_ = p.points.g != nullptr || p.points.weight != nullptr;
        tangents_ = pair_ ? 2 : p.d;
        this->make_plan(lay_out_tiles(), 1);
        return this->run_tiles(true, !pair_, flops(), [&](const BatchTile &tile) { run_tile(tile); });
    }

  private:
    double flops() const {
        return double(p.batch) * 2.0 * double(tangents_ + 2) * shape_.multiplications() * (backward_ ? 4.0 : 1.0);
    }

    // The most rows of a tile, and the tangents of a group.
    int64_t lay_out_tiles() {
        int64_t values = 0;
        for (int i = 0; i < shape_.layers; ++i)
            values += shape_[i].stride;
        group_ = matrix_ ? tangents_ : smaller(tangents_, 8);
        const int64_t budget = Base::kTileBytes / int64_t(sizeof(T)) / larger(1, values * (9 + 3 * group_));
        const int64_t rows = larger(1, smaller(smaller(24, p.batch), budget)), all = rows * group_;
        points_ = this->own(rows * shape_.d_stride);
        directions_ = pair_ ? this->own(all * shape_.d_stride) : 0;
        cotangents_ = jacobian_ = matrix_ ? this->own(rows * p.d * p.d) : 0;
        product_ = matrix_ ? this->own(p.d * round_up(p.d, lanes)) : 0;
        for (int i = 0; i < shape_.layers; ++i) {
            DeepLayer &l = shape_[i];
            int64_t *const of_rows[] = {&l.up, &l.slopes, &l.curves,  &l.thirds,        &l.above,
                                        &l.s,  &l.of_u,   &l.moments, &l.square_moments};
            for (int64_t *at : of_rows)
                *at = this->own(rows * l.stride);
            l.squares = this->own(2 * rows * p.rank * l.stride); // and their derivatives
            l.of_squares = this->own(pair_ ? all * p.rank * l.stride : 0);
            l.tangents = this->own(all * l.stride);
            l.of_tangents = this->own(all * l.stride);
            l.partners = matrix_ ? this->own(all * l.stride) : 0;
        }
        for (int64_t &at : wide_)
            at = this->own(larger(all, rows) * shape_.widest);
        columns_ = this->own(shape_.widest);
        for (int64_t &at : results_)
            at = this->own(rows * shape_.d_stride);
        return rows;
    }

    struct Job : BatchTile {
        T *points, *sums;
        int64_t first_direction, directions; // of the group
        int64_t all;                         // rows of all tangents of the group
        T *of(int64_t offset) const { return piece<T>(this->mine, offset); }
    };

    void run_tile(const BatchTile &tile) const {
        Job job{tile, piece<T>(tile.mine, points_), this->sums_of(tile), 0, 0, 0};
        if (this->has_sums() && job.first_of_chunk)
            fill_zero(job.sums, this->sums_size());
        this->load_rows(p.points.x, job, job.points);
        start(job);
        for (int i = 0; i < shape_.layers; ++i)
            go_up(job, i);
        go_down(job);
        for (int64_t first = 0; first < tangents_; first += group_) {
            job.first_direction = first;
            job.directions = smaller(group_, tangents_ - first);
            job.all = job.directions * job.rows;
            for (int i = 0; i < shape_.layers; ++i)
                tangents_up(job, i);
            if (backward_)
                tangents_down(job);
        }
        if (!backward_)
            return store_forward(job);
        above_up(job);
        of_u_down(job);
        if (p.points.dx)
            this->store_rows(job.of(results_[0]), job, p.points.dx);
        if (p.points.dv)
            this->store_rows(job.of(results_[1]), job, p.points.dv);
    }

    // Sums of the tile at their start; the cotangents of a Jacobian made symmetric; the directions of a product.
    void start(const Job &job) const {
        for (int i = 0; i < shape_.layers; ++i) {
            const DeepLayer &l = shape_[i];
            const int64_t sums[] = {l.of_u, l.moments, l.square_moments};
            for (const int64_t at : sums)
                fill_zero(job.of(at), job.rows * l.stride);
            fill_zero(job.of(l.squares) + job.rows * p.rank * l.stride, job.rows * p.rank * l.stride);
        }
        for (const int64_t at : results_)
            fill_zero(job.of(at), job.rows * shape_.d_stride);
        if (pair_) {
            this->load_rows(p.points.v, job, job.of(directions_));
            this->load_rows(p.points.g, job, job.of(directions_) + job.rows * shape_.d_stride);
        }
        if (matrix_ && !backward_)
            fill_zero(job.of(jacobian_), job.rows * p.d * p.d);
        if (!matrix_ || !backward_)
            return;
        for (int64_t i = 0; i < job.rows; ++i) {
            const S *const g = p.points.g + (job.first + i) * p.d * p.d;
            T *const symmetric = job.of(cotangents_) + i * p.d * p.d;
            for (int64_t k = 0; k < p.d; ++k)
                for (int64_t m = 0; m < p.d; ++m)
                    symmetric[k * p.d + m] = T(0.5) * (widen(g[k * p.d + m]) + widen(g[m * p.d + k]));
        }
    }

    void go_up(const Job &job, int i) const {
        const DeepLayer &l = shape_[i];
        const Left<T> points{job.points, shape_.d_stride, 1};
        T *const u = job.of(l.up), *const y = job.of(l.squares);
        if (i > 0)
            product<T>(job.rows, l.width, l.before, {job.of(shape_[i - 1].up), shape_[i - 1].stride, 1},
                       weights_->V_transposed(l), u, l.stride, false);
        if (l.input)
            product<T>(job.rows, l.width, p.d, points, weights_->A_transposed(l), u, l.stride, i > 0);
        for (int64_t r = 0; r < p.rank; ++r)
            product<T>(job.rows, l.width, p.d, points, weights_->Q_transposed(l, r), y + r * l.stride,
                       p.rank * l.stride, false);
        deep_clear_padding(u, job.rows, l.width, l.stride);
        deep_clear_padding(y, job.rows * p.rank, l.width, l.stride);
        if (p.rank > 0)
            deep_add_squares<T>(y, nullptr, job.rows, l.stride, p.rank, u, nullptr);
        deep_up_third<T>(l.basis, job.rows, l.stride, weights_->bias(l),
                         p.residual && i > 0 ? job.of(shape_[i - 1].up) : nullptr, u, job.of(l.slopes),
                         job.of(l.curves), job.of(l.thirds));
    }

    void go_down(const Job &job) const {
        const DeepLayer &top = shape_.last();
        for (int64_t i = 0; i < job.rows; ++i)
            __builtin_memcpy(job.of(top.above) + i * top.stride, weights_->c(), size_t(top.stride) * sizeof(T));
        for (int i = shape_.layers - 1; i >= 0; --i) {
            const DeepLayer &l = shape_[i];
            T *const above = job.of(l.above), *const s = job.of(l.s), *const slopes = job.of(l.slopes);
            each_vector<T>(job.rows, l.stride,
                           [&](int64_t, int64_t, int64_t at) { store(s + at, load(slopes + at) * load(above + at)); });
            if (i == 0)
                break;
            T *const next = job.of(shape_[i - 1].above);
            if (p.residual)
                __builtin_memcpy(next, above, size_t(job.rows * l.stride) * sizeof(T));
            product<T>(job.rows, l.before, l.width, {s, l.stride, 1}, weights_->V(l), next, shape_[i - 1].stride,
                       p.residual);
        }
    }

    // Q_r times direction k of the group, for row i of the tile.
    const T *square_tangent(const Job &job, const DeepLayer &l, int64_t r, int64_t k, int64_t i) const {
        if (pair_)
            return job.of(l.of_squares) + ((k * job.rows + i) * p.rank + r) * l.stride;
        return weights_->Q_column(l, r, job.first_direction + k);
    }

    // τ and t of the group's directions, and what they add to m, q and the results.
    void tangents_up(const Job &job, int i) const {
        const DeepLayer &l = shape_[i], *const below = i > 0 ? &shape_[i - 1] : nullptr;
        T *const tau = job.of(l.tangents), *const t = job.of(l.of_tangents);
        start_tangents(job, l, tau);
        if (below)
            product<T>(job.all, l.width, l.before, {job.of(below->of_tangents), below->stride, 1},
                       weights_->V_transposed(l), tau, l.stride, true);
        const T *const y = job.of(l.squares), *const slopes = job.of(l.slopes);
        const T *const before = below && p.residual ? job.of(below->of_tangents) : nullptr;
        for (int64_t k = 0; k < job.directions; ++k)
            each_vector<T>(job.rows, l.stride, [&](int64_t row, int64_t j, int64_t at) {
                const int64_t here = k * job.rows * l.stride + at;
                V tangent = load(tau + here);
                for (int64_t r = 0; r < p.rank; ++r)
                    tangent += T(2) * load(y + (row * p.rank + r) * l.stride + j) *
                               load(square_tangent(job, l, r, k, row) + j);
                store(tau + here, tangent);
                const V product = load(slopes + at) * tangent;
                store(t + here, before ? product + load(before + here) : product);
            });
        if (matrix_ && backward_)
            multiply_cotangents(job, l);
        if (matrix_ && !backward_)
            return add_jacobian(job, l);
        add_moments(job, l);
    }

    // A v_k + …: columns of A for unit directions.
    void start_tangents(const Job &job, const DeepLayer &l, T *tau) const {
        if (pair_) {
            const Left<T> directions{job.of(directions_), shape_.d_stride, 1};
            if (l.input)
                product<T>(job.all, l.width, p.d, directions, weights_->A_transposed(l), tau, l.stride, false);
            else
                fill_zero(tau, job.all * l.stride);
            for (int64_t r = 0; r < p.rank; ++r)
                product<T>(job.all, l.width, p.d, directions, weights_->Q_transposed(l, r),
                           job.of(l.of_squares) + r * l.stride, p.rank * l.stride, false);
            return;
        }
        if (!l.input)
            return fill_zero(tau, job.all * l.stride);
        for (int64_t row = 0; row < job.all; ++row)
            __builtin_memcpy(tau + row * l.stride, weights_->A_column(l, job.first_direction + row / job.rows),
                             size_t(l.stride) * sizeof(T));
    }

    // η = G τ of each row of a Jacobian's tile.
    void multiply_cotangents(const Job &job, const DeepLayer &l) const {
        const int64_t step = job.rows * l.stride;
        for (int64_t i = 0; i < job.rows; ++i)
            product<T>(p.d, l.stride, p.d, {job.of(cotangents_) + i * p.d * p.d, p.d, 1},
                       {job.of(l.tangents) + i * l.stride, step, panel}, job.of(l.partners) + i * l.stride, step,
                       false);
    }

    // η of direction k and row i of the group at vector j: the factor of τ in m.
    V partner(const Job &job, const DeepLayer &l, int64_t k, int64_t i, int64_t j) const {
        const int64_t at = (k * job.rows + i) * l.stride + j;
        if (matrix_)
            return load(job.of(l.partners) + at);
        if (pair_)
            return T(0.5) * load(job.of(l.tangents) + ((1 - k) * job.rows + i) * l.stride + j);
        return weight(job, i) * load(job.of(l.tangents) + at);
    }
    // The same of Q_r: Σ over the directions m of G_km (Q_r v_m).
    V square_partner(const Job &job, const DeepLayer &l, int64_t r, int64_t k, int64_t i, int64_t j) const {
        if (pair_)
            return T(0.5) * load(square_tangent(job, l, r, 1 - k, i) + j);
        if (!matrix_)
            return weight(job, i) * load(square_tangent(job, l, r, k, i) + j);
        V sum = {};
        for (int64_t m = 0; m < p.d; ++m)
            sum += job.of(cotangents_)[(i * p.d + k) * p.d + m] * load(square_tangent(job, l, r, m, i) + j);
        return sum;
    }
    T weight(const Job &job, int64_t i) const { return backward_ ? T(p.points.weight[job.first + i]) : T(1); }

    void add_moments(const Job &job, const DeepLayer &l) const {
        T *const m = job.of(l.moments), *const q = job.of(l.square_moments), *const tau = job.of(l.tangents);
        for (int64_t k = 0; k < job.directions; ++k)
            each_vector<T>(job.rows, l.stride, [&](int64_t i, int64_t j, int64_t at) {
                store(m + at, load(m + at) + load(tau + k * job.rows * l.stride + at) * partner(job, l, k, i, j));
                for (int64_t r = 0; r < p.rank; ++r)
                    store(q + at, load(q + at) + T(2) * load(square_tangent(job, l, r, k, i) + j) *
                                                     square_partner(job, l, r, k, i, j));
            });
    }

    // J += τᵀ diag(σ''·p) τ + 2 Σ_r Q_rᵀ diag(s) Q_r, the upper half, and the lower as its mirror image.
    void add_jacobian(const Job &job, const DeepLayer &l) const {
        T *const scaled = job.of(wide_[0]), *const made = job.of(product_);
        const int64_t step = job.rows * l.stride, row = round_up(p.d, lanes);
        for (int64_t i = 0; i < job.rows; ++i) {
            const T *const tau = job.of(l.tangents) + i * l.stride;
            const T *const curves = job.of(l.curves) + i * l.stride, *const above = job.of(l.above) + i * l.stride;
            each_vector<T>(p.d, l.stride, [&](int64_t k, int64_t j, int64_t at) {
                store(scaled + at, load(tau + k * step + j) * (load(curves + j) * load(above + j)));
            });
            multiply_dots<T>(p.d, p.d, l.width, scaled, l.stride, tau, step, made, row);
            add_symmetric(job, i, made, row);
            for (int64_t r = 0; r < p.rank; ++r) {
                const T *const columns = weights_->Q_column(l, r, 0), *const s = job.of(l.s) + i * l.stride;
                each_vector<T>(p.d, l.stride, [&](int64_t, int64_t j, int64_t at) {
                    store(scaled + at, T(2) * load(columns + at) * load(s + j));
                });
                multiply_dots<T>(p.d, p.d, l.width, scaled, l.stride, columns, l.stride, made, row);
                add_symmetric(job, i, made, row);
            }
        }
    }

    void add_symmetric(const Job &job, int64_t i, const T *made, int64_t row) const {
        T *const J = job.of(jacobian_) + i * p.d * p.d;
        for (int64_t k = 0; k < p.d; ++k)
            for (int64_t m = k; m < p.d; ++m)
                J[k * p.d + m] = J[m * p.d + k] += made[k * row + m];
    }

    void store_forward(const Job &job) const {
        if (matrix_)
            return narrow_row(job.of(jacobian_), job.rows * p.d * p.d, p.points.dg + job.first * p.d * p.d);
        for (int64_t i = 0; i < job.rows; ++i) {
            V sum = {};
            for (int n = 0; n < shape_.layers; ++n) {
                const DeepLayer &l = shape_[n];
                for (int64_t j = 0, at = i * l.stride; j < l.width; j += lanes, at += lanes) {
                    const V bend = load(job.of(l.curves) + at) * load(job.of(l.above) + at);
                    sum += bend * load(job.of(l.moments) + at);
                    if (p.rank > 0)
                        sum += load(job.of(l.s) + at) * load(job.of(l.square_moments) + at);
                }
            }
            p.points.scalar[job.first + i] = horizontal_sum<T>(sum);
        }
    }

    // τ̄ and t̄ of the group's directions: gradients of V, A and Q, of v, and what u and y_r get of them.
    void tangents_down(const Job &job) const {
        T *here = job.of(wide_[0]), *next = job.of(wide_[1]);
        fill_zero(here, job.all * shape_.last().stride);
        for (int i = shape_.layers - 1; i >= 0; --i) {
            const DeepLayer &l = shape_[i];
            const bool residual = p.residual && i > 0;
            if (residual)
                __builtin_memcpy(next, here, size_t(job.all * l.stride) * sizeof(T));
            bend_tangents(job, l, here);
            if (p.dtheta && i > 0)
                add_outer(job, l, here, job.all, job.of(shape_[i - 1].of_tangents), shape_[i - 1].stride, l.before,
                          l.dV);
            pair_ ? add_direction_gradients(job, l, here) : add_column_sums(job, l, here);
            for (int64_t r = 0; r < p.rank; ++r)
                square_tangents_down(job, l, r, here);
            if (i == 0)
                break;
            product<T>(job.all, l.before, l.width, {here, l.stride, 1}, weights_->V(l), next, shape_[i - 1].stride,
                       residual);
            exchange(here, next);
        }
    }

    // t̄ becomes τ̄ = 2 σ''·p·η + σ'·t̄, and σ''·τ·t̄ is added to ū.
    void bend_tangents(const Job &job, const DeepLayer &l, T *here) const {
        const T *const slopes = job.of(l.slopes), *const curves = job.of(l.curves), *const above = job.of(l.above);
        T *const of_u = job.of(l.of_u), *const tau = job.of(l.tangents);
        for (int64_t k = 0; k < job.directions; ++k)
            each_vector<T>(job.rows, l.stride, [&](int64_t i, int64_t j, int64_t at) {
                const int64_t of_k = k * job.rows * l.stride + at;
                const V t = load(here + of_k), curve = load(curves + at);
                store(of_u + at, load(of_u + at) + curve * load(tau + of_k) * t);
                store(here + of_k, T(2) * curve * load(above + at) * partner(job, l, k, i, j) + load(slopes + at) * t);
            });
    }

    // leftᵀ·values of `rows` rows, added to the sums at `at`.
    void add_outer(const Job &job, const DeepLayer &l, const T *left, int64_t rows, const T *values, int64_t row,
                   int64_t n, int64_t at) const {
        const Factors<T> factors{{left, 1, l.stride}, {values, row, panel}};
        multiply<Plain<T>>(l.width, n, rows, &factors, 1, job.sums + at, round_up(n, lanes), true);
    }

    void add_direction_gradients(const Job &job, const DeepLayer &l, const T *of_tangents) const {
        if (!l.input)
            return;
        if (p.dtheta)
            add_outer(job, l, of_tangents, job.all, job.of(directions_), shape_.d_stride, p.d, l.dA);
        if (p.points.dv)
            product<T>(job.rows, p.d, l.width, {of_tangents, l.stride, 1}, weights_->A(l), job.of(results_[1]),
                       shape_.d_stride, true);
    }

    // For unit directions: column k of the gradient of A, Σ_rows τ̄_k.
    void add_column_sums(const Job &job, const DeepLayer &l, const T *of_tangents) const {
        if (p.dtheta && l.input)
            for (int64_t k = 0; k < job.directions; ++k)
                add_column(job, l, of_tangents + k * job.rows * l.stride, l.dA, job.first_direction + k);
    }

    void add_column(const Job &job, const DeepLayer &l, const T *rows, int64_t at, int64_t column) const {
        T *const sums = job.of(columns_), *const to = job.sums + at + column;
        deep_column_sums<T>(rows, job.rows, l.stride, nullptr, false, sums);
        for (int64_t j = 0; j < l.width; ++j)
            to[j * shape_.d_stride] += sums[j];
    }

    // ȳ_r += 2 Σ_k (Q_r v_k)·τ̄_k, and of Q_r v_k: 2 y_r·τ̄_k + 4 s·(Q_r η_k), with the gradients of Q_r and v.
    void square_tangents_down(const Job &job, const DeepLayer &l, int64_t r, const T *of_tangents) const {
        T *const made = job.of(wide_[2]), *const y = job.of(l.squares) + r * l.stride;
        const T *const s = job.of(l.s);
        const int64_t of_y = job.rows * p.rank * l.stride;
        for (int64_t k = 0; k < job.directions; ++k)
            each_vector<T>(job.rows, l.stride, [&](int64_t i, int64_t j, int64_t at) {
                const int64_t here = k * job.rows * l.stride + at, y_at = i * p.rank * l.stride + j;
                const V tau = load(of_tangents + here);
                T *const sum = y + of_y + y_at;
                store(sum, load(sum) + T(2) * load(square_tangent(job, l, r, k, i) + j) * tau);
                store(made + here,
                      T(2) * load(y + y_at) * tau + T(4) * load(s + at) * square_partner(job, l, r, k, i, j));
            });
        const int64_t dQ = l.dQ + r * l.width * shape_.d_stride;
        if (pair_ && p.points.dv)
            product<T>(job.rows, p.d, l.width, {made, l.stride, 1}, weights_->Q(l, r), job.of(results_[1]),
                       shape_.d_stride, true);
        if (!p.dtheta)
            return;
        if (pair_)
            return add_outer(job, l, made, job.all, job.of(directions_), shape_.d_stride, p.d, dQ);
        for (int64_t k = 0; k < job.directions; ++k)
            add_column(job, l, made + k * job.rows * l.stride, dQ, job.first_direction + k);
    }

    // p̄, upward: gradients of V and c, and what u gets of it.
    void above_up(const Job &job) const {
        T *below = job.of(wide_[0]), *here = job.of(wide_[1]), *const incoming = job.of(wide_[2]);
        for (int i = 0; i < shape_.layers; ++i) {
            const DeepLayer &l = shape_[i];
            if (i > 0) {
                product<T>(job.rows, l.width, l.before, {below, shape_[i - 1].stride, 1}, weights_->V_transposed(l),
                           incoming, l.stride, false);
                if (p.dtheta)
                    add_outer(job, l, job.of(l.s), job.rows, below, shape_[i - 1].stride, l.before, l.dV);
            }
            const T *const slopes = job.of(l.slopes), *const curves = job.of(l.curves), *const above = job.of(l.above);
            const T *const thirds = job.of(l.thirds), *const m = job.of(l.moments), *const q = job.of(l.square_moments);
            T *const of_u = job.of(l.of_u);
            each_vector<T>(job.rows, l.stride, [&](int64_t, int64_t, int64_t at) {
                const V moment = load(m + at), slope = load(slopes + at), curve = load(curves + at);
                const V of_s = i > 0 ? load(q + at) + load(incoming + at) : load(q + at);
                const V of_p = curve * moment + slope * of_s;
                store(here + at, p.residual && i > 0 ? of_p + load(below + at) : of_p);
                store(of_u + at, load(of_u + at) + load(above + at) * (load(thirds + at) * moment + curve * of_s));
            });
            exchange(below, here);
        }
        if (p.dtheta)
            deep_column_sums<T>(below, job.rows, shape_.last().stride, nullptr, true, job.sums + dc_);
    }

    // ū, downward: the gradients of V, A, Q, b and x.
    void of_u_down(const Job &job) const {
        T *here = job.of(wide_[0]), *next = job.of(wide_[1]);
        fill_zero(here, job.rows * shape_.last().stride);
        for (int i = shape_.layers - 1; i >= 0; --i) {
            const DeepLayer &l = shape_[i];
            const bool residual = p.residual && i > 0;
            if (residual)
                __builtin_memcpy(next, here, size_t(job.rows * l.stride) * sizeof(T));
            const T *const slopes = job.of(l.slopes), *const of_u = job.of(l.of_u);
            each_vector<T>(job.rows, l.stride, [&](int64_t, int64_t, int64_t at) {
                store(here + at, load(of_u + at) + load(slopes + at) * load(here + at));
            });
            if (p.dtheta)
                add_layer_gradients(job, i, here);
            if (p.points.dx && l.input)
                product<T>(job.rows, p.d, l.width, {here, l.stride, 1}, weights_->A(l), job.of(results_[0]),
                           shape_.d_stride, true);
            for (int64_t r = 0; r < p.rank; ++r)
                squares_down(job, l, r, here);
            if (i == 0)
                break;
            product<T>(job.rows, l.before, l.width, {here, l.stride, 1}, weights_->V(l), next, shape_[i - 1].stride,
                       residual);
            exchange(here, next);
        }
    }

    void add_layer_gradients(const Job &job, int i, const T *of_u) const {
        const DeepLayer &l = shape_[i];
        deep_column_sums<T>(of_u, job.rows, l.stride, nullptr, true, job.sums + l.db);
        if (i > 0)
            add_outer(job, l, of_u, job.rows, job.of(shape_[i - 1].up), shape_[i - 1].stride, l.before, l.dV);
        if (l.input)
            add_outer(job, l, of_u, job.rows, job.points, shape_.d_stride, p.d, l.dA);
    }

    void squares_down(const Job &job, const DeepLayer &l, int64_t r, const T *of_u) const {
        T *const made = job.of(wide_[2]);
        const T *const y = job.of(l.squares) + r * l.stride, *const of_y = y + job.rows * p.rank * l.stride;
        each_vector<T>(job.rows, l.stride, [&](int64_t i, int64_t j, int64_t at) {
            const int64_t y_at = i * p.rank * l.stride + j;
            store(made + at, load(of_y + y_at) + T(2) * load(y + y_at) * load(of_u + at));
        });
        if (p.dtheta)
            add_outer(job, l, made, job.rows, job.points, shape_.d_stride, p.d, l.dQ + r * l.width * shape_.d_stride);
        if (p.points.dx)
            product<T>(job.rows, p.d, l.width, {made, l.stride, 1}, weights_->Q(l, r), job.of(results_[0]),
                       shape_.d_stride, true);
    }

    bool pair_ = false, matrix_ = false, backward_ = false;
    int64_t tangents_ = 0, group_ = 0, wide_[3] = {}, results_[2] = {};
    int64_t points_ = 0, directions_ = 0, cotangents_ = 0, jacobian_ = 0, product_ = 0, columns_ = 0;
};

} // namespace gradnets::GRADNETS_ISA
