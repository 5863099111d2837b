// The module family's potential on the pipeline, S = Σ_rows weight·F, without the bias's part:
//   softmax:      F = (p LSE(τv) + q LSE(−τv))/τ,  ∂F/∂v = p π − q ω,  ∂F/∂τ = (v·∂F/∂v − F)/τ
//   transformed:  F = w ρ(Σ_j Ψ(z_j)),             ∂F/∂z = w ρ' σ

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

// F of a row from v; strip becomes weight·∂F/∂v, and the parameters' gradients are added to sums.  scratch: a strip.
template <class T>
inline T softmax_potential(const ModuleRow<T> &r, T weight, T *v, ModuleSums<T> &sums, T *pi, T *omega) {
    using V = typename Simd<T>::Vector;
    const T plus = softmax_strip(v, r.temperature, r.h, r.width, pi);
    T minus = 0;
    if (r.two_signs)
        minus = softmax_strip(v, -r.temperature, r.h, r.width, omega);
    else
        fill_zero(omega, r.width);
    const T F = (r.positive * plus + r.negative * minus) / r.temperature;
    sums.positive += double(weight * plus / r.temperature);
    sums.negative += double(weight * minus / r.temperature);
    V moment = {};
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        const V slope = r.positive * load(pi + j) - r.negative * load(omega + j);
        moment += slope * load(v + j);
        store(v + j, weight * slope);
        store(sums.db + j, load(sums.db + j) + weight * slope);
    }
    sums.temperature += double(weight * (horizontal_sum<T>(moment) - F) / r.temperature);
    return F;
}

// The same for a transformed sum; z becomes weight·∂F/∂z.
template <class T> inline T transformed_potential(const ModuleRow<T> &r, T weight, T *z, ModuleSums<T> &sums) {
    const double total = basis_sum(r, z, (T *)nullptr);
    const T rho = transform_value<T>(r.transform, total);
    const T factor = weight * r.positive * transform_at<T>(r.transform, total).first;
    sums.positive += double(weight * rho);
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        store(z + j, factor * load(z + j));
        store(sums.db + j, load(sums.db + j) + load(z + j));
    }
    return r.positive * rho;
}

template <class S> struct ModulesPotential : ModulesMiddle<S> {
    using T = Sum<S>;

    void operator()(const HiddenTile<T> &tile) const {
        const Modules<S> &p = *this->problem;
        const ModuleRow<T> row = this->row_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        ModuleSums<T> sums = this->zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const v = tile.u + i * tile.stride;
            add_shift(row, v);
            const T weight = p.rows.weight ? p.rows.weight[tile.first_row + i] : T(0);
            const T F = p.basis < 0 ? softmax_potential(row, weight, v, sums, strips, strips + tile.stride)
                                    : transformed_potential(row, weight, v, sums);
            if (p.rows.result)
                tile.row_sums[i] += F;
        }
        if (p.rows.weight)
            this->add_sums(tile, sums);
    }

    void finish(const T *partials, int64_t chunks, int64_t size) const {
        if (this->problem->rows.weight)
            ModulesMiddle<S>::finish(partials, chunks, size);
    }
};

template <class P, class S> inline bool modules_potential_on_pipeline(const Modules<S> &p) {
    using T = Sum<S>;
    const bool forward = p.rows.result != nullptr;
    const double flops = (forward ? 2.0 * p.d + 20.0 : 6.0 * p.d + 40.0) * double(p.batch) * double(p.h * p.count);
    const Pipeline<S> pipeline{p.batch,
                               p.d,
                               p.h * p.count,
                               p.h,
                               module_rows<T>(p.h, 1),
                               p.rows,
                               p.W,
                               nullptr,
                               p.dW,
                               nullptr,
                               true,
                               true,
                               flops,
                               ModulesMiddle<S>::sums(p.count, p.h),
                               ModulesMiddle<S>::scratch_bytes(p.h),
                               p.threads};
    return run_pipeline<P, S>(pipeline, ModulesPotential<S>{{&p}});
}
