// Launches of GPU kernels that were compiled ahead of time, through the CUDA driver, which is found at run time: where
// there is none the extension loads all the same.
#pragma once

#include <pybind11/pybind11.h>

namespace gradnets {

void bind_driver(pybind11::module_ &m);

} // namespace gradnets
