// Divergence and Jacobian of the ridge family: s = φ'(u), and nothing that couples neurons.

// The elementwise part: for a type of sums, not of storage, so that there are few copies.
template <class T> struct RidgeCurvatureStrips {
    using V = typename Simd<T>::Vector;
    CascadeStrips<T> cascade;

    // local: null for s alone; else the sums over the rows, then the history.
    __attribute__((noinline)) void operator()(const CurvatureTile<T> &tile, T *local) const {
        with_second_bases(cascade.phi->terms, cascade.phi->basis, [&](const auto &bases) {
            each_strip(tile.rows, [&](auto n, int64_t i) { strip<decltype(n)::value>(tile, bases, i, local); });
        });
    }

  private:
    template <int N, class Bases>
    void strip(const CurvatureTile<T> &tile, const Bases &bases, int64_t row, T *local) const {
        for (int64_t j = 0; j < tile.width; j += Simd<T>::lanes) {
            const NeuronVector<T> parameters = cascade.parameters(tile.first_neuron + j);
            const int64_t at = row * tile.stride + j;
            V u[N], q[N], slope[N] = {};
            GRADNETS_EACH u[i] = load(tile.u + at + i * tile.stride);
            if (!local) {
                block_slope<N>(cascade.rows(), bases, parameters, u);
                GRADNETS_EACH store(tile.s + at + i * tile.stride, u[i]);
                continue;
            }
            GRADNETS_EACH q[i] = load(tile.q + at + i * tile.stride);
            block_second<N>(cascade.rows(), bases, parameters, u, q, slope, cascade.gradients(local + j),
                            cascade.history(local));
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

    void value(const CurvatureTile<T> &tile) const { strips(tile, nullptr); }

    void gradient(const CurvatureTile<T> &tile) const {
        T *const local = piece<T>(tile.scratch, 0);
        strips.cascade.start_sums(local);
        strips(tile, local);
        strips.cascade.add_sums(tile, local);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        finish_cascade(*problem, strips.cascade.rows(), partials, strips.cascade.phi->stride, chunks, size);
    }
};

template <class S> bool ridge_curvature(const Ridge<S> &p, const PaddedCascade<Sum<S>> &phi) {
    const CascadeStrips<Sum<S>> cascade = cascade_strips(p, phi);
    Curvature<S> curvature{};
    curvature.batch = p.batch;
    curvature.d = p.d;
    curvature.hidden = p.h;
    curvature.block = cascade.block;
    curvature.rows = &p.rows;
    curvature.W = p.W;
    curvature.dW = p.dW;
    curvature.most_rows = curvature.traces() ? (p.d > 512 ? 66 : 96) : Tile<Sum<S>>::rows;
    curvature.flops = double(p.batch) * double(p.h) *
                      (curvature_flops(curvature) + (curvature.backward() ? 80.0 : 20.0) * phi.rows.layers * phi.terms);
    curvature.sums = cascade.sums();
    curvature.scratch = cascade.scratch_bytes(2 * phi.rows.layers * kInterleaved);
    curvature.threads = p.threads;
    CurvatureRun<S, RidgeCurvature<S>> run(curvature, {&p, {cascade}});
    return run.run();
}
