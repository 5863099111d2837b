// From tensors in memory to factors of a product: conversion of 16-bit storage, packing into panels.
#pragma once

#include "gemm.h"

namespace gradnets::GRADNETS_ISA {

template <class A, class B> constexpr bool is_same = false;
template <class A> constexpr bool is_same<A, A> = true;

inline float widen(float x) {
    return x;
}
inline double widen(double x) {
    return x;
}
inline float widen(Bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}
// A subnormal is a multiple of 2^-24; the others get the exponent's bias changed, and infinity's exponent once more.
inline float widen(Half x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    uint32_t bits = (rest << 13) + (rest >= 0x7c00u ? 0x70000000u : 0x38000000u);
    const float small = float(int32_t(rest)) * 0x1p-24f;
    uint32_t small_bits;
    __builtin_memcpy(&small_bits, &small, sizeof(small));
    bits = (rest < 0x0400u ? small_bits : bits) | sign;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}

inline uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    return bits;
}

// Rounds to the nearest, ties to even.
inline void narrow(float x, float &to) {
    to = x;
}
inline void narrow(double x, double &to) {
    to = x;
}
inline void narrow(float x, Bf16 &to) {
    const uint32_t bits = bits_of(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to.bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}
inline void narrow(float x, Half &to) {
    const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
    // Below the smallest normal number, adding ½ puts the multiple of 2^-24 into the low bits, rounded.
    float value;
    __builtin_memcpy(&value, &magnitude, sizeof(value));
    const uint32_t small = bits_of(value + 0.5f) - bits_of(0.5f);
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    to.bits = uint16_t(sign | (magnitude < 0x38800000u ? small : magnitude >= 0x477ff000u ? large : normal));
}

template <class S> inline void widen_row(const S *from, int64_t n, Sum<S> *to) {
    if constexpr (is_same<S, Sum<S>>)
        __builtin_memcpy(to, from, size_t(n) * sizeof(S));
    else
        for (int64_t j = 0; j < n; ++j)
            to[j] = widen(from[j]);
}
template <class S> inline void narrow_row(const Sum<S> *from, int64_t n, S *to) {
    if constexpr (is_same<S, Sum<S>>)
        __builtin_memcpy(to, from, size_t(n) * sizeof(S));
    else
        for (int64_t j = 0; j < n; ++j)
            narrow(from[j], to[j]);
}

template <class T> inline void fill_zero(T *p, int64_t count) {
    __builtin_memset(p, 0, size_t(count) * sizeof(T));
}

// Σ_j a_j·b_j over `width` values, whole vectors.
template <class T> inline T dot(const T *a, const T *b, int64_t width) {
    typename Simd<T>::Vector sum = {};
    for (int64_t j = 0; j < width; j += Simd<T>::lanes)
        sum += load(a + j) * load(b + j);
    return horizontal_sum<T>(sum);
}

// The product of values stored as S: element(p, remaining) is the one that starts at p and has `remaining` values left
// along k, interleave the one of two values that adjoin along k.
template <class P, class S> struct Elements;

template <class T, class S> struct Elements<Plain<T>, S> {
    static T element(const S *p, int64_t) { return widen(*p); }
    // dst[n] from one row of k.
    static void interleave(const S *first, const S *, int64_t n, T *dst) { widen_row(first, n, dst); }
};

#ifdef GRADNETS_BF16_DOT
template <> struct Elements<Pairs, Bf16> {
    static uint32_t element(const Bf16 *p, int64_t remaining) {
        return p[0].bits | (remaining > 1 ? uint32_t(p[1].bits) << 16 : 0);
    }
    static void interleave(const Bf16 *first, const Bf16 *second, int64_t n, uint32_t *dst) {
        if (second)
            for (int64_t j = 0; j < n; ++j)
                dst[j] = first[j].bits | (uint32_t(second[j].bits) << 16);
        else
            for (int64_t j = 0; j < n; ++j)
                dst[j] = first[j].bits;
    }
};
#endif

template <class P> inline int64_t elements(int64_t k) {
    return (k + P::depth - 1) / P::depth;
}

// dst[k, panel] from src[valid, k], whose rows are `row` apart: the transpose, block by block.
template <class T> inline void pack_panel(const T *src, int64_t row, int64_t valid, int64_t k, T *dst) {
    constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;
    for (int64_t p = 0; p < k; p += lanes)
        for (int64_t j = 0; j < panel; j += lanes) {
            typename Simd<T>::Vector v[lanes] = {};
            const T *const from = src + j * row + p;
            const int64_t rows = smaller(lanes, valid - j), columns = smaller(lanes, k - p);
            for (int64_t i = 0; i < rows; ++i)
                v[i] = columns == lanes ? load(from + i * row) : load_part(from + i * row, columns);
            transpose<T>(v);
            for (int64_t i = 0; i < columns; ++i)
                store(dst + (p + i) * panel + j, v[i]);
        }
}

// dst[panel of n][k][panel] from src[n, k] row-major: the transpose.  Columns past n become 0.
template <class P, class S> inline void pack_transposed(const S *src, int64_t n, int64_t k, typename P::Element *dst) {
    constexpr int panel = Tile<typename P::Total>::panel;
    if constexpr (is_same<S, typename P::Element>) {
        for (int64_t j = 0; j < n; j += panel, dst += k * panel)
            pack_panel(src + j * k, k, smaller(panel, n - j), k, dst);
        return;
    }
    constexpr int64_t strip = 16; // values of one row that are in cache together
    const int64_t count = elements<P>(k);
    for (int64_t j0 = 0; j0 < n; j0 += panel, dst += count * panel) {
        const int64_t valid = smaller(panel, n - j0);
        for (int64_t p0 = 0; p0 < count; p0 += strip) {
            const int64_t end = smaller(count, p0 + strip);
            for (int64_t j = 0; j < valid; ++j)
                for (int64_t p = p0; p < end; ++p)
                    dst[p * panel + j] = Elements<P, S>::element(src + (j0 + j) * k + p * P::depth, k - p * P::depth);
            for (int64_t p = p0; p < end; ++p)
                fill_zero(dst + p * panel + valid, panel - valid);
        }
    }
}

// dst[panel of n][k][panel] from src[k, n] row-major.
template <class P, class S> inline void pack_rows(const S *src, int64_t k, int64_t n, typename P::Element *dst) {
    constexpr int panel = Tile<typename P::Total>::panel;
    for (int64_t j0 = 0; j0 < n; j0 += panel) {
        const int64_t valid = smaller(panel, n - j0);
        for (int64_t p = 0; p < k; p += P::depth, dst += panel) {
            const S *row = src + p * n + j0;
            Elements<P, S>::interleave(row, p + 1 < k ? row + n : nullptr, valid, dst);
            fill_zero(dst + valid, panel - valid);
        }
    }
}

// Rows [rows, d] as a left factor with k = d; memory: rows · elements(d), unused where the rows serve as they lie.
template <class P, class S>
inline Left<typename P::Element> left_rows(const S *src, int64_t rows, [[maybe_unused]] int64_t d,
                                           [[maybe_unused]] typename P::Element *memory) {
    if constexpr (is_same<typename P::Element, S>) {
        return {src, d, 1};
    } else {
        const int64_t count = elements<P>(d);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t p = 0; p < count; ++p)
                memory[i * count + p] = Elements<P, S>::element(src + i * d + p * P::depth, d - p * P::depth);
        return {memory, count, 1};
    }
}

