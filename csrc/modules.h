// The module family on the pipeline: a row's neurons are coupled (softmax, or a function of a sum), so a block holds
// all h neurons of one module, and few enough rows that they stay in cache.  Nothing of size batch × h.

// In the order of TRANSFORMS in activations/transforms.py; Python compares the names when it loads the extension.
static constexpr const char *kTransformNames[] = {"identity", "half_square", "softplus", "logcosh", "exp", "log"};

// ρ'(t) and ρ''(t).
template <class T> struct Transform {
    T first, second;
};

template <class T> inline Transform<T> transform_at(int transform, double t) {
    switch (transform) {
    case 1: // t²/2
        return {T(t), T(1)};
    case 2: { // log(1 + e^t)
        const double e = __builtin_exp(-__builtin_fabs(t)), sigmoid = (t < 0 ? e : 1.0) / (1.0 + e);
        return {T(sigmoid), T(e / ((1.0 + e) * (1.0 + e)))};
    }
    case 3: { // log cosh t
        const double e = __builtin_exp(-2.0 * __builtin_fabs(t));
        return {T(__builtin_tanh(t)), T(4.0 * e / ((1.0 + e) * (1.0 + e)))};
    }
    case 4: // e^t
        return {T(__builtin_exp(t)), T(__builtin_exp(t))};
    case 5: // log t
        return {T(1.0 / t), T(-1.0 / (t * t))};
    default:
        return {T(1), T(0)};
    }
}

// ρ(t)
template <class T> inline T transform_value(int transform, double t) {
    switch (transform) {
    case 1: // t²/2
        return T(t * t / 2);
    case 2: // log(1 + e^t)
        return T((t > 0 ? t : 0.0) + __builtin_log1p(__builtin_exp(-__builtin_fabs(t))));
    case 3: // log cosh t
        return T(__builtin_fabs(t) + __builtin_log1p(__builtin_exp(-2.0 * __builtin_fabs(t))) - __builtin_log(2.0));
    case 4: // e^t
        return T(__builtin_exp(t));
    case 5: // log t
        return T(__builtin_log(t));
    default:
        return T(t);
    }
}

// What one row of one module needs: where its parameters lie and how wide its strips are.
template <class T> struct ModuleRow {
    int64_t h, width;
    int basis, transform;
    const T *b; // [h]
    T temperature, positive, negative;
    bool two_signs;
};

// Sums over a tile of one module's parameter gradients.  The scalars add up one term for each row: in double.
template <class T> struct ModuleSums {
    T *db; // [width]
    double temperature, positive, negative;
};

// max factor·v over the first h values.
template <class T> inline T largest(const T *v, T factor, int64_t h) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    T top = factor * v[0];
    int64_t j = 0;
    if (h >= lanes) {
        V tops = load(v) * factor;
        for (j = lanes; j + lanes <= h; j += lanes) {
            const V here = load(v + j) * factor;
            tops = select(here > tops, here, tops);
        }
        for (int i = 0; i < lanes; ++i)
            top = tops[i] > top ? tops[i] : top;
    }
    for (; j < h; ++j)
        top = factor * v[j] > top ? factor * v[j] : top;
    return top;
}

// out = softmax(factor·v) over the first h values of a strip, and 0 after them; returns log Σ exp(factor·v).
template <class T> __attribute__((noinline)) T softmax_strip(const T *v, T factor, int64_t h, int64_t width, T *out) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const T top = largest(v, factor, h);
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, v_exp(load(v + j) * factor - top));
    fill_zero(out + h, width - h);
    V sums = {};
    for (int64_t j = 0; j < width; j += lanes)
        sums += load(out + j);
    const T total = horizontal_sum<T>(sums), scale = T(1) / total;
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, load(out + j) * scale);
    return top + T(__builtin_log(double(total)));
}

// u (= W x) becomes v = u + b; neurons past h become 0.
template <class T> inline void add_shift(const ModuleRow<T> &r, T *u) {
    for (int64_t j = 0; j < r.h; ++j)
        u[j] += r.b[j];
    fill_zero(u + r.h, r.width - r.h);
}

// LSE(temperature·v) and LSE(−temperature·v), the latter 0 where it is not needed.
template <class T> struct LogSums {
    T plus, minus;

    T potential(const ModuleRow<T> &r) const { return (r.positive * plus + r.negative * minus) / r.temperature; }

    // The gradients of weight·F: of the weights, and of the temperature with along = v·∂F/∂v.
    void add_gradients(const ModuleRow<T> &r, T weight, T along, ModuleSums<T> &sums) const {
        sums.positive += double(weight * plus / r.temperature);
        sums.negative += double(weight * minus / r.temperature);
        sums.temperature += double(weight * (along - potential(r)) / r.temperature);
    }
};

