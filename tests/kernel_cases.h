// Calls of kernels with arguments of every kind, in blocks of memory of their exact size: what sanitize.cpp checks.
#pragma once

#include "blocks.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace gradnets::blocks {

struct Shape {
    int64_t batch, d, h;
};

using Outputs = std::vector<Numbers>;

// Which outputs a call asks for: bit i is tensor i's gradient, in the order x, W, vectors; forward is the value alone.
constexpr unsigned kForward = 0, kAll = ~0u;

// A tensor's number of values where it is there and needs a gradient, else 0.
inline size_t needed_size(const Numbers &tensor, unsigned needs, unsigned index) {
    return (needs >> index & 1u) != 0 ? tensor.size() : 0;
}

// Coarse rules, for potentials.
constexpr double kNodes[] = {0.25, 0.75}, kNodeWeights[] = {0.5, 0.5};
template <class T> constexpr T kPoints[] = {0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875, 0.8125, 0.9375};
template <class T> constexpr T kSixths[] = {0.25, 0.125, 0.125, 0.125, 0.125, 0.25, 0, 0};
template <class T> constexpr T kEighths[] = {0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125};
template <class T>
constexpr NodeRule<T> kRules[] = {{0.5, 6, kPoints<T>, kSixths<T>}, {1.0, 8, kPoints<T>, kEighths<T>}};
template <class T> constexpr PotentialRules<T> rules{{2, kNodes, kNodeWeights}, 2, kRules<T>};

