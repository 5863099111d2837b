// What the runs of a deep network share: the tiles of the batch, and the sums over it, the gradients of the parameters.
#pragma once

#include "deep_passes.h"

namespace gradnets::GRADNETS_ISA {

template <class S> class DeepRun {
  protected:
    using T = Sum<S>;
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;
    static constexpr int64_t kTileBytes = 1 << 19; // of a thread, which stay in its cache

    explicit DeepRun(const Deep<S> &problem) : p(problem), shape_(problem) {}

    // Tiles of at most `most_rows` rows; chunks of them, where there are sums over the batch.
    void make_plan(int64_t most_rows, int64_t multiple) {
        const int64_t count = larger(1, (p.batch + most_rows - 1) / most_rows);
        plan_.tile_rows = smaller(most_rows, round_up((p.batch + count - 1) / count, multiple));
        plan_.tiles = (p.batch + plan_.tile_rows - 1) / plan_.tile_rows;
        plan_.blocks = plan_.groups = 1;
        plan_.row_chunks = plan_.tiles;
        if (has_sums())
            plan_.row_chunks = smaller(plan_.tiles, most_chunks(shape_.parameters()));
        lay_out_sums();
    }

    // Memory of a thread for so many values.
    int64_t own(int64_t count) { return worker_.add<T>(count); }

    bool has_sums() const { return p.dtheta || p.dbias; }

    // Runs body(tile) for every tile, after packing the weights; then adds the chunks' sums.
    template <class F> bool run_tiles(bool downward, bool columns, double flops, const F &body) {
        Layout all;
        DeepWeights<S> weights(shape_, downward, columns, all);
        const int64_t sums_at = all.add<T>(has_sums() ? plan_.row_chunks * sums_ : 0);
        const int threads = threads_for(flops, p.threads, plan_.tasks());
        Workspace workspace(all.bytes() + threads * worker_.bytes());
        if (!workspace.ok())
            return false;
        weights.pack(p.theta, workspace.at(0), threads);
        weights_ = &weights;
        chunks_ = piece<T>(workspace.at(0), sums_at);
        each_tile(plan_, p.batch, threads, workspace.at(all.bytes()), worker_.bytes(),
                  [&](const BatchTile &tile, int64_t) { body(tile); });
        finish(threads);
        return true;
    }

    T *sums_of(const BatchTile &tile) const { return chunks_ + tile.chunk * sums_; }
    int64_t sums_size() const { return sums_; }

    void load_rows(const S *from, const BatchTile &tile, T *to) const {
        for (int64_t i = 0; i < tile.rows; ++i) {
            widen_row(from + (tile.first + i) * p.d, p.d, to + i * shape_.d_stride);
            fill_zero(to + i * shape_.d_stride + p.d, shape_.d_stride - p.d);
        }
    }

    void store_rows(const T *from, const BatchTile &tile, S *to) const {
        for (int64_t i = 0; i < tile.rows; ++i)
            narrow_row(from + i * shape_.d_stride, p.d, to + (tile.first + i) * p.d);
    }

    const Deep<S> p;
    DeepShape<S> shape_;
    Plan plan_;
    Layout worker_;
    const DeepWeights<S> *weights_ = nullptr;
    int64_t dc_ = 0, dbias_ = 0;

  private:
    void lay_out_sums() {
        sums_ = 0;
        auto add = [&](int64_t count) {
            const int64_t at = sums_;
            sums_ += count;
            return at;
        };
        for (int i = 0; i < shape_.layers; ++i) {
            DeepLayer &l = shape_[i];
            l.dA = l.input ? add(l.width * shape_.d_stride) : 0;
            l.dV = add(l.width * round_up(l.before, lanes));
            l.dQ = add(p.rank * l.width * shape_.d_stride);
            l.db = add(l.stride);
        }
        dc_ = add(shape_.last().stride);
        dbias_ = add(shape_.d_stride);
    }

    void finish(int threads) const {
        if (p.dbias)
            reduce(dbias_, p.d, p.dbias);
        if (!p.dtheta)
            return;
        // A few of a layer's units are a task.
        constexpr int64_t slices = 8;
        auto body = [&](int64_t index, int) {
            const DeepLayer &l = shape_[int(index / slices)];
            const int64_t slice = index % slices;
            finish_units(l, l.width * slice / slices, l.width * (slice + 1) / slices);
        };
        const double work = 8.0 * double(plan_.row_chunks * shape_.parameters());
        parallel(threads_for(work, threads, shape_.layers * slices), shape_.layers * slices, body);
        reduce(dc_, shape_.last().width, p.dtheta + shape_.c);
    }

    void finish_units(const DeepLayer &l, int64_t first, int64_t last) const {
        const int64_t before = round_up(l.before, lanes);
        for (int64_t j = first; j < last; ++j) {
            if (l.input)
                reduce(l.dA + j * shape_.d_stride, p.d, p.dtheta + l.A + j * p.d);
            if (l.before > 0)
                reduce(l.dV + j * before, l.before, p.dtheta + l.V + j * l.before);
            for (int64_t r = 0; r < p.rank; ++r) {
                const int64_t row = r * l.width + j;
                reduce(l.dQ + row * shape_.d_stride, p.d, p.dtheta + l.Q + row * p.d);
            }
        }
        reduce(l.db + first, last - first, p.dtheta + l.b + first);
    }

    // The sum over the chunks, in their order.
    template <class To> void reduce(int64_t at, int64_t count, To *to) const {
        T *const sum = chunks_ + at;
        reduce_partials(sum, plan_.row_chunks, sums_, count, sum);
        narrow_row(sum, count, to);
    }

    T *chunks_ = nullptr;
    int64_t sums_ = 0;
};

} // namespace gradnets::GRADNETS_ISA
