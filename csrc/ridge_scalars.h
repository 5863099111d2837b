// Scalars of the ridge family on the pipeline:
//   derivative:  S = <g, J(x) v> = Σ_j φ'_j a_j p_j,         U = a·p·φ''(u),  A = φ'·p,  P = φ'·a
//   potential:   S = Σ_rows weight·Σ_j ∫_0^{u_j} φ_j,        U = weight·φ(u)

// The elementwise part: for a type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeScalarStrips {
    using V = typename Simd<T>::Vector;
    static constexpr int lanes = Simd<T>::lanes;
    Scalar scalar;
    const PaddedCascade<T> *phi;
    const PotentialRules *rules;
    const T *weight;    // of each row
    int64_t block;      // stride of the local gradient rows
    bool wants[3];      // the gradients in scale, shift, coef
    bool wants_results; // F(x) rather than gradients

    int64_t history() const { return phi->rows.count() * block; } // after the local sums

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        if (scalar == Scalar::potential && phi->rows.layers == 1) {
            // One vector at a time: the many formulas of each basis make large code.
            for (int64_t i = 0; i < tile.rows; ++i)
                potential<1>(tile, MixedBasis{phi->terms, phi->basis}, i, local);
            return;
        }
        with_second_bases(phi->terms, phi->basis, [&](const auto &bases) {
            int64_t i = 0;
            for (; i + kInterleaved <= tile.rows; i += kInterleaved)
                strip<kInterleaved>(tile, bases, i, local);
            for (; i < tile.rows; ++i)
                strip<1>(tile, bases, i, local);
        });
    }

  private:
    GradientRows<T> gradient_rows(T *local) const { return {local, block, wants[0], wants[1], wants[2]}; }
    NeuronVector<T> parameters(const HiddenTile<T> &tile, int64_t j) const {
        return {phi->data() + tile.first_neuron + j, phi->stride};
    }

    // Past the last neuron there may be a NaN, where x is infinite.
    static V neurons_only(V v, int64_t valid) {
        T values[lanes];
        store(values, v);
        return valid < lanes ? load_part(values, valid) : v;
    }

    template <int N, class Bases>
    void strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        scalar == Scalar::potential ? potential<N>(tile, bases, row, local) : derivative<N>(tile, bases, row, local);
    }

    template <int N, class Bases>
    void potential(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        V total[N] = {};
        for (int64_t j = 0; j < tile.width; j += lanes) {
            T *const u_at = tile.u + row * tile.stride + j;
            V u[N];
            GRADNETS_EACH u[i] = load(u_at + i * tile.stride);
            if (wants_results) {
                integrate<N>(bases, parameters(tile, j), u);
                GRADNETS_EACH total[i] += neurons_only(u[i], tile.neurons - j);
                continue;
            }
            V weights[N];
            GRADNETS_EACH weights[i] = broadcast<V>(weight[tile.first_row + row + i]);
            if (gradient_rows(local).any())
                potential_gradient<N>(bases, parameters(tile, j), u, weights, local, j);
            block_value<N>(phi->rows, bases, parameters(tile, j), u);
            GRADNETS_EACH store(u_at + i * tile.stride, weights[i] * u[i]);
        }
        if (wants_results)
            GRADNETS_EACH tile.row_sums[row + i] += horizontal_sum<T>(total[i]);
    }

    template <int N, class Bases>
    void integrate(const Bases &bases, const NeuronVector<T> &parameter, V (&u)[N]) const {
        if constexpr (N == 1)
            if (phi->rows.layers == 1)
                return closed_potential<N>(phi->rows, parameter, *rules, phi->basis, u);
        quadrature_potential<N>(phi->rows, bases, parameter, rules->panelled, u);
    }

    template <int N, class Bases>
    void potential_gradient(const Bases &bases, const NeuronVector<T> &parameter, const V (&u)[N],
                            const V (&weights)[N], T *local, int64_t j) const {
        const GradientRows<T> to = gradient_rows(local + j);
        if constexpr (N == 1)
            if (phi->rows.layers == 1)
                return closed_potential_gradient<N>(phi->rows, parameter, *rules, phi->basis, u, weights, to);
        T *const scratch = local + history();
        quadrature_potential_gradient<N>(phi->rows, bases, parameter, rules->panelled, u, weights, to,
                                         reinterpret_cast<V *>(scratch),
                                         scratch + phi->rows.layers * kInterleaved * lanes);
    }

    template <int N, class Bases>
    void derivative(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += lanes) {
            const int64_t at = row * tile.stride + j;
            T *const u_at = tile.u + at, *const a_at = tile.a + at, *const p_at = tile.p + at;
            V u[N], q[N], slope[N] = {};
            GRADNETS_EACH {
                u[i] = load(u_at + i * tile.stride);
                q[i] = load(a_at + i * tile.stride) * load(p_at + i * tile.stride);
            }
            block_second<N>(phi->rows, bases, parameters(tile, j), u, q, slope, gradient_rows(local + j),
                            reinterpret_cast<V *>(local + history()));
            GRADNETS_EACH {
                const V a = load(a_at + i * tile.stride), p = load(p_at + i * tile.stride);
                store(u_at + i * tile.stride, u[i]);
                store(a_at + i * tile.stride, slope[i] * p);
                store(p_at + i * tile.stride, slope[i] * a);
            }
        }
    }
};

