// A step of the LSTM in one launch, forward and back through time.
//
// A thread owns one unit of one sample and sums all four of its gates, in the order i, f, ĉ, o; a
// block of 16 samples by 16 units shares states and recurrent weights in shared memory. The gates
// never travel to memory and back. Sums run in one fixed order: results are the same in every run.
// xw (N, T, 4U), h0 and c0 (N, U), R (U, 4U), mask (N, T) or null, states (2, N, T, U).
//
// Where samples and units are many, the sums are better made by cuBLAS, and given as `product`; then
// only the cell is left. Counted in the code for sm_90, not measured: the cell is 165 instructions a
// unit for 44 bytes, 130 for 68 on the way back; an H200 has time for 271 and 419 meanwhile. Nine
// and six reads are under way in each of 2048 threads of a multiprocessor. Where both are few, all
// steps are one launch, and a step takes as long as R needs from the cache to a multiprocessor: by
// its 64 bytes a clock, 2 µs for 128 units; that too is reckoned, not measured.

constexpr int SIDE = 16;
constexpr int GATES = 4;

__device__ float sigmoid(float x) { return 0.5f * tanhf(0.5f * x) + 0.5f; }

// sums[q] = Σ_k h[n, k] R[k, q·U + u] for this thread's n and u. h: the state before step t.
__device__ void recurrent(const float* h, Index apart, const float* __restrict__ R, Index n,
                          Index samples, Index u, Index units, float* sums)
{
    __shared__ float h_tile[SIDE][SIDE], R_tile[GATES][SIDE][SIDE];
    const int x = threadIdx.x, y = threadIdx.y;
    for (int q = 0; q < GATES; q++) sums[q] = 0;
    for (Index start = 0; start < units; start += SIDE) {
        const bool inside = n < samples && start + x < units;
        h_tile[y][x] = inside ? h[n * apart + start + x] : 0;
        for (int q = 0; q < GATES; q++) {
            const bool there = start + y < units && u < units;
            R_tile[q][y][x] = there ? R[(start + y) * GATES * units + q * units + u] : 0;
        }
        __syncthreads();
        for (int k = 0; k < SIDE; k++)
            for (int q = 0; q < GATES; q++) sums[q] += h_tile[y][k] * R_tile[q][k][x];
        __syncthreads();
    }
}

// The gates of step t, after their squashing: false outside of the arrays. product: this step's and
// sample's part of it, or null.
__device__ bool cell(const float* __restrict__ xw, const float* h0, const float* __restrict__ R,
                     const float* __restrict__ product, const float* states, Index t, Index n,
                     Index samples, Index steps, Index u, Index units, float* gates)
{
    const float* before = t ? states + (t - 1) * units : h0;
    if (!product) recurrent(before, t ? steps * units : units, R, n, samples, u, units, gates);
    if (n >= samples || u >= units) return false;
    for (int q = 0; product && q < GATES; q++) gates[q] = product[q * units + u];
    const float* x = xw + (n * steps + t) * GATES * units + u;
    for (int q = 0; q < GATES; q++) {
        const float a = x[q * units] + gates[q];
        gates[q] = q == 2 ? tanhf(a) : sigmoid(a);
    }
    return true;
}

extern "C" __global__ void lstm_step(const float* __restrict__ xw, const float* __restrict__ h0,
                                     const float* __restrict__ c0, const float* __restrict__ R,
                                     const float* __restrict__ product,
                                     const bool* __restrict__ mask, float* states, Index t,
                                     Index samples, Index steps, Index units)
{
    const Index n = blockIdx.x * (Index)SIDE + threadIdx.y, u = blockIdx.y * SIDE + threadIdx.x;
    const float* own = product ? product + n * GATES * units : product;
    float gates[GATES];
    if (!cell(xw, h0, R, own, states, t, n, samples, steps, u, units, gates)) return;
    float* hs = states;
    float* cs = states + samples * steps * units;
    const Index at = (n * steps + t) * units + u;
    float h = t ? hs[at - units] : h0[n * units + u];
    float c = t ? cs[at - units] : c0[n * units + u];
    if (!mask || mask[n * steps + t]) {
        c = gates[1] * c + gates[0] * gates[2];
        h = gates[3] * tanhf(c);
    }
    hs[at] = h;
    cs[at] = c;
}

