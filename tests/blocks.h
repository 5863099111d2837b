// Tensors for tests/sanitize.cpp, each in a block of memory of its own whose neighbours nobody may touch.
#pragma once

#include "../csrc/runtime.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#ifndef __SANITIZE_ADDRESS__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gradnets::blocks {

using Numbers = std::vector<double>;

[[noreturn]] inline void fail(const std::string &what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(1);
}

// Multiples of 1/64 below 2: every storage type holds them exactly, so that all compute with the same numbers.
class Random {
  public:
    explicit Random(uint32_t seed) : state_(seed * 2654435761u + 1u) {}
    double next(double limit) {
        state_ = state_ * 1664525u + 1013904223u;
        return std::floor((double(state_ >> 8) / (1 << 24) * 2.0 - 1.0) * limit * 64.0) / 64.0;
    }
    Numbers draw(int64_t count, double limit) {
        Numbers numbers(static_cast<size_t>(count));
        for (double &x : numbers)
            x = next(limit);
        return numbers;
    }

  private:
    uint32_t state_;
};

inline void encode(double x, double &to) {
    to = x;
}
inline void encode(double x, float &to) {
    to = float(x);
}
inline void encode(double x, Bf16 &to) {
    const float value = float(x);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    to.bits = uint16_t(bits >> 16);
}
inline void encode(double x, Half &to) {
    int exponent = 0;
    const double fraction = std::frexp(std::fabs(x), &exponent);
    const int bits = x == 0.0 ? 0 : ((exponent + 14) << 10) + int(fraction * 2048.0) - 1024;
    to.bits = uint16_t(bits | (std::signbit(x) ? 0x8000 : 0));
}

inline double decode(double x) {
    return x;
}
inline double decode(float x) {
    return double(x);
}
inline double decode(Bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return double(value);
}
inline double decode(Half x) {
    const int exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
    double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
    if (exponent == 31)
        value = fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
    return (x.bits & 0x8000) != 0 ? -value : value;
}

// `bytes` of memory whose neighbours nobody may touch.  Every other block begins where its memory does; the others end
// there, with no more than their type's alignment, as views may have.
class Guarded {
  public:
    Guarded(size_t bytes, size_t alignment) {
        static size_t blocks = 0;
        const bool at_begin = blocks++ % 2 == 0;
#ifdef __SANITIZE_ADDRESS__
        const size_t shift = at_begin ? 0 : alignment;
        memory_ = std::malloc(bytes + shift);
        if (memory_ == nullptr)
            fail("no memory");
        data_ = static_cast<char *>(memory_) + shift;
#else
        (void)alignment;
        const size_t page = size_t(sysconf(_SC_PAGESIZE)), pages = (bytes + page - 1) / page * page;
        size_ = pages + 2 * page;
        memory_ = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory_ == MAP_FAILED || mprotect(static_cast<char *>(memory_) + page, pages, PROT_READ | PROT_WRITE) != 0)
            fail("no memory");
        data_ = static_cast<char *>(memory_) + page + (at_begin ? 0 : pages - bytes);
#endif
    }
    ~Guarded() {
#ifdef __SANITIZE_ADDRESS__
        std::free(memory_);
#else
        munmap(memory_, size_);
#endif
    }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;
    void *data() const { return data_; }

  private:
    void *memory_, *data_;
    size_t size_ = 0;
};

// A tensor in a block of its own; absent where there are no values.
template <class S> class Block {
  public:
    explicit Block(const Numbers &values) : Block(values.size()) {
        for (size_t i = 0; i < values.size(); ++i)
            encode(values[i], data()[i]);
    }
    // All bits set is a NaN in every format: values that nobody writes show.
    explicit Block(size_t count) : count_(count) {
        if (count == 0)
            return;
        memory_ = std::make_unique<Guarded>(count * sizeof(S), sizeof(S));
        std::memset(data(), 0xff, count * sizeof(S));
    }

    S *data() const { return memory_ ? static_cast<S *>(memory_->data()) : nullptr; }
    Numbers numbers() const {
        Numbers values(count_);
        for (size_t i = 0; i < count_; ++i)
            values[i] = decode(data()[i]);
        return values;
    }

  private:
    size_t count_;
    std::unique_ptr<Guarded> memory_;
};

} // namespace gradnets::blocks
