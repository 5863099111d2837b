// gradnets_fast._C: the kernels for tensors.  A kernel that the arguments do not fit (strides, dtypes, shapes) answers
// False and has done nothing; Python's checks then say what is wrong, or mend it.
#include "driver.h"
#include "problems.h"
#include "runtime.h"
#include "step.h"
#include "threads.h"

#include <pybind11/stl.h>

#include <cstdlib>
#include <string>

namespace py = pybind11;
using namespace gradnets;

namespace {

template <class S, class Problem>
void call_family(bool (*kernel)(const Problem &), const Problem &problem, int64_t work) {
    call([kernel](const Problem &p) { return run_family<S>(kernel, p); }, problem, work);
}

// quantity: see common.h.  basis: the numbers of the cascade's basis functions.  heads: see common.h.  threads: at most
// so many.
bool ridge(const std::string &quantity_name, const std::vector<int> &basis, bool heads, const py::tuple &points,
           const py::tuple &parameters, const py::tuple &results, const py::tuple &gradients, int threads) {
    const Quantity quantity = quantity_of(quantity_name);
    if (points.size() != PointTensors::count || results.size() != PointTensors::count ||
        parameters.size() != RidgeTensors::count || gradients.size() != RidgeTensors::count)
        return false;
    const PointTensors at(points, results);
    const RidgeTensors given(parameters), needed(gradients);
    if (!at.fit(quantity) || quantity == Quantity::value_and_potential || !given.W.regular() ||
        given.W.dimensions() != 2 || given.shift.dimensions() < 1)
        return false;
    const int64_t h = given.W.size(1), d = given.W.size(0), terms = given.terms(basis);
    const int64_t layers = given.shift.dimensions() == 2 ? given.shift.size(1) : 1;
    if (at.x.size(0) != d || h == 0 || layers == 0 || terms == 0 || (!given.coef.present() && terms != 1) ||
        (given.bias.present() && !takes_bias(quantity)) || !given.fit(at, h, d, layers, terms) ||
        !needed.fit(at, h, d, layers, terms))
        return false;
    return with_storage(at.dtype(), [&](auto storage) {
        using S = decltype(storage);
        Ridge<S> problem = ridge_problem<S>(quantity, basis, heads, at, given, needed, h, layers, terms, threads);
        problem.batch = at.x.count() / d;
        problem.d = d;
        call_family<S>(kernels_of<S>(active_instruction_set()).ridge, problem, problem.batch * d * h);
    });
}

// Three axes of an image or a filter from the last `count` of sizes: (1, 1, n), (n, 1, m) or (l, n, m).
void three_axes(const int64_t *sizes, size_t count, int64_t (&to)[3]) {
    to[0] = count > 1 ? sizes[0] : 1;
    to[1] = count > 2 ? sizes[1] : 1;
    to[2] = sizes[count - 1];
}

// The ridge family with convolutions: parameters and gradients (K, scale, shift, coef, bias), K (C, C_in, k_1 … k_s),
// for points (…, d) that are images of `shape`, (C_in, n_1 … n_s).
bool conv_ridge(const std::string &quantity_name, const std::vector<int> &basis, bool heads,
                const std::vector<int64_t> &shape, bool circular, const py::tuple &points, const py::tuple &parameters,
                const py::tuple &results, const py::tuple &gradients, int threads) {
    const Quantity quantity = quantity_of(quantity_name);
    if (points.size() != PointTensors::count || results.size() != PointTensors::count ||
        parameters.size() != RidgeTensors::count || gradients.size() != RidgeTensors::count || shape.size() < 2 ||
        shape.size() > 4)
        return false;
    const PointTensors at(points, results);
    const RidgeTensors given(parameters), needed(gradients);
    const int axes = int(shape.size()) - 1;
    if (!at.fit(quantity) || quantity == Quantity::value_and_potential || quantity == Quantity::jacobian ||
        quantity == Quantity::squared_error || !given.W.regular() || given.W.dimensions() != axes + 2 ||
        given.W.dtype() != at.dtype() || given.shift.dimensions() < 1)
        return false;
    int64_t d = 1, taps = 1, filter[3] = {};
    for (const int64_t size : shape)
        d *= size;
    for (int i = 0; i < axes; ++i) {
        filter[i] = given.W.size(axes - 1 - i);
        taps *= filter[i];
    }
    const int64_t h = given.W.size(axes + 1), channels = given.W.size(axes), terms = given.terms(basis);
    const int64_t layers = given.shift.dimensions() == 2 ? given.shift.size(1) : 1;
    if (at.x.size(0) != d || channels != shape[0] || h == 0 || taps == 0 || layers == 0 || terms == 0 ||
        (given.bias.present() && !takes_bias(quantity)) || !given.bias.regular() || !needed.bias.regular() ||
        !given.bias.absent_or(at.sum_dtype(), channels) || !needed.bias.absent_or(at.sum_dtype(), channels) ||
        (!given.coef.present() && terms != 1) || !given.vectors_fit(at, h, layers, terms) ||
        !needed.vectors_fit(at, h, layers, terms) || !needed.W.regular() ||
        (needed.W.present() && (needed.W.dtype() != at.dtype() || needed.W.count() != given.W.count())))
        return false;
    for (int i = 0; circular && i < axes; ++i)
        if (filter[i] > shape[size_t(i) + 1])
            return false;
    return with_storage(at.dtype(), [&](auto storage) {
        using S = decltype(storage);
        Conv<S> problem{};
        problem.ridge = ridge_problem<S>(quantity, basis, heads, at, given, needed, h, layers, terms, threads);
        problem.ridge.batch = at.x.count() / d;
        problem.ridge.d = d;
        problem.channels = channels;
        three_axes(shape.data() + 1, size_t(axes), problem.sizes);
        three_axes(filter, size_t(axes), problem.filter);
        problem.circular = circular;
        call(kernels_of<S>(active_instruction_set()).conv, problem, at.x.count() * h * taps);
    });
}

// logdet (B,) and, if it is there, inverse (B, d, d), times weight (B,) if that is there, of symmetric A (B, d, d).
bool cholesky(py::handle A_, py::handle weight_, py::handle logdet_, py::handle inverse_, int threads) {
    const TensorArgument A(A_), weight(weight_), logdet(logdet_), inverse(inverse_);
    if (!A.present() || !A.regular() || A.dimensions() != 3 || A.count() == 0 || A.size(0) != A.size(1) ||
        !logdet.present() || !logdet.regular() || logdet.dtype() != A.dtype() || logdet.count() != A.size(2) ||
        !inverse.regular() || (inverse.present() && (inverse.dtype() != A.dtype() || inverse.count() != A.count())))
        return false;
    const auto run = [&](auto number) {
        using T = decltype(number);
        const Cholesky<T> problem{A.size(2),        A.size(0),         A.data<T>(), weight.data<T>(),
                                  logdet.data<T>(), inverse.data<T>(), threads};
        call(kernels_of<T>(active_instruction_set()).cholesky, problem, A.count() * A.size(0));
        return true;
    };
    return A.dtype() == Dtype::f32 ? run(float()) : A.dtype() == Dtype::f64 && run(double());
}

// One of x (B, C_in, n_1 … n_s), y (B, C, n_1 … n_s) and K (C, C_in, k_1 … k_s) from the other two; `which` as in
// common.h.
bool linear_conv(const std::string &which, py::handle x_, py::handle y_, py::handle K_, bool circular, int threads) {
    const TensorArgument x(x_), y(y_), K(K_);
    const int axes = x.dimensions() - 2;
    if (!x.present() || !y.present() || !K.present() || !x.regular() || !y.regular() || !K.regular() || axes < 1 ||
        axes > 3 || y.dimensions() != axes + 2 || K.dimensions() != axes + 2 || y.dtype() != x.dtype() ||
        K.dtype() != x.dtype() || x.count() * y.count() * K.count() == 0 || x.size(axes + 1) != y.size(axes + 1) ||
        x.size(axes) != K.size(axes) || y.size(axes) != K.size(axes + 1))
        return false;
    int64_t sizes[3] = {}, filter[3] = {};
    for (int i = 0; i < axes; ++i) {
        sizes[i] = x.size(axes - 1 - i);
        filter[i] = K.size(axes - 1 - i);
        if (sizes[i] != y.size(axes - 1 - i) || (circular && filter[i] > sizes[i]))
            return false;
    }
    return with_storage(x.dtype(), [&](auto storage) {
        using S = decltype(storage);
        LinearConv<S> problem{};
        problem.which = which == "convolved" ? Linear::convolved
                        : which == "adjoint" ? Linear::adjoint
                                             : Linear::filters;
        problem.batch = x.size(axes + 1);
        problem.channels = x.size(axes);
        problem.filters = y.size(axes);
        three_axes(sizes, size_t(axes), problem.sizes);
        three_axes(filter, size_t(axes), problem.filter);
        problem.circular = circular;
        problem.x = x.data<S>();
        problem.y = y.data<S>();
        problem.K = K.data<S>();
        const TensorArgument &result = problem.which == Linear::convolved ? y
                                       : problem.which == Linear::adjoint ? x
                                                                          : K;
        problem.result = result.data<S>();
        problem.threads = threads;
        call(kernels_of<S>(active_instruction_set()).linear_conv, problem, x.count() * K.count() / x.size(axes));
    });
}

// The parameters of modules or their gradients: W (M, h, d), b (M, h), temperature, positive and negative (M,), bias
// (d,).  A transformed module has no temperature, its weight is `positive`, and it has no `negative`.
struct ModuleTensors {
    TensorArgument W, b, temperature, positive, negative, bias;

