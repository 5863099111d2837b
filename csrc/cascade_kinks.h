// ∫_0^u φ(t) dt = u Σ_p width_p Σ_n weights_n·φ((start_p + nodes_n·width_p)·u) for layers in series of functions some
// of which have kinks: the intervals of [0, 1] on which t ↦ φ(t·u) has none, of each row and hidden unit alone, with as
// many nodes as each needs (cascade_nodes.h).
//
// Where a z_l is not on one side of a kink at both ends of an eighth, the first kink is found by halving, until z_l is
// nearly linear between the ends, then by steps of 15/16 of what it would take a linear z_l to get there, most of which
// stay before it (one that is too long is made a halving), and a whole one.  What crosses a kink and comes back within
// an eighth is not seen.
#pragma once

#include "cascade_nodes.h"
#include "cascade_panels.h"

namespace gradnets::GRADNETS_ISA {

// sides: on which side of each kink each z_l is at t·u: digits, 0 or 1, of a number in base 3, modulo 2³² or 2⁶⁴.
template <int N, class V, class Bases, class Parameters, class U>
GRADNETS_INLINE void find_sides(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                const V (&u)[N], const V (&t)[N], U (&sides)[N]) {
    V point[N], z[N], mixed[N] = {};
    GRADNETS_EACH {
        point[i] = t[i] * u[i];
        sides[i] = U{};
    }
    for (int l = 0; l < index.layers; ++l) {
        enter_layer(index, l, parameter, point, mixed, z);
        start_sums(mixed);
        bases.each([&](int k, auto b) __attribute__((always_inline)) {
            using B = decltype(b);
            const V coef = parameter(index.coef(l, k));
            GRADNETS_EACH {
                V value;
                b.value(z[i], value);
                mixed[i] = mixed[i] + coef * value;
                if constexpr (!B::smooth) {
                    sides[i] = 3 * sides[i] - U(z[i] > broadcast<V>(B::kink));
                    if constexpr (B::kink != 0)
                        sides[i] = 3 * sides[i] - U(z[i] > broadcast<V>(-B::kink));
                }
            }
        });
    }
}

// The intervals of one hidden unit for up to kListed rows, and their points.
template <class T, class Bases> class KinkList {
    using V = typename Simd<T>::Vector;
    using U = typename Simd<T>::Unsigned;
    static constexpr int lanes = Simd<T>::lanes, N = kInterleaved, together = N * lanes;
    static constexpr int kEighths = 8, kMostIntervals = kListed * kEighths, kMostCuts = 56;
    static constexpr int kHalvings = 5, kSteps = sizeof(T) == 4 ? 3 : 6;
    static constexpr int kFewestNodes = 4, kMostPoints = kListed * 128, kMostListed = kMostPoints / kFewestNodes;
    static constexpr int kVectors = (kMostIntervals + together) / lanes;

  public:
    KinkList(const PotentialRules<T> &rules, const ParameterIndex &index, const Bases &bases, T *points, T *weights)
        : rules_(rules), index_(index), bases_(bases), points_(points), weights_(weights) {}

    // u: the rows' values, `stride` apart; row_weight: of each row, or null for ones.  body(offset) is called for each
    // block of kInterleaved vectors of points and their weights; done() when all points that are listed have been.
    template <class Body, class Done>
    void each_block(const UnitParameters<T> &parameter, const T *u, int64_t stride, int rows, const T *row_weight,
                    T pace, const Body &body, const Done &done) {
        for (int i = 0; i < kListed; ++i) {
            u_[i] = i < rows ? u[i * stride] : 0;
            row_weight_[i] = i < rows && row_weight ? row_weight[i] : 1;
        }
        pace_ = pace;
        const auto add = [&](int row, T start, T width) { list(row, start, width, body, done); };
        cut_eighths(parameter, rows, add);
        for (int cut = 0; pending_ > 0 && cut < kMostCuts; ++cut)
            cut_pending(parameter, add);
        for (int i = 0; i < pending_; ++i)
            add(row_[i], at(start_, i), at(end_, i) - at(start_, i));
        flush(body, done);
    }

    // sums[row] += Σ weights·points, the points having become φ there.
    void add_integrals(double *sums) const {
        int64_t at = 0;
        for (int i = 0; i < intervals_; at += count_[i], ++i) {
            T sum = 0;
            for (int n = 0; n < count_[i]; ++n)
                sum += weights_[at + n] * points_[at + n];
            sums[of_row_[i]] += double(sum);
        }
    }

  private:
    static T &at(V *vectors, int i) { return reinterpret_cast<T *>(vectors)[i]; }
    static auto side(const U *vectors, int i) { return vectors[i / lanes][i % lanes]; }

    // Eighths without a kink are listed, the others pending.
    template <class Add> void cut_eighths(const UnitParameters<T> &parameter, int rows, const Add &add) {
        constexpr int room = (kListed + together) / lanes;
        U sides[kEighths + 1][room];
        for (int k = 0; k <= kEighths; ++k)
            for (int first = 0; first < rows; first += together) {
                V u[N], t[N];
                GRADNETS_EACH {
                    u[i] = first + i * lanes < kListed ? load(u_ + first + i * lanes) : V{};
                    t[i] = broadcast<V>(T(k) / kEighths);
                }
                U found[N];
                find_sides(index_, bases_, parameter, u, t, found);
                GRADNETS_EACH sides[k][first / lanes + i] = found[i];
            }
        pending_ = 0;
        const auto portion = [](int eighths) { return T(eighths) / kEighths; };
        for (int row = 0; row < rows; ++row)
            for (int k = 0, next; k < kEighths; k = next) {
                const auto before = side(sides[k], row), after = side(sides[k + 1], row);
                for (next = k + 1; before == after && next < kEighths && side(sides[next + 1], row) == before;)
                    ++next;
                if (before == after)
                    add(row, portion(k), portion(next - k));
                else
                    wait(row, portion(k), portion(next), before, after);
            }
    }

    template <class S> void wait(int row, T start, T end, S before, S after) {
        const int i = pending_++;
        row_[i] = row;
        at(start_, i) = start;
        at(end_, i) = end;
        at(own_, i) = u_[row];
        before_[i / lanes][i % lanes] = before;
        after_[i / lanes][i % lanes] = after;
    }

    // Cuts all pending intervals at their first kink; what is behind it is listed, or pending again.
    template <class Add> void cut_pending(const UnitParameters<T> &parameter, const Add &add) {
        const int count = pending_;
        for (int first = 0; first < count; first += together)
            cut(parameter, first / lanes);
        pending_ = 0;
        for (int i = 0; i < count; ++i) {
            const int row = row_[i];
            const T start = at(start_, i), middle = at(cut_, i), end = at(end_, i);
            const auto before = side(between_, i), after = side(after_, i);
            add(row, start, middle - start);
            if (before == after)
                add(row, middle, end - middle);
            else
                wait(row, middle, end, before, after);
        }
    }

    // cut_: where the pending intervals of N vectors meet their first kink, and between_ on which sides z_l are there.
    __attribute__((noinline)) void cut(const UnitParameters<T> &parameter, int first) {
        V u[N], low[N], high[N], middle[N], reach[N];
        U sides[N];
        GRADNETS_EACH {
            u[i] = own_[first + i];
            low[i] = start_[first + i];
            high[i] = end_[first + i];
        }
        for (int step = 0; step < kHalvings + kSteps; ++step) {
            GRADNETS_EACH middle[i] = (low[i] + high[i]) * broadcast<V>(0.5);
            if (step >= kHalvings) {
                reach_kinks(index_, bases_, parameter, u, low, reach);
                GRADNETS_EACH {
                    const V near = low[i] + reach[i] * broadcast<V>(0.9375);
                    middle[i] = select(near < high[i], near, middle[i]);
                }
            }
            find_sides(index_, bases_, parameter, u, middle, sides);
            GRADNETS_EACH {
                const auto is_beyond = sides[i] != before_[first + i];
                high[i] = select(is_beyond, middle[i], high[i]);
                low[i] = select(is_beyond, low[i], middle[i]);
            }
        }
        reach_kinks(index_, bases_, parameter, u, low, reach);
        GRADNETS_EACH cut_[first + i] = minimum(low[i] + reach[i], high[i]);
        GRADNETS_EACH middle[i] = cut_[first + i];
        find_sides(index_, bases_, parameter, u, middle, sides);
        GRADNETS_EACH between_[first + i] = sides[i];
    }

    // One rule on an interval, or, where none but the last reaches, sixteen nodes on each eighth.
    template <class Body, class Done> void list(int row, T start, T width, const Body &body, const Done &done) {
        const T u = u_[row], distance = (u < 0 ? -u : u) * pace_ * width, eighth = T(1) / kEighths;
        const NodeRule<T> *rule = rules_.rules, *const last = rule + rules_.count - 1;
        while (rule < last && !(distance <= rule->reach))
            ++rule;
        if (rule < last)
            return list(row, start, width, *rule, body, done);
        for (rule = rules_.rules; rule->count < 16;)
            ++rule;
        for (T end = start + width; start < end; start += eighth)
            list(row, start, width < eighth ? width : eighth, *rule, body, done);
    }

    template <class Body, class Done>
    void list(int row, T start, T width, const NodeRule<T> &rule, const Body &body, const Done &done) {
        if (size_ + rule.count > kMostPoints || intervals_ == kMostListed)
            flush(body, done);
        const T u = u_[row], own = u * row_weight_[row];
        for (int n = 0; n < rule.count; ++n) {
            points_[size_ + n] = (start + rule.nodes[n] * width) * u;
            weights_[size_ + n] = own * (rule.weights[n] * width);
        }
        of_row_[intervals_] = row;
        count_[intervals_++] = rule.count;
        size_ += rule.count;
    }

    template <class Body, class Done> void flush(const Body &body, const Done &done) {
        const int64_t padded = round_up(size_, together);
        fill_zero(points_ + size_, padded - size_);
        fill_zero(weights_ + size_, padded - size_);
        for (int64_t offset = 0; offset < padded; offset += together)
            body(offset);
        done();
        size_ = intervals_ = 0;
    }

    const PotentialRules<T> &rules_;
    const ParameterIndex &index_;
    const Bases &bases_;
    T *const points_, *const weights_;
    T u_[kListed + together], row_weight_[kListed], pace_ = 0;
    int64_t size_ = 0;
    int intervals_ = 0, pending_ = 0;
    int row_[kMostIntervals], of_row_[kMostListed], count_[kMostListed];
    V start_[kVectors] = {}, end_[kVectors] = {}, own_[kVectors] = {}, cut_[kVectors];
    U before_[kVectors] = {}, after_[kVectors] = {}, between_[kVectors];
};

} // namespace gradnets::GRADNETS_ISA
