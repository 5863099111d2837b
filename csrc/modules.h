// The module family: a row's neurons are coupled (softmax, or a function of a sum), so a tile holds all h neurons of a
// few rows in cache.  Nothing of size batch × h: the tile's row count shrinks as h grows.

// In the order of TRANSFORMS in activations/transforms.py; Python compares the names when it loads the extension.
static constexpr const char *kTransformNames[] = {"identity", "half_square", "softplus", "logcosh", "exp", "log"};

// ρ'(t) and ρ''(t).
template <class T> struct Transform {
    T first, second;
};

template <class T> inline Transform<T> transform_at(int transform, T sum) {
    const double t = double(sum);
    switch (transform) {
    case 1: // t²/2
        return {sum, T(1)};
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

// What one row of one module needs: where its parameters lie and how wide its strips are.
template <class T> struct ModuleRow {
    const Modules<T> *modules;
    int64_t m, h, width;

    T temperature() const { return modules->temperature ? modules->temperature[m] : T(1); }
    T positive() const { return modules->positive[m]; }
    T negative() const { return modules->negative ? modules->negative[m] : T(0); }
};

// Sums over the batch of one module's parameter gradients.  The scalars add up one term for each row: in double.
template <class T> struct ModuleSums {
    T *db; // [width]
    double temperature, positive, negative;
};

// out = softmax(factor·v) over the first h values of a strip, and 0 after them.
template <class T> inline void softmax_strip(const T *v, T factor, int64_t h, int64_t width, T *out) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    T top = factor * v[0];
    for (int64_t j = 1; j < h; ++j)
        top = factor * v[j] > top ? factor * v[j] : top;
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, v_exp(load(v + j) * factor - top));
    fill_zero(out + h, width - h);
    V sums = {};
    for (int64_t j = 0; j < width; j += lanes)
        sums += load(out + j);
    const T scale = T(1) / horizontal_sum<T>(sums);
    for (int64_t j = 0; j < width; j += lanes)
        store(out + j, load(out + j) * scale);
}

template <class T> inline T dot(const T *a, const T *b, int64_t width) {
    typename Simd<T>::Vector sum = {};
    for (int64_t j = 0; j < width; j += Simd<T>::lanes)
        sum += load(a + j) * load(b + j);
    return horizontal_sum<T>(sum);
}

// u (= W x) becomes v = u + b; neurons past h become 0.
template <class T> inline void add_shift(const ModuleRow<T> &r, T *u) {
    const T *b = r.modules->b + r.m * r.h;
    for (int64_t j = 0; j < r.h; ++j)
        u[j] += b[j];
    fill_zero(u + r.h, r.width - r.h);
}

// v becomes s(temperature·v); scratch: two strips.
template <class T> inline void softmax_value(const ModuleRow<T> &r, T *v, T *scratch) {
    T *pi = scratch, *omega = scratch + r.width;
    softmax_strip(v, r.temperature(), r.h, r.width, pi);
    if (r.modules->negative)
        softmax_strip(v, -r.temperature(), r.h, r.width, omega);
    else
        fill_zero(omega, r.width);
    const T positive = r.positive(), negative = r.negative();
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
        store(v + j, load(pi + j) * positive - load(omega + j) * negative);
}

// v becomes s(temperature·v), a becomes (∂s/∂v)ᵀ a; the parameters' gradients are added to sums.  scratch: two strips.
// The temperature's comes from v itself, not from temperature·v over a temperature that may have underflowed.
template <class T> inline void softmax_gradient(const ModuleRow<T> &r, T *v, T *a, ModuleSums<T> &sums, T *scratch) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + r.h, r.width - r.h); // a non-finite g times the padding of W is NaN
    T *pi = scratch, *omega = scratch + r.width;
    softmax_strip(v, r.temperature(), r.h, r.width, pi);
    const T a_pi = dot(a, pi, r.width), positive = r.positive(), negative = r.negative(), temperature = r.temperature();
    T a_omega = 0;
    if (r.modules->negative) {
        softmax_strip(v, -r.temperature(), r.h, r.width, omega);
        a_omega = dot(a, omega, r.width);
    } else {
        fill_zero(omega, r.width);
    }
    sums.positive += double(a_pi);
    sums.negative -= double(a_omega);
    V dtemperature = {};
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        const V p = positive * load(pi + j), q = negative * load(omega + j), here = load(a + j);
        const V dz = p * (here - a_pi) + q * (here - a_omega);
        dtemperature += dz * load(v + j);
        store(v + j, p - q);
        store(a + j, temperature * dz);
        store(sums.db + j, load(sums.db + j) + temperature * dz);
    }
    sums.temperature += double(horizontal_sum<T>(dtemperature));
}

