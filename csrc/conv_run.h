// The gradients of S = Σ s(u, a, p) over pixels and filters, where u = K∗x, a = K∗g, p = K∗v:
//   dx = KᵀU,  dg = KᵀA,  dv = KᵀP,  dK = U∗x + A∗g + P∗v,   U = ∂s/∂u, A = ∂s/∂a, P = ∂s/∂p:
// the pipeline of the ridge family, with pixels for rows and a convolution for W.  A tile of hidden values [pixels,
// filters] stays in cache between the product that makes it and those that use it.  Of the divergence a is the sum of
// the squares of the taps inside the image, and p the weight of the image.
#pragma once

#include "conv_product.h"
#include "conv_shape.h"

namespace gradnets::GRADNETS_ISA {

template <class S> class ConvRun {
    using T = Sum<S>;
    static constexpr int64_t lanes = Tile<T>::lanes, panel = Tile<T>::panel;
    static constexpr bool same = is_same<S, T>;

  public:
    ConvRun(const Conv<S> &problem, const Middle<T> &middle, int64_t sums, int64_t scratch)
        : p(problem.ridge), middle_(middle), shape_(problem), sums_(sums) {
        const S *in[] = {p.points.x, p.points.g, p.points.v};
        S *out[] = {p.points.dx, p.points.dg, p.points.dv};
        for (int r = 0; r < 3; ++r) {
            in_[r] = in[r];
            out_[r] = out[r];
        }
        is_trace_ = p.quantity == Quantity::divergence;
        block_ = smaller(ridge_block<T>(), round_up(p.h, lanes));
        stride_ = round_up(block_, panel);
        row_ = round_up(p.h, lanes);
        blocks_ = (p.h + block_ - 1) / block_;
        all_bands_ = p.batch * shape_.bands;
        const bool sums_over_batch = p.dW || p.dscale || p.dshift || p.dcoef || p.dbias;
        chunks_ = sums_over_batch ? smaller(all_bands_, most_chunks(p.h * shape_.taps)) : all_bands_;
        lay_out_shared();
        lay_out_worker(scratch);
    }

    // flops: of one basis function.
    bool run(double flops) {
        const double products = 1 + (in_[1] != nullptr) + (in_[2] != nullptr),
                     outputs = (out_[0] != nullptr) + (out_[1] != nullptr) + (out_[2] != nullptr);
        const double pixels = double(p.batch) * double(shape_.image / shape_.channels);
        const double work =
            pixels * double(p.h) *
            (2.0 * double(shape_.taps) * (products * (p.dW ? 2 : 1) + outputs) + flops * p.phi.layers * p.phi.terms);
        const int threads = threads_for(work, p.threads, chunks_);
        Workspace workspace(shared_bytes_ + threads * worker_bytes_);
        if (!workspace.ok())
            return false;
        shared_ = workspace.at(0);
        prepare();
        auto body = [&](int64_t chunk, int worker) {
            char *const mine = workspace.at(shared_bytes_ + worker * worker_bytes_);
            const int64_t begin = chunk * all_bands_ / chunks_, end = (chunk + 1) * all_bands_ / chunks_;
            for (int64_t b = begin; b < end; ++b)
                run_band(Job{shape_.band(b), b, chunk, b == begin, mine});
        };
        parallel(threads, chunks_, body);
        finish(threads);
        return true;
    }

  private:
    struct Job {
        ConvBand band;
        int64_t number, chunk; // of the band among all
        bool first_of_chunk;
        char *mine;
        T *of(int64_t offset) const { return piece<T>(mine, offset); }
    };
    // A block of filters, and a tile of a band.
    struct TileJob {
        ConvTile tile;
        const int64_t *pixels; // their distances in a buffer
        bool first;            // of its chunk
    };

    bool needs(int r) const { return out_[r] != nullptr; }
    bool gathers() const { return shape_.bands > 1 || shape_.circular; }

    void lay_out_shared() {
        Layout all;
        taps_at_ = all.add<int64_t>(shape_.taps);
        ordered_ = all.add<int64_t>(2 * shape_.taps);
        forward_ = all.add<T>(blocks_ * stride_ * shape_.taps);
        backward_ = all.add<T>(p.h * shape_.taps);
        weight_sums_ = all.add<T>(p.dW ? chunks_ * shape_.taps * row_ : 0);
        middle_sums_ = all.add<T>(chunks_ * sums_);
        norms_ = all.add<T>(is_trace_ ? shape_.classes() * row_ : 0);
        norm_sums_ = all.add<T>(is_trace_ && p.dW ? chunks_ * shape_.classes() * row_ : 0);
        bias_sums_ = all.add<double>(p.dbias ? chunks_ * shape_.channels : 0);
        scalars_ = all.add<double>(p.points.scalar ? all_bands_ : 0);
        for (int r = 0; r < 3; ++r) {
            halos_[r] = all.add<T>(needs(r) && gathers() ? all_bands_ * shape_.halo : 0);
            totals_[r] = all.add<T>(needs(r) && gathers() && !same ? p.batch * shape_.image : 0);
        }
        shared_bytes_ = all.bytes();
    }

    void lay_out_worker(int64_t scratch) {
        Layout mine;
        const int64_t pixels = shape_.tile_pixels();
        for (int r = 0; r < 3; ++r) {
            points_[r] = in_[r] ? mine.add<T>(shape_.buffer) : 0;
            gradients_[r] = needs(r) ? mine.add<T>(shape_.buffer) : 0;
            tiles_[r] = r == 0 || in_[r] || is_trace_ ? mine.add<T>(pixels * stride_) : 0;
        }
        pixels_ = mine.add<int64_t>(pixels);
        classes_ = mine.add<int64_t>(is_trace_ ? pixels : 0);
        turned_ = mine.add<T>(round_up(smaller(shape_.piece, pixels), panel) * block_);
        of_pixels_ = mine.add<T>(p.points.scalar ? pixels : 0);
        scratch_ = mine.add<char>(scratch);
        worker_bytes_ = mine.bytes();
    }

    // K as a right factor for each block of filters, and as a left one, packed, whose rows are taps, in an order in
    // which neighbours do not overlap: a store is not followed at once by a load of a part of it.
    void prepare() {
        int64_t *const distances = piece<int64_t>(shared_, taps_at_), *const ordered =
                                                                          piece<int64_t>(shared_, ordered_);
        shape_.tap_distances(distances);
        const int64_t last = shape_.axis[2].taps, lines = shape_.taps / last;
        for (int64_t b = 0; b < blocks_; ++b)
            pack_transposed<Plain<T>>(p.W + b * block_ * shape_.taps, smaller(block_, p.h - b * block_), shape_.taps,
                                      piece<T>(shared_, forward_) + b * stride_ * shape_.taps);
        constexpr int64_t together = Tile<T>::rows; // rows of a tile
        for (int64_t i = 0; i < shape_.taps; ++i) {
            const int64_t t = i % lines * last + i / lines, of_tile = i % together, first = i - of_tile;
            T *const rows = piece<T>(shared_, backward_) + first * p.h + of_tile;
            ordered[i] = distances[t];
            for (int64_t j = 0; j < p.h; ++j)
                rows[j * smaller(together, shape_.taps - first)] = widen(p.W[j * shape_.taps + t]);
        }
        for (int64_t c = 0; is_trace_ && c < shape_.classes(); ++c)
            for (int64_t j = 0; j < p.h; ++j) {
                double norm = 0;
                shape_.each_inside(c, [&](int64_t t) {
                    const double weight = widen(p.W[j * shape_.taps + t]);
                    norm += weight * weight;
                });
                piece<T>(shared_, norms_)[c * row_ + j] = T(norm);
            }
    }

    void run_band(const Job &job) const {
        for (int r = 0; r < 3; ++r) {
            if (in_[r])
                shape_.load_points(job.band, in_[r] + job.band.image * shape_.image, job.of(points_[r]));
            if (needs(r))
                fill_zero(job.of(gradients_[r]), shape_.buffer);
        }
        if (p.dbias)
            add_bias_sums(job);
        double scalar = 0;
        const int64_t count = shape_.tiles(job.band);
        for (int64_t t = 0; t < count; ++t) {
            const ConvTile tile = shape_.tile(job.band, t);
            int64_t *const pixels = piece<int64_t>(job.mine, pixels_);
            shape_.pixel_distances(tile, pixels);
            scalar += run_tile(job, {tile, pixels, job.first_of_chunk && t == 0});
        }
        if (p.points.scalar)
            piece<double>(shared_, scalars_)[job.number] = scalar;
        for (int r = 0; r < 3; ++r)
            if (needs(r))
                store_gradients(job, r);
    }

    void add_bias_sums(const Job &job) const {
        const int64_t row = shape_.axis[1].size * shape_.axis[2].size;
        for (int64_t c = 0; c < shape_.channels; ++c) {
            const S *const g =
                p.points.g + job.band.image * shape_.image + (c * shape_.axis[0].size + job.band.first) * row;
            double sum = 0;
            for (int64_t i = 0; i < job.band.rows * row; ++i)
                sum += widen(g[i]);
            double &total = piece<double>(shared_, bias_sums_)[job.chunk * shape_.channels + c];
            total = job.first_of_chunk ? sum : total + sum;
        }
    }

    // The tile's part of the image's scalar.
    double run_tile(const Job &job, const TileJob &tile) const {
        double scalar = 0;
        for (int64_t b = 0; b < blocks_; ++b) {
            const int64_t first = b * block_, units = smaller(block_, p.h - first);
            T *tiles[3];
            hidden_values(job, tile, b, round_up(units, lanes), tiles);
            HiddenTile<T> hidden;
            hidden.u = tiles[0];
            hidden.a = tiles[1];
            hidden.p = tiles[2];
            hidden.rows = tile.tile.pixels();
            hidden.stride = stride_;
            hidden.width = round_up(units, lanes);
            hidden.first_row = job.band.image * shape_.tile_pixels();
            hidden.first_unit = first;
            hidden.units = units;
            hidden.block = b;
            hidden.first_tile = tile.first;
            hidden.sums = piece<T>(shared_, middle_sums_) + job.chunk * sums_;
            hidden.scalars = job.of(of_pixels_);
            hidden.scratch = job.mine + scratch_;
            if (p.points.scalar)
                fill_zero(hidden.scalars, hidden.rows);
            middle_(hidden);
            if (is_trace_)
                scalar += add_norms(job, tile, hidden);
            else if (p.points.scalar)
                for (int64_t i = 0; i < hidden.rows; ++i)
                    scalar += hidden.scalars[i];
            for (int r = 0; r < 3; ++r)
                if (needs(r))
                    add_to_points(job, tile, hidden, tiles[r], job.of(gradients_[r]));
            if (p.dW)
                add_to_weights(job, tile, hidden, tiles);
        }
        return scalar;
    }

    void hidden_values(const Job &job, const TileJob &tile, int64_t b, int64_t width, T **tiles) const {
        const int64_t *const taps = piece<int64_t>(shared_, taps_at_);
        const Right<T> filters{piece<T>(shared_, forward_) + b * stride_ * shape_.taps, panel, panel * shape_.taps};
        for (int r = 0; r < 3; ++r) {
            tiles[r] = job.of(tiles_[r]);
            const T *const points = job.of(points_[r]);
            T *const to = tiles[r];
            if (in_[r])
                conv_product<T>(tile.tile.pixels(), width, shape_.taps, {points, tile.pixels, taps}, filters,
                                {to, nullptr, stride_}, false);
        }
        if (is_trace_)
            load_norms(job, tile, b * block_, width, tiles);
        else if (!in_[1])
            tiles[1] = in_[2] ? tiles[2] : tiles[0];
    }

    void load_norms(const Job &job, const TileJob &tile, int64_t first, int64_t width, T **tiles) const {
        int64_t *const classes = piece<int64_t>(job.mine, classes_);
        const T weight = p.points.weight ? p.points.weight[job.band.image] : T(1);
        for (int64_t l = 0, i = 0; l < tile.tile.lines; ++l)
            for (int64_t k = 0; k < tile.tile.width; ++k, ++i) {
                const int64_t line = tile.tile.first_line + l, rows = shape_.axis[1].size;
                classes[i] = shape_.class_of(job.band.first + line / rows, line % rows, tile.tile.first + k);
                const T *const norms = piece<T>(shared_, norms_) + classes[i] * row_ + first;
                for (int64_t j = 0; j < width; j += lanes) {
                    store(tiles[1] + i * stride_ + j, load(norms + j));
                    store(tiles[2] + i * stride_ + j, broadcast<typename Simd<T>::Vector>(weight));
                }
            }
    }

    // Σ φ'·norms of a forward pass; the sums of w·φ' over the pixels of each class of a backward pass.
    double add_norms(const Job &job, const TileJob &tile, const HiddenTile<T> &hidden) const {
        const int64_t *const classes = piece<int64_t>(job.mine, classes_);
        const int64_t all = shape_.classes() * row_;
        T *const sums = piece<T>(shared_, norm_sums_) + job.chunk * all;
        if (p.dW && tile.first && hidden.block == 0)
            fill_zero(sums, all);
        double scalar = 0;
        for (int64_t i = 0; i < hidden.rows; ++i) {
            const T *const slopes = hidden.a + i * hidden.stride;
            const int64_t at = classes[i] * row_ + hidden.first_unit;
            if (p.dW)
                for (int64_t j = 0; j < hidden.units; ++j)
                    sums[at + j] += slopes[j];
            if (p.points.scalar) {
                const T *const norms = piece<T>(shared_, norms_) + at;
                T sum = 0;
                for (int64_t j = 0; j < hidden.units; ++j)
                    sum += slopes[j] * norms[j];
                scalar += sum;
            }
        }
        return scalar;
    }

    // gradient[pixel + t] += Σ_j K[j, t]·tile[pixel, j]: line by line, for which neighbouring pixels are vectors.
    void add_to_points(const Job &job, const TileJob &tile, const HiddenTile<T> &hidden, const T *values,
                       T *gradient) const {
        const int64_t *const distances = piece<int64_t>(shared_, ordered_), width = tile.tile.width;
        const LeftPacked<T> filters{piece<T>(shared_, backward_), p.h, hidden.first_unit};
        T *const turned = job.of(turned_);
        for (int64_t l = 0; l < tile.tile.lines; ++l) {
            const T *const line = values + l * width * stride_;
            for (int64_t k = 0; k < width; k += panel)
                pack_panel(line + k * stride_, stride_, smaller(panel, width - k), hidden.units,
                           turned + k * hidden.units);
            T *const to = gradient + tile.pixels[l * width];
            const Right<T> right{turned, panel, panel * hidden.units};
            conv_product<T>(shape_.taps, width, hidden.units, filters, right, {to, distances, 0}, true);
        }
    }

    // sums[t, j] += Σ_pixels points[pixel + t]·tile[pixel, j].
    void add_to_weights(const Job &job, const TileJob &tile, const HiddenTile<T> &hidden, T *const *tiles) const {
        const int64_t *const distances = piece<int64_t>(shared_, taps_at_);
        T *const sums = piece<T>(shared_, weight_sums_) + job.chunk * shape_.taps * row_ + hidden.first_unit;
        bool started = !tile.first;
        for (int r = 0; r < 3; ++r) {
            if (!in_[r])
                continue;
            const T *const points = job.of(points_[r]);
            const Right<T> right{tiles[r], stride_, panel};
            conv_product<T>(shape_.taps, hidden.width, hidden.rows, {points, distances, tile.pixels}, right,
                            {sums, nullptr, row_}, started);
            started = true;
        }
    }

    // The place of a row of the first axis of a band's halo, on the side before or behind it.
    T *halo_row(int r, int64_t band, int64_t c, int64_t i) const {
        const ConvAxis *const axis = shape_.axis;
        return piece<T>(shared_, halos_[r]) + band * shape_.halo +
               (c * (axis[0].taps - 1) + i) * axis[1].size * axis[2].size;
    }
    T *total(int r) const {
        if constexpr (same)
            return out_[r];
        else
            return piece<T>(shared_, totals_[r]);
    }

    // A band's buffer of gradients to the image, or to where bands are added up.
    void store_gradients(const Job &job, int r) const {
        const ConvAxis *const axis = shape_.axis;
        const int64_t row = axis[1].size * axis[2].size, image = job.band.image * shape_.image;
        T *const buffer = job.of(gradients_[r]);
        for (int64_t c = 0; c < shape_.channels; ++c)
            for (int64_t i = 0; i < job.band.rows + axis[0].taps - 1; ++i) {
                T *const from = buffer + c * shape_.channel + i * shape_.plane;
                if (shape_.circular)
                    fold(from);
                const int64_t of_band = i - axis[0].before, behind = of_band - job.band.rows;
                const int64_t at = image + (c * axis[0].size + job.band.first + of_band) * row;
                if (r == 1 && p.bias && of_band >= 0 && behind < 0)
                    for (int64_t k = 0; k < shape_.plane; ++k)
                        from[k] += p.bias[c];
                if (of_band < 0 || behind >= 0) {
                    if (gathers())
                        copy_lines(from, halo_row(r, job.number, c, of_band < 0 ? i : axis[0].before + behind));
                } else if (gathers()) {
                    copy_lines(from, total(r) + at);
                } else {
                    copy_lines(from, out_[r] + at);
                }
            }
    }

    template <class To> void copy_lines(const T *from, To *to) const {
        const ConvAxis *const axis = shape_.axis;
        for (int64_t j = 0; j < axis[1].size; ++j)
            narrow_row(from + (axis[1].before + j) * shape_.pitch + axis[2].before, axis[2].size,
                       to + j * axis[2].size);
    }

    // Adds what lies beyond the second and third axis to the pixels of the other side.
    void fold(T *rows) const {
        const ConvAxis &middle = shape_.axis[1], &last = shape_.axis[2];
        for (int64_t j = 0; j < middle.padded(); ++j) {
            T *const line = rows + j * shape_.pitch;
            for (int64_t k = 0; k < last.before; ++k)
                line[last.size + k] += line[k];
            for (int64_t k = 0; k < last.after; ++k)
                line[last.before + k] += line[last.before + last.size + k];
        }
        const auto add = [&](int64_t from, int64_t to) {
            for (int64_t k = 0; k < shape_.pitch; ++k)
                rows[to * shape_.pitch + k] += rows[from * shape_.pitch + k];
        };
        for (int64_t j = 0; j < middle.before; ++j)
            add(j, middle.size + j);
        for (int64_t j = 0; j < middle.after; ++j)
            add(middle.before + middle.size + j, middle.before + j);
    }

    void finish(int threads) const {
        for (int r = 0; r < 3; ++r)
            if (needs(r) && gathers())
                add_halos(r, threads);
        for (int64_t b = 0; p.points.scalar && b < p.batch; ++b) {
            double sum = 0;
            for (int64_t i = 0; i < shape_.bands; ++i)
                sum += piece<double>(shared_, scalars_)[b * shape_.bands + i];
            p.points.scalar[b] = T(sum);
        }
        for (int64_t c = 0; p.dbias && c < shape_.channels; ++c) {
            double sum = 0;
            for (int64_t chunk = 0; chunk < chunks_; ++chunk)
                sum += piece<double>(shared_, bias_sums_)[chunk * shape_.channels + c];
            p.dbias[c] = T(sum);
        }
        if (p.dW)
            finish_weights(threads);
        middle_.finish(piece<T>(shared_, middle_sums_), chunks_, sums_);
    }

    // To each band what its neighbours have of it: first of the one before.
    void add_halos(int r, int threads) const {
        const ConvAxis &axis = shape_.axis[0];
        const int64_t row = shape_.axis[1].size * shape_.axis[2].size;
        auto body = [&](int64_t number, int) {
            const ConvBand band = shape_.band(number);
            const int64_t first = number - band.number; // of the image
            const int64_t before = band.number > 0 ? number - 1 : first + shape_.bands - 1;
            const int64_t behind = band.number + 1 < shape_.bands ? number + 1 : first;
            for (int64_t c = 0; c < shape_.channels; ++c) {
                const int64_t at = band.image * shape_.image + (c * axis.size + band.first) * row;
                T *const to = total(r) + at;
                if (band.number > 0 || shape_.circular)
                    for (int64_t i = 0; i < axis.after; ++i)
                        add_rows(halo_row(r, before, c, axis.before + i), 1, 0, row, to + i * row, 0);
                if (band.number + 1 < shape_.bands || shape_.circular)
                    for (int64_t i = 0; i < axis.before; ++i)
                        add_rows(halo_row(r, behind, c, i), 1, 0, row, to + (band.rows - axis.before + i) * row, 0);
                if constexpr (!same)
                    narrow_row(to, band.rows * row, out_[r] + at);
            }
        };
        parallel(threads, all_bands_, body);
    }

    void finish_weights(int threads) const {
        T *const sums = piece<T>(shared_, weight_sums_), *const norm_sums = piece<T>(shared_, norm_sums_);
        const int64_t classes = shape_.classes() * row_;
        reduce_partials(sums, chunks_, shape_.taps * row_, shape_.taps * row_, sums);
        if (is_trace_)
            reduce_partials(norm_sums, chunks_, classes, classes, norm_sums);
        auto body = [&](int64_t j, int) {
            for (int64_t c = 0; is_trace_ && c < shape_.classes(); ++c)
                shape_.each_inside(c, [&](int64_t t) {
                    sums[t * row_ + j] += T(2) * widen(p.W[j * shape_.taps + t]) * norm_sums[c * row_ + j];
                });
            for (int64_t t = 0; t < shape_.taps; ++t)
                narrow(sums[t * row_ + j], p.dW[j * shape_.taps + t]);
        };
        parallel(threads_for(8.0 * double(p.h * shape_.taps * shape_.classes()), threads, p.h), p.h, body);
    }

    const Ridge<S> p;
    const Middle<T> &middle_;
    const ConvShape<S> shape_;
    const S *in_[3];
    S *out_[3];
    bool is_trace_;
    int64_t sums_, block_, stride_, row_, blocks_, all_bands_, chunks_;
    int64_t taps_at_, ordered_, forward_, backward_, weight_sums_, middle_sums_, norms_, norm_sums_, bias_sums_,
        scalars_;
    int64_t halos_[3], totals_[3], points_[3], gradients_[3], tiles_[3];
    int64_t pixels_, classes_, turned_, of_pixels_, scratch_, shared_bytes_, worker_bytes_;
    char *shared_ = nullptr;
};

} // namespace gradnets::GRADNETS_ISA
