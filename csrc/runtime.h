// The choice among instruction sets.
#pragma once

#include "common.h"

#include <string>
#include <vector>

namespace gradnets {

// The instruction sets that this processor has, best first.
// Throws std::runtime_error when none of those that were built is among them.
std::vector<const InstructionSet *> available_instruction_sets();

// The one in use: the best, or the one that GRADNETS_FAST_CPU_ISA named when it was first asked for.
// Throws std::runtime_error when that one is not available, or none is.
const InstructionSet &active_instruction_set();

// An instruction set's kernels for storage S.
template <class S> const Kernels<S> &kernels_of(const InstructionSet &set);
template <> inline const Kernels<float> &kernels_of(const InstructionSet &set) {
    return set.f32;
}
template <> inline const Kernels<double> &kernels_of(const InstructionSet &set) {
    return set.f64;
}
template <> inline const Kernels<Bf16> &kernels_of(const InstructionSet &set) {
    return set.bf16;
}
template <> inline const Kernels<Half> &kernels_of(const InstructionSet &set) {
    return set.f16;
}

} // namespace gradnets
