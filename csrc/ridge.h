// The ridge family: GEMM → cascade in cache → GEMM, one pass over the batch, nothing of size batch × h in memory.

template <class T> struct RidgeTiles {
    static constexpr int64_t panel = Tile<T>::panel;
    // About 192 and 128 neurons, in whole panels: flat optima, so one choice serves every shape.
    static constexpr int64_t forward = (192 / panel > 0 ? 192 / panel : 1) * panel;
    static constexpr int64_t backward = (128 / panel > 0 ? 128 / panel : 1) * panel;
};

// W in the two orders that the products read.
template <class T> struct PackedWeights {
    int64_t d, h, padded_d, padded_h, tile;
    T *transposed; // [h panel][d][panel]: for x Wᵀ and g Wᵀ
    T *straight;   // [h tile][d panel][neurons of the tile][panel]: for φ W

    static int64_t count(int64_t d, int64_t h, bool need_straight) {
        const int64_t one = Workspace<T>::padded(d * round_up(h, Tile<T>::panel));
        return one + (need_straight ? Workspace<T>::padded(h * round_up(d, Tile<T>::panel)) : 0);
    }

    // memory: count(d, h, need_straight) elements.
    PackedWeights(const T *W, int64_t d_, int64_t h_, int64_t tile_, bool need_straight, T *memory)
        : d(d_), h(h_), padded_d(round_up(d_, Tile<T>::panel)), padded_h(round_up(h_, Tile<T>::panel)), tile(tile_),
          transposed(memory), straight(nullptr) {
        pack_panels(W, d, h, 1, d, transposed);
        if (!need_straight)
            return;
        straight = memory + count(d, h, false);
        for (int64_t j = 0; j < h; j += tile)
            pack_panels(W + j * d, smaller(tile, h - j), d, d, 1, straight + j * padded_d);
    }
    const T *transposed_at(int64_t j) const { return transposed + j * d; }
    const T *straight_at(int64_t j) const { return straight + j * padded_d; }
};

template <class T> inline void broadcast_rows(const T *row, int64_t rows, int64_t d, T *out) {
    if (row == nullptr) {
        fill_zero(out, rows * d);
        return;
    }
    for (int64_t i = 0; i < rows; ++i)
        __builtin_memcpy(out + i * d, row, size_t(d) * sizeof(T));
}

template <class T> bool ridge_forward(const RidgeForward<T> &p) {
    constexpr int64_t tile_h = RidgeTiles<T>::forward;
    const BatchPlan plan(p.batch, p.d, p.h, Tile<T>::rows);
    const int threads =
        threads_for(4.0 * p.batch * p.d * p.h + 20.0 * cascade_evaluations(p.phi, p.batch, p.h), p.threads, plan.tiles);
    const int64_t parameters =
        PaddedCascade<T>::row_count(p.phi.layers, p.phi.terms) * PaddedCascade<T>::stride_for(p.h, tile_h);
    const int64_t per_worker = Workspace<T>::padded(plan.tile * tile_h) + Workspace<T>::padded(2 * tile_h);
    const int64_t packed = PackedWeights<T>::count(p.d, p.h, true);
    Workspace<T> workspace(packed + Workspace<T>::padded(parameters) + threads * per_worker);
    if (!workspace.ok())
        return false;
    const PackedWeights<T> W(p.W, p.d, p.h, tile_h, true, workspace.take(packed));
    const PaddedCascade<T> phi(p.phi, p.h, tile_h, workspace.take(parameters));
    const int64_t stride = phi.tile_stride(tile_h), granule = phi.copies > 1 ? Simd<T>::lanes : Tile<T>::panel;
    T *const scratch = workspace.take(threads * per_worker);

    auto body = [&](int64_t tile, int worker) {
        T *const u = scratch + worker * per_worker;
        T *const strips = u + Workspace<T>::padded(plan.tile * tile_h);
        const int64_t first = tile * plan.tile, rows = smaller(plan.tile, p.batch - first);
        const T *x = p.x + first * p.d;
        T *out = p.out + first * p.d;
        broadcast_rows(p.bias, rows, p.d, out);
        for (int64_t j = 0; j < p.h; j += tile_h) {
            const int64_t neurons = smaller(tile_h, p.h - j), width = round_up(neurons, Simd<T>::lanes);
            multiply<T>(rows, round_up(neurons, granule), p.d, x, p.d, 1, W.transposed_at(j), u, stride, false);
            for (int64_t i = 0; i < rows; i += phi.copies)
                cascade_value(phi, j, width * smaller(phi.copies, rows - i), u + i * stride, strips);
            multiply<T>(rows, p.d, neurons, u, stride, 1, W.straight_at(j), out, p.d, true);
        }
    };
    parallel(threads, plan.tiles, body);
    return true;
}

