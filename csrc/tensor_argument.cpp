#include "tensor_argument.h"

namespace gradnets {

namespace {

PyObject *known_classes[2], *known_dtypes[4];

PyObject *name_of(const char *text) {
    return PyUnicode_InternFromString(text);
}

// Whether an attribute, or the result of a method without arguments, is `wanted`.
bool answers(PyObject *object, PyObject *name, PyObject *wanted, bool method) {
    PyObject *const value = method ? PyObject_CallMethodNoArgs(object, name) : PyObject_GetAttr(object, name);
    Py_XDECREF(value);
    return value == wanted;
}

// DLPack's C exchange interface, version 1: how torch shows a tensor to other libraries without a Python call.
struct ExchangeTensor {
    void *data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};
struct Exchange {
    uint32_t major, minor;
    void *previous;
    void *allocate, *from_object, *to_object;
    int (*view)(void *object, ExchangeTensor *out);
    void *current_stream;
};
constexpr int kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

const Exchange *exchange;

Dtype dtype_of(const ExchangeTensor &t) {
    if (t.lanes != 1)
        return Dtype::other;
    if (t.code == kBfloat && t.bits == 16)
        return Dtype::bf16;
    if (t.code != kFloat)
        return Dtype::other;
    return t.bits == 32 ? Dtype::f32 : t.bits == 64 ? Dtype::f64 : t.bits == 16 ? Dtype::f16 : Dtype::other;
}

} // namespace

void set_types(pybind11::handle tensor, pybind11::handle parameter, pybind11::handle capsule, pybind11::handle f32,
               pybind11::handle f64, pybind11::handle bf16, pybind11::handle f16) {
    exchange = nullptr;
    if (!capsule.is_none()) {
        exchange = static_cast<const Exchange *>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        PyErr_Clear();
        if (exchange != nullptr && (exchange->major != 1 || exchange->view == nullptr))
            exchange = nullptr;
    }
    known_classes[0] = tensor.inc_ref().ptr();
    known_classes[1] = parameter.inc_ref().ptr();
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
    static PyObject *const is_neg = name_of("is_neg");
    PyObject *const type_of = reinterpret_cast<PyObject *>(Py_TYPE(object));
    if (type_of != known_classes[0] && type_of != known_classes[1])
        return false;
    return answers(object, is_neg, Py_False, true) && (exchange ? read_exchange(object) : read_attributes(object));
}

bool TensorArgument::read_exchange(PyObject *object) {
    ExchangeTensor t;
    if (exchange->view(object, &t) != 0 || t.device_type != kCpu)
        return false;
    dtype_ = dtype_of(t);
    dimensions_ = t.dimensions;
    data_ = static_cast<char *>(t.data) + t.byte_offset;
    bool contiguous = true;
    for (int i = dimensions_ - 1; i >= 0; --i) {
        contiguous = contiguous && (t.shape[i] == 1 || t.strides == nullptr || t.strides[i] == count_);
        set_size(dimensions_ - 1 - i, t.shape[i]);
    }
    return dtype_ != Dtype::other && (contiguous || count_ == 0);
}

void TensorArgument::set_size(int from_last, int64_t size) {
    if (from_last < kKeptSizes)
        sizes_[from_last] = size;
    count_ *= size;
}

bool TensorArgument::read_attributes(PyObject *object) {
    static PyObject *const is_cpu = name_of("is_cpu"), *const is_contiguous = name_of("is_contiguous"),
                           *const dtype = name_of("dtype"), *const shape = name_of("shape"),
                           *const data_ptr = name_of("data_ptr");
    if (!answers(object, is_cpu, Py_True, false) || !answers(object, is_contiguous, Py_True, true))
        return false;
    PyObject *const type = PyObject_GetAttr(object, dtype);
    Py_XDECREF(type);
    for (int i = 0; i < 4; ++i)
        if (type == known_dtypes[i])
            dtype_ = Dtype(i);
    PyObject *const sizes = PyObject_GetAttr(object, shape);
    if (sizes == nullptr || !PyTuple_Check(sizes)) {
        Py_XDECREF(sizes);
        return false;
    }
    dimensions_ = int(PyTuple_GET_SIZE(sizes));
    for (int i = 0; i < dimensions_; ++i)
        set_size(i, PyLong_AsLongLong(PyTuple_GET_ITEM(sizes, dimensions_ - 1 - i)));
    Py_DECREF(sizes);
    PyObject *const address = PyObject_CallMethodNoArgs(object, data_ptr);
    if (address == nullptr)
        return false;
    data_ = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    return dtype_ != Dtype::other && PyErr_Occurred() == nullptr;
}

bool TensorArgument::is(Dtype dtype, int64_t columns) const {
    return dtype_ == dtype && dimensions_ == 1 && sizes_[0] == columns;
}

bool TensorArgument::is(Dtype dtype, int64_t rows, int64_t columns) const {
    return dtype_ == dtype && dimensions_ == 2 && sizes_[1] == rows && sizes_[0] == columns;
}

} // namespace gradnets
