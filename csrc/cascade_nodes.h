// ∫_0^u φ(t) dt ≈ u Σ_n weights_n·φ(nodes_n·u), and its derivatives in the parameters, for layers in series.
//
// How many nodes that takes is decided by |u|·pace of each row and hidden unit alone: |u| times the greatest slope that
// a z_l may have, over the distance from the real line at which the basis functions have a singularity.  The points
// nodes_n·u of many rows lie one after another, so that vectors are full of them whatever the rules.  Functions with
// kinks are for cascade_kinks.h.
#pragma once

#include "cascade.h"

namespace gradnets::GRADNETS_ISA {

// Rows whose points are listed together.
static constexpr int kListed = 48;

// The pace of every hidden unit, [stride]: max_l D_l·max_k sharpness_k, where |dz_l/du| <= D_l = |scale_l| +
// Σ_k |coef_{l−1,k}|·steepest_k·D_{l−1}.
template <class T> class Paces {
    using V = typename Simd<T>::Vector;

  public:
    explicit Paces(const PaddedCascade<T> &phi) : memory_(phi.stride * int64_t(sizeof(T))) {
        for (int64_t j = 0; memory_.ok() && j < phi.stride; j += Simd<T>::lanes)
            store(data() + j, pace(phi, {phi.data() + j, phi.stride}));
    }
    bool ok() const { return memory_.ok(); }
    T *data() const { return piece<T>(memory_.at(0), 0); }

  private:
    static V pace(const PaddedCascade<T> &phi, const UnitsParameters<T> &parameter) {
        V slope = {}, most = {};
        T sharpness = 0;
        for (int l = 0; l < phi.index.layers; ++l) {
            V gain = {};
            for (int k = 0; k < phi.terms; ++k)
                with_basis(phi.basis[k], [&](auto b) {
                    if (l > 0)
                        gain += T(b.steepest) * absolute(parameter(phi.index.coef(l - 1, k)));
                    sharpness = sharpness < T(b.sharpness) ? T(b.sharpness) : sharpness;
                });
            slope = l > 0 ? absolute(parameter(phi.index.scale(l))) + gain * slope
                          : absolute(parameter(phi.index.scale(l)));
            most = maximum(slope, most);
        }
        return sharpness * most;
    }

    Workspace memory_;
};

// The points of one hidden unit for up to kListed rows, in the order of their rules.
template <class T> class NodeList {
    using V = typename Simd<T>::Vector;
    typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(alignof(T)), may_alias));
    static constexpr int lanes = Simd<T>::lanes;
    // Vectors that go through the cascade together, padding included.
    static constexpr int together = kInterleaved * lanes;

  public:
    // Values in the memory for points, and in that for weights.
    static int64_t room(const PotentialRules<T> &rules) {
        return round_up(kListed * rules.rules[rules.count - 1].count + 2, together);
    }

    NodeList(const PotentialRules<T> &rules, T *points) : rules_(rules), points_(points) {}

    // u: the rows' values, `stride` apart.
    void list(const T *u, int64_t stride, int64_t rows, T pace) {
        for (int64_t i = 0; i < kListed; ++i)
            u_[i] = i < rows ? u[i * stride] : 0;
        sort(rows, pace);
        size_ = each_row([&](const NodeRule<T> &rule, int row, T *at) {
            for (int n = 0; n < rule.count; n += 4)
                four(at + n) = u_[row] * four(rule.nodes + n);
        });
        pad(points_);
    }

    // to: room for the weights of the points, the rows' own of which are weight[row]·u.
    void list_weights(const T *weight, T *to) const {
        each_row([&](const NodeRule<T> &rule, int row, const T *at) {
            const T own = weight[row] * u_[row];
            for (int n = 0; n < rule.count; n += 4)
                four(to + (at - points_) + n) = own * four(rule.weights + n);
        });
        pad(to);
    }

    // body(offset) for every block of kInterleaved vectors.
    template <class F> GRADNETS_INLINE void each_block(const F &body) const {
        for (int64_t at = 0; at < size_; at += together)
            body(at);
    }

    // sums[row] += u Σ_n weights_n·points_n, the points having become φ there.
    void add_integrals(double *sums) const {
        each_row([&](const NodeRule<T> &rule, int row, const T *at) {
            const int whole = rule.count & ~3;
            Four sum = four(rule.weights) * four(at);
            for (int n = 4; n < whole; n += 4)
                sum += four(rule.weights + n) * four(at + n);
            if (whole < rule.count) { // the next row begins after two
                sum[0] += rule.weights[whole] * at[whole];
                sum[1] += rule.weights[whole + 1] * at[whole + 1];
            }
            sums[row] += double(u_[row] * ((sum[0] + sum[1]) + (sum[2] + sum[3])));
        });
    }

  private:
    static Four &four(T *p) { return *reinterpret_cast<Four *>(p); }
    static const Four &four(const T *p) { return *reinterpret_cast<const Four *>(p); }

    void pad(T *p) const { fill_zero(p + size_, round_up(size_, together) - size_); }

    // body(rule, row, its points); returns how many points there are.
    template <class F> GRADNETS_INLINE int64_t each_row(const F &body) const {
        T *at = points_;
        for (int r = 0, i = 0; r < rules_.count; ++r) {
            const NodeRule<T> rule = rules_.rules[r];
            for (const int end = end_[r]; i < end; ++i, at += rule.count)
                body(rule, order_[i], at);
        }
        return at - points_;
    }

    void sort(int64_t rows, T pace) {
        using I = typename Simd<T>::Integers;
        alignas(64) I number[kListed / lanes]; // of the row's rule: how many do not reach, none of which reaches NaN
        for (int i = 0; i < kListed; i += lanes) {
            const V distance = absolute(load(u_ + i)) * pace;
            I beyond = {};
            for (int r = 0; r + 1 < rules_.count; ++r)
                beyond -= ~(distance <= broadcast<V>(rules_.rules[r].reach));
            number[i / lanes] = beyond;
        }
        int first[kMostRules] = {};
        const auto rule_of = [&](int64_t i) { return number[i / lanes][i % lanes]; };
        for (int64_t i = 0; i < rows; ++i)
            ++first[rule_of(i)];
        for (int r = 0, before = 0; r < rules_.count; ++r) {
            const int count = first[r];
            first[r] = before;
            end_[r] = before += count;
        }
        for (int64_t i = 0; i < rows; ++i)
            order_[first[rule_of(i)]++] = int(i);
    }

    const PotentialRules<T> &rules_;
    T *const points_;
    int64_t size_ = 0;
    T u_[kListed];
    int order_[kListed], end_[kMostRules];
};

} // namespace gradnets::GRADNETS_ISA
