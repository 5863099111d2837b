// The ridge family's second order on the pipeline.  With q_j the weight of φ'_j(u_j) in S, every such scalar has the
// tile U = q·φ''(u) and the parameters' gradient Σ_rows q·∂φ'/∂θ:
//   derivative:  S = <g, J(x) v> = Σ_j φ'_j a_j p_j,   q = a·p,            A = φ'·p,  P = φ'·a
//   divergence:  S = Σ_rows weight·Σ_j φ'_j |w_j|²,    q = weight·|w|²,    dW_j gets 2 w_j Σ_rows weight·φ'_j besides
// and the potential, S = Σ_rows weight·Σ_j ∫_0^{u_j} φ_j, U = weight·φ(u).

// The elementwise part: for a type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeScalarStrips {
    using V = typename Simd<T>::Vector;
    static constexpr int lanes = Simd<T>::lanes;
    Scalar scalar;
    const PaddedCascade<T> *phi;
    const PotentialRules *rules;
    const T *norms;     // |w_j|², padded with zeros
    const T *weight;    // of each row
    int64_t block;      // stride of the local gradient rows
    bool wants[3];      // the gradients in scale, shift, coef
    bool wants_results; // F(x) or tr J(x) rather than gradients

    int64_t history() const { return (phi->rows.count() + 1) * block; } // after the local sums

    __attribute__((noinline)) void operator()(const HiddenTile<T> &tile, T *local) const {
        if (scalar == Scalar::potential) { // one vector at a time: its many formulas for each basis make large code
            for (int64_t i = 0; i < tile.rows; ++i)
                wants_results ? potential_results(tile, i) : potential_gradients(tile, i, local);
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
    MixedBasis mixed_basis() const { return {phi->terms, phi->basis}; }

    // Past the last neuron there may be a NaN, where x is infinite.
    static V neurons_only(V v, int64_t valid) {
        T values[lanes];
        store(values, v);
        return valid < lanes ? load_part(values, valid) : v;
    }

    template <int N, class Bases>
    void strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        if (wants_results)
            return divergence_results<N>(tile, bases, row);
        for (int64_t j = 0; j < tile.width; j += lanes)
            if (scalar == Scalar::derivative)
                derivative_block<N>(tile, bases, row, j, local);
            else
                divergence_block<N>(tile, bases, row, j, local);
    }

    template <int N, class Bases>
    void divergence_results(const HiddenTile<T> &tile, const Bases &bases, int64_t row) const {
        V total[N] = {};
        for (int64_t j = 0; j < tile.width; j += lanes) {
            V u[N];
            GRADNETS_EACH u[i] = load(tile.u + (row + i) * tile.stride + j);
            block_slope<N>(phi->rows, bases, parameters(tile, j), u);
            const V norm = load(norms + tile.first_neuron + j);
            GRADNETS_EACH total[i] += neurons_only(u[i] * norm, tile.neurons - j);
        }
        GRADNETS_EACH tile.row_sums[row + i] += horizontal_sum<T>(total[i]);
    }

    void potential_results(const HiddenTile<T> &tile, int64_t row) const {
        V total = {};
        for (int64_t j = 0; j < tile.width; j += lanes) {
            V u[1] = {load(tile.u + row * tile.stride + j)};
            block_potential<1>(phi->rows, mixed_basis(), parameters(tile, j), *rules, phi->basis, u);
            total += neurons_only(u[0], tile.neurons - j);
        }
        tile.row_sums[row] += horizontal_sum<T>(total);
    }

    void potential_gradients(const HiddenTile<T> &tile, int64_t row, T *local) const {
        const V weights[1] = {broadcast<V>(weight[tile.first_row + row])};
        for (int64_t j = 0; j < tile.width; j += lanes) {
            T *const u_at = tile.u + row * tile.stride + j;
            V u[1] = {load(u_at)};
            const GradientRows<T> to = gradient_rows(local + j);
            if (to.any())
                block_potential_gradient<1>(phi->rows, mixed_basis(), parameters(tile, j), *rules, phi->basis, u,
                                            weights, to, reinterpret_cast<V *>(local + history()),
                                            local + history() + phi->rows.layers * lanes);
            block_value<1>(phi->rows, mixed_basis(), parameters(tile, j), u);
            store(u_at, weights[0] * u[0]);
        }
    }

    template <int N, class Bases>
    void derivative_block(const HiddenTile<T> &tile, const Bases &bases, int64_t row, int64_t j, T *local) const {
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

    template <int N, class Bases>
    void divergence_block(const HiddenTile<T> &tile, const Bases &bases, int64_t row, int64_t j, T *local) const {
        T *const u_at = tile.u + row * tile.stride + j;
        const V norm = load(norms + tile.first_neuron + j);
        V u[N], q[N], slope[N] = {};
        GRADNETS_EACH {
            u[i] = load(u_at + i * tile.stride);
            q[i] = weight[tile.first_row + row + i] * norm;
        }
        block_second<N>(phi->rows, bases, parameters(tile, j), u, q, slope, gradient_rows(local + j),
                        reinterpret_cast<V *>(local + history()));
        GRADNETS_EACH {
            store(u_at + i * tile.stride, u[i]);
            slope[i] *= weight[tile.first_row + row + i];
        }
        add_block<N>(slope, gradient_rows(local + j), phi->rows.count());
    }
};

template <class S> struct RidgeScalars {
    using T = Sum<S>;
    const Ridge<S> *problem;
    const PaddedCascade<T> *phi;
    RidgeScalarStrips<T> strips;

    // Rows of sums over the batch: the parameters' gradients, then Σ weight·φ'.
    static int sum_rows(const CascadeRows &rows) { return rows.count() + 1; }
    static int64_t scratch_bytes(const CascadeRows &rows, int64_t block) {
        return (sum_rows(rows) * block + (2 * rows.layers * kInterleaved + rows.count()) * Simd<T>::lanes) *
               int64_t(sizeof(T));
    }

    void operator()(const HiddenTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        const int count = sum_rows(phi->rows);
        fill_zero(local, count * strips.block);
        strips(tile, local);
        for (int r = 0; r < count; ++r) {
            T *const total = tile.sums + r * phi->stride + tile.first_neuron, *const here = local + r * strips.block;
            for (int64_t j = 0; j < tile.neurons; ++j)
                total[j] = tile.first_tile ? here[j] : total[j] + here[j];
        }
    }

    void finish(T *partials, int64_t chunks, int64_t size) const {
        const Ridge<S> &p = *problem;
        finish_cascade(p, phi->rows, partials, phi->stride, chunks, size);
        if (p.scalar != Scalar::divergence || !p.dW)
            return;
        T *const slopes = partials + phi->rows.count() * phi->stride;
        reduce_partials(slopes, chunks, size, p.h, slopes);
        for (int64_t j = 0; j < p.h; ++j)
            for (int64_t c = 0; c < p.d; ++c) {
                S &to = p.dW[j * p.d + c];
                narrow(widen(to) + 2 * slopes[j] * widen(p.W[j * p.d + c]), to);
            }
    }
};

// |w_j|², padded with zeros to whole vectors; null without memory.
template <class S> struct WeightNorms {
    using T = Sum<S>;
    Workspace memory;

    explicit WeightNorms(const Ridge<S> &p) : memory(round_up(p.h, Tile<T>::panel) * int64_t(sizeof(T))) {
        if (!memory.ok())
            return;
        fill_zero(data(), round_up(p.h, Tile<T>::panel));
        for (int64_t j = 0; j < p.h; ++j)
            for (int64_t c = 0; c < p.d; ++c)
                data()[j] += widen(p.W[j * p.d + c]) * widen(p.W[j * p.d + c]);
    }
    T *data() const { return piece<T>(memory.at(0), 0); }
};

// How much work a basis function is here; a potential of several layers evaluates it at every node.
template <class S> inline double scalar_flops(const Ridge<S> &p) {
    return p.scalar == Scalar::potential && p.phi.layers > 1 ? 20.0 * p.rules->panelled.count : 80.0;
}

template <class P, class S> inline bool ridge_scalars_on_pipeline(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    constexpr int64_t block = (128 / Tile<T>::panel > 0 ? 128 / Tile<T>::panel : 1) * Tile<T>::panel;
    const WeightNorms<S> norms(p);
    if (!norms.memory.ok())
        return false;
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
                               RidgeScalars<S>::sum_rows(phi.rows) * phi.stride,
                               RidgeScalars<S>::scratch_bytes(phi.rows, block),
                               p.threads};
    const RidgeScalarStrips<T> strips{p.scalar,
                                      &phi,
                                      p.rules,
                                      norms.data(),
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
