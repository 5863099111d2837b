// The module families on the pipeline and on the Jacobian's run: the loops over the rows of a tile, which call what
// softmax.h or transformed.h does with one row.  Nothing of size batch × h.
#pragma once

#include "softmax.h"
#include "transformed.h"

namespace gradnets::GRADNETS_ISA {

// The parameters of a tile's module, and the sums of gradients over the batch: db [count, h], then temperature,
// positive and negative [count] each.
template <class S> struct ModulesSums {
    using T = Sum<S>;
    const Modules<S> &problem;

    static int64_t size(const Modules<S> &p) { return p.count * (p.h + 3); }
    static int64_t scratch_bytes(int64_t h) { return 3 * round_up(h, Tile<T>::panel) * int64_t(sizeof(T)); }

    Module<T> module_of(const HiddenTile<T> &tile) const {
        const Modules<S> &p = problem;
        const int64_t m = tile.block;
        return {p.h,
                tile.width,
                p.basis,
                p.transform,
                p.b + m * p.h,
                p.temperature ? p.temperature[m] : T(1),
                p.positive[m],
                p.negative ? p.negative[m] : T(0),
                p.negative != nullptr};
    }

    // Sums of zero, in the tile's scratch memory behind the two strips that rows use.
    static ModuleSums<T> zero_sums(const HiddenTile<T> &tile) {
        T *const db = piece<T>(tile.scratch, 0) + 2 * tile.stride;
        fill_zero(db, tile.width);
        return {db, 0, 0, 0};
    }

    void add_sums(const HiddenTile<T> &tile, const ModuleSums<T> &sums) const {
        const Modules<S> &p = problem;
        T *const db = tile.sums + tile.first_unit, *const scalars = tile.sums + p.count * p.h + tile.block;
        for (int64_t j = 0; j < tile.units; ++j)
            db[j] = sums.db[j] + (tile.first_tile ? 0 : db[j]);
        const double totals[] = {sums.temperature, sums.positive, sums.negative};
        for (int s = 0; s < 3; ++s)
            scalars[s * p.count] = T(totals[s]) + (tile.first_tile ? 0 : scalars[s * p.count]);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        const Modules<S> &p = problem;
        if (p.db)
            reduce_partials(partials, chunks, size, p.count * p.h, p.db);
        T *const scalars[] = {p.dtemperature, p.dpositive, p.dnegative};
        for (int s = 0; s < 3; ++s)
            if (scalars[s])
                reduce_partials(partials + p.count * (p.h + s), chunks, size, p.count, scalars[s]);
    }
};

template <class S> struct ModulesMiddle final : Middle<Sum<S>> {
    using T = Sum<S>;
    const ModulesSums<S> of;

    explicit ModulesMiddle(const Modules<S> &p) : of{p} {}

    void operator()(const HiddenTile<T> &tile) const override {
        const Modules<S> &p = of.problem;
        const Module<T> module = of.module_of(tile);
        ModuleSums<T> sums = of.zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            add_shift(module, tile.u + i * tile.stride);
            const T F = row(module, tile, i, sums);
            if (tile.scalars)
                tile.scalars[i] += F;
        }
        if (p.points.g || p.points.weight)
            of.add_sums(tile, sums);
    }

    void finish(const T *sums, int64_t chunks, int64_t size) const override {
        if (of.problem.points.g || of.problem.points.weight)
            of.finish(sums, chunks, size);
    }

  private:
    // Replaces a row's hidden values by the derivatives of S; returns F where it is asked for.
    T row(const Module<T> &module, const HiddenTile<T> &tile, int64_t i, ModuleSums<T> &sums) const {
        const Modules<S> &p = of.problem;
        const bool softmax = p.basis == kSoftmax;
        T *const strips = piece<T>(tile.scratch, 0);
        T *const z = tile.u + i * tile.stride, *const a = tile.a + i * tile.stride;
        const T weight = p.points.weight ? p.points.weight[tile.first_row + i] : T(0);
        if (p.quantity == Quantity::potential)
            return softmax ? softmax_potential(module, weight, z, sums, strips)
                           : transformed_potential(module, weight, z, sums);
        if (p.quantity == Quantity::jvp) {
            T *const along = tile.p + i * tile.stride;
            fill_zero(a + module.h, module.width - module.h); // a non-finite g or v times the padding of W is NaN
            fill_zero(along + module.h, module.width - module.h);
            softmax ? softmax_jvp(module, z, a, along, sums, strips)
                    : transformed_jvp(module, z, a, along, sums, strips);
            return T(0);
        }
        if (!p.points.g)
            return softmax ? softmax_value(module, z, strips) : transformed_value(module, z);
        softmax ? softmax_gradient(module, weight, z, a, sums, strips)
                : transformed_gradient(module, weight, z, a, sums, strips);
        return T(0);
    }
};

