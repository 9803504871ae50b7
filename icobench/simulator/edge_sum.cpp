// The edge sum and its derivatives in one loop: edge_sum.py, line by line.
//
// On a CPU sixteen wave vectors (eight in double precision) at a time go through all segments of one body in
// registers, on a GPU one in each thread. Vector types are those of GCC and Clang; the compiler splits them to what
// the processor has. No sum runs over vector lanes, so that the result does not depend on how the work is cut.

namespace {

constexpr int numbers_per_segment = 13;
constexpr int slopes_per_segment = 6;
constexpr int most_parameters = 8;

template <typename T, int lanes>
struct Lanes;
template <typename T>
struct Lanes<T, 1> {
    typedef T type;
};
#ifdef __CUDACC_RTC__
#define CONVERTED(x, type) type(x)
#else
#define CONVERTED(x, type) __builtin_convertvector(x, type)
template <typename T>
struct Lanes<T, 8> {
    typedef T type __attribute__((vector_size(sizeof(T) * 8)));
};
template <typename T>
struct Lanes<T, 16> {
    typedef T type __attribute__((vector_size(sizeof(T) * 16)));
};
#endif

template <typename T, int lanes>
struct Sum {
    typedef typename Lanes<T, lanes>::type real;
    typedef typename Lanes<double, lanes>::type wide;

    struct Pair {
        real re, im;

        friend Pair operator*(const Pair& a, const Pair& b) {
            return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
        }
        friend Pair operator*(const Pair& a, const real& b) { return {a.re * b, a.im * b}; }
        friend Pair operator+(const Pair& a, const Pair& b) { return {a.re + b.re, a.im + b.im}; }
        friend Pair operator-(const Pair& a, const Pair& b) { return {a.re - b.re, a.im - b.im}; }
    };

    static real narrow(const wide& x) {
        if constexpr (lanes == 1) {
            return real(x);
        } else {
            return CONVERTED(x, real);
        }
    }

    // Wave vectors k_x, k_y, q_z and the weights conj(w) / w and kappa / w there.
    struct Waves {
        wide x, y, z;
        Pair weight, factor, inverse;  // inverse is 1 / w^2

        Waves(const double* waves, const double* kappa, int64_t nodes, int64_t first) {
            if constexpr (lanes == 1) {
                x = waves[first], y = waves[nodes + first], z = waves[2 * nodes + first];
            } else {
                double wave[3][lanes];
                for (int lane = 0; lane < lanes; ++lane) {
                    const int64_t node = first + lane < nodes ? first + lane : nodes - 1;
                    for (int row = 0; row < 3; ++row) wave[row][lane] = waves[row * nodes + node];
                }
                memcpy(&x, wave[0], sizeof x);
                memcpy(&y, wave[1], sizeof y);
                memcpy(&z, wave[2], sizeof z);
            }
            const wide real_part = z - kappa[0];
            const double imag_part = -kappa[1];
            const wide norm = real_part * real_part + imag_part * imag_part;
            weight = {
                narrow((real_part * real_part - imag_part * imag_part) / norm),
                narrow(-2 * imag_part * real_part / norm)};
            factor = {
                narrow((kappa[0] * real_part + kappa[1] * imag_part) / norm),
                narrow((kappa[1] * real_part - kappa[0] * imag_part) / norm)};
            inverse = {
                narrow((real_part * real_part - imag_part * imag_part) / (norm * norm)),
                narrow(-2 * imag_part * real_part / (norm * norm))};
        }
        wide form(const double* f) const { return f[0] * x + f[1] * y + f[2] * z + f[3]; }
    };

    template <typename... Coefficients>
    static real polynomial(const real& u, Coefficients... coefficients) {
        real sum = {};
        ((sum = sum * u + T(coefficients)), ...);
        return sum;
    }