// softmax(temperature·v) and softmax(−temperature·v), 0 where it is not needed.
template <class T> inline LogSums<T> both_softmax(const ModuleRow<T> &r, const T *v, T *pi, T *omega) {
    const T plus = softmax_strip(v, r.temperature, r.h, r.width, pi);
    if (r.two_signs)
        return {plus, softmax_strip(v, -r.temperature, r.h, r.width, omega)};
    fill_zero(omega, r.width);
    return {plus, T(0)};
}

// v becomes s(temperature·v); returns F.  scratch: two strips.
template <class T> __attribute__((noinline)) T softmax_value(const ModuleRow<T> &r, T *v, T *scratch) {
    T *pi = scratch, *omega = scratch + r.width;
    const auto sums = both_softmax(r, v, pi, omega);
    const T positive = r.positive, negative = r.negative;
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
        store(v + j, load(pi + j) * positive - load(omega + j) * negative);
    return sums.potential(r);
}

// v becomes (∂s/∂v)ᵀ a + weight·∂F/∂v, a becomes s(temperature·v) = ∂F/∂v; the parameters' gradients are added to sums.
// scratch: two strips.
// The temperature's comes from v itself, not from temperature·v over a temperature that may have underflowed.
template <class T>
__attribute__((noinline)) void softmax_gradient(const ModuleRow<T> &r, T weight, T *v, T *a, ModuleSums<T> &sums,
                                                T *scratch) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + r.h, r.width - r.h); // a non-finite g times the padding of W is NaN
    T *pi = scratch, *omega = scratch + r.width;
    const auto log_sums = both_softmax(r, v, pi, omega);
    const T a_pi = dot(a, pi, r.width), a_omega = r.two_signs ? dot(a, omega, r.width) : T(0);
    const T positive = r.positive, negative = r.negative, temperature = r.temperature;
    sums.positive += double(a_pi);
    sums.negative -= double(a_omega);
    V dtemperature = {}, along = {};
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        const V p = positive * load(pi + j), q = negative * load(omega + j), here = load(a + j);
        const V dz = p * (here - a_pi) + q * (here - a_omega);
        const V slope = p - q, dv = temperature * dz + weight * slope;
        dtemperature += dz * load(v + j);
        along += slope * load(v + j);
        store(a + j, slope);
        store(v + j, dv);
        store(sums.db + j, load(sums.db + j) + dv);
    }
    sums.temperature += double(horizontal_sum<T>(dtemperature));
    if (weight != 0) // else 0 times an infinite sum
        log_sums.add_gradients(r, weight, horizontal_sum<T>(along), sums);
}

// Σ_j Ψ(z_j) over the real neurons, to more than T's precision, for ρ = exp makes its error a relative one; z becomes
// σ(z) and, if wanted, slope σ'(z).
template <class T> __attribute__((noinline)) double basis_sum(const ModuleRow<T> &r, T *z, T *slope) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    const V infinity = broadcast<V>(T(__builtin_inf()));
    V sums = {}, lost = {};
    with_basis(r.basis, [&](auto b) {
        for (int64_t j = 0; j < r.width; j += lanes) {
            V antiderivative, value, first;
            b.antiderivative(load(z + j), antiderivative);
            b.value_first(load(z + j), value, first);
            store(z + j, value);
            if (slope)
                store(slope + j, first);
            for (int64_t i = r.h - j; i < lanes; ++i)
                antiderivative[i] = 0;
            // What rounding loses of the smaller summand; of an infinite sum there is nothing to mend.
            const V total = sums + antiderivative, swallowed = total - sums;
            const V error = (sums - (total - swallowed)) + (antiderivative - swallowed);
            lost += select(absolute(total) < infinity, error, V{});
            sums = total;
        }
    });
    fill_zero(z + r.h, r.width - r.h);
    double total = 0;
    for (int i = 0; i < lanes; ++i)
        total += double(sums[i]) + double(lost[i]);
    return total;
}

// z becomes s(z); returns F.
template <class T> __attribute__((noinline)) T transformed_value(const ModuleRow<T> &r, T *z) {
    const double total = basis_sum(r, z, (T *)nullptr);
    const T factor = r.positive * transform_at<T>(r.transform, total).first;
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
        store(z + j, load(z + j) * factor);
    return r.positive * transform_value<T>(r.transform, total);
}

// z becomes (∂s/∂z)ᵀ a + potential_weight·∂F/∂z, a becomes s(z) = ∂F/∂z.
template <class T>
__attribute__((noinline)) void transformed_gradient(const ModuleRow<T> &r, T potential_weight, T *z, T *a,
                                                    ModuleSums<T> &sums, T *slope) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + r.h, r.width - r.h);
    const double total = basis_sum(r, z, slope);
    const auto rho = transform_at<T>(r.transform, total);
    if (potential_weight != 0) // else 0 times an infinite sum
        sums.positive += double(potential_weight * transform_value<T>(r.transform, total));
    const T weight = r.positive, a_sigma = dot(a, z, r.width);
    sums.positive += double(rho.first * a_sigma);
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        const V value = load(z + j);
        const V here = value * (weight * rho.first);
        const V dz = weight * (rho.first * load(a + j) * load(slope + j) + rho.second * a_sigma * value) +
                     potential_weight * here;
        store(z + j, dz);
        store(a + j, here);
        store(sums.db + j, load(sums.db + j) + dz);
    }
}

