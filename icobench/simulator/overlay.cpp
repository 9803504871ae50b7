// Which segments the overlay of a body's facets has: plan() of overlay.py, line by line, edge by edge.
//
// This file, terms.cpp and edge_sum.cpp are compiled as one: for CPUs by GCC or Clang, together with cuda.cu
// for GPUs by NVRTC, which takes every function for one of the device.

#ifdef __CUDACC_RTC__
typedef long long int64_t;
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

namespace {

constexpr int most_facets = 128;
constexpr double shortest = 1e-10;
constexpr double upright = 1e-11;

template <typename Real>
struct Point {
    Real x, y, z;
};

// A vector of the body in the laboratory.
void turn(const double* m, const double* r, Point<double>& out) {
    out.x = m[0] * r[0] + m[1] * r[1] + m[2] * r[2];
    out.y = m[3] * r[0] + m[4] * r[1] + m[5] * r[2];
    out.z = m[6] * r[0] + m[7] * r[1] + m[8] * r[2];
}

// overlay.BodyTensors.
struct Body {
    int64_t facets, number_of_edges;
    const double *normals, *offsets, *vertices;
    const int64_t *edges, *edge_facets, *between;
    const bool* touches;
};
#define BODY                                                                                                      \
    int64_t facets, int64_t number_of_edges, const double *normals, const double *offsets, const double *vertices, \
        const int64_t *edges, const int64_t *edge_facets, const int64_t *between, const bool *touches
#define BODY_VALUES {facets, number_of_edges, normals, offsets, vertices, edges, edge_facets, between, touches}

// The tables of overlay.Plan.
struct Planned {
    int64_t *edge, *sides, *across;
    bool* uncut;
    int64_t *carrier, *crossed, *pair;
    bool *on_entrance, *on_exit;
    double *sign, *weight;

    Planned item(int64_t start) const {
        return {edge + start,        sides + 4 * start,   across + start,      uncut + 2 * start,
                carrier + 2 * start, crossed + 2 * start, pair + 4 * start,    on_entrance + start,
                on_exit + start,     sign + start,        weight + 2 * start};
    }
};
#define PLAN                                                                                                 \
    int64_t *edge, int64_t *sides, int64_t *across, bool *uncut, int64_t *carrier, int64_t *crossed,         \
        int64_t *pair, bool *on_entrance, bool *on_exit, double *sign, double *weight
#define PLAN_VALUES {edge, sides, across, uncut, carrier, crossed, pair, on_entrance, on_exit, sign, weight}

// One edge of a body in one orientation, and the facets that compete along it.
struct Edge {
    const Body& body;
    int64_t edge, first, second;
    bool first_leaves, is_exit, is_entrance;
    int rivals = 0;
    int64_t rival[most_facets];
    double start[most_facets], stop[most_facets];  // their heights at the edge's ends; the lowest wins

    Edge(const Body& body, const double* m, int64_t edge) : body(body), edge(edge) {
        first = body.edge_facets[2 * edge], second = body.edge_facets[2 * edge + 1];
        Point<double> n, from, to;
        turn(m, body.normals + 3 * first, n);
        first_leaves = n.z > 0;
        turn(m, body.normals + 3 * second, n);
        const bool second_leaves = n.z > 0;
        is_exit = first_leaves && second_leaves, is_entrance = !first_leaves && !second_leaves;
        if (!is_exit && !is_entrance) return;
        const int64_t ends[2] = {body.edges[2 * edge], body.edges[2 * edge + 1]};
        turn(m, body.vertices + 3 * ends[0], from);
        turn(m, body.vertices + 3 * ends[1], to);
        const double side = is_exit ? -1.0 : 1.0;
        for (int64_t facet = 0; facet < body.facets; ++facet) {
            turn(m, body.normals + 3 * facet, n);
            if (fabs(n.z) <= upright || (n.z > 0) == is_exit) continue;
            const double a = side * -n.x / n.z, b = side * -n.y / n.z, c = side * body.offsets[facet] / n.z;
            rival[rivals] = facet;
            // A facet through the edge's end is exactly as high there: no round-off may cut near it.
            start[rivals] = body.touches[ends[0] * body.facets + facet] ? side * from.z : a * from.x + b * from.y + c;
            stop[rivals] = body.touches[ends[1] * body.facets + facet] ? side * to.z : a * to.x + b * to.y + c;
            ++rivals;
        }
    }

