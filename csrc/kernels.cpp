// All kernels for one instruction set.  Compiled once per instruction set with its own flags and these macros:
// GRADNETS_ISA (a namespace), GRADNETS_VECTOR_BYTES, GRADNETS_TILE_ROWS, GRADNETS_TILE_VECTORS.
//
// No standard-library templates here: the linker keeps one copy of an inline function, and it might keep this one,
// whose instructions other machines lack.  For the same reason no static constructors.
#include "common.h"

namespace gradnets {
namespace GRADNETS_ISA {

#include "simd.h"
#include "simd_math.h"

#include "gemm.h"

#include "workspace.h"

#include "cascade.h"

#include "ridge.h"

#include "modules.h"

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

template <class T> constexpr Kernels<T> kernels() {
    return {ridge_forward<T>, ridge_backward<T>, modules_forward<T>, modules_backward<T>, evaluate_basis<T>};
}

extern const Names basis_names;
extern const Names transform_names;
extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
constexpr Names basis_names{kBasisNames, sizeof(kBasisNames) / sizeof(kBasisNames[0])};
constexpr Names transform_names{kTransformNames, sizeof(kTransformNames) / sizeof(kTransformNames[0])};
constexpr Kernels<float> kernels_f32 = kernels<float>();
constexpr Kernels<double> kernels_f64 = kernels<double>();

} // namespace GRADNETS_ISA
} // namespace gradnets
