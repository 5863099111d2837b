// One module: where its parameters lie, and the sums of their gradients.  Its hidden units are coupled, by a softmax or
// by a function of a sum, so that a block holds all h of them, and few enough rows that they stay in cache.
#pragma once

#include "pipeline.h"

namespace gradnets::GRADNETS_ISA {

// What one row of one module needs: where its parameters lie and how wide its strips are.
template <class T> struct Module {
    int64_t h, width;
    int basis, transform;
    const T *b; // [h]
    T temperature, positive, negative;
    bool two_signs;
};

// Sums over a tile of one module's parameter gradients.  The scalars add up one term for each row: in double.
template <class T> struct ModuleSums {
    T *db; // [width]
    double temperature, positive, negative;
};

// u (= W x) becomes v = u + b; hidden units past h become 0.
template <class T> inline void add_shift(const Module<T> &m, T *u) {
    for (int64_t j = 0; j < m.h; ++j)
        u[j] += m.b[j];
    fill_zero(u + m.h, m.width - m.h);
}

// Rows so few that a tile's strips stay within about half a megabyte.
template <class T> inline int64_t module_rows(int64_t h, int strips) {
    const int64_t fit = (int64_t(1) << 19) / (round_up(h, Tile<T>::panel) * strips * int64_t(sizeof(T)));
    return larger(Tile<T>::rows, smaller(96, fit / Tile<T>::rows * Tile<T>::rows));
}

} // namespace gradnets::GRADNETS_ISA
