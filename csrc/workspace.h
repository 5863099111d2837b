// Scratch memory for one call, the loop over tasks, and how a problem is cut into them.
#pragma once

#include "operands.h"

namespace gradnets::GRADNETS_ISA {

// Offsets of 64-byte aligned pieces in a block of memory.
class Layout {
  public:
    template <class T> int64_t add(int64_t count) {
        const int64_t offset = bytes_;
        bytes_ += round_up(count * int64_t(sizeof(T)), 64);
        return offset;
    }
    int64_t bytes() const { return bytes_; }

  private:
    int64_t bytes_ = 0;
};

class Workspace {
  public:
    explicit Workspace(int64_t bytes) : memory_(static_cast<char *>(workspace_allocate(size_t(bytes)))) {}
    ~Workspace() { workspace_free(memory_); }
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;

    bool ok() const { return memory_ != nullptr; }
    char *at(int64_t offset) const { return memory_ + offset; }

  private:
    char *memory_;
};

template <class T> inline T *piece(char *memory, int64_t offset) {
    return reinterpret_cast<T *>(memory + offset);
}

template <class F> inline void parallel(int threads, int64_t count, F &body) {
    parallel_for(
        threads, count, [](void *context, int64_t index, int worker) { (*static_cast<F *>(context))(index, worker); },
        &body);
}

// Waking a second thread costs about 7 µs: below this many floating-point operations it does not pay.
static constexpr double kSerialFlops = 1.0e6;

inline int threads_for(double flops, int threads, int64_t tasks) {
    return flops < kSerialFlops ? 1 : int(larger(1, smaller(threads, tasks)));
}

// The batch is summed in at most this many chunks, each with its own copy of the weights' gradient: 16, but down to 4
// where the copies would exceed 8 Mi values.
inline int64_t most_chunks(int64_t weights) {
    return larger(4, smaller(16, (int64_t(1) << 23) / larger(1, weights)));
}

// How batch and hidden units are cut.  Everything depends on the shape alone, never on the thread count, and what
// decides the order of a row's sums (block, groups) not on the batch either: so do all rounding errors.
struct Plan {
    int64_t tile_rows, tiles, row_chunks; // rows of a tile; tiles of the batch; chunks of tiles
    int64_t block, blocks, groups; // hidden units of a block; blocks; groups of blocks, whose sums are added in order
    bool split;                    // whether the groups are tasks of their own
    int64_t hidden, grain, grains; // hidden units; blocks begin at multiples of `grain`; how many there are

    int64_t first_tile(int64_t chunk) const { return chunk * tiles / row_chunks; }
    int64_t first_block(int64_t group) const { return group * blocks / groups; }
    // As even as can be: the groups are tasks of equal size then.
    int64_t first_unit(int64_t block) const { return smaller(hidden, block * grains / blocks * grain); }
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

// out[i] = Σ_c partial[c][i] in ascending c.
template <class T>
inline void reduce_partials(const T *partial, int64_t chunks, int64_t stride, int64_t count, T *out) {
    for (int64_t i = 0; i < count; ++i) {
        T sum = partial[i];
        for (int64_t c = 1; c < chunks; ++c)
            sum += partial[c * stride + i];
        out[i] = sum;
    }
}

} // namespace gradnets::GRADNETS_ISA
