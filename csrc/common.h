// What every translation unit shares: the problems that the kernels solve, as plain pointers and sizes, and the
// services (threads, workspace) that instruction-set-specific units must not implement themselves.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gradnets {

// φ for h neurons: z_0 = scale_0·u + shift_0, z_l = scale_l·u + shift_l + Σ_k coef_{l-1,k}·b_k(z_{l-1}),
// φ = Σ_k coef_{L-1,k}·b_k(z_{L-1}).  scale, shift: [layers, h]; coef: [layers, terms, h]; basis: [terms].
template <class T> struct Cascade {
    int layers = 1;
    int terms = 1;
    const int *basis = nullptr;
    const T *scale = nullptr;
    const T *shift = nullptr;
    const T *coef = nullptr;
};

// f = φ(x Wᵀ) W + bias.  x, out: [batch, d] contiguous; W: [h, d] contiguous; bias: [d] or null.
template <class T> struct RidgeForward {
    int64_t batch, d, h;
    Cascade<T> phi;
    const T *x;
    const T *W;
    const T *bias;
    T *out;
    int threads;
};

// The gradients of <g, f>.  Every output may be null, and is then not computed.
template <class T> struct RidgeBackward {
    int64_t batch, d, h;
    Cascade<T> phi;
    const T *g;
    const T *x;
    const T *W;
    T *dx;
    T *dW;
    T *dscale;
    T *dshift;
    T *dcoef;
    T *dbias;
    int threads;
};

// f = bias + Σ_m W_mᵀ s_m(z_m).  W: [modules, h, d]; b: [modules, h]; the per-module scalars: [modules].
// softmax (basis < 0):  z = temperature·(W x + b),  s = positive·softmax(z) − negative·softmax(−z), negative may be
// null; transformed sums:     z = W x + b,  s = positive·ρ'(Σ_j Ψ(z_j))·σ(z), σ = basis, Ψ its antiderivative, ρ =
// transform.
template <class T> struct Modules {
    int64_t count;
    int basis;
    int transform;
    const T *W;
    const T *b;
    const T *temperature;
    const T *positive;
    const T *negative;
};

template <class T> struct ModulesForward {
    int64_t batch, d, h;
    Modules<T> modules;
    const T *x;
    const T *bias;
    T *out;
    int threads;
};

// The gradients of <g, f>.  dx, dW and dbias may be null, and are then not computed.
template <class T> struct ModulesBackward {
    int64_t batch, d, h;
    Modules<T> modules;
    const T *g;
    const T *x;
    T *dx;
    T *dW;
    T *db;
    T *dtemperature;
    T *dpositive;
    T *dnegative;
    T *dbias;
    int threads;
};

// One instruction set's kernels.  A kernel that cannot get its workspace returns false.
template <class T> struct Kernels {
    bool (*ridge_forward)(const RidgeForward<T> &);
    bool (*ridge_backward)(const RidgeBackward<T> &);
    bool (*modules_forward)(const ModulesForward<T> &);
    bool (*modules_backward)(const ModulesBackward<T> &);
    // which: 0 antiderivative, 1 value, 2 first derivative, 3 second derivative.
    void (*evaluate_basis)(int basis, int which, int64_t count, const T *x, T *out);
};

// The names of the basis functions, or of the transforms, in the order of their numbers.
struct Names {
    const char *const *names;
    int count;
};

struct InstructionSet {
    const char *name;
    bool (*supported)();
    Names basis;
    Names transforms;
    Kernels<float> f32;
    Kernels<double> f64;
};

// Runs task(context, index, worker) for every index in [0, count), on at most `threads` threads; worker < threads.
void parallel_for(int threads, int64_t count, void (*task)(void *context, int64_t index, int worker), void *context);

// 64-byte aligned memory, or null.  Debug builds fill it with NaN, to expose reads of what was never written.
void *workspace_allocate(size_t bytes);
void workspace_free(void *memory);

} // namespace gradnets
