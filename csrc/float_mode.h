// Subnormal numbers, smaller than 1.2·10⁻³⁸ in float: exponentials of −88 to −103 are such, as in the tails of softplus
// and softmax, and processors of Intel take a hundred times as long for each operation on one.
#pragma once

#ifdef __x86_64__
#include <xmmintrin.h>
#endif

namespace gradnets {

// How the calling thread rounds and traps.
inline unsigned float_mode() {
#ifdef __x86_64__
    return _mm_getcsr();
#else
    return 0;
#endif
}

// While it lives, the thread that made it computes in this mode.
class FloatMode {
  public:
    explicit FloatMode(unsigned mode) : before_(float_mode()) { set(mode); }
    ~FloatMode() { set(before_); }
    FloatMode(const FloatMode &) = delete;
    FloatMode &operator=(const FloatMode &) = delete;

    // The calling thread's, but that subnormal results become 0.  Those that memory holds are read as they are.
    static unsigned without_subnormals() { return float_mode() | kFlushToZero; }
    static unsigned with_subnormals() { return float_mode() & ~kFlushToZero; }

  private:
    static constexpr unsigned kFlushToZero = 0x8000;

    static void set(unsigned mode) {
#ifdef __x86_64__
        _mm_setcsr(mode);
#else
        (void)mode;
#endif
    }

    unsigned before_;
};

} // namespace gradnets