template <class S> struct RidgeScalars {
    using T = Sum<S>;
    const Ridge<S> *problem;
    const PaddedCascade<T> *phi;
    RidgeScalarStrips<T> strips;

    static int64_t scratch_bytes(const CascadeRows &rows, int64_t block) {
        return (rows.count() * block + (2 * rows.layers * kInterleaved + rows.count()) * Simd<T>::lanes) *
               int64_t(sizeof(T));
    }

    void operator()(const HiddenTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        fill_zero(local, phi->rows.count() * strips.block);
        strips(tile, local);
        add_local_sums(tile, local, phi->rows.count(), strips.block, phi->stride);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        finish_cascade(*problem, phi->rows, partials, phi->stride, chunks, size);
    }
};

// How much work a basis function is here; a potential of several layers evaluates it at every node.
template <class S> inline double scalar_flops(const Ridge<S> &p) {
    return p.scalar == Scalar::potential && p.phi.layers > 1 ? 20.0 * p.rules->panelled.count : 80.0;
}

template <class P, class S> inline bool ridge_scalars_on_pipeline(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    constexpr int64_t block = ridge_block<T>();
    const int products = 1 + (p.rows.g != nullptr) + (p.rows.v != nullptr);
    const int outputs = (p.rows.dx != nullptr) + (p.rows.dg != nullptr) + (p.rows.dv != nullptr);
    const double flops = 2.0 * double(p.batch) * double(p.d) * double(p.h) * (products * (p.dW ? 2 : 1) + outputs) +
                         scalar_flops(p) * double(p.batch) * double(p.h) * phi.rows.layers * phi.rows.terms;
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h,
                               block,
                               p.d > 512 ? 66 : 96,
                               p.rows,
                               p.W,
                               nullptr,
                               p.dW,
                               nullptr,
                               p.rows.v == nullptr,
                               false,
                               flops,
                               phi.rows.count() * phi.stride,
                               RidgeScalars<S>::scratch_bytes(phi.rows, block),
                               p.threads};
    const RidgeScalarStrips<T> strips{p.scalar,
                                      &phi,
                                      p.rules,
                                      p.rows.weight,
                                      block,
                                      {p.dscale != nullptr, p.dshift != nullptr, p.dcoef != nullptr},
                                      p.rows.result != nullptr};
    return run_pipeline<P, S>(pipeline, RidgeScalars<S>{&p, &phi, strips});
}

template <class S> inline bool ridge_scalars(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<Sum<S>>(p.batch, p.d))
            return ridge_scalars_on_pipeline<Pairs, S>(p, phi);
#endif
    return ridge_scalars_on_pipeline<Plain<Sum<S>>, S>(p, phi);
}