// Σ_j Ψ(z_j) over the real neurons; z becomes σ(z) and, if wanted, slope σ'(z).
template <class T> inline T basis_sum(const ModuleRow<T> &r, T *z, T *slope) {
    using V = typename Simd<T>::Vector;
    constexpr int lanes = Simd<T>::lanes;
    V sums = {};
    with_basis(r.modules->basis, [&](auto b) {
        for (int64_t j = 0; j < r.width; j += lanes) {
            V antiderivative, value, first;
            b.antiderivative(load(z + j), antiderivative);
            b.value_first(load(z + j), value, first);
            store(z + j, value);
            if (slope)
                store(slope + j, first);
            for (int64_t i = r.h - j; i < lanes; ++i)
                antiderivative[i] = 0;
            sums += antiderivative;
        }
    });
    fill_zero(z + r.h, r.width - r.h);
    return horizontal_sum<T>(sums);
}

template <class T> inline void transformed_value(const ModuleRow<T> &r, T *z) {
    const T factor = r.positive() * transform_at(r.modules->transform, basis_sum(r, z, (T *)nullptr)).first;
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
        store(z + j, load(z + j) * factor);
}

template <class T> inline void transformed_gradient(const ModuleRow<T> &r, T *z, T *a, ModuleSums<T> &sums, T *slope) {
    using V = typename Simd<T>::Vector;
    fill_zero(a + r.h, r.width - r.h);
    const Transform<T> rho = transform_at(r.modules->transform, basis_sum(r, z, slope));
    const T weight = r.positive(), a_sigma = dot(a, z, r.width);
    sums.positive += double(rho.first * a_sigma);
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        const V value = load(z + j);
        const V dz = weight * (rho.first * load(a + j) * load(slope + j) + rho.second * a_sigma * value);
        store(a + j, dz);
        store(z + j, value * (weight * rho.first));
        store(sums.db + j, load(sums.db + j) + dz);
    }
}

// Rows so few that the strips of a tile stay within about half a megabyte.
template <class T> inline int64_t module_rows(int64_t batch, int64_t padded_h, int strips) {
    const int64_t fit = (int64_t(1) << 19) / (padded_h * strips * int64_t(sizeof(T)));
    return smaller(round_up(larger(batch, 1), Tile<T>::rows),
                   larger(1, smaller(96, fit / Tile<T>::rows * Tile<T>::rows)));
}

template <class T> bool modules_forward(const ModulesForward<T> &p) {
    const int64_t padded_h = round_up(p.h, Tile<T>::panel), rows_per_tile = module_rows<T>(p.batch, padded_h, 1);
    const int64_t tiles = (p.batch + rows_per_tile - 1) / rows_per_tile, count = p.modules.count;
    const int threads = threads_for((4.0 * p.d + 20.0) * p.batch * p.h * count, p.threads, tiles);
    const int64_t tile_size = Workspace<T>::padded(rows_per_tile * padded_h);
    const int64_t per_worker = tile_size + Workspace<T>::padded(2 * padded_h);
    const int64_t packed = PackedWeights<T>::count(p.d, p.h, true);
    Workspace<T> workspace(packed + threads * per_worker);
    if (!workspace.ok())
        return false;
    T *const scratch_first = workspace.take(threads * per_worker);
    T *const packed_memory = workspace.take(packed);
    auto initialise = [&](int64_t tile, int) {
        const int64_t first = tile * rows_per_tile;
        broadcast_rows(p.bias, smaller(rows_per_tile, p.batch - first), p.d, p.out + first * p.d);
    };
    parallel(threads, tiles, initialise);
    for (int64_t m = 0; m < count; ++m) {
        const PackedWeights<T> W(p.modules.W + m * p.h * p.d, p.d, p.h, p.h, true, packed_memory);
        const ModuleRow<T> row{&p.modules, m, p.h, round_up(p.h, Simd<T>::lanes)};
        auto body = [&](int64_t tile, int worker) {
            T *const u = scratch_first + worker * per_worker, *const strips = u + tile_size;
            const int64_t first = tile * rows_per_tile, rows = smaller(rows_per_tile, p.batch - first);
            multiply<T>(rows, padded_h, p.d, p.x + first * p.d, p.d, 1, W.transposed, u, padded_h, false);
            for (int64_t i = 0; i < rows; ++i) {
                T *z = u + i * padded_h;
                add_shift(row, z);
                if (p.modules.basis < 0)
                    softmax_value(row, z, strips);
                else
                    transformed_value(row, z);
            }
            multiply<T>(rows, p.d, p.h, u, padded_h, 1, W.straight, p.out + first * p.d, p.d, true);
        };
        parallel(threads, tiles, body);
    }
    return true;
}

// One chunk's sums for one module: dW [h, d], db [h], three scalars, dbias [d].
template <class T> struct ModulePartials {
    int64_t weights, shifts, scalars, bias;

    explicit ModulePartials(const ModulesBackward<T> &p)
        : weights(Workspace<T>::padded(p.dW ? p.h * p.d : 0)), shifts(Workspace<T>::padded(p.h)),
          scalars(Workspace<T>::padded(3)), bias(Workspace<T>::padded(p.d)) {}
    int64_t size() const { return weights + shifts + scalars + bias; }
};

