// Scratch memory for one call, and the loop over its tasks.
#pragma once

#include "gemm.h"

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

} // namespace gradnets::GRADNETS_ISA
