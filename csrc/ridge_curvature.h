// Divergence and Jacobian of the ridge family: s = φ'(u), and nothing that couples neurons.

// The elementwise part: for a type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeCurvatureStrips {
    using V = typename Simd<T>::Vector;
    const PaddedCascade<T> *phi;
    int64_t block; // stride of the local gradient rows
    bool wants[3]; // the gradients in scale, shift, coef

    // local: null for s alone; else the sums over the rows, then the history.
    __attribute__((noinline)) void operator()(const CurvatureTile<T> &tile, T *local) const {
        with_second_bases(phi->terms, phi->basis, [&](const auto &bases) {
            int64_t i = 0;
            for (; i + kInterleaved <= tile.rows; i += kInterleaved)
                strip<kInterleaved>(tile, bases, i, local);
            for (; i < tile.rows; ++i)
                strip<1>(tile, bases, i, local);
        });
    }

  private:
    template <int N, class Bases>
    void strip(const CurvatureTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const NeuronVector<T> parameters{phi->data() + tile.first_neuron + j, phi->stride};
            const int64_t at = row * tile.stride + j;
            V u[N], q[N], slope[N] = {};
            GRADNETS_EACH u[i] = load(tile.u + at + i * tile.stride);
            if (!local) {
                block_slope<N>(phi->rows, bases, parameters, u);
                GRADNETS_EACH store(tile.s + at + i * tile.stride, u[i]);
                continue;
            }
            GRADNETS_EACH q[i] = load(tile.q + at + i * tile.stride);
            const GradientRows<T> to{local + j, block, wants[0], wants[1], wants[2]};
            block_second<N>(phi->rows, bases, parameters, u, q, slope, to,
                            reinterpret_cast<V *>(local + phi->rows.count() * block));
            GRADNETS_EACH {
                store(tile.u + at + i * tile.stride, u[i]);
                store(tile.s + at + i * tile.stride, slope[i]);
            }
        }
    }
};

template <class S> struct RidgeCurvature {
    using T = Sum<S>;
    const Ridge<S> *problem;
    RidgeCurvatureStrips<T> strips;

    static int64_t scratch_bytes(const CascadeRows &rows, int64_t block) {
        return (rows.count() * block + 2 * rows.layers * kInterleaved * Simd<T>::lanes) * int64_t(sizeof(T));
    }

    void value(const CurvatureTile<T> &tile) const { strips(tile, nullptr); }

    void gradient(const CurvatureTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        fill_zero(local, strips.phi->rows.count() * strips.block);
        strips(tile, local);
        add_local_sums(tile, local, strips.phi->rows.count(), strips.block, strips.phi->stride);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        finish_cascade(*problem, strips.phi->rows, partials, strips.phi->stride, chunks, size);
    }
};

template <class S> bool ridge_curvature(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    constexpr int64_t block = ridge_block<Sum<S>>();
    Curvature<S> curvature{};
    curvature.batch = p.batch;
    curvature.d = p.d;
    curvature.hidden = p.h;
    curvature.block = block;
    curvature.rows = &p.rows;
    curvature.W = p.W;
    curvature.dW = p.dW;
    curvature.most_rows = curvature.traces() ? (p.d > 512 ? 66 : 96) : Tile<Sum<S>>::rows;
    curvature.flops = double(p.batch) * double(p.h) *
                      (curvature_flops(curvature) + (curvature.backward() ? 80.0 : 20.0) * phi.rows.layers * phi.terms);
    curvature.sums = phi.rows.count() * phi.stride;
    curvature.scratch = RidgeCurvature<S>::scratch_bytes(phi.rows, block);
    curvature.threads = p.threads;
    const RidgeCurvatureStrips<Sum<S>> strips{
        &phi, block, {p.dscale != nullptr, p.dshift != nullptr, p.dcoef != nullptr}};
    CurvatureRun<S, RidgeCurvature<S>> run(curvature, {&p, strips});
    return run.run();
}
