// f = Kᵀφ(K∗x), the family of convolutional ridge functions: conv_run.h with the middle steps of the ridge family.
#pragma once

#include "conv_run.h"
#include "ridge.h"

namespace gradnets::GRADNETS_ISA {

template <class S, class Strips>
inline bool run_conv(const Conv<S> &p, const Strips &strips, double flops, int64_t history) {
    const RidgeMiddle<S, Strips> middle(p.ridge, strips);
    return ConvRun<S>(p, middle, strips.cascade.sums(), strips.cascade.scratch_bytes(history)).run(flops);
}

// a = φ'(u), for the forward pass of the divergence.
template <class T> struct ConvSlopeStrips {
    using V = typename Simd<T>::Vector;
    CascadeStrips<T> cascade;

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *) const {
        with_second_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
            each_strip(tile.rows, [&](auto n, int64_t row) {
                constexpr int N = decltype(n)::value;
                for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
                    const int64_t at = row * tile.stride + j;
                    V u[N];
                    GRADNETS_EACH u[i] = load(tile.u + at + i * tile.stride);
                    block_slope<N>(cascade.index(), bases, cascade.parameters(tile.first_unit + j), u);
                    GRADNETS_EACH store(tile.a + at + i * tile.stride, u[i]);
                }
            });
        });
    }
};

// The weight of an image for each pixel of a tile.
template <class S> class PixelWeights {
  public:
    PixelWeights(const Ridge<S> &p, int64_t pixels) : memory_(p.batch * pixels * int64_t(sizeof(Sum<S>))) {
        for (int64_t i = 0; memory_.ok() && p.points.weight && i < p.batch * pixels; ++i)
            data()[i] = p.points.weight[i / pixels];
    }
    bool ok() const { return memory_.ok(); }
    Sum<S> *data() const { return piece<Sum<S>>(memory_.at(0), 0); }

  private:
    Workspace memory_;
};

template <class S> inline bool conv_potential(const Conv<S> &p, const CascadeStrips<Sum<S>> &cascade) {
    using T = Sum<S>;
    const Ridge<S> &ridge = p.ridge;
    const PixelWeights<S> weights(ridge, ConvShape<S>(p).tile_pixels());
    const Paces<T> paces(*cascade.phi);
    if (!weights.ok() || !paces.ok())
        return false;
    using Strips = RidgePotentialStrips<T>;
    const Strips strips{cascade, ridge.rules, paces.data(), weights.data(), ridge.points.scalar != nullptr};
    return run_conv(p, strips, potential_flops(cascade.index()), Strips::history(cascade.index(), *ridge.rules));
}

template <class S> bool conv(const Conv<S> &p) {
    using T = Sum<S>;
    const PaddedCascade<T> phi(p.ridge.phi, p.ridge.h);
    if (!phi.memory.ok())
        return false;
    const CascadeStrips<T> cascade = cascade_strips(p.ridge, phi);
    const int64_t history = phi.index.layers * kInterleaved;
    switch (p.ridge.quantity) {
    case Quantity::potential:
        return conv_potential(p, cascade);
    case Quantity::divergence:
        if (p.ridge.points.scalar)
            return run_conv(p, ConvSlopeStrips<T>{cascade}, 40.0, history);
        [[fallthrough]];
    case Quantity::jvp:
        return run_conv(p, RidgeJvpStrips<T>{cascade}, 80.0, 2 * history);
    default:
        return run_conv(p, RidgeStrips<T>{cascade}, basis_flops(p.ridge), history);
    }
}

} // namespace gradnets::GRADNETS_ISA
