// Scratch memory for one call, and the loop over tasks.  Included once per instruction set.

// A block carved into 64-byte aligned pieces.  `measure` first, then `allocate`, then `take` the same pieces.
template <class T> class Workspace {
  public:
    static int64_t padded(int64_t count) { return round_up(count, 64 / int64_t(sizeof(T))); }

    explicit Workspace(int64_t count)
        : memory_(static_cast<T *>(workspace_allocate(size_t(count) * sizeof(T)))), next_(memory_) {}
    ~Workspace() { workspace_free(memory_); }
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;

    bool ok() const { return memory_ != nullptr; }

    T *take(int64_t count) {
        T *piece = next_;
        next_ += padded(count);
        return piece;
    }

  private:
    T *memory_;
    T *next_;
};

template <class T> inline void fill_zero(T *p, int64_t count) {
    __builtin_memset(p, 0, size_t(count) * sizeof(T));
}

template <class F> inline void parallel(int threads, int64_t count, F &body) {
    parallel_for(
        threads, count, [](void *context, int64_t index, int worker) { (*static_cast<F *>(context))(index, worker); },
        &body);
}

// The batch is summed in at most this many chunks, each with its own copy of the weights' gradient: 16, but fewer where
// the copies would exceed 16 Mi values.
inline int64_t most_chunks(int64_t weights) {
    return larger(2, smaller(16, (int64_t(1) << 24) / larger(1, weights)));
}

// How a batch is cut.  Everything depends on the shape alone, never on the thread count: so do all rounding errors.
struct BatchPlan {
    int64_t tile, tiles, chunks;

    BatchPlan(int64_t batch, int64_t d, int64_t h, int64_t multiple) {
        const int64_t most = round_up(d > 512 ? 66 : 96, multiple);
        const int64_t count = larger(1, (batch + most - 1) / most);
        tile = round_up(larger(1, (batch + count - 1) / count), multiple);
        tiles = (batch + tile - 1) / tile;
        chunks = smaller(tiles, most_chunks(h * d));
    }
    int64_t first_tile(int64_t chunk) const { return chunk * tiles / chunks; }
};

// Waking a second thread costs about 7 µs: below this many floating-point operations it does not pay.
static constexpr double kSerialFlops = 1.5e6;

inline int threads_for(double flops, int threads, int64_t tasks) {
    return flops < kSerialFlops ? 1 : int(larger(1, smaller(threads, tasks)));
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