    // sin(2 pi p) and cos(2 pi p) from minimax polynomials of sin(pi r) / r and cos(pi r) in r^2, |r| <= 1/2;
    // their errors are 1.3e-8 and 4.7e-8 in single, 1e-18 and 4e-18 in double precision.
    static void sine_cosine(const wide& turns, real& sine, real& cosine) {
        constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
        const real r = narrow(turns - ((turns + shift) - shift));
        const real u = r * r;
        real s, c;
        if constexpr (sizeof(T) == 4) {
            s = polynomial(u, 0.07765766, -0.59829129, 2.55007752, -5.16771008, 3.14159264);
            c = polynomial(u, 0.21968961, -1.33187657, 4.05841135, -4.93479283, 0.99999995);
        } else {
            s = polynomial(
                u, 7.69782676822419e-7, -2.19034970746260e-5, 4.66299816189840e-4, -7.37043050591694e-3,
                    8.21458865731029e-2, -0.599264529318944681, 2.55016403987730047, -5.16771278004996961,
                    3.14159265358979324);
            c = polynomial(
                u, 4.14956435394259e-6, -1.04566553487387e-4, 1.92955627248171e-3, -2.58068887370022e-2,
                    0.235330630129532854, -1.33526276884344709, 4.058712126416497, -4.93480220054467677, 1.0);
        }
        s *= r;
        sine = T(2) * s * c;
        cosine = T(1) - T(2) * s * s;
    }

    // One segment at some wave vectors: the factors of its term N sinc E.
    struct Term {
        real t, v1, v2, x, square, size1, size2;
        Pair weight, numerator, sine, slope, phase, wave;

        Term(const double* forms, const T* n, const Waves& waves) {
            const wide along = waves.form(forms + 4);
            real s, c;
            sine_cosine(along * (double(n[0]) * 0.15915494309189535), s, c);
            t = narrow(along);
            v1 = narrow(waves.form(forms + 8));
            v2 = narrow(waves.form(forms + 12));
            x = t * n[0];
            square = t * t + n[2];
            size1 = square + n[3] * n[3] + v1 * v1;
            size2 = square + n[4] * n[4] + v2 * v2;
            weight = {n[8] * waves.weight.re + n[9], n[8] * waves.weight.im + n[10]};
            numerator = {
                weight.re * square - (v1 * v2 - n[3] * n[4]), weight.im * square + (v1 * n[4] + n[3] * v2)};
            sine = {s * n[6], c * n[7]};
            slope = {c * n[6], -(s * n[7])};
            sine_cosine(waves.form(forms), s, c);
            const Pair factor = {n[12] * waves.factor.re + n[11], n[12] * waves.factor.im};
            phase = {c, -s};
            wave = factor * phase;
        }
    };

    // Derivative of g sin(z) / z by z from the value and slope = g cos(z); a power series where z is small.
    static Pair sinc_slope(const real& x, T y, const Pair& sinc, const Pair& slope, const real& inverse) {
        const Pair square = {x * x - y * y, T(2) * y * x};
        Pair series = square * (real{} + T(1382.0 / 155925));
        series.re += T(62.0 / 2835);
        const double coefficients[3] = {17.0 / 315, 2.0 / 15, 1.0 / 3};
        for (const double coefficient : coefficients) {
            series = series * square;
            series.re += T(coefficient);
        }
        const Pair near = series * Pair{-x, real{} - y} * slope;
        const Pair far = (slope - sinc) * Pair{x, real{} - y} * inverse;
        // The next coefficient of the series is 21844 / 6081075: exact to 2e-7, in double to 1e-13.
        const auto small = x * x + y * y < T(sizeof(T) == 4 ? 0.06 : 0.003);
        return {small ? near.re : far.re, small ? near.im : far.im};
    }

    // Where the results of a block go: ``count`` nodes from ``place`` on in rows of ``length``, then ``zeros``.
    struct Place {
        int64_t length, place, count, zeros;

        void store(const real& values, T* out, int64_t row) const {
            T* target = out + row * length + place;
            if constexpr (lanes == 1) {
                *target = values;
            } else {
                memcpy(target, &values, count * sizeof(T));
            }
            for (int64_t zero = 0; zero < zeros; ++zero) target[count + zero] = 0;
        }
    };