// Per chunk of the batch: dW [h, d], the cascade's rows [row][padded_h] and dbias [d], added up in chunk order
// afterwards.
template <class T> struct RidgePartials {
    int64_t weights, rows, bias;

    RidgePartials(const RidgeBackward<T> &p, int64_t parameters)
        : weights(Workspace<T>::padded(p.dW ? p.h * p.d : 0)), rows(Workspace<T>::padded(parameters)),
          bias(Workspace<T>::padded(p.d)) {}
    int64_t size() const { return weights + rows + bias; }
};

template <class T> inline void add_row_sums(const T *g, int64_t rows, int64_t d, T *scratch, T *total) {
    fill_zero(scratch, d);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < d; ++j)
            scratch[j] += g[i * d + j];
    for (int64_t j = 0; j < d; ++j)
        total[j] += scratch[j];
}

// The sums of all chunks, copied from padded rows to the caller's [rows, h] arrays.
template <class T>
void finish_ridge_backward(const RidgeBackward<T> &p, const PaddedCascade<T> &phi, const RidgePartials<T> &sizes,
                           int64_t chunks, const T *partials) {
    if (p.dW) {
        auto reduce = [&](int64_t j, int) {
            reduce_partials(partials + j * p.d, chunks, sizes.size(), p.d, p.dW + j * p.d);
        };
        parallel(threads_for(double(chunks) * p.h * p.d, p.threads, p.h), p.h, reduce);
    }
    T *const outputs[] = {p.dscale, p.dshift, p.dcoef};
    const int64_t first_rows[] = {0, phi.layers, 2 * phi.layers, 2 * phi.layers + int64_t(phi.layers) * phi.terms};
    for (int o = 0; o < 3; ++o)
        for (int64_t r = first_rows[o]; outputs[o] && r < first_rows[o + 1]; ++r)
            reduce_partials(partials + sizes.weights + r * phi.stride, chunks, sizes.size(), p.h,
                            outputs[o] + (r - first_rows[o]) * p.h);
    if (p.dbias)
        reduce_partials(partials + sizes.weights + sizes.rows, chunks, sizes.size(), p.d, p.dbias);
}

