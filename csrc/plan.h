// How a problem is cut into tasks: tiles of the batch, blocks of hidden units, and the order in which sums are added.
#pragma once

#include "operands.h"
#include "workspace.h"

namespace gradnets::GRADNETS_ISA {

// The batch is summed in at most this many chunks, each with its own copy of the weights' gradient: 16, but down to 4
// where the copies would exceed 8 Mi values.
inline int64_t most_chunks(int64_t weights) {
    return larger(4, smaller(16, (int64_t(1) << 23) / larger(1, weights)));
}

// A block of hidden units; `width` columns with the padding to whole vectors.
struct Block {
    int64_t number, first, units, width;
};

// A tile of the batch: rows [first, first + rows), with the scratch memory of the thread that works on it.
struct BatchTile {
    int64_t first, rows, chunk;
    bool first_of_chunk; // where sums over the batch start
    char *mine;
};

// The tiling.  It depends on the shape only, never on the thread count; what decides the order of a row's sums (block,
// groups) does not depend on the batch either.  Hence results are bitwise reproducible.
struct Plan {
    int64_t tile_rows = 0, tiles = 0, row_chunks = 0; // rows of a tile; tiles of the batch; chunks of tiles
    int64_t block = 0, blocks = 0,
            groups = 0; // hidden units of a block; blocks; groups of blocks, whose sums are added in order
    bool split = false; // whether the groups are tasks of their own
    int64_t hidden = 0, grain = 1, grains = 0; // hidden units; blocks begin at multiples of `grain`; how many there are

    int64_t first_tile(int64_t chunk) const { return chunk * tiles / row_chunks; }
    int64_t first_block(int64_t group) const { return group * blocks / groups; }
    // As even as can be: the groups are tasks of equal size then.
    int64_t first_unit(int64_t block) const { return smaller(hidden, block * grains / blocks * grain); }
    Block block_at(int64_t number, int64_t lanes) const {
        const int64_t first = first_unit(number), units = first_unit(number + 1) - first;
        return {number, first, units, round_up(units, lanes)};
    }
    int64_t tasks() const { return row_chunks * (split ? groups : 1); }
};

static constexpr int64_t kMostGroups = 4;

inline Plan make_plan(int64_t batch, int64_t weights, int64_t hidden, int64_t block, int64_t grain, int64_t most_rows,
                      int64_t row_multiple, double flops) {
    Plan plan;
    plan.hidden = hidden;
    plan.grain = grain;
    plan.grains = (hidden + grain - 1) / grain;
    const int64_t count = larger(1, (batch + most_rows - 1) / most_rows);
    plan.tile_rows = round_up(larger(1, (batch + count - 1) / count), row_multiple);
    plan.tiles = (batch + plan.tile_rows - 1) / plan.tile_rows;
    plan.block = smaller(block, hidden);
    plan.blocks = (hidden + block - 1) / block;
    plan.groups = smaller(kMostGroups, plan.blocks);
    // Few tiles: the hidden units are shared out too, and then fewer copies of the weights' gradient are needed.
    plan.split = flops > 4 * kSerialFlops && plan.groups > 1 && plan.tiles < 16;
    plan.row_chunks = smaller(plan.tiles, plan.split ? (plan.tiles <= 2 ? 1 : 4) : most_chunks(weights));
    if (flops <= kSerialFlops)
        plan.row_chunks = 1;
    return plan;
}

template <class T>
inline void add_rows(const T *from, int64_t rows, int64_t from_row, int64_t d, T *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < d; ++j)
            to[i * to_row + j] += from[i * from_row + j];
}

// out[i] = Σ_c partial[c][i] in ascending c.
template <class T>
inline void reduce_partials(const T *partial, int64_t chunks, int64_t stride, int64_t count, T *out) {
    constexpr int64_t lanes = Tile<T>::lanes;
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        auto sum = load(partial + i);
        for (int64_t c = 1; c < chunks; ++c)
            sum += load(partial + c * stride + i);
        store(out + i, sum);
    }
    for (; i < count; ++i) {
        T sum = partial[i];
        for (int64_t c = 1; c < chunks; ++c)
            sum += partial[c * stride + i];
        out[i] = sum;
    }
}

// Calls body(tile, group) for every tile, the tiles of a chunk in order on one thread; group is 0 unless the groups are
// tasks of their own.
template <class F>
inline void each_tile(const Plan &plan, int64_t batch, int threads, char *workers, int64_t worker_bytes,
                      const F &body) {
    auto task = [&](int64_t index, int worker) {
        const int64_t groups = plan.split ? plan.groups : 1, chunk = index / groups;
        for (int64_t t = plan.first_tile(chunk); t < plan.first_tile(chunk + 1); ++t) {
            BatchTile tile;
            tile.first = t * plan.tile_rows;
            tile.rows = smaller(plan.tile_rows, batch - tile.first);
            tile.chunk = chunk;
            tile.first_of_chunk = t == plan.first_tile(chunk);
            tile.mine = workers + worker * worker_bytes;
            body(tile, index % groups);
        }
    };
    parallel(threads, plan.tasks(), task);
}

// dW [hidden, d] from the chunks' sums, whose rows are `stride` values apart.
template <class S>
inline void finish_weights(const Plan &plan, int threads, Sum<S> *sums, int64_t stride, int64_t d, S *dW) {
    auto body = [&](int64_t j, int) {
        Sum<S> *const sum = sums + j * stride;
        reduce_partials(sum, plan.row_chunks, plan.hidden * stride, d, sum);
        narrow_row(sum, d, dW + j * d);
    };
    parallel(threads_for(8.0 * double(plan.row_chunks * plan.hidden * d), threads, plan.hidden), plan.hidden, body);
}

} // namespace gradnets::GRADNETS_ISA
