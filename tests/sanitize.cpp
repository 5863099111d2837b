// Every kernel of every instruction set that this processor has, for every storage type, over shapes that reach every
// path, from exact-size blocks of memory.  `make sanitize` builds it with the address and undefined-behaviour
// sanitizers; without them unreadable pages lie before and after the blocks, so that it also serves the kernels as they
// are shipped (test_native.py) and other processors (`make aarch64`).  Results are compared loosely with the baseline's
// in float64; the narrow tolerances are in test_operators.py.
#include "blocks.h"

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

struct Shape {
    int64_t batch, d, h;
};

using Outputs = std::vector<Numbers>;

// Which outputs a call asks for: bit i is tensor i's gradient, in the order x, W, vectors; forward is the value alone.
constexpr unsigned kForward = 0, kAll = ~0u;

// A tensor's number of values where it is there and needs a gradient, else 0.
size_t needed_size(const Numbers &tensor, unsigned needs, unsigned index) {
    return (needs >> index & 1u) != 0 ? tensor.size() : 0;
}

// A coarse rule, for potentials; every basis counts as smooth.
constexpr double kNodes[] = {0.25, 0.75}, kNodeWeights[] = {0.5, 0.5};
constexpr char kSmooth[64] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
constexpr PotentialRules rules{{2, kNodes, kNodeWeights}, {2, kNodes, kNodeWeights}, kSmooth};

// The points of a quantity and room for their gradients; of a forward pass, room for the quantity itself.
template <class S> struct PointBlocks {
    using T = Sum<S>;
    const Block<S> x, g, v;
    const Block<T> weight;
    const Block<S> dx, dg, dv;
    const Block<T> scalar;

    PointBlocks(Quantity quantity, const Shape &shape, const Numbers &points, const Numbers &cotangents, unsigned needs)
        : x(points), g(needs != kForward && has_vectors(quantity) ? of(quantity, shape, cotangents) : Numbers()),
          v(quantity == Quantity::jvp ? Numbers(cotangents.rbegin(), cotangents.rend()) : Numbers()),
          weight(needs != kForward && has_scalars(quantity) ? first_of_rows(shape, cotangents) : Numbers()),
          dx(needed_size(points, needs, 0)),
          dg(needs == kForward && has_vectors(quantity) ? of(quantity, shape, cotangents).size() : 0),
          dv(quantity == Quantity::jvp ? needed_size(points, needs, 0) : 0),
          scalar(needs == kForward && has_scalars(quantity) ? size_t(shape.batch) : 0) {}

    // Whether the quantity has a number for each row; a vector or a matrix.
    static bool has_scalars(Quantity quantity) {
        return quantity == Quantity::value_and_potential || !has_vectors(quantity);
    }
    static bool has_vectors(Quantity quantity) {
        return quantity != Quantity::potential && quantity != Quantity::divergence;
    }
    static Numbers of(Quantity quantity, const Shape &shape, const Numbers &rows) {
        if (quantity != Quantity::jacobian)
            return rows;
        Numbers matrices;
        for (int64_t r = 0; r < shape.batch; ++r)
            for (int64_t i = 0; i < shape.d * shape.d; ++i)
                matrices.push_back(rows[size_t(r * shape.d + i * i % shape.d)]);
        return matrices;
    }
    static Numbers first_of_rows(const Shape &shape, const Numbers &rows) {
        Numbers first;
        for (int64_t r = 0; r < shape.batch; ++r)
            first.push_back(rows[size_t(r * shape.d)]);
        return first;
    }
    Points<S> arguments() const {
        return {x.data(), g.data(), v.data(), dx.data(), dg.data(), dv.data(), weight.data(), scalar.data()};
    }
    Outputs outputs() const { return {dg.numbers(), scalar.numbers(), dx.numbers(), dv.numbers()}; }
};

struct RidgeCase {
    std::string name;
    Shape shape;
    Quantity quantity;
    int layers;
    std::vector<int> basis;
    int64_t terms;
    Numbers x, g, W, scale, shift, coef, bias;

    static constexpr unsigned outputs = 6;

    // knots: of a spline, which is the basis kSpline.
    RidgeCase(const Shape &s, int l, std::vector<int> b, bool scaled, bool mixed, bool biased,
              Quantity of = Quantity::value, int64_t knots = 0)
        : name(std::string(kQuantityNames[int(of)]) + " of a ridge of " + std::to_string(l) + " layers"), shape(s),
          quantity(of), layers(l), basis(std::move(b)) {
        Random random(uint32_t(s.batch * 31 + s.d * 7 + s.h));
        terms = knots > 0 ? knots : int64_t(basis.size());
        x = random.draw(s.batch * s.d, 1.0);
        g = random.draw(s.batch * s.d, 0.5);
        W = random.draw(s.h * s.d, s.d > 16 ? 0.25 : 0.5);
        scale = random.draw(scaled ? l * s.h : 0, 1.0);
        shift = random.draw(l * s.h, 1.0);
        coef = random.draw(mixed ? l * terms * s.h : 0, 0.5);
        bias = random.draw(biased ? s.d : 0, 1.0);
    }

