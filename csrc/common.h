// What every translation unit shares: the problems that the kernels solve, as plain pointers and sizes, and the
// services (threads, workspace) that instruction-set-specific units must not implement themselves.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gradnets {

// Storage of 16-bit floating-point numbers; all arithmetic on them is in float.
struct Bf16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

// The type that values of storage S are summed in.
template <class S> struct SumOf {
    using Type = float;
};
template <> struct SumOf<double> {
    using Type = double;
};
template <class S> using Sum = typename SumOf<S>::Type;

// φ for h hidden units: z_0 = scale_0·u + shift_0, z_l = scale_l·u + shift_l + Σ_k coef_{l-1,k}·b_k(z_{l-1}),
// φ = Σ_k coef_{L-1,k}·b_k(z_{L-1}).  scale, shift: [layers, h]; coef: [layers, terms, h]; basis: [terms].
// A null scale or coef stands for ones.
// One layer with the number kSpline for its basis is a linear spline of `terms` knots: spline.h.
constexpr int kSpline = -2;

template <class T> struct Cascade {
    int layers = 1;
    int terms = 1;
    bool heads = false; // φ is the sum of the layers' outputs, each of u alone
    const int *basis = nullptr;
    const T *scale = nullptr;
    const T *shift = nullptr;
    const T *coef = nullptr;
};

// Every kernel computes gradients of one scalar S of the points x, g and v: dg is the result of a forward pass, the
// other gradients are those of a backward pass.
//   value:                S = <g, f(x)>, so that dg = f(x)
//   jvp:                  S = <g, J(x) v>, so that dg = J(x) v
//   potential:            S = Σ_rows weight·F(x)
//   divergence:           S = Σ_rows weight·tr J(x)
//   jacobian:             S = Σ_rows <g, J(x)>, g a matrix for each row, so that dg = J(x)
//   value_and_potential:  S = <g, f(x)> + Σ_rows weight·F(x), of modules
//   squared_error:        S = the mean of (f(x) − g)², dg = ∂S/∂f, and scalar, one number, is S.  A kernel of deep
//                         networks; of the others step.h makes it of two passes of `value`.
enum class Quantity : int { value, jvp, potential, divergence, jacobian, value_and_potential, squared_error };
constexpr const char *kQuantityNames[] = {
    "value", "jvp", "potential", "divergence", "jacobian", "value_and_potential", "squared_error"};
constexpr int kQuantities = 7;

// The points x, g and v with their gradients, [batch, d] contiguous; for `jacobian` g and dg are [batch, d, d].  A null
// gradient is not computed.  g may be null when dg is the only gradient; weight and scalar are [batch].
template <class S> struct Points {
    const S *x = nullptr, *g = nullptr, *v = nullptr;
    S *dx = nullptr, *dg = nullptr, *dv = nullptr;
    const Sum<S> *weight = nullptr; // of a backward pass
    Sum<S> *scalar = nullptr;       // F(x) or tr J(x) of each row, of a forward pass
};

// ∫_0^u y(t) dt ≈ u Σ_n weights_n·y(nodes_n·u).
struct Quadrature {
    int count;
    const double *nodes, *weights;
};

// The same for |u|·pace <= reach (cascade_nodes.h); `count` is even, and arrays end in zeros to a multiple of 4.
template <class T> struct NodeRule {
    T reach;
    int count;
    const T *nodes, *weights;
};
constexpr int kMostRules = 16;

// How potentials are integrated: where closed forms cancel by `single`, in cascades by the first of `rules` that
// reaches, or the last, which is the largest.
template <class T> struct PotentialRules {
    Quadrature single;
    int count;
    const NodeRule<T> *rules;
};

// f = φ(x Wᵀ) W + bias.  W: [h, d] contiguous; bias: [d] or null, added to dg of `value`.
template <class S> struct Ridge {
    using T = Sum<S>;
    Quantity quantity;
    int64_t batch, d, h;
    Cascade<T> phi;
    Points<S> points;
    const S *W;
    const T *bias;
    S *dW;
    T *dscale, *dshift, *dcoef, *dbias;
    const PotentialRules<T> *rules; // of `potential`, to which the caller adds the bias's part
    int threads;
};

// f = Kᵀφ(K∗x): `ridge` with a convolution, W being K [h, channels, filter], d all values of an image, and the bias
// [channels]. sizes: of an image [channels, sizes] and of the filters along three axes; 1 where there are fewer.
template <class S> struct Conv {
    Ridge<S> ridge;
    int64_t channels, sizes[3], filter[3];
    bool circular; // rather than zeros around the image
};

