// The ridge family's second order on the pipeline.  With q_j the weight of φ'_j(u_j) in S, every such scalar has the
// tile U = q·φ''(u) and the parameters' gradient Σ_rows q·∂φ'/∂θ:
//   derivative:  S = <g, J(x) v> = Σ_j φ'_j a_j p_j,   q = a·p,            A = φ'·p,  P = φ'·a
//   divergence:  S = Σ_rows weight·Σ_j φ'_j |w_j|²,    q = weight·|w|²,    dW_j gets 2 w_j Σ_rows weight·φ'_j besides

template <class S> struct RidgeScalars {
    using T = Sum<S>;
    using V = typename Simd<T>::Vector;
    const Ridge<S> *problem;
    const PaddedCascade<T> *phi;
    const T *norms; // |w_j|², padded with zeros
    int64_t block;  // stride of the local gradient rows

    // Rows of sums over the batch: the parameters' gradients, then Σ weight·φ'.
    static int sum_rows(const CascadeRows &rows) { return rows.count() + 1; }
    static int64_t scratch_bytes(const CascadeRows &rows, int64_t block) {
        return (sum_rows(rows) * block + 2 * rows.layers * kInterleaved * Simd<T>::lanes) * int64_t(sizeof(T));
    }

    void operator()(const HiddenTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        const int count = sum_rows(phi->rows);
        fill_zero(local, count * block);
        with_second_bases(phi->terms, phi->basis, [&](const auto &bases) { strips(tile, bases, local); });
        for (int r = 0; r < count; ++r) {
            T *const total = tile.sums + r * phi->stride + tile.first_neuron;
            for (int64_t j = 0; j < tile.neurons; ++j)
                total[j] = tile.first_tile ? local[r * block + j] : total[j] + local[r * block + j];
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

  private:
    template <class Bases> void strips(const HiddenTile<T> &tile, const Bases &bases, T *local) const {
        int64_t i = 0;
        for (; i + kInterleaved <= tile.rows; i += kInterleaved)
            strip<kInterleaved>(tile, bases, i, local);
        for (; i < tile.rows; ++i)
            strip<1>(tile, bases, i, local);
    }

    template <int N, class Bases>
    void strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        if (problem->rows.result)
            divergence_strip<N>(tile, bases, row);
        else
            gradient_strip<N>(tile, bases, row, local);
    }

    template <int N, class Bases>
    void divergence_strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row) const {
        V total[N] = {};
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const NeuronVector<T> parameter{phi->data() + tile.first_neuron + j, phi->stride};
            const V norm = load(norms + tile.first_neuron + j);
            V u[N];
            GRADNETS_EACH u[i] = load(tile.u + (row + i) * tile.stride + j);
            block_slope<N>(phi->rows, bases, parameter, u);
            // Past the last neuron a slope may be NaN, where x is infinite.
            for (int64_t lane = tile.neurons - j; lane < Simd<T>::lanes; ++lane)
                GRADNETS_EACH u[i][lane] = 0;
            GRADNETS_EACH total[i] += u[i] * norm;
        }
        GRADNETS_EACH tile.row_sums[row + i] += horizontal_sum<T>(total[i]);
    }

    template <int N, class Bases>
    void gradient_strip(const HiddenTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        const bool derivative = problem->scalar == Scalar::derivative;
        T *const slopes = local + phi->rows.count() * block;
        V *const history = reinterpret_cast<V *>(slopes + block);
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const NeuronVector<T> parameter{phi->data() + tile.first_neuron + j, phi->stride};
            const int64_t at = row * tile.stride + j;
            V u[N], q[N], weight[N] = {}, slope[N] = {};
            GRADNETS_EACH u[i] = load(tile.u + at + i * tile.stride);
            if (derivative) {
                GRADNETS_EACH q[i] = load(tile.a + at + i * tile.stride) * load(tile.p + at + i * tile.stride);
            } else {
                const V norm = load(norms + tile.first_neuron + j);
                GRADNETS_EACH weight[i] = broadcast<V>(problem->rows.weight[tile.first_row + row + i]);
                GRADNETS_EACH q[i] = weight[i] * norm;
            }
            const GradientRows<T> to{local + j, block, problem->dscale != nullptr, problem->dshift != nullptr,
                                     problem->dcoef != nullptr};
            block_second<N>(phi->rows, bases, parameter, u, q, slope, to, history);
            GRADNETS_EACH store(tile.u + at + i * tile.stride, u[i]);
            if (derivative) {
                GRADNETS_EACH {
                    T *const a_at = tile.a + at + i * tile.stride, *const p_at = tile.p + at + i * tile.stride;
                    const V a = load(a_at), p = load(p_at);
                    store(a_at, slope[i] * p);
                    store(p_at, slope[i] * a);
                }
            } else {
                GRADNETS_EACH weight[i] *= slope[i];
                add_block<N>(weight, GradientRows<T>{slopes + j, block, true, true, true}, 0);
            }
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

template <class P, class S> inline bool ridge_scalars_on_pipeline(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    using T = Sum<S>;
    constexpr int64_t block = (128 / Tile<T>::panel > 0 ? 128 / Tile<T>::panel : 1) * Tile<T>::panel;
    const WeightNorms<S> norms(p);
    if (!norms.memory.ok())
        return false;
    const int products = 1 + (p.rows.g != nullptr) + (p.rows.v != nullptr);
    const int outputs = (p.rows.dx != nullptr) + (p.rows.dg != nullptr) + (p.rows.dv != nullptr);
    const double flops = 2.0 * double(p.batch) * double(p.d) * double(p.h) * (products * (p.dW ? 2 : 1) + outputs) +
                         80.0 * double(p.batch) * double(p.h) * phi.rows.layers * phi.rows.terms;
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
    return run_pipeline<P, S>(pipeline, RidgeScalars<S>{&p, &phi, norms.data(), block});
}

template <class S> inline bool ridge_scalars(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<Sum<S>>(p.batch, p.d))
            return ridge_scalars_on_pipeline<Pairs, S>(p, phi);
#endif
    return ridge_scalars_on_pipeline<Plain<Sum<S>>, S>(p, phi);
}