template <class S> inline bool modules_on_pipeline(const Modules<S> &p) {
    const bool forward = !p.points.g && !p.points.weight;
    Pipeline<S> pipeline;
    pipeline.batch = p.batch;
    pipeline.d = p.d;
    pipeline.hidden = p.h * p.count;
    pipeline.block = p.h;
    pipeline.whole_blocks = true;
    pipeline.points = p.points;
    pipeline.W = p.W;
    pipeline.bias = p.bias;
    pipeline.dW = p.dW;
    pipeline.dbias = p.dbias;
    pipeline.sums = ModulesSums<S>::size(p);
    pipeline.scratch = ModulesSums<S>::scratch_bytes(p.h);
    pipeline.threads = p.threads;
    // Operations of a hidden unit and a row, and strips of hidden values.
    double flops;
    int strips = 1;
    switch (p.quantity) {
    case Quantity::potential:
        flops = forward ? 2.0 * p.d + 20.0 : 6.0 * p.d + 40.0;
        break;
    case Quantity::jvp:
        flops = 16.0 * p.d + 60.0;
        strips = 3;
        break;
    default:
        flops = forward ? 4.0 * p.d + 20.0 : 10.0 * p.d + 40.0;
        strips = forward ? 1 : 2;
    }
    pipeline.flops = flops * double(p.batch) * double(pipeline.hidden);
    pipeline.most_rows = module_rows<Sum<S>>(p.h, strips);
    return run_pipeline(pipeline, ModulesMiddle<S>(p));
}

template <class S> struct ModulesJacobian final : JacobianMiddle<Sum<S>> {
    using T = Sum<S>;
    const ModulesSums<S> of;

    explicit ModulesJacobian(const Modules<S> &p) : of{p} {}

    void value(const JacobianTile<T> &tile) const override {
        const Module<T> module = of.module_of(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            add_shift(module, tile.u + i * tile.stride);
            module.basis == kSoftmax ? softmax_jacobian(module, tile, i) : transformed_jacobian(module, tile, i);
        }
    }

    void gradient(const JacobianTile<T> &tile) const override {
        const Module<T> module = of.module_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        ModuleSums<T> sums = of.zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            // A non-finite G times the padding of W is NaN.
            fill_zero(tile.q + i * tile.stride + module.h, module.width - module.h);
            module.basis == kSoftmax ? softmax_jacobian_gradient(module, tile, i, sums, strips)
                                     : transformed_jacobian_gradient(module, tile, i, sums, strips);
        }
        of.add_sums(tile, sums);
    }

    void finish(const T *sums, int64_t chunks, int64_t size) const override { of.finish(sums, chunks, size); }
};

template <class S> inline bool modules_jacobian(const Modules<S> &p) {
    using T = Sum<S>;
    Jacobian<S> jacobian;
    jacobian.batch = p.batch;
    jacobian.d = p.d;
    jacobian.hidden = p.h * p.count;
    jacobian.block = p.h;
    jacobian.points = p.points;
    jacobian.W = p.W;
    jacobian.dW = p.dW;
    jacobian.strips = p.negative ? 2 : 1;
    jacobian.early = true;
    jacobian.most_rows = module_rows<T>(p.h, jacobian.backward() ? 7 : 4);
    jacobian.flops = double(p.batch) * double(jacobian.hidden) * (jacobian_flops(jacobian) + 60.0);
    jacobian.sums = ModulesSums<S>::size(p);
    jacobian.scratch = ModulesSums<S>::scratch_bytes(p.h);
    jacobian.threads = p.threads;
    return JacobianRun<S>(jacobian, ModulesJacobian<S>(p)).run();
}

template <class S> bool modules(const Modules<S> &p) {
    const bool jacobian = p.quantity == Quantity::divergence || p.quantity == Quantity::jacobian;
    return jacobian ? modules_jacobian(p) : modules_on_pipeline(p);
}

} // namespace gradnets::GRADNETS_ISA
