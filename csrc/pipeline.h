// dx = U W,   dg = A W,   dv = P W,   dW = Uᵀx + Aᵀg + Pᵀv: the gradients of S = Σ_j s(u_j, a_j, p_j), where u = x Wᵀ,
// a = g Wᵀ, p = v Wᵀ, and U = ∂s/∂u, A = ∂s/∂a, P = ∂s/∂p.  Every network of these families has that form: points times
// Wᵀ, a middle step on the hidden values while they are in cache, the result times W.  One pass over the batch, tile by
// tile; nothing of size batch × h is stored.
#pragma once

#include "plan.h"

namespace gradnets::GRADNETS_ISA {

// What the middle step gets for one tile: hidden values [rows, stride] of `width` columns (hidden units, padded with
// zeros to whole vectors), which it replaces by the derivatives of s.  Where g is absent and only dg is needed, a is
// the memory of u (or p, where there is a v).
template <class T> struct HiddenTile {
    T *u = nullptr, *a = nullptr, *p = nullptr;
    int64_t rows = 0, stride = 0, width = 0;
    int64_t first_row = 0, first_unit = 0, units = 0, block = 0;
    bool first_tile = false; // of its chunk: sums over the batch start here
    T *sums = nullptr;       // the chunk's sums over the batch, Pipeline::sums values, shared by its blocks
    T *scalars = nullptr;    // [rows], to be added to; or null
    char *scratch = nullptr; // Pipeline::scratch bytes

    void place(const BatchTile &tile, const Block &of) {
        rows = tile.rows;
        first_row = tile.first;
        first_tile = tile.first_of_chunk;
        first_unit = of.first;
        units = of.units;
        width = of.width;
        block = of.number;
    }
};

// The step between the two products.
template <class T> struct Middle {
    virtual void operator()(const HiddenTile<T> &tile) const = 0;
    // The gradients of the parameters from the sums of `chunks` chunks, `size` values each.
    virtual void finish(const T *sums, int64_t chunks, int64_t size) const = 0;

  protected:
    ~Middle() = default;
};

template <class S> struct Pipeline {
    using T = Sum<S>;
    int64_t batch = 0, d = 0, hidden = 0;
    int64_t block = 0;         // hidden units of a block, at most
    bool whole_blocks = false; // whether the middle step needs all hidden units of a block together
    int64_t most_rows = 0;     // of a tile
    Points<S> points;
    const S *W = nullptr;
    const T *bias = nullptr;
    S *dW = nullptr;
    T *dbias = nullptr;
    double flops = 0;
    int64_t sums = 0, scratch = 0; // what HiddenTile says
    int threads = 1;
};

// Rows of a tile whose hidden units are independent: whole tiles of the product, fewer where rows are long.
inline int64_t most_tile_rows(int64_t d) {
    return d > 512 ? 66 : 96;
}

static constexpr int64_t kSmallBatch = 32;

// Whether the rows are so few, and long enough, that nothing of W is packed.
template <class T> inline bool reads_weights_in_place(int64_t batch, int64_t d) {
    return batch <= kSmallBatch && d >= Tile<T>::lanes;
}

// Whether the rows are so few that packing W, as the right factor of hidden values times W, costs more than strided
// reads of it.
template <class P, class S> inline bool reads_straight_in_place(int64_t batch) {
    return is_same<typename P::Element, S> && batch <= 4 * kSmallBatch;
}

// The sizes and offsets of one run.
template <class P, class S> struct PipelineLayout {
    using T = Sum<S>;
    using E = typename P::Element;
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;
    static constexpr bool same = is_same<S, T>;

    Plan plan;
    bool in_place, straight_in_place, direct_points, direct_weights, has[3], needs[3];
    int64_t d_vectors, d_panels, stride, block_panels;
    int64_t shared_bytes, worker_bytes;
    int64_t transposed, straight, weight_sums, middle_sums, bias_sums, group_sums[3], group_results;
    int64_t tile[3], left[3], right[3], points_total[3], points_group[3], copies[3], wide_W, W_tail, row_sum, results,
        scratch;

    explicit PipelineLayout(const Pipeline<S> &p) {
        in_place = P::depth == 1 && reads_weights_in_place<T>(p.batch, p.d);
        straight_in_place = in_place || reads_straight_in_place<P, S>(p.batch);
        d_vectors = round_up(p.d, lanes);
        d_panels = round_up(p.d, panel);
        const int64_t fit = larger(lanes, round_up(6144 / p.d, lanes)); // 24 kB of W
        const int64_t block = in_place && !p.whole_blocks && fit < p.block ? fit : p.block;
        const int64_t grain = p.whole_blocks ? block : lanes;
        plan = make_plan(p.batch, p.hidden * p.d, p.hidden, block, grain, p.most_rows, Tile<T>::rows, p.flops);
        block_panels = round_up(plan.block, panel);
        stride = block_panels;
        direct_points = same && p.d % lanes == 0 && !plan.split;
        direct_weights = same && p.d % lanes == 0 && plan.row_chunks == 1;
        const bool present[] = {true, p.points.g != nullptr, p.points.v != nullptr};
        const bool needed[] = {p.points.dx != nullptr, p.points.dg != nullptr, p.points.dv != nullptr};
        for (int r = 0; r < 3; ++r) {
            has[r] = present[r];
            needs[r] = needed[r];
        }
        lay_out_shared(p);
        lay_out_worker(p);
    }

    bool needs_points() const { return needs[0] || needs[1] || needs[2]; }

    void lay_out_shared(const Pipeline<S> &p) {
        Layout all;
        transposed = straight = 0;
        if (!in_place) {
            transposed = all.add<E>(plan.blocks * block_panels * elements<P>(p.d));
            if (needs_points() && !straight_in_place)
                straight = all.add<E>(plan.blocks * elements<P>(plan.block) * d_panels);
        }
        weight_sums = p.dW && !direct_weights ? all.add<T>(plan.row_chunks * p.hidden * d_vectors) : 0;
        middle_sums = all.add<T>(plan.row_chunks * p.sums);
        bias_sums = all.add<T>(plan.row_chunks * p.d);
        for (int r = 0; r < 3; ++r)
            group_sums[r] = plan.split && needs[r] ? all.add<T>(plan.groups * p.batch * d_vectors) : 0;
        group_results = plan.split && p.points.scalar ? all.add<T>(plan.groups * p.batch) : 0;
        shared_bytes = all.bytes();
    }

    void lay_out_worker(const Pipeline<S> &p) {
        Layout mine;
        const int64_t even_rows = round_up(plan.tile_rows, 2);
        for (int r = 0; r < 3; ++r) {
            const bool used = has[r];
            tile[r] = used ? mine.add<T>(plan.tile_rows * stride) : 0;
            left[r] = used && !is_same<E, S> ? mine.add<E>(plan.tile_rows * elements<P>(p.d)) : 0;
            right[r] = used && p.dW ? mine.add<E>(even_rows * d_panels) : 0;
            points_total[r] = needs[r] && !direct_points ? mine.add<T>(plan.tile_rows * d_vectors) : 0;
            points_group[r] = needs[r] && plan.groups > 1 && !plan.split ? mine.add<T>(plan.tile_rows * d_vectors) : 0;
            copies[r] = P::depth > 1 ? mine.add<E>(even_rows * stride) : 0;
        }
        wide_W = in_place && !same ? mine.add<T>(plan.block * p.d) : 0;
        W_tail = straight_in_place ? mine.add<T>(plan.block * panel) : 0;
        row_sum = mine.add<T>(larger(p.d, plan.tile_rows));
        results = p.points.scalar ? mine.add<T>(2 * plan.tile_rows) : 0;
        scratch = mine.add<char>(p.scratch);
        worker_bytes = mine.bytes();
    }
};

// One run: the tasks' bodies, and the sums after them.
template <class P, class S> class PipelineRun {
    using T = Sum<S>;
    using E = typename P::Element;
    using L = PipelineLayout<P, S>;

  public:
    PipelineRun(const Pipeline<S> &problem, const Middle<T> &middle) : p(problem), middle_(middle), l(problem) {
        const S *in[] = {p.points.x, p.points.g, p.points.v};
        S *out[] = {p.points.dx, p.points.dg, p.points.dv};
        for (int r = 0; r < 3; ++r) {
            in_[r] = in[r];
            out_[r] = out[r];
        }
    }

    bool run() {
        const int threads = threads_for(p.flops, p.threads, l.plan.tasks());
        Workspace workspace(l.shared_bytes + threads * l.worker_bytes);
        if (!workspace.ok())
            return false;
        shared_ = workspace.at(0);
        if (!l.in_place)
            pack_weights(threads);
        each_tile(l.plan, p.batch, threads, workspace.at(l.shared_bytes), l.worker_bytes,
                  [&](const BatchTile &tile, int64_t group) { run_tile(tile, group); });
        finish(threads);
        return true;
    }

  private:
    struct TileJob : BatchTile {
        const T *in[3]; // rows as they are read in place
        Left<E> left[3];
        Right<E> right[3];
    };

    void pack_weights(int threads) {
        E *const transposed = piece<E>(shared_, l.transposed), *const straight = piece<E>(shared_, l.straight);
        const int64_t depth = elements<P>(p.d), tall = elements<P>(l.plan.block);
        auto body = [&](int64_t b, int) {
            const int64_t first = l.plan.first_unit(b), units = l.plan.first_unit(b + 1) - first;
            pack_transposed<P>(p.W + first * p.d, units, p.d, transposed + b * l.block_panels * depth);
            if (l.needs_points() && !l.straight_in_place)
                pack_rows<P>(p.W + first * p.d, units, p.d, straight + b * tall * l.d_panels);
        };
        parallel(threads_for(16.0 * p.hidden * p.d, threads, l.plan.blocks), l.plan.blocks, body);
    }

    void run_tile(const BatchTile &tile, int64_t group) const {
        TileJob job{tile, {}, {}, {}};
        prepare_points(job);
        if (p.dbias && group == 0)
            add_bias_sums(job);
        if (l.plan.split) {
            run_group(job, group, true);
            return;
        }
        for (int64_t g = 0; g < l.plan.groups; ++g)
            run_group(job, g, false);
        finish_tile(job);
    }

    void prepare_points(TileJob &job) const {
        for (int r = 0; r < 3; ++r) {
            if (!l.has[r])
                continue;
            const S *const in = in_[r] + job.first * p.d;
            job.left[r] = left_rows<P>(in, job.rows, p.d, piece<E>(job.mine, l.left[r]));
            if constexpr (P::depth == 1)
                job.in[r] = job.left[r].data;
            if (!p.dW)
                continue;
            E *const memory = piece<E>(job.mine, l.right[r]);
            if constexpr (P::depth == 1) {
                if (l.straight_in_place) {
                    job.right[r] = in_place(job.in[r], job.rows, memory);
                    continue;
                }
            }
            pack_rows<P>(in, job.rows, p.d, memory);
            job.right[r] = {memory, L::panel, elements<P>(job.rows) * L::panel};
        }
    }

    // Rows [count, d] as a right factor where they lie, but for the last panel, which is copied if it is not of whole
    // vectors.
    Right<T> in_place(const T *data, int64_t count, T *memory) const {
        Right<T> right{data, p.d, L::panel};
        if (p.d % L::lanes == 0)
            return right;
        const int64_t first = p.d / L::panel * L::panel, width = p.d - first;
        for (int64_t i = 0; i < count; ++i) {
            __builtin_memcpy(memory + i * L::panel, data + i * p.d + first, size_t(width) * sizeof(T));
            fill_zero(memory + i * L::panel + width, L::panel - width);
        }
        right.tail = memory;
        right.tail_row = L::panel;
        return right;
    }

    void add_bias_sums(const TileJob &job) const {
        T *const here = piece<T>(job.mine, l.row_sum), *const total = piece<T>(shared_, l.bias_sums) + job.chunk * p.d;
        fill_zero(here, p.d);
        const S *const g = p.points.g + job.first * p.d;
        for (int64_t i = 0; i < job.rows; ++i)
            for (int64_t j = 0; j < p.d; ++j)
                here[j] += widen(g[i * p.d + j]);
        for (int64_t j = 0; j < p.d; ++j)
            total[j] = job.first_of_chunk ? here[j] : total[j] + here[j];
    }

    // Where a group sums the gradient of point r, and the distance of the rows there.
    T *group_target(const TileJob &job, int r, int64_t group, bool split, int64_t &row) const {
        row = l.d_vectors;
        if (split)
            return piece<T>(shared_, l.group_sums[r]) + (group * p.batch + job.first) * l.d_vectors;
        if (group > 0)
            return piece<T>(job.mine, l.points_group[r]);
        return tile_target(job, r, row);
    }

    T *tile_target(const TileJob &job, int r, int64_t &row) const {
        if constexpr (L::same)
            if (l.direct_points) {
                row = p.d;
                return out_[r] + job.first * p.d;
            }
        row = l.d_vectors;
        return piece<T>(job.mine, l.points_total[r]);
    }

    void run_group(const TileJob &job, int64_t group, bool split) const {
        T *targets[3] = {}, *results = nullptr;
        int64_t target_row[3] = {};
        for (int r = 0; r < 3; ++r)
            if (l.needs[r])
                targets[r] = group_target(job, r, group, split, target_row[r]);
        if (p.points.scalar) {
            results = split ? piece<T>(shared_, l.group_results) + group * p.batch + job.first
                            : piece<T>(job.mine, l.results) + (group > 0 ? l.plan.tile_rows : 0);
            fill_zero(results, job.rows);
        }
        const int64_t begin = l.plan.first_block(group), end = l.plan.first_block(group + 1);
        for (int64_t b = begin; b < end; ++b)
            run_block(job, b, b == begin, targets, target_row, results);
        if (split || group == 0)
            return;
        for (int r = 0; r < 3; ++r) {
            if (!l.needs[r])
                continue;
            int64_t row;
            T *const total = tile_target(job, r, row);
            add_rows(targets[r], job.rows, target_row[r], p.d, total, row);
        }
        if (p.points.scalar)
            add_rows(results, 1, 0, job.rows, piece<T>(job.mine, l.results), 0);
    }

    void run_block(const TileJob &job, int64_t b, bool first_of_group, T *const *targets, const int64_t *target_row,
                   T *results) const {
        const Block block = l.plan.block_at(b, L::lanes);
        T *tiles[3] = {};
        for (int r = 0; r < 3; ++r)
            tiles[r] = l.has[r] ? piece<T>(job.mine, l.tile[r]) : nullptr;
        const T *W = nullptr; // in place
        if constexpr (P::depth == 1)
            if (l.in_place)
                W = wide_weights(job, block);
        for (int r = 0; r < 3; ++r)
            if (l.has[r])
                hidden_values(job, block, r, W, tiles[r]);
        if (!l.has[1])
            tiles[1] = l.has[2] ? tiles[2] : tiles[0];
        HiddenTile<T> tile;
        tile.place(job, block);
        tile.u = tiles[0];
        tile.a = tiles[1];
        tile.p = tiles[2];
        tile.stride = l.stride;
        tile.sums = piece<T>(shared_, l.middle_sums) + job.chunk * p.sums;
        tile.scalars = results;
        tile.scratch = job.mine + l.scratch;
        middle_(tile);
        if (l.needs_points())
            point_gradients(job, block, W, tiles, !first_of_group, targets, target_row);
        if (p.dW)
            weight_gradient(job, block, tiles);
    }

    const T *wide_weights(const TileJob &job, const Block &block) const {
        const S *const W = p.W + block.first * p.d;
        if constexpr (L::same) {
            return W;
        } else {
            T *const wide = piece<T>(job.mine, l.wide_W);
            widen_row(W, block.units * p.d, wide);
            return wide;
        }
    }

    void hidden_values(const TileJob &job, const Block &block, int r, const T *W, T *tile) const {
        if constexpr (P::depth == 1)
            if (W != nullptr) {
                multiply_dots(job.rows, block.units, p.d, job.in[r], p.d, W, p.d, tile, l.stride);
                for (int64_t i = 0; i < job.rows; ++i)
                    fill_zero(tile + i * l.stride + block.units, block.width - block.units);
                return;
            }
        const int64_t depth = elements<P>(p.d);
        const E *const packed = piece<E>(shared_, l.transposed) + block.number * l.block_panels * depth;
        const Factors<E> factors{job.left[r], {packed, L::panel, depth * L::panel}};
        multiply<P>(job.rows, block.width, depth, &factors, 1, tile, l.stride, false);
    }

    void point_gradients(const TileJob &job, const Block &block, const T *W, T *const *tiles, bool accumulate,
                         T *const *targets, const int64_t *target_row) const {
        const int64_t tall = elements<P>(block.units);
        Right<E> right{};
        if constexpr (P::depth == 1) {
            if constexpr (L::same)
                W = p.W + block.first * p.d;
            if (l.straight_in_place)
                right = in_place(W, block.units, piece<T>(job.mine, l.W_tail));
        }
        if (right.data == nullptr)
            right = {piece<E>(shared_, l.straight) + block.number * elements<P>(l.plan.block) * l.d_panels, L::panel,
                     tall * L::panel};
        for (int r = 0; r < 3; ++r) {
            if (!l.needs[r])
                continue;
            // The partner of an odd last hidden unit is padding, NaN where the row is infinite.
            if (block.units % P::depth != 0)
                for (int64_t i = 0; i < job.rows; ++i)
                    tiles[r][i * l.stride + block.units] = 0;
            const Left<E> left =
                left_tile<P>(tiles[r], job.rows, block.width, l.stride, piece<E>(job.mine, l.copies[r]));
            const Factors<E> factors{left, right};
            multiply<P>(job.rows, p.d, tall, &factors, 1, targets[r], target_row[r], accumulate);
        }
    }

    void weight_gradient(const TileJob &job, const Block &block, T *const *tiles) const {
        Factors<E> factors[3];
        int count = 0;
        for (int r = 0; r < 3; ++r)
            if (l.has[r])
                factors[count++] = {
                    left_tile_transposed<P>(tiles[r], job.rows, block.width, l.stride, piece<E>(job.mine, l.copies[r])),
                    job.right[r]};
        T *sums = piece<T>(shared_, l.weight_sums) + (job.chunk * p.hidden + block.first) * l.d_vectors;
        int64_t row = l.d_vectors;
        if constexpr (L::same)
            if (l.direct_weights) {
                sums = p.dW + block.first * p.d;
                row = p.d;
            }
        multiply<P>(block.units, p.d, elements<P>(job.rows), factors, count, sums, row, !job.first_of_chunk);
    }

    // Adds the bias to dg, and brings the gradients of the points to where the caller needs them.
    void finish_tile(const TileJob &job) const {
        for (int r = 0; r < 3; ++r) {
            if (!l.needs[r])
                continue;
            int64_t row;
            T *const total = tile_target(job, r, row);
            if (r == 1 && p.bias)
                add_rows(p.bias, job.rows, 0, p.d, total, row);
            if (!l.direct_points)
                for (int64_t i = 0; i < job.rows; ++i)
                    narrow_row(total + i * row, p.d, out_[r] + (job.first + i) * p.d);
        }
        if (p.points.scalar)
            __builtin_memcpy(p.points.scalar + job.first, piece<T>(job.mine, l.results), size_t(job.rows) * sizeof(T));
    }

    void finish(int threads) {
        if (l.plan.split)
            finish_groups(threads);
        if (p.dW && !l.direct_weights)
            finish_weights(l.plan, threads, piece<T>(shared_, l.weight_sums), l.d_vectors, p.d, p.dW);
        if (p.dbias)
            reduce_partials(piece<T>(shared_, l.bias_sums), l.plan.row_chunks, p.d, p.d, p.dbias);
        middle_.finish(piece<T>(shared_, l.middle_sums), l.plan.row_chunks, p.sums);
    }

    void finish_groups(int threads) {
        for (int r = 0; r < 3; ++r) {
            if (!l.needs[r])
                continue;
            auto body = [&](int64_t i, int) {
                T *const sum = piece<T>(shared_, l.group_sums[r]) + i * l.d_vectors;
                reduce_partials(sum, l.plan.groups, p.batch * l.d_vectors, p.d, sum);
                if (r == 1 && p.bias)
                    add_rows(p.bias, 1, 0, p.d, sum, 0);
                narrow_row(sum, p.d, out_[r] + i * p.d);
            };
            parallel(threads_for(8.0 * l.plan.groups * p.batch * p.d, threads, p.batch), p.batch, body);
        }
        if (p.points.scalar)
            reduce_partials(piece<T>(shared_, l.group_results), l.plan.groups, p.batch, p.batch, p.points.scalar);
    }

    const Pipeline<S> p;
    const Middle<T> &middle_;
    const L l;
    const S *in_[3];
    S *out_[3];
    char *shared_ = nullptr;
};

// By products of pairs of bfloat16 where the instruction set has them and W is packed, else one number at a time.
template <class S> inline bool run_pipeline(const Pipeline<S> &p, const Middle<Sum<S>> &middle) {
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<float>(p.batch, p.d))
            return PipelineRun<Pairs, S>(p, middle).run();
#endif
    return PipelineRun<Plain<Sum<S>>, S>(p, middle).run();
}

} // namespace gradnets::GRADNETS_ISA
