// φ, φ' and ∂φ/∂θ of the cascade (common.h) on blocks of N vectors in registers: the elementwise middle of the ridge
// family.  The vectors of a block share their parameters: they are N rows of the same hidden units, or N vectors of
// rows of one hidden unit.
#pragma once

#include "activations_gen.h"
#include "pipeline.h"

namespace gradnets::GRADNETS_ISA {

// The numbers of a hidden unit's parameters: scale [layers], shift [layers], coef [layers, terms].  Number n of unit j
// lies at data[n·stride + j].
struct ParameterIndex {
    int layers, terms;
    bool heads; // the layers are heads: none takes what another passes on, and φ is the sum of what they pass on
    int scale(int l) const { return l; }
    int shift(int l) const { return layers + l; }
    int coef(int l, int k) const { return 2 * layers + l * terms + k; }
    int count() const { return layers * (2 + terms); }
    // Whether ∫_0^u φ is a sum of antiderivatives.
    bool is_closed() const { return layers == 1 || heads; }
};

// The parameters of a vector of neighbouring hidden units.
template <class T> struct UnitsParameters {
    const T *data;
    int64_t stride;
    typename Simd<T>::Vector operator()(int number) const { return load(data + number * stride); }
    T at(int number, int lane) const { return data[number * stride + lane]; }
};
// The parameters of one hidden unit, for vectors along the batch.
template <class T> struct UnitParameters {
    const T *data;
    int64_t stride;
    typename Simd<T>::Vector operator()(int number) const {
        return broadcast<typename Simd<T>::Vector>(data[number * stride]);
    }
    T at(int number, int) const { return data[number * stride]; }
};

// Which parameters need a gradient, and where the sums of their gradients lie.
template <class T> struct ParameterGradients {
    T *data;
    int64_t stride;
    bool scale, shift, coef;
    bool any() const { return scale || shift || coef; }
};

template <int N, class V, class T>
GRADNETS_INLINE void add_block(const V (&terms)[N], const ParameterGradients<T> &to, int number) {
    V total = terms[0];
#pragma GCC unroll 8
    for (int i = 1; i < N; ++i)
        total += terms[i];
    T *at = to.data + number * to.stride;
    store(at, load(at) + total);
}

// The basis functions of one layer: a single one known to the compiler, or any mixture.
template <class B> struct SingleBasis {
    template <class F> GRADNETS_INLINE void each(const F &body) const { body(0, B{}); }
};
struct MixedBasis {
    int terms;
    const int *basis;
    template <class F> GRADNETS_INLINE void each(const F &body) const {
        for (int k = 0; k < terms; ++k)
            with_basis(basis[k], [&](auto b) { body(k, b); });
    }
};
// No basis functions, but a spline (spline.h), which has block_value and its like of its own.
struct SplineBases {};
struct tanh_identity_bases {
    template <class F> GRADNETS_INLINE void each(const F &body) const {
        body(0, tanh_basis{});
        body(1, identity_basis{});
    }
};

#define GRADNETS_EACH _Pragma("GCC unroll 8") for (int i = 0; i < N; ++i)

// z_l = scale_l·u + shift_l + mixed, mixed being what layer l − 1 passed on.
template <int N, class V, class Parameters>
GRADNETS_INLINE void enter_layer(const ParameterIndex &index, int l, const Parameters &parameter, const V (&u)[N],
                                 const V (&mixed)[N], V (&z)[N]) {
    const V scale = parameter(index.scale(l)), shift = parameter(index.shift(l));
    const bool takes = l > 0 && !index.heads;
    GRADNETS_EACH z[i] = takes ? scale * u[i] + shift + mixed[i] : scale * u[i] + shift;
}

// Where sums start: −0 + x is x, −0 too.  A case of its own for the first term would leave it to the compiler whether
// the product of the other terms is rounded before it is added, and that may differ with N.
template <int N, class V> GRADNETS_INLINE void start_sums(V (&sums)[N]) {
    GRADNETS_EACH sums[i] = broadcast<V>(ScalarOf<V>(-0.0));
}

// mixed = Σ_k coef_{l,k}·b_k(z)
template <int N, class V, class Bases, class Parameters>
GRADNETS_INLINE void leave_layer(const ParameterIndex &index, int l, const Bases &bases, const Parameters &parameter,
                                 const V (&z)[N], V (&mixed)[N]) {
    start_sums(mixed);
    bases.each([&](int k, auto b) __attribute__((always_inline)) {
        const V coef = parameter(index.coef(l, k));
        GRADNETS_EACH {
            V value;
            b.value(z[i], value);
            mixed[i] = mixed[i] + coef * value;
        }
    });
}

// u becomes φ(u).
template <int N, class V, class Bases, class Parameters>
GRADNETS_INLINE void block_value(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                 V (&u)[N]) {
    V z[N], mixed[N] = {};
    if (index.layers == 1) { // straight-line code, which stays in registers
        enter_layer(index, 0, parameter, u, mixed, z);
        leave_layer(index, 0, bases, parameter, z, u);
        return;
    }
    V sum[N];
    start_sums(sum);
    for (int l = 0; l < index.layers; ++l) {
        enter_layer(index, l, parameter, u, mixed, z);
        leave_layer(index, l, bases, parameter, z, mixed);
        GRADNETS_EACH sum[i] = sum[i] + mixed[i];
    }
    GRADNETS_EACH u[i] = index.heads ? sum[i] : mixed[i];
}

// Backward through layer l, for delta = ∂S/∂(what layer l passes on): delta becomes ∂S/∂z_l, and passed what layer l
// passes on; to += the gradients of its coefficients.
template <int N, class V, class Bases, class Parameters, class T>
GRADNETS_INLINE void leave_backward(const ParameterIndex &index, int l, const Bases &bases, const Parameters &parameter,
                                    const V (&z)[N], V (&delta)[N], V (&passed)[N], const ParameterGradients<T> &to) {
    V slope[N];
    start_sums(slope);
    start_sums(passed);
    bases.each([&](int k, auto b) __attribute__((always_inline)) {
        const V coef = parameter(index.coef(l, k));
        V value[N];
        GRADNETS_EACH {
            V first;
            b.value_first(z[i], value[i], first);
            slope[i] = slope[i] + coef * first;
            passed[i] = passed[i] + coef * value[i];
        }
        if (to.coef) {
            GRADNETS_EACH value[i] *= delta[i];
            add_block<N>(value, to, index.coef(l, k));
        }
    });
    GRADNETS_EACH delta[i] *= slope[i];
}

// Through z_l = scale_l·u + shift_l + …: du += scale_l·delta, and the gradients of scale and shift.
template <int N, class V, class Parameters, class T>
GRADNETS_INLINE void enter_backward(const ParameterIndex &index, int l, const Parameters &parameter, const V (&u)[N],
                                    const V (&delta)[N], V (&du)[N], const ParameterGradients<T> &to) {
    if (to.shift)
        add_block<N>(delta, to, index.shift(l));
    if (to.scale) {
        V product[N];
        GRADNETS_EACH product[i] = delta[i] * u[i];
        add_block<N>(product, to, index.scale(l));
    }
    const V scale = parameter(index.scale(l));
    GRADNETS_EACH du[i] = du[i] + delta[i] * scale;
}

// u becomes φ(u) and a becomes a·φ'(u); to += a·∂φ/∂θ.  history: layers·N vectors.
template <int N, class V, class Bases, class Parameters, class T>
GRADNETS_INLINE void block_gradient(const ParameterIndex &index, const Bases &bases, const Parameters &parameter,
                                    V (&u)[N], V (&a)[N], const ParameterGradients<T> &to, V *history) {
    V z[N], mixed[N] = {}, phi[N], du[N];
    start_sums(du);
    if (index.layers == 1) { // straight-line code, which stays in registers
        enter_layer(index, 0, parameter, u, mixed, z);
        leave_backward(index, 0, bases, parameter, z, a, phi, to);
        enter_backward(index, 0, parameter, u, a, du, to);
        GRADNETS_EACH {
            u[i] = phi[i];
            a[i] = du[i];
        }
        return;
    }
    if (index.heads) {
        start_sums(phi);
        for (int l = 0; l < index.layers; ++l) {
            V delta[N];
            GRADNETS_EACH delta[i] = a[i];
            enter_layer(index, l, parameter, u, mixed, z);
            leave_backward(index, l, bases, parameter, z, delta, mixed, to);
            enter_backward(index, l, parameter, u, delta, du, to);
            GRADNETS_EACH phi[i] = phi[i] + mixed[i];
        }
        GRADNETS_EACH {
            u[i] = phi[i];
            a[i] = du[i];
        }
        return;
    }
    const int last = index.layers - 1;
    for (int l = 0; l < last; ++l) {
        enter_layer(index, l, parameter, u, mixed, z);
        GRADNETS_EACH history[l * N + i] = z[i];
        leave_layer(index, l, bases, parameter, z, mixed);
    }
    enter_layer(index, last, parameter, u, mixed, z);
    leave_backward(index, last, bases, parameter, z, a, phi, to);
    enter_backward(index, last, parameter, u, a, du, to);
    for (int l = last - 1; l >= 0; --l) {
        GRADNETS_EACH z[i] = history[l * N + i];
        leave_backward(index, l, bases, parameter, z, a, mixed, to);
        enter_backward(index, l, parameter, u, a, du, to);
    }
    GRADNETS_EACH {
        u[i] = phi[i];
        a[i] = du[i];
    }
}

// Calls body(bases) with the mixture's type known where that pays.
template <class F> inline void with_bases(int terms, const int *basis, const F &body) {
    if (basis[0] == kSpline)
        body(SplineBases{});
    else if (terms == 1)
        with_basis(basis[0], [&](auto b) { body(SingleBasis<decltype(b)>{}); });
    else if (terms == 2 && basis[0] == tanh_basis::number && basis[1] == identity_basis::number)
        body(tanh_identity_bases{});
    else
        body(MixedBasis{terms, basis});
}

// The cascade's parameters, each padded with zeros to `stride` values, so that whole vectors may be read; ones where
// the caller gave none.
template <class T> struct PaddedCascade {
    ParameterIndex index;
    int terms;
    const int *basis;
    int64_t stride;
    Workspace memory;

    PaddedCascade(const Cascade<T> &c, int64_t h)
        : index{c.layers, c.terms, c.heads}, terms(c.terms), basis(c.basis), stride(round_up(h, Tile<T>::panel)),
          memory(index.count() * stride * int64_t(sizeof(T))) {
        if (!memory.ok())
            return;
        const T *sources[] = {c.scale, c.shift, c.coef};
        const int64_t counts[] = {c.layers, c.layers, int64_t(c.layers) * c.terms};
        T *to = data();
        for (int s = 0; s < 3; ++s)
            for (int64_t r = 0; r < counts[s]; ++r, to += stride) {
                if (sources[s])
                    __builtin_memcpy(to, sources[s] + r * h, size_t(h) * sizeof(T));
                else
                    for (int64_t j = 0; j < h; ++j)
                        to[j] = 1;
                fill_zero(to + h, stride - h);
            }
    }
    T *data() const { return piece<T>(memory.at(0), 0); }
};

// Operations of a basis function: about 20 forward, 40 backward.
template <class S> inline double basis_flops(const Ridge<S> &p) {
    return p.points.g == nullptr ? 20.0 : 40.0;
}

// dscale, dshift and dcoef [.., h] from the sums of the chunks, [parameter, stride].
template <class S>
inline void finish_cascade(const Ridge<S> &p, const ParameterIndex &index, const Sum<S> *partials, int64_t stride,
                           int64_t chunks, int64_t chunk_stride) {
    Sum<S> *const outputs[] = {p.dscale, p.dshift, p.dcoef};
    const int firsts[] = {index.scale(0), index.shift(0), index.coef(0, 0), index.count()};
    for (int o = 0; o < 3; ++o)
        for (int r = firsts[o]; outputs[o] && r < firsts[o + 1]; ++r)
            reduce_partials(partials + r * stride, chunks, chunk_stride, p.h, outputs[o] + (r - firsts[o]) * p.h);
}

// Hidden units of a block: whole panels, about 128.
template <class T> constexpr int64_t ridge_block() {
    return (128 / Tile<T>::panel > 0 ? 128 / Tile<T>::panel : 1) * Tile<T>::panel;
}

// What the elementwise parts share: the parameters, and the sums of their gradients over a tile's rows.  The sums lie
// in the tile's scratch memory, with the history behind them.
template <class T> struct CascadeStrips {
    using V = typename Simd<T>::Vector;
    const PaddedCascade<T> *phi;
    bool scale, shift, coef; // the gradients that are needed

    static constexpr int64_t block = ridge_block<T>(); // stride of the sums

    bool needs_parameters() const { return scale || shift || coef; }
    const ParameterIndex &index() const { return phi->index; }
    int64_t sums() const { return index().count() * phi->stride; }
    UnitsParameters<T> parameters(int64_t unit) const { return {phi->data() + unit, phi->stride}; }
    ParameterGradients<T> gradients(T *local) const { return {local, block, scale, shift, coef}; }
    V *history(T *local) const { return reinterpret_cast<V *>(local + index().count() * block); }
    int64_t scratch_bytes(int64_t history_vectors) const {
        return (index().count() * block + history_vectors * Simd<T>::lanes) * int64_t(sizeof(T));
    }
    void start_sums(T *local) const { fill_zero(local, index().count() * block); }
    // Adds a tile's sums to its chunk's.
    void add_sums(const HiddenTile<T> &tile, const T *local) const {
        for (int r = 0; r < index().count(); ++r) {
            const T *const here = local + r * block;
            T *const total = tile.sums + r * phi->stride + tile.first_unit;
            for (int64_t j = 0; j < tile.units; ++j)
                total[j] = tile.first_tile ? here[j] : total[j] + here[j];
        }
    }
};

template <class S> inline CascadeStrips<Sum<S>> cascade_strips(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    return {&phi, p.dscale != nullptr, p.dshift != nullptr, p.dcoef != nullptr};
}

// Rows that go through the cascade together: enough to hide the latency of its chain of operations.
static constexpr int kInterleaved = 4;

template <int N> struct Constant {
    static constexpr int value = N;
};

// body(N, i) for every strip, of N rows from the i-th on.
template <class F> GRADNETS_INLINE void each_strip(int64_t rows, const F &body) {
    int64_t i = 0;
    for (; i + kInterleaved <= rows; i += kInterleaved)
        body(Constant<kInterleaved>{}, i);
    for (; i < rows; ++i)
        body(Constant<1>{}, i);
}

// A middle step of the ridge family: strips(tile, local) does the work, local being the memory that CascadeStrips
// divides.
template <class S, class Strips> struct RidgeMiddle final : Middle<Sum<S>> {
    using T = Sum<S>;
    const Ridge<S> &problem;
    const Strips strips;

    RidgeMiddle(const Ridge<S> &ridge, const Strips &work) : problem(ridge), strips(work) {}

    void operator()(const HiddenTile<T> &tile) const override {
        T *const local = piece<T>(tile.scratch, 0);
        const CascadeStrips<T> &cascade = strips.cascade;
        if (cascade.needs_parameters())
            cascade.start_sums(local);
        strips(tile, local);
        if (cascade.needs_parameters())
            cascade.add_sums(tile, local);
    }

    void finish(const T *sums, int64_t chunks, int64_t size) const override {
        if (strips.cascade.needs_parameters())
            finish_cascade(problem, strips.cascade.index(), sums, strips.cascade.phi->stride, chunks, size);
    }
};

// What all pipelines of the ridge family share.  flops: of one basis function; history: vectors behind the sums.
template <class S>
inline Pipeline<S> ridge_pipeline(const Ridge<S> &p, const CascadeStrips<Sum<S>> &cascade, double flops,
                                  int64_t history) {
    const int products = 1 + (p.points.g != nullptr) + (p.points.v != nullptr);
    const int outputs = (p.points.dx != nullptr) + (p.points.dg != nullptr) + (p.points.dv != nullptr);
    const double batch = double(p.batch), d = double(p.d), h = double(p.h);
    Pipeline<S> pipeline;
    pipeline.batch = p.batch;
    pipeline.d = p.d;
    pipeline.hidden = p.h;
    pipeline.block = cascade.block;
    pipeline.most_rows = most_tile_rows(p.d);
    pipeline.points = p.points;
    pipeline.W = p.W;
    pipeline.bias = p.bias;
    pipeline.dW = p.dW;
    pipeline.dbias = p.dbias;
    pipeline.flops =
        2.0 * batch * d * h * (products * (p.dW ? 2 : 1) + outputs) + flops * batch * h * p.phi.layers * p.phi.terms;
    pipeline.sums = cascade.sums();
    pipeline.scratch = cascade.scratch_bytes(history);
    pipeline.threads = p.threads;
    return pipeline;
}

} // namespace gradnets::GRADNETS_ISA
