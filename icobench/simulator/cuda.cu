// The kernels of overlay.cpp, terms.cpp and edge_sum.cpp for GPUs. Arguments as for the functions of the same names.

// A block of 64 threads for every item, a thread for every edge; a running sum over the edges gives the rows.
extern "C" __global__ void plan_kernel(
    int64_t segments, BODY, const double* rotation, PLAN, int64_t* live) {
    __shared__ int counts[64];
    __shared__ int64_t begin;
    const Body body = BODY_VALUES;
    const int64_t item = blockIdx.x;
    const Planned all_tables = PLAN_VALUES, tables = all_tables.item(item * segments);
    if (threadIdx.x == 0) begin = 0;
    for (int64_t first = 0; first < number_of_edges; first += 64) {
        const int64_t number = first + threadIdx.x;
        const bool exists = number < number_of_edges;
        const Edge found(body, rotation + 9 * item, exists ? number : 0);
        counts[threadIdx.x] = exists ? int(found.count()) : 0;
        __syncthreads();
        int64_t row = begin, all = begin;
        for (int other = 0; other < 64; ++other) {
            if (other == threadIdx.x) row = all;
            all += counts[other];
        }
        if (exists) found.write(tables, row, segments);
        __syncthreads();
        if (threadIdx.x == 0) begin = all;
        __syncthreads();
    }
    if (threadIdx.x == 0) live[item] = begin;
}

// A thread for every segment, a column of blocks for every item.
#define TERMS(name, Real)                                                                                      \
    extern "C" __global__ void name(                                                                           \
        int64_t segments, BODY, const double* rotation, PLAN, const int64_t* live, const double* radius,       \
        const double* kappa, double steepest, double smallest, double* forms, double* numbers,                 \
        double* form_slopes, double* number_slopes) {                                                          \
        const int64_t item = blockIdx.x, s = blockIdx.y * blockDim.x + threadIdx.x;                            \
        if (s >= segments || s >= live[item]) return;                                                          \
        const Body body = BODY_VALUES;                                                                         \
        const Planned tables = PLAN_VALUES;                                                                    \
        fill<Real>(                                                                                            \
            item, s, segments, body, rotation, radius, kappa, tables, steepest, smallest, forms, numbers,      \
            form_slopes, number_slopes);                                                                       \
    }
TERMS(segment_terms_kernel, double)
TERMS(term_slopes_kernel, Dual)

// A thread for every node, a column of blocks for every item. Node i goes to places[i], zeros between it and the next
// fill up the rows of nodes; places (P + 1) ends with the length of all rows.
#define SUMS(T)                                                                                                \
    extern "C" __global__ void edge_sum_##T##_kernel(                                                          \
        int64_t batch, int64_t segments, int64_t nodes, const double* forms, const T* numbers,                 \
        const int64_t* live, const double* waves, const int64_t* places, const double* kappa, T* out) {        \
        const int64_t node = int64_t(blockIdx.y) * blockDim.x + threadIdx.x, item = blockIdx.x;                \
        if (node >= nodes) return;                                                                             \
        const Sum<T, 1>::Place place = {places[nodes], places[node], 1, places[node + 1] - places[node] - 1};  \
        Sum<T, 1>::field(place, item, node, batch, segments, nodes, forms, numbers, live, waves, kappa, out);  \
    }                                                                                                          \
    extern "C" __global__ void edge_sum_jacobian_##T##_kernel(                                                 \
        int64_t batch, int64_t segments, int64_t nodes, int64_t parameters, const double* forms,               \
        const T* numbers, const int64_t* live, const double* waves, const int64_t* places,                     \
        const double* kappa, const T* form_slopes, const T* number_slopes, const double* changes, T* out) {    \
        const int64_t node = int64_t(blockIdx.y) * blockDim.x + threadIdx.x, item = blockIdx.x;                \
        if (node >= nodes) return;                                                                             \
        const Sum<T, 1>::Place place = {places[nodes], places[node], 1, places[node + 1] - places[node] - 1};  \
        Sum<T, 1>::jacobian(                                                                                   \
            place, item, node, batch, segments, nodes, parameters, forms, numbers, live, waves, kappa,         \
            form_slopes, number_slopes, changes, out);                                                         \
    }
SUMS(float)
SUMS(double)