// All steps of a sample in one launch, where its columns of R are no more than a block's threads: a
// thread a column, which all read from the cache; the state waits in shared memory. A block a sample.
extern "C" __global__ void __launch_bounds__(1024)
lstm_sequence(const float* __restrict__ xw, const float* __restrict__ h0,
              const float* __restrict__ c0, const float* __restrict__ R,
              const bool* __restrict__ mask, float* __restrict__ states, Index samples, Index steps,
              Index units)
{
    __shared__ float h[1024 / GATES], gates[1024];
    const Index n = blockIdx.x, all = samples * steps * units;
    const int column = threadIdx.x, width = GATES * units;
    float c = 0;
    if (column < units) {
        h[column] = h0[n * units + column];
        c = c0[n * units + column];
    }
    __syncthreads();
    for (Index t = 0; t < steps; t++) {
        if (column < width) {
            float sum = xw[(n * steps + t) * width + column];
#pragma unroll 16
            for (int k = 0; k < units; k++) sum += h[k] * R[k * width + column];
            gates[column] = column / units == 2 ? tanhf(sum) : sigmoid(sum);
        }
        __syncthreads();
        if (column < units) {
            const Index at = (n * steps + t) * units + column;
            const float* gate = gates + column;
            if (!mask || mask[n * steps + t]) {
                c = gate[units] * c + gate[0] * gate[2 * units];
                h[column] = gate[3 * units] * tanhf(c);
            }
            states[at] = h[column];
            states[all + at] = c;
        }
        __syncthreads();
    }
}

// The gates of all steps at once, when all states are known: gates (N, T, 4, U).
extern "C" __global__ void lstm_gates(const float* __restrict__ xw, const float* __restrict__ h0,
                                      const float* __restrict__ R,
                                      const float* __restrict__ product,
                                      const float* __restrict__ states, float* __restrict__ gates,
                                      Index samples, Index steps, Index units)
{
    const Index n = blockIdx.x * (Index)SIDE + threadIdx.y, u = blockIdx.y * SIDE + threadIdx.x;
    for (Index t = blockIdx.z; t < steps; t += gridDim.z) {
        const float* given = product ? product + (n * steps + t) * GATES * units : product;
        float own[GATES];
        if (!cell(xw, h0, R, given, states, t, n, samples, steps, u, units, own)) continue;
        for (int q = 0; q < GATES; q++) gates[((n * steps + t) * GATES + q) * units + u] = own[q];
    }
}

// Through step t. dh and dc (N, U) enter as what comes back from step t + 1, but for what passes
// through its R: with_product adds that (`product`, if not null). with_cell then writes dxw[:, t] and
// leaves in dh and dc what goes back to step t - 1.
extern "C" __global__ void lstm_back(const float* __restrict__ g, const float* __restrict__ states,
                                     const float* __restrict__ gates, const float* __restrict__ c0,
                                     const float* __restrict__ R,
                                     const float* __restrict__ product,
                                     const bool* __restrict__ mask, float* dxw,
                                     float* __restrict__ dh, float* __restrict__ dc,
                                     float scale, Index t, Index samples, Index steps, Index units,
                                     bool with_product, bool with_cell)
{
    __shared__ float da_tile[SIDE][SIDE], R_tile[SIDE][SIDE + 1];
    const int x = threadIdx.x, y = threadIdx.y;
    const Index n = blockIdx.x * (Index)SIDE + y, u = blockIdx.y * SIDE + x;
    const Index width = GATES * units, first = blockIdx.y * SIDE;
    float sum = 0;
    for (Index start = 0; with_product && !product && start < width; start += SIDE) {
        const bool inside = start + x < width;
        const bool sample = inside && n < samples, row = inside && first + y < units;
        da_tile[y][x] = sample ? dxw[(n * steps + t + 1) * width + start + x] : 0;
        R_tile[y][x] = row ? R[(first + y) * width + start + x] : 0;
        __syncthreads();
        for (int k = 0; k < SIDE; k++) sum += da_tile[y][k] * R_tile[x][k];
        __syncthreads();
    }
    if (n >= samples || u >= units) return;
    if (product) sum = product[n * units + u];
    float d_h = dh[n * units + u] + scale * sum, d_c = dc[n * units + u];
    if (with_cell) {
        const Index at = (n * steps + t) * units + u, all = samples * steps * units;
        float* da = dxw + (n * steps + t) * width + u;
        d_h += g[at];
        d_c += g[all + at];
        if (!mask || mask[n * steps + t]) {
            const float* gate = gates + (n * steps + t) * width + u;
            const float i = gate[0], f = gate[units], z = gate[2 * units], o = gate[3 * units];
            const float c = t ? states[all + at - units] : c0[n * units + u];
            const float squashed = tanhf(states[all + at]);
            d_c += d_h * o * (1 - squashed * squashed);
            da[0] = d_c * z * i * (1 - i);
            da[units] = d_c * c * f * (1 - f);
            da[2 * units] = d_c * i * (1 - z * z);
            da[3 * units] = d_h * squashed * o * (1 - o);
            d_c *= scale * f;
            d_h = 0;
        } else {
            for (int q = 0; q < GATES; q++) da[q * units] = 0;
        }
    }
    dh[n * units + u] = d_h;
    dc[n * units + u] = d_c;
}
