// The gradient of a multi-layer energy, and its derivatives: deep_shape.h has the formulas.
#pragma once

#include "deep_second.h"
#include "deep_value.h"

namespace gradnets::GRADNETS_ISA {

template <class S> bool deep(const Deep<S> &p) {
    switch (p.quantity) {
    case Quantity::jvp:
    case Quantity::divergence:
    case Quantity::jacobian:
        return DeepSecond<S>(p).run();
    default:
        return DeepValue<S>(p).run();
    }
}

} // namespace gradnets::GRADNETS_ISA
