// gradnets_fast._C: the kernels for tensors.  A kernel that the arguments do not fit (strides, dtypes, shapes) answers
// False and has done nothing; Python's checks then say what is wrong, or mend it.
#include "driver.h"
#include "runtime.h"
#include "tensor_argument.h"
#include "threads.h"

#include <pybind11/stl.h>

#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

namespace py = pybind11;
using namespace gradnets;

namespace {

template <class S> const Kernels<S> &kernels();
template <> const Kernels<float> &kernels<float>() {
    return active_instruction_set().f32;
}
template <> const Kernels<double> &kernels<double>() {
    return active_instruction_set().f64;
}
template <> const Kernels<Bf16> &kernels<Bf16>() {
    return active_instruction_set().bf16;
}
template <> const Kernels<Half> &kernels<Half>() {
    return active_instruction_set().f16;
}

// Below this many multiplications the work is done before another thread could have taken the lock.
constexpr int64_t kKeepGil = 100000;

template <class Problem> void call(bool (*kernel)(const Problem &), const Problem &problem, int64_t work) {
    bool ok;
    if (work < kKeepGil) {
        ok = kernel(problem);
    } else {
        py::gil_scoped_release release;
        ok = kernel(problem);
    }
    if (!ok)
        throw std::bad_alloc();
}

// The rows (x, g, v, dx, dg, dv): of one dtype and number of values, with d in the last dimension; of Scalar::jacobian
// g and dg are matrices, d times as many values.  weight and result hold one number for each row, of the dtype that
// kernels sum in.
struct RowTensors {
    TensorArgument x, g, v, dx, dg, dv, weight, result;

    Dtype dtype() const { return x.dtype(); }
    Dtype sum_dtype() const { return dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32; }
    bool regular(Quantity quantity) const {
        if (!x.present() || x.dimensions() < 1)
            return false;
        const int matrix = quantity == Quantity::jacobian;
        return row(x, 0) && row(g, matrix) && row(v, 0) && row(dx, 0) && row(dg, matrix) && row(dv, 0) &&
               one_a_row(weight) && one_a_row(result);
    }
    bool row(const TensorArgument &t, int more_dimensions) const {
        const int64_t d = x.size(0);
        return t.regular() &&
               (!t.present() ||
                (t.dtype() == dtype() && t.dimensions() == x.dimensions() + more_dimensions && t.size(0) == d &&
                 t.size(more_dimensions) == x.size(0) && t.count() == (more_dimensions ? x.count() * d : x.count())));
    }
    bool one_a_row(const TensorArgument &t) const {
        return t.regular() && (!t.present() || (t.dtype() == sum_dtype() && t.count() * x.size(0) == x.count()));
    }
    template <class S> Points<S> points() const {
        Points<S> points;
        points.x = x.data<S>();
        points.g = g.data<S>();
        points.v = v.data<S>();
        points.dx = dx.data<S>();
        points.dg = dg.data<S>();
        points.dv = dv.data<S>();
        points.weight = weight.data<Sum<S>>();
        points.scalar = result.data<Sum<S>>();
        return points;
    }
};

// The cascade's tensors or their gradients: W (h, d), scale (L, h), shift (L, h) or, for one layer, (h,), coef (L, K,
// h), bias (d,).  All but W and shift may be absent; of gradients all.
struct RidgeTensors {
    TensorArgument W, scale, shift, coef, bias;

