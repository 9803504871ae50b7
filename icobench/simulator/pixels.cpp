// From a skeleton's nodes to the pixels: to_pixels() of skeleton.py, for processors.
//
// Three matrix products, most of them with few rows: two for each body. Libraries fill such products up, or choose
// another order of summation for another number of rows. Here every sum runs over its terms in turn, whatever the
// number of rows, so that no result depends on what else is carried.

#ifndef __CUDACC_RTC__
#include <algorithm>
#include <memory>

namespace {

// c = a b, with a (count, depth), b (depth, width) and a pointer to each row of c.
template <typename T>
struct Product {
    int64_t depth, width;
    const T* a;
    int64_t row, step;  // between the rows of a, and along them
    const T* b;         // rows of ``width`` numbers

    // Of 64 bytes, as no processor has longer ones: the compiler would join shorter vectors for some counts of rows,
    // and round products before it adds them there.
    static constexpr int lanes = 64 / sizeof(T);
    typedef typename Lanes<T, lanes>::type real;

    template <int count, int vectors, bool narrow>
    void tile(const T* left, int64_t column, T* const* c) const {
        real sums[count][vectors] = {};
        const T* right = b + column;
        for (int64_t k = 0; k < depth; ++k, right += width) {
            real values[vectors] = {};
            for (int v = 0; v < vectors; ++v)
                memcpy(&values[v], right + v * lanes, narrow ? width * sizeof(T) : sizeof(real));
            for (int m = 0; m < count; ++m) {
                const T factor = left[m * row + k * step];
                for (int v = 0; v < vectors; ++v) sums[m][v] += factor * values[v];
            }
        }
        for (int m = 0; m < count; ++m) memcpy(c[m] + column, sums[m], narrow ? width * sizeof(T) : sizeof sums[m]);
    }

    // The last vector overlaps the one before, whose numbers it computes once more.
    template <int count>
    void rows(const T* left, T* const* c) const {
        constexpr int vectors = count == 4 ? 2 : 4;
        if (width < lanes) return tile<count, 1, true>(left, 0, c);
        int64_t column = 0;
        for (; column + vectors * lanes <= width; column += vectors * lanes)
            tile<count, vectors, false>(left, column, c);
        for (; column < width; column += lanes)
            tile<count, 1, false>(left, std::min<int64_t>(column, width - lanes), c);
    }

    void store(int64_t count, T* const* c) const {
        int64_t m = 0;
        for (; m + 4 <= count; m += 4) rows<4>(a + m * row, c + m);
        for (; m + 2 <= count; m += 2) rows<2>(a + m * row, c + m);
        for (; m < count; ++m) rows<1>(a + m * row, c + m);
    }
};

constexpr int64_t fields_at_once = 8;
constexpr int64_t lines_at_once = 16;

// skeleton.Skeleton, and the fields at its nodes: values (N, P).
template <typename T>
struct Carrier {
    int64_t fields, nodes, rows, across, common, pixels;
    bool flat;
    const T* values;
    const int64_t* starts;  // (rows + 1) of the rows of nodes among the P
    const T *level, *onto_rows, *columns;
    const int64_t* places;  // (N) of the images in out
    T* out;

    // Lines [from, to) of some fields: rows of the detector, or columns of a flat one.
    void carry(int64_t first, int64_t from, int64_t to, T* scratch) const {
        const int64_t count = std::min(fields_at_once, fields - first), plane = rows * common;
        T* between = scratch + fields_at_once * plane;
        T* targets[lines_at_once];
        for (int64_t a = 0; a < rows; ++a) {
            for (int64_t m = 0; m < count; ++m) targets[m] = scratch + m * plane + a * common;
            const Product<T> along = {
                starts[a + 1] - starts[a], common, values + first * nodes + starts[a], nodes, 1,
                level + a * across * common};
            along.store(count, targets);
        }
        for (int64_t line = from; line < to; line += lines_at_once) {
            const int64_t lines = std::min(lines_at_once, to - line);
            if (flat) {
                columns_of(first, count, line, lines, scratch, between);
                continue;
            }
            for (int64_t m = 0; m < count; ++m) {
                for (int64_t y = 0; y < lines; ++y) targets[y] = between + (m * lines_at_once + y) * common;
                const Product<T> onto = {rows, common, onto_rows + line * rows, rows, 1, scratch + m * plane};
                onto.store(lines, targets);
            }
            for (int64_t y = 0; y < lines; ++y) {
                for (int64_t m = 0; m < count; ++m)
                    targets[m] = out + places[first + m] + (line + y) * pixels;
                const Product<T> onto = {
                    common, pixels, between + y * common, lines_at_once * common, 1,
                    columns + (line + y) * common * pixels};
                onto.store(count, targets);
            }
        }
    }

    void columns_of(
        int64_t first, int64_t count, int64_t line, int64_t lines, const T* scratch, T* between) const {
        T* targets[fields_at_once];
        for (int64_t x = 0; x < lines; ++x) {
            for (int64_t m = 0; m < count; ++m) targets[m] = between + (m * lines_at_once + x) * pixels;
            const Product<T> onto = {
                rows, pixels, scratch + line + x, rows * common, common, columns + (line + x) * rows * pixels};
            onto.store(count, targets);
        }
        for (int64_t m = 0; m < count; ++m)
            for (int64_t y = 0; y < pixels; ++y)
                for (int64_t x = 0; x < lines; ++x)
                    out[places[first + m] + y * pixels + line + x] = between[(m * lines_at_once + x) * pixels + y];
    }

    // Tasks are some fields each, in ``parts`` of the lines; [begin, end) of them is done.
    void tasks(int64_t begin, int64_t end, int64_t parts) const {
        const int64_t plane = rows * common, between = lines_at_once * std::max(common, pixels);
        const std::unique_ptr<T[]> scratch(new T[fields_at_once * (plane + between)]);
        for (int64_t task = begin; task < end; ++task) {
            const int64_t part = task % parts;
            carry(
                task / parts * fields_at_once, pixels * part / parts, pixels * (part + 1) / parts, scratch.get());
        }
    }
};

}  // namespace

#define PIXELS(T)                                                                                               \
    void to_pixels_##T(                                                                                         \
        int64_t begin, int64_t end, int64_t parts, int64_t fields, int64_t nodes, int64_t rows, int64_t across, \
        int64_t common, int64_t pixels, int64_t flat, const T* values, const int64_t* starts, const T* level,   \
        const T* onto_rows, const T* columns, const int64_t* places, T* out) {                                  \
        const Carrier<T> carrier = {fields, nodes,  rows,  across,    common,  pixels, flat != 0,               \
                                    values, starts, level, onto_rows, columns, places, out};                    \
        carrier.tasks(begin, end, parts);                                                                       \
    }

extern "C" {
PIXELS(float)
PIXELS(double)
}
#endif
