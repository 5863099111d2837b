// Convolutions between few channels, the stages before the last one:
//   y = K∗x,   x = Kᵀy,   dK[c, i, t] = Σ_p y_c(p)·x_i(p + t),
// of which each is the derivative of another.  Kᵀ is a convolution too, with flipped filters.  Neighbouring pixels of a
// line are vectors, and output channels the rows of a tile.
#pragma once

#include "conv_product.h"
#include "conv_shape.h"

namespace gradnets::GRADNETS_ISA {

// Vectors of pixels that fill the registers beside so many rows.
template <class T> constexpr int vectors_beside(int rows) {
    const int fitting = (Tile<T>::rows * Tile<T>::vectors + Tile<T>::vectors + 1) / (rows + 1);
    return fitting < 8 ? fitting : 8;
}

// y = K∗x or x = Kᵀy.
template <class S> class ConvLinear {
    using T = Sum<S>;
    static constexpr int64_t lanes = Tile<T>::lanes, together = Tile<T>::rows;

  public:
    explicit ConvLinear(const LinearConv<S> &problem)
        : p(problem), flipped_(p.which == Linear::adjoint), inputs_(flipped_ ? p.filters : p.channels),
          outputs_(flipped_ ? p.channels : p.filters), shape_(inputs_, p.sizes, p.filter, p.circular, flipped_),
          groups_((outputs_ + together - 1) / together), line_(round_up(shape_.axis[2].size, lanes) + lanes) {}

    bool run() {
        const int64_t bands = p.batch * shape_.bands;
        Layout all, mine;
        const int64_t taps_at = all.add<int64_t>(shape_.taps), weights_at = all.add<T>(outputs_ * shape_.taps);
        const int64_t buffer_at = mine.add<T>(shape_.buffer + 8 * lanes), line_at = mine.add<T>(together * line_);
        const double flops = 2.0 * double(outputs_ * shape_.taps) * double(p.batch * shape_.image / inputs_);
        const int threads = threads_for(flops, p.threads, bands);
        Workspace workspace(all.bytes() + threads * mine.bytes());
        if (!workspace.ok())
            return false;
        taps_ = piece<int64_t>(workspace.at(0), taps_at);
        weights_ = piece<T>(workspace.at(0), weights_at);
        shape_.tap_distances(taps_);
        pack();
        auto body = [&](int64_t number, int worker) {
            char *const memory = workspace.at(all.bytes() + worker * mine.bytes());
            const ConvBand band = shape_.band(number);
            T *const buffer = piece<T>(memory, buffer_at);
            const S *const from = flipped_ ? p.y : p.x;
            shape_.load_points(band, from + band.image * shape_.image, buffer);
            for (int64_t line = 0; line < band.rows * shape_.axis[1].size; ++line)
                for (int64_t g = 0; g < groups_; ++g)
                    write_line(band, line, first_of(g), first_of(g + 1), buffer, piece<T>(memory, line_at));
        };
        parallel(threads, bands, body);
        return true;
    }

  private:
    int64_t first_of(int64_t group) const { return group * outputs_ / groups_; }

    // For each group of outputs [taps][outputs of the group].
    void pack() const {
        const int64_t filter = shape_.taps / inputs_;
        for (int64_t g = 0; g < groups_; ++g) {
            const int64_t first = first_of(g), rows = first_of(g + 1) - first;
            T *to = weights_ + first * shape_.taps;
            for (int64_t i = 0; i < inputs_; ++i)
                for (int64_t t = 0; t < filter; ++t)
                    for (int64_t o = first; o < first + rows; ++o)
                        *to++ = widen(flipped_ ? p.K[(i * outputs_ + o) * filter + filter - 1 - t]
                                               : p.K[(o * inputs_ + i) * filter + t]);
        }
    }

    void write_line(const ConvBand &band, int64_t line, int64_t first, int64_t last, const T *buffer, T *values) const {
        const int64_t width = shape_.axis[2].size;
        const T *const weights = weights_ + first * shape_.taps, *const points = buffer + shape_.line_at(line);
        with_at_most<together>(last - first, [&](auto count) {
            constexpr int rows = decltype(count)::value, most = vectors_beside<T>(rows);
            for (int64_t j = 0; j < width; j += most * lanes)
                with_at_most<most>(vectors_of<T>(width - j), [&](auto vectors) {
                    for (int64_t t = 0; t < shape_.taps; t += kSumBlock)
                        conv_tile<T, rows, decltype(vectors)::value>(
                            smaller(kSumBlock, shape_.taps - t), PackedRows<T, rows>{weights + t * rows},
                            ColumnsInPlace<T>{points + j, taps_ + t}, {values, nullptr, line_}, 0, j, t > 0);
                });
        });
        const int64_t rows = shape_.axis[0].size * shape_.axis[1].size;
        for (int64_t o = first; o < last; ++o)
            narrow_row(values + (o - first) * line_, width,
                       p.result +
                           ((band.image * outputs_ + o) * rows + band.first * shape_.axis[1].size + line) * width);
    }

    const LinearConv<S> p;
    const bool flipped_;
    const int64_t inputs_, outputs_;
    const ConvShape<S> shape_;
    const int64_t groups_, line_;
    int64_t *taps_ = nullptr;
    T *weights_ = nullptr;
};

// dK, of taps as rows and filters as columns: a tile of y's pixels is turned, so that its filters are vectors.
template <class S> class ConvFilters {
    using T = Sum<S>;
    static constexpr int64_t panel = Tile<T>::panel;

  public:
    explicit ConvFilters(const LinearConv<S> &problem)
        : p(problem), shape_(p.channels, p.sizes, p.filter, p.circular, false), row_(round_up(p.filters, panel)),
          bands_(p.batch * shape_.bands), chunks_(smaller(bands_, most_chunks(p.filters * shape_.taps))) {}

    bool run() {
        Layout all, mine;
        const int64_t pixels = shape_.tile_pixels(), taps_at = all.add<int64_t>(shape_.taps),
                      sums_at = all.add<T>(chunks_ * shape_.taps * row_);
        const int64_t buffer_at = mine.add<T>(shape_.buffer), pixels_at = mine.add<int64_t>(pixels),
                      y_at = mine.add<T>(p.filters * pixels), turned_at = mine.add<T>(row_ * pixels);
        const double flops = 2.0 * double(p.filters * shape_.taps) * double(p.batch * shape_.image / p.channels);
        const int threads = threads_for(flops, p.threads, chunks_);
        Workspace workspace(all.bytes() + threads * mine.bytes());
        if (!workspace.ok())
            return false;
        int64_t *const taps = piece<int64_t>(workspace.at(0), taps_at);
        T *const sums = piece<T>(workspace.at(0), sums_at);
        shape_.tap_distances(taps);
        auto body = [&](int64_t chunk, int worker) {
            char *const memory = workspace.at(all.bytes() + worker * mine.bytes());
            T *const mine_of_sums = sums + chunk * shape_.taps * row_;
            bool started = false;
            for (int64_t b = chunk * bands_ / chunks_; b < (chunk + 1) * bands_ / chunks_; ++b) {
                const ConvBand band = shape_.band(b);
                T *const points = piece<T>(memory, buffer_at);
                shape_.load_points(band, p.x + band.image * shape_.image, points);
                for (int64_t t = 0; t < shape_.tiles(band); ++t) {
                    int64_t *const places = piece<int64_t>(memory, pixels_at);
                    const ConvTile tile = shape_.tile(band, t);
                    shape_.pixel_distances(tile, places);
                    turn(band, tile, piece<T>(memory, y_at), piece<T>(memory, turned_at));
                    conv_product<T>(shape_.taps, p.filters, tile.pixels(), {points, taps, places},
                                    Right<T>{piece<T>(memory, turned_at), panel, panel * tile.pixels()},
                                    {mine_of_sums, nullptr, row_}, started);
                    started = true;
                }
            }
        };
        parallel(threads, chunks_, body);
        reduce_partials(sums, chunks_, shape_.taps * row_, shape_.taps * row_, sums);
        for (int64_t c = 0; c < p.filters; ++c)
            for (int64_t t = 0; t < shape_.taps; ++t)
                narrow(sums[t * row_ + c], p.result[c * shape_.taps + t]);
        return true;
    }

  private:
    // A tile's values of y, as [filters, pixels] and then as panels of filters.
    void turn(const ConvBand &band, const ConvTile &tile, T *values, T *turned) const {
        const int64_t width = shape_.axis[2].size, rows = shape_.axis[0].size * shape_.axis[1].size;
        const int64_t first = band.first * shape_.axis[1].size + tile.first_line, pixels = tile.pixels();
        for (int64_t c = 0; c < p.filters; ++c)
            for (int64_t l = 0; l < tile.lines; ++l)
                widen_row(p.y + ((band.image * p.filters + c) * rows + first + l) * width + tile.first, tile.width,
                          values + c * pixels + l * tile.width);
        for (int64_t c = 0; c < p.filters; c += panel)
            pack_panel(values + c * pixels, pixels, smaller(panel, p.filters - c), pixels, turned + c * pixels);
    }

    const LinearConv<S> p;
    const ConvShape<S> shape_;
    const int64_t row_, bands_, chunks_;
};

template <class S> bool linear_conv(const LinearConv<S> &p) {
    return p.which == Linear::filters ? ConvFilters<S>(p).run() : ConvLinear<S>(p).run();
}

} // namespace gradnets::GRADNETS_ISA
