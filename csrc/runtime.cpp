// Workspace, and the choice among instruction sets; compiled for the baseline, so that it runs anywhere.
#include "runtime.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace gradnets {

#define GRADNETS_DECLARE(isa)                                                                                          \
    namespace isa {                                                                                                    \
    extern const Names basis_names, transform_names;                                                                   \
    extern const Kernels<float> kernels_f32;                                                                           \
    extern const Kernels<double> kernels_f64;                                                                          \
    extern const Kernels<Bf16> kernels_bf16;                                                                           \
    extern const Kernels<Half> kernels_f16;                                                                            \
    extern const Evaluate<float> evaluate_f32;                                                                         \
    extern const Evaluate<double> evaluate_f64, evaluate_transform;                                                    \
    }
#ifdef GRADNETS_HAS_AVX512
GRADNETS_DECLARE(avx512)
#endif
#ifdef GRADNETS_HAS_AVX512_BF16
namespace avx512_bf16 {
extern const Kernels<Bf16> kernels_bf16;
}
#endif
#ifdef GRADNETS_HAS_AVX2
GRADNETS_DECLARE(avx2)
#endif
#ifdef GRADNETS_HAS_BASELINE
GRADNETS_DECLARE(baseline)
#endif
#undef GRADNETS_DECLARE

namespace {

#define GRADNETS_SET(isa, supported)                                                                                   \
    InstructionSet {                                                                                                   \
        #isa, supported, isa::basis_names, isa::transform_names, isa::kernels_f32, isa::kernels_f64,                   \
            isa::kernels_bf16, isa::kernels_f16, isa::evaluate_f32, isa::evaluate_f64, isa::evaluate_transform         \
    }

#ifdef GRADNETS_HAS_AVX512
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<InstructionSet> known_instruction_sets() {
    std::vector<InstructionSet> sets;
#ifdef GRADNETS_HAS_AVX512
    const InstructionSet avx512 = GRADNETS_SET(avx512, has_avx512);
#ifdef GRADNETS_HAS_AVX512_BF16
    InstructionSet with_bf16 = avx512;
    with_bf16.name = "avx512_bf16";
    with_bf16.supported = [] { return has_avx512() && bool(__builtin_cpu_supports("avx512bf16")); };
    with_bf16.bf16 = avx512_bf16::kernels_bf16;
    sets.push_back(with_bf16);
#endif
    sets.push_back(avx512);
#endif
#ifdef GRADNETS_HAS_AVX2
    sets.push_back(GRADNETS_SET(avx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }));
#endif
#ifdef GRADNETS_HAS_BASELINE
    sets.push_back(GRADNETS_SET(baseline, [] { return true; }));
#endif
    return sets;
}
#undef GRADNETS_SET

} // namespace

std::vector<const InstructionSet *> available_instruction_sets() {
    static const std::vector<InstructionSet> known = known_instruction_sets();
    std::vector<const InstructionSet *> available;
    for (const InstructionSet &set : known)
        if (set.supported())
            available.push_back(&set);
    if (available.empty())
        throw std::runtime_error("gradnets_fast._C: processor: expected the instructions that the extension was built "
                                 "for, got one without them; build it with baseline among GRADNETS_ISAS");
    return available;
}

const InstructionSet &active_instruction_set() {
    static const InstructionSet *const active = [] {
        const auto available = available_instruction_sets();
        const char *wanted = std::getenv("GRADNETS_FAST_CPU_ISA");
        if (wanted == nullptr || *wanted == '\0')
            return available.front();
        std::string names;
        for (const InstructionSet *set : available) {
            if (std::strcmp(set->name, wanted) == 0)
                return set;
            names += names.empty() ? set->name : std::string(", ") + set->name;
        }
        throw std::runtime_error(std::string("GRADNETS_FAST_CPU_ISA: expected one of ") + names +
                                 " (what this processor has), got " + wanted + "; unset it to take the best");
    }();
    return *active;
}

static constexpr size_t kHugePage = size_t(1) << 21;

void *workspace_allocate(size_t bytes) {
    const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void *memory = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
#ifdef __linux__
    // The first touch of each small page would cost more than the arithmetic on it.
    if (memory != nullptr && alignment == kHugePage)
        madvise(memory, rounded, MADV_HUGEPAGE);
#endif
#ifdef GRADNETS_POISON_WORKSPACE
    // All bits set is a NaN in every floating-point format.
    if (memory != nullptr)
        std::memset(memory, 0xff, rounded);
#endif
    return memory;
}

void workspace_free(void *memory) {
    std::free(memory);
}

} // namespace gradnets
