// The kernels of overlay.cpp, terms.cpp and edge_sum.cpp for GPUs. Arguments as for the functions of the same names.

// A thread for every unit quaternion (w, x, y, z): its matrix.
extern "C" __global__ void rotation_kernel(int64_t batch, const double* quaternion, double* rotation) {
    const int64_t item = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (item >= batch) return;
    const double *q = quaternion + 4 * item, w = q[0], x = q[1], y = q[2], z = q[3];
    const double matrix[9] = {
        w * w + x * x - y * y - z * z, 2 * (x * y - w * z),           2 * (x * z + w * y),
        2 * (x * y + w * z),           w * w - x * x + y * y - z * z, 2 * (y * z - w * x),
        2 * (x * z - w * y),           2 * (y * z + w * x),           w * w - x * x - y * y + z * z};
    for (int entry = 0; entry < 9; ++entry) rotation[9 * item + entry] = matrix[entry];
}

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

// Few rows f times matrices x: out[x, f, column] = sum over n of rows[x, f, n] matrices[x, f, n, column]. The steps are
// those from one x, f or column to the next. Rows are those of real and imaginary parts of fields, each of a batch; item
// i of the batch goes to places[i], without places to i. A thread for every column.
#define PRODUCTS(T)                                                                                            \
    extern "C" __global__ void products_##T##_kernel(                                                          \
        int64_t terms, int64_t columns, int64_t batch, const T* rows, int64_t rows_x, int64_t rows_f,          \
        const T* matrices, int64_t matrices_x, int64_t matrices_f, const int64_t* places, T* out,              \
        int64_t out_part, int64_t out_item, int64_t out_field, int64_t out_x, int64_t out_column) {            \
        const int64_t x = blockIdx.x, f = blockIdx.y, column = int64_t(blockIdx.z) * blockDim.x + threadIdx.x; \
        if (column >= columns) return;                                                                         \
        rows += x * rows_x + f * rows_f;                                                                       \
        matrices += x * matrices_x + f * matrices_f + column;                                                  \
        T sum = 0;                                                                                             \
        for (int64_t n = 0; n < terms; ++n) sum += rows[n] * matrices[n * columns];                            \
        const int64_t number = f / batch, item = places ? places[f % batch] : f % batch;                       \
        out += number % 2 * out_part + item * out_item + number / 2 * out_field;                               \
        out[x * out_x + column * out_column] = sum;                                                            \
    }
PRODUCTS(float)
PRODUCTS(double)