    template <class S> Outputs run(const InstructionSet &set, unsigned needs, int threads) const {
        return run_by<S>(needs, threads, [&](const Ridge<S> &problem) { return kernels_of<S>(set).ridge(problem); });
    }
    template <class S, class Kernel> Outputs run_by(unsigned needs, int threads, const Kernel &kernel) const {
        using T = Sum<S>;
        const PointBlocks<S> points(quantity, shape, x, g, needs);
        const Block<S> bW(W), dW(needed_size(W, needs, 1));
        const Block<T> bscale(scale), bshift(shift), bcoef(coef), bbias(bias);
        const Block<T> dscale(needed_size(scale, needs, 2)), dshift(needed_size(shift, needs, 3)),
            dcoef(needed_size(coef, needs, 4)), dbias(needed_size(bias, needs, 5));
        Ridge<S> problem{};
        problem.quantity = quantity;
        problem.batch = shape.batch;
        problem.d = shape.d;
        problem.h = shape.h;
        problem.phi = {layers, int(terms), basis.data(), bscale.data(), bshift.data(), bcoef.data()};
        problem.points = points.arguments();
        problem.W = bW.data();
        problem.bias = quantity == Quantity::value ? bbias.data() : nullptr;
        problem.dW = dW.data();
        problem.dscale = dscale.data();
        problem.dshift = dshift.data();
        problem.dcoef = dcoef.data();
        problem.dbias = quantity == Quantity::value ? dbias.data() : nullptr;
        problem.rules = &rules;
        problem.threads = threads;
        if (!kernel(problem))
            fail("no workspace");
        Outputs outputs = points.outputs();
        for (const Numbers &more : {dW.numbers(), dscale.numbers(), dshift.numbers(), dcoef.numbers()})
            outputs.push_back(more);
        if (quantity == Quantity::value)
            outputs.push_back(dbias.numbers());
        return outputs;
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).ridge == kernels_of<S>(b).ridge;
    }
};

// Of images [channels, sizes], which make d of the shape.
struct ConvCase : RidgeCase {
    int64_t channels, sizes[3], filter[3];
    bool circular;

    ConvCase(const RidgeCase &ridge, int64_t c, const int64_t (&n)[3], const int64_t (&k)[3], bool wraps)
        : RidgeCase(ridge), channels(c), sizes{n[0], n[1], n[2]}, filter{k[0], k[1], k[2]}, circular(wraps) {
        name = "convolutional " + name;
        Random random(uint32_t(shape.d));
        W = random.draw(shape.h * channels * filter[0] * filter[1] * filter[2], 0.25);
        bias = random.draw(channels, 1.0);
    }

    template <class S> Outputs run(const InstructionSet &set, unsigned needs, int threads) const {
        return run_by<S>(needs, threads, [&](const Ridge<S> &ridge) {
            Conv<S> problem{
                ridge, channels, {sizes[0], sizes[1], sizes[2]}, {filter[0], filter[1], filter[2]}, circular};
            return kernels_of<S>(set).conv(problem);
        });
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).conv == kernels_of<S>(b).conv;
    }
};

struct ModulesCase {
    std::string name;
    Shape shape;
    Quantity quantity;
    int64_t count;
    int basis, transform;
    Numbers x, g, W, b, temperature, positive, negative, bias;

    static constexpr unsigned outputs = 7;

    ModulesCase(const Shape &s, int64_t m, int basis_number, int transform_number, bool two_signs, bool biased,
                Quantity of = Quantity::value)
        : name(std::string(kQuantityNames[int(of)]) + " of modules of basis " + std::to_string(basis_number) +
               " and transform " + std::to_string(transform_number)),
          shape(s), quantity(of), count(m), basis(basis_number), transform(transform_number) {
        Random random(uint32_t(s.batch * 31 + s.d * 7 + s.h));
        x = random.draw(s.batch * s.d, 1.0);
        g = random.draw(s.batch * s.d, 0.5);
        W = random.draw(m * s.h * s.d, s.d > 16 ? 0.25 : 0.5);
        b = random.draw(m * s.h, 1.0);
        temperature = random.draw(basis == kSoftmax ? m : 0, 1.0);
        positive = random.draw(m, 1.0);
        negative = random.draw(two_signs ? m : 0, 1.0);
        bias = random.draw(biased ? s.d : 0, 1.0);
    }

