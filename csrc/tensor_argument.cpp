#include "tensor_argument.h"

namespace gradnets {

namespace {

PyObject *known_dtypes[4];

PyObject *name_of(const char *text) {
    return PyUnicode_InternFromString(text);
}

// Whether an attribute, or the result of a method without arguments, is `wanted`.
bool answers(PyObject *object, PyObject *name, PyObject *wanted, bool method) {
    PyObject *const value = method ? PyObject_CallMethodNoArgs(object, name) : PyObject_GetAttr(object, name);
    Py_XDECREF(value);
    return value == wanted;
}

} // namespace

void set_dtypes(pybind11::handle f32, pybind11::handle f64, pybind11::handle bf16, pybind11::handle f16) {
    const pybind11::handle dtypes[] = {f32, f64, bf16, f16};
    for (int i = 0; i < 4; ++i)
        known_dtypes[i] = dtypes[i].inc_ref().ptr();
}

TensorArgument::TensorArgument(pybind11::handle object) {
    if (object.is_none())
        return;
    present_ = true;
    regular_ = read(object.ptr());
    // Whatever went wrong, Python's own checks say it better.
    PyErr_Clear();
}

bool TensorArgument::read(PyObject *object) {
    static PyObject *const is_cpu = name_of("is_cpu"), *const is_contiguous = name_of("is_contiguous"),
                           *const is_neg = name_of("is_neg"), *const dtype = name_of("dtype"),
                           *const shape = name_of("shape"), *const data_ptr = name_of("data_ptr");
    if (!answers(object, is_cpu, Py_True, false) || !answers(object, is_contiguous, Py_True, true) ||
        !answers(object, is_neg, Py_False, true))
        return false;
    PyObject *const type = PyObject_GetAttr(object, dtype);
    Py_XDECREF(type);
    for (int i = 0; i < 4; ++i)
        if (type == known_dtypes[i])
            dtype_ = Dtype(i);
    PyObject *const sizes = PyObject_GetAttr(object, shape);
    if (sizes == nullptr || !PyTuple_Check(sizes) || PyTuple_GET_SIZE(sizes) > kMostDimensions) {
        Py_XDECREF(sizes);
        return false;
    }
    dimensions_ = int(PyTuple_GET_SIZE(sizes));
    for (int i = 0; i < dimensions_; ++i)
        sizes_[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(sizes, i));
    Py_DECREF(sizes);
    PyObject *const address = PyObject_CallMethodNoArgs(object, data_ptr);
    if (address == nullptr)
        return false;
    data_ = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    return dtype_ != Dtype::other && PyErr_Occurred() == nullptr;
}

int64_t TensorArgument::count() const {
    int64_t product = 1;
    for (int i = 0; i < dimensions_; ++i)
        product *= sizes_[i];
    return product;
}

bool TensorArgument::is(Dtype dtype, int64_t columns) const {
    return dtype_ == dtype && dimensions_ == 1 && sizes_[0] == columns;
}

bool TensorArgument::is(Dtype dtype, int64_t rows, int64_t columns) const {
    return dtype_ == dtype && dimensions_ == 2 && sizes_[0] == rows && sizes_[1] == columns;
}

} // namespace gradnets
