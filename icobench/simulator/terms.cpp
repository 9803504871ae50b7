// The terms of planned segments and their derivatives: segments() of overlay.py and terms.py, line by line, with
// numbers that carry their derivatives along.

namespace {

constexpr int parameters = 5;  // turn about x, y, z; radius; real part of kappa
constexpr int differentiated = 6;
constexpr int further = 7;  // numbers without derivatives

// A number with its derivatives by the parameters (forward mode).
struct Dual {
    double value;
    double slope[parameters];

    Dual(double constant = 0) : value(constant), slope{} {}
    // f(x) with derivative f'(x).
    Dual(double result, double factor, const Dual& x) : value(result) {
        for (int i = 0; i < parameters; ++i) slope[i] = factor * x.slope[i];
    }
    friend Dual operator+(Dual a, const Dual& b) {
        a.value += b.value;
        for (int i = 0; i < parameters; ++i) a.slope[i] += b.slope[i];
        return a;
    }
    friend Dual operator-(Dual a, const Dual& b) {
        a.value -= b.value;
        for (int i = 0; i < parameters; ++i) a.slope[i] -= b.slope[i];
        return a;
    }
    friend Dual operator*(const Dual& a, const Dual& b) {
        Dual out(a.value * b.value);
        for (int i = 0; i < parameters; ++i) out.slope[i] = a.slope[i] * b.value + a.value * b.slope[i];
        return out;
    }
    friend Dual operator/(const Dual& a, const Dual& b) {
        Dual out(a.value / b.value);
        for (int i = 0; i < parameters; ++i) out.slope[i] = (a.slope[i] - out.value * b.slope[i]) / b.value;
        return out;
    }
};

double value(double x) { return x; }
double value(const Dual& x) { return x.value; }
double root(double x) { return sqrt(x); }
Dual root(const Dual& x) {
    const double y = sqrt(x.value);
    return Dual(y, 0.5 / y, x);
}
double logarithm(double x) { return log(x); }
Dual logarithm(const Dual& x) { return Dual(log(x.value), 1 / x.value, x); }

void turn(const double* m, const double* r, Point<Dual>& out) {
    Point<double> p;
    turn(m, r, p);
    out = {p.x, p.y, p.z};
    out.y.slope[0] = -p.z, out.z.slope[0] = p.y;
    out.x.slope[1] = p.z, out.z.slope[1] = -p.x;
    out.x.slope[2] = -p.y, out.y.slope[2] = p.x;
}
void parameter(double x, int, double& out) { out = x; }
void parameter(double x, int index, Dual& out) {
    out = Dual(x);
    out.slope[index] = 1;
}

template <typename Real>
Real height(const Body& body, const double* m, int64_t facet, const Point<Real>& at) {
    Point<Real> n;
    turn(m, body.normals + 3 * facet, n);
    return (body.offsets[facet] - (n.x * at.x + n.y * at.y)) / n.z;
}

template <typename Real>
struct Segment {
    Real forms[16];
    Real numbers[differentiated];
    double rest[further];