// Convolutions of images alone, of which `result` is the one that is left out of x [batch, channels, sizes], y [batch,
// filters, sizes] and K [filters, channels, filter].
//   convolved: y = K∗x;   adjoint: x = Kᵀy;   filters: dK, the gradient of <y, K∗x> in K
enum class Linear { convolved, adjoint, filters };
template <class S> struct LinearConv {
    Linear which;
    int64_t batch, channels, filters, sizes[3], filter[3];
    bool circular;
    const S *x, *y, *K;
    S *result;
    int threads;
};

// log det A [batch] and, where `inverse` is not null, weight·A⁻¹ [batch, d, d] of symmetric positive definite A [batch,
// d, d]; the logarithm is NaN, and the inverse unspecified, where A is not positive definite.  Only A's lower triangle
// is read.  weight: [batch], or null for ones.
template <class T> struct Cholesky {
    int64_t batch, d;
    const T *A, *weight;
    T *logdet, *inverse;
    int threads;
};

constexpr int kSoftmax = -1; // in place of a basis function's number

// f = bias + Σ_m W_mᵀ s_m(z_m).  W: [count, h, d]; b: [count, h]; temperature, positive and negative: [count].
//   softmax:      z = temperature·(W x + b),  s = positive·softmax(z) − negative·softmax(−z); negative may be null
//   transformed:  z = W x + b,  s = positive·ρ'(Σ_j Ψ(z_j))·σ(z), σ = basis, Ψ its antiderivative, ρ = transform
template <class S> struct Modules {
    using T = Sum<S>;
    Quantity quantity;
    int64_t batch, d, h, count;
    int basis, transform;
    Points<S> points;
    const S *W;
    const T *b, *temperature, *positive, *negative, *bias;
    S *dW;
    T *db, *dtemperature, *dpositive, *dnegative, *dbias;
    int threads;
};

// The gradient of the energy F = <c, a_L>, a_l = σ_l(V_l a_{l−1} + A_l x + Σ_r (Q_lr x)² + b_l): deep_shape.h.
// theta: for each layer A (h, d), V (h, h_{l−1}), Q (rank, h, d) and b (h), as far as there are such, then c (h_L). The
// first layer has A and no V, the others V, and A with an input skip.  bias: [d] or null, added to dg of `value`.
template <class S> struct Deep {
    using T = Sum<S>;
    Quantity quantity;
    int64_t batch, d;
    int layers;
    const int64_t *widths; // h_l
    const int *basis;      // the number of σ_l
    bool input_skip, residual;
    int64_t rank; // of the quadratic skip, 0 without
    Points<S> points;
    const S *theta;
    const T *bias;
    S *dtheta;
    T *dbias;
    T *kept; // null, or [batch, 2 Σ h_l]: what a forward pass of f leaves for the backward pass
    int threads;
};

// One instruction set's kernels for one storage type.  A kernel that cannot get its workspace returns false.
template <class S> struct Kernels {
    bool (*ridge)(const Ridge<S> &);
    bool (*modules)(const Modules<S> &);
    bool (*deep)(const Deep<S> &);
    bool (*conv)(const Conv<S> &);
    bool (*linear_conv)(const LinearConv<S> &);
    bool (*cholesky)(const Cholesky<Sum<S>> &);
};

// The names of the basis functions, or of the transforms, in the order of their numbers.
struct Names {
    const char *const *names;
    int count;
};

// out[i] = function number `function` of the table, at x[i].  which: of a basis function 0 its antiderivative, 1 its
// value, 2 to 4 its derivatives; of a transform 0 its value, 1 to 3 its derivatives.
template <class T> using Evaluate = void (*)(int function, int which, int64_t count, const T *x, T *out);

struct InstructionSet {
    const char *name;
    bool (*supported)();
    Names basis;
    Names transforms;
    Kernels<float> f32;
    Kernels<double> f64;
    Kernels<Bf16> bf16;
    Kernels<Half> f16;
    Evaluate<float> evaluate_f32;
    Evaluate<double> evaluate_f64;
    Evaluate<double> evaluate_transform;
};

// Runs task(context, index, worker) for every index in [0, count), on at most `threads` threads; worker < threads.
void parallel_for(int threads, int64_t count, void (*task)(void *context, int64_t index, int worker), void *context);

// 64-byte aligned memory, or null.  Debug builds fill it with NaN, to expose reads of what was never written.
void *workspace_allocate(size_t bytes);
void workspace_free(void *memory);

} // namespace gradnets
