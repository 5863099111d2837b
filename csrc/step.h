// A training step's parts besides the kernels: the squared error between a forward and a backward pass, and Adam.
#pragma once

#include "float_mode.h"
#include "problems.h"

#include <cmath>
#include <type_traits>

namespace gradnets {

constexpr int64_t kStepParts = 16;

// Calls body(part, first, last) for parts of [0, count), which depend on `count` alone.
template <class F> void each_part(int64_t count, int threads, const F &body) {
    struct Job {
        const F &body;
        int64_t count;
    } job{body, count};
    // Adam's moments of a parameter without gradients decay to subnormal numbers, and stay there.
    const FloatMode mode(FloatMode::without_subnormals());
    parallel_for(
        count < kKeepGil ? 1 : threads, kStepParts,
        [](void *context, int64_t part, int) {
            const Job &of = *static_cast<const Job *>(context);
            of.body(part, of.count * part / kStepParts, of.count * (part + 1) / kStepParts);
        },
        &job);
}

// f becomes (f − target)·2/count, the gradient of the mean of (f − target)², which is returned.
template <class T> T squared_error_of(int64_t count, T *f, const T *target, int threads) {
    constexpr int64_t lanes = 8;
    double sums[kStepParts];
    const T scale = T(2.0 / double(count));
    each_part(count, threads, [&](int64_t part, int64_t first, int64_t last) {
        double sum[lanes] = {};
        for (int64_t i = first; i < last; i += lanes)
            for (int64_t k = 0; k < lanes && i + k < last; ++k) {
                const T error = f[i + k] - target[i + k];
                sum[k] += double(error) * double(error);
                f[i + k] = error * scale;
            }
        sums[part] = 0;
        for (const double one : sum)
            sums[part] += one;
    });
    double total = 0;
    for (const double sum : sums)
        total += sum;
    return T(total / double(count));
}

template <class S> void drop_gradients(Ridge<S> &p) {
    p.dW = nullptr;
    p.dscale = p.dshift = p.dcoef = p.dbias = nullptr;
}

template <class S> void drop_gradients(Modules<S> &p) {
    p.dW = nullptr;
    p.db = p.dtemperature = p.dpositive = p.dnegative = p.dbias = nullptr;
}

// Deep networks have a kernel for it.
template <class S> bool run_family(bool (*kernel)(const Deep<S> &), const Deep<S> &problem) {
    return kernel(problem);
}

// A family's kernel, which has no squared error of its own: that is f, written into dg, and then the backward pass of
// <dg, f> with dg = (f − g)·2/count.
template <class S, class Problem> bool run_family(bool (*kernel)(const Problem &), const Problem &problem) {
    if (problem.quantity != Quantity::squared_error)
        return kernel(problem);
    if constexpr (std::is_same_v<S, Sum<S>>) {
        Problem forward = problem, backward = problem;
        forward.quantity = backward.quantity = Quantity::value;
        forward.points = {};
        forward.points.x = problem.points.x;
        forward.points.dg = problem.points.dg;
        drop_gradients(forward);
        backward.points.g = problem.points.dg;
        backward.points.dg = nullptr;
        backward.points.scalar = nullptr;
        if (!kernel(forward))
            return false;
        *problem.points.scalar =
            squared_error_of(problem.batch * problem.d, problem.points.dg, problem.points.g, problem.threads);
        return kernel(backward);
    }
    return false;
}

// One step of Adam, the `step`-th, on `count` parameters p with gradients g: m and v are the running means of g and g².
template <class T>
void adam(int64_t count, T *p, const T *g, T *m, T *v, int64_t step, double rate, double beta1, double beta2,
          double epsilon, int threads) {
    const T keep1 = T(1 - beta1), keep2 = T(beta2), new2 = T(1 - beta2), eps = T(epsilon);
    const T size = T(rate / (1 - std::pow(beta1, double(step)))),
            root = T(std::sqrt(1 - std::pow(beta2, double(step))));
    each_part(count, threads, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            m[i] += keep1 * (g[i] - m[i]);
            v[i] = keep2 * v[i] + new2 * g[i] * g[i];
            p[i] -= size * m[i] / (std::sqrt(v[i]) / root + eps);
        }
    });
}

} // namespace gradnets