    bool fit(const RowTensors &r, int64_t h, int64_t d, int64_t layers, int64_t terms) const {
        const Dtype sums = r.sum_dtype();
        const bool coef_fits =
            !coef.present() || (coef.dtype() == sums && coef.dimensions() == 3 && coef.count() == layers * terms * h &&
                                coef.size(0) == h && coef.size(1) == terms);
        const bool shift_fits = shift.absent_or(sums, layers, h) || (layers == 1 && shift.is(sums, h));
        return W.regular() && scale.regular() && shift.regular() && coef.regular() && bias.regular() &&
               W.absent_or(r.dtype(), h, d) && scale.absent_or(sums, layers, h) && shift_fits && coef_fits &&
               bias.absent_or(sums, d);
    }
};

RidgeTensors ridge_tensors(const py::tuple &t) {
    return {TensorArgument(t[0]), TensorArgument(t[1]), TensorArgument(t[2]), TensorArgument(t[3]),
            TensorArgument(py::none())};
}

Quantity quantity_of(const std::string &name) {
    const char *const names[] = {"value", "jvp", "potential", "divergence", "jacobian"};
    for (int i = 0; i < 5; ++i)
        if (name == names[i])
            return Quantity(i);
    throw std::invalid_argument("quantity: expected value, jvp, potential, divergence or jacobian, got " + name);
}

RowTensors row_tensors(const py::tuple &rows, const py::tuple &results) {
    return {TensorArgument(rows[0]),    TensorArgument(rows[1]),    TensorArgument(rows[2]),
            TensorArgument(results[0]), TensorArgument(results[1]), TensorArgument(results[2]),
            TensorArgument(rows[3]),    TensorArgument(results[3])};
}

// Whether the scalar's own arguments are there: exactly those that it is of, or its result instead.
bool complete(Quantity quantity, const RowTensors &r) {
    switch (quantity) {
    case Quantity::jvp:
        return r.g.present() && r.v.present();
    case Quantity::potential:
    case Quantity::divergence:
        return r.weight.present() != r.result.present();
    case Quantity::jacobian:
        return r.g.present() != r.dg.present();
    default:
        return r.g.present() ? r.weight.present() : r.dg.present() && r.result.present();
    }
}

// The nodes and weights of the two rules, and which basis functions are smooth; Python hands them over once.
struct StoredRules {
    std::vector<double> numbers[4];
    std::vector<char> smooth;
    PotentialRules rules;
};

StoredRules &stored_rules() {
    static StoredRules stored;
    return stored;
}

void set_potential_rules(const std::vector<double> &nodes, const std::vector<double> &weights,
                         const std::vector<double> &single_nodes, const std::vector<double> &single_weights,
                         const std::vector<bool> &smooth) {
    StoredRules &s = stored_rules();
    const std::vector<double> *const given[] = {&nodes, &weights, &single_nodes, &single_weights};
    for (int i = 0; i < 4; ++i)
        s.numbers[i] = *given[i];
    s.smooth.assign(smooth.begin(), smooth.end());
    s.rules = {{int(nodes.size()), s.numbers[0].data(), s.numbers[1].data()},
               {int(single_nodes.size()), s.numbers[2].data(), s.numbers[3].data()},
               s.smooth.data()};
}

template <class S>
void run_ridge(Quantity quantity, const RowTensors &r, const RidgeTensors &p, const RidgeTensors &gradients,
               const std::vector<int> &basis, int layers, int threads) {
    using T = Sum<S>;
    Ridge<S> problem{};
    problem.quantity = quantity;
    problem.d = p.W.size(0);
    problem.h = p.W.size(1);
    problem.batch = r.x.count() / problem.d;
    problem.phi = {layers, int(basis.size()), basis.data(), p.scale.data<T>(), p.shift.data<T>(), p.coef.data<T>()};
    problem.points = r.points<S>();
    problem.W = p.W.data<S>();
    problem.bias = p.bias.data<T>();
    problem.dW = gradients.W.data<S>();
    problem.dscale = gradients.scale.data<T>();
    problem.dshift = gradients.shift.data<T>();
    problem.dcoef = gradients.coef.data<T>();
    problem.dbias = gradients.bias.data<T>();
    problem.rules = &stored_rules().rules;
    problem.threads = threads;
    call(kernels<S>().ridge, problem, problem.batch * problem.d * problem.h);
}

bool ridge_on(Quantity quantity, const std::vector<int> &basis, const RowTensors &r, const RidgeTensors &p,
              const RidgeTensors &gradients, int threads) {
    if (!r.regular(quantity) || !p.W.regular() || p.W.dimensions() != 2 || p.shift.dimensions() < 1 || r.x.count() == 0)
        return false;
    const int64_t h = p.W.size(1), d = p.W.size(0), layers = p.shift.dimensions() == 2 ? p.shift.size(1) : 1;
    const int64_t terms = int64_t(basis.size());
    if (r.x.size(0) != d || h == 0 || layers == 0 || !p.fit(r, h, d, layers, terms) ||
        (!p.coef.present() && terms != 1))
        return false;
    if (!gradients.fit(r, h, d, layers, terms))
        return false;
    switch (r.dtype()) {
    case Dtype::f32:
        run_ridge<float>(quantity, r, p, gradients, basis, int(layers), threads);
        return true;
    case Dtype::f64:
        run_ridge<double>(quantity, r, p, gradients, basis, int(layers), threads);
        return true;
    case Dtype::bf16:
        run_ridge<Bf16>(quantity, r, p, gradients, basis, int(layers), threads);
        return true;
    case Dtype::f16:
        run_ridge<Half>(quantity, r, p, gradients, basis, int(layers), threads);
        return true;
    default:
        return false;
    }
}

bool ridge(const std::vector<int> &basis, py::handle x, py::handle g, py::handle W, py::handle scale, py::handle shift,
           py::handle coef, py::handle bias, py::handle dx, py::handle dg, py::handle dW, py::handle dscale,
           py::handle dshift, py::handle dcoef, py::handle dbias, int threads) {
    const TensorArgument none{py::none()};
    return ridge_on(
        Quantity::value, basis,
        {TensorArgument(x), TensorArgument(g), none, TensorArgument(dx), TensorArgument(dg), none, none, none},
        {TensorArgument(W), TensorArgument(scale), TensorArgument(shift), TensorArgument(coef), TensorArgument(bias)},
        {TensorArgument(dW), TensorArgument(dscale), TensorArgument(dshift), TensorArgument(dcoef),
         TensorArgument(dbias)},
        threads);
}

// A scalar's name, the row tensors (x, g, v, weight) that it is of, the parameters (W, scale, shift, coef), and where
// the results go: (dx, dg, dv, result), and the parameters' gradients.
bool ridge_scalar(const std::string &name, const std::vector<int> &basis, const py::tuple &rows,
                  const py::tuple &parameters, const py::tuple &row_results, const py::tuple &gradients, int threads) {
    const Quantity quantity = quantity_of(name);
    const RowTensors r = row_tensors(rows, row_results);
    return quantity != Quantity::value && complete(quantity, r) &&
           ridge_on(quantity, basis, r, ridge_tensors(parameters), ridge_tensors(gradients), threads);
}

// The modules' tensors or their gradients: W (M, h, d), b (M, h), three scalars per module (M,), bias (d,).
struct ModuleTensors {
    TensorArgument W, b, temperature, positive, negative, bias;

