// Tensors to problems: what the entries in bindings.cpp share.
#pragma once

#include "tensor_argument.h"

#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace gradnets {

// Below this many multiplications the work is done before another thread could have taken the lock.
constexpr int64_t kKeepGil = 100000;

template <class Kernel, class Problem> void call(const Kernel &kernel, const Problem &problem, int64_t work) {
    bool ok;
    if (work < kKeepGil) {
        ok = kernel(problem);
    } else {
        pybind11::gil_scoped_release release;
        ok = kernel(problem);
    }
    if (!ok)
        throw std::bad_alloc();
}

// Calls body(S()) for the type S that values of a dtype are stored as; false where no kernel reads the dtype.
template <class F> bool with_storage(Dtype dtype, const F &body) {
    switch (dtype) {
    case Dtype::f32:
        body(float());
        return true;
    case Dtype::f64:
        body(double());
        return true;
    case Dtype::bf16:
        body(Bf16());
        return true;
    case Dtype::f16:
        body(Half());
        return true;
    default:
        return false;
    }
}

inline Quantity quantity_of(const std::string &name) {
    for (int i = 0; i < kQuantities; ++i)
        if (name == kQuantityNames[i])
            return Quantity(i);
    throw std::invalid_argument("quantity: expected value, jvp, potential, divergence, jacobian, value_and_potential "
                                "or squared_error, got " +
                                name);
}

// Whether a kernel takes the bias: that of f, and what is made of f.
inline bool takes_bias(Quantity quantity) {
    return quantity == Quantity::value || quantity == Quantity::squared_error;
}

inline TensorArgument item(const pybind11::tuple &tensors, Py_ssize_t index) {
    return TensorArgument(PyTuple_GET_ITEM(tensors.ptr(), index));
}

// The points (x, g, v, weight) and the results (dx, dg, dv, scalar).  x, g, v and their gradients: (…, d), of one
// dtype; for Quantity::jacobian g and dg are (…, d, d).  weight, scalar: one number for each row, in the dtype of sums.
struct PointTensors {
    static constexpr size_t count = 4; // of points, and of results

    TensorArgument x, g, v, weight, dx, dg, dv, scalar;

    PointTensors(const pybind11::tuple &points, const pybind11::tuple &results)
        : x(item(points, 0)), g(item(points, 1)), v(item(points, 2)), weight(item(points, 3)), dx(item(results, 0)),
          dg(item(results, 1)), dv(item(results, 2)), scalar(item(results, 3)) {}

    Dtype dtype() const { return x.dtype(); }
    Dtype sum_dtype() const { return dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

    bool fit(Quantity quantity) const {
        if (!x.present() || x.dimensions() < 1 || x.count() == 0)
            return false;
        const int more = quantity == Quantity::jacobian;
        return points(x, 0) && points(g, more) && points(v, 0) && points(dx, 0) && points(dg, more) && points(dv, 0) &&
               one_a_row(weight) && complete(quantity) &&
               (quantity == Quantity::squared_error ? scalar.regular() && scalar.is(sum_dtype(), 1)
                                                    : one_a_row(scalar));
    }

    template <class S> Points<S> as() const {
        Points<S> points;
        points.x = x.data<S>();
        points.g = g.data<S>();
        points.v = v.data<S>();
        points.dx = dx.data<S>();
        points.dg = dg.data<S>();
        points.dv = dv.data<S>();
        points.weight = weight.data<Sum<S>>();
        points.scalar = scalar.data<Sum<S>>();
        return points;
    }

  private:
    // Whether t is absent or of x's shape, with `more` dimensions of d values after it.
    bool points(const TensorArgument &t, int more) const {
        const int64_t d = x.size(0);
        return t.regular() &&
               (!t.present() || (t.dtype() == dtype() && t.dimensions() == x.dimensions() + more && t.size(0) == d &&
                                 t.size(more) == d && t.count() == (more ? x.count() * d : x.count())));
    }
    bool one_a_row(const TensorArgument &t) const {
        return t.regular() && (!t.present() || (t.dtype() == sum_dtype() && t.count() * x.size(0) == x.count()));
    }
    // Whether exactly the arguments of a forward pass are there, or those of a backward pass; the jvp has only the
    // latter, and the squared error both.
    bool complete(Quantity quantity) const {
        if (quantity == Quantity::squared_error)
            return g.present() && dg.present() && scalar.present() && !v.present() && !dv.present() &&
                   !weight.present() && dtype() == sum_dtype();
        const bool numbers = quantity == Quantity::potential || quantity == Quantity::divergence ||
                             quantity == Quantity::value_and_potential;
        const bool vectors = quantity != Quantity::potential && quantity != Quantity::divergence;
        const bool backward = vectors ? g.present() : weight.present();
        if (v.present() != (quantity == Quantity::jvp) || dv.present() > v.present())
            return false;
        if (backward)
            return g.present() == vectors && weight.present() == numbers && !dg.present() && !scalar.present();
        return !g.present() && !weight.present() && !dx.present() && dg.present() == vectors &&
               scalar.present() == numbers && quantity != Quantity::jvp;
    }
};

// The rules for potentials; Python hands them over once.
template <class T> struct StoredRules {
    std::vector<double> single[2];
    std::vector<std::vector<T>> numbers;
    std::vector<NodeRule<T>> rules;
    PotentialRules<T> given;
};

template <class T> inline StoredRules<T> &stored_rules() {
    static StoredRules<T> stored;
    return stored;
}

// How far a rule reaches, its nodes and its weights.
using GivenRule = std::tuple<double, std::vector<double>, std::vector<double>>;

template <class T>
inline void set_rules(const std::vector<double> &nodes, const std::vector<double> &weights,
                      const std::vector<GivenRule> &rules) {
    if (rules.empty() || rules.size() > size_t(kMostRules))
        throw std::invalid_argument("set_potential_rules: expected 1 to 16 rules, got " + std::to_string(rules.size()));
    StoredRules<T> &s = stored_rules<T>();
    s = {{nodes, weights}, {}, {}, {}};
    for (const auto &[reach, at, weight] : rules) {
        for (const std::vector<double> *part : {&at, &weight}) {
            s.numbers.emplace_back(part->begin(), part->end());
            s.numbers.back().resize((part->size() + 3) / 4 * 4);
        }
        s.rules.push_back({T(reach), int(at.size()), s.numbers.end()[-2].data(), s.numbers.back().data()});
    }
    s.given = {{int(nodes.size()), s.single[0].data(), s.single[1].data()}, int(rules.size()), s.rules.data()};
}

inline void set_potential_rules(const std::vector<double> &nodes, const std::vector<double> &weights,
                                const std::vector<GivenRule> &in_single, const std::vector<GivenRule> &in_double) {
    set_rules<float>(nodes, weights, in_single);
    set_rules<double>(nodes, weights, in_double);
}

// The ridge family's parameters or their gradients: W (h, d), scale (L, h), shift (L, h) or, for one layer, (h,), coef
// (L, K, h), bias (d,).  Of the parameters W and shift must be there, of the gradients none.
struct RidgeTensors {
    static constexpr size_t count = 5;