// Rows so few that a tile's strips stay within about half a megabyte.
template <class T> inline int64_t module_rows(int64_t h, int strips) {
    const int64_t fit = (int64_t(1) << 19) / (round_up(h, Tile<T>::panel) * strips * int64_t(sizeof(T)));
    return larger(Tile<T>::rows, smaller(96, fit / Tile<T>::rows * Tile<T>::rows));
}

// Sums over the batch: db [count, h], then temperature, positive and negative [count] each.
template <class S> struct ModulesMiddle {
    using T = Sum<S>;
    const Modules<S> *problem;

    static int64_t sums(int64_t count, int64_t h) { return count * (h + 3); }
    static int64_t scratch_bytes(int64_t h) { return 3 * round_up(h, Tile<T>::panel) * int64_t(sizeof(T)); }

    void operator()(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *problem;
        const ModuleRow<T> row = row_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        const bool softmax = p.basis < 0;
        if (tile.a == tile.u) {
            for (int64_t i = 0; i < tile.rows; ++i) {
                T *const z = tile.u + i * tile.stride;
                add_shift(row, z);
                const T F = softmax ? softmax_value(row, z, strips) : transformed_value(row, z);
                if (p.rows.result)
                    tile.row_sums[i] += F;
            }
            return;
        }
        ModuleSums<T> sums = zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const z = tile.u + i * tile.stride, *const a = tile.a + i * tile.stride;
            add_shift(row, z);
            const T weight = p.rows.weight ? p.rows.weight[tile.first_row + i] : T(0);
            softmax ? softmax_gradient(row, weight, z, a, sums, strips)
                    : transformed_gradient(row, weight, z, a, sums, strips);
        }
        add_sums(tile, sums);
    }

    ModuleRow<T> row_of(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *problem;
        const int64_t m = tile.block;
        return {p.h,
                tile.width,
                p.basis,
                p.transform,
                p.b + m * p.h,
                p.temperature ? p.temperature[m] : T(1),
                p.positive[m],
                p.negative ? p.negative[m] : T(0),
                p.negative != nullptr};
    }

    // In the tile's scratch memory behind two strips, which are for the rows.
    static ModuleSums<T> zero_sums(const HiddenTile<T> &tile) {
        T *const db = piece<T>(tile.scratch, 0) + 2 * tile.stride;
        fill_zero(db, tile.width);
        return {db, 0, 0, 0};
    }

    void add_sums(const HiddenTile<T> &tile, const ModuleSums<T> &sums) const {
        const Modules<S> &p = *problem;
        T *const db = tile.sums + tile.first_neuron, *const scalars = tile.sums + p.count * p.h + tile.block;
        for (int64_t j = 0; j < tile.neurons; ++j)
            db[j] = sums.db[j] + (tile.first_tile ? 0 : db[j]);
        const double totals[] = {sums.temperature, sums.positive, sums.negative};
        for (int s = 0; s < 3; ++s)
            scalars[s * p.count] = T(totals[s]) + (tile.first_tile ? 0 : scalars[s * p.count]);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        const Modules<S> &p = *problem;
        if (p.db)
            reduce_partials(partials, chunks, size, p.count * p.h, p.db);
        T *const scalars[] = {p.dtemperature, p.dpositive, p.dnegative};
        for (int s = 0; s < 3; ++s)
            if (scalars[s])
                reduce_partials(partials + p.count * (p.h + s), chunks, size, p.count, scalars[s]);
    }
};

template <class P, class S> inline bool modules_on_pipeline(const Modules<S> &p) {
    using T = Sum<S>;
    const bool forward = p.rows.g == nullptr;
    const double flops = (forward ? 4.0 * p.d + 20.0 : 10.0 * p.d + 40.0) * double(p.batch) * double(p.h * p.count);
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h * p.count,
                               p.h,
                               module_rows<T>(p.h, forward ? 1 : 2),
                               p.rows,
                               p.W,
                               p.bias,
                               p.dW,
                               p.dbias,
                               p.rows.v == nullptr,
                               true,
                               flops,
                               ModulesMiddle<S>::sums(p.count, p.h),
                               ModulesMiddle<S>::scratch_bytes(p.h),
                               p.threads};
    return run_pipeline<P, S>(pipeline, ModulesMiddle<S>{&p});
}