    bool fit(const PointTensors &points, int64_t count, int64_t h, int64_t d) const {
        const Dtype sums = points.sum_dtype();
        const bool W_fits = !W.present() || (W.dtype() == points.dtype() && W.dimensions() == 3 &&
                                             W.count() == count * h * d && W.size(0) == d && W.size(1) == h);
        return W.regular() && b.regular() && temperature.regular() && positive.regular() && negative.regular() &&
               bias.regular() && W_fits && b.absent_or(sums, count, h) && temperature.absent_or(sums, count) &&
               positive.absent_or(sums, count) && negative.absent_or(sums, count) && bias.absent_or(sums, d);
    }
};

constexpr size_t kSoftmaxTensors = 6, kTransformedTensors = 4;

ModuleTensors softmax_tensors(const py::tuple &t) {
    return {item(t, 0), item(t, 1), item(t, 2), item(t, 3), item(t, 4), item(t, 5)};
}

ModuleTensors transformed_tensors(const py::tuple &t) {
    const TensorArgument none{py::none()};
    return {item(t, 0), item(t, 1), none, item(t, 2), none, item(t, 3)};
}

bool modules(Quantity quantity, int basis, int transform, const PointTensors &at, const ModuleTensors &given,
             const ModuleTensors &needed, int threads) {
    if (!at.fit(quantity) || !given.W.regular() || given.W.dimensions() != 3 || given.W.count() == 0)
        return false;
    const int64_t count = given.W.size(2), h = given.W.size(1), d = given.W.size(0);
    if (at.x.size(0) != d || !given.b.present() || !given.positive.present() ||
        given.temperature.present() != (basis == kSoftmax) || (given.bias.present() && !takes_bias(quantity)) ||
        !given.fit(at, count, h, d) || !needed.fit(at, count, h, d))
        return false;
    return with_storage(at.dtype(), [&](auto storage) {
        using S = decltype(storage);
        using T = Sum<S>;
        Modules<S> problem{};
        problem.quantity = quantity;
        problem.batch = at.x.count() / d;
        problem.d = d;
        problem.h = h;
        problem.count = count;
        problem.basis = basis;
        problem.transform = transform;
        problem.points = at.as<S>();
        problem.W = given.W.data<S>();
        problem.b = given.b.data<T>();
        problem.temperature = given.temperature.data<T>();
        problem.positive = given.positive.data<T>();
        problem.negative = given.negative.data<T>();
        problem.bias = given.bias.data<T>();
        problem.dW = needed.W.data<S>();
        problem.db = needed.b.data<T>();
        problem.dtemperature = needed.temperature.data<T>();
        problem.dpositive = needed.positive.data<T>();
        problem.dnegative = needed.negative.data<T>();
        problem.dbias = needed.bias.data<T>();
        problem.threads = threads;
        call_family<S>(kernels_of<S>(active_instruction_set()).modules, problem, problem.batch * d * h * count);
    });
}

// Parameters and gradients: (W, b, temperature, positive, negative, bias); the last two may be None.
bool softmax_modules(const std::string &quantity, const py::tuple &points, const py::tuple &parameters,
                     const py::tuple &results, const py::tuple &gradients, int threads) {
    if (points.size() != PointTensors::count || results.size() != PointTensors::count ||
        parameters.size() != kSoftmaxTensors || gradients.size() != kSoftmaxTensors)
        return false;
    return modules(quantity_of(quantity), kSoftmax, 0, {points, results}, softmax_tensors(parameters),
                   softmax_tensors(gradients), threads);
}

// Parameters and gradients: (W, b, weight, bias); bias may be None.
bool transformed_modules(const std::string &quantity, int basis, int transform, const py::tuple &points,
                         const py::tuple &parameters, const py::tuple &results, const py::tuple &gradients,
                         int threads) {
    const InstructionSet &set = active_instruction_set();
    if (basis < 0 || basis >= set.basis.count || transform < 0 || transform >= set.transforms.count ||
        points.size() != PointTensors::count || results.size() != PointTensors::count ||
        parameters.size() != kTransformedTensors || gradients.size() != kTransformedTensors)
        return false;
    return modules(quantity_of(quantity), basis, transform, {points, results}, transformed_tensors(parameters),
                   transformed_tensors(gradients), threads);
}

// How many values a deep network's parameters have: those that `Deep` lists.
int64_t deep_parameters(int64_t d, const std::vector<int64_t> &widths, bool input_skip, int64_t rank) {
    int64_t count = 0, before = 0;
    for (const int64_t width : widths) {
        count += width * (before + ((before == 0 || input_skip ? 1 : 0) + rank) * d + 1);
        before = width;
    }
    return count + before;
}

// Parameters and gradients: (theta, bias); bias may be None.  kept: None, or (batch, 2 Σ widths), which f at x is to
// leave for its backward pass.
bool deep(const std::string &quantity_name, const std::vector<int> &basis, const std::vector<int64_t> &widths,
          bool input_skip, int64_t rank, bool residual, const py::tuple &points, const py::tuple &parameters,
          const py::tuple &results, const py::tuple &gradients, int threads, py::handle kept_) {
    const Quantity quantity = quantity_of(quantity_name);
    if (points.size() != PointTensors::count || results.size() != PointTensors::count || parameters.size() != 2 ||
        gradients.size() != 2 || widths.empty() || basis.size() != widths.size())
        return false;
    const PointTensors at(points, results);
    const TensorArgument theta = item(parameters, 0), bias = item(parameters, 1), dtheta = item(gradients, 0),
                         dbias = item(gradients, 1), kept(kept_);
    if (!at.fit(quantity) || !theta.present())
        return false;
    const int64_t d = at.x.size(0), count = deep_parameters(d, widths, input_skip, rank);
    const bool fit = theta.regular() && dtheta.regular() && bias.regular() && dbias.regular() &&
                     theta.is(at.dtype(), count) && dtheta.absent_or(at.dtype(), count) &&
                     bias.absent_or(at.sum_dtype(), d) && dbias.absent_or(at.sum_dtype(), d);
    if (!fit || (bias.present() && !takes_bias(quantity)))
        return false;
    int64_t hidden = 0;
    for (const int64_t width : widths)
        hidden += width;
    const bool can_keep =
        (quantity == Quantity::value || quantity == Quantity::value_and_potential) && at.g.present() != at.dg.present();
    if (kept.present() && (!can_keep || !kept.regular() || !kept.is(at.sum_dtype(), at.x.count() / d, 2 * hidden)))
        return false;
    return with_storage(at.dtype(), [&](auto storage) {
        using S = decltype(storage);
        using T = Sum<S>;
        Deep<S> problem{};
        problem.quantity = quantity;
        problem.batch = at.x.count() / d;
        problem.d = d;
        problem.layers = int(widths.size());
        problem.widths = widths.data();
        problem.basis = basis.data();
        problem.input_skip = input_skip;
        problem.residual = residual;
        problem.rank = rank;
        problem.points = at.as<S>();
        problem.theta = theta.data<S>();
        problem.bias = bias.data<T>();
        problem.dtheta = dtheta.data<S>();
        problem.dbias = dbias.data<T>();
        problem.kept = kept.data<T>();
        problem.threads = threads;
        call_family<S>(kernels_of<S>(active_instruction_set()).deep, problem, problem.batch * count);
    });
}

// The step-th update of parameters (n,) with gradient g and its running means m and v.
bool adam_step(py::handle parameters_, py::handle g_, py::handle m_, py::handle v_, int64_t step, double rate,
               double beta1, double beta2, double epsilon, int threads) {
    const TensorArgument parameters(parameters_), g(g_), m(m_), v(v_);
    for (const TensorArgument *one : {&parameters, &g, &m, &v})
        if (!one->present() || !one->regular() || !one->is(parameters.dtype(), parameters.count()))
            return false;
    const auto run = [&](auto number) {
        using T = decltype(number);
        adam(g.count(), parameters.data<T>(), g.data<T>(), m.data<T>(), v.data<T>(), step, rate, beta1, beta2, epsilon,
             threads);
        return true;
    };
    return parameters.dtype() == Dtype::f32 ? run(float()) : parameters.dtype() == Dtype::f64 && run(double());
}

template <class T>
void evaluate(Evaluate<T> evaluator, int function, int which, int64_t count, uintptr_t x, uintptr_t out) {
    evaluator(function, which, count, reinterpret_cast<const T *>(x), reinterpret_cast<T *>(out));
}

std::vector<std::string> strings(const Names &names) {
    return {names.names, names.names + names.count};
}

} // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of gradnets_fast; gradnets_fast.ops is their only caller.";
    // As os.environ has it, which calls putenv, at a tenth of its cost where there is no such variable.
    m.def("environment", [](const char *name) {
        const char *const value = std::getenv(name);
        return value == nullptr ? "" : value;
    });
    m.attr("sources") = GRADNETS_SOURCES; // the digest of csrc/, by which Python tells an extension of other files
    bind_driver(m);
    m.def("set_types", &set_types);
    m.def("ridge", &ridge);
    m.def("conv_ridge", &conv_ridge);
    m.def("linear_conv", &linear_conv);
    m.def("cholesky", &cholesky);
    m.def("softmax_modules", &softmax_modules);
    m.def("transformed_modules", &transformed_modules);
    m.def("deep", &deep);
    m.def("adam", &adam_step);
    m.def("set_potential_rules", &set_potential_rules);
    m.def("evaluate_basis_f32", [](int basis, int which, int64_t count, uintptr_t x, uintptr_t out) {
        evaluate(active_instruction_set().evaluate_f32, basis, which, count, x, out);
    });
    m.def("evaluate_basis_f64", [](int basis, int which, int64_t count, uintptr_t x, uintptr_t out) {
        evaluate(active_instruction_set().evaluate_f64, basis, which, count, x, out);
    });
    m.def("evaluate_transform", [](int transform, int which, int64_t count, uintptr_t t, uintptr_t out) {
        evaluate(active_instruction_set().evaluate_transform, transform, which, count, t, out);
    });
    m.def("basis_names", [] { return strings(active_instruction_set().basis); });
    m.def("transform_names", [] { return strings(active_instruction_set().transforms); });
    m.def("instruction_set", [] { return std::string(active_instruction_set().name); });
    m.def("threading", &threading);
    m.def("available_instruction_sets", [] {
        std::vector<std::string> names;
        for (const InstructionSet *set : available_instruction_sets())
            names.emplace_back(set->name);
        return names;
    });
}
