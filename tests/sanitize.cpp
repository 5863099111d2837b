// Every kernel of every instruction set that this processor has, for every storage type, over shapes that reach every
// path, from exact-size blocks of memory.  `make sanitize` builds it with the address and undefined-behaviour
// sanitizers; without them unreadable pages lie before and after the blocks, so that it also serves the kernels as they
// are shipped (test_native.py) and other processors (`make aarch64`).  Results are compared loosely with the baseline's
// in float64; the narrow tolerances are in test_operators.py.
#include "kernel_cases.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

using namespace gradnets;
using namespace gradnets::blocks;

namespace {

// How far a type's results may be from float64's, relative to the largest.
template <class S> constexpr double tolerance = 0;
template <> constexpr double tolerance<double> = 1e-11;
template <> constexpr double tolerance<float> = 1e-4;
template <> constexpr double tolerance<Half> = 1e-2;
template <> constexpr double tolerance<Bf16> = 5e-2;

std::vector<const InstructionSet *> sets;
int64_t calls = 0;

double largest(const Outputs &outputs) {
    double top = 0;
    for (const Numbers &numbers : outputs)
        for (const double x : numbers)
            top = std::isfinite(x) ? std::max(top, std::fabs(x)) : std::numeric_limits<double>::infinity();
    return top;
}

template <class S, class Case>
void check_set(const Case &c, const InstructionSet &set, unsigned needs, const Outputs &truth) {
    const Outputs ours = c.template run<S>(set, needs, 1);
    ++calls;
    const std::string where = std::string(set.name) + ", " + std::to_string(sizeof(S)) + " bytes, " + c.name + ", " +
                              std::to_string(c.shape.batch) + " × " + std::to_string(c.shape.d) + " × " +
                              std::to_string(c.shape.h) + ", outputs " + std::to_string(needs);
    if (needs == kForward || needs == kAll) {
        const Outputs threaded = c.template run<S>(set, needs, 2);
        ++calls;
        for (size_t o = 0; o < ours.size(); ++o)
            if (!ours[o].empty() &&
                std::memcmp(ours[o].data(), threaded[o].data(), ours[o].size() * sizeof(double)) != 0)
                fail(where + ": output " + std::to_string(o) + " depends on the number of threads");
    }
    const double top = largest(truth);
    if (top > 2e4) // beyond float16
        return;
    for (size_t o = 0; o < ours.size(); ++o)
        for (size_t i = 0; i < ours[o].size(); ++i)
            if (!(std::fabs(ours[o][i] - truth[o][i]) <= tolerance<S> * top))
                fail(where + ": output " + std::to_string(o) + " at " + std::to_string(i) + " is " +
                     std::to_string(ours[o][i]) + ", and the baseline's " + std::to_string(truth[o][i]));
}

template <class S, class Case> void check_storage(const Case &c, unsigned needs, const Outputs &truth) {
    for (size_t s = 0; s < sets.size(); ++s)
        if (s == 0 || !Case::template same_kernel<S>(*sets[s - 1], *sets[s]))
            check_set<S>(c, *sets[s], needs, truth);
}

template <class Case> void check(const Case &c, unsigned needs) {
    const Outputs truth = c.template run<double>(*sets.back(), needs, 1);
    ++calls;
    check_storage<float>(c, needs, truth);
    check_storage<double>(c, needs, truth);
    check_storage<Bf16>(c, needs, truth);
    check_storage<Half>(c, needs, truth);
}

// The value, all gradients, and one gradient alone or all but one in turn; all of those if `every`.
template <class Case> void check_outputs(const Case &c, bool every) {
    static unsigned turn = 0;
    if (c.quantity != Quantity::jvp) // whose value is another quantity's gradient
        check(c, kForward);
    check(c, kAll);
    for (unsigned i = 0; i < 2 * Case::outputs; ++i)
        if (every || i == turn % (2 * Case::outputs))
            check(c, i % 2 == 0 ? 1u << (i / 2) : kAll & ~(1u << (i / 2)));
    ++turn;
}

int number_of(const Names &names, const char *name) {
    for (int i = 0; i < names.count; ++i)
        if (std::strcmp(names.names[i], name) == 0)
            return i;
    fail(std::string("no function ") + name);
}

void check_shape(const Shape &shape, bool every) {
    const Names &basis = sets.back()->basis, &transforms = sets.back()->transforms;
    const int tanh = number_of(basis, "tanh"), softplus = number_of(basis, "softplus"), sin = number_of(basis, "sin"),
              identity = number_of(basis, "identity");
    check_outputs(RidgeCase(shape, 1, {tanh}, false, false, false), every);
    check_outputs(RidgeCase(shape, 4, {tanh}, true, true, true), every);
    check_outputs(RidgeCase(shape, 3, {softplus, sin, identity}, true, true, true), every);
    check_outputs(RidgeCase(shape, 2, {tanh, identity}, true, true, false), every);
    check_outputs(RidgeCase(shape, 3, {softplus, sin}, true, true, false).of_heads(), every);
    check_outputs(RidgeCase(shape, 1, {kSpline}, true, true, false, Quantity::value, 5), every);
    check_outputs(ModulesCase(shape, 3, kSoftmax, 0, false, false), every);
    check_outputs(ModulesCase(shape, 2, kSoftmax, 0, true, true), every);
    check_outputs(ModulesCase(shape, 2, tanh, number_of(transforms, "half_square"), false, true), every);
    check_outputs(ModulesCase(shape, 5, softplus, number_of(transforms, "logcosh"), false, false), every);
    check_outputs(DeepCase(shape, {shape.h}, tanh, false, 0, false), every);
    check_outputs(DeepCase(shape, {shape.h, shape.h / 2 + 1, 5}, softplus, true, 2, false), every);
}

void check_quantities(const Shape &shape) {
    const Names &basis = sets.back()->basis, &transforms = sets.back()->transforms;
    const int tanh = number_of(basis, "tanh"), softplus = number_of(basis, "softplus"), sin = number_of(basis, "sin");
    for (const Quantity quantity : {Quantity::jvp, Quantity::potential, Quantity::divergence, Quantity::jacobian}) {
        check_outputs(RidgeCase(shape, 1, {tanh}, true, true, false, quantity), false);
        check_outputs(RidgeCase(shape, 3, {softplus, sin}, true, true, false, quantity), false);
        check_outputs(RidgeCase(shape, 3, {softplus, sin}, true, true, false, quantity).of_heads(), false);
        check_outputs(RidgeCase(shape, 1, {kSpline}, true, true, false, quantity, 21), false);
        check_outputs(ModulesCase(shape, 2, kSoftmax, 0, false, false, quantity), false);
        check_outputs(ModulesCase(shape, 3, kSoftmax, 0, true, false, quantity), false);
        check_outputs(ModulesCase(shape, 2, tanh, number_of(transforms, "logcosh"), false, false, quantity), false);
        check_outputs(DeepCase(shape, {shape.h, 3}, tanh, false, 0, false, quantity), false);
        check_outputs(DeepCase(shape, {19, 19, 19}, softplus, true, 2, true, quantity), false);
    }
    const int relu = number_of(basis, "relu"), hardtanh = number_of(basis, "hardtanh");
    check_outputs(RidgeCase(shape, 4, {relu}, true, true, false, Quantity::potential), false);
    check_outputs(RidgeCase(shape, 2, {hardtanh, relu}, true, true, false, Quantity::potential), false);
    const Quantity both = Quantity::value_and_potential;
    check_outputs(ModulesCase(shape, 2, kSoftmax, 0, true, false, both), false);
    check_outputs(ModulesCase(shape, 2, tanh, number_of(transforms, "softplus"), false, false, both), false);
    check_outputs(DeepCase(shape, {shape.h, shape.h}, tanh, true, 1, true, both), false);
    check_outputs(DeepCase(shape, {shape.h, shape.h}, tanh, true, 1, true, both).keeping(), false);
    check_outputs(DeepCase(shape, {shape.h, 3}, tanh, false, 0, false).keeping(), false);
    check_outputs(DeepCase(shape, {shape.h, 3}, tanh, false, 0, false, Quantity::squared_error), false);
    check_outputs(DeepCase(shape, {19, 19, 19}, softplus, true, 2, true, Quantity::squared_error), false);
}

void check_every_function() {
    const Names &basis = sets.back()->basis, &transforms = sets.back()->transforms;
    for (int b = 0; b < basis.count; ++b) {
        check_outputs(RidgeCase({21, 3, 19}, 1, {b}, true, true, true), false);
        check_outputs(RidgeCase({35, 9, 19}, 2, {b, 0}, true, true, true), false);
        check_outputs(ModulesCase({35, 9, 19}, 2, b, 0, false, true), false);
    }
    for (int t = 0; t < transforms.count; ++t)
        check_outputs(ModulesCase({35, 9, 19}, 2, number_of(basis, "tanh"), t, false, true), false);
}

void check_matrices() {
    for (const int64_t d : {1, 2, 3, 4, 5, 8, 13, 32, 67, 128})
        for (const int64_t batch : {1, 7, 35})
            check_outputs(CholeskyCase(batch, d), false);
}

void check_convolutions() {
    struct Image {
        int64_t batch, channels, sizes[3], filter[3], filters;
        bool circular;
    };
    constexpr Image images[] = {
        {2, 1, {1, 1, 9}, {1, 1, 3}, 5, false},     {1, 2, {1, 1, 211}, {1, 1, 6}, 17, true},
        {3, 1, {12, 1, 13}, {5, 1, 5}, 4, false},   {1, 3, {40, 1, 21}, {4, 1, 3}, 33, true},
        {1, 1, {61, 1, 102}, {13, 1, 13}, 9, true}, {2, 2, {3, 1, 4}, {5, 1, 4}, 131, false},
        {2, 1, {5, 6, 7}, {3, 2, 3}, 3, false},     {17, 1, {8, 1, 8}, {3, 1, 3}, 16, true},
    };
    const Names &basis = sets.back()->basis;
    const int tanh = number_of(basis, "tanh"), softplus = number_of(basis, "softplus");
    for (const Quantity quantity : {Quantity::value, Quantity::jvp, Quantity::potential, Quantity::divergence})
        for (const Image &i : images) {
            const Shape shape{i.batch, i.channels * i.sizes[0] * i.sizes[1] * i.sizes[2], i.filters};
            for (const RidgeCase &ridge : {RidgeCase(shape, 1, {tanh}, true, true, false, quantity),
                                           RidgeCase(shape, 2, {softplus, tanh}, true, true, false, quantity),
                                           RidgeCase(shape, 1, {kSpline}, true, true, false, quantity, 7)})
                check_outputs(ConvCase(ridge, i.channels, i.sizes, i.filter, i.circular), false);
            if (quantity == Quantity::value)
                check_outputs(LinearConvCase(ConvCase(RidgeCase(shape, 1, {tanh}, false, false, false), i.channels,
                                                      i.sizes, i.filter, i.circular)),
                              true);
        }
}

template <class T> void check_basis(Evaluate<T> evaluate, int count) {
    using Limits = std::numeric_limits<T>;
    Numbers extremes;
    for (const T x : {T(0), Limits::denorm_min(), Limits::min(), Limits::epsilon(), T(1), T(45), T(104), T(745),
                      T(3001), T(1000001), Limits::max(), Limits::infinity()}) {
        extremes.push_back(double(x));
        extremes.push_back(-double(x));
    }
    extremes.push_back(double(Limits::quiet_NaN()));
    const Block<T> x(extremes);
    for (int basis = 0; basis < count; ++basis)
        for (int which = 0; which < 5; ++which) {
            const Block<T> out(extremes.size());
            evaluate(basis, which, int64_t(extremes.size()), x.data(), out.data());
            ++calls;
        }
}

// Few coordinates; few rows; hidden units shared out; many rows: around the vectors, tiles and blocks of every
// instruction set.
constexpr Shape kShapes[] = {
    {1, 1, 1},     {5, 2, 7},     {1, 8, 2},     {5, 1, 33},    {97, 3, 65},   {97, 5, 17},   {513, 4, 9},
    {513, 7, 33},  {1025, 1, 17}, {257, 8, 71},  {1, 16, 5},    {1, 129, 131}, {2, 17, 33},   {17, 19, 67},
    {32, 64, 96},  {7, 601, 35},  {32, 33, 7},   {33, 33, 3},   {33, 17, 401}, {65, 70, 130}, {101, 37, 259},
    {579, 9, 149}, {67, 130, 21}, {67, 515, 19}, {1601, 9, 37},
};
// Of each path one, for every choice of outputs.
constexpr Shape kThorough[] = {{37, 3, 19}, {3, 18, 37}, {35, 9, 23}, {33, 34, 131}};

// One narrow, one of several blocks, one whose product needs several panels, one of many rows.
constexpr Shape kQuantityShapes[] = {{5, 2, 7}, {21, 3, 19}, {35, 9, 301}, {7, 70, 33}, {201, 17, 40}};

} // namespace

// With the argument `few`, for emulated processors: fewer shapes.
int main(int argc, char **argv) {
    const bool few = argc > 1 && std::strcmp(argv[1], "few") == 0;
    std::string names;
    sets = available_instruction_sets();
    for (const InstructionSet *set : sets)
        names += (names.empty() ? "" : ", ") + std::string(set->name);
    for (const Shape &shape : kThorough)
        check_shape(shape, !few);
    for (const Shape &shape : kShapes)
        if (!few)
            check_shape(shape, false);
    for (const Shape &shape : kQuantityShapes)
        check_quantities(shape);
    check_convolutions();
    check_matrices();
    check_every_function();
    for (const InstructionSet *set : sets) {
        check_basis(set->evaluate_f32, set->basis.count);
        check_basis(set->evaluate_f64, set->basis.count);
    }
    std::printf("%lld kernel calls for %s: clean\n", static_cast<long long>(calls), names.c_str());
    return 0;
}