    // The facets that cut the interval where a rival wins at its start and stop, or -1; false where it does not win.
    bool wins(int which, int64_t cut_by[2]) const {
        double low = 0, high = 1;
        cut_by[0] = cut_by[1] = -1;
        for (int other = 0; other < rivals; ++other) {
            const double excess_start = start[which] - start[other], excess_stop = stop[which] - stop[other];
            if (excess_start > 0 && excess_stop > 0) return false;
            if (excess_start <= 0 && excess_stop <= 0) continue;
            const double cut = excess_start / (excess_start - excess_stop);
            if (excess_start > 0 && cut > low) low = cut, cut_by[0] = rival[other];
            if (excess_stop > 0 && cut < high) high = cut, cut_by[1] = rival[other];
        }
        return high - low > shortest;
    }

    int64_t count() const {
        int64_t segments = is_exit ? 0 : 1, cut_by[2];
        for (int which = 0; which < rivals; ++which) segments += wins(which, cut_by);
        return segments;
    }

    void write(const Planned& plan, int64_t row, int64_t limit) const {
        int64_t cut_by[2];
        for (int which = 0; which < rivals; ++which)
            if (wins(which, cut_by) && row < limit) put(plan, row++, false, rival[which], cut_by);
        cut_by[0] = cut_by[1] = -1;
        if (!is_exit && row < limit) put(plan, row, true, 0, cut_by);
    }

    // One segment: a piece between two cuts, or the uncut edge (silhouette and front).
    void put(const Planned& plan, int64_t row, bool is_edge, int64_t across, const int64_t cut_by[2]) const {
        const bool outline = is_edge && !is_entrance, piece_out = is_exit && !is_edge;
        const bool piece_in = is_entrance && !is_edge;
        const int64_t entering = first_leaves ? second : first, leaving = first_leaves ? first : second;
        plan.edge[row] = edge;
        plan.sides[4 * row] = outline ? entering : piece_out ? across : first;
        plan.sides[4 * row + 1] = outline ? entering : piece_out ? across : second;
        plan.sides[4 * row + 2] = outline ? entering : piece_in ? across : first;
        plan.sides[4 * row + 3] = outline ? leaving : piece_in ? across : second;
        plan.across[row] = across;
        for (int end = 0; end < 2; ++end) {
            const int64_t at = 2 * row + end;
            const bool uncut = cut_by[end] < 0;
            const int64_t other = uncut ? across : cut_by[end];
            const int64_t partner = body.between[across * body.facets + other];
            const bool inner_cut = piece_in && partner >= 0;
            plan.uncut[at] = uncut;
            plan.carrier[at] = inner_cut ? partner : edge;
            plan.crossed[at] = inner_cut || partner < 0 ? edge : partner;
            plan.pair[2 * at] = inner_cut ? first : across;
            plan.pair[2 * at + 1] = inner_cut ? second : other;
        }
        plan.on_entrance[row] = !piece_out;
        plan.on_exit[row] = !piece_in;
        plan.sign[row] = (outline && first_leaves) || piece_in ? 1.0 : -1.0;
        plan.weight[2 * row] = !piece_in;
        plan.weight[2 * row + 1] = !(piece_out || outline);
    }
};

}  // namespace

// Shapes as in overlay.Plan, S wide; rotation (B, 9). Of an item with more segments than S the first S are written;
// live (B) is the number that there are.
#ifndef __CUDACC_RTC__
extern "C" void plan(int64_t batch, int64_t segments, BODY, const double* rotation, PLAN, int64_t* live) {
    const Body body = BODY_VALUES;
    const Planned tables = PLAN_VALUES;
    for (int64_t item = 0; item < batch; ++item) {
        live[item] = 0;
        for (int64_t number = 0; number < number_of_edges; ++number) {
            const Edge found(body, rotation + 9 * item, number);
            found.write(tables.item(item * segments), live[item], segments);
            live[item] += found.count();
        }
    }
}
#endif