    Segment(
        const Body& body, const double* m, const Planned& plan, int64_t s, double radius_nm, const double* kappa,
        double steepest, double smallest) {
        // Geometry for circumradius 1.
        Point<Real> end[2];
        Real entrance[2], leave[2];
        for (int side = 0; side < 2; ++side) {
            const int64_t at = 2 * s + side, carrier = plan.carrier[at], crossed = plan.crossed[at];
            Point<Real> start, stop;
            turn(m, body.vertices + 3 * body.edges[2 * carrier], start);
            turn(m, body.vertices + 3 * body.edges[2 * carrier + 1], stop);
            Real along = double(side);
            if (!plan.uncut[at]) {
                const int64_t *pair = plan.pair + 2 * at;
                const Real first = height(body, m, pair[0], start) - height(body, m, pair[1], start);
                const Real last = height(body, m, pair[0], stop) - height(body, m, pair[1], stop);
                along = first / (first - last);
            }
            Point<Real>& point = end[side];
            point.x = start.x + along * (stop.x - start.x);
            point.y = start.y + along * (stop.y - start.y);
            point.z = start.z + along * (stop.z - start.z);
            Real other;
            if (carrier != crossed) {
                turn(m, body.vertices + 3 * body.edges[2 * crossed], start);
                turn(m, body.vertices + 3 * body.edges[2 * crossed + 1], stop);
                const Real x = stop.x - start.x, y = stop.y - start.y;
                const Real share = ((point.x - start.x) * x + (point.y - start.y) * y) / (x * x + y * y);
                other = start.z + share * (stop.z - start.z);
            } else if (plan.on_entrance[s] && plan.on_exit[s]) {
                other = point.z;
            } else {
                other = height(body, m, plan.across[s], point);
            }
            const bool own_other = carrier != crossed && carrier != plan.edge[s];
            const Real own = own_other ? other : point.z, far = own_other ? point.z : other;
            entrance[side] = plan.on_entrance[s] ? own : far;
            leave[side] = plan.on_exit[s] ? own : far;
        }

        Real radius, real;
        parameter(radius_nm, 3, radius);
        parameter(kappa[0], 4, real);
        const double imag = kappa[1], circle = 6.283185307179586;
        const Real edge_x = (end[1].x - end[0].x) * radius, edge_y = (end[1].y - end[0].y) * radius;
        const Real square = edge_x * edge_x + edge_y * edge_y;
        const bool point = value(square) < 1e-60;
        const Real length = point ? Real(1e-30) : root(square);
        const Real along_x = point ? Real(sqrt(0.5)) : edge_x / length;
        const Real along_y = point ? Real(sqrt(0.5)) : edge_y / length;
        const Real depth[2] = {(leave[0] - entrance[0]) * radius, (leave[1] - entrance[1]) * radius};
        const Real climb = (leave[1] - leave[0]) * radius / length;
        const Real thicken = (depth[1] - depth[0]) / length;
        const Real thickness = 0.5 * (depth[0] + depth[1]);

        // Slopes of the planes beside the segment along its normal (y, -x).
        Real slope[4];
        for (int side = 0; side < 4; ++side) {
            Point<Real> n;
            turn(m, body.normals + 3 * plan.sides[4 * s + side], n);
            Real x = Real(0.0) - n.x / n.z, y = Real(0.0) - n.y / n.z;
            const Real norm = root(x * x + y * y);
            if (value(norm) > steepest) {
                x = x * (steepest / norm);
                y = y * (steepest / norm);
            }
            slope[side] = x * along_y - y * along_x;
        }
        const Real growth[2] = {slope[2] - slope[0], slope[3] - slope[1]};
        const Real half_turn = radius * (0.5 / circle);
        const Real minus = Real(0.0) - real;
        const Real rows[16] = {
            (end[0].x + end[1].x) * half_turn, (end[0].y + end[1].y) * half_turn,
            (leave[0] + leave[1]) * half_turn, minus * thickness * (1 / circle),
            along_x, along_y, climb, minus * thicken,
            along_y, Real(0.0) - along_x, slope[2], minus * growth[0],
            along_y, Real(0.0) - along_x, slope[3], minus * growth[1]};
        for (int i = 0; i < 16; ++i) forms[i] = rows[i];

        const double first = plan.weight[2 * s], second = plan.weight[2 * s + 1];
        const Real jump_in = slope[0] - slope[1];
        const Real jump = first + second > 1 ? jump_in : jump_in + (slope[2] - slope[3]);
        const Real decline = thicken * -imag;
        Real rate = 0.5 * length * decline;
        if (fabs(value(rate)) < smallest) rate = rate + Real(2 * smallest);
        numbers[0] = 0.5 * length;
        numbers[1] = rate;
        numbers[2] = decline * decline;
        numbers[3] = growth[0] * -imag;
        numbers[4] = growth[1] * -imag;
        const Real gain = length * jump;
        const Real size_of_gain = value(gain) == 0 ? Real(1.0) : value(gain) < 0 ? Real(0.0) - gain : gain;
        numbers[5] = logarithm(size_of_gain) - thickness * imag;

        const double thinner = fmax(0, fmin(value(depth[0]), value(depth[1])));
        const double strength = 0.5 * plan.sign[s] * value(gain) * exp(-imag * thinner);
        const double faded = expm1(-2 * fabs(value(rate)));
        const double size = kappa[0] * kappa[0] + imag * imag, inner = second * (1 - first);
        rest[0] = strength * (2 + faded);
        rest[1] = value(rate) < 0 ? strength * faded : -strength * faded;
        rest[2] = 1 - second;
        rest[3] = first * second + inner * (size == 0 ? 1 : (kappa[0] * kappa[0] - imag * imag) / size);
        rest[4] = size == 0 ? 0 : inner * -2 * kappa[0] * imag / size;
        rest[5] = first;
        rest[6] = second;
    }
};

// Terms of one segment of one item; the tables are as wide as the plan.
template <typename Real>
void fill(
    int64_t item, int64_t s, int64_t segments, const Body& body, const double* rotation, const double* radius,
    const double* kappa, const Planned& all, double steepest, double smallest, double* forms, double* numbers,
    double* form_slopes, double* number_slopes) {
    const Planned plan = all.item(item * segments);
    const Segment<Real> one(body, rotation + 9 * item, plan, s, radius[item], kappa, steepest, smallest);
    const int64_t at = item * segments + s;
    for (int i = 0; i < 16; ++i) forms[16 * at + i] = value(one.forms[i]);
    for (int i = 0; i < differentiated; ++i) numbers[13 * at + i] = value(one.numbers[i]);
    for (int i = 0; i < further; ++i) numbers[13 * at + differentiated + i] = one.rest[i];
    if constexpr (sizeof(Real) > sizeof(double)) {
        for (int p = 0; p < parameters; ++p) {
            const int64_t row = (item * parameters + p) * segments + s;
            for (int i = 0; i < 16; ++i) form_slopes[16 * row + i] = one.forms[i].slope[p];
            for (int i = 0; i < differentiated; ++i) number_slopes[differentiated * row + i] = one.numbers[i].slope[p];
        }
    }
}

}  // namespace

// Shapes as in overlay.Plan and terms.Terms. Nothing is written beyond the live segments.
// form_slopes (B, 5, S, 16) and number_slopes (B, 5, S, 6), or null pointers for the terms alone.
#ifndef __CUDACC_RTC__
extern "C" void segment_terms(
    int64_t batch, int64_t segments, BODY, const double* rotation, PLAN, const int64_t* live, const double* radius,
    const double* kappa, double steepest, double smallest, double* forms, double* numbers, double* form_slopes,
    double* number_slopes) {
    const Body body = BODY_VALUES;
    const Planned plan = PLAN_VALUES;
    const auto fill_with = form_slopes ? fill<Dual> : fill<double>;
    for (int64_t item = 0; item < batch; ++item)
        for (int64_t s = 0; s < live[item]; ++s)
            fill_with(
                item, s, segments, body, rotation, radius, kappa, plan, steepest, smallest, forms, numbers,
                form_slopes, number_slopes);
}
#endif