    // The field of one item at the block of nodes that begins with ``first``.
    static void field(
        const Place& place, int64_t item, int64_t first, int64_t batch, int64_t segments, int64_t nodes, const double* forms,
        const T* numbers, const int64_t* live, const double* waves, const double* kappa, T* out) {
        const Waves at(waves, kappa, nodes, first);
        const double* form = forms + item * segments * 16;
        const T* number = numbers + item * segments * numbers_per_segment;
        Pair total = {real{}, real{}};
        for (int64_t segment = 0; segment < live[item]; ++segment) {
            const T y = number[1];
            const Term term(form, number, at);
            const real scale = T(1) / (term.size1 * term.size2 * (term.x * term.x + y * y));
            total = total + term.numerator * (term.sine * Pair{term.x, real{} - y} * scale) * term.wave;
            form += 16;
            number += numbers_per_segment;
        }
        place.store(total.re, out, item);
        place.store(total.im, out, batch + item);
    }

    // The field and its derivatives; ``changes`` (T, 3) say how kappa (real) and, by k_x and k_y, q_z change with the
    // parameters.
    static void jacobian(
        const Place& place, int64_t item, int64_t first, int64_t batch, int64_t segments, int64_t nodes, int64_t parameters,
        const double* forms, const T* numbers, const int64_t* live, const double* waves, const double* kappa,
        const T* form_slopes, const T* number_slopes, const double* changes, T* out) {
        const Waves at(waves, kappa, nodes, first);
        const real kx = narrow(at.x), ky = narrow(at.y), qz = narrow(at.z);
        const auto form = [&](const T* f) { return f[0] * kx + f[1] * ky + f[2] * qz + f[3]; };
        Pair total[1 + most_parameters] = {}, shared[3] = {};
        for (int64_t segment = 0; segment < live[item]; ++segment) {
            const T* number = numbers + (item * segments + segment) * numbers_per_segment;
            const T half = number[0], y = number[1], w1 = number[3], w2 = number[4];
            const Term term(forms + (item * segments + segment) * 16, number, at);
            const real inverse = T(1) / (term.x * term.x + y * y);
            const Pair sinc = term.sine * Pair{term.x, real{} - y} * inverse;
            const real scale = T(1) / (term.size1 * term.size2);
            const Pair wave = term.wave * scale;
            const Pair bare = sinc * wave;
            const Pair value = term.numerator * bare;
            const Pair by_z = term.numerator * wave * sinc_slope(term.x, y, sinc, term.slope, inverse);
            const Pair by_weight = term.weight * bare;
            const Pair by_v1 = bare * Pair{term.v2, real{} - w2};
            const Pair by_v2 = bare * Pair{term.v1, real{} - w1};
            const real inverse1 = scale * term.size2, inverse2 = scale * term.size1;
            total[0] = total[0] + value;
            // By conj(w) / w, by conj(kappa) / kappa, and by kappa / w.
            const Pair weighed = bare * term.square;
            shared[0] = shared[0] + weighed * (real{} + number[8]);
            shared[1] = shared[1] + weighed * (real{} + number[12] * (T(1) - number[11]));
            shared[2] = shared[2] + term.numerator * sinc * term.phase * (scale * number[12]);
#pragma unroll
            for (int parameter = 0; parameter < most_parameters; ++parameter) {
                if (parameter >= parameters) break;
                const int64_t row = (item * parameters + parameter) * segments + segment;
                const T* f = form_slopes + row * 16;
                const T* n = number_slopes + row * slopes_per_segment;
                const real t = form(f + 4), v1 = form(f + 8), v2 = form(f + 12);
                const real square = T(2) * term.t * t + n[2];
                const real size1 = square + T(2) * (term.v1 * v1 + w1 * n[3]);
                const real size2 = square + T(2) * (term.v2 * v2 + w2 * n[4]);
                const Pair logarithm = {
                    n[5] - size1 * inverse1 - size2 * inverse2, T(-6.283185307179586) * form(f)};
                const Pair z = {half * t + n[0] * term.t, real{} + n[1]};
                total[1 + parameter] = total[1 + parameter] + value * logarithm + by_z * z + by_weight * square -
                                       by_v1 * Pair{v1, real{} - n[3]} - by_v2 * Pair{v2, real{} - n[4]};
            }
        }
        // d (conj(w) / w) = 2 i Im w / w^2 (d q_z - d kappa), d (kappa / w) = (q_z d kappa - kappa d q_z) / w^2, and
        // of conj(kappa) / kappa as of the first.
        const Pair spread = at.inverse * Pair{real{}, real{} - T(2 * kappa[1])} * shared[0];
        const Pair passed = at.inverse * shared[2];
        const Pair by_wave = spread - passed * Pair{real{} + T(kappa[0]), real{} + T(kappa[1])};
        const Pair by_index = passed * narrow(at.z) - spread;
        const double size = kappa[0] * kappa[0] + kappa[1] * kappa[1];
        const double turned = size == 0 ? 0 : 2 * kappa[1] / (size * size);
        const Pair material = {
            real{} + T(turned * 2 * kappa[0] * kappa[1]),
            real{} + T(turned * (kappa[0] * kappa[0] - kappa[1] * kappa[1]))};
#pragma unroll
        for (int row = 0; row <= most_parameters; ++row) {
            if (row > parameters) break;
            if (row > 0) {
                const double* change = changes + 3 * (row - 1);
                const real wave = narrow(change[1] * at.x + change[2] * at.y);
                total[row] = total[row] + by_wave * wave + (by_index + material * shared[1]) * (real{} + T(change[0]));
            }
            place.store(total[row].re, out, 2 * row * batch + item);
            place.store(total[row].im, out, (2 * row + 1) * batch + item);
        }
    }

