// Divergence and Jacobian of the module family.
//   softmax:      s = τ (p π + q ω),  strips π and ω with c = −τp and −τq
//   transformed:  s = w ρ' σ',        strip σ with c = w ρ''

// v = u + b (in place), s, strips and c of a row.
template <class T>
inline void softmax_curvature(const ModuleRow<T> &r, T *v, T *s, T *pi, T *omega, T *c_pi, T *c_omega) {
    const T positive = r.temperature * r.positive, negative = r.temperature * r.negative;
    softmax_strip(v, r.temperature, r.h, r.width, pi);
    *c_pi = -positive;
    if (!r.two_signs) {
        for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
            store(s + j, positive * load(pi + j));
        return;
    }
    softmax_strip(v, -r.temperature, r.h, r.width, omega);
    *c_omega = -negative;
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
        store(s + j, positive * load(pi + j) + negative * load(omega + j));
}

// Through one softmax of sign·τ·v whose strip in S has the weight w: with α = τ w q + a, dz += sign·π(α − π·α).
// Returns Σ π q − e, the derivative of S in τ w.
template <class T>
inline T softmax_curvature_backward(const ModuleRow<T> &r, T sign, T weight, const T *pi, const T *q, const T *along,
                                    T in_c, T *dz) {
    using V = typename Simd<T>::Vector;
    const T factor = r.temperature * weight;
    V q_sum = {}, a_sum = {};
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        q_sum += load(pi + j) * load(q + j);
        a_sum += load(pi + j) * load(along + j);
    }
    const T q_mean = horizontal_sum<T>(q_sum), mean = factor * q_mean + horizontal_sum<T>(a_sum);
    for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
        const V in_pi = factor * load(q + j) + load(along + j);
        store(dz + j, load(dz + j) + sign * load(pi + j) * (in_pi - mean));
    }
    return q_mean - in_c;
}

template <class S> struct ModulesCurvature : ModulesMiddle<S> {
    using T = Sum<S>;
    using V = typename Simd<T>::Vector;

    void value(const CurvatureTile<T> &tile) const {
        const ModuleRow<T> row = this->row_of(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            const int64_t at = i * tile.stride;
            add_shift(row, tile.u + at);
            if (this->problem->basis < 0)
                softmax_curvature(row, tile.u + at, tile.s + at, tile.strip[0] + at, tile.strip[1] + at, tile.c[0] + i,
                                  tile.c[1] + i);
            else
                transformed_value(row, tile, i);
        }
    }

    void gradient(const CurvatureTile<T> &tile) const {
        const ModuleRow<T> row = this->row_of(tile);
        T *const strips = piece<T>(tile.scratch, 0);
        ModuleSums<T> sums = this->zero_sums(tile);
        for (int64_t i = 0; i < tile.rows; ++i) {
            T *const q = const_cast<T *>(tile.q) + i * tile.stride;
            fill_zero(q + row.h, row.width - row.h); // a non-finite G times the padding of W is NaN
            this->problem->basis < 0 ? softmax_gradient_of(row, tile, i, sums, strips)
                                     : transformed_gradient_of(row, tile, i, sums, strips);
        }
        this->add_sums(tile, sums);
    }

  private:
    void transformed_value(const ModuleRow<T> &r, const CurvatureTile<T> &tile, int64_t i) const {
        T *const s = tile.s + i * tile.stride, *const sigma = tile.strip[0] + i * tile.stride;
        __builtin_memcpy(sigma, tile.u + i * tile.stride, size_t(r.width) * sizeof(T));
        const auto rho = transform_at<T>(r.transform, basis_sum(r, sigma, s));
        for (int64_t j = 0; j < r.width; j += Simd<T>::lanes)
            store(s + j, (r.positive * rho.first) * load(s + j));
        tile.c[0][i] = r.positive * rho.second;
    }

    // v becomes ∂S/∂u.
    void softmax_gradient_of(const ModuleRow<T> &r, const CurvatureTile<T> &tile, int64_t i, ModuleSums<T> &sums,
                             T *dz) const {
        const int64_t at = i * tile.stride;
        T *const v = tile.u + at;
        fill_zero(dz, r.width);
        const T in_positive = softmax_curvature_backward(r, T(1), r.positive, tile.strip[0] + at, tile.q + at,
                                                         tile.along[0] + at, tile.in_c[0][i], dz);
        sums.positive += double(r.temperature * in_positive);
        sums.temperature += double(r.positive * in_positive);
        if (r.two_signs) {
            const T in_negative = softmax_curvature_backward(r, T(-1), r.negative, tile.strip[1] + at, tile.q + at,
                                                             tile.along[1] + at, tile.in_c[1][i], dz);
            sums.negative += double(r.temperature * in_negative);
            sums.temperature += double(r.negative * in_negative);
        }
        sums.temperature += double(dot(dz, v, r.width));
        for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
            const V du = r.temperature * load(dz + j);
            store(v + j, du);
            store(sums.db + j, load(sums.db + j) + du);
        }
    }

    // z becomes ∂S/∂u.
    void transformed_gradient_of(const ModuleRow<T> &r, const CurvatureTile<T> &tile, int64_t i, ModuleSums<T> &sums,
                                 T *scratch) const {
        const int64_t at = i * tile.stride;
        T *const z = tile.u + at, *const first = scratch, *const second = scratch + r.width;
        const T *const q = tile.q + at, *const along = tile.along[0] + at, in_c = tile.in_c[0][i];
        const T weight = r.positive;
        const double total = basis_second(r, z, first, second);
        const auto rho = transform_at<T>(r.transform, total);
        const T curvature = dot(first, q, r.width);
        sums.positive += double(rho.first * curvature + rho.second * in_c);
        const T through_sum = weight * (rho.second * curvature + transform_third<T>(r.transform, total) * in_c);
        for (int64_t j = 0; j < r.width; j += Simd<T>::lanes) {
            const V dz = (weight * rho.first) * load(second + j) * load(q + j) + load(along + j) * load(first + j) +
                         through_sum * load(z + j);
            store(z + j, dz);
            store(sums.db + j, load(sums.db + j) + dz);
        }
    }
};