template <class T>
void finish_module_backward(const ModulesBackward<T> &p, int64_t m, const ModulePartials<T> &sizes, int64_t chunks,
                            const T *partials) {
    if (p.dW) {
        auto reduce = [&](int64_t j, int) {
            reduce_partials(partials + j * p.d, chunks, sizes.size(), p.d, p.dW + (m * p.h + j) * p.d);
        };
        parallel(threads_for(double(chunks) * p.h * p.d, p.threads, p.h), p.h, reduce);
    }
    const T *rest = partials + sizes.weights;
    reduce_partials(rest, chunks, sizes.size(), p.h, p.db + m * p.h);
    T *const scalars[] = {p.dtemperature, p.dpositive, p.dnegative};
    for (int s = 0; s < 3; ++s)
        if (scalars[s])
            reduce_partials(rest + sizes.shifts + s, chunks, sizes.size(), 1, scalars[s] + m);
    if (p.dbias && m == 0)
        reduce_partials(rest + sizes.shifts + sizes.scalars, chunks, sizes.size(), p.d, p.dbias);
}

template <class T> bool modules_backward(const ModulesBackward<T> &p) {
    const int64_t padded_h = round_up(p.h, Tile<T>::panel), padded_d = round_up(p.d, Tile<T>::panel);
    const int64_t rows_per_tile = module_rows<T>(p.batch, padded_h, 2);
    const int64_t tiles = (p.batch + rows_per_tile - 1) / rows_per_tile;
    const int64_t chunks = smaller(tiles, most_chunks(p.h * p.d));
    const int threads = threads_for((10.0 * p.d + 40.0) * p.batch * p.h * p.modules.count, p.threads, chunks);
    const ModulePartials<T> sizes(p);
    const int64_t tile_size = Workspace<T>::padded(rows_per_tile * padded_h);
    const int64_t packed_rows = Workspace<T>::padded(rows_per_tile * padded_d);
    const int64_t strips = Workspace<T>::padded(2 * padded_h);
    const int64_t per_worker = 2 * tile_size + 2 * packed_rows + strips + Workspace<T>::padded(p.d);
    const int64_t packed = PackedWeights<T>::count(p.d, p.h, true);
    Workspace<T> workspace(packed + chunks * sizes.size() + threads * per_worker);
    if (!workspace.ok())
        return false;
    T *const packed_memory = workspace.take(packed);
    T *const partials = workspace.take(chunks * sizes.size());
    T *const scratch = workspace.take(threads * per_worker);

    for (int64_t m = 0; m < p.modules.count; ++m) {
        const PackedWeights<T> W(p.modules.W + m * p.h * p.d, p.d, p.h, p.h, true, packed_memory);
        const ModuleRow<T> row{&p.modules, m, p.h, round_up(p.h, Simd<T>::lanes)};
        auto tile_body = [&](int64_t tile, T *partial, ModuleSums<T> &sums, T *mine) {
            T *const u = mine, *const a = u + tile_size, *const packed_x = a + tile_size;
            T *const packed_g = packed_x + packed_rows, *const strip = packed_g + packed_rows,
                     *const row_sum = strip + strips;
            const int64_t first = tile * rows_per_tile, rows = smaller(rows_per_tile, p.batch - first);
            const T *x = p.x + first * p.d, *g = p.g + first * p.d;
            if (p.dbias && m == 0)
                add_row_sums(g, rows, p.d, row_sum, partial + sizes.weights + sizes.shifts + sizes.scalars);
            multiply<T>(rows, padded_h, p.d, x, p.d, 1, W.transposed, u, padded_h, false);
            multiply<T>(rows, padded_h, p.d, g, p.d, 1, W.transposed, a, padded_h, false);
            for (int64_t i = 0; i < rows; ++i) {
                T *z = u + i * padded_h, *da = a + i * padded_h;
                add_shift(row, z);
                if (p.modules.basis < 0)
                    softmax_gradient(row, z, da, sums, strip);
                else
                    transformed_gradient(row, z, da, sums, strip);
            }
            if (p.dx)
                multiply<T>(rows, p.d, p.h, a, padded_h, 1, W.straight, p.dx + first * p.d, p.d, m > 0);
            if (p.dW) {
                pack_panels(x, rows, p.d, p.d, 1, packed_x);
                pack_panels(g, rows, p.d, p.d, 1, packed_g);
                multiply<T>(p.h, p.d, rows, u, 1, padded_h, packed_g, partial, p.d, true);
                multiply<T>(p.h, p.d, rows, a, 1, padded_h, packed_x, partial, p.d, true);
            }
        };
        auto chunk_body = [&](int64_t chunk, int worker) {
            T *const partial = partials + chunk * sizes.size();
            fill_zero(partial, sizes.size());
            ModuleSums<T> sums{partial + sizes.weights, 0, 0, 0};
            for (int64_t tile = chunk * tiles / chunks; tile < (chunk + 1) * tiles / chunks; ++tile)
                tile_body(tile, partial, sums, scratch + worker * per_worker);
            T *const scalars = partial + sizes.weights + sizes.shifts;
            scalars[0] = T(sums.temperature);
            scalars[1] = T(sums.positive);
            scalars[2] = T(sums.negative);
        };
        parallel(threads, chunks, chunk_body);
        finish_module_backward(p, m, sizes, chunks, partials);
    }
    return true;
}