    TensorArgument W, scale, shift, coef, bias;

    explicit RidgeTensors(const pybind11::tuple &t)
        : W(item(t, 0)), scale(item(t, 1)), shift(item(t, 2)), coef(item(t, 3)), bias(item(t, 4)) {}

    bool fit(const PointTensors &points, int64_t h, int64_t d, int64_t layers, int64_t terms) const {
        return W.regular() && W.absent_or(points.dtype(), h, d) && vectors_fit(points, h, layers, terms) &&
               bias.absent_or(points.sum_dtype(), d);
    }
    // The coefficients of a unit in a layer: of each basis function one, or the values at a spline's knots; 0 if there
    // is no such network.
    int64_t terms(const std::vector<int> &basis) const {
        if (basis.size() != 1 || basis[0] != kSpline)
            return int64_t(basis.size());
        const bool one_layer = shift.dimensions() == 1 || shift.size(1) == 1;
        return one_layer && coef.dimensions() == 3 && coef.size(1) > 1 ? coef.size(1) : 0;
    }
    // Those of one value for each hidden unit.
    bool vectors_fit(const PointTensors &points, int64_t h, int64_t layers, int64_t terms) const {
        const Dtype sums = points.sum_dtype();
        const bool coef_fits =
            !coef.present() || (coef.dtype() == sums && coef.dimensions() == 3 && coef.count() == layers * terms * h &&
                                coef.size(0) == h && coef.size(1) == terms);
        const bool shift_fits = shift.absent_or(sums, layers, h) || (layers == 1 && shift.is(sums, h));
        return scale.regular() && shift.regular() && coef.regular() && bias.regular() &&
               scale.absent_or(sums, layers, h) && shift_fits && coef_fits;
    }
};

// What the ridge family and its convolutions share; the batch and d are left to the caller.
template <class S>
Ridge<S> ridge_problem(Quantity quantity, const std::vector<int> &basis, bool heads, const PointTensors &at,
                       const RidgeTensors &given, const RidgeTensors &needed, int64_t h, int64_t layers, int64_t terms,
                       int threads) {
    using T = Sum<S>;
    Ridge<S> problem{};
    problem.quantity = quantity;
    problem.h = h;
    problem.phi.layers = int(layers);
    problem.phi.terms = int(terms);
    problem.phi.heads = heads;
    problem.phi.basis = basis.data();
    problem.phi.scale = given.scale.data<T>();
    problem.phi.shift = given.shift.data<T>();
    problem.phi.coef = given.coef.data<T>();
    problem.points = at.as<S>();
    problem.W = given.W.data<S>();
    problem.bias = given.bias.data<T>();
    problem.dW = needed.W.data<S>();
    problem.dscale = needed.scale.data<T>();
    problem.dshift = needed.shift.data<T>();
    problem.dcoef = needed.coef.data<T>();
    problem.dbias = needed.bias.data<T>();
    problem.rules = &stored_rules<T>().given;
    problem.threads = threads;
    return problem;
}

} // namespace gradnets
