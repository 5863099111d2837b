// Whose threads the kernels run on.
#pragma once

#include <string>

namespace gradnets {

// For people: the file of the OpenMP runtime, or that there is none.
std::string threading();

} // namespace gradnets
