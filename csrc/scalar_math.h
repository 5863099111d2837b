// The functions of simd_math.h for one double, by the C library: what is printed from the tables serves both.
#pragma once

#include "simd.h"

namespace gradnets::GRADNETS_ISA {

template <> struct VectorTraits<double> {
    using Scalar = double;
};

inline double absolute(double x) {
    return __builtin_fabs(x);
}
inline double v_copysign(double magnitude, double sign_source) {
    return __builtin_copysign(magnitude, sign_source);
}
inline double v_exp_bounded(double x) {
    return __builtin_exp(x);
}
inline double v_expm1(double x) {
    return __builtin_expm1(x);
}
inline double v_log(double x) {
    return __builtin_log(x);
}
inline double v_log1p(double x) {
    return __builtin_log1p(x);
}
inline double v_tanh(double x) {
    return __builtin_tanh(x);
}
// 4e/(1 + e)², e = e^{−2|x|}, because 1 − tanh² x loses the tail.
inline double v_sech_squared(double x) {
    const double e = __builtin_exp(-2.0 * __builtin_fabs(x));
    return 4.0 * e / ((1.0 + e) * (1.0 + e));
}

} // namespace gradnets::GRADNETS_ISA