template <class S> bool modules_curvature(const Modules<S> &p) {
    using T = Sum<S>;
    Curvature<S> curvature{};
    curvature.batch = p.batch;
    curvature.d = p.d;
    curvature.hidden = p.h * p.count;
    curvature.block = p.h;
    curvature.rows = &p.rows;
    curvature.W = p.W;
    curvature.dW = p.dW;
    curvature.strips = p.negative ? 2 : 1;
    curvature.early = true;
    const int64_t most = module_rows<T>(p.h, curvature.backward() ? 7 : 4);
    curvature.most_rows = curvature.traces() ? most : smaller(most, Tile<T>::rows);
    curvature.flops = double(p.batch) * double(curvature.hidden) * (curvature_flops(curvature) + 60.0);
    curvature.sums = ModulesMiddle<S>::sums(p.count, p.h);
    curvature.scratch = ModulesMiddle<S>::scratch_bytes(p.h);
    curvature.threads = p.threads;
    CurvatureRun<S, ModulesCurvature<S>> run(curvature, {{&p}});
    return run.run();
}

template <class P, class S> inline bool modules_by(const Modules<S> &p) {
    switch (p.scalar) {
    case Scalar::value:
        return modules_on_pipeline<P, S>(p);
    case Scalar::potential:
        return modules_potential_on_pipeline<P, S>(p);
    default:
        return modules_second_on_pipeline<P, S>(p);
    }
}

template <class S> bool modules(const Modules<S> &p) {
    if (p.scalar == Scalar::divergence || p.scalar == Scalar::jacobian)
        return modules_curvature(p);
#ifdef GRADNETS_BF16_DOT
    if constexpr (is_same<S, Bf16>)
        if (!reads_weights_in_place<float>(p.batch, p.d))
            return modules_by<Pairs, S>(p);
#endif
    return modules_by<Plain<Sum<S>>, S>(p);
}