    template <class S> Outputs run(const InstructionSet &set, unsigned needs, int threads) const {
        using T = Sum<S>;
        const PointBlocks<S> points(quantity, shape, x, g, needs);
        const Block<S> bW(W), dW(needed_size(W, needs, 1));
        const Block<T> bb(b), btemperature(temperature), bpositive(positive), bnegative(negative), bbias(bias);
        const Block<T> db(needed_size(b, needs, 2)), dtemperature(needed_size(temperature, needs, 3)),
            dpositive(needed_size(positive, needs, 4)), dnegative(needed_size(negative, needs, 5)),
            dbias(needed_size(bias, needs, 6));
        Modules<S> problem{};
        problem.quantity = quantity;
        problem.batch = shape.batch;
        problem.d = shape.d;
        problem.h = shape.h;
        problem.count = count;
        problem.basis = basis;
        problem.transform = transform;
        problem.points = points.arguments();
        problem.W = bW.data();
        problem.b = bb.data();
        problem.temperature = btemperature.data();
        problem.positive = bpositive.data();
        problem.negative = bnegative.data();
        problem.bias = quantity == Quantity::value ? bbias.data() : nullptr;
        problem.dW = dW.data();
        problem.db = db.data();
        problem.dtemperature = dtemperature.data();
        problem.dpositive = dpositive.data();
        problem.dnegative = dnegative.data();
        problem.dbias = quantity == Quantity::value ? dbias.data() : nullptr;
        problem.threads = threads;
        if (!kernels_of<S>(set).modules(problem))
            fail("no workspace");
        Outputs outputs = points.outputs();
        for (const Numbers &more :
             {dW.numbers(), db.numbers(), dtemperature.numbers(), dpositive.numbers(), dnegative.numbers()})
            outputs.push_back(more);
        if (quantity == Quantity::value)
            outputs.push_back(dbias.numbers());
        return outputs;
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).modules == kernels_of<S>(b).modules;
    }
};

struct DeepCase {
    std::string name;
    Shape shape;
    Quantity quantity;
    std::vector<int64_t> widths;
    std::vector<int> basis;
    bool input_skip, residual;
    int64_t rank;
    Numbers x, g, theta, bias;

    static constexpr unsigned outputs = 3;

    DeepCase(const Shape &s, std::vector<int64_t> layers, int basis_number, bool skip, int64_t squares, bool residues,
             Quantity of = Quantity::value)
        : name(std::string(kQuantityNames[int(of)]) + " of " + std::to_string(layers.size()) + " layers, rank " +
               std::to_string(squares)),
          shape(s), quantity(of), widths(std::move(layers)), basis(widths.size(), basis_number), input_skip(skip),
          residual(residues), rank(squares) {
        Random random(uint32_t(s.batch * 31 + s.d * 7 + s.h));
        x = random.draw(s.batch * s.d, 1.0);
        g = random.draw(s.batch * s.d, 0.5);
        int64_t count = widths.back(), before = 0;
        for (const int64_t width : widths) {
            count += width * (before + ((before == 0 || skip ? 1 : 0) + rank) * s.d + 1);
            before = width;
        }
        theta = random.draw(count, 1.0 / std::sqrt(double(std::max(s.h, s.d))));
        bias = random.draw(s.d, 1.0);
    }

    template <class S> Outputs run(const InstructionSet &set, unsigned needs, int threads) const {
        using T = Sum<S>;
        const PointBlocks<S> points(quantity, shape, x, g, needs);
        const Block<S> btheta(theta), dtheta(needed_size(theta, needs, 1));
        const Block<T> bbias(bias), dbias(needed_size(bias, needs, 2));
        Deep<S> problem{};
        problem.quantity = quantity;
        problem.batch = shape.batch;
        problem.d = shape.d;
        problem.layers = int(widths.size());
        problem.widths = widths.data();
        problem.basis = basis.data();
        problem.input_skip = input_skip;
        problem.residual = residual;
        problem.rank = rank;
        problem.points = points.arguments();
        problem.theta = btheta.data();
        problem.bias = quantity == Quantity::value ? bbias.data() : nullptr;
        problem.dtheta = dtheta.data();
        problem.dbias = quantity == Quantity::value ? dbias.data() : nullptr;
        problem.threads = threads;
        if (!kernels_of<S>(set).deep(problem))
            fail("no workspace");
        Outputs outputs = points.outputs();
        outputs.push_back(dtheta.numbers());
        if (quantity == Quantity::value)
            outputs.push_back(dbias.numbers());
        return outputs;
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).deep == kernels_of<S>(b).deep;
    }
};

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
        check_outputs(RidgeCase(shape, 1, {kSpline}, true, true, false, quantity, 21), false);
        check_outputs(ModulesCase(shape, 2, kSoftmax, 0, false, false, quantity), false);
        check_outputs(ModulesCase(shape, 3, kSoftmax, 0, true, false, quantity), false);
        check_outputs(ModulesCase(shape, 2, tanh, number_of(transforms, "logcosh"), false, false, quantity), false);
        check_outputs(DeepCase(shape, {shape.h, 3}, tanh, false, 0, false, quantity), false);
        check_outputs(DeepCase(shape, {19, 19, 19}, softplus, true, 2, true, quantity), false);
    }
    const Quantity both = Quantity::value_and_potential;
    check_outputs(ModulesCase(shape, 2, kSoftmax, 0, true, false, both), false);
    check_outputs(ModulesCase(shape, 2, tanh, number_of(transforms, "softplus"), false, false, both), false);
    check_outputs(DeepCase(shape, {shape.h, shape.h}, tanh, true, 1, true, both), false);
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
    check_every_function();
    for (const InstructionSet *set : sets) {
        check_basis(set->evaluate_f32, set->basis.count);
        check_basis(set->evaluate_f64, set->basis.count);
    }
    std::printf("%lld kernel calls for %s: clean\n", static_cast<long long>(calls), names.c_str());
    return 0;
}
