// f = φ(x Wᵀ) W + bias for few coordinates: vectors along the batch, one hidden unit at a time, everything in
// registers. A matrix product would compute mostly padding.
#pragma once

#include "cascade.h"

namespace gradnets::GRADNETS_ISA {

static constexpr int64_t kNarrow = 8;

// Whether vectors along the batch take less work than vectors along the hidden units, padding included.
template <class T> inline bool narrow_pays(int64_t batch, int64_t d, int64_t h) {
    constexpr int64_t lanes = Simd<T>::lanes;
    return d <= kNarrow && round_up(batch, lanes) * h <= 2 * batch * round_up(h, lanes);
}

template <class S> class NarrowRun {
    using T = Sum<S>;
    using V = typename Simd<T>::Vector;
    static constexpr int64_t lanes = Simd<T>::lanes;

  public:
    NarrowRun(const Ridge<S> &problem, const PaddedCascade<T> &cascade) : p(problem), phi(cascade) {
        const double flops = 2.0 * double(p.batch) * double(p.d) * double(p.h) * (p.points.g ? 5 : 2) +
                             basis_flops(p) * double(p.batch) * double(p.h) * p.phi.layers * p.phi.terms;
        const int64_t most = p.d <= 4 ? 512 : 256;
        tile_ = smaller(most, round_up(p.batch, lanes));
        plan_.tile_rows = tile_;
        plan_.tiles = (p.batch + tile_ - 1) / tile_;
        plan_.row_chunks = flops <= kSerialFlops ? 1 : smaller(plan_.tiles, most_chunks(p.h * p.d));
        threads_ = threads_for(flops, p.threads, plan_.row_chunks);
        parameters_ = phi.index.count();
        sums_ = (parameters_ + p.d) * p.h + p.d;
        rows_ = p.d * tile_;
        Layout mine;
        for (int r = 0; r < 4; ++r)
            at_[r] = mine.add<T>(rows_);
        local_ = mine.add<T>((parameters_ + p.d) * lanes);
        history_ = mine.add<T>(phi.index.layers * kInterleaved * lanes);
        worker_bytes_ = mine.bytes();
    }

    bool run() {
        Layout all;
        const int64_t sums = all.add<T>(plan_.row_chunks * sums_), workers = all.bytes();
        Workspace workspace(workers + threads_ * worker_bytes_);
        if (!workspace.ok())
            return false;
        T *const partials = piece<T>(workspace.at(sums), 0);
        each_tile(plan_, p.batch, threads_, workspace.at(workers), worker_bytes_,
                  [&](const BatchTile &tile, int64_t) { run_tile(tile, partials + tile.chunk * sums_); });
        finish(partials);
        return true;
    }

  private:
    enum { kX, kG, kOut, kDx };

    T *rows(char *mine, int which) const { return piece<T>(mine, at_[which]); }

    // to[c, i] = from[i, c]: each coordinate of a tile's rows contiguous, zeros past the batch.
    void transpose_in(const S *from, int64_t count, T *to) const {
        for (int64_t c = 0; c < p.d; ++c) {
            for (int64_t i = 0; i < count; ++i)
                to[c * tile_ + i] = widen(from[i * p.d + c]);
            fill_zero(to + c * tile_ + count, tile_ - count);
        }
    }

    void transpose_out(const T *from, const T *bias, int64_t count, S *to) const {
        for (int64_t i = 0; i < count; ++i)
            for (int64_t c = 0; c < p.d; ++c)
                narrow(bias ? from[c * tile_ + i] + bias[c] : from[c * tile_ + i], to[i * p.d + c]);
    }

    void run_tile(const BatchTile &tile, T *sums) const {
        const int64_t count = tile.rows, offset = tile.first * p.d;
        const bool first = tile.first_of_chunk;
        char *const mine = tile.mine;
        transpose_in(p.points.x + offset, count, rows(mine, kX));
        if (p.points.g)
            transpose_in(p.points.g + offset, count, rows(mine, kG));
        fill_zero(rows(mine, kOut), rows_);
        fill_zero(rows(mine, kDx), rows_);
        with_bases(phi.terms, phi.basis, [&](const auto &bases) {
            for (int64_t j = 0; j < p.h; ++j)
                unit(j, bases, round_up(count, lanes), mine, sums, first);
        });
        if (p.points.dg)
            transpose_out(rows(mine, kOut), p.bias, count, p.points.dg + offset);
        if (p.points.dx)
            transpose_out(rows(mine, kDx), nullptr, count, p.points.dx + offset);
        if (p.dbias)
            add_bias_sums(rows(mine, kG), sums + (parameters_ + p.d) * p.h, first);
    }

    void add_bias_sums(const T *g, T *total, bool first) const {
        for (int64_t c = 0; c < p.d; ++c) {
            V sum = {};
            for (int64_t i = 0; i < tile_; i += lanes)
                sum += load(g + c * tile_ + i);
            total[c] = horizontal_sum<T>(sum) + (first ? 0 : total[c]);
        }
    }

    template <class Bases>
    void unit(int64_t j, const Bases &bases, int64_t count, char *mine, T *sums, bool first) const {
        T *const local = piece<T>(mine, local_);
        T w[kNarrow];
        for (int64_t c = 0; c < p.d; ++c)
            w[c] = widen(p.W[j * p.d + c]);
        if (p.points.g)
            fill_zero(local, (parameters_ + p.d) * lanes);
        int64_t i = 0;
        for (; i + kInterleaved * lanes <= count; i += kInterleaved * lanes)
            block<kInterleaved>(j, i, w, bases, mine);
        for (; i < count; i += lanes)
            block<1>(j, i, w, bases, mine);
        if (!p.points.g)
            return;
        for (int64_t r = 0; r < parameters_ + p.d; ++r) {
            T &total = sums[r * p.h + j];
            total = horizontal_sum<T>(load(local + r * lanes)) + (first ? 0 : total);
        }
    }

    template <int N, class Bases> void block(int64_t j, int64_t at, const T *w, const Bases &bases, char *mine) const {
        const UnitParameters<T> parameter{phi.data() + j, phi.stride};
        V u[N];
        project<N>(w, rows(mine, kX) + at, u);
        if (!p.points.g) {
            block_value<N>(phi.index, bases, parameter, u);
            spread<N>(w, u, rows(mine, kOut) + at);
            return;
        }
        V a[N];
        project<N>(w, rows(mine, kG) + at, a);
        T *const local = piece<T>(mine, local_);
        const ParameterGradients<T> to{local, lanes, p.dscale != nullptr, p.dshift != nullptr, p.dcoef != nullptr};
        block_gradient<N>(phi.index, bases, parameter, u, a, to, piece<V>(mine, history_));
        if (p.points.dx)
            spread<N>(w, a, rows(mine, kDx) + at);
        if (p.dW)
            add_weights<N>(u, a, rows(mine, kG) + at, rows(mine, kX) + at, local + parameters_ * lanes);
    }

    // u = Σ_c w_c·x_c
    template <int N> GRADNETS_INLINE void project(const T *w, const T *x, V (&u)[N]) const {
        start_sums(u);
        for (int64_t c = 0; c < p.d; ++c)
            GRADNETS_EACH u[i] = u[i] + w[c] * load(x + c * tile_ + i * lanes);
    }

    // out_c += w_c·a
    template <int N> GRADNETS_INLINE void spread(const T *w, const V (&a)[N], T *out) const {
        for (int64_t c = 0; c < p.d; ++c)
            GRADNETS_EACH {
                T *const to = out + c * tile_ + i * lanes;
                store(to, load(to) + w[c] * a[i]);
            }
    }

    // dw_c += Σ phi·g_c + a·x_c
    template <int N>
    GRADNETS_INLINE void add_weights(const V (&phi_u)[N], const V (&a)[N], const T *g, const T *x, T *sums) const {
        for (int64_t c = 0; c < p.d; ++c) {
            V sum = load(sums + c * lanes);
            GRADNETS_EACH sum += phi_u[i] * load(g + c * tile_ + i * lanes) + a[i] * load(x + c * tile_ + i * lanes);
            store(sums + c * lanes, sum);
        }
    }

    void finish(T *partials) const {
        finish_cascade(p, phi.index, partials, p.h, plan_.row_chunks, sums_);
        T *const weights = partials + parameters_ * p.h; // [d, h], of the first chunk
        if (p.dW) {
            reduce_partials(weights, plan_.row_chunks, sums_, p.d * p.h, weights);
            for (int64_t j = 0; j < p.h; ++j)
                for (int64_t c = 0; c < p.d; ++c)
                    narrow(weights[c * p.h + j], p.dW[j * p.d + c]);
        }
        if (p.dbias)
            reduce_partials(weights + p.d * p.h, plan_.row_chunks, sums_, p.d, p.dbias);
    }

    const Ridge<S> &p;
    const PaddedCascade<T> &phi;
    Plan plan_;
    int64_t tile_, parameters_, sums_, rows_, at_[4], local_, history_, worker_bytes_;
    int threads_;
};

template <class S> inline bool ridge_narrow(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    NarrowRun<S> run(p, phi);
    return run.run();
}

} // namespace gradnets::GRADNETS_ISA