// The points of a quantity and room for their gradients; of a forward pass, room for the quantity itself.
template <class S> struct PointBlocks {
    using T = Sum<S>;
    const Block<S> x, g, v;
    const Block<T> weight;
    const Block<S> dx, dg, dv;
    const Block<T> scalar;

    PointBlocks(Quantity quantity, const Shape &shape, const Numbers &points, const Numbers &cotangents, unsigned needs)
        : x(points),
          g((needs != kForward || is_error(quantity)) && has_vectors(quantity) ? of(quantity, shape, cotangents)
                                                                               : Numbers()),
          v(quantity == Quantity::jvp ? Numbers(cotangents.rbegin(), cotangents.rend()) : Numbers()),
          weight(needs != kForward && has_scalars(quantity) ? first_of_rows(shape, cotangents) : Numbers()),
          dx(needed_size(points, needs, 0)),
          dg((needs == kForward || is_error(quantity)) && has_vectors(quantity) ? of(quantity, shape, cotangents).size()
                                                                                : 0),
          dv(quantity == Quantity::jvp ? needed_size(points, needs, 0) : 0),
          scalar(is_error(quantity)                           ? 1
                 : needs == kForward && has_scalars(quantity) ? size_t(shape.batch)
                                                              : 0) {}

    // Whose one pass is forward and backward.
    static bool is_error(Quantity quantity) { return quantity == Quantity::squared_error; }

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
    bool heads = false;
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

    RidgeCase of_heads() const {
        RidgeCase copy = *this;
        copy.heads = true;
        copy.name += " in parallel";
        return copy;
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
        problem.phi = {layers, int(terms), heads, basis.data(), bscale.data(), bshift.data(), bcoef.data()};
        problem.points = points.arguments();
        problem.W = bW.data();
        problem.bias = quantity == Quantity::value ? bbias.data() : nullptr;
        problem.dW = dW.data();
        problem.dscale = dscale.data();
        problem.dshift = dshift.data();
        problem.dcoef = dcoef.data();
        problem.dbias = quantity == Quantity::value ? dbias.data() : nullptr;
        problem.rules = &rules<T>;
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

// y = K∗x; its gradients in x, which is Kᵀg, and in K.
struct LinearConvCase : ConvCase {
    static constexpr unsigned outputs = 2;

    explicit LinearConvCase(const ConvCase &convolution) : ConvCase(convolution) {
        name = "linear " + name;
        Random random(uint32_t(shape.d + shape.h));
        g = random.draw(shape.batch * shape.d / channels * shape.h, 0.5);
    }

    template <class S> Outputs run(const InstructionSet &set, unsigned needs, int threads) const {
        const Block<S> bx(x), bg(g), bK(W), y(needs == kForward ? g.size() : 0), dx(needed_size(x, needs, 0)),
            dK(needed_size(W, needs, 1));
        const auto call = [&](Linear which, const Block<S> &result) {
            if (result.data() == nullptr)
                return;
            LinearConv<S> problem{which,
                                  shape.batch,
                                  channels,
                                  shape.h,
                                  {sizes[0], sizes[1], sizes[2]},
                                  {filter[0], filter[1], filter[2]},
                                  circular,
                                  bx.data(),
                                  bg.data(),
                                  bK.data(),
                                  result.data(),
                                  threads};
            if (!kernels_of<S>(set).linear_conv(problem))
                fail("no workspace");
        };
        call(Linear::convolved, y);
        call(Linear::adjoint, dx);
        call(Linear::filters, dK);
        return {y.numbers(), dx.numbers(), dK.numbers()};
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).linear_conv == kernels_of<S>(b).linear_conv;
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

// log det A, and weight·A⁻¹ in place of a gradient, of A = GGᵀ/d + I.
struct CholeskyCase {
    static constexpr unsigned outputs = 1;

    std::string name = "Cholesky";
    Shape shape;
    Quantity quantity = Quantity::value;
    Numbers A;

    CholeskyCase(int64_t batch, int64_t d) : shape{batch, d, d} {
        Random random(uint32_t(batch * 31 + d));
        const Numbers G = random.draw(batch * d * d, 1.0);
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t i = 0; i < d; ++i)
                for (int64_t j = 0; j < d; ++j) {
                    double sum = i == j ? double(d) : 0.0;
                    for (int64_t k = 0; k < d; ++k)
                        sum += G[size_t((b * d + i) * d + k)] * G[size_t((b * d + j) * d + k)];
                    A.push_back(sum / double(d));
                }
    }

    template <class S> Outputs run(const InstructionSet &set, unsigned needs, int threads) const {
        using T = Sum<S>;
        const Block<T> bA(A), weight(needs == kForward ? Numbers() : Numbers(A.begin(), A.begin() + shape.batch)),
            logdet(size_t(shape.batch)), inverse(needs == kForward ? 0 : A.size());
        const Cholesky<T> problem{shape.batch,   shape.d,        bA.data(), weight.data(),
                                  logdet.data(), inverse.data(), threads};
        if (!kernels_of<S>(set).cholesky(problem))
            fail("no workspace");
        return {logdet.numbers(), inverse.numbers()};
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).cholesky == kernels_of<S>(b).cholesky;
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
    bool keeps = false;
    Numbers x, g, theta, bias;

    static constexpr unsigned outputs = 3;

    // With memory for what f leaves for its gradients; these find numbers there that f has not left.
    DeepCase keeping() const {
        DeepCase same = *this;
        same.name += ", kept";
        same.keeps = true;
        return same;
    }

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
        int64_t hidden = 0;
        for (const int64_t width : widths)
            hidden += width;
        const Block<T> kept(Numbers(keeps ? size_t(2 * shape.batch * hidden) : 0, 0.25));
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
        const bool biased = quantity == Quantity::value || quantity == Quantity::squared_error;
        problem.bias = biased ? bbias.data() : nullptr;
        problem.dtheta = dtheta.data();
        problem.dbias = biased ? dbias.data() : nullptr;
        problem.kept = kept.data();
        problem.threads = threads;
        if (!kernels_of<S>(set).deep(problem))
            fail("no workspace");
        Outputs outputs = points.outputs();
        outputs.push_back(dtheta.numbers());
        if (biased)
            outputs.push_back(dbias.numbers());
        return outputs;
    }
    template <class S> static bool same_kernel(const InstructionSet &a, const InstructionSet &b) {
        return kernels_of<S>(a).deep == kernels_of<S>(b).deep;
    }
};

} // namespace gradnets::blocks
