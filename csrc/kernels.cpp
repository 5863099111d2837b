// The table of one instruction set's kernels; isa.h says how it is compiled.
#include "cholesky.h"
#include "conv.h"
#include "conv_linear.h"
#include "deep.h"
#include "float_mode.h"
#include "modules.h"
#include "ridge.h"

namespace gradnets::GRADNETS_ISA {

template <class T> void evaluate_basis(int basis, int which, int64_t count, const T *x, T *out) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    with_basis(basis, [&](auto b) {
        for (int64_t i = 0; i < count; i += lanes) {
            const int64_t valid = smaller(lanes, count - i);
            T buffer[lanes] = {};
            __builtin_memcpy(buffer, x + i, size_t(valid) * sizeof(T));
            V results[5];
            b.antiderivative(load(buffer), results[0]);
            b.value_to_third(load(buffer), results[1], results[2], results[3], results[4]);
            store(buffer, results[which]);
            __builtin_memcpy(out + i, buffer, size_t(valid) * sizeof(T));
        }
    });
}

inline void evaluate_transforms(int transform, int which, int64_t count, const double *t, double *out) {
    with_transform(transform, [&](auto rho) {
        for (int64_t i = 0; i < count; ++i) {
            double results[4], unit;
            rho.value(t[i], results[0]);
            rho.derivatives(t[i], results[1], results[2], results[3], unit);
            for (int power = 0; power < which; ++power)
                results[which] /= unit;
            out[i] = results[which];
        }
    });
}

template <class P, bool (*kernel)(const P &)> bool without_subnormals(const P &problem) {
    const FloatMode mode(FloatMode::without_subnormals());
    return kernel(problem);
}

// Matrices to factor may be of subnormal numbers altogether.
template <class S> constexpr Kernels<S> kernels() {
    return {without_subnormals<Ridge<S>, ridge<S>>,
            without_subnormals<Modules<S>, modules<S>>,
            without_subnormals<Deep<S>, deep<S>>,
            without_subnormals<Conv<S>, conv<S>>,
            without_subnormals<LinearConv<S>, linear_conv<S>>,
            cholesky<Sum<S>>};
}

#ifdef GRADNETS_BF16_DOT
// The other types gain nothing from this instruction set.
extern const Kernels<Bf16> kernels_bf16;
constexpr Kernels<Bf16> kernels_bf16 = kernels<Bf16>();
#else
extern const Names basis_names, transform_names;
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
extern const Kernels<Bf16> kernels_bf16;
extern const Kernels<Half> kernels_f16;
extern const Evaluate<float> evaluate_f32;
extern const Evaluate<double> evaluate_f64, evaluate_transform;
constexpr Names basis_names{kBasisNames, sizeof(kBasisNames) / sizeof(kBasisNames[0])};
constexpr Names transform_names{kTransformNames, sizeof(kTransformNames) / sizeof(kTransformNames[0])};
constexpr Kernels<float> kernels_f32 = kernels<float>();
constexpr Kernels<double> kernels_f64 = kernels<double>();
constexpr Kernels<Bf16> kernels_bf16 = kernels<Bf16>();
constexpr Kernels<Half> kernels_f16 = kernels<Half>();
constexpr Evaluate<float> evaluate_f32 = evaluate_basis<float>;
constexpr Evaluate<double> evaluate_f64 = evaluate_basis<double>;
constexpr Evaluate<double> evaluate_transform = evaluate_transforms;
#endif

} // namespace gradnets::GRADNETS_ISA
