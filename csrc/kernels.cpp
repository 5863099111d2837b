// All kernels for one instruction set.  Compiled once per instruction set with its own flags and these macros:
// GRADNETS_ISA (a namespace), GRADNETS_VECTOR_BYTES, GRADNETS_TILE_ROWS, GRADNETS_TILE_VECTORS.
//
// No standard-library templates here: the linker keeps one copy of an inline function, and it might keep this one,
// whose instructions other machines lack.  For the same reason no static constructors.
#include "common.h"

#ifdef GRADNETS_BF16_DOT
#include <immintrin.h>
#endif

namespace gradnets {
namespace GRADNETS_ISA {

#include "simd.h"
#include "simd_math.h"

#include "gemm.h"

#include "operands.h"

#include "workspace.h"

#include "pipeline.h"

#include "cascade.h"

#include "cascade_second.h"

#include "cascade_potential.h"

#include "ridge_quantities.h"

#include "jacobian.h"

#include "ridge_jacobian.h"

#include "narrow.h"

#include "ridge.h"

#include "modules.h"

#include "modules_second.h"

#include "modules_potential.h"

#include "modules_jacobian.h"

template <class T> void evaluate_basis(int basis, int which, int64_t count, const T *x, T *out) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    with_basis(basis, [&](auto b) {
        for (int64_t i = 0; i < count; i += lanes) {
            const int64_t valid = smaller(lanes, count - i);
            T buffer[lanes] = {};
            __builtin_memcpy(buffer, x + i, size_t(valid) * sizeof(T));
            V results[4];
            b.antiderivative(load(buffer), results[0]);
            b.value_first_second(load(buffer), results[1], results[2], results[3]);
            store(buffer, results[which]);
            __builtin_memcpy(out + i, buffer, size_t(valid) * sizeof(T));
        }
    });
}

template <class S> constexpr Kernels<S> kernels() {
    return {ridge<S>, modules<S>};
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
extern const EvaluateBasis<float> evaluate_f32;
extern const EvaluateBasis<double> evaluate_f64;
constexpr Names basis_names{kBasisNames, sizeof(kBasisNames) / sizeof(kBasisNames[0])};
constexpr Names transform_names{kTransformNames, sizeof(kTransformNames) / sizeof(kTransformNames[0])};
constexpr Kernels<float> kernels_f32 = kernels<float>();
constexpr Kernels<double> kernels_f64 = kernels<double>();
constexpr Kernels<Bf16> kernels_bf16 = kernels<Bf16>();
constexpr Kernels<Half> kernels_f16 = kernels<Half>();
constexpr EvaluateBasis<float> evaluate_f32 = evaluate_basis<float>;
constexpr EvaluateBasis<double> evaluate_f64 = evaluate_basis<double>;
#endif

} // namespace GRADNETS_ISA
} // namespace gradnets