template <class T> bool ridge_backward(const RidgeBackward<T> &p) {
    constexpr int64_t tile_h = RidgeTiles<T>::backward;
    const BatchPlan plan(p.batch, p.d, p.h, Tile<T>::rows);
    const int64_t padded_d = round_up(p.d, Tile<T>::panel);
    const int threads = threads_for(10.0 * p.batch * p.d * p.h + 40.0 * cascade_evaluations(p.phi, p.batch, p.h),
                                    p.threads, plan.chunks);
    const int64_t row_count = PaddedCascade<T>::row_count(p.phi.layers, p.phi.terms);
    const int64_t parameters = row_count * PaddedCascade<T>::stride_for(p.h, tile_h);
    const RidgePartials<T> sizes(p, parameters);
    const int64_t tile_size = Workspace<T>::padded(plan.tile * tile_h);
    const int64_t packed_rows = Workspace<T>::padded(plan.tile * padded_d);
    const int64_t packed = PackedWeights<T>::count(p.d, p.h, p.dx != nullptr);
    const int64_t strips = Workspace<T>::padded((p.phi.layers + 4) * tile_h);
    const int64_t per_worker =
        2 * tile_size + 2 * packed_rows + strips + Workspace<T>::padded(row_count * tile_h) + Workspace<T>::padded(p.d);
    Workspace<T> workspace(packed + Workspace<T>::padded(parameters) + plan.chunks * sizes.size() +
                           threads * per_worker);
    if (!workspace.ok())
        return false;
    const PackedWeights<T> W(p.W, p.d, p.h, tile_h, p.dx != nullptr, workspace.take(packed));
    const PaddedCascade<T> phi(p.phi, p.h, tile_h, workspace.take(parameters));
    const int64_t stride = phi.tile_stride(tile_h), granule = phi.copies > 1 ? Simd<T>::lanes : Tile<T>::panel;
    T *const partials = workspace.take(plan.chunks * sizes.size());
    T *const scratch = workspace.take(threads * per_worker);

    auto tile_body = [&](int64_t tile, T *partial, T *mine) {
        T *const u = mine, *const a = u + tile_size, *const packed_x = a + tile_size,
                 *const packed_g = packed_x + packed_rows;
        T *const strip = packed_g + packed_rows, *const local = strip + strips;
        T *const row_sum = local + Workspace<T>::padded(row_count * tile_h);
        const int64_t first = tile * plan.tile, rows = smaller(plan.tile, p.batch - first);
        const T *x = p.x + first * p.d, *g = p.g + first * p.d;
        if (p.dbias)
            add_row_sums(g, rows, p.d, row_sum, partial + sizes.weights + sizes.rows);
        if (p.dW) {
            pack_panels(x, rows, p.d, p.d, 1, packed_x);
            pack_panels(g, rows, p.d, p.d, 1, packed_g);
        }
        for (int64_t j = 0; j < p.h; j += tile_h) {
            const int64_t neurons = smaller(tile_h, p.h - j), width = round_up(neurons, Simd<T>::lanes);
            multiply<T>(rows, round_up(neurons, granule), p.d, x, p.d, 1, W.transposed_at(j), u, stride, false);
            multiply<T>(rows, round_up(neurons, granule), p.d, g, p.d, 1, W.transposed_at(j), a, stride, false);
            fill_zero(local, row_count * tile_h);
            for (int64_t i = 0; i < rows; i += phi.copies)
                cascade_gradient(phi, j, width * smaller(phi.copies, rows - i), u + i * stride, a + i * stride, local,
                                 tile_h, strip);
            for (int64_t r = 0; r < row_count; ++r)
                for (int64_t copy = 0; copy < phi.copies; ++copy)
                    for (int64_t n = 0; n < neurons; ++n)
                        partial[sizes.weights + r * phi.stride + j + n] += local[r * tile_h + copy * width + n];
            if (p.dx)
                multiply<T>(rows, p.d, neurons, a, stride, 1, W.straight_at(j), p.dx + first * p.d, p.d, j > 0);
            if (p.dW) {
                multiply<T>(neurons, p.d, rows, u, 1, stride, packed_g, partial + j * p.d, p.d, true);
                multiply<T>(neurons, p.d, rows, a, 1, stride, packed_x, partial + j * p.d, p.d, true);
            }
        }
    };
    auto chunk_body = [&](int64_t chunk, int worker) {
        T *const partial = partials + chunk * sizes.size();
        fill_zero(partial, sizes.size());
        for (int64_t tile = plan.first_tile(chunk); tile < plan.first_tile(chunk + 1); ++tile)
            tile_body(tile, partial, scratch + worker * per_worker);
    };
    parallel(threads, plan.chunks, chunk_body);
    finish_ridge_backward(p, phi, sizes, plan.chunks, partials);
    return true;
}
