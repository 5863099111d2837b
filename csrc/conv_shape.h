// f = Kᵀφ(K∗x), K a convolution: where pixels and taps lie, and how images are cut.
//
// An image has three axes, of which one or two may have length 1, and filters take `before` pixels before and `after`
// behind each pixel.  An image is cut along its first axis into bands.  A band's points lie in a buffer with everything
// its filters reach, so that pixel q and tap t meet at buffer[q + t] whatever the padding; and so do the gradients of
// points, of which the rows beyond the band are its halo and belong to its neighbours.  Within a band a tile of pixels
// is what `rows` are elsewhere: some lines, or a part of one.
#pragma once

#include "cascade.h"

namespace gradnets::GRADNETS_ISA {

struct ConvAxis {
    int64_t size, taps, before, after;

    ConvAxis(int64_t pixels, int64_t filter, bool flipped)
        : size(pixels), taps(filter), before(flipped ? filter / 2 : (filter - 1) / 2), after(filter - 1 - before) {}
    int64_t padded() const { return size + taps - 1; }
    // Pixels whose filters reach over the border in the same way are of one class.
    int64_t classes() const { return smaller(size, taps); }
    int64_t class_of(int64_t pixel) const {
        if (size < taps || pixel < before)
            return pixel;
        return pixel < size - after ? before : taps - size + pixel;
    }
    // Whether tap t of a pixel of the class lies inside the image.
    bool inside(int64_t of_class, int64_t t) const {
        const int64_t pixel = size < taps || of_class <= before ? of_class : of_class + size - taps;
        return pixel + t >= before && pixel + t < before + size;
    }
};

// Rows [first, first + rows) of the first axis of an image.
struct ConvBand {
    int64_t image, number, first, rows;
};

// Lines [first_line, first_line + lines) of a band, of each the pixels [first, first + width).
struct ConvTile {
    int64_t first_line, lines, first, width;
    int64_t pixels() const { return lines * width; }
};

template <class S> struct ConvShape {
    using T = Sum<S>;
    static constexpr int64_t most_pixels = 96; // of a tile

    int64_t channels;
    ConvAxis axis[3];
    bool circular;
    int64_t taps;                  // of a filter, all channels together
    int64_t band_rows, bands;      // of an image
    int64_t pitch, plane, channel; // distances of lines, of rows of the first axis, and of channels, in a buffer
    int64_t buffer;                // values of a buffer
    int64_t piece, pieces, lines;  // pixels of a tile along a line, parts of a line, and lines of a tile
    int64_t image, halo;           // values of an image's points, and of the halo of a band on both sides

    explicit ConvShape(const Conv<S> &p) : ConvShape(p.channels, p.sizes, p.filter, p.circular, false) {}

    // flipped: of filters that are turned round, what lies before a pixel and behind it is exchanged.
    ConvShape(int64_t channels_, const int64_t *sizes, const int64_t *filter, bool circular_, bool flipped)
        : channels(channels_), axis{ConvAxis(sizes[0], filter[0], flipped), ConvAxis(sizes[1], filter[1], flipped),
                                    ConvAxis(sizes[2], filter[2], flipped)},
          circular(circular_), taps(channels_ * filter[0] * filter[1] * filter[2]) {
        pitch = axis[2].padded();
        plane = axis[1].padded() * pitch;
        image = channels * axis[0].size * axis[1].size * axis[2].size;
        cut_bands();
        channel = (band_rows + axis[0].taps - 1) * plane;
        buffer = channels * channel + Tile<T>::panel;
        halo = channels * (axis[0].taps - 1) * axis[1].size * axis[2].size;
        pieces = (axis[2].size + most_pixels - 1) / most_pixels;
        piece = pieces == 1 ? axis[2].size : round_up((axis[2].size + pieces - 1) / pieces, Tile<T>::lanes);
        pieces = (axis[2].size + piece - 1) / piece;
        lines = larger(1, most_pixels / piece);
    }

    int64_t tile_pixels() const { return lines * piece; }
    ConvBand band(int64_t number) const {
        const int64_t of_image = number % bands, first = of_image * axis[0].size / bands;
        return {number / bands, of_image, first, (of_image + 1) * axis[0].size / bands - first};
    }
    int64_t tiles(const ConvBand &band) const { return (band.rows * axis[1].size + lines - 1) / lines * pieces; }
    ConvTile tile(const ConvBand &band, int64_t number) const {
        const int64_t line = number / pieces * lines, first = number % pieces * piece;
        return {line, smaller(lines, band.rows * axis[1].size - line), first, smaller(piece, axis[2].size - first)};
    }
    // Where line number `line` of a band starts in its buffer.
    int64_t line_at(int64_t line) const { return line / axis[1].size * plane + line % axis[1].size * pitch; }
    // Where the pixels of a tile lie in a band's buffer.
    void pixel_distances(const ConvTile &tile, int64_t *to) const {
        for (int64_t l = 0; l < tile.lines; ++l)
            for (int64_t k = 0; k < tile.width; ++k)
                *to++ = line_at(tile.first_line + l) + tile.first + k;
    }
    // The distances of the taps, in the order of K.
    void tap_distances(int64_t *to) const {
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < axis[0].taps; ++i)
                for (int64_t j = 0; j < axis[1].taps; ++j)
                    for (int64_t k = 0; k < axis[2].taps; ++k)
                        *to++ = c * channel + i * plane + j * pitch + k;
    }
    // A band's points with what its filters reach: zeros, or the pixels of the other side, around the image.
    void load_points(const ConvBand &band, const S *points, T *to) const {
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < band.rows + axis[0].taps - 1; ++i)
                for (int64_t j = 0; j < axis[1].padded(); ++j) {
                    T *const line = to + c * channel + i * plane + j * pitch;
                    const int64_t at[] = {place(axis[0], band.first + i), place(axis[1], j)};
                    if (at[0] < 0 || at[1] < 0) {
                        fill_zero(line, pitch);
                        continue;
                    }
                    const S *const from = points + ((c * axis[0].size + at[0]) * axis[1].size + at[1]) * axis[2].size;
                    T *const inside = line + axis[2].before;
                    const int64_t end = axis[2].size;
                    widen_row(from, end, inside);
                    for (int64_t k = 0; k < axis[2].before; ++k)
                        line[k] = circular ? inside[end - axis[2].before + k] : T(0);
                    for (int64_t k = 0; k < axis[2].after; ++k)
                        inside[end + k] = circular ? inside[k] : T(0);
                }
    }
    int64_t classes() const { return circular ? 1 : axis[0].classes() * axis[1].classes() * axis[2].classes(); }
    int64_t class_of(int64_t i, int64_t j, int64_t k) const {
        return circular ? 0
                        : (axis[0].class_of(i) * axis[1].classes() + axis[1].class_of(j)) * axis[2].classes() +
                              axis[2].class_of(k);
    }
    // body(t) for the taps, in the order of K, that lie inside the image at pixels of the class.
    template <class F> void each_inside(int64_t of_class, const F &body) const {
        const int64_t last = of_class % axis[2].classes(), middle = of_class / axis[2].classes() % axis[1].classes(),
                      first = of_class / axis[2].classes() / axis[1].classes();
        int64_t t = 0;
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < axis[0].taps; ++i)
                for (int64_t j = 0; j < axis[1].taps; ++j)
                    for (int64_t k = 0; k < axis[2].taps; ++k, ++t)
                        if (circular ||
                            (axis[0].inside(first, i) && axis[1].inside(middle, j) && axis[2].inside(last, k)))
                            body(t);
    }

  private:
    // The pixel at a place of a buffer's axis, or −1 if it lies outside of the image.
    int64_t place(const ConvAxis &of, int64_t at) const {
        const int64_t pixel = at - of.before;
        if (pixel >= 0 && pixel < of.size)
            return pixel;
        return circular ? (pixel + of.size) % of.size : -1;
    }
    // Enough bands of one image for several threads, whose halos are a small part of them.  They do not depend on the
    // batch, so that an image's results do not either.
    void cut_bands() {
        const int64_t lines = axis[1].size * axis[2].size, tile = (most_pixels + lines - 1) / lines;
        bands = larger(1, axis[0].size / larger(larger(axis[0].taps, 16), tile));
        band_rows = (axis[0].size + bands - 1) / bands;
    }
};

} // namespace gradnets::GRADNETS_ISA
