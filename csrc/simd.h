// Vectors of one register, by the compiler's vector extensions.
#pragma once

#include "isa.h"

namespace gradnets::GRADNETS_ISA {

// A vector function that is not inlined passes its vectors through memory; GCC's own judgement gives up in large files.
#define GRADNETS_INLINE inline __attribute__((always_inline))

template <class T> struct Simd;

template <> struct Simd<float> {
    typedef float Vector __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    typedef int32_t Integers __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    typedef uint32_t Unsigned __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    typedef float Unaligned __attribute__((vector_size(GRADNETS_VECTOR_BYTES), aligned(4), may_alias));
    static constexpr int lanes = GRADNETS_VECTOR_BYTES / 4;
};

template <> struct Simd<double> {
    typedef double Vector __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    typedef int64_t Integers __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    typedef uint64_t Unsigned __attribute__((vector_size(GRADNETS_VECTOR_BYTES)));
    typedef double Unaligned __attribute__((vector_size(GRADNETS_VECTOR_BYTES), aligned(8), may_alias));
    static constexpr int lanes = GRADNETS_VECTOR_BYTES / 8;
};

template <class V> struct VectorTraits;
template <> struct VectorTraits<Simd<float>::Vector> {
    using Scalar = float;
};
template <> struct VectorTraits<Simd<double>::Vector> {
    using Scalar = double;
};
template <class V> using ScalarOf = typename VectorTraits<V>::Scalar;

template <class T> GRADNETS_INLINE typename Simd<T>::Vector load(const T *p) {
    return *reinterpret_cast<const typename Simd<T>::Unaligned *>(p);
}

template <class T> GRADNETS_INLINE void store(T *p, typename Simd<T>::Vector v) {
    *reinterpret_cast<typename Simd<T>::Unaligned *>(p) = v;
}

// c − 0 rather than 0 + c, which would turn −0 into +0.
template <class V> GRADNETS_INLINE V broadcast(ScalarOf<V> c) {
    return c - V{};
}

// A comparison with NaN is false, so a NaN in the first argument stays.
template <class V> GRADNETS_INLINE V minimum(V a, V limit) {
    return a > limit ? limit : a;
}
template <class V> GRADNETS_INLINE V maximum(V a, V limit) {
    return a < limit ? limit : a;
}

template <class M, class V> GRADNETS_INLINE V select(M mask, V a, V b) {
    return mask ? a : b;
}

template <class V> GRADNETS_INLINE V absolute(V a) {
    using I = typename Simd<ScalarOf<V>>::Integers;
    const I sign = (I)broadcast<V>(ScalarOf<V>(-0.0));
    return (V)((I)a & ~sign);
}

template <class V> GRADNETS_INLINE V v_copysign(V magnitude, V sign_source) {
    using I = typename Simd<ScalarOf<V>>::Integers;
    const I sign = (I)broadcast<V>(ScalarOf<V>(-0.0));
    return (V)(((I)magnitude & ~sign) | ((I)sign_source & sign));
}

// The first `valid` lanes from memory, zeros in the others.
template <class T> GRADNETS_INLINE typename Simd<T>::Vector load_part(const T *p, int64_t valid) {
    typename Simd<T>::Vector v = {};
    __builtin_memcpy(&v, p, size_t(valid) * sizeof(T));
    return v;
}

// The transpose of a block of lanes × lanes: at each level the two off-diagonal quarters change places.
template <class T, int half = Simd<T>::lanes / 2>
GRADNETS_INLINE void transpose(typename Simd<T>::Vector (&v)[Simd<T>::lanes]) {
    constexpr int lanes = Simd<T>::lanes;
    typename Simd<T>::Integers low{}, high{};
#pragma GCC unroll 16
    for (int l = 0; l < lanes; ++l) {
        low[l] = l & half ? lanes + l - half : l;
        high[l] = l & half ? lanes + l : l + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
        if (i & half)
            continue;
        const auto a = v[i], b = v[i + half];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + half] = __builtin_shuffle(a, b, high);
    }
    if constexpr (half > 1)
        transpose<T, half / 2>(v);
}

// Sums halves onto each other: the same tree on every machine of one vector width.
template <class T, int lanes = Simd<T>::lanes> GRADNETS_INLINE T horizontal_sum_of(const T *p) {
    if constexpr (lanes == 1) {
        return p[0];
    } else {
        typedef T Part __attribute__((vector_size(lanes / 2 * sizeof(T))));
        Part low, high;
        __builtin_memcpy(&low, p, sizeof(Part));
        __builtin_memcpy(&high, p + lanes / 2, sizeof(Part));
        low += high;
        T sums[lanes / 2];
        __builtin_memcpy(sums, &low, sizeof(Part));
        return horizontal_sum_of<T, lanes / 2>(sums);
    }
}

template <class T> GRADNETS_INLINE T horizontal_sum(typename Simd<T>::Vector v) {
    T values[Simd<T>::lanes];
    __builtin_memcpy(values, &v, sizeof(v));
    return horizontal_sum_of<T>(values);
}

} // namespace gradnets::GRADNETS_ISA