    bool fit(const RowTensors &r, int64_t count, int64_t h, int64_t d) const {
        const Dtype sums = r.sum_dtype();
        const bool W_fits = !W.present() || (W.dtype() == r.dtype() && W.dimensions() == 3 &&
                                             W.count() == count * h * d && W.size(0) == d && W.size(1) == h);
        return W.regular() && b.regular() && temperature.regular() && positive.regular() && negative.regular() &&
               bias.regular() && W_fits && b.absent_or(sums, count, h) && temperature.absent_or(sums, count) &&
               positive.absent_or(sums, count) && negative.absent_or(sums, count) && bias.absent_or(sums, d);
    }
};

ModuleTensors module_tensors(const py::tuple &t) {
    return {TensorArgument(t[0]), TensorArgument(t[1]), TensorArgument(t[2]),
            TensorArgument(t[3]), TensorArgument(t[4]), TensorArgument(py::none())};
}

template <class S>
void run_modules(Quantity quantity, const RowTensors &r, const ModuleTensors &p, const ModuleTensors &gradients,
                 int basis, int transform, int threads) {
    using T = Sum<S>;
    Modules<S> problem{};
    problem.quantity = quantity;
    problem.d = p.W.size(0);
    problem.h = p.W.size(1);
    problem.count = p.W.size(2);
    problem.batch = r.x.count() / problem.d;
    problem.basis = basis;
    problem.transform = transform;
    problem.points = r.points<S>();
    problem.W = p.W.data<S>();
    problem.b = p.b.data<T>();
    problem.temperature = p.temperature.data<T>();
    problem.positive = p.positive.data<T>();
    problem.negative = p.negative.data<T>();
    problem.bias = p.bias.data<T>();
    problem.dW = gradients.W.data<S>();
    problem.db = gradients.b.data<T>();
    problem.dtemperature = gradients.temperature.data<T>();
    problem.dpositive = gradients.positive.data<T>();
    problem.dnegative = gradients.negative.data<T>();
    problem.dbias = gradients.bias.data<T>();
    problem.threads = threads;
    call(kernels<S>().modules, problem, problem.batch * problem.d * problem.h * problem.count);
}

bool modules_on(Quantity quantity, int basis, int transform, const RowTensors &r, const ModuleTensors &p,
                const ModuleTensors &gradients, int threads) {
    if (!r.regular(quantity) || !p.W.regular() || p.W.dimensions() != 3 || r.x.count() == 0 || p.W.count() == 0)
        return false;
    const int64_t count = p.W.size(2), h = p.W.size(1), d = p.W.size(0);
    if (r.x.size(0) != d || !p.b.present() || !p.positive.present() || p.temperature.present() != (basis == kSoftmax) ||
        !p.fit(r, count, h, d) || !gradients.fit(r, count, h, d))
        return false;
    switch (r.dtype()) {
    case Dtype::f32:
        run_modules<float>(quantity, r, p, gradients, basis, transform, threads);
        return true;
    case Dtype::f64:
        run_modules<double>(quantity, r, p, gradients, basis, transform, threads);
        return true;
    case Dtype::bf16:
        run_modules<Bf16>(quantity, r, p, gradients, basis, transform, threads);
        return true;
    case Dtype::f16:
        run_modules<Half>(quantity, r, p, gradients, basis, transform, threads);
        return true;
    default:
        return false;
    }
}

bool modules(int basis, int transform, py::handle x, py::handle g, py::handle W, py::handle b, py::handle temperature,
             py::handle positive, py::handle negative, py::handle bias, py::handle dx, py::handle dg, py::handle dW,
             py::handle db, py::handle dtemperature, py::handle dpositive, py::handle dnegative, py::handle dbias,
             int threads) {
    const TensorArgument none{py::none()};
    return modules_on(
        Quantity::value, basis, transform,
        {TensorArgument(x), TensorArgument(g), none, TensorArgument(dx), TensorArgument(dg), none, none, none},
        {TensorArgument(W), TensorArgument(b), TensorArgument(temperature), TensorArgument(positive),
         TensorArgument(negative), TensorArgument(bias)},
        {TensorArgument(dW), TensorArgument(db), TensorArgument(dtemperature), TensorArgument(dpositive),
         TensorArgument(dnegative), TensorArgument(dbias)},
        threads);
}

// As ridge_scalar, with the parameters (W, b, temperature, positive, negative), and with the scalar "value" too: f and
// the potential together.
bool modules_scalar(const std::string &name, int basis, int transform, const py::tuple &rows,
                    const py::tuple &parameters, const py::tuple &row_results, const py::tuple &gradients,
                    int threads) {
    const Quantity quantity = quantity_of(name);
    const RowTensors r = row_tensors(rows, row_results);
    return complete(quantity, r) &&
           modules_on(quantity, basis, transform, r, module_tensors(parameters), module_tensors(gradients), threads);
}

template <class T>
void evaluate(EvaluateBasis<T> function, int basis, int which, uintptr_t x, uintptr_t out, int64_t n) {
    function(basis, which, n, reinterpret_cast<const T *>(x), reinterpret_cast<T *>(out));
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
    bind_driver(m);
    m.def("set_types", &set_types);
    m.def("ridge", &ridge);
    m.def("ridge_scalar", &ridge_scalar);
    m.def("set_potential_rules", &set_potential_rules);
    m.def("modules", &modules);
    m.def("modules_scalar", &modules_scalar);
    m.def("evaluate_basis_f32", [](int basis, int which, int64_t count, uintptr_t x, uintptr_t out) {
        evaluate(active_instruction_set().evaluate_f32, basis, which, x, out, count);
    });
    m.def("evaluate_basis_f64", [](int basis, int which, int64_t count, uintptr_t x, uintptr_t out) {
        evaluate(active_instruction_set().evaluate_f64, basis, which, x, out, count);
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