    // Tasks are blocks of nodes, item by item; [begin, end) of them is done.
    template <typename Function, typename... Tables>
    static void tasks(
        const Function& function, int64_t begin, int64_t end, int64_t batch, int64_t segments, int64_t nodes,
        Tables... tables) {
        const int64_t blocks = (nodes + lanes - 1) / lanes;
        for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task % blocks * lanes, rest = nodes - first;
            const Place place = {nodes, first, rest < lanes ? rest : lanes, 0};
            function(place, task / blocks, first, batch, segments, nodes, tables...);
        }
    }
};

}  // namespace

// forms (B, S, 16), numbers (B, S, 13), live (B): segments that count; waves (4, P); kappa (2); out (2, B, P). For the
// Jacobian form_slopes (B, T, S, 16), number_slopes (B, T, S, 6), changes (T, 3), out (2 (1 + T), B, P).
#ifndef __CUDACC_RTC__
#define ENTRIES(T, lanes)                                                                                        \
    void edge_sum_##T(                                                                                           \
        int64_t begin, int64_t end, int64_t batch, int64_t segments, int64_t nodes, const double* forms,         \
        const T* numbers, const int64_t* live, const double* waves, const double* kappa, T* out) {               \
        Sum<T, lanes>::tasks(                                                                                    \
            Sum<T, lanes>::field, begin, end, batch, segments, nodes, forms, numbers, live, waves, kappa, out);  \
    }                                                                                                            \
    void edge_sum_jacobian_##T(                                                                                  \
        int64_t begin, int64_t end, int64_t batch, int64_t segments, int64_t nodes, int64_t parameters,          \
        const double* forms, const T* numbers, const int64_t* live, const double* waves, const double* kappa,    \
        const T* form_slopes, const T* number_slopes, const double* changes, T* out) {                           \
        Sum<T, lanes>::tasks(                                                                                    \
            Sum<T, lanes>::jacobian, begin, end, batch, segments, nodes, parameters, forms, numbers, live,       \
            waves, kappa, form_slopes, number_slopes, changes, out);                                             \
    }

extern "C" {
ENTRIES(float, 16)
ENTRIES(double, 8)
}
#endif
