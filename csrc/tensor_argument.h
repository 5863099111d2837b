// Tensors as Python objects, read through their attributes: no header and no symbol of libtorch is needed, so that one
// build serves every version.
#pragma once

#include "common.h"

#include <pybind11/pybind11.h>

namespace gradnets {

// The dtypes that kernels exist for, in this order; Python hands these objects, torch's classes and
// its DLPack exchange capsule (None before torch had one) over once.
enum class Dtype { f32, f64, bf16, f16, other };

void set_types(pybind11::handle tensor, pybind11::handle parameter, pybind11::handle exchange, pybind11::handle f32,
               pybind11::handle f64, pybind11::handle bf16, pybind11::handle f16);

// A dense CPU tensor, or none.  Anything else, such as a strided, lazily negated or foreign one, is not `regular`.
class TensorArgument {
  public:
    static constexpr int kKeptSizes = 5; // the last ones: points may have any number of leading dimensions

    explicit TensorArgument(pybind11::handle object);

    bool regular() const { return regular_; }
    bool present() const { return present_; }
    Dtype dtype() const { return dtype_; }
    int dimensions() const { return dimensions_; }
    // From the last, of as many as are kept: size(0) is the last dimension.
    int64_t size(int from_last) const { return sizes_[from_last]; }
    int64_t count() const { return count_; }
    template <class T> T *data() const { return static_cast<T *>(data_); }

    // Whether it is absent, or of this dtype and shape.
    bool absent_or(Dtype dtype, int64_t columns) const { return !present_ || is(dtype, columns); }
    bool absent_or(Dtype dtype, int64_t rows, int64_t columns) const { return !present_ || is(dtype, rows, columns); }
    bool is(Dtype dtype, int64_t columns) const;
    bool is(Dtype dtype, int64_t rows, int64_t columns) const;

  private:
    bool read(PyObject *object);
    bool read_exchange(PyObject *object);
    bool read_attributes(PyObject *object);
    void set_size(int from_last, int64_t size);

    bool present_ = false, regular_ = true;
    Dtype dtype_ = Dtype::other;
    int dimensions_ = 0;
    int64_t count_ = 1;
    int64_t sizes_[kKeptSizes]; // unset where there is no such dimension
    void *data_ = nullptr;
};

} // namespace gradnets
