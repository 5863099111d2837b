// gradnets_fast._C: the kernels for raw addresses.  Python checks every argument before it calls; nothing is checked
// here.
#include "runtime.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <new>

namespace py = pybind11;
using namespace gradnets;

namespace {

template <class T> T *pointer(uintptr_t address) {
    return reinterpret_cast<T *>(address);
}

template <class T> const Kernels<T> &kernels();
template <> const Kernels<float> &kernels<float>() {
    return active_instruction_set().f32;
}
template <> const Kernels<double> &kernels<double>() {
    return active_instruction_set().f64;
}

void require_workspace(bool ok) {
    if (!ok)
        throw std::bad_alloc();
}

template <class T>
void ridge_forward(int64_t batch, int64_t d, int64_t h, int layers, const std::vector<int> &basis, uintptr_t scale,
                   uintptr_t shift, uintptr_t coef, uintptr_t x, uintptr_t W, uintptr_t bias, uintptr_t out,
                   int threads) {
    const Cascade<T> phi{layers,          int(basis.size()), basis.data(), pointer<T>(scale), pointer<T>(shift),
                         pointer<T>(coef)};
    const RidgeForward<T> problem{batch,           d,      h, phi, pointer<T>(x), pointer<T>(W), pointer<T>(bias),
                                  pointer<T>(out), threads};
    py::gil_scoped_release release;
    require_workspace(kernels<T>().ridge_forward(problem));
}

template <class T>
void ridge_backward(int64_t batch, int64_t d, int64_t h, int layers, const std::vector<int> &basis, uintptr_t scale,
                    uintptr_t shift, uintptr_t coef, uintptr_t g, uintptr_t x, uintptr_t W, uintptr_t dx, uintptr_t dW,
                    uintptr_t dscale, uintptr_t dshift, uintptr_t dcoef, uintptr_t dbias, int threads) {
    const Cascade<T> phi{layers,          int(basis.size()), basis.data(), pointer<T>(scale), pointer<T>(shift),
                         pointer<T>(coef)};
    const RidgeBackward<T> problem{batch,
                                   d,
                                   h,
                                   phi,
                                   pointer<T>(g),
                                   pointer<T>(x),
                                   pointer<T>(W),
                                   pointer<T>(dx),
                                   pointer<T>(dW),
                                   pointer<T>(dscale),
                                   pointer<T>(dshift),
                                   pointer<T>(dcoef),
                                   pointer<T>(dbias),
                                   threads};
    py::gil_scoped_release release;
    require_workspace(kernels<T>().ridge_backward(problem));
}

template <class T>
Modules<T> modules(int64_t count, int basis, int transform, uintptr_t W, uintptr_t b, uintptr_t temperature,
                   uintptr_t positive, uintptr_t negative) {
    return {count,
            basis,
            transform,
            pointer<T>(W),
            pointer<T>(b),
            pointer<T>(temperature),
            pointer<T>(positive),
            pointer<T>(negative)};
}

template <class T>
void modules_forward(int64_t batch, int64_t d, int64_t h, int64_t count, int basis, int transform, uintptr_t W,
                     uintptr_t b, uintptr_t temperature, uintptr_t positive, uintptr_t negative, uintptr_t x,
                     uintptr_t bias, uintptr_t out, int threads) {
    const ModulesForward<T> problem{batch,
                                    d,
                                    h,
                                    modules<T>(count, basis, transform, W, b, temperature, positive, negative),
                                    pointer<T>(x),
                                    pointer<T>(bias),
                                    pointer<T>(out),
                                    threads};
    py::gil_scoped_release release;
    require_workspace(kernels<T>().modules_forward(problem));
}

template <class T>
void modules_backward(int64_t batch, int64_t d, int64_t h, int64_t count, int basis, int transform, uintptr_t W,
                      uintptr_t b, uintptr_t temperature, uintptr_t positive, uintptr_t negative, uintptr_t g,
                      uintptr_t x, uintptr_t dx, uintptr_t dW, uintptr_t db, uintptr_t dtemperature,
                      uintptr_t dpositive, uintptr_t dnegative, uintptr_t dbias, int threads) {
    const ModulesBackward<T> problem{batch,
                                     d,
                                     h,
                                     modules<T>(count, basis, transform, W, b, temperature, positive, negative),
                                     pointer<T>(g),
                                     pointer<T>(x),
                                     pointer<T>(dx),
                                     pointer<T>(dW),
                                     pointer<T>(db),
                                     pointer<T>(dtemperature),
                                     pointer<T>(dpositive),
                                     pointer<T>(dnegative),
                                     pointer<T>(dbias),
                                     threads};
    py::gil_scoped_release release;
    require_workspace(kernels<T>().modules_backward(problem));
}

template <class T> void evaluate_basis(int basis, int which, int64_t count, uintptr_t x, uintptr_t out) {
    kernels<T>().evaluate_basis(basis, which, count, pointer<T>(x), pointer<T>(out));
}

std::vector<std::string> strings(const Names &names) {
    return {names.names, names.names + names.count};
}

template <class T> void define(py::module_ &m, const std::string &suffix) {
    m.def(("ridge_forward_" + suffix).c_str(), &ridge_forward<T>);
    m.def(("ridge_backward_" + suffix).c_str(), &ridge_backward<T>);
    m.def(("modules_forward_" + suffix).c_str(), &modules_forward<T>);
    m.def(("modules_backward_" + suffix).c_str(), &modules_backward<T>);
    m.def(("evaluate_basis_" + suffix).c_str(), &evaluate_basis<T>);
}

} // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of gradnets_fast for raw addresses; gradnets_fast.ops is their only caller.";
    define<float>(m, "f32");
    define<double>(m, "f64");
    m.def("basis_names", [] { return strings(active_instruction_set().basis); });
    m.def("transform_names", [] { return strings(active_instruction_set().transforms); });
    m.def("instruction_set", [] { return std::string(active_instruction_set().name); });
    m.def("available_instruction_sets", [] {
        std::vector<std::string> names;
        for (const InstructionSet *set : available_instruction_sets())
            names.emplace_back(set->name);
        return names;
    });
}
