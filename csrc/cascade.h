// The elementwise middle of the ridge family: φ and its derivatives on strips of neurons of one row, in cache.

// The cascade's parameters in zero-padded rows of `stride` values, so that whole vectors may be read.  Where h is small
// the h (padded) values repeat `copies` times, so that one strip holds that many rows of the batch and stays long.
template <class T> struct PaddedCascade {
    int layers, terms;
    const int *basis;
    int64_t stride, copies, width;
    const T *rows;

    static int64_t row_count(int layers, int terms) { return int64_t(layers) * (2 + terms); }
    static int64_t copies_for(int64_t h, int64_t tile_h) { return larger(1, tile_h / round_up(h, Simd<T>::lanes)); }
    static int64_t stride_for(int64_t h, int64_t tile_h) { return round_up(larger(h, tile_h), Tile<T>::panel); }

    // memory: row_count · stride_for values.
    PaddedCascade(const Cascade<T> &c, int64_t h, int64_t tile_h, T *memory)
        : layers(c.layers), terms(c.terms), basis(c.basis), stride(stride_for(h, tile_h)),
          copies(copies_for(h, tile_h)), width(round_up(h, Simd<T>::lanes)), rows(memory) {
        fill_zero(memory, row_count(layers, terms) * stride);
        const T *sources[] = {c.scale, c.shift, c.coef};
        const int64_t counts[] = {layers, layers, int64_t(layers) * terms};
        for (int s = 0; s < 3; ++s)
            for (int64_t r = 0; r < counts[s]; ++r, memory += stride)
                for (int64_t copy = 0; copy < copies; ++copy)
                    __builtin_memcpy(memory + copy * width, sources[s] + r * h, size_t(h) * sizeof(T));
    }
    // Between rows of a tile of hidden values: rows that share a strip must adjoin.
    int64_t tile_stride(int64_t tile_h) const { return copies > 1 ? width : tile_h; }
    int64_t scale_row(int l) const { return l; }
    int64_t shift_row(int l) const { return layers + l; }
    int64_t coef_row(int l, int k) const { return 2 * layers + int64_t(l) * terms + k; }
    const T *at(int64_t row, int64_t j) const { return rows + row * stride + j; }
};

// How often basis functions are evaluated, padding included: a forward one costs about 20 operations, a backward
// one 40.
template <class T> inline double cascade_evaluations(const Cascade<T> &c, int64_t batch, int64_t h) {
    return double(batch) * double(round_up(h, Simd<T>::lanes)) * c.layers * c.terms;
}

// z = scale_l·u + shift_l
template <class T> inline void affine(const PaddedCascade<T> &c, int l, int64_t j0, int64_t width, const T *u, T *z) {
    const T *scale = c.at(c.scale_row(l), j0), *shift = c.at(c.shift_row(l), j0);
    for (int64_t j = 0; j < width; j += Simd<T>::lanes)
        store(z + j, load(scale + j) * load(u + j) + load(shift + j));
}

// next = scale_{l+1}·u + shift_{l+1} + Σ_k coef_{l,k}·b_k(z); after the last layer without the affine part.
template <class T>
inline void advance(const PaddedCascade<T> &c, int l, int64_t j0, int64_t width, const T *u, const T *z, T *next) {
    if (l + 1 < c.layers)
        affine(c, l + 1, j0, width, u, next);
    else
        fill_zero(next, width);
    for (int k = 0; k < c.terms; ++k) {
        const T *coef = c.at(c.coef_row(l, k), j0);
        with_basis(c.basis[k], [&](auto b) {
            for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
                typename Simd<T>::Vector value;
                b.value(load(z + j), value);
                store(next + j, load(next + j) + load(coef + j) * value);
            }
        });
    }
}

// u becomes φ(u); scratch holds two strips.
template <class T> inline void cascade_value(const PaddedCascade<T> &c, int64_t j0, int64_t width, T *u, T *scratch) {
    T *z = scratch, *next = scratch + width;
    affine(c, 0, j0, width, u, z);
    for (int l = 0; l < c.layers; ++l) {
        advance(c, l, j0, width, u, z, next);
        T *swap = z;
        z = next;
        next = swap;
    }
    __builtin_memcpy(u, z, size_t(width) * sizeof(T));
}

// u becomes φ(u), a becomes a·φ'(u), and gradients[row][j] += a·∂φ/∂θ for every parameter row (in PaddedCascade's
// order). scratch holds layers + 4 strips.
template <class T>
inline void cascade_gradient(const PaddedCascade<T> &c, int64_t j0, int64_t width, T *u, T *a, T *gradients,
                             int64_t gradient_stride, T *scratch) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    T *z = scratch, *delta = scratch + c.layers * width, *slope = delta + width;
    affine(c, 0, j0, width, u, z);
    for (int l = 0; l + 1 < c.layers; ++l)
        advance(c, l, j0, width, u, z + l * width, z + (l + 1) * width);
    T *phi = slope + width, *du = phi + width;
    fill_zero(phi, width);
    fill_zero(du, width);
    __builtin_memcpy(delta, a, size_t(width) * sizeof(T));
    for (int l = c.layers - 1; l >= 0; --l) {
        fill_zero(slope, width);
        const bool last = l == c.layers - 1;
        for (int k = 0; k < c.terms; ++k) {
            const T *coef = c.at(c.coef_row(l, k), j0);
            T *dcoef = gradients + c.coef_row(l, k) * gradient_stride;
            with_basis(c.basis[k], [&](auto b) {
                for (int64_t j = 0; j < width; j += lanes) {
                    V value, first;
                    b.value_first(load(z + l * width + j), value, first);
                    store(slope + j, load(slope + j) + load(coef + j) * first);
                    store(dcoef + j, load(dcoef + j) + load(delta + j) * value);
                    if (last)
                        store(phi + j, load(phi + j) + load(coef + j) * value);
                }
            });
        }
        const T *scale = c.at(c.scale_row(l), j0);
        T *dscale = gradients + c.scale_row(l) * gradient_stride;
        T *dshift = gradients + c.shift_row(l) * gradient_stride;
        for (int64_t j = 0; j < width; j += lanes) {
            const V d = load(delta + j) * load(slope + j);
            store(delta + j, d);
            store(dscale + j, load(dscale + j) + d * load(u + j));
            store(dshift + j, load(dshift + j) + d);
            store(du + j, load(du + j) + d * load(scale + j));
        }
    }
    __builtin_memcpy(u, phi, size_t(width) * sizeof(T));
    __builtin_memcpy(a, du, size_t(width) * sizeof(T));
}