// A tile of hidden values [rows, stride] as a left factor, with k along the hidden units; memory: rows · stride /
// depth.
template <class P>
inline Left<typename P::Element> left_tile(const typename P::Total *tile, [[maybe_unused]] int64_t rows,
                                           [[maybe_unused]] int64_t width, int64_t stride,
                                           [[maybe_unused]] typename P::Element *memory) {
    if constexpr (P::depth == 1) {
        return {tile, stride, 1};
    } else {
#ifdef GRADNETS_BF16_DOT
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < width; j += 16)
                _mm256_storeu_si256(reinterpret_cast<__m256i *>(memory + (i * stride + j) / 2),
                                    (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(tile + i * stride + j)));
#endif
        return {memory, stride / 2, 1};
    }
}

// The transpose of such a tile as a left factor, with k along the rows; memory: round_up(rows, depth) · stride / depth.
template <class P>
inline Left<typename P::Element> left_tile_transposed(const typename P::Total *tile, [[maybe_unused]] int64_t rows,
                                                      [[maybe_unused]] int64_t width, int64_t stride,
                                                      [[maybe_unused]] typename P::Element *memory) {
    if constexpr (P::depth == 1) {
        return {tile, 1, stride};
    } else {
#ifdef GRADNETS_BF16_DOT
        typedef uint16_t Shorts __attribute__((vector_size(32)));
        typedef uint32_t Words __attribute__((vector_size(64)));
        for (int64_t i = 0; i < rows; i += 2)
            for (int64_t j = 0; j < width; j += 16) {
                const __m512 first = _mm512_loadu_ps(tile + i * stride + j);
                const __m512 second = i + 1 < rows ? _mm512_loadu_ps(tile + (i + 1) * stride + j) : _mm512_setzero_ps();
                const Words low = __builtin_convertvector((Shorts)_mm512_cvtneps_pbh(first), Words);
                const Words high = __builtin_convertvector((Shorts)_mm512_cvtneps_pbh(second), Words);
                _mm512_storeu_si512(memory + i / 2 * stride + j, (__m512i)(low | (high << 16)));
            }
#endif
        return {memory, 1, stride};
    }
}

} // namespace gradnets::GRADNETS_ISA
