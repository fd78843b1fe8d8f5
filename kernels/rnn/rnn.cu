// A step of the plain recurrent cell in one launch, forward and back through time.
//
// A thread owns one unit of one sample; a block of 16 samples by 16 units shares states and
// recurrent weights in shared memory. Sums run in one fixed order: results are the same every run.
// xw (N, T, U), h0 (N, U), R (U, U), mask (N, T) or null, hs (N, T, U).
//
// Where samples and units are many, the sums are better made by cuBLAS, and given as `product` (N, U);
// then only the cell is left.

constexpr int SIDE = 16;

extern "C" __global__ void rnn_step(const float* __restrict__ xw, const float* __restrict__ h0,
                                    const float* __restrict__ R,
                                    const float* __restrict__ product,
                                    const bool* __restrict__ mask, float* hs, Index t,
                                    Index samples, Index steps, Index units)
{
    __shared__ float h_tile[SIDE][SIDE], R_tile[SIDE][SIDE];
    const int x = threadIdx.x, y = threadIdx.y;
    const Index n = blockIdx.x * (Index)SIDE + y, u = blockIdx.y * SIDE + x;
    const float* before = t ? hs + (t - 1) * units : h0;
    const Index apart = t ? steps * units : units;
    float sum = 0;
    for (Index start = 0; !product && start < units; start += SIDE) {
        const bool inside = n < samples && start + x < units;
        const bool there = start + y < units && u < units;
        h_tile[y][x] = inside ? before[n * apart + start + x] : 0;
        R_tile[y][x] = there ? R[(start + y) * units + u] : 0;
        __syncthreads();
        for (int k = 0; k < SIDE; k++) sum += h_tile[y][k] * R_tile[k][x];
        __syncthreads();
    }
    if (n >= samples || u >= units) return;
    if (product) sum = product[n * units + u];
    const Index at = (n * steps + t) * units + u;
    const bool here = !mask || mask[n * steps + t];
    hs[at] = here ? tanhf(xw[at] + sum) : before[n * apart + u];
}

// All steps of a sample in one launch, where its columns of R are no more than a block's threads: a
// thread a column, which all read from the cache; the state waits in shared memory. A block a sample.
extern "C" __global__ void __launch_bounds__(1024)
rnn_sequence(const float* __restrict__ xw, const float* __restrict__ h0,
             const float* __restrict__ R, const bool* __restrict__ mask, float* __restrict__ hs,
             Index steps, Index units)
{
    __shared__ float h[1024];
    const Index n = blockIdx.x;
    const int u = threadIdx.x;
    if (u < units) h[u] = h0[n * units + u];
    __syncthreads();
    for (Index t = 0; t < steps; t++) {
        const Index at = (n * steps + t) * units + u;
        float sum = 0;
        if (u < units) {
            sum = xw[at];
#pragma unroll 16
            for (int k = 0; k < units; k++) sum += h[k] * R[k * units + u];
        }
        __syncthreads();  // all have read h
        if (u < units) {
            if (!mask || mask[n * steps + t]) h[u] = tanhf(sum);
            hs[at] = h[u];
        }
        __syncthreads();
    }
}

// Through step t. dh (N, U) enters as what comes back from step t + 1, but for what passes through
// its R: with_product adds that (`product`, if not null). with_cell then writes dxw[:, t] and leaves
// in dh what goes back to step t - 1.
extern "C" __global__ void rnn_back(const float* __restrict__ g, const float* __restrict__ hs,
                                    const float* __restrict__ R,
                                    const float* __restrict__ product,
                                    const bool* __restrict__ mask, float* dxw,
                                    float* __restrict__ dh, float scale, Index t, Index samples,
                                    Index steps, Index units, bool with_product, bool with_cell)
{
    __shared__ float da_tile[SIDE][SIDE], R_tile[SIDE][SIDE + 1];
    const int x = threadIdx.x, y = threadIdx.y;
    const Index n = blockIdx.x * (Index)SIDE + y, u = blockIdx.y * SIDE + x;
    const Index first = blockIdx.y * SIDE;
    float sum = 0;
    for (Index start = 0; with_product && !product && start < units; start += SIDE) {
        const bool inside = start + x < units;
        const bool sample = inside && n < samples, row = inside && first + y < units;
        da_tile[y][x] = sample ? dxw[(n * steps + t + 1) * units + start + x] : 0;
        R_tile[y][x] = row ? R[(first + y) * units + start + x] : 0;
        __syncthreads();
        for (int k = 0; k < SIDE; k++) sum += da_tile[y][k] * R_tile[x][k];
        __syncthreads();
    }
    if (n >= samples || u >= units) return;
    if (product) sum = product[n * units + u];
    float d_h = dh[n * units + u] + scale * sum;
    if (with_cell) {
        const Index at = (n * steps + t) * units + u;
        const bool here = !mask || mask[n * steps + t];
        d_h += g[at];
        dxw[at] = here ? d_h * (1 - hs[at] * hs[at]) : 0;
        if (here) d_h = 0;
    }
    dh[n * units + u] = d_h;
}
