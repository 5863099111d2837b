// The choice among instruction sets.
#pragma once

#include "common.h"

#include <string>
#include <vector>

namespace gradnets {

// The instruction sets that this processor has, best first.
std::vector<const InstructionSet *> available_instruction_sets();

// The one in use: the best, or the one that GRADNETS_FAST_CPU_ISA named when it was first asked for.
// Throws std::runtime_error when that one is not available.
const InstructionSet &active_instruction_set();

} // namespace gradnets
